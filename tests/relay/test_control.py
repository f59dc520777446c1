"""The control slot: KILL by the ids that clients know, and slots that are free only when the server is done."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.relay.connect import Refused
from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import Err
from tests.relay.world import IN_TRANS, QUIT, RESET, World, query


def kill(ident: int, what: bytes = b"") -> bytes:
    return query(b"KILL %s%d" % (what, ident))


def process_kill(ident: int) -> bytes:
    return bytes((c.COM_PROCESS_KILL,)) + ident.to_bytes(4, "little")


def busy(world: World, statement: bytes = b"SELECT SLEEP(9)"):
    """An app whose statement runs, and the backend where it does."""
    app = world.app()
    app.query(statement)
    assert world.server.take() == [query(statement)]
    return app, world.server


# KILL


@pytest.mark.parametrize(
    "text",
    [
        b"KILL QUERY %d",
        b"kill  query %d ;",
        b"KILL HARD QUERY %d",
        b"KILL SOFT query %d",
        b"/* from app.py */ KILL QUERY %d -- now",
        b"# at once\nkill query/**/(%d)",
    ],
)
def test_a_running_statement_is_killed_on_its_own_backend_beside_a_full_cap(
    make_world: Callable[..., World], text: bytes
):
    world = make_world(cap=1)
    victim, server = busy(world)
    killer = world.app()
    killer.query(text % victim.client.ident)
    assert world.control.take() == [b"\x03KILL QUERY %d" % server.backend.thread_id]
    assert killer.take() == []
    world.control.ok()
    world.control_ends()
    assert killer.ok()
    server.err(1317, b"Query execution was interrupted", b"70100")
    assert victim.error().code == 1317
    assert len(world.servers) == 1


def test_a_backend_is_held_for_its_victim_until_the_kill_has_arrived(make_world: Callable[..., World]):
    world = make_world(cap=1)
    victim, server = busy(world)
    killer, other = world.app(), world.app()
    killer.send(kill(victim.client.ident, b"QUERY "))
    other.query(b"SELECT 2")
    assert len(world.control.take()) == 1
    server.rows(b"1")  # the statement has ended by itself before the KILL was executed
    assert victim.rows() == [[b"1"]]
    assert server.take() == [], "the other client's statement could be hit"
    world.control.ok()
    world.control_ends()
    assert killer.ok()
    assert server.take() == [query(b"SELECT 2")]
    server.rows(b"2")
    assert other.rows() == [[b"2"]]


def test_a_victim_that_leaves_meanwhile_leaves_its_backend_held(make_world: Callable[..., World]):
    world = make_world(cap=1)
    victim, server = busy(world)
    killer, other = world.app(), world.app()
    killer.send(kill(victim.client.ident, b"QUERY "))
    other.query(b"SELECT 2")
    assert len(world.control.take()) == 1
    victim.leave()
    server.rows(b"1")
    assert server.take() == []
    world.control.ok()
    world.control_ends()
    assert server.take()[0] == RESET
    server.ok(2)
    server.ok(len(server.take()))  # the other client's settings
    assert server.take() == [query(b"SELECT 2")]
    assert killer.ok()


def test_a_statement_whose_client_is_lost_is_killed_if_that_is_wanted(make_world: Callable[..., World]):
    world = make_world(cap=1, session__on_client_lost="kill")
    lost, server = busy(world)
    other = world.app()
    other.query(b"SELECT 2")
    lost.leave()
    assert world.control.take() == [b"\x03KILL QUERY %d" % server.backend.thread_id]
    server.err(1317)
    assert server.take() == [], "the KILL has not arrived yet"
    world.control.ok()
    world.control_ends()
    assert server.take()[0] == RESET
    server.ok(2)
    server.ok(len(server.take()))
    assert server.take() == [query(b"SELECT 2")]


def test_a_statement_whose_client_is_lost_runs_to_its_end_by_default(make_world: Callable[..., World]):
    world = make_world(cap=1)
    lost, server = busy(world)
    lost.leave()
    assert not world.controls
    server.rows(b"0")
    assert server.take()[0] == RESET


@pytest.mark.parametrize("command", [kill, process_kill])
def test_the_connection_of_an_idle_client_is_closed_here(world: World, command):
    victim, killer = world.app(), world.app()
    killer.send(command(victim.client.ident))
    world.spin()
    assert victim.closed
    assert killer.ok()
    assert not world.servers and not world.controls


def test_the_connection_of_a_client_in_a_transaction_is_killed_on_the_server_too(world: World):
    victim = world.app()
    server = world.settled(victim)
    victim.query(b"BEGIN")
    server.take()
    server.ok(status=IN_TRANS)
    victim.take()
    killer = world.app()
    killer.send(kill(victim.client.ident))
    world.spin()
    assert world.control.take() == [b"\x03KILL CONNECTION %d" % server.backend.thread_id]
    world.control.ok()
    assert victim.closed
    server.die()
    world.control_ends()
    assert killer.ok()
    assert server.slot == "free"


def test_a_waiting_statement_is_interrupted_in_the_queue(make_world: Callable[..., World]):
    world = make_world(cap=1)
    busy(world)
    victim, killer = world.app(), world.app()
    victim.query(b"SELECT 2")
    killer.send(kill(victim.client.ident, b"QUERY "))
    world.spin()
    error = victim.error()
    assert (error.code, error.state) == (1317, b"70100")
    assert killer.ok()
    assert not world.relay.registry.statistics().waiting
    assert not victim.closed


def test_an_unknown_id_is_an_unknown_thread(world: World):
    app = world.app()
    app.send(kill(0xFFFFFFF0))
    world.spin()
    assert app.error().code == 1094
    assert not world.servers


def test_an_idle_client_of_another_account_is_not_killed(world: World):
    victim, killer = world.app(user="other"), world.app()
    killer.send(kill(victim.client.ident))
    world.spin()
    (asked,) = world.control.take()
    assert asked.startswith(b"\x03SELECT 1 FROM information_schema.user_privileges")
    world.control.rows()
    world.control_ends()
    assert killer.error().code == 1095
    assert not victim.closed


def test_an_idle_client_of_another_account_is_killed_by_who_may(world: World):
    victim, killer = world.app(user="other"), world.app(user="root")
    killer.send(kill(victim.client.ident))
    world.spin()
    world.control.take()
    world.control.rows(b"1")
    world.control_ends()
    assert killer.ok()
    assert victim.closed


def test_the_server_decides_about_a_running_client_of_another_account(world: World):
    victim, server = busy(world)
    killer = world.app(user="stranger")
    killer.send(kill(victim.client.ident))
    world.spin()
    world.control.take()
    world.control.err(1095, b"You are not owner of thread %d" % server.backend.thread_id, b"HY000")
    world.control_ends()
    error = killer.error()
    assert (error.code, error.message) == (1095, b"You are not owner of thread %d" % victim.client.ident)
    server.rows(b"1")
    assert victim.rows() == [[b"1"]]


@pytest.mark.parametrize(("mariadb", "code"), [(True, 1927), (False, 1317)])
def test_who_kills_itself_is_told_and_closed(make_world: Callable[..., World], mariadb: bool, code: int):
    app = make_world(mariadb=mariadb).app()
    app.send(kill(app.client.ident))
    app.world.spin()
    assert app.error().code == code
    assert app.closed


def test_a_control_connection_that_is_refused_is_the_answer_to_the_kill(world: World):
    victim, server = busy(world)
    killer = world.app()
    world.control_refusal = Refused(Err(1226, b"42000", b"max_user_connections"))
    killer.send(kill(victim.client.ident))
    world.spin()
    assert killer.error().code == 1226
    server.rows(b"1")
    assert victim.rows() == [[b"1"]]
    assert server.slot == "idle"


def test_what_was_sent_behind_a_kill_waits_for_it(world: World):
    victim, _ = busy(world)
    killer = world.app()
    killer.send(kill(victim.client.ident, b"QUERY "), bytes((c.COM_PING,)))
    world.spin()
    assert killer.take() == []
    world.control.take()
    world.control.ok()
    world.control_ends()
    assert len(killer.take()) == 2


def test_ids_of_the_server_go_to_the_server(world: World):
    app = world.app()
    app.query(b"KILL 5")
    assert world.server.take() == [query(b"KILL 5")]
    assert not world.controls


# Slots


def broken(world: World):
    """A backend that was cut off while its statement may still run."""
    app, server = busy(world)
    server.send(frame(b"\0", 1))
    server.die()
    assert app.error().code == c.CR_SERVER_LOST
    return server


def test_a_connection_that_we_cut_keeps_its_slot_until_the_server_has_let_go(make_world: Callable[..., World]):
    world = make_world(cap=1)
    server = broken(world)
    assert server.slot == "closing"
    waiting = world.app()
    waiting.query(b"SELECT 2")
    assert len(world.servers) == 1
    world.processlist(server)
    assert world.control.take() == [b"\x03KILL CONNECTION %d" % server.backend.thread_id]
    world.control.ok()
    world.control_ends()
    assert server.slot == "closing"
    world.advance(0.2)
    world.processlist()
    world.control_ends()
    assert server.slot == "free"
    assert world.server.take() == [query(b"SELECT 2")]


def test_a_server_that_does_not_close_its_side_is_asked_and_made_to(world: World):
    app = world.app()
    app.query(b"SET ROLE admin")
    server = world.server
    server.take()
    server.ok()
    app.leave()
    assert server.slot == "closing" and server.take() == [QUIT]
    world.advance(11)
    world.processlist(server)
    assert world.control.take() == [b"\x03KILL CONNECTION %d" % server.backend.thread_id]
    world.control.ok()
    world.control_ends()
    server.die()
    assert server.slot == "free"


def test_a_connection_that_timed_out_may_still_be_there_on_the_server(world: World):
    server = world.settled(world.app())
    server.transport.lose(TimeoutError("timed out"))
    world.spin()
    assert server.slot == "closing"
    world.processlist()
    world.control_ends()
    assert server.slot == "free"


def test_a_reset_in_the_middle_of_a_statement_is_not_believed_but_one_of_an_idle_backend_is(world: World):
    idle = world.settled(world.app())
    idle.transport.lose(ConnectionResetError())
    world.spin()
    assert idle.slot == "free"
    app, server = busy(world)
    server.transport.lose(ConnectionResetError())
    world.spin()
    assert app.error().code == c.CR_SERVER_LOST
    assert server.slot == "closing"
    world.processlist()
    world.control_ends()
    assert server.slot == "free"


def test_where_nobody_listens_nobody_holds_a_connection(world: World):
    world.control_refusal = ConnectionRefusedError("refused")
    assert broken(world).slot == "free"


def test_a_server_that_was_restarted_has_nothing_of_ours_any_more(world: World):
    server = broken(world)
    world.control.backend.thread_id = 3  # counting has begun again
    world.processlist(server)
    world.control_ends()
    assert server.slot == "free"


def test_while_the_server_cannot_be_asked_the_slot_is_kept_and_waiters_hear_that_it_is_down(
    make_world: Callable[..., World],
):
    world = make_world(cap=1, queue__timeout_down="2s")
    world.control_refusal = OSError("no route to host")
    server = broken(world)
    waiting = world.app()
    waiting.query(b"SELECT 2")
    world.advance(3)
    assert waiting.error().code == c.CR_CONN_HOST_ERROR
    assert server.slot == "closing"
    world.control_refusal = None
    world.advance(1)
    world.processlist()
    world.control_ends()
    assert server.slot == "free"


def test_a_full_server_is_asked_again(world: World):
    world.control_refusal = Refused(Err(1040, b"08004", b"Too many connections"))
    server = broken(world)
    assert server.slot == "closing"
    world.control_refusal = None
    world.advance(1)
    world.processlist()
    world.control_ends()
    assert server.slot == "free"
