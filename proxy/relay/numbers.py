"""What the relay is doing, in numbers and words, computed when somebody asks."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from proxy.session import pins
from proxy.wire import constants as c

if TYPE_CHECKING:
    from .backend import Backend
    from .client import Client


def describe_leases(backends: Collection[Backend]) -> str:
    """What the leased backends are doing, in words."""
    in_transaction = pinned = running = 0
    for backend in backends:
        client = backend.client
        if client is None:
            continue
        if client.busy:
            running += 1
        elif client.pins:
            pinned += 1
        else:
            in_transaction += 1
    return f"{in_transaction} idle in transaction, {pinned} pinned, {running} running"


def describe_stall(backends: Collection[Backend], now: float) -> str:
    """Why nobody gets a connection, in numbers and names: what to look for at 4 a.m."""
    leased = [backend for backend in backends if backend.client is not None]
    reasons = sorted({name for b in leased if b.client is not None for name in pins.names(b.client.pins)})
    text = f"{len(leased)} leased: {describe_leases(backends)}"
    if reasons:
        text += f"; pins: {', '.join(reasons)}"
    oldest = min(leased, key=lambda backend: backend.leased_since, default=None)
    if oldest is None or oldest.client is None:
        return text
    client = oldest.client
    who = f"{client.address} {client.program}".strip()
    text += f"; oldest {now - oldest.leased_since:.0f} s by {client.user} from {who}"
    if any(not b.client.busy and b.client.status & c.SERVER_STATUS_IN_TRANS for b in leased if b.client is not None):
        text += "; nested transactions, or connections that were never closed?"
    return text


def client_states(clients: Collection[Client]) -> dict[str, int]:
    """How many clients are in each state."""
    states = dict.fromkeys(("idle", "waiting", "leased", "transaction", "pinned"), 0)
    for client in clients:
        if client.waiter is not None:
            states["waiting"] += 1
        elif client.pins:
            states["pinned"] += 1
        elif client.backend is None:
            states["idle"] += 1
        elif client.status & c.SERVER_STATUS_IN_TRANS:
            states["transaction"] += 1
        else:
            states["leased"] += 1
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
