"""MariaDB's bulk execution: one prepared statement, many rows of parameters in one command.

Offered to clients of MariaDB only, with the capability that it takes; a connection to the server has it as its client.
"""

from __future__ import annotations

import contextlib
import datetime
import struct
from collections.abc import Callable, Iterator
from typing import Any

import mariadb as driver
import pytest

from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME
from proxy.wire.packets import lenenc_str
from tests.conftest import Proxy
from tests.live.raw import Raw, Result, Statement
from tests.live.transcripts import Witness, same
from tests.servers import Server

CAN = {"add": c.MARIADB_CLIENT_STMT_BULK_OPERATIONS, "without": c.CLIENT_LONG_PASSWORD}
CANNOT = {"without": c.CLIENT_LONG_PASSWORD}

WITH_TYPES, UNIT_RESULTS = 128, 64
INTEGER, TEXT = b"\x08\0", b"\xfd\0"
DEFAULT, IGNORE = object(), object()
LAST_PREPARED = Statement(0xFFFFFFFF, 1, 0)

TABLE = "bulk_rows"
INSERT = f"INSERT INTO {TABLE} (id, v) VALUES (?, ?)"


@pytest.fixture(autouse=True)
def table(mariadb: Server) -> Iterator[None]:
    """The table, empty."""
    mariadb.execute(
        f"CREATE OR REPLACE TABLE test.{TABLE} (id INT AUTO_INCREMENT PRIMARY KEY, v LONGBLOB, w INT DEFAULT 7)"
    )
    yield
    mariadb.execute(f"DROP TABLE test.{TABLE}")


@pytest.fixture
def pooler(mariadb: Server, shared_proxy: Callable[..., Proxy]) -> Proxy:
    """A pooler with one connection, on which clients take turns."""
    return shared_proxy(mariadb, max_connections=1)


def _value(value: object) -> bytes:
    if value is None:
        return b"\1"
    if value is DEFAULT:
        return b"\2"
    if value is IGNORE:
        return b"\3"
    return b"\0" + (struct.pack("<q", value) if isinstance(value, int) else lenenc_str(value))  # type: ignore[arg-type]


def bulk_payload(statement: Statement, rows: list[tuple[object, ...]], types: bytes, flags: int = WITH_TYPES) -> bytes:
    head = b"\xfa" + struct.pack("<IH", statement.ident, flags) + (types if flags & WITH_TYPES else b"")
    return head + b"".join(_value(value) for row in rows for value in row)


def bulk(client: Raw, statement: Statement, rows: list[tuple[object, ...]], types: bytes, **flags: int) -> Result:
    payload = bulk_payload(statement, rows, types, **flags)
    client.send(payload)
    client.expect_answer(len(payload) // MAX_FRAME + 1)
    return client.results(binary=True)[-1]


def _rows_of_all_kinds(client: Witness) -> None:
    client.ok(f"TRUNCATE {TABLE}")
    insert = client.prepare(INSERT)
    bulk(client, insert, [(1, b"a"), (2, None), (3, b"c")], INTEGER + TEXT)
    bulk(client, insert, [(4, DEFAULT), (DEFAULT, b"e")], INTEGER + TEXT)
    bulk(client, client.prepare(f"UPDATE {TABLE} SET v = ? WHERE id = ?"), [(IGNORE, 1), (b"z", 99)], TEXT + INTEGER)
    client.query(f"SELECT * FROM {TABLE}")
    bulk(client, client.prepare(f"DELETE FROM {TABLE} WHERE id = ?"), [(1,), (2,)], INTEGER)
    client.query("SELECT ROW_COUNT()")
    bulk(client, insert, [], INTEGER + TEXT)


def _types_that_are_left_out(client: Witness) -> None:
    client.ok(f"TRUNCATE {TABLE}")
    insert = client.prepare(INSERT)
    bulk(client, insert, [(1, b"a")], INTEGER + TEXT)
    bulk(client, insert, [(2, b"b"), (3, b"c")], b"", flags=0)
    client.execute(insert, 4, "d", types=False)
    client.execute(insert, 5, "e")
    bulk(client, insert, [(6, b"f")], b"", flags=0)
    client.query(f"SELECT * FROM {TABLE}")


def _errors(client: Witness) -> None:
    client.ok(f"TRUNCATE {TABLE}")
    insert = client.prepare(INSERT)
    bulk(client, insert, [(1, b"a"), (1, b"again"), (2, b"b")], INTEGER + TEXT)
    client.query("SHOW WARNINGS")
    client.query(f"SELECT * FROM {TABLE}")
    bulk(client, insert, [(3, b"c")], INTEGER + TEXT, flags=WITH_TYPES | UNIT_RESULTS)
    bulk(client, client.prepare("SELECT ?"), [(3,)], INTEGER)
    bulk(client, Statement(77777, 1, 0), [(3,)], INTEGER)
    for size in (1, 4, 6):
        client.command(bulk_payload(insert, [(4, b"d")], INTEGER + TEXT)[:size])


def _returning(client: Witness) -> None:
    client.ok(f"TRUNCATE {TABLE}")
    insert = client.prepare(f"INSERT INTO {TABLE} (v) VALUES (?) RETURNING id, v")
    bulk(client, insert, [(b"a",), (b"b",)], TEXT)
    client.query("SELECT LAST_INSERT_ID()")
    bulk(client, client.prepare(f"DELETE FROM {TABLE} WHERE id = ? RETURNING v"), [(1,), (9,)], INTEGER)


def _last_prepared(client: Witness) -> None:
    client.ok(f"TRUNCATE {TABLE}")
    text = f"INSERT INTO {TABLE} (v) VALUES (?)".encode()
    for statement in (text, b"INSERT INTO nowhere VALUES (?)"):
        client.pipeline(b"\x16" + statement, bulk_payload(LAST_PREPARED, [(b"p",), (b"q",)], TEXT))
        client.expect_answer()
        with contextlib.suppress(Exception):
            client.prepared()
        client.expect_answer()
        client.results()
    client.query(f"SELECT * FROM {TABLE}")


def _more_than_16_mib(client: Witness) -> None:
    client.ok(f"TRUNCATE {TABLE}")
    insert = client.prepare(f"INSERT INTO {TABLE} (v) VALUES (?)")
    rows: list[tuple[object, ...]] = [(b"z" * 3_000_000,)] * 6
    bulk(client, insert, rows, TEXT)
    bulk(client, insert, rows, b"", flags=0)
    client.query(f"SELECT COUNT(*), SUM(LENGTH(v)) FROM {TABLE}")


SCENARIOS = (
    _rows_of_all_kinds,
    _types_that_are_left_out,
    _errors,
    _returning,
    _last_prepared,
    _more_than_16_mib,
)


@pytest.mark.parametrize("deprecate_eof", [True, False], ids=["deprecate_eof", "eof"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_bulk_execution_gives_what_the_server_gives(
    mariadb: Server, pooler: Proxy, scenario: Callable[[Witness], None], deprecate_eof: bool
) -> None:
    same(mariadb, pooler, scenario, database="test", deprecate_eof=deprecate_eof, **CAN)


def test_who_does_not_have_the_capability_is_told_what_the_server_says(mariadb: Server, pooler: Proxy) -> None:
    def scenario(client: Witness) -> None:
        insert = client.prepare(INSERT)
        for statement, flags in ((insert, WITH_TYPES), (insert, 0), (Statement(77777, 2, 0), WITH_TYPES)):
            assert bulk(client, statement, [(1, b"a")], INTEGER + TEXT, flags=flags).code == 1295
        assert client.command(b"\xfa\1\0\0")[0].code == 1835

    same(mariadb, pooler, scenario, database="test", **CANNOT)


def test_clients_with_and_without_it_take_turns_on_what_they_left_each_other(mariadb: Server, pooler: Proxy) -> None:
    with (
        Raw(pooler, database="test", **CAN) as first,
        Raw(pooler, database="test", **CAN) as second,
        Raw(pooler, database="test", **CANNOT) as plain,
    ):
        insert = first.prepare(f"INSERT INTO {TABLE} (v) VALUES (?)")
        theirs = second.prepare(f"INSERT INTO {TABLE} (v) VALUES (?)")
        assert bulk(first, insert, [(b"a",), (b"b",), (b"c",)], TEXT).insert_id == 1
        assert second.execute(theirs, 5).insert_id == 4  # the same statement on the same connection, other types
        assert plain.ok(f"INSERT INTO {TABLE} (v) VALUES ('p')").insert_id == 5
        assert first.get("SELECT LAST_INSERT_ID()") == b"1"
        again = bulk(first, insert, [(b"d",), (b"e",)], b"", flags=0)
        assert (again.affected, again.insert_id) == (2, 6)
        assert second.execute(theirs, 6, types=False).insert_id > 7  # ids are taken from the table in blocks
        assert first.get("SELECT ROW_COUNT()") == b"2"
        assert first.get("SELECT LAST_INSERT_ID()") == b"6"
        returning = first.prepare(f"INSERT INTO {TABLE} (v) VALUES (?) RETURNING id")
        ((ident,), _) = bulk(first, returning, [(b"f",), (b"g",)], TEXT).rows
        assert plain.get("SELECT 1") == b"1"
        assert first.get("SELECT LAST_INSERT_ID()") == str(ident).encode()
        assert bulk(plain, plain.prepare("DO ?"), [(b"x",)], TEXT).code == 1295
    values = [row[0] for row in mariadb.execute(f"SELECT v FROM test.{TABLE} ORDER BY id")]
    assert values == [b"a", b"b", b"c", b"5", b"p", b"d", b"e", b"6", b"f", b"g"]
    pooler.wait_for_metric('mybouncer_backends{state="leased"}', 0)


def _executemany(target: Server | Proxy) -> tuple[Any, ...]:
    rows = [
        (i, None if i % 3 == 0 else f"row {i} ü", i * 1.5, bytes([i]) * i, datetime.datetime(2024, 2, 29, 1, 2, 3, i))
        for i in range(200)
    ]
    with (
        contextlib.closing(
            driver.connect(
                host=target.host,
                port=target.port,
                user="app",
                password="app-secret",
                database="test",
                autocommit=True,
            )
        ) as connection,
        contextlib.closing(connection.cursor()) as cursor,
    ):
        cursor.execute("CREATE OR REPLACE TEMPORARY TABLE many (a INT, b TEXT, d DOUBLE, x BLOB, t DATETIME(6))")
        cursor.executemany("INSERT INTO many VALUES (?, ?, ?, ?, ?)", rows)
        inserted = cursor.rowcount
        cursor.execute("SELECT * FROM many ORDER BY a")
        found = cursor.fetchall()
        cursor.executemany("UPDATE many SET b = ? WHERE a = ?", [("x", 1), ("y", 2), ("z", 999)])
        updated = cursor.rowcount
        assert found == rows
        return inserted, updated


def test_the_drivers_executemany_is_one_command(mariadb: Server, pooler: Proxy) -> None:
    name = 'mybouncer_statements_total{command="stmt_bulk_execute"}'
    before = pooler.metrics().get(name, 0)
    assert _executemany(pooler) == _executemany(mariadb) == (200, 2)
    assert pooler.metrics()[name] == before + 2
