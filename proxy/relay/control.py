"""The control slot: one connection beside the cap, opened on demand, with the credentials of the account concerned.

It carries out what must not wait for a lease:

* KILL of one of our clients by the id it knows, which is ours. The victim's backend is held meanwhile
  (`Backend.killers`), so that no KILL can hit whoever gets it next (protocol.md E.1);
* making sure that the server is done with a connection whose end we have not seen. A slot is free only then: a
  statement runs on behind a closed socket. Such a backend stays in CLOSING, is killed, and is gone when the server
  does not list it any more, or when no server listens.

A thread id counts only if it is smaller than that of the control connection: servers count upwards, and begin again
when they are restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from proxy.pool.queue import Failure, FailureKind
from proxy.session import pins
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import Err, build_ok

from . import release
from .accounts import refusal_kind, user_of
from .backend import Backend
from .connect import Refused
from .stream import PeerGone

if TYPE_CHECKING:
    from proxy.pool.pool import Pool

    from .client import Client
    from .relay import Relay

_UTF8 = 33
_FIRST_LOOK, _LAST_LOOK = 0.05, 1.0
_GOODBYE = 2.0
_NOBODY_LISTENS = (ConnectionRefusedError, FileNotFoundError)
_MAY_KILL_OTHERS = (
    b"\x03SELECT 1 FROM information_schema.user_privileges"
    b" WHERE privilege_type IN ('SUPER', 'CONNECTION_ADMIN', 'CONNECTION ADMIN')"
    b" AND grantee = CONCAT(QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', 1)), '@',"
    b" QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', -1)))"
)
_INTERRUPTED = Err(c.ER_QUERY_INTERRUPTED, b"70100", b"Query execution was interrupted")
_KILLED = Err(c.ER_CONNECTION_KILLED, b"70100", b"Connection was killed")


class ControlConnection(Backend):
    """A backend that belongs to no pool's count; it says when the server has closed it."""

    __slots__ = ("ended",)

    def __init__(self, relay: Relay, pool: Pool, transport: asyncio.Transport, thread_id: int) -> None:
        super().__init__(relay, pool, transport, thread_id)
        self.ended = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server is done with this connection."""
        super().connection_lost(exc)
        self.ended.set()


class Control:
    """What goes over the control slot of one server."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._slot = asyncio.Lock()
        self._previous: ControlConnection | None = None
        self._unsure: dict[Backend, None] = {}

    # KILL

    def kill(self, client: Client, ident: int, *, query: bool) -> None:
        """`client` wants the client `ident` killed, or only its statement; it is answered when that is done."""
        client.busy = True
        client.packet = b""
        self._relay.spawn(self._kill(client, ident, query))

    async def _kill(self, client: Client, ident: int, query: bool) -> None:
        victim = self._relay.clients.get(ident)
        if victim is None:
            self._answer(client, Err(c.ER_NO_SUCH_THREAD, b"HY000", b"Unknown thread id: %d" % ident))
        elif victim is client:
            self._suicide(client, query)
        elif victim.backend is not None:
            error = await self._kill_leased(client.pool, victim, victim.backend, query)
            self._answer(client, error)
        elif victim.pool.account is not client.pool.account and not await self._may_kill_others(client.pool):
            self._answer(client, Err(c.ER_KILL_DENIED, b"HY000", b"You are not owner of thread %d" % ident))
        else:
            if not query:
                victim.close("killed")
            elif victim.waiter is not None and self._relay.registry.cancel(victim.waiter):
                text = _INTERRUPTED.message.decode()
                victim.wait_failed(Failure(FailureKind.ACCOUNT_ERROR, _INTERRUPTED.code, text, _INTERRUPTED.state))
            self._answer(client, None)

    async def _may_kill_others(self, pool: Pool) -> bool:
        """Whether the server would let this account kill the connections of others."""
        try:
            async with self._connection(pool) as control:
                (answer,) = await control.run((_MAY_KILL_OTHERS,))
        except (Refused, OSError, PeerGone, ProtocolError, TimeoutError):
            return False
        return answer.error is None and bool(answer.rows)

    def interrupt(self, backend: Backend) -> None:
        """Nobody waits for the statement any more that runs there: end it."""
        self._relay.spawn(self._kill_thread(backend.pool, b"QUERY", backend))

    async def end_client(self, victim: Client) -> Err | None:
        """An operator ends a connection and what it runs. Returns why its statement may run on, if so."""
        backend = victim.backend
        error = None
        if backend is not None and backend.running:
            error = await self._kill_leased(victim.pool, victim, backend, query=False)
        victim.close("killed")
        return error

    async def end_backend(self, backend: Backend) -> Err | None:
        """An operator ends a connection to the server that is lent or being reset; who has it is told by its end."""
        client = backend.client
        if client is not None:
            return await self._kill_on_server(backend.pool, client, backend, query=False)
        return await self._kill_thread(backend.pool, b"CONNECTION", backend)

    async def _kill_leased(self, pool: Pool, victim: Client, backend: Backend, query: bool) -> Err | None:
        """KILL on the server, by whose rules `pool`'s account may do it or not. Returns the server's error."""
        error = await self._kill_on_server(pool, victim, backend, query=query)
        if error is not None:  # 1095: it names the connection that was to be killed
            names = (b"%d" % backend.thread_id, b"%d" % victim.ident)
            error = Err(error.code, error.state, error.message.replace(*names))
        elif not query:
            victim.close("killed")
        return error

    async def _kill_on_server(self, pool: Pool, victim: Client, backend: Backend, *, query: bool) -> Err | None:
        victim.add_pins(pins.BEING_KILLED)
        return await self._kill_thread(pool, b"QUERY" if query else b"CONNECTION", backend)

    async def _kill_thread(self, pool: Pool, what: bytes, backend: Backend) -> Err | None:
        """The backend is held meanwhile, so that nobody else can get it."""
        backend.killers += 1
        try:
            async with self._connection(pool) as control:
                (answer,) = await control.run((b"\x03KILL %s %d" % (what, backend.thread_id),))
            return answer.error
        except Refused as exc:
            return exc.err
        except (OSError, PeerGone, ProtocolError, TimeoutError) as exc:
            return Err(c.CR_CONN_HOST_ERROR, b"HY000", f"cannot reach the server to kill: {exc}".encode())
        finally:
            backend.killers -= 1
            release.kill_over(backend)

    def _suicide(self, client: Client, query: bool) -> None:
        if query:
            self._answer(client, _INTERRUPTED)
        else:
            client.die(_KILLED if self._relay.profile.mariadb else _INTERRUPTED, True)

    def _answer(self, client: Client, error: Err | None) -> None:
        if client.closed:
            return
        if client.backend is None:
            client.last = None  # what the statement before left is over, as after any statement
            client.has_diagnostics = error is not None
            client.row_count = 0 if error is None else -1
        if error is None:
            client.reply(build_ok(status=client.status))
        else:
            client.answer_error(error)
        client.over()
        if self._relay.draining and client.backend is None:
            client.close("drain")

    # Is the server done?

    def make_sure(self, backend: Backend) -> None:
        """The end of this connection was not seen: its slot is kept until the server is done with it."""
        if backend in self._unsure:
            return
        self._unsure[backend] = None
        if len(self._unsure) == 1:
            self._relay.spawn(self._look_until_sure())

    async def _look_until_sure(self) -> None:
        delay = _FIRST_LOOK
        while self._unsure:
            for pool in {backend.pool.account: backend.pool for backend in self._unsure}.values():
                await self._look(pool)
            if self._unsure:
                await asyncio.sleep(delay)
                delay = min(_LAST_LOOK, delay * 2)

    async def _look(self, pool: Pool) -> None:
        """Kill what the server still has of an account's unsure connections, let go of what it has not."""
        mine = [backend for backend in self._unsure if backend.pool.account is pool.account]
        try:
            async with self._connection(pool) as control:
                (listed,) = await control.run((b"\x03SHOW PROCESSLIST",))
                alive = {int(row[0] or 0) for row in listed.values() if row[1] == user_of(pool.account)}
                doomed = [b for b in mine if b.thread_id in alive and b.thread_id < control.thread_id]
                if doomed:
                    await control.run([b"\x03KILL CONNECTION %d" % backend.thread_id for backend in doomed])
            gone = [backend for backend in mine if backend not in doomed]
        except _NOBODY_LISTENS:
            gone = mine
        except Refused as exc:
            if refusal_kind(exc.err) is not FailureKind.ACCOUNT_ERROR:
                return
            self._relay.log.warning("cannot make sure of closed connections", user=pool.account.name, error=str(exc))
            gone = mine
        except (OSError, PeerGone, ProtocolError, TimeoutError) as exc:
            self._relay.health.failed(exc)
            self._relay.registry.unreachable()
            self._relay.watch_queue()
            return
        for backend in gone:
            self._unsure.pop(backend, None)
            self._relay.backend_gone(backend)

    async def reach(self, pool: Pool) -> None:
        """Log in, and no more. Raises as `_connection`."""
        async with self._connection(pool):
            pass

    # The connection

    @contextlib.asynccontextmanager
    async def _connection(self, pool: Pool) -> AsyncIterator[ControlConnection]:
        """The control connection, logged in as the pool's account. Raises what `connect` raises, or TimeoutError."""
        timeout = self._relay.config.backend.connect_timeout
        async with self._slot:
            await self._previous_has_ended()
            async with asyncio.timeout(timeout):
                control = self._previous = await self._connect(pool)
            try:
                async with asyncio.timeout(timeout):
                    yield control
            finally:
                control.close("control")

    async def _previous_has_ended(self) -> None:
        """One connection at a time, as the server counts them."""
        control, self._previous = self._previous, None
        if control is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE):
                    await control.ended.wait()
            control.transport.abort()

    async def _connect(self, pool: Pool) -> ControlConnection:
        relay = self._relay
        known = relay.accounts.known(pool.account)
        login = await relay.accounts.log_in(pool.account, known, 0, _UTF8, [])
        control = ControlConnection(relay, pool, login.transport, login.greeting.thread_id)
        login.transport.set_protocol(control)
        return control
