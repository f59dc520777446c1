"""Who hoards connections, and who merely has a pool."""

from __future__ import annotations

import pytest

from proxy.relay.holders import UNUSED
from tests.relay.world import App, World

READ = b"SELECT v FROM t WHERE id = 7"
LIMIT = 10


def used(world: World, *apps: App) -> None:
    """Each runs its one statement, one after the other."""
    for app in apps:
        world.loop.now += 0.001
        world.settled(app, READ)


def unused(world: World) -> int:
    """After a while: the connections of the holders of that kind."""
    world.advance(3.0)
    world.relay.holders.look(world.loop.now)
    return sum(len(holder.clients) for holder in world.relay.holders.current() if holder.kind == UNUSED)


def a_leak(world: World, turns: int, seconds: float = 0.03) -> None:
    """Turns of a loop, each with a connection of its own, which take that long."""
    for _ in range(turns):
        used(world, world.app())
        world.loop.now += seconds


@pytest.mark.parametrize(("turns", "counted"), [(LIMIT - 1, 0), (LIMIT, LIMIT), (97, 97)])
def test_connections_that_are_opened_one_after_the_other_and_used_once_are_a_leak(
    world: World, turns: int, counted: int
) -> None:
    a_leak(world, turns)
    assert unused(world) == counted


def test_connections_that_a_burst_opens_and_then_leaves_in_the_pool_are_not(world: World) -> None:
    used(world, *[world.app() for _ in range(50)])
    assert unused(world) == 0


def test_a_burst_may_be_interrupted_when_its_first_statement_has_ended(world: World) -> None:
    a_leak(world, LIMIT, 0.0005)
    assert unused(world) == 0


def test_a_fast_loop_is_a_leak_when_there_are_more_of_them(world: World) -> None:
    a_leak(world, 97, 0.0005)
    assert unused(world) == 97


def test_a_pool_that_grows_with_each_burst_is_not(world: World) -> None:
    pool: list[App] = []
    for _ in range(3):
        pool += [world.app() for _ in range(LIMIT)]
        used(world, *pool)
        assert unused(world) == 0


def test_a_leak_behind_a_burst_is_one(world: World) -> None:
    used(world, *[world.app() for _ in range(5)])
    a_leak(world, LIMIT)
    assert unused(world) == LIMIT + 5
