"""Who leaves when: clients and backends that end in every phase of a command, and what is left of the other one."""

from __future__ import annotations

import pytest

from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import lenenc_int
from tests.relay.world import (
    IN_TRANS,
    INSERT_ID,
    PROBE,
    QUIT,
    RESET,
    SHOW_WARNINGS,
    STATE_CHANGE,
    App,
    Server,
    World,
    build_column,
    execute,
    frames,
    init_db,
    prepare,
    query,
    result,
    schema,
    text_row,
    trackers,
)

HALF_A_RESULT = frames([lenenc_int(1), build_column(b"a", 0xFD, 20), text_row((b"1",))])


def in_transaction(world: World) -> tuple[App, Server]:
    app = world.app()
    app.query(b"BEGIN")
    server = world.server
    server.take()
    server.ok(status=IN_TRANS)
    app.take()
    return app, server


def ends_reset(world: World, server: Server) -> None:
    """The backend is reset, and then anybody's."""
    assert server.take() == [RESET, world.relay.profile.track_command]
    assert server.slot == "resetting"
    server.ok(2)
    assert server.slot == "idle"
    assert server.backend.settings is None and server.backend.last_client is None


# Clients that leave


def test_a_client_that_leaves_while_it_waits_leaves_the_queue(make_world):
    world = make_world(cap=1)
    holder, server = in_transaction(world)
    app = world.app()
    app.query(b"SELECT 1")
    app.leave()
    assert not world.relay.registry.queue.line
    assert world.relay.registry.queue.abandoned == 1
    holder.query(b"COMMIT")
    server.take()
    server.ok()
    assert server.take() == []
    assert server.slot == "idle"


def test_a_client_that_leaves_while_its_backend_is_opened_leaves_an_idle_one(make_world):
    world = make_world()
    world.hold_openings = True
    app = world.app()
    app.query(b"SELECT 1")
    app.leave()
    world.opening.pop().set_result(None)
    world.spin()
    assert world.server.slot == "idle"
    assert world.server.take() == []


def test_a_client_that_leaves_while_another_is_asked_for_its_soft_state_takes_nothing_along(make_world):
    world = make_world(cap=1)
    owner, app = world.app(), world.app()
    owner.query(b"SELECT LAST_INSERT_ID(7)")
    server = world.server
    server.take()
    server.rows(b"7")
    app.query(b"SELECT 1")
    assert server.take() == [INSERT_ID]
    app.leave()
    server.rows(b"7")
    assert owner.client.insert_id == 7
    ends_reset(world, server)


def test_a_client_that_leaves_while_it_waits_for_its_own_soft_state_gives_its_lease_back(world: World):
    app, other = world.app(), world.app()
    app.query(b"SELECT LAST_INSERT_ID(7)")
    first = world.server
    first.take()
    first.rows(b"7")
    other.query(b"SELECT 1")
    assert first.take() == [INSERT_ID]
    app.query(b"SELECT LAST_INSERT_ID()")
    second = world.server
    app.leave()
    ends_reset(world, second)
    first.rows(b"7")
    assert first.take() == [query(b"SELECT 1")]


def test_a_client_that_leaves_during_a_statement_leaves_it_running_to_its_end(world: World):
    app = world.app()
    app.query(b"UPDATE t SET a = 1")
    server = world.server
    server.take()
    app.leave()
    assert server.take() == []
    assert server.slot == "leased"
    server.ok(affected_rows=1)
    ends_reset(world, server)


def test_a_client_that_leaves_in_the_middle_of_a_result_has_the_rest_discarded(world: World):
    app = world.app()
    app.query(b"SELECT a FROM t")
    server = world.server
    server.take()
    server.send(HALF_A_RESULT)
    app.leave()
    server.send(frame(text_row((b"2",)), 4))
    assert server.slot == "leased"
    server.send(frame(b"\xfe\0\0\2\0\0\0", 5))
    ends_reset(world, server)


def test_a_client_that_leaves_during_the_aftercare_has_its_backend_reset_behind_it(world: World):
    app = world.app()
    app.query(b"UPDATE t SET a = 1")
    server = world.server
    server.take()
    server.err()
    assert server.take() == [SHOW_WARNINGS, PROBE]
    app.leave()
    server.rows(columns=3)
    assert server.take() == []
    server.eof()
    ends_reset(world, server)


def test_a_client_that_leaves_in_a_transaction_has_it_rolled_back_by_the_reset(world: World):
    app, server = in_transaction(world)
    app.leave()
    ends_reset(world, server)


def test_a_client_that_says_goodbye_behind_its_statement_gets_its_answer(world: World):
    app = world.app()
    server = world.settled(app)
    app.send(query(b"SELECT 1"), QUIT)
    server.take()
    server.rows(b"1")
    assert app.rows() == [[b"1"]]
    assert app.closed
    assert server.slot == "idle"


def test_who_waits_gets_the_backend_of_a_client_that_left_only_after_its_reset(make_world):
    world = make_world(cap=1)
    app, server = in_transaction(world)
    waiting = world.app()
    waiting.query(b"SELECT 1")
    app.leave()
    assert server.take() == [RESET, world.relay.profile.track_command]
    server.ok(2)
    sent = server.take()
    assert sent[0].startswith(b"\x03SET NAMES 'utf8mb4' COLLATE ")
    server.ok()
    server.eof()
    assert server.take() == [query(b"SELECT 1")]


# Backends that die


def test_an_idle_backend_that_dies_is_forgotten(world: World):
    app = world.app()
    server = world.settled(app)
    server.die()
    assert world.relay.registry.budget.in_use == 0
    assert not app.closed
    assert world.settled(app) is not server


def test_an_idle_backend_that_speaks_unasked_is_closed(world: World):
    server = world.settled(world.app())
    server.err(4031, b"The client was disconnected by the server because of inactivity.")
    assert server.take() == [QUIT]
    assert server.slot == "closing"
    server.die()


def test_a_backend_that_dies_in_a_statement_is_2013_and_the_statement_is_not_sent_again(world: World):
    app = world.app()
    app.query(b"UPDATE t SET a = 1")
    world.server.take()
    world.server.die()
    assert app.error().code == c.CR_SERVER_LOST
    assert not app.closed
    assert len(world.servers) == 1
    app.query(b"SELECT 1")
    assert world.server.take() == [query(b"SELECT 1")]


def test_a_client_with_libmariadb_is_told_in_codes_that_it_accepts(make_world):
    world = make_world(cap=1, queue__timeout_down="1s")
    app = world.app()
    app.client.libmariadb = True
    app.query(b"SELECT 1")
    world.server.take()
    world.refusal = ConnectionRefusedError("refused")
    world.server.die()
    lost = app.error()
    assert (lost.code, lost.state) == (1927, b"70100")
    assert lost.message.startswith(b"Lost connection")
    app.query(b"SELECT 2")
    world.advance(2)
    down = app.error()
    assert (down.code, down.state) == (1429, b"HY000")
    assert down.message.startswith(b"Can't connect to MySQL server on")
    world.refusal = None


def test_a_backend_that_dies_in_the_middle_of_a_result_ends_the_client_without_another_packet(world: World):
    app = world.app()
    app.query(b"SELECT a FROM t")
    world.server.take()
    world.server.send(HALF_A_RESULT)
    app.take()
    world.server.die()
    assert app.take() == []
    assert app.closed


def test_a_backend_that_dies_between_two_results_ends_the_client(world: World):
    app = world.app()
    app.query(b"SELECT 1")
    world.server.take()
    world.server.send(result(1, [text_row((b"1",))], status=c.SERVER_MORE_RESULTS | c.SERVER_STATUS_AUTOCOMMIT))
    app.take()
    world.server.die()
    assert app.take() == []
    assert app.closed


def test_a_backend_that_dies_in_a_transaction_ends_the_client_in_a_statement_with_2013(world: World):
    app, server = in_transaction(world)
    app.query(b"UPDATE t SET a = 1")
    server.take()
    server.die()
    assert app.error().code == c.CR_SERVER_LOST
    assert app.closed


def test_a_backend_that_dies_in_an_idle_transaction_ends_the_client_without_a_word(world: World):
    app, server = in_transaction(world)
    server.die()
    assert app.take() == []
    assert app.closed


def test_a_backend_that_dies_under_a_pinned_session_ends_it(world: World):
    app = world.app()
    app.query(b"SET @a = 0 + 1")
    world.server.take()
    world.server.ok(trackers=trackers(STATE_CHANGE))
    app.take()
    world.server.die()
    assert app.take() == []
    assert app.closed


def test_a_backend_that_dies_in_the_aftercare_of_ordinary_dml_does_not_end_the_client_that_has_its_answer(world: World):
    app = world.app()
    app.query(b"UPDATE t SET a = 1")
    world.server.take()
    world.server.err()
    assert app.error().code == 1064
    world.server.die()
    assert app.take() == []
    assert not app.closed


def test_a_backend_that_dies_in_a_reset_frees_its_slot(world: World):
    app, server = in_transaction(world)
    app.leave()
    assert server.slot == "resetting"
    server.die()
    assert server.slot == "free"


def test_a_backend_that_dies_while_it_prepares_in_a_transaction_is_2013_and_the_end(world: World):
    app = world.app()
    app.send(prepare(b"SELECT 1"))
    world.spin()
    server = world.server
    server.take()
    server.prepared(7, 0, 1)
    app.query(b"BEGIN")
    server.take()
    server.ok(status=IN_TRANS)
    app.take()
    server.backend.statements.clear()
    app.send(execute(1))
    assert server.take() == [prepare(b"SELECT 1")]
    server.die()
    assert app.error().code == c.CR_SERVER_LOST
    assert app.closed
    assert len(world.servers) == 1


def test_a_server_that_speaks_nonsense_is_cut_off(world: World):
    app = world.app()
    app.query(b"SELECT 1")
    server = world.server
    server.take()
    server.send(frame(b"\0", 1))
    assert server.transport.aborted
    assert server.slot == "closing"
    server.die()
    assert app.error().code == c.CR_SERVER_LOST
    assert not app.closed


def test_bytes_behind_the_end_of_a_response_are_nobodys_and_end_the_backend(world: World):
    app = world.app()
    app.query(b"SELECT 1")
    server = world.server
    server.take()
    server.send(result(1, [b"\x011"]) + b"\x01")
    assert app.rows() == [[b"1"]]
    assert server.transport.aborted
    server.die()
    assert app.closed


@pytest.mark.parametrize("answer", [b"\0", b"\xfbx", b""])
def test_nonsense_in_answer_to_our_own_commands_cuts_the_server_off(world: World, answer: bytes):
    app = world.app(schema=b"shop")
    app.query(b"SELECT 1")
    server = world.server
    assert server.take() == [init_db(b"shop")]
    server.send(frame(answer, 1))
    assert server.transport.aborted
    world.hold_openings = True
    server.die()
    assert app.take() == []
    assert app.client.waiter is not None
    app.leave()


def test_a_dropped_schema_is_no_schema(world: World):
    app = world.app(schema=b"shop")
    first = world.settled(app)
    app.query(b"DROP DATABASE shop")
    first.take()
    first.ok(trackers=trackers(schema(b"")))
    app.take()
    assert app.client.settings.schema is None
    app.query(b"SELECT 1")
    assert world.server is not first
    assert world.server.take() == [query(b"SELECT 1")]
