"""Leases that last too long: idle transactions are ended, and a queue in which nothing moves says why."""

from __future__ import annotations

import re

import pytest

from proxy.pool.queue import LoginWaiter
from proxy.session import pins
from tests.relay.world import IN_TRANS, RESET, App, Server, World

API = "`api` pid 4242"


def who(app: App, address: str = "10.0.0.5:40000", program: str = API) -> App:
    app.client.address, app.client.program = address, program
    return app


def in_transaction(world: World) -> tuple[App, Server]:
    app = who(world.app())
    app.query(b"BEGIN")
    server = next(server for server in world.servers if server.backend is app.client.backend)
    server.take()
    server.ok(status=IN_TRANS)
    app.take()
    return app, server


def lines(world: World, event: str) -> list[dict[str, object]]:
    return [values for name, values in world.log if name == event]


def stalls(world: World) -> list[object]:
    return [values["why"] for values in lines(world, "nobody gets a connection")]


# --- idle transactions ---


def test_a_transaction_that_is_idle_for_too_long_is_ended_without_a_word(make_world):
    world = make_world(session__idle_transaction_timeout="5s")
    app, server = in_transaction(world)
    world.relay._retire()
    world.advance(4)
    app.query(b"SELECT 1")
    server.take()
    world.advance(20)
    assert not app.closed, "it runs"
    server.rows(b"1", status=IN_TRANS)
    app.take()
    world.advance(4)
    assert not app.closed
    world.advance(3)
    assert app.closed
    assert app.take() == []
    assert server.take() == [RESET, world.relay.profile.track_command]
    server.ok(2)
    assert server.slot == "idle"
    assert world.relay.stats.client_disconnects == {"idle_transaction_timeout": 1}
    (line,) = lines(world, "idle transaction ended")
    assert 5 < line.pop("seconds") <= 7  # type: ignore[operator]
    assert line == {"client": "10.0.0.5:40000", "user": "app", "program": API}


def test_the_connection_of_an_ended_transaction_goes_to_the_next_in_the_line(make_world):
    world = make_world(cap=1, session__idle_transaction_timeout="2s")
    _, server = in_transaction(world)
    waiting = world.app()
    waiting.query(b"SELECT 5")
    world.relay._retire()
    world.advance(4)
    assert server.take() == [RESET, world.relay.profile.track_command]
    server.ok(2)
    world.spin()
    if server.backend.batch is not None:  # into the next one's settings
        server.ok(len(server.take()))
    assert server.take() == [b"\x03SELECT 5"]
    server.rows(b"5")
    assert waiting.rows() == [[b"5"]]


def test_a_session_that_is_pinned_outside_a_transaction_may_stay(make_world):
    world = make_world(session__idle_transaction_timeout="5s")
    app = world.app()
    app.query(b"SELECT GET_LOCK('a', 0)")
    world.server.take()
    world.server.rows(b"1")
    app.take()
    assert app.client.pins == pins.NAMED_LOCK
    world.relay._retire()
    world.advance(30)
    assert not app.closed


def test_without_a_limit_a_transaction_may_be_idle_for_ever(world: World):
    app, _ = in_transaction(world)
    world.relay._retire()
    world.advance(3600)
    assert not app.closed


# --- a queue in which nothing moves ---


def pinned(world: World) -> App:
    app = who(world.app(), program="")
    app.query(b"CREATE TEMPORARY TABLE t (i INT)")
    world.server.take()
    world.server.ok()
    app.take()
    return app


def running(world: World) -> App:
    app = who(world.app(), "10.0.0.6:50000", "`report` pid 7")
    app.query(b"SELECT SLEEP(1000)")
    world.server.take()
    return app


def test_a_stalled_queue_says_why_in_numbers_and_names(make_world):
    world = make_world(cap=4, queue__timeout="1h")
    world.relay._retire()
    in_transaction(world)
    world.advance(30)
    in_transaction(world)
    pinned(world)
    running(world)
    who(world.app()).query(b"SELECT 1")
    world.advance(4)
    assert not stalls(world)
    world.advance(3)
    (line,) = lines(world, "nobody gets a connection")
    assert re.fullmatch(
        r"4 leased: 2 idle in transaction, 1 pinned \(temporary table\), 1 running; "
        r"oldest 3[67] s by 10\.0\.0\.5 `api` pid 4242; nested transactions\?",
        str(line["why"]),
    ), line
    assert (line["waiting"], line["cap"], line["allowed"]) == (1, 4, 4)
    assert 5 <= line["seconds"] <= 7  # type: ignore[operator]


def test_a_stalled_queue_says_so_once_a_minute(make_world):
    world = make_world(cap=1, queue__timeout="1h")
    world.relay._retire()
    in_transaction(world)
    world.app().query(b"SELECT 1")
    world.advance(59)
    assert len(stalls(world)) == 1
    world.advance(120)
    assert len(stalls(world)) == 3


def test_a_queue_that_moves_says_nothing(make_world):
    world = make_world(cap=1, queue__timeout="1h")
    world.relay._retire()
    holder = world.app()
    holder.query(b"SELECT 1")
    server = world.server
    apps = [world.app() for _ in range(10)]
    for app in apps:
        app.query(b"SELECT 1")
    for _ in apps:
        world.advance(4)
        server.take()
        server.rows(b"1")
    assert not stalls(world)
    world.advance(10)
    assert not stalls(world), "the last one runs, and nobody waits"


@pytest.mark.parametrize(
    ("address", "program", "nested"),
    [
        ("10.0.0.5:40001", API, True),
        ("10.0.0.6:40001", API, False),
        ("10.0.0.5:40001", "`api` pid 4243", False),
        ("10.0.0.5:40001", "`worker` pid 4242", False),
        ("10.0.0.5:40001", "", False),
    ],
)
def test_only_a_process_that_waits_for_itself_is_asked_about_nested_transactions(make_world, address, program, nested):
    world = make_world(cap=1, queue__timeout="1h")
    world.relay._retire()
    in_transaction(world)
    who(world.app(), address, program).query(b"SELECT 1")
    world.advance(8)
    (why,) = stalls(world)
    assert str(why).endswith("; nested transactions?") is nested


def test_a_process_that_does_not_say_who_it_is_is_not_suspected(make_world):
    world = make_world(cap=1, queue__timeout="1h")
    world.relay._retire()
    holder, _ = in_transaction(world)
    who(holder, program="`pid 4242`")
    who(world.app(), program="`pid 4242`").query(b"SELECT 1")
    world.advance(8)
    (why,) = stalls(world)
    assert "nested" not in str(why)


def test_who_has_left_and_what_is_on_its_way_are_told_too(make_world):
    world = make_world(cap=2, queue__timeout="1h")
    world.relay._retire()
    running(world).leave()
    world.hold_openings = True
    world.app().query(b"SELECT 1")
    world.app().query(b"SELECT 1")
    world.advance(8)
    (why,) = stalls(world)
    assert re.fullmatch(
        "1 leased: 0 idle in transaction, 0 pinned, 0 running, 1 finishing for nobody, 1 opening; "
        "oldest [67] s by a client that has left",
        str(why),
    ), why
    world.opening.pop().set_result(None)


def test_an_account_that_has_all_it_may_have_is_named(make_world):
    world = make_world(cap=4, queue__timeout="1h")
    world.relay._retire()
    in_transaction(world)
    account = world.apps[0].client.pool.account
    world.relay.registry.set_limits(account, 1.0, 1)
    world.app().query(b"SELECT 1")
    world.advance(8)
    (why,) = stalls(world)
    assert "; account app has all of its 1; oldest" in str(why)


def test_logins_that_get_no_slot_are_waiters_too(make_world):
    world = make_world(cap=1, listen__login_timeout="1h")
    world.relay._retire()
    in_transaction(world)
    world.relay.registry.login_slot(LoginWaiter(lambda: None, lambda failure: None))
    world.advance(8)
    (line,) = lines(world, "nobody gets a connection")
    assert line["waiting"] == 1


def test_a_server_that_is_down_is_not_a_stall(make_world):
    world = make_world(queue__timeout="1h", queue__timeout_down="1h")
    world.relay._retire()
    world.refusal = OSError("connection refused")
    world.app().query(b"SELECT 1")
    world.advance(30)
    assert not stalls(world)
    assert lines(world, "server cannot be reached")


# --- is it the server? ---


def silent(world: World) -> App:
    """One client runs, another waits; returned is the one that waits."""
    world.relay._retire()
    running(world)
    waiting = who(world.app())
    waiting.query(b"SELECT 1")
    return waiting


def test_a_server_that_does_not_answer_is_named_in_the_log_and_to_who_waited(make_world):
    world = make_world(cap=1, queue__timeout="9s")
    waiting = silent(world)
    world.hold_controls = True
    world.advance(8)
    (why,) = stalls(world)
    assert re.search(r"; the server has not answered for [345]\.\d s$", str(why)), why
    world.advance(2)
    error = waiting.error()
    assert error.code == 1040
    assert re.search(
        rb"1 running; 0 waiting; the server has not answered for [5-8]\.\d s; queue.timeout", error.message
    )


def test_a_server_that_answers_is_not_suspected_and_not_asked_often(make_world):
    world = make_world(cap=1, queue__timeout="1h")
    silent(world)
    world.advance(30)
    (why,) = stalls(world)
    assert "answered" not in str(why)
    assert 1 <= len(world.controls) <= 6


def test_where_clients_hold_everything_the_server_is_not_asked(make_world):
    world = make_world(cap=2, queue__timeout="1h")
    in_transaction(world)
    silent(world)
    world.advance(30)
    assert stalls(world) and not world.controls
