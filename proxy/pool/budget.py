"""The slots of one server.

A slot is one connection the server counts as ours: from before the connect until the server is done with it.
The law: slots never exceed the cap. A cap lowered at run time takes nothing away from those who hold a slot, it only
lets no new ones in, so what is asserted is that no slot is *taken* at or above the cap, and that no state goes
below zero. `effective` is the cap after what the server refused (see throttle.py); it guides, the cap binds.

The budget knows no backends, accounts or waiters: it could live in another process.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.pool.throttle import Throttle

IDLE, LEASED, OPENING, RESETTING, CLOSING = range(5)
FREE = 5  # no slot: where a backend is before and after
STATES = ("idle", "leased", "opening", "resetting", "closing")


class Budget:
    __slots__ = ("_listeners", "cap", "counts", "in_use", "throttle")

    def __init__(self, cap: int) -> None:
        if cap < 1:
            raise ValueError(f"a cap of {cap} serves nobody")
        self.cap = cap
        self.counts = [0] * len(STATES)
        self.in_use = 0
        self.throttle = Throttle()
        self._listeners: list[Callable[[], None]] = []

    @property
    def effective(self) -> int:
        return self.throttle.limit(self.cap)

    @property
    def free(self) -> int:
        return max(0, self.effective - self.in_use)

    def acquire(self) -> None:
        """Take a slot, OPENING. The caller has looked: taking one that is not there is a bug, not a wait."""
        assert self.in_use < self.cap, f"{self.in_use} slots in use of {self.cap}"
        self.in_use += 1
        self.counts[OPENING] += 1

    def release(self, before: int) -> None:
        """The server is done with this connection."""
        assert self.counts[before] > 0, f"no slot is {STATES[before]}"
        self.counts[before] -= 1
        self.in_use -= 1
        assert self.in_use == sum(self.counts)
        self._notify()

    def set_cap(self, cap: int) -> None:
        if cap < 1:
            raise ValueError(f"a cap of {cap} serves nobody")
        self.cap = cap
        self._notify()

    def subscribe(self, listener: Callable[[], None]) -> None:
        """`listener` is called whenever a slot may have become free."""
        self._listeners.append(listener)

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def __repr__(self) -> str:
        states = ", ".join(f"{n} {name}" for name, n in zip(STATES, self.counts, strict=True) if n)
        return f"<Budget {self.in_use}/{self.effective} of {self.cap}: {states or 'empty'}>"
