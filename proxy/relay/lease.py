"""A lease, from grant to release: the only place where a client and a backend meet.

The life of one command:

    start -> (acquire | wait) -> ready -> [prepare] -> send -> response -> finish -> [aftercare] -> settle

* `ready` sends at once when the backend is in the client's settings and owes nobody anything; that is the hot path,
  and it creates no task, future or closure.
* `prepare` runs one batch of our own commands first: capture what the last client may still ask for, restore this
  client's settings, prepare its statement again. The client's command is never written behind a restore that may
  fail (protocol.md 0.10).
* `aftercare` asks the server what an ERR or an untracked SET has left unknown (0.2, A.3).
* `settle` ends the lease, unless a transaction is open or the session is pinned.

A command that was written to a backend is never sent again. One whose `prepare` failed because the backend died
was not written, and may get another backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.pool.budget import LEASED
from proxy.pool.queue import QueueFull, Waiter
from proxy.session import pins
from proxy.session.classify import (
    CALC_FOUND_ROWS,
    CHARSET,
    CREDENTIALS,
    KEEPS_DIAGNOSTICS,
    NEED_FOUND_ROWS,
    NEED_INSERT_ID,
    NEED_LAST_BACKEND,
    NEED_ROW_COUNT,
    NEED_WARNINGS,
    PINS_ON_SUCCESS,
    PLAIN,
    SETS_INSERT_ID,
    TIMESTAMP_DEFAULT,
)
from proxy.session.state import COLLATION_UNKNOWN, NEEDS_FRESH, PIN_MASK, restore_after_reset, restore_commands
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import Err, iter_trackers
from proxy.wire.response import PREPARE, QUERY, SINGLE, ResponseReader

from .prepared import Prepared, execute_packet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.session.state import Settings

    from .backend import Backend
    from .client import Client
    from .internal import Answer

# The flags of a response that say something about the session; the others are about the statement.
SESSION_FLAGS = (
    c.SERVER_STATUS_IN_TRANS
    | c.SERVER_STATUS_AUTOCOMMIT
    | c.SERVER_STATUS_NO_BACKSLASH_ESCAPES
    | c.SERVER_STATUS_IN_TRANS_READONLY
    | c.SERVER_STATUS_ANSI_QUOTES
)

# What a COM_RESET_CONNECTION does not undo (protocol.md D.1): such a backend is closed.
# OPAQUE is among them because a procedure or an EXECUTE can SET ROLE, which nothing reports.
UNRESETTABLE = pins.ROLE | pins.RESOURCE_GROUP | pins.PROFILING | pins.XA | pins.OPAQUE

# Soft state that the last client may still ask for, and that must be read before another one uses the backend.
SOFT_INSERT_ID = 1
SOFT_WARNINGS = 2
SOFT_STALE_WARNINGS = 4  # MariaDB keeps warnings until a statement uses a table: they must not reach the next client

_MAX_TRIES = 3

_INSERTS = frozenset((b"insert", b"replace", b"load"))

UNKNOWN_ID = -1  # LAST_INSERT_ID() has changed, and only `insert_id_backend` knows it

NO_RESPONSE = -1  # a client's command that the server does not answer
RESERVE = -2  # a lease for a command that is still arriving

_RESET = bytes((c.COM_RESET_CONNECTION,))
_SHOW_WARNINGS = bytes((c.COM_QUERY,)) + b"SHOW WARNINGS"
_INSERT_ID = bytes((c.COM_QUERY,)) + b"SELECT LAST_INSERT_ID()"
_CLEAR_WARNINGS = bytes((c.COM_QUERY,)) + b"DO (SELECT 1 FROM (SELECT 1) x)"  # what uses a table clears
_FOUND_ROWS = bytes((c.COM_QUERY,)) + b"SELECT FOUND_ROWS()"
_ONLY_SOFT = frozenset((_SHOW_WARNINGS, _FOUND_ROWS))


def start(client: Client) -> None:
    """Run the command in `client.packet` on a backend, now or when there is one; RESERVE only gets the lease."""
    backend = client.backend
    if backend is None:
        relay = client.relay
        if relay.draining:
            client.refuse_shutdown()
            return
        settings = client.settings
        backend = relay.registry.acquire_nowait(client.pool, settings, settings.schema is None, client.last, client)
        if backend is None:
            wait(client)
            return
        if client.kind == RESERVE:
            client.granted(backend)
            return
        client.backend = backend
        backend.client = client
    ready(client, backend)


def wait(client: Client) -> None:
    """Put the client into its account's queue."""
    relay = client.relay
    settings = client.settings
    waiter = Waiter(
        client.pool, client, settings, settings.schema is None, client.last, client.granted, client.wait_failed
    )
    client.waiter = waiter
    try:
        relay.registry.enqueue(waiter)
    except QueueFull:
        client.wait_failed(relay.queue_full)
        return
    relay.watch_queue()


def ready(client: Client, backend: Backend) -> None:
    """The client holds a lease: send its command, or what has to come before it."""
    statement = client.statement
    verdict = client.verdict
    needs = verdict.needs
    if (
        backend.settings is client.settings
        and (backend.last_client is client or not backend.soft)
        and (not needs or at_hand(client, backend, needs))
        and (verdict.kind not in _INSERTS or _insert_id_here(client, backend))
        and (statement is None or statement.key in backend.statements or backend.knows(statement))
    ):
        send(client, backend)
    else:
        prepare(client, backend)


def at_hand(client: Client, backend: Backend, needs: int) -> bool:
    """Whether the soft state that a command reads is on this backend, untouched since the client left it there."""
    if client.last is not backend or backend.last_client is not client:
        return False
    if needs & NEED_INSERT_ID and client.insert_id_backend is not backend:
        return False
    return not backend.spoiled or (needs == NEED_WARNINGS and bool(backend.soft & SOFT_WARNINGS))


def _insert_id_here(client: Client, backend: Backend) -> bool:
    """Whether LAST_INSERT_ID() on the backend is the client's own.

    It must be before an INSERT: for a row whose id the statement gives, it stays what it was (protocol.md C.6).
    """
    return client.insert_id_backend is backend or client.insert_id == backend.insert_id


def _take_over(client: Client, backend: Backend) -> None:
    """Another client's backend becomes this client's, without soft state of its own on it."""
    backend.last_client = client
    backend.spoiled = True


def send(client: Client, backend: Backend) -> None:
    """Write the client's command. From here on it may have been executed."""
    verdict = client.verdict
    if backend.last_client is not client:
        _take_over(client, backend)
    if client.kind == QUERY and not verdict.flags & KEEPS_DIAGNOSTICS:
        client.last = backend  # from now on the client's soft state is here
        backend.spoiled = False
    if verdict.pins and not verdict.flags & PINS_ON_SUCCESS:
        client.add_pins(verdict.pins)
    packet = client.packet
    statement = client.statement
    if statement is not None:
        if statement.private:
            client.add_pins((pins.CURSOR if statement.cursor else 0) | (pins.LONG_DATA if statement.long_data else 0))
        try:
            statement_id = backend.statements[statement.key]
            if packet[4] == c.COM_STMT_EXECUTE:
                packet = execute_packet(packet, statement, statement_id, backend.bound)
            else:
                packet = packet[:5] + statement_id.to_bytes(4, "little") + packet[9:]
        except ProtocolError as exc:
            client.malformed(str(exc), exc.code)
            return
    client.packet = b""
    if client.kind == NO_RESPONSE:
        backend.transport.write(packet)
        settle(client, backend)
        return
    reader = backend.reader
    reader.deprecate_eof = client.deprecate_eof
    reader.session_track = client.session_track
    reader.mid_status = client.status
    backend.send(packet, client.kind, client.next_statement_id)


# Before the statement


def prepare(client: Client, backend: Backend) -> None:
    """Bring the backend into the client's state, then send its command."""
    takes_reset = _takes_reset(backend, client.settings)
    if takes_reset and not resettable(backend):
        _exchange(client, backend)
        return
    needs = client.verdict.needs
    inserts = client.verdict.kind in _INSERTS
    if inserts and client.capturing and client.insert_id == UNKNOWN_ID:
        client.resume = backend
        return
    if needs and not at_hand(client, backend, needs) and not _soft_state_can_move(client, backend):
        return
    commands: list[bytes] = []
    captured = _capture_commands(client, backend, commands)
    first_restore = len(commands)
    statement = client.statement
    first_prepare = -1
    if statement is not None and (takes_reset or not backend.knows(statement)):
        _restore(backend, _settings_to_prepare_in(client, statement), commands)
        first_prepare = len(commands)
        commands.append(bytes((c.COM_STMT_PREPARE,)) + statement.text)
    _restore(backend, client.settings, commands)
    if (inserts or needs & NEED_INSERT_ID) and client.insert_id != UNKNOWN_ID:
        if not _insert_id_here(client, backend):
            commands.append(b"\x03SET last_insert_id=%d" % client.insert_id)
            backend.insert_id = client.insert_id
        client.insert_id_backend = backend
        backend.soft |= SOFT_INSERT_ID
    if backend.last_client is not client:
        _take_over(client, backend)
    if not commands:
        send(client, backend)
        return

    def done(answers: list[Answer] | None) -> None:
        if answers is None:
            if captured is not None:
                captured.capture_done(backend, None, 0)
            return  # `lost` speaks to the client
        if captured is not None:
            captured.capture_done(backend, answers, first_restore)
        _prepared(client, backend, answers, first_restore, first_prepare)

    backend.run_batch(commands, done)


def _prepared(client: Client, backend: Backend, answers: Sequence[Answer], restore_at: int, prepare_at: int) -> None:
    """The batch of `prepare` is through."""
    if client.closed:
        reset(backend)
        return
    for index in range(restore_at, len(answers)):
        error = answers[index].error
        if error is not None and index != prepare_at:
            # Half a state is no state: nobody may use this backend again.
            backend.settings = None
            release_closed(client, backend, "restore_failed")
            client.fail_command(error)
            return
    if prepare_at >= 0 and client.statement is not None:
        error = answers[prepare_at].error
        if error is not None:
            client.answer_error(error)
            settle(client, backend)
            return
        client.relay.stats.reprepares += 1
        backend.remember_statement(client.statement.key, answers[prepare_at].statement_id)
    send(client, backend)


def _settings_to_prepare_in(client: Client, statement: Prepared) -> Settings:
    """The client's settings with those of `statement` that belong to a prepared statement (protocol.md B.4).

    The others stay as they are now: setting autocommit back would commit, and there may be a transaction.
    """
    own, now = statement.settings, client.settings
    if own is now:
        return now
    relay = client.relay
    variables = dict(now.variables)
    if b"sql_mode" in variables:
        mode = own.value(b"sql_mode")
        variables[b"sql_mode"] = relay.profile.sql_mode if mode is None else mode
    return relay.settings.replace(
        now,
        # No command takes a schema away, and what was prepared without one names its own.
        schema=now.schema if now.schema is None or own.schema is None else own.schema,
        client_charset=own.client_charset,
        results_charset=own.results_charset,
        collation=own.collation,
        variables=tuple(variables.items()),
    )


def _takes_reset(backend: Backend, want: Settings) -> bool:
    have = backend.settings
    return have is not None and restore_commands(have, want) is None


def _exchange(client: Client, backend: Backend) -> None:
    """Close a backend that only a reset could bring into the client's settings, and get another one."""
    client.backend = None
    backend.client = None
    if not capture_before_close(backend, lambda: backend.close("cannot_reset")):
        backend.close("cannot_reset")
    start(client)


def _restore(backend: Backend, want: Settings, commands: list[bytes]) -> None:
    """Append what brings `backend` into the settings `want`."""
    relay = backend.relay
    have = backend.settings
    if have is want:
        return
    plan = restore_commands(have, want) if have is not None else None
    assert plan is not NEEDS_FRESH, "a session without a schema got a backend with one"
    if plan is None:
        if have is not None:
            commands.append(_RESET)
            commands.append(relay.profile.track_command)
            backend.forget_statements()
            backend.insert_id = 0
            relay.stats.resets += 1
        plan = restore_after_reset(want, None if have is None else have.schema)
    commands.extend(plan)
    relay.stats.restores["settings"] += 1
    backend.settings = want
    if want.schema is not None:
        backend.bare = False


def _capture_commands(client: Client, backend: Backend, commands: list[bytes]) -> Client | None:
    """Append what takes the last client's soft state off the backend; return that client if it will be told."""
    if backend.last_client is client:
        return None
    owner = _ask_for_soft_state(backend, commands)
    if backend.soft & SOFT_STALE_WARNINGS and backend.relay.profile.mariadb:
        commands.append(_CLEAR_WARNINGS)
    backend.soft = 0
    return owner


def capture_before_close(backend: Backend, then: Callable[[], object]) -> bool:
    """Read the last client's soft state before its backend is given up; False if there is nothing to read."""
    if backend.batch is not None:
        return False
    commands: list[bytes] = []
    owner = _ask_for_soft_state(backend, commands)
    backend.last_client = None
    backend.soft &= SOFT_STALE_WARNINGS
    if owner is None:
        return False

    def done(answers: list[Answer] | None) -> None:
        owner.capture_done(backend, answers, len(commands))
        then()

    backend.run_batch(commands, done)
    return True


def _ask_for_soft_state(backend: Backend, commands: list[bytes]) -> Client | None:
    """Append what reads the soft state that the last client may still ask for; return it, if it may."""
    owner = backend.last_client
    if owner is None or owner.closed:
        return None
    if backend.soft & SOFT_WARNINGS and owner.last is backend:
        commands.append(_SHOW_WARNINGS)
    if backend.soft & SOFT_INSERT_ID and owner.insert_id_backend is backend:
        if owner.insert_id == UNKNOWN_ID:
            commands.append(_INSERT_ID)
        else:
            owner.insert_id_backend = None
    if not commands:
        return None
    owner.capturing += 1
    return owner


def _soft_state_can_move(client: Client, backend: Backend) -> bool:
    """The command reads soft state that is not (only) on this backend: True if it can be restored.

    Else it has been answered, from what was captured or with an error in words, and the lease is over; or a capture is
    still under way, and `prepare` is called again when it is done.
    """
    if client.capturing:
        client.resume = backend
        return False
    if client.verdict.local and client.statement is None:
        client.answer_locally()
        settle(client, backend)
        return False
    lost = client.verdict.needs & (NEED_ROW_COUNT | NEED_FOUND_ROWS | NEED_LAST_BACKEND)
    if client.verdict.needs & NEED_WARNINGS and client.has_diagnostics:
        lost |= NEED_WARNINGS
    if client.insert_id == UNKNOWN_ID and client.insert_id_backend is not backend:
        lost |= client.verdict.needs & NEED_INSERT_ID
    if not lost or client.verdict.pins & pins.OPAQUE:
        return True
    text = (
        "of the previous statement stayed on a connection that serves another client now; "
        "use SHOW WARNINGS, SELECT ROW_COUNT() or SELECT FOUND_ROWS() as a statement of its own, "
        "or ask inside a transaction"
    )
    what = "the diagnostics area" if lost & NEED_WARNINGS else "ROW_COUNT(), FOUND_ROWS() or LASTVAL()"
    if lost & NEED_INSERT_ID:
        what, text = "LAST_INSERT_ID()", "was lost with the connection to the server that knew it"
    client.refuse(f"{what} {text}")
    settle(client, backend)
    return False


# After the statement


def finish(backend: Backend, client: Client | None) -> None:
    """The response of the running command is complete."""
    if client is None:
        reset(backend)
        return
    reader = backend.reader
    status = reader.status
    statement = client.statement
    if (
        status is None
        or (status & SESSION_FLAGS) != client.status
        or reader.error
        or reader.changes
        or reader.insert_id
        or reader.warnings
        or client.kind != QUERY
        or client.verdict.flags != PLAIN
        or (reader.had_rows and client.verdict.kind in _INSERTS)
        or (statement is not None and statement.private)
    ):
        _finish_carefully(client, backend, reader)
        return
    # Hot: the session is as it was.
    client.has_diagnostics = False
    client.diagnostics = None
    backend.soft &= ~SOFT_WARNINGS
    if reader.had_rows:
        client.row_count = -1
        client.found_rows = reader.rows
    else:
        client.row_count = reader.affected
    settle(client, backend)


def _finish_carefully(client: Client, backend: Backend, reader: ResponseReader) -> None:
    """`finish` for a response that says something about the session."""
    verdict = client.verdict
    error = reader.error
    commands: list[bytes] = []
    if client.kind == PREPARE:
        _remember_prepared(client, backend, reader)
    if client.kind in (QUERY, SINGLE):
        client.row_count = -1 if reader.had_rows or error else reader.affected
        if reader.had_rows:
            client.found_rows = reader.rows
    sets = verdict.flags & SETS_INSERT_ID or verdict.pins & pins.OPAQUE
    lost_id = client.insert_id == UNKNOWN_ID and client.insert_id_backend is not backend
    if reader.insert_id or (not lost_id and (sets or ((reader.had_rows or error) and verdict.kind in _INSERTS))):
        backend.soft |= SOFT_INSERT_ID
        backend.insert_id = None
        client.insert_id = UNKNOWN_ID
        client.insert_id_backend = backend
    if not verdict.flags & KEEPS_DIAGNOSTICS:
        if client.last is not backend:
            client.last = backend
            backend.spoiled = True  # the diagnostics area is here, ROW_COUNT() and FOUND_ROWS() are not
        client.diagnostics = None
        client.has_diagnostics = bool(reader.warnings or error)
        if client.has_diagnostics:
            backend.soft |= SOFT_WARNINGS | SOFT_STALE_WARNINGS
        else:
            backend.soft &= ~SOFT_WARNINGS
    statement = client.statement
    if statement is not None and statement.private and client.kind != NO_RESPONSE:
        open_cursor = reader.status is not None and reader.status & c.SERVER_STATUS_CURSOR_EXISTS
        if error is not None or not open_cursor or (reader.status or 0) & c.SERVER_STATUS_LAST_ROW_SENT:
            client.end_private(statement, backend)
    had_transaction = client.status & c.SERVER_STATUS_IN_TRANS
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
        if not (plain and client.relay.profile.mariadb) and not client.pins and client.kind == QUERY:
            commands.append(_probe(client))
    else:
        if verdict.pins:
            client.add_pins(verdict.pins)
        if verdict.unpins:
            client.drop_pins(verdict.unpins)
        if verdict.flags & CREDENTIALS:
            client.relay.accounts.forget_proofs()
    if apply_changes(client, backend, reader.changes, explained=bool(verdict.pins)) & COLLATION_UNKNOWN or (
        verdict.flags & CHARSET and error is None
    ):
        commands.append(b"\x03SELECT @@collation_connection")
    if verdict.flags & TIMESTAMP_DEFAULT and error is None:
        client.settings = backend.settings = client.relay.settings.without(client.settings, b"timestamp")
    if verdict.readback and error is None:
        names = b", ".join(b"@@session." + name for name in verdict.readback)
        commands.append(b"\x03SELECT " + names)
    if verdict.flags & CALC_FOUND_ROWS and error is None:
        commands.append(_FOUND_ROWS)
    if not commands:
        settle(client, backend)
        return

    def done(answers: list[Answer] | None) -> None:
        if answers is not None:
            _aftercare(client, backend, commands, answers)
        elif not client.closed and _may_move(client) and _could_be_lost(client, commands):
            _outlive(client, backend)

    if client.has_diagnostics:
        # What follows would empty the diagnostics area, which the client may ask for next.
        commands.insert(0, _SHOW_WARNINGS)
    backend.run_batch(commands, done)


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
    if client.buffer:
        client.go_on()


def _probe(client: Client) -> bytes:
    """COM_SET_OPTION with the value that holds: brings flags and trackers, changes nothing (protocol.md 0.2)."""
    return bytes((c.COM_SET_OPTION, 0 if client.settings.multi_statements else 1, 0))


def _aftercare(client: Client, backend: Backend, commands: list[bytes], answers: list[Answer]) -> None:
    """Take in what was asked behind the statement."""
    if client.closed:
        reset(backend)
        return
    if any(answer.error for answer in answers) and _may_move(client) and _could_be_lost(client, commands):
        # These fail only on a connection that is being ended, by a shutdown as a rule.
        release_closed(client, backend, "aftercare_failed")
        _outlive(client, backend)
        return
    settings = client.settings
    table = client.relay.settings
    for command, answer in zip(commands, answers, strict=True):
        if command is _SHOW_WARNINGS:
            client.diagnostics = answer
            backend.soft &= ~SOFT_WARNINGS
        elif answer.error is not None or answer.ok is None:
            client.add_pins(pins.UNTRACKED_VARIABLE)
        elif command is _FOUND_ROWS:
            client.found_rows = int(answer.values()[0][0] or 0)
        elif command[0] == c.COM_SET_OPTION:
            _follow_status(client, answer.ok.status)
        elif command.startswith(b"\x03SELECT @@collation_connection"):
            settings = table.replace(settings, collation=answer.values()[0][0] or settings.collation)
        else:
            row = answer.values()[0]
            changes = [(0, name, value or b"") for name, value in zip(client.verdict.readback, row, strict=True)]
            settings, _ = table.apply(settings, changes, client.relay.profile.mariadb)
    client.settings = backend.settings = settings
    for answer in answers:
        if answer.ok is not None and answer.ok.trackers:  # what an ERR withheld comes with the next OK of any kind
            apply_changes(
                client, backend, tuple(iter_trackers(answer.ok.trackers)), explained=bool(client.verdict.pins)
            )
    _follow_autocommit(client, backend)
    # Our own SELECT has replaced FOUND_ROWS() and ROW_COUNT(): from now on they are answered from what we know. What
    # follows an ERR replaces nothing: ROW_COUNT() is -1 anyway, and the diagnostics area stays (protocol.md C.6).
    backend.spoiled = any(cmd is not _SHOW_WARNINGS and cmd[0] != c.COM_SET_OPTION for cmd in commands)
    settle(client, backend)


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
                client.transaction_characteristics(change[2])
            elif kind == c.TRACK_TRANSACTION_STATE:
                client.transaction_state(change[2])
        if relevant:
            settings, flags = client.relay.settings.apply(client.settings, relevant, client.relay.profile.mariadb)
            client.settings = backend.settings = settings
            if flags & PIN_MASK:
                client.add_pins(flags & PIN_MASK)
        if state_changed and not named and not explained:
            client.add_pins(pins.UNNAMED_STATE)
    _follow_autocommit(client, backend)
    return flags


def _follow_status(client: Client, status: int) -> None:
    if client.status & c.SERVER_STATUS_IN_TRANS and not status & c.SERVER_STATUS_IN_TRANS:
        client.relay.stats.transactions += 1
    client.status = status & SESSION_FLAGS


def _follow_autocommit(client: Client, backend: Backend) -> None:
    """The flag is right even where no tracker reports the change (protocol.md C.1)."""
    autocommit = bool(client.status & c.SERVER_STATUS_AUTOCOMMIT)
    if autocommit != client.settings.autocommit:
        client.settings = client.relay.settings.replace(client.settings, autocommit=autocommit)
        backend.settings = client.settings


def _remember_prepared(client: Client, backend: Backend, reader: ResponseReader) -> None:
    if reader.error is not None:
        return
    statement = Prepared(
        client.next_statement_id, client.preparing, client.settings, client.prepared_verdict, reader.n_params
    )
    client.remember_statement(statement)
    backend.remember_statement(statement.key, reader.statement_id)


def settle(client: Client, backend: Backend) -> None:
    """The command is over: end the lease if the session may move, then take the client's next command."""
    client.busy = False
    client.statement = None
    if not client.pins and not client.status & c.SERVER_STATUS_IN_TRANS:
        client.backend = backend.client = None
        backend.relay.registry.release(backend)
        if client.relay.draining:
            client.go_on()  # what was sent ahead is refused in words
            client.close("drain")
            return
    else:
        client.idle_since = client.relay.loop.time()
    if client.buffer or client.paused:
        client.go_on()


def _may_move(client: Client) -> bool:
    """Nothing ties the session to its backend."""
    return not client.status & c.SERVER_STATUS_IN_TRANS and not client.pins


def release_closed(client: Client, backend: Backend, reason: str) -> None:
    """End the lease of a backend that nobody may use again."""
    client.backend = None
    backend.client = None
    backend.close(reason)


# A client that left, a backend that died


def abandon(client: Client, backend: Backend) -> None:
    """The client is gone and held this lease."""
    client.backend = None
    backend.client = None
    if backend.reading_paused:
        backend.resume_reading()
    if backend.close_reason or backend.lost:
        return
    if client.upload is not None or (backend.running and backend.reader.local):
        backend.hang_up("client_lost_in_upload")
        return
    backend.unresettable = bool((client.pins | (client.verdict.pins if client.busy else 0)) & UNRESETTABLE)
    if not backend.running and backend.batch is None:
        reset(backend)
    # Else the statement runs to its end, its rows are discarded, then the backend is reset.


def resettable(backend: Backend) -> bool:
    """Whether COM_RESET_CONNECTION brings back what the login made of the session (protocol.md D.1)."""
    return backend.relay.profile.reset_restores_all and not backend.capabilities & c.CLIENT_IGNORE_SPACE


def reset(backend: Backend) -> None:
    """Undo whatever the last session left, then offer the backend to others."""
    if backend.close_reason or backend.lost:
        return
    relay = backend.relay
    if capture_before_close(backend, lambda: reset(backend)):
        return  # a client left before it used its lease: what is there belongs to the one before
    backend.soft = 0
    if backend.unresettable:
        backend.close("unresettable_session")
        return
    if not resettable(backend):
        backend.close("cannot_reset")
        return
    if backend.slot == LEASED:
        relay.registry.begin_reset(backend)
    relay.stats.resets += 1
    backend.forget_statements()
    backend.insert_id = 0
    backend.settings = None

    def done(answers: list[Answer] | None) -> None:
        if answers is None:
            return
        if any(answer.error for answer in answers):
            backend.close("reset_failed")
            return
        relay.registry.release(backend)

    backend.run_batch((_RESET, relay.profile.track_command), done)


def lost(backend: Backend, client: Client) -> None:
    """The backend died while this client held it."""
    client.backend = None
    if client.closed:
        return
    unsent = client.busy and client.packet and not client.upload
    free = not client.pins and not client.status & c.SERVER_STATUS_IN_TRANS
    if unsent and free and client.tries < _MAX_TRIES:
        client.tries += 1
        start(client)
        return
    if not client.busy:
        client.close("backend_lost")
        return
    error = Err(c.CR_SERVER_LOST, b"HY000", b"Lost connection to MySQL server during query")
    client.relay.stats.errors[(error.code, "proxy")] += 1
    at_boundary = bool(unsent) or backend.reader.untouched
    if free and client.upload is None and client.large is None and at_boundary:
        client.fail_command(error)
    else:
        client.die(error, at_boundary)


def file_wanted(backend: Backend, client: Client | None) -> None:
    """LOAD DATA LOCAL: the server asks for a file."""
    if client is None:
        backend.hang_up("client_lost_in_upload")
    elif not backend.capabilities & c.CLIENT_LOCAL_FILES:
        backend.broken("server asked for a file that the client did not offer")
    else:
        client.begin_file(backend)
