"""Logging in to a server that hangs: no handshake is abandoned, because servers count those and block our host."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from proxy.address import Address
from proxy.relay.connect import NOTHING, PROBE_USER, Dialer, Login, Refused, Silent
from proxy.wire import constants as c
from proxy.wire.framing import PacketReader, frame
from proxy.wire.packets import Greeting, HandshakeResponse, build_err, build_ok

GREETING = Greeting(b"9.7.4", 7, b"n" * 20, 45, c.SERVER_STATUS_AUTOCOMMIT, 0xFFFFFFFF, c.CACHING_SHA2_PASSWORD)


class Connection:
    """The server's end of one connection; it says nothing unless the test says it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._packets = PacketReader(strict=False)

    def send(self, payload: bytes, seq: int) -> None:
        self._writer.write(frame(payload, seq))

    async def packet(self) -> bytes:
        while (packet := self._packets.next_packet()) is None:
            data = await self._reader.read(4096)
            if not data:
                raise EOFError
            self._packets.feed(data)
        return packet

    async def user(self) -> bytes:
        """Who logs in."""
        return HandshakeResponse.parse(await self.packet(), 0xFFFFFFFF).username

    async def ended(self) -> bool:
        with contextlib.suppress(ConnectionResetError):
            return not await self._reader.read(1)
        return True

    def close(self) -> None:
        self._writer.close()


class HungServer:
    """The kernel accepts, the server does not greet."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Connection] = asyncio.Queue()
        self.opened = 0
        self.address = Address()
        self.silent = Silent(asyncio.create_task)

    def _opened(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.connections.put_nowait(Connection(reader, writer))

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[HungServer]:
        server = await asyncio.start_server(self._opened, "127.0.0.1", 0)
        self.address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        async with server:
            yield self

    async def log_in(self, seconds: float = 10.0) -> Login:
        """An attempt that may take so long."""
        async with asyncio.timeout(seconds):
            return await Dialer(self.address, None, self.silent).connect(b"app", NOTHING, 0, 45, [])


def run(scenario: Callable[[HungServer], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), HungServer().listening() as server:
            await scenario(server)

    uvloop.run(main())


async def eventually(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_an_attempt_that_was_too_slow_leaves_its_connection_to_the_next() -> None:
    async def scenario(server: HungServer) -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await server.log_in(0.05)
        assert server.opened == 1
        at_last = asyncio.create_task(server.log_in())
        await eventually(lambda: not len(server.silent))
        connection = await server.connections.get()
        connection.send(GREETING.encode(), 0)
        assert await connection.user() == b"app"
        connection.send(build_ok(), 2)
        (await at_last).transport.close()
        assert server.opened == 1
        assert not len(server.silent)

    run(scenario)


def test_a_server_that_greets_when_nobody_waits_any_more_gets_a_whole_login_that_it_can_refuse() -> None:
    async def scenario(server: HungServer) -> None:
        with pytest.raises(TimeoutError):
            await server.log_in(0.05)
        connection = await server.connections.get()
        connection.send(GREETING.encode(), 0)
        assert await connection.user() == PROBE_USER
        connection.send(build_err(1045, b"28000", b"Access denied"), 2)
        assert await connection.ended()
        assert not len(server.silent)

    run(scenario)


def test_two_attempts_at_once_do_not_share_a_connection() -> None:
    async def scenario(server: HungServer) -> None:
        with pytest.raises(TimeoutError):
            await server.log_in(0.05)
        attempts = [asyncio.create_task(server.log_in(0.1)) for _ in range(2)]
        await asyncio.wait(attempts)
        assert [type(attempt.exception()) for attempt in attempts] == [TimeoutError, TimeoutError]
        assert server.opened == 2
        assert len(server.silent) == 2

    run(scenario)


def test_a_silent_connection_that_the_server_has_closed_is_not_used() -> None:
    async def scenario(server: HungServer) -> None:
        with pytest.raises(TimeoutError):
            await server.log_in(0.05)
        (await server.connections.get()).close()
        await eventually(lambda: not len(server.silent))
        attempt = asyncio.create_task(server.log_in())
        connection = await server.connections.get()
        connection.send(build_err(1040, b"", b"Too many connections"), 0)
        connection.close()
        with pytest.raises(Refused):
            await attempt
        assert server.opened == 2

    run(scenario)


def test_what_stays_silent_for_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Silent, "PATIENCE", 0.1)

    async def scenario(server: HungServer) -> None:
        with pytest.raises(TimeoutError):
            await server.log_in(0.05)
        connection = await server.connections.get()
        assert await connection.ended()
        assert not len(server.silent)
        with pytest.raises(TimeoutError):
            await server.log_in(0.05)
        assert server.opened == 2

    run(scenario)


def test_a_login_that_was_cancelled_behind_the_greeting_is_closed() -> None:
    async def scenario(server: HungServer) -> None:
        attempt = asyncio.create_task(server.log_in(0.2))
        connection = await server.connections.get()
        connection.send(GREETING.encode(), 0)
        assert await connection.user() == b"app"
        with pytest.raises(TimeoutError):
            await attempt
        assert await connection.ended()
        assert not len(server.silent)

    run(scenario)
