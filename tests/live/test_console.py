"""The console of a running pooler: who can come in, with which clients, what it shows, and the command for people."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest

from proxy import __version__
from proxy.address import Address
from proxy.config import load
from proxy.ops.console import place
from proxy.ops.console.connection import find
from tests.clients.clients import LOGINS, Account, Refused, Target
from tests.conftest import ROOT, Proxy
from tests.live.desk import PASSWORD, Desk
from tests.live.raw import Raw
from tests.servers import Server, free_port, wait_until

Start = Callable[..., Proxy]


def port_of(desk: Desk) -> int:
    """The port of the console: it is in its own configuration."""
    values = {row["key"]: row["value"] for row in desk.ask("SHOW CONFIG")}
    return int(values["console.address"].rpartition(":")[2])


def as_nobody(work: Callable[[], bytes]) -> bytes:
    """What `work` gives in a process of another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, work())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as result:
        told = result.read()
    os.waitpid(child, 0)
    return told


def first_words(path: str) -> bytes:
    """What the console says to whoever connects."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(path)
        return raw.recv(200)


# --- who can come in, and with what ---


@pytest.mark.parametrize("client", LOGINS)
def test_every_client_works_on_the_socket(at_mariadb: tuple[Proxy, Desk], client: str) -> None:
    _, desk = at_mariadb
    target, who = Target(0, desk.path), Account("anybody", "", "")
    rows = LOGINS[client](target, who, "SHOW VERSION")
    assert rows[0][0] == __version__
    assert ("SHOW POOLS",) in [row[:1] for row in LOGINS[client](target, who, "SHOW HELP")]
    with pytest.raises(Exception, match=r"is no command") as caught:  # each has an exception of its own for it
        LOGINS[client](target, who, "SHOW NONSENSE")
    assert "1064" in str(caught.value)


@pytest.mark.parametrize("client", LOGINS)
def test_every_client_works_on_the_port_with_the_password(at_mariadb: tuple[Proxy, Desk], client: str) -> None:
    target = Target(port_of(at_mariadb[1]))
    assert LOGINS[client](target, Account("anybody", PASSWORD, "some"), "SELECT DATABASE()") == [("some",)]


@pytest.mark.parametrize("password", ["", "correct hors", "Correct Horse"])
def test_nobody_comes_in_on_the_port_without_it(at_mariadb: tuple[Proxy, Desk], password: str) -> None:
    with pytest.raises(Refused, match="wrong password") as caught:
        LOGINS["pymysql"](Target(port_of(at_mariadb[1])), Account("anybody", password, ""), "SHOW VERSION")
    assert caught.value.code == 1045


def test_the_password_can_be_in_a_file(own_desk: Callable[..., tuple[Proxy, Desk]], tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("from a file\n")
    port = free_port()
    own_desk(console__address=f"127.0.0.1:{port}", console__password_file=str(path))
    assert LOGINS["pymysql"](Target(port), Account("x", "from a file", ""), "SELECT 1") == [("1",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root")
def test_another_user_is_refused_even_where_the_file_lets_him(at_mariadb: tuple[Proxy, Desk]) -> None:
    _, desk = at_mariadb
    for path, mode in ((Path(desk.path), 0o777), (Path(desk.path).parent, 0o755)):
        path.chmod(mode)
    try:
        told = as_nobody(lambda: first_words(desk.path))
    finally:
        Path(desk.path).chmod(0o600)
    assert b"not for uid 65534" in told


def test_the_socket_is_closed_to_others_and_goes_with_the_process(own_desk: Callable[..., tuple[Proxy, Desk]]) -> None:
    pooler, desk = own_desk()
    assert os.stat(desk.path).st_mode & 0o777 == 0o600
    assert pooler.stop() == 0
    assert not os.path.exists(desk.path)


def test_a_socket_that_cannot_be_had_is_a_failure_and_an_automatic_one_is_not(
    proxy: Start, mariadb: Server, tmp_path: Path
) -> None:
    pooler = proxy(mariadb, console__socket=str(tmp_path / "not" / "there"), wait=False)
    assert pooler.wait() == 1
    assert "for the console" in pooler.log()
    nowhere = {name: str(tmp_path / "not" / "there") for name in ("XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY", "TMPDIR")}
    if os.geteuid() != 0:  # root can have /run/mybouncer
        assert "no console" in proxy(mariadb, console__socket="auto", env=nowhere).log()


def test_what_is_malformed_is_refused_and_nobody_else_notices(at_mariadb: tuple[Proxy, Desk]) -> None:
    _, desk = at_mariadb
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\x01", b"\x01\x00\x00\x01\x00", b"\x00" * 200, b""):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(desk.path)
            raw.settimeout(10)
            raw.sendall(nonsense)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
    assert desk.one("SELECT 1 AS one") == {"one": 1}


# --- what is shown ---


def test_who_has_the_connections_and_who_waits_is_shown(desk: tuple[Proxy, Desk]) -> None:
    pooler, at = desk
    holder, pinned = Raw(pooler, database="test"), Raw(pooler, database="test")
    holder.ok("START TRANSACTION")
    pinned.ok("SET @x = 0 + 1")
    waiting = [Raw(pooler, database="test") for _ in range(2)]
    for number, client in enumerate(waiting, 1):
        client.send_query("SELECT 7")
        wait_until(lambda number=number: at.stats()["queue_waiting"] == number, 10, "it waits")

    clients = {row["id"]: row for row in at.ask("SHOW CLIENTS")}
    states = [clients[one.greeting.thread_id]["state"] for one in (holder, pinned, *waiting)]
    assert states == ["transaction", "pinned", "waiting", "waiting"]
    assert clients[pinned.greeting.thread_id]["pins"] == "user_variable"
    assert clients[holder.greeting.thread_id]["schema"] == "test"
    assert at.ask("SHOW CLIENTS LIMIT 2") == list(clients.values())[:2] or len(at.ask("SHOW CLIENTS LIMIT 2")) == 2

    backends = {row["client"]: row for row in at.ask("SHOW BACKENDS")}
    assert backends[holder.greeting.thread_id]["doing"] == "idle in transaction"
    assert backends[pinned.greeting.thread_id]["doing"] == "pinned"
    assert backends[holder.greeting.thread_id]["id"] == clients[holder.greeting.thread_id]["backend"]

    queue = at.ask("SHOW QUEUE")
    assert [(row["place"], row["client"]) for row in queue] == [
        (n, w.greeting.thread_id) for n, w in enumerate(waiting, 1)
    ]
    assert all(row["statement"] == "select" and 0 < row["left"] <= 30 for row in queue)

    (pin,) = [row for row in at.ask("SHOW PINS") if row["reason"] == "user_variable"]
    assert pin["sessions"] == 1 and "@x" in pin["meaning"]
    (pool,) = at.ask("SHOW POOLS")
    assert (pool["account"], pool["leased"], pool["waiting"]) == ("app", 2, 2)
    (account,) = at.ask("SHOW ACCOUNTS")
    assert (account["account"], account["clients"], account["waiting"], account["leased"]) == ("app", 4, 2, 2)
    stats = at.stats()
    assert (stats["backends"], stats["backends_max"], stats["clients_waiting"], stats["clients_pinned"]) == (2, 2, 2, 1)

    last = at.about(waiting[1].greeting.thread_id)
    assert (last["queue_place"], last["account_place"]) == ("2", "2")
    assert "1 idle in transaction, 1 pinned (user variable)" in last["why"]
    assert "has set a user variable" in at.about(pinned.greeting.thread_id)["pin"]
    assert "its transaction is open" in at.about(f"{holder.greeting.thread_id:#x}")["why"]

    holder.ok("COMMIT")
    assert [client.answer().value for client in waiting] == [b"7", b"7"]
    assert "between statements" in at.about(holder.greeting.thread_id)["why"]
    for client in (holder, pinned, *waiting):
        client.quit()
    wait_until(lambda: at.stats()["clients"] == 0, 10, "they have left")


def test_what_statements_cost_is_shown_by_their_digests(own_desk: Callable[..., tuple[Proxy, Desk]]) -> None:
    pooler, desk = own_desk(max_connections=1)
    client, other = Raw(pooler, database="test"), Raw(pooler, database="test")
    for number in range(3):
        client.query(f"SELECT {number} FROM (SELECT 'secret' AS v UNION SELECT 'b') AS t")
    assert client.query("SELECT nothing").code == 1054
    client.ok("START TRANSACTION")
    client.query("SELECT SLEEP(0.2)")
    other.send_query("DO 3")

    def lease() -> float:
        """Up to now: the transaction is idle."""
        return float(next(row["lease"] for row in desk.ask("SHOW STATEMENTS") if row["statement"] == "SELECT SLEEP(?)"))

    wait_until(lambda: lease() >= 0.7, 10, "the transaction was idle for a while")
    client.ok("COMMIT")
    other.answer()
    found = {row["statement"]: row for row in desk.ask("SHOW STATEMENTS")}
    first = found["SELECT ? FROM (SELECT ? AS v UNION SELECT ?) AS t"]
    assert (first["count"], first["rows"], first["errors"], first["wait"]) == (3, 6, 0, 0)
    assert (found["SELECT nothing"]["count"], found["SELECT nothing"]["errors"]) == (1, 1)
    sleep = found["SELECT SLEEP(?)"]
    assert 0.2 <= sleep["seconds"] < 0.4 and 0.5 <= sleep["lease"] < 5
    assert next(iter(found)) == "SELECT SLEEP(?)"
    assert found["DO ?"]["wait"] >= 0.3
    assert found["COMMIT"]["lease"] < 0.2
    desk.do("SET console.statements = 0")
    assert not desk.ask("SHOW STATEMENTS")
    client.quit()
    other.quit()


def test_the_configuration_is_shown_without_its_secrets(at_mariadb: tuple[Proxy, Desk]) -> None:
    _, desk = at_mariadb
    shown = {row["key"]: row for row in desk.ask("SHOW CONFIG")}
    assert shown["console.password"]["value"] == "***"
    assert (shown["queue.timeout"]["value"], shown["queue.timeout"]["live"]) == ("30s", "yes")
    assert (shown["backend.url"]["live"], shown["pool.max_connections"]["default"]) == ("no", "auto")
    assert PASSWORD not in str(shown)


def test_the_program_a_client_names_cannot_write_to_the_terminal(at_mariadb: tuple[Proxy, Desk]) -> None:
    pooler, desk = at_mariadb
    with contextlib.closing(
        pymysql.connect(
            host=pooler.host, port=pooler.port, user="app", password="app-secret", program_name="\x1b[2Jgone"
        )
    ):
        assert any(r"`\x1b[2Jgone`" in row["program"] for row in desk.ask("SHOW CLIENTS"))


@pytest.mark.parametrize(
    "text", ["SHOW CLIENT 3", "SHOW CLIENT me", "KILL CLIENT 0", "KILL BACKEND x", "KILL BACKEND 0"]
)
def test_an_id_that_nobody_has_is_told_by_its_name(at_mariadb: tuple[Proxy, Desk], text: str) -> None:
    _, words = at_mariadb[1].error(text)
    assert text.rpartition(" ")[2] in words and "column id" in words


# --- the command ---


def run_console(*arguments: str, env: dict[str, str] | None = None, said: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MYBOUNCER_")}
    argv = [sys.executable, "-m", "proxy", "console", *arguments]
    return subprocess.run(
        argv,
        cwd=ROOT,
        env=environment | (env or {}),
        input=said,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_command_prints_tables(at_mariadb: tuple[Proxy, Desk]) -> None:
    where = f"unix:{at_mariadb[1].path}"
    done = run_console("--connect", where, "-e", "SHOW CONFIG; SHOW PINS; RESUME")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["key", "value", "default", "live"]
    assert ["queue.timeout", "30s", "30s", "yes"] in [line.split() for line in lines]
    assert lines[-1] == "not paused"
    assert run_console("--connect", where, said="SHOW CONFIG;\nSHOW PINS;\nRESUME\n").stdout == done.stdout


def test_the_command_prints_json(at_mariadb: tuple[Proxy, Desk]) -> None:
    done = run_console("--connect", f"unix:{at_mariadb[1].path}", "--json", "-e", "SHOW VERSION; RESUME; SHOW STATS")
    version, resumed, stats = map(json.loads, done.stdout.splitlines())
    assert version[0]["version"] == __version__ and isinstance(version[0]["pid"], int)
    assert resumed == {"ok": "not paused"}
    assert {"name": "paused", "value": 0, "meaning": "1 after PAUSE."} in stats


def test_the_command_says_what_was_wrong_and_stops_there(at_mariadb: tuple[Proxy, Desk]) -> None:
    done = run_console("--connect", f"unix:{at_mariadb[1].path}", "-e", "SHOW NONSENSE; SHOW PINS")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ERROR 1064 (42000): 'SHOW NONSENSE' is no command")


def test_the_command_uses_the_port_with_the_password_of_the_configuration(at_mariadb: tuple[Proxy, Desk]) -> None:
    where = f"127.0.0.1:{port_of(at_mariadb[1])}"
    right = run_console("--connect", where, "-e", "SHOW PINS", env={"MYBOUNCER_CONSOLE__PASSWORD": PASSWORD})
    assert right.returncode == 0, right.stderr
    wrong = run_console("--connect", where, "-e", "SHOW PINS", env={"MYBOUNCER_CONSOLE__PASSWORD": "long but wrong"})
    assert wrong.returncode == 1 and "wrong password" in wrong.stderr and "Traceback" not in wrong.stderr


def test_the_command_finds_the_socket_by_itself(
    proxy: Start, mariadb: Server, console_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"RUNTIME_DIRECTORY": str(console_directory), "XDG_RUNTIME_DIR": str(console_directory / "other")}
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(console_directory / "console-1.sock"))
    first = proxy(mariadb, console__socket="auto", env=env)
    path = console_directory / f"console-{first.port}.sock"
    with monkeypatch.context() as only_here:  # others may run on this machine
        only_here.setattr(place, "directories", lambda: [console_directory])
        assert find(load(None, {})) == Address(unix_path=str(path))
    second = proxy(mariadb, console__socket="auto", env=env)
    unclear = run_console("-e", "SHOW PINS", env=env)
    assert unclear.returncode == 1 and "say which with --connect" in unclear.stderr
    assert str(path) in unclear.stderr and "console-1.sock" not in unclear.stderr
    named = run_console("-e", "SHOW CONFIG", env=env | {"MYBOUNCER_LISTEN__ADDRESSES": f"127.0.0.1:{second.port}"})
    assert f"127.0.0.1:{second.port}" in named.stdout


@pytest.mark.parametrize(
    ("where", "code", "words"),
    [
        ("unix:/not/there", 1, "No such file"),
        ("nonsense", 2, "allowed: unix:/path or host:port"),
        ("127.0.0.1:1", 1, "refused"),
    ],
)
def test_a_console_that_is_not_there_is_one_line(where: str, code: int, words: str) -> None:
    done = run_console("--connect", where, "-e", "SHOW PINS")
    assert done.returncode == code
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
