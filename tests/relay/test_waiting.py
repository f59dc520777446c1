"""What a client that waits too long is told, and how things end: drain, a server that is down."""

from __future__ import annotations

import asyncio

import pytest

from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import Err, lenenc_int, parse_err
from tests.relay.world import (
    IN_TRANS,
    QUIT,
    App,
    Refused,
    Server,
    World,
    build_column,
    frames,
    query,
    text_row,
)

PING = bytes((c.COM_PING,))


def in_transaction(world: World) -> tuple[App, Server]:
    app = world.app()
    app.query(b"BEGIN")
    server = world.server
    server.take()
    server.ok(status=IN_TRANS)
    app.take()
    return app, server


# The queue


def test_a_wait_that_is_too_long_says_why_and_the_connection_stays(make_world):
    world = make_world(cap=1, queue__timeout="2s")
    _, server = in_transaction(world)
    app = world.app()
    app.query(b"SELECT 1")
    world.advance(1.9)
    assert app.take() == []
    world.advance(0.2)
    error = app.error()
    assert (error.code, error.state) == (1040, b"08004")
    assert error.message == (
        b"Too many connections: waited 2.0 s for a connection to 127.0.0.1:3306 "
        b"(cap 1: 1 idle in transaction, 0 pinned, 0 running; 0 waiting; queue.timeout)"
    )
    assert not app.closed
    assert server.take() == []
    app.send(PING)
    assert app.take()[0][0] == 0


def test_the_reason_tells_what_holds_the_connections_and_how_many_wait(make_world):
    world = make_world(cap=10)
    for _ in range(7):
        in_transaction(world)
    for _ in range(2):
        world.app().query(b"SET @a = 0 + 1")
        world.server.take()
        world.server.ok()
    world.app().query(b"SELECT SLEEP(1000)")
    waiting = [world.app() for _ in range(138)]
    for app in waiting:
        app.query(b"SELECT 1")
    world.advance(30.1)
    assert waiting[0].error().message == (
        b"Too many connections: waited 30.0 s for a connection to 127.0.0.1:3306 "
        b"(cap 10: 7 idle in transaction, 2 pinned, 1 running; 137 waiting; queue.timeout)"
    )


def test_a_full_queue_says_so_at_once(make_world):
    world = make_world(cap=1, queue__max_waiting=1)
    in_transaction(world)
    waiting, app = world.app(), world.app()
    waiting.query(b"SELECT 1")
    app.send(query(b"SELECT 2"), query(b"SELECT 3"))
    one, two = (parse_err(payload) for payload in app.take())
    assert one.code == two.code == 1040
    assert b"the queue is full" in one.message and b"queue.max_waiting" in one.message
    assert not app.closed
    assert world.relay.registry.rejected == 2


def test_waiters_get_their_backend_in_the_order_they_came(make_world):
    world = make_world(cap=1)
    holder, server = in_transaction(world)
    apps = [world.app() for _ in range(5)]
    for number, app in enumerate(apps):
        app.query(b"SELECT %d" % number)
    holder.query(b"COMMIT")
    server.take()
    server.ok()
    for number, app in enumerate(apps):
        assert server.take() == [query(b"SELECT %d" % number)]
        server.rows(b"1")
        assert app.rows() == [[b"1"]]


def test_a_large_command_that_gets_no_backend_ends_its_connection_with_the_reason(make_world):
    world = make_world(cap=1, queue__timeout="1s", session__request_buffer="1KiB")
    in_transaction(world)
    app = world.app()
    app.raw(frame(query(b"x" * 5000))[:2000])
    world.advance(1.1)
    assert app.error().code == 1040
    assert app.closed


def test_a_server_that_is_down_is_2003_and_the_connection_stays(make_world):
    world = make_world(queue__timeout_down="1s")
    world.refusal = OSError("connection refused")
    app = world.app()
    app.query(b"SELECT 1")
    assert app.take() == []
    world.advance(3)
    error = app.error()
    assert (error.code, error.state) == (2003, b"HY000")
    assert b"127.0.0.1:3306" in error.message and b"connection refused" in error.message
    assert not app.closed
    world.refusal = None
    app.query(b"SELECT 2")
    world.advance(3)
    assert world.server.take() == [query(b"SELECT 2")]


def test_a_refusal_for_want_of_room_is_not_seen_by_the_client(make_world):
    world = make_world()
    world.refusal = Refused(Err(1040, b"", b"Too many connections"))
    app = world.app()
    app.query(b"SELECT 1")
    world.advance(1)
    assert app.take() == []
    world.refusal = None
    world.advance(2)
    assert world.server.take() == [query(b"SELECT 1")]
    assert world.relay.registry.refusals_absorbed[1040] >= 1


def test_a_refusal_of_the_account_is_the_clients_own(make_world):
    world = make_world()
    world.refusal = Refused(Err(3118, b"HY000", b"Account is locked."))
    app = world.app()
    app.query(b"SELECT 1")
    error = app.error()
    assert (error.code, error.message) == (3118, b"Account is locked.")
    assert not app.closed


# Drain


def drain(world: World, seconds: float = 10) -> asyncio.Task[None]:
    task = world.loop.create_task(world.relay.drain(seconds))
    world.spin()
    return task


def finished(world: World, task: asyncio.Task[None]) -> None:
    """All backends have been told goodbye; the drain ends with their connections."""
    world.spin()
    for server in world.servers:
        if not server.transport.lost:
            assert server.take() == [QUIT] or server.transport.aborted
            server.die()
    world.spin()
    assert task.done()


def test_idle_clients_are_closed_without_a_word_and_idle_backends_with_a_goodbye(world: World):
    app = world.app()
    world.settled(app)
    task = drain(world)
    assert app.closed and app.take() == []
    finished(world, task)


def test_what_runs_is_finished_and_then_closed(world: World):
    app = world.app()
    app.query(b"SELECT 1")
    server = world.server
    server.take()
    task = drain(world)
    assert not app.closed
    server.rows(b"1")
    assert app.rows() == [[b"1"]]
    assert app.closed
    finished(world, task)


def test_a_transaction_is_finished_and_what_was_sent_behind_it_is_refused(world: World):
    app, server = in_transaction(world)
    task = drain(world)
    app.query(b"UPDATE t SET a = 1")
    server.take()
    server.ok(status=IN_TRANS)
    app.take()
    app.send(query(b"COMMIT"), query(b"SELECT 1"))
    assert server.take() == [query(b"COMMIT")]
    server.ok()
    ok, error = app.take()
    assert ok[0] == 0 and parse_err(error).code == c.ER_SERVER_SHUTDOWN
    assert app.closed
    finished(world, task)


def test_waiters_are_refused_and_closed(make_world):
    world = make_world(cap=1)
    holder, server = in_transaction(world)
    app = world.app()
    app.query(b"SELECT 1")
    task = drain(world)
    assert app.error().code == c.ER_SERVER_SHUTDOWN
    assert app.closed
    holder.query(b"COMMIT")
    server.take()
    server.ok()
    finished(world, task)


@pytest.mark.parametrize("pipelined", [False, True])
def test_a_pinned_session_that_resets_itself_is_closed_then(world: World, pipelined: bool):
    app = world.app()
    app.query(b"SET @a = 0 + 1")
    server = world.server
    server.take()
    server.ok()
    app.take()
    task = drain(world)
    app.send(bytes((c.COM_RESET_CONNECTION,)), *([PING] if pipelined else []))
    server.take()
    server.ok(2)
    assert app.take()
    assert app.closed
    finished(world, task)


def test_past_the_deadline_transactions_are_refused_and_running_statements_cut(world: World):
    idle, first = in_transaction(world)
    app = world.app()
    app.query(b"SELECT a FROM t")
    second = world.server
    assert second is not first
    second.take()
    second.send(frames([lenenc_int(1), build_column(b"a", 0xFD, 20), text_row((b"1",))]))
    app.take()
    task = drain(world, 5)
    world.advance(5.5)
    assert idle.error().code == c.ER_SERVER_SHUTDOWN and idle.closed
    assert app.take() == [] and app.closed
    assert second.transport.aborted
    for server in (first, second):
        server.die()
    world.spin()
    assert task.done()
