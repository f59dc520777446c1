"""`mybouncer console`: commands from the command line or typed, answers as tables or JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .commands import COMMANDS
from .connection import Answer, Connection
from .values import ConsoleError, Value

_SPLIT = re.compile(r"""((?:[^;'"]|'[^']*'|"[^"]*"|['"].*)+)""", re.DOTALL)  # a quote left open goes to the end
_QUOTED = re.compile("'[^']*'|\"[^\"]*\"")
_PROMPT, _GOES_ON = "mybouncer> ", "        -> "
_FOREVER = 365 * 86400.0  # PAUSE takes as long as it takes
_ENDS = ("quit", "exit", "\\q")
_HELP = ("help", "?", "\\h")


class Shell:
    """One person, or script, at the console. `connect` gives a connection to it."""

    def __init__(self, connect: Callable[[], Connection], *, as_json: bool) -> None:
        self._connect = connect
        self._connection: Connection | None = connect()
        self._as_json = as_json
        # A file or a pipe has no width: nothing is cut off there.
        width = None if sys.stdout.isatty() else 100_000
        self._screen = Console(highlight=False, markup=False, soft_wrap=True, width=width)

    def run(self, text: str) -> bool:
        """Carry out the commands in `text`; False at the first that fails, which is told."""
        return all(self._carry_out(command) for command in _commands(text))

    def _carry_out(self, command: str) -> bool:
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._show(self._connection.ask(command, _FOREVER))
        except ConsoleError as exc:
            print(f"ERROR {exc.code} ({exc.state}): {exc}", file=sys.stderr)
            return False
        return True

    def close(self) -> None:
        """Leave the console."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def talk(self) -> None:
        """Commands from the terminal until it ends.

        A command ends with its line; one of which only the beginning is there, or a quote is open, goes on in the next.
        """
        import readline  # noqa: F401 (input() gets its editing and history from it)

        print("SHOW HELP lists the commands; quit ends.")
        said = ""
        while True:
            try:
                line = input(_GOES_ON if said else _PROMPT)
            except KeyboardInterrupt:
                print()
                said = ""
                continue
            except EOFError:
                print()
                return
            said = f"{said}\n{line}" if said else line
            if line.strip() and _goes_on(said):
                continue
            if self._said(said):
                return
            said = ""

    def _said(self, text: str) -> bool:
        """Carry out what was typed; True where it says that this is the end."""
        for command in _commands(text):
            if command.lower() in _ENDS:
                return True
            try:
                if not self._carry_out("SHOW HELP" if command.lower() in _HELP else command):
                    break
            except KeyboardInterrupt:
                print("\nnot waiting for the answer any more", file=sys.stderr)
                self.close()  # the answer may still come
                break
            except (OSError, ConsoleError) as exc:
                print(f"the connection is lost: {exc}; the next command tries again", file=sys.stderr)
                self.close()
                break
        return False

    def _show(self, answer: Answer) -> None:
        if self._as_json:
            print(json.dumps(_plain(answer), ensure_ascii=False))
        elif not answer.columns:
            self._screen.print(answer.words or "ok")
        elif self._too_wide(answer):
            self._show_upright(answer)
        else:
            self._show_table(answer)

    def _too_wide(self, answer: Answer) -> bool:
        if not self._screen.is_terminal or len(answer.rows) > 3:
            return False
        widths = [
            max(len(_text(value)) for value in column) for column in zip(answer.columns, *answer.rows, strict=True)
        ]
        return sum(widths) + 2 * len(widths) > self._screen.width

    def _show_upright(self, answer: Answer) -> None:
        width = max(map(len, answer.columns))
        for row in answer.rows:
            for name, value in zip(answer.columns, row, strict=True):
                self._screen.print(f"{name:>{width}}: {_text(value)}")
            self._screen.print()
        self._count(answer)

    def _show_table(self, answer: Answer) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for at, name in enumerate(answer.columns):
            numbers = all(isinstance(row[at], int | float | None) for row in answer.rows) and bool(answer.rows)
            table.add_column(name, justify="right" if numbers else "left", overflow="fold")
        for row in answer.rows:
            table.add_row(*(Text(_text(value)) for value in row))
        self._screen.print(table, soft_wrap=False)
        self._count(answer)

    def _count(self, answer: Answer) -> None:
        self._screen.print(f"{len(answer.rows)} row{'' if len(answer.rows) == 1 else 's'}")


def _commands(text: str) -> list[str]:
    """The commands in a text, which are separated by semicolons."""
    return [command.strip() for command in _SPLIT.findall(text) if command.strip()]


def _goes_on(text: str) -> bool:
    """Whether the last command in a text is not all there."""
    if text.rstrip().endswith(";") and not _has_open_quote(text):
        return False
    last = (_commands(text) or [""])[-1]
    words = " ".join(last.upper().split())
    return _has_open_quote(last) or any(one.words.startswith(f"{words} ") for one in COMMANDS if words)


def _has_open_quote(text: str) -> bool:
    return bool(re.search("['\"]", _QUOTED.sub("", text)))


def _plain(answer: Answer) -> object:
    if not answer.columns:
        return {"ok": answer.words}
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _text(value: Value) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
