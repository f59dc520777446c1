"""Pins that end by what a client gives back, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.session import pins
from proxy.wire import constants as c
from tests.relay.world import STATE_CHANGE, App, Server, World, execute, prepare, query, trackers

CHANGED = trackers(STATE_CHANGE)


def a_session(**options: Any) -> tuple[World, App, Server]:
    world = World(2, mariadb=True)
    app = world.app(schema=b"test", **options)
    return world, app, world.settled(app)


def ok(app: App, text: bytes, **fields: Any) -> None:
    app.query(text)
    server = app.world.server
    assert server.take() == [query(text)]
    server.ok(**fields)
    app.take()


def fails(app: App, text: bytes, code: int) -> None:
    app.query(text)
    app.world.server.take()
    app.world.server.err(code)
    app.take()


@pytest.mark.parametrize(
    ("takes", "gives", "pin"),
    [
        ([b"CREATE TEMPORARY TABLE a (id INT)"], [b"DROP TEMPORARY TABLE a"], pins.TEMPORARY_TABLE),
        ([b"CREATE TEMPORARY TABLE test.a SELECT 1"], [b"DROP TABLE IF EXISTS a"], pins.TEMPORARY_TABLE),
        (
            [b"CREATE TEMPORARY TABLE a (id INT)", b"CREATE TEMPORARY TABLE b (id INT)", b"ALTER TABLE a ADD x INT"],
            [b"DROP TABLE b, a"],
            pins.TEMPORARY_TABLE,
        ),
        ([b"HANDLER t OPEN AS a", b"HANDLER t OPEN AS b"], [b"HANDLER a CLOSE", b"HANDLER b CLOSE"], pins.HANDLER),
        ([b"PREPARE s FROM 'SELECT 1'"], [b"DEALLOCATE PREPARE s"], pins.TEXT_PREPARE),
        ([b"BACKUP STAGE START", b"BACKUP LOCK t"], [b"BACKUP UNLOCK", b"BACKUP STAGE END"], pins.BACKUP_LOCK),
    ],
)
def test_a_pin_ends_with_the_last_that_is_given_back(takes: list[bytes], gives: list[bytes], pin: int) -> None:
    _, app, server = a_session()
    for text in takes:
        ok(app, text, trackers=CHANGED)
        assert app.client.pins == pin
    for text in gives:
        assert server.slot == "leased"
        ok(app, text, trackers=CHANGED)
    assert app.client.pins == 0
    assert server.slot == "idle"


@pytest.mark.parametrize(
    ("takes", "gives"),
    [
        (b"CREATE TEMPORARY TABLE a (id INT)", b"DROP TABLE A"),
        (b"CREATE TEMPORARY TABLE a (id INT)", b"DROP TABLE other.a"),
        (b"CREATE /* x */ TEMPORARY TABLE a (id INT)", b"DROP TABLE a"),
        (b"CREATE TEMPORARY TABLE b (id INT); CREATE TEMPORARY TABLE a (id INT)", b"DROP TABLE a"),
        (b"HANDLER t OPEN AS a", b"HANDLER t READ FIRST"),
        (b"PREPARE s FROM 'SELECT 1'", b"DEALLOCATE PREPARE t"),
        (b"BACKUP STAGE START", b"BACKUP UNLOCK"),
        (b"SELECT GET_LOCK(@x, 1)", b"SELECT RELEASE_LOCK('a')"),
    ],
)
def test_a_pin_stays_where_something_else_is_given_back(takes: bytes, gives: bytes) -> None:
    _, app, server = a_session()
    ok(app, takes)
    ok(app, gives)
    assert app.client.pins
    assert server.slot == "leased"


def test_a_renamed_table_has_a_name_that_nobody_knows() -> None:
    _, app, _ = a_session()
    ok(app, b"CREATE TEMPORARY TABLE a (id INT)", trackers=CHANGED)
    ok(app, b"ALTER TABLE a RENAME b", trackers=CHANGED)
    ok(app, b"DROP TABLE a")
    assert app.client.pins == pins.TEMPORARY_TABLE


def test_a_rename_without_a_temporary_table_pins_nothing() -> None:
    _, app, server = a_session()
    ok(app, b"RENAME TABLE a TO b")
    assert server.slot == "idle"


@pytest.mark.parametrize(
    ("takes", "gives", "code"),
    [
        (b"CREATE TEMPORARY TABLE a (id INT)", b"DROP TEMPORARY TABLE a", c.ER_BAD_TABLE_ERROR),
        (b"HANDLER t OPEN", b"HANDLER t CLOSE", c.ER_UNKNOWN_TABLE),
        (b"PREPARE s FROM 'SELECT 1'", b"DROP PREPARE s", c.ER_UNKNOWN_STMT_HANDLER),
    ],
)
def test_what_the_server_does_not_have_any_more_is_over(takes: bytes, gives: bytes, code: int) -> None:
    _, app, server = a_session()
    ok(app, takes)
    fails(app, gives, 1213)
    assert server.slot == "leased"
    fails(app, gives, code)
    assert app.client.pins == 0


def test_a_prepared_create_names_a_table_of_the_schema_it_was_prepared_in() -> None:
    world, app, server = a_session()
    app.send(prepare(b"CREATE TEMPORARY TABLE a (id INT)"))
    world.spin()
    server.take()
    server.prepared(5)
    app.take()
    ok(app, b"USE other", trackers=trackers((c.TRACK_SCHEMA, b"", b"other"), STATE_CHANGE))
    app.send(execute(1))
    world.spin()
    while server.backend.batch is not None:
        server.ok(len(server.take()))
    server.take()
    server.ok(trackers=CHANGED)
    app.take()
    assert app.client.pins == pins.TEMPORARY_TABLE
    ok(app, b"DROP TABLE a")
    assert app.client.pins == pins.TEMPORARY_TABLE
    ok(app, b"DROP TABLE test.a")
    assert app.client.pins == 0


def lock(app: App, text: bytes, *asked: bytes, mine: bytes) -> None:
    """A statement about a lock, and what the server says then of the locks that are asked about."""
    app.query(text)
    server = app.world.server
    assert server.take() == [query(text)]
    server.rows(b"1")
    app.take()
    words = b", ".join(b"IS_USED_LOCK('" + name + b"') <=> CONNECTION_ID()" for name in asked)
    assert server.take() == [b"\x03SELECT " + words]
    server.rows(tuple(b"%c" % one for one in mine), columns=len(mine))


def test_the_server_says_which_locks_are_held() -> None:
    _, app, server = a_session()
    lock(app, b"SELECT GET_LOCK('a', 1)", b"a", mine=b"1")
    lock(app, b"SELECT GET_LOCK('b', 1)", b"a", b"b", mine=b"10")
    assert app.client.pins == pins.NAMED_LOCK
    lock(app, b"SELECT GET_LOCK('a', 1)", b"a", mine=b"1")
    lock(app, b"SELECT RELEASE_LOCK('a')", b"a", mine=b"1")
    assert app.client.pins == pins.NAMED_LOCK  # it had it twice
    lock(app, b"DO RELEASE_LOCK('a')", b"a", mine=b"0")
    assert app.client.pins == 0
    assert server.slot == "idle"


def test_a_lock_that_was_not_got_does_not_pin() -> None:
    _, app, server = a_session()
    lock(app, b"SELECT GET_LOCK('a', 0)", b"a", mine=b"0")
    assert server.slot == "idle"


def bound(app: App, ident: int, name: bytes | None, *, types: bool = True) -> None:
    """Execute a statement of two parameters: a name, and a number."""
    null = b"\0" if name is not None else b"\1"
    said = b"" if name is None else bytes((len(name),)) + name
    app.send(execute(ident, null + (b"\x01\xfd\0\x08\0" if types else b"\0") + said + (3).to_bytes(8, "little")))
    app.world.spin()


def test_a_lock_whose_name_is_a_parameter() -> None:
    world, app, server = a_session()
    for ident, text in ((1, b"SELECT GET_LOCK(?, ?)"), (2, b"SELECT RELEASE_LOCK(?) + ?")):
        app.send(prepare(text))
        world.spin()
        server.take()
        server.prepared(ident, params=2, columns=1)
        app.take()
    for types in (True, False):
        bound(app, 1, b"job", types=types)
        server.take()
        server.rows(b"\0\0" + bytes(8))
        app.take()
        assert server.take() == [b"\x03SELECT IS_USED_LOCK('job') <=> CONNECTION_ID()"]
        server.rows(b"1")
        assert app.client.pins == pins.NAMED_LOCK
        lock(app, b"SELECT RELEASE_LOCK('job')", b"job", mine=b"0")
        assert server.slot == "idle"
    for name in (b"it's", None):
        bound(app, 1, name)
        server.take()
        server.rows(b"\0\0" + bytes(8))
        app.take()
        assert server.take() == []
        assert app.client.pins == pins.NAMED_LOCK


def test_release_all_locks_ends_also_what_has_no_name() -> None:
    _, app, server = a_session()
    app.query(b"SELECT GET_LOCK(CONCAT('a', 'b'), 0)")
    server.take()
    server.rows(b"1")
    app.take()
    assert server.take() == []
    app.query(b"SELECT RELEASE_ALL_LOCKS()")
    server.take()
    server.rows(b"1")
    assert app.client.pins == 0


def test_where_the_server_does_not_say_the_pin_stays() -> None:
    _, app, server = a_session()
    app.query(b"SELECT GET_LOCK('a', 0)")
    server.take()
    server.rows(b"1")
    server.take()
    server.err(1317)
    assert app.client.pins == pins.NAMED_LOCK
    assert server.slot == "leased"


def test_an_execute_does_what_was_prepared() -> None:
    _, app, server = a_session()
    ok(app, b"PREPARE s FROM 'SELECT 1'", trackers=CHANGED)
    ok(app, b"EXECUTE s")
    assert app.client.pins == pins.TEXT_PREPARE
    ok(app, b"DEALLOCATE PREPARE s", trackers=CHANGED)
    assert server.slot == "idle"


def test_an_execute_of_what_is_not_known_is_opaque() -> None:
    _, app, _ = a_session()
    ok(app, b"PREPARE s FROM 'CALL p()'")
    ok(app, b"EXECUTE s")
    assert app.client.pins == pins.TEXT_PREPARE | pins.OPAQUE


def test_an_execute_of_what_was_not_prepared_does_not_pin() -> None:
    _, app, server = a_session()
    fails(app, b"EXECUTE nosuch", c.ER_UNKNOWN_STMT_HANDLER)
    assert app.client.pins == 0
    server.take()
    server.rows((b"Error", b"1243", b"Unknown prepared statement handler"), columns=3)
    server.eof()
    ok(app, b"PREPARE s FROM @x")
    fails(app, b"EXECUTE s", c.ER_UNKNOWN_STMT_HANDLER)
    assert app.client.pins & pins.OPAQUE  # it may come from inside


def test_a_reset_forgets_everything() -> None:
    world, app, server = a_session()
    ok(app, b"PREPARE s FROM 'SELECT 1'")
    app.send(bytes((c.COM_RESET_CONNECTION,)))
    world.spin()
    for _ in server.take():
        server.ok()
    world.spin()
    assert app.client.held is None
    assert app.client.prepared_texts is None
