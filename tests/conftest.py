"""Fixtures for tests on real servers, and the pooler as a process of its own.

`server` runs a test on MariaDB and on MySQL; `mariadb` and `mysql` are one of them, and `mariadb_11_8` is for what the
system's MariaDB is too old for. They are shared by all tests of a worker: what a test changes in them for good (global
variables, restarts), it does to a server of its own (`own_server`). `proxy(server, ...)` starts the pooler. Tests that
use any of these are marked `live`; all tests of one flavour run in one worker, so that no worker has to start a server
that another one has already.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests import servers
from tests.servers import FLAVOURS, MARIADB_11_8, Server, die_with_parent, find_server, free_port, wait_until

ROOT = Path(__file__).parents[1]
GOPATH = Path("/usr/share/gocode")
LIVE_FIXTURES = {"server", "mariadb", "mysql", "mariadb_11_8", "own_server"}
_ALL_FLAVOURS = (*FLAVOURS, MARIADB_11_8)
_PROXIES = pytest.StashKey[list["Proxy"]]()

_START_DEADLINE = 15.0
_STOP_DEADLINE = 15.0


# --- which tests are live, and where they run ---


def _flavours_of(item: pytest.Item) -> set[str]:
    params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    chosen = {params.get("server"), params.get("flavour"), *getattr(item, "fixturenames", ())}
    return {flavour for flavour in _ALL_FLAVOURS if flavour in chosen}


# Not in pytest_collection_modifyitems: xdist reads the groups there, and may be first.
def pytest_itemcollected(item: pytest.Item) -> None:
    if LIVE_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return
    item.add_marker("live")
    flavours = _flavours_of(item)
    if flavours:
        item.add_marker(pytest.mark.xdist_group("mysql" if "mysql" in flavours else "mariadb"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "xdist_group: tests that run in the same worker")


def pytest_report_header() -> list[str]:
    return [f"{flavour}: {find_server(flavour) or _absence(flavour)}" for flavour in _ALL_FLAVOURS]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    absent = [flavour for flavour in _ALL_FLAVOURS if find_server(flavour) is None]
    for flavour in absent:
        terminalreporter.write_line(f"!!! {_absence(flavour)}", red=True, bold=True)


def _absence(flavour: str) -> str:
    return f"no {flavour} server on this machine: its tests cannot run (`make test` installs it)"


def cannot_run(why: str) -> NoReturn:
    """Something that this machine should have is not there: a skip, or a failure where everything has to run."""
    if os.environ.get("TEST_REQUIRE_SERVERS", "0") not in ("", "0"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def require_server(flavour: str) -> None:
    """Without the server program the test cannot run."""
    if find_server(flavour) is None:
        cannot_run(_absence(flavour))


# --- servers ---


@pytest.fixture(scope="session")
def _shared_servers() -> Iterator[dict[str, Server]]:
    shared: dict[str, Server] = {}
    yield shared
    for server in shared.values():
        server.remove()


def _shared(flavour: str, shared: dict[str, Server]) -> Server:
    require_server(flavour)
    if flavour not in shared:
        options = {"plugin_load_add": "auth_parsec"} if flavour == MARIADB_11_8 else {}
        shared[flavour] = servers.start_server(flavour, max_connections=200, **options)
    return shared[flavour]


@pytest.fixture(scope="session")
def mariadb(_shared_servers: dict[str, Server]) -> Server:
    """The worker's MariaDB."""
    return _shared("mariadb", _shared_servers)


@pytest.fixture(scope="session")
def mysql(_shared_servers: dict[str, Server]) -> Server:
    """The worker's MySQL."""
    return _shared("mysql", _shared_servers)


@pytest.fixture(scope="session")
def mariadb_11_8(_shared_servers: dict[str, Server]) -> Server:
    """The worker's MariaDB 11.8, with the plugin parsec."""
    return _shared(MARIADB_11_8, _shared_servers)


@pytest.fixture(scope="session", params=FLAVOURS)
def server(request: pytest.FixtureRequest, _shared_servers: dict[str, Server]) -> Server:
    """MariaDB in one run of the test, MySQL in the other."""
    return _shared(str(request.param), _shared_servers)


@pytest.fixture(autouse=True)
def _shared_servers_stay_up(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "_shared_servers" in request.fixturenames:
        for server in request.getfixturevalue("_shared_servers").values():
            if not server.running:
                log = server.log()[-3000:]
                server.start()
                pytest.fail(f"{server!r}, which other tests share, had ended:\n{log}")


@pytest.fixture
def own_server() -> Iterator[Callable[..., Server]]:
    """Starts servers that only this test has: `own_server("mysql", max_connections=5)`."""
    started: list[Server] = []

    def start(flavour: str, **options: Any) -> Server:
        require_server(flavour)
        started.append(servers.start_server(flavour, **options))
        return started[-1]

    yield start
    for server in started:
        server.remove()


# --- programs ---


@pytest.fixture(scope="session")
def go_leak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The leaking program, compiled. The Go tools put their cache where they like, so only the first build is slow."""
    return build_go(ROOT / "tests/clients/go/leak/main.go", tmp_path_factory.mktemp("go"))


def build_go(source: Path, directory: Path) -> Path:
    """A program that has one source, compiled into the directory, under the name of its own."""
    go = shutil.which("go")
    if go is None or not (GOPATH / "src/github.com/go-sql-driver/mysql").is_dir():
        cannot_run("Go or go-sql-driver is not on this machine (`make test` installs them)")
    binary = directory / source.parent.name
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": ""}
    built = subprocess.run(
        [go, "build", "-o", binary, source], env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return binary


# --- the pooler ---


class Proxy:
    """`python -m proxy serve` as a process."""

    def __init__(
        self,
        argv: list[str],
        env: dict[str, str],
        port: int,
        http_port: int,
        log_path: Path,
        descriptors: tuple[int, int] | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.http_port = http_port
        self.log_path = log_path
        self._ended_by_test = False

        def prepare() -> None:
            die_with_parent()
            if descriptors is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)

        with open(log_path, "wb") as output:
            self._process = subprocess.Popen(
                argv,
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare,
            )

    def __repr__(self) -> str:
        state = "running" if self.running else f"ended with {self._process.returncode}"
        return f"<proxy on port {self.port}, pid {self.pid}, {state}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """Everything it has written so far."""
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, deadline: float = _START_DEADLINE) -> None:
        """Waits until its ports listen. Looks at the kernel's list: a test connection would be counted."""

        def listens() -> bool:
            if not self.running:
                raise RuntimeError(f"{self!r} while it started:\n{self.log()}")
            return {self.port, self.http_port} <= _listening_ports()

        try:
            wait_until(listens, deadline, f"{self!r} listens")
        except TimeoutError as error:
            self._process.kill()
            raise RuntimeError(f"{error}\n{self.log()}") from None

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP request to it, whatever the status is."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.host}:{self.http_port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """The values at `/metrics`, by their names as written there: `mybouncer_clients{state="idle"}`."""
        status, body = self.get("/metrics")
        assert status == 200, f"/metrics answered {status}: {body[:500]}"
        lines = (line for line in body.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def wait_for_metric(self, name: str, value: float, deadline: float = 10.0) -> None:
        """Waits until a metric has the value; one that is not there counts as 0."""
        wait_until(lambda: self.metrics().get(name, 0.0) == value, deadline, f"{name} is {value:g}")

    def signal(self, number: int) -> None:
        """Sends a signal that it should survive."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM, without waiting; from now on it may end."""
        self._ended_by_test = True
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL, and waits."""
        self._ended_by_test = True
        self._process.kill()
        self._process.wait(_STOP_DEADLINE)

    def wait(self, deadline: float = _STOP_DEADLINE) -> int:
        """Waits for its end; gives the exit code."""
        self._ended_by_test = True
        return self._process.wait(deadline)

    def stop(self, deadline: float = _STOP_DEADLINE) -> int:
        """SIGTERM, waits, gives the exit code."""
        self.terminate()
        return self.wait(deadline)

    def finish(self) -> None:
        """At the end of a test: it has to be alive, unless the test ended it, and to end when asked."""
        died = not self.running and not self._ended_by_test
        try:
            if self.running:
                self._process.send_signal(signal.SIGCONT)
                self.stop()
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self!r}: SIGTERM did not end it within {_STOP_DEADLINE:g} s")
        if died:
            pytest.fail(f"{self!r}, although the test did not stop it:\n{self.log()[-6000:]}")


def _listening_ports() -> set[int]:
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table) as lines:
            next(lines)
            for line in lines:
                _, local, _, state, *_ = line.split()
                if state == "0A":
                    listening.add(int(local.rpartition(":")[2], 16))
    return listening


def _setting(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Starts poolers: `proxy(server, max_connections=4, queue__timeout="1s", wait=True, args=[...])`.

    The first argument is a `Server` or a backend URL. `descriptors` are the soft and the hard limit it starts with.
    Further keywords are configuration keys, `<section>__<key>`.
    At the end each must still be alive, unless the test stopped it.
    """
    with _proxies(request.node, tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def module_proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Proxy]]:
    """Starts poolers that all tests of a module share, like `proxy`."""
    with _proxies(request.node, tmp_path_factory.mktemp("proxy")) as start:
        yield start


@contextlib.contextmanager
def _proxies(node: Any, directory: Path) -> Iterator[Callable[..., Proxy]]:
    started: list[Proxy] = node.stash.setdefault(_PROXIES, [])

    def start(
        backend: Server | str,
        *,
        max_connections: int | None = None,
        args: tuple[str, ...] | list[str] = (),
        env: dict[str, str] | None = None,
        wait: bool = True,
        port: int | None = None,
        descriptors: tuple[int, int] | None = None,
        **config: object,
    ) -> Proxy:
        port = port or free_port()
        http_port = next(other for other in iter(free_port, None) if other != port)
        url = backend if isinstance(backend, str) else backend.url
        argv = [sys.executable, "-m", "proxy", "serve", "--backend", url]
        argv += ["--listen", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{http_port}"]
        if max_connections is not None:
            argv += ["--max-connections", str(max_connections)]
        # A test ends with its clients still connected: nobody waits half a minute for them.
        # The console's socket would be in a directory that all share.
        settings = {"listen__drain_timeout": "1s", "console__socket": "off"} | config
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MYBOUNCER_")}
        environment |= {f"MYBOUNCER_{key.upper()}": _setting(value) for key, value in settings.items()}
        environment |= {"PYTHONUNBUFFERED": "1"} | (env or {})
        log_path = directory / f"proxy-{len(started)}.log"
        one = Proxy([*argv, *args], environment, port, http_port, log_path, descriptors)
        started.append(one)
        if wait:
            one.wait_ready()
        return one

    try:
        yield start
    finally:
        with contextlib.ExitStack() as stack:  # one that fails does not keep the others alive
            for one in started:
                stack.callback(one.finish)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.failed:
        module = item.getparent(pytest.Module)
        for one in [*item.stash.get(_PROXIES, []), *(module.stash.get(_PROXIES, []) if module else [])]:
            report.sections.append((f"log of {one!r}", one.log()[-20000:]))
    return report
