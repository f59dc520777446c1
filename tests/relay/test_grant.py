"""From the grant to the first byte of the statement: what is written to a backend, and what comes before it."""

from __future__ import annotations

import pytest

from proxy.wire import constants as c
from proxy.wire.framing import frame
from tests.relay.world import (
    INSERT_ID,
    QUIT,
    RESET,
    SHOW_WARNINGS,
    World,
    init_db,
    query,
    schema,
    trackers,
    variable,
)


def test_in_the_same_settings_the_clients_bytes_are_written_at_once_and_nothing_else(world: World):
    app = world.app()
    server = world.settled(app)
    app.send(query(b"SELECT 2"))
    assert server.transport.writes == [frame(query(b"SELECT 2"))]
    server.take()
    server.rows(b"2")
    assert app.rows() == [[b"2"]]
    assert server.slot == "idle"


def test_in_other_settings_the_restore_comes_first_and_the_statement_only_after_its_oks(world: World):
    app = world.app(schema=b"shop", autocommit=False)
    app.query(b"SELECT 1")
    server = world.server
    assert server.writes() == 1
    assert server.take() == [query(b"SET SESSION autocommit=0"), init_db(b"shop")]
    server.ok()
    assert server.take() == []
    server.ok()
    assert server.take() == [query(b"SELECT 1")]
    assert not server.backend.bare


def test_who_comes_after_a_restore_in_the_same_settings_needs_none(world: World):
    first = world.app(schema=b"shop")
    server = world.settled(first)
    second = world.app(schema=b"shop")
    second.query(b"SELECT 2")
    assert len(world.servers) == 1
    assert server.take() == [query(b"SELECT 2")]
    server.rows(b"2")


def test_a_restore_that_fails_is_the_clients_error_and_the_backend_is_never_used_again(world: World):
    app = world.app(schema=b"gone", autocommit=False)
    app.query(b"SELECT 1")
    server = world.server
    server.take()
    server.ok()
    server.err(1049, b"Unknown database 'gone'")
    assert app.error().code == 1049
    assert not app.closed
    assert server.take() == [QUIT]
    assert server.slot == "closing"
    other = world.settled(world.app())
    assert other is not server
    server.die()
    assert server.slot == "free"


def test_a_variable_that_must_be_dropped_becomes_the_global_one(world: World):
    tuned = world.app()
    server = world.settled(tuned)
    tuned.query(b"SET SESSION sort_buffer_size = 65536")
    server.take()
    server.ok(trackers=trackers(variable(b"sort_buffer_size", b"65536")))
    plain = world.app()
    plain.query(b"SELECT 1")
    assert server.take() == [query(b"SET SESSION sort_buffer_size=DEFAULT")]
    server.ok()
    assert server.take() == [query(b"SELECT 1")]


def test_a_variable_that_can_make_a_set_fail_takes_a_reset_in_the_same_write(world: World):
    tuned = world.app()
    server = world.settled(tuned)
    tuned.query(b"SET SESSION max_statement_time = 0.01")
    server.take()
    server.ok(trackers=trackers(variable(b"max_statement_time", b"0.01")))
    tuned.take()
    plain = world.app()
    plain.query(b"SELECT 1")
    assert server.writes() == 1
    sent = server.take()
    assert sent[0] == RESET
    assert sent[1] == world.relay.profile.track_command
    assert sent[2].startswith(b"\x03SET NAMES 'utf8mb4' COLLATE ")
    server.ok(len(sent) - 1)
    server.eof()
    assert server.take() == [query(b"SELECT 1")]
    server.rows(b"1")
    tuned.query(b"SELECT 2")
    assert server.take() == [query(b"SET SESSION max_statement_time=0.01")]
    server.ok()
    assert server.take() == [query(b"SELECT 2")]
    server.rows(b"2")


def test_where_a_reset_does_not_restore_all_another_backend_is_opened_instead(world: World):
    world.relay.profile.reset_restores_all = False
    tuned = world.app()
    server = world.settled(tuned)
    tuned.query(b"SET SESSION sort_buffer_size = 65536")
    server.take()
    server.ok(trackers=trackers(variable(b"sort_buffer_size", b"65536")))
    plain = world.app()
    plain.query(b"SELECT 1")
    assert server.take() == [QUIT]
    assert world.server is not server
    assert world.server.take() == [query(b"SELECT 1")]
    world.server.rows(b"1")
    server.die()


def test_a_session_without_a_schema_gets_a_backend_that_never_had_one(world: World):
    server = world.settled(world.app(schema=b"shop"))
    bare = world.settled(world.app())
    assert bare is not server
    assert bare.backend.bare and not server.backend.bare


def test_a_schema_change_by_statement_is_followed(world: World):
    app = world.app(schema=b"shop")
    server = world.settled(app)
    app.query(b"USE other")
    server.take()
    server.ok(trackers=trackers(schema(b"other")))
    assert app.client.settings.schema == b"other"
    assert app.client.settings is server.backend.settings


def test_the_command_init_db_is_followed_too_and_the_client_gets_its_tracker(world: World):
    app = world.app(schema=b"shop")
    server = world.settled(app)
    app.take()
    app.send(init_db(b"other"))
    server.take()
    server.ok(trackers=trackers(schema(b"other")))
    assert app.take() == [b"\0\0\0\x02\x40\0\0\0" + bytes((8,)) + b"\x01\x06\x05other"]
    assert app.client.settings.schema == b"other"


def test_a_client_that_leaves_during_its_restore_leaves_a_backend_that_is_reset(world: World):
    app = world.app(schema=b"shop")
    app.query(b"SELECT 1")
    server = world.server
    assert server.take() == [init_db(b"shop")]
    app.leave()
    assert server.take() == []
    server.ok()
    assert server.take() == [RESET, world.relay.profile.track_command]
    assert server.slot == "resetting"
    server.ok(2)
    assert server.slot == "idle"


def test_a_reset_that_fails_closes_the_backend(world: World):
    app = world.app()
    server = world.settled(app, b"SELECT @a")
    app.query(b"SET @a = 0 + 1")
    server.take()
    server.ok()
    app.leave()
    assert server.take() == [RESET, world.relay.profile.track_command]
    server.ok()
    server.err()
    assert server.take() == [QUIT]
    assert server.slot == "closing"


def test_a_backend_that_dies_in_a_restore_is_replaced_and_the_statement_sent_once(world: World):
    app = world.app(schema=b"shop")
    app.query(b"SELECT 1")
    first = world.server
    first.take()
    first.die()
    second = world.server
    assert second is not first
    assert second.take() == [init_db(b"shop")]
    second.ok()
    assert second.take() == [query(b"SELECT 1")]
    second.rows(b"1")
    assert app.rows() == [[b"1"]]


def test_backends_that_go_on_dying_in_a_restore_end_in_2013_and_the_client_is_kept(world: World):
    app = world.app(schema=b"shop")
    app.query(b"SELECT 1")
    for _ in range(4):
        world.server.take()
        world.server.die()
    assert len(world.servers) == 4
    assert app.error().code == c.CR_SERVER_LOST
    assert not app.closed
    app.query(b"SELECT 1")
    assert len(world.servers) == 5


@pytest.mark.parametrize("mariadb", [False, True])
def test_what_was_asked_of_the_last_client_comes_before_the_restore(make_world, mariadb):
    world = make_world(cap=1, mariadb=mariadb)
    owner = world.app(schema=b"a")
    server = world.settled(owner)
    owner.query(b"SELECT LAST_INSERT_ID(7)")
    server.take()
    server.rows(b"7", warnings=1)
    other = world.app(schema=b"b")
    other.query(b"SELECT 1")
    assert server.writes() == 1
    sent = server.take()
    assert sent[:2] == [SHOW_WARNINGS, INSERT_ID]
    assert sent[-1] == init_db(b"b")
