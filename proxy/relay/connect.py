"""Log in to the server: the backend side of the authentication plugins (protocol.md A.4).

A login that was begun is finished: abandoned handshakes count towards the server's `max_connect_errors` and would get
our host blocked (1129). So a connection that the server has not greeted in time is not closed but kept (`Silent`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from proxy import __version__
from proxy.address import Address
from proxy.wire import constants as c
from proxy.wire.auth import Secret
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import Err, Greeting, HandshakeResponse, parse_auth_switch, parse_err, ssl_request

from .certificates import ServerTls
from .names import open_tcp
from .plugins import Exchange, answer, first_answer, full_authentication, give_up
from .plugins import Refused as Refused  # the caller's view of a login that failed
from .stream import PacketStream, PeerGone
from .tls import Tls

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
    | c.MARIADB_CLIENT_STMT_BULK_OPERATIONS
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
NOTHING = Secret.of(b"")
_UTF8MB4 = 45

_NO_PLUGIN = b"mybouncer"
_NOBODY_ASKED = b"Access denied for user '%s': the server asks for no password but goes by whom mybouncer runs as"
_ONE_FACTOR = "the server asks for a second factor: mybouncer logs in with a password only"


REFUSED_CLOSES = 1.0  # seconds; servers close at once


@dataclass(slots=True)
class Login:
    """A connection that the server has accepted."""

    transport: asyncio.Transport
    greeting: Greeting


class Turn:
    """Logins with one secret, one at a time: when the server has refused it, those behind do not try it again.

    Servers lock accounts that are tried with a wrong password a few times (MySQL's FAILED_LOGIN_ATTEMPTS, MariaDB's
    max_password_errors), and many connections may be opened at once when the password has just been changed.
    """

    DENIED = (
        c.ER_ACCESS_DENIED,
        c.ER_ACCESS_DENIED_NO_PASSWORD,
        c.ER_BLOCKED_BY_PASSWORD_ERRORS,
        c.MARIADB_ER_USER_IS_BLOCKED,
    )

    __slots__ = ("_lock", "_refused")

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._refused: Err | None = None

    async def __aenter__(self) -> Err | None:
        await self._lock.acquire()
        return self._refused

    async def __aexit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        self._lock.release()
        if self._refused is not None and not isinstance(exc, asyncio.CancelledError):
            raise Refused(self._refused) from None
        if isinstance(exc, Refused) and exc.err.code in self.DENIED:
            self._refused = exc.err


@dataclass(slots=True)
class Dialer:
    """How the server is reached. `tls` None: never encrypted; `silent` None: a server that hangs is not waited for."""

    address: Address
    tls: ServerTls | None = None
    silent: Silent | None = None

    async def connect(
        self,
        user: bytes,
        secret: Secret,
        key: int,
        collation_id: int,
        greeted: list[Greeting],
        turn: Turn | None = None,
    ) -> Login:
        """Open a connection and log in as `user`. The greeting is appended to `greeted` as soon as it is there.

        With a `turn`, the server is told the name only when the login before has been answered (see `Turn`).

        Raises Refused with the server's ERR, or with 2026 where TLS cannot be had as wanted; OSError or PeerGone when
        the server cannot be reached; ProtocolError when it speaks nonsense.
        """
        silent = self.silent
        stream = (silent.take() if silent is not None else None) or await _dial(self.address)
        try:
            packet = await _first_packet(stream, silent)
            if packet[:1] == b"\xff":
                raise Refused(parse_err(packet))
            greeting = Greeting.parse(packet)
            greeted.append(greeting)
            secured = await self._secure(stream, greeting, key, collation_id)
            exchange = Exchange(stream, secret, self.address.is_unix, secured is not None)
            async with turn or Turn() as refused:
                if refused is not None:  # meanwhile, and the login is finished in nobody's name
                    user, exchange.secret = PROBE_USER, NOTHING
                await _log_in(exchange, greeting, user, key, collation_id)
            transport, _ = stream.detach()
            if secured is not None and self.tls is not None:
                self.tls.session = secured.session
        except BaseException as exc:
            if stream.transport is not None and (silent is None or stream not in silent):
                if isinstance(exc, Refused) and exc.err.code != c.CR_SSL_CONNECTION_ERROR:
                    await _closed_by_server(stream)
                stream.transport.close()
            raise
        return Login(transport, greeting)

    async def _secure(self, stream: PacketStream, greeting: Greeting, key: int, collation_id: int) -> Tls | None:
        """The TLS handshake, if the server offers it; where it must, never a connection without."""
        tls = self.tls
        if tls is None or self.address.is_unix:
            return None
        if not greeting.capabilities & c.CLIENT_SSL:
            if tls.mode == "preferred":
                return None
            raise Refused(_tls_error(f"the server offers none, and tls.backend.mode is {tls.mode}"))
        # MySQL goes by these capabilities, whatever the response behind the handshake says.
        stream.write_packet(ssl_request(_capabilities(greeting, key, True), collation_id))
        transport, early = stream.detach()
        if early:
            raise ProtocolError("the server went on before the TLS handshake")
        secured = tls.connection(self.address.host)
        secured.set_protocol(stream)
        secured.connection_made(transport)
        transport.set_protocol(secured)
        try:
            await secured.handshake()
        except ssl.SSLError as exc:
            raise Refused(_tls_error(getattr(exc, "verify_message", "") or str(exc))) from exc
        stream.connection_made(secured)
        return secured


def _tls_error(reason: str) -> Err:
    return Err(c.CR_SSL_CONNECTION_ERROR, b"HY000", f"TLS to the server: {reason}".encode())


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
                await _log_in(Exchange(stream, NOTHING, False, False), Greeting.parse(packet), PROBE_USER, 0, _UTF8MB4)
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


def _capabilities(greeting: Greeting, key: int, tls: bool) -> int:
    return (ALWAYS | key | (c.CLIENT_SSL if tls else 0)) & greeting.capabilities


async def _log_in(exchange: Exchange, greeting: Greeting, user: bytes, key: int, collation_id: int) -> None:
    stream = exchange.stream
    capabilities = _capabilities(greeting, key, exchange.secured)
    if not exchange.local:
        # Else accounts with a second factor are told that their password is wrong. On a unix socket they have to be:
        # the second one may be the user id behind it, which is ours.
        capabilities |= c.CLIENT_MULTI_FACTOR & greeting.capabilities
    if not capabilities & c.CLIENT_DEPRECATE_EOF or not capabilities & c.CLIENT_SESSION_TRACK:
        raise ProtocolError("the server is too old: DEPRECATE_EOF and SESSION_TRACK are needed")
    attributes = {
        b"_client_name": b"mybouncer",
        b"_client_version": __version__.encode(),
        b"_pid": str(os.getpid()).encode(),
        b"program_name": b"mybouncer",
    }
    plugin, scramble = _first_words(exchange, greeting)
    stream.write_packet(
        HandshakeResponse(capabilities, collation_id, user, scramble, None, plugin, attributes).encode()
    )
    asked = bool(scramble) or not exchange.local
    while True:
        packet = await stream.read_packet()
        if not packet:
            raise ProtocolError("empty packet in a login")
        if exchange.given_up and packet[0] != 0xFE:  # whatever it says: only another plugin would help
            raise Refused(Err(c.ER_NOT_SUPPORTED_AUTH_MODE, b"08004", exchange.given_up.encode()))
        if packet[0] == 0x00:
            if not asked and not exchange.secret.vouched:
                raise Refused(Err(c.ER_ACCESS_DENIED_NO_PASSWORD, b"28000", _NOBODY_ASKED % user))
            return
        if packet[0] == 0xFF:
            raise Refused(parse_err(packet))
        if packet[0] == 0xFE:
            asked = True
            exchange.plugin, exchange.nonce = parse_auth_switch(packet)
            await answer(exchange)
        elif packet == b"\x01\x04":
            await full_authentication(exchange)
        elif packet[0] == 0x02:
            give_up(exchange, _ONE_FACTOR)
        elif packet != b"\x01\x03":
            raise ProtocolError(f"unexpected packet {packet[:1].hex()} in a login")


def _first_words(exchange: Exchange, greeting: Greeting) -> tuple[bytes, bytes]:
    """Plugin and answer of the handshake response."""
    plugin = greeting.plugin
    exchange.nonce = greeting.nonce
    if exchange.local:
        # A server may go by the user id behind a unix socket, which is ours whoever our client is. It asks everybody
        # else for the password when the plugin has a name that nobody has.
        return _NO_PLUGIN, b""
    if exchange.secret.password is None:
        plugin = c.NATIVE_PASSWORD
    elif first_answer(plugin, exchange.secret, greeting.nonce) is None:
        plugin = c.CACHING_SHA2_PASSWORD
    exchange.plugin = plugin
    return plugin, first_answer(plugin, exchange.secret, greeting.nonce) or b""
