"""SQL text with everything that is data taken out.

`blank` lower-cases a text, puts a run of quotes where string literals stood and a space where a comment stood. What it
leaves is what the server's grammar sees. It returns None when it cannot be sure where a literal or a comment ends:
callers must then assume the worst. It never guesses:

* executable comments stay, as ` /*! … */ `, because servers disagree on whether to run them; one whose extent
  depends on being run (an unbalanced quote or another comment inside) is refused;
* a double-quoted identifier (ANSI_QUOTES) becomes a backticked one, so that nobody below has to know the mode;
* in a charset whose second bytes can be quotes or backslashes, only pure ASCII text is read.

Measured 2026-11-23, CPython 3.11, 2 shared cores: 2.7 µs for 407 bytes with backticks, 45 µs for an 11 KB IN list.
"""

from __future__ import annotations

import re
from typing import Final

NO_BACKSLASH_ESCAPES: Final = 1
ANSI_QUOTES: Final = 2
UNSAFE_CHARSET: Final = 4

_UNSAFE_CHARSETS: Final = frozenset((b"big5", b"cp932", b"gb18030", b"gbk", b"sjis"))


def mode_of(sql_mode: bytes, client_charset: bytes) -> int:
    """The lexing mode that follows from @@sql_mode (as reported, any case) and @@character_set_client."""
    words = sql_mode.upper().split(b",")
    mode = NO_BACKSLASH_ESCAPES if b"NO_BACKSLASH_ESCAPES" in words else 0
    if b"ANSI_QUOTES" in words or b"ANSI" in words:
        mode |= ANSI_QUOTES
    if client_charset.lower() in _UNSAFE_CHARSETS:
        mode |= UNSAFE_CHARSET
    return mode


# A doubled quote inside a literal needs no rule: it reads as two adjacent literals, which is one run of quotes.
_LITERAL_BODIES: Final[dict[int, bytes]] = {
    0: rb"[^Q\\]*+(?:\\.[^Q\\]*+)*+",
    NO_BACKSLASH_ESCAPES: rb"[^Q]*+",
}


def _literal(mode: int) -> bytes:
    body = _LITERAL_BODIES[mode & NO_BACKSLASH_ESCAPES]
    single = b"'" + body.replace(b"Q", b"'") + b"'"
    if mode & ANSI_QUOTES:
        return single
    return single + b'|"' + body.replace(b"Q", b'"') + b'"'


def _identifier(mode: int) -> bytes:
    return rb'`[^`]*+`|"[^"]*+"' if mode & ANSI_QUOTES else rb"`[^`]*+`"


def _no_comments(mode: int) -> re.Pattern[bytes]:
    """One group: code (or a lone quote, which means the text is broken); literals match outside the group."""
    return re.compile(
        _literal(mode) + rb"|((?:[^'\"`]++|" + _identifier(mode) + rb")++|['\"`])",
        re.DOTALL,
    )


def _with_comments(mode: int) -> re.Pattern[bytes]:
    literal = _literal(mode)
    # An executable comment must have the same extent whether it is run or skipped. Hints carry no literals.
    inside = rb"[^'\"`#*/\-\\\0]|-(?!-)|\*(?!/)|/(?!\*)|(?:(?!\*/)(?:`[^`*]*+`|'[^'*\\]*+'))"
    return re.compile(
        rb"(?P<code>(?:[^'\"`#/\-\0]++|"
        + _identifier(mode)
        + rb"|/(?!\*)|-(?!-)|-(?=-[^\x00-\x20\x7f-\xff]))++)"
        + rb"|(?P<literal>"
        + literal
        + rb")|(?P<comment>(?:#|--(?:(?=[\x00-\x20])|\Z))[^\n\0]*+(?=\n|\Z)"
        + rb"|/\*\+[^'\"`*]*+(?:\*(?!/)[^'\"`*]*+)*+\*/"
        + rb"|/\*(?![!+]|[mM]!)[^*]*+(?:\*(?!/)[^*]*+)*+\*/)"
        + rb"|/\*[mM]?!(?:\d{5,6})?(?P<run>(?:"
        + inside
        + rb")*+)\*/"
        + rb"|(?P<bad>.)",
        re.DOTALL,
    )


_MODES: Final = range(4)
_PLAIN: Final = tuple(_no_comments(mode) for mode in _MODES)
_FULL: Final = tuple(_with_comments(mode) for mode in _MODES)
_LONE: Final = frozenset((b"'", b'"', b"`"))
_QUOTED: Final = re.compile(rb'`[^`]*+`|"((?:[^"]|"")*+)"')
_TOKEN: Final = re.compile(rb"[\w$\x80-\xff]++|`(?:[^`]++|``)*+`|'++|@@?|:=|/\*!|\*/|[^\s\w]")


def blank(sql: bytes, mode: int) -> bytes | None:
    """`sql` in lower case without literals and comments; None if it cannot be read with certainty."""
    if mode & UNSAFE_CHARSET and not sql.isascii():
        return None
    mode &= 3
    # `find` and not `in`, which on bytes first tries its left side as a number and costs twice as much.
    if sql.find(b"/*") >= 0 or sql.find(b"--") >= 0 or sql.find(b"#") >= 0 or sql.find(b"\0") >= 0:
        text = _blank_with_comments(sql, mode)
        if text is None:
            return None
    else:
        pieces = _PLAIN[mode].findall(sql)
        if not _LONE.isdisjoint(pieces):
            return None
        text = b"'".join(_between(pieces))
    if mode & ANSI_QUOTES and b'"' in text:
        text = _QUOTED.sub(_backticked, text)
    return text.lower()


def _blank_with_comments(sql: bytes, mode: int) -> bytes | None:
    out: list[bytes] = []
    for match in _FULL[mode].finditer(sql):
        group = match.lastgroup
        if group == "code":
            out.append(match[0])
        elif group == "literal":
            out.append(b"''")
        elif group == "comment":
            if out and out[-1].endswith(b"--"):
                return None  # `--#`: what is left would read as the beginning of another comment
            out.append(b" ")
        elif group == "run":
            inner = blank(match["run"], mode & ~ANSI_QUOTES)
            if inner is None:
                return None
            out += (b" /*! ", inner, b" */ ")
        else:
            return None
    return b"".join(out)


def code_pieces(sql: bytes, mode: int) -> tuple[list[bytes], bool]:
    """What is left of `sql` between its string literals, in its own case; comments of every kind are left out.

    False beside it: the text cannot be read to its end with certainty, and what follows is left out.
    """
    mode &= 3
    pieces: list[bytes] = []
    if sql.find(b"/*") < 0 and sql.find(b"--") < 0 and sql.find(b"#") < 0 and sql.find(b"\0") < 0:
        pieces = _PLAIN[mode].findall(sql)
        for at, piece in enumerate(pieces):
            if piece in _LONE:
                return [*pieces[:at], b""], False
        return _between(pieces), True
    code = b""
    for match in _FULL[mode].finditer(sql):
        group = match.lastgroup
        if group == "code":
            code += match[0]
        elif group == "literal":
            pieces.append(code)
            code = b""
        elif group == "bad":
            return [*pieces, code, b""], False
        else:
            code += b" "
    return [*pieces, code], True


def _between(pieces: list[bytes]) -> list[bytes]:
    """A literal is an empty piece between two pieces of code: joining what this gives leaves one mark for it."""
    if pieces and not pieces[0]:
        pieces.insert(0, b"")
    if pieces and not pieces[-1]:
        pieces.append(b"")
    return pieces


def _backticked(match: re.Match[bytes]) -> bytes:
    name = match[1]
    return match[0] if name is None else b"`" + name.replace(b'""', b'"').replace(b"`", b"``") + b"`"


def tokens(blanked: bytes) -> list[bytes]:
    """Words, backticked names, a run of quotes for literals, `@`, `@@`, `:=`, `/*!`, `*/` and single characters."""
    return _TOKEN.findall(blanked)


def statements(blanked: bytes) -> list[list[bytes]]:
    """The tokens of each statement of a text, split at semicolons; empty ones are left out."""
    found: list[list[bytes]] = []
    current: list[bytes] = []
    for token in _TOKEN.findall(blanked):
        if token == b";":
            if current:
                found.append(current)
                current = []
        else:
            current.append(token)
    if current:
        found.append(current)
    return found


def unquote(token: bytes) -> bytes:
    """A name as the server knows it: without its backticks."""
    return token[1:-1].replace(b"``", b"`") if token[:1] == b"`" else token
