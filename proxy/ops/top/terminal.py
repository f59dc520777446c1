"""The terminal: its modes, which are given back however this ends, the keys it sends, and the lines it shows.

Only lines that have changed are written: over a slow line a second's worth of numbers is a few hundred bytes.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
import sys
import termios
import tty
from collections.abc import Sequence
from typing import Any, Self

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"  # the other screen, no cursor, no line goes over the edge
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_DUMB = ("", "dumb", "unknown")
_REPLACED = {"…": "~", "–": "-", "↑": "^", "↓": "v", "←": "<", "→": ">"}  # where the encoding lacks them
_KEYS = {
    "\x03": "interrupt",
    "\x04": "q",
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "erase",
    "\x1b": "escape",
    "\ufffd": "other",
}
_SEQUENCES = {
    "A": "up",
    "B": "down",
    "C": "right",
    "D": "left",
    "H": "home",
    "F": "end",
    "Z": "shift tab",
    "1~": "home",
    "4~": "end",
    "5~": "page up",
    "6~": "page down",
    "7~": "home",
    "8~": "end",
}
_SEQUENCE = re.compile(r"\x1b(?:\[([0-9;?]*[ -/]*[@-~])|O([@-~]))")
_BEGINNING = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*|O)?")


def what_is_missing() -> str:
    """Why this cannot be shown where we are, in words; empty if it can."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        which = "input" if sys.stdout.isatty() else "output"
        return f"needs a terminal, and standard {which} is none (ssh -t and docker exec -it give one)"
    if os.environ.get("TERM", "") in _DUMB:
        term = os.environ.get("TERM")
        return f"needs a terminal that can move its cursor, and TERM is {'not set' if term is None else repr(term)}"
    return ""


class Keys:
    """Bytes in, names of keys out: a printable character is its own name."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._text = ""

    @property
    def unclear(self) -> bool:
        """Whether an escape has come that may be the key or the beginning of another."""
        return bool(self._text)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete with this."""
        self._text += self._decode(data)
        keys = []
        while self._text:
            sequence = _SEQUENCE.match(self._text)
            if sequence is not None:
                self._text = self._text[sequence.end() :]
                keys += _named(sequence[1] or sequence[2])
            elif _BEGINNING.fullmatch(self._text):
                break
            else:
                key, self._text = self._text[0], self._text[1:]
                keys += [_KEYS.get(key, key if key.isprintable() else "other")]
        return keys

    def settle(self) -> list[str]:
        """Nothing more has come: an escape was the key."""
        was, self._text = self._text, ""
        return ["escape"] if was else []


def _named(sequence: str) -> list[str]:
    """`A`, and `1;5A` with a modifier."""
    plain = sequence if sequence.endswith("~") else sequence[-1]
    return [_SEQUENCES[plain]] if plain in _SEQUENCES else []


class Terminal:
    """The terminal of standard input and output, while this context lasts."""

    def __init__(self) -> None:
        self._in = sys.stdin.fileno()
        self._out = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "ascii"
        self._replaced = {} if self.can_show("".join(_REPLACED)) else str.maketrans(_REPLACED)
        self._modes: list[Any] | None = None
        self._shown: list[str] = []

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    @property
    def fileno(self) -> int:
        """Where keys come from."""
        return self._in

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now; what the terminal does not say is 80 and 24."""
        columns, lines = os.get_terminal_size(self._out)
        return columns or 80, lines or 24

    def can_show(self, text: str) -> bool:
        """Whether its encoding has these characters."""
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            return False
        return True

    def take(self) -> None:
        """Keys as they are pressed, unseen; a screen of our own."""
        self._modes = termios.tcgetattr(self._in)
        tty.setcbreak(self._in)
        modes = termios.tcgetattr(self._in)
        modes[0] &= ~termios.IXON  # Ctrl-S, pressed by accident, would stop us for good
        termios.tcsetattr(self._in, termios.TCSANOW, modes)
        self._write(_ENTER)
        self._shown = []

    def give_back(self) -> None:
        """As it was."""
        if self._modes is None:
            return
        modes, self._modes = self._modes, None
        with contextlib.suppress(OSError, termios.error):  # it may be gone
            self._write(_LEAVE)
            # What was typed and not read is not for the shell: it may be the y of a confirmation.
            termios.tcsetattr(self._in, termios.TCSAFLUSH, modes)

    def read(self) -> bytes:
        """Keys that were pressed; empty: there is no terminal any more."""
        try:
            return os.read(self._in, 4096)
        except OSError:
            return b""

    def forget(self) -> None:
        """What is shown is not known: everything is written again."""
        self._shown = []

    def show(self, lines: Sequence[str]) -> None:
        """These lines are the screen now."""
        out = [] if self._shown else ["\x1b[0m\x1b[2J"]
        for at, line in enumerate(lines):
            if at >= len(self._shown) or self._shown[at] != line:
                out.append(f"\x1b[{at + 1};1H\x1b[0m\x1b[K{line}")  # a full line leaves the cursor on its last
        if len(lines) < len(self._shown):
            out.append(f"\x1b[{len(lines) + 1};1H\x1b[J")
        self._shown = list(lines)
        self._write("".join(out))

    def _write(self, text: str) -> None:
        data = text.translate(self._replaced).encode(self._encoding, "replace")
        while data:
            try:
                data = data[os.write(self._out, data) :]
            except BlockingIOError:  # somebody else has set the terminal to that
                select.select([], [self._out], [])
