"""MariaDB's bulk execution: moved and prepared again like any other, with the types it needs."""

from __future__ import annotations

from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME
from proxy.wire.packets import parse_err
from tests.relay.statements import (
    LONG_TYPE,
    TEXT,
    VAR_STRING,
    bound,
    prepared,
)
from tests.relay.world import (
    IN_TRANS,
    MODERN,
    execute,
    prepare,
)


def bulk(ident: int, rows: bytes, types: bytes = b"") -> bytes:
    flags = c.STMT_BULK_SEND_TYPES if types else 0
    return bytes((c.COM_STMT_BULK_EXECUTE,)) + ident.to_bytes(4, "little") + bytes((flags, 0)) + types + rows


BULK = MODERN | c.MARIADB_CLIENT_STMT_BULK_OPERATIONS


def test_a_bulk_execution_leaves_its_types_to_the_executions_behind_it(make_world):
    world = make_world(mariadb=True)
    app = world.app(BULK)
    server = prepared(world, app)
    for sent in (bulk(1, b"\0" * 9, LONG_TYPE), bulk(1, b"\0" * 9), execute(1, bound(b"12345678"))):
        app.send(sent)
        assert server.take() == [sent.replace(b"\1\0\0\0", b"\x4d\0\0\0", 1)]
        server.ok(affected_rows=1)
    assert server.slot == "idle"


def test_a_bulk_execution_that_moves_takes_its_types_along(make_world):
    world = make_world(mariadb=True)
    app, other = world.app(BULK), world.app(BULK)
    server = prepared(world, app)
    app.send(bulk(1, b"\0" * 9, LONG_TYPE))
    server.take()
    server.ok()
    other.query(b"BEGIN")
    server.take()
    server.ok(status=IN_TRANS)
    app.send(bulk(1, b"\0" * 9))
    world.spin()
    second = world.server
    assert second is not server
    assert second.take() == [prepare(TEXT)]
    second.prepared(5, 1, 1)
    assert second.take() == [bulk(5, b"\0" * 9, LONG_TYPE)]
    second.ok(affected_rows=1)
    app.take()
    app.send(bulk(1, b"\0" * 9))
    assert second.take() == [bulk(5, b"\0" * 9)]


def test_a_bulk_execution_of_several_frames_is_given_types_as_a_whole(make_world):
    world = make_world(mariadb=True)
    world.relay.profile.max_allowed_packet = 1 << 26
    app = world.app(BULK)
    server = prepared(world, app)
    app.send(execute(1, bound(b"\x01a", VAR_STRING)))
    server.take()
    server.ok()
    app.take()
    server.backend.bound.clear()  # as if somebody else had bound it
    rows = b"\0" + bytes(MAX_FRAME)
    app.send(bulk(1, rows))
    assert server.take() == [bulk(77, rows, VAR_STRING)]


def test_a_bulk_execution_needs_its_capability_and_mariadb(make_world):
    for mariadb, capabilities, code in ((True, MODERN, 1295), (False, BULK, c.ER_UNKNOWN_COMMAND)):
        app = make_world(mariadb=mariadb).app(capabilities)
        app.send(bulk(1, b""), bytes((c.COM_PING,)))
        error, ok = app.take()
        assert parse_err(error).code == code and ok[0] == 0
