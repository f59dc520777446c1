"""Soft state: what a statement leaves behind that does not pin (protocol.md C.6).

LAST_INSERT_ID(), the diagnostics area, ROW_COUNT() and FOUND_ROWS() stay on the backend where the statement ran,
which the client is given again if it can be. Before another client gets it, what may still be asked for is read
(`capture_commands`), and from then on it is answered from here or set on the next backend. What cannot be had is an
error in words.

FOUND_ROWS() is the number of rows sent only for a SELECT without an offset. What other statements make of it differs
from server to server, and so do those that fail: then it is not known here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxy.session import pins
from proxy.session import verdict as v
from proxy.session.verdict import (
    NEED_FOUND_ROWS,
    NEED_INSERT_ID,
    NEED_LAST_BACKEND,
    NEED_ROW_COUNT,
    NEED_WARNINGS,
)
from proxy.wire import constants as c
from proxy.wire.framing import frame

from . import answers
from .prepared import Prepared

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backend import Backend
    from .client import Client
    from .internal import Answer

# What the last client may still ask for, and what must be read before another one uses the backend.
INSERT_ID = 1
WARNINGS = 2
STALE_WARNINGS = 4  # MariaDB keeps warnings until a statement uses a table: they must not reach the next client

UNKNOWN_ID = -1  # LAST_INSERT_ID() has changed, and only `insert_id_backend` knows it
SAID = 2048  # bytes of a command that are kept when it has been sent
UNKNOWN_COUNT = -2  # ROW_COUNT() is not known
UNKNOWN_ROWS = -1  # so has FOUND_ROWS(), or it may have

INSERTS = frozenset((b"insert", b"replace", b"load"))

SHOW_WARNINGS = bytes((c.COM_QUERY,)) + b"SHOW WARNINGS"
_INSERT_ID = bytes((c.COM_QUERY,)) + b"SELECT LAST_INSERT_ID()"
CLEAR_WARNINGS = bytes((c.COM_QUERY,)) + b"DO (SELECT 1 FROM (SELECT 1) x)"  # what uses a table clears

# A list of warnings without any, and with the server's own columns for the charset that this client has.
_EMPTY_LISTS = {
    v.SHOW_WARNINGS: frame(SHOW_WARNINGS + b" LIMIT 0"),
    v.SHOW_ERRORS: frame(bytes((c.COM_QUERY,)) + b"SHOW ERRORS LIMIT 0"),
}
_EMPTY_LIST = v.Verdict(b"show", flags=v.KEEPS_DIAGNOSTICS)

_COUNTED = re.compile(rb"[\s(]*+(?:select|with)\b", re.IGNORECASE)
_NOT_COUNTED = re.compile(rb"\boffset\b|\blimit\s[^;]*,|;\s*+[^\s;]", re.IGNORECASE)
# MariaDB leaves it as it was where the optimizer knows the one row without reading any.
_OPTIMIZED_AWAY = re.compile(rb"\b(?:min|max|count)\s*+\(", re.IGNORECASE)
_ASKED_FOR = re.compile(rb"\bsql_calc_found_rows\b", re.IGNORECASE)

_STAYED = "stayed on a connection that serves another client now"

_COUNT_LABELS = {v.SHOW_COUNT_WARNINGS: b"@@session.warning_count", v.SHOW_COUNT_ERRORS: b"@@session.error_count"}


def at_hand(client: Client, backend: Backend, needs: int) -> bool:
    """Whether the soft state that a command reads is on this backend, untouched since the client left it there."""
    if client.last is not backend or backend.last_client is not client:
        return False
    if needs & NEED_INSERT_ID and client.insert_id_backend is not backend:
        return False
    if needs & NEED_FOUND_ROWS and backend.counted_before is not None and not _rows_here(client, backend):
        return False
    return not backend.spoiled or (needs == NEED_WARNINGS and bool(backend.soft & WARNINGS))


def _rows_here(client: Client, backend: Backend) -> bool:
    """Whether FOUND_ROWS() on the backend is the client's own again: a SELECT makes it so, SET and COMMIT do not."""
    counted = client.counted
    text = counted.text if isinstance(counted, Prepared) else counted[5:]
    counts = _COUNTED.match(text) and not _OPTIMIZED_AWAY.search(text)
    return counted is not backend.counted_before and bool(counts)


def insert_id_here(client: Client, backend: Backend) -> bool:
    """Whether LAST_INSERT_ID() on the backend is the client's own.

    It must be before an INSERT: for a row whose id the statement gives, it stays what it was (protocol.md C.6).
    """
    return client.insert_id_backend is backend or client.insert_id == backend.insert_id


def capture_commands(client: Client, backend: Backend, commands: list[bytes]) -> Client | None:
    """Append what takes the last client's soft state off the backend; return that client if it will be told."""
    if backend.last_client is client:
        return None
    owner = _ask_for_soft_state(backend, commands)
    if backend.soft & STALE_WARNINGS and backend.relay.profile.mariadb:
        commands.append(CLEAR_WARNINGS)
    backend.soft = 0
    return owner


def capture(backend: Backend, then: Callable[[], object]) -> bool:
    """Read the last client's soft state off its backend, `then` go on; False if there is nothing to read."""
    if backend.batch is not None:
        return False
    commands: list[bytes] = []
    owner = _ask_for_soft_state(backend, commands)
    backend.last_client = None
    backend.soft &= STALE_WARNINGS
    if owner is None:
        return False

    def done(answers: list[Answer] | None) -> None:
        captured(owner, backend, answers, len(commands))
        then()

    backend.run_batch(commands, done)
    return True


def _ask_for_soft_state(backend: Backend, commands: list[bytes]) -> Client | None:
    """Append what reads the soft state that the last client may still ask for; return it, if it may."""
    owner = backend.last_client
    if owner is None or owner.closed:
        return None
    if backend.soft & WARNINGS and owner.last is backend:
        commands.append(SHOW_WARNINGS)
    if backend.soft & INSERT_ID and owner.insert_id_backend is backend:
        if owner.insert_id == UNKNOWN_ID:
            commands.append(_INSERT_ID)
        else:
            owner.insert_id_backend = None
    if not commands:
        return None
    owner.capturing += 1
    return owner


def answered(client: Client) -> bool:
    """The command reads soft state that is not (only) on the backend it got: False if it can be restored there.

    Else it has been answered, from what was captured or with an error in words.
    """
    statement = client.statement
    if 0 < client.verdict.local < v.KILL_CONNECTION and (
        statement is None or (client.verdict.local == v.SELECT_FOUND_ROWS and not statement.private)
    ):
        if lists_nothing(client):
            return False
        answer(client)
        return True
    lost = client.verdict.needs & (NEED_ROW_COUNT | NEED_FOUND_ROWS | NEED_LAST_BACKEND)
    if client.verdict.needs & NEED_WARNINGS and client.has_diagnostics:
        lost |= NEED_WARNINGS
    if client.insert_id == UNKNOWN_ID and client.insert_id_backend is not client.backend:
        lost |= client.verdict.needs & NEED_INSERT_ID
    if not lost or client.verdict.pins & pins.OPAQUE:
        return False
    text = (
        f"of the previous statement {_STAYED}; "
        "use SHOW WARNINGS, SELECT ROW_COUNT() or SELECT FOUND_ROWS() as a statement of its own, "
        "or ask inside a transaction"
    )
    what = "the diagnostics area" if lost & NEED_WARNINGS else "ROW_COUNT(), FOUND_ROWS() or LASTVAL()"
    if lost & NEED_INSERT_ID:
        what, text = "LAST_INSERT_ID()", "was lost with the connection to the server that knew it"
    client.refuse(f"{what} {text}")
    return True


def lists_nothing(client: Client) -> bool:
    """Whether the statement asks for a list of warnings where there are none: it becomes one that any backend can
    answer.
    """
    empty = _EMPTY_LISTS.get(client.verdict.local)
    if empty is None or client.has_diagnostics or client.statement is not None:
        return False
    client.packet, client.verdict = empty, _EMPTY_LIST
    return True


def _found_rows(client: Client) -> int:
    """What FOUND_ROWS() is, or UNKNOWN_ROWS."""
    counted = client.counted
    text = counted.text if isinstance(counted, Prepared) else counted[5:]
    if not text or _ASKED_FOR.search(text):
        return client.found_rows
    plain = len(counted) < SAID if isinstance(counted, bytes) else True  # else its end is not there
    odd = _NOT_COUNTED.search(text) or _OPTIMIZED_AWAY.search(text)
    return client.found_rows if plain and _COUNTED.match(text) and not odd else UNKNOWN_ROWS


def answer(client: Client) -> None:
    """Answer a statement that asks for nothing but soft state which we have."""
    verdict = client.verdict
    local = verdict.local
    known = client.diagnostics
    asks_warnings = local not in (v.SELECT_ROW_COUNT, v.SELECT_FOUND_ROWS)
    if asks_warnings and client.has_diagnostics and known is None:
        client.refuse("the diagnostics area was lost with the connection to the server that knew it")
        return
    found_rows = _found_rows(client)
    if local == v.SELECT_FOUND_ROWS and found_rows == UNKNOWN_ROWS:
        client.refuse(f"FOUND_ROWS() {_STAYED}; ask right behind a SELECT without an offset, or inside a transaction")
        return
    if local == v.SELECT_ROW_COUNT and client.row_count == UNKNOWN_COUNT:
        client.refuse(f"ROW_COUNT() of an execution that failed {_STAYED}; ask inside a transaction")
        return
    columns: list[bytes] | tuple[bytes, ...] = answers.WARNING_COLUMNS
    rows: list[bytes] = list(known.rows) if known is not None and client.has_diagnostics else []
    if known is not None and known.columns:
        columns = known.columns
    if local != v.SHOW_WARNINGS:
        errors = [row for row in rows if row[1:6] == b"Error"]
        number = {
            v.SELECT_ROW_COUNT: client.row_count,
            v.SELECT_FOUND_ROWS: found_rows,
            v.SHOW_COUNT_WARNINGS: len(rows),
            v.SHOW_COUNT_ERRORS: len(errors),
        }
        if local == v.SHOW_ERRORS:
            rows = errors
        else:
            label = verdict.local_label or _COUNT_LABELS[local]
            columns = [answers.count_column(label) if asks_warnings else answers.number_column(label)]
            row = answers.number_row if client.statement is None else answers.binary_number_row
            rows = [row(number[local])]
    client.row_count = -1
    if local not in (v.SHOW_WARNINGS, v.SHOW_ERRORS):
        client.found_rows, client.counted = 1, b""
    if verdict.local_label and not client.relay.profile.mariadb:  # a SELECT; MariaDB's stay until one uses a table
        client.has_diagnostics = False
    eof, seq = client.deprecate_eof, client.reply_seq
    client.transport.write(answers.result_set(columns, rows, deprecate_eof=eof, status=client.status, seq=seq))
    client.packet = b""


def captured(client: Client, backend: Backend, known: list[Answer] | None, count: int) -> None:
    """Another client needed the backend where our soft state was; here is that state."""
    client.capturing -= 1
    for found in (known or [])[:count]:
        if found.error is not None:
            continue
        if len(found.columns) == 3:
            if client.last is backend:
                client.diagnostics = found
        elif client.insert_id_backend is backend:
            client.insert_id = int(found.values()[0][0] or 0)
            client.insert_id_backend = None
            if backend.insert_id is None:
                backend.insert_id = client.insert_id
    resume, client.resume = client.resume, None
    if resume is not None:
        resume()
