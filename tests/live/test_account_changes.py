"""What becomes of an account on the server while mybouncer knows it: changed, dropped, renamed, locked, expired."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Proxy
from tests.live.handshakes import Handshake
from tests.live.raw import Raw
from tests.servers import Server, wait_until

Start = Callable[..., Proxy]


class Account:
    """An account of one test's own."""

    def __init__(self, server: Server, options: str = "") -> None:
        self.server = server
        self.name = f"change_{uuid.uuid4().hex[:10]}"
        server.execute(f"CREATE USER {self}@'%' IDENTIFIED BY 'first' {options}", f"GRANT ALL ON test.* TO {self}@'%'")

    def __str__(self) -> str:
        return self.name

    def let_in(self, pooler: Proxy, password: str = "first") -> bool:
        return self.refused(pooler, password) == 0

    def refused(self, pooler: Proxy, password: str = "first") -> int:
        with Handshake(pooler.port, self.name, password) as client:
            return client.code

    def alter(self, what: str) -> None:
        self.server.execute(f"ALTER USER {self}@'%' {what}")

    def drop(self) -> None:
        self.server.execute(f"DROP USER IF EXISTS {self}@'%', {self}_renamed@'%'")


@pytest.fixture
def account(server: Server) -> Iterator[Account]:
    one = Account(server)
    yield one
    one.drop()


@pytest.fixture
def short(server: Server, shared_proxy: Start) -> Proxy:
    """A pooler that believes nothing for long, and keeps no idle connection."""
    return shared_proxy(server, max_connections=8, auth__cache_ttl="300ms", pool__idle_timeout="100ms")


@pytest.fixture
def long(server: Server, shared_proxy: Start) -> Proxy:
    """A pooler that believes what it knows, and keeps no idle connection."""
    return shared_proxy(server, max_connections=8, auth__cache_ttl="1h", pool__idle_timeout="100ms")


@pytest.fixture
def admin(server: Server) -> Iterator[Account]:
    """An account that may change others."""
    one = Account(server)
    server.execute(f"GRANT CREATE USER ON *.* TO {one}@'%'", f"GRANT UPDATE ON mysql.* TO {one}@'%'")
    yield one
    one.drop()


def locked_code(server: Server) -> int:
    return 4151 if server.flavour == "mariadb" else 3118


# --- noticed in time ---


@pytest.mark.parametrize("change", ["IDENTIFIED BY 'second'", "ACCOUNT LOCK", "PASSWORD EXPIRE", "drop"])
def test_a_change_is_known_when_the_cache_has_expired(
    server: Server, short: Proxy, account: Account, change: str
) -> None:
    assert account.let_in(short)
    if change == "drop":
        account.drop()
    else:
        account.alter(change)
    wait_until(lambda: not account.let_in(short), 10, "the change is known")
    expired = 1820 if server.flavour == "mariadb" else 1862
    code = {"ACCOUNT LOCK": locked_code(server), "PASSWORD EXPIRE": expired}.get(change, 1045)
    assert account.refused(short) == code


@pytest.mark.parametrize("change", ["IDENTIFIED BY 'second'", "ACCOUNT LOCK", "drop"])
def test_a_change_is_known_at_the_next_login_to_the_server(
    server: Server, long: Proxy, account: Account, change: str
) -> None:
    with Raw(long, account.name, "first") as client:
        client.ok("SELECT 1")
        wait_until(lambda: not connections(server, account), 10, "it has no connection any more")
        if change == "drop":
            account.drop()
        else:
            account.alter(change)
        assert account.let_in(long), "nobody can know yet"
        code = locked_code(server) if change == "ACCOUNT LOCK" else 1045
        assert client.query("SELECT 1").code == code
        assert account.refused(long) == code


def connections(server: Server, account: Account) -> int:
    return int(server.execute(f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{account}'")[0][0])


CHANGES = [
    "ALTER USER {user}@'%' IDENTIFIED BY 'second'",
    "SET PASSWORD FOR {user}@'%' = {second}",
    "DROP USER {user}@'%'",
    "RENAME USER {user}@'%' TO {user}_renamed@'%'",
    "ALTER USER nobody_at_all@'%', {user}@'%' ACCOUNT LOCK",
    "/* a comment */ drop   user if exists {user}@'%'",
    "SELECT 1; ALTER USER {user}@'%' ACCOUNT LOCK",
]


@pytest.mark.parametrize("prepared", [False, True], ids=["text", "prepared"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_seen_passing_is_known_at_once(
    server: Server, long: Proxy, account: Account, admin: Account, change: str, prepared: bool
) -> None:
    second = "PASSWORD('second')" if server.flavour == "mariadb" else "'second'"
    sql = change.format(user=account, second=second)
    if prepared and (";" in sql or (server.flavour == "mysql" and sql.startswith("SET"))):
        pytest.skip("the server does not prepare this")
    with Raw(long, admin.name, "first") as client:
        assert account.let_in(long)
        result = client.execute(client.prepare(sql)) if prepared else client.queries(sql)[-1]
        if "nobody_at_all" in sql:
            assert result.code == 1396
            if server.flavour == "mysql":
                assert account.let_in(long), "all or nothing"
                return
        else:
            assert result.error is None, result.error
        assert not account.let_in(long)


def test_both_of_two_passwords_are_known_until_one_is_discarded(mysql: Server, proxy: Start) -> None:
    account = Account(mysql)
    try:
        pooler = proxy(mysql, max_connections=4, pool__idle_timeout="100ms")
        account.alter("IDENTIFIED BY 'second' RETAIN CURRENT PASSWORD")
        assert account.let_in(pooler, "first")
        assert account.let_in(pooler, "second")
        proven = pooler.metrics()["mybouncer_backend_connects_total"]
        for _ in range(3):
            assert account.let_in(pooler, "first")
            assert account.let_in(pooler, "second")
        assert pooler.metrics()["mybouncer_backend_connects_total"] == proven
        assert not account.let_in(pooler, "third")
        with Raw(pooler, account.name, "second") as old, Raw(pooler, account.name, "first") as new:
            wait_until(lambda: not connections(mysql, account), 10, "it has no connection any more")
            account.alter("DISCARD OLD PASSWORD")
            new.query("SELECT 1")
            wait_until(lambda: old.query("SELECT 1").error is None, 10, "the password that is left opens connections")
            wait_until(lambda: new.query("SELECT 1").error is None, 10, "for everybody")
    finally:
        account.drop()


# --- and never tried too often ---


def test_many_connections_opened_with_an_old_password_do_not_lock_the_account(
    server: Server, proxy: Start, own_server: Start
) -> None:
    if server.flavour == "mysql":
        account = Account(server, "FAILED_LOGIN_ATTEMPTS 2 PASSWORD_LOCK_TIME 1")
    else:
        account = Account(own_server("mariadb", max_password_errors=2))
    try:
        pooler = proxy(account.server, max_connections=8, pool__idle_timeout="100ms", auth__cache_ttl="1h")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Raw(pooler, account.name, "first")) for _ in range(8)]
            wait_until(lambda: not connections(account.server, account), 10, "it has no connection any more")
            account.alter("IDENTIFIED BY 'second'")
            for client in clients:
                client.send_query("SELECT 1")
            assert [client.answer().code for client in clients] == [1045] * 8
            for client in clients:
                assert client.query("SELECT 1").code == 1045
            assert account.let_in(pooler, "second"), "not locked"
            assert [client.query("SELECT 1").code for client in clients] == [0] * 8, "the account is known again"
    finally:
        account.drop()
