"""Packets of 16 MiB and more in both directions, and sequence ids over all their frames.

The same to the byte as on the server itself (see `transcripts`), whose answers to a command of several frames go on
counting where the command ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proxy.wire.framing import MAX_FRAME as FULL
from tests.conftest import Proxy
from tests.live.raw import Raw, execute_payload
from tests.live.transcripts import Scenario, Witness, same
from tests.servers import Server

CONTINUATIONS = (b"\xfe", b"\xff", b"\xfb", b"\0")  # what these mean at the head of a packet they do not mean here


def _padded(head: bytes, tail: bytes, size: int) -> bytes:
    return head + b"x" * (size - len(head) - len(tail)) + tail


def _command(client: Raw, payload: bytes, size: int, *, binary: bool = False) -> None:
    assert len(payload) == size
    client.send(payload)
    client.expect_answer(size // FULL + 1)
    assert client.results(binary=binary)[-1].error is None


def _queries(client: Witness) -> None:
    for size in (FULL - 1, FULL, 2 * FULL):
        _command(client, _padded(b"\x03SELECT LENGTH('", b"')", size), size)
    _command(client, _padded(b"\x03SELECT 1; SELECT LENGTH('", b"'); SELECT 3", FULL + 5), FULL + 5)


def _failing_queries(client: Witness) -> None:
    client.command(_padded(b"\x03SELECT nosuch -- ", b"", FULL + 5))
    client.command(_padded(b"\x03SELECT LENGTH('", b"'); SELECT nosuch", FULL))


def _rows(client: Witness) -> None:
    header = 4  # of a value below 16 MiB; larger ones have 9
    for size in (FULL - header - 1, FULL - header, FULL, 2 * FULL - 9):
        client.ok(f"SELECT REPEAT('a', {size})")


def _continued_rows(client: Witness) -> None:
    for byte in CONTINUATIONS:
        client.ok(f"SELECT CONCAT(REPEAT('a', {FULL - 9}), REPEAT(0x{byte.hex()}, 20)), 2 UNION ALL SELECT 'next', 3")


def _binary_rows(client: Witness) -> None:
    statement = client.prepare("SELECT CONCAT(REPEAT('a', ?), ?)")
    for byte in CONTINUATIONS:
        assert client.execute(statement, FULL - 2 - 9, byte * 20).error is None


def _executions(client: Witness) -> None:
    statement = client.prepare("SELECT LENGTH(?), ?")
    for types in (True, False):
        rest = len(execute_payload(statement, (b"z" * 100_000, 5), types=types)) - 100_000
        for size in (FULL - 1, FULL, FULL + 1):
            payload = execute_payload(statement, (b"z" * (size - rest), 5), types=types)
            _command(client, payload, size, binary=True)


def _preparations(client: Witness) -> None:
    for size in (FULL, FULL + 100):
        client.send(_padded(b"\x16SELECT LENGTH('", b"'), ?", size))
        client.expect_answer(2)
        client.execute(client.prepared(), 1)


def _files(client: Witness) -> None:
    client.ok("CREATE TEMPORARY TABLE loaded (a INT, b LONGTEXT)")
    client.file = (_padded(b"5\t", b"", FULL), b"y\n", _padded(b"6\t", b"\n", FULL + 3), b"7\tz\n")
    client.queries("SELECT 1; LOAD DATA LOCAL INFILE 'x' INTO TABLE loaded; SELECT a, LENGTH(b) FROM loaded")


def _ids_that_run_over(client: Witness) -> None:
    for count in (254, 255, 256, 257):
        client.queries(";".join(f"SELECT {i}" for i in range(count)))
        client.ok(" UNION ALL ".join(["SELECT 1"] * count))


UPWARDS = (_queries, _failing_queries, _executions, _preparations, _files)
DOWNWARDS = (_rows, _continued_rows, _binary_rows, _ids_that_run_over)


@pytest.fixture(scope="module")
def pooler(server: Server, module_proxy: Callable[..., Proxy]) -> Iterator[Proxy]:
    """A pooler that must not meet anything malformed."""
    proxy = module_proxy(server, max_connections=2)
    yield proxy
    metrics = proxy.metrics()
    assert metrics["mybouncer_malformed_total"] == 0
    assert metrics["mybouncer_read_ahead_bytes"] == 0
    assert metrics.get('mybouncer_backend_closes_total{reason="protocol_error"}', 0) == 0


@pytest.mark.parametrize("scenario", UPWARDS)
def test_commands_of_several_frames_arrive_and_their_answers_count_on(
    server: Server, pooler: Proxy, scenario: Scenario
) -> None:
    same(server, pooler, scenario, database="test", deprecate_eof=False, timeout=60.0)


@pytest.mark.parametrize("deprecate_eof", [True, False], ids=["deprecate_eof", "eof"])
@pytest.mark.parametrize("scenario", DOWNWARDS)
def test_answers_of_several_frames_arrive_with_the_servers_numbers(
    server: Server, pooler: Proxy, scenario: Scenario, deprecate_eof: bool
) -> None:
    same(server, pooler, scenario, database="test", deprecate_eof=deprecate_eof, timeout=60.0)
