"""What failed openings teach about the server and its accounts. A refusal is absorbed here: no client sees it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from proxy.pool.budget import Budget
from proxy.pool.pool import Account
from proxy.pool.queue import Failure, FailureKind

FULL = (FailureKind.REFUSED_SERVER, FailureKind.REFUSED_ACCOUNT)
UNREACHABLE = (FailureKind.DOWN, FailureKind.TIMEOUT)


class Refusals:
    __slots__ = ("_budget", "_jitter", "_throttled", "absorbed", "down_since")

    def __init__(self, budget: Budget, jitter: Callable[[], float] = random.random) -> None:
        self._budget = budget
        self._jitter = jitter
        self._throttled: dict[Account, None] = {}  # accounts with an effective cap
        self.absorbed: dict[int, int] = {}  # per error code
        self.down_since: float | None = None

    @property
    def down(self) -> bool:
        return self.down_since is not None

    def failed(self, failure: Failure, account: Account | None, now: float) -> None:
        """An opening failed; its slot is still counted. `account` is None for a login that is not proven."""
        kind = failure.kind
        throttle = self._budget.throttle
        if kind is FailureKind.DRAIN:
            return
        if kind in UNREACHABLE:
            if self.down_since is None:
                self.down_since = now
            throttle.back_off(now, self._jitter)
            return
        if self.down:  # it answered
            self.down_since = None
            throttle.try_now()
        if kind in FULL:
            self.absorbed[failure.code] = self.absorbed.get(failure.code, 0) + 1
        if kind is FailureKind.REFUSED_SERVER:
            throttle.refused(now, self._budget.in_use - 1, self._jitter)
        elif kind is FailureKind.REFUSED_ACCOUNT and account is not None:
            account.throttle.refused(now, account.slots - 1, self._jitter)
            self._throttled[account] = None

    def succeeded(self, account: Account, now: float) -> None:
        self.down_since = None
        self._budget.throttle.succeeded(now, self._budget.in_use)
        account.throttle.succeeded(now, account.slots)

    def slot_freed(self, account: Account) -> None:
        """One of ours less on the server: room again, unless it was not room that was missing."""
        if not self.down:
            self._budget.throttle.try_now()
            account.throttle.try_now()

    def grow(self, now: float) -> None:
        cap = self._budget.cap
        self._budget.throttle.grow(now, cap)
        for account in list(self._throttled):
            account.throttle.grow(now, account.limit(cap))
            if account.throttle.effective is None:
                self.forget(account)

    def forget(self, account: Account) -> None:
        self._throttled.pop(account, None)

    def wakes(self, now: float, anybody_waits: bool) -> Iterator[float]:
        """When there is something to try, or a limit to raise."""
        throttles = [(self._budget.throttle, anybody_waits)]
        throttles += [(account.throttle, bool(account.waiters)) for account in self._throttled]
        for throttle, wanted in throttles:
            yield throttle.grow_at
            if wanted:
                yield from (at for at in throttle.tries() if at > now)
