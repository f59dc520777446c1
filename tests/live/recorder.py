"""A TCP relay that remembers what was said first on each connection: a greeting, and the answer to it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Self

from proxy.wire import constants as c
from proxy.wire.framing import PacketReader, ProtocolError
from proxy.wire.packets import Greeting


@dataclass
class Handshake:
    """What the first packets say, None while they have not come: the greeting, and what the client says it can do."""

    greeting: Greeting | None = None
    capabilities: int | None = None

    @property
    def whole(self) -> bool:
        return self.greeting is not None and self.capabilities is not None


class Recorder:
    """Listens on a port of its own and passes on to `port`; `handshakes` are in the order of the connections."""

    host = "127.0.0.1"

    def __init__(self, port: int) -> None:
        self._target = port
        self.handshakes: list[Handshake] = []
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server((self.host, 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End, as a server does that is gone: nobody listens here any more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """End all connections, on both sides."""
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def sent(self) -> list[int]:
        """The capabilities that clients have sent, offered or not."""
        return [shake.capabilities for shake in self.handshakes if shake.capabilities is not None]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection((self.host, self._target))
                self._sockets += (client, server)
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
            # of a handshake response or of an SSLRequest, which begin alike
            mysql, mariadb = struct.unpack_from("<I24xI", packet)
            shake.capabilities = mysql if mysql & c.CLIENT_LONG_PASSWORD else mysql | mariadb << 32
    return None
