"""What is known of accounts: for how long, how many passwords, and when nothing holds them any more."""

from __future__ import annotations

import gc

import pytest

from proxy.wire.auth import Secret, scramble_native, scramble_sha2
from proxy.wire.constants import CACHING_SHA2_PASSWORD, NATIVE_PASSWORD
from proxy.wire.packets import Err
from tests.relay.world import World

USER = b"app"
DENIED = Err(1045, b"28000", b"Access denied")
LOCKED = Err(3118, b"HY000", b"Account is locked")
FULL = Err(1226, b"42000", b"max_connections_per_hour")
ONE, TWO, THREE = (Secret.of(password) for password in (b"one", b"two", b"three"))


@pytest.fixture
def world(make_world):
    return make_world(auth__cache_ttl="60s", pool__idle_timeout="1h")


def known(world: World) -> list[bytes | None]:
    """The passwords that let a client in."""
    credentials = world.relay.accounts.credentials
    return [each.password for each in (ONE, TWO, THREE) if credentials.is_proven(USER, each)]


def remember(world: World, *secrets: Secret) -> None:
    for secret in secrets:
        world.relay.accounts.credentials.remember(USER, secret, world.loop.time())


def opener(world: World) -> bytes | None:
    found = world.relay.accounts.credentials.opener(USER)
    return found.secret.password if found is not None else None


def test_the_two_newest_passwords_are_known_and_the_newest_opens_connections(world: World):
    remember(world, ONE, TWO)
    assert (known(world), opener(world)) == ([b"one", b"two"], b"two")
    remember(world, THREE)
    assert (known(world), opener(world)) == ([b"two", b"three"], b"three")
    remember(world, TWO)
    assert (known(world), opener(world)) == ([b"two", b"three"], b"two")


def test_what_the_server_refuses_is_forgotten_and_the_other_one_is_left(world: World):
    remember(world, ONE, TWO)
    credentials = world.relay.accounts.credentials
    credentials.refused(USER, TWO, DENIED)
    assert (known(world), opener(world)) == ([b"one"], b"one")
    credentials.refused(USER, ONE, DENIED)
    assert (known(world), opener(world), len(credentials)) == ([], None, 0)


def test_an_account_that_has_changed_is_proven_again_and_its_password_kept(world: World):
    remember(world, ONE)
    world.relay.accounts.credentials.refused(USER, ONE, LOCKED)
    assert (known(world), opener(world)) == ([], b"one")


def test_a_quota_says_nothing_about_a_password(world: World):
    remember(world, ONE)
    world.relay.accounts.credentials.refused(USER, ONE, FULL)
    assert known(world) == [b"one"]


def test_a_login_that_began_before_a_change_proves_nothing_afterwards(world: World):
    began = world.loop.time()
    world.advance(0.1)
    world.relay.accounts.passwords_may_have_changed()
    world.relay.accounts.credentials.remember(USER, ONE, began)
    assert (known(world), opener(world)) == ([], b"one")
    world.advance(0.1)
    remember(world, ONE)
    assert known(world) == [b"one"]


def test_a_native_answer_is_known_whichever_way_the_password_was_proven(world: World):
    nonce = b"n" * 20
    credentials = world.relay.accounts.credentials
    remember(world, ONE)
    assert credentials.proven(USER, NATIVE_PASSWORD, scramble_native(b"one", nonce), nonce) is ONE
    assert credentials.proven(USER, CACHING_SHA2_PASSWORD, scramble_sha2(b"one", nonce), nonce) is ONE
    assert credentials.proven(b"other", NATIVE_PASSWORD, scramble_native(b"one", nonce), nonce) is None
    world.advance(61)
    assert credentials.proven(USER, NATIVE_PASSWORD, scramble_native(b"one", nonce), nonce) is None


def held(password: bytes) -> int:
    """How many objects hold this secret."""
    gc.collect()
    return sum(1 for each in gc.get_objects() if isinstance(each, Secret) and each.password == password)


def test_nothing_holds_a_password_when_the_last_client_has_gone_and_the_time_is_up(world: World):
    world.relay.accounts.credentials.remember(b"tenant", Secret.of(b"rare"), world.loop.time())
    apps = [world.app(user="tenant") for _ in range(2)]
    world.settled(apps[0])

    def look() -> int:
        world.relay.accounts.credentials.forget_expired()
        return held(b"rare")

    world.advance(61)
    assert look() == 1, "it has clients"
    apps[0].leave()
    assert look() == 1
    apps[1].leave()
    assert look() == 0, "idle connections need no password"


def test_a_password_that_was_just_proven_is_kept_for_clients_that_come_and_go(world: World):
    world.relay.accounts.credentials.remember(b"tenant", Secret.of(b"rare"), world.loop.time())
    world.app(user="tenant").leave()
    world.advance(59)
    world.relay.accounts.credentials.forget_expired()
    assert held(b"rare") == 1
    world.advance(2)
    world.relay.accounts.credentials.forget_expired()
    assert held(b"rare") == 0


def test_connections_whose_end_is_unsure_need_their_password(world: World):
    world.relay.accounts.credentials.remember(b"tenant", Secret.of(b"rare"), world.loop.time())
    app = world.app(user="tenant")
    app.query(b"SELECT SLEEP(100)")
    app.leave()
    world.advance(61)
    world.relay.accounts.credentials.forget_expired()
    assert held(b"rare") == 1, "its statement still runs on the server"
