"""TLS as the event loop has it, to compare with: what comes over TLS goes on to the server in plaintext, and back.

    python -m bench.terminator PORT SERVER_PORT CERTIFICATE

It understands nothing of what passes, opens a connection to the server for every client, and TLS begins with the first
byte, as it does in HAProxy.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import cast

import uvloop


class _Side(asyncio.Protocol):
    """One of two connections; what it receives goes out on the other, no faster than that takes it."""

    transport: asyncio.Transport
    other: _Side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.other.transport.close()


class _Client(_Side):
    """The one that a client has opened."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.other = _Side()
        self.other.other = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self.other, "127.0.0.1", self._server_port)
        self.transport.resume_reading()


async def serve(port: int, server_port: int, certificate: str) -> None:
    """Run until it is ended from outside."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Client(server_port), "127.0.0.1", port, ssl=context, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
