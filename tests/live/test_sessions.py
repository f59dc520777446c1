"""Sessions never mix: what one client leaves in a backend, no other client can see.

Every case runs client A's statements on a pooler with one backend and asks B's questions about it. A state that can be
carried is carried: B is served at once and sees its own session, and A finds its state again. A state that cannot be
carried pins A: B waits, and when A has ended it B sees what it would have seen without A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pymysql
import pytest

from tests.conftest import Proxy
from tests.live.raw import (
    READ_ONLY_CURSOR,
    Raw,
    Result,
    execute_long_payload,
    execute_payload,
)
from tests.servers import Server, wait_until

DATABASE = "sessions"
ACCOUNT = ("sessions", "sessions-secret")

Shared = Callable[..., Proxy]

SCHEMA = (
    f"CREATE DATABASE {DATABASE}",
    f"CREATE DATABASE {DATABASE}_two",
    f"CREATE USER {ACCOUNT[0]}@'%' IDENTIFIED BY '{ACCOUNT[1]}'",
    f"GRANT ALL ON {DATABASE}.* TO {ACCOUNT[0]}@'%'",
    f"GRANT ALL ON {DATABASE}_two.* TO {ACCOUNT[0]}@'%'",
    f"GRANT RELOAD, PROCESS ON *.* TO {ACCOUNT[0]}@'%'",
    "CREATE ROLE reader",
    f"GRANT reader TO {ACCOUNT[0]}@'%'",
    f"USE {DATABASE}",
    "CREATE TABLE t (id INT PRIMARY KEY, v INT) ENGINE=InnoDB",
    "INSERT INTO t VALUES (1, 1), (2, 2)",
    "CREATE TABLE counted (id INT AUTO_INCREMENT PRIMARY KEY, v INT) ENGINE=InnoDB",
    "CREATE TABLE watched (v INT) ENGINE=InnoDB",
    "CREATE TABLE guarded (v INT) ENGINE=InnoDB",
    "CREATE TRIGGER watch BEFORE INSERT ON watched FOR EACH ROW SET @left = NEW.v",
    "CREATE TRIGGER guard BEFORE INSERT ON guarded FOR EACH ROW "
    "BEGIN SET @left = NEW.v; SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END",
    "CREATE PROCEDURE answer(OUT o INT) SET o = 42",
    "CREATE PROCEDURE remember() SELECT 5 INTO @left",
    "CREATE PROCEDURE keep() CREATE TEMPORARY TABLE tmp SELECT 1 AS i",
    "CREATE PROCEDURE inner_syntax() BEGIN SET @left = 5; PREPARE s FROM 'SELEC'; END",
    "CREATE FUNCTION fails_like_a_syntax_error() RETURNS INT NO SQL "
    "BEGIN SET @left = 5; SIGNAL SQLSTATE '42000' SET MYSQL_ERRNO = 1064; RETURN 1; END",
    "CREATE PROCEDURE locker() DO GET_LOCK('held', 0)",
    "CREATE FUNCTION take_lock() RETURNS INT NOT DETERMINISTIC NO SQL RETURN GET_LOCK('held', 0)",
    "CREATE FUNCTION set_left() RETURNS INT NOT DETERMINISTIC NO SQL BEGIN SET @left = 9; RETURN 1; END",
)
MYSQL_SCHEMA = (f"GRANT BACKUP_ADMIN ON *.* TO {ACCOUNT[0]}@'%'",)
MARIADB_SCHEMA = (f"USE {DATABASE}", "CREATE SEQUENCE numbers")


@pytest.fixture(scope="module")
def world(server: Server) -> Iterator[Server]:
    """The server, with the tables and programs of this module."""
    server.execute(*SCHEMA, *(MARIADB_SCHEMA if server.flavour == "mariadb" else MYSQL_SCHEMA))
    yield server
    server.execute(
        f"DROP DATABASE {DATABASE}", f"DROP DATABASE {DATABASE}_two", f"DROP USER {ACCOUNT[0]}@'%'", "DROP ROLE reader"
    )


def connect(proxy: Proxy, *, deprecate_eof: bool = True, session_track: bool = True) -> Raw:
    return Raw(proxy, *ACCOUNT, DATABASE, deprecate_eof=deprecate_eof, session_track=session_track, timeout=10.0)


def everything_is_back(proxy: Proxy, backends: int = 1) -> None:
    """Nobody is pinned, nobody waits, and the backends are free."""

    def settled() -> bool:
        now = proxy.metrics()
        pinned = sum(value for name, value in now.items() if name.startswith("mybouncer_pinned_sessions"))
        busy = sum(
            now[f'mybouncer_backends{{state="{state}"}}'] for state in ("leased", "opening", "resetting", "closing")
        )
        return not (pinned or busy) and now['mybouncer_backends{state="idle"}'] <= backends

    wait_until(settled, 5.0, "no pins, all backends idle")


def waits(proxy: Proxy, count: int = 1) -> None:
    proxy.wait_for_metric('mybouncer_clients{state="waiting"}', count)


# --- the cases ---


Step = str | Callable[[Raw], Result]


def prepared(sql: str, *params: str | int) -> Callable[[Raw], Result]:
    """The statement over the binary protocol."""

    def step(client: Raw) -> Result:
        return client.execute(client.prepare(sql), *params)

    step.__name__ = f"binary:{sql}"
    return step


@dataclass(frozen=True)
class Case:
    """What A does, the pin it brings (None: it is carried), and the questions that tell."""

    do: tuple[Step, ...]
    reason: str | None
    ask: tuple[str, ...]
    see: bytes | int | None = b""  # A's own answer to the last question; b"": not asked
    end: tuple[Step, ...] = ()  # ends the pin without ending the client
    only: str = ""

    def __str__(self) -> str:
        name = "+".join(step if isinstance(step, str) else step.__name__ for step in self.do)
        return f"{self.only}{':' if self.only else ''}{name}"[:90]


X = ("SELECT @x",)
LEFT = ("SELECT @left",)
TEMPORARY = ("SELECT COUNT(*) FROM tmp",)
LOCK = ("SELECT IS_FREE_LOCK('held')",)
INSERT = ("DO LAST_INSERT_ID(0)", "INSERT INTO counted SELECT NULL, 1", "SELECT LAST_INSERT_ID() >= 5000")
WRITE = ("UPDATE t SET v = v WHERE id = 1",)


def pin(do: str | tuple[Step, ...], reason: str, ask: tuple[str, ...], see: bytes | None = b"", **more: object) -> Case:
    return Case((do,) if isinstance(do, str) else do, reason, ask, see, **more)  # type: ignore[arg-type]


PINS = [
    pin("SET @x = 0 + 1", "user_variable", X, b"1"),
    pin(("SET @x = 5", "SET @x = NULL"), "user_variable", X, None),
    pin(("SET @x = 1", "SET @x = @x + 1"), "user_variable", X, b"2"),
    pin(("SET @x = 1", "SELECT @x := @x + 1"), "user_variable", X, b"2"),
    pin("set/**/@x=1", "user_variable", X, b"1"),
    pin("SET @`x` := 1", "user_variable", X, b"1"),
    pin("SET @@session.sql_mode='', @x = 1", "user_variable", X, b"1"),
    pin("SELECT 1 INTO @x", "user_variable", X, b"1"),
    pin("SELECT v FROM t WHERE id = 1 INTO @x", "user_variable", X, b"1"),
    pin("SELECT @x := 5", "user_variable", X, b"5"),
    pin("DO @x := 5", "user_variable", X, b"5"),
    pin("UPDATE t SET v = (@x := v) WHERE id = 2", "user_variable", X, b"2"),
    pin("SELECT 1; SET @x = 7", "user_variable", X, b"7"),
    pin("SET @x = 7; SELECT nosuch", "user_variable", X, b"7"),
    pin("SET @x = 7; SET @@nosuch = 1", "user_variable", X, b"7"),
    pin("/*!50003 SET @x = 3 */", "user_variable", X, b"3"),
    pin("/*M! SET @x = 3 */", "user_variable", X, b"3", only="mariadb"),
    pin((prepared("SELECT @x := 8"),), "user_variable", X, b"8"),
    pin("GET DIAGNOSTICS @x = NUMBER", "user_variable", X, b"0"),
    pin("INSERT INTO watched VALUES (6)", "unnamed_state", LEFT, b"6"),
    # MariaDB says nothing about what a trigger did before an error: a limit written down in docs/sessions.md.
    pin("INSERT INTO guarded VALUES (6)", "unnamed_state", LEFT, b"6", only="mysql"),
    pin(("SET autocommit=0", "INSERT INTO guarded VALUES (6)", "ROLLBACK"), "unnamed_state", LEFT, b"6"),
    pin((prepared("INSERT INTO guarded VALUES (6)"),), "unnamed_state", LEFT, b"6", only="mysql"),
    pin(
        "SET @@foreign_key_checks = 0; SELECT nosuch",
        "untracked_variable",
        ("SELECT @@foreign_key_checks",),
        b"0",
        only="mariadb",
    ),
    pin("SELECT set_left()", "opaque", LEFT, b"9"),
    pin("CALL answer(@x)", "opaque", X, b"42"),
    pin((prepared("CALL answer(@x)"),), "opaque", X, b"42"),
    pin("CALL remember()", "opaque", LEFT, b"5"),
    pin("SELECT GET_LOCK('held', 0)", "named_lock", LOCK, b"0"),
    pin("SELECT `GET_LOCK`('held', 0)", "named_lock", LOCK, b"0"),
    pin("SELECT/**/get_lock ('held', 0)", "named_lock", LOCK, b"0"),
    pin("SELECT get_lock /* x */ ('held', 0)", "named_lock", LOCK, b"0"),
    pin("SELECT get_lock -- x\n ('held', 0)", "named_lock", LOCK, b"0"),
    pin("DO GET_LOCK('held', 0)", "named_lock", LOCK, b"0"),
    pin("SELECT 1 FROM t WHERE GET_LOCK('held', 0) LIMIT 1", "named_lock", LOCK, b"0"),
    pin((prepared("SELECT GET_LOCK('held', 0)"),), "named_lock", LOCK, b"0"),
    pin("SELECT take_lock()", "opaque", LOCK, b"0"),
    pin("SELECT `sessions`.`take_lock`()", "opaque", LOCK, b"0"),
    pin("CALL locker()", "opaque", LOCK, b"0"),
    pin("CREATE TEMPORARY TABLE tmp (i INT)", "temporary_table", TEMPORARY, b"0"),
    pin("CREATE TEMPORARY TABLE tmp SELECT 1 AS i", "temporary_table", TEMPORARY, b"1"),
    pin("CREATE /* x */ TEMPORARY TABLE tmp AS SELECT 1 AS i", "temporary_table", TEMPORARY, b"1"),
    pin("CREATE TEMPORARY TABLE tmp LIKE t", "temporary_table", TEMPORARY, b"0"),
    pin(
        "CREATE TEMPORARY TABLE tmp SELECT 1 AS i; CREATE TEMPORARY TABLE tmp SELECT 1 AS i",
        "temporary_table",
        TEMPORARY,
        b"1",
    ),
    pin("CREATE OR REPLACE TEMPORARY TABLE tmp SELECT 1 AS i", "temporary_table", TEMPORARY, b"1", only="mariadb"),
    pin((prepared("CREATE TEMPORARY TABLE tmp SELECT 1 AS i"),), "temporary_table", TEMPORARY, b"1"),
    pin(("PREPARE s FROM 'CREATE TEMPORARY TABLE tmp SELECT 1'", "EXECUTE s"), "temporary_table", TEMPORARY, b"1"),
    pin("CREATE TEMPORARY TABLE tmp (i INT)", "temporary_table", TEMPORARY, end=("DROP TEMPORARY TABLE tmp",)),
    pin("CREATE TEMPORARY TABLE tmp SELECT 1 AS i", "temporary_table", TEMPORARY, end=("DROP TABLE IF EXISTS tmp",)),
    pin(
        ("CREATE TEMPORARY TABLE tmp SELECT 1 AS i", "CREATE TEMPORARY TABLE tmp2 LIKE tmp"),
        "temporary_table",
        TEMPORARY,
        end=("ALTER TABLE tmp ADD x INT", "TRUNCATE TABLE tmp2", "DROP TABLE tmp2, tmp"),
    ),
    pin(
        ("CREATE TEMPORARY TABLE tmp SELECT 1 AS i", f"USE {DATABASE}_two"),
        "temporary_table",
        TEMPORARY,
        end=(f"DROP TABLE {DATABASE}.tmp", f"USE {DATABASE}"),
    ),
    pin(
        ("START TRANSACTION", "CREATE TEMPORARY TABLE tmp SELECT 1 AS i", "ROLLBACK"),
        "temporary_table",
        TEMPORARY,
        end=("DROP TEMPORARY TABLE tmp",),
    ),
    pin("SELECT GET_LOCK('held', 0)", "named_lock", LOCK, end=("SELECT RELEASE_LOCK('held')",)),
    pin("DO GET_LOCK('held', 0)", "named_lock", LOCK, end=("SELECT RELEASE_ALL_LOCKS()",)),
    pin(
        (
            "SELECT GET_LOCK('held', 0)",
            "SELECT GET_LOCK('held', 0)",
            "DO GET_LOCK('too', 1)",
            "DO RELEASE_LOCK('held')",
        ),
        "named_lock",
        LOCK,
        end=("DO RELEASE_LOCK('too')", "SELECT RELEASE_LOCK('held') AS given"),
    ),
    pin("SELECT 1 FROM t WHERE GET_LOCK('held', 0) LIMIT 1", "named_lock", LOCK, end=("DO RELEASE_ALL_LOCKS()",)),
    pin(
        (prepared("SELECT GET_LOCK('held', 0)"),),
        "named_lock",
        LOCK,
        end=("SELECT RELEASE_LOCK('other'), 1", "SELECT RELEASE_LOCK('other')", "SELECT RELEASE_LOCK('held')"),
    ),
    pin(
        (prepared("SELECT GET_LOCK(?, ?)", "held", 0),),
        "named_lock",
        LOCK,
        end=(prepared("SELECT RELEASE_LOCK(?)", "held"),),
    ),
    pin("HANDLER t OPEN AS h", "handler", ("HANDLER h READ FIRST",), end=("HANDLER h CLOSE",)),
    pin(
        ("HANDLER t OPEN", "HANDLER t OPEN AS h", "HANDLER t CLOSE"),
        "handler",
        ("HANDLER h READ FIRST",),
        end=("HANDLER h READ FIRST", "HANDLER h CLOSE"),
    ),
    pin(
        ("PREPARE s FROM 'SELECT 1'", "EXECUTE s"),
        "text_prepare",
        ("EXECUTE s",),
        end=("EXECUTE s", "DEALLOCATE PREPARE s"),
    ),
    pin(
        ("PREPARE s FROM 'SELECT v FROM t WHERE id = ?'", "SET @x = 2", "EXECUTE s USING @x"),
        "text_prepare",
        ("EXECUTE s",),
    ),
    pin(
        "BACKUP STAGE START",
        "backup_lock",
        ("BACKUP STAGE START", "BACKUP STAGE END"),
        end=("BACKUP STAGE END",),
        only="mariadb",
    ),
    pin("BACKUP LOCK t", "backup_lock", ("ALTER TABLE t COMMENT ''",), end=("BACKUP UNLOCK",), only="mariadb"),
    pin("CALL keep()", "opaque", TEMPORARY, b"1"),
    pin(
        ("START TRANSACTION", "CREATE TEMPORARY TABLE tmp SELECT 1 AS i", "COMMIT"), "temporary_table", TEMPORARY, b"1"
    ),
    pin("LOCK TABLES t READ", "lock_tables", WRITE),
    pin("LOCK TABLES t READ", "lock_tables", WRITE, end=("UNLOCK TABLES",)),
    pin("LOCK TABLES t READ", "lock_tables", WRITE, end=("START TRANSACTION", "COMMIT")),
    pin(("LOCK TABLES t READ", "DROP TEMPORARY TABLE IF EXISTS nosuch"), "lock_tables", WRITE),
    pin(("SET autocommit = 0", "LOCK TABLES t READ", "SELECT v FROM t", "COMMIT"), "lock_tables", WRITE),
    pin(("LOCK TABLES t READ", "LOCK TABLES nosuch READ", "LOCK TABLES t READ"), "lock_tables", WRITE),
    pin("FLUSH TABLES t WITH READ LOCK", "lock_tables", WRITE, end=("UNLOCK TABLES",)),
    pin("FLUSH TABLES t FOR EXPORT", "lock_tables", WRITE),
    pin("FLUSH TABLES WITH READ LOCK", "global_read_lock", WRITE),
    pin("FLUSH TABLES WITH READ LOCK", "global_read_lock", WRITE, end=("UNLOCK TABLES",)),
    pin(("FLUSH TABLES WITH READ LOCK", "START TRANSACTION", "COMMIT"), "global_read_lock", WRITE),
    pin("LOCK INSTANCE FOR BACKUP", "backup_lock", ("CREATE TABLE made (i INT)", "DROP TABLE made"), only="mysql"),
    pin(
        "LOCK INSTANCE FOR BACKUP",
        "backup_lock",
        ("CREATE TABLE made (i INT)", "DROP TABLE made"),
        end=("UNLOCK INSTANCE",),
        only="mysql",
    ),
    pin("BACKUP STAGE START", "backup_lock", ("BACKUP STAGE START", "BACKUP STAGE END"), only="mariadb"),
    pin("BACKUP LOCK t", "backup_lock", ("ALTER TABLE t COMMENT ''",), only="mariadb"),
    pin("HANDLER t OPEN", "handler", ("HANDLER t READ FIRST",), b"1"),
    pin("HANDLER t OPEN AS h", "handler", ("HANDLER h READ FIRST",), b"1"),
    pin("SET ROLE reader", "role", ("SELECT CURRENT_ROLE()",)),
    pin(("PREPARE s FROM 'SET ROLE reader'", "EXECUTE s"), "role", ("SELECT CURRENT_ROLE()",)),
    pin((prepared("SET ROLE reader"),), "role", ("SELECT CURRENT_ROLE()",)),
    pin("SET ROLE reader; SET ROLE nosuch", "role", ("SELECT CURRENT_ROLE()",)),
    pin("PREPARE s FROM 'SELECT 1'", "text_prepare", ("EXECUTE s",), b"1"),
    pin("XA START 'x'", "xa", ("XA END 'x'",)),
    pin(("XA START 'x'", "XA END 'x'", "XA PREPARE 'x'"), "xa", ("XA START 'y'", "XA END 'y'"), only="mariadb"),
    pin("SET TRANSACTION READ ONLY", "next_transaction", WRITE),
    pin("SET TRANSACTION READ ONLY", "next_transaction", WRITE, end=("SELECT v FROM t",)),
    pin(("START TRANSACTION READ ONLY", "SET autocommit = 0", "SET autocommit = 1"), "next_transaction", WRITE),
    pin("SET @@transaction_read_only = 1", "next_transaction", WRITE, only="mysql"),
    pin("SET TRANSACTION READ ONLY; SET @@nosuch = 1", "next_transaction", WRITE),
    pin(("SET insert_id = 5000", "SET TRANSACTION READ ONLY", "SELECT v FROM t"), "one_shot", INSERT),
    pin(("SET TRANSACTION READ ONLY", "SET insert_id = 5000", "SELECT v FROM t"), "one_shot", INSERT),
    pin("SET last_insert_id = 77", "one_shot", ("SELECT LAST_INSERT_ID()",), b"77"),
    pin("SET @@identity = 77", "one_shot", ("SELECT LAST_INSERT_ID()",), b"77"),
    pin("SET rand_seed1 = 1, rand_seed2 = 2", "one_shot", ("SELECT RAND() = 0.00000017881393443022133",)),
    pin(
        ("SET optimizer_trace = 'enabled=on'", "SELECT v FROM t WHERE id = 1"),
        "profiling",
        ("SELECT QUERY FROM information_schema.OPTIMIZER_TRACE",),
        b"SELECT v FROM t WHERE id = 1",
    ),
    pin("SET profiling = 1", "profiling", ("SELECT @@profiling",), b"1"),
    pin("SET session_track_schema = OFF", "session_track", ("SELECT @@session_track_schema",), b"0"),
    pin(("SET autocommit = 0", "SAVEPOINT a"), "savepoint", ("ROLLBACK TO a",)),
    pin(("SET autocommit = 0", "SAVEPOINT a"), "savepoint", ("ROLLBACK TO a",), end=("COMMIT",)),
    pin("SET autocommit = 0; SAVEPOINT a", "savepoint", ("ROLLBACK TO a",)),
    pin(
        ("SELECT NEXTVAL(numbers)", "SELECT LASTVAL(numbers)"), "sequence", ("SELECT LASTVAL(numbers)",), only="mariadb"
    ),
    pin("BEGIN NOT ATOMIC SET @x = 4; END", "opaque", X, b"4", only="mariadb"),
    pin("EXECUTE IMMEDIATE 'SET @x = 4'", "opaque", X, b"4", only="mariadb"),
    pin(
        "SET STATEMENT sql_mode = 'ANSI' FOR SELECT 1",
        "opaque",
        ("SELECT @@sql_mode LIKE '%ANSI%'",),
        b"0",
        only="mariadb",
    ),
]


def carried(do: str | tuple[Step, ...], expression: str, see: bytes | int | None, only: str = "") -> Case:
    return Case((do,) if isinstance(do, str) else do, None, (f"SELECT {expression}",), see, only=only)


CARRIED = [
    carried("SET @x = 1", "@x", b"1"),
    carried("SET @X := 'a b', @y = 7", "CONCAT(@x, @y)", b"a b7"),
    carried((prepared("SET @x = 8"),), "@x", b"8"),
    carried(("SET @x = 1", "SET @x = 2.50"), "@x", b"2.50"),
    carried("SET @x = 1e3", "@x", b"1000"),
    carried("SET @x = NULL", "@x", None),
    carried(
        ("SET NAMES latin1", "SET @x = 'a'", "SET NAMES utf8mb4"),
        "CONCAT(CHARSET(@x), COLLATION(@x), @x)",
        b"latin1latin1_swedish_cia",
    ),
    carried("SET sql_mode = 'ANSI_QUOTES'", "@@sql_mode", b"ANSI_QUOTES"),
    carried("SET sql_mode = 'NO_BACKSLASH_ESCAPES'", r"'a\\b'", rb"a\\b"),
    carried("SET @@sql_mode = 'ANSI_QUOTES'", "@@sql_mode", b"ANSI_QUOTES"),
    carried("SET SESSION sql_mode = 'ANSI_QUOTES'", "@@sql_mode", b"ANSI_QUOTES"),
    carried("SET time_zone = '+05:00'", "@@time_zone", b"+05:00"),
    carried("SET @@time_zone = '+05:00'", "@@time_zone", b"+05:00"),
    carried((prepared("SET time_zone = '+05:00'"),), "@@time_zone", b"+05:00"),
    carried((prepared("SET @@session.time_zone = '+05:00'"),), "@@time_zone", b"+05:00"),
    carried((prepared("SET @@time_zone = '+05:00'"),), "@@time_zone", b"+05:00"),
    carried("SET foreign_key_checks = 0", "@@foreign_key_checks", b"0"),
    carried("SET FOREIGN_KEY_CHECKS = 0; SELECT nosuch", "@@foreign_key_checks", b"0"),
    carried("SET unique_checks = 0", "@@unique_checks", b"0"),
    carried("SET @@unique_checks = OFF, @@foreign_key_checks = OFF", "@@unique_checks + @@foreign_key_checks", b"0"),
    carried("SET sql_safe_updates = 1", "@@sql_safe_updates", b"1"),
    carried("SET @@sql_safe_updates = 1", "@@sql_safe_updates", b"1"),
    carried("SET timestamp = 1000000", "UNIX_TIMESTAMP()", b"1000000"),
    carried("SET @@timestamp = 1000000.5", "UNIX_TIMESTAMP(NOW(1))", b"1000000.5"),
    carried("SET autocommit = 0", "@@autocommit", b"0"),
    carried("SET @@autocommit = OFF", "@@autocommit", b"0"),
    carried("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "@@{isolation}", b"SERIALIZABLE"),
    carried("SET SESSION TRANSACTION READ ONLY", "@@{read_only}", b"1"),
    carried("SET NAMES latin1", "@@character_set_client", b"latin1"),
    carried("SET NAMES latin1", "@@collation_connection", b"latin1_swedish_ci"),
    carried("SET NAMES utf8mb4 COLLATE utf8mb4_bin", "@@collation_connection", b"utf8mb4_bin"),
    carried("SET collation_connection = 'utf8mb4_bin'", "@@collation_connection", b"utf8mb4_bin"),
    carried("SET CHARACTER SET latin1", "@@character_set_results", b"latin1"),
    carried("SET character_set_results = NULL", "@@character_set_results", None),
    carried("SET @@character_set_results = NULL", "@@character_set_results", None),
    carried("SET @@character_set_client = latin1", "@@character_set_client", b"latin1"),
    carried((prepared("SET NAMES latin1"),), "@@collation_connection", b"latin1_swedish_ci"),
    carried("SET group_concat_max_len = 777", "@@group_concat_max_len", b"777"),
    carried("SET @@group_concat_max_len = 777", "@@group_concat_max_len", b"777"),
    carried("SET @@local.group_concat_max_len = 777", "@@group_concat_max_len", b"777"),
    carried("SET `group_concat_max_len` = 777", "@@group_concat_max_len", b"777"),
    carried("SET sql_select_limit = 1", "COUNT(*) FROM (SELECT 1 UNION SELECT 2) u", b"2"),
    carried("SET wait_timeout = 333", "@@wait_timeout", b"333"),
    carried("SET lc_time_names = 'de_DE'", "DAYNAME('2024-01-01')", b"Montag"),
    carried("SET div_precision_increment = 9", "1/3", b"0.333333333"),
    carried("SET tmp_table_size = 65536", "@@tmp_table_size", b"65536"),
    carried("SET sql_auto_is_null = 1", "@@sql_auto_is_null", b"1"),
    carried("SET optimizer_switch = 'mrr=off'", "@@optimizer_switch LIKE '%mrr=off%'", b"1"),
    carried("SET max_execution_time = 9999", "@@max_execution_time", b"9999", only="mysql"),
    carried("SET max_statement_time = 99", "@@max_statement_time", b"99.000000", only="mariadb"),
    carried("SET innodb_lock_wait_timeout = 3", "@@innodb_lock_wait_timeout", b"3"),
    carried(f"USE {DATABASE}_two", "DATABASE()", b"sessions_two"),
    carried((lambda client: client.init_db(f"{DATABASE}_two"),), "DATABASE()", b"sessions_two"),
    carried("SET sql_big_selects = 0, max_join_size = 12345", "@@max_join_size", b"12345"),
]


def _params(cases: list[Case]) -> list[object]:
    return [pytest.param(case, id=str(case).replace("\n", " ")) for case in cases]


def _for_flavour(case: Case, flavour: str) -> Case:
    if case.only not in ("", flavour):
        pytest.skip(f"only on {case.only}")
    old = flavour == "mariadb"
    names = {"{isolation}": "tx_isolation", "{read_only}": "tx_read_only"}
    ask = tuple(
        question.replace(name, short if old else short.replace("tx_", "transaction_"))
        for question in case.ask
        for name, short in names.items()
        if name in question
    )
    return Case(case.do, case.reason, ask or case.ask, case.see, case.end, case.only)


def do(client: Raw, steps: tuple[Step, ...]) -> None:
    for step in steps:
        if isinstance(step, str):
            client.query(step)
        else:
            step(client)


def asked(client: Raw, questions: tuple[str, ...]) -> list[tuple[object, object, object]]:
    return [_outcome(client.query(question)) for question in questions]


def _outcome(result: Result) -> tuple[object, object, object]:
    return result.rows, result.code, result.error.message if result.error else b""


def undisturbed(proxy: Proxy, case: Case) -> list[tuple[object, object, object]]:
    """What the questions answer when nobody else was there."""
    with connect(proxy) as alone:
        answers = asked(alone, case.ask)
        alone.quit()
    everything_is_back(proxy)
    return answers


@pytest.mark.parametrize("case", _params(PINS))
def test_a_state_that_cannot_be_carried_keeps_the_others_out(world: Server, shared_proxy: Shared, case: Case) -> None:
    case = _for_flavour(case, world.flavour)
    proxy = shared_proxy(world, max_connections=1)
    clean = undisturbed(proxy, case)
    with connect(proxy) as a, connect(proxy) as b:
        do(a, case.do)
        metric = f'mybouncer_pinned_sessions{{reason="{case.reason}"}}'
        proxy.wait_for_metric(metric, 1)
        b.send_query(case.ask[0])
        waits(proxy)
        if case.see != b"":
            assert a.get(case.ask[-1]) == case.see
        if case.end:
            do(a, case.end)
        else:
            a.quit()
        b.expect_answer()
        first = _outcome(b.results()[-1])
        assert [first, *asked(b, case.ask[1:])] == clean
        if case.end:
            assert proxy.metrics()[metric] == 0
            a.quit()
        b.quit()
    everything_is_back(proxy)
    if case.reason == "xa":
        _forget_prepared(world)


def _forget_prepared(server: Server) -> None:
    def none_left() -> bool:
        left = server.execute("XA RECOVER")
        with suppress(pymysql.MySQLError):  # its session has not ended yet
            if left:
                server.execute("XA ROLLBACK 'x'")
        return not left

    wait_until(none_left, 5.0, "no prepared XA transactions")


@pytest.mark.parametrize("case", _params(CARRIED))
def test_a_setting_is_carried_and_nobody_else_has_it(world: Server, shared_proxy: Shared, case: Case) -> None:
    case = _for_flavour(case, world.flavour)
    proxy = shared_proxy(world, max_connections=1)
    (question,) = case.ask
    with connect(proxy) as a, connect(proxy) as b:
        clean = b.ok(question).rows
        if "UNIX_TIMESTAMP" in question:
            assert int(float(clean[0][0] or 0)) > 1_700_000_000
        for client in (a, b):
            assert proxy.metrics()['mybouncer_clients{state="pinned"}'] == 0, client
        do(a, case.do)
        a.query("ROLLBACK")
        assert proxy.metrics()['mybouncer_backends{state="leased"}'] == 0, "the setting pins"
        for _ in range(2):
            if "UNIX_TIMESTAMP" in question:
                assert int(float(b.get(question) or 0)) > 1_700_000_000
            else:
                assert b.ok(question).rows == clean
            assert a.get(question) == case.see
            a.query("ROLLBACK")
        a.quit()
        if "UNIX_TIMESTAMP" not in question:
            assert b.ok(question).rows == clean
        b.quit()
    everything_is_back(proxy)


NOTHING_RAN = (
    ("SELEC 1", 1064),
    ("SELEC 'a;b';", 1064),
    ("SELECT set_left() FORM t", 1064),
    ("SELECT nosuch_function(1)", 1305),
    ("SELEC; SET @x = 1", 1064),
    ("PREPARE s FROM 'SELEC'", 1064),
)
SOMETHING_RAN = (
    ("CALL inner_syntax()", 1064, b"5"),
    ("CALL inner_syntax(); SELECT 1", 1064, b"5"),
    ("SELECT set_left(), nosuch_function(1); SELECT 1", 1305, None),  # too careful, never too bold
    ("SELECT fails_like_a_syntax_error()", 1064, b"5"),
)
ONLY_MARIADB = (("BEGIN NOT ATOMIC SET @left = 5; EXECUTE IMMEDIATE 'SELEC'; END", 1064, b"5"),)


def test_a_statement_of_which_nothing_ran_does_not_pin(world: Server, shared_proxy: Shared) -> None:
    proxy = shared_proxy(world, max_connections=1)
    with connect(proxy) as a, connect(proxy) as b:
        for text, code in NOTHING_RAN:
            assert a.queries(text)[-1].code == code, text
            assert [row[1] for row in a.ok("SHOW WARNINGS").rows] == [str(code).encode()]
            assert b.get("SELECT @left") is None
            a.ok("SELECT 1")
        a.quit()
        b.quit()
    everything_is_back(proxy)


def test_a_statement_that_fails_as_if_it_were_no_sql_pins_if_it_ran(world: Server, shared_proxy: Shared) -> None:
    proxy = shared_proxy(world, max_connections=1)
    for text, code, left in SOMETHING_RAN + (ONLY_MARIADB if world.flavour == "mariadb" else ()):
        with connect(proxy) as a:
            assert a.queries(text)[-1].code == code, text
            assert a.get("SELECT @left") == left
            assert proxy.metrics()['mybouncer_clients{state="pinned"}'] == 1, text
            a.quit()
        everything_is_back(proxy)


# --- what takes more than two clients' worth of one statement ---


def test_who_waits_too_long_for_a_pinned_session_gets_1040_and_can_go_on(world: Server, shared_proxy: Shared) -> None:
    proxy = shared_proxy(world, max_connections=1, queue__timeout="100ms")
    with connect(proxy) as a, connect(proxy) as b:
        a.ok("SET @x = 0 + 1")
        refused = b.query("SELECT 1")
        assert refused.error is not None
        assert (refused.error.code, refused.error.state) == (1040, b"08004")
        assert b"Too many connections: waited 0.1 s" in refused.error.message
        assert b"1 pinned" in refused.error.message
        assert a.get("SELECT @x") == b"1"
        a.quit()
        assert b.get("SELECT @x") is None
        b.quit()
    everything_is_back(proxy)


@pytest.mark.parametrize("cap", [1, 2])
def test_a_transaction_with_autocommit_off_is_not_split(world: Server, shared_proxy: Shared, cap: int) -> None:
    proxy = shared_proxy(world, max_connections=cap)
    with connect(proxy) as a, connect(proxy) as b:
        a.ok("SET autocommit = 0")
        for round_ in range(3):
            before = b.get("SELECT v FROM t WHERE id = 2")
            where = a.get("SELECT CONNECTION_ID() FROM t LIMIT 1")
            a.ok(f"UPDATE t SET v = {100 + round_} WHERE id = 2")
            b.send_query("SELECT v FROM t WHERE id = 2")
            if cap == 1:
                waits(proxy)
                a.ok("ROLLBACK")
                assert b.answer().value == before
            else:
                assert b.answer().value == before
                assert a.get("SELECT CONNECTION_ID() FROM t LIMIT 1") == where
                assert a.get("SELECT v FROM t WHERE id = 2") == str(100 + round_).encode()
                a.ok("ROLLBACK")
            a.ok("UPDATE t SET v = 2 WHERE id = 2")
            a.ok("COMMIT")
        a.quit()
        b.quit()
    everything_is_back(proxy, cap)


def test_a_client_without_multi_statements_never_gets_them_from_another(world: Server, shared_proxy: Shared) -> None:
    proxy = shared_proxy(world, max_connections=1)
    with connect(proxy) as a, connect(proxy) as b:
        assert [r.rows for r in a.queries("SELECT 1; SELECT 2")] == [[[b"1"]], [[b"2"]]]
        assert b.set_option(1).error is None
        assert b.query("SELECT 1; SELECT 2").code == 1064
        assert len(a.queries("SELECT 1; SELECT 2")) == 2
        assert b.query("SELECT 1; SELECT 2").code == 1064
        b.reset()
        assert b.query("SELECT 1; SELECT 2").code == 1064, "a reset keeps the option"
        b.set_option(0)
        assert len(b.queries("SELECT 1; SELECT 2")) == 2
        a.quit()
        b.quit()


def test_a_client_without_a_schema_has_none_whatever_the_others_use(world: Server, shared_proxy: Shared) -> None:
    proxy = shared_proxy(world, max_connections=1)
    with connect(proxy) as a, Raw(proxy, *ACCOUNT) as b:
        for _ in range(3):
            assert a.get("SELECT DATABASE()") == DATABASE.encode()
            assert b.get("SELECT DATABASE()") is None
            assert b.query("SELECT * FROM t").code == 1046
        b.ok(f"USE {DATABASE}_two")
        assert a.get("SELECT DATABASE()") == DATABASE.encode()
        assert b.get("SELECT DATABASE()") == f"{DATABASE}_two".encode()
        a.quit()
        b.quit()
    everything_is_back(proxy)


def test_soft_state_belongs_to_its_client(world: Server, shared_proxy: Shared) -> None:
    proxy = shared_proxy(world, max_connections=1)
    with connect(proxy) as a, connect(proxy) as b:
        first = a.ok("INSERT INTO counted (v) VALUES (1), (2), (3)")
        assert b.get("SELECT LAST_INSERT_ID()") == b"0"
        second = b.ok("INSERT INTO counted (v) VALUES (1)")
        assert second.insert_id > first.insert_id
        assert a.get("SELECT LAST_INSERT_ID()") == str(first.insert_id).encode()
        assert a.get("SELECT @@identity") == str(first.insert_id).encode()
        assert b.get("SELECT LAST_INSERT_ID()") == str(second.insert_id).encode()
        third = a.ok("INSERT INTO counted (v) SELECT LAST_INSERT_ID()")
        b.ok("SELECT 1")
        assert a.get("SELECT v FROM counted ORDER BY id DESC LIMIT 1") == str(first.insert_id).encode()

        # An id that the statement names comes back in its OK, and LAST_INSERT_ID() stays the client's own.
        assert b.ok("INSERT INTO counted (id, v) VALUES (900000, 1)").insert_id == 900000
        assert b.get("SELECT LAST_INSERT_ID()") == str(second.insert_id).encode()
        with connect(proxy) as stranger:
            assert stranger.ok("INSERT INTO counted (id, v) VALUES (900001, 1)").insert_id == 900001
            assert stranger.get("SELECT LAST_INSERT_ID()") == b"0"
            stranger.quit()
        assert a.get("SELECT LAST_INSERT_ID()") == str(third.insert_id).encode()

        assert a.query("SELECT nosuch").code == 1054
        assert b.ok("SHOW WARNINGS").rows == []
        assert b.ok("SELECT CAST('x' AS SIGNED)").warnings == 1
        assert [row[1] for row in a.ok("SHOW WARNINGS").rows] == [b"1054"]
        assert a.get("SHOW COUNT(*) ERRORS") == b"1"
        assert [row[1] for row in b.ok("SHOW WARNINGS").rows] == [b"1292"]

        assert a.ok("UPDATE counted SET v = -1").affected > 1
        assert b.ok("UPDATE counted SET v = -2 LIMIT 1").affected == 1
        assert int(a.get("SELECT ROW_COUNT()") or 0) > 1
        assert b.get("SELECT ROW_COUNT()") == b"1"
        assert len(a.ok("SELECT 1 UNION SELECT 2").rows) == 2
        b.ok("SELECT 1")
        assert a.get("SELECT FOUND_ROWS()") == b"2"
        a.ok("SELECT SQL_CALC_FOUND_ROWS 1 FROM counted LIMIT 1")
        b.ok("SELECT 1")
        assert int(a.get("SELECT FOUND_ROWS()") or 0) > 3
        prepared_question = a.prepare("SELECT FOUND_ROWS()")
        everything = len(a.ok("SELECT 1 FROM counted").rows)
        for between in (None, b):
            a.ok("SELECT SQL_CALC_FOUND_ROWS 1 FROM counted LIMIT 1")
            if between is not None:
                between.ok("SELECT 1")
            answer = a.execute(prepared_question)
            assert answer.rows == [[everything]]
        a.quit()
        b.quit()
    everything_is_back(proxy)


def test_reset_connection_ends_everything_at_once(world: Server, shared_proxy: Shared) -> None:
    proxy = shared_proxy(world, max_connections=1)
    with connect(proxy) as a, connect(proxy) as b:
        for statement in (
            "SET @x = 1, SESSION sql_mode = 'ANSI', SESSION time_zone = '+03:00'",
            "SELECT GET_LOCK('held', 0)",
            "CREATE TEMPORARY TABLE tmp SELECT 1 AS i",
            "SET autocommit = 0",
            "UPDATE t SET v = 50 WHERE id = 1",
        ):
            a.ok(statement)
        old = a.prepare("SELECT 1")
        b.send_query("SELECT v FROM t WHERE id = 1")
        waits(proxy)
        assert a.reset().error is None
        assert b.answer().value == b"1"
        assert b.get("SELECT IS_FREE_LOCK('held')") == b"1"
        assert a.execute(old).code == 1243
        assert a.ok("SELECT @x, @@autocommit, DATABASE()").rows == [[None, b"1", DATABASE.encode()]]
        assert a.query("SELECT * FROM tmp").code == 1146
        ask = "SELECT @@sql_mode, @@time_zone"
        assert a.ok(ask).rows == b.ok(ask).rows
        a.quit()
        b.quit()
    everything_is_back(proxy)


@pytest.mark.parametrize("deprecate_eof", [True, False])
def test_prepared_statements_move_with_their_types(world: Server, shared_proxy: Shared, deprecate_eof: bool) -> None:
    proxy = shared_proxy(world, max_connections=1)
    with connect(proxy, deprecate_eof=deprecate_eof) as a, connect(proxy) as b:
        mine = a.prepare("SELECT ? + 1, ?")
        assert a.execute(mine, 1, "one").rows == [[2, b"one"]]
        theirs = b.prepare("SELECT ? + 1, ?")
        assert b.execute(theirs, "x", 5).error is None  # on the same backend, bound to other types
        for i in range(5):
            assert a.execute(mine, i, "i", types=False).rows == [[i + 1, b"i"]]
            b.ok("SET sql_mode = ''" if i % 2 else "SET sql_mode = 'ANSI_QUOTES'")
            other = b.prepare('SELECT "v" FROM t LIMIT 1')
            assert b.execute(other).rows == [[1 if i % 2 == 0 else b"v"]]
            b.close_statement(other)
        b.reset()  # takes the backend's statements with it
        assert a.execute(mine, 9, "nine", types=False).rows == [[10, b"nine"]]
        a.close_statement(mine)
        assert a.execute(mine, 1, "1").code == 1243
        fresh = a.prepare("SELECT ?")
        assert a.execute(fresh, "z", types=False).code == 1210 or world.flavour == "mariadb"
        a.quit()
        b.quit()
    everything_is_back(proxy)


@pytest.mark.parametrize("deprecate_eof", [True, False])
def test_long_data_and_cursors_pin_until_they_are_over(
    world: Server, shared_proxy: Shared, deprecate_eof: bool
) -> None:
    proxy = shared_proxy(world, max_connections=1)
    with connect(proxy, deprecate_eof=deprecate_eof) as a, connect(proxy) as b:
        length = a.prepare("SELECT LENGTH(?)")
        for round_ in range(2):
            a.long_data(length, 0, b"x" * 1000)
            proxy.wait_for_metric('mybouncer_pinned_sessions{reason="long_data"}', 1)
            b.send_query("SELECT 7")
            waits(proxy)
            a.long_data(length, 0, b"y" * (500 + round_))
            a.send(execute_long_payload(length))
            a.expect_answer()
            assert a.results(binary=True)[-1].rows == [[1500 + round_]]
            assert b.answer().value == b"7"
            assert proxy.metrics()['mybouncer_pinned_sessions{reason="long_data"}'] == 0
        a.long_data(length, 0, b"forgotten")
        b.send_query("SELECT 8")
        waits(proxy)
        assert a.reset_statement(length).error is None
        assert b.answer().value == b"8"
        assert a.execute(length, "abc").rows == [[3]]

        numbers = a.prepare("SELECT id FROM t ORDER BY id")
        opened = a.execute(numbers, cursor=READ_ONLY_CURSOR)
        assert opened.error is None
        assert opened.status & 0x40
        assert opened.rows == []
        assert proxy.metrics()['mybouncer_pinned_sessions{reason="cursor"}'] == 1
        b.send_query("SELECT 9")
        waits(proxy)
        one = a.fetch(numbers, 1, opened.columns)
        assert one.rows == [[1]]
        assert a.get("SELECT 5") == b"5"
        rest = a.fetch(numbers, 10, opened.columns)
        assert rest.rows == [[2]]
        assert rest.status & 0x80
        assert b.answer().value == b"9"
        assert proxy.metrics()['mybouncer_pinned_sessions{reason="cursor"}'] == 0
        a.execute(numbers, cursor=READ_ONLY_CURSOR)
        b.send_query("SELECT 10")
        waits(proxy)
        a.close_statement(numbers)
        assert b.answer().value == b"10"
        a.quit()
        b.quit()
    everything_is_back(proxy)


def test_commands_sent_ahead_are_answered_in_order(world: Server, shared_proxy: Shared) -> None:
    proxy = shared_proxy(world, max_connections=1)
    with connect(proxy) as a, connect(proxy) as b:
        for client in (a, b):
            client.pipeline(
                b"\x03SELECT 1",
                b"\x03SELECT nosuch",
                b"\x0e",
                b"\x03BEGIN",
                b"\x03SELECT 2",
                b"\x03COMMIT",
                b"\x03DO 1",
            )
        for client in (a, b):
            codes = []
            for _ in range(7):
                client.expect_answer()
                codes.append(client.results()[-1].code)
            assert codes == [0, 1054, 0, 0, 0, 0, 0]
        statement = a.prepare("SELECT ?")
        a.pipeline(
            execute_payload(statement, (1,)), execute_payload(statement, (2,)), b"\x19" + b"\xff\0\0\0", b"\x03SELECT 3"
        )
        for expected in ([[1]], [[2]]):
            a.expect_answer()
            assert a.results(binary=True)[-1].rows == expected
        assert a.answer().value == b"3"
        a.quit()
        b.quit()
    everything_is_back(proxy)


def test_many_sessions_each_with_its_own_settings_share_two_backends(world: Server, shared_proxy: Shared) -> None:
    proxy = shared_proxy(world, max_connections=2)
    clients = [connect(proxy, deprecate_eof=i % 2 == 0, session_track=i % 3 > 0) for i in range(12)]
    wanted = [f"+{i:02}:30" for i in range(12)]
    for client, zone in zip(clients, wanted, strict=True):
        client.ok(f"SET time_zone = '{zone}', @@session.group_concat_max_len = {1000 + int(zone[1:3])}")
    for _ in range(4):
        for client in clients:
            client.send_query("SELECT @@time_zone, @@group_concat_max_len")
        for client, zone in zip(clients, wanted, strict=True):
            assert client.answer().rows == [[zone.encode(), str(1000 + int(zone[1:3])).encode()]]
    for client in clients:
        client.quit()
    everything_is_back(proxy, 2)
