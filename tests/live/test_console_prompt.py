"""`mybouncer console` at a terminal: what is typed, what comes, and what happens when something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Proxy
from tests.live.desk import Desk
from tests.live.raw import Raw
from tests.live.tmux import Tmux
from tests.servers import wait_until

Own = Callable[..., tuple[Proxy, Desk]]


@pytest.fixture
def prompt() -> Iterator[Callable[[Desk], Tmux]]:
    """Opens the console in a terminal."""
    with Tmux() as terminal:

        def open_console(desk: Desk) -> Tmux:
            terminal.start([sys.executable, "-m", "proxy", "console", "--connect", f"unix:{desk.path}"])
            terminal.wait_for("^mybouncer>$")
            return terminal

        yield open_console


def say(terminal: Tmux, *lines: str) -> None:
    for line in lines:
        terminal.type(line)
        terminal.keys("Enter")


def test_what_is_typed_is_answered(at_mariadb: tuple[Proxy, Desk], prompt: Callable[[Desk], Tmux]) -> None:
    terminal = prompt(at_mariadb[1])
    assert "SHOW HELP lists the commands; quit ends." in terminal.screen
    say(terminal, "show queue")
    terminal.wait_for("^mybouncer> show queue\n0 rows\nmybouncer>$")
    say(terminal, "show config limit 3")
    terminal.wait_for("^3 rows\nmybouncer>$")
    say(terminal, "SHOW VERSION; RESUME;")
    terminal.wait_for(r"^ *server_version: .*\n(.*\n)*not paused\n+mybouncer>")
    say(terminal, "?")
    terminal.wait_for(r"SHOW HOLDERS")
    say(terminal, "", "quit")
    assert terminal.wait_ended() == 0


def test_an_error_is_told_and_the_next_command_works(
    at_mariadb: tuple[Proxy, Desk], prompt: Callable[[Desk], Tmux]
) -> None:
    terminal = prompt(at_mariadb[1])
    say(terminal, "SHOW PINZ; RESUME")
    seen = terminal.wait_for(r"^ERROR 1064 \(42000\): 'SHOW PINZ' is no command; did you mean SHOW PINS\?")
    assert "not paused" not in seen, "what stands behind it is left out"
    say(terminal, "RESUME; exit;")
    assert terminal.wait_ended() == 0
    assert "not paused" in terminal.screen


def test_a_statement_can_have_several_lines(at_mariadb: tuple[Proxy, Desk], prompt: Callable[[Desk], Tmux]) -> None:
    terminal = prompt(at_mariadb[1])
    say(terminal, "SHOW")
    terminal.wait_for("^mybouncer> SHOW\n +->$")
    say(terminal, "PINS;")
    terminal.wait_for("^0 rows\n+mybouncer>$")
    say(terminal, "SET queue.timeout = '3", "0s'")
    terminal.wait_for(r"^ERROR .*queue.timeout")
    say(terminal, "SHOW", "")
    terminal.wait_for("^ERROR 1064 .*: 'SHOW' is no command")
    say(terminal, "SET queue.timeout = 'x; SHOW PINS")
    terminal.wait_for(" +->$")
    terminal.keys("C-c")
    terminal.wait_for(r" +->.*\n+mybouncer>$")
    say(terminal, "quit")
    assert terminal.wait_ended() == 0


def test_what_was_said_comes_back_with_the_arrow(
    at_mariadb: tuple[Proxy, Desk], prompt: Callable[[Desk], Tmux]
) -> None:
    terminal = prompt(at_mariadb[1])
    say(terminal, "RESUME")
    terminal.wait_for("^not paused\n+mybouncer>$")
    terminal.keys("Up", "Enter")
    terminal.wait_for(r"^not paused\n(.*\n)*mybouncer> RESUME\nnot paused\nmybouncer>$")
    terminal.type("nonsense")
    terminal.wait_for("nonsense$")
    terminal.keys("C-c")
    terminal.wait_for(r"nonsense.*\n+mybouncer>$")
    terminal.keys("C-d")
    assert terminal.wait_ended() == 0


def test_ctrl_c_ends_the_waiting_for_an_answer(own_desk: Own, prompt: Callable[[Desk], Tmux]) -> None:
    pooler, desk = own_desk(listen__drain_timeout="60s")
    holder = Raw(pooler, database="test")
    holder.ok("START TRANSACTION")
    terminal = prompt(desk)
    say(terminal, "PAUSE")
    wait_until(lambda: desk.stats()["paused"] == 1, 10, "it is paused")
    terminal.keys("C-c")
    terminal.wait_for("not waiting for the answer any more\n+mybouncer>$")
    say(terminal, "RESUME")
    terminal.wait_for("^resumed; 0 waiting\n+mybouncer>$")
    say(terminal, "quit")
    assert terminal.wait_ended() == 0
    holder.ok("ROLLBACK")


def test_a_mybouncer_that_was_restarted_is_found_again(own_desk: Own, prompt: Callable[[Desk], Tmux]) -> None:
    pooler, desk = own_desk()
    terminal = prompt(desk)
    say(terminal, "SHUTDOWN")
    terminal.wait_for("^ending now, with 0 clients")
    assert pooler.wait() == 0
    say(terminal, "RESUME")
    terminal.wait_for("^the connection is lost: .*; the next command tries again\n+mybouncer>$")
    say(terminal, "RESUME")
    terminal.wait_for(r"^the connection is lost: no console at unix:(.*\n)+.*tries again\n+mybouncer>$")
    own_desk(path=desk.path)
    say(terminal, "RESUME")
    terminal.wait_for("^not paused\n+mybouncer>$")
    say(terminal, "quit")
    assert terminal.wait_ended() == 0
