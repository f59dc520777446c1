"""The end of a lease: the backend goes on to others, is reset first, or is closed.

`settle` is the way of every statement; the others are for owners that left. The default is to close: a backend is
kept only where it is known what is on it (protocol.md D).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.pool.budget import LEASED
from proxy.session import pins
from proxy.wire import constants as c

from . import soft

if TYPE_CHECKING:
    from collections.abc import Callable

    from .backend import Backend
    from .client import Client
    from .internal import Answer

RESET = bytes((c.COM_RESET_CONNECTION,))
FEW = 4  # commands: a driver's own first ones, a statement prepared and executed


def settle(client: Client, backend: Backend, now: float | None = None) -> None:
    """The command is over: end the lease if the session may move, then take the client's next command.

    `now` is for those who have just looked at the clock.
    """
    client.busy = False
    client.statement = None
    if not client.pins and not client.status & c.SERVER_STATUS_IN_TRANS:
        client.backend = backend.client = None
        if client.sent <= FEW:
            client.rested_at = client.relay.clock()
        backend.relay.registry.release(backend, now)
        if client.relay.draining:
            client.go_on()  # what was sent ahead is refused in words
            client.close("drain")
            return
    else:
        client.idle_since = client.relay.clock()
    if client.buffer or client.paused:
        client.go_on()


def may_move(client: Client) -> bool:
    """Nothing ties the session to its backend."""
    return not client.status & c.SERVER_STATUS_IN_TRANS and not client.pins


def release_closed(client: Client, backend: Backend, reason: str) -> None:
    """End the lease of a backend that nobody may use again."""
    client.backend = None
    backend.client = None
    backend.close(reason)


def abandon(client: Client, backend: Backend) -> None:
    """The client is gone and held this lease."""
    client.backend = None
    backend.client = None
    if client.busy and backend.running:
        client.relay.statements.abandoned(client, backend)
    elif not client.busy:
        client.relay.statements.idled(client)
    if backend.reading_paused:
        backend.resume_reading()
    if backend.close_reason or backend.lost:
        return
    if client.upload is not None or (backend.running and backend.reader.local):
        backend.hang_up("client_lost_in_upload")
        return
    backend.unresettable = bool((client.pins | (client.verdict.pins if client.busy else 0)) & pins.UNRESETTABLE)
    if not backend.running and backend.batch is None:
        reset(backend)
    elif client.relay.config.session.on_client_lost == "kill" and backend.running and not backend.killers:
        client.relay.control.interrupt(backend)


def resettable(backend: Backend) -> bool:
    """Whether COMRESET_CONNECTION brings back what the login made of the session (protocol.md D.1)."""
    return backend.relay.profile.reset_restores_all and not backend.capabilities & c.CLIENT_IGNORE_SPACE


def reset(backend: Backend) -> None:
    """Undo whatever the last session left, then offer the backend to others."""
    if backend.close_reason or backend.lost or backend.killers:
        return
    relay = backend.relay
    if soft.capture(backend, lambda: reset(backend)):
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

    def done(answers: list[Answer] | None) -> None:
        if answers is None:
            return
        if any(answer.error for answer in answers):
            backend.close("reset_failed")
            return
        relay.registry.release(backend)

    run_reset(backend, done)


def run_reset(backend: Backend, done: Callable[[list[Answer] | None], None], questions: tuple[bytes, ...] = ()) -> None:
    """COM_RESET_CONNECTION and then questions; and what we forget with it."""
    relay = backend.relay
    relay.stats.resets += 1
    backend.forget_statements()
    backend.soft = 0
    backend.insert_id = 0
    backend.settings = None
    backend.last_client = None
    backend.run_batch((RESET, relay.profile.track_command, *questions), done)


def kill_over(backend: Backend) -> None:
    """The KILL that the backend was held for has arrived, or failed."""
    if backend.killers or backend.close_reason or backend.lost:
        return
    client = backend.client
    if client is not None:
        client.drop_pins(pins.BEING_KILLED)
        if not client.busy:
            settle(client, backend)
    elif not backend.running and backend.batch is None:
        reset(backend)  # its client has left meanwhile
