"""Unproven logins get slots, but never at the cost of those who are known for long."""

from __future__ import annotations

import pytest

from tests.pool.world import IDLE, LEASED, Failure, FailureKind, World


def test_a_login_takes_a_free_slot_and_its_backend_joins_the_pool():
    world = World(4)
    login = world.login()
    assert world.slots == [login]
    assert world.registry.budget.in_use == 1
    backend = world.backend(None)
    world.registry.adopt(backend, world.pool("new"))
    assert backend.slot == IDLE and world.acquire(world.pool("new")) is backend
    assert world.registry.logins.held == 0


def test_a_backend_left_by_a_login_goes_to_a_waiter_of_its_account():
    world = World(1)
    world.login()
    waiter = world.enqueue(world.pool("new"))
    backend = world.backend(world.pool("new"))
    world.registry.login_done(backend)
    assert world.granted == [(waiter, backend)] and backend.slot == LEASED


def test_a_failed_login_frees_its_slot():
    world = World(1)
    world.login()
    world.enqueue(world.pool())
    assert not world.opening
    world.registry.login_done(None)
    assert len(world.opening) == 1


@pytest.mark.parametrize(("cap", "held"), [(1, 1), (3, 1), (8, 2), (20, 5)])
def test_logins_hold_at_most_a_quarter_of_the_cap(cap, held):
    world = World(cap)
    for _ in range(50):
        world.login()
    assert len(world.slots) == held
    world.registry.login_done(None)
    assert len(world.slots) == held + 1
    assert world.registry.budget.in_use == held


def test_what_the_server_refuses_is_not_for_logins_either():
    world = World(20)
    pool = world.pool()
    held = world.leased(pool, 3)
    world.enqueue(pool)
    world.refuse_one(FailureKind.REFUSED_SERVER)
    assert world.registry.budget.effective == 3
    for _ in range(5):
        world.login()
        world.enqueue(pool)
    world.wait(1.1)
    for backend in held:
        world.registry.release(backend)
    while world.closing:
        world.close_one()
    assert len(world.slots) == 1, "a quarter of the twenty would have been all there is"


def test_waiters_come_before_young_logins():
    world = World(1)
    (backend,) = world.leased(world.pool())
    world.login()
    waiter = world.enqueue(world.pool())
    world.registry.release(backend)
    assert world.granted[-1] == (waiter, backend) and not world.slots


def test_a_login_evicts_only_what_was_idle_for_more_than_a_second():
    world = World(1)
    world.idle(world.pool())
    login = world.login()
    world.wait(0.5)
    assert not world.closing
    world.wait(0.6)
    assert world.reasons == ["login_waits"]
    world.close_one()
    assert world.slots == [login]


def test_new_accounts_log_in_faster_than_the_backends_of_others_get_old():
    world = World(4)
    logins = [world.login() for _ in range(100)]
    proven = 0
    start = world.now
    while proven < len(logins) and world.now < start + 20:
        if len(world.slots) > proven:
            pool = world.pool(f"tenant{proven}")
            backend = world.backend(None)
            world.registry.adopt(backend, pool)
            assert world.acquire(pool) is backend, "closed before its first statement"
            world.registry.release(backend)
            proven += 1
        elif world.closing:
            world.close_one()
        world.wait(0.005)
    assert not world.failed
    assert world.now - start < 3.0


def test_a_login_that_has_waited_for_a_second_gets_the_next_released_slot():
    world = World(4)
    pool = world.pool()
    held = world.leased(pool, 4)
    login = world.login()
    waiter = world.enqueue(pool)
    world.wait(1.1)
    world.registry.release(held[0])
    assert world.closing == [held[0]]
    world.registry.release(held[1])
    assert world.granted[-1] == (waiter, held[1])
    world.close_one()
    assert world.slots == [login]


def test_a_login_that_has_waited_before_it_joined_is_as_old_as_that():
    world = World(4)
    pool = world.pool()
    held = world.leased(pool, 4)
    world.enqueue(pool)
    login = world.login(since=world.now - 1.1)
    world.registry.release(held[0])
    world.close_one()
    assert world.slots == [login]


def test_with_one_slot_logins_and_waiters_take_turns():
    world = World(1, login_timeout=1e9)
    pool = world.pool()
    (backend,) = world.leased(pool)
    for _ in range(3):
        world.login()
    waiters = [world.enqueue(pool) for _ in range(2)]
    world.wait(1.1)
    world.registry.release(backend)
    world.close_one()
    assert len(world.slots) == 1
    world.registry.login_done(None)
    backend = world.open_one()
    assert world.granted[-1] == (waiters[0], backend) and len(world.slots) == 1


def test_a_login_that_waits_too_long_fails():
    world = World(1, login_timeout=10.0)
    world.leased(world.pool())
    login, own = world.login(), world.login(deadline=world.now + 3.0)
    world.wait(3.0)
    assert world.failures(own) == [FailureKind.TIMEOUT] and not world.failures(login)
    world.wait(7.0)
    assert world.failures(login) == [FailureKind.TIMEOUT]
    assert world.registry.logins.timeouts == 2


def test_an_expired_login_is_not_given_a_slot():
    world = World(1)
    (backend,) = world.leased(world.pool())
    login = world.login()
    world.now += 20.0
    world.registry.lost(backend)
    assert world.failures(login) == [FailureKind.TIMEOUT] and not world.slots


def test_a_login_that_left_is_not_given_a_slot():
    world = World(1)
    (backend,) = world.leased(world.pool())
    login = world.login()
    assert world.registry.cancel_login(login)
    assert not world.registry.cancel_login(login)
    world.registry.lost(backend)
    assert not world.slots


def test_a_full_server_puts_the_login_back_in_front():
    world = World(8)
    first = world.login()
    world.login()
    third = world.login()
    assert world.registry.login_failed(first, Failure(FailureKind.REFUSED_SERVER, 1040))
    assert list(world.registry.logins.line) == [first, third]
    assert world.registry.refusals_absorbed == {1040: 1}
    world.registry.login_done(None)
    world.wait(0.06)
    assert world.slots[-1] is first


def test_a_login_that_finds_its_account_full_teaches_the_accounts_limit_and_is_over():
    world = World(8)
    pool = world.pool("tenant")
    world.leased(pool, 3)
    login, other = world.login(), world.login()
    world.registry.login_refused(pool, Failure(FailureKind.REFUSED_ACCOUNT, 1226))
    assert world.registry.refusals_absorbed == {1226: 1}
    assert pool.account.throttle.effective == 3
    assert world.registry.budget.effective == 8
    assert world.slots == [login, other] and not world.registry.logins.line
    world.registry.login_done(None)
    assert world.registry.logins.held == 0 and world.registry.budget.in_use == 3


def test_a_login_to_a_server_that_is_down_is_held_then_fails():
    world = World(8, queue_timeout_down=5.0)
    login = world.login()
    assert world.registry.login_failed(login, Failure(FailureKind.DOWN, 2003))
    world.wait(0.06)
    assert world.slots == [login, login]
    assert world.registry.login_failed(login, Failure(FailureKind.DOWN, 2003))
    world.now += 5.0
    world.wait(0.0)
    assert world.failures(login) == [FailureKind.DOWN]


def test_wrong_credentials_end_the_login():
    world = World(8)
    login = world.login()
    assert not world.registry.login_failed(login, Failure(FailureKind.ACCOUNT_ERROR, 1045))
    assert world.registry.budget.in_use == 0
