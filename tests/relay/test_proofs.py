"""Proofs: how a password becomes known, who shares one, and what becomes of those that nobody waits for."""

from __future__ import annotations

import asyncio

import pytest

from proxy.relay.proofs import WaitOver
from proxy.wire import constants as c
from proxy.wire.auth import Secret
from proxy.wire.framing import frame
from proxy.wire.packets import Err
from tests.relay.world import Refused, World

DENIED = Refused(Err(1045, b"28000", b"Access denied"))
FULL = Refused(Err(1226, b"42000", b"User 't' has exceeded the 'max_user_connections' resource (current value: 3)"))


def prove(world: World, user: bytes = b"tenant", password: bytes = b"secret") -> asyncio.Task[None]:
    task = world.loop.create_task(world.relay.accounts.proofs.prove(user, Secret.of(password), 0))
    world.spin()
    return task


def leave(world: World, task: asyncio.Task[None]) -> None:
    """The client that waits for this proof has gone."""
    task.cancel()
    world.spin()
    assert task.cancelled()


def answer(world: World, refusal: Exception | None = None) -> None:
    """The server answers the oldest login."""
    world.refusal = refusal
    world.opening.pop(0).set_result(None)
    world.spin()


@pytest.fixture
def world(make_world):
    world = make_world(cap=8)
    world.hold_openings = True
    return world


def held(world: World) -> int:
    return world.relay.registry.logins.held


def test_a_proven_password_is_known_and_its_connection_stays(world: World):
    task = prove(world)
    assert held(world) == 1
    answer(world)
    assert task.result() is None
    assert world.relay.accounts.credentials.is_proven(b"tenant", Secret.of(b"secret"))
    assert not world.relay.accounts.credentials.is_proven(b"tenant", Secret.of(b"other"))
    assert world.server.slot == "idle" and held(world) == 0


def test_clients_with_the_same_password_share_one_proof(world: World):
    tasks = [prove(world) for _ in range(20)]
    assert len(world.opening) == 1
    answer(world)
    assert [task.result() for task in tasks] == [None] * 20


def test_different_passwords_of_one_account_are_proven_one_after_the_other_in_the_order_they_came(world: World):
    wrong = [prove(world, password=b"wrong%d" % n) for n in range(3)]
    right = prove(world)
    for task in wrong:
        assert len(world.opening) == 1 and not task.done()
        answer(world, DENIED)
        assert task.exception() is DENIED
    answer(world)
    assert right.result() is None
    assert world.relay.accounts.credentials.is_proven(b"tenant", Secret.of(b"secret"))


def test_who_guesses_does_not_stop_those_whose_password_was_right_before(world: World):
    known = prove(world)
    answer(world)
    assert known.done()
    world.relay.accounts.passwords_may_have_changed()
    wrong = [prove(world, password=b"wrong%d" % n) for n in range(50)]
    right = prove(world)
    assert len(world.opening) == 2
    world.opening.pop(1).set_result(None)
    world.spin()
    assert right.result() is None
    for task in wrong:
        answer(world, DENIED)
        assert task.exception() is DENIED


def test_on_a_full_pool_it_is_enough_to_have_waited_once(make_world):
    world = make_world(cap=4)
    apps = [world.app() for _ in range(8)]
    for app in apps:
        app.query(b"SELECT 1")
    world.refused_users[b"tenant"] = DENIED
    wrong = [prove(world, password=b"wrong%d" % n) for n in range(20)]
    start = world.loop.now
    while not all(task.done() for task in wrong) and world.loop.now < start + 30:
        world.advance(0.01)
        for server in world.servers:
            if server.closed and not server.transport.lost:
                server.die()
            elif server.backend.running:
                app = server.backend.client
                server.rows(b"1")
                next(each for each in apps if each.client is app).query(b"SELECT 1")
    assert [task.exception() for task in wrong] == [DENIED] * 20
    assert world.loop.now - start < 3.0


def test_accounts_do_not_wait_for_each_other(world: World):
    prove(world, b"one")
    prove(world, b"two")
    assert len(world.opening) == 2
    answer(world)
    answer(world)


def test_a_wrong_password_is_the_servers_answer_and_nothing_stays(world: World):
    task = prove(world)
    answer(world, DENIED)
    assert task.exception() is DENIED
    assert not world.relay.accounts.credentials.is_proven(b"tenant", Secret.of(b"secret"))
    assert world.relay.registry.budget.in_use == 0


def test_a_user_that_does_not_exist_is_no_account_of_ours(world: World):
    tasks = [prove(world, b"nobody%d" % n) for n in range(5)]
    assert not world.relay.registry.accounts
    while world.opening:
        answer(world, DENIED)
    assert [task.exception() for task in tasks] == [DENIED] * 5
    assert not world.relay.registry.accounts


def test_a_proof_that_nobody_waits_for_gives_up_its_place_in_the_line(world: World):
    first = [prove(world, b"user%d" % n) for n in range(2)]
    tasks = [prove(world, b"late%d" % n) for n in range(5)]
    for task in tasks[:-1]:
        leave(world, task)
    assert len(world.relay.registry.logins.line) == 1
    answer(world)
    answer(world)
    answer(world)
    assert [task.done() for task in [*first, tasks[-1]]] == [True] * 3
    assert len(world.servers) == 3, "nobody else was logged in"


def test_one_that_waits_for_its_turn_gives_it_up_too(world: World):
    first, second = prove(world, password=b"one"), prove(world, password=b"two")
    third = prove(world)
    leave(world, second)
    answer(world, DENIED)
    assert first.exception() is DENIED
    answer(world)
    assert third.result() is None


def test_a_proof_is_given_up_by_the_last_one_that_waits_only(world: World):
    blocking = [prove(world, b"user%d" % n) for n in range(2)]
    one, two = prove(world), prove(world)
    leave(world, one)
    assert len(world.relay.registry.logins.line) == 1
    for _ in blocking:
        answer(world)
    answer(world)
    assert two.result() is None


def test_who_comes_right_after_the_last_one_left_gets_a_proof_of_his_own(world: World):
    for n in range(2):
        prove(world, b"user%d" % n)
    gone = prove(world)
    gone.cancel()
    come = world.loop.create_task(world.relay.accounts.proofs.prove(b"tenant", Secret.of(b"secret"), 0))
    world.spin()
    assert gone.cancelled() and not come.done()
    for _ in range(3):
        answer(world)
    assert come.result() is None


def test_a_login_that_was_begun_is_finished_and_its_connection_kept(world: World):
    task = prove(world)
    leave(world, task)
    assert len(world.opening) == 1 and held(world) == 1
    joined = prove(world)
    assert len(world.opening) == 1
    answer(world)
    assert joined.result() is None
    assert world.server.slot == "idle"


def test_a_login_that_nobody_waits_for_is_not_tried_again(world: World):
    leave(world, prove(world))
    answer(world, OSError("connection reset"))
    world.refusal = None
    world.advance(5)
    assert not world.opening and held(world) == 0
    assert not world.relay.registry.logins.line


def test_a_full_server_is_tried_again_until_it_has_room(world: World):
    task = prove(world)
    for _ in range(3):
        answer(world, Refused(Err(1040, b"", b"Too many connections")))
        world.advance(1.1)
    answer(world)
    assert task.result() is None
    assert world.relay.registry.refusals_absorbed == {1040: 3}


def test_a_full_account_proves_the_password_as_well(world: World):
    task = prove(world)
    answer(world, FULL)
    assert task.result() is None
    assert world.relay.accounts.credentials.is_proven(b"tenant", Secret.of(b"secret"))
    assert world.relay.registry.refusals_absorbed == {1226: 1}
    assert world.relay.registry.accounts["tenant"].throttle.effective == 1
    assert world.relay.registry.budget.effective == 8
    assert world.relay.registry.budget.in_use == 0


def test_a_full_account_is_tried_again_while_nothing_is_known_of_the_server(make_world):
    world = make_world(cap=8, learned=False)
    world.hold_openings = True
    task = prove(world)
    answer(world, FULL)
    assert not task.done()
    world.advance(1)
    answer(world)
    assert task.result() is None
    assert world.relay.registry.refusals_absorbed == {1226: 1}


def test_an_hourly_quota_is_the_accounts_own_affair(world: World):
    quota = Refused(Err(1226, b"42000", b"User 't' has exceeded the 'max_connections_per_hour' resource"))
    task = prove(world)
    answer(world, quota)
    assert task.exception() is quota


def test_a_client_that_leaves_while_its_password_waits_to_be_proven_leaves_nothing(make_world):
    world = make_world(cap=1)
    holder = world.app()
    holder.query(b"SELECT SLEEP(100)")
    app = world.app()
    app.client.address = "unix:/run/mybouncer.sock"  # where passwords come in the clear
    app.send(bytes((c.COM_CHANGE_USER,)) + b"tenant\0\0\0" + b"\x2d\0" + c.CACHING_SHA2_PASSWORD + b"\0")
    world.spin()
    assert app.take()[0][:1] == b"\xfe"
    app.raw(frame(b"s" * 32, 2))
    world.spin()
    assert app.take() == [b"\x01\x04"]
    app.raw(frame(b"secret\0", 4))
    world.spin()
    assert len(world.relay.registry.logins.line) == 1
    app.leave()
    assert not world.relay.registry.logins.line
    assert world.relay.stats.login_failures == {"client_gone": 1}


def test_a_proof_that_gets_no_slot_ends_at_the_login_timeout(make_world):
    world = make_world(cap=1, listen__login_timeout="3s")
    holder = world.app()
    holder.query(b"BEGIN")
    world.hold_openings = True
    task = prove(world)
    world.advance(3.1)
    over = task.exception()
    assert isinstance(over, WaitOver)
    code, state, text = world.relay.describe_failure(over.failure, over.since)
    assert (code, state) == (1040, b"08004")
    assert text == (
        "Too many connections: waited 3.1 s for a connection to 127.0.0.1:3306 "
        "(cap 1: 0 idle in transaction, 0 pinned, 1 running; 0 waiting; listen.login_timeout)"
    )
