"""A client's login, with nothing configured: get the password, prove it at the server, open a session.

    greeting -> response -> challenge -> known ----------------> OK
                                      -> proof at the server -> OK | the server's ERR

A connection may begin with a TLS handshake. How a client shows that it has the password is `challenge`'s business.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from proxy.pool.queue import Failure, FailureKind
from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import (
    Err,
    Greeting,
    HandshakeResponse,
    build_ok,
    encode_tracker,
)

from . import answers
from .challenge import Challenge, first_plugin
from .client import WRITE_HIGH, WRITE_LOW, Client
from .connect import KEY, Refused
from .proofs import WaitOver
from .stream import CUT_SHORT, PacketStream, PeerGone
from .tls import Tls

if TYPE_CHECKING:
    import socket

    from proxy.pool.pool import Pool
    from proxy.session.state import Settings
    from proxy.wire.auth import Secret

    from .relay import Relay

_TLS_REQUIRED = b"Connections using insecure transport are prohibited while tls.client.mode is required."

# What clients may not have, because it changes packets that we read or could not move, or nothing here does it
# (protocol.md A.2).
MASKED = (
    c.CLIENT_CAN_HANDLE_EXPIRED_PASSWORDS
    | c.CLIENT_COMPRESS
    | c.CLIENT_ZSTD_COMPRESSION
    | c.CLIENT_OPTIONAL_RESULTSET_METADATA
    | c.CLIENT_QUERY_ATTRIBUTES
    | c.CLIENT_MULTI_FACTOR
    | c.CLIENT_CAPABILITY_EXTENSION
    | c.CLIENT_SSL_VERIFY_SERVER_CERT
    | c.CLIENT_REMEMBER_OPTIONS
    | (c.MARIADB_CLIENT_ALL & ~c.MARIADB_CLIENT_STMT_BULK_OPERATIONS)
)


_SSL_REQUEST = b"\x20\0\0\1"  # the header of a response without a name: the TLS handshake follows


def greet(relay: Relay, ident: int, *, tls: bool) -> Greeting:
    """Return the server's greeting with our id and nonce, our plugin, and without what we cannot carry."""
    server = relay.profile.greeting
    assert server is not None
    offered = server.capabilities & ~MASKED & ~c.CLIENT_SSL | c.CLIENT_PLUGIN_AUTH | c.CLIENT_PLUGIN_AUTH_LENENC
    return Greeting(
        server.version,
        ident,
        auth.make_nonce(),
        server.charset,
        server.status,
        offered | c.CLIENT_CONNECT_ATTRS | (c.CLIENT_SSL if tls else 0),
        first_plugin(relay.config.auth.mode, mariadb=server.is_mariadb),
    )


async def log_in(
    relay: Relay, sock: socket.socket, early: bytes, greeting: Greeting, address: str, accepted_at: float
) -> None:
    """Bring an accepted and greeted connection to a session, or refuse it. Never raises."""
    certificate = relay.certificate
    secure = certificate is not None and early.startswith(_SSL_REQUEST)
    stream = PacketStream(early=b"" if secure else early)
    stream.expect(2 if secure else 1)
    tls = certificate.connection() if certificate is not None and secure else None
    if tls is not None:
        tls.set_protocol(stream)
    started = relay.clock()
    try:
        below: asyncio.Protocol = stream if tls is None else tls
        await relay.loop.connect_accepted_socket(lambda: below, sock)
    except OSError:
        sock.close()
        relay.login_failed("client_gone")
        return
    login = _Login(relay, stream, greeting, address, accepted_at, tls)
    if await _guard(login, login.run()):
        relay.stats.login_seconds.observe(relay.clock() - started)


async def change_user(
    relay: Relay, transport: asyncio.Transport, response: HandshakeResponse, client: Client, rest: bytes
) -> None:
    """COM_CHANGE_USER: a new login on the connection of `client`, whose session has ended. Never raises."""
    stream = PacketStream(early=rest)
    stream.expect(1)
    stream.connection_made(transport)
    transport.set_protocol(stream)
    tls = transport if isinstance(transport, Tls) else None
    greeting = greet(relay, client.ident, tls=tls is not None)
    login = _Login(relay, stream, greeting, client.address, client.connected_at, tls)
    login.libmariadb = client.libmariadb
    await _guard(login, login.open(response, answered=False))


async def _guard(login: _Login, steps: Coroutine[Any, Any, None]) -> bool:
    """Run the steps of a login; True if they led to a session. Else the client has been told why."""
    relay, stream, address = login.relay, login.stream, login.address
    since = relay.clock()
    task = asyncio.current_task()
    assert task is not None
    stream.on_gone = task.cancel  # whatever it waits for: nobody needs it any more
    try:
        async with asyncio.timeout(relay.config.listen.login_timeout):
            await steps
        return True
    except ProtocolError as exc:
        relay.count_malformed(address, str(exc))
        login.refuse(Err(exc.code, b"08S01", _words(exc)))
        reason = "malformed"
    except Refused as exc:
        login.refuse(exc.err)
        reason = str(exc.err.code)
    except WaitOver as exc:
        code, state, text = relay.describe_failure(exc.failure, exc.since)
        login.refuse(Err(code, state, text.encode()))
        reason = str(code)
    except TimeoutError:
        if login.waits_for_server:
            failure = Failure(FailureKind.TIMEOUT, c.ER_CON_COUNT, "listen.login_timeout")
            if relay.registry.down_since is not None:
                failure = Failure(FailureKind.DOWN)
            code, state, text = relay.describe_failure(failure, since)
            login.refuse(Err(code, state, text.encode()))
        else:
            login.refuse(Err(c.ER_NET_READ_INTERRUPTED, b"08S01", b"Got timeout reading communication packets"))
        reason = "timeout"
    except ssl.SSLError as exc:
        # There is no place for an ERR: the client knows from the alert, or sees the end.
        relay.limited_log(f"tls {address.rpartition(':')[0]}", "TLS handshake failed", client=address, error=str(exc))
        reason = "tls"
    except (PeerGone, ConnectionError):
        reason = _left(login)
    except asyncio.CancelledError:
        if not stream.gone:
            raise
        task.uncancel()
        reason = _left(login)
    except Exception as exc:
        relay.log.error("login failed unexpectedly", client=address, error=f"{type(exc).__name__}: {exc}", exc_info=exc)
        login.refuse(Err(c.ER_HANDSHAKE, b"08S01", b"Bad handshake"))
        reason = "internal"
    finally:
        stream.on_gone = None
    relay.login_failed(reason)
    if stream.transport is not None:
        stream.transport.close()
    return False


def _left(login: _Login) -> str:
    """The client has closed: why its login failed."""
    if not login.stream.cut_short:
        return "client_gone"
    login.relay.count_malformed(login.address, CUT_SHORT)
    return "malformed"


def _words(exc: ProtocolError) -> bytes:
    if exc.code == c.ER_NET_PACKETS_OUT_OF_ORDER:
        return b"Got packets out of order"
    return f"Bad handshake: {exc}".encode()


def _check_room(relay: Relay, pool: Pool) -> None:
    """Raise Refused when the account has as many clients as it may have."""
    name = pool.account.name
    known = relay.config.users.get(name)
    if known is not None and known.max_clients is not None and pool.account.clients >= known.max_clients:
        text = f"User '{name}' has exceeded the 'max_clients' resource (current value: {known.max_clients})"
        relay.stats.errors[(c.ER_USER_LIMIT_REACHED, "proxy")] += 1
        raise Refused(Err(c.ER_USER_LIMIT_REACHED, b"42000", text.encode("utf-8", "surrogateescape")))


class _Login:
    """One login in progress."""

    def __init__(
        self,
        relay: Relay,
        stream: PacketStream,
        greeting: Greeting,
        address: str,
        accepted_at: float,
        tls: Tls | None,
    ) -> None:
        self.relay = relay
        self.stream = stream
        self.greeting = greeting
        self.address = address
        self.accepted_at = accepted_at
        self.tls = tls
        self.private = tls is not None or address.startswith("unix:")
        self.info = b""
        self.waits_for_server = False
        self.libmariadb = False

    def refuse(self, err: Err) -> None:
        """Tell the client why not, if it is still there."""
        stream = self.stream
        if stream.transport is not None and not stream.transport.is_closing():
            stream.write_packet(answers.error(err, to_libmariadb=self.libmariadb))

    async def run(self) -> None:
        """The whole login."""
        if self.tls is not None:
            await self.tls.handshake()
            self.stream.connection_made(self.tls)
        packet = await self.stream.read_packet()
        if not self.private and self.relay.config.tls.client.mode == "required":
            raise Refused(Err(c.ER_SECURE_TRANSPORT_REQUIRED, b"HY000", _TLS_REQUIRED))
        if int.from_bytes(packet[:4], "little") & c.CLIENT_COMPRESS:
            # Some drivers compress because they were told to, whether or not it was offered; they would hang.
            raise Refused(Err(c.ER_NOT_SUPPORTED_YET, b"42000", b"compression was not offered: connect without it"))
        await self.open(HandshakeResponse.parse(packet, self.greeting.capabilities))

    async def open(self, response: HandshakeResponse, *, answered: bool = True) -> None:
        """From the client's response to a session. `answered`: it answers the nonce of our greeting."""
        relay = self.relay
        self.libmariadb = self.libmariadb or response.attributes.get(b"_client_name") == answers.LIBMARIADB
        challenge = Challenge(
            relay, self.stream, self.greeting, response, self.address, private=self.private, answered=answered
        )
        secret, proven = await challenge.run()
        self.info = self._certificate_proof(challenge, secret)
        key = response.capabilities & KEY
        self.waits_for_server = True
        if not proven:
            await relay.accounts.proofs.prove(response.username, secret, key)
        pool = relay.pool(response.username, key)
        _check_room(relay, pool)
        pool.account.clients += 1  # from here on the account is in use
        try:
            self._open_session(response, pool, await self._settings(response, pool))
        except BaseException:
            pool.account.clients -= 1
            raise

    def _certificate_proof(self, challenge: Challenge, secret: Secret) -> bytes:
        """What a client of MariaDB 11.4 and later may believe our certificate by, in the info of its OK."""
        if self.tls is None or challenge.plugin != c.NATIVE_PASSWORD or secret.password == b"":
            return b""
        return auth.certificate_proof(secret.native_hash, challenge.nonce, self.tls.fingerprint)

    async def _settings(self, response: HandshakeResponse, pool: Pool) -> Settings:
        settings = self.relay.initial_settings(response)
        if response.database is not None:
            await self.relay.accounts.check_schema(pool, settings)
        return settings

    def _open_session(self, response: HandshakeResponse, pool: Pool, settings: Settings) -> None:
        relay = self.relay
        trackers = b""
        if response.database is not None and response.capabilities & c.CLIENT_SESSION_TRACK:
            trackers = encode_tracker(c.TRACK_SCHEMA, b"", response.database)
        self.stream.write_packet(build_ok(status=self.greeting.status, info=self.info, trackers=trackers))
        transport, rest = self.stream.detach()
        client = Client(relay, transport, self.greeting.thread_id, pool, settings, response.capabilities)
        client.address = self.address
        client.connected_at = self.accepted_at
        client.program = _program(response.attributes)
        client.libmariadb = self.libmariadb
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        transport.set_protocol(client)
        relay.client_ready(client)
        if rest:
            client.data_received(rest)


def _program(attributes: dict[bytes, bytes]) -> str:
    """Who a client says it is: "`api` pid 4242"."""
    name = attributes.get(b"program_name") or attributes.get(b"_client_name") or b""
    pid = attributes.get(b"_pid", b"")
    words = [
        f"`{name[:60].decode('utf-8', 'replace')}`" if name else "",
        f"pid {pid[:20].decode()}" if pid.isdigit() else "",
    ]
    return " ".join(word for word in words if word)
