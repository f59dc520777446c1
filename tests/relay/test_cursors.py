"""Open cursors and unfinished long data: a statement of one client alone, which holds its backend."""

from __future__ import annotations

import pytest

from proxy.session import pins
from proxy.wire import constants as c
from proxy.wire.packets import parse_err
from tests.relay.statements import (
    CURSOR_OPEN,
    TEXT,
    VAR_STRING,
    WITH_CURSOR,
    bound,
    occupy,
    prepared,
)
from tests.relay.world import (
    PROBE,
    SHOW_WARNINGS,
    App,
    Server,
    World,
    execute,
    on_statement,
    prepare,
)


def open_cursor(world: World, app: App, server: Server) -> None:
    app.send(execute(1, flags=WITH_CURSOR))
    assert server.take() == [prepare(b"SELECT a FROM t")]
    server.prepared(90, 0, 1)
    assert server.take() == [execute(90, flags=WITH_CURSOR)]
    server.rows(status=CURSOR_OPEN)
    app.take()
    assert app.client.pins == pins.CURSOR
    assert server.slot == "leased"


def test_a_cursor_has_a_statement_of_its_own_and_holds_the_backend_until_its_last_row(world: World):
    app = world.app()
    server = prepared(world, app, text=b"SELECT a FROM t", params=0)
    open_cursor(world, app, server)
    app.send(on_statement(c.COM_STMT_FETCH, 1, b"\2\0\0\0"))
    assert server.take() == [on_statement(c.COM_STMT_FETCH, 90, b"\2\0\0\0")]
    row = b"\x03\0\0\x01\0\0a"
    server.send(row + b"\x07\0\0\x02\xfe\0\0" + (CURSOR_OPEN).to_bytes(2, "little") + b"\0\0")
    assert server.slot == "leased"
    app.send(on_statement(c.COM_STMT_FETCH, 1, b"\2\0\0\0"))
    server.take()
    last = CURSOR_OPEN | c.SERVER_STATUS_LAST_ROW_SENT
    server.send(b"\x07\0\0\x01\xfe\0\0" + last.to_bytes(2, "little") + b"\0\0")
    assert server.take() == [on_statement(c.COM_STMT_CLOSE, 90)]
    assert not app.client.pins
    assert server.slot == "idle"


@pytest.mark.parametrize("command", [c.COM_STMT_CLOSE, c.COM_STMT_RESET])
def test_closing_or_resetting_a_statement_ends_its_cursor(world: World, command: int):
    app = world.app()
    server = prepared(world, app, text=b"SELECT a FROM t", params=0)
    open_cursor(world, app, server)
    app.send(on_statement(command, 1))
    assert len(app.take()) == (command == c.COM_STMT_RESET)
    assert server.take() == [on_statement(c.COM_STMT_CLOSE, 90)]
    assert server.slot == "idle"


def test_a_fetch_without_a_cursor_is_answered_here(world: World):
    app = world.app()
    prepared(world, app, text=b"SELECT a FROM t", params=0)
    app.send(on_statement(c.COM_STMT_FETCH, 1, b"\1\0\0\0"))
    assert app.error().code == 1421


def test_a_cursor_that_is_not_opened_holds_nothing(world: World):
    app = world.app()
    server = prepared(world, app, text=b"SELECT a FROM t", params=0)
    app.send(execute(1, flags=WITH_CURSOR))
    server.take()
    server.prepared(90, 0, 1)
    server.take()
    server.rows(b"1")
    assert server.take() == [on_statement(c.COM_STMT_CLOSE, 90)]
    assert not app.client.pins
    assert server.slot == "idle"


def test_an_execution_without_a_cursor_ends_the_one_there_is(world: World):
    app = world.app()
    server = prepared(world, app, text=b"SELECT a FROM t", params=0)
    open_cursor(world, app, server)
    app.send(execute(1))
    assert server.take() == [on_statement(c.COM_STMT_CLOSE, 90), execute(77)]
    server.rows(b"1")
    assert server.slot == "idle"


def test_a_cursor_that_gets_no_backend_pins_nothing(make_world):
    world = make_world(cap=1, queue__timeout="1s")
    app = world.app()
    server = prepared(world, app, text=b"SELECT a FROM t", params=0)
    occupy(world, server)
    app.send(execute(1, flags=WITH_CURSOR))
    world.advance(2)
    assert app.error().code == c.ER_CON_COUNT
    assert not app.client.pins
    assert not app.client.statements[1].private


def test_long_data_goes_to_a_statement_of_its_own_and_holds_the_backend_until_the_execution(world: World):
    app = world.app()
    server = prepared(world, app)
    chunk = on_statement(c.COM_STMT_SEND_LONG_DATA, 1, b"\0\0abc")
    run = execute(1, b"\0\x01" + VAR_STRING)
    app.send(chunk, chunk, run)
    assert server.take() == [prepare(TEXT)]
    server.prepared(90, 1, 1)
    data = on_statement(c.COM_STMT_SEND_LONG_DATA, 90, b"\0\0abc")
    assert server.take() == [data, data, execute(90, b"\0\x01" + VAR_STRING)]
    assert server.slot == "leased"
    server.rows(b"1")
    assert server.take() == [on_statement(c.COM_STMT_CLOSE, 90)]
    assert server.slot == "idle"
    assert app.rows() == [[b"1"]]


def test_a_pinned_client_between_long_data_and_execution_keeps_its_lease(world: World):
    app = world.app()
    server = prepared(world, app)
    app.send(on_statement(c.COM_STMT_SEND_LONG_DATA, 1, b"\0\0abc"))
    server.take()
    server.prepared(90, 1, 1)
    assert app.take() == []
    assert app.client.pins == pins.LONG_DATA
    assert server.slot == "leased" and not app.client.busy
    app.send(on_statement(c.COM_STMT_CLOSE, 1))
    assert server.slot == "idle"


@pytest.mark.parametrize(
    "text",
    [
        b"Incorrect arguments to mysqld_stmt_send_long_data",
        b"Incorrect arguments to mysql_stmt_precheck",
        b"Parameter of prepared statement which is set through mysql_send_long_data() is longer than allowed",
    ],
)
def test_an_error_of_long_data_is_every_executions_until_the_statement_is_reset(world: World, text: bytes):
    app = world.app()
    server = prepared(world, app)
    run = execute(1, bound(b"\x01a", VAR_STRING))
    app.send(on_statement(c.COM_STMT_SEND_LONG_DATA, 1, b"\x07\0abc"), run)
    server.take()
    server.prepared(90, 1, 1)
    server.take()
    server.err(1210, text, b"HY000")
    assert server.take() == [on_statement(c.COM_STMT_CLOSE, 90), SHOW_WARNINGS, PROBE]
    server.rows(columns=3)
    server.eof()
    app.take()
    assert server.slot == "idle"
    app.send(run, on_statement(c.COM_STMT_SEND_LONG_DATA, 1, b"\0\0abc"), run)
    assert [parse_err(payload).message for payload in app.take()] == [text] * 2
    assert server.take() == []
    app.send(on_statement(c.COM_STMT_RESET, 1), run)
    assert server.take() == [execute(77, bound(b"\x01a", VAR_STRING))]


def test_long_data_that_gets_no_backend_is_the_error_of_the_execution(make_world):
    world = make_world(cap=1, queue__timeout="1s")
    app = world.app()
    server = prepared(world, app)
    other = occupy(world, server)
    chunk = on_statement(c.COM_STMT_SEND_LONG_DATA, 1, b"\0\0abc")
    app.send(chunk)
    world.advance(2)
    assert app.take() == []
    app.send(chunk, execute(1, b"\0\x01" + VAR_STRING))
    assert app.error().code == c.ER_CON_COUNT
    assert not app.client.pins
    other.leave()
    server.take()
    server.ok(2)
    app.send(execute(1, bound(b"\x01a", VAR_STRING)))
    server.take()
    server.ok(1)
    server.eof()
    server.prepared(5, 1, 1)
    assert server.take() == [execute(5, bound(b"\x01a", VAR_STRING))]
