"""Point selects of sysbench: directly, through HAProxy as a TCP relay, through mybouncer. All in one run, interleaved.

Absolute numbers are the machine's; the ratios are what can be compared. CPU per statement is that of the process in
the middle (user and system), with its logins in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pymysql

from bench.processes import PASSWORD, SCHEMA, USER, BenchError, Middle, cpu_seconds, haproxy, mybouncer, server
from bench.report import Report, console, first_line, machine, quiet
from tests.servers import Server

BACKENDS = 8
TARGETS = ("direct", "HAProxy", "mybouncer")
MODES = {"text": "disable", "prepared": "auto"}
_ROWS = 10_000


@dataclass(frozen=True)
class Run:
    """What one run of sysbench showed."""

    per_second: float
    p99_ms: float
    cpu_us: float  # of the process in the middle, per statement


Key = tuple[str, int, str]  # mode, clients, target


def compare(
    flavour: str,
    *,
    modes: Sequence[str] = tuple(MODES),
    clients: Sequence[int] = (8, 64, 256),
    targets: Sequence[str] = TARGETS,
    seconds: int = 6,
    rounds: int = 3,
    quick: bool = False,
) -> Report:
    """Measure and return the table; nothing is written."""
    others = quiet()
    runs: dict[Key, list[Run]] = defaultdict(list)
    with points(flavour) as backend, contextlib.ExitStack() as stack:
        middles = list(start(targets, backend, stack))
        for number in range(rounds):
            for mode in modes:
                for count in clients:
                    # Every other round backwards: what warms up or wears off favours nobody.
                    for middle in middles if number % 2 == 0 else reversed(middles):
                        with console.status(f"round {number + 1} of {rounds}: {mode}, {count} clients, {middle.name}"):
                            runs[mode, count, middle.name].append(sysbench(middle, mode, count, seconds))
        version = backend.version
    report = _report(flavour, version, others, runs, seconds, rounds)
    if quick:
        report.notes += _against_last_time(flavour, runs)
    return report


@contextlib.contextmanager
def points(flavour: str) -> Iterator[Server]:
    """A server with the table that the point selects read."""
    if shutil.which("sysbench") is None:
        raise BenchError("there is no sysbench on this machine; `make bench` installs it")
    with server(flavour, 600) as backend:
        prime(backend.port)
        _sysbench(Middle("direct", backend.port), "prepare")
        yield backend


def start(targets: Iterable[str], backend: Server, stack: contextlib.ExitStack) -> Iterator[Middle]:
    """Start what stands in the middle."""
    for target in targets:
        if target == "direct":
            yield Middle(target, backend.port)
            continue
        one = haproxy(backend.port) if target == "HAProxy" else mybouncer(backend.url, BACKENDS)
        middle = stack.enter_context(one)
        prime(middle.port)
        yield middle


def sysbench(middle: Middle, mode: str, clients: int, seconds: int) -> Run:
    """One run of point selects."""
    before = cpu_seconds(middle.pid) if middle.pid else 0.0
    output = _sysbench(
        middle,
        f"--threads={clients}",
        f"--time={seconds}",
        "--percentile=99",
        f"--db-ps-mode={MODES[mode]}",
        "run",
    )
    used = cpu_seconds(middle.pid) - before if middle.pid else 0.0
    count, per_second = _numbers(r"queries:\s+(\d+)\s+\(([\d.]+) per sec", output)
    (p99,) = _numbers(r"99th percentile:\s+([\d.]+)", output)
    (errors,) = _numbers(r"ignored errors:\s+(\d+)", output)
    if errors:
        raise BenchError(f"{errors:.0f} statements failed through {middle.name}")
    return Run(per_second, p99, used / count * 1e6)


def _sysbench(middle: Middle, *arguments: str) -> str:
    argv = [
        "sysbench",
        "oltp_point_select",
        "--mysql-host=127.0.0.1",
        f"--mysql-port={middle.port}",
        f"--mysql-user={USER}",
        f"--mysql-password={PASSWORD}",
        f"--mysql-db={SCHEMA}",
        "--tables=1",
        f"--table-size={_ROWS}",
        *arguments,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"sysbench {arguments[-1]} through {middle.name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def prime(port: int) -> None:
    """Log in once: MySQL wants one complete login per account, and a run shall not contain it."""
    pymysql.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD, database=SCHEMA).close()


def _numbers(pattern: str, text: str) -> tuple[float, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise BenchError(f"sysbench says something unexpected:\n{text}")
    return tuple(map(float, match.groups()))


def _median(runs: list[Run]) -> Run:
    return Run(
        statistics.median(run.per_second for run in runs),
        statistics.median(run.p99_ms for run in runs),
        statistics.median(run.cpu_us for run in runs),
    )


def _times(runs: list[Run], base: list[Run], what: str) -> float:
    """How many times the base: the median of the rounds' ratios, since rounds differ more than what is compared."""
    pairs = [(getattr(run, what), getattr(other, what)) for run, other in zip(runs, base, strict=True)]
    return statistics.median(value / other for value, other in pairs) if all(other for _, other in pairs) else 0.0


def _report(
    flavour: str, version: str, others: str, results: dict[Key, list[Run]], seconds: int, rounds: int
) -> Report:
    report = Report(
        f"compare-{flavour}",
        f"Point selects on {flavour}, {BACKENDS} backends",
        ("mode, clients", "through", "stmt/s", "p99 ms", "of direct", "CPU µs", "of HAProxy"),
    )
    for (mode, clients, target), runs in results.items():
        direct, relay = results.get((mode, clients, "direct")), results.get((mode, clients, "HAProxy"))
        run = _median(runs)
        report.rows.append(
            (
                f"{mode}, {clients}",
                target,
                f"{run.per_second:,.0f}",
                f"{run.p99_ms:.2f}",
                f"{_times(runs, direct, 'p99_ms'):.2f}×" if direct else "–",
                f"{run.cpu_us:.1f}" if run.cpu_us else "–",
                f"{_times(runs, relay, 'cpu_us'):.2f}×" if relay and run.cpu_us else "–",
            )
        )
    report.notes.append(
        f"Median of {rounds} round{'s' if rounds != 1 else ''} of {seconds} s each, interleaved. "
        "CPU is user + system time of the process in the middle, per statement; ratios are medians of the rounds'."
    )
    report.machine = machine(
        f"{flavour} {version}",
        others,
        first_line("haproxy", "-v").partition(" - ")[0],
        first_line("sysbench", "--version"),
    )
    return report


def _against_last_time(flavour: str, results: dict[Key, list[Run]]) -> list[str]:
    """What has changed since the last quick run, from the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mybouncer" / "bench-quick.json"
    known: dict[str, list[float]] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
    notes = []
    for (mode, clients, target), runs in results.items():
        if target != "mybouncer":
            continue
        run, relay = _median(runs), results.get((mode, clients, "HAProxy"))
        now = [run.cpu_us, _times(runs, relay, "cpu_us") if relay else 0.0, run.per_second, run.p99_ms]
        name = f"{flavour} {mode} {clients}"
        last = known.get(name)
        if last:
            notes.append(
                f"last time -> now ({name}): CPU {last[0]:.1f} -> {now[0]:.1f} µs ({now[0] / last[0] - 1:+.1%}), "
                f"of HAProxy's {last[1]:.2f}× -> {now[1]:.2f}×, {last[2]:,.0f} -> {now[2]:,.0f}/s"
            )
        known[name] = now
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(known))
    return notes
