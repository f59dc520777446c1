"""The lines of a screen, from a look and what was chosen: no more than it has, none wider than it is.

Texts of others are put into `Text`s, which have no markup. The verdict stays whatever the size; what is below goes
first, from the bottom up, but for the last line, where questions are asked.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from . import table
from .controls import CONFIRM, FILTER, HELP, KEYS, Controls
from .lists import List
from .model import SPAN, History, Look, many, seconds
from .style import BADGES, DIM, HEADING, QUESTION, STATES, UNICODE, Glyphs
from .verdict import Verdict, judge

_LABEL = 8  # columns
_STALE = 3.0  # seconds without an answer that are worth a word


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a screen shows."""

    look: Look | None
    history: History
    controls: Controls
    lists: Sequence[List]
    lost: str  # why the console does not answer; empty: it does
    now: float
    interval: float


def screen(scene: Scene, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Text]:
    """The lines."""
    width, height = max(1, width), max(1, height)
    head = _verdict_lines(scene, width, height)
    foot = _foot(scene, width)[: max(0, height - len(head))]
    room = height - len(head) - len(foot)
    if scene.controls.mode == HELP:
        body = _help(width)
    elif scene.look is None:
        body = []
    else:
        body = _facts(scene, scene.look, width, glyphs)
        if room < len(body) + 4:  # rows say more than numbers
            body = body[: max(0, min(room // 2, len(body)))]
        body += table.lines(scene.lists, scene.controls, width, room - len(body), glyphs)
    body = body[:room] + [Text()] * (room - len(body))
    lines = [*head, *body, *foot]
    for line in lines:
        if line.cell_len > width:
            line.truncate(width)
    return lines


def _verdict_lines(scene: Scene, width: int, height: int) -> list[Text]:
    if scene.lost:
        verdict = Verdict("NO ANSWER", f"reconnecting… ({scene.lost})", "alarm")
    elif scene.look is None:
        verdict = Verdict("…", "asking mybouncer", "warning")
    else:
        verdict = judge(scene.look)
    badge = f" {verdict.word} "
    wrapped = textwrap.wrap(f"{badge.replace(' ', '_')} {verdict.sentence}", width) or [""]
    wrapped = wrapped[: 1 if height < 8 else 3]
    first = Text.assemble((badge, BADGES[verdict.level]), (wrapped[0][len(badge) :], "bold"))
    return [first, *(Text(line, "bold") for line in wrapped[1:])]


def _foot(scene: Scene, width: int) -> list[Text]:
    controls = scene.controls
    if controls.mode == CONFIRM and controls.victim is not None:
        lines = textwrap.wrap(f"kill {controls.victim.words}? y/n", max(8, width))
        return [Text(line, QUESTION) for line in lines]
    if controls.mode == FILTER:
        left = max(1, width - len("filter: _"))
        return [Text.assemble(("filter: ", HEADING), controls.typed[-left:], ("_", "blink"))]
    if controls.mode == HELP:
        return [Text("any key goes back", DIM)]
    if controls.message:
        return [Text(controls.message, HEADING)]
    keys = "q quit  ↑↓ select  k kill  Tab list  s sort  / filter  p pause  h help"
    short = "q ↑↓ k:kill Tab s:sort / p h:help"
    return [Text(keys if len(keys) <= width else short, DIM)]


def _help(width: int) -> list[Text]:
    lines = [Text()]
    for keys, words in KEYS:
        wrapped = textwrap.wrap(words, max(10, width - 18)) or [""]
        lines += [Text.assemble((f"{keys if not at else '':<17} ", HEADING), line) for at, line in enumerate(wrapped)]
    lines.append(Text())
    words = (
        "The first line: LEAK, clients keep connections and do nothing; DATABASE, statements are slow or the server "
    )
    words += "refuses; POOL, neither, and there is more work than connections. docs/console.md"
    return lines + [Text(line) for line in textwrap.wrap(words, max(10, width))]


def _facts(scene: Scene, look: Look, width: int, glyphs: Glyphs) -> list[Text]:
    return [
        _budget(look, width, glyphs),
        _queue(scene, look, width, glyphs),
        _doing(look),
        _clients(look),
        _load(scene, look, width),
    ]


def _budget(look: Look, width: int, glyphs: Glyphs) -> Text:
    cap, effective = look.stat("backends_max"), look.stat("backends_effective_max")
    counts = {state: look.stat(f"backends_{state}") for state in ("leased", "opening", "resetting", "closing", "idle")}
    used = sum(counts.values())
    counts["free"] = max(0, min(cap, effective) - used)
    counts["refused"] = max(0, cap - max(used, effective))
    words = [(f"{counts['leased']} leased", STATES["leased"])]
    words += [
        (f"{count} {state}", STATES[state])
        for state, count in counts.items()
        if count and state not in ("leased", "free", "refused")
    ]
    of = f" of {cap}" if effective >= cap else f" of {effective} (server refuses more; cap {cap})"
    legend = Text(" · ").join(Text(*word) for word in words)
    legend.append(of)
    line = _label("pool")
    size = min(40, width - _LABEL - 1 - legend.cell_len)
    if size >= 5:
        line.append(_bar(counts, size, glyphs)).append(" ")
    return line.append(legend)


def _bar(counts: dict[str, int], size: int, glyphs: Glyphs) -> Text:
    """Parts of `size` as their counts: everything that is there has a cell at least."""
    there = {state: count for state, count in counts.items() if count} or {"free": 1}
    cells = {state: max(1, count * size // sum(there.values())) for state, count in there.items()}
    cells[max(there, key=lambda state: there[state])] += size - sum(cells.values())
    return Text.assemble(*((glyphs.bar[state] * cells.get(state, 0), style) for state, style in STATES.items()))


def _queue(scene: Scene, look: Look, width: int, glyphs: Glyphs) -> Text:
    waiting, logins = look.stat("queue_waiting"), look.stat("queue_waiting_logins")
    line = _label("queue")
    oldest = f", oldest {seconds(look.stat('queue_oldest_wait_ms') / 1000)}" if waiting else ""
    line.append(f"{waiting:,} waiting{oldest}", "yellow" if waiting else "")
    if logins:
        line.append(f" · {many(logins, 'login')}")
    gave_up = scene.history.gained("queue_timeouts") + scene.history.gained("queue_rejected")
    if gave_up:
        line.append(f" · {gave_up:,} got 1040", "red")
    minutes = f" {SPAN / 60:.0f} min"
    size = min(45, width - line.cell_len - 1 - len(minutes))
    if size >= 8:
        peaks = scene.history.waiting(size, scene.now)
        line.append(" ").append(_spark(peaks, glyphs), "cyan").append(minutes, DIM)
    return line


def _spark(peaks: Sequence[int | None], glyphs: Glyphs) -> str:
    top = max((peak for peak in peaks if peak), default=1)
    last = len(glyphs.spark) - 1
    return "".join(" " if peak is None else glyphs.spark[-(-peak * last // top)] for peak in peaks)


def _doing(look: Look) -> Text:
    doing: dict[str, int] = {}
    for lease in look.leases():
        state = lease.text("doing")
        doing[state] = doing.get(state, 0) + 1
    order = ("idle in transaction", "pinned", "running", "finishing")
    line = _label("leases")
    parts = [f"{doing[state]} {state}" for state in order if state in doing]
    line.append(" · ".join(parts) or "none")
    oldest = max((lease.number("seconds") for lease in look.leases()), default=None)
    return line if oldest is None else line.append(f"; the longest for {seconds(oldest)}")


def _clients(look: Look) -> Text:
    states = ("waiting", "leased", "transaction", "pinned", "idle")
    words = {"leased": "running", "transaction": "in transaction"}
    parts = [f"{look.stat(f'clients_{one}'):,} {words.get(one, one)}" for one in states if look.stat(f"clients_{one}")]
    return _label("clients").append(f"{look.stat('clients'):,}").append(": " if parts else "").append(" · ".join(parts))


def _load(scene: Scene, look: Look, width: int) -> Text:
    line = _label("load")
    rates = {name: scene.history.rate(name) for name in ("statements", "transactions", "errors_server")}
    shown = {name: "–" if rate is None else _rate(rate) for name, rate in rates.items()}
    line.append(f"{shown['statements']} statements/s", HEADING).append(f" · {shown['transactions']} transactions/s")
    if rates["errors_server"]:
        line.append(f" · {shown['errors_server']} errors/s", "red")
    clock = "paused (p)" if scene.controls.paused else time.strftime("%H:%M:%S")
    where = f"{look.version.text('server')} {clock}"
    if scene.now - look.at > scene.interval + _STALE:
        where = f"no answer for {seconds(scene.now - look.at)}"
    gap = width - line.cell_len - cell_len(where)
    if gap < 2:
        where = where.rpartition(" ")[2] if where.endswith(clock) else where
        gap = width - line.cell_len - cell_len(where)
    return line.append(" " * gap + where, DIM) if gap >= 1 else line


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"


def _label(name: str) -> Text:
    return Text.assemble((f"{name:<{_LABEL}}", DIM))
