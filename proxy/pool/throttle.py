"""What the server lets us have, as far as we know, and when to try again. One for the server, one per account.

A refusal teaches a limit: what we held when it came. The next try is made when one of our slots comes free, else
after 50 ms doubling to 1 s, and that try may go one above the limit: success is how we learn that there is room
again. Without refusals the limit grows by one per 10 s until it no longer matters. It is never below 1: with nothing
open, only the backoff stands between us and a server that refuses.

A server that is down is the same schedule without a limit; a slot that comes free then says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

FIRST_RETRY = 0.05
LAST_RETRY = 1.0
GROW_EVERY = 10.0


class Throttle:
    __slots__ = ("_delay", "_grow_at", "effective", "retry_at")

    def __init__(self) -> None:
        self.effective: int | None = None  # None: nothing was refused
        self.retry_at = 0.0  # 0.0: not backing off
        self._delay = 0.0
        self._grow_at = inf

    def limit(self, cap: int) -> int:
        effective = self.effective
        return cap if effective is None or effective > cap else effective

    def refused(self, now: float, held: int, jitter: Callable[[], float]) -> None:
        self.effective = max(1, held)
        self._grow_at = now + GROW_EVERY
        self.back_off(now, jitter)

    def back_off(self, now: float, jitter: Callable[[], float]) -> None:
        """A burst of attempts that fail together counts once."""
        if now < self.retry_at:
            return
        self._delay = min(LAST_RETRY, self._delay * 2 or FIRST_RETRY)
        self.retry_at = now + self._delay * (1.0 - 0.25 * jitter())

    def try_now(self) -> None:
        """One of our slots came free: the next attempt need not wait. The delay is kept until one succeeds."""
        self.retry_at = 0.0

    def succeeded(self, now: float, held: int) -> None:
        self._delay = 0.0
        self.retry_at = 0.0
        if self.effective is not None and held > self.effective:
            self.effective = held
            self.retry_at = now + FIRST_RETRY  # there was room above the limit: look for more soon

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

    def allows(self, now: float, held: int, opening: int, cap: int) -> bool:
        """May one more be opened? While backing off: one at a time, when it is time."""
        if self.retry_at:
            return held < cap and now >= self.retry_at and not opening
        return held < self.limit(cap)

    def __repr__(self) -> str:
        return f"<Throttle effective={self.effective} retry_at={self.retry_at}>"
