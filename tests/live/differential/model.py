"""What the author of a script knows of a session: whether it may hold a backend.

The rule that keeps scripts from waiting for ever: *a session whose `holds` is false never waits for one whose `holds`
is true*. A pool has so many slots; when as many sessions hold, only they go on (and commands that need no backend).
`holds` errs to one side only: a transaction that may be open is open, a pin lasts until the session is reset unless
its end is a statement of its own. Both sides are played by this rule, so a wait in the pooler (1040) is a session that
holds without a documented reason, and is reported as a difference.

Soft state is asked for where both sides know it (`asks`): behind a statement, not behind a command that mybouncer
answers itself; the warnings of MariaDB, which keeps them until a statement uses a table, behind one that does. These
are the limits that `docs/sessions.md` and `docs/answers.md` name.

Locks in the server are kept apart otherwise: a session writes tables of its own, named locks are asked for with a
timeout of 0, and what would block everybody (FLUSH TABLES WITH READ LOCK) is not played.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .steps import AUTOCOMMIT_OFF, AUTOCOMMIT_ON, BEGIN, CLEAR, END, KEPT, LOCK, PIN, SAVE, UNLOCK, Setup, Step

NEEDS_NO_BACKEND = frozenset(("ping", "close", "reset_statement", "set_option", "reset", "quit", "vanish", "kill"))
_STARTS_ANEW = frozenset(("reset", "change_user", "quit", "vanish"))

# Soft state: the warnings, ROW_COUNT(), FOUND_ROWS(), and a sequence's last value, which may always be refused.
WARNINGS, ROW_COUNT, FOUND_ROWS, SEQUENCE = 1, 2, 4, 8
_ASKS = (
    (WARNINGS, re.compile(r"show\s+(warnings|errors|count)|@@[\w.]*(warning|error)_count|diagnostics", re.IGNORECASE)),
    (ROW_COUNT, re.compile(r"\brow_count\b", re.IGNORECASE)),
    (FOUND_ROWS, re.compile(r"\bfound_rows\b", re.IGNORECASE)),
    (SEQUENCE, re.compile(r"\blastval\b|\bprevious value\b", re.IGNORECASE)),
)
_COUNTS = re.compile(r"[(\s]*(select|with)\b.*\bfrom\b", re.IGNORECASE)
_COUNTS_NOT = re.compile(r"(set|use|commit|rollback|begin|start|savepoint)\b", re.IGNORECASE)
_TABLE = re.compile(r"\b(shared|all_types|child|[sm]\d+)\b")
_CHARSET = re.compile(r"char(acter)?[ _]?set", re.IGNORECASE)
_NAMES = re.compile(r"set\b.*(names|char|collation)", re.IGNORECASE)
_CHANGES_NOTHING = frozenset(("close", "long_data"))


def asks(text: str) -> int:
    """The soft state that a text asks for."""
    return sum(bit for bit, pattern in _ASKS if pattern.search(text))


class Model:
    """One session."""

    def __init__(self, mariadb: bool) -> None:
        self.mariadb = mariadb
        self.known = WARNINGS  # soft state that both sides know
        self.rules: set[str] = set()  # those used since the session began
        self.was_reset = False
        self.kept = False  # pinned, and a reset does not end it
        self.pinned = self.in_transaction = self.autocommit_off = self.locked = self.saved = False
        self.private: set[str] = set()  # handles with a cursor or long data
        self.handles: dict[str, Step] = {}  # how they were prepared
        self.typed: dict[str, tuple[str, ...]] = {}  # the types of their last execution
        self.recoded: set[str] = set()  # those typed in another charset than the session has now

    def forget(self) -> None:
        """The session begins anew."""
        self.__init__(self.mariadb)  # type: ignore[misc]

    @property
    def holds(self) -> bool:
        """Whether the session may hold a backend now."""
        pinned = self.pinned or self.kept or self.locked or self.saved or bool(self.private)
        return pinned or self.in_transaction or self.autocommit_off

    def apply(self, step: Step) -> None:
        """The session after its step."""
        effect = step.effect
        if step.op in _STARTS_ANEW or effect & CLEAR:
            kept = self.kept and step.op == "reset"
            self.forget()
            self.kept = kept
            self.was_reset = self.mariadb and step.op == "reset"
            if self.was_reset:
                self.known = 0  # nor are its warnings always gone
            return
        self.known = self._known_behind(step)
        self.rules.add(step.rule)
        if effect & END:
            self.in_transaction = self.saved = False
        if effect & BEGIN:
            self.in_transaction = True
            self.locked = self.saved = False
        if effect & AUTOCOMMIT_OFF:
            self.autocommit_off = True
        if effect & AUTOCOMMIT_ON:
            self.autocommit_off = False
        if effect & PIN:
            self.pinned = True
        if effect & KEPT:
            self.kept = True
        if effect & LOCK:
            self.locked = True
        if effect & UNLOCK:
            self.locked = False
        if effect & SAVE:
            self.saved = self.saved or self.autocommit_off
        if _NAMES.search(self.text(step)):
            self.recoded |= self.typed.keys()
        if step.op == "prepare":
            self.handles[step.handle] = step
            self.private.discard(step.handle)
            self.typed.pop(step.handle, None)
        elif step.op == "execute":
            if step.number & 1:
                self.private.add(step.handle)
            if step.values and not step.number & 2:
                self.recoded.discard(step.handle)
            if step.values and (self.mariadb or step.handle not in self.typed):
                self.typed[step.handle] = tuple(kind for kind, _ in step.values)
        elif step.op == "long_data":
            self.private.add(step.handle)
        elif step.op in ("close", "reset_statement"):
            self.private.discard(step.handle)
            if step.op == "close":
                self.handles.pop(step.handle, None)

    def text(self, step: Step) -> str:
        """The statement that a step executes, if it executes one."""
        if step.op == "execute":
            prepared = self.handles.get(step.handle)
            return prepared.text if prepared is not None else ""
        return step.text if step.op == "query" else ""

    def _known_behind(self, step: Step) -> int:
        if step.op in _CHANGES_NOTHING:
            return self.known
        if step.op in ("ping", "set_option"):
            return self.known & ~ROW_COUNT
        text = self.text(step)
        if step.op == "prepare":
            return self.known & ~WARNINGS if self.mariadb else self.known
        asked = asks(text)
        if asked == WARNINGS and "@@" not in text:
            return WARNINGS
        if not text or asked:
            return 0  # and it may have been refused
        certain = not self.mariadb or _TABLE.search(text)
        counted = FOUND_ROWS if _COUNTS.match(text) and _TABLE.search(text) else 0
        if _COUNTS_NOT.match(text):
            counted = self.known & FOUND_ROWS
        return counted | ROW_COUNT | (WARNINGS if certain else 0)


class Models:
    """All sessions of an example."""

    def __init__(self, setup: Setup, mariadb: bool) -> None:
        self.slots = setup.slots
        self.each = [Model(mariadb) for _ in setup.sessions]

    def may_run(self, step: Step) -> bool:
        """Whether nobody would have to wait, and both sides know what is asked for."""
        if not self.knows(step):
            return False
        if self.each[step.session].holds or step.op in NEEDS_NO_BACKEND:
            return True
        return self.holders() < self.slots

    def knows(self, step: Step) -> bool:
        """Whether both sides know what is asked for."""
        model = self.each[step.session]
        if model.was_reset and _CHARSET.search(model.text(step)):
            return False  # MariaDB has forgotten the schema's charset
        return not asks(model.text(step)) & ~(model.known | SEQUENCE)

    def holders(self) -> int:
        """How many sessions may hold a backend now."""
        return sum(model.holds for model in self.each)

    def apply(self, step: Step) -> None:
        """Take in a step."""
        self.each[step.session].apply(step)
        if step.op == "kill" and step.text == "CONNECTION":
            self.each[step.number].forget()


def playable(setup: Setup, steps: Iterable[Step], mariadb: bool) -> bool:
    """Whether the steps keep to the rule, to the end."""
    models = Models(setup, mariadb)
    for step in steps:
        if not models.may_run(step):
            return False
        models.apply(step)
    return True
