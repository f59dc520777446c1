"""`mybouncer top` without a terminal or a console: what it concludes, what it shows in which size, what keys do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from proxy import cli
from proxy.ops.console import views
from proxy.ops.console.connection import Answer
from proxy.ops.top import controls, terminal, view
from proxy.ops.top.controls import Action, Controls
from proxy.ops.top.lists import PAGES, Victim, lists
from proxy.ops.top.model import History, Look, Record, numbers, records, seconds
from proxy.ops.top.style import ASCII, UNICODE
from proxy.ops.top.verdict import judge
from proxy.ops.top.view import Scene, screen

FULL = {
    "uptime_seconds": 100,
    "clients": 160,
    "clients_max": 10_000,
    "clients_waiting": 137,
    "clients_idle": 13,
    "clients_leased": 2,
    "clients_transaction": 7,
    "clients_pinned": 1,
    "backends": 10,
    "backends_max": 10,
    "backends_effective_max": 10,
    "backends_leased": 10,
    "queue_waiting": 137,
    "queue_oldest_wait_ms": 3200,
    "statements": 1000,
}


def rows(*values: dict[str, Any]) -> tuple[Record, ...]:
    return tuple(Record(value) for value in values)


def lease(doing: str, age: float, number: int = 1, program: str = "`shop` pid 4242") -> dict[str, Any]:
    return {
        "id": number,
        "account": "api",
        "state": "leased",
        "doing": doing,
        "seconds": age,
        "client": 0x80000000 + number,
        "address": f"10.0.0.5:{40000 + number}",
        "program": program,
        "statement": "select",
        "pins": "user_variable" if doing == "pinned" else "",
    }


def holder(kind: str = "idle_in_transaction", **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "account": "api",
        "host": "10.0.0.5",
        "program": "`shop` pid 4242",
        "connections": 7,
        "backends": 7,
        "seconds": 42.0,
        "statement": "SELECT v FROM orders WHERE id = ?",
        "cause": "opened 7 connections in 2.1 s, each in an open transaction after "
        "`SELECT v FROM orders WHERE id = ?`: neither committed nor rolled back?",
    } | more


def waiter(number: int, **more: Any) -> dict[str, Any]:
    return {
        "place": number,
        "client": 0x80001000 + number,
        "account": "api",
        "address": f"10.0.0.6:{50000 + number}",
        "program": "`web` pid 7",
        "seconds": 3.2 - number / 100,
        "left": 26.8,
        "statement": "select",
    } | more


ACCOUNT = {
    "account": "api",
    "clients": 160,
    "waiting": 137,
    "oldest_wait": 3.2,
    "backends": 10,
    "leased": 10,
    "idle": 0,
    "share": 10.0,
    "weight": 1.0,
}
LEAKED = [lease("idle in transaction", 42.0 - n, n) for n in range(7)]
LEAK = Look(
    at=1000.0,
    stats=FULL,
    version=Record({"server": "db.internal:3306", "version": "1.0"}),
    backends=rows(*LEAKED, lease("pinned", 9.0, 7, "`report`"), lease("running", 0.1, 8), lease("running", 0.2, 9)),
    queue=rows(*(waiter(number) for number in range(100))),
    holders=rows(holder()),
    accounts=rows(ACCOUNT),
    pins=rows({"reason": "user_variable", "sessions": 1, "total": 30, "meaning": "it has set a user variable (@x)"}),
)


def scene(look: Look | None = LEAK, chosen: Controls | None = None, lost: str = "", **more: Any) -> Scene:
    history = History()
    chosen = chosen or Controls()
    if look is not None:
        for ago in range(60, -1, -1):
            stats = dict(look.stats) | {"statements": 100_000 - 1234 * ago, "queue_waiting": 137 - 2 * ago}
            history.add(replace(look, at=look.at - ago, stats=stats))
    made = [] if look is None else lists(look, chosen.page, chosen.sort, chosen.filter)
    return Scene(look, history, chosen, made, lost, **({"now": 1000.2, "interval": 1.0} | more))


def shown(what: Scene, width: int = 80, height: int = 24, glyphs: view.Glyphs = UNICODE) -> list[str]:
    """The screen as a rich console of that size renders it."""
    console = Console(width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False)
    made = screen(what, width, height, glyphs)
    assert len(made) == height
    with console.capture() as captured:
        for line in made:
            console.print(line, soft_wrap=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", captured.get()).splitlines()
    assert len(plain) == height
    assert max(map(cell_len, plain)) <= width
    return [line.rstrip() for line in plain]


# --- the verdict ---


def test_a_leak_is_a_leak() -> None:
    verdict = judge(LEAK)
    assert (verdict.word, verdict.level) == ("LEAK", "alarm")
    assert verdict.sentence == (
        "8 of 10 connections are kept: 7 idle in transaction, 1 pinned and idle; oldest 42s by `shop` pid 4242; "
        "137 wait, 3.2s"
    )


def stats(**changed: int) -> dict[str, int]:
    return FULL | changed


SLOW = rows(*(lease("running", 40.0 + n, n) for n in range(9)), lease("idle in transaction", 60.0, 9))
BUSY = rows(*(lease("running", 0.1, n) for n in range(10)))
HALF = rows(*(lease("running", 0.1, n) for n in range(4)))


@pytest.mark.parametrize(
    ("look", "word", "words"),
    [
        (Look(0, stats(server_down_ms=12_000), backends=BUSY), "DATABASE", "is down, for 12s"),
        (Look(0, stats(paused=1)), "PAUSED", "until RESUME"),
        (Look(0, stats(draining=1)), "DRAINING", "160 clients"),
        (Look(0, stats(clients_max=160)), "POOL", "listen.max_clients"),
        (Look(0, FULL, backends=SLOW), "DATABASE", "9 of 10 connections run statements, the oldest 48s; 1 idle in"),
        (Look(0, FULL, backends=BUSY), "POOL", "10 of 10 connections are busy, none for long; 137 wait, 3.2s"),
        (
            Look(0, stats(backends=4, backends_leased=4, backends_effective_max=4), backends=HALF),
            "DATABASE",
            "refuses more than 4 of the 10 connections",
        ),
        (Look(0, stats(backends_leased=2, backends_closing=8)), "DATABASE", "is not done with 8 connections"),
        (Look(0, stats(backends_leased=2, backends_opening=8)), "DATABASE", "is slow to open 8 connections"),
        (
            Look(0, stats(backends=4), backends=HALF, accounts=rows(ACCOUNT | {"backends": 4, "max_backends": 4})),
            "POOL",
            "account api has all of its 4 connections",
        ),
        (
            Look(0, FULL, backends=SLOW, holders=rows(holder("unread_result", backends=6))),
            "LEAK",
            "6 stuck in answers that nobody reads",
        ),
        (Look(0, stats(queue_waiting=0), backends=BUSY), "OK", "nobody waits; 10 of 10 connections lent"),
        (Look(0, stats(queue_oldest_wait_ms=20), backends=BUSY), "OK", "137 wait, 20ms at most; 10 of 10"),
        (
            Look(0, stats(queue_waiting=0), holders=rows(holder("unused_connections", backends=0, connections=97))),
            "LEAK",
            "`shop` pid 4242: 97 unused connections, 42s; nobody waits",
        ),
        (
            Look(0, stats(queue_waiting=0), holders=rows(holder("long_statement", connections=1, program=""))),
            "DATABASE",
            "account api: 1 long statement, 42s; nobody waits",
        ),
        (Look(0), "OK", "nobody waits; 0 of 0 connections lent"),
    ],
)
def test_the_first_line_says_whether_it_is_the_pool_a_leak_or_the_database(look: Look, word: str, words: str) -> None:
    verdict = judge(look)
    assert verdict.word == word
    assert words in verdict.sentence


# --- the screen ---


def test_everything_is_on_a_screen_of_80_by_24() -> None:
    lines = shown(scene())
    text = "\n".join(lines)
    assert lines[0] == " LEAK  8 of 10 connections are kept: 7 idle in transaction, 1 pinned and idle;"
    for words in (
        "10 leased of 10",
        "137 waiting, oldest 3.2s",
        " 3 min",
        "7 idle in transaction · 1 pinned · 2 running; the longest for 42s",
        "160: 137 waiting · 2 running · 7 in transaction · 1 pinned · 13 idle",
        "1,234 statements/s",
        "db.internal:3306",
        "HOLDERS 1",
        "opened 7 connections in 2.1 s, each in an open transaction",
        "LEASES 10",
        "WAITS 100 of 137",
        "ACCOUNTS 1",
        "PINS 1",
        "user variable",
        "q quit",
    ):
        assert words in text, f"{words}\n{text}"
    assert re.search("[▁▂▃▄▅▆▇]+█+ 3 min", text)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("size", [(80, 24), (40, 24), (200, 60), (20, 10), (33, 7), (10, 3), (1, 1), (500, 5)])
def test_no_line_is_wider_and_there_are_no_more_lines(page: str, size: tuple[int, int]) -> None:
    look = replace(LEAK, clients=rows(*({"id": n, "account": "ä" * 40, "program": "漢字" * 30} for n in range(300))))
    for mode in (controls.NORMAL, controls.FILTER, controls.CONFIRM, controls.HELP):
        chosen = Controls(mode=mode, page=page, typed="x" * 100, victim=Victim("client 漢 " * 20, 1))
        chosen.press("end", [item for one in lists(look, page, "worst", "") for item in one.items])
        shown(scene(look, chosen), *size)
        shown(scene(look, chosen, lost="refused " * 50), *size, ASCII)
    shown(scene(None, Controls(page=page)), *size)
    shown(scene(Look(1000.0), Controls(page=page)), *size)


def test_a_telephone_shows_who_and_what() -> None:
    lines = shown(scene(), 40, 24)
    assert lines[0].startswith(" LEAK ")
    assert any("`shop` pid 4242" in line and "42s" in line for line in lines)
    assert any("HOLDERS 1" in line for line in lines)


def test_the_selected_holder_s_cause_is_told_to_its_end() -> None:
    chosen = Controls(selected=("holder", "idle_in_transaction", "api", "10.0.0.5", "`shop` pid 4242"))
    text = " ".join(" ".join(shown(scene(chosen=chosen))).split())
    assert "▸" in text
    assert "after `SELECT v FROM orders WHERE id = ?`: neither committed nor rolled back?" in text


def test_the_selected_row_is_seen_however_far_down_it_is() -> None:
    chosen = Controls(page="waits", selected=("wait", 0x80001000 + 73))
    text = "\n".join(shown(scene(chosen=chosen)))
    assert re.search(r"^▸.*10\.0\.0\.6:50073", text, re.MULTILINE)


def test_the_parts_of_the_budget_are_told_apart_without_colours() -> None:
    slots = {"leased": 4, "opening": 1, "resetting": 1, "closing": 1, "idle": 2}
    parts = {f"backends_{state}": count for state, count in slots.items()}
    look = replace(LEAK, stats=stats(**parts, backends=9, backends_max=20, backends_effective_max=15))
    (line,) = [line for line in shown(scene(look), 160) if line.startswith("pool")]
    bar = line.split()[1]
    assert len(bar) == 40
    assert [bar.count(one) for one in "█▓▒░·×"] == [8, 4, 2, 4, 12, 10]
    assert "4 leased · 1 opening · 1 resetting · 1 closing · 2 idle of 15 (server refuses more; cap 20)" in line


def test_what_clients_say_of_themselves_is_only_text() -> None:
    nasty = "[red]\x1b[2J\u202e[/]:skull:\n"
    columns = tuple(column.name for column in views.BACKENDS)
    values = lease("running", 1.0, 1, nasty)
    row = tuple(values.get(name) for name in columns)
    look = replace(LEAK, backends=records(Answer(columns, (row,))), holders=())
    text = "\n".join(shown(scene(look), 160))
    assert r"[red]\x1b[2J\u202e[/]:skull:\n" in text


def test_an_answer_of_another_version_is_no_reason_to_fail() -> None:
    odd = rows({}, {"id": None, "state": "leased", "seconds": None, "unheard_of": 7})
    shown(scene(Look(1000.0, {}, Record({}), odd, odd, odd, odd, odd, odd)))


def test_silence_is_told() -> None:
    assert "no answer for 12s" in "\n".join(shown(scene(now=1012.0)))
    lines = shown(scene(lost="no console at unix:/run/c.sock: Connection refused"))
    assert lines[0].startswith(" NO ANSWER  reconnecting… (no console at unix:/run/c.sock: Connection refused)")
    assert any("10 leased of 10" in line for line in lines), "what was last known stays"
    assert "asking mybouncer" in shown(scene(None))[0]


def test_a_pause_is_told() -> None:
    assert "paused (p)" in "\n".join(shown(scene(chosen=Controls(paused=True))))


# --- the lists ---


def test_lists_are_sorted_and_filtered() -> None:
    look = replace(
        LEAK,
        queue=rows(
            waiter(1, account="b", program="x", seconds=1.0),
            waiter(2, account="a", program="y", seconds=2.0),
            waiter(3, account="c", program="", address="192.168.7.1:1", seconds=3.0),
        ),
    )

    def accounts(sort: str, filter_: str = "") -> list[str]:
        (made,) = lists(look, "waits", sort, filter_)
        return [item.account for item in made.items]

    assert accounts("worst") == ["c", "a", "b"]
    assert accounts("account") == ["a", "b", "c"]
    assert accounts("program") == ["c", "b", "a"]
    assert accounts("address") == ["b", "a", "c"]
    assert accounts("worst", "Y") == ["a"]
    assert accounts("worst", "192.168") == ["c"]
    assert accounts("worst", "nobody") == []
    text = "\n".join(shown(scene(look, Controls(page="waits", filter="nobody"))))
    assert "none of 137 has 'nobody' in account, program or address" in text
    assert "nobody has 'nobody'" in "\n".join(shown(scene(look, Controls(filter="nobody"))))


def test_only_those_of_a_holder_that_still_do_it_are_meant() -> None:
    victim = Victim("", holder=("idle_in_transaction", "api", "10.0.0.5", "`shop` pid 4242"))
    client = {
        "id": 7,
        "account": "api",
        "address": "10.0.0.5:4000",
        "program": "`shop` pid 4242",
        "holder": "prepared_statements, idle_in_transaction",
    }
    assert victim.is_meant(Record(client))
    others = ({"holder": ""}, {"account": "web"}, {"address": "10.0.0.55:4000"}, {"program": "`shop` pid 4243"})
    assert not any(victim.is_meant(Record(client | other)) for other in others)
    local = Victim("", holder=("pinned_idle", "api", "unix:/run/a.sock", ""))
    assert local.is_meant(
        Record({"account": "api", "address": "unix:/run/a.sock", "program": "", "holder": "pinned_idle"})
    )


# --- the keys ---


def press(chosen: Controls, *keys: str, look: Look = LEAK) -> Sequence[Action | None]:
    done = []
    for key in keys:
        items = [item for one in lists(look, chosen.page, chosen.sort, chosen.filter) for item in one.items]
        chosen.settle(items)
        done.append(chosen.press(key, items))
    return done


def test_nobody_is_killed_without_being_selected_and_confirmed() -> None:
    chosen = Controls()
    assert press(chosen, "k", "y") == [None, None]
    assert press(chosen, "down", "k", "n") == [None, None, None]
    assert chosen.message == "nobody was killed"
    assert press(chosen, "k", "x", "enter", " ") == [None] * 4, "neither yes nor no"
    assert chosen.mode == controls.CONFIRM
    assert press(chosen, "escape") == [None]
    assert press(chosen, "k", "y") == [None, Action.KILL]
    assert chosen.victim is not None and "the 7 clients of `shop` pid 4242 on 10.0.0.5" in chosen.victim.words
    press(chosen, "down", "k")
    assert chosen.victim.client == 0x80000000
    press(chosen, "n", "end", "k")
    assert "no client to kill" in chosen.message
    assert chosen.mode == controls.NORMAL


def test_who_was_asked_about_stays_who_is_killed() -> None:
    chosen = Controls(page="leases")
    press(chosen, "down", "k")
    gone = replace(LEAK, backends=LEAK.backends[1:])
    assert press(chosen, "y", look=gone) == [Action.KILL]
    assert chosen.victim is not None and chosen.victim.client == 0x80000000


def test_the_selection_stays_on_its_row_and_takes_the_next_when_that_has_gone() -> None:
    chosen = Controls(page="leases")
    press(chosen, "down", "down")
    assert chosen.selected == ("lease", 0x80000001)
    press(chosen, "x", look=replace(LEAK, backends=LEAK.backends[1:]))
    assert (chosen.selected, chosen.at) == (("lease", 0x80000001), 0)
    press(chosen, "x", look=replace(LEAK, backends=LEAK.backends[2:]))
    assert chosen.selected == ("lease", 0x80000002)
    press(chosen, "x", look=replace(LEAK, backends=()))
    assert chosen.selected is None
    press(chosen, "end")
    assert chosen.selected == ("lease", 0x80000008)
    press(chosen, "page up", "up", "home", "page down", "escape")
    assert chosen.selected is None


def test_keys_choose_pages_orders_and_filters() -> None:
    chosen = Controls()
    assert press(chosen, "tab") == [Action.LOOK]
    assert chosen.page == "holders"
    press(chosen, "shift tab", "shift tab")
    assert chosen.page == "clients"
    press(chosen, "s", "right")
    assert chosen.sort == "program"
    press(chosen, "left", "left", "left")
    assert chosen.sort == "state"
    assert press(chosen, "/", "a", "p", "q", "backspace", "i", "enter")[-1] is Action.LOOK
    assert (chosen.filter, chosen.mode) == ("api", controls.NORMAL)
    press(chosen, "/", "x", "escape")
    assert chosen.filter == "api"
    press(chosen, "/", "erase", "enter")
    assert chosen.filter == ""
    press(chosen, "p")
    assert chosen.paused
    press(chosen, "?", "q")
    assert chosen.mode == controls.NORMAL, "any key ends the help"
    assert press(chosen, "q") == [Action.QUIT]
    assert press(Controls(mode=controls.CONFIRM), "interrupt") == [Action.QUIT]


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B\x1bOA\x1bOB\x1b[1;5C\x1b[D", ["up", "down", "up", "down", "right", "left"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~\x1b[Z\t", ["page up", "page down", "home", "end", "shift tab", "tab"]),
        ("é漢".encode(), ["é", "漢"]),
        (b"\r\n\x7f\x08\x15\x03\x04", ["enter", "enter", "backspace", "backspace", "erase", "interrupt", "q"]),
        (b"\x1b[15~\x1b[200~\x01\xff", ["other", "other"]),
    ],
)
def test_keys_are_understood_whole_and_a_byte_at_a_time(data: bytes, keys: list[str]) -> None:
    assert terminal.Keys().feed(data) == keys
    reader = terminal.Keys()
    assert [key for byte in data for key in reader.feed(bytes((byte,)))] == keys
    assert not reader.unclear


def test_an_escape_is_a_key_when_nothing_comes_behind_it() -> None:
    reader = terminal.Keys()
    assert reader.feed(b"\x1b") == []
    assert reader.unclear
    assert reader.settle() == ["escape"]
    assert reader.feed(b"k") == ["k"]


def test_the_docs_list_the_keys_there_are() -> None:
    docs = (Path(__file__).parents[1] / "docs" / "console.md").read_text(encoding="utf-8")
    section = docs.partition("\n## mybouncer top\n")[2].partition("\n## ")[0]
    table = section.partition("| key | |\n")[2]
    told = re.findall(r"^\| `([^`]+)` \| (.*) \|$", table, re.MULTILINE)
    assert told == [(keys.replace("  ", " "), f"{words[0].upper()}{words[1:]}.") for keys, words in controls.KEYS]


# --- numbers ---


def test_rates_are_of_the_last_second_and_begin_again_with_the_process() -> None:
    history = History()
    assert history.rate("statements") is None
    for at, statements, uptime in ((0.0, 0, 10), (1.0, 100, 11), (2.0, 300, 12), (2.1, 310, 12)):
        history.add(Look(at, {"statements": statements, "uptime_seconds": uptime}))
    assert history.rate("statements") == pytest.approx(210 / 1.1)
    assert history.gained("statements") == 310
    history.add(Look(3.0, {"statements": 5, "uptime_seconds": 0}))
    assert history.rate("statements") is None


def test_the_line_of_the_queue_has_peaks_and_gaps() -> None:
    history = History()
    for at, waiting in ((1000.0, 3), (1001.0, 9), (1002.0, 1), (1090.0, 4), (1179.0, 2)):
        history.add(Look(at, {"queue_waiting": waiting}))
    peaks = history.waiting(18, 1179.0)  # ten seconds each
    assert peaks == [9, *[None] * 8, 4, *[None] * 7, 2]
    history.add(Look(1300.0, {"queue_waiting": 0}))
    assert history.waiting(18, 1300.0)[-1] == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0ms"), (0.0456, "46ms"), (0.31, "0.31s"), (0.999, "1.0s"), (9.97, "10s"), (59.6, "1m00"), (192, "3m12")],
)
def test_times_are_short(value: float, text: str) -> None:
    assert seconds(value) == text
    assert all(len(seconds(value * 10**power)) <= 5 for power in range(6))


def test_statistics_are_read_by_name() -> None:
    answer = Answer(("name", "value", "meaning"), (("clients", 7, "Clients"), ("paused", 0, "")))
    assert numbers(answer) == {"clients": 7, "paused": 0}


# --- the command ---


@pytest.mark.parametrize("interval", ["1", "soon", "0s", "2h"])
def test_a_bad_interval_is_told(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top", "--interval", interval]) == 2
    assert capsys.readouterr().err.startswith(f"mybouncer: --interval {interval}: ")


def test_without_a_terminal_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top"]) == 2
    err = capsys.readouterr().err
    assert "needs a terminal" in err and 'mybouncer console -e "SHOW STATS"' in err
