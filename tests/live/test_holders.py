"""Holders: who keeps connections for suspiciously long is told, by process, with its statement and a likely cause."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiomysql
import pymysql
import pytest

from tests.conftest import Proxy
from tests.live.desk import Desk, Row
from tests.live.raw import Raw
from tests.servers import Server, wait_until

Shared = Callable[[Server], tuple[Proxy, Desk]]
TOLD_WITHIN = 5.0
LIMITS = {
    "holders__idle_in_transaction": "1s",
    "holders__pinned_idle": "1s",
    "holders__long_statement": "1s",
    "holders__unread_result": "1s",
    "holders__stalled_upload": "1s",
    "holders__prepared_statements": 20,
}


@pytest.fixture(scope="module")
def shared(module_proxy: Callable[..., Proxy], console_directory: Path) -> Iterator[Shared]:
    """A pooler with short limits that the tests of this module share, by server."""
    running: dict[str, tuple[Proxy, Desk]] = {}

    def start(server: Server) -> tuple[Proxy, Desk]:
        if server.url not in running:
            path = str(console_directory / f"{server.flavour}.sock")
            pooler = module_proxy(server, max_connections=4, console__socket=path, **LIMITS)
            running[server.url] = pooler, Desk(path)
        return running[server.url]

    yield start
    for _, desk in running.values():
        desk.close()


def connect(pooler: Proxy, **options: Any) -> pymysql.connections.Connection[Any]:
    return pymysql.connect(
        host="127.0.0.1", port=pooler.port, user="app", password="app-secret", database="test", **options
    )


def told(desk: Desk, kind: str) -> Row:
    """The row of the only holder of this kind, as soon as it is there; not later than promised."""
    rows: list[Row] = []

    def there() -> bool:
        rows[:] = [row for row in desk.ask("SHOW HOLDERS") if row["kind"] == kind]
        return bool(rows)

    wait_until(there, 1.0 + TOLD_WITHIN, f"{kind} is told")
    (row,) = rows
    return row


def over(pooler: Proxy, desk: Desk, kind: str) -> None:
    """It is gone everywhere, and the log has told it once, and its end once."""
    wait_until(lambda: not desk.ask("SHOW HOLDERS"), TOLD_WITHIN, f"{kind} is over")
    assert pooler.metrics()[f'mybouncer_holders{{kind="{kind}"}}'] == 0
    lines = [line for line in pooler.log().splitlines() if f"kind={kind} " in line]
    assert [line.split("event=")[1].split(" kind=")[0] for line in lines] == ["holder", '"holder gone"']


def test_idle_in_a_transaction(server: Server, shared: Shared) -> None:
    pooler, desk = shared(server)
    server.execute("CREATE OR REPLACE VIEW test.one AS SELECT 1 AS v")
    with contextlib.closing(connect(pooler, program_name="shop")) as client, client.cursor() as cursor:
        client.begin()
        cursor.execute("SELECT v FROM one WHERE v = 4711")
        row = told(desk, "idle_in_transaction")
        assert row["account"] == "app" and row["host"] == "127.0.0.1"
        assert row["program"] == f"`shop` pid {os.getpid()}"
        assert (row["connections"], row["backends"]) == (1, 1)
        assert row["statement"] == "SELECT v FROM one WHERE v = ?"
        assert row["cause"].endswith("neither committed nor rolled back?")
        assert pooler.metrics()['mybouncer_holders{kind="idle_in_transaction"}'] == 1
        assert desk.one("SHOW CLIENTS")["holder"] == "idle_in_transaction"
        client.commit()
        over(pooler, desk, "idle_in_transaction")
    assert "4711" not in pooler.log()


def test_pinned_and_idle(server: Server, shared: Shared) -> None:
    pooler, desk = shared(server)
    with contextlib.closing(connect(pooler, autocommit=True)) as client, client.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE mine (a INT)")
        row = told(desk, "pinned_idle")
        assert "temporary table" in row["cause"] and row["statement"] == "CREATE TEMPORARY TABLE mine (a INT)"
    over(pooler, desk, "pinned_idle")


def test_a_statement_that_runs_long(server: Server, shared: Shared) -> None:
    pooler, desk = shared(server)
    with contextlib.closing(Raw(pooler)) as client:
        client.send_query("SELECT SLEEP(60) + 17")
        row = told(desk, "long_statement")
        assert row["statement"] == "SELECT SLEEP(?) + ?" and row["seconds"] >= 1.0
    over(pooler, desk, "long_statement")


def test_a_statement_after_others_in_a_transaction_is_timed_from_its_own_start(server: Server, shared: Shared) -> None:
    pooler, desk = shared(server)
    with contextlib.closing(Raw(pooler)) as client:
        client.query("BEGIN")
        began = time.monotonic()
        for _ in range(12):
            client.query("SELECT SLEEP(0.2)")  # longer than the limit together
        assert time.monotonic() - began > 2.0
        assert not [row for row in desk.ask("SHOW HOLDERS") if row["kind"] == "long_statement"]


def test_an_answer_that_nobody_reads(server: Server, shared: Shared) -> None:
    pooler, desk = shared(server)
    with contextlib.closing(Raw(pooler)) as client:
        client.send_query("SELECT REPEAT('x', 1000000)" + " UNION ALL SELECT REPEAT('x', 1000000)" * 15)
        row = told(desk, "unread_result")
        assert "with an unread result of `SELECT REPEAT(?, …)" in row["cause"]
        assert row["backends"] == 1
    over(pooler, desk, "unread_result")


def test_an_upload_that_does_not_go_on(server: Server, shared: Shared) -> None:
    pooler, desk = shared(server)
    with contextlib.closing(Raw(pooler)) as client:
        text = b"\x03SELECT LENGTH('" + b"x" * 2_000_000 + b"')"
        client.sock.sendall(len(text).to_bytes(3, "little") + b"\0" + text[:1_500_000])
        row = told(desk, "stalled_upload")
        assert row["statement"].startswith("SELECT LENGTH(") and "xxx" not in row["statement"]
    over(pooler, desk, "stalled_upload")


def test_prepared_statements_that_are_never_closed(server: Server, shared: Shared) -> None:
    pooler, desk = shared(server)
    with contextlib.closing(Raw(pooler)) as client:
        for number in range(21):
            client.prepare(f"SELECT {number}")
        row = told(desk, "prepared_statements")
        assert "up to 21 open prepared statements" in row["cause"]
    over(pooler, desk, "prepared_statements")


@pytest.mark.parametrize("kind", ["idle_in_transaction", "long_statement"])
def test_holders_are_ended_where_that_is_wanted(server: Server, proxy: Callable[..., Proxy], kind: str) -> None:
    pooler = proxy(server, max_connections=1, holders__action="kill", **{f"holders__{kind}": "1s"})
    with contextlib.closing(Raw(pooler)) as client:
        if kind == "long_statement":
            client.send_query("SELECT SLEEP(60)")
        else:
            client.query("BEGIN")
            client.query("SELECT 1")
        with contextlib.closing(Raw(pooler)) as other:
            assert other.get("SELECT 7") == b"7"  # it waited for the only connection
    assert "event=holder " in pooler.log()


def test_connections_of_a_loop_that_does_not_close_its_rows(
    server: Server, proxy: Callable[..., Proxy], go_leak: Path, console_directory: Path
) -> None:
    server.execute("CREATE TABLE IF NOT EXISTS test.leaked (id INT PRIMARY KEY, v VARCHAR(20))")
    path = str(console_directory / f"leak-{server.flavour}.sock")
    pooler = proxy(server, max_connections=4, console__socket=path)
    dsn = f"app:app-secret@tcp(127.0.0.1:{pooler.port})/test"
    argv = [go_leak, "-dsn", dsn, "-hold", "-iterations", "97", "-read", "0"]
    argv += ["-query", "SELECT id, v FROM leaked WHERE id >= ?"]
    with contextlib.closing(Desk(path)) as desk, subprocess.Popen(argv, stdin=subprocess.PIPE) as program:
        wait_until(lambda: told(desk, "unused_connections")["connections"] == 97, TOLD_WITHIN, "all of them count")
        row = told(desk, "unused_connections")
        assert row["cause"].startswith("opened 97 connections in ") and "rows not closed in a loop?" in row["cause"]
        assert row["statement"] == "SELECT id, v FROM leaked WHERE id >= ?"
        assert program.stdin is not None
        program.stdin.close()
        program.wait(20)
        over(pooler, desk, "unused_connections")


def test_a_burst_that_leaves_its_connections_in_a_pool_is_no_leak(
    server: Server, proxy: Callable[..., Proxy], console_directory: Path
) -> None:
    """All are opened at once; the logins take their time, and the first statements end before the last logins begin."""
    server.execute("CREATE OR REPLACE VIEW test.one AS SELECT 1 AS v")
    path = str(console_directory / f"burst-{server.flavour}.sock")
    pooler = proxy(server, max_connections=4, console__socket=path, holders__idle_in_transaction="3s")
    with contextlib.ExitStack() as pool, contextlib.closing(Desk(path)) as desk:
        sockets = [pool.enter_context(socket.create_connection((pooler.host, pooler.port))) for _ in range(20)]
        for sock in sockets:
            sock.recv(1, socket.MSG_PEEK)  # of the greeting: it is accepted
        for sock in sockets:
            client = connect(pooler, defer_connect=True, ssl_disabled=True, autocommit=None)
            client.connect(sock)
            pool.callback(client.close)
            client.query("SELECT v FROM one")
        with contextlib.closing(connect(pooler, program_name="watch")) as other:
            other.begin()
            other.query("SELECT 1")
            told(desk, "idle_in_transaction")  # they were looked at for longer than a leak takes to be told
        assert {row["kind"] for row in desk.ask("SHOW HOLDERS")} <= {"idle_in_transaction"}
        assert len(desk.ask("SHOW CLIENTS")) >= 20
    assert "kind=unused_connections" not in pooler.log()


def test_ordinary_pools_at_load_are_no_holders(server: Server, proxy: Callable[..., Proxy]) -> None:
    pooler = proxy(server, max_connections=4, **{key: "2s" for key in LIMITS if LIMITS[key] == "1s"})

    async def work(pool: Any, until: float) -> int:
        done = 0
        while time.monotonic() < until:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute("SELECT user FROM information_schema.processlist WHERE id = %s", (done,))
                await cursor.fetchall()
                await connection.begin()
                await cursor.execute("SELECT 1")
                await connection.commit()
            done += 1
            await asyncio.sleep(0.01)
        return done

    async def main() -> int:
        where = {"host": "127.0.0.1", "port": pooler.port, "user": "app", "password": "app-secret", "db": "test"}
        # One has all its connections from the start and needs few of them; the other opens what it needs.
        async with (
            aiomysql.create_pool(minsize=20, maxsize=20, **where) as eager,
            aiomysql.create_pool(minsize=1, maxsize=20, **where) as modest,
        ):
            until = time.monotonic() + 5.0
            return min(await asyncio.gather(*(work(pool, until) for pool in (eager, modest) for _ in range(15))))

    assert asyncio.run(main()) > 5
    assert "event=holder " not in pooler.log()
