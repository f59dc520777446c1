"""The rows of every SHOW, made from what is there at the moment they are asked for.

A view is a generator. It copies the list that it walks over at once, because the server lets clients go on between
slices of rows: who has left or moved on meanwhile is left out. Times are in seconds.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Iterator

from proxy import __version__
from proxy.config import entries
from proxy.pool.budget import IDLE, LEASED, OPENING, STATES
from proxy.pool.queue import WAITING
from proxy.relay import numbers
from proxy.relay.backend import Backend
from proxy.relay.client import Client
from proxy.relay.relay import Relay
from proxy.session import pins
from proxy.wire import constants as c

from .values import Column, Context, Row
from .words import PIN_WORDS

CLIENTS = (
    Column("id", "int", "The connection id that the client knows, for `SHOW CLIENT` and `KILL CLIENT`."),
    Column("account", "text", "The MySQL user that it logged in as."),
    Column("address", "text", "Where it comes from: `host:port`, or the unix socket it came through."),
    Column("program", "text", "What it says it is: program and process, from its connection attributes."),
    Column("state", "text", "`idle`, `waiting`, `leased`, `transaction` or `pinned`, as in the metrics."),
    Column(
        "seconds", "float", "How long it has waited or, with a connection, done nothing. Empty: it runs or is idle."
    ),
    Column("backend", "int", "The connection to the server that it holds, if any."),
    Column("lease_seconds", "float", "How long it has held it."),
    Column("statement", "text", "The first word of its last statement."),
    Column("pins", "text", "Why it cannot leave its connection."),
    Column("schema", "text", "Its default schema."),
    Column("prepared", "int", "Prepared statements that it has open."),
    Column("unread_bytes", "int", "Bytes of answers that it has not read yet."),
    Column("holder", "text", "Of which kinds of `SHOW HOLDERS` it is one. Empty: of none."),
)


def clients(context: Context, _: str) -> Iterator[Row]:
    """Every client that has logged in."""
    now, kinds = context.relay.clock(), holder_kinds(context.relay)
    for client in list(context.relay.clients.values()):
        if not client.closed:
            yield client_row(client, now, kinds.get(client, ""))


def holder_kinds(relay: Relay) -> dict[Client, str]:
    """Of which kinds of holders clients are, as of the last look for them."""
    found: dict[Client, str] = {}
    for holder in relay.holders.current():
        for client in holder.clients:
            found[client] = f"{found[client]}, {holder.kind}" if client in found else holder.kind
    return found


def client_row(client: Client, now: float, kinds: str) -> Row:
    """One client, as in CLIENTS."""
    backend, waiter = client.backend, client.waiter
    seconds = None
    if waiter is not None:
        seconds = _round(now - waiter.enqueued_at)
    elif backend is not None and not client.busy:
        seconds = _round(now - client.idle_since)
    return (
        client.ident,
        client.user,
        client.address,
        client.program,
        numbers.client_state(client),
        seconds,
        None if backend is None else backend.thread_id,
        None if backend is None else _round(now - backend.leased_since),
        client.verdict.kind.decode("latin-1"),
        ", ".join(pins.names(client.pins)) if client.pins else "",
        _schema(client.settings.schema),
        len(client.statements) if client.statements else 0,
        client.read_ahead,
        kinds,
    )


BACKENDS = (
    Column(
        "id", "int", "The connection id on the server, for `KILL BACKEND`; in its `SHOW PROCESSLIST` it is the same."
    ),
    Column("account", "text", "Whose connection it is; nobody else ever gets it."),
    Column("state", "text", "`idle`, `leased`, `opening`, `resetting` or `closing`."),
    Column(
        "doing",
        "text",
        "With a client: `running`, `idle in transaction` or `pinned`; `finishing`: its client has left.",
    ),
    Column("seconds", "float", "How long it has been lent, or idle."),
    Column("client", "int", "The client that has it."),
    Column("address", "text", "Where that client comes from."),
    Column("program", "text", "What that client says it is."),
    Column("statement", "text", "The first word of that client's last statement."),
    Column("pins", "text", "Why that client cannot leave it."),
    Column("schema", "text", "The schema that it is in."),
    Column("prepared", "int", "Prepared statements on it."),
)


def backends(context: Context, _: str) -> Iterator[Row]:
    """Every connection to the server, those lent for the longest first."""
    now = context.relay.clock()
    for backend in sorted(context.relay.backends, key=lambda one: (one.slot != LEASED, one.leased_since)):
        if not backend.lost:
            yield _backend_row(backend, now)


def _backend_row(backend: Backend, now: float) -> Row:
    client = backend.client
    since = {LEASED: backend.leased_since, IDLE: backend.idle_since}.get(backend.slot)
    return (
        backend.thread_id,
        backend.pool.account.name,
        _place(backend),
        numbers.lease_state(client) if backend.slot == LEASED else "",
        None if since is None else _round(now - since),
        None if client is None else client.ident,
        "" if client is None else client.address,
        "" if client is None else client.program,
        "" if client is None else client.verdict.kind.decode("latin-1"),
        "" if client is None else ", ".join(pins.names(client.pins)),
        _schema(None if backend.settings is None else backend.settings.schema),
        len(backend.statements),
    )


def _place(backend: Backend) -> str:
    return STATES[backend.slot] if backend.slot < len(STATES) else "opening"


POOLS = (
    Column("account", "text", "A pool has the connections of one account with the same capabilities."),
    Column("capabilities", "text", "Those capabilities, as the protocol's bits in hexadecimal."),
    Column("idle", "int", "Connections that nobody has."),
    Column("leased", "int", "Connections that a client has."),
    Column("opening", "int", "Connections that are being opened."),
    Column("resetting", "int", "Connections that are being reset for others."),
    Column("closing", "int", "Connections that the server is not done with yet."),
    Column("waiting", "int", "Clients that wait for one."),
)


def pools(context: Context, _: str) -> Iterator[Row]:
    """Every pool that has connections or waiting clients."""
    counts = Counter((backend.pool, backend.slot) for backend in context.relay.backends)
    for account in list(context.relay.registry.accounts.values()):
        for pool in list(account.pools.values()):
            of = [counts[pool, slot] for slot in range(len(STATES))]
            of[OPENING] = pool.opening
            if any(of) or pool.waiting:
                idle, leased, opening, resetting, closing = of
                key = f"{pool.key:#x}" if isinstance(pool.key, int) else str(pool.key)
                yield account.name, key, idle, leased, opening, resetting, closing, pool.waiting


QUEUE = (
    Column("place", "int", "Its place among all who wait, from 1."),
    Column("account_place", "int", "Its place among those of its account: these are served in this order."),
    Column("client", "int", "The client."),
    Column("account", "text", "Its account."),
    Column("address", "text", "Where it comes from."),
    Column("program", "text", "What it says it is."),
    Column("seconds", "float", "How long it has waited."),
    Column("left", "float", "After how many more it gets 1040 (or 2003)."),
    Column("statement", "text", "The first word of its statement."),
)


def queue(context: Context, _: str) -> Iterator[Row]:
    """Every client that waits, the longest waiting first."""
    relay = context.relay
    registry, now = relay.registry, relay.clock()
    places: Counter[str] = Counter()
    for place, waiter in enumerate(list(registry.waiters()), 1):
        account = waiter.pool.account.name
        places[account] += 1
        client = waiter.client
        if waiter.state != WAITING:
            continue
        ends_at = registry.queue.ends_at(waiter, registry.down_since, relay.config.queue.timeout_down)
        known = client if isinstance(client, Client) else None
        yield (
            place,
            places[account],
            None if known is None else known.ident,
            account,
            "" if known is None else known.address,
            "" if known is None else known.program,
            _round(now - waiter.enqueued_at),
            _round(max(0.0, ends_at - now)),
            "" if known is None else known.verdict.kind.decode("latin-1"),
        )


PINS = (
    Column("reason", "text", "Why sessions are pinned, as in `mybouncer_pinned_sessions`."),
    Column("sessions", "int", "How many are pinned for it now."),
    Column("total", "int", "How often a session was pinned for it since the start."),
    Column("meaning", "text", "What it means."),
)


def pinned(context: Context, _: str) -> Iterator[Row]:
    """Every reason for which a session was pinned since the start."""
    relay = context.relay
    masks = Counter(client.pins for client in relay.clients.values() if client.pins)
    for bit, name in pins.PIN_NAMES.items():
        sessions = sum(count for mask, count in masks.items() if mask & bit)
        total = relay.stats.pins[name]
        if sessions or total:
            yield name, sessions, total, PIN_WORDS[bit]


HOLDERS = (
    Column("kind", "text", "What it does, as in `mybouncer_holders` and the keys of `[holders]`."),
    Column("account", "text", "The MySQL user."),
    Column("host", "text", "Where it comes from."),
    Column("program", "text", "What it says it is: program and process. Empty: all clients of that account and host."),
    Column("connections", "int", "How many of its clients do it now."),
    Column("backends", "int", "How many connections to the server those hold."),
    Column("seconds", "float", "For how long already: the first of them."),
    Column("statement", "text", "The last statement of one of them, without its data."),
    Column("cause", "text", "In words, and what it probably comes from."),
)


def holders(context: Context, _: str) -> Iterator[Row]:
    """Who keeps connections for suspiciously long, who holds most first."""
    for one in context.relay.holders.current():
        clients, seconds = len(one.clients), round(one.seconds, 1)
        yield one.kind, one.account, one.host, one.program, clients, one.leases, seconds, one.statement, one.cause


STATEMENTS = (
    Column("statement", "text", "A statement without its data; `(others)`: the sum of those that were pushed out."),
    Column("count", "int", "How often it was run."),
    Column("seconds", "float", "How long it ran, from its sending to the end of the answer: the sum."),
    Column("average", "float", "The same for one."),
    Column("longest", "float", "The longest that was counted."),
    Column("wait", "float", "How long it waited for a connection: the sum."),
    Column("lease", "float", "How long it kept connections, and in a transaction what passed behind it: the sum."),
    Column("rows", "int", "Rows that it returned or changed."),
    Column("errors", "int", "How often it ended with an error."),
)


def statements(context: Context, _: str) -> Iterator[Row]:
    """What statements cost, those that kept connections for longest first."""
    for one in context.relay.statements.top():
        average = round(one.seconds / one.count, 6) if one.count else 0.0
        yield (
            one.digest,
            one.count,
            _round(one.seconds),
            average,
            round(one.longest, 6),
            _round(one.wait),
            _round(one.lease),
            one.rows,
            one.errors,
        )


ACCOUNTS = (
    Column("account", "text", "A MySQL user; those in use now."),
    Column("clients", "int", "Its clients."),
    Column("waiting", "int", "How many of them wait."),
    Column("oldest_wait", "float", "How long the first of those has waited."),
    Column("backends", "int", "Its connections to the server."),
    Column("leased", "int", "How many of those clients have."),
    Column("idle", "int", "How many of those nobody has."),
    Column("share", "float", "How many it is entitled to while others wait."),
    Column("weight", "float", "Its weight in that share."),
    Column("max_backends", "int", "Its own limit, from `[users]` or the server. Empty: none."),
    Column(
        "effective_max", "int", "What the server gave when it last refused it one. Empty: it never did, or long ago."
    ),
)


def accounts(context: Context, _: str) -> Iterator[Row]:
    """Every account with clients or connections."""
    registry, now = context.relay.registry, context.relay.clock()
    per_weight = registry.shares.per_weight()
    for account in list(registry.accounts.values()):
        first = next(iter(account.waiters), None)
        yield (
            account.name,
            account.clients,
            len(account.waiters),
            0.0 if first is None else _round(now - first.enqueued_at),
            account.slots,
            account.counts[LEASED],
            account.counts[IDLE],
            round(registry.shares.share(account, per_weight), 2),
            account.weight,
            account.max_connections,
            account.throttle.effective,
        )


STATS = (
    Column("name", "text", "A number's name."),
    Column("value", "int", "The number; those that end in `_ms` are milliseconds."),
    Column("meaning", "text", "What it counts."),
)


_STATE_WORDS = {"leased": "running a statement", "transaction": "in a transaction"}


def stats(context: Context, _: str) -> Iterator[Row]:
    """The numbers of everything, since the start or now."""
    relay, counters = context.relay, context.relay.stats
    now = relay.clock()
    of = relay.registry.statistics()
    yield "uptime_seconds", int(time.time() - context.started_at), "Since the start."
    yield "paused", int(relay.registry.paused), "1 after PAUSE."
    yield "draining", int(relay.draining), "1 after DRAIN, or SIGTERM."
    yield "server_down_ms", _since(relay.registry.down_since, now), "How long the server has been down."
    yield "clients", len(relay.clients), "Clients that are logged in."
    yield "clients_max", relay.clients_max, "How many there may be."
    for state, count in relay.client_states().items():
        yield f"clients_{state}", count, f"Clients that are {_STATE_WORDS.get(state, state)}."
    yield "backends", of.in_use, "Connections to the server, of those that it may have."
    yield "backends_max", of.cap, "The cap."
    yield "backends_effective_max", of.effective, "The cap after what the server refused."
    for state, count in of.slots.items():
        yield f"backends_{state}", count, f"Connections to the server that are {state}."
    yield "queue_waiting", of.waiting, "Clients that wait for a connection to the server."
    yield "queue_waiting_logins", of.waiting_logins, "Logins that wait for a free slot."
    yield "queue_oldest_wait_ms", _ms(of.oldest_wait), "The longest wait of those."
    yield "queue_grants", of.grants, "Waiting clients that got one."
    yield "queue_timeouts", of.timeouts, "Waiting clients that got 1040 or 2003."
    yield "queue_rejected", of.rejected, "Clients that could not wait: the queue was full."
    yield "queue_abandoned", of.abandoned, "Waiting clients that left."
    yield "refusals_absorbed", sum(of.refusals_absorbed.values()), "Refusals of the server that no client saw."
    yield "statements", _statements(counters.commands), "Statements from clients, text and prepared."
    yield "commands", sum(counters.commands), "All commands from clients."
    yield "transactions", counters.transactions, "Transactions that ended."
    yield "errors_server", _errors(counters.errors, "server"), "Errors of the server that clients saw."
    yield "errors_proxy", _errors(counters.errors, "proxy"), "Errors of ours that clients saw."
    yield "login_failures", sum(counters.login_failures.values()), "Logins that failed."
    yield "client_connections", counters.client_connections, "Connections that clients opened."
    yield "backend_connects", counters.backend_connects, "Connections opened to the server."
    yield "backend_connect_failures", sum(counters.backend_connect_failures.values()), "Those that failed."
    yield "restores", sum(counters.restores.values()), "Settings brought into a connection for a session."
    yield "resets", counters.resets, "Connections that were reset."
    yield "reprepares", counters.reprepares, "Statements prepared again on another connection."
    yield "bytes_from_clients", counters.bytes_from_clients, "Bytes from clients."
    yield "bytes_to_clients", counters.bytes_to_clients, "Bytes to clients."
    yield "read_ahead_bytes", counters.read_ahead_bytes, "Answers buffered for clients that have not read them."
    yield "malformed", counters.malformed, "Packets that broke the protocol."


def _statements(commands: list[int]) -> int:
    return sum(commands[number] for number in (c.COM_QUERY, c.COM_STMT_EXECUTE, c.COM_STMT_BULK_EXECUTE))


def _errors(errors: Counter[tuple[int, str]], side: str) -> int:
    return sum(count for (_, where), count in errors.items() if where == side)


CONFIG = (
    Column("key", "text", "The key, as in the file."),
    Column("value", "text", "What is in force. Passwords are `***`."),
    Column("default", "text", "Its default."),
    Column("live", "text", "`yes`: `SET` and `RELOAD` change it. `no`: a restart does."),
)


def config(context: Context, _: str) -> Iterator[Row]:
    """Every key of the configuration."""
    for entry in entries(context.relay.config).values():
        yield entry.key, entry.value, entry.default, "yes" if context.live.can_set(entry.key) else "no"


VERSION = (
    Column("version", "text", "The version of mybouncer."),
    Column("server", "text", "Where the server is."),
    Column("server_version", "text", "What it says it is; empty until it was seen."),
    Column("python", "text", "The Python that runs this."),
    Column("pid", "int", "The process."),
    Column("started", "text", "When it was started, in UTC."),
)


def version(context: Context, _: str) -> Iterator[Row]:
    """What runs here."""
    greeting = context.relay.profile.greeting
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(context.started_at))
    server_version = "" if greeting is None else greeting.server_version
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield __version__, context.relay.address.label, server_version, python, os.getpid(), started


def _schema(name: bytes | None) -> str:
    return "" if name is None else name.decode("utf-8", "replace")


def _round(seconds: float) -> float:
    return round(seconds, 3)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _since(then: float | None, now: float) -> int:
    return 0 if then is None else _ms(now - then)
