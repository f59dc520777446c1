"""The places a backend can be in, and the two functions that move it: `lend`, and `move` for all else.

Everything that counts backends is a count of places and is changed here, together: the budget's counts, the account's
counts, `pool.idle`, `pool.opening`, `shares.holding`. An opening has a slot before it has a backend, hence `take` and
`fail`. A backend that is closed for somebody carries a promise of its slot until it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.histogram import Histograms
from proxy.pool.budget import FREE, IDLE, LEASED, OPENING, STATES, Budget
from proxy.pool.logins import Logins
from proxy.pool.pool import Account, Pool
from proxy.pool.shares import Shares

LOGIN = None  # the party a slot is promised to when it is not an account


class Slots:
    __slots__ = ("_budget", "_clock", "_logins", "_shares", "leases", "promises")

    def __init__(self, budget: Budget, shares: Shares, logins: Logins, clock: Callable[[], float]) -> None:
        self._budget = budget
        self._shares = shares
        self._logins = logins
        self.promises: dict[Any, Account | None] = {}
        self.leases = Histograms()  # by account name: how long each lease was, in seconds
        self._clock = clock

    def lend(self, backend: Any, now: float) -> None:
        """A lease begins; where the one before has just ended, at once."""
        if backend.slot == LEASED:
            self._count_lease(backend, now)
        else:
            self.move(backend, LEASED)
        backend.leased_since = now

    def move(self, backend: Any, to: int, now: float | None = None) -> None:
        """`now` is for the end of a lease, from those who have just looked at the clock."""
        before = backend.slot
        pool = backend.pool
        if before == LEASED:
            self._count_lease(backend, self._clock() if now is None else now)
        elif before == IDLE:
            del pool.idle[backend]
        elif before == OPENING:
            pool.opening -= 1
        backend.slot = to
        if to == FREE:
            self._count_out(pool.account, before)
            self._budget.release(before)
            return
        mine, all_ = pool.account.counts, self._budget.counts
        assert mine[before] > 0 and all_[before] > 0, f"no slot is {STATES[before]}"
        mine[before] -= 1
        mine[to] += 1
        all_[before] -= 1
        all_[to] += 1
        if to == IDLE:
            pool.idle[backend] = None

    def take(self, pool: Pool) -> None:
        """A free slot becomes an opening of `pool`."""
        self._budget.acquire()
        self.count_in(pool)

    def count_in(self, pool: Pool) -> None:
        """An opening that has its slot already belongs to `pool` from now on."""
        account = pool.account
        pool.opening += 1
        account.counts[OPENING] += 1
        account.slots += 1
        self._shares.holding[account] = None

    def fail(self, pool: Pool) -> None:
        """An opening of `pool` has failed: its slot is free."""
        pool.opening -= 1
        self._count_out(pool.account, OPENING)
        self._budget.release(OPENING)

    def promise(self, backend: Any, party: Account | None) -> None:
        self.promises[backend] = party
        backend.pool.account.leaving += 1
        if party is LOGIN:
            self._logins.promised += 1
        else:
            party.promised += 1

    def redeem(self, backend: Any) -> Account | None:
        """It is closed: the promise is due."""
        party = self.promises.pop(backend)
        backend.pool.account.leaving -= 1
        if party is LOGIN:
            self._logins.promised -= 1
        else:
            party.promised -= 1
        return party

    def _count_lease(self, backend: Any, now: float) -> None:
        account = backend.pool.account
        leases = account.leases
        if leases is None:
            leases = account.leases = self.leases[account.name]
        leases.observe(now - backend.leased_since)

    def _count_out(self, account: Account, before: int) -> None:
        account.counts[before] -= 1
        account.slots -= 1
        if not account.slots:
            del self._shares.holding[account]
