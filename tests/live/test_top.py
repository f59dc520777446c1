"""`mybouncer top` in a terminal, before a real server: what a person sees and does there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pymysql
import pytest

from tests.conftest import ROOT, Proxy
from tests.live.desk import Desk
from tests.live.raw import Raw
from tests.live.tmux import Tmux
from tests.servers import Server, wait_until

Own = Callable[..., tuple[Proxy, Desk]]
LIMITS = {"holders__idle_in_transaction": "1s", "holders__pinned_idle": "1s"}


def top(path: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "proxy", "top", "--connect", f"unix:{path}", "--interval", "300ms", *arguments]


@pytest.fixture
def terminal() -> Iterator[Tmux]:
    with Tmux() as made:
        yield made


@contextlib.contextmanager
def named(pooler: Proxy, program: str) -> Iterator[pymysql.connections.Connection]:
    """A client that says what it is."""
    client = pymysql.connect(
        host=pooler.host,
        port=pooler.port,
        user="app",
        password="app-secret",
        database="test",
        autocommit=True,
        program_name=program,
    )
    with contextlib.closing(client):
        yield client


def restored(terminal: Tmux, modes: str) -> None:
    """The terminal is as it was: the main screen, with a cursor, and the modes of before."""
    assert (terminal.on("alternate_on"), terminal.on("cursor_flag")) == ("0", "1")
    assert modes_of(terminal) == modes


def modes_of(terminal: Tmux) -> str:
    """The modes that a program gets; the shell has its own while a line is typed."""
    terminal.type("clear; stty -g; echo modes-told")
    terminal.keys("Enter")
    seen = terminal.wait_for(r"^modes-told")
    return next(line for line in seen.splitlines() if line.count(":") > 10)


def test_a_leak_is_named_and_ended(own_desk: Own, terminal: Tmux) -> None:
    pooler, desk = own_desk(max_connections=2, **LIMITS)
    modes = modes_of(terminal)
    with named(pooler, "shop[red]\x1b[2J") as leaking, named(pooler, "report") as pinning, named(pooler, "web") as web:
        leaking.begin()
        leaking.query("SELECT 1")
        pinning.query("SET @x = 0 + 1")
        web._execute_command(3, "SELECT 7")
        terminal.start(top(desk.path))
        seen = terminal.wait_for(r"^ LEAK .* 2 of 2 connections are kept: 1 idle in transaction, 1 pinned and idle;$")
        assert "1 wait" in seen
        seen = terminal.wait_for(r"neither committed nor rolled")
        for words in (
            "2 leased of 2",
            "1 waiting, oldest",
            "1 idle in transaction · 1 pinned",
            "3: 1 waiting · 1 in transaction · 1 pinned",
            "statements/s",
            r"`shop[red]\x1b[2J`",
            "HOLDERS 2",
            "LEASES 2",
            "WAITS 1",
            "ACCOUNTS 1",
            "PINS 1",
            "user variable",
        ):
            assert words in seen, f"{words}\n{seen}"
        assert terminal.on("alternate_on") == "1"

        terminal.keys("s")
        terminal.wait_for("HOLDERS 2 by account")
        terminal.keys("Right", "Left", "Left")
        terminal.wait_gone("by account")

        terminal.keys("/")
        terminal.wait_for("^filter: ")
        terminal.type("REPORT")
        terminal.keys("Enter")
        seen = terminal.wait_for("HOLDERS 1 of 2 with 'REPORT'")
        assert "shop" not in seen.partition("HOLDERS")[2]
        terminal.keys("/", "C-u", "Enter")
        terminal.wait_for("HOLDERS 2$")

        terminal.keys("k")
        terminal.wait_for("nothing is selected")
        terminal.keys("/")
        terminal.type("shop")
        terminal.keys("Enter")
        terminal.wait_for("HOLDERS 1 of 2")
        terminal.keys("Down", "k")
        terminal.wait_for(r"kill the client of `shop\[red\].*\(idle in\s+transaction\)\? y/n")
        terminal.keys("n")
        terminal.wait_for("nobody was killed")
        assert desk.stats()["clients"] == 3
        terminal.keys("k")
        terminal.wait_for("y/n")
        terminal.keys("y")
        terminal.wait_for("killed 1 of 1 clients")
        wait_until(lambda: desk.stats()["clients"] == 2, 10, "it is gone")
        assert desk.stats()["clients_pinned"] == 1, "and nobody else"
        terminal.keys("q")
        assert terminal.wait_ended() == 0
        restored(terminal, modes)


def test_a_client_in_the_queue_can_be_killed_and_every_list_has_a_page(own_desk: Own, terminal: Tmux) -> None:
    pooler, desk = own_desk(max_connections=1)
    holder, waiting = Raw(pooler, database="test"), Raw(pooler, database="test")
    holder.ok("START TRANSACTION")
    waiting.send_query("SELECT 7")
    terminal.start(top(desk.path))
    terminal.wait_for("WAITS 1")
    for page in ("HOLDERS 0", "LEASES 1", "WAITS 1"):
        terminal.keys("Tab")
        terminal.wait_for(page)
    terminal.keys("End", "k")
    terminal.wait_for(f"kill client {waiting.ident}: account app from")
    terminal.keys("y")
    terminal.wait_for(f"client {waiting.ident} .* is gone")
    for page in ("ACCOUNTS 1", "PINS 0", "STATEMENTS", f"{holder.ident}.*\n(.*\n)*", "LEASES 1"):
        terminal.keys("Tab")
        terminal.wait_for(page)
    terminal.keys("BTab")
    terminal.wait_for("CLIENTS 1")
    terminal.keys("h")
    terminal.wait_for("any key goes back")
    terminal.keys("q")
    terminal.wait_gone("any key goes back")
    terminal.keys("p")
    terminal.wait_for(r"paused \(p\)")
    terminal.keys("q")
    assert terminal.wait_ended() == 0


def test_slow_statements_are_the_database_s(own_desk: Own, terminal: Tmux) -> None:
    pooler, desk = own_desk(max_connections=1)
    running, waiting = Raw(pooler), Raw(pooler)
    running.send_query("SELECT SLEEP(60)")
    wait_until(lambda: desk.stats()["backends_leased"] == 1, 10, "it runs")
    waiting.send_query("SELECT 7")
    terminal.start(top(desk.path))
    terminal.wait_for(r"^ DATABASE  1 of 1 connections run statements, the oldest .*; 1 wait")
    terminal.keys("q")
    assert terminal.wait_ended() == 0
    desk.do(f"KILL CLIENT {running.ident}")


@pytest.mark.parametrize(
    ("columns", "lines"), [(40, 24), (20, 6), (1, 1), (200, 60)], ids=["telephone", "tiny", "nothing", "wide"]
)
def test_any_size_will_do_and_it_may_change(
    at_mariadb: tuple[Proxy, Desk], terminal: Tmux, columns: int, lines: int
) -> None:
    terminal.start(top(at_mariadb[1].path))
    terminal.wait_for("^ OK ")
    terminal.resize(columns, lines)
    wait_until(lambda: all(len(line) <= columns for line in terminal.screen.splitlines()), 10, "it is narrow")
    if columns >= 20:
        terminal.wait_for("^ OK ")
    terminal.resize(80, 24)
    terminal.wait_for("q quit .* h help")
    terminal.keys("q")
    assert terminal.wait_ended() == 0


@pytest.mark.parametrize(
    "way", ["Ctrl-C", signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "SIGTERM", "SIGINT", "SIGHUP"]
)
def test_the_terminal_is_given_back_however_it_ends(
    at_mariadb: tuple[Proxy, Desk], terminal: Tmux, way: str | signal.Signals
) -> None:
    modes = modes_of(terminal)
    terminal.start(top(at_mariadb[1].path))
    terminal.wait_for("^ OK ")
    if isinstance(way, signal.Signals):
        os.kill(child_of(int(terminal.on("pane_pid"))), way)
    else:
        terminal.keys("C-c")
    assert terminal.wait_ended() == 0
    restored(terminal, modes)


def child_of(pid: int) -> int:
    done = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_it_can_be_stopped_and_goes_on(at_mariadb: tuple[Proxy, Desk], terminal: Tmux) -> None:
    modes = modes_of(terminal)
    terminal.start(top(at_mariadb[1].path))
    terminal.wait_for("^ OK ")
    terminal.keys("C-z")
    terminal.wait_for("Stopped")
    assert terminal.on("cursor_flag") == "1"
    terminal.type("clear; fg")
    terminal.keys("Enter")
    terminal.wait_for("^ OK ")
    terminal.keys("q")
    wait_until(lambda: terminal.on("alternate_on") == "0", 10, "it has ended")
    restored(terminal, modes)


def test_a_failure_gives_the_terminal_back_and_is_one_line(at_mariadb: tuple[Proxy, Desk], terminal: Tmux) -> None:
    modes = modes_of(terminal)
    code = (
        "import sys, proxy.ops.top.app as a; from proxy.cli import main;"
        "a.screen = lambda *_: 1 / 0; sys.exit(main(sys.argv[1:]))"
    )
    terminal.start([sys.executable, "-c", code, "top", "--connect", f"unix:{at_mariadb[1].path}"])
    assert terminal.wait_ended() == 1
    assert "mybouncer: failed: ZeroDivisionError" in terminal.screen
    restored(terminal, modes)


def test_it_waits_for_a_mybouncer_that_comes_back(own_desk: Own, mariadb: Server, terminal: Tmux) -> None:
    pooler, desk = own_desk()
    terminal.start(top(desk.path))
    terminal.wait_for("^ OK ")
    assert pooler.stop() == 0
    seen = terminal.wait_for(r"^ NO ANSWER  reconnecting… \(no\s+console\s+at\s+unix:")
    assert "0 leased" in seen, "what was last known stays"
    own_desk(path=desk.path)
    terminal.wait_for("^ OK ")
    terminal.keys("q")
    assert terminal.wait_ended() == 0


def test_without_a_terminal_it_says_what_it_needs(terminal: Tmux) -> None:
    argv = [sys.executable, "-m", "proxy", "top"]
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr and 'mybouncer console -e "SHOW STATS"' in done.stderr
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    terminal.start(["env", "TERM=dumb", *argv])
    assert terminal.wait_ended() == 2
    assert "TERM is 'dumb'" in terminal.screen


def test_without_a_mybouncer_it_says_so_and_leaves_the_screen_alone(terminal: Tmux) -> None:
    terminal.start(top("/not/there"))
    assert terminal.wait_ended() == 1
    assert "no console at unix:/not/there: No such file" in terminal.screen


def test_the_characters_of_an_old_terminal_will_do(at_mariadb: tuple[Proxy, Desk]) -> None:
    with Tmux(env={"LC_ALL": "en_US.ISO-8859-1", "PYTHONIOENCODING": "latin-1"}) as terminal:
        terminal.start(top(at_mariadb[1].path))
        seen = terminal.wait_for("^ OK ")
        assert "?????" not in seen
        assert "pool    ......" in seen
        terminal.keys("q")
        assert terminal.wait_ended() == 0
