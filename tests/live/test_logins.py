"""Every client logs in with nothing configured, and every refusal is the one the server itself would give.

What a server says directly depends on the host it sees; proxy and test both come from 127.0.0.1, so the texts have to
be equal to the letter.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.clients.clients import LOGINS, Account, Login, Refused, Target
from tests.conftest import Proxy
from tests.servers import Server, wait_until

Proxies = Callable[..., Proxy]

WHO = "SELECT CURRENT_USER(), DATABASE()"

every_client = pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS.keys())


@pytest.fixture
def account(server: Server) -> Iterator[Account]:
    """An account that nobody has logged in with before; the server has nothing cached about it either."""
    one = Account(user=f"login_{uuid.uuid4().hex[:12]}", password="it's " + uuid.uuid4().hex)
    quoted = one.password.replace("'", "''")
    server.execute(f"CREATE USER {one.user}@'%' IDENTIFIED BY '{quoted}'", f"GRANT ALL ON test.* TO {one.user}@'%'")
    yield one
    server.execute(f"DROP USER {one.user}@'%'")


@dataclass(frozen=True)
class Pooler:
    """A proxy, and the two ways to it."""

    proxy: Proxy
    tcp: Target
    unix: Target

    @property
    def targets(self) -> tuple[Target, Target]:
        return self.tcp, self.unix

    def connects(self) -> float:
        """How many connections to the server it has opened so far."""
        return self.proxy.metrics()["mybouncer_backend_connects_total"]


def _start(proxy: Proxies, backend: Server | str, directory: Path, **config: Any) -> Pooler:
    path = str(directory / "mybouncer.sock")
    started = proxy(backend, args=["--listen", f"unix:{path}"], **config)
    return Pooler(started, Target(port=started.port), Target(unix_socket=path))


@pytest.fixture(scope="module")
def pooler(server: Server, module_proxy: Proxies, tmp_path_factory: pytest.TempPathFactory) -> Pooler:
    """With nothing configured but its ports."""
    return _start(module_proxy, server, tmp_path_factory.mktemp("tcp"))


@pytest.fixture(scope="module")
def pooler_on_socket(server: Server, module_proxy: Proxies, tmp_path_factory: pytest.TempPathFactory) -> Pooler:
    """The same, but it reaches the server over the server's unix socket."""
    return _start(module_proxy, f"mysql+unix://{server.socket}", tmp_path_factory.mktemp("unix"))


def _refusal(login: Login, target: Target, account: Account) -> tuple[int, str]:
    with pytest.raises(Refused) as refused:
        login(target, account, "SELECT 1")
    return refused.value.code, refused.value.text


def _said_directly(server: Server, account: Account) -> tuple[int, str]:
    """The server's own words, over TCP like those of the proxy."""
    with pytest.raises(pymysql.MySQLError) as error:
        pymysql.connect(
            host=server.host,
            port=server.port,
            user=account.user,
            password=account.password,
            database=account.database or None,
        )
    code, text = error.value.args
    return code, text


@every_client
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_first_login_proves_the_password_and_later_ones_need_no_backend(
    pooler: Pooler, account: Account, login: Login, transport: str
) -> None:
    before = pooler.connects()
    expected = [(f"{account.user}@%", "test")]
    assert login(pooler.tcp if transport == "tcp" else pooler.unix, account, WHO) == expected
    assert pooler.connects() == before + 1
    for target in pooler.targets:
        assert login(target, account, WHO) == expected
    assert pooler.connects() == before + 1


@every_client
def test_refusals_are_the_servers_own_and_do_not_stand_in_the_way_of_the_right_login(
    server: Server, pooler: Pooler, account: Account, login: Login
) -> None:
    refused = [
        Account(account.user, "not the password", "test"),
        Account(account.user, "", "test"),
        Account("nobody_has_this_name", "secret", "test"),
        Account("nobody_has_this_name", "", ""),
        Account("nopass", "but it has none", "test"),
        Account("locked", "locked-secret", "test"),
        Account("locked", "not the password", "test"),
        Account(account.user, account.password, "there_is_no_such_schema"),
        Account(account.user, account.password, "mysql"),
    ]
    said = [_said_directly(server, each) for each in refused]
    assert {code for code, _ in said} >= {1045, 1044}, said
    # Before and after the right login: a known password must not change what is said about a wrong one.
    for target in pooler.targets:
        assert [_refusal(login, target, each) for each in refused] == said
        assert login(target, account, "SELECT 1") == [("1",)]


@every_client
def test_an_empty_password_is_a_password(pooler: Pooler, login: Login) -> None:
    for target in pooler.targets:
        assert login(target, Account("nopass", "", "test"), WHO) == [("nopass@%", "test")]
        assert login(target, Account("nopass", "", ""), WHO) == [("nopass@%", "NULL")]


def test_unknown_and_forbidden_schemas_are_told_apart_as_the_server_does(server: Server, pooler: Pooler) -> None:
    # Whether an account may know that a schema does not exist depends on its privileges.
    server.execute("CREATE USER everywhere@'%' IDENTIFIED BY 'secret'", "GRANT SELECT ON *.* TO everywhere@'%'")
    try:
        unknown = Account("everywhere", "secret", "there_is_no_such_schema")
        forbidden = Account("app2", "app2-secret", "mysql")
        for each, code in ((unknown, 1049), (forbidden, 1044)):
            said = _said_directly(server, each)
            assert said[0] == code
            for target in pooler.targets:
                assert _refusal(LOGINS["pymysql"], target, each) == said
    finally:
        server.execute("DROP USER everywhere@'%'")


@pytest.mark.parametrize("login", [LOGINS[name] for name in ("pymysql", "mysqlclient", "connector")])
def test_an_expired_password_is_said_at_login_whether_or_not_the_server_is_known(
    server: Server, proxy: Proxies, tmp_path: Path, account: Account, login: Login
) -> None:
    server.execute(f"ALTER USER {account.user}@'%' PASSWORD EXPIRE")
    code = 1820 if server.flavour == "mariadb" else 1862
    pooler = _start(proxy, server, tmp_path)
    for _ in range(2):
        assert _refusal(login, pooler.tcp, account)[0] == code
        assert login(pooler.tcp, Account(), "SELECT 1") == [("1",)]


def test_a_changed_password_is_noticed_when_the_cache_has_expired(
    server: Server, proxy: Proxies, tmp_path: Path, account: Account
) -> None:
    pooler = _start(proxy, server, tmp_path, auth__cache_ttl="200ms")
    login = LOGINS["pymysql"]
    assert login(pooler.tcp, account, "SELECT 1") == [("1",)]
    server.execute(f"ALTER USER {account.user}@'%' IDENTIFIED BY 'a new one'")
    changed = Account(account.user, "a new one", "test")
    assert login(pooler.tcp, changed, "SELECT 1") == [("1",)], "the new password counts at once"

    def old_one_is_refused() -> bool:
        with contextlib.suppress(Refused):
            login(pooler.tcp, account, "SELECT 1")
            return False
        return True

    wait_until(old_one_is_refused, 5.0, "the old password is refused")
    assert _refusal(login, pooler.unix, account) == _said_directly(server, account)
    assert login(pooler.unix, changed, "SELECT 1") == [("1",)]


def test_a_password_changed_through_the_proxy_is_noticed_at_once(
    server: Server, pooler: Pooler, account: Account
) -> None:
    login = LOGINS["pymysql"]
    login(pooler.tcp, account, "SET PASSWORD = 'a new one'" if server.flavour == "mysql" else _SET_PASSWORD)
    assert _refusal(login, pooler.tcp, account) == _said_directly(server, account)
    assert login(pooler.tcp, Account(account.user, "a new one", "test"), "SELECT 1") == [("1",)]


_SET_PASSWORD = "SET PASSWORD = PASSWORD('a new one')"


def test_a_login_that_needs_the_password_asks_again_when_the_server_has_forgotten_it(
    server: Server, proxy: Proxies, tmp_path: Path, account: Account
) -> None:
    pooler = _start(proxy, server, tmp_path, pool__idle_timeout="100ms")
    login = LOGINS["pymysql"]
    login(pooler.tcp, account, "SELECT 1")
    pooler.proxy.wait_for_metric('mybouncer_backends{state="idle"}', 0)
    server.execute("FLUSH PRIVILEGES")  # empties the server's cache: the proxy's login is a full one again
    assert login(pooler.tcp, account, WHO) == [(f"{account.user}@%", "test")]


@every_client
def test_the_server_can_be_reached_over_its_unix_socket(
    pooler_on_socket: Pooler, account: Account, login: Login
) -> None:
    before = pooler_on_socket.connects()
    for target in pooler_on_socket.targets:
        assert login(target, account, WHO) == [(f"{account.user}@%", "test")]
    code, text = _refusal(login, pooler_on_socket.tcp, Account(account.user, "wrong", "test"))
    assert (code, f"'{account.user}'@'localhost'" in text) == (1045, True), text
    assert pooler_on_socket.connects() == before + 1


def test_no_login_of_any_client_broke_the_protocol(pooler: Pooler, pooler_on_socket: Pooler) -> None:
    # By its place in the file, this comes after all the others.
    assert pooler.proxy.metrics()["mybouncer_malformed_total"] == 0
    assert pooler_on_socket.proxy.metrics()["mybouncer_malformed_total"] == 0
