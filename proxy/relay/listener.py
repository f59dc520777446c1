"""Accept, greet, read 36 bytes.

asyncio's server-side `start_tls` hangs when an SSLRequest and a ClientHello arrive in one read, so connections are
accepted by hand: the raw socket is greeted, and exactly the 36 bytes that an SSLRequest has (and a handshake response
exceeds) are read, before a transport takes it over. Until then a client costs one socket and one small object, and can
be refused politely when clients or descriptors run out.

These sockets have an epoll of their own, which the loop watches as one descriptor: uvloop goes deaf on a socket whose
peer has sent an RST (libuv stops the poll and uvloop does not call back), and would keep it until the login times out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
import stat
from typing import TYPE_CHECKING

from proxy.address import Address
from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import Greeting, build_err

from . import login
from .stream import CUT_SHORT, LOGIN_PACKET_LIMIT

if TYPE_CHECKING:
    from .relay import Relay

FIRST_BYTES = 36
_BACKLOG = 4096
_ACCEPTS_A_TURN = 128
_PAUSE = 0.1  # seconds without accepting when not even a refusal is possible

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# A client whose host has vanished holds what it holds for two minutes and no longer. What is accepted inherits these.
_TCP_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


class _Newcomer:
    """A connection that has not sent its 36 bytes yet."""

    __slots__ = ("accepted_at", "address", "early", "greeting", "sock", "timer")

    def __init__(self, sock: socket.socket, address: str, accepted_at: float) -> None:
        self.sock = sock
        self.address = address
        self.accepted_at = accepted_at
        self.early = b""
        self.greeting: Greeting | None = None
        self.timer: asyncio.TimerHandle | None = None


class Listener:
    """The sockets we listen on, and the connections on them that are not logged in yet."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.loop = relay.loop
        self.addresses: list[Address] = []
        self._sockets: list[socket.socket] = []
        self._arrivals = select.epoll()
        self._on_close = contextlib.ExitStack()
        self._spare: int | None = None  # given up for a moment when a newcomer can only be refused
        self._newcomers: dict[int, _Newcomer] = {}  # by descriptor
        self._tasks: set[asyncio.Task[None]] = set()
        relay.on_server_seen = self._greet_held

    @property
    def pending(self) -> int:
        """Connections that are not logged in yet."""
        return len(self._newcomers) + len(self._tasks)

    def open(self, addresses: tuple[Address, ...]) -> None:
        """Listen on every address. Raises OSError, with the address, if one cannot be had."""
        self._take_spare()
        self._on_close.callback(self._arrivals.close)
        self._on_close.callback(self.loop.remove_reader, self._arrivals.fileno())
        self.loop.add_reader(self._arrivals.fileno(), self._arrived)
        for address in addresses:
            try:
                sock = _bind(address)
            except OSError as exc:
                self.close()
                raise OSError(exc.errno, f"cannot listen on {address}: {exc.strerror or exc}") from exc
            self._sockets.append(sock)
            port = sock.getsockname()[1] if not address.is_unix else 0
            self.addresses.append(address if address.is_unix else Address(address.host, port))
            self.loop.add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Stop accepting; connections in the middle of a login are closed."""
        for sock in self._sockets:
            self.loop.remove_reader(sock)
            path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
            sock.close()
            if path:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self._sockets.clear()
        for newcomer in list(self._newcomers.values()):
            self._refuse(newcomer, c.ER_SERVER_SHUTDOWN, "Server shutdown in progress")
        self._on_close.close()
        self._give_up_spare()

    # Newcomers

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            if self._spare is None:
                self._take_spare()
            try:
                sock, peer = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno not in _OUT_OF_DESCRIPTORS:
                    return
                self.relay.limited_log("accept", "clients refused", error=str(exc), clients=len(self.relay.clients))
                if not self._turn_away(listening):
                    self._pause(listening)
                    return
            else:
                self._welcome(sock, listening, peer)

    def _turn_away(self, listening: socket.socket) -> bool:
        """Refuse a newcomer for whom there is no descriptor but the spare one; False if that fails too."""
        if not self._give_up_spare():
            return False
        try:
            sock, _ = listening.accept()
        except BlockingIOError:
            return True  # it has left, and the next look finds nobody
        except OSError:
            return False
        else:
            sock.setblocking(False)
            self.relay.stats.client_connections += 1
            self._count_refusal()
            _refuse(sock, build_err(c.ER_CON_COUNT, b"", "Too many connections: no file descriptors left (ulimit -n)"))
            return True

    def _take_spare(self) -> None:
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_up_spare(self) -> bool:
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)
        return spare is not None

    def _pause(self, listening: socket.socket) -> None:
        self.loop.remove_reader(listening)

        def again() -> None:
            if listening in self._sockets:
                self.loop.add_reader(listening, self._accept, listening)

        self.loop.call_later(_PAUSE, again)

    def _welcome(self, sock: socket.socket, listening: socket.socket, peer: object) -> None:
        relay = self.relay
        sock.setblocking(False)
        relay.stats.client_connections += 1
        if listening.family == socket.AF_UNIX:
            address = f"unix:{listening.getsockname()}"
        else:
            assert isinstance(peer, tuple)
            address = f"{peer[0]}:{peer[1]}"
        room = relay.clients_max
        if len(relay.clients) + self.pending >= room:
            text = f"listen.max_clients is {room}"
            if room < relay.config.listen.max_clients:
                text = f"no file descriptors for more than {room} clients (ulimit -n)"
            self._count_refusal()
            _refuse(sock, build_err(c.ER_CON_COUNT, b"", f"Too many connections: {text}"))
            return
        newcomer = _Newcomer(sock, address, relay.clock())
        descriptor = sock.fileno()
        self._newcomers[descriptor] = newcomer
        self._arrivals.register(descriptor, select.EPOLLIN)
        if relay.profile.greeting is None:
            # Before the server was ever seen there is nothing to greet with.
            newcomer.timer = self.loop.call_later(relay.config.queue.timeout_down, self._server_never_seen, newcomer)
        else:
            self._greet(newcomer)

    def _count_refusal(self) -> None:
        self.relay.stats.errors[(c.ER_CON_COUNT, "proxy")] += 1
        self.relay.stats.client_disconnects["refused"] += 1

    def _server_never_seen(self, newcomer: _Newcomer) -> None:
        self.relay.login_failed(str(c.CR_CONN_HOST_ERROR))
        self._refuse(newcomer, c.CR_CONN_HOST_ERROR, self.relay.health.down_text())

    def _greet_held(self) -> None:
        for newcomer in list(self._newcomers.values()):
            if newcomer.timer is not None:
                newcomer.timer.cancel()
            self._greet(newcomer)

    def _greet(self, newcomer: _Newcomer) -> None:
        relay = self.relay
        greeting = login.greet(relay, relay.next_client_id(), tls=relay.certificate is not None)
        newcomer.greeting = greeting
        try:
            newcomer.sock.send(frame(greeting.encode(), 0))
        except OSError:
            self._drop(newcomer, "client_gone")
            return
        newcomer.timer = self.loop.call_later(relay.config.listen.login_timeout, self._too_slow, newcomer)

    def _too_slow(self, newcomer: _Newcomer) -> None:
        self.relay.login_failed("timeout")
        self._refuse(newcomer, c.ER_NET_READ_INTERRUPTED, "Got timeout reading communication packets")

    def _arrived(self) -> None:
        for descriptor, _ in self._arrivals.poll(0):
            self._read(self._newcomers[descriptor])

    def _read(self, newcomer: _Newcomer) -> None:
        """Read up to 36 bytes, never more: what follows belongs to the transport, or to TLS."""
        try:
            data = newcomer.sock.recv(FIRST_BYTES - len(newcomer.early))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(newcomer, "client_gone")
            return
        if not data:
            if newcomer.early:
                self._bad(newcomer, c.ER_HANDSHAKE, f"Bad handshake: {CUT_SHORT}")
            else:
                self._drop(newcomer, "client_gone")
            return
        newcomer.early += data
        early = newcomer.early
        if len(early) >= 4:
            size = early[0] | early[1] << 8 | early[2] << 16
            if early[3] != 1 or newcomer.greeting is None:
                self._bad(newcomer, c.ER_NET_PACKETS_OUT_OF_ORDER, "Got packets out of order")
            elif size < FIRST_BYTES - 4:
                self._bad(newcomer, c.ER_HANDSHAKE, "Bad handshake")
            elif size > LOGIN_PACKET_LIMIT:
                self._bad(
                    newcomer, c.ER_NET_PACKET_TOO_LARGE, f"Bad handshake: {size} bytes before login, at most 65536"
                )
            elif len(early) == FIRST_BYTES:
                self._hand_over(newcomer)

    def _hand_over(self, newcomer: _Newcomer) -> None:
        assert newcomer.greeting is not None
        self._forget(newcomer)
        task = self.loop.create_task(self._log_in(newcomer, newcomer.greeting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _log_in(self, newcomer: _Newcomer, greeting: Greeting) -> None:
        sock, early, address, accepted_at = newcomer.sock, newcomer.early, newcomer.address, newcomer.accepted_at
        await login.log_in(self.relay, sock, early, greeting, address, accepted_at)
        # No await above this since it became a client: it is never counted as both.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)

    def _bad(self, newcomer: _Newcomer, code: int, text: str) -> None:
        self.relay.count_malformed(newcomer.address, text)
        self.relay.login_failed("malformed")
        self._refuse(newcomer, code, text)

    def _refuse(self, newcomer: _Newcomer, code: int, text: str) -> None:
        # Before capabilities are known an ERR carries no SQLSTATE (protocol.md F).
        greeted = newcomer.greeting is not None
        self._forget(newcomer)
        _refuse(newcomer.sock, build_err(code, b"08S01" if greeted else b"", text), 2 if greeted else 0)

    def _drop(self, newcomer: _Newcomer, reason: str) -> None:
        self.relay.login_failed(reason)
        self._forget(newcomer)
        newcomer.sock.close()

    def _forget(self, newcomer: _Newcomer) -> None:
        if newcomer.timer is not None:
            newcomer.timer.cancel()
        descriptor = newcomer.sock.fileno()
        self._arrivals.unregister(descriptor)
        del self._newcomers[descriptor]


def _refuse(sock: socket.socket, payload: bytes, seq: int = 0) -> None:
    """Say why, and close."""
    with contextlib.suppress(OSError):
        sock.send(frame(payload, seq))
        sock.shutdown(socket.SHUT_WR)
    sock.close()


def _bind(address: Address) -> socket.socket:
    if address.unix_path is not None:
        remove_stale(address.unix_path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target: object = address.unix_path
    else:
        family, kind, proto, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in _TCP_OPTIONS:
            sock.setsockopt(*option)
    try:
        sock.setblocking(False)
        sock.bind(target)  # type: ignore[arg-type]
        if address.unix_path is not None:
            # Everybody may connect, as to the server's own socket: the password is the gate.
            os.chmod(address.unix_path, 0o777)  # noqa: S103
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
        finally:
            probe.close()
