"""What things look like: colours by the names that every terminal has, and characters."""

from __future__ import annotations

from typing import NamedTuple

BADGES = {"ok": "bold black on green", "warning": "bold black on yellow", "alarm": "bold white on red"}
DIM, HEADING, TITLES, SELECTED, QUESTION = "dim", "bold", "dim underline", "reverse", "bold white on red"
# Slots of the budget; `refused` are those that the server does not give.
STATES = {
    "leased": "yellow",
    "opening": "cyan",
    "resetting": "blue",
    "closing": "red",
    "idle": "green",
    "free": "dim",
    "refused": "bold red",
}


class Glyphs(NamedTuple):
    """What is drawn with: `bar` is by the keys of STATES, `spark` from low to high."""

    bar: dict[str, str]
    spark: str
    ellipsis: str
    marker: str


UNICODE = Glyphs(dict(zip(STATES, "█▓▓▒░·×", strict=True)), "▁▂▃▄▅▆▇█", "…", "▸")
ASCII = Glyphs(dict(zip(STATES, "#+rx=.X", strict=True)), "_.-=+*#@", "~", ">")
