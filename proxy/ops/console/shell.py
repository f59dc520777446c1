"""`mybouncer console`: commands from the command line or typed, answers as tables or JSON."""

from __future__ import annotations

import json
import re
import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .connection import Answer, Connection
from .values import ConsoleError, Value

_SPLIT = re.compile(r"""((?:[^;'"]|'[^']*'|"[^"]*")+)""")
_FOREVER = 365 * 86400.0  # PAUSE takes as long as it takes
_ENDS = ("quit", "exit", "\\q")
_HELP = ("help", "?", "\\h")


class Shell:
    """One person, or script, at the console."""

    def __init__(self, connection: Connection, *, as_json: bool) -> None:
        self._connection = connection
        self._as_json = as_json
        # A file or a pipe has no width: nothing is cut off there.
        width = None if sys.stdout.isatty() else 100_000
        self._screen = Console(highlight=False, markup=False, soft_wrap=True, width=width)

    def run(self, text: str) -> bool:
        """Carry out the commands in `text`; False at the first that fails, which is told."""
        for command in _SPLIT.findall(text):
            if not command.strip():
                continue
            try:
                self._show(self._connection.ask(command.strip(), _FOREVER))
            except ConsoleError as exc:
                print(f"ERROR {exc.code} ({exc.state}): {exc}", file=sys.stderr)
                return False
        return True

    def talk(self) -> None:
        """Commands from the terminal until it ends."""
        import readline  # noqa: F401 (input() gets its editing and history from it)

        print("SHOW HELP lists the commands; quit ends.")
        while True:
            try:
                said = input("mybouncer> ").strip()
            except KeyboardInterrupt:
                print()
                continue
            except EOFError:
                print()
                return
            word = said.rstrip(";").lower()
            if word in _ENDS:
                return
            self.run("SHOW HELP" if word in _HELP else said)

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

    def _show_table(self, answer: Answer) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for at, name in enumerate(answer.columns):
            numbers = all(isinstance(row[at], int | float | None) for row in answer.rows) and bool(answer.rows)
            table.add_column(name, justify="right" if numbers else "left", overflow="fold")
        for row in answer.rows:
            table.add_row(*(Text(_text(value)) for value in row))
        self._screen.print(table, soft_wrap=False)
        self._screen.print(f"{len(answer.rows)} row{'' if len(answer.rows) == 1 else 's'}")


def _plain(answer: Answer) -> object:
    if not answer.columns:
        return {"ok": answer.words}
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _text(value: Value) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
