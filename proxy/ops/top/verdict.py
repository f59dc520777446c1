"""Is it the pool, a leak or the database? One word and one sentence, from one look.

Who has the connections decides. If clients that do nothing with them have at least half: a leak. If statements that
run for long have: the database. If neither, and clients wait all the same: the pool is too small for the load. While
nobody waits for longer than a moment all is well, but a leak or a slow statement is named already.
"""

from __future__ import annotations

from dataclasses import dataclass

from .model import Look, Record, many, seconds

LONG_WAIT = 0.5  # seconds: below that the queue moves
LONG = 1.0  # seconds for which a lease is not worth a word

SLOW_KINDS = ("long_statement",)
STUCK_KINDS = ("unread_result", "stalled_upload")  # their leases count as running, and wait for their client


@dataclass(frozen=True, slots=True)
class Verdict:
    """`level` is ok, warning or alarm."""

    word: str
    sentence: str
    level: str


@dataclass(frozen=True, slots=True)
class _Leases:
    """Those that are lent: what becomes of them."""

    total: int
    in_transaction: int
    pinned: int
    stuck: int  # of those that run, by who does not read or send
    slow: int
    oldest_idle: Record | None
    oldest_running: Record | None

    @property
    def idle(self) -> int:
        return self.in_transaction + self.pinned + self.stuck


def judge(look: Look) -> Verdict:
    """The verdict on a look."""
    special = _special(look)
    if special is not None:
        return special
    leases = _leases(look)
    waiting = look.stat("queue_waiting") + look.stat("queue_waiting_logins")
    if not waiting or look.stat("queue_oldest_wait_ms") < LONG_WAIT * 1000:
        return _nobody_waits_long(look, waiting)
    wait = f"{waiting:,} wait, {seconds(look.stat('queue_oldest_wait_ms') / 1000)}"
    return _limited_account(look, wait) or _crowded(look, leases, wait)


def _special(look: Look) -> Verdict | None:
    down = look.stat("server_down_ms")
    if down:
        return Verdict("DATABASE", f"is down, for {seconds(down / 1000)}", "alarm")
    if look.stat("paused"):
        return Verdict("PAUSED", "by PAUSE at the console: nobody gets a connection until RESUME", "alarm")
    if look.stat("draining"):
        return Verdict("DRAINING", f"it ends as soon as {many(look.stat('clients'), 'client')} are done", "warning")
    top = look.stat("clients_max")
    if top and look.stat("clients") >= top:
        return Verdict("POOL", f"all {top:,} clients are there (listen.max_clients): others get 1040", "alarm")
    return None


def _nobody_waits_long(look: Look, waiting: int) -> Verdict:
    used = f"{look.stat('backends_leased')} of {look.stat('backends_max')} connections lent"
    oldest = seconds(look.stat("queue_oldest_wait_ms") / 1000)
    queue = f"{waiting:,} wait, {oldest} at most" if waiting else "nobody waits"
    if look.holders:
        worst = look.holders[0]
        word = "DATABASE" if worst.text("kind") in SLOW_KINDS else "LEAK"
        age = seconds(worst.number("seconds"))
        return Verdict(word, f"{_who(worst)}: {_kind(worst)}, {age}; {queue}, {used}", "warning")
    return Verdict("OK", f"{queue}; {used}", "ok")


def _limited_account(look: Look, wait: str) -> Verdict | None:
    """Who waits, waits for its account's own limit, while the pool has room."""
    if look.stat("backends") >= look.stat("backends_effective_max"):
        return None
    for account in look.accounts:
        limits = [account.number(name) for name in ("max_backends", "effective_max") if account.number(name)]
        if account.number("waiting") and limits and account.number("backends") >= min(limits):
            name, has = account.text("account"), account.whole("backends")
            return Verdict("POOL", f"account {name} has all of its {many(has, 'connection')}; {wait}", "alarm")
    return None


def _crowded(look: Look, leases: _Leases, wait: str) -> Verdict:
    used, cap, effective = look.stat("backends"), look.stat("backends_max"), look.stat("backends_effective_max")
    if leases.idle and 2 * leases.idle >= used:
        return Verdict("LEAK", f"{leases.idle} of {cap} connections are {_what_idles(leases)}; {wait}", "alarm")
    if leases.slow and 2 * leases.slow >= used:
        assert leases.oldest_running is not None
        age = seconds(leases.oldest_running.number("seconds"))
        idle = leases.in_transaction
        locks = f"; {idle} idle in transaction may lock them" if idle else ""
        words = f"{leases.slow} of {cap} connections run statements, the oldest {age}{locks}; {wait}"
        return Verdict("DATABASE", words, "alarm")
    if effective < cap and used >= effective:
        return Verdict("DATABASE", f"refuses more than {effective} of the {cap} connections; {wait}", "alarm")
    for state, words in (("closing", "not done with"), ("opening", "slow to open")):
        count = look.stat(f"backends_{state}")
        if count and 2 * count >= used:
            return Verdict("DATABASE", f"is {words} {many(count, 'connection')}; {wait}", "alarm")
    return Verdict("POOL", f"{leases.total} of {cap} connections are busy, none for long; {wait}", "alarm")


def _leases(look: Look) -> _Leases:
    doing: dict[str, list[Record]] = {}
    for lease in look.leases():
        doing.setdefault(lease.text("doing"), []).append(lease)
    idle = [one for one in doing.get("idle in transaction", ()) if one.number("seconds") >= LONG]
    pinned = [one for one in doing.get("pinned", ()) if one.number("seconds") >= LONG]
    slow = [one for one in doing.get("running", ()) if one.number("seconds") >= LONG]
    stuck = sum(holder.whole("backends") for holder in look.holders if holder.text("kind") in STUCK_KINDS)
    return _Leases(
        sum(map(len, doing.values())),
        len(idle),
        len(pinned),
        min(stuck, len(slow)),
        max(0, len(slow) - stuck),
        _oldest([*idle, *pinned]),
        _oldest(slow),
    )


def _what_idles(leases: _Leases) -> str:
    counts = (
        (leases.in_transaction, "idle in transaction"),
        (leases.pinned, "pinned and idle"),
        (leases.stuck, "stuck in answers that nobody reads"),
    )
    there = [(count, words) for count, words in counts if count]
    text = there[0][1] if len(there) == 1 else "kept: " + ", ".join(f"{count} {words}" for count, words in there)
    if leases.oldest_idle is None:
        return text
    return f"{text}; oldest {seconds(leases.oldest_idle.number('seconds'))} by {_who(leases.oldest_idle)}"


def _oldest(leases: list[Record]) -> Record | None:
    return max(leases, key=lambda lease: lease.number("seconds"), default=None)


def _who(one: Record) -> str:
    return one.text("program") or f"account {one.text('account')}"


def _kind(holder: Record) -> str:
    return f"{holder.whole('connections')} {holder.text('kind').replace('_', ' ')}"
