"""Pins that end when what they stand for has been given back, by name (module `session.holds`).

A statement that succeeded has taken and given what it names. Only of a lock of GET_LOCK() that is not known: whether it
was got, and how often. So the server is asked which of the session's locks are its own; the client has its answer by
then. Of an ERR only one thing is sure: what it says is not there is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session import pins
from proxy.session.holds import NAMEABLE, Held, Hold, plain_name
from proxy.session.verdict import PINS_ON_SUCCESS, Verdict
from proxy.wire import constants as c

if TYPE_CHECKING:
    from proxy.wire.packets import Err

    from .client import Client
    from .internal import Answer

LOCKS = bytes((c.COM_QUERY,)) + b"SELECT IS_USED_LOCK("
_MOST = 100  # names of one kind; who has more has not named them

# What a statement that gives back says where there is nothing of the name.
_NOT_THERE = {
    pins.TEMPORARY_TABLE: c.ER_BAD_TABLE_ERROR,
    pins.HANDLER: c.ER_UNKNOWN_TABLE,
    pins.TEXT_PREPARE: c.ER_UNKNOWN_STMT_HANDLER,
}


def follow(client: Client, error: Err | None) -> bytes | None:
    """A statement has ended whose pins are set: end those that are over. What has to be asked for that, or nothing."""
    verdict = client.verdict
    named = 0
    ask = False
    if error is None or not verdict.flags & PINS_ON_SUCCESS:
        for hold in verdict.holds:
            if not client.pins & hold.pin:
                continue
            ask = hold.pin == pins.NAMED_LOCK and (hold.bound or bool(hold.name))
            if hold.takes:
                named |= _take(client, hold)
            elif error is None and not ask:
                _give(client, hold)
    if error is not None and len(verdict.holds) == 1:
        (hold,) = verdict.holds
        if not hold.takes and error.code == _NOT_THERE.get(hold.pin):
            _give(client, hold)
    unnamed = verdict.pins & client.pins & NAMEABLE & ~named
    if unnamed and (error is None or not verdict.flags & PINS_ON_SUCCESS):
        _held(client).unnamed(unnamed)
    return _ask(client) if ask else None


def locks(client: Client, answer: Answer) -> None:
    """The server has said which of the session's locks are its own."""
    held = client.held
    names = None if held is None else held.names(pins.NAMED_LOCK)
    if held is None or names is None or answer.error is not None:
        return
    for name, mine in zip(sorted(names), answer.values()[0], strict=True):
        if mine == b"0":
            held.give(pins.NAMED_LOCK, name)
    if held.over(pins.NAMED_LOCK):
        client.drop_pins(pins.NAMED_LOCK)


def executed(client: Client, verdict: Verdict) -> Verdict:
    """What an EXECUTE does: what was prepared does, if that is known."""
    texts = client.prepared_texts
    return verdict if texts is None else texts.get(verdict.local_label.lower(), verdict)


def _held(client: Client) -> Held:
    if client.held is None:
        client.held = Held()
    return client.held


def _name(client: Client, hold: Hold) -> bytes:
    if hold.bound:
        return plain_name(client.bound_name)
    if not hold.schema:
        return hold.name
    # A prepared statement's names are of the schema it was prepared in (protocol.md B.4).
    settings = client.settings if client.statement is None else client.statement.settings
    return (settings.schema or b"") + b"." + hold.name


def _take(client: Client, hold: Hold) -> int:
    held = _held(client)
    names = held.names(hold.pin)
    name = _name(client, hold) if hold.name or hold.bound else b""
    if not name or (names is not None and len(names) >= _MOST):
        held.unnamed(hold.pin)
        return hold.pin
    held.take(hold.pin, name)
    if hold.pin == pins.TEXT_PREPARE:
        texts = client.prepared_texts
        if texts is None:
            texts = client.prepared_texts = {}
        texts.pop(hold.name.lower(), None)
        if hold.text:
            texts[hold.name.lower()] = client.relay.classifier.classify(hold.text, client.lex_mode())
    return hold.pin


def _give(client: Client, hold: Hold) -> None:
    held = _held(client)
    if not hold.name:
        held.nothing(hold.pin)
    else:
        held.give(hold.pin, _name(client, hold))
    if held.over(hold.pin):
        client.drop_pins(hold.pin)


def _ask(client: Client) -> bytes | None:
    names = None if client.held is None else client.held.names(pins.NAMED_LOCK)
    if not names:
        return None
    mine = b") <=> CONNECTION_ID(), IS_USED_LOCK(".join(b"'" + name + b"'" for name in sorted(names))
    return LOCKS + mine + b") <=> CONNECTION_ID()"
