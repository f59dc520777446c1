"""Acquire, wait, release: which backend, in which order, and every way a wait can end."""

from __future__ import annotations

import pytest

from proxy.pool.queue import CANCELLED, FAILED, GRANTED, WAIT_BOUNDS
from tests.pool.world import (
    CLOSING,
    IDLE,
    LEASED,
    OPENING,
    PLAIN,
    RESETTING,
    Failure,
    FailureKind,
    FakeBackend,
    QueueFull,
    World,
)

OTHER = object()


def test_an_empty_pool_yields_nothing_and_enqueue_opens_a_backend():
    world = World()
    pool = world.pool()
    assert world.acquire(pool) is None
    waiter = world.enqueue(pool)
    assert world.opening == [pool]
    backend = world.open_one()
    assert world.granted == [(waiter, backend)]
    assert backend.slot == LEASED and waiter.state == GRANTED


def test_the_last_backend_comes_first_then_one_in_the_same_settings_then_the_most_recently_used():
    world = World()
    pool = world.pool()
    first, second, third, fourth = world.idle(pool, 4)
    client = object()
    first.last_client = client
    second.settings = third.settings = OTHER
    assert world.acquire(pool, OTHER, last=first, client=client) is first
    assert world.acquire(pool, OTHER) is third
    assert world.acquire(pool, object()) is fourth
    assert world.acquire(pool, object()) is second
    assert world.acquire(pool) is None


def test_a_last_backend_that_somebody_else_has_used_since_is_not_preferred():
    world = World()
    pool = world.pool()
    first, second = world.idle(pool, 2)
    first.last_client = object()
    assert world.acquire(pool, last=first, client=object()) is second


def test_a_backend_of_another_pool_is_never_taken_as_the_last_one():
    world = World()
    client = object()
    (backend,) = world.idle(world.pool(key="k1"))
    backend.last_client = client
    assert world.acquire(world.pool(key="k2"), last=backend, client=client) is None


def test_who_needs_a_bare_backend_gets_only_a_bare_one():
    world = World()
    pool = world.pool()
    bare, used = world.idle(pool, 2)
    used.bare = False
    used.last_client = client = object()
    assert world.acquire(pool, needs_bare=True, last=used, client=client) is bare
    assert world.acquire(pool, needs_bare=True) is None
    assert world.acquire(pool) is used


def test_nobody_barges_past_the_waiters_of_its_account():
    world = World(1)
    pool = world.pool()
    (backend,) = world.leased(pool)
    world.enqueue(pool)
    other = world.pool(key="other")
    other.idle[FakeBackend(other, "loose")] = None
    assert world.acquire(other) is None
    assert backend.slot == LEASED


def test_waiters_are_served_in_the_order_they_came():
    world = World(2)
    pool = world.pool()
    held = world.leased(pool, 2)
    world.granted.clear()
    waiters = [world.enqueue(pool) for _ in range(6)]
    for _ in range(3):
        for backend in held:
            world.registry.release(backend)
    assert world.grantees() == waiters


def test_no_more_backends_are_opened_than_waiters_need():
    world = World(10)
    pool = world.pool()
    world.enqueue(pool)
    world.enqueue(pool)
    assert len(world.opening) == 2
    for _ in range(20):
        world.enqueue(pool)
    assert len(world.opening) == 10


def test_an_opening_whose_waiter_was_served_otherwise_ends_idle():
    world = World(2)
    pool = world.pool()
    (held,) = world.leased(pool)
    waiter = world.enqueue(pool)
    world.registry.release(held)
    assert world.grantees()[-1] is waiter
    assert world.open_one().slot == IDLE


def test_an_opening_on_its_way_counts_for_the_next_waiter():
    world = World(5)
    pool = world.pool()
    waiter = world.enqueue(pool)
    world.registry.cancel(waiter)
    world.enqueue(pool)
    assert len(world.opening) == 1


def test_a_full_queue_refuses_and_counts():
    world = World(1, max_waiting=1)
    pool = world.pool()
    world.leased(pool)
    world.enqueue(pool)
    with pytest.raises(QueueFull):
        world.enqueue(pool)
    assert world.registry.statistics().rejected == 1


def test_an_expired_waiter_fails_and_is_never_granted():
    world = World(1, queue_timeout=3.0)
    pool = world.pool()
    (backend,) = world.leased(pool)
    late = world.enqueue(pool)
    world.now += 2.0
    early = world.enqueue(pool)
    world.now += 1.0  # nobody has called tick
    world.registry.release(backend)
    assert world.failures(late) == [FailureKind.TIMEOUT]
    assert world.granted[-1] == (early, backend)
    assert late.state == FAILED


def test_tick_ends_waits_and_says_when_it_wants_to_be_called_again():
    world = World(1, queue_timeout=3.0)
    pool = world.pool()
    assert world.wait(0.0) is None
    world.leased(pool)
    waiter = world.enqueue(pool)
    assert world.wait(1.0) == pytest.approx(2.0)
    assert world.wait(2.0) is None
    assert world.failures(waiter) == [FailureKind.TIMEOUT]
    assert world.registry.statistics().timeouts == 1


def test_a_changed_timeout_holds_for_those_who_wait():
    world = World(1, queue_timeout=30.0)
    pool = world.pool()
    world.leased(pool)
    waiter = world.enqueue(pool)
    world.wait(2.0)
    world.registry.set_timeouts(1.0, 1.0)
    assert world.failures(waiter) == [FailureKind.TIMEOUT]


def test_who_left_is_never_granted_and_cancelling_twice_is_harmless():
    world = World(1)
    pool = world.pool()
    (backend,) = world.leased(pool)
    gone, stays = world.enqueue(pool), world.enqueue(pool)
    assert world.registry.cancel(gone) is True
    assert world.registry.cancel(gone) is False
    world.registry.release(backend)
    assert gone.state == CANCELLED and world.grantees()[-1] is stays
    assert world.registry.cancel(stays) is False
    assert world.registry.statistics().abandoned == 1


def test_a_freed_slot_becomes_a_backend_for_a_waiter():
    world = World(1)
    pool = world.pool()
    (backend,) = world.leased(pool)
    waiter = world.enqueue(pool)
    world.registry.begin_close(backend)
    assert backend.slot == CLOSING and not world.opening
    world.registry.closed(backend)
    assert world.opening == [pool]
    world.open_one()
    assert world.grantees()[-1] is waiter


def test_a_lost_backend_frees_its_slot_in_every_state():
    world = World(4)
    pool = world.pool()
    idle, leased, resetting, closing = world.idle(pool, 4)
    for backend in (leased, resetting, closing):
        assert backend.slot == IDLE
    assert world.acquire(pool) is closing
    assert world.acquire(pool) is resetting
    assert world.acquire(pool) is leased
    world.registry.begin_reset(resetting)
    world.registry.begin_close(closing)
    assert world.registry.budget.counts == [1, 1, 0, 1, 1]
    for backend in (idle, leased, resetting, closing):
        world.registry.lost(backend)
    assert world.registry.budget.in_use == 0
    assert not pool.idle and pool.account.slots == 0


def test_a_backend_lost_while_connecting_is_a_failed_opening():
    world = World()
    pool = world.pool()
    world.enqueue(pool)
    backend = world.backend(world.opening.pop())
    assert backend.slot == OPENING
    world.registry.lost(backend)
    assert world.registry.down_since == world.now
    assert world.registry.budget.in_use == 0


def test_a_reset_backend_goes_to_the_next_waiter():
    world = World(1)
    pool = world.pool()
    (backend,) = world.leased(pool)
    world.registry.begin_reset(backend)
    assert backend.slot == RESETTING
    waiter = world.enqueue(pool)
    world.registry.release(backend)
    assert world.granted[-1] == (waiter, backend)


def test_a_backend_the_head_cannot_use_is_closed_and_its_slot_opened_for_the_head():
    world = World(1)
    pool, other = world.pool(key="k1"), world.pool(key="k2")
    (backend,) = world.leased(pool)
    head = world.enqueue(other)
    world.enqueue(pool)
    world.registry.release(backend)
    assert world.reasons == ["unsuitable"]
    world.close_one()
    assert world.opening == [other]
    world.open_one()
    assert world.grantees()[-1] is head


def test_a_backend_with_a_schema_is_closed_for_a_head_that_needs_a_bare_one():
    world = World(1)
    pool = world.pool()
    (backend,) = world.leased(pool)
    backend.bare = False
    head = world.enqueue(pool, needs_bare=True)
    world.registry.release(backend)
    world.close_one()
    world.open_one()
    assert world.grantees()[-1] is head


def test_while_the_heads_backend_is_being_opened_the_next_may_take_what_the_head_cannot_use():
    world = World(2)
    pool = world.pool()
    (backend,) = world.leased(pool)
    backend.bare = False
    head = world.enqueue(pool, needs_bare=True)
    second = world.enqueue(pool)
    world.registry.release(backend)
    assert world.granted[-1] == (second, backend)
    world.open_one()
    assert world.grantees()[-1] is head


def test_an_idle_backend_under_another_key_makes_room():
    world = World(1)
    pool, other = world.pool(key="k1"), world.pool(key="k2")
    world.idle(pool)
    waiter = world.enqueue(other)
    assert world.reasons == ["evicted"]
    world.close_one()
    world.open_one()
    assert world.grantees()[-1] is waiter


def test_one_backend_is_closed_for_one_waiter():
    world = World(4)
    world.idle(world.pool("a"), 4)
    for _ in range(2):
        world.enqueue(world.pool("b"))
    world.wait(0.1)
    assert len(world.closing) == 2


def test_a_client_that_has_gone_gives_its_grant_back_at_once_without_recursion():
    world = World(1, max_waiting=20_000)
    pool = world.pool()
    (backend,) = world.leased(pool)
    for _ in range(20_000):
        world.enqueue(pool, then=world.registry.release)
    world.registry.release(backend)
    assert len(world.granted) == 20_001
    assert backend.slot == IDLE


def test_backends_that_close_at_once_and_openings_that_fail_at_once_are_safe():
    world = World(2, max_waiting=5000)
    world.close_at_once = True
    pool = world.pool("a")
    backends = world.leased(pool, 2)
    error = Failure(FailureKind.ACCOUNT_ERROR, 1045, "no")
    world.on_open = lambda pool: world.registry.open_failed(pool, error)
    waiters = [world.enqueue(world.pool(f"b{n}")) for n in range(5000)]
    for backend in backends:
        world.registry.release(backend)
    assert all(world.failures(waiter) == [FailureKind.ACCOUNT_ERROR] for waiter in waiters)
    assert not world.registry.queue


def test_what_expires_inside_a_callback_is_not_granted():
    world = World(1, queue_timeout=1.0)
    pool = world.pool()
    (backend,) = world.leased(pool)

    def slow(backend):
        world.now += 5.0
        world.registry.release(backend)

    world.enqueue(pool, then=slow)
    second = world.enqueue(pool)
    world.registry.release(backend)
    assert world.failures(second) == [FailureKind.TIMEOUT]


def test_idle_and_old_backends_are_retired():
    world = World(3, max_lifetime=100.0)
    pool = world.pool()
    old, stale, busy = world.idle(pool, 3)
    assert world.acquire(pool) is busy
    world.now += 50.0
    assert world.registry.retire(world.now, 60.0, 100.0) == 0
    world.now += 10.0
    assert world.registry.retire(world.now, 60.0, 100.0) == 2
    assert world.closing == [old, stale] and world.reasons == ["idle_timeout"] * 2
    world.now += 40.0
    world.registry.release(busy)
    assert world.reasons[-1] == "max_lifetime"


def test_a_lent_backend_that_is_to_be_replaced_says_why_it_was_closed():
    world = World(2, max_lifetime=100.0)
    pool = world.pool()
    first, second = world.idle(pool, 2)
    assert {world.acquire(pool), world.acquire(pool)} == {first, second}
    world.registry.replace([first], "reconnect")
    world.registry.release(first)
    world.registry.pause([second])
    world.registry.release(second)
    assert world.reasons == ["reconnect", "paused"]


def test_a_backend_that_the_server_suffers_for_less_is_retired_before():
    world = World(2)
    long, short = world.idle(world.pool(), 2)
    short.idle_limit = 8.0
    world.now += 7.9
    assert world.registry.retire(world.now, 60.0, 0.0) == 0
    world.now += 0.2
    assert world.registry.retire(world.now, 60.0, 0.0) == 1
    assert world.closing == [short] and world.reasons == ["wait_timeout"]
    assert long.slot == IDLE


def test_a_limit_of_zero_retires_nobody():
    world = World()
    world.idle(world.pool())
    world.now += 1e6
    assert world.registry.retire(world.now, 0.0, 0.0) == 0


def test_lifetimes_are_spread():
    spread = iter([0.0, 1.0])
    world = World(max_lifetime=100.0, jitter=lambda: next(spread))
    first, second = world.idle(world.pool(), 2)
    assert first.retire_at - second.retire_at == pytest.approx(10.0)


def test_a_lowered_cap_closes_what_is_idle_now_and_what_is_leased_when_it_comes_back():
    world = World(4)
    pool = world.pool()
    world.idle(pool, 4)
    leased = [world.acquire(pool) for _ in range(3)]
    world.registry.set_cap(2)
    assert world.reasons == ["over_cap"]
    world.registry.release(leased[0])
    while world.closing:
        world.close_one()
    world.registry.release(leased[1])
    assert leased[1].slot == IDLE
    assert world.registry.budget.in_use == 2
    with pytest.raises(ValueError, match="serves nobody"):
        world.registry.set_cap(0)


def test_a_raised_cap_serves_those_who_wait():
    world = World(1)
    pool = world.pool()
    world.leased(pool)
    world.enqueue(pool)
    assert not world.opening
    world.registry.set_cap(2)
    assert world.opening == [pool]


def test_taking_a_slot_beyond_the_cap_is_a_crash():
    world = World(1)
    world.registry.budget.acquire()
    with pytest.raises(AssertionError):
        world.registry.budget.acquire()


def test_releasing_what_is_not_leased_is_a_crash():
    world = World(1)
    (backend,) = world.idle(world.pool())
    with pytest.raises(AssertionError):
        world.registry.release(backend)


def test_everybody_can_be_failed_at_once():
    world = World(1)
    pool = world.pool()
    world.leased(pool)
    waiter, login = world.enqueue(pool), world.login()
    world.registry.fail_all_waiters(Failure(FailureKind.DRAIN))
    assert world.failures(waiter) == world.failures(login) == [FailureKind.DRAIN]


def test_statistics_tell_how_it_is_and_waits_are_counted_for_all_who_waited():
    world = World(1, queue_timeout=5.0, describe_leases=lambda: "1 running")
    pool = world.pool("app")
    (backend,) = world.leased(pool)
    granted, abandoned, expired = (world.enqueue(pool) for _ in range(3))
    world.now += 0.2
    assert world.registry.describe(world.now) == "cap 1: 1 running; 3 waiting"
    statistics = world.registry.statistics()
    assert statistics.waiting == 3 and statistics.oldest_wait == pytest.approx(0.2)
    assert statistics.slots["leased"] == 1 and statistics.accounts[0].waiting == 3
    assert list(world.registry.waiters()) == [granted, abandoned, expired]
    world.registry.release(backend)
    world.now += 0.2
    world.registry.cancel(abandoned)
    world.wait(5.0)
    waits = world.registry.queue.waits["app"]
    buckets = waits.counts
    assert buckets[0] == 1  # the first one, whose backend was opened at once
    assert buckets[WAIT_BOUNDS.index(0.25)] == buckets[WAIT_BOUNDS.index(0.5)] == 1
    assert buckets[WAIT_BOUNDS.index(10.0)] == 1
    assert waits.sum == pytest.approx(0.2 + 0.4 + 5.4)
    assert "app" in repr(pool) and "1 waiting" not in repr(pool.account)


def test_unused_accounts_are_forgotten_and_others_are_not():
    world = World()
    world.idle(world.pool("used"))
    world.pool("unused")
    world.pool("connected").account.clients = 1
    assert world.registry.forget_unused() == 1
    assert set(world.registry.accounts) == {"used", "connected"}


def test_the_same_settings_are_found_by_identity():
    world = World()
    pool = world.pool()
    one, two = [1], [1]
    first, second = world.idle(pool, 2)
    first.settings, second.settings = one, two
    assert world.acquire(pool, one) is first
    assert world.acquire(pool, PLAIN) is second
