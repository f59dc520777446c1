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
from collections.abc import Iterable
from typing import Final

from proxy.session import holds, uservars
from proxy.session import pins as p
from proxy.session.effects import Effects
from proxy.session.functions import HARMLESS
from proxy.session.lexer import UNSAFE_CHARSET, blank, statements, tokens
from proxy.session.verdict import (
    CHARSET,
    CREDENTIALS,
    DML,
    EXECUTE_TEXT,
    FIRST_VIRTUAL_ID,
    KILL_CONNECTION,
    KILL_QUERY,
    LOCAL_NONE,
    NAMES,
    PINS_ON_SUCCESS,
    PLAIN,
    SELECT_CONNECTION_ID,
    SELECT_FOUND_ROWS,
    SELECT_ROW_COUNT,
    SHOW_COUNT_ERRORS,
    SHOW_COUNT_WARNINGS,
    SHOW_ERRORS,
    SHOW_WARNINGS,
    TRANSACTION_CONTROL,
    UNKNOWN,
    Effect,
    Verdict,
)

CACHE_TEXT_LIMIT: Final = 64 << 10
_CACHE_OVERHEAD: Final = 200


# --- stage 1 and 2 -------------------------------------------------------------------------------------------------

_LOOKING: Final = (b"show", b"explain", b"describe", b"desc")
_PLAIN_VERDICTS: Final[dict[bytes, Verdict]] = {kind: Verdict(kind, flags=PLAIN) for kind in (*DML, *_LOOKING)}
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

_VARIANT: Final = re.compile(rb"/\*!(.*?)\*/", re.DOTALL)
_LOCAL: Final = re.compile(
    rb"\s*+(?:show\s++(?:(?P<w>warnings)|(?P<e>errors)|count\s*+\(\s*+\*\s*+\)\s++(?:(?P<cw>warnings)|(?P<ce>errors)))"
    rb"|select\s++(?P<text>(?P<f>row_count|found_rows|connection_id)\s*+\(\s*+\)"
    rb"|@@(?:(?:session|local)\.)?(?:(?P<vw>warning_count)|(?P<ve>error_count)))"
    rb"(?:\s++(?:as\s++)?(?P<alias>(?!as\b|from\b|into\b|limit\b|where\b|union\b|for\b|lock\b|order\b)[a-z_]\w*+"
    rb"|`[^`]++`|'[^'\\]++'|\"[^\"\\]++\"))?)\s*+;?\s*+\Z",
    re.IGNORECASE,
)
# On the tokens, so that comments and parentheses do not hide the id.
_KILL: Final = re.compile(
    rb"kill (?:(?:hard|soft) )?(?:connection |(?P<query>query ))?(?:\( )*+(?P<id>\d{1,10})(?: \))*+"
)
_NAMES_COLLATE: Final = re.compile(
    rb"\s*+set\s++names\s++(?P<q>['\"]?)\w++(?P=q)\s++collate\s++(?P<p>['\"]?)(?P<collation>\w++)(?P=p)\s*+;?\s*+\Z",
    re.IGNORECASE,
)
_LOCAL_SELECT: Final = {b"r": SELECT_ROW_COUNT, b"f": SELECT_FOUND_ROWS, b"c": SELECT_CONNECTION_ID}
_LOCAL_SHOW: Final[dict[str, int]] = {
    "w": SHOW_WARNINGS,
    "e": SHOW_ERRORS,
    "cw": SHOW_COUNT_WARNINGS,
    "ce": SHOW_COUNT_ERRORS,
}
_MAX_VARIANTS: Final = 3


class Classifier:
    """Texts to verdicts, for one kind of server. `hits`, `misses` and `evictions` are plain counters of the cache."""

    def __init__(self, mariadb: bool, trusted_functions: Iterable[str] = (), cache_bytes: int = 4 << 20) -> None:
        self.mariadb = mariadb
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        trusted = frozenset(name.lower().replace("`", "").encode() for name in trusted_functions)
        harmless = HARMLESS | frozenset(name for name in trusted if b"." not in name)
        self._backwards = frozenset(name[::-1] for name in harmless)
        self._cache: dict[tuple[bytes, int], Verdict] = {}
        self._cache_bytes = cache_bytes
        self._cache_used = 0
        self._shared: dict[tuple[object, ...], Verdict] = {}
        self._effects = Effects(mariadb, trusted)

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
        if len(sql) <= CACHE_TEXT_LIMIT and not verdict.flags & CREDENTIALS:  # there may be a password in it
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
            return self._share(_kind(sql), UNKNOWN)
        if b"/*!" not in text:
            verdict = self._prefilter(text, mode)
            if verdict is not None:
                return verdict
            return self._decide(sql, text)
        effect: Effect | None = None
        for variant in _variants(text):
            one = self._effects.of(statements(variant))
            effect = one if effect is None else effect.either(one)
        return self._share(_kind(text.replace(b"/*!", b"")), effect or UNKNOWN)

    def _decide(self, sql: bytes, text: bytes) -> Verdict:
        parts = statements(text)
        effect = self._effects.of(parts)
        local = _LOCAL.match(sql) if len(parts) == 1 and len(sql) < 256 else None
        kind = _kind(text)
        if len(parts) == 1:
            held = holds.of(sql, kind, parts[0])
            assigns = uservars.assigned(sql) if kind == b"set" and effect.pins == p.USER_VARIABLE else ()
            if assigns:
                effect = Effect(flags=NAMES | PINS_ON_SUCCESS, assigns=assigns)
            elif held:
                effect = effect.plus(flags=NAMES)._replace(holds=held)
            elif kind == b"set" and effect.flags & CHARSET:
                names = _NAMES_COLLATE.match(sql)
                effect = effect._replace(collation=names["collation"].lower() if names else b"")
            elif kind == b"execute":
                name = holds.executed(sql)
                if name:
                    return self._share(kind, effect, EXECUTE_TEXT, name)
        if kind == b"kill" and len(parts) == 1:
            kill = _KILL.fullmatch(b" ".join(parts[0]))
            if kill is not None and int(kill["id"]) >= FIRST_VIRTUAL_ID:
                return self._share(kind, effect, KILL_QUERY if kill["query"] else KILL_CONNECTION, kill["id"])
        if local is None:
            return self._share(kind, effect)
        if local["text"] is None:
            return self._share(kind, effect, _LOCAL_SHOW[str(local.lastgroup)])
        alias = local["alias"]
        label = local["text"] if alias is None else alias.strip(b"`'\"")
        if local["f"] is None:
            return self._share(kind, effect, SHOW_COUNT_WARNINGS if local["vw"] else SHOW_COUNT_ERRORS, label)
        return self._share(kind, effect, _LOCAL_SELECT[local["f"][:1].lower()], label)

    def _share(self, kind: bytes, effect: Effect, local: int = LOCAL_NONE, label: bytes = b"") -> Verdict:
        key = (kind, effect, local, label)
        verdict = self._shared.get(key)
        if verdict is None:
            if len(self._shared) > 4096:
                self._shared.clear()
            verdict = self._shared[key] = Verdict(kind, *effect, local, label)
        return verdict


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
