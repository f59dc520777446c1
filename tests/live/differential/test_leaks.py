"""The differential test finds what it is for: each planted leak, with an example that is known to show it.

`LEAKS` in `leaks` are the faults. The seeds are those at which a search (`python -m tests.live.differential --plant
NAME`) has found them; the examples behind it are played as well, for a minute, so that a change of the grammar, after
which a seed makes another script, does not need a new seed at once.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.servers import Server

from .check import check
from .leaks import LEAKS
from .play import Stage
from .poolers import poolers
from .world import World

# Of those that the first seed does not show.
SEEDS = {
    "a_variable_is_not_restored": 5,
    "autocommit_is_not_restored": 2,
    "handlers_do_not_pin": 9,
    "named_locks_do_not_pin": 4,
    "one_transactions_settings_do_not_pin": 7,
    "opaque_statements_do_not_pin": 7,
    "parameter_types_are_not_remembered": 12,
    "text_prepared_statements_do_not_pin": 3,
    "user_variables_do_not_pin": 12,
}
SECONDS = 60.0


def test_there_are_leaks_enough() -> None:
    assert len(LEAKS) >= 15


@pytest.mark.parametrize("name", sorted(LEAKS))
def test_a_planted_leak_is_found(mariadb: Server, tmp_path: Path, name: str) -> None:
    end = time.monotonic() + SECONDS
    with World(mariadb) as world, poolers(mariadb, tmp_path, name) as running:
        stage = Stage(world, running)
        seed = SEEDS.get(name, 1)
        while check(stage, seed, shrink_for=0) is None:
            assert time.monotonic() < end, f"not found within {SECONDS:g} s, {stage.played} statements"
            seed += 1
