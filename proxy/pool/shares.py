"""Who is entitled to how many slots.

fair share = effective cap * weight / sum of the weights of accounts with leases or waiters. An account without either
is entitled to nothing; what it keeps idle is the first to go. To give a slot to an account that would then be above
its share only makes it the next to lose one, so below means: one more still fits, or it has none at all.

What accounts leave of their shares, because they want no more or may have no more, is shared out in the same way: a
slot above a share goes to an account that waits with so much less that it will not be ahead afterwards.

`waiting` is ordered by who was served least recently: that account has waited longest. Nothing here changes a slot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from proxy.pool.budget import IDLE, LEASED, RESETTING, Budget
from proxy.pool.pool import Account


class Shares:
    __slots__ = ("_budget", "_weight_waiting", "holding", "quantum", "waiting")

    def __init__(self, budget: Budget, quantum: float) -> None:
        self._budget = budget
        self.quantum = quantum
        self.holding: dict[Account, None] = {}  # accounts with slots
        self.waiting: OrderedDict[Account, None] = OrderedDict()  # accounts with waiters
        self._weight_waiting = 0.0

    def joined(self, account: Account) -> None:
        """It had no waiters, and is about to have one."""
        self.waiting[account] = None
        self._weight_waiting += account.weight

    def left(self, account: Account) -> None:
        """Its last waiter is gone."""
        del self.waiting[account]
        self._weight_waiting = self._weight_waiting - account.weight if self.waiting else 0.0

    def served(self, account: Account) -> None:
        if account in self.waiting:
            self.waiting.move_to_end(account)

    def reweigh(self, account: Account, weight: float) -> None:
        assert weight > 0
        if account in self.waiting:
            self._weight_waiting += weight - account.weight
        account.weight = weight

    def per_weight(self) -> float:
        """Slots per unit of weight. Costs a look at every account that has slots, so at most the cap."""
        weight = self._weight_waiting
        for account in self.holding:
            counts = account.counts
            if (counts[LEASED] or counts[RESETTING]) and not account.waiters:
                weight += account.weight
        return self._budget.effective / weight if weight else 0.0

    def share(self, account: Account, per_weight: float) -> float:
        counts = account.counts
        active = account.waiters or counts[LEASED] or counts[RESETTING]
        return account.weight * per_weight if active else 0.0

    def in_order(self) -> Iterator[Account]:
        """Waiting accounts: first those below their share, then the others; each time the longest waiting first."""
        per_weight = self.per_weight()
        others = []
        for account in self.waiting:
            if self._below(account, per_weight):
                yield account
            else:
                others.append(account)
        yield from others

    def heir(self, account: Account, now: float) -> Account | None:
        """Who gets the slot that `account`, with waiters of its own, has just freed. None: it may keep it."""
        if len(self.waiting) - (account in self.waiting) == 0:
            return None
        per_weight = self.per_weight()
        slots = account.projected
        if slots <= account.weight * per_weight:
            return None
        if slots == 1 and now - account.turn_since < self.quantum:
            return None  # more accounts than slots: they take turns
        cap = self._budget.cap
        behind = None
        for other in self.waiting:
            below = self._below(other, per_weight)
            if not below and (behind or (other.projected + 1) * account.weight > (slots - 1) * other.weight):
                continue  # `account` itself among them
            if other.need() > 0 and other.may_open(now, cap, other.projected):
                if below:
                    return other
                behind = other
        return behind

    def victim(self, idle_before: float, only: Account | None = None) -> Any:
        """The least recently used idle backend of the account furthest above its share."""
        per_weight = self.per_weight()
        best, most = None, 0.0
        for account in self.holding if only is None else (only,):
            if not account.counts[IDLE]:
                continue
            backend = account.least_recently_used()
            above = account.projected - self.share(account, per_weight)
            if backend.idle_since <= idle_before and (best is None or above > most):
                best, most = backend, above
        return best

    def _below(self, account: Account, per_weight: float) -> bool:
        slots = account.projected
        return slots <= 0 or slots + 1 <= account.weight * per_weight
