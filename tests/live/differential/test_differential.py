"""The same scripts of interleaved sessions, directly and through a pooler with one or two slots: no difference.

Twenty thousand statements on each server in every run of the tests; `make soak-differential` goes on for a million.
What a failure prints can be played again.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server

from .check import check
from .generator import example
from .grammar import grammar
from .model import playable
from .play import Stage
from .poolers import poolers
from .probes import variables
from .steps import from_text, to_text
from .world import World

STATEMENTS = 20_000
PORTIONS = 4
FIRST_SEED = 1


@pytest.fixture(scope="module")
def stage(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server and its poolers."""
    with World(server) as world, poolers(server, tmp_path_factory.mktemp("differential")) as running:
        yield Stage(world, running)


@pytest.mark.parametrize("portion", range(PORTIONS))
def test_sessions_through_the_pooler_are_the_same_as_direct_ones(stage: Stage, portion: int) -> None:
    goal = stage.played + STATEMENTS // PORTIONS
    seed = FIRST_SEED + 1000 * portion
    while stage.played < goal:
        failure = check(stage, seed)
        if failure is not None:
            pytest.fail(failure.report(), pytrace=False)
        seed += 1


def test_many_variables_are_compared(stage: Stage) -> None:
    assert len(variables(stage.variables)) >= 120


@pytest.mark.parametrize("mariadb", [True, False], ids=["mariadb", "mysql"])
def test_a_seed_makes_one_script_which_keeps_to_the_rules_and_can_be_written_down(mariadb: bool) -> None:
    assert len(grammar(mariadb)) >= 60
    for seed in range(5):
        setup, steps = example(seed, mariadb, 200)
        assert (setup, steps) == example(seed, mariadb, 200)
        assert playable(setup, steps, mariadb)
        assert 3 <= len(setup.sessions) <= 12
        again = from_text(to_text(setup, steps))
        assert [str(step) for step in again[1]] == [str(step) for step in steps]
