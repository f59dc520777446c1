"""A seed makes an example: how sessions connect, and their steps, interleaved one by one.

The same seed makes the same example on the same kind of server, whatever the server answers: what a session may do
next is decided by the model, not by answers.
"""

from __future__ import annotations

import itertools
import random
from collections import deque

from .grammar import ONE, TWO, Scene, grammar
from .model import Models
from .steps import Setup, Step

_TRIES = 40


def example(seed: int, mariadb: bool, length: int, slots: int | None = None) -> tuple[Setup, list[Step]]:
    """The example of a seed: `length` steps, or a few more."""
    rng = random.Random(seed)
    setup = _setup(rng, slots)
    return setup, Generator(rng, setup, mariadb).steps(length)


def _setup(rng: random.Random, slots: int | None) -> Setup:
    count = rng.randint(3, 12)
    alike = rng.random() < 0.4  # then all share backends; else the ways to connect are mixed
    first = _connection(rng)
    sessions = tuple(first if alike else _connection(rng) for _ in range(count))
    return Setup(slots or rng.choice((1, 2, 2)), sessions)


def _connection(rng: random.Random) -> tuple[bool, bool, bool, str]:
    return rng.random() < 0.6, rng.random() < 0.6, rng.random() < 0.2, rng.choice((ONE, ONE, ONE, ONE, TWO, ""))


class Generator:
    """Makes the steps of one example."""

    def __init__(self, rng: random.Random, setup: Setup, mariadb: bool) -> None:
        self.rng = rng
        self.models = Models(setup, mariadb)
        self.rules = grammar(mariadb)
        self.weights = list(itertools.accumulate(rule.weight for rule in self.rules))
        count = len(setup.sessions)
        self.scenes = [Scene(rng, number, self.models, setup, mariadb) for number in range(count)]
        self.waiting: list[deque[Step]] = [deque() for _ in range(count)]

    def steps(self, length: int) -> list[Step]:
        """The steps, with what ends the holds behind them."""
        steps: list[Step] = []
        number = 0
        while len(steps) < length:
            number = self._next_session(number)
            step = self._step(number)
            if step is None:
                continue
            if not self.models.may_run(step):
                if not self.models.knows(step):
                    self.waiting[number].clear()  # something else, then
                continue
            if self.waiting[number] and self.waiting[number][0] is step:
                self.waiting[number].popleft()
            self.models.apply(step)
            if step.op in ("reset", "change_user", "quit", "vanish"):
                self.waiting[number].clear()
            steps.append(step)
        return steps

    def _next_session(self, last: int) -> int:
        if self.rng.random() < 0.35 and self._may_go_on(last):
            return last
        able = [i for i in range(len(self.scenes)) if self._may_go_on(i)]
        # Now and then somebody who has to wait, for what needs no backend.
        return self.rng.choice(able) if self.rng.random() < 0.97 else self.rng.randrange(len(self.scenes))

    def _may_go_on(self, number: int) -> bool:
        return self.models.each[number].holds or self.models.holders() < self.models.slots

    def _step(self, number: int) -> Step | None:
        waiting = self.waiting[number]
        if waiting:
            return waiting[0]
        scene = self.scenes[number]
        for _ in range(_TRIES):
            rule = self.rng.choices(self.rules, cum_weights=self.weights)[0]
            if rule.when is not None and not rule.when(scene):
                continue
            scene.rule = rule.name
            made = rule.make(scene)
            if made:
                waiting.extend(made)
                return waiting[0]
        return None
