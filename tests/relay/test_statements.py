"""What statements cost, by digest: sums that are true, whether all are counted or some stand for others."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.relay.statements import _BURST, _GAP, OTHERS, Totals
from tests.relay.world import AUTOCOMMIT, IN_TRANS, App, Server, World

SELECT = b"SELECT v FROM t WHERE id = %d"
DIGEST = "SELECT v FROM t WHERE id = ?"


def a_world(**config: Any) -> World:
    return World(1, mariadb=True, **{"holders__idle_in_transaction": "0s", **config})


def run(app: App, text: bytes, seconds: float = 0.0, *, status: int = AUTOCOMMIT, rows: int = 1) -> Server:
    """One statement that takes so long."""
    app.query(text)
    server = app.world.server
    server.take()
    app.world.loop.now += seconds
    server.rows(*[b"1"] * rows, status=status)
    app.take()
    return server


def totals(world: World) -> dict[str, Totals]:
    return {one.digest: one for one in world.relay.statements.top()}


def second_passes(world: World) -> None:
    world.relay.statements.look()


def test_each_statement_of_a_quiet_server_is_counted_by_its_digest() -> None:
    world = a_world()
    app = world.app()
    for n in range(5):
        run(app, SELECT % n, 0.001, rows=n)
        second_passes(world)
    run(app, b"SELECT 'secret'", 0.002)
    found = totals(world)
    one = found[DIGEST]
    assert (one.count, one.rows, one.errors) == (5, 10, 0)
    assert one.seconds == pytest.approx(0.005)
    assert one.lease == pytest.approx(0.005)
    assert one.longest == pytest.approx(0.001)
    assert one.wait == 0
    assert found["SELECT ?"].count == 1


def test_on_a_busy_server_some_stand_for_the_others() -> None:
    world = a_world()
    app = world.app()
    for n in range(5000):
        run(app, SELECT % n, 0.001, rows=2)
    second_passes(world)
    for n in range(3000):
        run(app, SELECT % n, 0.001, rows=2)
    for _ in range(_BURST):
        second_passes(world)
        run(app, SELECT % 1, 0.001, rows=2)
    one = totals(world)[DIGEST]
    assert 8000 - 2 * _GAP <= one.count <= 8000 + _BURST
    assert one.rows == 2 * one.count
    assert one.seconds == pytest.approx(one.count * 0.001)


def test_those_that_take_long_are_all_counted_and_stand_for_themselves() -> None:
    world = a_world()
    app = world.app()
    for n in range(3000):
        run(app, SELECT % n, 0.001)
        if n % 100 == 0:
            run(app, b"SELECT SLEEP(1)", 1.0)
    found = totals(world)
    assert found["SELECT SLEEP(?)"].count == 30
    assert found["SELECT SLEEP(?)"].seconds == pytest.approx(30.0)
    assert abs(found[DIGEST].count - 3000) <= 2 * _GAP


def test_what_passes_in_a_transaction_belongs_to_the_statement_before() -> None:
    world = a_world()
    app = world.app()
    run(app, b"BEGIN", 0.001, status=IN_TRANS)
    run(app, SELECT % 1, 0.002, status=IN_TRANS)
    world.loop.now += 3.0
    run(app, b"COMMIT", 0.001)
    found = totals(world)
    assert found["BEGIN"].lease == pytest.approx(0.001)
    assert found[DIGEST].lease == pytest.approx(3.002)
    assert found[DIGEST].seconds == pytest.approx(0.002)
    assert found["COMMIT"].lease == pytest.approx(0.001)
    assert next(iter(world.relay.statements.top())).digest == DIGEST


def test_what_goes_on_is_shown_before_it_is_over() -> None:
    world = a_world()
    app = world.app()
    run(app, b"BEGIN", 0.001, status=IN_TRANS)
    world.loop.now += 5.0
    assert totals(world)["BEGIN"].lease == pytest.approx(5.001)
    assert totals(world)["BEGIN"].lease == pytest.approx(5.001)  # looking adds nothing
    app.query(SELECT % 1)
    world.loop.now += 3.0
    found = totals(world)
    assert (found[DIGEST].count, found[DIGEST].lease) == (0, pytest.approx(3.0))
    world.server.rows(b"1")
    found = totals(world)
    assert (found[DIGEST].count, found[DIGEST].lease) == (1, pytest.approx(3.0))


def test_a_long_idle_time_is_counted_behind_a_statement_that_was_not() -> None:
    world = a_world()
    app = world.app()
    world.relay.statements._next(1000)
    run(app, SELECT % 1, 0.001, status=IN_TRANS)
    world.loop.now += 3.0
    run(app, SELECT % 1, 0.001, status=IN_TRANS)
    assert totals(world)[DIGEST].lease == pytest.approx(3.0)
    world.loop.now += 2.0
    app.leave()
    assert totals(world)[DIGEST].lease == pytest.approx(5.0)


def test_the_wait_is_counted_for_the_statement_that_waited() -> None:
    world = a_world()
    first, second = world.app(), world.app()
    first.query(b"SELECT SLEEP(2)")
    second.query(SELECT % 1)
    world.loop.now += 2.0
    world.server.rows(b"0")
    world.server.rows(b"1")
    run(second, SELECT % 1)
    found = totals(world)
    assert found[DIGEST].wait == pytest.approx(2.0)
    assert found[DIGEST].lease == 0.0
    assert found["SELECT SLEEP(?)"].wait == 0.0


def test_errors_and_those_whose_client_has_left_are_counted() -> None:
    world = a_world()
    app = world.app()
    app.query(b"SELECT nothing")
    world.server.err()
    app.query(SELECT % 7)
    world.loop.now += 60.0
    left = world.relay.statements.left
    app.leave()
    assert world.relay.statements.left == left  # it stands for itself, and for no other
    found = totals(world)
    assert (found["SELECT nothing"].count, found["SELECT nothing"].errors) == (1, 1)
    assert found[DIGEST].lease == pytest.approx(60.0)


def test_what_is_prepared_counts_by_its_text() -> None:
    world = a_world()
    app = world.app()
    app.send(b"\x16SELECT v FROM t WHERE id = ?")
    world.spin()
    world.server.prepared(1, params=0, columns=1)
    app.take()
    app.send(b"\x17\x01\0\0\0\0\x01\0\0\0")
    world.spin()
    world.loop.now += 0.5
    world.server.rows(b"1")
    assert totals(world)[DIGEST].seconds == pytest.approx(0.5)


def test_memory_is_bounded_and_what_is_pushed_out_is_summed_up() -> None:
    world = a_world(console__statements=10)
    app = world.app()
    for n in range(200):
        run(app, b"SELECT 1 FROM t%dx" % n, 0.1 + n / 1000)
    found = list(world.relay.statements.top())
    assert len(world.relay.statements._by_digest) <= 20
    assert len(found) == 11
    assert found[0].digest == "SELECT ? FROM t199x"
    assert found[-1].digest == OTHERS
    kept = sum(one.count for one in world.relay.statements._by_digest.values())
    assert kept + found[-1].count == 200


def test_off_counts_nothing_and_can_be_switched() -> None:
    world = a_world(console__statements=0)
    app = world.app()
    run(app, SELECT % 1, 5.0)
    second_passes(world)
    run(app, SELECT % 1, 5.0)
    assert not totals(world)
    config = world.relay.config
    world.relay.config = config.model_copy(update={"console": config.console.model_copy(update={"statements": 5})})
    world.relay.statements.configure()
    run(app, SELECT % 1)
    assert totals(world)[DIGEST].count == 1
    world.relay.config = config
    world.relay.statements.configure()
    assert not totals(world)


def lines(world: World, event: str) -> list[dict[str, Any]]:
    return [values for name, values in world.log if name == event]


def test_slow_statements_are_in_the_log_without_their_data() -> None:
    world = a_world(log__statements="slow", log__slow_statement="500ms")
    app = world.app()
    run(app, SELECT % 41, 0.4)
    run(app, SELECT % 42, 0.6, rows=3)
    (line,) = lines(world, "slow statement")
    assert line["statement"] == DIGEST
    assert (line["user"], line["rows"], line["seconds"]) == ("app", 3, 0.6)
    assert "42" not in str(line)


def test_slow_statements_are_in_the_log_without_statistics_too_and_in_full_if_that_is_wanted() -> None:
    world = a_world(log__statements="slow", log__slow_statement="10ms", log__sql="full", console__statements=0)
    app = world.app()
    run(app, SELECT % 42, 0.02)
    app.query(b"ALTER USER joe IDENTIFIED BY 'secret'")
    world.loop.now += 1.0
    world.server.ok()
    assert [line["statement"] for line in lines(world, "slow statement")] == [
        "SELECT v FROM t WHERE id = 42",
        "ALTER USER joe IDENTIFIED BY ?",
    ]
    assert not totals(world)


def test_one_of_all_statements_is_in_the_log_now_and_then() -> None:
    world = a_world(log__statements="sampled", log__sample_every="10s", console__statements=0)
    app = world.app()
    for n in range(50):
        run(app, SELECT % n, 0.001)
        world.loop.now += 0.999
        second_passes(world)
    assert [line["statement"] for line in lines(world, "statement")] == [DIGEST] * 5


def test_a_pin_is_told_with_what_caused_it() -> None:
    world = a_world()
    app = world.app()
    run(app, b"SELECT GET_LOCK('secret', 3)")
    (line,) = lines(world, "session pinned")
    assert line["statement"] == "SELECT GET_LOCK(?, …)"
    world.server.rows(b"1")  # the lock is its own
    run(app, b"CREATE TEMPORARY TABLE x SELECT 5")
    assert lines(world, "session pinned")[1]["statement"] == "CREATE TEMPORARY TABLE x SELECT ?"
