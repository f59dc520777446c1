"""A pooler that several tests of a module share: starting one for every case would take longer than the cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Proxy
from tests.live.transcripts import Both
from tests.servers import Server


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
