"""Which keys can change while mybouncer runs, and what that takes.

The configuration in force is one frozen value, `relay.config`. A change puts another one in its place and then tells
those who keep a copy of what they need; every key that is not in LIVE is the same until a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxy.config import Config, ConfigError, entries, split_key, value_of, with_keys, with_value
from proxy.ops import logs
from proxy.relay.relay import Relay

from .values import Column, ConsoleError, Row

Apply = Callable[[Relay], None]


def _read_where_it_is_used(_: Relay) -> None:
    """Nobody keeps a copy."""


def _cap(relay: Relay) -> None:
    cap = relay.config.pool.max_connections
    if cap != "auto":
        relay.registry.set_cap(cap)
    elif relay.profile.learned:
        relay.adjust_cap()
    relay.watch_queue()


def _quantum(relay: Relay) -> None:
    relay.registry.shares.quantum = relay.config.pool.quantum


def _timeouts(relay: Relay) -> None:
    relay.registry.set_timeouts(relay.config.queue.timeout, relay.config.queue.timeout_down)
    relay.watch_queue()


def _max_waiting(relay: Relay) -> None:
    relay.registry.max_waiting = relay.config.queue.max_waiting


def _login_timeout(relay: Relay) -> None:
    relay.registry.login_timeout = relay.config.listen.login_timeout


def _buffers(relay: Relay) -> None:
    session = relay.config.session
    relay.read_ahead = session.read_ahead
    relay.read_ahead_total = session.read_ahead_total
    relay.request_buffer = session.request_buffer


def _log(relay: Relay) -> None:
    logs.configure(relay.config.log.level, relay.config.log.format)


def _statements(relay: Relay) -> None:
    relay.statements.configure()


def _shares(relay: Relay) -> None:
    for account in list(relay.registry.accounts.values()):
        relay.set_terms(account)
    relay.watch_queue()


LIVE: dict[str, Apply] = {
    "backend.connect_timeout": _read_where_it_is_used,
    "listen.max_clients": _read_where_it_is_used,
    "listen.login_timeout": _login_timeout,
    "listen.drain_timeout": _read_where_it_is_used,
    "pool.max_connections": _cap,
    "pool.idle_timeout": _read_where_it_is_used,
    "pool.max_lifetime": _read_where_it_is_used,
    "pool.quantum": _quantum,
    "queue.timeout": _timeouts,
    "queue.timeout_down": _timeouts,
    "queue.max_waiting": _max_waiting,
    "session.read_ahead": _buffers,
    "session.read_ahead_total": _buffers,
    "session.request_buffer": _buffers,
    "session.idle_transaction_timeout": _read_where_it_is_used,
    "session.on_client_lost": _read_where_it_is_used,
    "session.pin_log": _read_where_it_is_used,
    "auth.cache_ttl": _read_where_it_is_used,
    "console.statements": _statements,
    "holders.action": _read_where_it_is_used,
    "holders.idle_in_transaction": _read_where_it_is_used,
    "holders.pinned_idle": _read_where_it_is_used,
    "holders.long_statement": _read_where_it_is_used,
    "holders.unread_result": _read_where_it_is_used,
    "holders.stalled_upload": _read_where_it_is_used,
    "holders.unused_connections": _read_where_it_is_used,
    "holders.prepared_statements": _read_where_it_is_used,
    "log.level": _log,
    "log.format": _log,
    "log.statements": _statements,
    "log.slow_statement": _statements,
    "log.sample_every": _read_where_it_is_used,
    "log.sql": _read_where_it_is_used,
    'users."name".weight': _shares,
    'users."name".max_connections': _shares,
    'users."name".max_clients': _read_where_it_is_used,
}

RELOAD = (
    Column("key", "text", "A key whose value as it is written now is not the one in force."),
    Column("value", "text", "That value. Passwords are `***`."),
    Column("before", "text", "The one that was in force."),
    Column("outcome", "text", "`applied`, or `needs a restart`."),
)


class Live:
    """Changes of the configuration of a relay. `read` gives it as it is written now, and raises ConfigError."""

    def __init__(self, relay: Relay, read: Callable[[], Config]) -> None:
        self._relay = relay
        self._read = read

    def can_set(self, key: str) -> bool:
        """Whether the key can change while it runs."""
        return _pattern(key) in LIVE

    def set(self, key: str, value: str) -> str:
        """Change one key; until a RELOAD or a restart. Returns what is in force now, in words."""
        relay = self._relay
        try:
            changed = with_value(relay.config, key, value)
        except ConfigError as exc:
            raise ConsoleError("; ".join(str(fault) for fault in exc.faults)) from None
        if not self.can_set(key):
            keys = ", ".join(LIVE)
            raise ConsoleError(f"{key} can only change with a restart; what can be set while it runs: {keys}")
        before = entries(relay.config)
        self._apply(changed, [key])
        now = entries(relay.config)[key]
        old = before[key].value if key in before else now.default
        return f"{key} is {now.value} (was {old}), until RELOAD or a restart"

    def reload(self) -> Iterator[Row]:
        """Read everything again and apply what can be; a row for each key that differs."""
        relay = self._relay
        try:
            written = self._read()
        except ConfigError as exc:
            faults = "; ".join(str(fault) for fault in exc.faults)
            raise ConsoleError(f"nothing was changed, the configuration is bad: {faults}") from None
        before, after = entries(relay.config), entries(written)
        differ = [key for key in {**before, **after} if value_of(relay.config, key) != value_of(written, key)]
        live = [key for key in differ if self.can_set(key)]
        self._apply(with_keys(relay.config, written, live), live)
        for key in differ:
            value, old = after.get(key), before.get(key)
            outcome = "applied" if key in live else "needs a restart"
            yield key, "" if value is None else value.value, "" if old is None else old.value, outcome

    def _apply(self, config: Config, keys: list[str]) -> None:
        self._relay.config = config
        for apply in dict.fromkeys(LIVE[_pattern(key)] for key in keys):
            apply(self._relay)


def _pattern(key: str) -> str:
    """`users."api".weight` as it is in LIVE."""
    parts = split_key(key)
    return f'users."name".{parts[2]}' if parts[0] == "users" else key
