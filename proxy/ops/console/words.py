"""Why a session is pinned, in a sentence, with what ends it. Longer in docs/sessions.md."""

from __future__ import annotations

from proxy.session import pins as p

_RESET = "until it resets or disconnects"

PIN_WORDS = {
    p.USER_VARIABLE: f"it has set a user variable (@x): {_RESET}",
    p.NAMED_LOCK: f"it has called GET_LOCK(): {_RESET}",
    p.TEMPORARY_TABLE: f"it has made a temporary table: {_RESET}",
    p.HANDLER: f"it has opened a HANDLER: {_RESET}",
    p.LOCK_TABLES: "it has locked tables: until UNLOCK TABLES",
    p.GLOBAL_READ_LOCK: "it holds FLUSH TABLES WITH READ LOCK: until UNLOCK TABLES",
    p.BACKUP_LOCK: "it holds a backup lock: until it ends the backup",
    p.ROLE: "it has done SET ROLE: until it disconnects",
    p.RESOURCE_GROUP: "it has done SET RESOURCE GROUP: until it disconnects",
    p.TEXT_PREPARE: f"it has prepared a statement in SQL (PREPARE … FROM): {_RESET}",
    p.OPAQUE: f"it has run what cannot be looked into (CALL, a stored function …): {_RESET}",
    p.SAVEPOINT: "it has set a savepoint: until COMMIT or ROLLBACK",
    p.XA: "it is in an XA transaction: until that ends",
    p.ONE_SHOT: f"it has set a variable that acts once: {_RESET}",
    p.SESSION_TRACK: f"it has set session_track_…: {_RESET}",
    p.PROFILING: "it has set profiling: until it disconnects",
    p.UNTRACKED_VARIABLE: f"it has set a variable that the server does not report: {_RESET}",
    p.UNNAMED_STATE: f"the server says that something changed, and not what: {_RESET}",
    p.SEQUENCE: f"it has used LASTVAL(): {_RESET}",
    p.CURSOR: "it has an open cursor: until it is closed",
    p.LONG_DATA: "it has sent long data: until the statement is executed",
    p.LARGE_STATEMENT: "it sends a statement larger than session.request_buffer: until that is over",
    p.NEXT_TRANSACTION: "it has done SET TRANSACTION: until the transaction that uses it",
    p.BEING_KILLED: "a KILL of it is on its way to the server: until it has arrived",
}
