"""The steps by which what is free reaches those who wait.

Every callback may call back into the registry. Events change the state and then call `settle`, which takes one step
after the other until none is left; called from inside a step it returns at once and the outer one goes on. So nothing
recurses however many callbacks answer at once, and a callback always sees a consistent state.

A step either ends a wait that has lasted too long, or places one backend that has come free, or opens one, or closes
one to make room. Each makes somebody's need smaller, so the steps end.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from typing import Any

from proxy.pool.budget import CLOSING, IDLE, LEASED, OPENING, Budget
from proxy.pool.logins import Logins
from proxy.pool.pool import Account, Pool
from proxy.pool.queue import FAILED, GRANTED, WAITING, Failure, FailureKind, Queue, Waiter
from proxy.pool.refusals import Refusals
from proxy.pool.shares import Shares
from proxy.pool.slots import LOGIN, Slots


class Dispatch:
    def __init__(
        self,
        cap: int,
        *,
        clock: Callable[[], float],
        open_backend: Callable[[Pool], None],
        close_backend: Callable[[Any, str], None],
        queue_timeout: float = 30.0,
        queue_timeout_down: float = 5.0,
        quantum: float = 0.05,
        max_lifetime: float = 0.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.budget = Budget(cap)
        self.budget.subscribe(self.settle)
        self.queue = Queue(queue_timeout)
        self.logins = Logins(self.budget)
        self.shares = Shares(self.budget, quantum)
        self.refusals = Refusals(self.budget, jitter)
        self.slots = Slots(self.budget, self.shares, self.logins, clock)
        self.queue_timeout_down = queue_timeout_down
        self.max_lifetime = max_lifetime
        self.freed: dict[Any, None] = {}  # backends given back, not yet placed
        self.due: list[Account | None] = []  # whom a slot that has come free was promised to
        self._clock = clock
        self._open_backend = open_backend
        self._close_backend = close_backend
        self._jitter = jitter
        self._settling = False
        self._asked = False  # somebody has called `settle` while it could not run

    def hand_over(self, backend: Any, now: float) -> bool:
        """The step that is taken most: a freed backend goes to the first of its own account's line.

        Only where that is all there is to decide, and `settle` would decide the same; False: it has to be asked. Saves
        five of the nine microseconds that queueing costs (CPython 3.11, 2026-11).
        """
        account = backend.pool.account
        waiters = account.waiters
        if not waiters or len(self.shares.waiting) != 1 or self._settling or self.freed or self.due:
            return False
        if self.logins.line or self.refusals.down_since is not None or backend.slot != LEASED:
            return False
        waiter = next(iter(waiters))
        if now >= waiter.deadline or not waiter.takes(backend):
            return False
        self._settling = True
        self._asked = False
        try:
            # As `_grant` of a backend that is leased already, to the one account that waits.
            self.queue.grants += 1
            self.logins.had_last = False
            self.queue.leave(waiter, GRANTED, now)
            if not waiters:
                self.shares.left(account)
            self.slots.lend(backend, now)
            waiter.on_grant(backend)
        finally:
            self._settling = False
        if self._asked or self.freed:
            self.settle()
        return True

    def settle(self) -> None:
        """Take steps until none is left. Not reentrant: an inner call leaves the work to the outer one."""
        if self._settling:
            self._asked = True
            return
        self._settling = True
        try:
            while self._step(self._clock()):
                pass
        finally:
            self._settling = False

    def _step(self, now: float) -> bool:
        if self._expire(now):
            return True
        if self.freed:
            backend = next(iter(self.freed))
            del self.freed[backend]
            self._place(backend, now)
            return True
        if not self.queue.line and not self.logins.line:
            self.due.clear()
            return False
        return self._serve(now)

    def _expire(self, now: float) -> bool:
        down = self.refusals.down_since
        waiter = self.queue.expired(now, down, self.queue_timeout_down)
        if waiter is not None:
            kind = FailureKind.TIMEOUT if down is None else FailureKind.DOWN
            self.queue.timeouts += 1
            self.leave(waiter, FAILED, now)
            waiter.on_fail(Failure(kind))
            return True
        return False

    def expire_logins(self, now: float) -> None:
        down = self.refusals.down_since
        for login in self.logins.expired(now, down, self.queue_timeout_down):
            kind = FailureKind.TIMEOUT if down is None else FailureKind.DOWN
            if login.state == WAITING:
                self.logins.timeouts += 1
                self.logins.leave(login, FAILED)
                login.on_fail(Failure(kind))

    def _place(self, backend: Any, now: float) -> None:
        """Where a backend goes that has come free: gates in order, each with its reason; the default is idle."""
        account = backend.pool.account
        reason = self.must_close(backend, now)
        if reason is not None:
            self.close(backend, reason)
            return
        if not self.budget.counts[IDLE] and self.logins.want_promise() and self.logins.overdue(now):
            self.close_for(backend, LOGIN, "login_waits")
            return
        if account.waiters:
            down = self.refusals.down  # then nobody could be given another one instead
            heir = None if down else self.shares.heir(account, now)
            if heir is not None:
                self.close_for(backend, heir, "fair_share")
                return
            opened = backend.pool if backend.slot == OPENING else None
            waiter = account.claimant(lambda waiter: waiter.takes(backend), opened, down)
            if waiter is not None and waiter.takes(backend):
                self._grant(waiter, backend, now)
                return
            if waiter is not None:
                self.close_for(backend, account, "unsuitable")
                return
        self.slots.move(backend, IDLE)
        backend.idle_since = now

    def must_close(self, backend: Any, now: float) -> str | None:
        budget = self.budget
        if budget.in_use > budget.cap:
            return "over_cap"
        account = backend.pool.account
        maximum = account.max_connections
        if maximum is not None and account.slots > maximum:
            return "over_account_cap"
        if now >= backend.retire_at:
            if backend.retire_at:
                return "max_lifetime"
            return "paused" if budget.throttle.paused else "reconnect"
        return None

    def _serve(self, now: float) -> bool:
        """One step towards giving what is free or idle to those who wait."""
        budget = self.budget
        free = budget.throttle.allows(now, budget.in_use, budget.counts[OPENING], budget.cap)
        idle = budget.counts[IDLE]
        if not free and not idle:
            return False
        if free and self.due:
            return self._serve_promise(self.due.pop(0), now)
        if free and self.logins.want_slot() and self.logins.overdue(now):
            return self._serve_login(now)
        if idle:
            for account in self.shares.waiting:
                if account.counts[IDLE] and self._match(account, now):
                    return True
        for account in self.shares.in_order():
            if self._provide(account, free, now):
                return True
        if free and self.logins.want_slot():
            return self._serve_login(now)
        if idle and self.logins.want_promise() and not self.refusals.down:
            victim = self.shares.victim(self.logins.idle_before(now))
            if victim is not None:
                self.close_for(victim, LOGIN, "login_waits")
                return True
        return False

    def _serve_promise(self, party: Account | None, now: float) -> bool:
        """A promise kept, or lapsed because nobody needs it any more: a step in both cases."""
        if party is LOGIN:
            if self.logins.want_slot():
                self._serve_login(now)
        elif party.waiters and party.need() > 0 and party.may_open(now, self.budget.cap, party.slots):
            self._open(party, now)
        return True

    def _serve_login(self, now: float) -> bool:
        first = self.logins.first
        if now >= self.logins.ends_at(first, self.refusals.down_since, self.queue_timeout_down):
            self.expire_logins(now)
            return True
        self.budget.acquire()
        self.logins.take(first)
        first.on_slot()
        return True

    def _match(self, account: Account, now: float) -> bool:
        """Give an idle backend to a waiter of its own account."""

        def pick(waiter: Waiter) -> Any:
            return waiter.pool.pick(waiter.settings, waiter.needs_bare, waiter.last, waiter.client)

        waiter = account.claimant(lambda waiter: pick(waiter) is not None, None, self.refusals.down)
        backend = None if waiter is None else pick(waiter)
        if waiter is None or backend is None:
            return False
        self._grant(waiter, backend, now)
        return True

    def _provide(self, account: Account, free: bool, now: float) -> bool:
        """Open a backend for the account, or close an idle one to make room for it."""
        if account.need() <= 0:
            return False
        cap = self.budget.cap
        if free and account.may_open(now, cap, account.slots):
            self._open(account, now)
            return True
        if self.refusals.down:
            return False
        more = account.may_open(now, cap, account.projected)
        if free and more:
            return False  # at its own limit, and one of its own is on its way out
        only = None if more else account  # at its own limit only its own make room
        victim = self.shares.victim(inf, only)
        if victim is None:
            return False
        self.shares.served(account)
        self.close_for(victim, account, "evicted")
        return True

    # --- the smallest moves ---

    def _open(self, account: Account, now: float) -> None:
        waiter = account.claimant(lambda waiter: False)
        assert waiter is not None
        if not account.slots:
            account.turn_since = now
        self.slots.take(waiter.pool)
        self.shares.served(account)
        self._open_backend(waiter.pool)

    def arrived(self, backend: Any) -> None:
        if self.budget.throttle.paused:
            self.close(backend, "paused")
            return
        now = self._clock()
        backend.retire_at = now + self.max_lifetime * (1.0 - 0.1 * self._jitter()) if self.max_lifetime else inf
        if backend.pool.account.slots == 1:
            backend.pool.account.turn_since = now
        self.freed[backend] = None
        self.settle()

    def _grant(self, waiter: Waiter, backend: Any, now: float) -> None:
        self.queue.grants += 1
        self.logins.had_last = False
        self.leave(waiter, GRANTED, now)
        self.slots.lend(backend, now)
        self.shares.served(waiter.pool.account)
        waiter.on_grant(backend)

    def fail(self, waiter: Waiter, failure: Failure, now: float) -> None:
        self.queue.failed += 1
        self.leave(waiter, FAILED, now)
        waiter.on_fail(failure)

    def leave(self, waiter: Waiter, state: int, now: float) -> None:
        account = waiter.pool.account
        self.queue.leave(waiter, state, now)
        if not account.waiters:
            self.shares.left(account)

    def close_for(self, backend: Any, party: Account | None, reason: str) -> None:
        """Close it so that `party` gets the slot."""
        self.slots.promise(backend, party)
        self.close(backend, reason)

    def close(self, backend: Any, reason: str) -> None:
        self.slots.move(backend, CLOSING)
        self._close_backend(backend, reason)
