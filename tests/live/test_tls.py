"""TLS on both legs: who gets it, what is shown, what is checked, and what never happens without it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import socket
import ssl
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mariadb
import pymysql
import pytest
import trustme

from bench.secure import Resuming
from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import Greeting, HandshakeResponse, ssl_request
from tests.clients.clients import LOGINS, Account, Target
from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.servers import FLAVOURS, Server, start_server, wait_until

ACCOUNT = ("app", "app-secret")
Start = Callable[..., Proxy]


class Certificates:
    """A CA, and what it has signed, as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.ca = self._write("ca.pem", self.authority.cert_pem)
        self.server, self.server_key = self.issue("server", "localhost")
        self.client, self.client_key = self.issue("client", "client.example")

    def _write(self, name: str, *blobs: trustme.Blob) -> str:
        path = self.directory / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        path.chmod(0o600)
        return str(path)

    def issue(self, name: str, *identities: str) -> tuple[str, str]:
        """A certificate and its key."""
        issued = self.authority.issue_cert(*identities)
        return (
            self._write(f"{name}.pem", *issued.cert_chain_pems),
            self._write(f"{name}-key.pem", issued.private_key_pem),
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=FLAVOURS)
def secure_server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Server]:
    """A server with a certificate of our CA, and accounts that demand TLS."""
    flavour = str(request.param)
    request.getfixturevalue(flavour)  # skipped or failed where there is none
    files = {"ssl_ca": certificates.ca, "ssl_cert": certificates.server, "ssl_key": certificates.server_key}
    server = start_server(flavour, **files)
    server.execute(
        "CREATE USER tls_only@'%' IDENTIFIED BY 'tls-secret' REQUIRE SSL",
        "CREATE USER with_cert@'%' IDENTIFIED BY 'cert-secret' REQUIRE X509",
    )
    yield server
    server.remove()


@pytest.fixture(scope="module")
def plain_server() -> Iterator[Server]:
    """A MariaDB without TLS."""
    server = start_server("mariadb", skip_ssl="ON")
    yield server
    server.remove()


def trusting(certificates: Certificates, **chain: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.ca)
    if chain:
        context.load_cert_chain(**chain)
    return context


def connect(proxy: Proxy, context: ssl.SSLContext | None, account: tuple[str, str] = ACCOUNT) -> Any:
    tls: dict[str, Any] = {"ssl": context} if context else {"ssl_disabled": True}
    user, password = account
    return pymysql.connect(host="localhost", port=proxy.port, user=user, password=password, **tls)


def value(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()[0][-1]


def shown(proxy: Proxy) -> bytes:
    """The certificate that clients are shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.closing(connect(proxy, context)) as connection:
        found = connection._sock.getpeercert(binary_form=True)
        assert isinstance(found, bytes)
        return hashlib.sha256(found).digest()


# --- to clients ---


@pytest.fixture
def pooler(mysql: Server, certificates: Certificates, shared_proxy: Start) -> Proxy:
    """A pooler with a certificate of our CA."""
    files = {"tls__client__certificate": certificates.server, "tls__client__key": certificates.server_key}
    return shared_proxy(mysql, max_connections=4, **files)


def test_a_client_that_checks_the_certificate_is_served(pooler: Proxy, certificates: Certificates) -> None:
    with contextlib.closing(connect(pooler, trusting(certificates))) as connection:
        assert connection._sock.version() == "TLSv1.3"
        assert value(connection, "SELECT LENGTH(REPEAT('x', 3000000))") == 3_000_000
        assert len(value(connection, "SELECT REPEAT('x', 3000000)")) == 3_000_000
        statement = f"SELECT LENGTH('{'y' * 2_500_000}')"
        assert value(connection, statement) == 2_500_000


def test_tls_is_not_demanded(pooler: Proxy) -> None:
    with contextlib.closing(connect(pooler, None)) as connection:
        assert value(connection, "SELECT 1") == 1


@pytest.mark.parametrize("client", LOGINS)
def test_every_client_takes_what_it_is_offered(pooler: Proxy, client: str) -> None:
    assert LOGINS[client](Target(pooler.port), Account(), "SELECT 41 + 1") == [("42",)]


def test_commands_flow_over_tls_for_as_long_as_it_takes(pooler: Proxy, certificates: Certificates) -> None:
    with contextlib.closing(connect(pooler, trusting(certificates))) as connection:
        for number in range(300):
            assert value(connection, f"SELECT {number}") == number
        connection.begin()
        assert value(connection, "SELECT 1") == 1
        connection.rollback()


def test_where_tls_is_required_a_plain_login_is_refused_but_not_on_a_unix_socket(
    mariadb: Server, proxy: Start, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    pooler = proxy(mariadb, max_connections=2, tls__client__mode="required", args=["--listen", f"unix:{path}"])
    with pytest.raises(pymysql.err.OperationalError) as caught:
        connect(pooler, None)
    assert caught.value.args[0] == 3159
    shown(pooler)
    local = pymysql.connect(unix_socket=str(path), user=ACCOUNT[0], password=ACCOUNT[1])
    assert value(local, "SELECT 1") == 1
    local.close()


def test_where_tls_is_disabled_it_is_not_offered(mariadb: Server, proxy: Start) -> None:
    pooler = proxy(mariadb, max_connections=2, tls__client__mode="disabled")
    with socket.create_connection(("127.0.0.1", pooler.port)) as sock:
        greeting = Greeting.parse(sock.recv(1 << 12)[4:])
        assert not greeting.capabilities & c.CLIENT_SSL
        sock.sendall(frame(ssl_request(c.CLIENT_PROTOCOL_41 | c.CLIENT_SSL, 45), 1))
        assert b"Bad handshake" in sock.recv(1 << 12)


def test_our_own_certificate_is_made_once_and_kept(mariadb: Server, proxy: Start, tmp_path: Path) -> None:
    directory = tmp_path / "state"
    first = proxy(mariadb, max_connections=2, tls__client__state_directory=str(directory))
    seen = shown(first)
    first.stop()
    second = proxy(mariadb, max_connections=2, tls__client__state_directory=str(directory))
    assert shown(second) == seen
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


def test_where_nothing_can_be_kept_there_is_a_certificate_all_the_same(
    mariadb: Server, proxy: Start, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory")
    pooler = proxy(mariadb, max_connections=2, tls__client__state_directory=str(tmp_path / "file" / "below"))
    assert shown(pooler)
    assert "certificate" in pooler.log()


def test_a_changed_certificate_is_taken_up_and_nobody_is_dropped(
    mariadb: Server, proxy: Start, certificates: Certificates, tmp_path: Path
) -> None:
    own = Certificates(tmp_path)
    files = {"tls__client__certificate": own.server, "tls__client__key": own.server_key}
    pooler = proxy(mariadb, max_connections=2, **files)
    before = shown(pooler)
    with contextlib.closing(connect(pooler, trusting(own))) as connection:
        Path(own.server).write_text("in the middle of being written")
        wait_until(lambda: "certificate cannot be used" in pooler.log(), 10.0, "the fault is told")
        assert shown(pooler) == before
        own.issue("server", "localhost")
        wait_until(lambda: shown(pooler) != before, 10.0, "the new one is shown")
        assert value(connection, "SELECT 1") == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_client_resumes_its_session_until_the_certificate_changes(
    mariadb: Server, proxy: Start, certificates: Certificates, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    path, new = tmp_path / "certificate.pem", tmp_path / "new.pem"

    def show(name: str) -> None:
        issued = certificates.authority.issue_cert(name)
        new.write_bytes(b"".join(blob.bytes() for blob in (*issued.cert_chain_pems, issued.private_key_pem)))
        new.replace(path)

    show("localhost")
    pooler = proxy(mariadb, max_connections=2, tls__client__certificate=str(path))
    resuming = Resuming(version)

    def login() -> bool:
        before = resuming.resumed
        with Raw(pooler, *ACCOUNT, tls=resuming) as client:  # type: ignore[arg-type]
            assert client.get("SELECT 1") == b"1"
            resuming.keep(client.sock)
        return resuming.resumed > before

    assert [login() for _ in range(4)] == [False, True, True, True]
    show("localhost")
    wait_until(lambda: "certificate taken up" in pooler.log(), 10, "the new certificate is taken up")
    assert [login() for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize("broken", ["missing", "no PEM", "another key"])
def test_a_certificate_that_cannot_be_used_stops_the_start(
    mariadb: Server, proxy: Start, certificates: Certificates, tmp_path: Path, broken: str
) -> None:
    files = {"tls__client__certificate": certificates.server, "tls__client__key": certificates.server_key}
    if broken == "missing":
        files["tls__client__key"] = str(tmp_path / "nowhere.pem")
    elif broken == "no PEM":
        (tmp_path / "empty.pem").write_text("")
        files["tls__client__certificate"] = str(tmp_path / "empty.pem")
    else:
        files["tls__client__key"] = certificates.client_key
    pooler = proxy(mariadb, wait=False, **files)
    assert pooler.wait() == 2
    assert next(iter(files.values())) in pooler.log() or files["tls__client__key"] in pooler.log()


def test_certificates_of_clients_are_checked_where_they_are_demanded(
    mariadb: Server, proxy: Start, certificates: Certificates, tmp_path: Path
) -> None:
    files = {
        "tls__client__certificate": certificates.server,
        "tls__client__key": certificates.server_key,
        "tls__client__ca": certificates.ca,
        "tls__client__client_certificates": "required",
        "tls__client__mode": "required",
    }
    pooler = proxy(mariadb, max_connections=2, **files)
    known = trusting(certificates, certfile=certificates.client, keyfile=certificates.client_key)
    with contextlib.closing(connect(pooler, known)) as connection:
        assert value(connection, "SELECT 1") == 1
    stranger = Certificates(tmp_path)
    for context in (
        trusting(certificates),
        trusting(certificates, certfile=stranger.client, keyfile=stranger.client_key),
    ):
        with pytest.raises((pymysql.err.OperationalError, OSError)):
            connect(pooler, context)
    pooler.wait_for_metric('mybouncer_login_failures_total{reason="tls"}', 2)


class Shaker:
    """A client that puts together its first bytes by hand."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.greeting = Greeting.parse(self.sock.recv(1 << 12)[4:])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.capabilities = c.CLIENT_PROTOCOL_41 | c.CLIENT_SSL | c.CLIENT_PLUGIN_AUTH | c.CLIENT_SECURE_CONNECTION

    def first_bytes(self) -> bytes:
        """SSLRequest and ClientHello."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return frame(ssl_request(self.capabilities, 45), 1) + self.outgoing.read()

    def arrived(self) -> None:
        """Wait until the other side's kernel has everything that was sent."""
        unsent = lambda: struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, b"\0\0\0\0"))[0]  # noqa: E731
        wait_until(lambda: not unsent(), 5.0, "it has arrived")

    def finish(self, *, behind: bytes = b"") -> bytes:
        """Shake hands to the end; `behind` goes out in one piece with the last flight. Gives the first answer."""
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(1 << 16))
        self.tls.write(behind)
        self.sock.sendall(self.outgoing.read())
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                return self.tls.read()
            data = self.sock.recv(1 << 16)
            assert data, "closed"
            self.incoming.write(data)

    def response(self) -> bytes:
        """A login that the server refuses in words."""
        response = HandshakeResponse(self.capabilities, 45, b"nobody", b"", None, b"caching_sha2_password")
        return frame(response.encode(), 2)


def test_the_first_bytes_may_be_cut_anywhere_and_come_all_at_once(pooler: Proxy) -> None:
    """SSLRequest and ClientHello cut at every byte; then the login in one piece with the end of the handshake."""
    total = 1
    at = 0
    while at < total:
        shaker = Shaker(pooler.port)
        first = shaker.first_bytes()
        total = len(first)
        shaker.sock.sendall(first[:at])
        shaker.arrived()
        shaker.sock.sendall(first[at:])
        answer = shaker.finish(behind=shaker.response())
        assert answer[4] == 0xFF, "an account that nobody has is refused by the server"
        shaker.sock.close()
        at += 1
    assert total > 500


def test_plaintext_behind_the_request_is_never_taken_for_a_command(pooler: Proxy) -> None:
    shaker = Shaker(pooler.port)
    shaker.sock.sendall(frame(ssl_request(shaker.capabilities, 45), 1) + shaker.response())
    shaker.sock.settimeout(10)
    answer = b""
    with contextlib.suppress(ConnectionError):
        while data := shaker.sock.recv(1 << 12):
            answer += data
    assert b"Access denied" not in answer
    assert not answer or answer[0] == 0x15, "an alert, or nothing"


# --- to the server ---


def secured(server: Server, proxy: Start, mode: str, **files: str) -> Proxy:
    settings = {f"tls__backend__{name}": value for name, value in files.items()}
    return proxy(f"mysql://localhost:{server.port}", max_connections=3, tls__backend__mode=mode, **settings)


def cipher(proxy: Proxy, account: tuple[str, str] = ACCOUNT) -> str:
    with contextlib.closing(connect(proxy, None, account)) as connection:
        return str(value(connection, "SHOW SESSION STATUS LIKE 'Ssl_cipher'"))


@pytest.mark.parametrize("mode", ["preferred", "required", "verify-ca", "verify-identity"])
def test_connections_to_the_server_are_encrypted(
    secure_server: Server, proxy: Start, certificates: Certificates, mode: str
) -> None:
    files = {"ca": certificates.ca} if mode.startswith("verify") else {}
    pooler = secured(secure_server, proxy, mode, **files)
    assert cipher(pooler)
    assert cipher(pooler, ("tls_only", "tls-secret"))


def test_mariadbs_own_capabilities_are_asked_for_where_tls_begins(secure_server: Server, proxy: Start) -> None:
    """MariaDB believes what is in front of the TLS handshake, not what comes behind it."""
    if secure_server.flavour == "mysql":
        pytest.skip("only on mariadb: bulk execution")
    pooler = secured(secure_server, proxy, "required")
    with contextlib.closing(
        mariadb.connect(host="127.0.0.1", port=pooler.port, user="app", password="app-secret", database="test")
    ) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE many (a INT)")
        cursor.executemany("INSERT INTO many VALUES (?)", [(i,) for i in range(10)])
        assert cursor.rowcount == 10
    assert pooler.metrics()['mybouncer_statements_total{command="stmt_bulk_execute"}'] == 1


def test_without_tls_an_account_that_demands_it_gets_the_servers_own_error(secure_server: Server, proxy: Start) -> None:
    pooler = secured(secure_server, proxy, "disabled")
    assert not cipher(pooler)
    with pytest.raises(pymysql.err.OperationalError) as caught:
        cipher(pooler, ("tls_only", "tls-secret"))
    assert caught.value.args[0] in (1045, 3159)


def test_an_account_that_demands_a_certificate_gets_ours(
    secure_server: Server, proxy: Start, certificates: Certificates
) -> None:
    pooler = secured(secure_server, proxy, "required", certificate=certificates.client, key=certificates.client_key)
    assert cipher(pooler, ("with_cert", "cert-secret"))


@pytest.mark.parametrize("fault", ["another CA", "another name"])
def test_a_server_that_is_not_who_it_should_be_is_never_logged_in_to(
    secure_server: Server, proxy: Start, certificates: Certificates, tmp_path: Path, fault: str
) -> None:
    other = Certificates(tmp_path)
    if fault == "another CA":
        pooler = secured(secure_server, proxy, "verify-ca", ca=other.ca)
    else:
        settings = {"tls__backend__mode": "verify-identity", "tls__backend__ca": certificates.ca}
        pooler = proxy(f"mysql://127.0.0.1:{secure_server.port}", max_connections=3, **settings)
    before = secure_server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")
    with pytest.raises(pymysql.err.OperationalError) as caught:
        cipher(pooler)
    assert caught.value.args[0] == 2026
    assert "certificate" in caught.value.args[1] or "IP address mismatch" in caught.value.args[1]
    assert secure_server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'") == before


@pytest.mark.parametrize("mode", ["required", "verify-ca", "verify-identity"])
def test_a_server_without_tls_is_an_error_where_tls_must_be_and_no_password_goes_out(
    plain_server: Server, proxy: Start, certificates: Certificates, mode: str
) -> None:
    pooler = secured(plain_server, proxy, mode, ca=certificates.ca)
    with pytest.raises(pymysql.err.OperationalError) as caught:
        cipher(pooler)
    assert caught.value.args[0] == 2026
    assert mode in caught.value.args[1]
    assert not cipher(secured(plain_server, proxy, "preferred"))


def test_accounts_are_not_looked_up_without_tls_where_tls_must_be(plain_server: Server, proxy: Start) -> None:
    plain_server.execute("CREATE USER reader@'%' IDENTIFIED BY 'reader-secret'", "GRANT ALL ON *.* TO reader@'%'")

    def code(mode: str) -> int:
        lookup = {"auth__mode": "lookup", "auth__lookup_user": "reader", "auth__lookup_password": "reader-secret"}
        pooler = proxy(plain_server, max_connections=3, tls__backend__mode=mode, **lookup)
        try:
            connect(pooler, None).close()
        except pymysql.err.OperationalError as exc:
            assert "TLS to the server: the server offers none" in pooler.log()
            return int(exc.args[0])
        return 0

    assert code("required") == 2003
    assert code("preferred") == 0


def test_sessions_are_resumed(secure_server: Server, proxy: Start) -> None:
    if secure_server.flavour == "mariadb":
        pytest.skip("only on mysql: this MariaDB resumes no sessions")
    pooler = secured(secure_server, proxy, "required")
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(connect(pooler, None))) for _ in range(3)]
        for connection in connections:
            connection.begin()
            value(connection, "SELECT 1 FROM information_schema.tables LIMIT 1")
            connection.cursor().execute("SET @held = 0 + 1")
        reused = [value(connection, "SHOW SESSION STATUS LIKE 'Ssl_sessions_reused'") for connection in connections]
    assert reused.count("1") >= 1, reused
