"""Readiness: an answer within a second whatever the server does, and questions that leave no trace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.wire import constants as c
from proxy.wire.framing import frame
from tests.relay.world import IN_TRANS, App, Server, World, query

STATISTICS = bytes((c.COM_STATISTICS,))
ANSWER = frame(b"Uptime: 5  Threads: 2  Questions: 10", 1)


def asked(world: World) -> asyncio.Task[tuple[bool, str]]:
    """Somebody asks `/readyz`."""
    task = world.loop.create_task(world.relay.health.ready())
    world.spin()
    return task


def long_ago(world: World) -> tuple[App, Server]:
    """A client with an idle backend, and six seconds since the server has said anything."""
    app = world.app()
    app.query(b"UPDATE t SET a = 1")
    server = world.server
    server.take()
    server.ok(affected_rows=3)
    app.take()
    world.advance(6)
    return app, server


def test_what_was_seen_a_moment_ago_is_not_asked_again(world: World):
    app = world.app()
    server = world.settled(app)
    assert world.run(world.relay.health.ready()) == (True, "ok")
    assert server.take() == []


def test_an_idle_backend_is_asked_and_is_as_it_was_before(world: World):
    app, server = long_ago(world)
    idle_since = server.backend.idle_since
    answer = asked(world)
    assert server.take() == [STATISTICS]
    assert server.slot == "leased"
    server.send(ANSWER)
    assert answer.result() == (True, "ok")
    assert server.slot == "idle"
    assert server.backend.idle_since == idle_since
    app.query(b"SELECT ROW_COUNT()")
    assert server.take() == [query(b"SELECT ROW_COUNT()")], "what the last statement left is still there"
    server.rows(b"3")


def test_nobody_gets_the_backend_that_is_asked_before_it_has_answered(make_world: Callable[..., World]):
    world = make_world(cap=1)
    app, server = long_ago(world)
    asked(world)
    assert server.take() == [STATISTICS]
    app.query(b"SELECT 1")
    assert server.take() == []
    server.send(ANSWER)
    assert server.take() == [query(b"SELECT 1")]


def test_a_server_that_does_not_answer_is_not_ready_and_is_asked_once(world: World):
    _, server = long_ago(world)
    first = asked(world)
    world.advance(1.1)
    assert first.result() == (False, "the server has not answered for 1.0 s")
    world.advance(10)
    second, third = asked(world), asked(world)
    assert server.take() == [STATISTICS]
    server.send(ANSWER)
    assert second.result() == third.result() == (True, "ok")
    assert server.take() == []


def test_a_server_that_dies_of_the_question_is_not_ready(world: World):
    _, server = long_ago(world)
    answer = asked(world)
    server.take()
    server.die()
    ready, reason = answer.result()
    assert not ready
    assert reason.startswith("Can't connect to MySQL server on '127.0.0.1:3306'")


def test_while_all_backends_work_nobody_is_asked(make_world: Callable[..., World]):
    world = make_world(cap=1)
    app = world.app()
    app.query(b"BEGIN")
    server = world.server
    server.take()
    server.ok(status=IN_TRANS)
    world.advance(6)
    assert world.run(world.relay.health.ready()) == (True, "ok")
    assert server.take() == []


def test_a_host_that_has_vanished_makes_the_server_not_ready_until_it_answers(make_world: Callable[..., World]):
    world = make_world(cap=1)
    _, server = long_ago(world)

    async def probe() -> None:
        world.relay.health.failed(TimeoutError(110, "Connection timed out"))

    world.relay.health._probe = probe  # type: ignore[method-assign]
    server.transport.lose(TimeoutError(110, "Connection timed out"))
    world.spin()
    assert server.slot == "closing", "the server may still have it"
    ready, reason = world.run(world.relay.health.ready())
    assert not ready
    assert "Connection timed out" in reason
    assert world.relay.stats.backend_closes == {}
    world.control.take()
    world.control.rows(columns=3)
    world.control_ends()
    assert server.slot == "free"
    assert world.relay.stats.backend_closes == {"timed_out": 1}


def test_every_outage_is_told_once_and_so_is_its_end(world: World):
    health = world.relay.health
    for _ in range(2):
        world.log.clear()
        health.failed(ConnectionRefusedError("refused"))
        health.failed(ConnectionRefusedError("refused"))
        world.advance(3)
        health.answered()
        health.answered()
        told = [(event, values) for event, values in world.log if event.startswith("server")]
        assert [event for event, _ in told] == ["server cannot be reached"] * 2 + ["server answers again"]
        assert told[-1][1]["seconds"] == 3.0
