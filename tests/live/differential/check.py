"""Finds differences, and makes a failing script as short as it gets.

A script is shortened by leaving out steps, first whole runs of them and whole sessions, then one by one, as long as
it keeps to the rules of `model` and still ends in a difference at a step of the same rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .generator import example
from .model import playable
from .play import Difference, Stage
from .steps import Setup, Step, to_text

LENGTH = 350  # steps of an example


@dataclass
class Failure:
    """A difference, and the shortest script that shows it."""

    seed: int
    server: str
    setup: Setup
    script: list[Step]
    difference: Difference

    def report(self) -> str:
        """Everything needed to play it again."""
        lines = [f"a difference: seed {self.seed} on {self.server}", str(self.difference), "", "the script:"]
        lines.append(f"  {self.setup}")
        lines += [f"  {number} {step}" for number, step in enumerate(self.script)]
        lines += ["", "to play it again:"]
        lines.append(f"  python -m tests.live.differential --server {self.server} --seed {self.seed} --examples 1")
        lines.append(f"  python -m tests.live.differential --server {self.server} --script - <<'END'")
        return "\n".join(lines) + "\n" + to_text(self.setup, self.script) + "END\n"


def check(stage: Stage, seed: int, length: int = LENGTH, shrink_for: float = 30.0) -> Failure | None:
    """Play the example of a seed; None if both sides are alike."""
    world = stage.world
    setup, steps = example(seed, world.mariadb, length)
    difference = stage.play(setup, steps)
    if difference is None:
        return None
    server = world.server.flavour
    if not shrink_for:
        return Failure(seed, server, setup, steps[: difference.index + 1], difference)

    probing = difference.index >= len(steps)
    steps = [*steps[: difference.index + 1]]

    def fails(script: list[Step]) -> Difference | None:
        if not playable(setup, script, world.mariadb):
            return None
        found = stage.play(setup, script, probing=probing)
        return found if found is not None and found.step.rule == difference.step.rule else None

    script, shortest = shrink(steps, fails, shrink_for)
    return Failure(seed, server, setup, script, shortest or difference)


def shrink(
    steps: list[Step], fails: Callable[[list[Step]], Difference | None], seconds: float
) -> tuple[list[Step], Difference | None]:
    """The shortest script found within so many seconds, and its difference (None if it did not fail again)."""
    end = time.monotonic() + seconds
    best: Difference | None = None

    def attempt(script: list[Step]) -> bool:
        nonlocal steps, best
        found = fails(script)
        if found is None:
            return False
        steps, best = script[: found.index + 1], found
        return True

    for number in {step.session for step in steps}:
        if time.monotonic() < end:
            attempt([step for step in steps if step.session != number])
    size = max(1, len(steps) // 2)
    while size and time.monotonic() < end:
        start = len(steps) - size
        shorter = False
        while start > -size and time.monotonic() < end:
            first = max(0, start)
            if attempt([*steps[:first], *steps[start + size :]]):
                shorter = True
                start = min(start, len(steps))
            start -= size
        if size > 1 or not shorter:
            size //= 2
    return steps, best
