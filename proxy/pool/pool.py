"""Accounts, their pools, and what the pool layer needs to know of a backend.

A backend is in `pool.idle` exactly while its slot is IDLE; only the registry moves it. `counts` and `slots` of an
account are written there too. Credentials, clients and sockets are the relay's business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from proxy.histogram import Histogram
from proxy.pool.budget import IDLE, OPENING, STATES
from proxy.pool.queue import Waiter
from proxy.pool.throttle import Throttle

# How many idle backends are looked at for one in the same settings. A restore costs a round trip, a look 30 ns.
LOOK_AT = 64


class Backend(Protocol):
    """What the relay's backend must have. Attributes of an idle backend do not change."""

    pool: Any  # Pool; Any, because a protocol's attributes are invariant
    slot: int  # FREE or OPENING at first; from then on written by the registry only
    bare: bool  # never had a schema
    idle_since: float  # written by the registry
    leased_since: float  # written by the registry
    retire_at: float  # written by the registry; 0.0 at first

    @property
    def idle_limit(self) -> float: ...  # seconds that the server suffers it to be idle

    @property
    def settings(self) -> object: ...  # compared with `is`

    @property
    def last_client(self) -> object: ...  # the relay writes it once it has looked whose soft state is there


class Pool:
    """The backends of one (account, capability key)."""

    __slots__ = ("account", "idle", "key", "opening", "waiting")

    def __init__(self, account: Account, key: Hashable) -> None:
        self.account = account
        self.key = key
        self.idle: dict[Any, None] = {}  # most recently used last
        self.opening = 0
        self.waiting = 0

    def pick(self, settings: object, needs_bare: bool, last: Any, client: object) -> Any:
        """The idle backend that costs least: its own last one, one in the same settings, any. Or None."""
        if (
            last is not None
            and last.slot == IDLE
            and last.last_client is client
            and last.pool is self
            and (last.bare or not needs_bare)
        ):
            return last
        found = None
        looks = LOOK_AT
        for backend in reversed(self.idle):
            if needs_bare and not backend.bare:
                continue
            if backend.settings is settings:
                return backend
            if found is None:
                found = backend
            looks -= 1
            if not looks:
                break
        return found

    def __repr__(self) -> str:
        return f"<Pool {self.account.name} {self.key!r}: {len(self.idle)} idle, {self.waiting} waiting>"


class Account:
    """A MySQL user with the credentials that open its backends. Nobody else ever gets them."""

    __slots__ = (
        "clients",
        "counts",
        "leases",
        "leaving",
        "max_connections",
        "name",
        "pools",
        "promised",
        "slots",
        "throttle",
        "turn_since",
        "waiters",
        "waits",
        "weight",
    )

    def __init__(self, name: str, weight: float = 1.0, max_connections: int | None = None) -> None:
        assert weight > 0
        self.name = name
        self.weight = weight
        self.max_connections = max_connections
        self.clients = 0  # counted by the relay
        self.pools: dict[Hashable, Pool] = {}
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()
        self.counts = [0] * len(STATES)
        self.slots = 0
        self.promised = 0  # backends being closed so that this account gets their slots
        self.leaving = 0  # backends of this account being closed so that somebody gets their slots
        self.turn_since = 0.0  # since when it has had a slot without interruption
        # Its histograms, which outlive it: of the queue's `waits` and the slots' `leases`, once there was one.
        self.waits: Histogram | None = None
        self.leases: Histogram | None = None
        self.throttle = Throttle()

    @property
    def projected(self) -> int:
        """Its slots once everything promised has happened."""
        return self.slots + self.promised - self.leaving

    def need(self) -> int:
        """How many of its waiters have no backend on the way."""
        missing = -self.promised
        for pool in self.pools.values():
            if pool.waiting > pool.opening:
                missing += pool.waiting - pool.opening
        return missing

    def limit(self, cap: int) -> int:
        """How many slots it may have, of `cap`."""
        maximum = self.max_connections
        return cap if maximum is None or maximum > cap else maximum

    def may_open(self, now: float, cap: int, held: int) -> bool:
        coming = self.counts[OPENING] + self.promised
        return self.throttle.allows(now, held, coming, self.limit(cap))

    def claimant(
        self, takes: Callable[[Waiter], bool], opened: Pool | None = None, overtake: bool = False
    ) -> Waiter | None:
        """The first waiter that `takes` what there is or, taking something else, has nothing on the way.

        A waiter for whom a backend is being opened is not overtaken by one behind it that takes what it cannot use.
        `opened` is the pool whose opening has just ended. Ends after as many steps as there are openings, unless
        `overtake` says that nothing can be opened anyway.
        """
        coming: dict[Pool, int] | None = None
        for waiter in self.waiters:
            if takes(waiter):
                return waiter
            if coming is None:
                coming = {pool: pool.opening - (pool is opened) for pool in self.pools.values()}
            if coming[waiter.pool] > 0:
                coming[waiter.pool] -= 1
            elif not overtake:
                return waiter
        return None

    def least_recently_used(self) -> Any:
        firsts = [next(iter(pool.idle)) for pool in self.pools.values() if pool.idle]
        return min(firsts, key=lambda backend: backend.idle_since, default=None)

    def __repr__(self) -> str:
        return f"<Account {self.name}: {self.slots} slots, {len(self.waiters)} waiting>"
