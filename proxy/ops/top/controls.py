"""What keys do: a state without a terminal. `press` gives what is to be done outside, if anything is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from .lists import PAGES, SORTS, Item, Victim

NORMAL, FILTER, CONFIRM, HELP = "normal", "filter", "confirm", "help"
_PAGE = 10

KEYS = (
    ("q  Ctrl-C", "quit"),
    ("↑ ↓  PgUp PgDn", "select; Home, End: the first, the last; Esc: nothing"),
    ("k", "kill the selected client, or the clients of the selected holder, after y"),
    ("Tab  Shift-Tab", "one list on the whole screen: holders, leases, waits, accounts, pins, statements, clients"),
    ("s  ← →", f"sort by {', '.join(SORTS)}"),
    ("/", "only who has this in account, program or address; empty: everybody"),
    ("p", "pause updates, and go on"),
    ("h  ?", "this; any key ends it"),
)


class Action(Enum):
    """What is left to whoever has the outside."""

    QUIT = "quit"
    KILL = "kill"
    LOOK = "look"  # now, because more has to be shown


@dataclass(slots=True)
class Controls:
    """What was chosen with the keys so far."""

    mode: str = NORMAL
    page: str = PAGES[0]
    sort: str = SORTS[0]
    filter: str = ""
    typed: str = ""
    selected: Hashable = None
    at: int = 0  # where the selected item was last
    paused: bool = False
    victim: Victim | None = None
    message: str = ""

    def settle(self, items: Sequence[Item]) -> None:
        """The items that are there now: where the selected one has gone, the one in its place is selected."""
        if self.selected is None:
            return
        keys = [item.key for item in items]
        if self.selected in keys:
            self.at = keys.index(self.selected)
        elif self.mode == NORMAL:
            self.at = max(0, min(self.at, len(keys) - 1))
            self.selected = keys[self.at] if keys else None

    def press(self, key: str, items: Sequence[Item]) -> Action | None:
        """A key was pressed, while these items were there."""
        if key == "interrupt":
            return Action.QUIT
        if self.mode == FILTER:
            return self._type(key)
        if self.mode == CONFIRM:
            return self._confirm(key)
        if self.mode == HELP:
            self.mode = NORMAL
            return None
        self.message = ""
        return self._normal(key, items)

    def _normal(self, key: str, items: Sequence[Item]) -> Action | None:
        match key:
            case "q":
                return Action.QUIT
            case "up" | "down" | "page up" | "page down" | "home" | "end":
                self._move(key, items)
            case "escape":
                self.selected = None
            case "k":
                self._ask(items)
            case "s" | "right":
                self.sort = _next(SORTS, self.sort, 1)
            case "left":
                self.sort = _next(SORTS, self.sort, -1)
            case "tab" | "shift tab":
                self.page = _next(PAGES, self.page, 1 if key == "tab" else -1)
                self.selected = None
                return Action.LOOK
            case "/":
                self.mode, self.typed = FILTER, self.filter
            case "p" | " ":
                self.paused = not self.paused
            case "h" | "?":
                self.mode = HELP
        return None

    def _move(self, key: str, items: Sequence[Item]) -> None:
        if not items:
            return
        last = len(items) - 1
        keys = [item.key for item in items]
        if self.selected not in keys:
            at = last if key == "end" else 0
        else:
            now = keys.index(self.selected)
            steps = {"up": -1, "down": 1, "page up": -_PAGE, "page down": _PAGE, "home": -now, "end": last}
            at = max(0, min(last, now + steps[key]))
        self.at, self.selected = at, keys[at]

    def _ask(self, items: Sequence[Item]) -> None:
        item = next((item for item in items if item.key == self.selected), None)
        if item is None:
            self.message = "nothing is selected: ↑ and ↓ do"
        elif item.victim is None:
            self.message = "there is no client to kill: select a client or a holder"
        else:
            self.mode, self.victim = CONFIRM, item.victim

    def _confirm(self, key: str) -> Action | None:
        if key in ("y", "Y"):
            self.mode = NORMAL
            return Action.KILL
        if key in ("n", "N", "q", "escape"):
            self.mode, self.victim = NORMAL, None
            self.message = "nobody was killed"
        return None

    def _type(self, key: str) -> Action | None:
        if key == "escape":
            self.mode = NORMAL
        elif key == "enter":
            self.mode, self.filter = NORMAL, self.typed.strip()
            return Action.LOOK
        elif key == "backspace":
            self.typed = self.typed[:-1]
        elif key == "erase":
            self.typed = ""
        elif len(key) == 1 and key.isprintable():
            self.typed += key
        return None


def _next(values: Sequence[str], value: str, step: int) -> str:
    return values[(values.index(value) + step) % len(values)]
