"""A lease, from grant to release: the only place where a client and a backend meet.

The life of one command:

    start -> (acquire | wait) -> ready -> [prepare] -> send -> response -> finish -> [aftercare] -> settle

* `ready` sends at once when the backend is in the client's settings and owes nobody anything; that is the hot path,
  and it creates no task, future or closure.
* `prepare` runs one batch of our own commands first: capture what the last client may still ask for, restore this
  client's settings, prepare its statement again. The client's command is never written behind a restore that may
  fail (protocol.md 0.10).
* `finish` and its aftercare take in what the response says about the session: module `aftercare`.
* `settle` ends the lease, unless a transaction is open or the session is pinned: module `release`.

A command that was written to a backend is never sent again. One whose `prepare` failed because the backend died
was not written, and may get another backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.pool.queue import QueueFull, Waiter
from proxy.session import pins
from proxy.session.state import NEEDS_FRESH, forgets, restore_after_reset, restore_commands
from proxy.session.verdict import KEEPS_DIAGNOSTICS, NAMES, NEED_INSERT_ID, NEED_WARNINGS, PINS_ON_SUCCESS
from proxy.wire import constants as c
from proxy.wire.packets import Err
from proxy.wire.response import NO_RESPONSE, QUERY

from . import doubt, release, soft
from .prepared import Prepared, bulk_packet, execute_packet, first_string

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.session.state import Settings

    from .backend import Backend
    from .client import Client
    from .internal import Answer

RESERVE = -2  # a lease for a command that is still arriving

_MAX_TRIES = 3


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
    else:
        client.relay.statements.idled(client)
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
        and (not needs or soft.at_hand(client, backend, needs))
        and (verdict.kind not in soft.INSERTS or soft.insert_id_here(client, backend))
        and (statement is None or statement.key in backend.statements or backend.knows(statement))
    ):
        send(client, backend)
    else:
        prepare(client, backend)


def _take_over(client: Client, backend: Backend) -> None:
    """Another client's backend becomes this client's, without soft state of its own on it."""
    backend.last_client = client
    backend.spoiled = True
    backend.counted_before = client.counted


def send(client: Client, backend: Backend) -> None:
    """Write the client's command. From here on it may have been executed."""
    verdict = client.verdict
    pinning = verdict.pins
    if backend.last_client is not client:
        _take_over(client, backend)
    if client.kind == QUERY and not verdict.flags & KEEPS_DIAGNOSTICS:
        client.last = backend  # from now on the client's soft state is here
        backend.spoiled = False
    if pinning and not verdict.flags & PINS_ON_SUCCESS:
        doubt.raise_doubt(client, client.packet)
        client.add_pins(pinning)
    packet = client.packet
    statement = client.statement
    client.sent += 1
    client.said = statement or (packet if len(packet) <= soft.SAID else packet[: soft.SAID])
    if statement is not None:
        if statement.private:
            client.add_pins((pins.CURSOR if statement.cursor else 0) | (pins.LONG_DATA if statement.long_data else 0))
        statement_id = backend.statements[statement.key]
        if verdict.flags & NAMES:
            client.bound_name = first_string(packet, statement)
        if packet[4] == c.COM_STMT_EXECUTE:
            packet = execute_packet(packet, statement, statement_id, backend.bound)
        elif packet[4] == c.COM_STMT_BULK_EXECUTE:
            packet = bulk_packet(packet, statement, statement_id, backend.bound)
        else:
            packet = packet[:5] + statement_id.to_bytes(4, "little") + packet[9:]
    client.packet = b""
    if client.kind == NO_RESPONSE:
        backend.transport.write(packet)
        release.settle(client, backend)
        return
    reader = backend.reader
    reader.deprecate_eof = client.deprecate_eof
    reader.session_track = client.session_track
    reader.mid_status = client.status
    if pinning and verdict.kind == b"call":
        reader.mid_status |= c.SERVER_MORE_RESULTS  # each of its results is followed by its OK
    backend.send(packet, client.kind, client.next_statement_id)


def prepare(client: Client, backend: Backend) -> None:
    """Bring the backend into the client's state, then send its command."""
    takes_reset = _takes_reset(backend, client.settings)
    if not release.resettable(backend) and (takes_reset or _takes_defaults(backend, client.settings)):
        _exchange(client, backend)
        return
    needs = client.verdict.needs
    inserts = client.verdict.kind in soft.INSERTS
    elsewhere = needs and not soft.at_hand(client, backend, needs)
    if client.capturing and (elsewhere or (inserts and client.insert_id == soft.UNKNOWN_ID)):
        client.resume = lambda: _resume(client, backend)
        # Whose state is on this backend may ask for it before we come to it.
        soft.capture(backend, lambda: release.reset(backend) if client.closed else _resume(client, backend))
        return
    if elsewhere and soft.answered(client):
        release.settle(client, backend)
        return
    commands: list[bytes] = []
    owner = soft.capture_commands(client, backend, commands)
    first_restore = len(commands)
    statement = client.statement
    first_prepare = -1
    if statement is not None and (takes_reset or not backend.knows(statement)):
        _restore(backend, _settings_to_prepare_in(client, statement), commands)
        first_prepare = len(commands)
        commands.append(bytes((c.COM_STMT_PREPARE,)) + statement.text)
    _restore(backend, client.settings, commands)
    if (inserts or needs & NEED_INSERT_ID) and client.insert_id != soft.UNKNOWN_ID:
        if not soft.insert_id_here(client, backend):
            commands.append(b"\x03SET last_insert_id=%d" % client.insert_id)
            backend.insert_id = client.insert_id
        client.insert_id_backend = backend
        backend.soft |= soft.INSERT_ID
    if elsewhere and needs & NEED_WARNINGS and not client.verdict.pins & pins.OPAQUE:
        commands.append(soft.CLEAR_WARNINGS)  # there are none, and restoring may have made some
    if backend.last_client is not client:
        _take_over(client, backend)
    if not commands:
        send(client, backend)
        return

    def done(answers: list[Answer] | None) -> None:
        if answers is None:
            if owner is not None:
                soft.captured(owner, backend, None, 0)
            return  # `lost` speaks to the client
        if owner is not None:
            soft.captured(owner, backend, answers, first_restore)
        _prepared(client, backend, answers, first_restore, first_prepare)

    backend.run_batch(commands, done)


def _resume(client: Client, backend: Backend) -> None:
    """A capture that `prepare` had to wait for is done; it goes on with the last of them."""
    if client.backend is backend and not client.closed and not client.capturing and backend.batch is None:
        ready(client, backend)


def _prepared(client: Client, backend: Backend, answers: Sequence[Answer], restore_at: int, prepare_at: int) -> None:
    """The batch of `prepare` is through."""
    if client.closed:
        release.reset(backend)
        return
    for index in range(restore_at, len(answers)):
        error = answers[index].error
        if error is not None and index != prepare_at:
            # Half a state is no state: nobody may use this backend again.
            backend.settings = None
            release.release_closed(client, backend, "restore_failed")
            client.fail_command(error)
            return
    if prepare_at >= 0 and client.statement is not None:
        error = answers[prepare_at].error
        if error is not None:
            client.answer_error(error)
            release.settle(client, backend)
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
        results_collation=own.results_collation,
        variables=tuple(variables.items()),
    )


def _takes_reset(backend: Backend, want: Settings) -> bool:
    have = backend.settings
    return have is not None and restore_commands(have, want) is None


def _takes_defaults(backend: Backend, want: Settings) -> bool:
    have = backend.settings
    return have is not None and have is not want and forgets(have, want)


def _exchange(client: Client, backend: Backend) -> None:
    """Close a backend that only a login could bring into the client's settings, and get another one."""
    client.backend = None
    backend.client = None
    if not soft.capture(backend, lambda: backend.close("cannot_reset")):
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
            commands.append(release.RESET)
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
