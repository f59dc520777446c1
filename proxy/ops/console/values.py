"""What passes between the parts of the console."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from proxy.relay.relay import Relay

if TYPE_CHECKING:
    from .live import Live

Value = str | int | float | None
Row = tuple[Value, ...]


class Column(NamedTuple):
    """A column of an answer, and what it means."""

    name: str
    kind: Literal["text", "int", "float"]
    help: str


@dataclass(frozen=True, slots=True)
class Context:
    """What commands read and act on. `stop(at_once)` ends the process, after a drain or without."""

    relay: Relay
    live: Live
    stop: Callable[[bool], None]
    started_at: float


class ConsoleError(Exception):
    """A command cannot be carried out; the text says why, and what could be."""

    def __init__(self, text: str, code: int = 1105, state: str = "HY000") -> None:
        super().__init__(text)
        self.code = code
        self.state = state


def harmless(text: str) -> str:
    """What clients say of themselves may hold what a terminal obeys; people read this in one."""
    if text.isprintable():
        return text
    return "".join([one if one.isprintable() else one.encode("unicode_escape").decode() for one in text])
