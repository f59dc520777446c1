"""Thousands of clients, logged in, on a cap of 10: each executes a statement of 5 ms, all at the same moment.

The yardstick is the same number of statements over 10 direct connections. No statement may fail, and the server may
never see more than 10 connections of the account.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from bench.processes import USER, clients, cpu_seconds, mybouncer, raise_descriptor_limit, server
from bench.report import Report, console, machine, ratio
from tests.servers import Server

CAP = 10
STATEMENT = "SELECT SLEEP(0.005)"


def crowd(flavour: str, count: int) -> Report:
    """Measure and return the table."""
    raise_descriptor_limit(count + 200)
    with server(flavour, 100) as backend:
        with console.status(f"{count} statements over {CAP} direct connections"), peak(backend) as direct_peak:
            direct = _run(backend.port, CAP, -(-count // CAP))
        with mybouncer(backend.url, CAP, queue__timeout="120s") as middle, peak(backend) as pooled_peak:
            assert middle.pid is not None
            with console.status(f"{count} clients on a cap of {CAP}"):
                before = cpu_seconds(middle.pid)
                pooled = _run(middle.port, count, 1)
                used = cpu_seconds(middle.pid) - before
        version = backend.version
    report = Report(
        f"crowd-{flavour}",
        f"{count} clients at once on a cap of {CAP}, one statement of 5 ms each, {flavour}",
        ("", "seconds", "of direct", "errors", "slowest s", "peak on server"),
        notes=[
            f"Statement: `{STATEMENT}`. Peak: the account's connections in the processlist, sampled all the time.",
            f"CPU of mybouncer, with the {count} logins: {used:.2f} s.",
        ],
        machine=machine(f"{flavour} {version}"),
    )
    for name, said, seen in (
        (f"{CAP} direct connections", direct, direct_peak),
        (f"{count} clients through mybouncer", pooled, pooled_peak),
    ):
        failed = "; ".join(f"{number} × {text}" for text, number in said["errors"].items())
        cells = (f"{said['seconds']:.2f}", ratio(said["seconds"], direct["seconds"]), failed or "0")
        report.rows.append((name, *cells, f"{said['slowest']:.2f}", f"{seen[0]} of {CAP}"))
    return report


def _run(port: int, count: int, repeat: int) -> dict[str, Any]:
    with clients("crowd", port, count, STATEMENT, repeat) as process:
        process.hear()
        process.go()
        return process.hear()


@contextlib.contextmanager
def peak(backend: Server) -> Iterator[list[int]]:
    """Count the account's connections on the server all the time; the list holds the highest count."""
    highest, done = [0], threading.Event()

    def sample() -> None:
        query = f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{USER}'"
        with contextlib.closing(backend.admin()) as connection, connection.cursor() as cursor:
            while not done.wait(0.005):
                cursor.execute(query)
                highest[0] = max(highest[0], int(cursor.fetchone()[0]))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()
