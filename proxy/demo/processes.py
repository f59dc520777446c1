"""The two servers of the demonstration: a MariaDB of its own, and the pooler as people start it.

Both are children in sessions of their own (Ctrl-C is for the demonstration, which then ends them), both write their
log into the demonstration's directory, and the kernel ends them should the demonstration be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import proxy
from proxy.address import Address
from proxy.relay.connect import NOTHING, Dialer, Refused
from proxy.relay.stream import PeerGone

_SEARCH = ("/usr/sbin", "/usr/libexec", "/usr/local/sbin", "/usr/local/bin")
_INSTALL = (
    "the demonstration needs a MariaDB server, and there is no {missing} here.\n"
    "  Debian, Ubuntu:  sudo apt-get install mariadb-server\n"
    "  Fedora, RHEL:    sudo dnf install mariadb-server\n"
    "  macOS:           brew install mariadb\n"
    "It starts one of its own in a temporary directory and touches no other."
)
_START, _STOP = 60.0, 5.0
_PR_SET_PDEATHSIG = 1
_T = TypeVar("_T")


class DemoError(Exception):
    """The demonstration cannot go on; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Where MariaDB's programs are."""

    server: str
    install: str


@dataclass(frozen=True, slots=True)
class Mariadb:
    """A running server. `extra_port` has room when all connections of `port` are taken."""

    port: int
    extra_port: int
    socket: str
    process: asyncio.subprocess.Process


@dataclass(frozen=True, slots=True)
class Pooler:
    """A running pooler."""

    port: int
    http: str
    process: asyncio.subprocess.Process


def find_mariadb() -> Programs:
    """MariaDB's programs; raises DemoError with how to get them."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SEARCH))
    found = {name: shutil.which(name, path=path) for name in ("mariadbd", "mariadb-install-db")}
    server, install = found["mariadbd"], found["mariadb-install-db"]
    if server is None or install is None:
        raise DemoError(_INSTALL.format(missing=" and no ".join(name for name, at in found.items() if at is None)))
    return Programs(server, install)


@contextlib.asynccontextmanager
async def mariadb(programs: Programs, directory: Path, max_connections: int) -> AsyncIterator[Mariadb]:
    """A MariaDB with an empty data directory, whose `root` has no password on its socket."""
    data, log = directory / "data", directory / "mariadb.log"
    # Options that both programs know; the machine's own configuration is none of ours.
    common = ["--no-defaults", f"--datadir={data}", "--innodb-log-file-size=16M", *_as_root()]
    # A server that starts removes every temporary table it finds in its tmpdir, those of running ones as well.
    environment = os.environ | {"TMPDIR": str(directory)}
    # --force: also where the machine's own host name does not resolve.
    create = [*common, "--auth-root-authentication-method=normal", "--skip-test-db", "--force"]
    async with _child([programs.install, *create], log, environment=environment, end_with=signal.SIGKILL) as process:
        if await process.wait() != 0:
            raise DemoError(f"mariadb-install-db failed:\n{_end_of(log)}")
    for attempt in range(3):
        port, extra_port, path = _free_port(), _free_port(), str(directory / "s")
        argv = [
            programs.server,
            *common,
            f"--socket={path}",
            "--bind-address=127.0.0.1",
            f"--port={port}",
            f"--extra-port={extra_port}",
            "--extra-max-connections=2",
            f"--max-connections={max_connections}",
            f"--pid-file={directory / 'pid'}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--skip-slave-start",
            "--innodb-buffer-pool-size=32M",
            "--innodb-use-native-aio=0",
        ]
        log.unlink(missing_ok=True)
        # Its data goes with it: there is nothing that it should write before it ends.
        async with _child(argv, log, environment=environment, end_with=signal.SIGKILL) as process:
            try:
                await _until(partial(_answers, path), process, log, "MariaDB")
            except DemoError:
                # Between choosing a port and taking it, somebody else may have taken it.
                if attempt < 2 and "bind on tcp/ip port" in _end_of(log).lower():
                    continue
                raise
            yield Mariadb(port, extra_port, path, process)
            return


@contextlib.asynccontextmanager
async def pooler(server_port: int, directory: Path, cap: int) -> AsyncIterator[Pooler]:
    """`mybouncer serve` in front of that server, on ports that the kernel chooses."""
    log = directory / "mybouncer.log"
    argv = [sys.executable, "-m", "proxy", "serve", "--backend", f"mysql://127.0.0.1:{server_port}"]
    argv += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--max-connections", str(cap)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MYBOUNCER_")}
    environment |= {"MYBOUNCER_LOG__FORMAT": "json", "MYBOUNCER_LISTEN__DRAIN_TIMEOUT": "1s"}
    async with _child(argv, log, environment=environment) as process:
        event = await _until(partial(_listening, log), process, log, "mybouncer")
        yield Pooler(int(event["addresses"].rpartition(":")[2]), event["http"], process)


async def _listening(log: Path) -> dict[str, str] | None:
    """What the pooler says in its log about where it listens, once it does."""
    for line in _lines(log):
        with contextlib.suppress(ValueError):
            event: dict[str, str] = json.loads(line)
            if event.get("event") == "listening":
                return event
    return None


async def _answers(path: str) -> bool:
    try:
        login = await Dialer(Address(unix_path=path)).connect(b"root", NOTHING, 0, 45, [])
    except (OSError, PeerGone, Refused):
        return False
    login.transport.close()
    return True


async def _until(
    look: Callable[[], Awaitable[_T | None]], process: asyncio.subprocess.Process, log: Path, name: str
) -> _T:
    """Look until there is something to see, as long as the process lives."""
    end = time.monotonic() + _START
    while not (seen := await look()):
        if process.returncode is not None:
            raise DemoError(f"{name} ended while it started:\n{_end_of(log)}")
        if time.monotonic() > end:
            raise DemoError(f"{name} did not answer within {_START:g} s:\n{_end_of(log)}")
        await asyncio.sleep(0.02)
    return seen


@contextlib.asynccontextmanager
async def _child(
    argv: list[str], log: Path, *, environment: dict[str, str] | None = None, end_with: int = signal.SIGTERM
) -> AsyncIterator[asyncio.subprocess.Process]:
    with _appended(log) as output:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            cwd=Path(proxy.__file__).parents[1],  # where `-m proxy` is this one
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    try:
        yield process
    finally:
        await _end(process, end_with)


async def _end(process: asyncio.subprocess.Process, number: int) -> None:
    """End it and everything it has started, and wait for all of them: their directory is about to go.

    Its process group is its own and has its id, which nobody else can get as long as one of the group is there.
    """
    if process.returncode is None and number != signal.SIGKILL:
        process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP)
    end = time.monotonic() + _STOP
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(process.pid, signal.SIGKILL)
            await asyncio.sleep(0.005)
    await process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _appended(log: Path) -> IO[bytes]:
    return open(log, "ab")


def _lines(log: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return log.read_text(errors="replace").splitlines()
    return []


def _end_of(log: Path) -> str:
    return "\n".join(f"  {line}" for line in _lines(log)[-15:])
