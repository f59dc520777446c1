"""The server's authentication plugins: whatever an account uses, its clients log in with their password alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pymysql
import pytest

from tests.conftest import Proxy
from tests.servers import Server, start_server

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def world(mariadb: Server) -> Iterator[Server]:
    """A MariaDB of its own, with ed25519."""
    server = start_server("mariadb", plugin_load_add="auth_ed25519")
    long = "a passphrase that is much longer than the thirty-two bytes of a key"
    server.execute(
        "CREATE USER curve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('curve-secret')",
        f"CREATE USER lengthy@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{long}')",
        "CREATE USER either@'%' IDENTIFIED VIA ed25519 USING PASSWORD('one')"
        " OR mysql_native_password USING PASSWORD('two')",
    )
    yield server
    server.remove()


def login(proxy: Proxy, user: str, password: str) -> str:
    with (
        contextlib.closing(
            pymysql.connect(host="127.0.0.1", port=proxy.port, user=user, password=password)
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT CURRENT_USER()")
        return str(cursor.fetchall()[0][0])


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("curve", "curve-secret"),
        ("lengthy", "a passphrase that is much longer than the thirty-two bytes of a key"),
        ("either", "one"),
        ("either", "two"),
    ],
)
def test_an_account_of_ed25519_logs_in(world: Server, shared_proxy: Start, user: str, password: str) -> None:
    pooler = shared_proxy(world, max_connections=3)
    assert login(pooler, user, password) == f"{user}@%"
    assert login(pooler, user, password) == f"{user}@%"


def test_a_wrong_password_is_the_servers_own_error(world: Server, shared_proxy: Start) -> None:
    pooler = shared_proxy(world, max_connections=3)
    for user in ("curve", "either"):
        with pytest.raises(pymysql.err.OperationalError) as caught:
            login(pooler, user, "wrong")
        assert caught.value.args[0] == 1045
