"""Statements that pin, and fail: did they do anything?

What cannot be carried pins when its statement is sent, because a statement that fails may have done half of it: a
procedure, a function before the error. `SELEC f(1)` has done nothing, and must not pin until the session ends. The
text alone does not tell the two apart; the server does: what it cannot parse, or what calls a function that is not
there, fails in the same words when it is to be prepared, and preparing executes nothing. Several statements in one text
cannot be prepared, but what is said against the first of them comes before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session import pins
from proxy.wire import constants as c

if TYPE_CHECKING:
    from proxy.wire.packets import Err
    from proxy.wire.response import ResponseReader

    from .backend import Backend
    from .client import Client
    from .internal import Answer

# With any other error the statement had begun.
_BEFORE_ANYTHING = frozenset((c.ER_PARSE_ERROR, c.ER_SP_DOES_NOT_EXIST, c.ER_NO_DB))

_TEXT_LIMIT = 64 << 10

PREPARE = bytes((c.COM_STMT_PREPARE,))


class Doubt:
    """A COM_QUERY under way that pins: its text, and the pins there were before it."""

    __slots__ = ("error", "pins", "text")

    def __init__(self, pins: int, text: bytes) -> None:
        self.pins = pins
        self.text = text
        self.error: Err | None = None


def raise_doubt(client: Client, packet: bytes) -> None:
    """A statement is sent that pins."""
    client.doubt = None
    if packet[4] == c.COM_QUERY and len(packet) <= _TEXT_LIMIT and client.verdict.pins & ~client.pins:
        client.doubt = Doubt(client.pins, client.text(packet))


def question(client: Client, reader: ResponseReader) -> bytes | None:
    """What to ask the server behind its answer; None if that says everything."""
    doubt, error = client.doubt, reader.error
    if doubt is not None and error is not None and _nothing_to_execute(client, error, doubt):
        client.drop_pins(client.pins & ~doubt.pins)
    if doubt is None or error is None or error.code not in _BEFORE_ANYTHING or reader.status is not None:
        client.doubt = None
        return None
    doubt.error = error
    return PREPARE + doubt.text


def _nothing_to_execute(client: Client, error: Err, doubt: Doubt) -> bool:
    """An EXECUTE of what nobody has prepared."""
    prepared = doubt.pins & (pins.TEXT_PREPARE | pins.OPAQUE)
    return error.code == c.ER_UNKNOWN_STMT_HANDLER and client.verdict.kind == b"execute" and not prepared


def resolve(client: Client, backend: Backend, answer: Answer) -> None:
    """Take in the answer: where preparing fails alike, nothing was executed, and nothing new pins."""
    doubt, client.doubt = client.doubt, None
    if answer.error is None:
        backend.close_statement(answer.statement_id)
    elif doubt is not None and answer.error == doubt.error:
        client.drop_pins(client.pins & ~doubt.pins)
