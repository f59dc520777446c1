"""Counters of the pooler as Prometheus metrics.

Law: the hot path adds to plain ints and never touches a metric object. When somebody asks, `Exporter.snapshot`
copies the numbers in one go on the event loop (no await: they belong together), and `Renderer.render` turns the
copy into text, which costs thirty times more and may run in a thread (2026-11, all account labels in use, two
shared cores: 0.8 ms and 25 ms). `METRICS` is the only list of what exists: names, kinds, labels and meanings;
`docs/metrics.md` is tested against it. SQL text is never a label, and the label `account` is bounded by
`AccountLabels`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from proxy import __version__
from proxy.histogram import OTHER, Histogram, Histograms
from proxy.pool.registry import Registry
from proxy.relay.stats import Counters
from proxy.wire import constants

PREFIX = "mybouncer_"
MAX_ACCOUNT_LABELS = 100


@dataclass(frozen=True, slots=True)
class Description:
    """A metric that exists: its name without the prefix, kind, labels, and what it counts."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str

    @property
    def full_name(self) -> str:
        """The name as it is scraped."""
        return PREFIX + self.name


METRICS = (
    Description("clients", "gauge", ("state",), "Connected clients by what they are doing."),
    Description("clients_max", "gauge", (), "The limit on clients, listen.max_clients."),
    Description("client_connections_total", "counter", (), "Connections that clients opened."),
    Description("client_disconnects_total", "counter", ("reason",), "Client connections that ended, by reason."),
    Description("login_failures_total", "counter", ("reason",), "Logins that failed, by reason."),
    Description("login_seconds", "histogram", (), "From the greeting to the answer of a client's login."),
    Description("backends", "gauge", ("state",), "Slots of the budget by what their connection is doing."),
    Description("backends_max", "gauge", (), "The cap on connections to the server, pool.max_connections."),
    Description("backends_effective_max", "gauge", (), "The cap after what the server itself refused."),
    Description("backend_connects_total", "counter", (), "Connections opened to the server."),
    Description("backend_connect_failures_total", "counter", ("code",), "Connections to the server that failed."),
    Description("backend_connect_seconds", "histogram", (), "Opening a connection to the server, with its login."),
    Description("backend_closes_total", "counter", ("reason",), "Connections to the server that ended, by reason."),
    Description("queue_waiting", "gauge", ("account",), "Clients waiting for a connection to the server."),
    Description("queue_oldest_wait_seconds", "gauge", (), "How long the longest waiting client has waited so far."),
    Description("queue_wait_seconds", "histogram", ("account",), "How long clients waited, also those who gave up."),
    Description("queue_grants_total", "counter", (), "Waiting clients that got a connection."),
    Description("queue_timeouts_total", "counter", (), "Waiting clients that were answered with 1040 or 2003."),
    Description("queue_rejected_total", "counter", (), "Clients that could not wait because the queue was full."),
    Description("queue_abandoned_total", "counter", (), "Waiting clients that left before their turn."),
    Description("refusals_absorbed_total", "counter", ("code",), "Refusals of the server that no client saw."),
    Description("statements_total", "counter", ("command",), "Commands from clients."),
    Description("statement_seconds", "histogram", (), "From sending a statement to the end of its answer."),
    Description("lease_seconds", "histogram", ("account",), "How long clients kept a connection to the server."),
    Description("transactions_total", "counter", (), "Transactions that ended."),
    Description("errors_total", "counter", ("code", "side"), "Errors clients saw, from the server or from us."),
    Description("bytes_total", "counter", ("direction",), "Bytes from and to clients."),
    Description("pinned_sessions", "gauge", ("reason",), "Sessions that cannot leave their connection, by reason."),
    Description(
        "holders", "gauge", ("kind",), "Processes that keep connections for suspiciously long, by what they do."
    ),
    Description("pins_total", "counter", ("reason",), "Times a session was pinned, by reason."),
    Description("restores_total", "counter", ("kind",), "Settings brought into a connection for a session, by kind."),
    Description("resets_total", "counter", (), "Connections that were reset before another client got them."),
    Description("prepared_statements", "gauge", ("side",), "Open prepared statements of clients and on the server."),
    Description("reprepares_total", "counter", (), "Statements that were prepared again on another connection."),
    Description("read_ahead_bytes", "gauge", (), "Answers that are buffered for clients who have not read them yet."),
    Description("malformed_total", "counter", (), "Packets that broke the protocol."),
    Description("event_loop_tasks", "gauge", (), "Tasks of the event loop: what is under way and may wait."),
    Description("event_loop_lag_seconds", "histogram", (), "How late the event loop ran a timer."),
    Description("build_info", "gauge", ("version",), "1, with the version as a label."),
)

CLIENT_STATES = ("idle", "waiting", "leased", "transaction", "pinned")
BACKEND_STATES = ("idle", "leased", "opening", "resetting", "closing")
REFUSALS = ("1040", "1135", "1203", "1226")

COMMANDS = {
    value: name.removeprefix("COM_").lower()
    for name, value in vars(constants).items()
    if name.startswith("COM_") and isinstance(value, int)
}


# --- where numbers come from ---


class Clients(Protocol):
    """The clients as they are now. The relay provides it; called once per scrape, so it may walk over them."""

    @property
    def clients_max(self) -> int:
        """The limit on clients."""

    @property
    def tasks(self) -> int:
        """How many tasks the event loop has."""

    def client_states(self) -> Mapping[str, int]:
        """How many clients are in each state of `CLIENT_STATES`."""

    def pinned_sessions(self) -> Mapping[str, int]:
        """How many sessions are pinned for each reason."""

    def prepared_statements(self) -> Mapping[str, int]:
        """How many prepared statements are open, by side: client, backend."""

    def holder_counts(self) -> Mapping[str, int]:
        """How many holders there are of each kind."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """A copy of a histogram that nobody adds to any more."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @classmethod
    def of(cls, histogram: Histogram) -> Buckets:
        """The numbers of `histogram` now."""
        return cls(histogram.bounds, tuple(histogram.counts), histogram.sum)

    def __add__(self, other: Buckets) -> Buckets:
        assert self.bounds == other.bounds
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Buckets(self.bounds, counts, self.sum + other.sum)


Labels = tuple[str, ...]
Value = float | Buckets
# name → label values → number. A metric without labels has the one key ().
Snapshot = dict[str, dict[Labels, Value]]


class AccountLabels:
    """Which accounts have a label of their own: those of [users], and the first 100 others; the rest is `other`.

    What was decided for an account stays, so that its counters never move from one label to another.
    """

    def __init__(self, configured: Iterable[str] = (), limit: int = MAX_ACCOUNT_LABELS) -> None:
        self._own = set(configured)
        self._room = limit

    def label(self, account: str) -> str:
        """The value of the label `account`."""
        if account in self._own:
            return account
        if self._room == 0 or account == OTHER:
            return OTHER
        self._room -= 1
        self._own.add(account)
        return account


class Exporter:
    """Reads the counters; gives a `Snapshot`. Also a prometheus_client collector, for other people's registries."""

    def __init__(
        self, counters: Counters, clients: Clients, pools: Registry, configured_accounts: Iterable[str] = ()
    ) -> None:
        self._counters = counters
        self._clients = clients
        self._pools = pools
        self._accounts = AccountLabels(configured_accounts)

    def snapshot(self) -> Snapshot:
        """All numbers as they are now. On the event loop, no await in between."""
        snapshot = self._from_relay()
        snapshot.update(self._from_pools())
        snapshot["build_info"] = {(__version__,): 1}
        return snapshot

    def collect(self) -> Iterator[Metric]:
        """For `CollectorRegistry.register`."""
        return families(self.snapshot())

    def _from_relay(self) -> Snapshot:
        counters, clients = self._counters, self._clients
        return {
            "clients": _by(clients.client_states(), CLIENT_STATES),
            "clients_max": _one(clients.clients_max),
            "client_connections_total": _one(counters.client_connections),
            "client_disconnects_total": _by(counters.client_disconnects),
            "login_failures_total": _by(counters.login_failures),
            "login_seconds": {(): Buckets.of(counters.login_seconds)},
            "backend_connects_total": _one(counters.backend_connects),
            "backend_connect_failures_total": _by(counters.backend_connect_failures),
            "backend_connect_seconds": {(): Buckets.of(counters.backend_connect_seconds)},
            "backend_closes_total": _by(counters.backend_closes),
            "statements_total": _by_command(counters.commands),
            "statement_seconds": {(): Buckets.of(counters.statement_seconds)},
            "transactions_total": _one(counters.transactions),
            "errors_total": {(str(code), side): n for (code, side), n in counters.errors.items()},
            "bytes_total": {
                ("from_clients",): counters.bytes_from_clients,
                ("to_clients",): counters.bytes_to_clients,
            },
            "pinned_sessions": _by(clients.pinned_sessions()),
            "holders": _by(clients.holder_counts()),
            "pins_total": _by(counters.pins),
            "restores_total": _by(counters.restores),
            "resets_total": _one(counters.resets),
            "prepared_statements": _by(clients.prepared_statements(), ("client", "backend")),
            "reprepares_total": _one(counters.reprepares),
            "read_ahead_bytes": _one(counters.read_ahead_bytes),
            "malformed_total": _one(counters.malformed),
            "event_loop_tasks": _one(clients.tasks),
            "event_loop_lag_seconds": {(): Buckets.of(counters.loop_lag)},
        }

    def _from_pools(self) -> Snapshot:
        now, label = self._pools.statistics(), self._accounts.label
        waiting: Counter[str] = Counter()
        for account in now.accounts:
            waiting[label(account.name)] += account.waiting
        return {
            "backends": _by(now.slots, BACKEND_STATES),
            "backends_max": _one(now.cap),
            "backends_effective_max": _one(now.effective),
            "queue_waiting": _by(waiting),
            "queue_oldest_wait_seconds": _one(now.oldest_wait),
            "queue_wait_seconds": self._by_account(self._pools.queue.waits),
            "lease_seconds": self._by_account(self._pools.leases),
            "queue_grants_total": _one(now.grants),
            "queue_timeouts_total": _one(now.timeouts),
            "queue_rejected_total": _one(now.rejected),
            "queue_abandoned_total": _one(now.abandoned),
            "refusals_absorbed_total": _by(now.refusals_absorbed, REFUSALS),
        }

    def _by_account(self, histograms: Histograms) -> dict[Labels, Value]:
        found: dict[Labels, Buckets] = {}
        for name, histogram in histograms.items():
            key, one = (self._accounts.label(name),), Buckets.of(histogram)
            found[key] = found[key] + one if key in found else one
        return dict(found)


def _one(value: float) -> dict[Labels, Value]:
    return {(): value}


def _by(values: Mapping[str, int] | Mapping[int, int], always: Sequence[str] = ()) -> dict[Labels, Value]:
    """One label. The values in `always` are there even when they are zero: an alert can rely on them."""
    result: dict[Labels, Value] = {(label,): 0 for label in always}
    result.update({(str(label),): value for label, value in values.items()})
    return result


def _by_command(counts: Sequence[int]) -> dict[Labels, Value]:
    """Commands that came at least once; numbers that are no command of the protocol share one label."""
    result: Counter[str] = Counter()
    for number, count in enumerate(counts):
        if count:
            result[COMMANDS.get(number, "unknown")] += count
    return _by(result)


# --- text ---


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """A snapshot as prometheus_client's metric families, in the order of `METRICS`."""
    for description in METRICS:
        yield _family(description, snapshot[description.name])


def _family(description: Description, values: dict[Labels, Value]) -> Metric:
    name, labels = description.full_name, description.labels
    if description.kind == "histogram":
        histogram = HistogramMetricFamily(name, description.help, labels=labels)
        for key, value in values.items():
            assert isinstance(value, Buckets)
            histogram.add_metric(key, _cumulative(value), value.sum)
        return histogram
    kind = CounterMetricFamily if description.kind == "counter" else GaugeMetricFamily
    family = kind(name, description.help, labels=labels)
    for key, value in values.items():
        assert not isinstance(value, Buckets)
        family.add_metric(key, value)
    return family


def _cumulative(buckets: Buckets) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, buckets.bounds), "+Inf"]
    return list(zip(bounds, accumulate(buckets.counts), strict=True))


class _Frozen(CollectorRegistry):
    """What the encoders of prometheus_client ask for: a thing with `collect()`."""

    def __init__(self, snapshot: Snapshot, process: ProcessCollector) -> None:
        super().__init__()
        self._snapshot = snapshot
        self._process = process

    def collect(self) -> Iterator[Metric]:
        yield from families(self._snapshot)
        yield from self._process.collect()


class Renderer:
    """Snapshots as text, with the metrics of the process. `render` touches nothing shared: it may run in a thread."""

    def __init__(self) -> None:
        self._process = ProcessCollector(registry=None)

    def render(self, snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type, in the newest format that the `Accept` header allows."""
        encode, content_type = choose_encoder(accept)
        return encode(_Frozen(snapshot, self._process)), content_type


class LoopLag:
    """Notes how late the event loop runs a timer: what every client waits at least when the process is busy."""

    def __init__(self, histogram: Histogram, interval: float = 0.25) -> None:
        self._histogram = histogram
        self._interval = interval
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, on the running loop."""
        assert self._timer is None
        self._schedule(asyncio.get_running_loop())

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self._interval
        self._timer = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._histogram.observe(max(0.0, loop.time() - due))
        self._schedule(loop)
