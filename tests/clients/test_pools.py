"""Ordinary connection pools at load, four applications at one pooler: no errors, no holders, and nothing in the log.

In `make test` for some seconds, with `make soak-pools` for as long as wanted. The limits of [holders] are the defaults,
and the cap is lower than the sum of the pools.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.pools.run import APPLICATIONS, Phases, Running, fill, plan_of
from tests.clients.suites.sources import Unavailable
from tests.conftest import Proxy, cannot_run
from tests.servers import Server, wait_until

CAP = 12
SHORT_SECONDS = 15.0
SHORT_PHASES: Phases = (("burst", 0), ("idle", 4), ("work", 6), ("idle", 2), ("burst", 0), ("work", 3))
# Rests are longer than the limits of [holders], and each application has them at another time.
LONG_PHASES: Phases = (
    ("work", 60),
    ("burst", 0),
    ("idle", 14),
    ("work", 100),
    ("burst", 0),
    ("idle", 70),
    ("work", 30),
)
SETTLES_WITHIN = 10.0
MOST_LOG_LINES = 99
SAMPLED_EVERY, TOLD_EVERY = 0.5, 10.0


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> float | None:
    """How long it takes where that was asked for."""
    return request.config.getoption("--soak", default=None)


@contextlib.contextmanager
def applications(directory: Path, port: int, soak: float | None) -> Iterator[list[Running]]:
    """All of them, started; none is there at the end."""
    with contextlib.ExitStack() as stack:
        started: list[Running] = []
        for number, application in enumerate(APPLICATIONS):
            phases = LONG_PHASES[number:] + LONG_PHASES[:number] if soak else SHORT_PHASES
            plan = plan_of(application, port, soak or SHORT_SECONDS, phases)
            try:
                started.append(Running(application, directory, plan))
            except Unavailable as error:
                cannot_run(f"{application.name} cannot be had: {error}")
            stack.callback(started[-1].stop)
        yield started


def sums(metrics: dict[str, float], name: str) -> float:
    """Over all its labels."""
    return sum(value for key, value in metrics.items() if key.partition("{")[0] == name)


def settled(metrics: dict[str, float]) -> bool:
    """Clients are there, and none has a connection to the server or waits for one."""
    idle = metrics['mybouncer_clients{state="idle"}']
    return metrics['mybouncer_backends{state="leased"}'] == 0 and 0 < idle == sums(metrics, "mybouncer_clients")


def test_ordinary_pools_at_load_are_no_holders(
    server: Server,
    proxy: Callable[..., Proxy],
    tmp_path: Path,
    soak: float | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(server)
    pooler = proxy(server, max_connections=CAP)
    most_clients = 0.0
    with applications(tmp_path, pooler.port, soak) as running:
        began = said = time.monotonic()
        deadline = began + (soak or SHORT_SECONDS) + 60.0
        while not all(one.finished for one in running):
            assert time.monotonic() < deadline, running
            metrics = pooler.metrics()
            assert sums(metrics, "mybouncer_holders") == 0
            most_clients = max(most_clients, sums(metrics, "mybouncer_clients"))
            for one in running:
                assert one.running and not one.done["errors"], f"{one!r}\n{one.errors()}"
            if soak and time.monotonic() - said >= TOLD_EVERY:
                said += TOLD_EVERY
                with capsys.disabled():
                    print(f"{server.flavour} {said - began:.0f} s: {_progress(pooler, metrics, running)}", flush=True)
            time.sleep(SAMPLED_EVERY)

        # The pools still have their connections, and keep nothing of the server.
        wait_until(lambda: settled(pooler.metrics()), SETTLES_WITHIN, "everything is given back")
        metrics = pooler.metrics()
        assert sums(metrics, "mybouncer_holders") == sums(metrics, "mybouncer_pinned_sessions") == 0
        for one in running:
            assert one.done["errors"] == 0 and one.done["requests"] > 10 * SHORT_SECONDS, f"{one!r}\n{one.errors()}"
            assert one.end() == 0, one.errors()
    pooler.wait_for_metric('mybouncer_clients{state="idle"}', 0)
    metrics = pooler.metrics()
    assert sums(metrics, "mybouncer_errors_total") == sums(metrics, "mybouncer_malformed_total") == 0
    assert most_clients > 3 * CAP and metrics["mybouncer_queue_grants_total"] > 0, "there was no load"
    log = pooler.log().splitlines()
    assert not [line for line in log if "event=holder" in line or 'event="holder' in line]
    assert len(log) <= MOST_LOG_LINES, "\n".join(log)
    if soak:
        with capsys.disabled():
            print(f"{server.flavour} at the end: {_progress(pooler, metrics, running)}", flush=True)


def _progress(pooler: Proxy, metrics: dict[str, float], running: list[Running]) -> str:
    done = [f"{name}={sum(one.done[name] for one in running)}" for name in running[0].done]
    done.append(f"clients={sums(metrics, 'mybouncer_clients'):.0f}")
    done.append(f"waited={metrics['mybouncer_queue_grants_total']:.0f}")
    done.append(f"log_lines={len(pooler.log().splitlines())}")
    return f"{' '.join(done)} ({'; '.join(map(repr, running))})"
