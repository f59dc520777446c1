"""What is looked at once a second: transactions that do nothing, and waiters that get nothing.

Both are what a leak looks like from here, so both say who: account, address, program and process as far as a client
told them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.pool.budget import LEASED
from proxy.wire import constants as c

from . import numbers

if TYPE_CHECKING:
    from .relay import Relay

DOUBT = 1.0  # seconds without a grant, while somebody waits, until the server is asked whether it is there
STALL = 5.0  # seconds without a grant, while somebody waits
STALL_EVERY = 60.0


class Watch:
    """Looks when it is told to, at backends: there are few of them, however many clients there are."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._grants = 0
        self._granted_at = relay.clock()
        self._logged_at = float("-inf")

    def look(self, now: float) -> None:
        """Act on what has lasted too long."""
        self._end_idle_transactions(now)
        self._look_for_stall(now)

    def _end_idle_transactions(self, now: float) -> None:
        """`session.idle_transaction_timeout`: FIN only, an unasked ERR confuses drivers."""
        limit = self._relay.config.session.idle_transaction_timeout
        if not limit:
            return
        for backend in list(self._relay.backends):
            client = backend.client
            if client is None or client.busy or not client.status & c.SERVER_STATUS_IN_TRANS:
                continue
            seconds = now - client.idle_since
            if seconds > limit:
                self._relay.log.warning(
                    "idle transaction ended",
                    client=client.address,
                    user=client.user,
                    program=client.program,
                    seconds=round(seconds, 1),
                )
                client.close("idle_transaction_timeout")

    def _look_for_stall(self, now: float) -> None:
        """While clients wait and nobody has got a connection for a while, say why, once a minute."""
        registry = self._relay.registry
        waiting = len(registry.queue) + len(registry.logins.line)
        grants = registry.queue.grants + registry.logins.grants
        # A server that is down is logged as such.
        if not waiting or grants != self._grants or registry.down_since is not None:
            self._grants = grants
            self._granted_at = now
            return
        if now - self._granted_at >= DOUBT:
            self._doubt(now)
        if now - self._granted_at >= STALL and now - self._logged_at >= STALL_EVERY:
            self._logged_at = now
            self._relay.log.warning(
                "nobody gets a connection",
                waiting=waiting,
                seconds=round(now - self._granted_at, 1),
                cap=registry.budget.cap,
                allowed=registry.budget.effective,
                why=numbers.describe_stall(self._relay, now),
            )

    def _doubt(self, now: float) -> None:
        """Ask the server whether it is there, unless it is clients who keep all connections from getting on."""
        leased = [backend for backend in self._relay.backends if backend.slot == LEASED]
        if leased and all(backend.running for backend in leased):
            self._relay.health.doubt(now, leased[0].pool)
