"""Real servers for the tests: private ones, started from a prepared data directory, gone when the test run is.

Every server has its own data directory under the temporary directory, a port and a unix socket of its own; none of
them reads the machine's configuration or touches a server that runs there. What takes long (creating the system
tables and the accounts) is done once per server version in a template below the user's cache directory and copied.

On its socket `root` has every privilege and no password. The accounts, for every host:

    app / app-secret          all on test and test2, and PROCESS; the server's default authentication plugin
    app2 / app2-secret        all on test
    nopass                    all on test; its password is empty
    locked / locked-secret    all on test; ACCOUNT LOCK
    limited / limited-secret  all on test; MAX_USER_CONNECTIONS 3
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

FLAVOURS = ("mariadb", "mysql")
MARIADB_11_8 = "mariadb_11_8"  # for what the system's MariaDB is too old for: parsec, certificates known by their hash

ACCOUNTS = (
    "CREATE DATABASE IF NOT EXISTS test",
    "CREATE DATABASE IF NOT EXISTS test2",
    "CREATE USER app@'%' IDENTIFIED BY 'app-secret'",
    "CREATE USER app2@'%' IDENTIFIED BY 'app2-secret'",
    "CREATE USER nopass@'%' IDENTIFIED BY ''",
    "CREATE USER locked@'%' IDENTIFIED BY 'locked-secret' ACCOUNT LOCK",
    "CREATE USER limited@'%' IDENTIFIED BY 'limited-secret' WITH MAX_USER_CONNECTIONS 3",
    *(f"GRANT ALL ON test.* TO {name}@'%'" for name in ("app", "app2", "nopass", "locked", "limited")),
    "GRANT ALL ON test2.* TO app@'%'",
    "GRANT PROCESS ON *.* TO app@'%'",
)

_COMMON_OPTIONS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-fast-shutdown=2",
    "--innodb-use-native-aio=0",
    "--local-infile=1",
    "--max-allowed-packet=64M",
    "--general-log=0",
    "--secure-file-priv=",
    "--log-error=error.log",
)
_OPTIONS = {
    "mariadb": ("--skip-log-bin", "--innodb-log-file-size=16M", "--skip-slave-start"),
    "mysql": ("--disable-log-bin", "--innodb-redo-log-capacity=32M", "--mysqlx=OFF"),
}

_START_DEADLINE = 60.0
_STOP_DEADLINE = 20.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ServerError(RuntimeError):
    """A server did not start or stop; the text holds the end of its log."""


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when the thread that started it ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def wait_until(condition: Callable[[], object], deadline: float, what: str, every: float = 0.01) -> None:
    """Polls until the condition holds, `every` so many seconds; raises TimeoutError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline:g} s: {what}")
        time.sleep(every)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on.

    It lies outside the range the kernel takes the local ports of outgoing connections from: else one of a test's
    thousands of connections could hold it by the time a restarted server wants it back.
    """
    try:
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except OSError:
        low, high = 32768, 60999
    candidates: list[int] = [*range(10000, low), *range(high + 1, 65536)] or [*range(10000, 65536)]
    for port in random.sample(candidates, min(200, len(candidates))):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise ServerError("found no free TCP port")


_FINDERS = {"mysql": "mysql-server", MARIADB_11_8: "mariadb-server"}  # in scripts/


@functools.cache
def _programs(flavour: str) -> str:
    """Where to look for the flavour's programs; nothing if they are not on this machine."""
    if flavour not in _FINDERS:
        return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    script = Path(__file__).parents[1] / "scripts" / _FINDERS[flavour]
    return subprocess.run([script, "--find"], capture_output=True, text=True, check=False).stdout.strip()


def _maker(flavour: str) -> str:
    return flavour.partition("_")[0]


def _program(flavour: str, *names: str) -> str | None:
    path = _programs(flavour)
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def find_server(flavour: str) -> str | None:
    """The path of the server program, or None if this machine does not have it."""
    return _program(flavour, "mariadbd" if _maker(flavour) == "mariadb" else "mysqld")


def find_client(flavour: str) -> list[str] | None:
    """How to call the command line client (`mariadb` or `mysql`) without the machine's option files."""
    return _without_defaults(_program(flavour, _maker(flavour)))


def find_dump(flavour: str) -> list[str] | None:
    """The same for the program that dumps databases."""
    return _without_defaults(_program(flavour, "mariadb-dump" if _maker(flavour) == "mariadb" else "mysqldump"))


def _without_defaults(program: str | None) -> list[str] | None:
    return [program, "--no-defaults"] if program else None


@functools.cache
def server_version(flavour: str) -> str:
    """What the server program says about itself, in one line."""
    binary = _require(flavour)
    return subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def _require(flavour: str) -> str:
    binary = find_server(flavour)
    if binary is None:
        raise ServerError(f"there is no {flavour} server on this machine; `make test` installs it")
    return binary


@dataclass(eq=False)
class Server:
    """One server process; it keeps port, socket and data directory over a restart."""

    flavour: str
    directory: Path
    port: int
    extra_args: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    detached: bool = False
    host: str = "127.0.0.1"
    inside: tuple[str, ...] = ()  # what the server's command is put behind
    version: str = ""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        return str(self.directory / "socket")

    @property
    def datadir(self) -> Path:
        return self.directory / "data"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError(f"{self!r} was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def url(self) -> str:
        return f"mysql://{self.host}:{self.port}"

    def __repr__(self) -> str:
        state = f"pid {self.pid}" if self.running else "stopped"
        return f"<{self.flavour} {self.version} on port {self.port}, {state}>"

    def log(self) -> str:
        """The server's own error log."""
        with contextlib.suppress(FileNotFoundError):
            return (self.datadir / "error.log").read_text(errors="replace")
        return ""

    def start(self, **options: object) -> None:
        """Starts the server and waits until it answers; options (`max_connections=5`) stay for later starts."""
        if self.running:
            raise ServerError(f"{self!r} runs already")
        self.options |= options
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in self.options.items()]
        argv = [
            *self.inside,
            _require(self.flavour),
            "--no-defaults",
            *_as_this_user(),
            *_COMMON_OPTIONS,
            *_OPTIONS[_maker(self.flavour)],
            f"--datadir={self.datadir}",
            f"--socket={self.socket}",
            f"--pid-file={self.directory / 'pid'}",
            # A server that starts removes every temporary table it finds in its tmpdir, those of running ones as well.
            f"--tmpdir={self.directory}",
            f"--port={self.port}",
            *settings,
            *self.extra_args,
        ]
        with open(self.directory / "output.log", "ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops its servers
                preexec_fn=None if self.detached else die_with_parent,
            )
        try:
            wait_until(self._answers, _START_DEADLINE, f"{self!r} answers")
        except TimeoutError as error:
            self.kill(signal.SIGKILL)
            raise ServerError(f"{error}\n{self._complaint()}") from None

    def _answers(self) -> bool:
        if not self.running:
            raise ServerError(f"{self.flavour} ended while it started\n{self._complaint()}")
        with contextlib.suppress(pymysql.err.OperationalError):
            self.version = str(self.execute("SELECT VERSION()")[0][0])
            return True
        return False

    def _complaint(self) -> str:
        output = (self.directory / "output.log").read_text(errors="replace")
        return output[-2000:] + self.log()[-6000:]

    def stop(self) -> None:
        """Asks the server to end and waits; kills it when it takes too long. Harmless if it does not run."""
        if self._process is None or not self.running:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(_STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill(signal.SIGKILL)

    def restart(self, **options: object) -> None:
        """Stops and starts it, with the same port and data."""
        self.stop()
        self.start(**options)

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Sends a signal; after SIGKILL it also waits for the end."""
        if self._process is None or not self.running:
            return
        self._process.send_signal(sig)
        if sig == signal.SIGKILL:
            self._process.wait(_STOP_DEADLINE)

    def remove(self) -> None:
        """Stops the server and deletes its data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def admin(self, **options: Any) -> pymysql.connections.Connection[Any]:
        """A connection of root over the unix socket, in autocommit mode."""
        defaults: dict[str, Any] = {"user": "root", "autocommit": True, "connect_timeout": 10, "read_timeout": 60}
        return pymysql.connect(unix_socket=self.socket, **(defaults | options))

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Executes statements as root on one new connection; gives the rows of the last one."""
        with contextlib.closing(self.admin()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())


def start_server(
    flavour: str,
    *,
    max_connections: int = 100,
    extra_args: tuple[str, ...] = (),
    detached: bool = False,
    host: str = "127.0.0.1",
    inside: tuple[str, ...] = (),
    **options: object,
) -> Server:
    """Starts a server with a new data directory on a free port.

    Unless `detached`, it ends with this process: at exit in good order, else by the kernel. Call from a thread that
    lives as long as the server shall, the main thread as a rule.
    """
    template = _template(flavour)
    directory = Path(tempfile.mkdtemp(prefix=f"mybouncer-{flavour}-"))
    directory.chmod(0o755)
    _copy(template, directory / "data")
    server = Server(flavour, directory, free_port(), extra_args, detached=detached, host=host, inside=inside)
    if not detached:
        atexit.register(server.remove)
    try:
        _start_on_free_port(server, max_connections=max_connections, **options)
    except BaseException:
        server.remove()
        raise
    return server


def _start_on_free_port(server: Server, **options: object) -> None:
    for attempt in range(5):
        try:
            return server.start(**options)
        except ServerError as error:
            # Between choosing the port and taking it, somebody else may have taken it.
            if attempt == 4 or "bind on tcp/ip port" not in str(error).lower():
                raise
            (server.datadir / "error.log").unlink(missing_ok=True)
            server.port = free_port()
    return None


def _as_this_user() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", "--reflink=auto", source, target], check=True)


def cache_directory() -> Path:
    """Where what is made once and used by every run is kept: the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mybouncer"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file: of several processes that want to make the same thing, one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _template(flavour: str) -> Path:
    """A data directory with the accounts, made when there is none for this version and these accounts yet."""
    recipe = repr((server_version(flavour), ACCOUNTS, _COMMON_OPTIONS, _OPTIONS[_maker(flavour)], os.geteuid()))
    template = cache_directory() / f"data-{flavour}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with locked(template.with_suffix(".lock")):
        if not template.exists():
            _make_template(flavour, template)
    return template


def _make_template(flavour: str, template: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix=f"mybouncer-{flavour}-"))
    server = Server(flavour, directory, free_port())
    try:
        _initialise(flavour, server.datadir)
        # A data directory that is copied has to be at rest: the log applied, not merely written.
        server.start(skip_networking=1, innodb_fast_shutdown=0)
        server.execute(*ACCOUNTS)
        server.stop()
        for name in ("auto.cnf", "error.log"):  # its identity and its history are not the copies'
            (server.datadir / name).unlink(missing_ok=True)
        unfinished = template.with_suffix(".building")
        shutil.rmtree(unfinished, ignore_errors=True)
        _copy(server.datadir, unfinished)
        unfinished.rename(template)
    finally:
        server.remove()


def _initialise(flavour: str, datadir: Path) -> None:
    binary = _require(flavour)
    if _maker(flavour) == "mysql":
        size = "--innodb-redo-log-capacity=32M"
        argv = [binary, "--no-defaults", *_as_this_user(), "--initialize-insecure", f"--datadir={datadir}", size]
    else:
        script = _program(flavour, "mariadb-install-db", "mysql_install_db")
        if script is None:
            raise ServerError("mariadb-install-db is missing beside mariadbd")
        argv = [
            script,
            "--no-defaults",
            *_as_this_user(),
            f"--datadir={datadir}",
            "--auth-root-authentication-method=normal",
            "--force",  # even where the machine's own host name does not resolve
            "--skip-test-db",  # also leaves out the anonymous accounts, which would hide ours from localhost
            "--innodb-log-file-size=16M",
        ]
    done = subprocess.run(
        argv,
        env=os.environ | {"TMPDIR": str(datadir.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        raise ServerError(f"{argv[0]} failed:\n{done.stdout.decode(errors='replace')[-6000:]}")
