"""How the pool is, as a frozen value; built when asked, never on the hot path."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.pool.budget import STATES
from proxy.pool.queue import Waiter

if TYPE_CHECKING:
    from proxy.pool.registry import Registry


@dataclass(frozen=True, slots=True)
class AccountStatistics:
    name: str
    slots: dict[str, int]  # per state
    effective: int | None  # None: the server never refused it, or has not for long
    max_connections: int | None
    share: float
    waiting: int
    oldest_wait: float
    clients: int


@dataclass(frozen=True, slots=True)
class Statistics:
    slots: dict[str, int]  # per state
    in_use: int
    cap: int
    effective: int
    waiting: int
    waiting_logins: int
    oldest_wait: float
    down: bool
    grants: int
    timeouts: int
    rejected: int
    abandoned: int
    failed: int
    refusals_absorbed: dict[int, int]
    accounts: tuple[AccountStatistics, ...]


def snapshot(registry: Registry, now: float) -> Statistics:
    budget, queue, shares = registry.budget, registry.queue, registry.shares
    per_weight = shares.per_weight()
    return Statistics(
        slots=dict(zip(STATES, budget.counts, strict=True)),
        in_use=budget.in_use,
        cap=budget.cap,
        effective=budget.effective,
        waiting=len(queue),
        waiting_logins=len(registry.logins.line),
        oldest_wait=_age(queue.line, now),
        down=registry.refusals.down,
        grants=queue.grants,
        timeouts=queue.timeouts,
        rejected=registry.rejected,
        abandoned=queue.abandoned,
        failed=queue.failed,
        refusals_absorbed=dict(registry.refusals.absorbed),
        accounts=tuple(
            AccountStatistics(
                name=account.name,
                slots=dict(zip(STATES, account.counts, strict=True)),
                effective=account.throttle.effective,
                max_connections=account.max_connections,
                share=shares.share(account, per_weight),
                waiting=len(account.waiters),
                oldest_wait=_age(account.waiters, now),
                clients=account.clients,
            )
            for account in registry.accounts.values()
        ),
    )


def _age(line: Iterable[Waiter], now: float) -> float:
    oldest = next(iter(line), None)
    return 0.0 if oldest is None else now - oldest.enqueued_at
