"""What MySQL clients say of their own accord: command lines, drivers, graphical clients; when they connect and later.

They must not fail for it, and must not be lied to: variables have plain values, MySQL's catalogues are empty, and what
is neither is no answer of ours (`answer` returns None) but a command, or an error.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from proxy import __version__

from .values import Column, ConsoleError, Row

SERVER_VERSION = f"8.0.36-mybouncer-{__version__}"

# What drivers ask for when they connect, with the values of a plain server.
VARIABLES: dict[str, str | int | None] = {
    "auto_increment_increment": 1,
    "autocommit": 1,
    "character_set_client": "utf8mb4",
    "character_set_connection": "utf8mb4",
    "character_set_database": "utf8mb4",
    "character_set_results": "utf8mb4",
    "character_set_server": "utf8mb4",
    "character_set_system": "utf8mb3",
    "collation_connection": "utf8mb4_general_ci",
    "collation_database": "utf8mb4_general_ci",
    "collation_server": "utf8mb4_general_ci",
    "default_storage_engine": "",
    "have_ssl": "NO",
    "hostname": "mybouncer",
    "init_connect": "",
    "interactive_timeout": 28800,
    "language": "",
    "license": "",
    "lower_case_file_system": "OFF",
    "lower_case_table_names": 0,
    "max_allowed_packet": 65536,
    "max_execution_time": 0,
    "net_buffer_length": 16384,
    "net_read_timeout": 30,
    "net_write_timeout": 60,
    "performance_schema": 0,
    "port": 0,
    "protocol_version": 10,
    "query_cache_size": 0,
    "query_cache_type": "OFF",
    "read_only": 0,
    "session_track_schema": 1,
    "socket": "",
    "sql_auto_is_null": 0,
    "sql_mode": "",
    "sql_safe_updates": 0,
    "sql_select_limit": 18446744073709551615,
    "ssl_cipher": "",
    "system_time_zone": "UTC",
    "time_zone": "SYSTEM",
    "transaction_isolation": "REPEATABLE-READ",
    "transaction_read_only": 0,
    "tx_isolation": "REPEATABLE-READ",
    "tx_read_only": 0,
    "version": SERVER_VERSION,
    "version_comment": "mybouncer console: SHOW HELP",
    "version_compile_machine": "",
    "version_compile_os": "Linux",
    "wait_timeout": 28800,
}

# Those that clients set and nobody asks for.
_SETTABLE = frozenset(
    ("foreign_key_checks", "unique_checks", "profiling", "group_concat_max_len", "optimizer_switch", "sql_big_selects",
     "sql_quote_show_create", "sql_notes", "lock_wait_timeout", "innodb_lock_wait_timeout", "lc_messages",
     "information_schema_stats_expiry", "resultset_metadata", "sql_warnings", "session_track_gtids", "sql_log_bin")
)  # fmt: skip

# MySQL's own SHOWs whose answers are empty here, and their columns.
_EMPTY_SHOWS = (
    (r"databases|schemas", ("Database",)),
    (r"(full )?tables", ("Tables", "Table_type")),
    (r"table status", ("Name", "Engine", "Rows", "Comment")),
    (r"(full )?(columns|fields)", ("Field", "Type", "Null", "Key", "Default", "Extra")),
    (r"index|indexes|keys", ("Table", "Non_unique", "Key_name", "Column_name")),
    (r"(count\(\*\) )?(warnings|errors)", ("Level", "Code", "Message")),
    (r"(storage )?engines", ("Engine", "Support", "Comment", "Transactions", "XA", "Savepoints")),
    (r"plugins", ("Name", "Status", "Type", "Library", "License")),
    (r"collation", ("Collation", "Charset", "Id", "Default", "Compiled", "Sortlen")),
    (r"character set|charset", ("Charset", "Description", "Default collation", "Maxlen")),
    (r"triggers", ("Trigger", "Event", "Table")),
    (r"events", ("Db", "Name", "Definer")),
    (r"(procedure|function) status", ("Db", "Name", "Type")),
    (r"(master|slave|replica|binary log|binlog) status", ("File",)),
    (r"(global |session )?status", ("Variable_name", "Value")),
    (r"grants", ("Grants",)),
    (r"privileges", ("Privilege", "Context", "Comment")),
)
_EMPTY = tuple((re.compile(rf"show ({words})\b", re.IGNORECASE), columns) for words, columns in _EMPTY_SHOWS)

_COMMENT = re.compile(r"/\*(?!!|M!).*?\*/|/\*M?!\d*(?P<kept>.*?)\*/|(?:--\s|#)[^\n]*", re.DOTALL)
_SHOW_VARIABLES = re.compile(r"show (global |session |local )?variables\b(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_SELECT = re.compile(r"select\s+(?P<list>.*?)(\s+from\s+(?P<from>.+?))?(\s+limit\s+\d+)?", re.IGNORECASE | re.DOTALL)
_CATALOGUES = re.compile(r"`?(information_schema|performance_schema|mysql|sys)`?\s*\.", re.IGNORECASE)
_ALIAS = re.compile(
    r"(?P<value>.+?)\s+(as\s+)?(?P<name>`[^`]+`|'[^']+'|\"[^\"]+\"|[a-z_]\w*)", re.IGNORECASE | re.DOTALL
)
_VARIABLE = re.compile(r"@@(session\.|global\.|local\.)?`?(?P<name>\w+)`?", re.IGNORECASE)
_OURS = re.compile(r"set\s+[a-z_]+\.[^=]*=", re.IGNORECASE)
_CLIENT_SET = re.compile(r"set\s+(names|character set|charset|session|local|transaction|password|@)", re.IGNORECASE)
_NOTHING_TO_DO = re.compile(r"(begin|start transaction|commit|rollback|use|do|set autocommit)\b", re.IGNORECASE)
_ASSIGNMENT = re.compile(
    r"(?:set\s+|,\s*)(?:@@)?(?:session\s+|session\.|local\.)?`?(?P<name>\w+)`?\s*:?=", re.IGNORECASE
)

OK = "ok"


@dataclass(slots=True)
class Session:
    """What a client may ask for about itself."""

    ident: int
    user: str
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """An answer with rows."""

    columns: tuple[Column, ...]
    rows: list[Row]


def plain(text: str) -> str:
    """Without comments and the closing semicolon; what is in a conditional comment stays."""
    text = _COMMENT.sub(lambda match: f" {match['kept'] or ''} ", text)
    return text.strip().rstrip(";").rstrip()


def answer(text: str, session: Session) -> Table | str | None:
    """The answer to what a client says of its own accord: a table, OK, or None where it is something else."""
    spaced = " ".join(text.split())
    if _SHOW_VARIABLES.fullmatch(spaced):
        return _variables(spaced)
    for pattern, columns in _EMPTY:
        if pattern.match(spaced):
            return _table(columns, [])
    word = spaced.split(" ", 1)[0].lower()
    if word == "select":
        return _select(text, session)
    if word == "set" and not _OURS.match(spaced):
        return _set(spaced)
    if _NOTHING_TO_DO.match(spaced):
        if word == "use":
            session.schema = spaced[4:].strip("` ")
        return OK
    return None


def _set(text: str) -> str | None:
    """OK for the variables of a MySQL session; None for what looks like a key of ours."""
    if _CLIENT_SET.match(text):
        return OK
    names = [match["name"].lower() for match in _ASSIGNMENT.finditer(text)]
    unknown = [name for name in names if name not in VARIABLES and name not in _SETTABLE]
    if not names or unknown:
        raise ConsoleError(
            f"{text[:80]!r} sets no key and no variable of a session: it is SET <section>.<key> = <value>, "
            "and SHOW CONFIG lists the keys",
            1193,
        )
    return OK


def _variables(text: str) -> Table:
    rest = text.lower().partition("variables")[2]
    quoted = re.findall(r"['\"]([^'\"]*)['\"]", rest)
    patterns = [re.escape(one).replace("%", ".*").replace("_", ".") for one in quoted] if rest.strip() else [".*"]
    found = re.compile("|".join(patterns) or "(?!)")
    rows: list[Row] = [(name, _text(value)) for name, value in VARIABLES.items() if found.fullmatch(name)]
    return _table(("Variable_name", "Value"), rows)


def _text(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _select(text: str, session: Session) -> Table:
    match = _SELECT.fullmatch(text)
    if match is None:
        raise _computes_nothing(text)
    names, values = [], []
    source = (match["from"] or "dual").strip()
    catalogue = _CATALOGUES.match(source) is not None
    if not catalogue and source.lower() != "dual":
        raise _computes_nothing(text)
    for item in _split(match["list"]):
        aliased = _ALIAS.fullmatch(item)
        expression = aliased["value"] if aliased else item
        names.append(aliased["name"].strip("`'\"") if aliased else item)
        values.append(None if catalogue else _evaluate(expression.strip(), session))
    return _table(tuple(names), [] if catalogue else [tuple(values)])


def _computes_nothing(text: str) -> ConsoleError:
    return ConsoleError(
        f"the console has no tables and computes nothing: {text[:80]!r}; SHOW HELP says what it knows", 1235
    )


def _split(text: str) -> list[str]:
    """At the commas outside parentheses and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"`":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]


def _evaluate(expression: str, session: Session) -> str | int | None:
    variable = _VARIABLE.fullmatch(expression)
    if variable is not None:
        name = variable["name"].lower()
        if name not in VARIABLES:
            raise ConsoleError(f"Unknown system variable '{name}'", 1193)
        return VARIABLES[name]
    if re.fullmatch(r"\d{1,18}", expression):
        return int(expression)
    if re.fullmatch(r"'[^']*'|\"[^\"]*\"", expression):
        return expression[1:-1]
    word = re.sub(r"\s*\(\s*\)$", "", expression).lower()
    known = _functions(session)
    if word not in known:
        raise _computes_nothing(expression)
    return known[word]


def _functions(session: Session) -> dict[str, str | int | None]:
    user = f"{session.user}@localhost"
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return {
        "database": session.schema, "schema": session.schema, "version": SERVER_VERSION, "connection_id": session.ident,
        "user": user, "current_user": user, "session_user": user, "system_user": user, "current_role": None,
        "last_insert_id": 0, "row_count": 0, "found_rows": 0, "now": now, "current_timestamp": now, "sysdate": now,
        "unix_timestamp": int(time.time()), "null": None, "true": 1, "false": 0,
    }  # fmt: skip


def _table(names: tuple[str, ...], rows: list[Row]) -> Table:
    first = rows[0] if rows else ()
    kinds = ["int" if at < len(first) and isinstance(first[at], int) else "text" for at in range(len(names))]
    columns = tuple(
        Column(name, "int" if kind == "int" else "text", "") for name, kind in zip(names, kinds, strict=True)
    )
    return Table(columns, rows)
