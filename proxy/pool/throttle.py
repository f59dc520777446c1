"""What the server lets us have, as far as we know, and when to try again. One for the server, one per account.

A refusal teaches a limit: what we held when it came. Up to the limit nothing is waited for, except right after a
failure. The next try to go one above it is made after 50 ms doubling to 1 s: success is how we learn that there is room
again, and only a success above the limit says so. When one of our slots comes free there is room for another at once.
Without refusals the limit grows by one per 10 s until it no longer matters. It is never below 1: with nothing open,
only the backoff stands between us and a server that refuses.

A server that is down is the same schedule without a limit; a slot that comes free then says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

FIRST_RETRY = 0.05
LAST_RETRY = 1.0
GROW_EVERY = 10.0


class Throttle:
    __slots__ = ("_delay", "_grow_at", "_probe_at", "effective", "paused", "retry_at")

    def __init__(self) -> None:
        self.effective: int | None = None  # None: nothing was refused
        self.retry_at = 0.0  # before then nothing is tried, then one at a time; 0.0: the last try succeeded
        self._probe_at = 0.0  # before then nothing is tried above the limit
        self._delay = 0.0
        self._grow_at = inf
        self.paused = False  # somebody wants nothing opened

    def limit(self, cap: int) -> int:
        effective = self.effective
        return cap if effective is None or effective > cap else effective

    def refused(self, now: float, held: int, jitter: Callable[[], float]) -> None:
        self.effective = max(1, held)
        self._grow_at = now + GROW_EVERY
        self.back_off(now, jitter)

    def back_off(self, now: float, jitter: Callable[[], float]) -> None:
        """A burst of attempts that fail together counts once."""
        if now >= self._probe_at:
            self._delay = min(LAST_RETRY, self._delay * 2 or FIRST_RETRY)
            self._probe_at = now + self._delay * (1.0 - 0.25 * jitter())
        self.retry_at = self._probe_at

    def try_now(self) -> None:
        """One of our slots came free: the next attempt need not wait."""
        self.retry_at = 0.0

    def succeeded(self, now: float, held: int) -> None:
        self.retry_at = 0.0
        if self.effective is None:
            self._delay = 0.0
        elif held > self.effective:
            self.effective = held
            self._delay = 0.0
            self._probe_at = now + FIRST_RETRY  # there was room above the limit: look for more soon

    def grow(self, now: float, cap: int) -> None:
        while self.effective is not None and self._grow_at <= now:
            self.effective += 1
            self._grow_at += GROW_EVERY
            if self.effective >= cap:
                self.effective = None
        if self.effective is None:
            self._grow_at = inf

    @property
    def grow_at(self) -> float:
        return self._grow_at

    def tries(self) -> Iterator[float]:
        """When it lets through what it does not let through now."""
        yield self.retry_at
        if self.effective is not None:
            yield self._probe_at

    def allows(self, now: float, held: int, opening: int, cap: int) -> bool:
        """May one more be opened?"""
        if self.paused:
            return False
        if self.retry_at and (now < self.retry_at or opening):
            return False
        if held < self.limit(cap):
            return True
        return held < cap and now >= self._probe_at and not opening

    def __repr__(self) -> str:
        return f"<Throttle effective={self.effective} retry_at={self.retry_at} probe_at={self._probe_at}>"
