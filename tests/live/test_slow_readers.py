"""A slow reader does not hold a backend, and does not cost more memory than its read-ahead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.servers import Server, wait_until

Start = Callable[..., Proxy]
ROW = 1000


@pytest.fixture
def rows(server: Server) -> Callable[[int], str]:
    """A statement that returns so many rows of 1,000 bytes."""
    server.execute(
        "CREATE TABLE IF NOT EXISTS test.digits (d INT)",
        "DELETE FROM test.digits",
        "INSERT INTO test.digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)",
    )

    def statement(count: int) -> str:
        tables = ", ".join(f"test.digits t{i}" for i in range(5))
        return f"SELECT REPEAT('x', {ROW}) FROM {tables} LIMIT {count}"

    return statement


def _memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.parametrize("deprecate_eof", [True, False])
def test_a_result_within_the_read_ahead_frees_the_backend_before_it_is_read(
    server: Server, proxy: Start, rows: Callable[[int], str], deprecate_eof: bool
) -> None:
    pooler = proxy(server, max_connections=1)
    slow = Raw(pooler, deprecate_eof=deprecate_eof)
    other = Raw(pooler)
    slow.send_query(rows(600))
    for _ in range(3):
        assert other.get("SELECT 'not held up'") == b"not held up"
    result = slow.answer()
    assert [len(row[0]) for row in result.rows if isinstance(row[0], bytes)] == [ROW] * 600
    assert slow.get("SELECT 1") == b"1"


def test_a_larger_result_waits_at_the_server_and_costs_only_the_read_ahead(
    server: Server, proxy: Start, rows: Callable[[int], str]
) -> None:
    pooler = proxy(server, max_connections=2)
    slow, other = Raw(pooler), Raw(pooler)
    other.get("SELECT 1")
    before = _memory(pooler.pid)
    slow.send_query(rows(60_000))
    name = "mybouncer_read_ahead_bytes"
    wait_until(lambda: pooler.metrics()[name] > 1 << 20, 10, "the read-ahead is full")
    for _ in range(20):
        assert other.get("SELECT 'unaffected'") == b"unaffected"
    assert pooler.metrics()[name] < 2 << 20
    assert pooler.metrics()['mybouncer_backends{state="leased"}'] == 1
    assert _memory(pooler.pid) - before < 20 << 20
    assert len(slow.answer().rows) == 60_000
    pooler.wait_for_metric('mybouncer_backends{state="leased"}', 0)
    pooler.wait_for_metric(name, 0)


def test_all_slow_readers_together_stay_within_the_total(
    server: Server, proxy: Start, rows: Callable[[int], str]
) -> None:
    pooler = proxy(server, max_connections=6, session__read_ahead="512KiB", session__read_ahead_total="1MiB")
    readers = [Raw(pooler) for _ in range(6)]
    for reader in readers:
        reader.send_query(rows(20_000))
    name = "mybouncer_read_ahead_bytes"
    wait_until(lambda: pooler.metrics()[name] > 1 << 20, 10, "the total is reached")
    # Each may add what was on its way when the bound was reached: one read of the transport.
    assert pooler.metrics()[name] < (1 << 20) + 6 * (300 << 10)
    for reader in readers:
        assert len(reader.answer().rows) == 20_000
    pooler.wait_for_metric(name, 0)


def test_a_slow_reader_that_leaves_gives_everything_back(
    server: Server, proxy: Start, rows: Callable[[int], str]
) -> None:
    pooler = proxy(server, max_connections=1)
    slow, other = Raw(pooler), Raw(pooler)
    slow.send_query(rows(60_000))
    wait_until(lambda: pooler.metrics()["mybouncer_read_ahead_bytes"] > 1 << 20, 10, "the read-ahead is full")
    slow.vanish()
    assert other.get("SELECT 'served'") == b"served"
    pooler.wait_for_metric("mybouncer_read_ahead_bytes", 0)
    pooler.wait_for_metric('mybouncer_clients{state="idle"}', 1)
