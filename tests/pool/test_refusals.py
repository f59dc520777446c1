"""What the server refuses no client sees; a server that is down is tried gently and comes back without help."""

from __future__ import annotations

import pytest

from proxy.pool.throttle import Throttle
from tests.pool.world import Failure, FailureKind, World

SERVER, ACCOUNT, DOWN = FailureKind.REFUSED_SERVER, FailureKind.REFUSED_ACCOUNT, FailureKind.DOWN


def test_a_refusal_shrinks_the_effective_cap_and_the_waiter_keeps_its_place():
    world = World(10)
    pool = world.pool()
    backend, _ = world.leased(pool, 2)
    waiter = world.enqueue(pool)
    world.refuse_one(SERVER, 1040)
    assert world.registry.budget.effective == 2
    assert world.registry.refusals_absorbed == {1040: 1}
    assert not world.failed and not world.opening
    world.registry.release(backend)
    assert world.granted[-1] == (waiter, backend)
    assert world.registry.describe(world.now).startswith("cap 10, 2 allowed: ")


def test_a_burst_of_refusals_leaves_what_was_accepted():
    world = World(10)
    pool = world.pool()
    for _ in range(10):
        world.enqueue(pool)
    for n in range(10):
        if n % 2:
            world.open_one()
        else:
            world.refuse_one(SERVER, 1040)
    assert world.registry.budget.effective == world.registry.budget.in_use == 5


def test_the_effective_cap_is_never_below_one():
    world = World(10)
    world.enqueue(world.pool())
    world.refuse_one(SERVER, 1135)
    assert world.registry.budget.effective == 1
    assert not world.opening


def test_tries_come_after_50_ms_doubling_to_a_second():
    world = World(10, queue_timeout=1e9)
    world.enqueue(world.pool())
    world.refuse_one(SERVER)
    gaps, last = [], world.now
    while len(gaps) < 8:
        world.wait(0.01)
        if world.opening:
            assert len(world.opening) == 1
            gaps.append(round(world.now - last, 2))
            last = world.now
            world.refuse_one(SERVER)
    assert gaps[:4] == pytest.approx([0.05, 0.1, 0.2, 0.4], abs=0.02)
    assert max(gaps) <= 1.02 and gaps[-1] == pytest.approx(1.0, abs=0.02)


def test_jitter_only_makes_it_sooner():
    throttle = Throttle()
    throttle.back_off(100.0, lambda: 1.0)
    assert 100.03 < throttle.retry_at < 100.05


def test_the_next_try_is_made_when_one_of_our_slots_comes_free():
    world = World(10)
    pool = world.pool()
    (backend,) = world.leased(pool)
    world.enqueue(world.pool("b"))
    world.refuse_one(SERVER)
    assert not world.opening
    world.registry.lost(backend)
    assert len(world.opening) == 1


def test_the_effective_cap_grows_by_one_in_ten_seconds_without_refusal():
    world = World(4)
    pool = world.pool()
    world.leased(pool, 1)
    waiter = world.enqueue(pool)
    world.refuse_one(SERVER)
    world.registry.cancel(waiter)
    grown = []
    for _ in range(4):
        assert world.wait(0.0) == pytest.approx(10.0) or world.registry.budget.effective == 4
        world.wait(10.0)
        grown.append(world.registry.budget.effective)
    assert grown == [2, 3, 4, 4]
    assert world.wait(0.0) is None


def test_a_try_that_succeeds_above_the_effective_cap_raises_it():
    world = World(10)
    pool = world.pool()
    world.leased(pool, 2)
    for _ in range(3):
        world.enqueue(pool)
    for _ in range(3):
        world.refuse_one(SERVER)
    assert world.registry.budget.effective == 2
    world.wait(0.06)
    assert len(world.opening) == 1
    world.open_one()
    assert world.registry.budget.effective == 3
    world.wait(0.06)
    world.open_one()
    assert world.registry.budget.effective == 4


def test_a_success_among_refusals_does_not_end_the_tries():
    world = World(10, queue_timeout=1e9)
    pool = world.pool()
    for _ in range(20):
        world.enqueue(pool)
    for n in range(10):
        if n in (3, 9):
            world.open_one()
        else:
            world.refuse_one(SERVER)
    assert world.registry.budget.effective == 2 and not world.opening
    world.wait(0.06)
    assert len(world.opening) == 1
    world.refuse_one(SERVER)
    world.wait(0.06)
    assert not world.opening, "the second time it waits for twice as long"
    world.wait(0.05)
    assert len(world.opening) == 1


def test_up_to_the_limit_nothing_waits_for_the_next_try_above_it():
    world = World(10, queue_timeout=1e9)
    pool = world.pool()
    held = world.leased(pool, 5)
    for _ in range(10):
        world.enqueue(pool)
    for _ in range(5):
        world.refuse_one(SERVER)
    for backend in held[:3]:
        world.registry.lost(backend)
    assert len(world.opening) == 3
    for _ in range(3):
        world.open_one()
    assert world.registry.budget.effective == 5
    world.wait(0.06)
    assert len(world.opening) == 1


def test_room_that_comes_back_is_found_while_clients_wait():
    world = World(10, queue_timeout=1e9)
    pool = world.pool()
    world.leased(pool, 2)
    for _ in range(20):
        world.enqueue(pool)
    for _ in range(8):
        world.refuse_one(SERVER)
    for _ in range(400):
        world.wait(0.01)
        while world.opening:
            world.refuse_one(SERVER)
    assert world.registry.budget.effective == 2
    start = world.now
    while world.registry.budget.in_use < 10 and world.now < start + 20:
        world.wait(0.01)
        while world.opening:
            world.open_one()
    assert world.now - start < 2.0
    assert world.registry.budget.effective == 10


def test_an_accounts_refusal_shrinks_that_account_only():
    world = World(10)
    tenant = world.pool("tenant")
    world.leased(tenant, 2)
    world.enqueue(tenant)
    world.refuse_one(ACCOUNT, 1203)
    assert world.registry.budget.effective == 10
    assert tenant.account.throttle.effective == 2
    assert world.registry.refusals_absorbed == {1203: 1}
    world.enqueue(world.pool("other"))
    assert len(world.opening) == 1
    world.wait(0.06)
    assert len(world.opening) == 2  # its turn to try again


def test_an_accounts_limit_grows_back():
    world = World(3)
    tenant = world.pool("tenant")
    world.leased(tenant, 1)
    waiter = world.enqueue(tenant)
    world.refuse_one(ACCOUNT, 1226)
    world.registry.cancel(waiter)
    world.wait(10.0)
    assert tenant.account.throttle.effective == 2
    world.wait(10.0)
    assert tenant.account.throttle.effective is None


def test_a_refused_account_does_not_evict_others_for_nothing():
    world = World(4)
    tenant = world.pool("tenant")
    world.leased(tenant, 1)
    world.idle(world.pool("other"), 2)
    world.enqueue(tenant)
    world.refuse_one(ACCOUNT, 1203)
    for _ in range(3):
        world.enqueue(tenant)
    assert not world.closing


def test_an_account_error_fails_everyone_who_waits_with_these_credentials_and_nobody_else():
    world = World(2)
    waiters = [world.enqueue(world.pool("a")) for _ in range(3)]
    other = world.enqueue(world.pool("b"))
    world.registry.open_failed(world.opening.pop(0), Failure(FailureKind.ACCOUNT_ERROR, 1045, "denied"))
    assert [failure.code for _, failure in world.failed] == [1045] * 3
    assert [who for who, _ in world.failed] == waiters
    while world.opening:
        world.open_one()
    assert other in world.grantees()
    assert world.registry.statistics().failed == 3


def test_a_server_that_is_down_is_tried_by_one_connection_at_a_time():
    world = World(10)
    pool = world.pool()
    for _ in range(5):
        world.enqueue(pool)
    for _ in range(5):
        world.refuse_one(DOWN, 2003)
    assert not world.opening
    world.wait(0.06)
    assert len(world.opening) == 1
    world.wait(3.0)
    assert len(world.opening) == 1


def test_waiters_of_a_server_that_is_down_get_the_shorter_time_from_when_it_went_down_or_they_came():
    world = World(10, queue_timeout=30.0, queue_timeout_down=5.0)
    pool = world.pool()
    world.leased(pool, 10)
    early = world.enqueue(pool)
    world.now += 20.0
    world.registry.lost(world.granted[0][1])
    world.refuse_one(DOWN, 2003)
    world.now += 2.0
    late = world.enqueue(pool)
    world.wait(2.9)
    assert not world.failures(early)
    world.wait(0.2)
    assert world.failures(early) == [DOWN] and not world.failures(late)
    world.wait(2.0)
    assert world.failures(late) == [DOWN]


def test_the_longer_timeout_still_ends_a_wait_first_if_it_is_over_and_it_is_the_server_that_is_down():
    world = World(10, queue_timeout=6.0, queue_timeout_down=5.0)
    pool = world.pool()
    world.leased(pool, 10)
    waiter = world.enqueue(pool)
    world.now += 5.0
    world.registry.lost(world.granted[0][1])
    world.refuse_one(DOWN)
    world.wait(1.5)
    assert world.failures(waiter) == [DOWN]


def test_recovery_needs_no_help():
    world = World(10)
    pool = world.pool()
    waiters = [world.enqueue(pool) for _ in range(5)]
    for _ in range(5):
        world.refuse_one(DOWN)
    assert world.registry.statistics().down
    assert "server down" in world.registry.describe(world.now)
    world.wait(0.1)
    world.open_one()
    assert not world.registry.statistics().down
    assert len(world.opening) == 4
    while world.opening:
        world.open_one()
    assert world.grantees() == waiters


def test_a_server_that_refuses_is_not_down():
    world = World(10)
    world.enqueue(world.pool())
    world.refuse_one(DOWN)
    world.wait(0.1)
    world.refuse_one(SERVER)
    assert world.registry.down_since is None


def test_nothing_is_evicted_for_a_server_that_is_down():
    world = World(2)
    world.idle(world.pool("a"), 1)
    world.enqueue(world.pool("b"))
    world.refuse_one(DOWN)
    world.enqueue(world.pool("c"))
    world.wait(0.01)
    assert not world.closing


def test_openings_that_fail_at_once_do_not_spin():
    world = World(10, queue_timeout=1e9, queue_timeout_down=1e9)
    attempts = []

    def refuse(pool):
        attempts.append(world.now)
        world.registry.open_failed(pool, Failure(kinds[len(attempts) % 3], 1040))

    kinds = [SERVER, ACCOUNT, DOWN]
    world.on_open = refuse
    for n in range(20):
        world.enqueue(world.pool(f"a{n % 3}"))
    for _ in range(100):
        world.wait(0.01)
    assert len(attempts) < 60
    assert world.registry.budget.in_use == 0
