"""Ends: clients that vanish anywhere, backends that are killed, servers that stop and come back.

Whatever ends, the slots come back, nothing is leaked, and no statement is executed twice.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import PacketReader
from proxy.wire.packets import Greeting, HandshakeResponse
from tests.conftest import Proxy
from tests.live.aftermath import Before
from tests.live.raw import CAPABILITIES, Raw, ServerError
from tests.servers import FLAVOURS, Server, free_port, wait_until

DATABASE = "lives"
ACCOUNT = ("lives", "lives-secret")
SCHEMA = (
    f"CREATE DATABASE {DATABASE}",
    f"CREATE USER {ACCOUNT[0]}@'%' IDENTIFIED BY '{ACCOUNT[1]}'",
    f"GRANT ALL ON {DATABASE}.* TO {ACCOUNT[0]}@'%'",
    f"USE {DATABASE}",
    "CREATE TABLE log (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(50), n INT)",
    "CREATE TABLE one (id INT PRIMARY KEY, n INT)",
    "INSERT INTO one VALUES (1, 0)",
)
LOG = f"SELECT COUNT(*) FROM {DATABASE}.log WHERE what = "

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def world(server: Server) -> Iterator[Server]:
    """The server, with the tables of this module."""
    server.execute(*SCHEMA)
    yield server
    server.execute(f"DROP DATABASE {DATABASE}", f"DROP USER {ACCOUNT[0]}@'%'")


def connect(proxy: Proxy, *, timeout: float = 20.0) -> Raw:
    return Raw(proxy, *ACCOUNT, DATABASE, timeout=timeout)


def settled(proxy: Proxy, server: Server) -> Before:
    """How it is when everything has been made that is made once."""
    with connect(proxy) as client:
        client.ok("SELECT 1")
        client.quit()
    return Before(proxy, server, ACCOUNT[0])


# --- clients that vanish ---


def _in_the_queue(client: Raw, holder: Raw, proxy: Proxy) -> None:
    holder.ok("BEGIN")
    client.send_query("INSERT INTO log (what) VALUES ('queue')")
    proxy.wait_for_metric('mybouncer_clients{state="waiting"}', 1)


def _while_a_statement_runs(client: Raw, holder: Raw, proxy: Proxy) -> None:
    client.ok("DO 1")  # from now on its connection is in its settings: a lease means that the statement was sent
    client.send_query("INSERT INTO log (what) SELECT 'running' FROM (SELECT SLEEP(0.3)) s")
    proxy.wait_for_metric('mybouncer_backends{state="leased"}', 1)


def _in_a_transaction(client: Raw, holder: Raw, proxy: Proxy) -> None:
    client.ok("BEGIN")
    client.ok("INSERT INTO log (what) VALUES ('transaction')")


def _while_pinned(client: Raw, holder: Raw, proxy: Proxy) -> None:
    client.ok("SELECT GET_LOCK('lives', 0)")
    client.ok("CREATE TEMPORARY TABLE tmp (i INT)")
    client.ok("SET autocommit = 0")
    client.ok("INSERT INTO log (what) VALUES ('pinned')")


def _while_opaque_and_running(client: Raw, holder: Raw, proxy: Proxy) -> None:
    client.ok('PREPARE s FROM "SELECT SLEEP(0.2)"')  # in double quotes it is not looked into
    client.send_query("EXECUTE s")
    wait_until(lambda: proxy.metrics()['mybouncer_pinned_sessions{reason="opaque"}'] == 1, 5.0, "it runs")


def _in_the_middle_of_a_result(client: Raw, holder: Raw, proxy: Proxy) -> None:
    client.ok("SET SESSION group_concat_max_len = 1024")
    ten = "(" + " UNION ALL ".join(["SELECT 1"] * 10) + ")"
    client.send_query(f"SELECT REPEAT('x', 50000) FROM {ten} a, {ten} b, {ten} c")  # 50 MB
    wait_until(lambda: proxy.metrics()["mybouncer_read_ahead_bytes"] > 0, 10.0, "the client does not read")


def _in_long_data(client: Raw, holder: Raw, proxy: Proxy) -> None:
    statement = client.prepare("INSERT INTO log (what) VALUES (?)")
    client.long_data(statement, 0, b"x" * 100_000)
    proxy.wait_for_metric('mybouncer_pinned_sessions{reason="long_data"}', 1)
    client.sock.sendall(struct.pack("<I", 90_000) + b"\x18" + struct.pack("<IH", statement.ident, 0) + b"half")


def _in_a_local_file(client: Raw, holder: Raw, proxy: Proxy) -> None:
    client.send_query("LOAD DATA LOCAL INFILE 'f' INTO TABLE log (what)")
    client.expect_answer()
    assert client.read_packet() == b"\xfbf"
    client.sock.sendall(b"\x05\0\0\x02file\n" + b"\x90\0\0\x03file")


def _in_a_command(client: Raw, holder: Raw, proxy: Proxy) -> None:
    command = b"\x03INSERT INTO log (what) VALUES ('half')"
    client.sock.sendall(struct.pack("<I", len(command)) + command[:-5])


def _in_a_large_command(client: Raw, holder: Raw, proxy: Proxy) -> None:
    command = b"\x03INSERT INTO log (what) VALUES ('large') -- " + b"x" * (2 << 20)
    client.sock.sendall(struct.pack("<I", len(command)) + command[: 3 << 19])
    wait_until(lambda: proxy.metrics()['mybouncer_backends{state="leased"}'] == 1, 5.0, "it holds a lease")


def _in_a_large_command_that_waits(client: Raw, holder: Raw, proxy: Proxy) -> None:
    holder.ok("BEGIN")
    command = b"\x03INSERT INTO log (what) VALUES ('large') -- " + b"x" * (2 << 20)
    client.sock.sendall(struct.pack("<I", len(command)) + command[:1000])
    proxy.wait_for_metric('mybouncer_clients{state="waiting"}', 1)


def _with_commands_sent_ahead(client: Raw, holder: Raw, proxy: Proxy) -> None:
    client.ok("DO 1")
    client.pipeline(
        b"\x03INSERT INTO log (what) SELECT 'ahead' FROM (SELECT SLEEP(0.2)) s",
        b"\x03INSERT INTO log (what) VALUES ('never')",
    )
    proxy.wait_for_metric('mybouncer_backends{state="leased"}', 1)


# The moment, and how often its row must be there afterwards; a direct connection behaves alike.
MOMENTS = [
    (_in_the_queue, "queue", 0),
    (_while_a_statement_runs, "running", 1),
    (_in_a_transaction, "transaction", 0),
    (_while_pinned, "pinned", 0),
    (_while_opaque_and_running, "", 0),
    (_in_the_middle_of_a_result, "", 0),
    (_in_long_data, "", 0),
    (_in_a_local_file, "file", 0),
    (_in_a_command, "half", 0),
    (_in_a_large_command, "large", 0),
    (_in_a_large_command_that_waits, "large", 0),
    (_with_commands_sent_ahead, "ahead", 1),
]


def half_close(client: Raw) -> None:
    """The client says no more, and does not read either, but is there."""
    client.sock.shutdown(socket.SHUT_WR)


# As a crashed host's connection ends, as a process's, and not at all.
ENDINGS = (Raw.vanish, Raw.close, half_close)


@pytest.mark.parametrize("moment", MOMENTS, ids=[reach.__name__.strip("_") for reach, _, _ in MOMENTS])
def test_a_client_that_vanishes_leaves_nothing(
    world: Server, shared_proxy: Start, moment: tuple[Callable[[Raw, Raw, Proxy], None], str, int]
) -> None:
    reach, row, times = moment
    proxy = shared_proxy(world, max_connections=1, listen__login_timeout="2s")
    before = settled(proxy, world)
    for end in ENDINGS:
        world.execute(f"DELETE FROM {DATABASE}.log")
        with connect(proxy) as holder, connect(proxy) as client:
            reach(client, holder, proxy)
            end(client)
            holder.query("ROLLBACK")
            assert holder.ok("SELECT IS_FREE_LOCK('lives'), @@autocommit").rows == [[b"1", b"1"]]
            assert holder.query("SELECT * FROM tmp").code == 1146
            holder.quit()
            before.comes_back()
        found = world.execute(f"SELECT what, COUNT(*) FROM {DATABASE}.log GROUP BY what")
        assert found == ([(row, times)] if times else [])


class Newcomer(Raw):
    """A client that logs in as far as it is told to."""

    def __init__(self, proxy: Proxy) -> None:
        self.sock = socket.create_connection((proxy.host, proxy.port), timeout=10)
        self._reader = PacketReader()
        self.greeting = Greeting.parse(self.read_packet())

    def ask_for_the_key(self, user: str) -> bytes:
        wanted = self.greeting.capabilities & CAPABILITIES
        self._reply(HandshakeResponse(wanted, 45, user.encode(), b"x" * 32, None, c.CACHING_SHA2_PASSWORD).encode())
        assert self.read_packet() == b"\x01\x04"
        self._reply(b"\x02")
        return self.read_packet()[1:]

    def give_password(self, user: str, password: str) -> None:
        key = load_pem_public_key(self.ask_for_the_key(user))
        assert isinstance(key, rsa.RSAPublicKey)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        self._reply(key.encrypt(auth.xor_nonce(password.encode() + b"\0", self.greeting.nonce), oaep))


@pytest.mark.parametrize("sent", [0, 3, 20, 60])
def test_a_client_that_vanishes_in_its_login_leaves_nothing(world: Server, shared_proxy: Start, sent: int) -> None:
    proxy = shared_proxy(world, max_connections=1, listen__login_timeout="2s")
    before = settled(proxy, world)
    with contextlib.ExitStack() as stack:
        for end in ENDINGS:
            for _ in range(3):
                newcomer = stack.enter_context(Newcomer(proxy))
                newcomer.sock.sendall((b"\x80\0\0\x01" + b"\x85\xa6\xff\0" + bytes(100))[:sent])
                end(newcomer)
        before.comes_back()


def test_a_client_that_vanishes_with_our_key_leaves_nothing(world: Server, shared_proxy: Start) -> None:
    proxy = shared_proxy(world, max_connections=1, listen__login_timeout="2s")
    before = settled(proxy, world)
    with contextlib.ExitStack() as stack:
        for end in ENDINGS:
            newcomer = stack.enter_context(Newcomer(proxy))
            newcomer.ask_for_the_key("app")
            end(newcomer)
        before.comes_back()


def test_a_client_that_vanishes_while_its_password_is_proven_leaves_nothing(world: Server, shared_proxy: Start) -> None:
    proxy = shared_proxy(world, max_connections=1, listen__login_timeout="2s")
    before = settled(proxy, world)
    at_rest = proxy.metrics()["mybouncer_event_loop_tasks"]
    for end in ENDINGS:
        with connect(proxy) as holder, Newcomer(proxy) as newcomer:
            holder.ok("BEGIN")
            newcomer.give_password("app", f"not the password {end.__name__}")
            wait_until(lambda: proxy.metrics()["mybouncer_event_loop_tasks"] > at_rest, 5.0, "it waits for a slot")
            end(newcomer)
            holder.ok("COMMIT")
            holder.quit()
            before.comes_back()


# --- backends that are killed ---


def kill(server: Server) -> None:
    """End every backend of our account."""
    rows = server.execute(f"SELECT id FROM information_schema.processlist WHERE user = '{ACCOUNT[0]}'")
    for (ident,) in rows:
        server.execute(f"KILL {ident}")


def test_a_backend_killed_while_idle_is_not_noticed(world: Server, shared_proxy: Start) -> None:
    proxy = shared_proxy(world, max_connections=1, listen__login_timeout="2s")
    with connect(proxy) as client:
        for _ in range(3):
            assert client.get("SELECT 1") == b"1"
            kill(world)
            proxy.wait_for_metric('mybouncer_backends{state="idle"}', 0)
        assert client.get("SELECT 1") == b"1"
        client.quit()


def test_a_backend_killed_in_a_statement_costs_this_statement_only(world: Server, shared_proxy: Start) -> None:
    proxy = shared_proxy(world, max_connections=1, listen__login_timeout="2s")
    with connect(proxy) as client, connect(proxy) as other:
        client.ok("SET time_zone = '+04:00'")
        client.send_query("SELECT SLEEP(20) FROM one")
        proxy.wait_for_metric('mybouncer_backends{state="leased"}', 1)
        running = (
            f"SELECT COUNT(*) FROM information_schema.processlist WHERE user='{ACCOUNT[0]}' AND info LIKE '%SLEEP%'"
        )
        wait_until(lambda: world.execute(running)[0][0], 5.0, "it runs")
        other.send_query("SELECT 5")
        kill(world)
        lost = client.answer()
        assert lost.error is not None
        assert (lost.error.code, lost.error.state) in ((2013, b"HY000"), (1317, b"70100"), (1927, b"70100"))
        assert other.answer().value == b"5"
        assert client.get("SELECT @@time_zone") == b"+04:00"
        client.quit()
        other.quit()


@pytest.mark.parametrize("hold", ["BEGIN", "SET @x = 0 + 1", "LOCK TABLES one READ"])
@pytest.mark.parametrize("running", [True, False], ids=["running", "idle"])
def test_a_backend_killed_in_a_transaction_ends_its_client(
    world: Server, shared_proxy: Start, hold: str, running: bool
) -> None:
    proxy = shared_proxy(world, max_connections=1, listen__login_timeout="2s")
    with connect(proxy) as client, connect(proxy) as other:
        client.ok(hold)
        if running:
            client.send_query("SELECT SLEEP(20) FROM one")
            sleeping = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP(20) FROM one'"
            wait_until(lambda: world.execute(sleeping)[0][0], 5.0, "it runs")
        kill(world)
        if running:
            error = client.answer().error
            assert error is not None
            assert error.code in (2013, 1317, 1927)
        assert client.has_answer(5.0)
        assert client.at_end()
        assert other.get("SELECT @x") is None
        other.quit()


# --- servers that stop ---


def own(own_server: Callable[..., Server], flavour: str) -> Server:
    server = own_server(flavour)
    server.execute(*SCHEMA)
    return server


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_server_may_be_down_come_up_and_restart(
    own_server: Callable[..., Server], proxy: Start, flavour: str
) -> None:
    server = own(own_server, flavour)
    server.stop()
    hasty = proxy(server, max_connections=2, queue__timeout_down="300ms")
    patient = proxy(server, max_connections=2, queue__timeout_down="60s", queue__timeout="60s")

    # Down at the start: who logs in is held, then told.
    with pytest.raises(ServerError) as refused:
        connect(hasty)
    assert refused.value.err.code == 2003
    assert f"Can't connect to MySQL server on '127.0.0.1:{server.port}'".encode() in refused.value.err.message
    early = socket.create_connection((patient.host, patient.port), timeout=60)
    wait_until(lambda: patient.metrics()["mybouncer_client_connections_total"] == 1, 5.0, "the client is held")
    server.start()
    assert early.recv(4096)[4] == 10, "no greeting"
    early.close()
    before = settled(patient, server)
    wait_until(lambda: "server seen" in hasty.log(), 10.0, "it is seen")

    # Stopped: transactions end, what is asked outside them waits, or is told.
    bystander = connect(hasty)
    bystander.ok("SET time_zone = '+01:00'")
    clients = [connect(patient, timeout=60.0) for _ in range(6)]
    for client in clients:
        client.ok("INSERT INTO log (what) VALUES ('before')")
    in_transaction = clients.pop()
    in_transaction.ok("BEGIN")
    in_transaction.ok("INSERT INTO log (what) VALUES ('lost')")
    server.stop()
    assert in_transaction.has_answer(10.0)
    assert in_transaction.at_end()
    down = bystander.query("SELECT 1")
    assert down.error is not None
    assert (down.error.code, down.error.state) == (2003, b"HY000")
    assert f"Can't connect to MySQL server on '127.0.0.1:{server.port}'".encode() in down.error.message
    for client in clients:
        client.send_query("INSERT INTO log (what) VALUES ('after')")
    patient.wait_for_metric('mybouncer_clients{state="waiting"}', 5)
    server.start()
    for client in clients:
        answer = client.answer()
        assert answer.error is None, answer
    assert server.execute(f"SELECT what, COUNT(*) FROM {DATABASE}.log GROUP BY what ORDER BY what") == [
        ("after", 5),
        ("before", 6),
    ]
    for client in clients:
        client.quit()
    wait_until(lambda: bystander.query("SELECT 1").error is None, 10.0, "it recovers by itself")
    assert bystander.get("SELECT @@time_zone") == b"+01:00"
    bystander.quit()
    hasty.stop()
    before.comes_back()


def test_nobody_listens(proxy: Start) -> None:
    pooler = proxy(f"mysql://127.0.0.1:{free_port()}", max_connections=2, queue__timeout_down="200ms")
    with pytest.raises(ServerError) as refused:
        connect(pooler)
    assert refused.value.err.code == 2003
