"""Session settings as one interned value, and the commands that bring a backend from one value into another.

Law:
* two equal settings are the same object: compare with `is`. A `Settings` never changes;
* `SettingsTable.apply` takes what trackers reported of one answer and gives the value after it, plus flags for what a
  report cannot say or must not be replayed (pins, an unknown collation, a schema that is gone);
* a restore never guesses. A variable that the other session has not set becomes what a login or a reset would make of
  it, its global value. What might not let itself be taken back by name needs COM_RESET_CONNECTION (None); what no
  command takes back needs another backend (NEEDS_FRESH);
* the text of a restore is read alike in every sql_mode and in every charset a client may have, because the backend
  reads it in the state that is being left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from proxy.session import pins
from proxy.session.lexer import mode_of

TRACK_SYSVAR: Final = 0
TRACK_SCHEMA: Final = 1

# Flags of `apply`, above the pin bits.
PIN_MASK: Final = (1 << 32) - 1
COLLATION_UNKNOWN: Final = 1 << 32  # collation_connection must be read back before the backend moves on
SCHEMA_GONE: Final = 1 << 33  # the current database was dropped: DATABASE() is NULL now

# "The backend has a schema and the session wants none": no command takes a schema away.
NEEDS_FRESH: Final[tuple[bytes, ...]] = (b"needs a fresh backend",)

_COM_INIT_DB: Final = b"\x02"
_COM_QUERY: Final = b"\x03"
_MULTI_STATEMENTS_ON: Final = b"\x1b\x00\x00"
_MULTI_STATEMENTS_OFF: Final = b"\x1b\x01\x00"

# Reported often, and none of it is a setting.
_NOISE: Final = frozenset(
    (
        b"statement_id",
        b"last_gtid",
        b"gtid_executed",
        b"gtid_purged",
        b"gtid_owned",
        b"gtid_current_pos",
        b"gtid_binlog_pos",
        b"gtid_binlog_state",
        b"gtid_slave_pos",
        b"redirect_url",
        b"warning_count",
        b"error_count",
        b"in_transaction",
        b"rand_seed1",  # reported as 0 by MySQL; the text is what pins
        b"rand_seed2",
        # USE reports them too; setting them by name pins by its text
        b"character_set_database",
        b"collation_database",
    )
)
_ON: Final = frozenset((b"ON", b"1", b"TRUE"))
# As long as they hold, even the SET that ends them may fail.
_HOSTILE: Final = frozenset((b"max_session_mem_used", b"max_statement_time"))
# What MySQL makes of `SET SESSION x = DEFAULT` is not the global value.
_WRONG_DEFAULT: Final = frozenset((b"external_table_secondary_storage_engine", b"foreign_key_checks", b"unique_checks"))
_SQL_MODE: Final = b"sql_mode"
_NUMBER: Final = re.compile(rb"-?\d{1,20}(?:\.\d{1,9})?\Z")
# Printable ASCII without a quote or a backslash reads the same everywhere.
_SIMPLE: Final = re.compile(rb"[ !#-&(-\[\]-~]*\Z")
_NAME: Final = re.compile(rb"[A-Za-z0-9_$]+(?:\.[A-Za-z0-9_$]+)?\Z")
_MAX_PLANS: Final = 64


class Settings:
    """What `SET`, `USE` and COM_SET_OPTION have made of a session. Made by a `SettingsTable` only."""

    __slots__ = (
        "__weakref__",
        "_plans",
        "autocommit",
        "client_charset",
        "collation",
        "mode",
        "multi_statements",
        "results_charset",
        "results_collation",
        "schema",
        "variables",
    )

    def __init__(
        self,
        schema: bytes | None,
        client_charset: bytes,
        results_charset: bytes,
        collation: bytes,
        results_collation: bytes,
        autocommit: bool,
        multi_statements: bool,
        variables: tuple[tuple[bytes, bytes], ...],
        mode: int,
    ) -> None:
        self.schema = schema
        self.client_charset = client_charset
        self.results_charset = results_charset
        self.collation = collation
        # What column definitions name, which no variable shows: a login and SET NAMES set it, empty is the default one.
        self.results_collation = results_collation
        self.autocommit = autocommit
        self.multi_statements = multi_statements
        self.variables = variables
        self.mode = mode  # how its texts are lexed (`lexer.mode_of`)
        self._plans: WeakKeyDictionary[Settings, tuple[bytes, ...] | None] | None = None

    def value(self, name: bytes) -> bytes | None:
        """The value of a session variable as last reported, None if it was never set."""
        return dict(self.variables).get(name)

    def __repr__(self) -> str:
        changed = b", ".join(b"%s=%s" % item if item[0][:1] != b"@" else item[0] for item in self.variables)
        schema = b"no schema" if self.schema is None else self.schema
        text = b"<Settings %s %s autocommit=%d %s>" % (schema, self.collation, self.autocommit, changed)
        return text.decode("utf-8", "replace")


class SettingsTable:
    """Interns settings: equal ones are one object for as long as anybody holds it.

    `sql_mode` is the server's own, for sessions that never set theirs.
    """

    def __init__(self, sql_mode: bytes = b"") -> None:
        self.sql_mode = sql_mode
        self._values: WeakValueDictionary[tuple[Any, ...], Settings] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._values)

    def make(
        self,
        schema: bytes | None = None,
        client_charset: bytes = b"utf8mb4",
        results_charset: bytes = b"utf8mb4",
        collation: bytes = b"utf8mb4_general_ci",
        autocommit: bool = True,
        multi_statements: bool = False,
        variables: Sequence[tuple[bytes, bytes]] = (),
        results_collation: bytes | None = None,
    ) -> Settings:
        """The one object with these values; unless it is told, the collation is that of the results, too."""
        if results_collation is None:
            results_collation = collation if collation.startswith(results_charset + b"_") else b""
        ordered = tuple(sorted(variables))
        key = (
            schema,
            client_charset,
            results_charset,
            collation,
            results_collation,
            autocommit,
            multi_statements,
            ordered,
            self.sql_mode,
        )
        found = self._values.get(key)
        if found is None:
            mode = mode_of(dict(ordered).get(_SQL_MODE, self.sql_mode), client_charset)
            found = Settings(*key[:8], mode)
            self._values[key] = found
        return found

    def replace(self, settings: Settings, **changes: Any) -> Settings:
        """`settings` with some fields changed."""
        fields: dict[str, Any] = {
            "schema": settings.schema,
            "client_charset": settings.client_charset,
            "results_charset": settings.results_charset,
            "collation": settings.collation,
            "results_collation": settings.results_collation,
            "autocommit": settings.autocommit,
            "multi_statements": settings.multi_statements,
            "variables": settings.variables,
        }
        unknown = changes.keys() - fields.keys()
        if unknown:
            raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
        return self.make(**fields | changes)

    def without(self, settings: Settings, name: bytes) -> Settings:
        """`settings` as if the variable had never been set (after `SET timestamp = DEFAULT`)."""
        if name not in dict(settings.variables):
            return settings
        return self.replace(settings, variables=[item for item in settings.variables if item[0] != name])

    def apply(
        self, settings: Settings, changes: Sequence[tuple[int, bytes, bytes]], mariadb: bool
    ) -> tuple[Settings, int]:
        """The settings after an answer that reported `changes`, and pins or other flags that go with it.

        `changes` are (tracker type, name, value) in the order of the answer; a schema's name is empty.
        """
        flags = 0
        fields: dict[str, Any] = {}
        variables: dict[bytes, bytes] = {}
        for kind, name, value in changes:
            if kind == TRACK_SCHEMA:
                fields["schema"] = value or None
                flags = flags & ~SCHEMA_GONE if value else flags | SCHEMA_GONE
            elif kind != TRACK_SYSVAR or name in _NOISE:
                continue
            elif name == b"autocommit":
                fields["autocommit"] = value.upper() in _ON
            elif name == b"character_set_client":
                fields["client_charset"] = value
            elif name == b"character_set_results":
                fields["results_charset"] = value
                fields["results_collation"] = b""
            elif name == b"collation_connection":
                fields["collation"] = value
            elif name == b"character_set_connection":
                flags |= COLLATION_UNKNOWN
            elif pin := pins.variable_pin(name):
                if name != b"gtid_next" or value.upper() != b"AUTOMATIC":
                    flags |= pin
            else:
                variables[name] = value
        if "collation" in fields:
            flags &= ~COLLATION_UNKNOWN
        if variables:
            merged = dict(settings.variables)
            merged.update(variables)
            fields["variables"] = tuple(merged.items())
        return (self.replace(settings, **fields) if fields else settings), flags


def restore_commands(have: Settings, want: Settings) -> tuple[bytes, ...] | None:
    """The commands that bring a backend in state `have` into state `want`: at most SET, COM_SET_OPTION, COM_INIT_DB.

    None: only after COM_RESET_CONNECTION (then `restore_after_reset`). NEEDS_FRESH (compare with `is`): not on this
    backend.
    """
    if have is want:
        return ()
    plans = have._plans
    if plans is None:
        plans = have._plans = WeakKeyDictionary()
    elif want in plans:
        return plans[want]
    elif len(plans) >= _MAX_PLANS:
        plans.clear()
    plan = plans[want] = _plan(have, want)
    return plan


def forgets(have: Settings, want: Settings) -> bool:
    """Whether a session in `want` has not set a variable that is set in `have`."""
    return not dict(have.variables).keys() <= dict(want.variables).keys()


def restore_after_reset(want: Settings, have_schema: bytes | None) -> tuple[bytes, ...]:
    """The commands that bring a backend just reset into `want`; everything is named, since a reset takes globals.

    A reset keeps the schema `have_schema`; wanting none then gives NEEDS_FRESH. Its charset MariaDB forgets, until the
    schema is chosen again.
    """
    if want.schema is None and have_schema is not None:
        return NEEDS_FRESH
    items = _charset_items(want)
    items.append(_autocommit_item(want))
    items += [_variable_item(name, value) for name, value in want.variables]
    commands = [_COM_QUERY + b"SET " + b",".join(items), _multi_statements(want)]
    if want.schema is not None:
        commands.append(_COM_INIT_DB + want.schema)
    return tuple(commands)


def _plan(have: Settings, want: Settings) -> tuple[bytes, ...] | None:
    if want.schema is None and have.schema is not None:
        return NEEDS_FRESH
    had = dict(have.variables)
    wanted = dict(want.variables)
    items: list[bytes] = []
    if (have.client_charset, have.results_charset, have.collation, have.results_collation) != (
        want.client_charset,
        want.results_charset,
        want.collation,
        want.results_collation,
    ):
        items = _charset_items(want)
    if have.autocommit != want.autocommit:
        items.append(_autocommit_item(want))
    items += [_variable_item(name, value) for name, value in want.variables if had.get(name) != value]
    if any(name in had and had[name] != wanted.get(name) for name in _HOSTILE):
        return None
    if any(name[:1] == b"@" and name not in wanted for name in had):
        return None  # one that was set to NULL is not one that was never set
    items += [_default_item(name) for name, _ in have.variables if name not in wanted]
    commands = [_COM_QUERY + b"SET " + b",".join(items)] if items else []
    if have.multi_statements != want.multi_statements:
        commands.append(_multi_statements(want))
    if want.schema is not None and have.schema != want.schema:
        commands.append(_COM_INIT_DB + want.schema)
    return tuple(commands)


def _charset_items(want: Settings) -> list[bytes]:
    named = want.results_collation
    if named and want.results_charset and _NAME.match(named):
        # As a login does it. Set by its variable, the results' charset has its default collation.
        items = [b"NAMES " + quote(want.results_charset) + b" COLLATE " + quote(named)]
        if want.client_charset != want.results_charset:
            items.append(b"SESSION character_set_client=" + quote(want.client_charset))
        if want.collation != named:
            items.append(b"SESSION collation_connection=" + quote(want.collation))
        return items
    results = quote(want.results_charset) if want.results_charset else b"NULL"
    return [
        b"SESSION character_set_client=" + quote(want.client_charset),
        b"SESSION character_set_results=" + results,
        b"SESSION collation_connection=" + quote(want.collation),
    ]


def _autocommit_item(want: Settings) -> bytes:
    return b"SESSION autocommit=1" if want.autocommit else b"SESSION autocommit=0"


def _variable_item(name: bytes, value: bytes) -> bytes:
    if name[:1] == b"@":
        return b"@`" + name[1:] + b"`=" + value  # a constant: module `uservars`
    if not _NAME.match(name):
        raise ValueError(f"not the name of a variable: {name!r}")
    bare = _NUMBER.match(value) or (name == b"system_versioning_asof" and value == b"DEFAULT")
    return b"SESSION " + name + b"=" + (value if bare else quote(value))


def _default_item(name: bytes) -> bytes:
    if not _NAME.match(name):
        raise ValueError(f"not the name of a variable: {name!r}")
    return b"SESSION " + name + (b"=@@GLOBAL." + name if name in _WRONG_DEFAULT else b"=DEFAULT")


def _multi_statements(want: Settings) -> bytes:
    return _MULTI_STATEMENTS_ON if want.multi_statements else _MULTI_STATEMENTS_OFF


def quote(value: bytes) -> bytes:
    """A string literal that means `value` under every sql_mode and every client charset.

    A backslash is an escape in one mode and a character in the other, and a quote or a byte above 127 may be half of
    a character: such values go as hexadecimal.
    """
    if _SIMPLE.match(value):
        return b"'" + value + b"'"
    return b"_utf8mb4 x'" + value.hex().encode() + b"'"
