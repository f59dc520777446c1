"""Who keeps connections for suspiciously long: the code that leaks, by process, with the statement and a likely cause.

Looked for once a second, at what clients are then; on the path of a statement there is only what remembers its text,
and for a client's first few when they ended. A holder is a kind of keeping and the clients of one process that have
done it for longer than the limit of that kind. A process is told from others by its host, its account and what it
says it is (program and pid, in its connection attributes). It is told once, and once when it is over. A look at
10,000 clients takes 3 ms (CPython 3.11, 2026-11).

`UNUSED` is for a leak that keeps nothing of the server: an application that does not close its rows gets a new
connection for every statement, each used once, while those before it are at rest. A pool looks alike after a burst,
except that it opens a connection only when the others are in use; so those count that were opened after others had
come to rest. A pool that opens connections in advance looks alike except for what they were used for; so only
connections whose statement was a SELECT from a table count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.session import pins
from proxy.wire import constants as c

from . import numbers
from .release import FEW
from .said import last_text, shown

if TYPE_CHECKING:
    from .client import Client
    from .relay import Relay

IN_TRANSACTION = "idle_in_transaction"
PINNED = "pinned_idle"
RUNNING = "long_statement"
UNREAD = "unread_result"
UPLOAD = "stalled_upload"
UNUSED = "unused_connections"
PREPARED = "prepared_statements"
KINDS = (IN_TRANSACTION, PINNED, RUNNING, UNREAD, UPLOAD, UNUSED, PREPARED)

_AT_REST = 2.0  # seconds after which a new connection that does nothing is one that does nothing
_SAME_BURST = 0.02  # seconds that a busy machine may keep an application from opening the rest of them

Process = tuple[str, str, str]  # host, program, account


@dataclass(slots=True)
class Holder:
    """A process, what it does, and since when; `seconds` and what follows are as of the last look."""

    kind: str
    host: str
    program: str
    account: str
    since: float  # on the loop's clock
    clients: list[Client] = field(default_factory=list)
    seconds: float = 0.0
    statement: str = ""
    cause: str = ""
    most: int = 0  # clients at a time
    told: bool = False  # in the log

    @property
    def who(self) -> str:
        """In words: "pid 4242 `api` on 10.0.0.5"."""
        return f"{self.program or f'account {self.account}'} on {self.host}"

    @property
    def leases(self) -> int:
        """How many connections to the server it keeps."""
        return sum(client.backend is not None for client in self.clients)


class Holders:
    """Looks when it is told to, remembers, tells."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._holders: dict[tuple[str, Process], Holder] = {}
        self._processes: dict[Client, Process] = {}
        self._seen: dict[Client, tuple[object, float]] = {}  # what each did when it was first seen doing it

    def current(self) -> list[Holder]:
        """Those of the last look, who keeps most first."""
        return sorted(self._holders.values(), key=lambda one: (-one.leases, -len(one.clients), one.since))

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        found = dict.fromkeys(KINDS, 0)
        for holder in self._holders.values():
            found[holder.kind] += 1
        return found

    def look(self, now: float) -> None:
        """See who does what, and act on it."""
        clients = list(self._relay.clients.values())
        found: dict[tuple[str, Process], list[tuple[Client, float]]] = {}
        processes = {}
        seen: dict[Client, tuple[object, float]] = {}
        at_rest: dict[Process, list[Client]] = {}
        total: dict[Process, int] = {}
        limits = self._relay.config.holders
        for client in clients:
            process = processes[client] = self._processes.get(client) or _process(client)
            total[process] = total.get(process, 0) + 1
            for kind, since in self._patterns_of(client, now, seen):
                limit = getattr(limits, kind)
                if limit and (kind == PREPARED or now - since >= limit):
                    found.setdefault((kind, process), []).append((client, since))
            if _used_once(client) and now - client.rested_at >= _AT_REST:
                at_rest.setdefault(process, []).append(client)
        if limits.unused_connections:
            for process, unused in at_rest.items():
                if _needless(unused) >= limits.unused_connections and 5 * len(unused) >= 4 * total[process]:
                    found[UNUSED, process] = [(client, client.connected_at) for client in unused]
        self._processes = processes
        self._seen = seen
        self._take(found, now)

    def _patterns_of(
        self, client: Client, now: float, seen: dict[Client, tuple[object, float]]
    ) -> Iterator[tuple[str, float]]:
        """What a client may be doing for too long, and since when."""
        statements = client.statements
        if statements is not None and len(statements) > self._relay.config.holders.prepared_statements:
            yield PREPARED, now
        backend = client.backend
        if backend is None:
            return
        if client.large is not None or client.upload is not None:
            yield UPLOAD, client.idle_since
        elif client.busy:
            kind = UNREAD if backend.reading_paused else RUNNING
            doing = (kind, client.sent)
            before = self._seen.get(client)
            since = before[1] if before is not None and before[0] == doing else now
            seen[client] = (doing, since)
            yield kind, since
        elif client.status & c.SERVER_STATUS_IN_TRANS:
            yield IN_TRANSACTION, client.idle_since
        elif client.pins:
            yield PINNED, client.idle_since

    def _take(self, found: dict[tuple[str, Process], list[tuple[Client, float]]], now: float) -> None:
        for key in [key for key in self._holders if key not in found]:
            self._over(self._holders.pop(key), now)
        for (kind, process), members in found.items():
            known = self._holders.get((kind, process))
            holder = known or Holder(kind, *process, min(since for _, since in members))
            holder.clients = [client for client, _ in members]
            holder.most = max(holder.most, len(members))
            holder.seconds = now - holder.since
            holder.statement = shown(holder.clients[0])
            holder.cause = _cause(holder)
            if known is None:
                self._holders[kind, process] = holder
                holder.told = self._tell(holder)
            if self._relay.config.holders.action == "kill":
                self._kill(holder)

    def _tell(self, holder: Holder) -> bool:
        """Once; and rarely, if the same process does it again and again with about as many connections."""
        size = len(str(len(holder.clients)))
        return self._relay.limited_log(
            f"holder {holder.kind} {holder.who} {holder.account} {size}",
            "holder",
            kind=holder.kind,
            user=holder.account,
            who=holder.who,
            connections=len(holder.clients),
            seconds=round(holder.seconds, 1),
            statement=holder.statement,
            cause=holder.cause,
        )

    def _over(self, holder: Holder, now: float) -> None:
        if not holder.told:
            return
        self._relay.log.info(
            "holder gone",
            kind=holder.kind,
            user=holder.account,
            who=holder.who,
            connections=holder.most,
            seconds=round(now - holder.since, 1),
        )

    def _kill(self, holder: Holder) -> None:
        for client in holder.clients:
            if not client.closed:
                self._relay.spawn(self._relay.control.end_client(client))


def _process(client: Client) -> Process:
    return numbers.host_of(client), client.program, client.user


def _used_once(client: Client) -> bool:
    """Whether it does nothing after one statement that read from a table."""
    if client.backend is not None or client.busy or not 0 < client.sent <= FEW:
        return False
    return client.verdict.kind in (b"select", b"with", b"execute") and b"from" in last_text(client).lower()


def _needless(clients: list[Client]) -> int:
    """How many would not have been opened by a pool, which had others at rest; with the first of those."""
    rested_at = min(client.rested_at for client in clients) + _SAME_BURST
    return 1 + sum(client.connected_at > rested_at for client in clients)


def _cause(holder: Holder) -> str:
    count = len(holder.clients)
    opened = [client.connected_at for client in holder.clients]
    many = f"opened {count} connections in {max(opened) - min(opened):.1f} s, each " if count > 1 else ""
    of = f" of `{holder.statement}`" if holder.statement else ""
    after = f" after `{holder.statement}`" if holder.statement else ""
    match holder.kind:
        case "idle_in_transaction":
            return f"{many}in an open transaction{after}: neither committed nor rolled back?"
        case "pinned_idle":
            mask = 0
            for client in holder.clients:
                mask |= client.pins
            return f"{many}pinned ({', '.join(pins.names(mask)).replace('_', ' ')}) and idle{after}"
        case "long_statement":
            return f"{many}running `{holder.statement}`: slow, or waiting for a lock?"
        case "unread_result":
            return f"{many}with an unread result{of}: rows not closed{' in a loop' if count > 1 else ''}?"
        case "stalled_upload":
            return f"{many}sending `{holder.statement}` and not going on"
        case "unused_connections":
            return f"{many}used once and not again{after}: rows not closed in a loop?"
        case _:
            most = max(len(client.statements or ()) for client in holder.clients)
            return f"up to {most} open prepared statements on one connection{after}: never closed?"
