"""Between accounts: shares, eviction, taking turns. Nobody starves."""

from __future__ import annotations

import heapq

from tests.pool.world import World


class Server:
    """Clients use a backend for `service`; the server takes `connect` to open and to close one."""

    def __init__(self, world, service=0.005, connect=0.001):
        self.world = world
        self.service = service
        self.connect = connect
        self.events = []
        self.serial = 0
        self.seen = 0

    def later(self, delay, what, thing):
        self.serial += 1
        heapq.heappush(self.events, (self.world.now + delay, self.serial, what, thing))

    def notice(self):
        world = self.world
        for _, backend in world.granted[self.seen :]:
            self.later(self.service, "done", backend)
        self.seen = len(world.granted)
        while world.opening:
            self.later(self.connect, "opened", world.backend(world.opening.pop(0)))
        while world.closing:
            self.later(self.connect, "closed", world.closing.pop(0))

    def run(self, seconds, then):
        world = self.world
        end = world.now + seconds
        self.notice()
        while self.events and self.events[0][0] <= end:
            world.now, _, what, backend = heapq.heappop(self.events)
            if what == "done":
                then(backend)
                world.registry.release(backend)
            elif what == "opened":
                world.registry.opened(backend)
            else:
                world.registry.closed(backend)
            self.notice()
        world.now = end


def keep_busy(world, names, clients):
    """Every account always has `clients` waiting; returns how many were served per account."""
    served = dict.fromkeys(names, 0)

    def again(backend):
        name = backend.pool.account.name
        served[name] += 1
        world.enqueue(backend.pool)

    for name in names:
        for _ in range(clients):
            world.enqueue(world.pool(name))
    return served, again


def test_fifty_busy_accounts_on_ten_slots_are_all_served_alike():
    world = World(10, queue_timeout=1e9)
    server = Server(world)
    served, again = keep_busy(world, [f"a{n}" for n in range(50)], 3)
    server.run(4.0, again)
    assert min(served.values()) > 0.8 * max(served.values())


def test_taking_turns_keeps_a_slot_for_a_quantum_and_does_not_reconnect_for_each_statement():
    world = World(10, queue_timeout=1e9, quantum=0.05)
    server = Server(world)
    served, again = keep_busy(world, [f"a{n}" for n in range(50)], 3)
    server.run(4.0, again)
    assert sum(served.values()) / world.serial > 8


def test_three_busy_accounts_settle_at_their_shares_and_stop_reconnecting():
    world = World(10, queue_timeout=1e9)
    server = Server(world)
    served, again = keep_busy(world, ["a", "b", "c"], 50)
    server.run(1.0, again)
    opened = world.serial
    server.run(2.0, again)
    assert world.serial == opened
    assert sorted(world.pool(name).account.slots for name in "abc") == [3, 3, 4]
    assert min(served.values()) > 0.7 * max(served.values())


def test_weights_are_kept():
    world = World(9, queue_timeout=1e9)
    world.registry.account("heavy", weight=2.0)
    server = Server(world)
    served, again = keep_busy(world, ["heavy", "light"], 50)
    server.run(2.0, again)
    assert world.pool("heavy").account.slots == 6
    assert 1.8 < served["heavy"] / served["light"] < 2.2


def test_a_weight_changed_while_accounts_wait_is_kept():
    world = World(9, queue_timeout=1e9)
    server = Server(world)
    served, again = keep_busy(world, ["heavy", "light"], 50)
    server.run(1.0, again)
    world.registry.set_limits(world.registry.account("heavy"), 2.0, None)
    server.run(1.0, again)
    assert world.pool("heavy").account.slots == 6
    assert served["heavy"]


def test_what_a_limited_account_leaves_is_shared_by_the_others():
    world = World(18, queue_timeout=1e9)
    world.registry.account("small", max_connections=2)
    server = Server(world)
    served, again = keep_busy(world, ["greedy"], 100)
    server.run(0.1, again)
    for name in ("small", "late"):
        served[name] = 0
        for _ in range(50):
            world.enqueue(world.pool(name))
    server.run(1.0, again)
    opened = world.serial
    server.run(1.0, again)
    assert [world.pool(name).account.slots for name in ("greedy", "small", "late")] == [8, 2, 8]
    assert world.serial == opened, "and nobody reconnects for it any more"


def test_what_is_left_over_is_shared_by_weight():
    world = World(15, queue_timeout=1e9)
    world.registry.account("heavy", weight=2.0)
    world.registry.account("small", weight=2.0, max_connections=3)
    server = Server(world)
    _, again = keep_busy(world, ["light", "heavy", "small"], 50)
    server.run(2.0, again)
    assert [world.pool(name).account.slots for name in ("heavy", "light", "small")] == [8, 4, 3]


def test_one_busy_account_may_have_everything_until_another_comes():
    world = World(10, queue_timeout=1e9)
    server = Server(world)
    served, again = keep_busy(world, ["greedy"], 100)
    served["late"] = 0
    server.run(1.0, again)
    assert world.pool("greedy").account.slots == 10
    start = world.now
    late = world.enqueue(world.pool("late"))
    server.run(0.05, again)
    assert late in world.grantees()
    assert world.now - start <= 0.06


def test_a_freed_backend_stays_while_its_account_is_at_its_share():
    world = World(2)
    a, b = world.pool("a"), world.pool("b")
    (first,) = world.leased(a)
    world.leased(b)
    mine = world.enqueue(a)
    world.enqueue(b)
    world.registry.release(first)
    assert world.granted[-1] == (mine, first)


def test_a_freed_backend_above_the_share_is_closed_for_the_other():
    world = World(2)
    a, b = world.pool("a"), world.pool("b")
    first, _ = world.leased(a, 2)
    mine, other = world.enqueue(a), world.enqueue(b)
    world.registry.release(first)
    assert world.reasons == ["fair_share"]
    world.close_one()
    assert world.opening == [b]
    world.open_one()
    assert world.grantees()[-1] is other
    assert mine not in world.grantees()


def test_a_backend_nobody_of_its_account_wants_goes_to_whoever_waits():
    world = World(2)
    a, b = world.pool("a"), world.pool("b")
    (first,) = world.leased(a)
    world.leased(b)
    other = world.enqueue(b)
    world.registry.release(first)
    world.close_one()
    world.open_one()
    assert world.grantees()[-1] is other


def test_the_victim_is_the_least_recently_used_of_the_account_furthest_above_its_share():
    world = World(5)
    rich = world.idle(world.pool("rich"), 3)
    world.now += 1.0
    world.idle(world.pool("poor"), 1)
    world.idle(world.pool("third"), 1)
    world.enqueue(world.pool("new"))
    assert world.closing == [rich[0]]


def test_the_account_that_was_served_longest_ago_goes_first():
    world = World(1)
    (backend,) = world.leased(world.pool("a"))
    first = world.enqueue(world.pool("b"))
    second = world.enqueue(world.pool("c"))
    order = []
    for _ in range(2):
        world.registry.release(backend)
        world.close_one()
        backend = world.open_one()
        order.append(world.grantees()[-1])
    assert order == [first, second]


def test_an_accounts_own_cap_holds_and_others_pass_by():
    world = World(5)
    world.registry.account("small", max_connections=1)
    for _ in range(3):
        world.enqueue(world.pool("small"))
    assert len(world.opening) == 1
    world.enqueue(world.pool("big"))
    assert len(world.opening) == 2


def test_an_account_at_its_cap_makes_room_from_its_own():
    world = World(5)
    world.registry.account("small", max_connections=1)
    world.idle(world.pool("small", "k1"))
    world.idle(world.pool("other"), 2)
    waiter = world.enqueue(world.pool("small", "k2"))
    assert len(world.closing) == 1 and world.closing[0].pool.account.name == "small"
    world.close_one()
    world.open_one()
    assert world.grantees()[-1] is waiter


def test_an_account_whose_cap_was_lowered_gives_backends_back():
    world = World(5)
    pool = world.pool("a")
    first, second = world.leased(pool, 2)
    world.registry.set_limits(pool.account, 1.0, 1)
    world.registry.release(first)
    assert world.reasons == ["over_account_cap"]
    world.close_one()
    world.registry.release(second)
    assert list(pool.idle) == [second]


def test_a_promised_slot_goes_to_whom_it_was_promised_to():
    world = World(1)
    world.idle(world.pool("a"))
    first = world.enqueue(world.pool("b"))
    world.enqueue(world.pool("c"))
    assert len(world.closing) == 1
    world.close_one()
    world.open_one()
    assert world.grantees()[-1] is first


def test_a_promise_nobody_needs_any_more_goes_to_the_next():
    world = World(1)
    world.idle(world.pool("a"))
    first = world.enqueue(world.pool("b"))
    second = world.enqueue(world.pool("c"))
    world.registry.cancel(first)
    world.close_one()
    world.open_one()
    assert world.grantees()[-1] is second
