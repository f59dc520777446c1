"""Log in to the server: the backend side of the authentication plugins (protocol.md A.4).

A login that was begun is finished: abandoned handshakes count towards the server's `max_connect_errors` and would get
our host blocked (1129). So a connection that the server has not greeted in time is not closed but kept (`Silent`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from proxy import __version__
from proxy.address import Address
from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import Err, Greeting, HandshakeResponse, parse_auth_switch, parse_err

from .names import open_tcp
from .stream import PacketStream, PeerGone

# What every backend speaks (protocol.md 0.3), whatever its clients can do.
ALWAYS = (
    c.CLIENT_LONG_PASSWORD
    | c.CLIENT_LONG_FLAG
    | c.CLIENT_PROTOCOL_41
    | c.CLIENT_TRANSACTIONS
    | c.CLIENT_SECURE_CONNECTION
    | c.CLIENT_PLUGIN_AUTH
    | c.CLIENT_PLUGIN_AUTH_LENENC
    | c.CLIENT_CONNECT_ATTRS
    | c.CLIENT_SESSION_TRACK
    | c.CLIENT_DEPRECATE_EOF
)

# What makes two backends of one account different (protocol.md A.2).
KEY = (
    c.CLIENT_FOUND_ROWS
    | c.CLIENT_LOCAL_FILES
    | c.CLIENT_MULTI_RESULTS
    | c.CLIENT_PS_MULTI_RESULTS
    | c.CLIENT_IGNORE_SPACE
)

# A server whose host has vanished is found out within 11 seconds, whether or not we are sending. One that works on a
# statement is not: its kernel answers.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
_USER_TIMEOUT = 10_000  # milliseconds

# Whom the server refuses: a login that is finished, and opens nothing.
PROBE_USER = b"mybouncer_probe"
_UTF8MB4 = 45


REFUSED_CLOSES = 1.0  # seconds; servers close at once


class Refused(Exception):
    """The server answered with an ERR; `err` is its own."""

    def __init__(self, err: Err) -> None:
        super().__init__(f"{err.code}: {err.message.decode('utf-8', 'replace')}")
        self.err = err


@dataclass(slots=True)
class Login:
    """A connection that the server has accepted."""

    transport: asyncio.Transport
    greeting: Greeting


async def connect(
    address: Address,
    user: bytes,
    password: bytes,
    key: int,
    collation_id: int,
    greeted: list[Greeting],
    silent: Silent | None = None,
) -> Login:
    """Open a connection and log in as `user`. The greeting is appended to `greeted` as soon as it is there.

    Raises Refused with the server's ERR, OSError or PeerGone when the server cannot be reached, ProtocolError when it
    speaks nonsense or wants a plugin that we do not have.
    """
    stream = (silent.take() if silent is not None else None) or await _dial(address)
    try:
        packet = await _first_packet(stream, silent)
        if packet[:1] == b"\xff":
            raise Refused(parse_err(packet))
        greeting = Greeting.parse(packet)
        greeted.append(greeting)
        await _log_in(stream, greeting, user, password, key, collation_id, address.is_unix)
        transport, _ = stream.detach()
    except BaseException as exc:
        if stream.transport is not None and (silent is None or stream not in silent):
            if isinstance(exc, Refused):
                await _closed_by_server(stream)
            stream.transport.close()
        raise
    return Login(transport, greeting)


async def _closed_by_server(stream: PacketStream) -> None:
    """A connection that the server refuses counts there until the server has closed it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFUSED_CLOSES):
            await stream.wait_gone()


async def _dial(address: Address) -> PacketStream:
    stream = PacketStream(limit=1 << 20)
    if address.unix_path is not None:
        await asyncio.get_running_loop().create_unix_connection(lambda: stream, address.unix_path)
    else:
        transport, _ = await open_tcp(lambda: stream, address.host, address.port)
        _keep_alive(transport)
    return stream


async def _first_packet(stream: PacketStream, silent: Silent | None) -> bytes:
    try:
        return await stream.read_packet()
    except asyncio.CancelledError:
        if silent is not None:
            silent.keep(stream)
        raise


class Silent:
    """Connections on which neither the server nor we have said a word yet, because the server is stopped or hangs.

    The next attempt, whoever makes it, takes one of them instead of opening another. If the server comes to itself
    before, the login is finished as it should be, in the name of nobody.
    """

    PATIENCE = 60.0  # seconds; then it is not the server that was reached, but something in front of it

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        self._spawn = spawn
        self._waiting: dict[PacketStream, asyncio.Task[None]] = {}

    def __contains__(self, stream: PacketStream) -> bool:
        return stream in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, stream: PacketStream) -> None:
        """Whoever opened it cannot wait any longer."""
        self._waiting[stream] = self._spawn(self._wait(stream))

    def take(self) -> PacketStream | None:
        """One for the next attempt, if there is one."""
        while self._waiting:
            stream, task = self._waiting.popitem()
            task.cancel()
            if not stream.gone:
                return stream
        return None

    async def _wait(self, stream: PacketStream) -> None:
        try:
            async with asyncio.timeout_at(stream.opened_at + self.PATIENCE):
                packet = await stream.read_packet()
            del self._waiting[stream]  # from here on nobody else can use it
            async with asyncio.timeout(self.PATIENCE):
                await _log_in(stream, Greeting.parse(packet), PROBE_USER, b"", 0, _UTF8MB4, False)
        except (Refused, PeerGone, ProtocolError, TimeoutError):
            pass
        except asyncio.CancelledError:
            if stream not in self._waiting:
                return  # taken for another attempt
        self._waiting.pop(stream, None)
        assert stream.transport is not None
        stream.transport.close()


def _keep_alive(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    for option in _KEEPALIVE:
        sock.setsockopt(*option)
    set_user_timeout(transport, True)


def set_user_timeout(transport: asyncio.Transport, on: bool) -> None:
    """Whether sent bytes that are not acknowledged end the connection.

    The kernel then ends it as well when the server's window stays closed, which only says that the server is busy: so
    not while a file is sent. Then the kernel's own limit counts (`net.ipv4.tcp_retries2`, a quarter of an hour).
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT if on else 0)


async def _log_in(
    stream: PacketStream, greeting: Greeting, user: bytes, password: bytes, key: int, collation_id: int, private: bool
) -> None:
    plugin, nonce = greeting.plugin, greeting.nonce
    if plugin not in _SCRAMBLES:
        plugin = c.CACHING_SHA2_PASSWORD
    capabilities = (ALWAYS | key) & (greeting.capabilities | c.CLIENT_LONG_PASSWORD)
    if not capabilities & c.CLIENT_DEPRECATE_EOF or not capabilities & c.CLIENT_SESSION_TRACK:
        raise ProtocolError("the server is too old: DEPRECATE_EOF and SESSION_TRACK are needed")
    attributes = {
        b"_client_name": b"mybouncer",
        b"_client_version": __version__.encode(),
        b"_pid": str(os.getpid()).encode(),
        b"program_name": b"mybouncer",
    }
    scramble = _SCRAMBLES[plugin](password, nonce)
    stream.write_packet(
        HandshakeResponse(capabilities, collation_id, user, scramble, None, plugin, attributes).encode()
    )
    while True:
        packet = await stream.read_packet()
        if not packet:
            raise ProtocolError("empty packet in a login")
        if packet[0] == 0x00:
            return
        if packet[0] == 0xFF:
            raise Refused(parse_err(packet))
        if packet[0] == 0xFE:
            plugin, nonce = parse_auth_switch(packet)
            if plugin not in _SCRAMBLES:
                # Finished all the same, with what MariaDB's ed25519 takes for a signature: a shorter answer, or none,
                # counts against our host.
                stream.write_packet(bytes(64))
                await stream.read_packet()
                text = f"mybouncer cannot log in with authentication plugin '{plugin.decode('ascii', 'replace')}'"
                raise Refused(Err(1251, b"08004", text.encode()))
            if plugin == c.SHA256_PASSWORD:
                await _send_secret(stream, password, nonce, private, b"\x01")
            else:
                stream.write_packet(_SCRAMBLES[plugin](password, nonce))
        elif packet == b"\x01\x04":
            await _send_secret(stream, password, nonce, private, b"\x02")
        elif packet != b"\x01\x03":
            raise ProtocolError(f"unexpected packet {packet[:1].hex()} in a login")


_SCRAMBLES: dict[bytes, Callable[[bytes, bytes], bytes]] = {
    c.NATIVE_PASSWORD: auth.scramble_native,
    c.CACHING_SHA2_PASSWORD: auth.scramble_sha2,
    c.SHA256_PASSWORD: lambda _password, _nonce: b"",
}


async def _send_secret(stream: PacketStream, password: bytes, nonce: bytes, private: bool, ask: bytes) -> None:
    """Full authentication: the password itself on a unix socket, else encrypted with the server's key."""
    if not password or (private and ask == b"\x02"):
        stream.write_packet(password + b"\0")
        return
    stream.write_packet(ask)
    packet = await stream.read_packet()
    if packet[:1] == b"\xff":
        raise Refused(parse_err(packet))
    try:
        key = load_pem_public_key(packet[1:])
    except ValueError as exc:
        raise ProtocolError(f"the server's public key cannot be read: {exc}") from exc
    if not isinstance(key, rsa.RSAPublicKey):
        raise ProtocolError("the server's public key is not an RSA key")
    # SHA-1 is what the protocol says for this padding.
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
    stream.write_packet(key.encrypt(auth.xor_nonce(password + b"\0", nonce), oaep))
