"""What a statement does to the session, from its text alone (protocol.md C.3 and C.4).

Law: everything not understood is OPAQUE, and OPAQUE pins. A verdict may be too careful, never too bold.

Three stages, each only when the one before could not answer:
1. the pre-filter: the text begins like ordinary DML, contains none of a few byte strings, and opens no parenthesis
   after a word that is not the server's own. It works on the raw text, so a hit only means "look properly";
2. the same test on the text without literals and comments (`lexer.blank`);
3. tokens, decided per kind of statement.
What stages 2 and 3 found is kept in a cache bounded in bytes. Verdicts are shared and must not be changed.

A native function wins over a stored one of its name, except that for a few (COUNT, NOW, SUBSTRING, …) a space before
the parenthesis makes it the stored one: somebody who has a stored function COUNT with side effects is not protected.

Measured 2026-11-23, CPython 3.11, 2 shared cores, microseconds per call: sysbench point select 1.5, ORM SELECT of 344
bytes 3.1, IN list of 11 KB 45, INSERT with 400 rows 110; with `@` in a literal of 407 bytes 9.4, then 0.8 from the
cache; SET NAMES 12, then 0.5; COMMIT 0.15.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from proxy.session import pins as p
from proxy.session.functions import HARMLESS
from proxy.session.lexer import UNSAFE_CHARSET, blank, statements, tokens, unquote

# Soft state that a statement reads (protocol.md C.6).
NEED_INSERT_ID: Final = 1
NEED_WARNINGS: Final = 2
NEED_ROW_COUNT: Final = 4
NEED_FOUND_ROWS: Final = 8
NEED_LAST_BACKEND: Final = 16  # LASTVAL(), @@last_gtid: only the backend that ran the statement before knows

# Flags
PLAIN: Final = 1
SETS_INSERT_ID: Final = 2
CHARSET: Final = 4
KEEPS_DIAGNOSTICS: Final = 8
CALC_FOUND_ROWS: Final = 16
TRANSACTION_CONTROL: Final = 32
CREDENTIALS: Final = 64
LOCAL_INFILE: Final = 128
IGNORE_TRACKERS: Final = 256
TIMESTAMP_DEFAULT: Final = 512
PINS_ON_SUCCESS: Final = 1024  # if it ends with ERR it has done nothing: its pins need not be set

# Only true of a whole text when true of each of its statements.
_ALL_FLAGS: Final = PLAIN | KEEPS_DIAGNOSTICS | PINS_ON_SUCCESS

# Statements that can be answered here: from captured soft state, or over the control slot.
LOCAL_NONE: Final = 0
SHOW_WARNINGS: Final = 1
SHOW_ERRORS: Final = 2
SHOW_COUNT_WARNINGS: Final = 3
SHOW_COUNT_ERRORS: Final = 4
SELECT_ROW_COUNT: Final = 5
SELECT_FOUND_ROWS: Final = 6
# KILL of an id that only we know; the id is the label.
KILL_CONNECTION: Final = 7
KILL_QUERY: Final = 8

# Connection ids from here on are ours (design: so that no KILL of ours can hit a stranger).
FIRST_VIRTUAL_ID: Final = 0x80000000

CACHE_TEXT_LIMIT: Final = 64 << 10
_CACHE_OVERHEAD: Final = 200


class Verdict:
    """What a text does to the session. Shared between equal texts: never change one."""

    __slots__ = ("flags", "kind", "local", "local_label", "needs", "pins", "readback", "unpins")

    def __init__(
        self,
        kind: bytes,
        pins: int = 0,
        unpins: int = 0,
        needs: int = 0,
        flags: int = 0,
        readback: tuple[bytes, ...] = (),
        local: int = LOCAL_NONE,
        local_label: bytes = b"",
    ) -> None:
        self.kind = kind
        self.pins = pins
        self.unpins = unpins
        self.needs = needs
        self.flags = flags
        self.readback = readback
        self.local = local
        self.local_label = local_label

    def __repr__(self) -> str:
        reasons = "|".join(p.names(self.pins)) or "free"
        return f"<Verdict {self.kind.decode('latin-1')} {reasons} needs={self.needs} flags={self.flags}>"


class _Effect(NamedTuple):
    """What one statement does; the parts of a Verdict that add up."""

    pins: int = 0
    unpins: int = 0
    needs: int = 0
    flags: int = 0
    readback: tuple[bytes, ...] = ()

    def then(self, other: _Effect) -> _Effect:
        """This statement and after it the other one, in one text."""
        return _Effect(
            self.pins | other.pins,
            (self.unpins & ~other.pins) | other.unpins,
            self.needs | other.needs,
            ((self.flags | other.flags) & ~_ALL_FLAGS) | (self.flags & other.flags & _ALL_FLAGS),
            self.readback + tuple(name for name in other.readback if name not in self.readback),
        )

    def either(self, other: _Effect) -> _Effect:
        """This one or the other, nobody knows which."""
        return self.then(other)._replace(unpins=self.unpins & other.unpins)

    def plus(self, pins: int = 0, needs: int = 0, flags: int = 0) -> _Effect:
        return self._replace(pins=self.pins | pins, needs=self.needs | needs, flags=self.flags | flags)


_NOTHING: Final = _Effect()
_UNKNOWN: Final = _Effect(pins=p.OPAQUE, needs=NEED_INSERT_ID, flags=LOCAL_INFILE)

# --- stage 1 and 2 -------------------------------------------------------------------------------------------------

_DML: Final = (b"select", b"insert", b"update", b"delete", b"replace", b"with", b"values", b"table", b"do")
_LOOKING: Final = (b"show", b"explain", b"describe", b"desc")
_PLAIN_VERDICTS: Final[dict[bytes, Verdict]] = {kind: Verdict(kind, flags=PLAIN) for kind in (*_DML, *_LOOKING)}
_EXACT: Final[dict[bytes, Verdict]] = {
    **dict.fromkeys(
        (b"begin", b"begin work", b"start transaction", b"start transaction read only"),
        Verdict(b"begin", unpins=p.SAVEPOINT | p.LOCK_TABLES, flags=TRANSACTION_CONTROL),
    ),
    **dict.fromkeys((b"commit", b"commit work"), Verdict(b"commit", unpins=p.SAVEPOINT, flags=TRANSACTION_CONTROL)),
    **dict.fromkeys(
        (b"rollback", b"rollback work"), Verdict(b"rollback", unpins=p.SAVEPOINT, flags=TRANSACTION_CONTROL)
    ),
}
_EXACT_LENGTH: Final = max(map(len, _EXACT)) + 2

_HEAD: Final = re.compile(
    rb"[\s(]*+(?:/\*(?![!+]|m!)[^*\0]*+(?:\*(?!/)[^*\0]*+)*+\*/[\s(]*+)*+([a-z]++)(?![\w$\x80-\xff.`])"
)
_NAME: Final = rb"(?:[\w$\x80-\xff]++|`[^`'\"]*+`)"
_INSERT_TARGET: Final = re.compile(
    rb"\s++(?:(?:low_priority|high_priority|delayed|ignore)\s++)*+(?:into\s++|(?=`))"
    + _NAME
    + rb"(?:\s*+\.\s*+"
    + _NAME
    + rb")?\s*+\("
)
# Read backwards, a call is a parenthesis and then the name. Anything that makes it more than a bare word (a dot, a
# quote, in an unsafe charset a possible second byte) is taken into the name, which is then no known one.
_CALLS: Final = re.compile(rb"\(\s*+([\w$`'\"\x80-\xff]++(?:\s*+\.)?)")
_CALLS_UNSAFE: Final = re.compile(rb"\(\s*+([\w$`'\"\x80-\xff]++(?:\s*+\.|[@\[\\\]^{|}~])?)")

# --- stage 3 -------------------------------------------------------------------------------------------------------

_WORD: Final = re.compile(rb"[\w$`\x80-\xff]")
_VARIANT: Final = re.compile(rb"/\*!(.*?)\*/", re.DOTALL)
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
_LOCAL: Final = re.compile(
    rb"\s*+(?:show\s++(?:(?P<w>warnings)|(?P<e>errors)|count\s*+\(\s*+\*\s*+\)\s++(?:(?P<cw>warnings)|(?P<ce>errors)))"
    rb"|select\s++(?P<text>(?P<f>row_count|found_rows)\s*+\(\s*+\))"
    rb"(?:\s++(?:as\s++)?(?P<alias>(?!as\b|from\b|into\b|limit\b|where\b|union\b|for\b|lock\b|order\b)[a-z_]\w*+"
    rb"|`[^`]++`|'[^'\\]++'|\"[^\"\\]++\"))?)\s*+;?\s*+\Z",
    re.IGNORECASE,
)
_KILL: Final = re.compile(
    rb"\s*+kill\s++(?:(?:hard|soft)\s++)?(?:connection\s++|(?P<query>query\s++))?(?P<id>\d{1,10})\s*+;?\s*+",
    re.IGNORECASE,
)
_LOCAL_SHOW: Final[dict[str, int]] = {
    "w": SHOW_WARNINGS,
    "e": SHOW_ERRORS,
    "cw": SHOW_COUNT_WARNINGS,
    "ce": SHOW_COUNT_ERRORS,
}
_COUNT_WORDS: Final = frozenset((b"warnings", b"errors"))
_MAX_VARIANTS: Final = 3


class Classifier:
    """Texts to verdicts, for one kind of server. `hits`, `misses` and `evictions` are plain counters of the cache."""

    def __init__(self, mariadb: bool, trusted_functions: Iterable[str] = (), cache_bytes: int = 4 << 20) -> None:
        self.mariadb = mariadb
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._trusted = frozenset(name.lower().replace("`", "").encode() for name in trusted_functions)
        harmless = HARMLESS | frozenset(name for name in self._trusted if b"." not in name)
        self._backwards = frozenset(name[::-1] for name in harmless)
        self._cache: dict[tuple[bytes, int], Verdict] = {}
        self._cache_bytes = cache_bytes
        self._cache_used = 0
        self._shared: dict[tuple[object, ...], Verdict] = {}
        self._handlers: dict[bytes, Callable[[list[bytes]], _Effect]] = self._table()

    def classify(self, sql: bytes, mode: int) -> Verdict:
        """The verdict on `sql`, lexed in `mode` (see `lexer.mode_of`). Never raises."""
        low = sql.lower()
        if len(low) <= _EXACT_LENGTH:
            exact = _EXACT.get(low.strip(b" \t\r\n;"))
            if exact is not None:
                return exact
        verdict = self._prefilter(low, mode)
        if verdict is not None:
            return verdict
        key = (sql, mode)
        verdict = self._cache.get(key)
        if verdict is not None:
            self.hits += 1
            return verdict
        self.misses += 1
        verdict = self._look_properly(sql, mode)
        if len(sql) <= CACHE_TEXT_LIMIT:
            self._remember(key, verdict)
        return verdict

    def _remember(self, key: tuple[bytes, int], verdict: Verdict) -> None:
        self._cache[key] = verdict
        self._cache_used += len(key[0]) + _CACHE_OVERHEAD
        while self._cache_used > self._cache_bytes:
            oldest = next(iter(self._cache))
            del self._cache[oldest]
            self._cache_used -= len(oldest[0]) + _CACHE_OVERHEAD
            self.evictions += 1

    def _prefilter(self, low: bytes, mode: int) -> Verdict | None:
        """The shared PLAIN verdict if `low` can do nothing to the session; None means: look properly. Hot."""
        head = _HEAD.match(low)
        if head is None:
            return None
        kind = head[1]
        verdict = _PLAIN_VERDICTS.get(kind)
        # `find` and not `in`, which on bytes first tries its left side as a number and costs twice as much.
        if verdict is None or low.find(b"@") >= 0 or low.find(b"#") >= 0 or low.find(b"--") >= 0:
            return None
        start = head.end()
        semicolon = low.find(b";")
        if semicolon >= 0:
            low = low.rstrip(b" \t\r\n;")
            if semicolon < len(low):
                return None
        comment = low.find(b"/*", start)
        if comment >= 0:
            # Only one comment, and the text ends with it (no `--` or `#` is there, so no literal can pretend that).
            low = low.rstrip()
            if not low.endswith(b"*/") or low.find(b"/*", comment + 2) >= 0 or low[comment + 2] in b"!+m":
                return None
            low = low[:comment]
        if low.find(b"sql_calc_found_rows") >= 0 or low.find(b"\0") >= 0:
            return None
        if self.mariadb and low.find(b"val") >= 0 and (low.find(b"previous") >= 0 or low.find(b"currval") >= 0):
            return None
        if kind == b"insert" or kind == b"replace":
            target = _INSERT_TARGET.match(low, start)
            if target is not None:
                start = target.end()
        elif kind == b"show" and (low.find(b"warnings") >= 0 or low.find(b"errors") >= 0):
            return None
        pattern = _CALLS_UNSAFE if mode & UNSAFE_CHARSET else _CALLS
        if self._backwards.issuperset(pattern.findall(low[: start - 1 : -1])):
            return verdict
        return None

    def _look_properly(self, sql: bytes, mode: int) -> Verdict:
        text = blank(sql, mode)
        if text is None:
            return self._share(_kind(sql), _UNKNOWN)
        if b"/*!" not in text:
            verdict = self._prefilter(text, mode)
            if verdict is not None:
                return verdict
            return self._decide(sql, text)
        effect: _Effect | None = None
        for variant in _variants(text):
            one = self._effect(statements(variant))
            effect = one if effect is None else effect.either(one)
        return self._share(_kind(text.replace(b"/*!", b"")), effect or _UNKNOWN)

    def _decide(self, sql: bytes, text: bytes) -> Verdict:
        parts = statements(text)
        effect = self._effect(parts)
        local = _LOCAL.match(sql) if len(parts) == 1 and len(sql) < 256 else None
        kind = _kind(text)
        if kind == b"kill":
            kill = _KILL.fullmatch(sql)
            if kill is not None and int(kill["id"]) >= FIRST_VIRTUAL_ID:
                return self._share(kind, effect, KILL_QUERY if kill["query"] else KILL_CONNECTION, kill["id"])
        if local is None:
            return self._share(kind, effect)
        which = local["f"]
        if which is None:
            return self._share(kind, effect, _LOCAL_SHOW[str(local.lastgroup)])
        alias = local["alias"]
        label = local["text"] if alias is None else alias.strip(b"`'\"")
        asked = SELECT_ROW_COUNT if which[:1] in b"rR" else SELECT_FOUND_ROWS
        return self._share(kind, effect, asked, label)

    def _share(self, kind: bytes, effect: _Effect, local: int = LOCAL_NONE, label: bytes = b"") -> Verdict:
        key = (kind, effect, local, label)
        verdict = self._shared.get(key)
        if verdict is None:
            if len(self._shared) > 4096:
                self._shared.clear()
            verdict = self._shared[key] = Verdict(kind, *effect, local, label)
        return verdict

    # --- one statement ---------------------------------------------------------------------------------------------

    def _effect(self, parts: list[list[bytes]]) -> _Effect:
        if not parts:
            return _Effect(flags=PLAIN)
        if len(parts) > 1 and any(_stored_program(part) for part in parts):
            return _UNKNOWN  # nobody but the server's grammar knows where its body ends
        total: _Effect | None = None
        for number, part in enumerate(parts, 1):
            effect = self._statement(part)
            if number < len(parts) and _changes_lexing(part, effect):
                effect = effect.plus(pins=p.OPAQUE)  # the server reads the rest in another mode than we did
            total = effect if total is None else total.then(effect)
        assert total is not None
        # An error says only that the last statement run did nothing.
        return total if len(parts) == 1 else total._replace(flags=total.flags & ~PINS_ON_SUCCESS)

    def _statement(self, part: list[bytes]) -> _Effect:
        first = next((token for token in part if token != b"("), b"")
        handler = self._handlers.get(first)
        if handler is None or (part[0] == b"(" and first not in _DML):
            return _UNKNOWN.then(self._scan(part))
        return handler(part)

    def _table(self) -> dict[bytes, Callable[[list[bytes]], _Effect]]:
        table: dict[bytes, Callable[[list[bytes]], _Effect]] = {}
        for kind in (*_DML, b"explain", b"describe", b"desc", b"help"):
            table[kind] = self._ordinary
        # They commit, or concern the whole server, but leave nothing in the session.
        for kind in (
            b"analyze check checksum optimize repair truncate rename cache purge reset change stop install"
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
                b"savepoint": _always(_Effect(p.SAVEPOINT, flags=TRANSACTION_CONTROL)),
                b"release": _always(_Effect(flags=TRANSACTION_CONTROL)),
                b"xa": self._xa,
                b"lock": self._lock,
                b"unlock": self._unlock,
                b"backup": self._backup,
                b"flush": self._flush,
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

    def _ordinary(self, part: list[bytes]) -> _Effect:
        effect = self._scan(part)
        return effect if effect.pins & p.OPAQUE else effect.plus(flags=PLAIN)

    def _free(self, part: list[bytes]) -> _Effect:
        return self._scan(part)

    def _show(self, part: list[bytes]) -> _Effect:
        effect = self._ordinary(part)
        asks = part[1:2] and part[1] in _COUNT_WORDS
        counts = part[1:2] == [b"count"] and part[-1] in _COUNT_WORDS
        return effect.plus(needs=NEED_WARNINGS, flags=KEEPS_DIAGNOSTICS) if asks or counts else effect

    def _get_diagnostics(self, part: list[bytes]) -> _Effect:
        if b"diagnostics" not in part[1:3]:
            return _UNKNOWN
        needs = NEED_WARNINGS | (NEED_ROW_COUNT if b"row_count" in part else 0)
        return self._scan(part).plus(p.USER_VARIABLE, needs, KEEPS_DIAGNOSTICS)

    def _load(self, part: list[bytes]) -> _Effect:
        if part[1:2] == [b"index"]:
            return _NOTHING
        if part[1:2] != [b"data"] and part[1:2] != [b"xml"]:
            return _UNKNOWN
        effect = self._scan(part).plus(flags=LOCAL_INFILE if b"local" in part[2:5] else 0)
        return effect.plus(p.USER_VARIABLE) if b"@" in part else effect.plus(flags=PLAIN)

    def _analyze(self, part: list[bytes]) -> _Effect:
        if part[1:2] and part[1] in (b"table", b"tables", b"local", b"no_write_to_binlog"):
            return _NOTHING
        return self._ordinary(part)

    def _begin(self, part: list[bytes]) -> _Effect:
        if part not in ([b"begin"], [b"begin", b"work"]):
            return _UNKNOWN.then(self._scan(part))
        return _Effect(unpins=p.SAVEPOINT | p.LOCK_TABLES, flags=TRANSACTION_CONTROL)

    def _start(self, part: list[bytes]) -> _Effect:
        if part[1:2] == [b"transaction"]:
            return _Effect(unpins=p.SAVEPOINT | p.LOCK_TABLES, flags=TRANSACTION_CONTROL)
        return _NOTHING if part[1:2] else _UNKNOWN  # START REPLICA and its family concern the server

    def _end_of_transaction(self, part: list[bytes]) -> _Effect:
        ends = b"to" not in part[:3]
        return _Effect(unpins=p.SAVEPOINT if ends else 0, flags=TRANSACTION_CONTROL)

    def _xa(self, part: list[bytes]) -> _Effect:
        word = part[1] if len(part) > 1 else b""
        if word == b"recover":
            return _Effect(flags=PLAIN)
        effect = _Effect(p.XA, flags=TRANSACTION_CONTROL)
        # After XA PREPARE MariaDB's session owns the branch until it disconnects; MySQL's has let it go.
        if word in (b"commit", b"rollback") or (word == b"prepare" and not self.mariadb):
            return effect._replace(unpins=p.XA)
        return effect

    def _lock(self, part: list[bytes]) -> _Effect:
        word = part[1] if len(part) > 1 else b""
        if word == b"instance":
            return _Effect(p.BACKUP_LOCK, flags=PINS_ON_SUCCESS)
        if word not in (b"table", b"tables"):
            return _UNKNOWN.plus(p.BACKUP_LOCK)
        return _Effect(p.LOCK_TABLES | (p.BACKUP_LOCK if b"backup" in part[2:] else 0))

    def _unlock(self, part: list[bytes]) -> _Effect:
        word = part[1] if len(part) > 1 else b""
        if word in (b"table", b"tables"):
            return _Effect(unpins=p.LOCK_TABLES | p.GLOBAL_READ_LOCK)
        if word == b"instance" and not self.mariadb:
            return _Effect(unpins=p.BACKUP_LOCK)
        return _NOTHING

    def _backup(self, part: list[bytes]) -> _Effect:
        # STAGE END and UNLOCK end one lock each; which of them are held is not written down anywhere.
        return _NOTHING if part[1:2] == [b"unlock"] else _Effect(p.BACKUP_LOCK)

    def _flush(self, part: list[bytes]) -> _Effect:
        flags = CREDENTIALS if b"privileges" in part else 0
        if b"table" not in part and b"tables" not in part:
            return _Effect(flags=flags)
        where = part.index(b"tables") if b"tables" in part else part.index(b"table")
        rest = part[where + 1 :]
        if rest[:1] == [b"with"]:
            return _Effect(p.GLOBAL_READ_LOCK)
        if b"with" in rest or b"export" in rest:
            return _Effect(p.LOCK_TABLES)
        return _Effect(flags=flags)

    def _handler(self, part: list[bytes]) -> _Effect:
        verb = part[4] if part[2:3] == [b"."] and len(part) > 4 else part[2] if len(part) > 2 else b""
        effect = self._scan(part)
        if verb in (b"read", b"close"):
            return effect
        return effect.plus(p.HANDLER)

    def _prepare(self, part: list[bytes]) -> _Effect:
        return _Effect(p.TEXT_PREPARE, flags=PINS_ON_SUCCESS)

    def _execute(self, part: list[bytes]) -> _Effect:
        everything = NEED_INSERT_ID | NEED_WARNINGS | NEED_ROW_COUNT | NEED_FOUND_ROWS | NEED_LAST_BACKEND
        return _UNKNOWN.plus(p.TEXT_PREPARE, everything, SETS_INSERT_ID | CALC_FOUND_ROWS)

    def _create(self, part: list[bytes]) -> _Effect:
        if b"temporary" in part[1:5]:
            where = part.index(b"temporary")
            effect = self._scan(_query_of(part))
            # A failing CREATE TEMPORARY … SELECT leaves no table.
            flags = 0 if effect.pins else PINS_ON_SUCCESS
            known = part[where + 1 : where + 2] and part[where + 1] in (b"table", b"sequence")
            return effect.plus(p.TEMPORARY_TABLE | (0 if known else p.OPAQUE), flags=flags)
        if part[1:2] and part[1] not in _DDL_OBJECTS:
            return _UNKNOWN
        if part[1:2] == [b"user"] or part[1:4] == [b"or", b"replace", b"user"]:
            return _Effect(flags=CREDENTIALS)
        if b"table" not in part[1:5]:
            return _NOTHING  # a view or a stored program is only stored
        return self._scan(_query_of(part))

    def _alter(self, part: list[bytes]) -> _Effect:
        if part[1:2] == [b"user"]:
            return _Effect(flags=CREDENTIALS)
        return _NOTHING if part[1:2] and part[1] in _DDL_OBJECTS else _UNKNOWN

    def _drop(self, part: list[bytes]) -> _Effect:
        word = part[1] if len(part) > 1 else b""
        if word == b"prepare":
            return _Effect(p.TEXT_PREPARE)
        if word == b"user":
            return _Effect(flags=CREDENTIALS)
        return _NOTHING if word in _DDL_OBJECTS or word in (b"temporary", b"if", b"primary") else _UNKNOWN

    def _grant(self, part: list[bytes]) -> _Effect:
        return _Effect(flags=CREDENTIALS if b"identified" in part else 0)

    # --- SET -------------------------------------------------------------------------------------------------------

    def _set(self, part: list[bytes]) -> _Effect:
        rest = part[1:]
        words = tuple(rest[:2])
        if words[:1] == (b"statement",):
            return _UNKNOWN.then(self._scan(rest)).plus(flags=IGNORE_TRACKERS)
        if words[:1] == (b"transaction",):
            return _Effect(p.NEXT_TRANSACTION, flags=PINS_ON_SUCCESS)
        if words[:1] == (b"role",) and words[1:] != (b"=",):
            return _Effect(p.ROLE, flags=PINS_ON_SUCCESS)
        if words == (b"resource", b"group"):
            return _Effect(p.RESOURCE_GROUP, flags=PINS_ON_SUCCESS)
        if words == (b"default", b"role"):
            return _NOTHING
        if len(words) == 2 and words[0] in _SCOPES and words[1] == b"transaction":
            return _NOTHING
        if words[:1] == (b"password",):
            effect = self._scan(rest).plus(flags=CREDENTIALS)
            return effect.plus(p.OPAQUE) if b"," in rest else effect
        effect = _Effect(flags=PINS_ON_SUCCESS)
        for item in _items(rest):
            effect = effect.then(self._assignment(item))
        return effect

    def _assignment(self, item: list[bytes]) -> _Effect:
        if item[0] == b"names":
            return self._value(item[1:]).plus(flags=CHARSET)
        if item[0] == b"charset" or item[:2] in ([b"character", b"set"], [b"char", b"set"]):
            return self._value(item[1:]).plus(flags=CHARSET)
        equals = next((i for i, token in enumerate(item) if token in (b"=", b":=")), 0)
        if not equals:
            return _UNKNOWN
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
            return _UNKNOWN.then(effect)
        return effect.then(self._variable(unquote(target[0]), bare, value))

    def _value(self, value: list[bytes]) -> _Effect:
        effect = self._scan(value)
        return effect if effect.pins else effect.plus(flags=PINS_ON_SUCCESS)

    def _variable(self, name: bytes, bare: bool, value: list[bytes]) -> _Effect:
        flags = PINS_ON_SUCCESS
        pin = p.variable_pin(name)
        if pin:
            flags |= SETS_INSERT_ID if name in (b"last_insert_id", b"identity") else 0
            return _Effect(pin, flags=flags)
        if bare and name in _NEXT_TRANSACTION:
            return _Effect(p.NEXT_TRANSACTION, flags=flags)
        if name == b"timestamp" and value in ([b"default"], [b"0"]):
            return _Effect(flags=flags | TIMESTAMP_DEFAULT)
        if name == b"autocommit":
            flags |= TRANSACTION_CONTROL
        if name.startswith((b"character_set_", b"collation_")):
            flags |= CHARSET
        return _Effect(flags=flags, readback=(name,) if bare and self.mariadb else ())

    # --- expressions -----------------------------------------------------------------------------------------------

    def _scan(self, part: list[bytes]) -> _Effect:
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
        return _Effect(pins, 0, needs, flags)

    def _call(self, part: list[bytes], paren: int) -> _Effect | None:
        """What the word before the parenthesis at `paren` does if it is a function's name."""
        token = part[paren - 1]
        name = unquote(token)
        before = part[paren - 2] if paren > 1 else b""
        if before != b".":
            # In backticks a name like `if` or `left` is a stored function's.
            if name in HARMLESS and token[:1] != b"`":
                return None
            if name == b"get_lock":
                return _Effect(p.NAMED_LOCK)
            if name == b"last_insert_id":
                reads = part[paren + 1 : paren + 2] == [b")"]
                return _Effect(needs=NEED_INSERT_ID, flags=0 if reads else SETS_INSERT_ID)
            if name == b"found_rows":
                return _Effect(needs=NEED_FOUND_ROWS)
            if name == b"row_count":
                return _Effect(needs=NEED_ROW_COUNT)
            if self.mariadb and name in (b"nextval", b"setval"):
                return None
            if self.mariadb and name == b"lastval":
                return _Effect(p.SEQUENCE, needs=NEED_LAST_BACKEND)
        start = paren - 1
        while start > 1 and part[start - 1] == b".":
            start -= 2
        full = b".".join(unquote(word) for word in part[start:paren:2])
        if name in self._trusted or full in self._trusted or _names_a_table(part, start, paren):
            return None
        return _UNKNOWN


def _always(effect: _Effect) -> Callable[[list[bytes]], _Effect]:
    return lambda part: effect


def _kind(text: bytes) -> bytes:
    words = tokens(text[:256].lower())
    word = next((token for token in words if token != b"("), b"")
    return word[:16] if word.isalpha() and word.isascii() else b"?" if word else b""


def _variants(text: bytes) -> list[bytes]:
    """The text with each executable comment run or skipped; nothing if there are too many to try."""
    if len(_VARIANT.findall(text)) > _MAX_VARIANTS:
        return []
    pieces = _VARIANT.split(text)
    found = []
    for choice in itertools.product((True, False), repeat=len(pieces) // 2):
        chosen = [b" " if i % 2 and not choice[i // 2] else piece for i, piece in enumerate(pieces)]
        found.append(b" ".join(chosen))
    return found


def _stored_program(part: list[bytes]) -> bool:
    return part[0] in (b"create", b"alter") and not _STORED_PROGRAMS.isdisjoint(part[1:24])


def _changes_lexing(part: list[bytes], effect: _Effect) -> bool:
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


_INSERT_WORDS: Final = frozenset((b"insert", b"replace", b"ignore", b"delayed", b"low_priority", b"high_priority"))


def _closing(part: list[bytes], paren: int) -> int:
    depth = 0
    for i in range(paren, len(part)):
        depth += (part[i] == b"(") - (part[i] == b")")
        if not depth:
            return i
    return len(part)
