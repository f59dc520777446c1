"""Prepared statements, cursors and long data: through the pooler as on the server itself."""

from __future__ import annotations

import struct

import pytest

from proxy.wire import constants as c
from tests.live.raw import READ_ONLY_CURSOR, Raw, ServerError, Statement, execute_long_payload, execute_payload
from tests.live.transcripts import Both, Witness, both_dialects

LAST_PREPARED = 0xFFFFFFFF


def number(ident: int) -> bytes:
    return struct.pack("<I", ident)


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
def test_prepare_describes_parameters_and_columns(both: Both, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        for text in PREPARED:
            statement = _prepare(client, text)
            if statement is not None and len(text) < 10:
                client.execute(statement, *("a",) * statement.params)

    both.compare(scenario, deprecate_eof=deprecate_eof)


@both_dialects
def test_execute_takes_types_once_and_nulls_always(both: Both, deprecate_eof: bool) -> None:
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

    both.compare(scenario, deprecate_eof=deprecate_eof)


def test_a_command_about_a_statement_that_is_not_there_says_so(both: Both) -> None:
    def scenario(client: Witness) -> None:
        for ident in (77777, 0, LAST_PREPARED):
            for payload in (b"\x17%s\0\1\0\0\0", b"\x1a%s", b"\x1c%s\1\0\0\0"):
                assert client.command(payload % number(ident))[0].code == 1243
            for silent in (b"\x18%s\0\0abc", b"\x19%s"):
                client.send(silent % number(ident))

    both.compare(scenario)


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
def test_a_command_that_is_too_short_is_malformed_and_the_next_one_is_not(both: Both, command: int, size: int) -> None:
    if both.server.flavour == "mariadb" and command != c.COM_STMT_EXECUTE:
        pytest.skip("MariaDB takes what the last command has left in its buffer for the rest")

    def scenario(client: Witness) -> None:
        statement = client.prepare("SELECT ? + ?")
        body = number(statement.ident) + bytes.fromhex("000100000000010800")
        assert client.command(bytes((command,)) + body[:size])[0].code in (1835, 1210)

    both.compare(scenario)


def test_the_statement_prepared_last_has_a_number_of_its_own_on_mariadb(both: Both) -> None:
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

    both.compare(scenario)


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
    client.init_db(Both.OTHER)
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
def test_a_cursor_is_read_as_on_the_server(both: Both, name: str, deprecate_eof: bool) -> None:
    both.compare(CURSORS[name], deprecate_eof=deprecate_eof)


def test_an_open_cursor_holds_its_backend_and_its_end_gives_it_back(both: Both) -> None:
    pinned = 'mybouncer_pinned_sessions{reason="cursor"}'
    with both.connect(both.pooler) as client:
        statement, columns = _open(client, NUMBERS)
        for end in (
            lambda: client.fetch(statement, 9, columns),
            lambda: client.reset_statement(statement),
            lambda: client.execute(statement),
            lambda: (client.fetch(statement, 1, columns), client.reset()),
        ):
            client.execute(statement, cursor=READ_ONLY_CURSOR)
            client.get("SELECT 1")
            assert both.pooler.metrics()[pinned] == 1
            end()
            assert both.pooler.metrics()[pinned] == 0


# --- long data ---


@both_dialects
def test_long_data_replaces_a_parameter_and_its_errors_stay(both: Both, deprecate_eof: bool) -> None:
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

    both.compare(scenario, deprecate_eof=deprecate_eof)


def test_long_data_of_any_size_arrives_and_beyond_max_allowed_packet_it_does_not(both: Both) -> None:
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

    both.compare(scenario)
