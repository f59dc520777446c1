"""What an administrator changes at run time is followed. The server is real; the pooler runs in the test's own loop,
so that the minute between two questions can be shorter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from bench.wire import log_in
from proxy.config import load
from proxy.relay import relay
from proxy.relay.relay import Relay
from proxy.server import Server as Pooler
from tests.live.crowd import run
from tests.live.raw import Raw
from tests.servers import Server


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LEARN_EVERY", 0.1)
    monkeypatch.setattr(relay, "RETIRE_EVERY", 0.05)


@pytest.fixture
def restored(server: Server) -> Iterator[Server]:
    """The server, whose limits are afterwards what they were."""
    ((allowed,),) = server.execute("SELECT @@global.max_connections")
    server.execute("CREATE USER narrow@'%' IDENTIFIED BY 'narrow-secret' WITH MAX_USER_CONNECTIONS 2")
    yield server
    server.execute(f"SET GLOBAL max_connections = {allowed}", "DROP USER narrow@'%'")


@contextlib.asynccontextmanager
async def pooler_for(server: Server) -> AsyncIterator[tuple[Relay, int]]:
    off = {"http.address": "off", "console.socket": "off"}
    config = load(overrides={"backend.url": server.url, "listen.addresses": ["127.0.0.1:0"], **off})
    pooler = Pooler(config, lambda: config)
    await pooler.start()
    try:
        yield pooler.relay, pooler.listener.addresses[0].port
    finally:
        await pooler.stop(0.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def test_limits_that_are_changed_at_run_time_are_followed(restored: Server) -> None:
    server = restored

    async def main() -> None:
        async with pooler_for(server) as (relay, port):
            budget = relay.registry.budget
            assert budget.cap == 4, "until a login has told what the server allows"
            server.execute("SET GLOBAL max_connections = 150")
            await log_in(port, "app", 1)
            assert budget.cap == 150 - 15 - 1
            server.execute("SET GLOBAL max_connections = 45")
            await until(lambda: budget.cap == 45 - 5 - 1)
            server.execute("SET GLOBAL max_connections = 180")
            await until(lambda: budget.cap == 180 - 18 - 1)

            await log_in(port, "narrow", 1)
            account = relay.registry.accounts["narrow"]
            assert account.max_connections == 2
            server.execute("ALTER USER narrow@'%' WITH MAX_USER_CONNECTIONS 5")
            if server.flavour == "mariadb":
                Raw(server, "narrow", "narrow-secret").quit()  # its next login tells the connections that are open
            await until(lambda: account.max_connections == 5)
            if server.flavour == "mysql":
                server.execute("ALTER USER narrow@'%' WITH MAX_USER_CONNECTIONS 0")
                await until(lambda: account.max_connections is None)

    run(main())
