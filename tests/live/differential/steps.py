"""One command of one session, as a value: what a script is made of, and what is written down of a failure.

A script is text, a JSON object a line, so that a failure can be kept, cut down by hand and played again. Texts name
things of the direct side (`zqd…`: schemas, locks, transactions); the other side replaces that name by its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

# What a command does to its session's hold on a backend, as far as the author of a script can tell. Too long is
# allowed, too short is not: `Model` says why.
BEGIN, END, AUTOCOMMIT_OFF, AUTOCOMMIT_ON, PIN, CLEAR, LOCK, UNLOCK, SAVE = (1 << i for i in range(9))

KEPT = 1 << 9  # a pin that a reset does not end

# Where the answer is: rows that nobody can foretell (clocks, connection ids) are counted and not compared.
LOOSE = 1 << 16

Value = tuple[str, Any]  # (type on the wire, value)


@dataclass(frozen=True)
class Step:
    """`op` is the command, the rest are its arguments."""

    session: int
    rule: str
    op: str
    text: str = ""
    handle: str = ""
    values: tuple[Value, ...] = ()
    number: int = 0
    effect: int = 0

    def __str__(self) -> str:
        return f"session {self.session}: {self.described()}"

    def described(self) -> str:
        """The command without its session."""
        words = [self.op, self.handle, repr(self.text) if self.text else ""]
        words.append(", ".join(f"{kind} {value!r}" for kind, value in self.values))
        words.append(str(self.number) if self.number else "")
        return " ".join(word for word in words if word) + f"  [{self.rule}]"


@dataclass(frozen=True)
class Setup:
    """What an example is played with: the slots of the pool, and how each session connects."""

    slots: int
    sessions: tuple[tuple[bool, bool, bool, str], ...]  # deprecate_eof, session_track, found_rows, schema


def to_text(setup: Setup, steps: Iterable[Step]) -> str:
    """A script as text."""
    lines = [json.dumps(asdict(setup))]
    for step in steps:
        values = {name: value for name, value in asdict(step).items() if value not in ("", 0, ()) or name == "session"}
        lines.append(json.dumps(values))
    return "\n".join(lines) + "\n"


def from_text(text: str) -> tuple[Setup, list[Step]]:
    """The script in a text."""
    first, *rest = (json.loads(line) for line in text.splitlines() if line.strip())
    setup = Setup(first["slots"], tuple(tuple(one) for one in first["sessions"]))
    steps = []
    for values in rest:
        values["values"] = tuple((kind, _plain(value)) for kind, value in values.get("values", ()))
        steps.append(Step(**({"rule": "", "op": "query"} | values)))
    return setup, steps


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
