"""The words of a verdict: what a text does to the session, and how the effects of its statements add up."""

from __future__ import annotations

from typing import Final, NamedTuple

from proxy.session import pins as p
from proxy.session.holds import Hold
from proxy.session.uservars import Assignments

# Soft state that a statement reads (protocol.md C.6).
NEED_INSERT_ID: Final = 1
NEED_WARNINGS: Final = 2
NEED_ROW_COUNT: Final = 4
NEED_FOUND_ROWS: Final = 8
NEED_LAST_BACKEND: Final = 16  # LASTVAL(), @@last_gtid: only the backend that ran the statement before knows

# Flags
PLAIN: Final = 1
SETS_INSERT_ID: Final = 2
CHARSET: Final = 4
KEEPS_DIAGNOSTICS: Final = 8
CALC_FOUND_ROWS: Final = 16
TRANSACTION_CONTROL: Final = 32
CREDENTIALS: Final = 64
LOCAL_INFILE: Final = 128
IGNORE_TRACKERS: Final = 256
TIMESTAMP_DEFAULT: Final = 512
NAMES: Final = 2048  # it takes something by its name, gives it back or sets it: `holds`, `assigns`
RESULTS_COLLATION: Final = 4096  # SET NAMES: the collation is that of the results, too
PINS_ON_SUCCESS: Final = 1024  # if it ends with ERR it has done nothing: its pins need not be set

# Only true of a whole text when true of each of its statements.
_ALL_FLAGS: Final = PLAIN | KEEPS_DIAGNOSTICS | PINS_ON_SUCCESS

# Statements that can be answered here: from captured soft state, or over the control slot.
LOCAL_NONE: Final = 0
SHOW_WARNINGS: Final = 1
SHOW_ERRORS: Final = 2
SHOW_COUNT_WARNINGS: Final = 3
SHOW_COUNT_ERRORS: Final = 4
SELECT_ROW_COUNT: Final = 5
SELECT_FOUND_ROWS: Final = 6
COUNTS: Final = (SHOW_COUNT_WARNINGS, SHOW_COUNT_ERRORS)
# KILL of an id that only we know; the id is the label.
KILL_CONNECTION: Final = 7
KILL_QUERY: Final = 8
# EXECUTE of what PREPARE … FROM has prepared; its name is the label.
EXECUTE_TEXT: Final = 9
# SELECT CONNECTION_ID(); the name of its column is the label.
SELECT_CONNECTION_ID: Final = 10

# Statements that read and write data, by their first word.
DML: Final = (b"select", b"insert", b"update", b"delete", b"replace", b"with", b"values", b"table", b"do")

# Connection ids from here on are ours: real ids do not reach it, so that no KILL of ours can hit a stranger.
FIRST_VIRTUAL_ID: Final = 0x80000000


class Verdict:
    """What a text does to the session. Shared between equal texts: never change one."""

    __slots__ = (
        "assigns",
        "collation",
        "flags",
        "holds",
        "kind",
        "local",
        "local_label",
        "needs",
        "pins",
        "readback",
        "unpins",
    )

    def __init__(
        self,
        kind: bytes,
        pins: int = 0,
        unpins: int = 0,
        needs: int = 0,
        flags: int = 0,
        readback: tuple[bytes, ...] = (),
        holds: tuple[Hold, ...] = (),
        assigns: Assignments = (),
        collation: bytes = b"",
        local: int = LOCAL_NONE,
        local_label: bytes = b"",
    ) -> None:
        self.kind = kind
        self.pins = pins
        self.unpins = unpins
        self.needs = needs
        self.flags = flags
        self.readback = readback
        self.holds = holds
        self.assigns = assigns
        self.collation = collation
        self.local = local
        self.local_label = local_label

    def __repr__(self) -> str:
        reasons = "|".join(p.names(self.pins)) or "free"
        return f"<Verdict {self.kind.decode('latin-1')} {reasons} needs={self.needs} flags={self.flags}>"


class Effect(NamedTuple):
    """What one statement does; the parts of a Verdict that add up."""

    pins: int = 0
    unpins: int = 0
    needs: int = 0
    flags: int = 0
    readback: tuple[bytes, ...] = ()
    holds: tuple[Hold, ...] = ()  # these three of a statement that is alone in its text
    assigns: Assignments = ()
    collation: bytes = b""  # of SET NAMES … COLLATE, in lower case

    def then(self, other: Effect) -> Effect:
        """This statement and after it the other one, in one text."""
        return Effect(
            self.pins | other.pins,
            (self.unpins & ~other.pins) | other.unpins,
            self.needs | other.needs,
            ((self.flags | other.flags) & ~_ALL_FLAGS) | (self.flags & other.flags & _ALL_FLAGS),
            self.readback + tuple(name for name in other.readback if name not in self.readback),
        )

    def either(self, other: Effect) -> Effect:
        """This one or the other, nobody knows which."""
        return self.then(other)._replace(unpins=self.unpins & other.unpins)

    def plus(self, pins: int = 0, needs: int = 0, flags: int = 0) -> Effect:
        return self._replace(pins=self.pins | pins, needs=self.needs | needs, flags=self.flags | flags)


NOTHING: Final = Effect()
UNKNOWN: Final = Effect(pins=p.OPAQUE, needs=NEED_INSERT_ID, flags=LOCAL_INFILE)
