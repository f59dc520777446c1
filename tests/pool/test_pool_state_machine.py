"""Random histories of clients, backends, refusals and time; what must hold holds after each step."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.pool.queue import CANCELLED, GRANTED
from tests.pool.world import (
    CLOSING,
    FREE,
    IDLE,
    LEASED,
    OPENING,
    PLAIN,
    RESETTING,
    WAITING,
    Failure,
    FailureKind,
    QueueFull,
    World,
)

OTHER_SETTINGS = object()
ACCOUNTS = ("a", "b", "c", "d")
KEYS = ("k1", "k2")
pick = st.integers(min_value=0, max_value=1_000_000)


class PoolMachine(RuleBasedStateMachine):
    @initialize(cap=st.integers(1, 6), limit=st.sampled_from([None, 1, 2]), at_once=st.booleans())
    def start(self, cap, limit, at_once):
        self.world = World(cap, max_waiting=12, queue_timeout=3.0, queue_timeout_down=1.0)
        self.world.close_at_once = at_once
        self.registry = self.world.registry
        self.limit = limit
        self.registry.account("a", weight=2.0, max_connections=limit)
        self.highest = cap
        self.waiters = []
        self.logins = []
        self.checked = 0

    def leased(self):
        return [b for b in self.world.backends if b.slot == LEASED]

    # clients

    @rule(
        account=st.sampled_from(ACCOUNTS),
        key=st.sampled_from(KEYS),
        mine=st.booleans(),
        bare=st.booleans(),
        then=st.sampled_from([None, None, "release", "lose"]),
    )
    def statement(self, account, key, mine, bare, then):
        pool = self.world.pool(account, key)
        wanted = PLAIN if mine else OTHER_SETTINGS
        somebody_waited = bool(pool.account.waiters)
        backend = self.world.acquire(pool, wanted, bare)
        if backend is not None:
            assert not somebody_waited
            assert backend.slot == LEASED and backend.pool is pool and (backend.bare or not bare)
            return
        call = {None: None, "release": self.registry.release, "lose": self.registry.lost}[then]
        waiter = self.world.waiter(pool, settings=wanted, needs_bare=bare, then=call)
        try:
            self.registry.enqueue(waiter)
        except QueueFull:
            assert len(self.registry.queue) == 12
        else:
            self.waiters.append(waiter)

    @precondition(lambda self: self.leased())
    @rule(n=pick, dirty=st.booleans(), schema=st.booleans(), wanted=st.sampled_from([PLAIN, OTHER_SETTINGS]))
    def lease_ends(self, n, dirty, schema, wanted):
        leased = self.leased()
        backend = leased[n % len(leased)]
        backend.settings = wanted
        backend.bare = backend.bare and not schema
        if dirty:
            self.registry.begin_reset(backend)
        else:
            self.registry.release(backend)

    @rule(n=pick, works=st.booleans())
    def reset_ends(self, n, works):
        resetting = [b for b in self.world.backends if b.slot == RESETTING]
        if resetting:
            backend = resetting[n % len(resetting)]
            if works:
                self.registry.release(backend)
            else:
                self.registry.begin_close(backend)
                self.world.closing.append(backend)

    @rule(n=pick)
    def client_leaves(self, n):
        if self.waiters:
            waiter = self.waiters[n % len(self.waiters)]
            was_waiting = waiter.state == WAITING
            assert self.registry.cancel(waiter) is was_waiting

    # the server

    @precondition(lambda self: self.world.opening)
    @rule(n=pick)
    def server_accepts(self, n):
        self.world.open_one(self.world.opening[n % len(self.world.opening)])

    @precondition(lambda self: self.world.opening)
    @rule(
        n=pick,
        kind=st.sampled_from(
            [
                (FailureKind.REFUSED_SERVER, 1040),
                (FailureKind.REFUSED_ACCOUNT, 1203),
                (FailureKind.DOWN, 2003),
                (FailureKind.ACCOUNT_ERROR, 1045),
            ]
        ),
    )
    def server_refuses(self, n, kind):
        pool = self.world.opening.pop(n % len(self.world.opening))
        self.registry.open_failed(pool, Failure(*kind))

    @precondition(lambda self: self.world.closing)
    @rule(n=pick)
    def server_closes(self, n):
        self.registry.closed(self.world.closing.pop(n % len(self.world.closing)))

    @rule(n=pick)
    def backend_dies(self, n):
        alive = [b for b in self.world.backends if b.slot in (IDLE, LEASED, RESETTING)]
        if alive:
            self.registry.lost(alive[n % len(alive)])

    # logins

    @rule()
    def login(self):
        self.logins.append(self.world.login())

    @precondition(lambda self: self.world.slots)
    @rule(
        account=st.sampled_from(ACCOUNTS),
        outcome=st.sampled_from(["proven", "wrong", FailureKind.REFUSED_SERVER, FailureKind.DOWN]),
    )
    def login_ends(self, account, outcome):
        waiter = self.world.slots.pop(0)
        if outcome == "proven":
            backend = self.world.backend(None)
            self.registry.adopt(backend, self.world.pool(account, "k1"))
        elif outcome == "wrong":
            self.registry.login_done(None)
        else:
            assert self.registry.login_failed(waiter, Failure(outcome, 1040))

    @rule(n=pick)
    def login_leaves(self, n):
        if self.logins:
            self.registry.cancel_login(self.logins[n % len(self.logins)])

    # the operator, and time

    @rule(cap=st.integers(1, 6))
    def cap_changes(self, cap):
        self.highest = max(cap, self.registry.budget.in_use)
        self.registry.set_cap(cap)

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.1, 1.1, 12.0]))
    def time_passes(self, seconds):
        self.world.wait(seconds)

    @rule()
    def retire(self):
        self.registry.retire(self.world.now, 5.0, 60.0)

    # what must hold

    @invariant()
    def counts_are_honest(self):
        registry, world = self.registry, self.world
        budget = registry.budget
        real = [0] * 5
        for backend in world.backends:
            if backend.slot != FREE:
                real[backend.slot] += 1
        real[OPENING] += len(world.opening) + len(world.slots)
        assert real == budget.counts
        self.highest = max(budget.cap, min(self.highest, sum(real)))
        assert sum(real) <= self.highest
        assert registry.logins.held == len(world.slots) <= max(1, 6 // 4)
        for account in registry.accounts.values():
            mine = [b for b in world.backends if b.slot != FREE and b.pool.account is account]
            opening = [p for p in world.opening if p.account is account]
            assert account.slots == len(mine) + len(opening) == sum(account.counts)
            assert account.leaving == sum(b in registry._dispatch.slots.promises for b in mine)
            assert account.promised == sum(p is account for p in registry._dispatch.slots.promises.values())
            assert (account in registry.shares.waiting) == bool(account.waiters)
            assert (account in registry.shares.holding) == bool(account.slots)
            for pool in account.pools.values():
                assert set(pool.idle) == {b for b in mine if b.pool is pool and b.slot == IDLE}
                assert pool.waiting == sum(w.pool is pool for w in account.waiters)
                assert pool.opening == sum(p is pool for p in opening)
        assert not registry._dispatch.freed

    @invariant()
    def everyone_ends_once(self):
        for waiter in self.waiters:
            ends = self.world.ends.get(waiter, 0)
            assert ends == (0 if waiter.state in (WAITING, CANCELLED) else 1)
            assert (waiter in self.registry.queue.line) == (waiter.state == WAITING)

    @invariant()
    def nobody_is_overtaken_by_one_in_the_same_place(self):
        """Of two who would take the same backend, the one that came first is served first."""
        for waiter, _ in self.world.granted[self.checked :]:
            assert waiter.state == GRANTED
            for earlier in waiter.pool.account.waiters:
                if earlier.enqueued_at < waiter.enqueued_at and earlier.pool is waiter.pool:
                    assert earlier.needs_bare and not waiter.needs_bare
        self.checked = len(self.world.granted)

    @invariant()
    def nobody_waits_beside_what_could_serve_it(self):
        registry, now = self.registry, self.world.now
        budget = registry.budget
        throttle = budget.throttle
        if registry.down_since is not None:
            return
        free = budget.in_use < budget.effective and not throttle.retry_at
        idle = [b for b in self.world.backends if b.slot == IDLE]
        for account in registry.shares.waiting:
            head = next(iter(account.waiters))
            assert now < head.deadline
            assert not any(head.takes(b) for b in idle), "an idle backend and the head of its account"
            if account.need() <= 0 or account.throttle.retry_at:
                continue
            if account.slots < account.throttle.limit(account.limit(budget.cap)):
                assert not free, "a free slot and a waiter"
            if account.projected < account.throttle.limit(account.limit(budget.cap)):
                assert not idle, "an idle backend that could make room"
        if registry.logins.want_slot() and free:
            assert registry.logins.promised or not registry.logins.line, "a free slot and a login"

    @invariant()
    def no_more_is_opened_than_somebody_wanted(self):
        assert len(self.world.opening) <= len(self.world.granted) + len(self.waiters)

    def teardown(self):
        """When the server is well again and clients go home, everyone who waits is served."""
        if not hasattr(self, "world"):
            return
        world, registry = self.world, self.registry
        registry.set_timeouts(1e9, 1e9)
        for login in registry.logins.line:
            login.deadline = 1e9
        registry.set_cap(6)
        for _ in range(400):
            for backend in self.leased():
                registry.release(backend)
            for backend in [b for b in world.backends if b.slot == RESETTING]:
                registry.release(backend)
            while world.opening:
                world.open_one()
            while world.closing:
                world.close_one()
            while world.slots:
                world.slots.pop()
                registry.login_done(None)
            if not registry.queue and not registry.logins.line:
                break
            world.wait(0.01)
        assert not registry.queue, "starved"
        assert not registry.logins.line, "starved logins"
        assert sum(registry.budget.counts) == registry.budget.counts[IDLE] + registry.budget.counts[LEASED]
        assert not any(b.slot == CLOSING for b in world.backends)


PoolMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestPool = PoolMachine.TestCase
