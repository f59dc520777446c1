"""The processes that are measured: a relay, the pooler, and how much CPU and memory a process has used.

Everything started here ends with this process, in good order at the end of a `with` block and else by the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pymysql

from bench.cores import layout, pin
from tests.servers import Server, die_with_parent, find_server, free_port, start_server, wait_until

ROOT = Path(__file__).parents[1]
USER, PASSWORD, SCHEMA = "app", "app-secret", "test"
_START, _STOP = 15.0, 10.0


class BenchError(Exception):
    """A measurement cannot be made; the text says why."""


@dataclass(frozen=True)
class Middle:
    """A process between the clients and the server, or the server itself (`pid` is None then)."""

    name: str
    port: int
    pid: int | None = None
    http_port: int | None = None


@dataclass(frozen=True)
class Run:
    """What one run of clients showed; a unit is a statement, a connection or a row."""

    per_second: float
    cpu: float  # seconds of the process in the middle, per unit
    p99_ms: float = 0.0
    client_cpu: float = 0.0  # seconds of the clients' process, per unit
    server_cpu: float = 0.0
    restores: float = 0.0  # how often a connection was brought into a client's settings, per unit

    @property
    def whole_cpu(self) -> float:
        """Of clients, middle and server."""
        return self.client_cpu + self.cpu + self.server_cpu

    @property
    def time(self) -> float:
        """Seconds per unit, over all clients."""
        return 1 / self.per_second


def cpu_seconds(pid: int) -> float:
    """User and system time that the process has used, all threads, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3): it has no name in Python


def prime(port: int) -> None:
    """Log in once: MySQL wants one complete login per account, and a run shall not contain it."""
    pymysql.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD, database=SCHEMA).close()


def resident_bytes(pid: int) -> int:
    """Resident memory of the process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"process {pid} has ended")


def metrics(middle: Middle) -> dict[str, float]:
    """The pooler's metrics, by their names as written there."""
    with _http(f"http://127.0.0.1:{middle.http_port}/metrics") as answer:
        lines = [line for line in answer.read().decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def restores(middle: Middle) -> float:
    """How often it has brought a connection into a client's settings; nothing if it is no pooler of ours."""
    if middle.http_port is None:
        return 0.0
    return sum(value for name, value in metrics(middle).items() if name.startswith("mybouncer_restores_total"))


def raise_descriptor_limit(wanted: int) -> int:
    """Let this process and its children open as many files as allowed; say how many, refuse if too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchError(f"needs {wanted} open files in one process, this machine allows {hard} (ulimit -Hn)")
    return wanted


@contextlib.contextmanager
def server(flavour: str, max_connections: int, **options: object) -> Iterator[Server]:
    """A server of our own."""
    if find_server(flavour) is None:
        raise BenchError(f"there is no {flavour} server on this machine; `make bench` installs it")
    one = start_server(flavour, max_connections=max_connections, **options)
    try:
        yield one
    finally:
        one.remove()


@contextlib.contextmanager
def haproxy(backend_port: int, *, certificate: Path | None = None) -> Iterator[Middle]:
    """HAProxy as a TCP relay in one thread: plain, or with TLS to the clients."""
    secure = f" ssl crt {certificate}" if certificate else ""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="mybouncer-bench-") as directory:
        configuration = Path(directory) / "haproxy.cfg"
        configuration.write_text(
            "global\n  nbthread 1\n  maxconn 4000\n"
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
            f"listen relay\n  bind 127.0.0.1:{port}{secure}\n  server one 127.0.0.1:{backend_port}\n"
        )
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin"
        argv = ["haproxy", "-db", "-f", str(configuration)]
        with _process(argv, Path(directory) / "log", {"PATH": path}) as process:
            _wait_listening(process, port, Path(directory) / "log")
            pin(process.pid, layout().middle)
            yield Middle("HAProxy", port, process.pid)


@contextlib.contextmanager
def uvloop_terminator(backend_port: int, certificate: Path) -> Iterator[Middle]:
    """The event loop's TLS towards clients, and a relay behind it (bench.terminator)."""
    port = free_port()
    argv = [sys.executable, "-m", "bench.terminator", str(port), str(backend_port), str(certificate)]
    with tempfile.TemporaryDirectory(prefix="mybouncer-bench-") as directory:
        log = Path(directory) / "log"
        with _process(argv, log, dict(os.environ)) as process:
            _wait_listening(process, port, log)
            pin(process.pid, layout().middle)
            yield Middle("uvloop", port, process.pid)


def commit(revision: str) -> str:
    """The short name of a revision of the project. Raises BenchError if there is none."""
    return _git("rev-parse", "--short", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A directory with the package `proxy` as it is in a revision."""
    with tempfile.TemporaryDirectory(prefix="mybouncer-bench-") as directory:
        subprocess.run(["tar", "-x", "-C", directory], input=_git("archive", revision, "proxy"), check=True)
        yield Path(directory)


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"git {' '.join(arguments)} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


@contextlib.contextmanager
def mybouncer(
    url: str, cap: int, *, name: str = "mybouncer", root: Path = ROOT, python: Sequence[str] = (), **settings: str
) -> Iterator[Middle]:
    """The pooler of the checkout in `root`, as people start it; with options for `python`.

    Settings are `section__key="value"`.
    """
    port, http_port = free_port(), free_port()
    argv = [sys.executable, *python, "-m", "proxy", "serve", "--backend", url, "--listen", f"127.0.0.1:{port}"]
    argv += ["--http", f"127.0.0.1:{http_port}", "--max-connections", str(cap)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MYBOUNCER_")}
    environment |= {f"MYBOUNCER_{key.upper()}": value for key, value in settings.items()}
    environment |= {"MYBOUNCER_LISTEN__DRAIN_TIMEOUT": "1s"}
    if (root / "proxy" / "relay" / "tls.py").exists():  # a revision without TLS refuses the key
        environment |= {"MYBOUNCER_TLS__BACKEND__MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="mybouncer-bench-") as directory:
        log = Path(directory) / "log"
        with _process(argv, log, environment, root) as process:
            _wait_ready(process, http_port, log)
            pin(process.pid, layout().middle)
            yield Middle(name, port, process.pid, http_port)


@contextlib.contextmanager
def _process(
    argv: list[str], log: Path, environment: dict[str, str], directory: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                argv,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )
        except FileNotFoundError:
            raise BenchError(f"there is no {argv[0]} on this machine; `make bench` installs it") from None
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Clients:
    """Clients in a process of their own (bench.wire); a step is a line in and a line of JSON out."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def hear(self) -> dict[str, Any]:
        """What it says next. Raises BenchError when it failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {"failed": "the clients' process has ended"}
        if "failed" in said:
            raise BenchError(str(said["failed"]))
        return said

    def go(self) -> None:
        """Let it take the next step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def clients(*arguments: object, module: str = "bench.wire") -> Iterator[Clients]:
    """Start `python -m bench.wire`, or another module, with these arguments."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    with process:
        try:
            yield Clients(process)
        finally:
            process.kill()


def _alive(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        raise BenchError(
            f"ended with {process.returncode} while it started:\n{log.read_text(errors='replace')[-3000:]}"
        )


def _wait_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    # Looks at the kernel's list: a relay would pass a test connection on to the server, which counts it as a bad one.
    def listens() -> bool:
        _alive(process, log)
        rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
        return any(f":{port:04X} " in row[:25] and row.split()[3] == "0A" for row in rows)

    wait_until(listens, _START, f"port {port} listens")


def _wait_ready(process: subprocess.Popen[bytes], http_port: int, log: Path) -> None:
    def ready() -> bool:
        _alive(process, log)
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError),
            _http(f"http://127.0.0.1:{http_port}/readyz") as answer,
        ):
            return bool(answer.status == 200)
        return False

    wait_until(ready, _START, "the pooler is ready")


def _http(url: str) -> HTTPResponse:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer: HTTPResponse = opener.open(url, timeout=10)
    return answer
