"""A TCP relay that remembers what was said first on each connection: a greeting, and the answer to it."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import Self

from proxy.wire.framing import PacketReader, ProtocolError
from proxy.wire.packets import Greeting, HandshakeResponse

ALL_CAPABILITIES = (1 << 64) - 1


@dataclass
class Handshake:
    """The first packet of each side, None while it has not come."""

    greeting: Greeting | None = None
    response: HandshakeResponse | None = None

    @property
    def whole(self) -> bool:
        return self.greeting is not None and self.response is not None


class Recorder:
    """Listens on a port of its own and passes on to `port`; `handshakes` are in the order of the connections."""

    host = "127.0.0.1"

    def __init__(self, port: int) -> None:
        self._target = port
        self.handshakes: list[Handshake] = []
        self._sockets: set[socket.socket] = set()
        self._listening = socket.create_server((self.host, 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    @property
    def sent(self) -> list[int]:
        """The capabilities that clients have sent, offered or not."""
        return [shake.response.capabilities for shake in self.handshakes if shake.response is not None]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection((self.host, self._target))
                self._sockets |= {client, server}
                shake = Handshake()
                self.handshakes.append(shake)
                for source, sink in ((client, server), (server, client)):
                    args = (source, sink, shake, source is server)
                    threading.Thread(target=self._pass_on, args=args, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, shake: Handshake, from_server: bool) -> None:
        reader: PacketReader | None = PacketReader(1 << 16, strict=False)
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if reader is not None:
                    reader = _remember(reader, data, shake, from_server)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def _remember(reader: PacketReader, data: bytes, shake: Handshake, from_server: bool) -> PacketReader | None:
    """Take in what was sent; None when the first packet is known."""
    reader.feed(data)
    packet = reader.next_packet()
    if packet is None:
        return reader
    with contextlib.suppress(ProtocolError):
        if from_server:
            shake.greeting = Greeting.parse(packet)
        else:
            shake.response = HandshakeResponse.parse(packet, ALL_CAPABILITIES)
    return None
