"""What Prometheus sees: names, labels, numbers; and that the documentation says the same."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy import __version__
from proxy.histogram import OTHER, SECONDS, Histogram
from proxy.ops.metrics import METRICS, AccountLabels, Exporter, LoopLag, Renderer
from proxy.pool.queue import CANCELLED, GRANTED, Failure, FailureKind, Waiter
from proxy.pool.registry import Registry
from proxy.relay.stats import Counters
from proxy.wire import constants

ROOT = Path(__file__).parent.parent


class FakeClients:
    """The clients as the relay would tell them."""

    clients_max = 10_000
    tasks = 5

    def client_states(self) -> Mapping[str, int]:
        return {"idle": 3, "pinned": 1}

    def pinned_sessions(self) -> Mapping[str, int]:
        return {"temporary_table": 1}

    def holder_counts(self) -> dict[str, int]:
        return {"idle_in_transaction": 1}

    def prepared_statements(self) -> Mapping[str, int]:
        return {"client": 7, "backend": 2}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_registry(clock: Clock | None = None, cap: int = 10) -> Registry:
    return Registry(
        cap, clock=clock or Clock(), open_backend=lambda pool: None, close_backend=lambda backend, reason: None
    )


def wait(registry: Registry, account: str) -> Waiter:
    def nothing(_argument: Any) -> None:
        pass

    pool = registry.pool(registry.account(account), "key")
    waiter = Waiter(pool, object(), None, False, None, nothing, nothing)
    registry.enqueue(waiter)
    return waiter


def scrape(exporter: Exporter) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample as Prometheus would read it: (name, labels) → value."""
    text = Renderer().render(exporter.snapshot())[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def names(exporter: Exporter) -> set[str]:
    """The names of all families of ours, as documentation writes them (counters with `_total`)."""
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in exporter.collect()
        if family.name.startswith("mybouncer_")
    }


def exporter_of(counters: Counters | None = None, registry: Registry | None = None) -> Exporter:
    return Exporter(counters or Counters(), FakeClients(), registry or a_registry())


# --- histograms ---


@given(st.lists(st.floats(0, 1000)))
def test_a_histogram_counts_every_observation_once_in_the_right_bucket(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))  # from Python 3.12 on, sum() rounds only once
    for n, bound in enumerate(SECONDS):
        assert sum(histogram.counts[: n + 1]) == sum(value <= bound for value in values)


@pytest.mark.parametrize("bounds", [(), (2.0, 1.0), (1.0, 1.0)])
def test_bounds_must_rise(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        Histogram(bounds)


# --- samples ---


def test_every_metric_of_the_table_is_exported_under_its_name() -> None:
    assert names(exporter_of()) == {metric.full_name for metric in METRICS}


def test_counters_of_the_relay_are_exported() -> None:
    counters = Counters()
    counters.client_connections = 12
    counters.bytes_to_clients = 4096
    counters.client_disconnects["quit"] = 4
    counters.errors[(1064, "server")] = 2
    counters.commands[constants.COM_QUERY] = 9
    counters.commands[0x7E] = 1
    counters.commands[0x7F] = 1
    samples = scrape(exporter_of(counters))
    assert samples["mybouncer_client_connections_total", ()] == 12
    assert samples["mybouncer_bytes_total", (("direction", "to_clients"),)] == 4096
    assert samples["mybouncer_client_disconnects_total", (("reason", "quit"),)] == 4
    assert samples["mybouncer_errors_total", (("code", "1064"), ("side", "server"))] == 2
    assert samples["mybouncer_statements_total", (("command", "query"),)] == 9
    assert samples["mybouncer_statements_total", (("command", "unknown"),)] == 2
    assert samples["mybouncer_clients", (("state", "idle"),)] == 3
    assert samples["mybouncer_clients", (("state", "waiting"),)] == 0
    assert samples["mybouncer_clients_max", ()] == 10_000
    assert samples["mybouncer_event_loop_tasks", ()] == 5
    assert samples["mybouncer_pinned_sessions", (("reason", "temporary_table"),)] == 1
    assert samples["mybouncer_prepared_statements", (("side", "client"),)] == 7
    assert samples["mybouncer_build_info", (("version", __version__),)] == 1


def test_histograms_are_cumulative_and_have_a_sum() -> None:
    counters = Counters()
    for seconds in (0.0001, 0.3, 0.3, 1000.0):
        counters.login_seconds.observe(seconds)
    samples = scrape(exporter_of(counters))
    assert samples["mybouncer_login_seconds_bucket", (("le", "0.0001"),)] == 1
    assert samples["mybouncer_login_seconds_bucket", (("le", "0.5"),)] == 3
    assert samples["mybouncer_login_seconds_bucket", (("le", "60.0"),)] == 3
    assert samples["mybouncer_login_seconds_bucket", (("le", "+Inf"),)] == 4
    assert samples["mybouncer_login_seconds_count", ()] == 4
    assert samples["mybouncer_login_seconds_sum", ()] == pytest.approx(1000.6001)


def test_the_queue_and_the_budget_are_exported() -> None:
    clock = Clock()
    registry = a_registry(clock)
    for _ in range(2):
        wait(registry, "app")
    left = wait(registry, "report")
    clock.now += 2.0
    assert registry.cancel(left)
    samples = scrape(exporter_of(registry=registry))
    assert samples["mybouncer_queue_waiting", (("account", "app"),)] == 2
    assert samples["mybouncer_queue_waiting", (("account", "report"),)] == 0
    assert samples["mybouncer_queue_oldest_wait_seconds", ()] == 2.0
    assert samples["mybouncer_queue_wait_seconds_count", (("account", "report"),)] == 1
    assert samples["mybouncer_queue_wait_seconds_sum", (("account", "report"),)] == 2.0
    assert samples["mybouncer_queue_abandoned_total", ()] == 1
    assert samples["mybouncer_backends", (("state", "opening"),)] == registry.budget.in_use
    assert samples["mybouncer_backends_max", ()] == 10
    assert samples["mybouncer_backends_effective_max", ()] == 10


def test_absorbed_refusals_are_exported_and_the_others_are_zero() -> None:
    registry = a_registry()
    wait(registry, "app")
    (pool,) = registry.accounts["app"].pools.values()
    registry.open_failed(pool, Failure(FailureKind.REFUSED_ACCOUNT, 1203, "too many"))
    samples = scrape(exporter_of(registry=registry))
    assert {code: samples["mybouncer_refusals_absorbed_total", (("code", code),)] for code in ("1203", "1040")} == {
        "1203": 1,
        "1040": 0,
    }


def test_the_process_is_exported() -> None:
    assert ("process_resident_memory_bytes", ()) in scrape(exporter_of())


def test_an_exporter_is_a_collector_for_any_registry() -> None:
    registry = CollectorRegistry()
    registry.register(exporter_of())
    assert b"mybouncer_clients_max 10000.0" in generate_latest(registry)


def test_no_label_is_made_from_what_clients_send_except_the_account() -> None:
    free = {label for metric in METRICS for label in metric.labels}
    assert free <= {"state", "reason", "code", "account", "command", "side", "direction", "kind", "version"}


def test_a_snapshot_does_not_change_any_more() -> None:
    counters = Counters()
    exporter = exporter_of(counters)
    snapshot = exporter.snapshot()
    before = Renderer().render(snapshot)[0]
    counters.login_seconds.observe(1.0)
    counters.pins["temporary_table"] += 1
    counters.client_connections += 1
    ours = [line for line in Renderer().render(snapshot)[0].splitlines() if line.startswith(b"mybouncer")]
    assert ours == [line for line in before.splitlines() if line.startswith(b"mybouncer")]


# --- accounts as labels ---


def test_configured_accounts_and_the_first_100_others_have_a_label() -> None:
    labels = AccountLabels(["late"])
    assert [labels.label(f"a{n}") for n in range(101)] == [*(f"a{n}" for n in range(100)), OTHER]
    assert labels.label("late") == "late"
    assert labels.label("a5") == "a5"
    assert labels.label("a100") == OTHER


def test_accounts_without_a_label_are_added_up() -> None:
    registry = a_registry(cap=1)
    for n in range(150):
        waiter = wait(registry, f"tenant{n:03}")
        if n % 2:
            registry.cancel(waiter)
    assert waiter.state in (GRANTED, CANCELLED)
    samples = scrape(exporter_of(registry=registry))
    values = {
        dict(labels)["account"]: value for (name, labels), value in samples.items() if name == "mybouncer_queue_waiting"
    }
    assert len(values) == 101
    assert values[OTHER] == 25
    assert sum(values.values()) == len(registry.queue)
    waits = [value for (name, _), value in samples.items() if name == "mybouncer_queue_wait_seconds_count"]
    assert sum(waits) == 75
    assert samples["mybouncer_queue_wait_seconds_count", (("account", OTHER),)] == 25


def test_an_account_never_moves_to_another_label() -> None:
    registry = a_registry(cap=1)
    exporter = exporter_of(registry=registry)
    for n in range(120):
        registry.cancel(wait(registry, f"tenant{n:03}"))
    first = {key for key in scrape(exporter) if key[0] == "mybouncer_queue_wait_seconds_count"}
    registry.cancel(wait(registry, "aaa"))
    assert {key for key in scrape(exporter) if key[0] == "mybouncer_queue_wait_seconds_count"} == first


# --- the event loop ---


def test_a_blocked_event_loop_is_noticed() -> None:
    histogram = Histogram()

    async def run() -> None:
        lag = LoopLag(histogram, interval=0.001)
        lag.start()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 10
        while not histogram.count and loop.time() < deadline:
            await asyncio.sleep(0)
        before = histogram.sum
        time.sleep(0.05)  # what the loop must not do: this is the lag
        while histogram.sum == before and loop.time() < deadline:
            await asyncio.sleep(0)
        lag.stop()

    asyncio.run(run())
    assert histogram.sum >= 0.04


# --- documentation ---


def test_the_documentation_lists_exactly_what_is_exported() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(mybouncer_[a-z_]+)(?:\{([a-z, ]+)\})?` \| (\w+) \| (.+) \|$", text, re.MULTILINE)
    documented = {name: (tuple(filter(None, labels.split(", "))), kind) for name, labels, kind, _ in rows}
    assert documented == {metric.full_name: (metric.labels, metric.kind) for metric in METRICS}
    assert len(rows) == len(METRICS)
    assert names(exporter_of()) == set(documented)
