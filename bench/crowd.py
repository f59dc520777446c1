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
    direct, pooled, used = [], [], []
    with (
        server(flavour, 100) as backend,
        mybouncer(backend.url, CAP, queue__timeout="120s") as middle,
        peak(backend) as highest,
    ):
        assert middle.pid is not None
        for number in range(ROUNDS):
            with console.status(f"round {number + 1} of {ROUNDS}: {CAP} direct connections"):
                direct.append(_run(backend.port, CAP, count // CAP))
            highest[0] = 0 if number == 0 else highest[0]  # from now on the pooler's connections are there
            with console.status(f"round {number + 1} of {ROUNDS}: {count} clients on a cap of {CAP}"):
                before = cpu_seconds(middle.pid)
                pooled.append(_run(middle.port, count, 1))
                used.append(cpu_seconds(middle.pid) - before)
        version = backend.version
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
