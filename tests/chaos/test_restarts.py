"""Servers that end and are started again, connections that are killed: work goes on, and nothing is done twice."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable

import pymysql
import pytest

from tests.chaos.tags import LOST, Load, connections
from tests.conftest import Proxy
from tests.servers import FLAVOURS, Server, wait_until

Start = Callable[..., Proxy]

SERVED_WITHIN = 1.5  # seconds after the server has come back


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_server_that_is_killed_or_stopped_under_load_is_found_again_and_nothing_is_done_twice(
    own_world: Callable[..., Server], proxy: Start, flavour: str
) -> None:
    # What was answered with OK is in the log of a server that is killed.
    server = own_world(flavour, innodb_flush_log_at_trx_commit=2, max_connections=20)
    pooler = proxy(server, max_connections=4, queue__timeout_down="60s", queue__timeout="60s")
    load = Load(pooler, 8)
    waits = []
    with load.running():
        for end in (server.kill, server.stop):
            load.wait_for_everybody()
            end()
            pooler.wait_for_metric('mybouncer_clients{state="waiting"}', 8)
            assert pooler.get("/readyz")[0] == 503
            server.start()
            waits.append(load.wait_for_everybody())
    load.check(server)
    assert set(load.errors) <= LOST, load.errors
    assert len(load.lost) <= 16, "one statement of each client, each time"
    assert min(waits) < SERVED_WITHIN, waits  # the other time, the machine may have been busy
    pooler.wait_for_metric('mybouncer_backends{state="closing"}', 0)
    assert pooler.get("/readyz")[0] == 200


def test_connections_that_are_killed_at_any_moment_cost_the_statements_on_them_and_nothing_else(
    world: Server, shared_proxy: Start
) -> None:
    pooler = shared_proxy(world, max_connections=4)
    load = Load(pooler, 8)
    kills = 0
    with load.running(), contextlib.closing(world.admin()) as killer:
        load.wait_for_everybody()
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            for ident in random.sample(found := connections(world), min(2, len(found))):
                with contextlib.suppress(pymysql.err.OperationalError):  # it has ended by itself
                    killer.query(f"KILL {ident}")
                    kills += 1
        load.wait_for_everybody()
    load.check(world)
    assert kills > 10
    assert set(load.errors) <= LOST, load.errors
    assert len(load.lost) <= kills, "no more than one statement for each"
    # The last client's connection may be in its reset still.
    wait_until(lambda: len(connections(world)) <= 4, 5.0, "no more connections than there may be")
