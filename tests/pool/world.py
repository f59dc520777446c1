"""A world for the pool layer: a clock, backends and clients that do what the test says. No sockets, no time passes."""

from __future__ import annotations

from math import inf

from proxy.pool.budget import CLOSING, FREE, IDLE, LEASED, OPENING, RESETTING
from proxy.pool.queue import WAITING, Failure, FailureKind, LoginWaiter, QueueFull, Waiter
from proxy.pool.registry import Registry

PLAIN = object()  # settings


class FakeBackend:
    def __init__(self, pool, name):
        self.pool = pool
        self.name = name
        self.slot = OPENING
        self.settings = PLAIN
        self.bare = True
        self.last_client = None
        self.idle_since = 0.0
        self.idle_limit = inf
        self.leased_since = 0.0
        self.retire_at = 0.0

    def __repr__(self):
        return f"b{self.name}"


class World:
    """`opening` and `closing` hold what the registry asked for and the server has not done yet."""

    def __init__(self, cap=10, **options):
        self.now = 1000.0
        self.opening = []
        self.closing = []
        self.reasons = []
        self.backends = []
        self.granted = []  # (waiter, backend) in order
        self.failed = []  # (waiter, failure)
        self.ends = {}  # waiter -> how often it ended
        self.on_open = None  # called instead of remembering the opening
        self.close_at_once = False
        self.serial = 0
        options.setdefault("jitter", lambda: 0.0)
        self.registry = Registry(
            cap, clock=lambda: self.now, open_backend=self._open, close_backend=self._close, **options
        )

    def _open(self, pool):
        if self.on_open is not None:
            self.on_open(pool)
        else:
            self.opening.append(pool)

    def _close(self, backend, reason):
        assert backend.slot == CLOSING
        self.reasons.append(reason)
        if self.close_at_once:
            self.registry.closed(backend)
        else:
            self.closing.append(backend)

    # clients

    def pool(self, account="app", key="k"):
        return self.registry.pool(self.registry.account(account), key)

    def waiter(self, pool, client=None, settings=PLAIN, needs_bare=False, last=None, then=None):
        def on_grant(backend):
            assert backend.slot == LEASED
            assert self.now < waiter.deadline
            self.ends[waiter] = self.ends.get(waiter, 0) + 1
            self.granted.append((waiter, backend))
            if then is not None:
                then(backend)

        def on_fail(failure):
            self.ends[waiter] = self.ends.get(waiter, 0) + 1
            self.failed.append((waiter, failure))

        waiter = Waiter(pool, client, settings, needs_bare, last, on_grant, on_fail)
        return waiter

    def enqueue(self, pool, **options):
        waiter = self.waiter(pool, **options)
        self.registry.enqueue(waiter)
        return waiter

    def acquire(self, pool, settings=PLAIN, needs_bare=False, last=None, client=None):
        return self.registry.acquire_nowait(pool, settings, needs_bare, last, client)

    def login(self, deadline=inf, since=inf):
        def failed(failure):
            self.failed.append((waiter, failure))

        waiter = LoginWaiter(lambda: self.slots.append(waiter), failed, deadline, since)
        self.registry.login_slot(waiter)
        return waiter

    @property
    def slots(self):
        return self.__dict__.setdefault("login_slots", [])

    # the server

    def backend(self, pool):
        self.serial += 1
        backend = FakeBackend(pool, self.serial)
        self.backends.append(backend)
        return backend

    def open_one(self, pool=None):
        """The server accepts the oldest opening (of a pool)."""
        pool = self.opening[0] if pool is None else pool
        self.opening.remove(pool)
        backend = self.backend(pool)
        self.registry.opened(backend)
        return backend

    def refuse_one(self, kind, code=1040):
        self.registry.open_failed(self.opening.pop(0), Failure(kind, code))

    def close_one(self):
        self.registry.closed(self.closing.pop(0))

    def idle(self, pool, n=1):
        """n idle backends, in the pool."""
        waiters = [self.enqueue(pool) for _ in range(n)]
        while self.opening:
            self.open_one()
        got = [backend for waiter, backend in self.granted if waiter in waiters]
        assert len(got) == n
        for backend in got:
            self.registry.release(backend)
        return got

    def leased(self, pool, n=1):
        waiters = [self.enqueue(pool) for _ in range(n)]
        while self.opening:
            self.open_one()
        return [backend for waiter, backend in self.granted if waiter in waiters]

    def wait(self, seconds):
        self.now += seconds
        return self.registry.tick(self.now)

    def grantees(self):
        return [waiter for waiter, _ in self.granted]

    def failures(self, waiter):
        return [failure.kind for who, failure in self.failed if who is waiter]


__all__ = [
    "CLOSING",
    "FREE",
    "IDLE",
    "LEASED",
    "OPENING",
    "PLAIN",
    "RESETTING",
    "WAITING",
    "Failure",
    "FailureKind",
    "FakeBackend",
    "LoginWaiter",
    "QueueFull",
    "Waiter",
    "World",
]
