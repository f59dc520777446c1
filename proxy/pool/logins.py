"""Unproven logins: they want a free slot, not a backend, and must not push out those who are known.

They hold at most a quarter of what the server lets us have (at least one slot). They take free slots that no waiter
wants and the slots of backends idle for over a second. One that has waited for over a second itself is overdue and goes
first: for the next free slot, for the slot of the next released backend, for that of any idle one. Without that, new
accounts could not log in at a faster rate than idle backends get old: as many a second as there are slots.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf

from proxy.pool.budget import Budget
from proxy.pool.queue import GRANTED, WAITING, LoginWaiter

PATIENCE = 1.0


class Logins:
    __slots__ = ("_budget", "grants", "had_last", "held", "line", "promised", "timeouts")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.line: OrderedDict[LoginWaiter, None] = OrderedDict()
        self.held = 0
        self.promised = 0  # backends being closed so that a login gets their slot
        self.grants = 0
        self.timeouts = 0
        self.had_last = False  # a login got a slot after the last grant to a waiter

    @property
    def limit(self) -> int:
        return max(1, self._budget.effective // 4)

    def join(self, waiter: LoginWaiter, now: float, timeout: float) -> None:
        assert waiter.state == WAITING
        waiter.enqueued_at = min(waiter.enqueued_at, now)
        if waiter.deadline == inf:
            waiter.deadline = now + timeout
        self.line[waiter] = None

    def rejoin(self, waiter: LoginWaiter) -> None:
        """Back to the front, as old as before."""
        waiter.state = WAITING
        self.line[waiter] = None
        self.line.move_to_end(waiter, last=False)

    def leave(self, waiter: LoginWaiter, state: int) -> None:
        assert waiter.state == WAITING
        waiter.state = state
        del self.line[waiter]

    @property
    def first(self) -> LoginWaiter:
        return next(iter(self.line))

    def take(self, waiter: LoginWaiter) -> None:
        self.leave(waiter, GRANTED)
        self.held += 1
        self.grants += 1
        self.had_last = True

    def want_slot(self) -> bool:
        return bool(self.line) and self.held < self.limit

    def want_promise(self) -> bool:
        return len(self.line) > self.promised and self.held + self.promised < self.limit

    def overdue(self, now: float) -> bool:
        """Somebody has waited too long. With a single slot they take turns with the waiters."""
        if not self.line or (self.had_last and self._budget.effective == 1):
            return False
        return now - self.first.enqueued_at > PATIENCE

    def idle_before(self, now: float) -> float:
        """Whose slot they may have: of the backends that are idle since then."""
        return now if self.overdue(now) else now - PATIENCE

    def expired(self, now: float, down_since: float | None, timeout_down: float) -> list[LoginWaiter]:
        """Looks at all of them, since each may have a deadline of its own: not on the way of a release."""
        return [w for w in self.line if now >= self.ends_at(w, down_since, timeout_down)]

    def ends_at(self, waiter: LoginWaiter, down_since: float | None, timeout_down: float) -> float:
        if down_since is None:
            return waiter.deadline
        return min(waiter.deadline, max(waiter.enqueued_at, down_since) + timeout_down)
