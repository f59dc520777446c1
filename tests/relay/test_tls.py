"""TLS between two of our own ends, on transports that the test cuts and delays as it likes."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.relay.certificates import make_self_signed
from proxy.relay.tls import SLICE, Tls


class Wire(asyncio.Transport):
    """What one end has sent and the other has not got yet."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.reading = True
        self.closed = self.aborted = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return len(self.sent)

    def take(self, size: int | None = None) -> bytes:
        data = bytes(self.sent[:size])
        del self.sent[: len(data)]
        return data


class Above(asyncio.Protocol):
    """Who uses the connection."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.calls: list[str] = []
        self.on_data: Callable[[], None] = lambda: None

    def data_received(self, data: bytes) -> None:
        self.got += data
        self.on_data()

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")


class End:
    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.tls = Tls(context, server_side=server_side)
        self.wire = Wire()
        self.above = Above()
        self.tls.connection_made(self.wire)
        self.tls.set_protocol(self.above)
        self.handshake = asyncio.ensure_future(self.tls.handshake())


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    path.write_bytes(make_self_signed())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return client, server


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    one = asyncio.new_event_loop()
    yield one
    one.close()


Pieces = Callable[[bytes], list[bytes]]


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


async def carry(one: End, other: End, pieces: Pieces = whole) -> None:
    """Let everything arrive that has been sent, until both are silent."""
    silent = 0
    while silent < 3:
        moved = False
        for source, target in ((one, other), (other, one)):
            if target.wire.reading and source.wire.sent:
                moved = True
                for piece in pieces(source.wire.take()):
                    target.tls.data_received(piece)
        await asyncio.sleep(0)
        silent = 0 if moved else silent + 1


async def connected(contexts: tuple[ssl.SSLContext, ssl.SSLContext], pieces: Pieces = whole) -> tuple[End, End]:
    client, server = End(contexts[0], server_side=False), End(contexts[1], server_side=True)
    await asyncio.sleep(0)
    await carry(client, server, pieces)
    await asyncio.gather(client.handshake, server.handshake)
    return client, server


@pytest.mark.parametrize("pieces", [whole, bytewise])
def test_both_ends_get_what_the_other_wrote(
    loop: asyncio.AbstractEventLoop, contexts: tuple[ssl.SSLContext, ssl.SSLContext], pieces: Pieces
) -> None:
    async def talk() -> None:
        client, server = await connected(contexts, pieces)
        client.tls.write(b"question")
        server.tls.write(b"answer" * 9)
        await carry(client, server, pieces)
        assert (client.above.got, server.above.got) == (b"answer" * 9, b"question")

    loop.run_until_complete(talk())


def test_a_hello_cut_anywhere_and_data_coalesced_with_the_handshake(
    loop: asyncio.AbstractEventLoop, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """The ClientHello at every byte, and the client's last flight in one piece with its first data."""

    async def talk() -> None:
        at = 0
        while True:
            client, server = End(contexts[0], server_side=False), End(contexts[1], server_side=True)
            await asyncio.sleep(0)
            hello = client.wire.take()
            for piece in (hello[:at], hello[at:]):
                if piece:
                    server.tls.data_received(piece)
            client.tls.data_received(server.wire.take())
            await client.handshake
            client.tls.write(b"early")
            server.tls.data_received(client.wire.take())
            await server.handshake
            assert server.above.got == b"early"
            at += 1
            if at > len(hello):
                break
        assert at > 200

    loop.run_until_complete(talk())


def test_what_is_larger_than_a_record_arrives_whole_however_cut(
    loop: asyncio.AbstractEventLoop, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    chance = random.Random(7)

    def torn(data: bytes) -> list[bytes]:
        cuts = sorted(chance.sample(range(len(data)), min(len(data), 20)))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]

    async def talk() -> None:
        client, server = await connected(contexts)
        sent = bytearray()
        for size in (SLICE - 1, SLICE, SLICE + 1, 10 * SLICE + 7, 1_000_000):
            data = chance.randbytes(size)
            sent += data
            server.tls.write(data)
            server.tls.write(memoryview(data))
            sent += data
            await carry(client, server, torn)
        assert client.above.got == sent

    loop.run_until_complete(talk())


def test_nothing_is_handed_up_while_reading_is_paused_and_nothing_is_lost(
    loop: asyncio.AbstractEventLoop, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def talk() -> None:
        client, server = await connected(contexts)
        client.above.on_data = client.tls.pause_reading  # at every chunk, even the first of several in one read
        data = bytes(range(256)) * 1000
        server.tls.write(data)
        records = server.wire.take()
        client.tls.data_received(records[:100_000])
        first = len(client.above.got)
        assert 0 < first < 100_000 and not client.wire.reading
        client.tls.data_received(records[100_000:])  # was on its way already
        assert len(client.above.got) == first
        while len(client.above.got) < len(data):
            before = len(client.above.got)
            client.tls.resume_reading()
            assert len(client.above.got) == before, "not from inside the call"
            await asyncio.sleep(0)
            assert len(client.above.got) > before
        assert client.above.got == data

    loop.run_until_complete(talk())


def test_a_goodbye_is_the_end_of_the_stream(
    loop: asyncio.AbstractEventLoop, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def talk() -> None:
        client, server = await connected(contexts)
        client.tls.write(b"last words")
        client.tls.close()
        assert client.wire.closed and client.tls.is_closing()
        client.tls.write(b"too late")
        server.tls.data_received(client.wire.take())
        assert server.above.got == b"last words"
        assert server.above.calls == ["eof"]
        assert server.wire.closed
        server.tls.connection_lost(None)
        assert server.above.calls == ["eof", "lost"]

    loop.run_until_complete(talk())


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(40), bytes(300)])
def test_what_is_no_tls_fails_the_handshake(
    loop: asyncio.AbstractEventLoop, contexts: tuple[ssl.SSLContext, ssl.SSLContext], garbage: bytes
) -> None:
    async def talk() -> None:
        server = End(contexts[1], server_side=True)
        await asyncio.sleep(0)
        server.tls.data_received(garbage)
        with pytest.raises(ssl.SSLError):
            await server.handshake
        assert server.wire.aborted
        assert not server.above.got

    loop.run_until_complete(talk())


def test_a_peer_that_goes_in_the_handshake_is_a_connection_error(
    loop: asyncio.AbstractEventLoop, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def talk() -> None:
        server = End(contexts[1], server_side=True)
        await asyncio.sleep(0)
        server.tls.connection_lost(None)
        with pytest.raises(ConnectionError):
            await server.handshake

    loop.run_until_complete(talk())


def test_a_damaged_record_ends_the_connection_without_a_word(
    loop: asyncio.AbstractEventLoop, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def talk() -> None:
        client, server = await connected(contexts)
        client.tls.write(b"question")
        record = bytearray(client.wire.take())
        record[-1] ^= 1
        server.tls.data_received(bytes(record))
        assert server.wire.aborted and not server.above.got

    loop.run_until_complete(talk())
