"""Ends: clients that vanish anywhere, backends that are killed, servers that stop and come back.

Whatever ends, the slots come back, nothing is leaked, and no statement is executed twice.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Proxy
from tests.live.raw import Raw, ServerError
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


def descriptors(proxy: Proxy) -> int:
    return len(os.listdir(f"/proc/{proxy.pid}/fd"))


def states(proxy: Proxy) -> dict[str, float]:
    now = proxy.metrics()
    return {
        state: now[f'mybouncer_backends{{state="{state}"}}']
        for state in ("idle", "leased", "opening", "resetting", "closing")
    }


def nothing_is_left(proxy: Proxy, server: Server, cap: int, fds: int) -> None:
    """No client, no lease, nothing read ahead, no connection too many and no descriptor that was not there before."""

    def settled() -> bool:
        now = proxy.metrics()
        clients = sum(value for name, value in now.items() if name.startswith("mybouncer_clients{"))
        at_rest = states(proxy)
        idle = at_rest.pop("idle")
        return not clients and not now["mybouncer_read_ahead_bytes"] and not any(at_rest.values()) and idle <= cap

    wait_until(settled, 10.0, f"nothing left: {proxy!r}")
    at_rest = states(proxy)
    on_server = f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{ACCOUNT[0]}'"
    wait_until(lambda: server.execute(on_server)[0][0] == at_rest["idle"], 5.0, "the server counts as many as we")
    # A backend more or less is no leak: count the others.
    wait_until(lambda: descriptors(proxy) - int(states(proxy)["idle"]) <= fds, 5.0, "no descriptor is leaked")


def baseline(proxy: Proxy) -> int:
    """Descriptors without clients and backends, after everything that is made once has been made."""
    with connect(proxy) as client:
        client.ok("SELECT 1")
        client.quit()
    proxy.wait_for_metric('mybouncer_clients{state="idle"}', 0)
    return descriptors(proxy) - int(states(proxy)["idle"])


# --- clients that vanish ---


def _in_the_queue(client: Raw, holder: Raw, proxy: Proxy) -> None:
    holder.ok("BEGIN")
    client.send_query("INSERT INTO log (what) VALUES ('queue')")
    proxy.wait_for_metric('mybouncer_clients{state="waiting"}', 1)


def _while_a_statement_runs(client: Raw, holder: Raw, proxy: Proxy) -> None:
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
    client.ok("PREPARE s FROM 'SELECT SLEEP(0.2)'")
    client.send_query("EXECUTE s")
    wait_until(lambda: proxy.metrics()['mybouncer_pinned_sessions{reason="opaque"}'] == 1, 5.0, "it runs")


def _in_the_middle_of_a_result(client: Raw, holder: Raw, proxy: Proxy) -> None:
    client.ok("SET SESSION group_concat_max_len = 1024")
    ten = "(" + " UNION ALL ".join(["SELECT 1"] * 10) + ")"
    client.send_query(f"SELECT REPEAT('x', 20000) FROM {ten} a, {ten} b, {ten} c, {ten} d")  # 200 MB
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


# Most of them with RST, as a crashed host's connection ends; a FIN arrives in another way.
ENDINGS = [(moment, "rst") for moment in MOMENTS] + [(moment, "fin") for moment in MOMENTS[1:6]]


@pytest.mark.parametrize(
    ("moment", "ending"), ENDINGS, ids=[f"{moment[0].__name__.strip('_')}-{ending}" for moment, ending in ENDINGS]
)
def test_a_client_that_vanishes_leaves_nothing(
    world: Server,
    shared_proxy: Start,
    moment: tuple[Callable[[Raw, Raw, Proxy], None], str, int],
    ending: str,
) -> None:
    reach, row, times = moment
    proxy = shared_proxy(world, max_connections=1, listen__login_timeout="2s")
    fds = baseline(proxy)
    world.execute(f"DELETE FROM {DATABASE}.log")
    with connect(proxy) as holder, connect(proxy) as client:
        reach(client, holder, proxy)
        if ending == "rst":
            client.vanish()
        else:
            client.close()
        holder.query("ROLLBACK")
        assert holder.ok("SELECT IS_FREE_LOCK('lives'), @@autocommit").rows == [[b"1", b"1"]]
        assert holder.query("SELECT * FROM tmp").code == 1146
        holder.quit()
    nothing_is_left(proxy, world, 1, fds)
    found = world.execute(f"SELECT what, COUNT(*) FROM {DATABASE}.log GROUP BY what")
    assert found == ([(row, times)] if times else [])


@pytest.mark.parametrize("sent", [0, 3, 60])
def test_a_client_that_vanishes_in_its_login_leaves_nothing(world: Server, shared_proxy: Start, sent: int) -> None:
    proxy = shared_proxy(world, max_connections=1, listen__login_timeout="2s")
    fds = baseline(proxy)
    probe = Raw.__new__(Raw)
    for _ in range(5):
        probe.sock = socket.create_connection((proxy.host, proxy.port), timeout=10)
        assert probe.sock.recv(4096)
        probe.sock.sendall((b"\x80\0\0\x01" + b"\x85\xa6\xff\0" + bytes(100))[:sent])
        probe.vanish()
    with connect(proxy) as client:
        assert client.get("SELECT 1") == b"1"
        client.quit()
    nothing_is_left(proxy, world, 1, fds)


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


@pytest.mark.parametrize("hold", ["BEGIN", "SET @x = 1", "LOCK TABLES one READ"])
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
    fds = baseline(patient)
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
    nothing_is_left(patient, server, 2, fds)
    _restart_under_load(server, patient)
    nothing_is_left(patient, server, 2, fds)


def _restart_under_load(server: Server, pooler: Proxy) -> None:
    """Every client goes on by itself, and what was answered with OK is there exactly once."""
    done = [0, 0, 0]
    errors: list[int] = []
    stop = threading.Event()

    def work(number: int) -> None:
        client = connect(pooler, timeout=60.0)
        while not stop.is_set():
            result = client.query(f"INSERT INTO log (what, n) VALUES ('load', {number})")
            if result.error is None:
                done[number] += 1
            else:
                errors.append(result.error.code)
        client.quit()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: min(done) > 20, 10.0, "work goes on")
        server.restart()
        before = list(done)
        wait_until(lambda: all(now > then + 20 for now, then in zip(done, before, strict=True)), 60.0, "it goes on")
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert set(errors) <= {2013, 1053, 1317, 1927}, errors
    assert len(errors) <= 3, "each client may lose one statement"
    rows = dict(server.execute(f"SELECT n, COUNT(*) FROM {DATABASE}.log WHERE what = 'load' GROUP BY n"))
    for number in range(3):
        assert done[number] <= rows[number] <= done[number] + 1, "done once, or unknown once"


def test_nobody_listens(proxy: Start) -> None:
    pooler = proxy(f"mysql://127.0.0.1:{free_port()}", max_connections=2, queue__timeout_down="200ms")
    with pytest.raises(ServerError) as refused:
        connect(pooler)
    assert refused.value.err.code == 2003
