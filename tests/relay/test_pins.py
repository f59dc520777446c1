"""What trackers, flags and texts make of a session: settings that are carried, pins that hold, and how they end."""

from __future__ import annotations

import pytest

from proxy.session import pins
from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import build_err, build_ok
from tests.relay.world import (
    AUTOCOMMIT,
    IN_TRANS,
    PROBE,
    QUIT,
    RESET,
    SHOW_WARNINGS,
    STATE_CHANGE,
    App,
    Server,
    World,
    on_statement,
    prepare,
    query,
    trackers,
    variable,
)

RESET_CONNECTION = bytes((c.COM_RESET_CONNECTION,))


def run(app: App, server: Server, text: bytes, **ok: object) -> None:
    app.query(text)
    assert server.take() == [query(text)]
    server.ok(**ok)
    app.take()


def pin(app: App, world: World, text: bytes = b"SET @a = 0 + 1", **ok: object) -> Server:
    app.query(text)
    server = next(server for server in world.servers if server.backend is app.client.backend)
    while server.backend.batch is not None:
        server.ok(len(server.take()))
    assert server.take() == [query(text)]
    server.ok(**ok)
    app.take()
    assert server.slot == "leased"
    return server


def test_a_variable_that_the_server_reports_follows_the_client_to_other_backends(world: World):
    app, other = world.app(), world.app()
    first = world.settled(app)
    run(app, first, b"SET time_zone = '+01:00'", trackers=trackers(variable(b"time_zone", b"+01:00"), STATE_CHANGE))
    assert first.slot == "idle"
    other.query(b"BEGIN")
    first.take()
    app.query(b"SELECT NOW()")
    second = world.server
    assert second is not first
    assert second.take() == [query(b"SET SESSION time_zone='+01:00'")]
    second.ok()
    assert second.take() == [query(b"SELECT NOW()")]


def test_on_mariadb_a_set_that_nothing_reports_is_read_back_before_the_backend_moves(make_world):
    world = make_world(mariadb=True)
    app = world.app()
    server = world.settled(app)
    app.query(b"SET @@sort_buffer_size = 65536")
    server.take()
    server.ok()
    assert app.ok()
    assert server.slot == "leased"
    assert server.take() == [query(b"SELECT @@session.sort_buffer_size")]
    server.rows(b"65536")
    assert app.client.settings.value(b"sort_buffer_size") == b"65536"
    assert server.slot == "idle"


def test_what_cannot_be_read_back_pins(make_world):
    world = make_world(mariadb=True)
    app = world.app()
    server = world.settled(app)
    app.query(b"SET @@sort_buffer_size = 65536")
    server.take()
    server.ok()
    server.take()
    server.err(1142)
    assert app.client.pins == pins.UNTRACKED_VARIABLE
    assert server.slot == "leased"


def test_the_autocommit_flag_counts_even_where_no_tracker_reports_it(world: World):
    app = world.app()
    server = world.settled(app)
    app.query(b"SET autocommit = 0")
    server.take()
    server.ok(status=0)
    assert not app.client.settings.autocommit
    assert server.backend.settings is app.client.settings
    assert server.slot == "idle"


def test_set_timestamp_default_is_forgotten_and_not_replayed(world: World):
    app = world.app()
    server = world.settled(app)
    before = app.client.settings
    run(app, server, b"SET timestamp = 1000", trackers=trackers(variable(b"timestamp", b"1000.000000")))
    assert app.client.settings is not before
    run(app, server, b"SET timestamp = DEFAULT", trackers=trackers(variable(b"timestamp", b"1763900000.1")))
    assert app.client.settings is before


def test_an_unexplained_change_of_state_pins(world: World):
    app = world.app()
    server = world.settled(app)
    app.query(b"INSERT INTO t VALUES (1)")
    server.take()
    server.ok(trackers=trackers(STATE_CHANGE))
    assert app.client.pins == pins.UNNAMED_STATE
    assert server.slot == "leased"


def test_a_change_of_state_with_a_name_does_not_pin(world: World):
    app = world.app()
    server = world.settled(app)
    run(
        app,
        server,
        b"SET lc_time_names = 'de_DE'",
        trackers=trackers(variable(b"lc_time_names", b"de_DE"), STATE_CHANGE),
    )
    assert not app.client.pins
    assert server.slot == "idle"


@pytest.mark.parametrize("end", ["reset", "quit", "lost"])
def test_a_pinned_session_keeps_its_lease_until_it_is_reset_or_ends(world: World, end: str):
    app = world.app()
    server = pin(app, world)
    for _ in range(2):
        app.query(b"SELECT @a")
        assert server.take() == [query(b"SELECT @a")]
        server.rows(b"1")
        app.take()
        assert server.slot == "leased"
    if end == "reset":
        app.send(RESET_CONNECTION)
    elif end == "quit":
        app.send(QUIT)
        assert app.closed
    else:
        app.leave()
    assert server.take() == [RESET, world.relay.profile.track_command]
    assert server.slot == ("leased" if end == "reset" else "resetting")
    server.ok(2)
    assert server.slot == "idle"
    assert end != "reset" or (app.ok() and not app.client.pins)


def test_a_reset_is_answered_when_the_server_has_let_go_of_everything(world: World):
    app = world.app()
    server = pin(app, world)
    app.send(RESET_CONNECTION, query(b"SELECT 1"))
    assert server.take() == [RESET, world.relay.profile.track_command]
    assert app.take() == []
    server.ok(2)
    assert app.ok()
    world.spin()
    server.ok(len(server.take()))
    assert server.take() == [query(b"SELECT 1")]


def test_a_client_whose_backend_dies_in_a_reset_has_a_fresh_session_all_the_same(world: World):
    app = world.app()
    server = pin(app, world)
    app.send(RESET_CONNECTION)
    server.take()
    server.die()
    assert app.ok() and not app.client.pins and not app.closed


def test_a_role_is_kept_by_a_reset_and_goes_on_pinning(world: World):
    app = world.app()
    server = pin(app, world, b"SET ROLE admin")
    app.query(b"SET @a = 1")
    server.take()
    server.ok()
    app.take()
    app.send(RESET_CONNECTION)
    assert server.take() == [RESET, world.relay.profile.track_command]
    server.ok(2)
    assert app.ok() and app.client.pins == pins.ROLE
    assert server.slot == "leased"


def test_what_schema_a_reset_keeps_is_asked_where_trackers_may_have_been_silent(world: World):
    app = world.app(schema=b"shop")
    server = pin(app, world, b"SET session_track_schema = OFF")
    app.send(RESET_CONNECTION)
    assert server.take()[-1] == query(b"SELECT DATABASE()")
    server.ok(2)
    server.rows(b"other")
    assert app.ok() and app.client.settings.schema == b"other"


def test_a_reset_of_a_session_without_a_lease_needs_no_backend(world: World):
    app = world.app(schema=b"shop")
    server = world.settled(app)
    run(app, server, b"SET time_zone = '+01:00'", trackers=trackers(variable(b"time_zone", b"+01:00")))
    app.send(RESET_CONNECTION)
    assert app.ok()
    assert server.take() == []
    assert app.client.settings.schema == b"shop"
    assert app.client.settings.value(b"time_zone") is None


@pytest.mark.parametrize("text", [b"SET ROLE admin", b"SET profiling = 1", b"CALL p()", b"XA START 'x'"])
@pytest.mark.parametrize("end", ["reset", "lost"])
def test_what_no_reset_undoes_closes_the_backend(world: World, text: bytes, end: str):
    app = world.app()
    server = pin(app, world, text)
    if end == "reset" and text.startswith(b"SET ROLE"):
        return  # a reset does not end it
    if end == "reset":
        app.send(RESET_CONNECTION)
    else:
        app.leave()
    if end == "reset":
        assert server.take()[0] == RESET
        server.ok(2)
        if text.startswith(b"CALL"):
            server.rows(b"shop")
        assert app.ok()
    assert server.take() == [QUIT]
    assert server.slot == "closing"
    server.die()
    assert server.slot == "free"


def test_who_leaves_while_a_statement_runs_that_no_reset_undoes_leaves_a_backend_that_is_closed_after_it(world: World):
    app = world.app()
    app.query(b"SET ROLE admin")
    server = world.server
    server.take()
    app.leave()
    assert server.slot == "leased"
    server.ok()
    assert server.take() == [QUIT]
    assert server.slot == "closing"


def test_a_statement_that_pins_only_on_success_does_not_when_it_fails(world: World):
    app = world.app()
    server = world.settled(app)
    app.query(b"SET ROLE admin")
    server.take()
    server.err(3530)
    assert server.take()[-1] == PROBE
    server.rows(columns=3)
    server.eof()
    assert not app.client.pins
    assert server.slot == "idle"


def test_a_statement_that_may_have_acted_before_it_failed_pins(world: World):
    app = world.app()
    server = world.settled(app)
    app.query(b"SELECT GET_LOCK('a', 1), nothing")
    server.take()
    server.err()
    assert app.client.pins == pins.NAMED_LOCK
    assert server.slot == "leased"


SYNTAX = b"You have an error near 'SELEC 1'"


def fail(app: App, server: Server, text: bytes, code: int = 1064) -> None:
    """The statement fails, and what is asked behind it is to be answered next: whether it can be prepared."""
    app.query(text)
    assert server.take() == [query(text)]
    server.err(code, SYNTAX)
    assert app.error().code == code
    assert server.take() == [SHOW_WARNINGS, prepare(text)]
    server.rows((b"Error", b"1064", SYNTAX), columns=3)


def test_what_cannot_be_parsed_has_done_nothing_and_does_not_pin(world: World):
    app = world.app()
    server = world.settled(app)
    fail(app, server, b"SELEC 1")
    assert app.client.pins == pins.OPAQUE
    server.err(1064, SYNTAX)
    assert not app.client.pins
    assert server.slot == "idle"
    app.query(b"SHOW WARNINGS")
    assert app.rows() == [[b"Error", b"1064", SYNTAX]]


def test_an_error_from_within_a_statement_that_can_be_prepared_pins(world: World):
    app = world.app()
    server = world.settled(app)
    fail(app, server, b"CALL p()")
    server.prepared(9)
    assert server.take() == [on_statement(c.COM_STMT_CLOSE, 9)]
    assert app.client.pins == pins.OPAQUE
    assert server.slot == "leased"


@pytest.mark.parametrize(("code", "text"), [(1295, SYNTAX), (1064, b"You have an error near something else")])
def test_a_statement_that_fails_otherwise_when_it_is_prepared_pins(world: World, code: int, text: bytes):
    app = world.app()
    server = world.settled(app)
    fail(app, server, b"EXECUTE s")
    server.err(code, text)
    assert app.client.pins & pins.OPAQUE
    assert server.slot == "leased"


def test_an_error_that_comes_later_is_not_asked_about(world: World):
    app = world.app()
    server = world.settled(app)
    app.query(b"SELECT f(1)")
    server.take()
    server.err(1690)
    assert server.take() == []
    assert app.client.pins == pins.OPAQUE
    app.send(RESET_CONNECTION)
    server.ok(2)
    server.rows(b"shop")
    assert server.closed  # an opaque session's backend
    app.take()

    app.query(b"SET @a = 0 + 1; SELEC 1")
    second = world.server
    if second.take() != [query(b"SET @a = 0 + 1; SELEC 1")]:
        second.ok(2)  # the schema, which the new backend does not have
        assert second.take() == [query(b"SET @a = 0 + 1; SELEC 1")]
    second.send(frame(build_ok(status=AUTOCOMMIT | c.SERVER_MORE_RESULTS), 1) + frame(build_err(1064, "42000", ""), 2))
    assert second.take() == []
    assert app.client.pins & pins.USER_VARIABLE
    server.die()


def test_only_what_the_statement_itself_would_have_pinned_is_dropped(world: World):
    app = world.app()
    server = pin(app, world)
    fail(app, server, b"SELEC 1")
    server.err(1064, SYNTAX)
    assert app.client.pins == pins.USER_VARIABLE
    app.query(b"SET @b := SELEC")  # pins no more than there is
    assert server.take() == [query(b"SET @b := SELEC")]
    server.err(1064)
    assert server.take() == []
    assert server.slot == "leased"


def test_lock_tables_holds_until_unlock_tables(world: World):
    app = world.app()
    state = (c.TRACK_TRANSACTION_STATE, b"", b"_______L")
    server = pin(app, world, b"LOCK TABLES t READ", trackers=trackers(state))
    run(app, server, b"UNLOCK TABLES", trackers=trackers((c.TRACK_TRANSACTION_STATE, b"", b"________")))
    assert server.slot == "idle"


def test_a_one_shot_transaction_setting_holds_until_a_transaction_has_used_it(world: World):
    app = world.app()
    pending = (c.TRACK_TRANSACTION_CHARACTERISTICS, b"", b"SET TRANSACTION READ ONLY;")
    server = pin(app, world, b"SET TRANSACTION READ ONLY", trackers=trackers(pending))
    run(
        app,
        server,
        b"BEGIN",
        status=IN_TRANS,
        trackers=trackers((4, b"", b"SET TRANSACTION READ ONLY; START TRANSACTION;")),
    )
    assert server.slot == "leased"
    run(app, server, b"COMMIT", trackers=trackers((4, b"", b"")))
    assert not app.client.pins
    assert server.slot == "idle"


def test_a_transaction_holds_its_backend_and_its_end_gives_it_back(world: World):
    app = world.app()
    server = world.settled(app)
    run(app, server, b"BEGIN", status=IN_TRANS)
    assert server.slot == "leased"
    run(app, server, b"INSERT INTO t VALUES (1)", status=IN_TRANS, affected_rows=1)
    assert server.slot == "leased"
    run(app, server, b"COMMIT", status=AUTOCOMMIT)
    assert server.slot == "idle"
    assert world.relay.stats.transactions == 1


def test_a_savepoint_before_an_implicit_transaction_holds_the_backend(world: World):
    app = world.app(autocommit=False)
    app.client.status = 0
    app.query(b"SAVEPOINT a")
    server = world.server
    server.take()
    server.ok()
    assert server.take() == [query(b"SAVEPOINT a")]
    server.ok(status=0)
    assert server.slot == "leased"
    run(app, server, b"ROLLBACK", status=0)
    assert server.slot == "idle"


def test_the_multi_statement_option_is_answered_here_and_carried(world: World):
    app = world.app()
    server = world.settled(app)
    app.send(bytes((c.COM_SET_OPTION, 0, 0)))
    assert app.take()[0][0] == 0xFE
    app.query(b"SELECT 1; SELECT 2")
    assert server.take() == [bytes((c.COM_SET_OPTION, 0, 0))]
    server.eof()
    assert server.take() == [query(b"SELECT 1; SELECT 2")]


def test_a_client_without_session_track_gets_no_trackers_and_the_session_follows_them(world: World):
    app = world.app(c.CLIENT_DEPRECATE_EOF)
    server = world.settled(app)
    app.query(b"SET time_zone = '+01:00'")
    server.take()
    server.ok(trackers=trackers(variable(b"time_zone", b"+01:00")))
    assert app.take() == [b"\0\0\0\x02\0\0\0"]
    assert app.client.settings.value(b"time_zone") == b"+01:00"


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (b"SET NAMES latin1 COLLATE latin1_bin", False),
        (b"set names 'latin1' collate 'LATIN1_BIN';", False),
        (b"SET NAMES latin1", True),
        (b"SET NAMES latin1 COLLATE bin_of_no_charset", True),
        (b"SET NAMES latin1 COLLATE latin1_bin, time_zone = DEFAULT", True),
    ],
)
def test_a_collation_of_the_servers_that_is_written_down_need_not_be_read_back(
    world: World, text: bytes, asked: bool
) -> None:
    world.relay.profile.add_collation(47, b"latin1", b"latin1_bin")
    app = world.app()
    server = world.settled(app)
    app.query(text)
    server.take()
    charsets = (b"character_set_client", b"character_set_connection", b"character_set_results")
    server.ok(trackers=trackers(*(variable(name, b"latin1") for name in charsets)))
    assert server.take() == ([query(b"SELECT @@collation_connection")] if asked else [])
    if asked:
        server.rows(b"latin1_bin")
    assert app.client.settings.client_charset == b"latin1"
    assert app.client.settings.collation == b"latin1_bin"
    assert asked or app.client.settings.results_collation == b"latin1_bin"
    assert server.backend.settings is app.client.settings
    assert server.slot == "idle"


def test_a_collation_that_does_not_belong_to_its_charset_changes_nothing(world: World) -> None:
    world.relay.profile.add_collation(47, b"latin1", b"latin1_bin")
    app = world.app()
    server = world.settled(app)
    before = app.client.settings
    app.query(b"SET NAMES utf8mb4 COLLATE latin1_bin")
    server.take()
    server.err(1253)
    server.take()
    server.rows(columns=3)
    server.eof()
    assert app.client.settings is before
    assert server.slot == "idle"


def test_an_error_of_a_pinned_session_may_have_ended_its_transaction(world: World):
    app = world.app()
    server = world.settled(app)
    pin(app, world)
    app.query(b"BEGIN")
    server.take()
    server.ok(status=IN_TRANS)
    app.query(b"TRUNCATE TABLE nosuch")
    server.take()
    server.err(1146)
    asked = server.take()
    assert asked[-1] == PROBE
    if len(asked) > 1:
        server.rows(columns=3)
    server.eof(status=AUTOCOMMIT)
    assert not app.client.status & c.SERVER_STATUS_IN_TRANS
    assert app.client.pins
