"""Why a session is pinned, in a sentence, with what ends it. Longer in docs/sessions.md."""

from __future__ import annotations

from proxy.session import pins as p

_RESET = "until it resets or disconnects"

PIN_WORDS = {
    p.USER_VARIABLE: f"it has set a user variable (@x) to what is no constant: {_RESET}",
    p.NAMED_LOCK: "it has called GET_LOCK(): until RELEASE_LOCK() of every name, or RELEASE_ALL_LOCKS()",
    p.TEMPORARY_TABLE: "it has made a temporary table: until all of them are dropped",
    p.HANDLER: "it has opened a HANDLER: until all of them are closed",
    p.LOCK_TABLES: "it has locked tables: until UNLOCK TABLES",
    p.GLOBAL_READ_LOCK: "it holds FLUSH TABLES WITH READ LOCK: until UNLOCK TABLES",
    p.BACKUP_LOCK: "it holds a backup lock: until it ends the backup",
    p.ROLE: "it has done SET ROLE: until it disconnects",
    p.RESOURCE_GROUP: "it has done SET RESOURCE GROUP: until it disconnects",
    p.TEXT_PREPARE: "it has prepared a statement in SQL (PREPARE … FROM): until DEALLOCATE PREPARE of all of them",
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
