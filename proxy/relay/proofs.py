"""Proofs: a password that a client gave us becomes known by a login to the server.

A proof needs a slot like every connection to the server, and when it succeeds the connection stays as a backend of its
account. There is one per account at a time; clients with the same password share it. A password that the server has
accepted before has a line of its own, which nobody can block by guessing. A proof that nobody waits for any more is
given up, unless the server has been asked already: a login that was begun is finished (see `connect`).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from proxy.pool.budget import OPENING
from proxy.pool.queue import Failure, FailureKind, LoginWaiter

from .stream import PeerGone

if TYPE_CHECKING:
    from proxy.wire.auth import Secret

    from .accounts import Accounts
    from .relay import Relay


class WaitOver(Exception):
    """A login could not get its connection to the server in time; `since` is when it began to wait."""

    def __init__(self, failure: Failure, since: float) -> None:
        super().__init__(failure.kind.value)
        self.failure = failure
        self.since = since


class LoginSlot:
    """A slot of the budget for one login. `wait` for it; then it is used up, or `again` puts it back into the line.

    Whoever has waited for his turn since `since` has waited: else a full pool would let each account in only as often
    as logins become overdue.
    """

    def __init__(self, relay: Relay, since: float) -> None:
        self._relay = relay
        self._since = since
        self._slot: asyncio.Future[None] = relay.loop.create_future()
        deadline = relay.clock() + relay.config.listen.login_timeout
        self._waiter = LoginWaiter(self._granted, self._failed, deadline, since)
        relay.registry.login_slot(self._waiter)
        relay.watch_queue()

    def _granted(self) -> None:
        if self._slot.done():
            self._relay.registry.login_done(None)
        else:
            self._slot.set_result(None)

    def _failed(self, failure: Failure) -> None:
        if not self._slot.done():
            self._slot.set_exception(WaitOver(replace(failure, message="listen.login_timeout"), self._since))

    async def wait(self) -> None:
        """Raises WaitOver."""
        try:
            await self._slot
        except asyncio.CancelledError:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Nobody wants it any more, whether or not it is there already."""
        slot = self._slot
        granted = slot.done() and not slot.cancelled() and slot.exception() is None
        if not self._relay.registry.cancel_login(self._waiter) and granted:
            self._relay.registry.login_done(None)
        slot.cancel()

    def again(self, failure: Failure) -> bool:
        """The login has failed. True: the server was full or down, and the login waits again, in front."""
        self._slot = self._relay.loop.create_future()
        waits = self._relay.registry.login_failed(self._waiter, failure)
        self._relay.watch_queue()
        return waits


class Proof:
    """One login to the server and the clients that wait for what comes of it."""

    __slots__ = ("begun", "clients", "task")

    def __init__(self) -> None:
        self.begun = False  # the server has been asked
        self.clients = 0
        self.task: asyncio.Task[None]


class Proofs:
    """The proofs under way."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._relay = accounts.relay
        self._proofs: dict[tuple[bytes, bytes], Proof] = {}  # by user and what the password comes to
        self._turns: WeakValueDictionary[tuple[bytes, bool], asyncio.Lock] = WeakValueDictionary()  # by user and line

    async def prove(self, user: bytes, secret: Secret, key: int) -> None:
        """Log in to the server with a client's secret. Raises Refused with the server's answer, or WaitOver."""
        ident = (user, secret.ident)
        proof = self._proofs.get(ident)
        if proof is None:
            proof = self._proofs[ident] = Proof()
            proof.task = self._relay.spawn(self._run(proof, user, secret, key))
            proof.task.add_done_callback(lambda task: self._over(ident, task))
        proof.clients += 1
        try:
            await asyncio.shield(proof.task)
        finally:
            proof.clients -= 1
            if not proof.clients and not proof.begun and not proof.task.done():
                del self._proofs[ident]  # at once: who comes now starts a new one
                proof.task.cancel()

    def _over(self, ident: tuple[bytes, bytes], task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # those who waited have seen it
        proof = self._proofs.get(ident)
        if proof is not None and proof.task is task:
            del self._proofs[ident]

    async def _run(self, proof: Proof, user: bytes, secret: Secret, key: int) -> None:
        line = (user, self._accounts.credentials.accepted_before(user, secret))
        turn = self._turns.get(line)
        if turn is None:
            turn = self._turns[line] = asyncio.Lock()
        since = self._relay.clock()
        async with turn:
            await self._prove(proof, LoginSlot(self._relay, since), user, secret, key)

    async def _prove(self, proof: Proof, slot: LoginSlot, user: bytes, secret: Secret, key: int) -> None:
        relay, accounts = self._relay, self._accounts
        while True:
            await slot.wait()
            proof.begun = True
            pool = relay.unproven_pool(user, key)
            since = relay.clock()
            try:
                backend = await accounts.connect(pool, secret)
            except Exception as exc:
                proof.begun = False
                failure = accounts.failure(exc)
                if failure.kind is FailureKind.REFUSED_ACCOUNT:
                    # Servers look at this limit after the password, so the password is right (protocol.md F).
                    if relay.profile.learned:
                        accounts.credentials.remember(user, secret, since)
                        relay.registry.login_refused(relay.pool(user, key), failure)
                        relay.watch_queue()
                        return
                    failure = replace(failure, kind=FailureKind.REFUSED_SERVER)  # no session without knowing it
                if not slot.again(failure):
                    raise
                if not proof.clients:
                    slot.give_up()
                    raise PeerGone("nobody waits for it any more") from exc
            else:
                accounts.credentials.remember(user, secret, since)
                backend.slot = OPENING
                relay.registry.introduce(pool.account)
                relay.registry.adopt(backend, relay.pool(user, key))  # another one, if we had forgotten it meanwhile
                return
