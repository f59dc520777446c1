"""Prepared statements as tests of the relay meet them."""

from __future__ import annotations

from proxy.wire import constants as c
from tests.relay.world import AUTOCOMMIT, IN_TRANS, App, Server, World, prepare, query

TEXT = b"SELECT ? + 1"
LONG_TYPE, VAR_STRING = b"\x08\x00", b"\xfd\x00"
WITH_CURSOR = 1
CURSOR_OPEN = AUTOCOMMIT | c.SERVER_STATUS_CURSOR_EXISTS


def bound(value: bytes, types: bytes = b"") -> bytes:
    """The body of an execution with one parameter, its type sent or not."""
    return b"\0" + (b"\x01" + types if types else b"\0") + value


def prepared(world: World, app: App, ident: int = 77, text: bytes = TEXT, params: int = 1) -> Server:
    app.send(prepare(text))
    world.spin()
    server = next(server for server in world.servers if server.backend is app.client.backend)
    while server.backend.batch is not None:
        server.ok(len(server.take()))
    assert server.take() == [prepare(text)]
    server.prepared(ident, params, 1)
    assert app.take()[0][0] == 0
    return server


def occupy(world: World, server: Server) -> App:
    """Another app opens a transaction on this backend."""
    other = world.app()
    other.query(b"BEGIN")
    assert server.take() == [query(b"BEGIN")]
    server.ok(status=IN_TRANS)
    return other
