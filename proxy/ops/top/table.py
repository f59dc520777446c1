"""Lists as lines of an exact width: columns shrink and then go, so that the most important ones fit a telephone."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from .controls import Controls
from .lists import EXTRA, OVERVIEW, Column, Item, List
from .style import DIM, HEADING, SELECTED, TITLES, Glyphs

_GAP = 1
_WIDEST = 28  # columns, where others need the room
_NOTES = {"selected": 4, "other": 1}  # lines of a holder's cause


def fit(text: str, width: int, ellipsis: str) -> str:
    """The text, cut off visibly where it is wider."""
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, max(0, width - cell_len(ellipsis)))}{ellipsis}"[: max(0, width)]


def widths(columns: Sequence[Column], items: Sequence[Item], room: int) -> list[int]:
    """How wide each column is; 0: it is left out."""
    # One that says nothing takes no room.
    whole = [
        max(cell_len(column.title), *(cell_len(item.cells[at]) for item in items))
        if any(item.cells[at] for item in items)
        else 0
        for at, column in enumerate(columns)
    ]
    wanted = [min(_WIDEST, width) for width in whole]
    given = [min(want, column.least or want) for want, column in zip(wanted, columns, strict=True)]
    by_rank = sorted((at for at in range(len(columns)) if given[at]), key=lambda at: columns[at].rank)
    while len(by_rank) > 1:
        last = by_rank[-1]
        if _taken([given[at] for at in by_rank]) <= room and (
            columns[last].rank < EXTRA or _taken([wanted[at] for at in by_rank]) <= room
        ):
            break
        given[by_rank.pop()] = 0
    for sizes in (wanted, whole):  # what is left goes to the most important first
        for at in by_rank:
            given[at] += max(0, min(sizes[at] - given[at], room - _taken(given)))
    return [min(width, room) for width in given]


def _taken(given: Sequence[int]) -> int:
    there = [width for width in given if width]
    return sum(there) + _GAP * max(0, len(there) - 1)


def row(cells: Sequence[str], columns: Sequence[Column], given: Sequence[int], ellipsis: str) -> Text:
    """The cells of one row, in columns of these widths."""
    parts = []
    for cell, column, width in zip(cells, columns, given, strict=True):
        if width:
            text = fit(cell, width, ellipsis)
            pad = " " * (width - cell_len(text))
            parts.append(pad + text if column.right else text + pad)
    return Text((" " * _GAP).join(parts))


def lines(lists: Sequence[List], controls: Controls, width: int, room: int, glyphs: Glyphs) -> list[Text]:
    """The lists in `room` lines; on the overview those that are empty are left out."""
    if controls.page == OVERVIEW:
        some = [one for one in lists if one.items]
        if lists and not some and controls.filter:
            return [Text(f"nobody has {controls.filter!r} in account, program or address", DIM)]
        lists = some
    made = [_rows(one, controls, width, room, glyphs) for one in lists]
    found: list[Text] = []
    for one, (heading, rows, at), space in zip(
        lists, made, _allot([len(rows) for _, rows, _ in made], room), strict=True
    ):
        if space >= 2:
            first = max(0, min(at - (space - 1) // 2, len(rows) - (space - 1)))
            found.append(heading)
            found += rows[first : first + space - 1] or [Text(_nothing(one, controls), DIM)]
    return found


def _nothing(one: List, controls: Controls) -> str:
    filter_ = controls.filter
    return f"  none of {one.total} has {filter_!r} in account, program or address" if filter_ else "  none"


def _allot(needs: Sequence[int], room: int) -> list[int]:
    """How many lines each list gets, its heading among them: all the most important row, then in turn."""
    given = [0] * len(needs)
    for at, need in enumerate(needs):
        least = 1 + min(2 if at == 0 else 1, max(1, need))
        if room >= least:
            given[at] = least
            room -= least
    while room > 0:
        hungry = [at for at, need in enumerate(needs) if given[at] and given[at] < need + 1]
        if not hungry:
            break
        for at in hungry[:room]:
            given[at] += 1
            room -= 1
    return given


def _rows(one: List, controls: Controls, width: int, room: int, glyphs: Glyphs) -> tuple[Text, list[Text], int]:
    """Heading and rows of a list, as many as can be seen, and the row that has to be."""
    mark = len(glyphs.marker)
    chosen_at = next((at for at, item in enumerate(one.items) if item.key == controls.selected), 0)
    near = one.items[max(0, chosen_at - max(0, room)) :][: 2 * max(1, room)]
    given = widths(one.columns, near, width - mark)
    rows: list[Text] = []
    at = 0
    for item in near:
        chosen = item.key == controls.selected
        cells = row(item.cells, one.columns, given, glyphs.ellipsis)
        line = Text(glyphs.marker if chosen else " " * mark).append(cells)
        if chosen:
            at = len(rows)
            line.pad_right(max(0, width - line.cell_len))
            line.stylize(SELECTED)
        rows.append(line)
        rows += _note(item, chosen, width, glyphs)
    return _heading(one, controls, given, width, mark), rows, at


def _note(item: Item, chosen: bool, width: int, glyphs: Glyphs) -> list[Text]:
    if not item.note:
        return []
    indent = "   " if width >= 40 else " "
    lines = textwrap.wrap(item.note, max(8, width - len(indent)))
    most = _NOTES["selected" if chosen else "other"]
    if len(lines) > most:
        lines[most - 1] = fit(f"{lines[most - 1]} {lines[most]}", width - len(indent), glyphs.ellipsis)
    return [Text(f"{indent}{line}", "yellow") for line in lines[:most]]


def _heading(one: List, controls: Controls, given: Sequence[int], width: int, mark: int) -> Text:
    """The titles above their columns, and at the right what the list is: `LEASES 8 by account`."""
    count = str(one.total) if len(one.items) == one.total else f"{len(one.items)} of {one.total}"
    name = f"{one.name.upper()} {count}"
    if controls.filter:
        name += f" with {controls.filter!r}"
    if controls.sort != "worst":
        name += f" by {controls.sort}"
    titles = " " * mark + row([column.title for column in one.columns], one.columns, given, "").plain
    left = max(0, width - cell_len(name) - 2)
    if titles[left:].strip():  # no half words
        titles = titles[: titles.rfind(" ", 0, left + 1) + 1]
    return Text.assemble((f"{titles:<{left}}"[:left], TITLES), "  " if left else "", (name, HEADING))
