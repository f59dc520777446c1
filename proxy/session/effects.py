"""What one statement does, from its tokens (protocol.md C.3 and C.4): the third stage of `classify`.

Law: everything not understood is OPAQUE, and OPAQUE pins. An effect may be too careful, never too bold.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from proxy.session import pins as p
from proxy.session.functions import HARMLESS
from proxy.session.lexer import unquote
from proxy.session.verdict import (
    CALC_FOUND_ROWS,
    CHARSET,
    CREDENTIALS,
    DML,
    IGNORE_TRACKERS,
    KEEPS_DIAGNOSTICS,
    LOCAL_INFILE,
    NEED_FOUND_ROWS,
    NEED_INSERT_ID,
    NEED_LAST_BACKEND,
    NEED_ROW_COUNT,
    NEED_WARNINGS,
    NOTHING,
    PINS_ON_SUCCESS,
    PLAIN,
    RESULTS_COLLATION,
    SETS_INSERT_ID,
    TIMESTAMP_DEFAULT,
    TRANSACTION_CONTROL,
    UNKNOWN,
    Effect,
)

_WORD: Final = re.compile(rb"[\w$`\x80-\xff]")
_SCOPES: Final = frozenset((b"global", b"session", b"local", b"persist", b"persist_only"))
_GLOBAL: Final = frozenset((b"global", b"persist", b"persist_only"))
_NEXT_TRANSACTION: Final = frozenset(
    (b"transaction_isolation", b"tx_isolation", b"transaction_read_only", b"tx_read_only")
)
_READS: Final[dict[bytes, int]] = {
    b"identity": NEED_INSERT_ID,
    b"last_insert_id": NEED_INSERT_ID,
    b"warning_count": NEED_WARNINGS,
    b"error_count": NEED_WARNINGS,
    b"last_gtid": NEED_LAST_BACKEND,
}
_STORED_PROGRAMS: Final = frozenset((b"procedure", b"function", b"trigger", b"event", b"package", b"library"))
_DDL_OBJECTS: Final = frozenset(
    b"""
    aggregate algorithm component database definer event external foreign fulltext function ignore index
    instance json library logfile materialized offline online or package procedure public relational
    replica resource role schema sequence server spatial sql table tables tablespace trigger undo unique
    user vector view
    """.split()
)
_COUNT_WORDS: Final = frozenset((b"warnings", b"errors"))
_INSERT_WORDS: Final = frozenset((b"insert", b"replace", b"ignore", b"delayed", b"low_priority", b"high_priority"))


class Effects:
    """Statements to effects, for one kind of server. `trusted` are functions known to leave nothing behind."""

    def __init__(self, mariadb: bool, trusted: frozenset[bytes]) -> None:
        self.mariadb = mariadb
        self._trusted = trusted
        self._handlers: dict[bytes, Callable[[list[bytes]], Effect]] = self._table()

    def of(self, parts: list[list[bytes]]) -> Effect:
        """The effect of a text's statements, each a list of tokens."""
        if not parts:
            return Effect(flags=PLAIN)
        if len(parts) > 1 and any(_stored_program(part) for part in parts):
            return UNKNOWN  # nobody but the server's grammar knows where its body ends
        total: Effect | None = None
        for number, part in enumerate(parts, 1):
            effect = self._statement(part)
            if number < len(parts) and _changes_lexing(part, effect):
                effect = effect.plus(p.OPAQUE, NEED_INSERT_ID)  # the server reads the rest in another mode than we did
            if effect.needs & NEED_LAST_BACKEND and _named_in(part, b"lastval") <= _drawn_before(parts, number):
                effect = effect._replace(needs=effect.needs & ~NEED_LAST_BACKEND)  # the text knows it by itself
            total = effect if total is None else total.then(effect)
        assert total is not None
        # An error says only that the last statement run did nothing, and several answers are not taken in at a glance.
        return total if len(parts) == 1 else total._replace(flags=total.flags & ~(PINS_ON_SUCCESS | PLAIN))

    def _statement(self, part: list[bytes]) -> Effect:
        first = next((token for token in part if token != b"("), b"")
        handler = self._handlers.get(first)
        if handler is None or (part[0] == b"(" and first not in DML):
            return UNKNOWN.then(self._scan(part))
        return handler(part)

    def _table(self) -> dict[bytes, Callable[[list[bytes]], Effect]]:
        table: dict[bytes, Callable[[list[bytes]], Effect]] = {}
        for kind in (*DML, b"explain", b"describe", b"desc", b"help"):
            table[kind] = self._ordinary
        # They commit, or concern the whole server, but leave nothing in the session.
        for kind in (
            b"analyze check checksum optimize repair truncate cache purge reset change stop install"
            b" uninstall shutdown restart import signal resignal"
        ).split():
            table[kind] = self._free
        table.update(
            {
                b"show": self._show,
                b"get": self._get_diagnostics,
                b"load": self._load,
                b"analyze": self._analyze,
                b"set": self._set,
                b"use": self._free,
                b"kill": self._free,
                b"begin": self._begin,
                b"start": self._start,
                b"commit": self._end_of_transaction,
                b"rollback": self._end_of_transaction,
                b"savepoint": _always(Effect(p.SAVEPOINT, flags=TRANSACTION_CONTROL)),
                b"release": _always(Effect(flags=TRANSACTION_CONTROL)),
                b"xa": self._xa,
                b"lock": self._lock,
                b"unlock": self._unlock,
                b"backup": self._backup,
                b"flush": self._flush,
                b"rename": self._rename,
                b"handler": self._handler,
                b"prepare": self._prepare,
                b"deallocate": self._prepare,
                b"execute": self._execute,
                b"create": self._create,
                b"alter": self._alter,
                b"drop": self._drop,
                b"grant": self._grant,
                b"revoke": self._grant,
            }
        )
        return table

    def _ordinary(self, part: list[bytes]) -> Effect:
        effect = self._scan(part)
        return effect if effect.pins & p.OPAQUE else effect.plus(flags=PLAIN)

    def _free(self, part: list[bytes]) -> Effect:
        return self._scan(part)

    def _show(self, part: list[bytes]) -> Effect:
        effect = self._ordinary(part)
        asks = part[1:2] and part[1] in _COUNT_WORDS
        counts = part[1:2] == [b"count"] and part[-1] in _COUNT_WORDS
        return effect.plus(needs=NEED_WARNINGS, flags=KEEPS_DIAGNOSTICS) if asks or counts else effect

    def _get_diagnostics(self, part: list[bytes]) -> Effect:
        if b"diagnostics" not in part[1:3]:
            return UNKNOWN
        needs = NEED_WARNINGS | (NEED_ROW_COUNT if b"row_count" in part else 0)
        return self._scan(part).plus(p.USER_VARIABLE, needs, KEEPS_DIAGNOSTICS)

    def _load(self, part: list[bytes]) -> Effect:
        if part[1:2] == [b"index"]:
            return NOTHING
        if part[1:2] != [b"data"] and part[1:2] != [b"xml"]:
            return UNKNOWN
        effect = self._scan(part).plus(flags=LOCAL_INFILE if b"local" in part[2:5] else 0)
        return effect.plus(p.USER_VARIABLE) if b"@" in part else effect.plus(flags=PLAIN)

    def _analyze(self, part: list[bytes]) -> Effect:
        if part[1:2] and part[1] in (b"table", b"tables", b"local", b"no_write_to_binlog"):
            return NOTHING
        return self._ordinary(part)

    def _begin(self, part: list[bytes]) -> Effect:
        if part not in ([b"begin"], [b"begin", b"work"]):
            return UNKNOWN.then(self._scan(part))
        return Effect(unpins=p.SAVEPOINT | p.LOCK_TABLES, flags=TRANSACTION_CONTROL)

    def _start(self, part: list[bytes]) -> Effect:
        if part[1:2] == [b"transaction"]:
            return Effect(unpins=p.SAVEPOINT | p.LOCK_TABLES, flags=TRANSACTION_CONTROL)
        return NOTHING if part[1:2] else UNKNOWN  # START REPLICA and its family concern the server

    def _end_of_transaction(self, part: list[bytes]) -> Effect:
        ends = b"to" not in part[:3]
        return Effect(unpins=p.SAVEPOINT if ends else 0, flags=TRANSACTION_CONTROL)

    def _xa(self, part: list[bytes]) -> Effect:
        word = part[1] if len(part) > 1 else b""
        if word == b"recover":
            return Effect(flags=PLAIN)
        # After XA PREPARE MariaDB's session owns the branch until it disconnects; MySQL's has let it go.
        if word in (b"commit", b"rollback") or (word == b"prepare" and not self.mariadb):
            return Effect(unpins=p.XA, flags=TRANSACTION_CONTROL)
        if word in (b"end", b"prepare"):
            return Effect(flags=TRANSACTION_CONTROL)  # of a branch that XA START has begun, or of none
        known = PINS_ON_SUCCESS if word in (b"start", b"begin") else 0
        return Effect(p.XA, flags=TRANSACTION_CONTROL | known)

    def _lock(self, part: list[bytes]) -> Effect:
        word = part[1] if len(part) > 1 else b""
        if word == b"instance":
            return Effect(p.BACKUP_LOCK, flags=PINS_ON_SUCCESS)
        if word not in (b"table", b"tables"):
            return UNKNOWN.plus(p.BACKUP_LOCK)
        return Effect(p.LOCK_TABLES | (p.BACKUP_LOCK if b"backup" in part[2:] else 0))

    def _unlock(self, part: list[bytes]) -> Effect:
        word = part[1] if len(part) > 1 else b""
        if word in (b"table", b"tables"):
            return Effect(unpins=p.LOCK_TABLES | p.GLOBAL_READ_LOCK)
        return NOTHING

    def _rename(self, part: list[bytes]) -> Effect:
        return Effect(flags=CREDENTIALS) if part[1:2] == [b"user"] else self._free(part)

    def _backup(self, part: list[bytes]) -> Effect:
        # STAGE END and UNLOCK end one lock each; which of them are held then: module `holds`.
        return NOTHING if part[1:2] == [b"unlock"] or part[1:3] == [b"stage", b"end"] else Effect(p.BACKUP_LOCK)

    def _flush(self, part: list[bytes]) -> Effect:
        flags = CREDENTIALS if b"privileges" in part else 0
        if b"table" not in part and b"tables" not in part:
            return Effect(flags=flags)
        where = part.index(b"tables") if b"tables" in part else part.index(b"table")
        rest = part[where + 1 :]
        if rest[:1] == [b"with"]:
            return Effect(p.GLOBAL_READ_LOCK)
        if b"with" in rest or b"export" in rest:
            return Effect(p.LOCK_TABLES)
        return Effect(flags=flags)

    def _handler(self, part: list[bytes]) -> Effect:
        verb = part[4] if part[2:3] == [b"."] and len(part) > 4 else part[2] if len(part) > 2 else b""
        effect = self._scan(part)
        if verb in (b"read", b"close"):
            return effect
        return effect.plus(p.HANDLER)

    def _prepare(self, part: list[bytes]) -> Effect:
        return NOTHING if part[0] == b"deallocate" else Effect(p.TEXT_PREPARE, flags=PINS_ON_SUCCESS)

    def _execute(self, part: list[bytes]) -> Effect:
        everything = NEED_INSERT_ID | NEED_WARNINGS | NEED_ROW_COUNT | NEED_FOUND_ROWS | NEED_LAST_BACKEND
        return UNKNOWN.plus(p.TEXT_PREPARE, everything, SETS_INSERT_ID | CALC_FOUND_ROWS)

    def _create(self, part: list[bytes]) -> Effect:
        if b"temporary" in part[1:5]:
            where = part.index(b"temporary")
            effect = self._scan(_query_of(part))
            # A failing CREATE TEMPORARY … SELECT leaves no table.
            flags = 0 if effect.pins else PINS_ON_SUCCESS
            known = part[where + 1 : where + 2] and part[where + 1] in (b"table", b"sequence")
            return (
                effect.plus(p.TEMPORARY_TABLE, flags=flags) if known else UNKNOWN.then(effect).plus(p.TEMPORARY_TABLE)
            )
        if part[1:2] and part[1] not in _DDL_OBJECTS:
            return UNKNOWN
        if part[1:2] == [b"user"] or part[1:4] == [b"or", b"replace", b"user"]:
            return Effect(flags=CREDENTIALS)
        if b"table" not in part[1:5]:
            return NOTHING  # a view or a stored program is only stored
        return self._scan(_query_of(part))

    def _alter(self, part: list[bytes]) -> Effect:
        if part[1:2] == [b"user"]:
            return Effect(flags=CREDENTIALS)
        return NOTHING if part[1:2] and part[1] in _DDL_OBJECTS else UNKNOWN

    def _drop(self, part: list[bytes]) -> Effect:
        word = part[1] if len(part) > 1 else b""
        if word == b"user":
            return Effect(flags=CREDENTIALS)
        return NOTHING if word in _DDL_OBJECTS or word in (b"temporary", b"if", b"primary", b"prepare") else UNKNOWN

    def _grant(self, part: list[bytes]) -> Effect:
        return Effect(flags=CREDENTIALS if b"identified" in part else 0)

    # --- SET -------------------------------------------------------------------------------------------------------

    def _set(self, part: list[bytes]) -> Effect:
        rest = part[1:]
        words = tuple(rest[:2])
        if words[:1] == (b"statement",):
            return UNKNOWN.then(self._scan(rest)).plus(flags=IGNORE_TRACKERS)
        if words[:1] == (b"transaction",):
            return Effect(p.NEXT_TRANSACTION, flags=PINS_ON_SUCCESS)
        if words[:1] == (b"role",) and words[1:] != (b"=",):
            return Effect(p.ROLE, flags=PINS_ON_SUCCESS)
        if words == (b"resource", b"group"):
            return Effect(p.RESOURCE_GROUP, flags=PINS_ON_SUCCESS)
        if words == (b"default", b"role"):
            return NOTHING
        if len(words) == 2 and words[0] in _SCOPES and words[1] == b"transaction":
            return NOTHING
        if words[:1] == (b"password",):
            effect = self._scan(rest).plus(flags=CREDENTIALS)
            return effect.plus(p.OPAQUE, NEED_INSERT_ID) if b"," in rest else effect
        effect = Effect(flags=PINS_ON_SUCCESS)
        for item in _items(rest):
            effect = effect.then(self._assignment(item))
        return effect

    def _assignment(self, item: list[bytes]) -> Effect:
        if item[0] == b"names":
            return self._value(item[1:]).plus(flags=CHARSET | RESULTS_COLLATION)
        if item[0] == b"charset" or item[:2] in ([b"character", b"set"], [b"char", b"set"]):
            return self._value(item[1:]).plus(flags=CHARSET)
        equals = next((i for i, token in enumerate(item) if token in (b"=", b":=")), 0)
        if not equals:
            return UNKNOWN
        target, value = item[:equals], item[equals + 1 :]
        effect = self._value(value)
        if target[0] == b"@":
            return effect.plus(p.USER_VARIABLE)
        scope, bare = b"", False
        if target[0] == b"@@":
            bare = True
            target = target[1:]
            if target[1:2] == [b"."] and unquote(target[0]) in _SCOPES:
                scope, bare, target = unquote(target[0]), False, target[2:]
        elif target[0] in _SCOPES and len(target) > 1:
            scope, target = target[0], target[1:]
        if scope in _GLOBAL:
            return effect
        if len(target) != 1 or not _WORD.match(target[0]):
            return UNKNOWN.then(effect)
        return effect.then(self._variable(unquote(target[0]), bare, value))

    def _value(self, value: list[bytes]) -> Effect:
        effect = self._scan(value)
        return effect if effect.pins else effect.plus(flags=PINS_ON_SUCCESS)

    def _variable(self, name: bytes, bare: bool, value: list[bytes]) -> Effect:
        flags = PINS_ON_SUCCESS
        pin = p.variable_pin(name)
        if pin:
            flags |= SETS_INSERT_ID if name in (b"last_insert_id", b"identity") else 0
            return Effect(pin, flags=flags)
        if bare and name in _NEXT_TRANSACTION:
            return Effect(p.NEXT_TRANSACTION, flags=flags)
        if name == b"timestamp" and value in ([b"default"], [b"0"]):
            return Effect(flags=flags | TIMESTAMP_DEFAULT)
        if name == b"autocommit":
            flags |= TRANSACTION_CONTROL
        if name.startswith((b"character_set_", b"collation_")):
            flags |= CHARSET
        return Effect(flags=flags, readback=(name,) if bare and self.mariadb else ())

    # --- expressions -----------------------------------------------------------------------------------------------

    def _scan(self, part: list[bytes]) -> Effect:
        """What the expressions of a statement do, wherever in it they stand."""
        pins = needs = flags = 0
        for i, token in enumerate(part):
            if token == b"(":
                if i and _WORD.match(part[i - 1]):
                    effect = self._call(part, i)
                    if effect is not None:
                        pins |= effect.pins
                        needs |= effect.needs
                        flags |= effect.flags
            elif token == b":=":
                pins |= p.USER_VARIABLE
            elif token == b"into":
                if part[i + 1 : i + 2] == [b"@"]:
                    pins |= p.USER_VARIABLE
            elif token == b"@@":
                needs |= _READS.get(_variable_at(part, i + 1), 0)
            elif token == b"sql_calc_found_rows":
                flags |= CALC_FOUND_ROWS
            elif self.mariadb and (
                token in (b"currval", b"lastval") or (token == b"previous" and part[i + 1 : i + 2] == [b"value"])
            ):
                pins |= p.SEQUENCE
                needs |= NEED_LAST_BACKEND
        return Effect(pins, 0, needs, flags)

    def _call(self, part: list[bytes], paren: int) -> Effect | None:
        """What the word before the parenthesis at `paren` does if it is a function's name."""
        token = part[paren - 1]
        name = unquote(token)
        before = part[paren - 2] if paren > 1 else b""
        if before != b".":
            # In backticks a name like `if` or `left` is a stored function's.
            if name in HARMLESS and token[:1] != b"`":
                return None
            if name == b"get_lock":
                return Effect(p.NAMED_LOCK)
            if name in (b"connection_id", b"release_lock", b"release_all_locks"):
                return None  # they leave nothing behind; `classify` and `holds` look at them
            if name == b"last_insert_id":
                reads = part[paren + 1 : paren + 2] == [b")"]
                return Effect(needs=NEED_INSERT_ID, flags=0 if reads else SETS_INSERT_ID)
            if name == b"found_rows":
                return Effect(needs=NEED_FOUND_ROWS)
            if name == b"row_count":
                return Effect(needs=NEED_ROW_COUNT)
            if self.mariadb and name in (b"nextval", b"setval"):
                return None
            if self.mariadb and name == b"lastval":
                return Effect(p.SEQUENCE, needs=NEED_LAST_BACKEND)
        start = paren - 1
        while start > 1 and part[start - 1] == b".":
            start -= 2
        full = b".".join(unquote(word) for word in part[start:paren:2])
        if name in self._trusted or full in self._trusted or _names_a_table(part, start, paren):
            return None
        return UNKNOWN


def _always(effect: Effect) -> Callable[[list[bytes]], Effect]:
    return lambda part: effect


def _stored_program(part: list[bytes]) -> bool:
    return part[0] in (b"create", b"alter") and not _STORED_PROGRAMS.isdisjoint(part[1:24])


def _named_in(part: list[bytes], function: bytes) -> set[bytes]:
    """The sequences in the calls of a function; `*` for what is none, or none of a single name."""
    found = set()
    for i, token in enumerate(part):
        if token == function:
            plain = part[i + 1 : i + 2] == [b"("] and part[i + 3 : i + 4] == [b")"]
            found.add(part[i + 2] if plain else b"*")
        elif token in (b"previous", b"currval", b"last_gtid"):
            found.add(b"*")
    return found or {b"*"}


def _drawn_before(parts: list[list[bytes]], number: int) -> set[bytes]:
    """The sequences that statements before the one of this number have taken a value from."""
    drawn: set[bytes] = set()
    for part in parts[: number - 1]:
        drawn |= _named_in(part, b"nextval") - {b"*"}
    return drawn


def _changes_lexing(part: list[bytes], effect: Effect) -> bool:
    return bool(effect.flags & CHARSET) or (part[0] == b"set" and b"sql_mode" in map(unquote, part))


def _items(rest: list[bytes]) -> list[list[bytes]]:
    """The assignments of a SET, split at the commas outside parentheses."""
    found: list[list[bytes]] = [[]]
    depth = 0
    for token in rest:
        if token == b"," and not depth:
            found.append([])
            continue
        depth += (token == b"(") - (token == b")")
        found[-1].append(token)
    return [item or [b"?"] for item in found]


def _query_of(part: list[bytes]) -> list[bytes]:
    """The part of a CREATE TABLE that is executed at once: its query, if it has one."""
    for i, token in enumerate(part):
        if token in (b"select", b"with", b"values", b"as"):
            return part[i:]
    return []


def _variable_at(part: list[bytes], i: int) -> bytes:
    name = unquote(part[i]) if i < len(part) else b""
    if name in _SCOPES and part[i + 1 : i + 2] == [b"."] and i + 2 < len(part):
        return unquote(part[i + 2])
    return name


def _names_a_table(part: list[bytes], start: int, paren: int) -> bool:
    """Whether the name at `start`, before a parenthesis, stands where only a table's or alias's name can stand."""
    before = part[start - 1] if start else b""
    if before == b"as":
        return True
    if before == b"into":
        return start >= 2 and part[start - 2] in _INSERT_WORDS
    if before in _INSERT_WORDS:
        return start <= 4 and part[0] in (b"insert", b"replace")
    if part[0] == b"load":
        return before in (b"table", b"set") or part[start] in (b"lines", b"rows")
    if before in (b"with", b"recursive", b","):
        close = _closing(part, paren)
        return part[close + 1 : close + 3] == [b"as", b"("]
    return False


def _closing(part: list[bytes], paren: int) -> int:
    depth = 0
    for i in range(paren, len(part)):
        depth += (part[i] == b"(") - (part[i] == b")")
        if not depth:
            return i
    return len(part)
