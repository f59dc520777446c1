"""LAST_INSERT_ID(), warnings, ROW_COUNT() and FOUND_ROWS(): kept where they are, captured, answered from here."""

from __future__ import annotations

import pytest

from proxy.wire import constants as c
from tests.relay.world import (
    CLEAR_WARNINGS,
    INSERT_ID,
    MODERN,
    OLD,
    PROBE,
    QUIT,
    SHOW_WARNINGS,
    App,
    Server,
    World,
    init_db,
    query,
    trackers,
    variable,
)

both_dialects = pytest.mark.parametrize("capabilities", [OLD, MODERN], ids=["old", "modern"])
WARNING = (b"Warning", b"1265", b"Data truncated")


def insert(world: World, app: App, *, warnings: int = 0, ident: int = 7) -> Server:
    """An INSERT with an auto_increment; returns the server that alone has its soft state."""
    app.query(b"INSERT INTO t VALUES (1)")
    backend = app.client.backend
    server = next(server for server in world.servers if server.backend is backend)
    server.take()
    server.ok(affected_rows=1, last_insert_id=ident, warnings=warnings)
    assert app.ok()
    assert server.take() == []
    return server


def take_over(server: Server, other: App) -> None:
    """Another client runs a statement on this backend; captures are answered with 7 and one warning."""
    other.query(b"SELECT 'other'")
    sent = server.take()
    while sent != [query(b"SELECT 'other'")]:
        for command in sent:
            if command == SHOW_WARNINGS:
                server.rows(WARNING, columns=3)
            elif command == INSERT_ID:
                server.rows(b"7")
            else:
                server.ok()
        sent = server.take()
    server.rows(b"other")
    other.take()


def test_while_nobody_else_took_the_backend_the_server_answers_itself(world: World):
    app = world.app()
    server = insert(world, app, warnings=1)
    for text in (b"SHOW WARNINGS", b"SELECT LAST_INSERT_ID()", b"SELECT ROW_COUNT()", b"SELECT FOUND_ROWS()"):
        app.query(text)
        assert server.take() == [query(text)]
        server.rows(b"1")
        app.take()


def test_soft_state_is_captured_before_another_client_gets_the_backend_warnings_first(make_world):
    world = make_world(cap=1)
    server = insert(world, world.app(), warnings=1)
    other = world.app()
    other.query(b"SELECT 1")
    assert server.writes() == 1
    assert server.take() == [SHOW_WARNINGS, INSERT_ID]
    server.rows(WARNING, columns=3)
    assert server.take() == []
    server.rows(b"7")
    assert server.take() == [query(b"SELECT 1")]


def test_only_what_there_is_is_captured(make_world):
    world = make_world(cap=1)
    server = insert(world, world.app())
    other = world.app()
    other.query(b"SELECT 1")
    assert server.take() == [INSERT_ID]
    server.rows(b"7")
    assert server.take() == [query(b"SELECT 1")]
    server.rows(b"1")
    world.app().query(b"SELECT 2")
    assert server.take() == [query(b"SELECT 2")]


def test_what_a_client_that_left_could_have_asked_is_not_captured(make_world):
    world = make_world(cap=1)
    app = world.app()
    server = insert(world, app, warnings=1)
    app.leave()
    world.app().query(b"SELECT 1")
    assert server.take() == [query(b"SELECT 1")]


def test_warnings_that_nobody_asks_for_do_not_reach_the_next_client_of_a_mariadb(make_world):
    world = make_world(cap=1, mariadb=True)
    app = world.app()
    server = insert(world, app, warnings=1)
    app.leave()
    world.app().query(b"SELECT 1")
    assert server.take() == [CLEAR_WARNINGS]
    server.ok()
    assert server.take() == [query(b"SELECT 1")]


def test_an_insert_begins_with_the_clients_own_last_insert_id(make_world):
    """Else a row whose id the statement gives would leave another client's for LAST_INSERT_ID()."""
    world = make_world(cap=1)
    app, other = world.app(), world.app()
    server = insert(world, app)
    other.query(b"INSERT INTO t (id) VALUES (7)")
    assert server.take() == [INSERT_ID, query(b"SET last_insert_id=0")]
    server.rows(b"7")
    server.ok()
    assert server.take() == [query(b"INSERT INTO t (id) VALUES (7)")]
    server.ok(affected_rows=1, last_insert_id=7)
    assert other.ok()
    other.query(b"SELECT LAST_INSERT_ID()")
    assert server.take() == [query(b"SELECT LAST_INSERT_ID()")]


def test_inserts_of_one_client_cost_no_command_of_ours(make_world):
    world = make_world(cap=1)
    app = world.app()
    for ident in range(1, 5):
        app.query(b"INSERT INTO t VALUES (1)")
        assert world.server.take() == [query(b"INSERT INTO t VALUES (1)")]
        world.server.ok(affected_rows=1, last_insert_id=ident)
        assert app.ok()


def test_last_insert_id_is_set_again_where_another_client_has_left_its_own(make_world):
    world = make_world(cap=1)
    app, other = world.app(), world.app()
    server = insert(world, app)
    take_over(server, other)
    app.query(b"SELECT LAST_INSERT_ID()")
    assert server.take() == [query(b"SELECT LAST_INSERT_ID()")], "nobody has changed it"
    server.rows(b"7")
    other.query(b"SELECT LAST_INSERT_ID()")
    assert server.take() == [query(b"SET last_insert_id=0")]
    server.ok()
    assert server.take() == [query(b"SELECT LAST_INSERT_ID()")]
    server.rows(b"0")
    app.query(b"SELECT LAST_INSERT_ID()")
    assert server.take() == [query(b"SET last_insert_id=7")]


def test_a_statement_in_between_does_not_make_another_backends_last_insert_id_ours(make_world):
    world = make_world(cap=1)
    app, other = world.app(), world.app()
    server = insert(world, app)
    other.query(b"SELECT LAST_INSERT_ID(9)")
    assert server.take() == [INSERT_ID, query(b"SET last_insert_id=0")]
    server.rows(b"7")
    server.ok()
    server.take()
    server.rows(b"9")
    app.query(b"SELECT 1")
    assert server.take() == [INSERT_ID]
    server.rows(b"9")
    server.take()
    server.rows(b"1")
    app.query(b"SELECT LAST_INSERT_ID()")
    assert server.take() == [query(b"SET last_insert_id=7")]


def test_who_never_inserted_gets_zero_and_not_the_last_clients_id(make_world):
    world = make_world(cap=1)
    app, other = world.app(), world.app()
    insert(world, app)
    server = world.server
    other.query(b"SELECT LAST_INSERT_ID()")
    assert server.take() == [INSERT_ID, query(b"SET last_insert_id=0")]


def test_a_capture_in_flight_is_waited_for_when_its_owner_asks(world: World):
    app, other = world.app(), world.app()
    first = insert(world, app, warnings=1)
    other.query(b"SELECT 1")
    assert first.take() == [SHOW_WARNINGS, INSERT_ID]
    app.query(b"SELECT LAST_INSERT_ID()")
    second = world.server
    assert second is not first
    assert second.take() == []
    first.rows(WARNING, columns=3)
    assert second.take() == []
    first.rows(b"7")
    assert second.take() == [query(b"SET last_insert_id=7")]
    second.ok()
    assert second.take() == [query(b"SELECT LAST_INSERT_ID()")]
    second.rows(b"7")
    assert app.rows() == [[b"7"]]


def test_warnings_whose_capture_is_in_flight_are_answered_when_it_is_done(world: World):
    app, other = world.app(), world.app()
    first = insert(world, app, warnings=1)
    other.query(b"SELECT 1")
    assert first.take() == [SHOW_WARNINGS, INSERT_ID]
    app.query(b"SHOW WARNINGS")
    assert app.take() == []
    first.rows(WARNING, columns=3)
    first.rows(b"7")
    assert app.rows() == [list(WARNING)]
    assert world.server.slot == "idle"


def test_warnings_captured_while_their_owner_waits_in_the_queue_are_his(make_world):
    world = make_world(cap=1)
    app, other, third = world.app(), world.app(), world.app()
    server = insert(world, app, warnings=1)
    other.query(b"SELECT 1")
    third.query(b"SELECT 3")
    app.query(b"SHOW WARNINGS")
    assert server.take() == [SHOW_WARNINGS, INSERT_ID]
    server.rows(WARNING, columns=3)
    server.rows(b"7")
    server.take()
    server.rows(b"1")
    assert server.take() == [query(b"SELECT 3")]
    server.rows(b"3")
    assert app.rows() == [list(WARNING)]


def test_who_waits_for_his_own_state_takes_that_of_others_off_the_backend_he_got(make_world):
    world = make_world(cap=2)
    app, other, third = world.app(), world.app(), world.app()
    first = insert(world, other, warnings=1)
    third.query(b"SELECT 'third'")
    assert first.take() == [SHOW_WARNINGS, INSERT_ID]  # on its way, to `other`
    second = insert(world, app, warnings=1)
    other.query(b"SELECT LAST_INSERT_ID()")
    assert second.take() == [SHOW_WARNINGS, INSERT_ID]
    app.query(b"SHOW WARNINGS")
    first.rows(WARNING, columns=3)
    first.rows(b"7")
    assert first.take()[-1] == query(b"SELECT 'third'")
    first.rows(b"third")  # `app` gets this one, where nothing of it is
    assert app.take() == []
    second.rows(WARNING, columns=3)
    second.rows(b"7")
    assert app.rows() == [list(WARNING)]
    while (sent := second.take()) != [query(b"SELECT LAST_INSERT_ID()")]:
        assert sent
        second.ok()
    second.rows(b"7")
    assert other.rows() == [[b"7"]]


def test_who_waits_for_his_own_state_goes_on_when_both_are_there_in_any_order(make_world):
    world = make_world(cap=2)
    app, other, third = world.app(), world.app(), world.app()
    first = insert(world, other, warnings=1)
    third.query(b"SELECT 'third'")
    first.take()
    second = insert(world, app, warnings=1)
    other.query(b"SELECT LAST_INSERT_ID()")
    second.take()
    second.rows(WARNING, columns=3)
    second.rows(b"7")
    assert second.take() == []
    first.rows(WARNING, columns=3)
    first.rows(b"7")
    while (sent := second.take()) != [query(b"SELECT LAST_INSERT_ID()")]:
        assert sent
        second.ok()


@pytest.mark.parametrize("large", [False, True], ids=["waiting", "large statement"])
def test_who_leaves_while_he_takes_anothers_state_off_gives_the_backend_back(make_world, large: bool):
    world = make_world(cap=2, session__request_buffer="1KiB")
    app, other, third = world.app(), world.app(), world.app()
    first = insert(world, other, warnings=1)
    third.query(b"SELECT 'third'")
    first.take()
    second = insert(world, app, warnings=1)
    if large:
        other.raw((5000).to_bytes(3, "little") + b"\0\x03INSERT")
    else:
        other.query(b"SELECT LAST_INSERT_ID()")
    assert second.take() == [SHOW_WARNINGS, INSERT_ID]
    other.leave()
    second.rows(WARNING, columns=3)
    second.rows(b"7")
    while second.slot != "idle":
        assert second.take()
        second.ok(2)
    app.query(b"SHOW WARNINGS")
    assert app.rows() == [list(WARNING)]


def test_a_large_statement_takes_anothers_state_off_before_it_is_read(make_world):
    world = make_world(cap=2, session__request_buffer="1KiB")
    app, other = world.app(), world.app()
    server = insert(world, app, warnings=1)
    other.raw((5000).to_bytes(3, "little") + b"\0\x03SELECT")
    assert server.take() == [SHOW_WARNINGS, INSERT_ID]
    app.query(b"SHOW WARNINGS")
    server.rows(WARNING, columns=3)
    server.rows(b"7")
    assert app.rows() == [list(WARNING)]
    other.raw(b"x" * 4993)
    while (sent := server.take())[0][:7] != b"\x03SELECT":
        server.ok(len(sent))


def test_the_capture_of_an_older_backend_does_not_replace_newer_warnings(world: World):
    app, other = world.app(), world.app()
    first = insert(world, app, warnings=1)
    other.query(b"SELECT 1")
    first.take()
    app.query(b"UPDATE t SET a = 1")
    second = world.server
    assert second.take() == [query(b"UPDATE t SET a = 1")]
    second.ok(affected_rows=3)
    app.take()
    first.rows(WARNING, columns=3)
    first.rows(b"7")
    assert not app.client.has_diagnostics
    app.query(b"SHOW WARNINGS")
    assert second.take() == [SHOW_WARNINGS]


@both_dialects
def test_warnings_are_answered_from_here_once_another_client_has_the_backend(make_world, capabilities):
    world = make_world(cap=1)
    app = world.app(capabilities)
    server = insert(world, app, warnings=1)
    take_over(server, world.app())
    app.query(b"SHOW WARNINGS")
    assert app.rows() == [list(WARNING)]
    app.query(b"show errors")
    assert app.rows() == []
    app.query(b"SHOW COUNT(*) WARNINGS")
    assert app.rows() == [[b"1"]]
    app.query(b"SELECT @@error_count AS n")
    assert app.rows() == [[b"0"]]
    assert server.take() == []
    assert not app.client.has_diagnostics  # on MySQL a SELECT is the end of them


@both_dialects
def test_row_count_and_found_rows_are_answered_from_here(make_world, capabilities):
    world = make_world(cap=1)
    app, other = world.app(capabilities), world.app()
    app.query(b"UPDATE t SET a = 1")
    server = world.server
    server.take()
    server.ok(affected_rows=3)
    app.take()
    world.settled(other)
    app.query(b"SELECT ROW_COUNT()")
    assert app.rows() == [[b"3"]]
    app.query(b"SELECT ROW_COUNT()")
    assert app.rows() == [[b"-1"]]
    app.query(b"SELECT a FROM t")
    server.take()
    server.rows(b"1", b"2", b"3")
    assert len(app.rows()) == 3
    world.settled(other)
    app.query(b"SELECT FOUND_ROWS() AS n")
    payloads = app.take()
    assert b"\x01n" in payloads[1]
    app.query(b"SELECT FOUND_ROWS()")
    assert app.rows() == [[b"1"]]


@pytest.mark.parametrize(
    "text",
    [b"SELECT ROW_COUNT(), 1", b"SELECT 1 + FOUND_ROWS()", b"GET DIAGNOSTICS @n = ROW_COUNT", b"SHOW WARNINGS LIMIT 1"],
)
def test_what_cannot_be_answered_or_restored_is_an_error_in_words(make_world, text):
    world = make_world(cap=1)
    app, other = world.app(), world.app()
    server = insert(world, app, warnings=1)
    take_over(server, other)
    app.send(query(text), query(b"SELECT 2"))
    sent = app.take()
    assert len(sent) == 1 and sent[0][1:3] == (1235).to_bytes(2, "little")
    assert server.take() == [query(b"SELECT 2")]
    server.rows(b"2")
    assert app.rows() == [[b"2"]]


def test_in_a_transaction_the_server_always_answers_itself(make_world):
    world = make_world(cap=1)
    app = world.app()
    app.query(b"BEGIN")
    server = world.server
    server.take()
    server.ok(status=c.SERVER_STATUS_IN_TRANS | c.SERVER_STATUS_AUTOCOMMIT)
    app.take()
    world.app().query(b"SELECT 1")
    for text in (b"SELECT 1", b"SELECT 1 + FOUND_ROWS()", b"SHOW WARNINGS"):
        app.query(text)
        assert server.take() == [query(text)]
        server.rows(b"1", status=c.SERVER_STATUS_IN_TRANS | c.SERVER_STATUS_AUTOCOMMIT)


def test_an_answer_of_ours_does_not_let_a_command_sent_ahead_lose_its_lease(world: World):
    app, other = world.app(), world.app()
    first = insert(world, app, warnings=1)
    other.query(b"SELECT 1")
    first.take()
    app.send(query(b"SHOW WARNINGS"), query(b"SELECT 2"))
    world.spin()
    first.rows(WARNING, columns=3)
    first.rows(b"7")
    second = world.server
    assert second.take() == [query(b"SELECT 2")]
    assert second.slot == "leased" and second.backend.client is app.client
    second.rows(b"2")
    assert second.slot == "idle"


def test_after_a_question_of_ours_the_answers_come_from_here(world: World):
    app = world.app()
    app.query(b"SET NAMES latin1")
    server = world.server
    server.take()
    server.ok(trackers=trackers(variable(b"character_set_connection", b"latin1")))
    app.take()
    assert server.take() == [query(b"SELECT @@collation_connection")]
    server.rows(b"latin1_german1_ci")
    assert app.client.settings.collation == b"latin1_german1_ci"
    app.query(b"SELECT ROW_COUNT()")
    assert app.rows() == [[b"0"]]
    assert server.take() == []


def test_calculated_found_rows_are_read_behind_the_statement(world: World):
    app = world.app()
    app.query(b"SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1")
    server = world.server
    server.take()
    server.rows(b"1")
    assert len(app.rows()) == 1
    assert server.take() == [query(b"SELECT FOUND_ROWS()")]
    app.send(query(b"SELECT FOUND_ROWS()"))
    assert app.take() == []
    server.rows(b"1234")
    assert app.rows() == [[b"1234"]]


def test_a_backend_that_takes_the_only_last_insert_id_with_it_is_an_error_in_words(world: World):
    app = world.app()
    server = insert(world, app, warnings=1)
    server.die()
    app.query(b"SELECT LAST_INSERT_ID()")
    assert app.error().code == c.ER_NOT_SUPPORTED_YET
    app.query(b"SHOW WARNINGS")
    assert app.error().code == c.ER_NOT_SUPPORTED_YET
    assert world.settled(app) is not server
    insert(world, app, ident=8)
    app.query(b"SELECT LAST_INSERT_ID()")
    assert world.server.take() == [query(b"SELECT LAST_INSERT_ID()")]


def test_a_backend_lost_while_it_is_asked_lets_its_owner_and_its_new_client_go_on(make_world):
    world = make_world(cap=1)
    app, other = world.app(), world.app()
    first = insert(world, app)
    other.query(b"SELECT 1")
    assert first.take() == [INSERT_ID]
    first.die()
    assert world.server is not first
    assert world.server.take() == [query(b"SELECT 1")]
    world.server.rows(b"1")
    app.query(b"SELECT LAST_INSERT_ID()")
    assert app.error().code == c.ER_NOT_SUPPORTED_YET


def test_soft_state_is_captured_before_an_idle_backend_is_retired(make_world):
    world = make_world(cap=1, pool__idle_timeout="2s")
    app = world.app()
    server = insert(world, app)
    world.relay._retire()
    world.advance(3)
    assert server.slot == "closing"
    assert server.take() == [INSERT_ID]
    server.rows(b"7")
    assert server.take() == [QUIT]
    server.die()
    app.query(b"SELECT LAST_INSERT_ID()")
    assert world.server.take() == [query(b"SET last_insert_id=7")]


def test_who_leaves_before_using_his_lease_does_not_take_anothers_soft_state_with_him(make_world):
    world = make_world(cap=1, session__request_buffer="1KiB")
    app, other = world.app(), world.app()
    server = insert(world, app)
    other.raw((5000).to_bytes(3, "little") + b"\0\x03INSERT")
    assert server.slot == "leased"
    other.leave()
    assert server.take() == [INSERT_ID]
    server.rows(b"7")
    server.take()
    server.ok(2)
    assert server.slot == "idle"
    app.query(b"SELECT LAST_INSERT_ID()")
    assert server.take()[-1] == query(b"SET last_insert_id=7")


# What follows an ERR


def test_an_err_is_followed_by_a_question_for_the_flags(world: World):
    app = world.app()
    app.query(b"UPDATE t SET a = 1")
    server = world.server
    server.take()
    server.err(1213)
    assert app.error().code == 1213
    assert server.take() == [SHOW_WARNINGS, PROBE]
    server.rows((b"Error", b"1213", b"Deadlock"), columns=3)
    server.eof()
    assert server.slot == "idle"
    world.settled(world.app())
    app.query(b"SHOW ERRORS")
    assert app.rows() == [[b"Error", b"1213", b"Deadlock"]]
    assert app.client.row_count == -1


def test_the_error_of_a_failing_change_of_schema_is_its_clients_own(make_world):
    world = make_world(cap=1, mariadb=True)
    app, other = world.app(), world.app()
    server = world.settled(app)
    app.send(init_db(b"nosuch"))
    server.take()
    server.err(1044)
    app.take()
    other.query(b"SELECT 1")
    assert server.take() == [SHOW_WARNINGS, CLEAR_WARNINGS]
    server.rows((b"Error", b"1044", b"Access denied"), columns=3)
    server.ok()
    assert server.take() == [query(b"SELECT 1")]
    server.rows(b"1")
    app.query(b"SHOW WARNINGS")
    assert app.rows() == [[b"Error", b"1044", b"Access denied"]]


def test_a_plain_statement_that_fails_outside_a_transaction_of_mariadb_needs_no_question(make_world):
    world = make_world(mariadb=True)
    app = world.app()
    app.query(b"SELECT nothing")
    server = world.server
    server.take()
    server.err(1054)
    assert server.take() == []
    assert server.slot == "idle"


def test_in_a_transaction_the_question_tells_whether_it_is_still_open(world: World):
    app = world.app()
    trans = c.SERVER_STATUS_IN_TRANS | c.SERVER_STATUS_AUTOCOMMIT
    app.query(b"BEGIN")
    server = world.server
    server.take()
    server.ok(status=trans)
    app.query(b"UPDATE t SET a = 1")
    server.take()
    server.err(1205)
    assert server.take() == [PROBE]
    server.eof(status=trans)
    assert server.slot == "leased"
    app.take()
    app.query(b"SHOW WARNINGS")
    assert server.take() == [SHOW_WARNINGS], "they are still there"
    server.rows((b"Error", b"1205", b"Timeout"), columns=3, status=trans)
    app.query(b"UPDATE t SET a = 1")
    server.take()
    server.err(1213)
    assert server.take() == [PROBE]
    server.eof()
    assert server.slot == "idle"
    app.take()
    world.app().query(b"SELECT 1")
    assert SHOW_WARNINGS in server.take(), "it is no longer the client's own"
    assert world.relay.stats.transactions == 1


def test_a_pinned_session_is_not_asked(world: World):
    app = world.app()
    app.query(b"SET @a = 0 + 1")
    server = world.server
    server.take()
    server.ok()
    app.query(b"UPDATE t SET a = 1")
    server.take()
    server.err()
    assert server.take() == []
    assert server.slot == "leased"


def test_what_an_err_withheld_is_taken_from_the_answer_to_the_question(world: World):
    app = world.app()
    app.query(b"CALL p()")
    server = world.server
    server.take()
    server.ok()
    app.send(bytes((c.COM_RESET_CONNECTION,)))
    server.take()
    app = world.app()
    server = world.settled(app)
    app.query(b"UPDATE t SET a = 1")
    server.take()
    server.err()
    server.take()
    server.rows(columns=3)
    server.eof(trackers=trackers(variable(b"sql_mode", b"ANSI")))
    assert app.client.settings.value(b"sql_mode") == b"ANSI"
    assert server.backend.settings is app.client.settings


@pytest.mark.parametrize("cap", [1, 2])
def test_a_prepare_on_a_backend_that_another_client_had_does_not_make_its_row_count_ours(make_world, cap: int):
    world = make_world(cap=cap)
    app, other = world.app(), world.app()
    app.query(b"UPDATE t SET a = 1")
    first = world.server
    first.take()
    first.ok(affected_rows=3)
    app.take()
    other.query(b"BEGIN")
    first.take()
    first.ok(status=c.SERVER_STATUS_IN_TRANS if cap == 2 else c.SERVER_STATUS_AUTOCOMMIT)
    app.send(bytes((c.COM_STMT_PREPARE,)) + b"SELECT 1")
    world.spin()
    second = world.server
    assert (second is first) == (cap == 1)
    second.take()
    second.prepared(7)
    app.take()
    app.query(b"SELECT ROW_COUNT()")
    assert app.rows() == [[b"3"]]


def test_the_error_of_a_prepare_can_be_asked_for(world: World):
    app = world.app()
    app.send(bytes((c.COM_STMT_PREPARE,)) + b"SELEKT")
    world.spin()
    server = world.server
    server.take()
    server.err(1064)
    app.take()
    app.query(b"SHOW WARNINGS")
    assert server.take() == [SHOW_WARNINGS]


@pytest.mark.parametrize("text", [b"SHOW WARNINGS", b"SHOW ERRORS"])
def test_a_list_without_warnings_is_the_servers_own_with_its_columns(world: World, text: bytes):
    app = world.app()
    app.query(text)
    assert world.server.take()[-1] == query(text + b" LIMIT 0")


def row_of(app: App) -> bytes:
    """The only value of an answer of ours."""
    return app.take()[-2][1:]


def taken(world: World, *texts: bytes, rows: int = 1) -> App:
    """A client that has run statements, and whose backend somebody else has taken since."""
    app, other = world.app(), world.app()
    server = None
    for text in texts:
        app.query(text)
        server = server or world.server
        server.take()
        if text.startswith((b"SELECT", b"SHOW")):
            server.rows(*[b"1"] * rows)
        else:
            server.ok()
        app.take()
    other.query(b"SELECT 0")
    world.server.take()
    world.server.rows(b"1")
    other.take()
    return app


FOUND_ROWS = b"SELECT FOUND_ROWS()"


@pytest.mark.parametrize("texts", [(b"SELECT a FROM t",), (b"SELECT a FROM t", b"SET sql_notes = 1", b"COMMIT")])
def test_found_rows_are_known_behind_a_select(make_world, texts: tuple[bytes, ...]):
    app = taken(make_world(cap=1), *texts, rows=3)
    app.query(FOUND_ROWS)
    assert row_of(app) == b"3"


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT a FROM t LIMIT 3 OFFSET 2",
        b"SELECT a FROM t LIMIT 2, 3",
        b"SHOW CREATE TABLE t",
        b"UPDATE t SET a = 1",
        b"SELECT a FROM t; DO 1",
        b"SELECT MAX(id) FROM t",
    ],
)
def test_what_else_makes_of_found_rows_is_refused_in_words(make_world, text: bytes):
    app = taken(make_world(cap=1), b"SELECT a FROM t", text)
    app.query(FOUND_ROWS)
    assert app.error().code == 1235


def test_found_rows_of_a_backend_that_was_taken_are_another_clients_until_the_next_select(make_world):
    world = make_world(cap=1)
    app = taken(world, b"SELECT a FROM t", rows=3)
    app.query(b"SET sql_notes = 0")
    world.server.take()
    world.server.ok()
    app.take()
    app.query(FOUND_ROWS)
    assert world.server.take() == []
    assert row_of(app) == b"3"


def test_a_list_of_warnings_in_another_form_never_shows_those_of_a_restore(make_world):
    world = make_world(cap=1)
    app = taken(world, b"SELECT a FROM t")
    app.query(b"SHOW WARNINGS LIMIT 5")
    assert world.server.take() == [CLEAR_WARNINGS]
    world.server.ok()
    assert world.server.take() == [query(b"SHOW WARNINGS LIMIT 5")]


def test_several_statements_count_as_the_last_one_does(make_world):
    world = make_world(cap=1)
    app, other = world.app(), world.app()
    app.query(b"SELECT 1; UPDATE t SET a = 1")
    more = c.SERVER_STATUS_AUTOCOMMIT | c.SERVER_MORE_RESULTS
    world.server.take()
    world.server.rows(b"1", status=more)
    world.server.ok(affected_rows=7)
    app.take()
    other.query(b"SELECT 0")
    world.server.take()
    world.server.rows(b"1")
    app.query(b"SELECT ROW_COUNT()")
    assert row_of(app) == b"7"
