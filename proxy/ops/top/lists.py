"""The lists of the view: which rows they have, in which order, which of them a filter leaves, and whom a kill hits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from .model import Look, Record, seconds

# What rows are sorted by; "worst" is who keeps most, waits longest, has been lent a connection for longest.
SORTS = ("worst", "account", "program", "address", "state")

EXTRA = 3


@dataclass(frozen=True, slots=True)
class Column:
    """A column. Where there is no room, those of the highest `rank` go first; `least` is how far it can shrink.

    From EXTRA on they are there only where nothing else has to shrink for them.
    """

    title: str
    rank: int
    right: bool = False
    least: int = 0


@dataclass(frozen=True, slots=True)
class Victim:
    """Whom a kill ends: one client, or those that are a holder's. `words` is how people are asked about it."""

    words: str
    client: int | None = None
    holder: tuple[str, str, str, str] | None = None  # kind, account, host, program

    def is_meant(self, client: Record) -> bool:
        """Whether a row of SHOW CLIENTS is one of those."""
        if self.holder is None:
            return client.ident("id") == self.client
        kind, account, host, program = self.holder
        address = client.text("address")
        here = address if address.startswith("unix:") else address.rpartition(":")[0]
        same = (client.text("account"), here, client.text("program")) == (account, host, program)
        return same and kind in client.text("holder").split(", ")


@dataclass(frozen=True, slots=True)
class Item:
    """A row: `key` stays the same while what it is about does, `note` is a line below it."""

    key: Hashable
    cells: tuple[str, ...]
    account: str = ""
    program: str = ""
    address: str = ""
    state: str = ""
    worst: tuple[float, ...] = ()
    note: str = ""
    victim: Victim | None = None

    def matches(self, filter_: str) -> bool:
        """Whether the filter is found in who it is."""
        return filter_.lower() in f"{self.account}\n{self.program}\n{self.address}".lower()


@dataclass(frozen=True, slots=True)
class List:
    """A list: its items as they are shown, and how many there are when nothing is filtered or cut off."""

    name: str
    columns: tuple[Column, ...]
    items: tuple[Item, ...]
    total: int


_HOLDERS = (
    Column("since", 0, right=True),
    Column("kind", 2, least=8),
    Column("clients", 3, right=True),
    Column("lent", 4, right=True),
    Column("account", 6, least=7),
    Column("program", 1, least=10),
    Column("host", 4, least=9),
)


def _holders(look: Look) -> Iterator[Item]:
    for one in look.holders:
        kind, account, host, program = map(one.text, ("kind", "account", "host", "program"))
        count, lent = one.whole("connections"), one.whole("backends")
        words = f"the {count} clients" if count > 1 else "the client"
        who = f"{program or f'account {account}'} on {host}"
        yield Item(
            ("holder", kind, account, host, program),
            (seconds(one.number("seconds")), kind.replace("_", " "), str(count), str(lent), account, program, host),
            account,
            program,
            host,
            kind,
            (lent, count, one.number("seconds")),
            one.text("cause"),
            Victim(f"{words} of {who} ({kind.replace('_', ' ')})", holder=(kind, account, host, program)),
        )


_LEASES = (
    Column("lent", 0, right=True),
    Column("doing", 2, least=8),
    Column("account", 3, least=7),
    Column("program", 1, least=10),
    Column("address", 4, least=9),
    Column("last", 5),
    Column("client", 6, right=True),
)


def _leases(look: Look) -> Iterator[Item]:
    for one in look.leases():
        account, program, address, doing = map(one.text, ("account", "program", "address", "doing"))
        client, age = one.ident("client"), one.number("seconds")
        if doing == "pinned":
            doing = f"pinned: {one.text('pins').replace('_', ' ')}"
        yield Item(
            ("finishing", one.ident("id")) if client is None else ("lease", client),
            (
                seconds(age),
                doing,
                account,
                program,
                address,
                one.text("statement"),
                one.text("client"),
            ),
            account,
            program,
            address,
            doing,
            (age,),
            victim=_client(one, client, f"{doing}, {seconds(age)}"),
        )


_WAITS = (
    Column("waits", 0, right=True),
    Column("left", 2, right=True),
    Column("account", 3, least=7),
    Column("program", 1, least=10),
    Column("address", 4, least=9),
    Column("next", 5),
    Column("client", 6, right=True),
)


def _waits(look: Look) -> Iterator[Item]:
    for one in look.queue:
        account, program, address = map(one.text, ("account", "program", "address"))
        client, age = one.ident("client"), one.number("seconds")
        left = seconds(one.number("left"))
        yield Item(
            ("wait", client) if client is not None else ("login", one.ident("place")),
            (seconds(age), left, account, program, address, one.text("statement"), one.text("client")),
            account,
            program,
            address,
            one.text("statement"),
            (age,),
            victim=_client(one, client, f"waiting, {seconds(age)}"),
        )


_ACCOUNTS = (
    Column("account", 0, least=8),
    Column("clients", 2, right=True),
    Column("waiting", 1, right=True),
    Column("oldest", 4, right=True),
    Column("lent", 1, right=True),
    Column("idle", 5, right=True),
    Column("share", 3, right=True),
    Column("limit", 6, right=True),
)


def _accounts(look: Look) -> Iterator[Item]:
    for one in look.accounts:
        waiting, leased = one.whole("waiting"), one.whole("leased")
        limits = [one.whole(name) for name in ("max_backends", "effective_max") if one.text(name)]
        cells = (
            one.text("account"),
            str(one.whole("clients")),
            str(waiting),
            seconds(one.number("oldest_wait")) if waiting else "",
            str(leased),
            str(one.whole("idle")),
            f"{one.number('share'):.1f}",
            str(min(limits)) if limits else "",
        )
        worst = (waiting, leased, one.number("clients"))
        yield Item(("account", one.text("account")), cells, one.text("account"), worst=worst)


_PINS = (
    Column("pin", 0, least=8),
    Column("now", 1, right=True),
    Column("so far", 3, right=True),
    Column("why", 2, least=10),
)


def _pins(look: Look) -> Iterator[Item]:
    for one in look.pins:
        now, total = one.whole("sessions"), one.whole("total")
        reason = one.text("reason")
        cells = (reason.replace("_", " "), str(now), str(total), one.text("meaning"))
        yield Item(("pin", reason), cells, worst=(now, total))


_STATEMENTS = (
    Column("lease", 1, right=True),
    Column("count", 2, right=True),
    Column("average", 3, right=True),
    Column("wait", 4, right=True),
    Column("errors", 5, right=True),
    Column("statement", 0, least=10),
)


def _statements(look: Look) -> Iterator[Item]:
    for one in look.statements:
        lease, text = one.number("lease"), one.text("statement")
        cells = (
            seconds(lease),
            str(one.whole("count")),
            f"{1000 * one.number('average'):.1f}ms",
            seconds(one.number("wait")),
            str(one.whole("errors")),
            text,
        )
        yield Item(("statement", text), cells, worst=(lease,))


_CLIENTS = (
    Column("since", 2, right=True),
    Column("state", 0),
    Column("account", 3, least=7),
    Column("program", 1, least=10),
    Column("address", 4, least=9),
    Column("last", 5),
    Column("client", 6, right=True),
    Column("pins", 7, least=8),
)


def _clients(look: Look) -> Iterator[Item]:
    for one in look.clients:
        account, program, address, state = map(one.text, ("account", "program", "address", "state"))
        age = one.number("seconds") or one.number("lease_seconds")
        busy = one.text("seconds") or one.text("lease_seconds")
        cells = (
            seconds(age) if busy else "",
            state,
            account,
            program,
            address,
            one.text("statement"),
            one.text("id"),
            one.text("pins"),
        )
        victim = _client(one, one.ident("id"), f"{state}, {seconds(age)}" if busy else state)
        yield Item(("client", one.ident("id")), cells, account, program, address, state, (age,), victim=victim)


def _client(one: Record, client: int | None, what: str) -> Victim | None:
    if client is None:
        return None
    who = one.text("program") or f"account {one.text('account')}"
    return Victim(f"client {client}: {who} from {one.text('address')} ({what})", client=client)


_Rows = Callable[[Look], Iterator[Item]]
# In the order in which they are shown.
_KINDS: dict[str, tuple[tuple[Column, ...], _Rows, Callable[[Look], int]]] = {
    "holders": (_HOLDERS, _holders, lambda look: len(look.holders)),
    "leases": (_LEASES, _leases, lambda look: look.stat("backends_leased")),
    "waits": (_WAITS, _waits, lambda look: look.stat("queue_waiting")),
    "accounts": (_ACCOUNTS, _accounts, lambda look: len(look.accounts)),
    "pins": (_PINS, _pins, lambda look: sum(pin.whole("sessions") for pin in look.pins)),
    "statements": (_STATEMENTS, _statements, lambda look: len(look.statements)),
    "clients": (_CLIENTS, _clients, lambda look: look.stat("clients")),
}
OVERVIEW = "overview"
PAGES = (OVERVIEW, *_KINDS)
_PAGES_ONLY = ("statements", "clients")


def lists(look: Look, page: str, sort: str, filter_: str) -> list[List]:
    """The lists of a page: the one that it is named after; on the overview all but the longest."""
    names = [name for name in _KINDS if name not in _PAGES_ONLY] if page == OVERVIEW else [page]
    made = []
    for name in names:
        columns, rows, total = _KINDS[name]
        items = [item for item in rows(look) if not filter_ or item.matches(filter_)]
        if name == "pins" and page == OVERVIEW:
            items = [item for item in items if item.worst[0]]
        made.append(List(name, columns, _sorted(items, sort), total(look)))
    return made


def _sorted(items: Iterable[Item], sort: str) -> tuple[Item, ...]:
    worst_first = sorted(items, key=lambda item: tuple(-number for number in item.worst))
    if sort == "worst":
        return tuple(worst_first)
    return tuple(sorted(worst_first, key=lambda item: str(getattr(item, sort)).lower()))
