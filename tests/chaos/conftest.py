"""What the tests of faults share: the account that everything is done with, and a table that counts executions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.chaos.network import Network, make_network
from tests.chaos.tags import SCHEMA
from tests.live.conftest import shared_proxy
from tests.servers import Server

__all__ = ["shared_proxy"]


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of its own for a server."""
    one = make_network()
    yield one
    one.remove()


@pytest.fixture
def world(server: Server) -> Iterator[Server]:
    """The worker's server, with the tags."""
    server.execute(*SCHEMA)
    yield server
    server.execute("DROP DATABASE chaos", "DROP USER chaos@'%'")


@pytest.fixture
def own_world(own_server: Callable[..., Server]) -> Callable[..., Server]:
    """A server of the test's own, with the tags."""

    def start(flavour: str, **options: object) -> Server:
        server = own_server(flavour, **options)
        server.execute(*SCHEMA)
        return server

    return start
