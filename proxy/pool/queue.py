"""Who waits, in which order, until when.

Every waiter ends exactly once: granted, failed or cancelled. All waiters of one server share one timeout, so the order
of joining is the order of deadlines: what has expired is always at the front, and nobody behind it is looked at.
A changed timeout holds for those who wait already.

Removal from the middle is O(1) (OrderedDict is a linked list; a plain dict would scan its dead entries from the front).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any

from proxy.histogram import Histograms

if TYPE_CHECKING:
    from proxy.pool.pool import Backend, Pool

WAITING, GRANTED, FAILED, CANCELLED = range(4)
WAITER_STATES = ("waiting", "granted", "failed", "cancelled")

# Upper bounds in seconds of the histograms of waits.
WAIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class FailureKind(Enum):
    """Why a backend could not be opened, or why a wait ended without one."""

    REFUSED_SERVER = "refused_server"  # 1040, 1135: the server is full
    REFUSED_ACCOUNT = "refused_account"  # 1203, 1226 max_user_connections: the account is full
    DOWN = "down"  # connect refused, timed out, lost in the handshake
    ACCOUNT_ERROR = "account_error"  # 1045, locked, expired, hourly quota: trying again would not help
    TIMEOUT = "timeout"  # the wait was over before a slot was free
    DRAIN = "drain"


@dataclass(frozen=True, slots=True)
class Failure:
    kind: FailureKind
    code: int = 0
    message: str = ""
    sqlstate: bytes = b"HY000"


class QueueFull(Exception):
    """`queue.max_waiting` clients wait already."""


class Waiter:
    """A client that waits for a lease. Callbacks may come before `enqueue` returns."""

    __slots__ = (
        "client",
        "deadline",
        "enqueued_at",
        "last",
        "needs_bare",
        "on_fail",
        "on_grant",
        "pool",
        "settings",
        "state",
    )

    def __init__(
        self,
        pool: Pool,
        client: object,
        settings: object,
        needs_bare: bool,
        last: Backend | None,
        on_grant: Callable[[Any], None],
        on_fail: Callable[[Failure], None],
    ) -> None:
        self.pool = pool
        self.client = client
        self.settings = settings
        self.needs_bare = needs_bare
        self.last = last
        self.on_grant = on_grant
        self.on_fail = on_fail
        self.enqueued_at = 0.0
        self.deadline = 0.0
        self.state = WAITING

    def takes(self, backend: Backend) -> bool:
        return backend.pool is self.pool and (backend.bare or not self.needs_bare)

    def __repr__(self) -> str:
        return f"<Waiter {self.pool.account.name} {WAITER_STATES[self.state]} since {self.enqueued_at:.3f}>"


class LoginWaiter:
    """An unproven login that waits for a free slot. Without a deadline of its own it gets `login_timeout`.

    It is as old as `since`, if that is given: it may have waited for something else before it joined.
    """

    __slots__ = ("deadline", "enqueued_at", "on_fail", "on_slot", "state")

    def __init__(
        self,
        on_slot: Callable[[], None],
        on_fail: Callable[[Failure], None],
        deadline: float = inf,
        since: float = inf,
    ) -> None:
        self.on_slot = on_slot
        self.on_fail = on_fail
        self.deadline = deadline
        self.enqueued_at = since
        self.state = WAITING


class Queue:
    """All waiters of one server in the order they joined; each is also in its account's line.

    `join` and `leave` are the only ways in and out.
    """

    __slots__ = ("abandoned", "failed", "grants", "line", "timeout", "timeouts", "waits")

    def __init__(self, timeout: float) -> None:
        self.line: OrderedDict[Waiter, None] = OrderedDict()
        self.timeout = timeout
        self.grants = 0
        self.timeouts = 0
        self.failed = 0
        self.abandoned = 0
        self.waits = Histograms(WAIT_BOUNDS)  # by account name, of everyone who waited

    def join(self, waiter: Waiter, now: float) -> None:
        assert waiter.state == WAITING
        waiter.enqueued_at = now
        waiter.deadline = now + self.timeout
        self.line[waiter] = None
        pool = waiter.pool
        pool.account.waiters[waiter] = None
        pool.waiting += 1

    def leave(self, waiter: Waiter, state: int, now: float) -> None:
        assert waiter.state == WAITING and state != WAITING
        waiter.state = state
        del self.line[waiter]
        pool = waiter.pool
        account = pool.account
        del account.waiters[waiter]
        pool.waiting -= 1
        waits = account.waits
        if waits is None:
            waits = account.waits = self.waits[account.name]
        waits.observe(now - waiter.enqueued_at)

    def set_timeout(self, timeout: float) -> None:
        self.timeout = timeout
        for waiter in self.line:
            waiter.deadline = waiter.enqueued_at + timeout

    def expired(self, now: float, down_since: float | None, timeout_down: float) -> Waiter | None:
        """The oldest waiter, if its time is over."""
        waiter = self.oldest
        if waiter is None or now < self.ends_at(waiter, down_since, timeout_down):
            return None
        return waiter

    def ends_at(self, waiter: Waiter, down_since: float | None, timeout_down: float) -> float:
        if down_since is None:
            return waiter.deadline
        return min(waiter.deadline, max(waiter.enqueued_at, down_since) + timeout_down)

    @property
    def oldest(self) -> Waiter | None:
        return next(iter(self.line), None)

    def __len__(self) -> int:
        return len(self.line)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self.line)
