"""TLS between a socket's transport and the protocol above it, for both legs.

`Tls` is a protocol to the transport below and a transport to the protocol above, with OpenSSL in memory between them
(`ssl.MemoryBIO`). The event loop's own TLS keeps 126 KiB for a client that has got an answer of 100 KB, and its
server side hangs when an SSLRequest and a ClientHello arrive in one read; this keeps 40 KiB (docs/decisions.md): both
BIOs are emptied slice by slice and never hold more than a record.

Laws:
* nothing that arrived before the handshake is ever handed up as plaintext (CVE-2021-3935 and its family);
* the protocol above sees `data_received`, `eof_received`, `connection_lost`, and the two halves of backpressure, as
  from any transport; while it has paused reading it is given nothing;
* a record that cannot be read ends the connection at once, without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, cast

SLICE = 16 * 1024  # the largest record


class Tls(asyncio.Transport, asyncio.Protocol):
    """One TLS connection. Await `handshake` before anything else."""

    __slots__ = (
        "_below",
        "_closing",
        "_done",
        "_incoming",
        "_object",
        "_outgoing",
        "_paused",
        "_pending",
        "_protocol",
        "_ready",
        "fingerprint",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        fingerprint: bytes = b"",
    ) -> None:
        self.fingerprint = fingerprint  # of the certificate that this side shows
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname, session=session
        )
        self._below: asyncio.Transport | None = None
        self._protocol: Any = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done = False  # the handshake
        self._closing = False
        self._paused = False
        self._pending = b""  # arrived while the protocol above had paused reading

    # What the transport below calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready."""
        self._below = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Records have arrived."""
        if self._paused or self._pending:
            self._pending += data
            return
        for start in range(0, len(data), SLICE):
            self._incoming.write(data[start : start + SLICE])
            if not self._take():
                return
            if self._paused:
                self._pending = data[start + SLICE :]
                return

    def eof_received(self) -> bool:
        """The peer has closed its side, with or without a close_notify."""
        if self._protocol is not None and not self._closing:
            self._protocol.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._closing = True
        self._fail(exc or ConnectionResetError("connection closed in the TLS handshake"))
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """The peer takes no more."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The peer takes again."""
        if self._protocol is not None:
            self._protocol.resume_writing()

    # The handshake

    async def handshake(self) -> None:
        """Shake hands. Raises ssl.SSLError, or ConnectionError if the peer goes away."""
        try:
            self._shake()
            await self._ready
        except BaseException:
            self.abort()
            raise

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as exc:
            self._flush()  # the alert
            self._fail(exc)
        else:
            self._flush()
            self._done = True
            if not self._ready.done():
                self._ready.set_result(None)

    def _fail(self, exc: Exception) -> None:
        if not self._ready.done():
            self._ready.set_exception(exc)
            self._ready.exception()  # nobody may be waiting any more

    # Records

    def _take(self) -> bool:
        """Hand up what is in the incoming BIO; False if there is nobody to hand anything to any more."""
        if not self._done:
            self._shake()
            if not self._done:
                return not self._ready.done()
        parts = []
        ended = False
        try:
            while plain := self._object.read(1 << 18):
                parts.append(plain)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError:
            self.abort()
            return False
        self._flush()  # the answer to a key update, say
        if parts:
            self._protocol.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if ended and not self._closing:
            self._protocol.eof_received()
            self.close()
        return not self._closing

    def _flush(self) -> None:
        if self._outgoing.pending and self._below is not None and not self._below.is_closing():
            self._below.write(self._outgoing.read())

    # What the protocol above calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        below = self._below
        if self._closing or below is None or not data:
            return
        if len(data) <= SLICE:
            self._object.write(data)
            below.write(self._outgoing.read())
            return
        out = []
        view = memoryview(data)
        for start in range(0, len(view), SLICE):
            self._object.write(view[start : start + SLICE])
            out.append(self._outgoing.read())
        below.write(b"".join(out))

    def close(self) -> None:
        """Say goodbye, then close when everything written has been sent."""
        if self._closing or self._below is None:
            return
        self._closing = True
        self.write_eof()
        self._below.close()

    def write_eof(self) -> None:
        """Say goodbye; what the peer still sends is read."""
        if self._done:
            with contextlib.suppress(ssl.SSLError):  # it wants the peer's goodbye, which nobody waits for
                self._object.unwrap()
        self._flush()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing or self._below is None or self._below.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who is above. Unlike a socket's transport, it does not touch reading."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is above."""
        return cast(asyncio.BaseProtocol, self._protocol)

    def pause_reading(self) -> None:
        """Hand up nothing for now."""
        self._paused = True
        if self._below is not None and not self._below.is_closing():
            self._below.pause_reading()

    def resume_reading(self) -> None:
        """Hand up again: first what arrived meanwhile, but never from inside this call."""
        if not self._paused:
            return
        self._paused = False
        if self._pending:
            asyncio.get_running_loop().call_soon(self._catch_up)
        if self._below is not None and not self._below.is_closing():
            self._below.resume_reading()

    def _catch_up(self) -> None:
        if not self._paused and not self._closing:
            pending, self._pending = self._pending, b""
            if pending:
                self.data_received(pending)

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._below.get_write_buffer_size() if self._below is not None else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The water marks, in encrypted bytes."""
        if self._below is not None:
            self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket's transport knows, and `ssl_object`."""
        if name == "ssl_object":
            return self._object
        return self._below.get_extra_info(name, default) if self._below is not None else default

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later handshake with the same peer can resume."""
        return self._object.session

    @property
    def version(self) -> str:
        """TLSv1.2 or TLSv1.3."""
        return self._object.version() or ""
