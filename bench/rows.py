"""Results of 1,000,000 rows, read by a client that does nothing but receive; run as a process of its own.

    python -m bench.rows PORT eof|deprecate_eof SECONDS

It logs in, reads one result packet by packet (how many rows, how many bytes), says `{"ready": …}`, waits for a line
on its standard input, and reads results for that many seconds by counting bytes. That takes it some 20 ms for a
million rows, and the server 100 ms: whoever stands in the middle sets the pace.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass

from bench.processes import PASSWORD, SCHEMA, USER, BenchError, Middle, Run, clients, cpu_seconds
from bench.wire import say
from proxy.wire.packets import parse_err
from tests.live.raw import Raw, ServerError

COUNT = 1_000_000
# A hundred times the 10,000 rows that sysbench made: 74 bytes each, cheap to produce, and the same ones every time.
STATEMENT = "SELECT s.id, s.k, s.pad FROM (SELECT id FROM sbtest1 LIMIT 100) AS hundred STRAIGHT_JOIN sbtest1 AS s"
_COLUMNS = 3


def rows(middle: Middle, seconds: int, *, deprecate_eof: bool) -> Run:
    """One client reads results for so many seconds; the figures are per row."""
    dialect = "deprecate_eof" if deprecate_eof else "eof"
    with clients(middle.port, dialect, seconds, module="bench.rows") as process:
        process.hear()
        before = cpu_seconds(middle.pid) if middle.pid else 0.0
        process.go()
        said = process.hear()
        used = cpu_seconds(middle.pid) - before if middle.pid else 0.0
    count = said["results"] * COUNT
    return Run(count / said["seconds"], used / count)


@dataclass(frozen=True)
class _Target:
    port: int
    host: str = "127.0.0.1"


def _checked(raw: Raw) -> int:
    """Read one result strictly and return its size. Raises BenchError unless it has all its rows."""
    raw.send_query(STATEMENT)
    raw.expect_answer()
    size, packets, ends = 0, 0, 1 if raw.deprecate_eof else 2
    others = 1 + _COLUMNS + ends  # packets that are no rows
    while ends:
        packet = raw.read_packet()
        if packet[0] == 0xFF:
            raise ServerError(parse_err(packet))
        size += 4 + len(packet)
        packets += 1
        ends -= packet[0] == 0xFE
    if packets - others != COUNT:
        raise BenchError(f"a result has {packets - others} rows, not {COUNT}")
    return size


def _read(raw: Raw, size: int, seconds: float) -> int:
    """Read results of so many bytes for so many seconds and return how many there were."""
    buffer, recv_into = bytearray(1 << 20), raw.sock.recv_into
    end = time.monotonic() + seconds
    for results in itertools.count():
        if time.monotonic() > end:
            return results
        raw.send_query(STATEMENT)
        got = 0
        while got < size:
            chunk = recv_into(buffer)
            if not chunk:
                raise BenchError("connection lost in a result")
            got += chunk
        if got != size:
            raise BenchError(f"a result has {got} bytes, the first one had {size}")
    raise AssertionError


def main(port: str, dialect: str, seconds: str) -> int:
    """The process's entry."""
    try:
        with Raw(_Target(int(port)), USER, PASSWORD, SCHEMA, deprecate_eof=dialect == "deprecate_eof") as raw:
            size = _checked(raw)
            say(ready=1)
            sys.stdin.readline()
            began = time.monotonic()
            results = _read(raw, size, float(seconds))
            say(results=results, seconds=time.monotonic() - began)
            sys.stdin.readline()
    except (BenchError, ServerError, OSError, EOFError) as error:
        say(failed=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
