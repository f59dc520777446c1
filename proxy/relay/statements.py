"""What statements cost, by digest; and those that the log shall show.

On the path of a statement there are a clock, a histogram and a countdown (`aftercare.finish`): 0.3 µs. A digest costs
thirty times that, so most statements get none. There are three classes, and each is counted so that sums stay true:

* those from `_LONG` seconds on: all of them, and they are what most of the time goes to;
* of the others the first `_BURST` in a second: all of them, so that on a quiet server nothing is estimated;
* of the rest one in `_GAP` on average, at random intervals, which stands for as many as have passed since the last.

The lease time of a statement goes from its grant to the end of its answer; inside a transaction, from its sending. What
passes in a transaction before the next statement belongs to the one before: it is what the client was busy with when it
kept others waiting.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

from .said import last_digest, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.wire.response import ResponseReader

    from .backend import Backend
    from .client import Client
    from .relay import Relay

OTHERS = "(others)"  # instead of a digest: those that others have pushed out

_LONG = 0.05
_GAP = 64
_BURST = 20
_NEVER = 1 << 62


class Totals:
    """What the statements of one digest have added up to. Times in seconds."""

    __slots__ = ("count", "digest", "errors", "lease", "longest", "rows", "seconds", "wait")

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.count = self.rows = self.errors = 0
        self.seconds = self.longest = self.wait = self.lease = 0.0

    def add(self, other: Totals) -> None:
        """Take another's sums in."""
        self.count += other.count
        self.rows += other.rows
        self.errors += other.errors
        self.seconds += other.seconds
        self.wait += other.wait
        self.lease += other.lease
        self.longest = max(self.longest, other.longest)


class Statements:
    """The totals of one server's statements. `left` and `long` are for `aftercare.finish`, which counts down."""

    def __init__(self, relay: Relay, between: Callable[[int, int], int] = random.randint) -> None:
        self._relay = relay
        self._between = between
        self._by_digest: dict[str, Totals] = {}
        self._others = Totals(OTHERS)
        self._keep = 0
        self._gap = 0  # from the last one counted to the next, in statements
        self._passed = 0  # that nobody stands for yet, from gaps that were not completed
        self._burst = 0
        self._sampled_at = -inf
        self.left = _NEVER  # statements until one is counted
        self.long = inf  # seconds from which each is
        self.configure()

    def configure(self) -> None:
        """Take up `console.statements` and `log.statements`."""
        config = self._relay.config
        slow = config.log.slow_statement if config.log.statements == "slow" else inf
        self._keep = config.console.statements
        if not self._keep:
            self._by_digest.clear()
            self._others = Totals(OTHERS)
        if self._keep or config.log.statements == "sampled":
            self.long = min(_LONG, slow)
            self._burst = _BURST
            self._next(1)
        else:
            self.long = slow
            self._next(_NEVER)
        self._passed = 0

    def look(self) -> None:
        """A second has passed."""
        if self.left < _NEVER:
            self._passed += self._gap - self.left
            self._burst = _BURST
            self._next(1)

    def _next(self, gap: int) -> None:
        self._gap = self.left = gap

    def note(self, client: Client, backend: Backend, reader: ResponseReader, now: float) -> None:
        """A statement has been answered which is long, or with which the countdown has come to its end."""
        seconds = now - backend.sent_at
        if seconds >= self.long:
            weight = 1
            self.left += 1  # it stands for itself only
        else:
            weight = self._gap + self._passed
            self._passed = 0
            self._burst -= 1
            self._next(1 if self._burst > 0 else self._between(1, 2 * _GAP - 1))
        waited = client.waited if client.waited_for == client.sent else 0.0
        first = backend.leased_since > client.idle_since  # of its lease
        digest = ""
        if self._keep:
            totals = self._of(client)
            totals.count += weight
            totals.seconds += weight * seconds
            totals.longest = max(totals.longest, seconds)
            totals.rows += weight * (reader.rows if reader.had_rows else reader.affected)
            totals.wait += weight * waited
            totals.lease += weight * (now - (backend.leased_since if first else backend.sent_at))
            totals.errors += weight * (reader.error is not None)
            client.noted = totals, weight
            client.noted_for = client.sent
            digest = totals.digest
        self._log(client, reader, seconds, waited, now, digest)

    def idled(self, client: Client) -> None:
        """The client has kept its backend idle up to now: behind its last statement."""
        seconds = self._relay.clock() - client.idle_since
        if not self._keep:
            return
        if seconds >= self.long:
            self._of(client).lease += seconds
        elif client.noted is not None and client.noted_for == client.sent:
            totals, weight = client.noted
            totals.lease += weight * seconds

    def abandoned(self, client: Client, backend: Backend) -> None:
        """The client has left while its statement runs; a long one is what it may have left for."""
        now = self._relay.clock()
        if now - backend.sent_at >= self.long:
            self.left -= 1  # as behind an answer
            self.note(client, backend, backend.reader, now)

    def _of(self, client: Client) -> Totals:
        digest = last_digest(client)
        totals = self._by_digest.get(digest)
        if totals is None:
            if len(self._by_digest) >= 2 * self._keep:
                self._forget()
            totals = self._by_digest[digest] = Totals(digest)
        return totals

    def _forget(self) -> None:
        ranked = sorted(self._by_digest.values(), key=lambda totals: -totals.lease)
        for totals in ranked[self._keep :]:
            self._others.add(totals)
        self._by_digest = {totals.digest: totals for totals in ranked[: self._keep]}

    def top(self) -> Iterator[Totals]:
        """Those that have kept connections for longest, up to now, and the sum of those that were forgotten."""
        now = {}
        for digest, seconds in self._going_on():
            if digest not in now:
                now[digest] = Totals(digest)
                now[digest].add(self._by_digest.get(digest, now[digest]))
            now[digest].lease += seconds
        ranked = sorted((self._by_digest | now).values(), key=lambda totals: -totals.lease)
        yield from ranked[: self._keep]
        if self._others.count:
            yield self._others

    def _going_on(self) -> Iterator[tuple[str, float]]:
        """What keeps a connection now, and for how long already: a long statement, or the last one before idleness."""
        clock = self._relay.clock()
        for backend in self._relay.backends if self._keep else ():
            client = backend.client
            if client is not None and (backend.running or not client.busy):
                seconds = clock - (backend.sent_at if client.busy else client.idle_since)
                if seconds >= self.long:
                    yield last_digest(client), seconds

    def _log(
        self, client: Client, reader: ResponseReader, seconds: float, waited: float, now: float, digest: str
    ) -> None:
        """Write a line if it is time for one; `digest` is the statement's, if that was needed before."""
        log = self._relay.config.log
        sampled = log.statements == "sampled" and now - self._sampled_at >= log.sample_every
        if not sampled and (log.statements != "slow" or seconds < log.slow_statement):
            return
        values: dict[str, object] = {
            "user": client.user,
            "client": client.address,
            "program": client.program,
            "seconds": round(seconds, 6),
            "waited": round(waited, 6),
            "rows": reader.rows if reader.had_rows else reader.affected,
        }
        if reader.error is not None:
            values["error"] = reader.error.code
        if sampled:
            self._sampled_at = now
            self._relay.log.info("statement", **values, statement=shown(client))
        else:
            key = f"slow {digest or last_digest(client)}"
            self._relay.limited_log(key, "slow statement", **values, statement=lambda: shown(client))
