"""The same interleaved sessions, once directly and once through a pooler with one or two backends: no difference.

A seed makes a script of statements for three sessions. Where a session holds its backend (a transaction, a pin), only
as many others go on as there are backends left, so that nobody has to wait. After every statement the answers are
compared; at the end, what every session believes about itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.conftest import Proxy
from tests.live.raw import Raw, Result, ServerError, Statement, Target
from tests.servers import Server

SESSIONS = 3
STEPS = 220
DATABASE = "differential"
OTHER = "differential_two"
ACCOUNT = ("differential", "differential-secret")

_SESSION_STATE_CHANGED = 0x4000
_ABOUT_THE_SESSION = 0x0203  # in transaction, autocommit, no backslash escapes

Shared = Callable[..., Proxy]


@dataclass(frozen=True)
class Step:
    """One command of one session."""

    session: int
    what: str
    text: str = ""
    values: tuple[str | int | None, ...] = ()
    types: bool = True

    def __str__(self) -> str:
        return f"session {self.session}: {self.what} {self.text!r} {self.values or ''}"


@dataclass
class Model:
    """What the script's author knows of a session: enough to tell whether it may hold its backend."""

    autocommit: bool = True
    in_transaction: bool = False
    pinned: bool = False
    last: str = ""
    prepared: dict[str, bool] = field(default_factory=dict)  # text: its types are known

    @property
    def holds(self) -> bool:
        return self.pinned or self.in_transaction or not self.autocommit


VARIABLES = (
    ("sql_mode", ("''", "'ANSI_QUOTES'", "'STRICT_ALL_TABLES'", "'NO_BACKSLASH_ESCAPES'", "'TRADITIONAL'", "DEFAULT")),
    ("time_zone", ("'+00:00'", "'+05:30'", "'-08:00'", "'SYSTEM'")),
    ("foreign_key_checks", ("0", "1", "ON", "OFF")),
    ("unique_checks", ("0", "1")),
    ("sql_safe_updates", ("0", "1")),
    ("group_concat_max_len", ("4", "1000", "DEFAULT")),
    ("div_precision_increment", ("2", "9")),
    ("lc_time_names", ("'de_DE'", "'en_US'", "'fr_FR'")),
    ("timestamp", ("1000000000", "1234567890.25", "1500000000")),
    ("sql_select_limit", ("1", "2", "DEFAULT")),
    ("max_sort_length", ("64", "1024")),
    ("default_week_format", ("0", "3")),
    ("sql_auto_is_null", ("0",)),
    ("wait_timeout", ("100", "28800")),
    ("net_write_timeout", ("61", "60")),
    ("sort_buffer_size", ("65536", "262144")),
    ("tmp_table_size", ("65536", "16777216")),
    ("auto_increment_increment", ("1", "2", "10")),
    ("auto_increment_offset", ("1",)),
    ("innodb_lock_wait_timeout", ("5", "50")),
    ("updatable_views_with_limit", ("'NO'", "'YES'")),
    ("sql_warnings", ("0", "1")),
    ("sql_notes", ("0", "1")),
    ("sql_quote_show_create", ("0", "1")),
    ("low_priority_updates", ("0", "1")),
    ("max_length_for_sort_data", ("1024",)),
    ("character_set_results", ("'latin1'", "'utf8mb4'", "NULL")),
    ("collation_connection", ("'utf8mb4_bin'", "'latin1_swedish_ci'", "'utf8mb4_general_ci'")),
    ("nosuch", ("1",)),
)

PROBES = (
    *(
        f"SELECT @@session.{name}"
        for name, _ in VARIABLES
        if name not in ("nosuch", "max_length_for_sort_data", "timestamp")
    ),
    "SELECT @@autocommit, @@character_set_client, @@character_set_connection, @@collation_connection",
    "SELECT DATABASE(), LAST_INSERT_ID(), @@identity, @x, @y",
    "SELECT IF(@@timestamp < 1600000000, @@timestamp, 'now')",
    "SHOW VARIABLES LIKE '%isolation'",
    "SELECT USER(), CURRENT_USER()",
)

FOUND_ROWS = "SELECT FOUND_ROWS()"
DIAGNOSTICS = ("SHOW WARNINGS", "SHOW ERRORS", "SHOW COUNT(*) WARNINGS", "SHOW COUNT(*) ERRORS")

ORDINARY = (
    "SELECT 1, 'a', NULL, 1.5",
    "SELECT * FROM shared ORDER BY id",
    "SELECT id FROM shared WHERE v LIKE 'x%' ORDER BY id",
    "SELECT * FROM s{n} ORDER BY id DESC LIMIT 3",
    "SELECT COUNT(*), MAX(id) FROM s{n}",
    "SELECT GROUP_CONCAT(v ORDER BY id) FROM shared",
    "SELECT 1/3, CAST('12x' AS SIGNED), 1/0",
    "SELECT DATABASE(), @@autocommit",
    'SELECT "v" FROM shared LIMIT 1',
    "SELECT 'a\\'b'",
    "SELECT IF(NOW() < '2018-01-01', NOW(), 'now')",
    "SELECT nosuch FROM shared",
    "SELECT * FROM nosuch",
    "SELECT FROM",
    "",
    "-- nothing",
    "SELECT /* c */ 2 # x",
    "SHOW TABLES",
    "SHOW CREATE TABLE s{n}",
    "EXPLAIN SELECT 1",
    "INSERT INTO s{n} (v) VALUES ('x')",
    "INSERT INTO s{n} (v) VALUES ('a'), ('b'), ('c')",
    "INSERT INTO s{n} (u) VALUES ({small})",
    "INSERT IGNORE INTO s{n} (u) VALUES ({small})",
    "INSERT INTO s{n} (id, v) VALUES ({big}, 'explicit')",
    "INSERT INTO s{n} (u) VALUES ({small}) ON DUPLICATE KEY UPDATE id = LAST_INSERT_ID(id), v = 'again'",
    "INSERT INTO s{n} (v) SELECT v FROM shared",
    "INSERT INTO s{n} (v) VALUES ('much too long for this column, in some modes an error')",
    "REPLACE INTO s{n} (u, v) VALUES ({small}, 'r')",
    "UPDATE s{n} SET v = 'u' WHERE id % 2 = 0",
    "UPDATE s{n} SET u = LAST_INSERT_ID({big}) LIMIT 1",
    "DELETE FROM s{n} WHERE id % 5 = 0",
    "DELETE FROM s{n}",
    "SELECT LAST_INSERT_ID()",
    "SELECT LAST_INSERT_ID({big})",
    "INSERT INTO s{n} (v) VALUES (LAST_INSERT_ID())",
    "SELECT ROW_COUNT()",
    FOUND_ROWS,
    "SELECT SQL_CALC_FOUND_ROWS id FROM shared LIMIT 2",
    *DIAGNOSTICS,
    *DIAGNOSTICS,
    "DO 1",
    "SELECT 1; SELECT 2, 3",
    "SELECT 1; SELECT nosuch; SELECT 3",
    "INSERT INTO s{n} (v) VALUES ('m'); SELECT COUNT(*) FROM s{n}",
    "SET NAMES latin1",
    "SET NAMES utf8mb4",
    "SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci",
    "SET CHARACTER SET latin1",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "USE " + OTHER,
    "USE " + DATABASE,
    "USE nosuch",
    "COMMIT",
    "ROLLBACK",
)
PREPARED = (
    "SELECT ?, v FROM shared WHERE id > ? ORDER BY id",
    "INSERT INTO s{n} (v, u) VALUES (?, ?)",
    "UPDATE s{n} SET v = ? WHERE id = ?",
    "SELECT CONCAT(?, ?), 'it', DATABASE()",
)
BINARY = (
    "SELECT * FROM shared ORDER BY id LIMIT 2",
    "SET time_zone = '+02:00'",
    "SELECT LAST_INSERT_ID()",
    "INSERT INTO s{n} (v) VALUES ('binary')",
    "SELECT nosuch",
)
PINNING = (
    "SET @x = {small}",
    "SELECT @y := {small}",
    "SELECT COUNT(*) FROM shared INTO @x",
    "CREATE TEMPORARY TABLE tmp SELECT * FROM shared",
    "CREATE TEMPORARY TABLE tmp (i INT)",
    "SELECT GET_LOCK('lock{n}', 0)",
    "PREPARE p FROM 'SELECT ? + 1'",
    "LOCK TABLES s{n} WRITE",
    "HANDLER shared OPEN",
    "CALL twice({small}, @x)",
)
WHILE_PINNED = (
    "SELECT @x, @y",
    "SELECT * FROM tmp",
    "DROP TEMPORARY TABLE IF EXISTS tmp",
    "SELECT RELEASE_LOCK('lock{n}')",
    "EXECUTE p USING @x",
    "UNLOCK TABLES",
    "HANDLER shared READ NEXT",
    "INSERT INTO s{n} (v) VALUES (@x)",
)


def script(seed: int, free: int) -> Iterator[Step]:
    """Steps in which at most `free` sessions hold a backend while others go on."""
    rng = random.Random(seed)
    models = [Model() for _ in range(SESSIONS)]
    for _ in range(STEPS):
        holders = [i for i, model in enumerate(models) if model.holds]
        number = rng.choice(holders if len(holders) > free else range(SESSIONS))
        may_hold = models[number].holds or len(holders) <= free
        step = _step(rng, number, models[number], may_hold)
        while not _has_one_answer(step, models[number].last):
            step = Step(number, "query", rng.choice(ORDINARY[:8]).replace("{n}", str(number)))
        models[number].last = step.text if step.what == "query" else step.what
        yield step
    for number, model in enumerate(models):
        if model.holds:
            yield Step(number, "query", "SET autocommit = 1")
            yield Step(number, "query", "COMMIT")
            if model.pinned:
                yield from _probes(number)
                yield Step(number, "reset")
    for number in range(SESSIONS):
        yield from _probes(number)


def _has_one_answer(step: Step, last: str) -> bool:
    """Whether both servers define what is asked for: of a statement without tables each keeps other things."""
    of_tables = "shared" in last or " s0" in last or " s1" in last or " s2" in last
    if step.text in DIAGNOSTICS:
        return of_tables or last in DIAGNOSTICS
    return step.text != FOUND_ROWS or (of_tables and last.startswith("SELECT") and "nosuch" not in last)


def _probes(number: int) -> Iterator[Step]:
    for probe in PROBES:
        yield Step(number, "query", probe)


def _step(rng: random.Random, number: int, model: Model, may_hold: bool) -> Step:
    def fill(text: str) -> str:
        values = {"{n}": number, "{small}": rng.randrange(5), "{big}": rng.randrange(1000, 100000)}
        for mark, value in values.items():
            text = text.replace(mark, str(value))
        return text

    kind = rng.randrange(100)
    if model.holds and kind < 14:
        if model.pinned and kind < 5:
            model.pinned = model.in_transaction = False
            model.autocommit = True
            model.prepared.clear()
            return Step(number, "reset")
        if not model.autocommit and kind < 9:
            model.autocommit = True
            return Step(number, "query", "SET autocommit = 1")
        model.in_transaction = False
        return Step(number, "query", rng.choice(("COMMIT", "ROLLBACK")))
    if may_hold and kind < 24:
        if kind < 17:
            model.in_transaction = True
            return Step(number, "query", rng.choice(("BEGIN", "START TRANSACTION", "START TRANSACTION READ ONLY")))
        if kind < 19:
            model.autocommit = False
            return Step(number, "query", rng.choice(("SET autocommit = 0", "SET @@autocommit = OFF")))
        if kind < 21 and model.in_transaction:
            return Step(number, "query", rng.choice(("SAVEPOINT a", "ROLLBACK TO a", "RELEASE SAVEPOINT a")))
        model.pinned = True
        return Step(number, "query", fill(rng.choice(PINNING)))
    if model.pinned and kind < 40:
        return Step(number, "query", fill(rng.choice(WHILE_PINNED)))
    if kind < 52:
        name, values = rng.choice(VARIABLES)
        form = rng.choice(("SET {}", "SET SESSION {}", "SET @@session.{}", "SET @@{}", "SET @@local.{}", "SET `{}`"))
        return Step(number, "query", f"{form.format(name)} = {rng.choice(values)}")
    if kind < 62:
        text = fill(rng.choice(PREPARED))
        # MySQL converts a bare parameter to the type it had first, and a statement prepared again has no first.
        values_ = (rng.choice(("x", "yy", "zzz" if "SELECT ?" in text else 7)), rng.choice((1, 2, None)))
        types = True
        if model.prepared.get(text) and rng.random() < 0.4:
            values_, types = ("same", 3), False
            return Step(number, "execute", text, values_, types)
        model.prepared[text] = values_[0] != 7 and values_[1] is not None
        return Step(number, "execute", text, values_, types)
    if kind < 66:
        return Step(number, "binary", fill(rng.choice(BINARY)))
    if kind < 70:
        return Step(number, rng.choice(("ping", "field_list", "init_db", "close")), rng.choice((DATABASE, OTHER)))
    if kind < 71 and not model.holds:
        model.prepared.clear()
        return Step(number, "reset")
    return Step(number, "query", fill(rng.choice(ORDINARY)))


class Session:
    """A connection that runs steps."""

    def __init__(self, target: Target, deprecate_eof: bool) -> None:
        self.raw = Raw(target, *ACCOUNT, DATABASE, deprecate_eof=deprecate_eof)
        self.statements: dict[str, Statement] = {}

    def run(self, step: Step) -> list[object]:
        raw = self.raw
        if step.what == "query":
            return [_outcome(result) for result in raw.queries(step.text)]
        if step.what == "execute":
            if step.text not in self.statements:
                try:
                    self.statements[step.text] = raw.prepare(step.text)
                except ServerError as exc:
                    return [exc.err]
            return [_outcome(raw.execute(self.statements[step.text], *step.values, types=step.types))]
        if step.what == "binary":
            try:
                statement = raw.prepare(step.text)
            except ServerError as exc:
                return [exc.err]
            outcome = _outcome(raw.execute(statement))
            raw.close_statement(statement)
            return [outcome]
        if step.what == "ping":
            return [raw.ping().status & _ABOUT_THE_SESSION]
        if step.what == "init_db":
            return [_outcome(raw.init_db(step.text))[:4]]  # its warnings are the previous statement's, on MySQL
        if step.what == "field_list":
            result = raw.field_list("shared")
            return [result.names, result.code]
        if step.what == "close":
            if self.statements:
                raw.close_statement(self.statements.popitem()[1])
            return []
        self.statements.clear()
        return [_outcome(raw.reset())]


def _outcome(result: Result) -> tuple[object, ...]:
    return (
        result.rows,
        result.names,
        result.error,
        result.status & ~_SESSION_STATE_CHANGED,
        result.warnings,
        result.affected,
        result.insert_id,
        result.info,
    )


TABLES = (
    "CREATE OR REPLACE VIEW nothing AS SELECT 1",
    "DROP TABLE IF EXISTS shared, s0, s1, s2",
    "CREATE TABLE shared (id INT PRIMARY KEY, v VARCHAR(20)) CHARSET utf8mb4",
    "INSERT INTO shared VALUES (1, 'x1'), (2, 'y2'), (3, 'x3'), (4, NULL)",
    *(
        f"CREATE TABLE s{n} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20), u INT UNIQUE) CHARSET utf8mb4"
        for n in range(SESSIONS)
    ),
)


@pytest.fixture(scope="module")
def world(server: Server) -> Iterator[Server]:
    """The server, with the account and the procedure."""
    server.execute(
        f"CREATE DATABASE {DATABASE}",
        f"CREATE DATABASE {OTHER}",
        f"CREATE USER {ACCOUNT[0]}@'%' IDENTIFIED BY '{ACCOUNT[1]}'",
        f"GRANT ALL ON {DATABASE}.* TO {ACCOUNT[0]}@'%'",
        f"GRANT ALL ON {OTHER}.* TO {ACCOUNT[0]}@'%'",
        *(
            f"CREATE PROCEDURE {name}.twice(i INT, OUT o INT) BEGIN SELECT i; SET o = 2 * i; END"
            for name in (DATABASE, OTHER)
        ),
    )
    yield server
    server.execute(f"DROP DATABASE {DATABASE}", f"DROP DATABASE {OTHER}", f"DROP USER {ACCOUNT[0]}@'%'")


def fresh_tables(server: Server) -> None:
    server.execute(*(statement for name in (DATABASE, OTHER) for statement in (f"USE {name}", *TABLES)))


def play(target: Target, steps: list[Step], deprecate_eof: bool) -> list[list[object]]:
    sessions = [Session(target, deprecate_eof) for _ in range(SESSIONS)]
    try:
        return [sessions[step.session].run(step) for step in steps]
    finally:
        for session in sessions:
            session.raw.quit()


@pytest.mark.parametrize("cap", [1, 2])
@pytest.mark.parametrize("deprecate_eof", [True, False], ids=["deprecate_eof", "eof"])
@pytest.mark.parametrize("seed", [1, 23, 25, 31])
def test_sessions_through_the_pooler_are_the_same_as_direct_ones(
    world: Server, shared_proxy: Shared, seed: int, deprecate_eof: bool, cap: int
) -> None:
    proxy = shared_proxy(world, max_connections=cap, queue__timeout="2s")
    steps = list(script(seed * 100 + cap * 10 + deprecate_eof, cap - 1))
    fresh_tables(world)
    direct = play(world, steps, deprecate_eof)
    fresh_tables(world)
    pooled = play(proxy, steps, deprecate_eof)
    for i, (step, expected, got) in enumerate(zip(steps, direct, pooled, strict=True)):
        before = "\n".join(f"  {j} {one}" for j, one in enumerate(steps[:i]) if one.session == step.session)[-1500:]
        assert got == expected, f"step {i}, {step}\nbefore it:\n{before}"
