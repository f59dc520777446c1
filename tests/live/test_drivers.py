"""What applications do through their drivers gives the same through the proxy as on the server itself.

Where a driver can be asked directly, it is: the same steps run once on the server and once through the proxy, and what
they saw has to be equal. The rest is about two clients that take turns on one connection (a cap of 1).
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mysql.connector
import pymysql
import pytest
from pymysql.constants import COMMAND

from tests.clients.clients import Account, Target, cli_command, run_cli
from tests.clients.drivers import DRIVERS, Driver
from tests.conftest import Proxy
from tests.servers import Server

Proxies = Callable[..., Proxy]
Connection = Any

MULTI_STATEMENTS = 1 << 16

every_driver = pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS.keys())

TYPES = """CREATE TABLE drivers_types (
    id INT PRIMARY KEY, tiny TINYINT, tinyu TINYINT UNSIGNED, small SMALLINT, medium MEDIUMINT, big BIGINT,
    bigu BIGINT UNSIGNED, bits BIT(12), price DECIMAL(30,10), f FLOAT, d DOUBLE, yr YEAR, day DATE, at DATETIME(6),
    stamp TIMESTAMP(3) NULL, span TIME(6), short CHAR(10), word VARCHAR(200), raw VARBINARY(200), body TEXT,
    bin LONGBLOB, one ENUM('a','b','ü'), many SET('x','y','z'), doc JSON, place POINT
) CHARACTER SET utf8mb4"""

TYPES_ROWS = (
    """INSERT INTO drivers_types VALUES (1, -128, 255, -32768, -8388608, -9223372036854775808, 18446744073709551615,
    b'101010101010', '12345678901234567890.0123456789', 1.5, -2.25e-300, 2024, '2024-02-29',
    '1999-12-31 23:59:59.999999', '2001-02-03 04:05:06.789', '-838:59:58.999999', 'a  b', '日本語 ü 😀',
    0x00ff27225c0a, REPEAT('text ', 60), REPEAT(0x00fffe, 30000), 'ü', 'x,z', '{"k": [1, null, "ü"]}', POINT(1, -2))""",
    "INSERT INTO drivers_types (id) VALUES (2)",
    "INSERT INTO drivers_types (id, word, raw, body, bin, many) VALUES (3, '', '', '', '', '')",
)


@pytest.fixture(scope="module", autouse=True)
def data(server: Server) -> Iterator[None]:
    """Tables and procedures that the tests of this module only read."""
    rows = ", ".join(f"({i}, 'row {i}')" for i in range(1, 601))
    server.execute(
        "USE test",
        "SET NAMES utf8mb4",
        TYPES,
        *TYPES_ROWS,
        "CREATE TABLE drivers_rows (id INT PRIMARY KEY, v VARCHAR(20))",
        f"INSERT INTO drivers_rows VALUES {rows}",
        "CREATE PROCEDURE drivers_three() BEGIN SELECT 1 AS a; SELECT 2 AS b, 3 AS c; "
        "SELECT id FROM drivers_rows WHERE id < 4 ORDER BY id; END",
        "CREATE PROCEDURE drivers_fails() BEGIN SELECT 1 AS a; SELECT * FROM there_is_no_such_table; SELECT 2; END",
    )
    yield
    server.execute(
        "DROP TABLE test.drivers_types, test.drivers_rows",
        "DROP PROCEDURE test.drivers_three",
        "DROP PROCEDURE test.drivers_fails",
    )


@pytest.fixture
def table(server: Server) -> Iterator[str]:
    """An empty table of the test's own."""
    server.execute(
        "DROP TABLE IF EXISTS test.drivers_own",
        "CREATE TABLE test.drivers_own (id INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB)",
    )
    yield "drivers_own"
    server.execute("DROP TABLE IF EXISTS test.drivers_own")


@pytest.fixture(scope="module")
def wide(server: Server, module_proxy: Proxies) -> Proxy:
    """A proxy with room."""
    return module_proxy(server, max_connections=8)


@pytest.fixture(scope="module")
def narrow(server: Server, module_proxy: Proxies) -> Proxy:
    """A proxy with one connection, on which clients take turns."""
    return module_proxy(server, max_connections=1, queue__timeout="5s")


def _through(proxy: Proxy) -> Target:
    return Target(port=proxy.port)


def _query(connection: Connection, sql: str, *args: Any) -> list[tuple[Any, ...]]:
    """Executes one statement and gives its rows."""
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(sql, args or None)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


def _value(connection: Connection, sql: str, *args: Any) -> Any:
    return _query(connection, sql, *args)[0][0]


def _attempt(driver: Driver, action: Callable[[], Any]) -> Any:
    """What an action gives, or code and text of its error."""
    try:
        return action()
    except driver.errors as error:
        return driver.code_and_text(error)


def _same_as_directly(
    driver: Driver, server: Server, proxy: Proxy, observe: Callable[[Connection], Any], **options: Any
) -> Any:
    seen = []
    for target in (Target(port=server.port), _through(proxy)):
        with contextlib.closing(driver.connect(target, **options)) as connection:
            seen.append(observe(connection))
    assert seen[1] == seen[0]
    return seen[1]


@pytest.fixture
def pair(driver: Driver, narrow: Proxy) -> Iterator[tuple[Connection, Connection]]:
    """Two clients in autocommit mode that share the one connection; at the end neither is pinned."""
    first, second = (driver.connect(_through(narrow), autocommit=True) for _ in range(2))
    yield first, second
    assert _pinned(narrow) == {}
    first.close()
    second.close()


def _pinned(proxy: Proxy) -> dict[str, float]:
    prefix = "mybouncer_pinned_sessions"
    return {name: value for name, value in proxy.metrics().items() if name.startswith(prefix) and value}


# --- results ---


@every_driver
def test_values_of_all_types_arrive_as_they_are(driver: Driver, server: Server, wide: Proxy) -> None:
    def observe(connection: Connection) -> Any:
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute("SELECT * FROM drivers_types ORDER BY id")
            rows = cursor.fetchall()
            return [tuple(column[:2]) for column in cursor.description], [tuple(row) for row in rows]

    columns, rows = _same_as_directly(driver, server, wide, observe, charset="utf8mb4")
    assert (len(columns), len(rows)) == (25, 3)
    assert rows[1][1:] == (None,) * 24


@every_driver
def test_results_of_many_rows_are_complete_and_in_order(driver: Driver, wide: Proxy) -> None:
    # 600 packets: the sequence id wraps around twice.
    with contextlib.closing(driver.connect(_through(wide))) as connection:
        assert _query(connection, "SELECT id FROM drivers_rows ORDER BY id") == [(i,) for i in range(1, 601)]
        assert _query(connection, "SELECT id FROM drivers_rows WHERE id < 0") == []
        assert _value(connection, "SELECT %s", 'it\'s \\ "quoted" % ü') == 'it\'s \\ "quoted" % ü'


@every_driver
def test_values_beyond_16_mib_pass_in_both_directions(driver: Driver, wide: Proxy, table: str) -> None:
    big = "'\\\"%" + "x" * 17_000_000
    with contextlib.closing(driver.connect(_through(wide), autocommit=True)) as connection:
        _query(connection, f"INSERT INTO {table} (v) VALUES (%s)", big)
        assert _value(connection, f"SELECT LENGTH(v) FROM {table}") == len(big)
        assert _value(connection, f"SELECT v FROM {table}") == big.encode()
        # a row of exactly 2^24-1 bytes is followed by an empty packet
        assert len(_value(connection, "SELECT REPEAT('a', 16777211)")) == 16777211
        assert _value(connection, "SELECT 1") == 1
    assert wide.metrics()["mybouncer_read_ahead_bytes"] == 0


@every_driver
def test_errors_are_the_servers_own_and_the_connection_lives_on(driver: Driver, server: Server, wide: Proxy) -> None:
    statements = (
        "SELECT * FROM there_is_no_such_table",
        "THIS IS NOT SQL",
        "INSERT INTO drivers_rows VALUES (1, 'again')",
        "SELECT * FROM mysql.user",
        "USE there_is_no_such_schema",
        "SELECT IF(id < 3, id, (SELECT id FROM drivers_types)) FROM drivers_rows ORDER BY id",
    )

    def observe(connection: Connection) -> Any:
        seen = []
        for statement in statements:
            seen.append(_attempt(driver, lambda statement=statement: _query(connection, statement)))
            seen.append(_value(connection, "SELECT DATABASE()"))
        return seen

    seen = _same_as_directly(driver, server, wide, observe)
    assert [one[0] for one in seen[::2]] == [1146, 1064, 1062, 1142, 1044, 1242]


@every_driver
def test_an_error_in_the_middle_of_the_rows_comes_after_the_rows(driver: Driver, server: Server, wide: Proxy) -> None:
    def observe(connection: Connection) -> Any:
        cursor = driver.unbuffered(connection)
        rows: list[Any] = []

        def read() -> None:
            cursor.execute("SELECT IF(id < 3, id, (SELECT id FROM drivers_types)) FROM drivers_rows ORDER BY id")
            while (row := cursor.fetchone()) is not None:
                rows.append(tuple(row))

        error = _attempt(driver, read)
        with contextlib.suppress(*driver.errors):
            cursor.close()
        return len(rows), error

    rows, error = _same_as_directly(driver, server, wide, observe)
    assert error[0] == 1242, rows


@every_driver
def test_procedures_and_several_statements_give_several_results(driver: Driver, server: Server, wide: Proxy) -> None:
    def observe(connection: Connection) -> Any:
        seen = [
            driver.results(connection, "CALL drivers_three()"),
            driver.results(connection, "SELECT 1; DO 0; SELECT id FROM drivers_rows WHERE id < 3; SELECT 'last'"),
            _attempt(driver, lambda: driver.results(connection, "CALL drivers_fails()")),
        ]
        driver.settle(connection)
        seen.append(_attempt(driver, lambda: driver.results(connection, "SELECT 1; SELECT * FROM nowhere; SELECT 2")))
        driver.settle(connection)
        return [*seen, _value(connection, "SELECT 5")]

    three, several, call_fails, fails, last = _same_as_directly(driver, server, wide, observe, **driver.multi)
    assert three == [[(1,)], [(2, 3)], [(1,), (2,), (3,)]]
    assert several == [[(1,)], [(1,), (2,)], [("last",)]]
    assert (call_fails[0], fails[0], last) == (1146, 1146, 5)


def test_several_statements_are_an_error_for_a_client_that_did_not_ask_for_them(server: Server, wide: Proxy) -> None:
    driver = DRIVERS["pymysql"]

    def observe(connection: Connection) -> Any:
        return _attempt(driver, lambda: _query(connection, "SELECT 1; SELECT 2")), _value(connection, "SELECT 3")

    # One that may, and one that may not, take turns on the connections.
    with contextlib.closing(driver.connect(_through(wide), client_flag=MULTI_STATEMENTS)) as other:
        assert driver.results(other, "SELECT 1; SELECT 2") == [[(1,)], [(2,)]]
        (code, _), last = _same_as_directly(driver, server, wide, observe)
        assert (code, last) == (1064, 3)
        assert driver.results(other, "SELECT 1; SELECT 2") == [[(1,)], [(2,)]]


@every_driver
def test_a_cursor_that_is_read_slowly_does_not_hold_the_connection(
    driver: Driver, pair: tuple[Connection, Connection]
) -> None:
    slow, other = pair
    cursor = driver.unbuffered(slow)
    cursor.execute("SELECT id FROM drivers_rows ORDER BY id")
    assert tuple(cursor.fetchone()) == (1,)
    assert _value(other, "SELECT COUNT(*) FROM drivers_rows") == 600
    assert [tuple(row) for row in cursor.fetchall()] == [(i,) for i in range(2, 601)]
    cursor.close()
    assert _value(slow, "SELECT 7") == 7


# --- prepared statements ---


@pytest.fixture
def connectors(narrow: Proxy) -> Iterator[tuple[Connection, Connection]]:
    """Two connections of the driver that has binary prepared statements."""
    connector = DRIVERS["connector"]
    first, second = (connector.connect(_through(narrow), autocommit=True) for _ in range(2))
    yield first, second
    first.close()
    second.close()


def test_prepared_statements_give_all_types(server: Server, wide: Proxy) -> None:
    columns = server.execute("SHOW COLUMNS FROM test.drivers_types")
    wanted = ", ".join(name for name, *_ in columns if name != "yr")

    def observe(connection: Connection) -> Any:
        with contextlib.closing(connection.cursor(prepared=True)) as cursor:
            # without YEAR, which the driver cannot read
            cursor.execute(f"SELECT {wanted} FROM drivers_types WHERE id >= %s ORDER BY id", (1,))
            rows = [tuple(row) for row in cursor.fetchall()]
            cursor.execute("SELECT %s, %s, %s, %s", (None, 1.5, "ü", b"\x00\xff"))
            return rows, [tuple(row) for row in cursor.fetchall()]

    rows, parameters = _same_as_directly(DRIVERS["connector"], server, wide, observe)
    assert len(rows) == 3
    assert parameters[0][0] is None


def test_prepared_statements_of_two_clients_take_turns_without_pinning(
    narrow: Proxy, connectors: tuple[Connection, Connection], table: str
) -> None:
    before = narrow.metrics()
    first, second = connectors
    # The same text in different sessions, different texts, and a schema that is not the same.
    second.database = "test2"
    cursors = [(connection, connection.cursor(prepared=True)) for connection in connectors]
    for number in range(1, 6):
        for connection, cursor in cursors:
            cursor.execute("SELECT DATABASE(), %s", (number,))
            assert list(cursor.fetchall()) == [(connection.database, number)]
    insert, select_ = first.cursor(prepared=True), second.cursor(prepared=True)
    for number in range(1, 4):
        insert.execute(f"INSERT INTO test.{table} (v) VALUES (%s)", (f"v{number}",))
        assert insert.lastrowid == number
        select_.execute(f"SELECT id FROM test.{table} WHERE id <= %s ORDER BY id", (number,))
        assert list(select_.fetchall()) == [(i,) for i in range(1, number + 1)]
    assert _pinned(narrow) == {}
    after = narrow.metrics()
    assert after["mybouncer_backend_connects_total"] - before["mybouncer_backend_connects_total"] <= 1
    assert after['mybouncer_prepared_statements{side="client"}'] == 4
    for cursor in (insert, select_, cursors[0][1], cursors[1][1]):
        cursor.close()


def test_prepared_statements_take_parameters_beyond_16_mib_and_in_pieces(wide: Proxy, table: str) -> None:
    connector = DRIVERS["connector"]
    with contextlib.closing(connector.connect(_through(wide), autocommit=True)) as connection:
        with contextlib.closing(connection.cursor(prepared=True)) as cursor:
            insert = f"INSERT INTO {table} (v) VALUES (%s)"
            cursor.execute(insert, (io.BytesIO(b"in pieces " * 100_000),))  # COM_STMT_SEND_LONG_DATA
            cursor.execute(insert, (b"x" * 17_000_000,))
            cursor.execute(insert, ("short",))
            cursor.execute(f"SELECT LENGTH(v) FROM {table} ORDER BY id")
            assert list(cursor.fetchall()) == [(1_000_000,), (17_000_000,), (5,)]
        assert _pinned(wide) == {}


def test_a_statement_is_prepared_again_on_another_connection(server: Server, wide: Proxy) -> None:
    connector = DRIVERS["connector"]
    with contextlib.closing(connector.connect(_through(wide), autocommit=True)) as connection:
        cursor = connection.cursor(prepared=True)
        cursor.execute("SELECT CONNECTION_ID(), %s", (1,))
        ((where, _),) = cursor.fetchall()
        before = wide.metrics()["mybouncer_reprepares_total"]
        server.execute(f"KILL {where}")
        wide.wait_for_metric('mybouncer_backends{state="leased"}', 0)

        def elsewhere() -> int:
            cursor.execute("SELECT CONNECTION_ID(), %s", (2,))
            ((now, number),) = cursor.fetchall()
            assert number == 2
            return int(now)

        assert elsewhere() != where
        assert wide.metrics()["mybouncer_reprepares_total"] == before + 1
        cursor.close()


def test_a_server_side_cursor_pins_until_its_last_row(narrow: Proxy, connectors: tuple[Connection, Connection]) -> None:
    first, second = connectors
    prepared = first.cmd_stmt_prepare(b"SELECT id FROM drivers_rows ORDER BY id LIMIT 5")
    ident = prepared["statement_id"]
    for _ in range(2):
        _, columns, _ = first.cmd_stmt_execute(ident, flags=1)
        first.unread_result = False
        assert list(_pinned(narrow)) == ['mybouncer_pinned_sessions{reason="cursor"}']
        rows: list[Any] = []
        while len(rows) < 5:
            first.cmd_stmt_fetch(ident, 2)
            rows += first.get_rows(binary=True, columns=columns)[0]
        assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
        first.cmd_stmt_reset(ident)
        assert _pinned(narrow) == {}
        assert _value(second, "SELECT 1") == 1
    first.cmd_stmt_close(ident)


# --- files ---


@every_driver
def test_a_local_file_is_loaded(driver: Driver, server: Server, wide: Proxy, table: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text("".join(f"{i}\t{'v' * 100}{i}\n" for i in range(1, 30_001)))
    with contextlib.closing(driver.connect(_through(wide), autocommit=True, **driver.local_infile)) as connection:
        _query(connection, f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE {table} (id, v)")
        counted = _query(connection, f"SELECT COUNT(*), SUM(id), SUM(LENGTH(v)) FROM {table}")
        assert tuple(map(int, counted[0])) == (30_000, 450_015_000, sum(len(f"{i}") + 100 for i in range(1, 30_001)))

    def missing(connection: Connection) -> Any:
        statement = f"LOAD DATA LOCAL INFILE '{tmp_path}/nothing' INTO TABLE {table} (id, v)"
        outcome = _attempt(driver, lambda: _query(connection, statement))
        return outcome, _attempt(driver, lambda: _value(connection, "SELECT 1"))

    if driver.ends_missing_files:
        _same_as_directly(driver, server, wide, missing, **driver.local_infile)
    statement = f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE {table} (id, v)"

    def refused(connection: Connection) -> Any:
        return _attempt(driver, lambda: _query(connection, statement)), _value(connection, "SELECT 1")

    (code, _), _ = _same_as_directly(driver, server, wide, refused, **driver.no_local_infile)
    assert code in (3948, 4166, -1), code  # -1 is what connector-python makes of 3948
    assert server.execute(f"SELECT COUNT(*) FROM test.{table}") == [(30_000,)]


def test_the_command_line_loads_a_local_file_too(server: Server, wide: Proxy, table: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text("".join(f"{i}\tv{i}\n" for i in range(1, 1001)))
    for flavour in ("mariadb", "mysql"):
        script = f"TRUNCATE {table}; LOAD DATA LOCAL INFILE '{file}' INTO TABLE {table} (id, v); "
        script += f"SELECT MAX(id) FROM {table};"
        done = run_cli(flavour, _through(wide), Account(), script, "--local-infile=1")
        assert (done.stdout, done.stderr) == ("1000\n", "")
        done = run_cli(flavour, _through(wide), Account(), script, "--local-infile=0")
        assert done.returncode != 0
        assert done.stdout == ""


# --- transactions ---


@every_driver
def test_transactions_are_committed_and_rolled_back(driver: Driver, server: Server, wide: Proxy, table: str) -> None:
    def stored() -> int:
        return int(server.execute(f"SELECT COUNT(*) FROM test.{table}")[0][0])

    with contextlib.closing(driver.connect(_through(wide))) as connection:
        _query(connection, f"INSERT INTO {table} (v) VALUES ('rolled back')")
        assert _value(connection, f"SELECT COUNT(*) FROM {table}") == 1
        assert stored() == 0
        assert wide.metrics()['mybouncer_clients{state="transaction"}'] == 1
        connection.rollback()
        assert _value(connection, f"SELECT COUNT(*) FROM {table}") == 0
        _query(connection, f"INSERT INTO {table} (v) VALUES ('committed')")
        connection.commit()
        assert stored() == 1
        driver.set_autocommit(connection, True)
        _query(connection, f"INSERT INTO {table} (v) VALUES ('at once')")
        assert stored() == 2
        assert wide.metrics()['mybouncer_clients{state="transaction"}'] == 0
        driver.set_autocommit(connection, False)
        _query(connection, f"INSERT INTO {table} (v) VALUES ('left open')")
    wide.wait_for_metric('mybouncer_backends{state="leased"}', 0)
    assert stored() == 2


# --- two clients on one connection ---


@every_driver
def test_warnings_are_still_there_after_another_client_used_the_connection(
    driver: Driver, pair: tuple[Connection, Connection]
) -> None:
    first, second = pair
    for _ in range(2):
        assert _value(first, "SELECT CAST('12x' AS SIGNED)") == 12
        assert _value(second, "SELECT 2") == 2
        ((level, code, text),) = _query(first, "SHOW WARNINGS")
        assert (str(level), code) == ("Warning", 1292)
        assert "12x" in text
        assert _query(second, "SHOW WARNINGS") == []
        assert _value(first, "SELECT 3") == 3
        assert _query(first, "SHOW WARNINGS") == []


@every_driver
def test_the_diagnostics_of_an_error_can_be_asked_for(driver: Driver, server: Server, wide: Proxy) -> None:
    def observe(connection: Connection) -> Any:
        seen = []
        for asked in ("SHOW WARNINGS", "SHOW ERRORS", "SHOW COUNT(*) ERRORS", "SELECT @@error_count"):
            seen.append(_attempt(driver, lambda: _query(connection, "SELECT nonsense")))
            seen.append(_query(connection, asked))
        seen.append(_attempt(driver, lambda: _query(connection, "SELECT nonsense")))
        _query(connection, "GET DIAGNOSTICS CONDITION 1 @code = MYSQL_ERRNO")
        return [*seen, _value(connection, "SELECT @code")]

    seen = _same_as_directly(driver, server, wide, observe, autocommit=True)
    assert seen[-1] == 1054
    assert (seen[5], seen[7]) == ([(1,)], [(1,)])


@every_driver
def test_last_insert_id_is_each_clients_own(driver: Driver, pair: tuple[Connection, Connection], table: str) -> None:
    first, second = pair
    assert _value(second, "SELECT LAST_INSERT_ID()") == 0
    _query(first, f"INSERT INTO {table} (id, v) VALUES (NULL, 'a')")
    _query(second, f"INSERT INTO {table} (id, v) VALUES (NULL, 'b'), (NULL, 'c')")
    assert _value(first, "SELECT LAST_INSERT_ID()") == 1
    assert _value(second, "SELECT LAST_INSERT_ID()") == 2
    _query(first, f"INSERT INTO {table} (id, v) VALUES (NULL, 'd')")
    assert _value(second, "SELECT LAST_INSERT_ID()") == 2
    _query(second, f"UPDATE {table} SET v = 'e' WHERE id = LAST_INSERT_ID()")
    assert _query(first, f"SELECT id FROM {table} WHERE id = LAST_INSERT_ID()") == [(4,)]
    assert _query(second, f"SELECT id, CAST(v AS CHAR) FROM {table} WHERE id = 2") == [(2, "e")]
    # An explicit value is not one that was generated.
    _query(first, f"INSERT INTO {table} (id, v) VALUES (100, 'f')")
    assert _value(second, "SELECT LAST_INSERT_ID()") == 2
    assert _value(first, "SELECT LAST_INSERT_ID()") == 4


@every_driver
def test_row_count_and_found_rows_are_each_clients_own(
    driver: Driver, pair: tuple[Connection, Connection], table: str
) -> None:
    first, second = pair
    _query(first, f"INSERT INTO {table} (v) VALUES ('a'), ('b'), ('c')")
    assert _query(second, "SELECT id FROM drivers_rows WHERE id <= 7 ORDER BY id") == [(i,) for i in range(1, 8)]
    assert _value(first, "SELECT ROW_COUNT()") == 3
    assert _value(second, "SELECT FOUND_ROWS()") == 7
    assert _value(first, "SELECT ROW_COUNT()") == -1
    _query(second, "SELECT SQL_CALC_FOUND_ROWS id FROM drivers_rows LIMIT 2")
    assert _query(first, "SELECT 1") == [(1,)]
    assert _value(second, "SELECT FOUND_ROWS()") == 600


@every_driver
def test_settings_follow_their_client(driver: Driver, narrow: Proxy) -> None:
    asked = (
        "SELECT @@time_zone, @@sql_mode, @@character_set_client, @@character_set_results, @@collation_connection, "
        "DATABASE()"
    )
    wanted = {
        "first": ("+03:00", "ANSI_QUOTES", "latin1", "latin1", "latin1_german1_ci", "test"),
        "second": ("-05:30", "", "utf8mb4", "utf8mb4", "utf8mb4_unicode_ci", "test2"),
    }
    connections = {name: driver.connect(_through(narrow), autocommit=True) for name in wanted}
    for name, (zone, mode, charset, _, collation, schema) in wanted.items():
        _query(connections[name], f"SET time_zone = '{zone}', sql_mode = '{mode}'")
        _query(connections[name], f"SET NAMES {charset} COLLATE {collation}")
        _query(connections[name], f"USE {schema}")
    restores = 'mybouncer_restores_total{kind="settings"}'
    before = narrow.metrics()
    for _ in range(3):
        for name, connection in connections.items():
            assert [tuple(map(str, row)) for row in _query(connection, asked)] == [wanted[name]]
    # What is text to one is a name to the other, and has to be classified accordingly.
    assert _query(connections["second"], 'SELECT "id"') == [("id",)]
    assert _query(connections["first"], 'SELECT "id" FROM "drivers_rows" WHERE id = 3') == [(3,)]
    assert _pinned(narrow) == {}
    after = narrow.metrics()
    assert after[restores] >= before[restores] + 5
    assert after["mybouncer_resets_total"] == before["mybouncer_resets_total"]
    for connection in connections.values():
        connection.close()


@every_driver
def test_a_charset_asked_for_at_login_is_kept(driver: Driver, server: Server, narrow: Proxy) -> None:
    asked = "SELECT @@character_set_client, @@character_set_connection, @@character_set_results, @@collation_connection"

    def observe(connection: Connection) -> Any:
        return _query(connection, asked), _value(connection, "SELECT %s", "é"), _value(connection, "SELECT HEX('é')")

    with contextlib.closing(driver.connect(_through(narrow), charset="utf8mb4", autocommit=True)) as other:
        for _ in range(2):
            _, text, _ = _same_as_directly(driver, server, narrow, observe, charset="latin1", autocommit=True)
            assert text == "é"
            assert _value(other, "SELECT HEX(%s)", "é😀") == "C3A9F09F9880"


def test_set_names_in_the_middle_of_a_session_counts_from_there_on(narrow: Proxy) -> None:
    driver = DRIVERS["pymysql"]
    first, second = (driver.connect(_through(narrow), autocommit=True, charset="utf8mb4") for _ in range(2))
    first.set_character_set("latin1")
    for _ in range(2):
        assert _value(first, "SELECT HEX('é'), 1") == "E9"
        assert _value(second, "SELECT HEX('é'), 1") == "C3A9"
    first.close()
    second.close()


# --- other commands ---


@every_driver
def test_ping_needs_no_connection_to_the_server(driver: Driver, narrow: Proxy) -> None:
    holder, other = (driver.connect(_through(narrow), autocommit=True) for _ in range(2))
    _query(holder, "START TRANSACTION")
    _query(holder, "SELECT COUNT(*) FROM drivers_rows")
    driver.ping(other)
    driver.ping(holder)
    holder.rollback()
    assert _value(other, "SELECT 1") == 1
    holder.close()
    other.close()


def test_reset_connection_gives_a_fresh_session(
    server: Server, narrow: Proxy, connectors: tuple[Connection, Connection], table: str
) -> None:
    first, second = connectors
    _query(first, "SET @x = 1, time_zone = '+02:00', autocommit = 0")
    _query(first, f"INSERT INTO {table} (v) VALUES ('gone')")
    prepared = first.cmd_stmt_prepare(b"SELECT 1")
    assert list(_pinned(narrow)) == ['mybouncer_pinned_sessions{reason="user_variable"}']
    first.cmd_reset_connection()
    assert _pinned(narrow) == {}
    assert _value(second, f"SELECT COUNT(*) FROM {table}") == 0
    seen = _query(first, "SELECT DATABASE(), @@autocommit, @@time_zone = @@global.time_zone, LAST_INSERT_ID()")
    assert seen == [("test", 1, 1, 0)]
    with pytest.raises(mysql.connector.Error) as error:
        first.cmd_stmt_execute(prepared["statement_id"])
    assert error.value.errno == 1243
    assert _value(first, "SELECT 'lives'") == "lives"


def test_statistics_are_the_servers(narrow: Proxy, connectors: tuple[Connection, Connection]) -> None:
    import MySQLdb

    with contextlib.closing(
        MySQLdb.connect(host=narrow.host, port=narrow.port, user="app", password="app-secret")
    ) as connection:
        assert "Uptime:" in connection.stat()
        connection.autocommit(True)
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == ((1,),)
    assert connectors[0].cmd_statistics()["Uptime"] >= 0
    assert _value(connectors[0], "SELECT 1") == 1


def test_field_list_gives_columns(server: Server, wide: Proxy) -> None:
    def columns(port: int) -> list[bytes]:
        with contextlib.closing(
            pymysql.connect(host="127.0.0.1", port=port, user="app", password="app-secret", database="test")
        ) as connection:
            connection._execute_command(COMMAND.COM_FIELD_LIST, b"drivers_types\0")
            found = []
            while not (packet := connection._read_packet()).is_eof_packet():
                found.append(packet.get_all_data())
            assert _value(connection, "SELECT 1") == 1
            return found

    found = columns(wide.port)
    assert len(found) == 25
    assert found == columns(server.port)


def test_the_command_line_completes_names_interactively(wide: Proxy) -> None:
    # Only at a terminal does it ask for the columns of every table (COM_FIELD_LIST).
    name = 'mybouncer_statements_total{command="field_list"}'
    before = wide.metrics().get(name, 0)
    argv, env = cli_command("mariadb", _through(wide), Account())
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [*argv, "--auto-rehash"], stdin=inside, stdout=inside, stderr=inside, env=env | {"TERM": "dumb"}
    )
    os.close(inside)
    try:
        os.write(terminal, b"SELECT 40 + 2;\nexit\n")
        assert b"42" in _read_all(terminal, 10.0)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert wide.metrics().get(name, 0) > before


def _read_all(terminal: int, deadline: float) -> bytes:
    """What a program writes to its terminal until it ends."""
    end = time.monotonic() + deadline
    output = b""
    while (left := end - time.monotonic()) > 0 and select.select([terminal], [], [], left)[0]:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        output += chunk
    return output


def test_nobody_broke_the_protocol_and_no_connection_was_lost(wide: Proxy, narrow: Proxy) -> None:
    # By its place in the file, this comes after all the others.
    for proxy in (wide, narrow):
        metrics = proxy.metrics()
        assert metrics["mybouncer_malformed_total"] == 0
        assert metrics.get('mybouncer_backend_closes_total{reason="protocol_error"}', 0) == 0
        assert metrics["mybouncer_queue_timeouts_total"] == 0
