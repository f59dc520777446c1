"""KILL with the connection ids that clients know, and slots that outlive their sockets."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from proxy.wire import constants as c
from tests.clients.clients import Account, Target, cli_command
from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.servers import Server, wait_until

ACCOUNT, STRANGER, CUT = (("victims", "victims-secret"), ("stranger", "stranger-secret"), ("cut", "cut-secret"))
CHIEF = ("chief", "chief-secret")
DATABASE = "victims"

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def world(server: Server) -> Iterator[Server]:
    """The server, with two accounts and a table that SLEEP() can be interrupted in."""
    accounts = [
        statement
        for user, password in (ACCOUNT, STRANGER, CUT, CHIEF)
        for statement in (
            f"CREATE USER {user}@'%' IDENTIFIED BY '{password}'",
            f"GRANT ALL ON {DATABASE}.* TO {user}@'%'",
        )
    ]
    server.execute(f"CREATE DATABASE {DATABASE}", *accounts, f"CREATE TABLE {DATABASE}.one (id INT PRIMARY KEY)")
    server.execute(f"INSERT INTO {DATABASE}.one VALUES (1)")
    may = "CONNECTION ADMIN, PROCESS" if server.flavour == "mariadb" else "CONNECTION_ADMIN, PROCESS"
    server.execute(f"GRANT {may} ON *.* TO {CHIEF[0]}@'%'")
    yield server
    names = ", ".join(f"{user}@'%'" for user, _ in (ACCOUNT, STRANGER, CUT, CHIEF))
    server.execute(f"DROP DATABASE {DATABASE}", f"DROP USER {names}")


@pytest.fixture
def pooler(world: Server, shared_proxy: Start) -> Proxy:
    """A pooler with a single connection."""
    return shared_proxy(world, max_connections=1)


def connect(proxy: Proxy, account: tuple[str, str] = ACCOUNT) -> Raw:
    return Raw(proxy, *account, DATABASE, timeout=30.0)


def connections(server: Server, user: str) -> int:
    found = server.execute(f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{user}'")
    return int(found[0][0])


def sleep(server: Server, client: Raw, seconds: int = 20) -> None:
    """Let the client's statement run."""
    client.send_query(f"SELECT SLEEP({seconds}) FROM one")
    running = f"SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP({seconds}) FROM one'"
    wait_until(lambda: server.execute(running)[0][0], 5.0, "it runs")


def test_a_statement_is_killed_by_the_id_of_its_connection(world: Server, pooler: Proxy) -> None:
    with connect(pooler) as victim, connect(pooler) as killer:
        sleep(world, victim)
        killer.ok(f"KILL QUERY {victim.ident}")
        answer = victim.answer()
        assert answer.error is not None
        assert (answer.error.code, answer.error.state) == (1317, b"70100")
        assert victim.get("SELECT 1") == b"1"
        victim.quit()
        killer.quit()


@pytest.mark.parametrize("by", ["text", "command"])
@pytest.mark.parametrize("state", ["idle", "running", "transaction", "pinned", "waiting"])
def test_a_connection_is_killed_by_its_id(world: Server, pooler: Proxy, state: str, by: str) -> None:
    with connect(pooler) as victim, connect(pooler) as killer, connect(pooler) as blocker:
        if state == "running":
            sleep(world, victim)
        elif state == "transaction":
            victim.ok("BEGIN")
        elif state == "pinned":
            victim.ok("SET @x = 0 + 1")
        elif state == "waiting":
            blocker.ok("BEGIN")
            victim.send_query("SELECT 1")
            pooler.wait_for_metric('mybouncer_clients{state="waiting"}', 1)
        if by == "text":
            killer.ok(f"KILL {victim.ident}")
        else:
            (answer,) = killer.command(bytes((c.COM_PROCESS_KILL,)) + victim.ident.to_bytes(4, "little"))
            assert answer.error is None
        if state == "running" and victim.has_answer(5.0):
            with contextlib.suppress(AssertionError, ConnectionError, EOFError):
                victim.answer()
        assert victim.at_end()
        blocker.quit()
        assert killer.get("SELECT @x") is None
        killer.quit()


def test_nobody_kills_the_clients_of_others(world: Server, pooler: Proxy) -> None:
    with connect(pooler) as victim, connect(pooler, STRANGER) as killer:
        for running in (False, True):
            if running:
                sleep(world, victim, 2)
            refused = killer.query(f"KILL {victim.ident}").error
            assert refused is not None
            assert (refused.code, refused.message) == (1095, b"You are not owner of thread %d" % victim.ident)
        assert victim.answer().error is None
        unknown = killer.query("KILL 4294967290").error
        assert unknown is not None and unknown.code == 1094
        victim.quit()
        killer.quit()


@pytest.mark.parametrize("running", [False, True])
def test_who_may_kill_everybody_on_the_server_may_here(world: Server, pooler: Proxy, running: bool) -> None:
    with connect(pooler) as victim, connect(pooler, CHIEF) as killer:
        if running:
            sleep(world, victim)
        killer.ok(f"KILL {victim.ident}")
        wait_until(victim.at_end, 5.0, "it is closed")
        killer.quit()


def test_ctrl_c_in_the_command_line_interrupts_its_own_statement(world: Server, pooler: Proxy, server: Server) -> None:
    target, account = Target(pooler.port), Account(*ACCOUNT, DATABASE)
    argv, environment = cli_command(server.flavour, target, account)
    argv += ["--force", "--batch", "--skip-column-names"]
    script = "SELECT SLEEP(21) FROM one"
    process = subprocess.Popen(
        [*argv, f"--execute={script}"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    running = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP(21) FROM one'"
    wait_until(lambda: world.execute(running)[0][0], 10.0, "it runs")
    process.send_signal(signal.SIGINT)
    output, complaint = process.communicate(timeout=15)
    assert "ERROR 1317 (70100)" in complaint, output


@pytest.mark.parametrize("how", ["finish", "kill"])
def test_the_statement_of_a_client_that_is_lost_ends_as_configured(world: Server, proxy: Start, how: str) -> None:
    pooler = proxy(world, max_connections=1, session__on_client_lost=how)
    with connect(pooler) as other:
        with connect(pooler) as lost:
            sleep(world, lost, 22)
        begun = time.monotonic()
        if how == "finish":
            other.send_query("SELECT 5")
            assert not other.has_answer(1.0)
            world.execute(*(f"KILL QUERY {ident}" for ident in _threads(world)))
            assert other.answer().value == b"5"
        else:
            assert other.get("SELECT 5") == b"5"
            assert time.monotonic() - begun < 10.0
        other.quit()


def _threads(server: Server) -> list[int]:
    found = server.execute("SELECT id FROM information_schema.processlist WHERE info LIKE '%SLEEP(22) FROM one'")
    return [row[0] for row in found]


def test_racing_kills_never_hit_another_client(world: Server, pooler: Proxy) -> None:
    """A cap of one: every statement of everybody runs on the backend that is being killed."""
    begun = time.monotonic()
    wrong: list[str] = []
    done = [0, 0]

    def go_on() -> bool:
        return done[1] < 10_000 and time.monotonic() - begun < 180.0

    def innocent() -> None:
        with connect(pooler) as client:
            while go_on():
                answer = client.query("SELECT id FROM one")
                done[0] += 1
                if answer.error is not None:
                    wrong.append(str(answer.error))
            client.quit()

    def kills(ident: int) -> None:
        with connect(pooler) as client:
            while go_on():
                client.ok(f"KILL QUERY {ident}")
                done[1] += 1
            client.quit()

    with connect(pooler) as victim:
        threads = [threading.Thread(target=innocent) for _ in range(3)]
        threads += [threading.Thread(target=kills, args=(victim.ident,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        while go_on():
            answer = victim.query(f"SELECT SLEEP({random.choice((0, 0.0005, 0.002))}) FROM one")
            assert answer.error is None or answer.error.code == 1317
        for thread in threads:
            thread.join()
        victim.quit()
    assert not wrong
    assert done[0] > 100 and done[1] >= 10_000


# --- slots ---


class Cutter:
    """A relay to the server that can cut our side with a reset while the server's side stays open."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"mysql://127.0.0.1:{self._listening.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._server.port))
                self._pairs.append((near, far))
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            if not self._cut:
                target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Reset every connection on our side; the server notices nothing."""
        self._cut = True
        for near, _ in self._pairs:
            if near.fileno() < 0:
                continue
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # shutdown first: a thread that reads keeps the socket alive behind close()
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RD)
            near.close()

    def close(self) -> None:
        self._listening.close()
        for pair in self._pairs:
            for sock in pair:
                sock.close()


def test_a_statement_behind_a_broken_connection_keeps_its_slot_until_it_is_killed(world: Server, proxy: Start) -> None:
    cutter = Cutter(world)
    try:
        pooler = proxy(cutter.url, max_connections=1)
        with connect(pooler, CUT) as client, connect(pooler, CUT) as other:
            sleep(world, client, 22)
            other.send_query("SELECT 5")
            cutter.cut()
            error = client.answer().error
            assert error is not None and error.code == 2013
            most = 0
            while not other.has_answer(0.005):
                most = max(most, connections(world, CUT[0]))
            assert other.answer().value == b"5"
            assert most <= 2  # the statement that is being killed, and the control connection
            wait_until(lambda: connections(world, CUT[0]) <= 1, 5.0, "only the new one is left")
            client.quit()
            other.quit()
    finally:
        cutter.close()


# --- the id ---


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("sql", ["SELECT CONNECTION_ID()", "select connection_id() as `me`;"])
def test_a_client_is_told_the_id_it_can_be_killed_by(world: Server, pooler: Proxy, sql: str, binary: bool) -> None:
    answers = []
    for target in (world, pooler):
        with Raw(target, *ACCOUNT, DATABASE) as client:
            answer = client.execute(client.prepare(sql)) if binary else client.query(sql)
            assert int(answer.value or 0) % (1 << 32) == client.ident  # MariaDB sends four bytes
            answers.append((answer.columns, answer.status))
            client.quit()
    assert answers[0] == answers[1]
    with connect(pooler) as client, connect(pooler) as killer:
        ident = client.get("SELECT CONNECTION_ID()")
        killer.ok(f"KILL {int(ident or 0)}")
        assert client.at_end()
        killer.quit()
