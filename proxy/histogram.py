"""A histogram cheap enough for the hot path: one list of ints, one float, one bisect.

A leaf: standard library only, imports nothing of ours, importable from every floor. What turns these numbers
into Prometheus samples lives in `ops/metrics`; here nothing is locked, labelled or formatted.

Invariant: `len(counts) == len(bounds) + 1`; `counts[i]` holds the observations `bounds[i-1] < x <=
bounds[i]`, the last one everything above the last bound. How many there were is the sum of `counts`: never
stored beside it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

# 100 µs (a point select on the same host) to 60 s (beyond most timeouts), about three steps per decade.
SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip

MAX_NAMES = 1000
OTHER = "other"


class Histogram:
    """Observations sorted into fixed buckets."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise ValueError("histogram bounds must be rising and not empty")
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def __repr__(self) -> str:
        return f"<Histogram count={self.count} sum={self.sum:.6g}>"


class Histograms:
    """A histogram for each name; past `MAX_NAMES` names the others share one, `OTHER`. They are never forgotten."""

    __slots__ = ("_bounds", "_by_name")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = bounds
        self._by_name: dict[str, Histogram] = {}

    def __getitem__(self, name: str) -> Histogram:
        histogram = self._by_name.get(name)
        if histogram is None:
            if len(self._by_name) >= MAX_NAMES:
                name = OTHER
            histogram = self._by_name.setdefault(name, Histogram(self._bounds))
        return histogram

    def items(self) -> Iterator[tuple[str, Histogram]]:
        """Names and their histograms, of those that have been asked for."""
        return iter(self._by_name.items())
