"""Every command of the protocol, answered through the pooler as by the server itself, or refused in words.

A scenario runs once on a connection to the server and once through the pooler, for both servers and for clients with
and without DEPRECATE_EOF, and every packet has to be the same. What is refused on purpose stands in REFUSED.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import Err, parse_err
from tests.conftest import Proxy
from tests.live.raw import READ_ONLY_CURSOR, Raw, ServerError, Statement, execute_long_payload, execute_payload
from tests.live.transcripts import Scenario, Witness, same
from tests.servers import Server

DATABASE = "commands"
OTHER = "commands_two"
ACCOUNT = ("commands", "commands-secret")

SCHEMA = (
    f"CREATE DATABASE {DATABASE}",
    f"CREATE DATABASE {OTHER}",
    f"CREATE USER {ACCOUNT[0]}@'%' IDENTIFIED BY '{ACCOUNT[1]}'",
    f"GRANT ALL ON *.* TO {ACCOUNT[0]}@'%'",
    f"USE {DATABASE}",
    "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20)) ENGINE=InnoDB",
    "INSERT INTO t VALUES (1, 'one'), (2, NULL), (3, 'three')",
    "CREATE PROCEDURE rows_and_out(IN i INT, OUT o INT, INOUT io INT) "
    "BEGIN SELECT i AS a, i + 1 AS b; SET o = i * 2; SET io = io + i; SELECT 'last'; END",
    "CREATE PROCEDURE only_out(OUT o INT, OUT p VARCHAR(20)) BEGIN SET o = 42; SET p = 'text'; END",
    "CREATE PROCEDURE one_row_and_more() "
    "BEGIN SELECT 1; SELECT id FROM t ORDER BY id; SELECT 1 FROM t WHERE id < 0; END",
    "CREATE PROCEDURE fails() BEGIN SELECT 1; SELECT * FROM nowhere; END",
)

LAST_PREPARED = 0xFFFFFFFF

Shared = Callable[..., Proxy]


@pytest.fixture(scope="module")
def world(server: Server) -> Iterator[Server]:
    """The server, with the tables and programs of this module."""
    server.execute(*SCHEMA)
    yield server
    server.execute(f"DROP DATABASE {DATABASE}", f"DROP DATABASE {OTHER}", f"DROP USER {ACCOUNT[0]}@'%'")


@pytest.fixture
def pooler(world: Server, shared_proxy: Shared) -> Proxy:
    """A pooler with room."""
    return shared_proxy(world, max_connections=3)


both_dialects = pytest.mark.parametrize("deprecate_eof", [True, False], ids=["deprecate_eof", "eof"])


def compare(server: Server, pooler: Proxy, scenario: Scenario, **options: Any) -> None:
    same(server, pooler, scenario, user=ACCOUNT[0], password=ACCOUNT[1], database=DATABASE, **options)
    pooler.wait_for_metric('mybouncer_backends{state="leased"}', 0)


def connect(target: Server | Proxy, **options: Any) -> Raw:
    return Raw(target, *ACCOUNT, DATABASE, timeout=10.0, **options)


def number(ident: int) -> bytes:
    return struct.pack("<I", ident)


# --- one command, whatever it is ---

KNOWN = {
    *range(c.COM_QUIT, c.COM_FIELD_LIST + 1),
    *(value for name, value in vars(c).items() if name.startswith("COM_") and isinstance(value, int)),
}
UNKNOWN = [byte for byte in (*range(0x25), *range(0xFA, 0x100)) if byte not in KNOWN or byte == c.COM_SLEEP]


@both_dialects
def test_what_is_no_command_is_unknown_as_to_the_server(world: Server, pooler: Proxy, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        for payload in (b"", *(bytes((byte,)) + extra for byte in UNKNOWN for extra in (b"", b"abcdefgh"))):
            assert client.command(payload)[0].code == 1047
            client.note(payload)

    assert len(UNKNOWN) > 12
    compare(world, pooler, scenario, deprecate_eof=deprecate_eof)


REPLICATION = "replication does not go through a pooler: connect to the server"
REFUSED = {
    (c.COM_SHUTDOWN, "mariadb"): "COM_SHUTDOWN is not passed on: stop the server itself, or mybouncer with SIGTERM",
    (c.COM_BINLOG_DUMP, "mariadb"): REPLICATION,
    (c.COM_REGISTER_SLAVE, "mariadb"): REPLICATION,
    (c.COM_BINLOG_DUMP, "mysql"): REPLICATION,
    (c.COM_REGISTER_SLAVE, "mysql"): REPLICATION,
    (c.COM_BINLOG_DUMP_GTID, "mysql"): REPLICATION,
    (c.COM_SUBSCRIBE_GROUP_REPLICATION_STREAM, "mysql"): REPLICATION,
    (c.COM_CLONE, "mysql"): "cloning does not go through a pooler: connect to the server",
}


@pytest.mark.parametrize("command", sorted({command for command, _ in REFUSED}), ids=hex)
def test_what_is_not_passed_on_is_refused_in_words(world: Server, pooler: Proxy, command: int) -> None:
    words = REFUSED.get((command, world.flavour))
    payload = bytes((command,)) + bytes(10)
    if words is None:  # it does not exist on this server
        compare(world, pooler, lambda client: client.command(payload))
        return
    with connect(pooler) as client:
        assert client.command(payload)[0].error == Err(1235, b"42000", words.encode())
        assert client.get("SELECT 1") == b"1"


ONE_BY_ONE: dict[str, tuple[bytes, ...]] = {
    "init_db": (
        b"\x02" + OTHER.encode(),
        b"\x02",
        b"\x02nosuch",
        b"\x03SELECT DATABASE()",
        b"\x02" + DATABASE.encode(),
    ),
    "query": (
        b"\x03SELECT 1, NULL, 'a'",
        b"\x03SELECT * FROM t",
        b"\x03SELECT * FROM t WHERE id < 0",
        b"\x03UPDATE t SET v = v",
        b"\x03SELECT CAST('x' AS SIGNED)",
        b"\x03SELECT nosuch",
        b"\x03SELECT IF(id < 3, id, (SELECT id FROM t)) FROM t",  # an error behind two rows
        b"\x03-- nothing",
        b"\x03;",
        b"\x03  ",
        b"\x03",
    ),
    "transaction": (
        b"\x03BEGIN",
        b"\x03SELECT * FROM t FOR UPDATE",
        b"\x03nonsense",
        b"\x0e",
        b"\x03UPDATE t SET v = 'x' WHERE id = 1",
        b"\x03ROLLBACK",
        b"\x03SET autocommit = 0",
        b"\x03SELECT v FROM t WHERE id = 1",
        b"\x03COMMIT",
        b"\x03SET autocommit = 1",
    ),
    "refresh": tuple(bytes((c.COM_REFRESH, 1 << bit)) for bit in (0, 1, 2, 4)),
    "debug": (bytes((c.COM_DEBUG,)),),
    "reset_connection": (b"\x03SET @x = 1", b"\x03BEGIN", b"\x1f", b"\x03SELECT @x, DATABASE()", b"\x1f", b"\x1f"),
}


@both_dialects
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_plain_command_gives_what_the_server_gives(
    world: Server, pooler: Proxy, name: str, deprecate_eof: bool
) -> None:
    def scenario(client: Witness) -> None:
        for payload in ONE_BY_ONE[name]:
            client.ping() if payload == b"\x0e" else client.command(payload)

    compare(world, pooler, scenario, deprecate_eof=deprecate_eof)


@both_dialects
def test_field_list_has_no_count_and_one_end(world: Server, pooler: Proxy, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        for argument in (b"t\0", b"t\0%", b"t\0i%", b"nosuch\0", b"t", b"", b"a" * 300 + b"\0"):
            client.send(b"\x04" + argument)
            client.expect_answer()
            client.fields()

    compare(world, pooler, scenario, deprecate_eof=deprecate_eof)


@both_dialects
def test_statistics_and_processes_have_the_shapes_of_the_server(
    world: Server, pooler: Proxy, deprecate_eof: bool
) -> None:
    seen = []
    for target in (world, pooler):
        with connect(target, deprecate_eof=deprecate_eof) as client:
            words = [word for word in client.statistics().decode().replace(":", "").split() if word.isalpha()]
            processes = client.command(bytes((c.COM_PROCESS_INFO,)))[0]
            seen.append((words, processes.code, processes.columns, client.get("SELECT 1")))
    assert seen[0] == seen[1]
    assert seen[0][0][0] == "Uptime"


def test_bulk_execution_is_mariadbs(world: Server, pooler: Proxy) -> None:
    if world.flavour == "mariadb":
        pytest.skip("see test_bulk")
    compare(world, pooler, lambda client: client.command(b"\xfa\1\0\0\0\x80\0"))


# --- several results ---

MULTI = (
    "SELECT 1; SELECT 2; DO 0; UPDATE t SET v = v; SELECT 3",
    "SELECT 1; SELECT nosuch; SELECT 3",
    "SELECT IF(id < 3, id, (SELECT id FROM t)) FROM t; SELECT 2",
    "SELEC; SELECT 1",
    "SELECT 1; SELEC",
    "BEGIN; UPDATE t SET v = 'x' WHERE id = 1; SELECT v FROM t; ROLLBACK",
    "BEGIN; INSERT INTO t VALUES (99, 'a'); SELEC",
    "SELECT COUNT(*) FROM t; ROLLBACK; SELECT COUNT(*) FROM t",
    "SELECT 1;",
    "SELECT 1;;SELECT 2",
    "SELECT 1; -- nothing",
    f"USE {OTHER}; SELECT DATABASE(); USE {DATABASE}",
    "SET @x = 1; SELECT @x; SET @x = 2; SELECT @x",
    "CALL fails(); SELECT 1",
    "CALL one_row_and_more(); SELECT 1",
)


@both_dialects
@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_several_statements_give_several_results_or_an_error(
    world: Server, pooler: Proxy, deprecate_eof: bool, on: bool
) -> None:
    def scenario(client: Witness) -> None:
        for text in MULTI:
            client.queries(text)
        client.queries("ROLLBACK")

    without = 0 if on else c.CLIENT_MULTI_STATEMENTS
    compare(world, pooler, scenario, deprecate_eof=deprecate_eof, without=without)


@both_dialects
def test_the_option_of_multi_statements_is_switched(world: Server, pooler: Proxy, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        for value, more in ((1, b""), (0, b""), (2, b""), (1, b"abc"), (0, b"\0"), (1, b"\1")):
            client.set_option(value, more)
            client.queries("SELECT 1; SELECT 2")
            client.reset()
            client.queries("SELECT 1; SELECT 2")
        client.queries("SELECT 1; SELECT nosuch")
        client.set_option(0)
        client.queries("SELECT 1; SELECT 2")

    compare(world, pooler, scenario, deprecate_eof=deprecate_eof)


@both_dialects
def test_files_are_asked_for_among_several_results(world: Server, pooler: Proxy, deprecate_eof: bool) -> None:
    load = "LOAD DATA LOCAL INFILE 'x' INTO TABLE"

    def scenario(client: Witness) -> None:
        client.ok("CREATE TEMPORARY TABLE loaded (a INT, b TEXT)")
        client.file = (b"1\ta\n2\tb\n",)
        client.queries(f"{load} loaded")
        client.file = (b"3\t", b"c\n4", b"\td\n")
        client.queries(f"SELECT 1; {load} loaded; SELECT COUNT(*) FROM loaded; {load} loaded; SELECT 2")
        client.file = ()
        client.queries(f"{load} loaded")
        client.file = (b"x\ty\n",)
        client.queries(f"{load} loaded")
        client.queries("SHOW WARNINGS")
        client.queries(f"{load} nowhere; SELECT 2")
        client.queries(f"SELECT 1; {load} nowhere; SELECT 2")
        client.file = (b"7\tx\n",) * 300  # sequence ids run over
        client.queries(f"SELECT 1; {load} loaded; SELECT COUNT(*) FROM loaded")
        client.file = (b"50\ta\n",)
        client.queries(f"BEGIN; SELECT 1; {load} t; SELECT * FROM t; SELEC")
        client.queries("ROLLBACK")
        client.file = (b"1\ta\n",)
        client.queries(f"{load} t")

    compare(world, pooler, scenario, deprecate_eof=deprecate_eof)


NO_FILES = {
    "a command instead of a file": frame(b"\x03SELECT 1", 0),
    "a command behind half a file": frame(b"1\ta\n", 2) + frame(b"\x03SELECT 1", 0),
    "a gap in the numbers": frame(b"1\ta\n", 2) + frame(b"2\tb\n", 9) + frame(b"", 10),
}


@pytest.mark.parametrize("what", NO_FILES)
def test_a_file_that_is_broken_off_gives_the_servers_error_and_ends_the_connection(
    world: Server, pooler: Proxy, what: str
) -> None:
    seen = []
    for target in (world, pooler):
        with connect(target) as client:
            client.ok("CREATE TEMPORARY TABLE loaded (a INT, b TEXT)")
            client.send_query("LOAD DATA LOCAL INFILE 'x' INTO TABLE loaded")
            client.expect_answer()
            assert client.read_packet() == b"\xfbx"
            client.sock.sendall(NO_FILES[what])
            client.next_seq = 2 + what.startswith("a command behind") + what.startswith("a gap")
            seen.append(parse_err(client.read_packet()))
            with pytest.raises((EOFError, ConnectionResetError)):
                while True:  # the server says it again of what it reads next
                    client.next_seq = 0
                    assert parse_err(client.read_packet()) == seen[0]
    assert seen[0] == seen[1]
    assert seen[0].code == 1156
    pooler.wait_for_metric('mybouncer_backends{state="closing"}', 0)


@both_dialects
def test_without_local_files_the_server_says_no(world: Server, pooler: Proxy, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        assert client.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t").code in (3948, 4166)

    compare(world, pooler, scenario, deprecate_eof=deprecate_eof, without=c.CLIENT_LOCAL_FILES)


# --- procedures ---

CALLS = (
    "SET @io = 5",
    "CALL rows_and_out(3, @o, @io)",
    "SELECT @o, @io",
    "CALL only_out(@o, @p)",
    "SELECT @o, @p",
    "CALL one_row_and_more()",
    "CALL fails()",
    "CALL nosuch()",
)


@both_dialects
@pytest.mark.parametrize("without", [0, c.CLIENT_MULTI_RESULTS], ids=["multi_results", "single"])
def test_a_call_gives_its_results_and_sets_variables(
    world: Server, pooler: Proxy, deprecate_eof: bool, without: int
) -> None:
    def scenario(client: Witness) -> None:
        for text in CALLS:
            client.queries(text)

    without |= c.CLIENT_MULTI_STATEMENTS | c.CLIENT_PS_MULTI_RESULTS if without else 0
    compare(world, pooler, scenario, deprecate_eof=deprecate_eof, without=without)


@both_dialects
@pytest.mark.parametrize("without", [0, c.CLIENT_PS_MULTI_RESULTS], ids=["ps_multi_results", "single"])
def test_out_parameters_come_as_a_row_to_those_who_can_have_several_results(
    world: Server, pooler: Proxy, deprecate_eof: bool, without: int
) -> None:
    def scenario(client: Witness) -> None:
        both = client.prepare("CALL rows_and_out(?, ?, ?)")
        client.call(execute_payload(both, (3, None, 4)))
        client.call(execute_payload(both, (5, None, 4), types=False))
        client.call(execute_payload(client.prepare("CALL only_out(?, ?)"), (1, "x")))
        client.call(execute_payload(client.prepare("CALL one_row_and_more()"), ()))
        client.call(execute_payload(client.prepare("CALL fails()"), ()))

    compare(world, pooler, scenario, deprecate_eof=deprecate_eof, without=without)


# --- prepared statements ---

PREPARED = (
    "DO 0",
    "SELECT 1",
    "SELECT ?",
    "UPDATE t SET v = ? WHERE id < 0",
    "SELECT * FROM t WHERE id = ? OR v = ?",
    "SELECT " + ", ".join("?" * 300),
    "SELEC",
    "SELECT * FROM nowhere",
    "SELECT 1; SELECT 2",
    "SET @a = ?",
    "BEGIN",
    "USE test",
    "SHOW WARNINGS",
    "LOCK TABLES t READ",
    "PREPARE s FROM 'SELECT 1'",
    "CALL only_out(?, ?)",
    "-- nothing",
    "",
)


def _prepare(client: Raw, text: str) -> Statement | None:
    try:
        return client.prepare(text)
    except ServerError:
        return None


@both_dialects
def test_prepare_describes_parameters_and_columns(world: Server, pooler: Proxy, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        for text in PREPARED:
            statement = _prepare(client, text)
            if statement is not None and len(text) < 10:
                client.execute(statement, *("a",) * statement.params)

    compare(world, pooler, scenario, deprecate_eof=deprecate_eof)


@both_dialects
def test_execute_takes_types_once_and_nulls_always(world: Server, pooler: Proxy, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        statement = client.prepare("SELECT ?, ? FROM t WHERE id <= ?")
        client.execute(statement, "a", 5, 2)
        client.execute(statement, "b", 6, 1, types=False)
        client.execute(statement, None, None, 3)
        client.execute(statement, "c", 7, 0)
        client.execute(client.prepare("SELECT IF(id < 3, id, (SELECT id FROM t)) FROM t"))
        client.execute(client.prepare("INSERT INTO t VALUES (?, ?)"), 1, "again")
        client.close_statement(statement)
        client.execute(statement, "a", 5, 2)

    compare(world, pooler, scenario, deprecate_eof=deprecate_eof)


def test_a_command_about_a_statement_that_is_not_there_says_so(world: Server, pooler: Proxy) -> None:
    def scenario(client: Witness) -> None:
        for ident in (77777, 0, LAST_PREPARED):
            for payload in (b"\x17%s\0\1\0\0\0", b"\x1a%s", b"\x1c%s\1\0\0\0"):
                assert client.command(payload % number(ident))[0].code == 1243
            for silent in (b"\x18%s\0\0abc", b"\x19%s"):
                client.send(silent % number(ident))

    compare(world, pooler, scenario)


SHORT = [
    *((c.COM_STMT_EXECUTE, size) for size in (0, 3, 4, 5, 8, 9, 10, 11, 12, 14)),
    *((c.COM_STMT_RESET, size) for size in (0, 3)),
    *((c.COM_STMT_FETCH, size) for size in (0, 3, 4, 7)),
    *((c.COM_STMT_SEND_LONG_DATA, size) for size in (0, 3, 4, 5)),
    *((c.COM_STMT_CLOSE, size) for size in (0, 3)),
    (c.COM_SET_OPTION, 0),
    (c.COM_SET_OPTION, 1),
]


@pytest.mark.parametrize(("command", "size"), SHORT)
def test_a_command_that_is_too_short_is_malformed_and_the_next_one_is_not(
    world: Server, pooler: Proxy, command: int, size: int
) -> None:
    if world.flavour == "mariadb" and command != c.COM_STMT_EXECUTE:
        pytest.skip("MariaDB takes what the last command has left in its buffer for the rest")

    def scenario(client: Witness) -> None:
        statement = client.prepare("SELECT ? + ?")
        body = number(statement.ident) + bytes.fromhex("000100000000010800")
        assert client.command(bytes((command,)) + body[:size])[0].code in (1835, 1210)

    compare(world, pooler, scenario)


def test_the_statement_prepared_last_has_a_number_of_its_own_on_mariadb(world: Server, pooler: Proxy) -> None:
    def execute(client: Witness, parameters: bytes = b"") -> None:
        client.send(b"\x17" + number(LAST_PREPARED) + b"\0\1\0\0\0" + parameters)
        client.expect_answer()
        client.results(binary=True)

    def scenario(client: Witness) -> None:
        execute(client)
        client.prepare("SELECT 1")
        execute(client)
        _prepare(client, "SELEC")
        execute(client)
        first, second = client.prepare("SELECT 2"), client.prepare("SELECT 3")
        execute(client)
        client.close_statement(second)
        execute(client)
        client.prepare("SELECT 4")
        client.close_statement(first)
        execute(client)
        client.reset()
        execute(client)
        client.prepare("SELECT LENGTH(?)")
        client.send(b"\x18" + number(LAST_PREPARED) + b"\0\0abc")
        execute(client, b"\0\1\xfd\0")
        client.query("PREPARE s FROM 'SELECT 1'")
        client.send(b"\x19" + number(LAST_PREPARED))
        execute(client, b"\0\1\xfd\0")
        client.pipeline(b"\x16SELECT 5", b"\x17" + number(LAST_PREPARED) + b"\0\1\0\0\0")
        client.expect_answer()
        client.prepared()
        client.expect_answer()
        client.results(binary=True)

    compare(world, pooler, scenario)


# --- cursors ---


def _open(client: Raw, text: str, *values: int) -> tuple[Statement, list[bytes]]:
    statement = client.prepare(text)
    return statement, client.execute(statement, *values, cursor=READ_ONLY_CURSOR).columns


NUMBERS = "SELECT id FROM t ORDER BY id"


def _read_to_the_end(client: Witness) -> None:
    statement, columns = _open(client, NUMBERS)
    for count in (1, 0, 1, 1, 1):
        client.fetch(statement, count, columns)
    client.execute(statement, cursor=READ_ONLY_CURSOR)
    client.fetch(statement, 10, columns)
    client.fetch(statement, 1, columns)


def _other_commands_in_between(client: Witness) -> None:
    statement, columns = _open(client, NUMBERS)
    client.fetch(statement, 1, columns)
    client.query("SELECT 5")
    client.ping()
    client.query("SELECT nosuch")
    client.init_db(OTHER)
    other = client.prepare("SELECT 6")
    client.fetch(statement, 1, columns)
    client.close_statement(other)
    client.fetch(statement, 1, columns)
    client.fetch(statement, 1, columns)


def _over_the_end_of_a_transaction(client: Witness) -> None:
    client.ok("START TRANSACTION")
    statement, columns = _open(client, NUMBERS)
    client.fetch(statement, 1, columns)
    client.ok("COMMIT")
    client.fetch(statement, 1, columns)
    client.ok("ROLLBACK")
    client.fetch(statement, 5, columns)


def _two_at_once(client: Witness) -> None:
    first, columns = _open(client, NUMBERS)
    second, others = _open(client, "SELECT v FROM t WHERE id > ? ORDER BY id", 1)
    client.fetch(first, 1, columns)
    client.fetch(second, 1, others)
    client.fetch(second, 5, others)
    client.fetch(first, 5, columns)


def _ended_by_reset_and_close(client: Witness) -> None:
    statement, columns = _open(client, NUMBERS)
    client.fetch(statement, 1, columns)
    client.reset_statement(statement)
    client.fetch(statement, 1, columns)
    client.execute(statement, cursor=READ_ONLY_CURSOR)
    client.execute(statement, cursor=READ_ONLY_CURSOR)
    client.fetch(statement, 1, columns)
    client.close_statement(statement)
    client.fetch(statement, 1, columns)
    statement, columns = _open(client, NUMBERS)
    client.reset()
    client.fetch(statement, 1, columns)


def _where_there_is_none(client: Witness) -> None:
    # Not EXPLAIN: MySQL 9.7 dies of it.
    for text in (
        "UPDATE t SET v = v",
        "SHOW TABLES",
        "SELECT 1 FROM t WHERE id < 0",
        "DO 1",
        "CALL one_row_and_more()",
    ):
        statement = client.prepare(text)
        client.send(execute_payload(statement, (), cursor=READ_ONLY_CURSOR))
        client.expect_answer()
        last = client.results(binary=True)[-1]
        if last.status & c.SERVER_STATUS_CURSOR_EXISTS:
            client.fetch(statement, 5, last.columns)


CURSORS = {
    function.__name__.strip("_"): function
    for function in (
        _read_to_the_end,
        _other_commands_in_between,
        _over_the_end_of_a_transaction,
        _two_at_once,
        _ended_by_reset_and_close,
        _where_there_is_none,
    )
}


@both_dialects
@pytest.mark.parametrize("name", CURSORS)
def test_a_cursor_is_read_as_on_the_server(world: Server, pooler: Proxy, name: str, deprecate_eof: bool) -> None:
    compare(world, pooler, CURSORS[name], deprecate_eof=deprecate_eof)


def test_an_open_cursor_holds_its_backend_and_its_end_gives_it_back(world: Server, pooler: Proxy) -> None:
    pinned = 'mybouncer_pinned_sessions{reason="cursor"}'
    with connect(pooler) as client:
        statement, columns = _open(client, NUMBERS)
        for end in (
            lambda: client.fetch(statement, 9, columns),
            lambda: client.reset_statement(statement),
            lambda: client.execute(statement),
            lambda: (client.fetch(statement, 1, columns), client.reset()),
        ):
            client.execute(statement, cursor=READ_ONLY_CURSOR)
            client.get("SELECT 1")
            assert pooler.metrics()[pinned] == 1
            end()
            assert pooler.metrics()[pinned] == 0


# --- long data ---


@both_dialects
def test_long_data_replaces_a_parameter_and_its_errors_stay(world: Server, pooler: Proxy, deprecate_eof: bool) -> None:
    def execute(client: Witness, statement: Statement, parameters: bytes) -> int:
        client.send(b"\x17" + number(statement.ident) + b"\0\1\0\0\0" + parameters)
        client.expect_answer()
        return client.results(binary=True)[-1].code

    def scenario(client: Witness) -> None:
        types = b"\1\xfd\0\xfd\0"
        statement = client.prepare("SELECT LENGTH(?), LENGTH(?)")
        for parameter, data in ((0, b"abc"), (1, b"x" * 70_000), (0, b"def")):
            client.long_data(statement, parameter, data)
        execute(client, statement, b"\0" + types)
        client.long_data(statement, 0, b"abc")
        client.query("SELECT 1")
        client.ping()
        execute(client, statement, b"\0" + types + b"\x02zz")
        client.long_data(statement, 0, b"abc")
        execute(client, statement, b"\0\0\x02zz")
        client.long_data(statement, 0, b"")
        execute(client, statement, b"\0" + types + b"\x01y")
        client.long_data(statement, 0, b"forgotten")
        client.reset_statement(statement)
        execute(client, statement, b"\0" + types + b"\x01y\x01y")
        client.long_data(statement, 0, b"q")
        execute(client, statement, b"\1" + types + b"\x01y")  # and NULL
        client.long_data(statement, 7, b"there is no such parameter")
        for _ in range(2):
            assert execute(client, statement, b"\0" + types + b"\x02zz\x01y") == 1210
        client.long_data(statement, 0, b"more")
        assert execute(client, statement, b"\0" + types + b"\x02zz\x01y") == 1210
        client.reset_statement(statement)
        assert execute(client, statement, b"\0" + types + b"\x02zz\x01y") == 0

    compare(world, pooler, scenario, deprecate_eof=deprecate_eof)


def test_long_data_of_any_size_arrives_and_beyond_max_allowed_packet_it_does_not(world: Server, pooler: Proxy) -> None:
    def scenario(client: Witness) -> None:
        statement = client.prepare("SELECT LENGTH(?)")
        for size, times in ((65_536, 3), (1 << 20, 3), (0xFFFFFF - 7, 1), (0xFFFFFF - 6, 1), (17 << 20, 1)):
            for _ in range(times):
                client.long_data(statement, 0, b"z" * size)
            client.send(execute_long_payload(statement))
            client.expect_answer()
            assert client.results(binary=True)[-1].rows == [[size * times]]
        for _ in range(5):
            client.long_data(statement, 0, b"z" * (15 << 20))
        for _ in range(2):
            client.send(execute_long_payload(statement))
            client.expect_answer()
            assert client.results(binary=True)[-1].code == 1105
        client.reset_statement(statement)
        assert client.execute(statement, "abc").rows == [[3]]

    compare(world, pooler, scenario)


# --- the end of a session on the same connection ---


def test_change_user_is_a_login_and_takes_nothing_along(world: Server, pooler: Proxy) -> None:
    def scenario(client: Witness) -> None:
        client.ok("SET @x = 1, time_zone = '+05:00'")
        client.ok("BEGIN")
        statement = client.prepare("SELECT 1")
        client.seen.clear()
        assert client.change_user("app", "app-secret", "test").error is None
        client.seen.clear()  # the exchange of the login is ours
        client.query("SELECT @x, DATABASE(), CURRENT_USER(), @@time_zone = @@global.time_zone")
        client.execute(statement)
        client.ping()

    compare(world, pooler, scenario)


def test_a_failed_change_user_ends_the_connection(world: Server, pooler: Proxy) -> None:
    with connect(pooler) as client:
        client.ok("BEGIN")
        refused = client.change_user("app", "wrong").error
        assert refused is not None
        assert (refused.code, refused.state) == (1045, b"28000")
        assert client.at_end()
    with connect(pooler) as client:
        client.send(b"\x11without an end")
        client.expect_answer()
        assert parse_err(client.read_packet()).code == 1835
        assert client.at_end()
    pooler.wait_for_metric('mybouncer_backends{state="leased"}', 0)
