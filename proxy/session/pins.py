"""Pin reasons: why a session cannot leave its backend.

A pin reason is one bit of an int; a session is pinned exactly while its mask is not zero. Every bit has a name, and
the names are the values of the metric label `reason`, so they never change. Which statements set which bit is decided
in `classify`, which reported variables do so in `state`; both ask `variable_pin` about a variable's name.
"""

from __future__ import annotations

from typing import Final

USER_VARIABLE: Final = 1 << 0
NAMED_LOCK: Final = 1 << 1
TEMPORARY_TABLE: Final = 1 << 2
HANDLER: Final = 1 << 3
LOCK_TABLES: Final = 1 << 4
GLOBAL_READ_LOCK: Final = 1 << 5
BACKUP_LOCK: Final = 1 << 6
ROLE: Final = 1 << 7
RESOURCE_GROUP: Final = 1 << 8
TEXT_PREPARE: Final = 1 << 9
OPAQUE: Final = 1 << 10
SAVEPOINT: Final = 1 << 11
XA: Final = 1 << 12
ONE_SHOT: Final = 1 << 13
SESSION_TRACK: Final = 1 << 14
PROFILING: Final = 1 << 15
UNTRACKED_VARIABLE: Final = 1 << 16
UNNAMED_STATE: Final = 1 << 17
SEQUENCE: Final = 1 << 18
CURSOR: Final = 1 << 19
LONG_DATA: Final = 1 << 20
LARGE_STATEMENT: Final = 1 << 21
NEXT_TRANSACTION: Final = 1 << 22
BEING_KILLED: Final = 1 << 23

PIN_NAMES: Final[dict[int, str]] = {
    USER_VARIABLE: "user_variable",
    NAMED_LOCK: "named_lock",
    TEMPORARY_TABLE: "temporary_table",
    HANDLER: "handler",
    LOCK_TABLES: "lock_tables",
    GLOBAL_READ_LOCK: "global_read_lock",
    BACKUP_LOCK: "backup_lock",
    ROLE: "role",
    RESOURCE_GROUP: "resource_group",
    TEXT_PREPARE: "text_prepare",
    OPAQUE: "opaque",
    SAVEPOINT: "savepoint",
    XA: "xa",
    ONE_SHOT: "one_shot",
    SESSION_TRACK: "session_track",
    PROFILING: "profiling",
    UNTRACKED_VARIABLE: "untracked_variable",
    UNNAMED_STATE: "unnamed_state",
    SEQUENCE: "sequence",
    CURSOR: "cursor",
    LONG_DATA: "long_data",
    LARGE_STATEMENT: "large_statement",
    NEXT_TRANSACTION: "next_transaction",
    BEING_KILLED: "being_killed",
}

# What a COM_RESET_CONNECTION does not undo (protocol.md D.1): such a backend is closed.
# OPAQUE is among them because a procedure or an EXECUTE can SET ROLE, which nothing reports.
UNRESETTABLE: Final = ROLE | RESOURCE_GROUP | PROFILING | XA | OPAQUE
# What a client that resets its session keeps, and so what goes on holding it.
KEPT_BY_RESET: Final = ROLE | RESOURCE_GROUP

# Session variables whose value must not be carried to another backend: replaying them would be wrong (a one-shot
# would act twice, a thread id would lie), so the session stays where it set them.
_VARIABLE_PINS: Final[dict[bytes, int]] = {
    **dict.fromkeys(
        (
            b"insert_id",
            b"last_insert_id",
            b"identity",
            b"rand_seed1",
            b"rand_seed2",
            b"gtid_next",
            b"gtid_next_list",
            b"gtid_seq_no",
        ),
        ONE_SHOT,
    ),
    **dict.fromkeys((b"profiling", b"profiling_history_size", b"optimizer_trace"), PROFILING),
    **dict.fromkeys(
        (
            b"pseudo_thread_id",
            b"pseudo_slave_mode",
            b"pseudo_replica_mode",
            b"sql_log_bin",
            b"sql_log_off",
            b"gtid_domain_id",
            b"server_id",
            b"skip_replication",
            b"skip_parallel_replication",
            b"original_commit_timestamp",
            b"original_server_version",
            b"immediate_server_version",
            b"immediate_commit_timestamp",
            b"resultset_metadata",
            b"require_row_format",
            b"use_secondary_engine",
            b"check_constraint_checks_replica",
            b"debug",
            b"debug_dbug",
            b"debug_sync",
            b"dbug",
            b"proxy_user",
            b"external_user",
            # set by USE as well, which is why they are not carried from the trackers
            b"character_set_database",
            b"collation_database",
        ),
        UNTRACKED_VARIABLE,
    ),
}


def variable_pin(name: bytes) -> int:
    """The pin that setting the session variable `name` (lower case) brings, 0 if it can simply be replayed."""
    pin = _VARIABLE_PINS.get(name, 0)
    if not pin and name.startswith(b"session_track_"):
        return SESSION_TRACK
    return pin


def names(mask: int) -> list[str]:
    """The names of the reasons in `mask`, in a fixed order."""
    return [name for bit, name in PIN_NAMES.items() if mask & bit]
