"""`SET NAMES` behind a login: asked once, then answered from what it came to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.relay.set_names import _TEXT
from proxy.wire import constants as c
from proxy.wire.packets import build_ok, parse_ok

from .world import MODERN, OLD, App, Server, World, query, trackers, variable

TEXT = b"SET NAMES utf8mb4"
CHARSETS = (
    variable(b"character_set_client", b"utf8mb4"),
    variable(b"character_set_connection", b"utf8mb4"),
    variable(b"character_set_results", b"utf8mb4"),
)


@pytest.fixture
def world() -> Iterator[World]:
    world = World(cap=1)
    yield world
    world.check()
    world.close()


def asks(world: World, app: App, text: bytes = TEXT, **fields: object) -> Server:
    """The app sends the text, and the server is asked: it, and behind it which collation follows."""
    app.query(text)
    server = world.server
    while (commands := server.take()) != [query(text)]:
        server.ok(len(commands))
    server.ok(trackers=trackers(*CHARSETS), **fields)
    for command in server.take():
        server.rows(b"utf8mb4_0900_ai_ci" if command.endswith(b"collation_connection") else None)
    return server


def test_the_second_session_is_answered_without_the_server(world: World):
    asks(world, first := world.app())
    expected = first.take()
    server, second = world.server, world.app()
    second.query(TEXT)
    assert server.take() == []
    assert second.take() == expected
    assert second.client.settings is first.client.settings
    assert second.client.settings.collation == b"utf8mb4_0900_ai_ci"
    second.query(b"SELECT 1")
    assert server.take() == [query(b"SELECT 1")]  # the backend is in that state already: nothing is restored
    server.rows(b"1")
    second.take()


def test_one_that_names_its_collation_needs_no_question_to_be_learned(world: World):
    world.relay.profile.add_collation(46, b"utf8mb4", b"utf8mb4_bin")
    text = b"SET NAMES utf8mb4 COLLATE utf8mb4_bin"
    first, second = world.app(), world.app()
    first.query(text)
    server = world.server
    server.take()
    server.ok(trackers=trackers(*CHARSETS))
    assert server.take() == []
    second.query(text)
    assert server.take() == []
    assert second.take() == first.take()
    assert second.client.settings is first.client.settings is server.backend.settings


def test_the_trackers_are_for_clients_that_asked_for_them(world: World):
    asks(world, world.app(OLD))
    modern, old = world.app(MODERN), world.app(OLD)
    for app in (modern, old):
        app.query(TEXT)
    assert modern.take() == [build_ok(trackers=trackers(*CHARSETS))]
    (answer,) = old.take()
    assert parse_ok(answer).trackers == b"" and not parse_ok(answer).status & c.SERVER_SESSION_STATE_CHANGED


def test_what_was_sent_ahead_is_executed_behind_it(world: World):
    asks(world, world.app())
    app = world.app()
    app.send(query(TEXT), query(b"SELECT 1"))
    world.spin()
    assert len(app.take()) == 1
    assert world.server.take() == [query(b"SELECT 1")]
    world.server.rows(b"1")
    assert app.rows() == [[b"1"]]


def test_a_session_that_has_done_anything_asks_the_server(world: World):
    asks(world, world.app())
    app = world.app()
    world.settled(app)
    app.take()
    asks(world, app)
    assert app.ok()


def test_an_option_that_was_set_before_stays(world: World):
    asks(world, world.app())
    app = world.app(multi_statements=True)
    app.send(bytes((c.COM_SET_OPTION, 1, 0)))
    world.spin()
    app.take()
    asks(world, app)
    assert not app.client.settings.multi_statements
    assert app.client.settings.collation == b"utf8mb4_0900_ai_ci"


def test_a_session_that_had_done_anything_teaches_nothing(world: World):
    app = world.app()
    world.settled(app)
    asks(world, app)
    assert world.relay.profile.set_names == {}


def test_the_schema_and_the_rest_of_a_login_stay(world: World):
    asks(world, world.app())
    app = world.app(schema=b"shop", multi_statements=True, autocommit=False)
    app.query(TEXT)
    assert app.ok()
    settings = app.client.settings
    assert (settings.schema, settings.multi_statements, settings.autocommit) == (b"shop", True, False)


def test_another_text_asks_the_server(world: World):
    asks(world, world.app())
    asks(world, world.app(), b"SET NAMES utf8mb4 COLLATE utf8mb4_0900_ai_ci")
    assert len(world.relay.profile.set_names) == 2


def test_a_text_with_a_warning_is_never_answered_here(world: World):
    asks(world, world.app(), b"SET NAMES utf8", warnings=1)
    assert world.relay.profile.set_names == {}


def test_an_error_teaches_nothing(world: World):
    app = world.app()
    app.query(b"SET NAMES nosuch")
    server = world.server
    server.take()
    server.err(1115)
    server.eof()
    assert world.relay.profile.set_names == {}


def test_what_else_the_statement_changed_is_not_forgotten(world: World):
    app = world.app()
    app.query(TEXT)
    server = world.server
    server.take()
    server.ok(trackers=trackers(*CHARSETS, variable(b"time_zone", b"+05:00")))
    server.take()
    server.rows(b"utf8mb4_0900_ai_ci")
    assert world.relay.profile.set_names == {}


def test_nothing_is_learned_where_a_session_begins_with_init_connect(world: World):
    world.relay.profile.reset_restores_all = False
    asks(world, world.app())
    assert world.relay.profile.set_names == {}


def test_it_is_forgotten_when_the_server_is_asked_about_itself_again(world: World):
    asks(world, world.app())
    with pytest.raises(IndexError):
        world.relay.profile.learn([])
    assert world.relay.profile.set_names == {}


def test_of_a_long_text_nobody_knows_the_end(world: World):
    asks(world, world.app(), b"SET NAMES utf8mb4" + b" " * 5000 + b"COLLATE utf8mb4_bin")
    assert world.relay.profile.set_names == {}


def test_the_memory_is_bounded(world: World):
    spaces = [b" " * before + b"SET NAMES" + b" " * between for before in range(10) for between in range(1, 16)]
    for text in spaces:
        asks(world, world.app(), text + b"utf8mb4")
    assert len(world.relay.profile.set_names) == len(spaces) - 100


@pytest.mark.parametrize(
    "text",
    [
        b"SET NAMES utf8mb4",
        b"  set names 'latin1';",
        b"SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci",
        b"SET NAMES 'utf8mb4' COLLATE 'utf8mb4_unicode_ci' ; ",
    ],
)
def test_texts_that_name_charset_and_collation_are_learned(text: bytes):
    assert _TEXT.match(text)


@pytest.mark.parametrize(
    "text",
    [
        b"SET NAMES DEFAULT",
        b"SET NAMES default;",
        b"SET NAMES utf8mb4 COLLATE DEFAULT",
        b"SET NAMES utf8mb4, autocommit = 0",
        b"SET NAMES utf8mb4; SELECT 1",
        b"SET NAMES /*! latin1 */",
        b"SET NAMES 'utf8mb4",
        b"SET NAMES @@x",
        b"SET CHARACTER SET latin1",
        b"SET NAMES \xff",
    ],
)
def test_other_texts_are_not(text: bytes):
    assert not _TEXT.match(text)
