"""The rules a script is made by: what they are, and the collection of all.

A rule makes the next steps of a session: one as a rule, several where they belong together (they are played one by
one, and other sessions come between them). Its weight says how often it is tried; `when` says whether it makes sense
now, which keeps a script from being mostly errors.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from .model import Model, Models
from .steps import LOOSE, Setup, Step

ONE, TWO = "zqd_one", "zqd_two"  # the schemas

_SLOT = re.compile(r"\$(\w+?)\b")
_WORDS = ("x", "yy", "Zz", "it''s", "ä", "a b", "", "10", "1.5e3", "%")
_LITERALS = ("1", "-7", "0", "2.50", "1e3", "'x'", "'10'", "NULL", "TRUE", "x'4D'", "_latin1'q'", "CURDATE() IS NULL")


@dataclass
class Scene:
    """Where a rule is asked: who speaks, what is known."""

    rng: random.Random
    session: int
    models: Models
    setup: Setup
    mariadb: bool
    rule: str = ""

    @property
    def model(self) -> Model:
        return self.models.each[self.session]

    def step(self, op: str, text: str = "", **fields: object) -> Step:
        """A step of this session, with the slots of the text filled."""
        return Step(self.session, self.rule, op, self.fill(text), **fields)  # type: ignore[arg-type]

    def fill(self, text: str) -> str:
        """`text` with a value for every slot."""
        return _SLOT.sub(self._slot, text) if "$" in text else text

    def _slot(self, match: re.Match[str]) -> str:
        rng = self.rng
        name = match[1]
        if name == "n":
            return str(self.session)
        if name == "small":
            return str(rng.randrange(5))
        if name == "big":
            return str(rng.randrange(1000, 100000))
        if name == "word":
            return rng.choice(_WORDS)
        if name == "literal":
            return rng.choice(_LITERALS)
        if name == "var":
            return rng.choice("abc")
        if name == "schema":
            return rng.choice((ONE, TWO))
        raise KeyError(name)


When = Callable[[Scene], bool]


@dataclass(frozen=True)
class Rule:
    """One rule of the grammar."""

    name: str
    weight: float
    make: Callable[[Scene], list[Step]]
    when: When | None = None
    only: str = ""  # the one kind of server that has it


def texts(
    name: str,
    weight: float,
    *choices: str,
    effect: int = 0,
    when: When | None = None,
    only: str = "",
    loose: bool = False,
    prepared: bool = True,
) -> Rule:
    """A rule of statements as text; now and then, unless not `prepared`, over the binary protocol."""
    effect |= LOOSE if loose else 0

    def make(scene: Scene) -> list[Step]:
        text = scene.rng.choice(choices)
        if not prepared or scene.rng.random() < 0.85:
            return [scene.step("query", text, effect=effect)]
        handle = f"once{scene.rng.randrange(3)}"
        text = scene.fill(text)
        return [
            scene.step("prepare", text, handle=handle),
            scene.step("execute", handle=handle, effect=effect),
            scene.step("close", handle=handle),
        ]

    return Rule(name, weight, make, when, only)


def used(*rules: str) -> When:
    """When the session has used one of the rules."""
    return lambda scene: not scene.model.rules.isdisjoint(rules)


def holding(scene: Scene) -> bool:
    """When the session may hold a backend."""
    return scene.model.holds


def in_transaction(scene: Scene) -> bool:
    """When the session may be in a transaction."""
    return scene.model.in_transaction or scene.model.autocommit_off


def grammar(mariadb: bool) -> list[Rule]:
    """All rules that this kind of server has."""
    from . import rules_data, rules_pins, rules_protocol, rules_settings

    other = "mysql" if mariadb else "mariadb"
    everything = (*rules_settings.RULES, *rules_data.RULES, *rules_pins.RULES, *rules_protocol.RULES)
    names = [rule.name for rule in everything]
    assert len(names) == len(set(names)), "two rules of one name"
    return [rule for rule in everything if rule.only != other]
