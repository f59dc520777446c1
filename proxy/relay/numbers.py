"""What the relay is doing, in numbers and words, computed when somebody asks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from proxy.pool.budget import LEASED
from proxy.session import pins
from proxy.wire import constants as c

if TYPE_CHECKING:
    from .backend import Backend
    from .client import Client
    from .relay import Relay


_NAMED = 3  # accounts in a line of the log


def lease_state(client: Client | None) -> str:
    """What becomes of a lease: what the client that has it, if one still has, does with it."""
    if client is None:
        return "finishing"
    if client.busy:
        return "running"
    return "pinned" if client.pins else "idle in transaction"


def describe_leases(backends: Collection[Backend], *, reasons: bool = False) -> str:
    """What the leased backends are doing, in words; with `reasons`, also what pins those that are pinned."""
    states: Counter[str] = Counter()
    mask = 0
    for backend in backends:
        if backend.slot == LEASED:
            client = backend.client
            state = lease_state(client)
            states[state] += 1
            if client is not None and state == "pinned":
                mask |= client.pins
    why = f" ({', '.join(pins.names(mask)).replace('_', ' ')})" if reasons and mask else ""
    left = states["finishing"]
    finishing = f", {left} finishing for nobody" if left else ""
    idle, pinned, running = states["idle in transaction"], states["pinned"], states["running"]
    return f"{idle} idle in transaction, {pinned} pinned{why}, {running} running{finishing}"


def describe_stall(relay: Relay, now: float) -> str:
    """Why nobody gets a connection, in numbers and names: what to look for at 4 a.m.

    A program whose process waits for a connection while it holds others in open transactions waits for itself.
    """
    registry = relay.registry
    leased = [backend for backend in relay.backends if backend.slot == LEASED]
    parts = [f"{len(leased)} leased: {describe_leases(leased, reasons=True)}{registry.describe_others()}"]
    cap = registry.budget.cap
    full = [account for account in registry.shares.waiting if account.slots >= account.limit(cap) < cap]
    parts += [f"account {account.name} has all of its {account.slots}" for account in full[:_NAMED]]
    oldest = min(leased, key=lambda backend: backend.leased_since, default=None)
    if oldest is not None:
        parts.append(f"oldest {now - oldest.leased_since:.0f} s by {_who(oldest.client)}")
    holders = {
        process_of(backend.client)
        for backend in leased
        if backend.client is not None and not backend.client.busy and backend.client.status & c.SERVER_STATUS_IN_TRANS
    }
    waiting = {process_of(client) for client in relay.clients.values() if client.waiter is not None}
    if holders & waiting - {None}:
        parts.append("nested transactions?")
    return "; ".join(parts) + relay.health.silence(now)


def host_of(client: Client) -> str:
    """Where a client is: its address without the port."""
    address = client.address
    return address if address.startswith("unix:") else address.rpartition(":")[0]


def _who(client: Client | None) -> str:
    if client is None:
        return "a client that has left"
    return f"{host_of(client)} {client.program or f'account {client.user}'}"


def process_of(client: Client) -> tuple[str, str] | None:
    """Which process a client belongs to, if it has told us: with its id, a program is one on its host."""
    return (host_of(client), client.program) if re.search(r"pid \d+$", client.program) else None


def client_state(client: Client) -> str:
    """What a client is doing, in one of five words."""
    if client.waiter is not None:
        return "waiting"
    if client.pins:
        return "pinned"
    if client.backend is None:
        return "idle"
    return "transaction" if client.status & c.SERVER_STATUS_IN_TRANS else "leased"


def client_states(clients: Collection[Client]) -> dict[str, int]:
    """How many clients are in each state."""
    states = dict.fromkeys(("idle", "waiting", "leased", "transaction", "pinned"), 0)
    for client in clients:
        states[client_state(client)] += 1
    return states


def pinned_sessions(clients: Collection[Client]) -> dict[str, int]:
    """How many sessions have each pin reason."""
    found = dict.fromkeys(pins.PIN_NAMES.values(), 0)
    for client in clients:
        if client.pins:
            for name in pins.names(client.pins):
                found[name] += 1
    return found


def prepared_statements(clients: Collection[Client], backends: Collection[Backend]) -> dict[str, int]:
    """How many prepared statements clients and backends have."""
    return {
        "client": sum(len(client.statements) for client in clients if client.statements),
        "backend": sum(len(backend.statements) for backend in backends),
    }
