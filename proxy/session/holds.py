"""What a session takes and gives back by name: locks, handlers, temporary tables, statements of SQL's own PREPARE.

`of` reads the names in a text; `Held` is what a session has. A pin ends when everything that it stands for has been
given back, and only where every name is known: what was taken in words that are not understood here stays until the
session is reset. A name is compared as it was written, so that nobody has to know how the server compares names; one
written otherwise is another one, and is not given back.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from proxy.session import pins as p
from proxy.session.lexer import unquote

NAMEABLE: Final = p.NAMED_LOCK | p.TEMPORARY_TABLE | p.HANDLER | p.TEXT_PREPARE | p.BACKUP_LOCK


class Hold(NamedTuple):
    """A thing that a statement takes, or gives back: its pin and its name; without a name, nobody knows which.

    `schema` says that the name is one of the session's schema, `bound` that it is the first parameter of the statement;
    `text` is what a PREPARE prepares, if that is plain.
    """

    pin: int
    takes: bool
    name: bytes
    schema: bool = False
    text: bytes = b""
    bound: bool = False


_NAME: Final = rb"(?:[\w$\x80-\xff]++|`(?:[^`]++|``)++`)"
_TABLE: Final = rb"(?:" + _NAME + rb"\s*+\.\s*+)?" + _NAME
_LITERAL: Final = rb"'([^'\\]*+)'"
_AS: Final = rb"(?:\s++(?:as\s++)?(?:[a-z_]\w*+|`[^`]++`))?"
_END: Final = rb"\s*+;?\s*+\Z"


def _pattern(text: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"\s*+" + text, re.IGNORECASE)


_CREATE: Final = _pattern(
    rb"create\s++(?:or\s++replace\s++)?temporary\s++table\s++(?:if\s++not\s++exists\s++)?(" + _TABLE + rb")(?=[\s(])"
)
_DROP: Final = _pattern(
    rb"drop\s++(?:temporary\s++)?tables?\s++(?:if\s++exists\s++)?("
    + _TABLE
    + rb"(?:\s*+,\s*+"
    + _TABLE
    + rb")*+)(?:\s++(?:restrict|cascade))?"
    + _END
)
_EACH: Final = re.compile(_TABLE)
_PARTS: Final = re.compile(_NAME)
_OPEN: Final = _pattern(rb"handler\s++(" + _TABLE + rb")\s++open(?:\s++(?:as\s++)?(" + _NAME + rb"))?" + _END)
_CLOSE: Final = _pattern(rb"handler\s++(" + _TABLE + rb")\s++close" + _END)
_PREPARE: Final = _pattern(rb"prepare\s++(" + _NAME + rb")\s++from\b(?:\s*+" + _LITERAL + _END + rb")?")
_EXECUTE: Final = _pattern(rb"execute\s++(" + _NAME + rb")(?:\s++using\b[^'\"`]*+)?" + _END)
_DEALLOCATE: Final = _pattern(rb"(?:deallocate|drop)\s++prepare\s++(" + _NAME + rb")" + _END)
_PLAIN_NAME: Final = re.compile(rb"[ !#-&(-\[\]-~]{1,64}\Z")  # printable ASCII without a quote or a backslash
_LOCK: Final = _pattern(
    rb"(?:select|do)\s++(?:get|release)_lock\s*+\(\s*+(?:" + _LITERAL + rb"|(\?))\s*+(?:,[^()]*+)?\)" + _AS + _END
)
_RELEASE_ALL: Final = _pattern(rb"(?:select|do)\s++release_all_locks\s*+\(\s*+\)" + _AS + _END)


def of(sql: bytes, kind: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    """What the statement `sql`, alone in its text, takes or gives back; `tokens` are its own, `kind` the first."""
    reader = _READERS.get(kind)
    return () if reader is None else reader(sql, tokens)


def executed(sql: bytes) -> bytes:
    """The name in an EXECUTE, or nothing."""
    match = _EXECUTE.match(sql)
    return b"" if match is None else unquote(match[1])


def plain_name(name: bytes | None) -> bytes:
    """A name that may stand between quotes as it is, or nothing."""
    return name if name is not None and _PLAIN_NAME.match(name) else b""


def _create(sql: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    match = _CREATE.match(sql)
    return () if match is None else (_table(match[1], takes=True),)


def _drop(sql: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    if tokens[1:2] == [b"prepare"]:
        return _deallocate(sql, tokens)
    match = _DROP.match(sql)
    return () if match is None else tuple(_table(name, takes=False) for name in _EACH.findall(match[1]))


def _table(text: bytes, *, takes: bool) -> Hold:
    names = [unquote(name) for name in _PARTS.findall(text)]
    return Hold(p.TEMPORARY_TABLE, takes, b".".join(names), schema=len(names) == 1)


def _rename(sql: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    """A temporary table may have another name now."""
    return (Hold(p.TEMPORARY_TABLE, True, b""),) if b"rename" in tokens else ()


def _handler(sql: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    for pattern in (_OPEN, _CLOSE):
        match = pattern.match(sql)
        if match is not None:
            name = (match[2] if pattern is _OPEN else None) or _PARTS.findall(match[1])[-1]
            return (Hold(p.HANDLER, pattern is _OPEN, unquote(name)),)
    return ()


def _prepare(sql: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    match = _PREPARE.match(sql)
    return () if match is None else (Hold(p.TEXT_PREPARE, True, unquote(match[1]), text=match[2] or b""),)


def _deallocate(sql: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    match = _DEALLOCATE.match(sql)
    return () if match is None else (Hold(p.TEXT_PREPARE, False, unquote(match[1])),)


def _backup(sql: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    words = tokens[1:3]
    if words[:1] == [b"stage"]:
        return (Hold(p.BACKUP_LOCK, words != [b"stage", b"end"], b"stage"),)
    return (Hold(p.BACKUP_LOCK, words[:1] == [b"lock"], b"lock"),) if words[:1] in ([b"lock"], [b"unlock"]) else ()


def _instance(sql: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    return (Hold(p.BACKUP_LOCK, tokens[0] == b"lock", b"instance"),) if tokens[1:2] == [b"instance"] else ()


def _select(sql: bytes, tokens: list[bytes]) -> tuple[Hold, ...]:
    """A lock: whether it was got, and how often, only the server knows; so what is named is asked about."""
    if tokens[1:2] == [b"release_all_locks"]:
        return (Hold(p.NAMED_LOCK, False, b""),) if _RELEASE_ALL.match(sql) else ()
    if tokens[1:2] not in ([b"get_lock"], [b"release_lock"]):
        return ()
    match = _LOCK.match(sql)
    if match is None:
        return ()
    return (Hold(p.NAMED_LOCK, tokens[1] == b"get_lock", match[1] or b"", bound=match[2] is not None),)


_READERS: Final = {
    b"create": _create,
    b"drop": _drop,
    b"alter": _rename,
    b"rename": _rename,
    b"handler": _handler,
    b"prepare": _prepare,
    b"deallocate": _deallocate,
    b"backup": _backup,
    b"lock": _instance,
    b"unlock": _instance,
    b"select": _select,
    b"do": _select,
}


class Held:
    """What a session has taken by name, and of which pins it has taken something without one."""

    __slots__ = ("_names", "_unnamed")

    def __init__(self) -> None:
        self._names: dict[int, set[bytes]] = {}
        self._unnamed = 0

    def unnamed(self, mask: int) -> None:
        """Something of these pins was taken that nobody can name."""
        self._unnamed |= mask

    def take(self, pin: int, name: bytes) -> None:
        """It is the session's now."""
        self._names.setdefault(pin, set()).add(name)

    def give(self, pin: int, name: bytes) -> None:
        """It is not any more."""
        self._names.get(pin, set()).discard(name)

    def nothing(self, mask: int) -> None:
        """Nothing of these pins is."""
        for pin in [pin for pin in self._names if pin & mask]:
            del self._names[pin]
        self._unnamed &= ~mask

    def names(self, pin: int) -> set[bytes] | None:
        """What the session has of the kind; None if there may be more."""
        return None if self._unnamed & pin else self._names.get(pin, set())

    def over(self, pin: int) -> bool:
        """Everything of the kind has been given back."""
        return not self._unnamed & pin and not self._names.get(pin)
