"""Accounts of MariaDB's `parsec`: no scramble of a password will do, so their clients give the password itself.

They do it in every way there is, and only the first of them costs a login to the server.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from tests.clients.clients import LOGINS, Account, Login, Refused, Target
from tests.conftest import Proxy
from tests.servers import Server, wait_until

WHO = "SELECT CURRENT_USER(), DATABASE()"

# How the password comes here. PyMySQL takes TLS where it is offered, aiomysql does not.
WAYS = {
    "in the clear over TLS": ("tcp", LOGINS["pymysql"]),
    "encrypted with RSA": ("tcp", LOGINS["aiomysql"]),
    "in the clear over a unix socket": ("unix", LOGINS["aiomysql"]),
}


@dataclass(frozen=True)
class Pooler:
    """A proxy, and the two ways to it."""

    proxy: Proxy
    ways: dict[str, Target]

    def connects(self) -> float:
        """How many connections to the server it has opened so far."""
        return self.proxy.metrics()["mybouncer_backend_connects_total"]


@pytest.fixture(scope="module", params=["tcp", "socket"])
def pooler(
    request: pytest.FixtureRequest,
    mariadb_11_8: Server,
    module_proxy: Callable[..., Proxy],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pooler:
    """Logged in to the server over TLS, and over its unix socket."""
    path = str(tmp_path_factory.mktemp("parsec") / "socket")
    backend = mariadb_11_8.url if request.param == "tcp" else f"mysql+unix://{mariadb_11_8.socket}"
    proxy = module_proxy(backend, max_connections=4, auth__cache_ttl="2s", args=["--listen", f"unix:{path}"])
    return Pooler(proxy, {"tcp": Target(proxy.port), "unix": Target(unix_socket=path)})


@pytest.fixture
def account(mariadb_11_8: Server) -> Iterator[Account]:
    one = Account(user=f"parsec_{uuid.uuid4().hex[:12]}", password=uuid.uuid4().hex)
    mariadb_11_8.execute(
        f"CREATE USER {one.user}@'%' IDENTIFIED VIA parsec USING PASSWORD('{one.password}')",
        f"GRANT ALL ON test.* TO {one.user}@'%'",
    )
    yield one
    mariadb_11_8.execute(f"DROP USER {one.user}@'%'")


def _refusal(login: Login, target: Target, account: Account) -> int:
    with pytest.raises(Refused) as refused:
        login(target, account, WHO)
    return refused.value.code


@pytest.mark.parametrize("way", WAYS)
def test_the_first_login_proves_the_password_and_later_ones_need_no_backend(
    pooler: Pooler, account: Account, way: str
) -> None:
    transport, login = WAYS[way]
    before = pooler.connects()
    for _ in range(2):
        assert login(pooler.ways[transport], account, WHO) == [(f"{account.user}@%", "test")]
        assert pooler.connects() == before + 1


def test_a_wrong_password_is_the_servers_own_error_and_the_right_one_is_not_hurt(
    pooler: Pooler, account: Account
) -> None:
    wrong = replace(account, password="not the password")
    for transport, login in WAYS.values():
        assert _refusal(login, pooler.ways[transport], wrong) == 1045
        assert login(pooler.ways[transport], account, WHO)
        assert _refusal(login, pooler.ways[transport], wrong) == 1045


def test_a_changed_password_is_known_when_the_proof_of_the_old_one_has_expired(
    mariadb_11_8: Server, pooler: Pooler, account: Account
) -> None:
    login, target = LOGINS["pymysql"], pooler.ways["tcp"]
    assert login(target, account, WHO)
    new = replace(account, password=uuid.uuid4().hex)
    mariadb_11_8.execute(f"ALTER USER {account.user}@'%' IDENTIFIED VIA parsec USING PASSWORD('{new.password}')")

    def old_is_refused() -> bool:
        try:
            login(target, account, WHO)
        except Refused as refused:
            return refused.code == 1045
        return False

    wait_until(old_is_refused, 20.0, "the old password is refused")
    assert login(target, new, WHO)
