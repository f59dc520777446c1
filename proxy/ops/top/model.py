"""What a look at a running mybouncer gives, and what is remembered of earlier ones.

A `Look` is the answers of the console as they came, with nothing in their texts that a terminal obeys. Columns and
numbers that a console does not have count as empty and 0: it may be of another version.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from proxy.ops.console.connection import Answer
from proxy.ops.console.values import Value, harmless

SPAN = 180.0  # seconds that the history goes back
_RATE_SPAN = 0.8  # seconds that a rate needs


@dataclass(frozen=True, slots=True)
class Record:
    """A row of an answer."""

    values: Mapping[str, Value]

    def text(self, name: str) -> str:
        """The column as text."""
        value = self.values.get(name)
        return "" if value is None else str(value)

    def number(self, name: str) -> float:
        """The column as a number."""
        value = self.values.get(name)
        return value if isinstance(value, int | float) else 0

    def whole(self, name: str) -> int:
        """The column as a whole number."""
        return int(self.number(name))

    def ident(self, name: str) -> int | None:
        """The column as an id, which there may not be."""
        value = self.values.get(name)
        return value if isinstance(value, int) else None


def records(answer: Answer) -> tuple[Record, ...]:
    """The rows of an answer."""
    return tuple([Record(dict(zip(answer.columns, map(_clean, row), strict=True))) for row in answer.rows])


def _clean(value: Value) -> Value:
    return harmless(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Look:
    """How everything was at one moment, on the monotonic clock. `clients` is empty unless it was asked for."""

    at: float
    stats: Mapping[str, int] = field(default_factory=dict)
    version: Record = field(default_factory=lambda: Record({}))
    backends: tuple[Record, ...] = ()
    queue: tuple[Record, ...] = ()
    holders: tuple[Record, ...] = ()
    accounts: tuple[Record, ...] = ()
    pins: tuple[Record, ...] = ()
    statements: tuple[Record, ...] = ()
    clients: tuple[Record, ...] = ()

    def stat(self, name: str) -> int:
        """One of SHOW STATS."""
        return self.stats.get(name, 0)

    def leases(self) -> Iterator[Record]:
        """The connections to the server that are lent."""
        return (backend for backend in self.backends if backend.text("state") == "leased")


def numbers(answer: Answer) -> dict[str, int]:
    """SHOW STATS by name."""
    return {one.text("name"): one.whole("value") for one in records(answer)}


@dataclass(frozen=True, slots=True)
class _Past:
    at: float
    stats: Mapping[str, int]


class History:
    """The looks of the last minutes, as far as numbers go."""

    def __init__(self) -> None:
        self._past: deque[_Past] = deque()

    def add(self, look: Look) -> None:
        """Remember a look, which is newer than all others."""
        if self._past and look.stat("uptime_seconds") < self._past[-1].stats.get("uptime_seconds", 0):
            self._past.clear()  # another process: what counted up begins again
        self._past.append(_Past(look.at, look.stats))
        while self._past[0].at < look.at - SPAN:
            self._past.popleft()

    def rate(self, name: str) -> float | None:
        """How much a counter went up, per second, since the look before, or one a second ago."""
        if len(self._past) < 2:
            return None
        last = self._past[-1]
        long_ago = (past for past in reversed(self._past) if past.at <= last.at - _RATE_SPAN)
        before = next(long_ago, self._past[0])
        return max(0, last.stats.get(name, 0) - before.stats.get(name, 0)) / max(0.001, last.at - before.at)

    def gained(self, name: str) -> int:
        """How much a counter went up over all of it."""
        if not self._past:
            return 0
        return self._past[-1].stats.get(name, 0) - self._past[0].stats.get(name, 0)

    def waiting(self, width: int, now: float) -> list[int | None]:
        """The longest queue in each of `width` parts of the span until now; None where nobody looked."""
        return _peaks(((past.at, past.stats.get("queue_waiting", 0)) for past in self._past), width, now)


def _peaks(values: Iterable[tuple[float, int]], width: int, now: float) -> list[int | None]:
    peaks: list[int | None] = [None] * width
    size = SPAN / max(1, width)
    last = int(now / size)  # parts begin at fixed times, so that a value stays in its part
    for at, value in values:
        place = width - 1 - (last - int(at / size))
        if 0 <= place < width:
            peaks[place] = max(value, peaks[place] or 0)
    return peaks


def seconds(value: float) -> str:
    """A time as people read it, in at most five characters: `7ms`, `0.31s`, `4.2s`, `42s`, `3m12`, `5h02`, `12d`."""
    if value < 0.0995:
        return f"{value * 1000:.0f}ms"
    if value < 0.995:
        return f"{value:.2f}s"
    if value < 9.95:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}"
    if whole < 100 * 3600:
        return f"{whole // 3600}h{whole // 60 % 60:02}"
    return f"{whole // 86400}d"


def many(number: int, what: str) -> str:
    """`1 connection`, `1,234 connections`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
