"""The queue on real servers: who waits, in which order, until when, and what a refusal by the server becomes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.conftest import Proxy
from tests.live.crowd import Watch
from tests.live.raw import Raw
from tests.servers import Server, wait_until

Start = Callable[..., Proxy]
WAITING = 'mybouncer_queue_waiting{account="app"}'


def _in_transaction(proxy: Proxy) -> Raw:
    client = Raw(proxy, database="test")
    client.ok("START TRANSACTION")
    return client


def test_clients_beyond_the_cap_wait_their_turn_and_the_server_never_sees_more(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=3)
    clients = [Raw(pooler) for _ in range(40)]
    with Watch(server, "app") as watch:
        for client in clients:
            client.send_query("SELECT SLEEP(0.02), 7")
        answers = [client.answer().rows for client in clients]
    assert watch.most_together == 3
    assert answers == [[[b"0", b"7"]]] * 40
    assert pooler.metrics()["mybouncer_queue_grants_total"] >= 37


def test_a_wait_that_is_too_long_ends_with_1040_and_the_connection_stays_usable(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=1, queue__timeout="300ms")
    holder, client = _in_transaction(pooler), Raw(pooler, database="test")
    refused = client.query("SELECT 1")
    assert refused.error is not None
    assert (refused.error.code, refused.error.state) == (1040, b"08004")
    assert re.fullmatch(
        rf"Too many connections: waited 0\.3 s for a connection to 127\.0\.0\.1:{server.port} "
        r"\(cap 1: 1 idle in transaction, 0 pinned, 0 running; 0 waiting; queue\.timeout\)",
        refused.error.message.decode(),
    ), refused.error.message
    holder.ok("COMMIT")
    assert client.get("SELECT 2") == b"2"
    assert pooler.metrics()["mybouncer_queue_timeouts_total"] == 1


def test_a_full_queue_is_said_at_once(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=1, queue__max_waiting=1)
    holder, first, second = _in_transaction(pooler), Raw(pooler, database="test"), Raw(pooler, database="test")
    first.send_query("SELECT 1")
    pooler.wait_for_metric(WAITING, 1)
    refused = second.query("SELECT 2").error
    assert refused is not None
    assert refused.code == 1040
    assert b"the queue is full" in refused.message
    assert b"queue.max_waiting" in refused.message
    holder.ok("COMMIT")
    assert first.answer().value == b"1"
    assert second.get("SELECT 2") == b"2"


def test_waiters_are_served_in_the_order_they_came(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=1)
    server.execute(
        "CREATE OR REPLACE TABLE test.order_of_service (id INT AUTO_INCREMENT PRIMARY KEY, who INT)"
        if server.flavour == "mariadb"
        else "DROP TABLE IF EXISTS test.order_of_service"
    )
    if server.flavour == "mysql":
        server.execute("CREATE TABLE test.order_of_service (id INT AUTO_INCREMENT PRIMARY KEY, who INT)")
    holder = _in_transaction(pooler)
    waiters = [Raw(pooler, database="test") for _ in range(10)]
    for number, waiter in enumerate(waiters):
        waiter.send_query(f"INSERT INTO order_of_service (who) VALUES ({number})")
        pooler.wait_for_metric(WAITING, number + 1)
    holder.ok("ROLLBACK")
    for waiter in waiters:
        assert waiter.answer().error is None
    served = [row[0] for row in server.execute("SELECT who FROM test.order_of_service ORDER BY id")]
    assert served == list(range(10))


def test_a_waiter_that_left_is_forgotten_and_its_statement_never_runs(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=1)
    server.execute("CREATE TABLE IF NOT EXISTS test.left_the_queue (id INT)", "DELETE FROM test.left_the_queue")
    holder, gone = _in_transaction(pooler), Raw(pooler, database="test")
    gone.send_query("INSERT INTO left_the_queue VALUES (1)")
    pooler.wait_for_metric(WAITING, 1)
    gone.vanish()
    pooler.wait_for_metric("mybouncer_queue_abandoned_total", 1)
    holder.ok("COMMIT")
    assert holder.get("SELECT COUNT(*) FROM left_the_queue") == b"0"


def test_an_account_with_one_waiter_is_not_starved_by_one_with_many(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=2)
    crowd = [Raw(pooler) for _ in range(30)]
    modest = Raw(pooler, "app2", "app2-secret")
    for client in crowd:
        client.send_query("SELECT SLEEP(0.05)")
    pooler.wait_for_metric(WAITING, 28)
    modest.send_query("SELECT 'served'")
    assert modest.answer().value == b"served"
    assert pooler.metrics()[WAITING] > 10, "the modest account had to wait for the crowd"
    assert all(client.answer().error is None for client in crowd)


def test_an_accounts_own_limit_is_kept_to_and_its_refusals_are_absorbed(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=20)
    first = Raw(pooler, "limited", "limited-secret")
    elsewhere = [Raw(server, "limited", "limited-secret") for _ in range(1)]
    clients = [first, *(Raw(pooler, "limited", "limited-secret") for _ in range(14))]
    for client in clients:
        client.send_query("SELECT SLEEP(0.05), 1")
    assert [client.answer().error for client in clients] == [None] * 15
    metrics = pooler.metrics()
    assert metrics['mybouncer_refusals_absorbed_total{code="1226"}'] > 0
    for other in elsewhere:
        other.quit()


def test_a_server_that_is_down_is_2003_and_comes_back_by_itself(
    flavour: str, own_server: Callable[..., Server], proxy: Start
) -> None:
    server = own_server(flavour)
    pooler = proxy(server, max_connections=4, queue__timeout_down="300ms")
    client = Raw(pooler)
    assert client.get("SELECT 1") == b"1"
    server.stop()
    pooler.wait_for_metric('mybouncer_backends{state="idle"}', 0)
    refused = client.query("SELECT 1").error
    assert refused is not None
    assert (refused.code, refused.state) == (2003, b"HY000")
    assert f"127.0.0.1:{server.port}".encode() in refused.message
    assert pooler.get("/readyz")[0] == 503
    assert pooler.get("/healthz")[0] == 200
    server.start()
    wait_until(lambda: client.query("SELECT 1").error is None, 10, "the proxy finds the server again")
    assert pooler.get("/readyz")[0] == 200


@pytest.fixture(params=["mariadb", "mysql"])
def flavour(request: pytest.FixtureRequest) -> str:
    """For tests that need a server of their own."""
    return str(request.param)
