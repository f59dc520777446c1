"""Who gets a backend when, for one server: what the relay may ask and must tell.

Law:
* Slots in use never exceed the cap (budget.py). A slot is free again when the relay says `closed` or `lost`.
* While somebody waits no slot that could serve it stays free and no backend that could make room for it stays idle.
* Strict FIFO inside an account; nobody barges: `acquire_nowait` yields nothing while the account has waiters.
* Between accounts: fair shares (shares.py). A slot that is being closed for somebody is promised to it.
* Every waiter ends once; who expired or left is never granted.

Every callback may call back into the registry (dispatch.py says why that is safe).

Cost (CPython 3.11, two shared cores, November 2026): acquire_nowait + release of an idle backend 1.0 µs;
enqueue 1.5 µs; a release that grants to a waiter, with 50,000 waiting, 4.4 µs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Iterator
from math import inf
from typing import Any

from proxy.histogram import Histograms
from proxy.pool.budget import CLOSING, FREE, IDLE, LEASED, OPENING, RESETTING, STATES
from proxy.pool.dispatch import Dispatch
from proxy.pool.pool import Account, Pool
from proxy.pool.queue import (
    CANCELLED,
    FAILED,
    WAITING,
    Failure,
    FailureKind,
    LoginWaiter,
    QueueFull,
    Waiter,
)
from proxy.pool.refusals import UNREACHABLE
from proxy.pool.statistics import Statistics, snapshot

LOGIN_TICK = 0.05


class Registry:
    def __init__(
        self,
        cap: int,
        *,
        clock: Callable[[], float],
        open_backend: Callable[[Pool], None],
        close_backend: Callable[[Any, str], None],
        queue_timeout: float = 30.0,
        queue_timeout_down: float = 5.0,
        max_waiting: int = 10_000,
        quantum: float = 0.05,
        login_timeout: float = 10.0,
        max_lifetime: float = 0.0,
        describe_leases: Callable[[], str] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._dispatch = dispatch = Dispatch(
            cap,
            clock=clock,
            open_backend=open_backend,
            close_backend=close_backend,
            queue_timeout=queue_timeout,
            queue_timeout_down=queue_timeout_down,
            quantum=quantum,
            max_lifetime=max_lifetime,
            jitter=jitter,
        )
        self.budget = dispatch.budget
        self.queue = dispatch.queue
        self.logins = dispatch.logins
        self.shares = dispatch.shares
        self.refusals = dispatch.refusals
        self.accounts: dict[str, Account] = {}
        self.max_waiting = max_waiting
        self.login_timeout = login_timeout
        self.rejected = 0
        self._clock = clock
        self._describe_leases = describe_leases
        self._slots = dispatch.slots  # this and the next two: looked at on the hot path
        self._line = self.queue.line
        self._login_line = self.logins.line

    # --- accounts and pools ---

    def account(self, name: str, weight: float = 1.0, max_connections: int | None = None) -> Account:
        """Get or create; weight and max_connections count for a new one only."""
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account(name, weight, max_connections)
        return account

    def introduce(self, account: Account) -> None:
        """It is one of ours from now on, unless another one has its name already."""
        self.accounts.setdefault(account.name, account)

    def pool(self, account: Account, key: Hashable) -> Pool:
        pool = account.pools.get(key)
        if pool is None:
            pool = account.pools[key] = Pool(account, key)
        return pool

    def forget_unused(self) -> int:
        """Drop accounts without slots, waiters and clients."""
        unused = [a for a in self.accounts.values() if not (a.slots or a.waiters or a.clients)]
        for account in unused:
            del self.accounts[account.name]
            self.refusals.forget(account)
        return len(unused)

    def set_cap(self, cap: int) -> None:
        """Backends above a lowered cap are closed as they become idle."""
        self.budget.set_cap(cap)
        while self.budget.in_use - self.budget.counts[CLOSING] > cap:
            victim = self.shares.victim(inf)
            if victim is None:
                break
            self._dispatch.close(victim, "over_cap")

    def set_limits(self, account: Account, weight: float, max_connections: int | None) -> None:
        self.shares.reweigh(account, weight)
        account.max_connections = max_connections
        self._dispatch.settle()

    def set_timeouts(self, queue_timeout: float, queue_timeout_down: float) -> None:
        """They hold for those who wait already."""
        self.queue.set_timeout(queue_timeout)
        self._dispatch.queue_timeout_down = queue_timeout_down
        self._dispatch.settle()

    # --- what an operator wants ---

    @property
    def paused(self) -> bool:
        """Nobody gets a connection, and none is opened."""
        return self.budget.throttle.paused

    def pause(self, backends: Iterable[Any]) -> None:
        """Close all `backends` there are, each as soon as it is free, and open none: everybody waits."""
        self.budget.throttle.paused = True
        self.replace(backends, "paused")

    def resume(self) -> None:
        """The end of `pause`."""
        self.budget.throttle.paused = False
        self._dispatch.settle()

    def replace(self, backends: Iterable[Any], reason: str) -> None:
        """Close those that are idle now, and the others as soon as they are free."""
        for backend in list(backends):
            if backend.slot == IDLE:
                self._dispatch.close(backend, reason)
            else:
                backend.retire_at = 0.0

    # --- the hot path ---

    def acquire_nowait(self, pool: Pool, settings: object, needs_bare: bool, last: Any, client: object) -> Any | None:
        """An idle backend, now LEASED, or None: then `enqueue`. Nobody barges past the waiters of its account."""
        if not pool.idle or pool.account.waiters:
            return None
        backend = pool.pick(settings, needs_bare, last, client)
        if backend is not None:
            self._slots.lend(backend, self._clock())
        return backend

    def release(self, backend: Any, now: float | None = None) -> None:
        """The lease is over and the backend is clean: next waiter, other account, or idle."""
        assert backend.slot == LEASED or backend.slot == RESETTING, STATES[backend.slot]
        if now is None:
            now = self._clock()
        dispatch = self._dispatch
        if dispatch.must_close(backend, now) is None:
            if not self._line and not self._login_line:
                self._slots.move(backend, IDLE, now)
                backend.idle_since = now
                return
            if self._line and dispatch.hand_over(backend, now):
                return
        assert backend not in dispatch.freed
        dispatch.freed[backend] = None
        dispatch.settle()

    # --- waiting ---

    def enqueue(self, waiter: Waiter) -> None:
        """Wait for a lease. The callbacks may come before this returns."""
        if len(self._line) >= self.max_waiting:
            self.rejected += 1
            raise QueueFull
        account = waiter.pool.account
        if not account.waiters:
            self.shares.joined(account)
        self.queue.join(waiter, self._clock())
        budget = self.budget
        if budget.in_use < budget.cap or budget.counts[IDLE] or self._dispatch.freed:
            self._dispatch.settle()

    def cancel(self, waiter: Waiter) -> bool:
        """The client has left. False: it does not wait any more; if it was granted, release what it got."""
        if waiter.state != WAITING:
            return False
        self.queue.abandoned += 1
        self._dispatch.leave(waiter, CANCELLED, self._clock())
        self._dispatch.settle()
        return True

    def fail_all_waiters(self, failure: Failure) -> None:
        for waiter in list(self._line):
            if waiter.state == WAITING:
                self._dispatch.fail(waiter, failure, self._clock())
        for login in list(self._login_line):
            if login.state == WAITING:
                self.logins.leave(login, FAILED)
                login.on_fail(failure)

    def fail_account(self, account: Account, failure: Failure) -> None:
        """Trying again would not help this account."""
        for waiter in list(account.waiters):
            if waiter.state == WAITING:
                self._dispatch.fail(waiter, failure, self._clock())
        self._dispatch.settle()

    # --- what became of a backend ---

    def opened(self, backend: Any) -> None:
        """A backend that `open_backend` asked for is ready. It must be bare: it may be for one who needs that."""
        assert backend.slot == OPENING
        self.refusals.succeeded(backend.pool.account, self._clock())
        self._dispatch.arrived(backend)

    def open_failed(self, pool: Pool, failure: Failure) -> None:
        assert pool.opening > 0
        self.refusals.failed(failure, pool.account, self._clock())
        if failure.kind is FailureKind.ACCOUNT_ERROR:
            self.fail_account(pool.account, failure)
        self._dispatch.slots.fail(pool)

    def unreachable(self) -> None:
        """The server was not reached by something that is no opening of ours."""
        self.refusals.failed(Failure(FailureKind.DOWN), None, self._clock())

    def begin_reset(self, backend: Any) -> None:
        assert backend.slot == LEASED
        self._slots.move(backend, RESETTING)

    def begin_close(self, backend: Any) -> None:
        """No longer usable; the slot is kept until `closed`."""
        assert backend.slot != FREE and (backend.slot != OPENING or backend in self._dispatch.freed)
        self._dispatch.freed.pop(backend, None)
        if backend.slot != CLOSING:
            self._slots.move(backend, CLOSING)

    def closed(self, backend: Any) -> None:
        """The server is done with it: the slot is free and becomes a backend for a waiter."""
        if backend.slot == OPENING and backend not in self._dispatch.freed:
            backend.slot = FREE
            self.open_failed(backend.pool, Failure(FailureKind.DOWN, 2013, "lost while connecting"))
            return
        self._dispatch.freed.pop(backend, None)
        if backend in self._dispatch.slots.promises:
            self._dispatch.due.append(self._dispatch.slots.redeem(backend))
        self.refusals.slot_freed(backend.pool.account)
        self._slots.move(backend, FREE)

    def lost(self, backend: Any) -> None:
        """The connection broke, in whatever state."""
        self.closed(backend)

    # --- unproven logins ---

    def login_slot(self, waiter: LoginWaiter) -> None:
        """Wait for a slot to try credentials with. `on_slot` may come before this returns."""
        self.logins.join(waiter, self._clock(), self.login_timeout)
        self._dispatch.settle()

    def cancel_login(self, waiter: LoginWaiter) -> bool:
        """False: it does not wait any more; if it has the slot, end it with `login_done`."""
        if waiter.state != WAITING:
            return False
        self.logins.leave(waiter, CANCELLED)
        return True

    def login_done(self, backend: Any | None = None) -> None:
        """The slot of a login is given back, or stays with the backend that it opened in `backend.pool`."""
        if backend is not None:
            self.adopt(backend, backend.pool)
            return
        assert self.logins.held > 0
        self.logins.held -= 1
        self.budget.release(OPENING)

    def login_failed(self, waiter: LoginWaiter, failure: Failure) -> bool:
        """As `login_done(None)`. True: the server was full or down; the login waits again, in front."""
        again = failure.kind is FailureKind.REFUSED_SERVER or failure.kind in UNREACHABLE
        if again:
            self.logins.rejoin(waiter)
        self.refusals.failed(failure, None, self._clock())
        self.logins.held -= 1
        self.budget.release(OPENING)
        return again

    def login_refused(self, pool: Pool, failure: Failure) -> None:
        """The server knows the password but has no connection left for the account: as a failed opening of `pool`."""
        assert self.logins.held > 0
        self.logins.held -= 1
        self._dispatch.slots.count_in(pool)
        self.open_failed(pool, failure)

    def adopt(self, backend: Any, pool: Pool) -> None:
        """A proven login has left a backend: it joins `pool`, for the next waiter or idle."""
        assert self.logins.held > 0
        assert backend.slot == OPENING
        self.logins.held -= 1
        backend.pool = pool
        self._dispatch.slots.count_in(pool)
        self.refusals.succeeded(pool.account, self._clock())
        self._dispatch.arrived(backend)

    # --- time ---

    def tick(self, now: float) -> float | None:
        """End what has waited too long, try again what is due. Seconds until it wants to be called again, or None."""
        self.refusals.grow(now)
        self._dispatch.expire_logins(now)
        self._dispatch.settle()
        return self._next_tick(now)

    def retire(self, now: float, idle_timeout: float, max_lifetime: float) -> int:
        """Close backends that were idle too long, for us or for the server, or have lived too long. 0: no limit."""
        self._dispatch.max_lifetime = max_lifetime
        old: list[tuple[Any, str]] = []
        for account in self.shares.holding:
            for pool in account.pools.values():
                for backend in pool.idle:
                    idle = now - backend.idle_since
                    if idle_timeout and idle >= idle_timeout:
                        old.append((backend, "idle_timeout"))
                    elif idle >= backend.idle_limit:
                        old.append((backend, "wait_timeout"))
                    elif max_lifetime and now >= backend.retire_at:
                        old.append((backend, "max_lifetime"))
        for backend, reason in old:
            if backend.slot == IDLE:
                self._dispatch.close(backend, reason)
        return len(old)

    # --- how it is ---

    def waiters(self) -> Iterator[Waiter]:
        """In the order they joined."""
        return iter(self._line)

    @property
    def leases(self) -> Histograms:
        """By account name: how long each lease was that has ended."""
        return self._slots.leases

    @property
    def refusals_absorbed(self) -> dict[int, int]:
        """Per error code: what no client saw."""
        return self.refusals.absorbed

    @property
    def down_since(self) -> float | None:
        return self.refusals.down_since

    def statistics(self) -> Statistics:
        return snapshot(self, self._clock())

    def describe(self, now: float) -> str:
        """For the answer to one who waited too long: cap 10: 7 idle in transaction, 3 running; 137 waiting."""
        budget = self.budget
        cap = f"cap {budget.cap}" if budget.effective == budget.cap else f"cap {budget.cap}, {budget.effective} allowed"
        leases = self._describe_leases() if self._describe_leases is not None else f"{budget.counts[LEASED]} leased"
        down = f"; server down for {now - self.down_since:.1f} s" if self.down_since is not None else ""
        logins = f" and {len(self._login_line)} logins" if self._login_line else ""
        paused = "; paused" if self.paused else ""
        return f"{cap}: {leases}{self.describe_others()}; {len(self._line)} waiting{logins}{down}{paused}"

    def describe_others(self) -> str:
        """The slots that are on their way between two leases: ", 2 opening, 1 closing"."""
        counts = self.budget.counts
        return "".join(f", {counts[place]} {STATES[place]}" for place in (OPENING, RESETTING, CLOSING) if counts[place])

    def __repr__(self) -> str:
        return f"<Registry {self.budget!r} {len(self._line)} waiting>"

    def _next_tick(self, now: float) -> float | None:
        waiting = bool(self._line or self._login_line)
        down = self.refusals.down_since
        wanted = list(self.refusals.wakes(now, waiting))
        oldest = self.queue.oldest
        if oldest is not None:
            wanted.append(self.queue.ends_at(oldest, down, self._dispatch.queue_timeout_down))
        if self._login_line:  # backends become idle for long enough, logins wait for long enough
            wanted.append(now + LOGIN_TICK)
        soonest = min(wanted)
        return None if soonest == inf else max(0.0, soonest - now)
