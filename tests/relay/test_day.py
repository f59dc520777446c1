"""A day of steady load is a page of log."""

from __future__ import annotations

import json
from collections import Counter

from proxy.ops.logs import Limiter
from tests.relay.world import AUTOCOMMIT, IN_TRANS, App, World

MINUTE = 60.0


def run(app: App, text: bytes, seconds: float = 0.001, *, status: int = AUTOCOMMIT) -> None:
    app.query(text)
    backend = app.client.backend
    assert backend is not None
    server = next(one for one in app.world.servers if one.backend is backend)
    server.take()
    app.world.loop.now += seconds
    server.rows(b"1", status=status)
    app.take()


def test_a_day_of_steady_load_writes_fewer_than_a_hundred_lines() -> None:
    """Plain statements, pins, slow ones, transactions left open, wrong packets: every minute the same."""
    world = World(8, mariadb=True, log__statements="slow", pool__max_lifetime="48h")
    world.limiter = Limiter(clock=lambda: world.loop.now)
    plain, locks, backup, report, leak = (world.app(user=user) for user in ("web", "web", "jobs", "report", "jobs"))
    began = world.loop.now
    while world.loop.now < began + 24 * 3600.0:
        minute = world.loop.now + MINUTE
        for app in (plain, plain, report):
            run(app, b"SELECT v FROM t WHERE id = 7")
        run(locks, b"LOCK TABLES t WRITE")
        run(locks, b"UNLOCK TABLES")
        run(backup, b"BACKUP LOCK t")
        run(backup, b"BACKUP UNLOCK")
        run(report, b"SELECT SUM(total) FROM orders WHERE day = 'today'", 2.0)
        run(leak, b"BEGIN", status=IN_TRANS)
        world.relay.count_malformed("10.0.0.9:5000", "Got packets out of order")
        for _ in range(15):
            world.loop.now += 1.0
            for each in (world.relay.holders, world.relay.watch):
                each.look(world.loop.now)
            world.relay.statements.look()
        run(leak, b"ROLLBACK")
        world.relay.holders.look(world.loop.now)
        world.loop.now = max(world.loop.now, minute)
    events = Counter(event for event, _ in world.log)
    assert world.relay.stats.pins["lock_tables"] == 24 * 60
    assert {"session pinned", "slow statement", "holder", "holder gone", "malformed packet"} <= set(events)
    assert sum(events.values()) < 100, json.dumps(events)
