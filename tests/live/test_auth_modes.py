"""`auth.mode`: clients that have no plugin that gives us a password, and where their accounts' secrets come from."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.wire import auth
from proxy.wire import constants as c
from tests.clients.clients import LOGINS, Account, Refused, Target, run_cli
from tests.conftest import Proxy
from tests.live.handshakes import CLEAR_ONLY, MODERN, NATIVE_ONLY, Handshake, PluginMissing
from tests.live.raw import Raw
from tests.servers import Server, free_port, start_server, wait_until

Start = Callable[..., Proxy]
WHO = "SELECT CURRENT_USER()"


def listing(**users: dict[str, str]) -> dict[str, str]:
    """The environment that puts accounts into the users list."""
    return {f"MYBOUNCER_USERS__{user}__{key}": value for user, keys in users.items() for key, value in keys.items()}


@pytest.fixture(scope="module")
def listed(server: Server, module_proxy: Start) -> Proxy:
    """A pooler that lets in nobody but app and app2."""
    env = listing(app={"PASSWORD": "app-secret"}, app2={"PASSWORD": "app2-secret"})
    return module_proxy(server, max_connections=4, auth__mode="users", env=env)


@pytest.fixture(scope="module")
def world() -> Iterator[Server]:
    """A MariaDB of its own, with an account that looks others up and some for it to find."""
    server = start_server("mariadb", plugin_load_add="auth_ed25519", max_password_errors=5)
    server.execute(
        "CREATE USER reader@'%' IDENTIFIED BY 'reader-secret'",
        "GRANT SELECT ON mysql.global_priv TO reader@'%'",
        "CREATE USER twice@'127.0.0.1' IDENTIFIED BY 'near-secret'",
        "CREATE USER twice@'10.1.2.3' IDENTIFIED BY 'far-secret'",
        "CREATE USER either@'%' IDENTIFIED VIA ed25519 USING PASSWORD('one')"
        " OR mysql_native_password USING PASSWORD('two')",
        "CREATE USER curve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('curve-secret')",
        "CREATE USER öl@'%' IDENTIFIED BY 'öl-secret'",
        "CREATE USER gone@'%' IDENTIFIED VIA mysql_native_password USING 'invalid'",
    )
    yield server
    server.remove()


LOOKUP = {"auth__lookup_user": "reader", "auth__lookup_password": "reader-secret"}


@pytest.fixture
def looking_up(world: Server, shared_proxy: Start) -> Proxy:
    return shared_proxy(world, max_connections=4, auth__mode="lookup", **LOOKUP)


# --- clients that can do nothing but mysql_native_password ---


def test_without_another_mode_a_native_client_is_let_in_only_while_its_password_is_known(
    server: Server, proxy: Start
) -> None:
    pooler = proxy(server, max_connections=2)
    with pytest.raises(PluginMissing):
        Handshake(pooler.port, "app", "app-secret", plugins=NATIVE_ONLY)
    with Handshake(pooler.port, "app", "app-secret") as modern:
        assert modern.ok
    with Handshake(pooler.port, "app", "app-secret", plugins=NATIVE_ONLY) as native:
        assert native.query(WHO) == "app@%"


def test_a_native_client_of_a_listed_account_logs_in(listed: Proxy) -> None:
    for user in ("app", "app2"):
        for plugins in (NATIVE_ONLY, MODERN):
            with Handshake(listed.port, user, f"{user}-secret", plugins=plugins) as client:
                assert client.ok, client.err
                assert client.query(WHO) == f"{user}@%"


@pytest.mark.parametrize("login", LOGINS)
def test_every_client_of_a_listed_account_logs_in(listed: Proxy, login: str) -> None:
    assert LOGINS[login](Target(listed.port), Account(), WHO) == [("app@%",)]


def test_with_users_alone_nobody_else_gets_in_and_the_server_is_not_asked(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=4, auth__mode="users", env=listing(app={"PASSWORD": "app-secret"}))
    before = pooler.metrics()["mybouncer_backend_connects_total"]
    seen = []
    for user, password in (("app", "wrong"), ("app2", "app2-secret"), ("nobody", "x"), ("app", ""), ("nopass", "")):
        with Handshake(pooler.port, user, password) as client:
            assert client.err is not None
            used = "YES" if password else "NO"
            assert client.err.message.decode() == (
                f"Access denied for user '{user}'@'127.0.0.1' (using password: {used})"
            )
            assert (client.code, client.err.state) == (1045, b"28000")
            seen.append([(who, size > 60) for who, size in client.packets])
    assert all(packets == seen[0] for packets in seen[:3]), "a name that is not listed goes the way of a wrong password"
    assert pooler.metrics()["mybouncer_backend_connects_total"] == before


def test_a_listed_password_that_the_server_does_not_accept_is_the_servers_error(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=4, auth__mode="users", env=listing(app={"PASSWORD": "outdated"}))
    with Handshake(pooler.port, "app", "outdated") as client:
        assert client.code == 1045
    with Handshake(pooler.port, "app", "app-secret") as client:
        assert client.code == 1045


def test_modes_are_tried_in_their_order(server: Server, proxy: Start) -> None:
    env = listing(app={"PASSWORD": "outdated"})
    pooler = proxy(server, max_connections=4, auth__mode='["users", "passthrough"]', env=env)
    for user, password in (("app", "app-secret"), ("app2", "app2-secret"), ("nopass", "")):
        with Handshake(pooler.port, user, password) as client:
            assert client.query(WHO) == f"{user}@%"
    for user in ("app", "nobody"):
        with Handshake(pooler.port, user, "wrong") as client:
            assert client.code == 1045


# --- hashes from the server ---


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("app", "app-secret"),
        ("nopass", ""),
        ("twice", "near-secret"),
        ("either", "two"),
        ("öl", "öl-secret"),
    ],
)
def test_a_looked_up_account_logs_in_with_its_own_answer(looking_up: Proxy, user: str, password: str) -> None:
    for plugins in (NATIVE_ONLY, MODERN):
        with Handshake(looking_up.port, user, password, plugins=plugins) as client:
            assert client.ok, client.err
            assert client.query(WHO).startswith(f"{user}@")


def test_a_looked_up_account_opens_as_many_connections_as_it_needs(looking_up: Proxy) -> None:
    clients = [Raw(looking_up, "app2", "app2-secret") for _ in range(3)]
    try:
        for client in clients:
            client.ok("BEGIN")
            client.ok("SELECT 1 FROM information_schema.engines LIMIT 1")
        assert len({client.get("SELECT CONNECTION_ID() + 0") for client in clients}) == 3
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("app", "wrong"),
        ("nobody", "x"),
        ("twice", "far-secret"),  # the hash of another host: the server decides
        ("curve", "curve-secret"),
        ("gone", "invalid"),
        ("app", ""),
        ("nopass", "x"),
        ("x" * 200, "x"),
        ("' OR 1=1 -- ", "x"),
    ],
)
def test_whom_the_table_does_not_know_is_refused(looking_up: Proxy, user: str, password: str) -> None:
    with Handshake(looking_up.port, user, password) as client:
        assert client.code == 1045


def test_a_name_that_no_account_can_have_spoils_nobodys_lookup(looking_up: Proxy) -> None:
    for user in ("app", "app2"):
        Handshake(looking_up.port, "\udcff".encode("utf-8", "surrogateescape").decode("latin1"), "x").sock.close()
        with Handshake(looking_up.port, user, f"{user}-secret", plugins=NATIVE_ONLY) as client:
            assert client.ok


def test_a_password_changed_on_the_server_is_looked_up_again(world: Server, proxy: Start) -> None:
    pooler = proxy(world, max_connections=4, auth__mode="lookup", auth__cache_ttl="300ms", **LOOKUP)
    world.execute("CREATE USER moving@'%' IDENTIFIED BY 'first'", "GRANT ALL ON test.* TO moving@'%'")
    try:
        with Handshake(pooler.port, "moving", "first", plugins=NATIVE_ONLY) as client:
            assert client.ok
        world.execute("ALTER USER moving@'%' IDENTIFIED BY 'second'")

        def let_in(password: str) -> bool:
            with Handshake(pooler.port, "moving", password, plugins=NATIVE_ONLY) as client:
                return client.ok is not None

        wait_until(lambda: let_in("second"), 5, "the new password is known")
        wait_until(lambda: not let_in("first"), 5, "the old one is not")
        with Raw(pooler, "moving", "second") as client:
            client.ok("SET PASSWORD = PASSWORD('third')")  # seen passing: at once
        assert let_in("third")
        assert not let_in("second")
    finally:
        world.execute("DROP USER moving@'%'")


def test_what_cannot_be_looked_up_is_the_next_modes(world: Server, proxy: Start) -> None:
    nobody = {"auth__lookup_user": "reader", "auth__lookup_password": "not the password"}
    pooler = proxy(world, max_connections=4, auth__mode='["lookup", "passthrough"]', **nobody)
    with Handshake(pooler.port, "curve", "curve-secret") as client:
        assert client.query(WHO) == "curve@%"
    assert "accounts cannot be looked up" in pooler.log()
    alone = proxy(world, max_connections=4, auth__mode="lookup", **nobody)
    with Handshake(alone.port, "app", "app-secret") as client:
        assert client.code == 2003


@pytest.mark.parametrize("modes", ["lookup,passthrough", "users,passthrough", "users,lookup,passthrough"])
@pytest.mark.parametrize("login", LOGINS)
def test_a_mode_beside_passthrough_takes_nothing_from_anybody(
    world: Server, proxy: Start, login: str, modes: str
) -> None:
    """On plain TCP, where clients differ most; the greeting has a plugin that not all of them know."""
    config = LOOKUP if "lookup" in modes else {}
    env = listing(app2={"PASSWORD": "app2-secret"}) if "users" in modes else {}
    pooler = proxy(world, max_connections=4, auth__mode=modes, tls__client__mode="disabled", env=env, **config)
    for user, password in (("app", "app-secret"), ("app2", "app2-secret"), ("curve", "curve-secret")):
        for _ in range(2):
            assert LOGINS[login](Target(pooler.port), Account(user, password, ""), WHO) == [(f"{user}@%",)]
        with pytest.raises(Refused, match="1045"):
            LOGINS[login](Target(pooler.port), Account(user, "wrong", ""), WHO)


@pytest.mark.parametrize("modes", ["lookup", "lookup,passthrough"])
def test_a_lookup_account_with_a_wrong_password_is_not_locked_by_our_clients(
    world: Server, proxy: Start, modes: str
) -> None:
    world.execute("CREATE USER guarded@'%' IDENTIFIED BY 'guarded-secret'")
    try:
        lookup = {"auth__lookup_user": "guarded", "auth__lookup_password": "wrong"}
        pooler = proxy(world, max_connections=4, auth__mode=modes, **lookup)
        for _ in range(10):  # max_password_errors is 5
            with (
                contextlib.suppress(PluginMissing),
                Handshake(pooler.port, "app", "app-secret", plugins=NATIVE_ONLY) as client,
            ):
                assert client.ok is None
        with Raw(world, "guarded", "guarded-secret") as reader:
            assert reader.ok("SELECT 1")
    finally:
        world.execute("DROP USER guarded@'%'")


# --- mysql_clear_password ---


def test_a_password_in_the_clear_is_taken_over_tls_and_unix_sockets_only(
    server: Server, proxy: Start, tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    pooler = proxy(server, max_connections=2, args=["--listen", f"unix:{path}"])
    with Handshake(path, "app", "app-secret", plugins=CLEAR_ONLY) as client:
        assert client.query(WHO) == "app@%"
    with Handshake(pooler.port, "app2", "app2-secret", plugins=CLEAR_ONLY, tls=True) as client:
        assert client.query(WHO) == "app2@%"
    with Handshake(path, "app", "wrong", plugins=CLEAR_ONLY) as client:
        assert client.code == 1045
    with pytest.raises(PluginMissing):
        Handshake(pooler.port, "app", "app-secret", plugins=CLEAR_ONLY)


def test_a_password_in_the_clear_is_compared_with_what_the_modes_know(world: Server, proxy: Start) -> None:
    env = listing(curve={"PASSWORD": "curve-secret"})
    for modes in ("users,lookup", "lookup,users"):
        pooler = proxy(world, max_connections=4, auth__mode=modes, env=env, **LOOKUP)
        for user, password, code in (
            ("curve", "curve-secret", 0),  # listed
            ("app", "app-secret", 0),  # looked up
            ("app", "app-secret", 0),  # known
            ("app", "wrong", 1045),
            ("curve", "wrong", 1045),
            ("nobody", "wrong", 1045),
            ("either", "one", 1045),  # of a plugin whose hashes are not read
            ("either", "two", 0),
            ("nopass", "", 0),
            ("nopass", "wrong", 1045),
        ):
            with Handshake(pooler.port, user, password, plugins=CLEAR_ONLY, tls=True) as client:
                assert client.code == code, (modes, user, client.err)
                assert len(client.packets) == 4, "the same packets whatever comes of it"


# --- who somebody is on this machine ---


def test_a_system_user_needs_no_password_on_a_unix_socket(server: Server, proxy: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    pooler = proxy(
        server,
        max_connections=4,
        args=["--listen", f"unix:{path}"],
        auth__mode="users,passthrough",
        env=listing(
            app={"PASSWORD": "app-secret", "SYSTEM_USER": getpass.getuser()},
            app2={"PASSWORD": "app2-secret", "SYSTEM_USER": str(os.getuid() + 1)},
            limited={"PASSWORD": "limited-secret", "SYSTEM_USER": str(os.getuid())},
        ),
    )
    for user, welcome in (("app", True), ("limited", True), ("app2", False)):
        for password in ("", "anything"):
            with Handshake(path, user, password) as client:
                assert bool(client.ok) == welcome
                assert not welcome or client.query(WHO) == f"{user}@%"
    with Handshake(pooler.port, "app", "anything") as client:
        assert client.code == 1045, "only on a unix socket"


def test_nobody_is_taken_for_the_user_that_mybouncer_runs_as(proxy: Start, own_server: Start) -> None:
    """A server that goes by the user behind a unix socket (auth_socket, unix_socket) sees us there."""
    mysql = own_server("mysql", plugin_load_add="auth_socket.so")
    mysql.execute(f"CREATE USER peer@localhost IDENTIFIED WITH auth_socket AS '{getpass.getuser()}'")
    mariadb = own_server("mariadb")
    me = getpass.getuser()
    mariadb.execute(f"CREATE OR REPLACE USER {me}@localhost IDENTIFIED VIA unix_socket")
    for server, user in ((mysql, "peer"), (mariadb, me)):
        pooler = proxy(f"mysql+unix://{server.socket}", max_connections=2)
        for password in ("anything", ""):
            with Handshake(pooler.port, user, password) as client:
                assert client.err is not None
                assert (client.code, b"mybouncer runs as" in client.err.message) == (1698, True), client.err
        with Handshake(pooler.port, "app", "app-secret") as client:
            assert client.ok
        env = listing(**{user: {"PASSWORD": "agreed"}})
        vouching = proxy(f"mysql+unix://{server.socket}", max_connections=2, auth__mode="users", env=env)
        with Handshake(vouching.port, user, "agreed") as client:
            assert client.query(WHO) == f"{user}@localhost"


def test_nobodys_second_factor_is_the_user_that_mybouncer_runs_as(proxy: Start, own_server: Start) -> None:
    server = own_server("mysql", plugin_load_add="auth_socket.so", authentication_policy="*,,")
    server.execute(
        f"CREATE USER two@localhost IDENTIFIED BY 'two-secret' AND IDENTIFIED WITH auth_socket AS '{getpass.getuser()}'"
    )
    pooler = proxy(f"mysql+unix://{server.socket}", max_connections=2)
    with Handshake(pooler.port, "two", "two-secret") as client:
        assert client.code == 1045


# --- a certificate that nobody has signed ---


def test_a_client_can_believe_our_certificate_by_its_own_password(world: Server, proxy: Start) -> None:
    """As MariaDB's clients from 11.4 on do: only who knows the password's hash can make the info of the OK."""
    env = listing(app={"PASSWORD": "app-secret"})
    pooler = proxy(world, max_connections=4, auth__mode="users,lookup", env=env, **LOOKUP)
    for user in ("app", "app2", "app", "app2"):
        with Handshake(pooler.port, user, f"{user}-secret", tls=True) as client:
            assert client.ok is not None
            assert client.plugin == c.NATIVE_PASSWORD
            stored = auth.sha1(auth.sha1(f"{user}-secret".encode()))
            assert client.ok.info == auth.certificate_proof(stored, client.nonce, client.fingerprint)
    with Handshake(pooler.port, "app", "app-secret") as client:
        assert client.ok is not None
        assert client.ok.info == b"", "nothing to prove without TLS"


def test_mariadbs_own_client_believes_a_certificate_that_nobody_has_signed(mariadb_11_8: Server, proxy: Start) -> None:
    mariadb_11_8.execute(
        "CREATE USER hash_reader@'%' IDENTIFIED BY 'reader-secret'",
        "GRANT SELECT ON mysql.global_priv TO hash_reader@'%'",
    )
    lookup = {"auth__lookup_user": "hash_reader", "auth__lookup_password": "reader-secret"}

    def says(account: Account, **config: object) -> subprocess.CompletedProcess[str]:
        away = Target(free_port(), host="127.0.0.2")  # 127.0.0.1 is believed without a word
        proxy(mariadb_11_8, max_connections=2, args=["--listen", f"{away.host}:{away.port}"], **config)
        # Said aloud, because a password in the environment does not count as one there.
        verify = "--ssl-verify-server-cert"
        return run_cli(mariadb_11_8.flavour, away, account, "SELECT CURRENT_USER(); \\s", verify)

    try:
        listed = says(Account(), auth__mode="users", env=listing(app={"PASSWORD": "app-secret"}))
        looked_up = says(Account("app2", "app2-secret"), auth__mode="lookup,passthrough", **lookup)
        for done, user in ((listed, "app"), (looked_up, "app2")):
            assert done.stdout.startswith(f"{user}@%\n"), done.stderr
            assert re.search(r"^SSL:\s+Cipher in use is \w+", done.stdout, re.MULTILINE), done.stdout
        assert "self-signed certificate" in says(Account()).stderr, "it looks"
    finally:
        mariadb_11_8.execute("DROP USER hash_reader@'%'")
