"""Plays a script on both sides in step, and stops at the first difference."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from proxy.wire.packets import parse_row
from tests.conftest import Proxy
from tests.live.raw import ServerError, Target

from .model import FOUND_ROWS, Models, asks
from .probes import ABOUT, probes, variables
from .steps import Setup, Step
from .wire import DIRECT, POOLED, Outcome, Session
from .world import World, at_rest

_END = 10.0
_REFUSAL, _WAITED = 1235, 1040
_OUR_ERRORS = frozenset((1047, 1243, 1421, 1835))  # which the diagnostics area does not know


@dataclass
class Difference:
    """A step whose answers differ."""

    index: int
    step: Step
    direct: object
    pooled: object
    note: str = ""

    def __str__(self) -> str:
        parts = [f"step {self.index}, {self.step}", *([f"  {self.note}"] if self.note else [])]
        direct, pooled = self.direct, self.pooled
        while isinstance(direct, tuple) and isinstance(pooled, tuple) and len(direct) == len(pooled) == 1:
            direct, pooled = direct[0], pooled[0]
        if isinstance(direct, tuple) and isinstance(pooled, tuple) and len(direct) == len(pooled):
            for name, one, other in zip(_names(direct), direct, pooled, strict=True):
                if one != other:
                    parts.append(f"  {name}\n    direct {one!r}\n    pooled {other!r}")
            return "\n".join(parts)
        return "\n".join([*parts, f"    direct {direct!r}", f"    pooled {pooled!r}"])


def _names(outcome: tuple[object, ...]) -> Sequence[object]:
    known = ("kind", "columns", "rows", "error", "status", "warnings", "affected rows", "insert id", "info")
    return known if len(outcome) == len(known) else range(len(outcome))


class Stage:
    """A server and a pooler before it, ready for example after example."""

    def __init__(self, world: World, poolers: dict[int, Proxy]) -> None:
        self.world = world
        self.poolers = poolers  # by their number of slots
        self.played = 0
        self.variables = world.session_variables()

    def play(self, setup: Setup, steps: Iterable[Step], *, probing: bool = True) -> Difference | None:
        """The first difference, if there is one; `probing` asks every session for everything at the end."""
        pooler = self.poolers[setup.slots]
        self.world.make_schemas(len(setup.sessions))
        with contextlib.closing(_Play(self, setup, pooler)) as play:
            return play.run(steps, probing)


class NoSlotError(Exception):
    """A login cannot be proven while every slot is held: the example ends here."""


class _Play:
    def __init__(self, stage: Stage, setup: Setup, pooler: Proxy) -> None:
        self.stage = stage
        self.world = stage.world
        self.setup = setup
        self.pooler = pooler
        self.models = Models(setup, self.world.mariadb)
        self.direct: list[Session] = []
        self.pooled: list[Session] = []
        for options in setup.sessions:
            self.direct.append(self._connect(self.world.server, DIRECT, options))
            self.pooled.append(self._connect(pooler, POOLED, options))

    @staticmethod
    def _connect(target: Target, name: bytes, options: tuple[bool, bool, bool, str]) -> Session:
        return Session(target, name, options)

    def close(self) -> None:
        for session in (*self.direct, *self.pooled):
            session.close()
        for session in self.direct:
            self.world.thread_gone(session.ident)
        at_rest(self.pooler, 0, 0)
        self.world.end_branches()

    def run(self, steps: Iterable[Step], probing: bool) -> Difference | None:
        index = -1
        try:
            for index, step in enumerate(steps):
                found = self._one(index, step)
                if found is not None:
                    return found
        except NoSlotError:
            return None
        for step in self._last_steps() if probing else ():
            index += 1
            found = self._one(index, step)
            if found is not None:
                return found
        return None

    def _last_steps(self) -> Iterator[Step]:
        """The probes of every session; whoever holds a backend comes first, and lets it go."""
        order = sorted(range(len(self.direct)), key=lambda number: not self.models.each[number].holds)
        for number in order:
            yield from self._probes(number)
            if self.models.each[number].holds:
                yield Step(number, "probe", "reset")
                yield from self._probes(number)
            if self.models.each[number].holds:
                yield Step(number, "probe", "quit")

    def _probes(self, number: int) -> Iterator[Step]:
        for step in probes(number, self.stage.variables, self.world.mariadb):
            if self.models.may_run(step):
                yield step

    def _one(self, index: int, step: Step) -> Difference | None:
        if not self.models.knows(step):
            return None
        self.stage.played += 1
        asked = asks(self.models.each[step.session].text(step))
        held = self.models.each[step.session].holds
        self.models.apply(step)
        if step.op in ("quit", "vanish"):
            self._leave(step, held)
            return None
        if step.op == "kill":
            return self._kill(index, step)
        direct, pooled = self.direct[step.session], self.pooled[step.session]
        direct.start(step)
        pooled.start(step)
        try:
            expected, seen = direct.finish(step), pooled.finish(step)
        except Exception as exc:
            exc.add_note(f"at step {index}, {step}")
            raise
        if expected != seen and not (asked and _refused(seen)):
            if step.rule == ABOUT:
                expected, seen = _unlike(self.stage.variables, expected, seen)
            note = self._who_holds() if _code(seen) == _WAITED else ""
            return Difference(index, step, expected, seen, note)
        if direct.gone:
            self._again(step.session, held)
        elif _code(seen) in _OUR_ERRORS:
            self.models.each[step.session].known = 0
        elif _code(seen):  # it may have left FOUND_ROWS() as it was, and a new session of MariaDB has any
            self.models.each[step.session].known &= ~FOUND_ROWS
        return None

    def _who_holds(self) -> str:
        """Why somebody had to wait: who should hold a backend, and what the pooler says that pins."""
        holders = [number for number, model in enumerate(self.models.each) if model.holds]
        pinned = {k: v for k, v in self.pooler.metrics().items() if k.startswith("mybouncer_pinned_sessions{") and v}
        return f"by the model these hold: {holders}; the pooler says: {pinned}"

    def _leave(self, step: Step, held: bool) -> None:
        for session in (self.direct[step.session], self.pooled[step.session]):
            with contextlib.suppress(OSError):
                session.quit() if step.op == "quit" else session.vanish()
        self._again(step.session, held)

    def _again(self, number: int, held: bool) -> None:
        """Connect anew, when everything the session had has gone."""
        direct, pooled = self.direct[number], self.pooled[number]
        direct.close()
        pooled.close()
        self.models.each[number].forget()
        self.world.thread_gone(direct.ident)
        if held:
            at_rest(self.pooler, self.models.holders(), len(self.pooled) - 1)
        options = self.setup.sessions[number]
        self.direct[number] = self._connect(self.world.server, DIRECT, options)
        try:
            self.pooled[number] = self._connect(self.pooler, POOLED, options)
        except ServerError as error:
            # Behind a statement about passwords a login has to be proven again, for which there must be a slot.
            if error.err.code == _WAITED and self.models.holders() >= self.setup.slots:
                raise NoSlotError from None
            raise

    def _kill(self, index: int, step: Step) -> Difference | None:
        outcomes: list[Outcome] = []
        held = self.models.each[step.number].holds
        for sessions in (self.direct, self.pooled):
            sql = Step(step.session, step.rule, "query", f"KILL {step.text} {sessions[step.number].ident}")
            sessions[step.session].start(sql)
            outcomes.append(sessions[step.session].finish(sql))
        if outcomes[0] != outcomes[1]:
            return Difference(index, step, *outcomes)
        if step.text == "CONNECTION" and not _code(outcomes[0]):
            for victims in (self.direct, self.pooled):
                victim = victims[step.number]
                if not _ends(victim):
                    return Difference(index, step, "the victim's connection ends", f"{victim.name!r}: it does not")
            self._again(step.number, held or True)
        return None


def _code(outcome: Outcome) -> int:
    """The code of the error that an answer is; 0 if it is none."""
    parts = outcome[0] if len(outcome) == 1 else outcome
    error = parts[3] if isinstance(parts, tuple) and len(parts) > 3 else None
    return error[0] if isinstance(error, tuple) else 0


def _refused(outcome: Outcome) -> bool:
    """Whether the answer is that soft state cannot be had, in words."""
    return _code(outcome) == _REFUSAL and b"stayed on a connection" in outcome[0][3][2]  # type: ignore[index]


def _ends(session: Session) -> bool:
    """Whether the connection is closed from the other side, whatever was said before."""
    end = time.monotonic() + _END
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            if select.select([session.sock], [], [], 0.1)[0] and not session.sock.recv(1 << 16):
                return True
        return False
    return True


def _unlike(names: list[str], direct: Outcome, pooled: Outcome) -> tuple[Outcome, Outcome]:
    """Of two answers to the probe of variables, the variables that differ."""
    try:
        rows = [parse_row(outcome[0][2][0]) for outcome in (direct, pooled)]  # type: ignore[index]
    except (IndexError, TypeError):
        return direct, pooled
    pairs = [(name, *both) for name, *both in zip(variables(names), *rows, strict=True) if both[0] != both[1]]
    if not pairs:
        return direct, pooled
    return tuple((name, one) for name, one, _ in pairs), tuple((name, other) for name, _, other in pairs)
