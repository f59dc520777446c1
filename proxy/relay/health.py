"""Whether the server can be used: what it said last, what failed last, and a question where neither is fresh.

`/readyz` comes from here. It is asked by machines, often, and answers within a second whatever the server does: a
question that is not answered by then goes on, and the next one who asks waits for the same answer. Never more than one
question in five seconds, and none that leaves a trace: on an idle backend, else with a login that the server refuses.
While clients wait and nobody gets on it is asked as well, so that they can be told whether it is the server.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from proxy.pool.budget import IDLE
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError

from .connect import NOTHING, PROBE_USER, Refused
from .stream import PeerGone

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from proxy.pool.pool import Pool
    from proxy.wire.packets import Greeting

    from .backend import Backend
    from .relay import Relay

ASK_EVERY = 5.0
PATIENCE = 1.0
_UTF8MB4 = 45
# Unlike COM_PING it leaves ROW_COUNT() alone (protocol.md C.6).
_QUESTION = bytes((c.COM_STATISTICS,))
_QUIT = b"\x01\0\0\0\x01"


class Health:
    """Of one server."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._answered_at = self._failed_at = self._asked_at = float("-inf")
        self._down_since: float | None = None
        self._unanswered_since: float | None = None
        self._question: asyncio.Task[None] | None = None
        self.last_error = "not seen yet"

    def answered(self) -> None:
        """The server has said something."""
        self._answered_at = now = self._relay.clock()
        self._unanswered_since = None
        since, self._down_since = self._down_since, None
        if since is not None:
            label = self._relay.address.label
            self._relay.log.info("server answers again", server=label, seconds=round(now - since, 1))

    def failed(self, exc: Exception) -> None:
        """The server could not be reached, or has vanished."""
        self.last_error = str(exc) or "timed out"
        self._failed_at = self._relay.clock()
        label = self._relay.address.label
        if self._down_since is None:  # every outage is told, and its end
            self._down_since = self._failed_at
            self._relay.log.warning("server cannot be reached", server=label, error=self.last_error)
        else:
            self._relay.limited_log("server_down", "server cannot be reached", server=label, error=self.last_error)

    def down_text(self) -> str:
        """The text of our 2003."""
        return f"Can't connect to MySQL server on '{self._relay.address.label}' ({self.last_error})"

    def silence(self, now: float) -> str:
        """What to add to an answer or a line of the log, if the server has not answered what it was asked."""
        since = self._unanswered_since
        if since is None or now - since < PATIENCE:
            return ""
        return f"; the server has not answered for {now - since:.1f} s"

    def doubt(self, now: float, pool: Pool) -> None:
        """All connections are at work, and no work ends: ask the server, with the credentials of `pool`."""
        if self._may_ask(now):
            self._ask(now, self._ask_beside(pool))

    async def ready(self) -> tuple[bool, str]:
        """Whether statements can be run now, and why not."""
        relay = self._relay
        if relay.draining:
            return False, "draining"
        now = relay.clock()
        stale = self._failed_at >= self._answered_at or now - self._answered_at >= ASK_EVERY
        if stale and self._may_ask(now):
            self._ask_somebody(now)
        if self._question is not None:
            await asyncio.wait((self._question,), timeout=PATIENCE)
        if self._question is not None:
            return False, f"the server has not answered for {relay.clock() - self._asked_at:.1f} s"
        if self._failed_at >= self._answered_at:
            return False, self.down_text()
        return True, "ok"

    async def first_sight(self) -> None:
        """One complete login that is expected to be refused teaches us the greeting."""
        delay = 0.05
        while self._relay.profile.greeting is None:
            await self._probe()
            if self._relay.profile.greeting is None:
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)

    # Questions

    def _may_ask(self, now: float) -> bool:
        return self._question is None and now - self._asked_at >= ASK_EVERY

    def _ask_somebody(self, now: float) -> None:
        relay = self._relay
        idle = [backend for backend in relay.backends if backend.slot == IDLE]
        if not idle and relay.backends and self._failed_at < self._answered_at:
            return  # all are at work: that is an answer
        self._ask(now, self._ask_on(max(idle, key=lambda backend: backend.idle_since)) if idle else self._probe())

    def _ask(self, now: float, question: Coroutine[Any, Any, None]) -> None:
        self._asked_at = now
        if self._unanswered_since is None:
            self._unanswered_since = now
        self._question = self._relay.spawn(question)
        self._question.add_done_callback(self._over)

    def _over(self, _question: asyncio.Task[None]) -> None:
        self._question = None

    async def _ask_on(self, backend: Backend) -> None:
        """Nobody's lease, for one round trip; for whoever is to come the backend has been idle all the time."""
        relay, idle_since = self._relay, backend.idle_since
        if relay.registry.acquire_nowait(backend.pool, None, False, backend, backend.last_client) is not backend:
            return
        try:
            await backend.run((_QUESTION,))
        except ConnectionError as exc:
            self.failed(exc)
            return
        self.answered()
        relay.registry.release(backend)
        if backend.slot == IDLE:
            backend.idle_since = idle_since

    async def _ask_beside(self, pool: Pool) -> None:
        """A login on the control slot, which leaves no trace in the server's log either."""
        try:
            await self._relay.control.reach(pool)
        except Refused:
            pass
        except (OSError, PeerGone, ProtocolError, TimeoutError) as exc:
            self.failed(exc)
            return
        self.answered()

    async def _probe(self) -> None:
        """Ask for a greeting, with a login of our own that the server refuses."""
        relay = self._relay
        greeted: list[Greeting] = []
        try:
            async with asyncio.timeout(relay.config.backend.connect_timeout):
                accepted = await relay.dialer.connect(PROBE_USER, NOTHING, 0, _UTF8MB4, greeted)
            accepted.transport.write(_QUIT)
            accepted.transport.close()
        except (Refused, OSError, PeerGone, ProtocolError, TimeoutError) as exc:
            if not greeted:
                self.failed(exc)
        if greeted:
            relay.seen(greeted[0])
