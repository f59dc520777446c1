"""What a response says about the session, and what we ask the server behind it.

`finish` ends most statements at once: the session is as it was. Else the trackers and flags are taken in, and what an
ERR or an untracked SET has left unknown is asked for before the lease can end (protocol.md 0.2, A.3). The client has
its answer by then; only its next statement waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session import pins, uservars
from proxy.session.state import COLLATION_UNKNOWN, PIN_MASK
from proxy.session.verdict import (
    CALC_FOUND_ROWS,
    CHARSET,
    COUNTS,
    CREDENTIALS,
    DML,
    KEEPS_DIAGNOSTICS,
    PINS_ON_SUCCESS,
    PLAIN,
    RESULTS_COLLATION,
    SETS_INSERT_ID,
    TIMESTAMP_DEFAULT,
)
from proxy.wire import constants as c
from proxy.wire.packets import Err, iter_trackers
from proxy.wire.response import NO_RESPONSE, PREPARE, QUERY, SINGLE, ResponseReader

from . import doubt, held, release, set_names, soft
from .prepared import Prepared, end_private, remember_long_data_error

if TYPE_CHECKING:
    from proxy.session.uservars import Assignments

    from .backend import Backend
    from .client import Client
    from .internal import Answer

_FOUND_ROWS = bytes((c.COM_QUERY,)) + b"SELECT FOUND_ROWS()"
_DDL = frozenset((b"alter", b"drop", b"truncate"))
_ONLY_SOFT = frozenset((soft.SHOW_WARNINGS, _FOUND_ROWS))


# Errors after which the server hangs up, or nobody knows what it reads next; and those among them that its client
# has brought about, and loses its own connection for as with the server.
_NOT_AGAIN = frozenset((c.ER_NET_PACKET_TOO_LARGE, c.ER_NET_PACKETS_OUT_OF_ORDER, c.ER_NET_READ_INTERRUPTED))
_SERVER_HANGS_UP = _NOT_AGAIN | {c.ER_SERVER_SHUTDOWN, c.ER_CONNECTION_KILLED, c.ER_CLIENT_INTERACTION_TIMEOUT}


def finish(backend: Backend, client: Client | None) -> None:
    """The response of the running command is complete."""
    reader = backend.reader
    relay = backend.relay
    now = relay.clock()
    seconds = now - backend.sent_at
    if reader.kind == QUERY:
        relay.stats.statement_seconds.observe(seconds)
    if client is None:
        if reader.error is not None and reader.error.code in _SERVER_HANGS_UP:
            backend.hang_up("server_hung_up")
        else:
            release.reset(backend)
        return
    statements = relay.statements
    if client.kind == QUERY:
        statements.left -= 1
        if not statements.left or seconds >= statements.long:
            statements.note(client, backend, reader, now)
    status = reader.status
    statement = client.statement
    if (
        status is None
        or (status & c.SESSION_FLAGS) != client.status
        or reader.error
        or reader.changes
        or reader.insert_id
        or reader.warnings
        or client.kind != QUERY
        or client.verdict.flags != PLAIN
        or (reader.had_rows and client.verdict.kind in soft.INSERTS)
        or (statement is not None and statement.private)
    ):
        _finish_carefully(client, backend, reader)
        return
    # Hot: the session is as it was.
    client.has_diagnostics = False
    client.diagnostics = None
    backend.soft &= ~soft.WARNINGS
    if reader.had_rows:
        client.row_count = -1
        client.found_rows = reader.rows
        client.counted = client.said
    else:
        client.row_count = reader.affected
        client.found_rows = soft.UNKNOWN_ROWS
    release.settle(client, backend, now)


def _finish_carefully(client: Client, backend: Backend, reader: ResponseReader) -> None:
    """`finish` for a response that says something about the session."""
    verdict = client.verdict
    error = reader.error
    if error is not None and (reader.cut_short or error.code in _SERVER_HANGS_UP):
        _hung_up(client, backend, error)
        return
    commands: list[bytes] = []
    asked = doubt.question(client, reader) if client.doubt is not None else None
    if asked is not None:
        commands.append(asked)
    if client.kind == PREPARE:
        _remember_prepared(client, backend, reader)
    if client.kind in (QUERY, SINGLE):
        _count_rows(client, reader)
    elif error is not None:
        client.row_count, client.found_rows, client.counted = soft.UNKNOWN_COUNT, soft.UNKNOWN_ROWS, b""
    sets = verdict.flags & SETS_INSERT_ID or verdict.pins & pins.OPAQUE
    lost_id = client.insert_id == soft.UNKNOWN_ID and client.insert_id_backend is not backend
    if reader.insert_id or (not lost_id and (sets or ((reader.had_rows or error) and verdict.kind in soft.INSERTS))):
        backend.soft |= soft.INSERT_ID
        backend.insert_id = None
        client.insert_id = soft.UNKNOWN_ID
        client.insert_id_backend = backend
    if not verdict.flags & KEEPS_DIAGNOSTICS or error is not None:  # even a failing COM_INIT_DB leaves its error there
        if client.last is not backend:
            client.last = backend
            backend.spoiled = True  # the diagnostics area is here, ROW_COUNT() and FOUND_ROWS() are not
        client.diagnostics = None
        client.has_diagnostics = bool(reader.warnings or error)
        if client.has_diagnostics:
            backend.soft |= soft.WARNINGS | soft.STALE_WARNINGS
        else:
            backend.soft &= ~soft.WARNINGS
    statement = client.statement
    if statement is not None and statement.private and client.kind != NO_RESPONSE:
        open_cursor = reader.status is not None and reader.status & c.SERVER_STATUS_CURSOR_EXISTS
        if error is not None or not open_cursor or (reader.status or 0) & c.SERVER_STATUS_LAST_ROW_SENT:
            if error is not None:
                remember_long_data_error(statement, error)
            end_private(client, statement, backend)
    had_transaction = client.status & c.SERVER_STATUS_IN_TRANS
    if verdict.flags & CREDENTIALS:
        client.relay.accounts.passwords_may_have_changed()  # of several accounts some may have been, before an error
    if reader.status is not None:
        _follow_status(client, reader.status)
    if error is not None:
        client.relay.stats.errors[(error.code, "server")] += 1
        if statement is not None:
            backend.bound.pop(backend.statements.get(statement.key, 0), None)  # nobody knows how far it came
        if verdict.readback and not verdict.flags & PINS_ON_SUCCESS:
            client.add_pins(pins.UNTRACKED_VARIABLE)  # an earlier statement of the text may have set it
        # A trigger may have set a variable before the error. Where nothing else has changed, MariaDB does not tell.
        plain = verdict.flags & PLAIN and client.settings.autocommit and not had_transaction
        ask = not client.pins or had_transaction  # which the error may have ended
        if not (plain and client.relay.profile.mariadb) and ask and client.kind == QUERY:
            commands.append(_probe(client))
    else:
        if verdict.pins:
            client.add_pins(verdict.pins)
        if verdict.unpins:
            client.drop_pins(verdict.unpins)
    if verdict.assigns and error is None:
        _carry(client, backend, verdict.assigns)
    if client.pins and (verdict.holds or verdict.pins):
        locks = held.follow(client, error)
        if locks is not None:
            commands.append(locks)
    if apply_changes(client, backend, reader.changes, explained=_explained(client)) & COLLATION_UNKNOWN or (
        verdict.flags & CHARSET and error is None
    ):
        if error is None and client.relay.profile.is_collation(verdict.collation):
            _know_collation(client, backend)
        else:
            commands.append(b"\x03SELECT @@collation_connection")
    if verdict.flags & TIMESTAMP_DEFAULT and error is None:
        client.settings = backend.settings = client.relay.settings.without(client.settings, b"timestamp")
    if verdict.readback and error is None:
        names = b", ".join(b"@@session." + name for name in verdict.readback)
        commands.append(b"\x03SELECT " + names)
    if verdict.flags & CALC_FOUND_ROWS and error is None:
        commands.append(_FOUND_ROWS)
    if not commands:
        release.settle(client, backend)
        return

    def done(answers: list[Answer] | None) -> None:
        if answers is not None:
            _aftercare(client, backend, commands, answers)
        elif not client.closed and release.may_move(client) and _could_be_lost(client, commands):
            _outlive(client, backend)

    only_probe = len(commands) == 1 and commands[0][0] == c.COM_SET_OPTION
    if client.has_diagnostics and not (only_probe and had_transaction):
        # What follows would empty the diagnostics area, which the client may ask for next. A probe would not; outside
        # a transaction the area is read with it all the same, so that the next client need not wait for that.
        commands.insert(0, soft.SHOW_WARNINGS)
    backend.run_batch(commands, done)


def _count_rows(client: Client, reader: ResponseReader) -> None:
    """What is known of ROW_COUNT() and FOUND_ROWS() behind this statement.

    SET, USE, COMMIT and their like leave FOUND_ROWS() as it was. What fails may have changed neither (MariaDB: SHOW).
    """
    verdict = client.verdict
    if reader.error is not None and verdict.kind not in DML:
        client.row_count = soft.UNKNOWN_COUNT
    elif reader.error is not None or (reader.had_rows and not reader.ok_last):
        client.row_count = -1
    else:
        client.row_count = reader.affected
    if reader.error is not None or (client.statement is not None and client.statement.private):
        client.found_rows, client.counted = soft.UNKNOWN_ROWS, b""
    elif verdict.flags & KEEPS_DIAGNOSTICS:
        if verdict.local in COUNTS:
            client.found_rows, client.counted = 1, b""
    elif reader.had_rows:
        client.found_rows, client.counted = reader.rows, client.said
    elif verdict.kind in DML or verdict.pins & pins.OPAQUE:
        client.found_rows, client.counted = soft.UNKNOWN_ROWS, b""


def _know_collation(client: Client, backend: Backend) -> None:
    """SET NAMES has succeeded, and its text says which collation the server has taken."""
    collation = client.verdict.collation
    client.settings = backend.settings = client.relay.settings.replace(
        client.settings, collation=collation, results_collation=collation
    )
    if client.sent == 1:
        set_names.learn(client, backend)


def _hung_up(client: Client, backend: Backend, error: Err) -> None:
    """The answer was an ERR that ends the server's connection; the client has it."""
    client.relay.stats.errors[(error.code, "server")] += 1
    client.upload = client.backend = backend.client = None
    backend.hang_up("server_hung_up")
    if release.may_move(client) and not backend.reader.cut_short and error.code not in _NOT_AGAIN:
        _outlive(client, backend)
    else:
        client.close("error")


def _could_be_lost(client: Client, commands: list[bytes]) -> bool:
    """What was asked behind the statement was about soft state, or after an error of ordinary DML."""
    plain = client.verdict.flags & PLAIN
    return all(command in _ONLY_SOFT or (plain and command[0] == c.COM_SET_OPTION) for command in commands)


def _outlive(client: Client, backend: Backend) -> None:
    """The backend died, but the statement had been answered and nothing of the session was on it but soft state."""
    client.backend = backend.client = client.last = None
    client.insert_id = backend.reader.insert_id or client.insert_id
    client.insert_id_backend = None
    client.busy = False
    client.statement = None
    if client.buffer or client.paused:
        client.go_on()
    if client.relay.draining:
        client.close("drain")


def _probe(client: Client) -> bytes:
    """COM_SET_OPTION with the value that holds: brings flags and trackers, changes nothing (protocol.md 0.2)."""
    return bytes((c.COM_SET_OPTION, 0 if client.settings.multi_statements else 1, 0))


def _aftercare(client: Client, backend: Backend, commands: list[bytes], answers: list[Answer]) -> None:
    """Take in what was asked behind the statement."""
    if client.closed:
        release.reset(backend)
        return
    if any(answer.error for answer in answers) and release.may_move(client) and _could_be_lost(client, commands):
        # These fail only on a connection that is being ended, by a shutdown as a rule.
        release.release_closed(client, backend, "aftercare_failed")
        _outlive(client, backend)
        return
    settings = client.settings
    table = client.relay.settings
    for command, answer in zip(commands, answers, strict=True):
        if command is soft.SHOW_WARNINGS:
            client.diagnostics = answer
            backend.soft &= ~soft.WARNINGS
        elif command.startswith(doubt.PREPARE):
            doubt.resolve(client, backend, answer)
        elif command.startswith(held.LOCKS):
            held.locks(client, answer)
        elif answer.error is not None or answer.ok is None:
            client.add_pins(pins.UNTRACKED_VARIABLE)
        elif command is _FOUND_ROWS:
            client.found_rows, client.counted = int(answer.values()[0][0] or 0), b""
        elif command[0] == c.COM_SET_OPTION:
            _follow_status(client, answer.ok.status)
        elif command.startswith(b"\x03SELECT @@collation_connection"):
            collation = answer.values()[0][0] or settings.collation
            settings = table.replace(settings, collation=collation)
            if client.verdict.flags & RESULTS_COLLATION:
                settings = table.replace(settings, results_collation=collation)
        else:
            row = answer.values()[0]
            changes = [(0, name, value or b"") for name, value in zip(client.verdict.readback, row, strict=True)]
            settings, _ = table.apply(settings, changes, client.relay.profile.mariadb)
    client.settings = backend.settings = settings
    # A SET that fails has changed nothing, but MySQL reports that it has.
    nothing = backend.reader.error is not None and client.verdict.flags & PINS_ON_SUCCESS
    explained = _explained(client) or bool(nothing)
    for answer in answers:
        if answer.ok is not None and answer.ok.trackers:  # what an ERR withheld comes with the next OK of any kind
            apply_changes(client, backend, tuple(iter_trackers(answer.ok.trackers)), explained=explained)
    _follow_autocommit(client, backend)
    if client.sent == 1:
        set_names.learn(client, backend)
    # Our own SELECT has replaced FOUND_ROWS() and ROW_COUNT(): from now on they are answered from what we know. What
    # follows an ERR replaces nothing: ROW_COUNT() is -1 anyway, and the diagnostics area stays (protocol.md C.6).
    backend.spoiled = any(cmd is not soft.SHOW_WARNINGS and cmd[0] != c.COM_SET_OPTION for cmd in commands)
    if backend.spoiled:
        backend.counted_before = client.counted
    release.settle(client, backend)


def _carry(client: Client, backend: Backend, assigns: Assignments) -> None:
    """User variables have been set to constants. Of a session that has others, nobody knows all."""
    if client.pins & (pins.USER_VARIABLE | pins.OPAQUE | pins.UNNAMED_STATE):
        return
    variables = dict(client.settings.variables)
    for name, value in assigns:
        constant = uservars.constant(value, client.settings.collation)
        if constant is None or (value.lower() == b"null" and name in variables):  # NULL keeps the type there was before
            client.add_pins(pins.USER_VARIABLE)
            return
        variables[name] = constant
    client.settings = backend.settings = client.relay.settings.replace(
        client.settings, variables=tuple(variables.items())
    )


def _explained(client: Client) -> bool:
    """Whether the statement says by itself why the server reports a change without a name."""
    verdict = client.verdict
    if verdict.pins or verdict.holds or verdict.assigns:
        return True
    return bool(client.pins & pins.TEMPORARY_TABLE) and verdict.kind in _DDL  # of a temporary table


def apply_changes(
    client: Client, backend: Backend, changes: tuple[tuple[int, bytes, bytes], ...], *, explained: bool
) -> int:
    """Record what the server's trackers report; return the flags of the settings table."""
    flags = 0
    if changes:
        named = state_changed = False
        relevant = []
        for change in changes:
            kind = change[0]
            if kind in (c.TRACK_SYSTEM_VARIABLE, c.TRACK_SCHEMA):
                named = True
                relevant.append(change)
                if kind == c.TRACK_SCHEMA:
                    backend.bare = False
            elif kind == c.TRACK_STATE_CHANGE:
                state_changed = True
            elif kind == c.TRACK_TRANSACTION_CHARACTERISTICS:
                _transaction_characteristics(client, change[2])
            elif kind == c.TRACK_TRANSACTION_STATE:
                _transaction_state(client, change[2])
        if relevant:
            settings, flags = client.relay.settings.apply(client.settings, relevant, client.relay.profile.mariadb)
            client.settings = backend.settings = settings
            if flags & PIN_MASK:
                client.add_pins(flags & PIN_MASK)
        if state_changed and not named and not explained:
            client.add_pins(pins.UNNAMED_STATE)
    _follow_autocommit(client, backend)
    return flags


def _transaction_characteristics(client: Client, text: bytes) -> None:
    """The tracker shows a pending SET TRANSACTION, and when it has been consumed (protocol.md C.4).

    SET autocommit = 1 in a READ ONLY transaction leaves one behind too.
    """
    if text.startswith(b"SET TRANSACTION"):
        client.add_pins(pins.NEXT_TRANSACTION)
        client.one_shot_transaction = True
    elif not text and client.one_shot_transaction:
        client.one_shot_transaction = False
        client.drop_pins(pins.NEXT_TRANSACTION)


def _transaction_state(client: Client, text: bytes) -> None:
    """The tracker shows LOCK TABLES as its eighth character."""
    if text[7:8] == b"L":
        client.add_pins(pins.LOCK_TABLES)
    elif client.pins & pins.LOCK_TABLES:
        client.drop_pins(pins.LOCK_TABLES)


def _follow_status(client: Client, status: int) -> None:
    if client.status & c.SERVER_STATUS_IN_TRANS and not status & c.SERVER_STATUS_IN_TRANS:
        client.relay.stats.transactions += 1
    client.status = status & c.SESSION_FLAGS


def _follow_autocommit(client: Client, backend: Backend) -> None:
    """The flag is right even where no tracker reports the change (protocol.md C.1)."""
    autocommit = bool(client.status & c.SERVER_STATUS_AUTOCOMMIT)
    if autocommit != client.settings.autocommit:
        client.settings = client.relay.settings.replace(client.settings, autocommit=autocommit)
        backend.settings = client.settings


def _remember_prepared(client: Client, backend: Backend, reader: ResponseReader) -> None:
    if reader.error is not None or not reader.statement_id:
        return
    statement = Prepared(
        client.next_statement_id, client.preparing, client.settings, client.prepared_verdict, reader.n_params
    )
    client.remember_statement(statement)
    backend.remember_statement(statement.key, reader.statement_id)
