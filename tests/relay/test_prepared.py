"""Prepared statements: ids of our own, prepared again where they are missing, the types they were bound to."""

from __future__ import annotations

import pytest

from proxy.relay import backend as backend_module
from proxy.session import pins
from proxy.wire import constants as c
from proxy.wire.packets import parse_err
from tests.relay.statements import (
    CURSOR_OPEN,
    LONG_TYPE,
    TEXT,
    VAR_STRING,
    WITH_CURSOR,
    bound,
    occupy,
    prepared,
)
from tests.relay.world import (
    IN_TRANS,
    App,
    Server,
    World,
    execute,
    init_db,
    on_statement,
    prepare,
    query,
    trackers,
    variable,
)


def test_clients_see_ids_of_ours_and_the_backend_its_own(world: World):
    app = world.app()
    app.send(prepare(TEXT))
    world.spin()
    server = world.server
    server.take()
    server.prepared(77, 1, 1)
    assert app.take()[0][1:5] == (1).to_bytes(4, "little")
    assert server.slot == "idle"
    app.send(execute(1, bound(b"12345678", LONG_TYPE)))
    assert server.take() == [execute(77, bound(b"12345678", LONG_TYPE))]
    server.rows(b"2")
    assert app.rows() == [[b"2"]]
    app.send(prepare(TEXT))
    server.take()
    server.prepared(78, 1, 1)
    assert app.take()[0][1:5] == (2).to_bytes(4, "little")


def test_a_client_of_the_old_dialect_gets_its_eofs(world: World):
    app = world.app(0)
    app.send(prepare(TEXT))
    world.spin()
    world.server.take()
    world.server.prepared(77, 1, 1)
    assert [payload[:1] for payload in app.take()] == [b"\0", b"\x03", b"\xfe", b"\x03", b"\xfe"]


def test_on_a_backend_that_does_not_have_it_a_statement_is_prepared_again(world: World):
    app = world.app()
    first = prepared(world, app)
    occupy(world, first)
    app.send(execute(1, bound(b"12345678", LONG_TYPE)))
    world.spin()
    second = world.server
    assert second is not first
    assert second.take() == [prepare(TEXT)]
    second.prepared(5, 1, 1)
    assert second.take() == [execute(5, bound(b"12345678", LONG_TYPE))]
    second.rows(b"2")
    assert app.rows() == [[b"2"]]
    assert world.relay.stats.reprepares == 1


def test_types_that_the_client_does_not_repeat_are_put_in_where_they_are_not_bound(world: World):
    app = world.app()
    server = prepared(world, app)
    app.send(execute(1, bound(b"12345678", LONG_TYPE)))
    server.take()
    server.rows(b"2")
    app.send(execute(1, bound(b"87654321")))
    assert server.take() == [execute(77, bound(b"87654321"))], "they are bound here"
    server.rows(b"2")
    server.backend.forget_statements()
    app.send(execute(1, bound(b"87654321")))
    assert server.take() == [prepare(TEXT)]
    server.prepared(79, 1, 1)
    assert server.take() == [execute(79, bound(b"87654321", LONG_TYPE))]


def test_types_of_an_execution_that_failed_are_sent_again(world: World):
    app = world.app()
    server = prepared(world, app)
    app.send(execute(1, bound(b"12345678", LONG_TYPE)))
    server.take()
    server.err()
    assert app.error()
    for _ in range(2):  # what is asked behind an error
        if server.backend.batch is not None:
            server.take()
            server.ok()
    app.send(execute(1, bound(b"87654321")))
    assert server.take()[-1] == execute(77, bound(b"87654321", LONG_TYPE))


@pytest.mark.parametrize("mariadb", [False, True])
def test_clients_with_the_same_statement_do_not_share_its_types(make_world, mariadb: bool):
    world = make_world(mariadb=mariadb)
    one, two = world.app(), world.app()
    server = prepared(world, one)
    one.send(execute(1, bound(b"12345678", LONG_TYPE)))
    server.take()
    server.rows(b"2")
    assert prepared(world, two, 78) is server
    server.take()
    two.send(execute(1, bound(b"\x01a", VAR_STRING)))
    assert server.take() == [execute(78, bound(b"\x01a", VAR_STRING))]
    server.rows(b"2")
    one.send(execute(1, bound(b"87654321")))
    (sent,) = server.take()
    # MySQL has a statement of its own for each, on MariaDB they take turns on one.
    types = LONG_TYPE if mariadb else b""
    assert sent[9:] == execute(0, bound(b"87654321", types) if types else bound(b"87654321"))[9:]


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\x01", b"\0\x01\x08"])
def test_an_execution_that_ends_inside_its_parameters_is_the_servers_to_judge(world: World, body: bytes):
    app = world.app()
    server = prepared(world, app)
    app.send(execute(1, body))
    assert server.take() == [execute(77, body)]
    server.err(1835, state=b"HY000")
    assert app.error().code == c.ER_MALFORMED_PACKET
    assert not app.closed


@pytest.mark.parametrize("mariadb", [False, True])
def test_a_command_that_is_too_short_is_answered_in_the_servers_words(make_world, mariadb: bool):
    world = make_world(mariadb=mariadb)
    app = world.app()
    prepared(world, app)
    app.send(execute(1)[:9], bytes((c.COM_PING,)))
    error, ok = app.take()
    assert parse_err(error).message == b"Malformed communication packet" + (b"" if mariadb else b".")
    assert ok[0] == 0
    app.send(bytes((c.COM_STMT_SEND_LONG_DATA, 1, 0, 0, 0, 0)), bytes((c.COM_STMT_CLOSE, 1)))
    assert len(app.take()) == (0 if mariadb else 2)
    assert not app.client.pins
    assert world.server.take() == []


def test_the_last_prepared_statement_has_a_number_of_its_own_on_mariadb(make_world):
    world = make_world(mariadb=True)
    app = world.app()
    app.send(prepare(TEXT), execute(0xFFFFFFFF, bound(b"12345678", LONG_TYPE)))
    world.spin()
    world.server.take()
    world.server.prepared(77, 1, 1)
    assert world.server.take() == [execute(77, bound(b"12345678", LONG_TYPE))]


def test_behind_a_prepare_that_fails_there_is_no_last_prepared_statement(make_world):
    world = make_world(mariadb=True)
    app = world.app()
    server = prepared(world, app)
    app.send(prepare(b"DELETE FRO t"), execute(0xFFFFFFFF, bound(b"12345678", LONG_TYPE)))
    assert server.take() == [prepare(b"DELETE FRO t")]
    server.err(1064)
    assert [parse_err(payload).code for payload in app.take()] == [1064, c.ER_UNKNOWN_STMT_HANDLER]
    assert server.take() == []


def test_unknown_ids_are_answered_as_the_server_does(world: World):
    app = world.app()
    app.send(execute(9), on_statement(c.COM_STMT_RESET, 9), on_statement(c.COM_STMT_FETCH, 9, b"\1\0\0\0"))
    codes = [parse_err(payload).code for payload in app.take()]
    assert codes == [c.ER_UNKNOWN_STMT_HANDLER] * 3
    app.send(on_statement(c.COM_STMT_CLOSE, 9), on_statement(c.COM_STMT_SEND_LONG_DATA, 9, b"\0\0x"))
    assert app.take() == []
    assert not world.servers


def test_a_closed_statement_is_unknown_and_the_backend_keeps_its_own(world: World):
    app = world.app()
    server = prepared(world, app)
    app.send(on_statement(c.COM_STMT_CLOSE, 1), execute(1))
    assert app.error().code == c.ER_UNKNOWN_STMT_HANDLER
    assert server.take() == []


def test_a_prepare_that_fails_leaves_no_statement(world: World):
    app = world.app()
    app.send(prepare(b"SELEKT"))
    world.spin()
    server = world.server
    server.take()
    server.err(1064)
    assert app.error().code == 1064
    assert server.slot == "idle"
    app.send(execute(1))
    assert app.error().code == c.ER_UNKNOWN_STMT_HANDLER


def test_a_statement_is_classified_when_it_is_prepared_and_acts_when_it_is_executed(world: World):
    app = world.app()
    server = prepared(world, app, text=b"SELECT 1 INTO @a", params=0)
    assert not app.client.pins
    app.send(execute(1))
    server.take()
    assert app.client.pins == pins.USER_VARIABLE
    server.ok()
    assert server.slot == "leased"


# Preparing again


def move(world: World, app: App, first: Server) -> Server:
    """Make the app execute its statement on another backend than `first`."""
    other = world.app(schema=app.client.settings.schema)
    other.query(b"BEGIN")
    assert first.take() == [query(b"BEGIN")]
    first.ok(status=IN_TRANS)
    app.send(execute(1, bound(b"12345678", LONG_TYPE)))
    world.spin()
    assert world.server is not first
    return world.server


def test_a_statement_is_prepared_again_in_the_schema_it_was_prepared_in(world: World):
    app = world.app(schema=b"a")
    first = prepared(world, app)
    app.query(b"USE b")
    first.take()
    first.ok(trackers=trackers((c.TRACK_SCHEMA, b"", b"b")))
    second = move(world, app, first)
    assert second.take() == [init_db(b"a"), prepare(TEXT), init_db(b"b")]
    second.ok()
    second.prepared(5, 1, 1)
    second.ok()
    assert second.take() == [execute(5, bound(b"12345678", LONG_TYPE))]


def test_a_statement_prepared_without_a_schema_is_prepared_again_in_the_one_there_is(world: World):
    app = world.app()
    first = prepared(world, app)
    app.query(b"USE b")
    first.take()
    first.ok(trackers=trackers((c.TRACK_SCHEMA, b"", b"b")))
    app.take()
    second = move(world, app, first)
    assert second.take() == [init_db(b"b"), prepare(TEXT)]


def test_a_statement_that_a_reset_takes_away_is_prepared_again_in_the_same_write(make_world):
    world = make_world(cap=1)
    app, tuned = world.app(), world.app()
    server = prepared(world, app)
    tuned.query(b"SET SESSION max_statement_time = 0.01")
    server.take()
    server.ok(trackers=trackers(variable(b"max_statement_time", b"0.01")))
    app.send(execute(1, bound(b"12345678", LONG_TYPE)))
    assert server.writes() == 1
    sent = server.take()
    assert sent[0][0] == c.COM_RESET_CONNECTION and sent[-1] == prepare(TEXT)
    server.ok(3)
    server.eof()
    server.prepared(78, 1, 1)
    assert server.take() == [execute(78, bound(b"12345678", LONG_TYPE))]


def test_in_a_transaction_preparing_again_neither_commits_nor_resets(world: World):
    app = world.app()
    server = prepared(world, app)
    for text, name, value, status in (
        (b"SET autocommit = 0", b"autocommit", b"OFF", 0),
        (b"SET SESSION sql_mode = 'ANSI'", b"sql_mode", b"ANSI", 0),
        (b"SET SESSION foreign_key_checks = 0", b"foreign_key_checks", b"OFF", 0),
    ):
        app.query(text)
        server.take()
        server.ok(status=status, trackers=trackers(variable(name, value)))
    app.query(b"INSERT INTO t VALUES (1)")
    server.take()
    server.ok(status=c.SERVER_STATUS_IN_TRANS, affected_rows=1)
    app.take()
    server.backend.statements.clear()  # as if it had been the oldest of too many
    world.relay.profile.sql_mode = b"STRICT_TRANS_TABLES"
    app.send(execute(1, bound(b"12345678", LONG_TYPE)))
    assert server.take() == [
        query(b"SET SESSION sql_mode='STRICT_TRANS_TABLES'"),
        prepare(TEXT),
        query(b"SET SESSION sql_mode='ANSI'"),
    ]


def test_a_restore_that_fails_behind_a_prepare_that_fails_still_closes_the_backend(world: World):
    app = world.app(schema=b"a")
    first = prepared(world, app)
    app.query(b"USE b")
    first.take()
    first.ok(trackers=trackers((c.TRACK_SCHEMA, b"", b"b")))
    second = move(world, app, first)
    app.take()
    second.take()
    second.ok()
    second.err(1146)
    second.err(1049)
    assert app.error().code == 1049
    assert second.slot == "closing"


def test_a_command_behind_a_prepare_that_fails_keeps_its_lease(world: World):
    app = world.app()
    first = prepared(world, app)
    occupy(world, first)
    app.send(execute(1, bound(b"12345678", LONG_TYPE)), query(b"SELECT 2"))
    world.spin()
    second = world.server
    assert second.take() == [prepare(TEXT)]
    second.err(1146, b"Table is gone")
    assert app.error().code == 1146
    assert second.take() == [query(b"SELECT 2")]
    assert second.slot == "leased" and second.backend.client is app.client
    second.rows(b"2")
    assert app.rows() == [[b"2"]]
    assert second.slot == "idle"


def test_the_oldest_of_too_many_is_closed_but_never_one_with_a_cursor(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend_module, "MAX_STATEMENTS", 2)
    app = world.app()
    server = prepared(world, app, 10, b"SELECT 1", 0)
    app.send(execute(1, flags=WITH_CURSOR))
    assert server.take() == [prepare(b"SELECT 1")]
    server.prepared(11, 0, 1)
    server.take()
    server.rows(status=CURSOR_OPEN)
    app.take()
    prepared_ids = [(12, b"SELECT 2"), (13, b"SELECT 3")]
    closed = []
    for ident, text in prepared_ids:
        app.send(prepare(text))
        server.take()
        server.prepared(ident, 0, 1)
        closed += server.take()
    assert closed == [on_statement(c.COM_STMT_CLOSE, 10), on_statement(c.COM_STMT_CLOSE, 12)]
    app.take()
    app.send(on_statement(c.COM_STMT_FETCH, 1, b"\1\0\0\0"))
    assert server.take() == [on_statement(c.COM_STMT_FETCH, 11, b"\1\0\0\0")]


def test_a_reset_of_the_connection_forgets_the_statements(world: World):
    app = world.app()
    prepared(world, app)
    app.send(bytes((c.COM_RESET_CONNECTION,)))
    assert app.ok()
    app.send(execute(1))
    assert app.error().code == c.ER_UNKNOWN_STMT_HANDLER
