"""Load by sysbench: its own point selects, and what bench/load.lua adds to them."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.processes import PASSWORD, SCHEMA, USER, BenchError, Middle, Run, cpu_seconds, prime, restores, server
from tests.servers import Server

ROWS = 10_000
_LOAD = str(Path(__file__).parent / "load.lua")


@contextlib.contextmanager
def points(flavour: str) -> Iterator[Server]:
    """A server with the table that is read."""
    if shutil.which("sysbench") is None:
        raise BenchError("there is no sysbench on this machine; `make bench` installs it")
    with server(flavour, 600) as backend:
        prime(backend.port)
        _sysbench(Middle("direct", backend.port), "oltp_point_select", "--tables=1", "prepare")
        yield backend


def point_selects(middle: Middle, clients: int, seconds: int, *, prepared: bool) -> Run:
    """`SELECT c FROM sbtest1 WHERE id=…`, as text or as a prepared statement."""
    mode = "auto" if prepared else "disable"
    return _run(middle, clients, seconds, "oltp_point_select", "--tables=1", f"--db-ps-mode={mode}")


def load(middle: Middle, clients: int, seconds: int, *, statement: str) -> Run:
    """One of the statements of load.lua."""
    return _run(middle, clients, seconds, _LOAD, f"--statement={statement}")


def _run(middle: Middle, clients: int, seconds: int, *arguments: str) -> Run:
    restored = restores(middle)
    before = cpu_seconds(middle.pid) if middle.pid else 0.0
    output = _sysbench(middle, *arguments, f"--threads={clients}", f"--time={seconds}", "--percentile=99", "run")
    used = cpu_seconds(middle.pid) - before if middle.pid else 0.0
    count, per_second = _numbers(r"transactions:\s+(\d+)\s+\(([\d.]+) per sec", output)
    (p99,) = _numbers(r"99th percentile:\s+([\d.]+)", output)
    (errors,) = _numbers(r"ignored errors:\s+(\d+)", output)
    if errors:
        raise BenchError(f"{errors:.0f} statements failed through {middle.name}")
    return Run(per_second, used / count, p99, restores=(restores(middle) - restored) / count)


def _sysbench(middle: Middle, script: str, *arguments: str) -> str:
    argv = [
        "sysbench",
        script,
        "--mysql-host=127.0.0.1",
        f"--mysql-port={middle.port}",
        f"--mysql-user={USER}",
        f"--mysql-password={PASSWORD}",
        f"--mysql-db={SCHEMA}",
        f"--table-size={ROWS}",
        *arguments,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"sysbench {arguments[-1]} through {middle.name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _numbers(pattern: str, text: str) -> tuple[float, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise BenchError(f"sysbench says something unexpected:\n{text}")
    return tuple(map(float, match.groups()))
