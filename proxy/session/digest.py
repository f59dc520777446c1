"""What a statement is, without its data: `SELECT v FROM t WHERE id = ?`.

For people and for counting, never for decisions. Literals and comments are taken out. Where a literal has no end,
because the text is cut or broken, nothing behind its beginning is shown; a digest is shown where a text must not be.
Lists become one `?, …`, so that a statement with another number of values has the same digest. Only the head of a text
is read: how it goes on tells little.

Measured 2026-11-25, CPython 3.11, 2 shared cores: 9 µs for an ORM's SELECT of 327 bytes, 37 µs for a longer IN list.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.session.lexer import ANSI_QUOTES, UNSAFE_CHARSET, code_pieces

READ: Final = 1024  # bytes of a text that are read
LENGTH: Final = 500  # characters of a digest

_NUMBER: Final = re.compile(rb"(?<![\w$@`\x80-\xff])\.?\d[\w.]*+(?:(?<=[eE])[+-]\d++)?")
_LIST: Final = re.compile(rb"\?(?: *+,? *+\?)++")
_ROWS: Final = re.compile(rb"(\([^()]*+\))(?: *+, *+\([^()]*+(?:\)|\Z))+")
_PASSWORD: Final = re.compile(rb"identified|password", re.IGNORECASE)
_WORD: Final = re.compile(rb"[\s(]*+([A-Za-z]++)")


def digest(sql: bytes, mode: int = 0) -> str:
    """The digest of `sql`, read in `mode` (see `lexer.mode_of`)."""
    head = sql[:READ]
    cut = len(sql) > READ
    if mode & UNSAFE_CHARSET and not head.isascii():
        word = _WORD.match(head)
        return f"{word[1].decode()} …" if word else "…"
    if mode & ANSI_QUOTES and _PASSWORD.search(head):
        mode &= ~ANSI_QUOTES  # the server will say that there is no place for a name, but it is a password
    pieces, whole = code_pieces(head, mode)
    # Numbers are looked for piece by piece no more than once: a literal stands for itself.
    text = _NUMBER.sub(b"?", b"?".join(pieces))
    text = b" ".join(text.split())
    if text.find(b",") >= 0 or text.find(b"? ?") >= 0 or text.find(b"??") >= 0:
        text = _ROWS.sub(rb"\1, ...", _LIST.sub(_one, text))
    return as_line(text, cut=cut or not whole)


def _one(match: re.Match[bytes]) -> bytes:
    """Several literals in a row are a list; without a comma between them they are one that is written in pieces."""
    return b"?, ..." if b"," in match[0] else b"?"


def as_line(text: bytes, *, cut: bool = False) -> str:
    """A text as one line for people, of bounded length."""
    line = text.decode("utf-8", "replace").replace(", ...", ", …")
    if not line.isprintable() or "  " in line:
        line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    line = line.rstrip("; ")
    if len(line) > LENGTH or cut:
        line = f"{line[:LENGTH].removesuffix('…').rstrip(' ,')} …"
    return line
