"""A client that reads slowly: how far the server is read ahead of it, and when the backend is free."""

from __future__ import annotations

from proxy.wire.packets import build_ok, lenenc_int
from tests.relay.world import IN_TRANS, App, Server, World, build_column, frames, query, result, text_row

ROW = text_row((b"x" * 200,))


def begun(world: World, app: App) -> Server:
    """A result whose end is yet to come."""
    app.query(b"SELECT a FROM t")
    server = next(server for server in world.servers if server.backend is app.client.backend)
    assert server.take() == [query(b"SELECT a FROM t")]
    server.send(frames([lenenc_int(1), build_column(b"a", 0xFD, 20), ROW]))
    return server


def falls_behind(app: App, size: int) -> None:
    """The client's transport holds so many bytes now."""
    app.transport.buffered = size
    if not app.client.slow:
        app.client.pause_writing()


def catches_up(app: App) -> None:
    app.transport.buffered = 0
    app.client.resume_writing()


def rows(server: Server, seq: int, n: int = 1, *, end: bool = False) -> None:
    payloads = [ROW] * n + ([build_ok(header=0xFE)] if end else [])
    server.send(frames(payloads, seq))


def test_a_backend_is_read_until_the_read_ahead_is_full_and_again_when_the_client_has_caught_up(make_world):
    world = make_world(session__read_ahead="4KiB")
    app = world.app()
    server = begun(world, app)
    falls_behind(app, 4096)
    assert server.transport.reading
    app.transport.buffered = 4097
    rows(server, 4)
    assert not server.transport.reading
    assert world.relay.stats.read_ahead_bytes == 4097
    catches_up(app)
    assert server.transport.reading
    assert world.relay.stats.read_ahead_bytes == 0
    rows(server, 5, end=True)
    assert server.slot == "idle"


def test_a_backend_is_free_when_the_server_has_finished_whether_or_not_the_client_has_read(make_world):
    world = make_world(cap=1, session__read_ahead="64KiB")
    app, other = world.app(), world.app()
    server = begun(world, app)
    falls_behind(app, 40_000)
    rows(server, 4, 3, end=True)
    assert server.slot == "idle"
    assert app.client.slow
    other.query(b"SELECT 2")
    assert server.take() == [query(b"SELECT 2")]


def test_a_backend_that_was_paused_by_the_last_chunk_is_read_again(make_world):
    world = make_world(cap=1, session__read_ahead="1KiB")
    app = world.app()
    server = begun(world, app)
    falls_behind(app, 500)
    app.transport.buffered = 5000
    rows(server, 4, 3, end=True)
    assert server.slot == "idle"
    assert server.transport.reading


def test_what_we_ask_behind_a_result_does_not_wait_for_a_slow_reader(make_world):
    world = make_world(cap=1, session__read_ahead="1KiB")
    app = world.app()
    app.query(b"SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1")
    server = world.server
    server.take()
    falls_behind(app, 500)
    app.transport.buffered = 5000
    server.send(result(1, [ROW]))
    assert server.take() == [query(b"SELECT FOUND_ROWS()")]
    assert server.transport.reading
    server.rows(b"12")
    assert server.slot == "idle"


def test_the_total_over_all_clients_is_bounded(make_world):
    world = make_world(session__read_ahead="64KiB", session__read_ahead_total="80KiB")
    one, two = world.app(), world.app()
    first = begun(world, one)
    second = begun(world, two)
    falls_behind(one, 60_000)
    rows(first, 4)
    assert first.transport.reading
    falls_behind(two, 30_000)
    assert not second.transport.reading
    assert world.relay.stats.read_ahead_bytes == 90_000
    catches_up(two)
    assert second.transport.reading
    assert world.relay.stats.read_ahead_bytes == 60_000
    one.leave()
    assert world.relay.stats.read_ahead_bytes == 0
    rows(first, 5, end=True)
    first.take()
    first.ok(2)
    rows(second, 4, end=True)


def test_a_slow_reader_that_leaves_lets_the_server_be_read_to_the_end(make_world):
    world = make_world(session__read_ahead="1KiB")
    app = world.app()
    server = begun(world, app)
    falls_behind(app, 5000)
    assert not server.transport.reading
    app.leave()
    assert server.transport.reading
    assert server.slot == "leased"
    rows(server, 4, end=True)
    assert server.slot == "resetting"
    server.take()
    server.ok(2)
    assert server.slot == "idle"


def test_a_backend_that_dies_while_paused_is_let_go(make_world):
    world = make_world(session__read_ahead="1KiB")
    app = world.app()
    server = begun(world, app)
    falls_behind(app, 5000)
    server.die()
    assert app.closed
    assert world.relay.registry.budget.in_use == 0


def test_in_a_transaction_a_slow_reader_pauses_its_own_backend_again(make_world):
    world = make_world(session__read_ahead="1KiB")
    app = world.app()
    app.query(b"BEGIN")
    server = world.server
    server.take()
    server.ok(status=IN_TRANS)
    falls_behind(app, 500)
    app.query(b"SELECT a FROM t")
    server.take()
    app.transport.buffered = 5000
    server.send(result(1, [ROW], status=IN_TRANS))
    assert server.transport.reading
    app.transport.buffered = 900
    app.query(b"SELECT b FROM t")
    assert server.take() == [query(b"SELECT b FROM t")]
    app.transport.buffered = 5000
    server.send(frames([lenenc_int(1), build_column(b"a", 0xFD, 20), ROW]))
    assert not server.transport.reading
    catches_up(app)
    assert server.transport.reading
