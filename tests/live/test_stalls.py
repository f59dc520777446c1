"""Leases that last too long, with real drivers: idle transactions are ended, a queue that stands still says why."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pymysql
import pytest

from tests.clients.clients import Target
from tests.clients.drivers import DRIVERS
from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.servers import Server, wait_until

Start = Callable[..., Proxy]

ENDED = 'mybouncer_client_disconnects_total{reason="idle_transaction_timeout"}'


@pytest.fixture
def table(server: Server) -> Iterator[str]:
    server.execute("DROP TABLE IF EXISTS test.stalls", "CREATE TABLE test.stalls (who VARCHAR(20)) ENGINE=InnoDB")
    yield "test.stalls"
    server.execute("DROP TABLE test.stalls")


def test_an_idle_transaction_is_ended_with_a_fin_and_rolled_back_and_its_connection_is_used_again(
    server: Server, proxy: Start, table: str
) -> None:
    pooler = proxy(server, max_connections=8, session__idle_transaction_timeout="1s")
    open_transactions = []
    for driver in DRIVERS.values():
        connection = driver.connect(Target(pooler.port))
        cursor = connection.cursor()
        cursor.execute(f"INSERT INTO stalls VALUES ('{driver.name}')")
        open_transactions.append((driver, cursor))
    raw, bystander = Raw(pooler, database="test"), Raw(pooler, database="test")
    raw.ok("BEGIN")
    bystander.ok("SELECT GET_LOCK('bystander', 0)")
    opened = pooler.metrics()["mybouncer_backend_connects_total"]

    assert raw.has_answer(10)
    assert raw.at_end(), "nothing comes before the end"
    pooler.wait_for_metric(ENDED, len(DRIVERS) + 1)
    for driver, cursor in open_transactions:
        with pytest.raises(driver.errors) as error:
            cursor.execute("SELECT 1")
        code, _ = driver.code_and_text(error.value)
        assert code in (2006, 2013, 2055), (driver.name, error.value)

    assert bystander.get("SELECT IS_USED_LOCK('bystander') = CONNECTION_ID()") == b"1", "pinned, not in a transaction"
    assert server.execute(f"SELECT * FROM {table}") == []
    assert Raw(pooler, database="test").get("SELECT 5") == b"5"
    for driver in DRIVERS.values():
        with contextlib.closing(driver.connect(Target(pooler.port))) as connection:
            connection.cursor().execute("SELECT 5")
    assert pooler.metrics()["mybouncer_backend_connects_total"] == opened
    lines = [line for line in pooler.log().splitlines() if "idle transaction ended" in line]
    assert len(lines) == len(DRIVERS) + 1
    assert sum(f"pid {os.getpid()}" in line for line in lines) >= 2, "of the drivers that tell it"


def test_a_queue_that_stands_still_says_why_by_name(mariadb: Server, proxy: Start) -> None:
    pooler = proxy(mariadb, max_connections=3, queue__timeout="20s")

    def connect(program: str) -> pymysql.Connection:
        return pymysql.connect(
            host=pooler.host,
            port=pooler.port,
            user="app",
            password="app-secret",
            database="test",
            program_name=program,
            read_timeout=20,
        )

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        holders = [stack.enter_context(contextlib.closing(connect(name))) for name in ("api", "api", "report")]
        for holder, sql in zip(holders, ("BEGIN", "BEGIN", "CREATE TEMPORARY TABLE t (i INT)"), strict=True):
            holder.cursor().execute(sql)
        one_more = threads.submit(connect, "api")  # this driver begins with a statement
        wait_until(lambda: "nobody gets a connection" in pooler.log(), 15, "the log says why nothing moves")
        holders[0].rollback()
        one_more.result(10).close()
    (line,) = [line for line in pooler.log().splitlines() if "nobody gets a connection" in line]
    assert re.search(
        r'why="3 leased: 2 idle in transaction, 1 pinned \(temporary table\), 0 running; '
        rf'oldest \d+ s by 127\.0\.0\.1 `api` pid {os.getpid()}; nested transactions\?"',
        line,
    ), line
    assert " waiting=1 " in line + " "
    assert " cap=3 " in line + " "
