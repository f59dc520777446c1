"""A pooler that several tests of a module share: starting one for every case would take longer than the cases."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import Proxy, _setting
from tests.servers import Server, free_port


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Proxy]]:
    """`shared_proxy(server, max_connections=1, queue__timeout="5s")`: one pooler per server and settings."""
    running: dict[tuple[object, ...], Proxy] = {}
    directory = tmp_path_factory.mktemp("proxies")

    def start(server: Server, *, max_connections: int, **config: object) -> Proxy:
        key = (server.url, max_connections, *sorted(config.items()))
        if key not in running:
            port, http_port = free_port(), free_port()
            argv = [sys.executable, "-m", "proxy", "serve", "--backend", server.url]
            argv += ["--listen", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{http_port}"]
            argv += ["--max-connections", str(max_connections)]
            settings = {"listen__drain_timeout": "1s"} | config
            environment = {name: value for name, value in os.environ.items() if not name.startswith("MYBOUNCER_")}
            environment |= {f"MYBOUNCER_{name.upper()}": _setting(value) for name, value in settings.items()}
            environment["PYTHONUNBUFFERED"] = "1"
            running[key] = Proxy(argv, environment, port, http_port, directory / f"proxy-{len(running)}.log")
            running[key].wait_ready()
        return running[key]

    yield start
    with ExitStack() as stack:
        for proxy in running.values():
            stack.callback(proxy.finish)
