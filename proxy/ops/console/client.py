"""SHOW CLIENT <id>: everything about one client, and in words why it is where it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from proxy.pool.queue import Waiter
from proxy.relay import numbers
from proxy.relay.client import Client
from proxy.relay.relay import Relay
from proxy.session import pins
from proxy.wire import constants as c

from .values import Column, ConsoleError, Context, Row
from .views import CLIENTS, client_row, holder_kinds
from .words import PIN_WORDS

COLUMNS = (
    Column("field", "text", "A column of `SHOW CLIENTS`, or one of the fields below."),
    Column("value", "text", "Its value."),
)


class Field(NamedTuple):
    """A field that only SHOW CLIENT has."""

    name: str
    help: str


FIELDS = (
    Field("why", "Why it has a connection, waits for one, or needs none."),
    Field("queue_place", "Its place among all who wait, from 1."),
    Field("account_place", "Its place among the waiting clients of its account, which are served in this order."),
    Field("gives_up_in", "After how many more seconds of waiting it gets an error."),
    Field("pin", "What pins it and when that ends; a line for each reason."),
    Field("settings", "What it has set, other than at its login: the names."),
    Field("capabilities", "What it can do, as the protocol's bits in hexadecimal."),
    Field("last_backend", "The connection to the server that it had last, and would get again if nobody took it."),
)


def find_client(relay: Relay, argument: str) -> Client:
    """The client with the id `argument`. Raises ConsoleError with words."""
    client = relay.clients.get(parse_id(argument))
    if client is None:
        raise ConsoleError(f"there is no client {argument}: SHOW CLIENTS lists them, their ids in its column id", 1094)
    return client


def parse_id(argument: str) -> int:
    """A connection id: decimal, or hexadecimal behind 0x."""
    try:
        return int(argument, 16 if argument.lower().startswith("0x") else 10)
    except ValueError:
        raise ConsoleError(f"{argument!r} is no id: a whole number, as in the column id") from None


def client(context: Context, argument: str) -> Iterator[Row]:
    """All fields of one client."""
    relay = context.relay
    one = find_client(relay, argument)
    now = relay.clock()
    values = client_row(one, now, holder_kinds(relay).get(one, ""))
    for column, value in zip(CLIENTS, values, strict=True):
        yield column.name, None if value is None else str(value)
    yield "why", _why(relay, one, now)
    waiter = one.waiter
    if waiter is not None:
        yield from _in_the_queue(relay, waiter, now)
    for bit, words in PIN_WORDS.items():
        if one.pins & bit:
            yield "pin", f"{pins.PIN_NAMES[bit]}: {words}"
    changed = [name.decode("latin-1") for name, _ in one.settings.variables]
    yield "settings", ", ".join(changed)
    yield "capabilities", f"{one.capabilities:#x}"
    if one.last is not None and not one.last.lost:
        yield "last_backend", str(one.last.thread_id)


def _in_the_queue(relay: Relay, waiter: Waiter, now: float) -> Iterator[Row]:
    registry = relay.registry
    yield "queue_place", str(_place(waiter, registry.waiters()))
    yield "account_place", str(_place(waiter, iter(waiter.pool.account.waiters)))
    ends_at = registry.queue.ends_at(waiter, registry.down_since, relay.config.queue.timeout_down)
    yield "gives_up_in", f"{max(0.0, ends_at - now):.3f}"


def _place(waiter: Waiter, line: Iterator[Waiter]) -> int:
    return next(place for place, one in enumerate(line, 1) if one is waiter)


def _why(relay: Relay, client: Client, now: float) -> str:
    backend = client.backend
    if client.waiter is not None:
        return _why_waiting(relay, client, now)
    if backend is None:
        return "it is between statements and holds no connection to the server"
    held = f"it has had connection {backend.thread_id} for {now - backend.leased_since:.1f} s"
    if client.busy:
        reading = "; it does not read its answer as fast as the server sends it" if backend.reading_paused else ""
        uploading = "; it is still sending" if client.upload is not None else ""
        return f"{held}: its statement runs{reading}{uploading}"
    idle = now - client.idle_since
    if client.status & c.SERVER_STATUS_IN_TRANS:
        return f"{held}: its transaction is open, and it has done nothing for {idle:.1f} s"
    return f"{held}: it is pinned ({', '.join(pins.names(client.pins))}), and has done nothing for {idle:.1f} s"


def _why_waiting(relay: Relay, client: Client, now: float) -> str:
    registry = relay.registry
    account, cap = client.pool.account, registry.budget.cap
    if registry.paused:
        return "it waits for a connection: mybouncer is paused (RESUME ends that)"
    if registry.down_since is not None:
        return f"it waits for the server, which has been down for {now - registry.down_since:.1f} s"
    if account.slots >= account.limit(cap) < cap:
        return f"it waits for one of the {account.slots} connections of account {account.name}, which may have no more"
    leases = numbers.describe_leases(relay.backends, reasons=True)
    return f"it waits for one of {registry.budget.effective} connections: {leases}{registry.describe_others()}"
