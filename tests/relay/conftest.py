"""The world of a test, checked when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.relay.world import World


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """Makes worlds: `make_world(cap=1, mariadb=True, queue__timeout="1s")`."""
    made: list[World] = []

    def make(cap: int = 2, **options: object) -> World:
        made.append(World(cap, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for world in made:
        world.check()
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A MySQL with a cap of two."""
    return make_world()
