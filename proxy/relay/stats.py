"""Plain counters of the relay. The hot path adds ints; `ops.metrics` reads them when it is asked."""

from __future__ import annotations

from collections import Counter

from proxy.histogram import Histogram


class Counters:
    """What happened since the start. Every attribute only grows, except `read_ahead_bytes`."""

    __slots__ = (
        "backend_closes",
        "backend_connect_failures",
        "backend_connect_seconds",
        "backend_connects",
        "bytes_from_clients",
        "bytes_to_clients",
        "client_connections",
        "client_disconnects",
        "commands",
        "errors",
        "login_failures",
        "login_seconds",
        "loop_lag",
        "malformed",
        "pins",
        "read_ahead_bytes",
        "reprepares",
        "resets",
        "restores",
        "statement_seconds",
        "transactions",
    )

    def __init__(self) -> None:
        self.commands = [0] * 256
        self.client_connections = self.backend_connects = 0
        self.transactions = self.resets = self.reprepares = self.malformed = 0
        self.bytes_from_clients = self.bytes_to_clients = self.read_ahead_bytes = 0
        self.client_disconnects: Counter[str] = Counter()
        self.login_failures: Counter[str] = Counter()
        self.backend_connect_failures: Counter[str] = Counter()
        self.backend_closes: Counter[str] = Counter()
        self.errors: Counter[tuple[int, str]] = Counter()
        self.pins: Counter[str] = Counter()
        self.restores: Counter[str] = Counter()
        self.login_seconds = Histogram()
        self.backend_connect_seconds = Histogram()
        self.statement_seconds = Histogram()
        self.loop_lag = Histogram()
