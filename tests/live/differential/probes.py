"""What every session is asked at the end of an example: everything it may believe about itself."""

from __future__ import annotations

from collections.abc import Iterator

from .steps import PIN, Step

ABOUT = "probe of variables"

# They change by themselves, or say which connection it is; the schema's charset MariaDB forgets when it is reset.
_VOLATILE = frozenset(
    (
        "timestamp",
        "pseudo_thread_id",
        "rand_seed1",
        "rand_seed2",
        "insert_id",
        "last_insert_id",
        "identity",
        "error_count",
        "warning_count",
        "statement_id",
        "last_gtid",
        "gtid_seq_no",
        "in_transaction",
        "proxy_user",
        "external_user",
        "session_track_system_variables",
        "session_track_schema",
        "session_track_state_change",
        "session_track_transaction_info",
        "character_set_database",
        "collation_database",
        "session_track_gtids",
        "proxy_protocol_networks",
    )
)

# The first ones ask for soft state, which each of them spoils for those behind it.
_SOFT = (
    ("SELECT ROW_COUNT()", "SHOW WARNINGS", "SELECT LAST_INSERT_ID(), @@identity"),
    ("SHOW WARNINGS", "SHOW COUNT(*) ERRORS", "SELECT ROW_COUNT()", "SELECT LAST_INSERT_ID(), @@identity"),
    ("SELECT FOUND_ROWS()", "SELECT ROW_COUNT()", "SELECT LAST_INSERT_ID()"),
)
_STATE = (
    "SELECT DATABASE(), USER() LIKE 'zq%', CURRENT_USER(), CURRENT_ROLE()",
    "SELECT @a, @b, @c, @remembered, @by_trigger",
    "SELECT IS_FREE_LOCK('zqd_common'), IS_USED_LOCK('zqd_common') = CONNECTION_ID()",
    "SELECT * FROM tmp ORDER BY 1",
    "SELECT * FROM shared ORDER BY id",
    "SELECT IF(@@timestamp < 1600000000, @@timestamp, 'now')",
    "HANDLER shared READ FIRST",
    "SELECT 'a\\'b', \"c\" FROM shared LIMIT 1",
    "SELECT 1; SELECT 2",
)


def variables(names: list[str]) -> list[str]:
    """Those that are compared."""
    return [name for name in names if name not in _VOLATILE]


def probes(number: int, names: list[str], mariadb: bool) -> Iterator[Step]:
    """The questions for one session, in order."""
    for text in _SOFT[number % len(_SOFT)]:
        yield Step(number, "probe", "query", text)
    for text in _STATE:
        yield Step(number, "probe", "query", text)
    lock = f"SELECT IS_FREE_LOCK('zqd_lock{number}'), IS_USED_LOCK('zqd_lock{number}') = CONNECTION_ID()"
    yield Step(number, "probe", "query", lock)
    if mariadb:
        sql = "SELECT * FROM information_schema.user_variables WHERE variable_value IS NOT NULL ORDER BY 1"
        yield Step(number, "probe", "query", sql, effect=PIN)
    asked = ", ".join(f"@@session.`{name}`" for name in variables(names))
    yield Step(number, ABOUT, "query", f"SELECT {asked}")
