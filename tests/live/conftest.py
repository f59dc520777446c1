"""Poolers that several tests of a module share: starting one for every case would take longer than the cases."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Proxy
from tests.live.desk import PASSWORD, Desk
from tests.live.stage import WORLD, WORLDS_END, Stage
from tests.live.transcripts import Both
from tests.servers import Server, free_port


@pytest.fixture(scope="module")
def shared_proxy(module_proxy: Callable[..., Proxy]) -> Callable[..., Proxy]:
    """`shared_proxy(server, max_connections=1, queue__timeout="5s")`: one pooler per server and settings."""
    running: dict[tuple[object, ...], Proxy] = {}

    def start(server: Server, *, max_connections: int, **config: object) -> Proxy:
        key = (server.url, max_connections, *sorted(config.items()))
        if key not in running:
            running[key] = module_proxy(server, max_connections=max_connections, **config)
        return running[key]

    return start


@pytest.fixture(scope="module")
def both(server: Server, module_proxy: Callable[..., Proxy]) -> Iterator[Both]:
    """The server, and a pooler before it with room."""
    made = Both(server, module_proxy(server, max_connections=3))
    yield made
    made.remove()


# --- what a server saw ---


@pytest.fixture(scope="module")
def logged(server: Server) -> Iterator[Server]:
    """The server with its general log on, in a table."""
    output, on = server.execute("SELECT @@global.log_output, @@global.general_log")[0]
    server.execute(*WORLD, "SET GLOBAL log_output = 'TABLE'", "SET GLOBAL general_log = ON")
    yield server
    server.execute(f"SET GLOBAL general_log = {on}", f"SET GLOBAL log_output = '{output}'")
    server.execute("TRUNCATE TABLE mysql.general_log", *WORLDS_END)


@pytest.fixture(scope="module")
def stage(logged: Server, module_proxy: Callable[..., Proxy]) -> Iterator[Stage]:
    """One connection, for all tests of a module."""
    with contextlib.closing(Stage(logged, module_proxy, max_connections=1)) as made:
        yield made


# --- the console ---


@pytest.fixture(scope="module")
def console_directory() -> Iterator[Path]:
    """Short: a socket's path has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mb-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def module_desk(module_proxy: Callable[..., Proxy], console_directory: Path) -> Callable[[Server], tuple[Proxy, Desk]]:
    """A pooler with a console that the tests of this module share, by server: they leave it as they found it."""
    running: dict[str, tuple[Proxy, Desk]] = {}

    def open_desk(server: Server) -> tuple[Proxy, Desk]:
        if server.url not in running:
            path = str(console_directory / f"{server.flavour}.sock")
            pooler = module_proxy(
                server,
                max_connections=2,
                console__socket=path,
                console__address=f"127.0.0.1:{free_port()}",
                console__password=PASSWORD,
                listen__drain_timeout="20s",
            )
            running[server.url] = pooler, Desk(path)
        return running[server.url]

    return open_desk


@pytest.fixture
def desk(server: Server, module_desk: Callable[[Server], tuple[Proxy, Desk]]) -> tuple[Proxy, Desk]:
    return module_desk(server)


@pytest.fixture
def at_mariadb(mariadb: Server, module_desk: Callable[[Server], tuple[Proxy, Desk]]) -> tuple[Proxy, Desk]:
    return module_desk(mariadb)


@pytest.fixture
def own_desk(
    proxy: Callable[..., Proxy], console_directory: Path, mariadb: Server
) -> Iterator[Callable[..., tuple[Proxy, Desk]]]:
    """Starts a pooler that a test has for itself."""
    with contextlib.ExitStack() as stack:

        def start(*, path: str = "", **options: Any) -> tuple[Proxy, Desk]:
            path = path or str(console_directory / f"own-{free_port()}.sock")
            pooler = proxy(mariadb, console__socket=path, **options)
            return pooler, stack.enter_context(contextlib.closing(Desk(path)))

        yield start
