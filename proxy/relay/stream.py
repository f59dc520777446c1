"""Packets as a stream, for the phases that may wait: logins. Never on the hot path.

One reader at a time; the owner hands the transport over with `detach` when the phase is over, together with the
bytes that arrived early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.wire.framing import PacketReader, frame

LOGIN_PACKET_LIMIT = 64 * 1024
CUT_SHORT = "the connection ended inside a packet"


class PeerGone(Exception):
    """The other side closed the connection in the middle of a login."""


class PacketStream(asyncio.Protocol):
    """Read and write whole packets in order, sequence ids checked and counted."""

    def __init__(self, limit: int = LOGIN_PACKET_LIMIT, early: bytes = b"") -> None:
        self._reader = PacketReader(limit)
        self._reader.feed(early)
        self._waiter: asyncio.Future[None] | None = None
        self._gone: PeerGone | None = None
        self.cut_short = False  # the peer has closed inside a packet
        self.on_gone: Callable[[], object] | None = None
        self.transport: asyncio.Transport | None = None
        self.opened_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is ready."""
        self.opened_at = asyncio.get_running_loop().time()
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Keep the bytes, wake the reader."""
        self._reader.feed(data)
        self._wake()

    def eof_received(self) -> None:
        """The peer has closed its side."""
        self.cut_short = self._gone is None and self._reader.inside
        self._end("connection closed")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end(str(exc) if exc else "connection closed")

    def _end(self, reason: str) -> None:
        if self._gone is None:
            self._gone = PeerGone(reason)
            self._wake()
            if self.on_gone is not None:
                self.on_gone()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @property
    def gone(self) -> bool:
        """Whether the peer has closed."""
        return self._gone is not None

    @property
    def seq(self) -> int:
        """The sequence id that the next packet, whoever sends it, must carry."""
        return self._reader.expect

    def expect(self, seq: int) -> None:
        """Start counting sequence ids at `seq`."""
        self._reader.expect = seq

    async def read_packet(self) -> bytes:
        """Return the next payload. Raises PeerGone, or ProtocolError for bytes that are no packet of ours."""
        while True:
            packet = self._reader.next_packet()
            if packet is not None:
                return packet
            if self._gone is not None:
                raise self._gone
            await self._something()

    async def wait_gone(self) -> None:
        """Wait until the peer has closed; what it still says is nobody's."""
        while self._gone is None:
            await self._something()

    async def _something(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def write_packet(self, payload: bytes) -> None:
        """Send `payload` with the next sequence id. Raises PeerGone."""
        if self.transport is None or self.transport.is_closing():
            raise self._gone or PeerGone("connection closed")
        self.transport.write(frame(payload, self._reader.expect))
        self._reader.expect = (self._reader.expect + 1) & 0xFF

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """Give up the transport: return it and the bytes that belong to the next phase.

        Raises PeerGone if it is closed already.
        """
        if self._gone is not None or self.transport is None:
            raise self._gone or PeerGone("never connected")
        return self.transport, self._reader.take_rest()
