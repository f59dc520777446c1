"""Shares on real servers: many accounts on few connections, limits of accounts and servers, other applications.

Whatever the server refuses, no client sees it; whoever comes modestly, waits as if he were alone with his share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import groupby

import pytest

from tests.conftest import Proxy
from tests.live.crowd import Answer, Crowd, Watch, percentile, run, served
from tests.live.raw import Raw
from tests.servers import FLAVOURS, Server

Start = Callable[..., Proxy]

TENANTS = [f"tenant{number:02}" for number in range(50)]
EFFECTIVE = "mybouncer_backends_effective_max"


@pytest.fixture(scope="module")
def tenants(server: Server) -> Iterator[list[str]]:
    """Fifty accounts without a privilege."""
    server.execute("CREATE USER " + ", ".join(f"{name}@'%' IDENTIFIED BY '{name}-secret'" for name in TENANTS))
    yield TENANTS
    server.execute("DROP USER " + ", ".join(f"{name}@'%'" for name in TENANTS))


def absorbed(pooler: Proxy) -> float:
    """Refusals that no client saw."""
    return sum(value for name, value in pooler.metrics().items() if name.startswith("mybouncer_refusals_absorbed"))


async def until(condition: Callable[[], bool], deadline: float, what: str) -> None:
    """As `wait_until`, while the crowd goes on."""
    async with asyncio.timeout(deadline):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


# --- shares ---


def test_fifty_accounts_on_ten_connections_are_all_served_alike(
    server: Server, proxy: Start, tenants: list[str]
) -> None:
    pooler = proxy(server, max_connections=10)

    async def main() -> list[Answer]:
        crowd = Crowd()
        await crowd.log_in(pooler.port, **dict.fromkeys(tenants, 4))
        crowd.start("SELECT SLEEP(0.002)")
        answers = await crowd.busy(1.8)
        assert not crowd.errors
        await crowd.leave()
        return answers

    with Watch(server, *tenants) as watch:
        answers = run(main())
    assert {(answer.account, answer.client) for answer in answers} == {(name, n) for name in tenants for n in range(4)}
    counts = served(answers).values()
    assert min(counts) > 0.5 * sum(counts) / len(counts), served(answers)
    assert max(answer.seconds for answer in answers) < 2.0
    assert 8 <= watch.most_together <= 10
    assert absorbed(pooler) == 0


def test_a_modest_account_beside_a_greedy_one_waits_no_longer_than_alone_with_its_share(
    server: Server, proxy: Start, tenants: list[str]
) -> None:
    shared, alone = proxy(server, max_connections=10), proxy(server, max_connections=1)
    modest = tenants[:9]
    statement = "SELECT SLEEP(0.01)"

    async def by_itself() -> list[Answer]:
        crowd = Crowd()
        await crowd.log_in(alone.port, **{modest[0]: 10})
        crowd.start(statement)
        answers = await crowd.busy(1.0)
        await crowd.leave()
        return answers

    async def beside_the_greedy() -> list[Answer]:
        crowd = Crowd()
        await crowd.log_in(shared.port, app=900, **dict.fromkeys(modest, 10))
        crowd.start(statement, "app")
        await until(lambda: shared.metrics()['mybouncer_queue_waiting{account="app"}'] > 800, 5, "the greedy waits")
        crowd.start(statement, *modest)
        answers = await crowd.busy(1.5)
        assert not crowd.errors
        await crowd.leave()
        return answers

    yardstick = percentile(run(by_itself()), 99)
    answers = run(beside_the_greedy())
    waits = [answer for answer in answers if answer.account != "app"]
    assert {answer.account for answer in waits} == set(modest)
    assert percentile(waits, 99) <= 2 * yardstick
    assert served(answers)["app"] > 20, "nor is the greedy one starved"


def test_shares_go_by_weight(mariadb: Server, proxy: Start) -> None:
    pooler = proxy(mariadb, max_connections=9, env={"MYBOUNCER_USERS__app__WEIGHT": "2.0"})

    async def main() -> list[Answer]:
        crowd = Crowd()
        await crowd.log_in(pooler.port, app=20, app2=20)
        crowd.start("SELECT SLEEP(0.005)")
        await crowd.busy(0.5)
        watch.forget()
        answers = await crowd.busy(1.5)
        await crowd.leave()
        return answers

    with Watch(mariadb, "app", "app2") as watch:
        counts = served(run(main()))
    assert (watch.most["app"], watch.most["app2"]) == (6, 3)
    assert 1.6 < counts["app"] / counts["app2"] < 2.5


def test_accounts_that_share_one_connection_take_turns_of_a_quantum(mariadb: Server, proxy: Start) -> None:
    pooler = proxy(mariadb, max_connections=1, pool__quantum="300ms")

    async def main() -> list[Answer]:
        crowd = Crowd()
        await crowd.log_in(pooler.port, app=3, app2=3)
        crowd.start("SELECT SLEEP(0.01)")
        answers = await crowd.busy(2.2)
        await crowd.leave()
        return answers

    turns = [list(turn) for _, turn in groupby(run(main()), key=lambda answer: answer.account)]
    lengths = [turn[-1].ended - turn[0].ended for turn in turns[1:-1]]
    assert len(lengths) >= 4
    assert all(0.2 < length < 0.6 for length in lengths), lengths


# --- limits ---


def test_a_limited_account_uses_its_limit_and_an_unlimited_one_beside_it_the_rest(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=10)

    async def main() -> list[Answer]:
        crowd = Crowd()
        await crowd.log_in(pooler.port, limited=15, app=30)
        crowd.start("SELECT SLEEP(0.005)")
        answers = await crowd.busy(1.5)
        assert not crowd.errors
        await crowd.leave()
        return answers

    with Watch(server, "limited", "app") as watch:
        counts = served(run(main()))
    assert watch.most["limited"] == 3
    assert 7 <= watch.most["app"] <= 10
    assert watch.most_together == 10
    assert 1.5 < counts["app"] / counts["limited"] < 3.5  # seven to three


def test_a_client_of_an_account_that_is_full_elsewhere_logs_in_and_waits(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=10)
    with Raw(pooler) as other:
        assert other.get("SELECT 1") == b"1"
    elsewhere = [Raw(server, "limited", "limited-secret") for _ in range(3)]
    with Raw(pooler, "limited", "limited-secret") as client:
        client.send_query("SELECT 'at last'")
        pooler.wait_for_metric('mybouncer_queue_waiting{account="limited"}', 1)
        assert pooler.metrics()['mybouncer_refusals_absorbed_total{code="1226"}'] >= 1
        assert not client.has_answer()
        elsewhere[0].quit()
        assert client.answer().value == b"at last"
        assert pooler.metrics()[EFFECTIVE] == 10, "the server has room"
    for connection in elsewhere[1:]:
        connection.quit()


def test_an_hourly_quota_is_told_in_the_servers_own_words(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=4)
    server.execute("CREATE USER hourly@'%' IDENTIFIED BY 'hourly-secret' WITH MAX_CONNECTIONS_PER_HOUR 1")
    try:
        with Raw(pooler, "hourly", "hourly-secret") as first, Raw(pooler, "hourly", "hourly-secret") as second:
            first.ok("BEGIN")
            refused = second.query("SELECT 1").error
            assert refused is not None
            assert (refused.code, refused.state) == (1226, b"42000")
            assert b"max_connections_per_hour" in refused.message
            first.ok("COMMIT")
            assert second.get("SELECT 2") == b"2"
        assert absorbed(pooler) == 0
    finally:
        server.execute("DROP USER hourly@'%'")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_application_that_takes_the_servers_connections_is_not_noticed_by_clients(
    flavour: str, own_server: Callable[..., Server], proxy: Start
) -> None:
    server = own_server(flavour, max_connections=12)
    pooler = proxy(server, max_connections=40)

    async def main() -> None:
        crowd = Crowd()
        others = [Raw(server, "app2", "app2-secret") for _ in range(10)]
        await crowd.log_in(pooler.port, app=30)
        crowd.start("SELECT SLEEP(0.005)")
        await until(lambda: pooler.metrics()[EFFECTIVE] <= 2, 5, "the effective cap is what the others left")
        assert len(await crowd.busy(0.3)) > 20, "what is left works"
        for other in others:
            other.quit()
        await until(lambda: pooler.metrics()[EFFECTIVE] >= 10, 5, "the effective cap has grown again")
        assert len(await crowd.busy(0.3)) > 100
        assert not crowd.errors
        await crowd.leave()

    run(main())
    assert pooler.metrics()['mybouncer_refusals_absorbed_total{code="1040"}'] > 0
