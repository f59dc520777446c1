"""Time limits that servers have for their clients: kept here where the server cannot see the client any more."""

from __future__ import annotations

import pytest

from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import build_err, build_ok, lenenc_int, parse_err
from tests.relay.world import (
    IN_TRANS,
    QUIT,
    RESET,
    App,
    Server,
    World,
    build_column,
    frames,
    query,
    text_row,
    trackers,
    variable,
)

HALF_A_RESULT = frames([lenenc_int(1), build_column(b"a", 0xFD, 20), text_row((b"x" * 200,))])
LARGE = frame(query(b"INSERT INTO t VALUES ('" + b"x" * 3000 + b"')"))


def ticking(world: World) -> World:
    """What is done once a second is done from now on; the server is not asked about itself again."""
    world.relay._learned_at = float("inf")
    world.relay._retire()
    return world


def in_transaction(world: World, app: App) -> Server:
    app.query(b"BEGIN")
    server = world.server
    server.take()
    server.ok(status=IN_TRANS)
    app.take()
    return server


def with_variable(world: World, name: bytes, value: bytes) -> tuple[App, Server]:
    """A client that has set one, and the idle backend it did it on."""
    app = world.app()
    app.query(b"SET SESSION %s = %s" % (name, value))
    server = world.server
    server.take()
    server.ok(trackers=trackers(variable(name, value)))
    app.take()
    assert server.slot == "idle"
    return app, server


# wait_timeout


def test_a_backend_is_closed_well_before_the_server_would_do_it(make_world):
    world = ticking(make_world(pool__idle_timeout="1h"))
    server = world.settled(world.app())
    server.backend.wait_timeout = 30.0
    world.advance(23)
    assert server.slot == "idle"
    world.advance(2)
    assert server.take() == [QUIT]
    server.die()
    assert world.relay.stats.backend_closes["wait_timeout"] == 1


def test_a_wait_timeout_that_was_lowered_since_holds_for_backends_that_were_opened_before(make_world):
    world = ticking(make_world(pool__idle_timeout="1h"))
    server = world.settled(world.app())
    world.relay.profile.timeouts[b"wait_timeout"] = 5.0
    world.advance(4)
    assert server.take() == [QUIT]
    server.die()


def test_a_wait_timeout_that_a_client_has_set_holds_for_the_backend_it_was_set_on(make_world):
    world = ticking(make_world(pool__idle_timeout="1h"))
    app, server = with_variable(world, b"wait_timeout", b"3")
    world.advance(2.1)
    assert server.take() == [QUIT]
    assert not app.closed
    server.die()


def test_who_holds_a_connection_keeps_it_for_as_long_as_the_server_lets_him(make_world):
    world = ticking(make_world())
    app = world.app()
    server = in_transaction(world, app)
    server.backend.wait_timeout = 3.0
    world.advance(100)
    assert server.slot == "leased"
    assert not app.closed
    # MySQL says why, MariaDB does not.
    words = b"The client was disconnected by the server because of inactivity."
    server.send(frame(build_err(4031, b"HY000", words), 0))
    (told,) = app.take()
    assert parse_err(told).code == 4031
    assert server.slot == "closing"
    server.die()
    assert app.closed
    assert world.relay.stats.errors[(4031, "server")] == 1


def test_last_words_that_meet_a_statement_are_not_its_answer(world: World):
    app = world.app()
    server = world.settled(app)
    app.query(b"INSERT INTO t VALUES (1)")
    assert server.take() == [query(b"INSERT INTO t VALUES (1)")]
    server.send(frame(build_err(4031, b"HY000", b"inactivity"), 0))
    assert server.transport.aborted
    server.die()
    assert app.error().code == c.CR_SERVER_LOST
    assert not app.closed
    assert len(world.servers) == 1, "it is not sent again"


def test_a_client_in_the_middle_of_a_large_command_does_not_get_last_words_as_its_answer(make_world):
    world = make_world(cap=1, session__request_buffer="1KiB")
    app = world.app()
    app.raw(LARGE[:2000])
    world.spin()
    first = world.server
    assert first.slot == "leased"
    first.send(frame(build_err(4031, b"HY000", b"inactivity"), 0))
    first.die()
    assert app.take() == []
    app.raw(LARGE[2000:])
    world.spin()
    assert world.server is not first
    assert world.server.take() == [LARGE[4:]]


# net_read_timeout


def test_a_large_command_that_does_not_go_on_gives_its_lease_back(make_world):
    world = ticking(make_world(cap=1, session__request_buffer="1KiB"))
    app = world.app()
    app.raw(LARGE[:1500])
    world.spin()
    world.advance(20)
    app.raw(LARGE[1500:2000])
    world.advance(29)
    assert not app.closed, "it goes on"
    server = world.server
    assert server.slot == "leased"
    world.advance(3)
    assert app.error().code == c.ER_NET_READ_INTERRUPTED
    assert app.closed
    assert server.take() == [RESET, world.relay.profile.track_command]
    server.ok(2)
    assert server.slot == "idle"


def test_a_large_command_may_take_as_long_as_the_client_has_asked_for(make_world):
    world = ticking(make_world(cap=1, session__request_buffer="1KiB", pool__idle_timeout="1h"))
    app, _ = with_variable(world, b"net_read_timeout", b"600")
    app.raw(LARGE[:1500])
    world.spin()
    world.advance(590)
    assert not app.closed
    world.advance(15)
    assert app.closed


def test_a_large_command_that_waits_for_a_connection_is_not_slow(make_world):
    world = ticking(make_world(cap=1, session__request_buffer="1KiB", queue__timeout="100s"))
    holder = world.app()
    server = in_transaction(world, holder)
    app = world.app()
    app.raw(LARGE[:2000])
    world.advance(60)
    assert not app.closed
    holder.query(b"COMMIT")
    server.take()
    server.ok()
    assert app.client.backend is not None
    world.advance(25)
    assert not app.closed


# net_write_timeout


def stuck_in_a_result(world: World, app: App) -> Server:
    """The read-ahead is full, and the rest of the result waits at the server."""
    app.query(b"SELECT a FROM t")
    server = next(server for server in world.servers if server.backend is app.client.backend)
    server.take()
    server.send(HALF_A_RESULT)
    app.transport.buffered = 100_000
    app.client.pause_writing()
    assert not server.transport.reading
    return server


def test_a_client_that_takes_nothing_of_its_result_is_cut_off_when_the_server_has_given_up(make_world):
    world = ticking(make_world(session__read_ahead="1KiB"))
    app = world.app()
    server = stuck_in_a_result(world, app)
    for left in (90_000, 80_000, 70_000):
        world.advance(50)
        app.transport.buffered = left
    world.advance(59)
    assert not app.transport.aborted, "it takes its time"
    world.advance(3)
    assert app.transport.aborted
    assert world.relay.stats.client_disconnects["net_write_timeout"] == 1
    app.transport.lose()
    assert world.relay.stats.read_ahead_bytes == 0
    assert server.transport.reading
    server.die()
    assert server.slot == "free"
    assert not len(world.relay.unread)


def test_a_client_may_ask_for_more_time(make_world):
    world = ticking(make_world(session__read_ahead="1KiB", pool__idle_timeout="1h"))
    app, _ = with_variable(world, b"net_write_timeout", b"86400")
    stuck_in_a_result(world, app)
    world.advance(3600)
    assert not app.closed


def test_a_client_whose_backend_is_free_may_read_whenever_it_likes(make_world):
    world = ticking(make_world(session__read_ahead="1KiB", pool__idle_timeout="1h"))
    app = world.app()
    server = stuck_in_a_result(world, app)
    app.transport.buffered = 0
    app.client.resume_writing()
    server.send(frame(build_ok(header=0xFE), 4))
    app.transport.buffered = 90_000
    app.client.pause_writing()
    assert server.slot == "idle"
    world.advance(3600)
    assert not app.closed
    assert not len(world.relay.unread)


@pytest.mark.parametrize("taken", [True, False])
def test_a_client_that_was_closed_has_time_to_read_but_not_for_ever(make_world, taken: bool):
    world = ticking(make_world())
    app = world.app()
    server = in_transaction(world, app)
    app.transport.buffered = 5000
    server.die()
    assert app.closed
    world.advance(50)
    if taken:
        app.transport.buffered = 4000
    world.advance(20)
    assert app.transport.aborted is not taken
    world.advance(50)
    assert app.transport.aborted
    app.transport.lose()
    assert not len(world.relay.unread)


def test_a_client_that_has_closed_is_not_waited_for(world: World):
    app = world.app()
    server = in_transaction(world, app)
    app.transport.buffered = 5000
    assert not app.client.eof_received()
    assert app.transport.aborted
    assert world.relay.stats.client_disconnects["client_gone"] == 1
    assert server.take() == [RESET, world.relay.profile.track_command]
    server.ok(2)
    app.transport.lose()
    assert not len(world.relay.unread)


# Files


def test_a_server_that_takes_in_a_file_may_be_busy_for_long_and_is_watched_again_afterwards(make_world):
    world = ticking(make_world())
    app = world.app(key=c.CLIENT_LOCAL_FILES)
    app.query(b"LOAD DATA LOCAL INFILE 'x' INTO TABLE t")
    server = world.server
    server.take()
    server.send(frame(b"\xfbx", 1))
    app.take()
    assert server.backend.patient
    world.advance(2)
    app.raw(b"\x04\0\0\x02row\n\0\0\0\x03")
    world.spin()
    world.advance(2)
    assert server.backend.patient, "it may not have read it yet"
    server.transport.take()
    server.send(frame(build_ok(affected_rows=1), 4))
    assert app.ok()
    world.advance(2)
    assert not server.backend.patient
    assert server.slot == "idle"


def test_a_server_that_closes_is_not_waited_for(world: World):
    server = world.settled(world.app())
    assert not server.backend.eof_received()
    assert server.transport.aborted
    server.die()
    assert server.slot == "free"
