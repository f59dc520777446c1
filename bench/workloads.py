"""What `compare` can measure, and the figures that are to be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from bench.processes import Middle, Run
from bench.rows import rows
from bench.sysbench import load, point_selects


@dataclass(frozen=True)
class Kind:
    """Workloads that share a table: its title, the unit of their rate, and that of their CPU with its factor."""

    title: str
    rate: str
    cpu: str = "CPU µs"
    factor: float = 1e6
    restores: bool = False  # whether the table says how many there were


@dataclass(frozen=True)
class Figure:
    """An upper bound for a `Run`'s attribute, as a multiple of another target's or as that and so much more."""

    what: str
    base: str
    times: float | None = None
    more: float = 0.0  # in the attribute's own unit
    clients: int | None = None  # only with so many
    server: str | None = None  # only on this one

    def __str__(self) -> str:
        name = {"cpu": "CPU", "p99_ms": "p99", "time": "time"}[self.what]
        return f"{name} ≤ {self.base} + {self.more * 1e6:.0f} µs" if self.times is None else f"{name} ≤ {self.times}×"

    def reached(self, ratio: float, difference: float) -> bool:
        """Whether it is, by the ratio to the base and the difference from it."""
        return difference <= self.more if self.times is None else ratio <= self.times


@dataclass(frozen=True)
class Workload:
    """Something that is done through every target: for so many clients and seconds."""

    kind: Kind
    run: Callable[[Middle, int, int], Run]
    clients: tuple[int, ...]
    figures: tuple[Figure, ...] = ()
    alone: bool = False  # has one client, whoever asks for more


_POINTS = Kind("Point selects", "stmt/s")
_UNIQUE = Kind("Texts that differ every time", "stmt/s")
_STATES = Kind("Clients with settings of their own", "stmt/s", restores=True)
_CONNECTS = Kind("Connect, one statement, quit", "conn/s")
_ROWS = Kind("Results of 1,000,000 rows", "rows/s", "CPU ns", 1e9)

_POINT_FIGURES = (Figure("cpu", "HAProxy", 1.3), Figure("p99_ms", "direct", 0.5, clients=256))
_UNIQUE_FIGURES = (Figure("cpu", "HAProxy", more=20e-6),)
_CONNECT_FIGURES = (Figure("time", "direct", 1.3, server="mariadb"), Figure("time", "direct", 1.0, server="mysql"))

WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "text": Workload(_POINTS, partial(point_selects, prepared=False), (8, 64, 256), _POINT_FIGURES),
        "prepared": Workload(_POINTS, partial(point_selects, prepared=True), (8, 64, 256), _POINT_FIGURES),
        "unique": Workload(_UNIQUE, partial(load, statement="unique"), (64,), _UNIQUE_FIGURES),
        "email": Workload(_UNIQUE, partial(load, statement="email"), (64,), _UNIQUE_FIGURES),
        "list": Workload(_UNIQUE, partial(load, statement="list"), (64,)),
        "state": Workload(_STATES, partial(load, statement="state"), (64,)),
        "states": Workload(_STATES, partial(load, statement="states"), (64,)),
        "states-prepared": Workload(_STATES, partial(load, statement="states_prepared"), (64,)),
        "connect": Workload(_CONNECTS, partial(load, statement="connect"), (1, 8), _CONNECT_FIGURES),
        "rows": Workload(_ROWS, lambda middle, _, seconds: rows(middle, seconds, deprecate_eof=True), (1,), alone=True),
        "rows-eof": Workload(
            _ROWS, lambda middle, _, seconds: rows(middle, seconds, deprecate_eof=False), (1,), alone=True
        ),
    }
)
