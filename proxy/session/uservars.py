"""User variables that can be carried: those that SET gives a constant (protocol.md C.4).

A constant is written down so that it means the same in every session: a string with the charset and the collation of
the connection it was written on. They are kept beside the session variables, under their name with its `@`, lower-cased
as the server compares it. Everything else that sets a user variable pins.
"""

from __future__ import annotations

import re
from typing import Final

Assignments = tuple[tuple[bytes, bytes], ...]  # names with their @, constants as they were written

_NAME: Final = rb"@([A-Za-z0-9_$.]{1,64})"
_NUMBER: Final = rb"-?\d{1,30}(?:\.\d{1,30})?(?:[eE][-+]?\d{1,3})?"
# Printable ASCII without a quote or a backslash reads the same in every sql_mode.
_STRING: Final = rb"'[ !#-&(-\[\]-~]*'"
_CONSTANT: Final = rb"(?:" + _NUMBER + rb"|" + _STRING + rb"|null|true|false)"
_ONE: Final = _NAME + rb"\s*+:?=\s*+(" + _CONSTANT + rb")(?=[\s,;]|\Z)"
_SET: Final = re.compile(
    rb"\s*+set\s++" + _ONE + rb"(?:\s*+,\s*+" + _ONE + rb")*\s*+;?\s*+\Z",
    re.IGNORECASE,
)
_EACH: Final = re.compile(_ONE, re.IGNORECASE)
_LONGEST: Final = 1024  # bytes of a text that is looked at

# Of these a literal in ASCII is the same bytes in whatever charset the client writes.
_CHARSETS: Final = frozenset((b"ascii", b"latin1", b"utf8", b"utf8mb3", b"utf8mb4"))


def assigned(sql: bytes) -> Assignments:
    """What the statement `sql` assigns, if it is a SET of nothing but user variables to nothing but constants."""
    if len(sql) > _LONGEST or _SET.match(sql) is None:
        return ()
    return tuple((b"@" + name.lower(), value) for name, value in _EACH.findall(sql))


def constant(value: bytes, collation: bytes) -> bytes | None:
    """`value`, written on a connection with this @@collation_connection, for any other; None if that cannot be done."""
    if value[:1] != b"'":
        return value
    charset = collation.partition(b"_")[0]
    return b"_" + charset + value + b" COLLATE " + collation if charset in _CHARSETS else None
