"""Thousands of clients, logged in, on a cap of 10: each executes a statement of 5 ms, all at the same moment.

The yardstick is the same number of statements over 10 direct connections. No statement may fail, and the server may
never see more than 10 connections of the account.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bench.processes import USER, BenchError, clients, cpu_seconds, mybouncer, raise_descriptor_limit, server
from bench.report import OtherWork, Report, Table, console, machine, ratio
from tests.servers import Server

CAP = 10
ROUNDS = 3
DIRECTLY = "app2"  # another account, so that both can be counted
STATEMENT = "SELECT SLEEP(0.005)"


def crowd(flavour: str, count: int) -> Report:
    """Measure and return the table."""
    others = OtherWork()
    raise_descriptor_limit(count + 200)
    direct: list[dict[str, Any]] = []
    pooled: list[dict[str, Any]] = []
    used = []
    with (
        server(flavour, 100) as backend,
        mybouncer(backend.url, CAP, queue__timeout="120s") as middle,
        peak(backend, DIRECTLY) as direct_peak,
        peak(backend, USER) as pooled_peak,
    ):
        assert middle.pid is not None
        for number in range(ROUNDS):
            with console.status(f"round {number + 1} of {ROUNDS}: {CAP} direct connections"):
                direct.append(_run(backend.port, DIRECTLY, CAP, count // CAP))
            with console.status(f"round {number + 1} of {ROUNDS}: {count} clients on a cap of {CAP}"):
                before = cpu_seconds(middle.pid)
                pooled.append(_run(middle.port, USER, count, 1))
                used.append(cpu_seconds(middle.pid) - before)
        version = backend.version
    title = f"{count} clients at once, cap {CAP}, a statement of 5 ms each, {flavour}"
    table = Table(title, ("", "seconds", "of direct", "failed", "slowest s", "peak"))
    report = Report(
        f"crowd-{flavour}",
        title,
        [table],
        notes=[
            f"Statement: `{STATEMENT}`. Median of {ROUNDS} rounds, interleaved; slowest and peak of all of them.",
            "Peak: the account's connections in the server's processlist, sampled all the time.",
            f"CPU of mybouncer, with the {count} logins: {statistics.median(used):.2f} s.",
            str(others),
        ],
        machine=machine(f"{flavour} {version}"),
    )
    base = statistics.median(said["seconds"] for said in direct)
    for name, rounds, seen in (
        (f"{CAP} direct connections", direct, direct_peak[0]),
        (f"{count} through mybouncer", pooled, pooled_peak[0]),
    ):
        seconds = statistics.median(said["seconds"] for said in rounds)
        slowest = max(said["slowest"] for said in rounds)
        errors = sum((Counter(said["errors"]) for said in rounds), Counter[str]())
        table.rows.append(
            (name, f"{seconds:.2f}", ratio(seconds, base), str(errors.total()), f"{slowest:.2f}", str(seen))
        )
        if errors:
            raise BenchError("; ".join(f"{name}: {number} × {text}" for text, number in errors.items()))
        if seen > CAP:
            raise BenchError(f"{name}: the server saw {seen} connections, more than {CAP}")
    return report


def _run(port: int, user: str, count: int, repeat: int) -> dict[str, Any]:
    with clients("crowd", port, user, count, STATEMENT, repeat) as process:
        process.hear()
        process.go()
        said = process.hear()
    if said["statements"] != count * repeat:
        raise BenchError(f"{said['statements']} statements were answered, not {count * repeat}")
    return said


@contextlib.contextmanager
def peak(backend: Server, user: str) -> Iterator[list[int]]:
    """Count the account's connections on the server all the time; the list holds the highest count."""
    highest, done = [0], threading.Event()

    def sample() -> None:
        query = f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{user}'"
        with contextlib.closing(backend.admin()) as connection, connection.cursor() as cursor:
            while not done.wait(0.005) and backend.running:
                cursor.execute(query)
                highest[0] = max(highest[0], int(cursor.fetchone()[0]))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()
