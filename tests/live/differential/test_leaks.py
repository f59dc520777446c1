"""The differential test finds what it is for: each planted leak, with an example that is known to show it.

`LEAKS` in `leaks` are the faults. The seeds are those at which a search (`python -m tests.live.differential --plant
NAME`) has found them; a few examples behind each are played as well, so that a change of the grammar, after which a
seed makes another script, does not need a new one at once.
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

SEEDS: dict[str, int] = {}
MARIADB_ONLY = {"set_at_at_is_not_read_back"}
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
