"""`pool.max_connections = "auto"` and the limits of accounts: read from the server, and read again every minute."""

from __future__ import annotations

import pytest

from proxy.relay.relay import LEARN_EVERY
from tests.relay.world import Server, World, result, text_row

LIMIT = b"\x03SELECT @@session.max_user_connections"


def value(number: int) -> bytes:
    return result(1, [text_row((b"%d" % number,))])


def about_itself(max_connections: int) -> bytes:
    """A MariaDB's answers to what it is asked."""
    variables = (b"%d" % max_connections, b"utf8mb4", b"utf8mb4", b"utf8mb4_general_ci", b"", b"", b"16777216")
    timeouts = (b"28800", b"30", b"60")
    collation = (b"utf8mb4_general_ci", b"utf8mb4", b"45")
    return result(10, [text_row(variables + timeouts)]) + result(3, [text_row(collation)])


@pytest.fixture
def world(make_world) -> World:
    world = make_world(cap="auto", mariadb=True, pool__idle_timeout="1h")
    world.relay._retire()
    return world


def cap(world: World) -> int:
    return world.relay.registry.budget.cap


def asked(world: World, server: Server) -> bool:
    """Whether it was asked for everything since the last look."""
    commands = server.take()
    assert commands in ([], [LIMIT, *world.relay.profile.questions()])
    return bool(commands)


@pytest.mark.parametrize(("allowed", "left"), [(151, 135), (1000, 899), (50, 44), (20, 14), (7, 1), (3, 1)])
def test_the_cap_is_what_the_server_allows_less_a_reserve_and_the_control_slot(world: World, allowed: int, left: int):
    assert cap(world) == 4
    world.relay.profile.max_connections = allowed
    world.relay.adjust_cap()
    assert cap(world) == left


def test_the_server_is_asked_again_every_minute_and_followed(world: World):
    server = world.settled(world.app())
    for allowed, expected in ((100, 89), (31, 25), (200, 179)):
        world.advance(LEARN_EVERY - 3)
        assert not asked(world, server)
        world.advance(5)
        assert asked(world, server)
        server.send(value(0) + about_itself(allowed))
        assert cap(world) == expected
        assert server.slot == "idle"


def test_a_cap_that_was_configured_stays(make_world):
    world = make_world(cap=7, mariadb=True, pool__idle_timeout="1h")
    world.relay._retire()
    server = world.settled(world.app())
    world.advance(LEARN_EVERY + 2)
    assert asked(world, server)
    server.send(value(0) + about_itself(500))
    assert cap(world) == 7


def test_with_no_connection_open_the_question_is_kept_for_the_next_one(world: World):
    world.advance(LEARN_EVERY + 10)
    server = world.settled(world.app())
    world.advance(2)
    assert asked(world, server)
    server.send(value(0) + about_itself(100))
    assert cap(world) == 89


def test_with_all_connections_in_use_the_question_waits_its_turn(world: World):
    world.relay.registry.set_cap(1)
    app = world.app()
    app.query(b"SELECT 1")
    server = world.server
    assert server.take() == [b"\x03SELECT 1"]
    world.advance(LEARN_EVERY + 2)
    waiting = [world.app() for _ in range(4)]
    for other in waiting:
        other.query(b"SELECT 2")
    assert server.take() == []
    server.rows(b"1")
    assert asked(world, server)
    server.send(value(0) + about_itself(100))
    assert cap(world) == 89
    assert server.take() == [b"\x03SELECT 2"], "and nobody lost his place by it"
    server.rows(b"2")


@pytest.mark.parametrize(("now", "limit"), [(5, 5), (2, 2), (0, None)])
def test_an_accounts_limit_is_asked_again_too(world: World, now: int, limit: int | None):
    first = world.settled(world.app(user="first"))
    limited, free = world.app(user="limited"), world.app(user="free")
    servers = [world.settled(limited), world.settled(free)]
    account = limited.client.pool.account
    world.relay.registry.set_limits(account, 1.0, 3)
    world.advance(LEARN_EVERY + 2)
    assert asked(world, first)
    assert [server.take() for server in servers] == [[LIMIT], []]
    first.send(value(0) + about_itself(100))
    servers[0].send(value(now))
    assert account.max_connections == limit
    assert [server.slot for server in servers] == ["idle"] * 2


def test_a_limit_of_our_own_is_not_raised_by_the_servers(make_world):
    world = make_world(cap=8, mariadb=True, pool__idle_timeout="1h", users={"app": {"max_connections": 2}})
    world.relay._retire()
    app = world.app()
    server = world.settled(app)
    for now, limit in ((5, 2), (1, 1), (0, 2)):
        world.advance(LEARN_EVERY + 2)
        assert asked(world, server)
        server.send(value(now) + about_itself(100))
        assert app.client.pool.account.max_connections == limit
