"""Prepared statements of a client: virtual ids, and what is needed to prepare and run them anywhere.

Statement ids are per connection (protocol.md B.4), so a client sees ids of its own, and a statement is prepared
again on a backend that does not have it. A backend finds one under `key`: the text together with the settings it was
prepared in (schema, sql_mode and charset belong to the statement) and the types it was bound to, or, while a cursor or
long data makes it unshareable, the `Prepared` itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session import pins
from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME, frame

if TYPE_CHECKING:
    from proxy.session.state import Settings
    from proxy.session.verdict import Verdict
    from proxy.wire.packets import Err

    from .backend import Backend
    from .client import Client

LAST_PREPARED = 0xFFFFFFFF  # MariaDB: "the statement prepared last"
BULK_HEAD = 6  # bytes of a COM_STMT_BULK_EXECUTE before its types: statement id and flags


class Prepared:
    """One prepared statement of one client."""

    __slots__ = (
        "bound",
        "cursor",
        "failure",
        "flag_at",
        "long_data",
        "n_params",
        "settings",
        "shared_key",
        "stuck",
        "text",
        "types",
        "verdict",
        "virtual_id",
    )

    def __init__(self, virtual_id: int, text: bytes, settings: Settings, verdict: Verdict, n_params: int) -> None:
        self.virtual_id = virtual_id
        self.text = text
        self.settings = settings
        self.verdict = verdict
        self.n_params = n_params
        self.flag_at = 14 + (n_params + 7) // 8  # in a COM_STMT_EXECUTE: new_params_bind_flag, and behind it the types
        self.types = b""
        self.bound = b""  # on MySQL: the types that count for sharing
        self.cursor = self.long_data = False
        self.shared_key: object = (text, settings, b"")
        self.failure: Err | None = None  # of long data, which has no answer: the execution's answer
        self.stuck = False  # that was the server's, and with it every execution fails until the statement is reset

    @property
    def private(self) -> bool:
        """A cursor or long data belongs to this client alone: the statement cannot be shared."""
        return self.cursor or self.long_data

    @property
    def key(self) -> object:
        """What a backend knows this statement by."""
        return self if self.cursor or self.long_data else self.shared_key

    @property
    def fresh_key(self) -> object:
        """The same for one that nobody has executed yet."""
        return self.text, self.settings, b""

    def bind(self, packet: bytes, *, mysql: bool) -> None:
        """Remember the types of a COM_STMT_EXECUTE, even if it never gets to the server; take them into the key.

        MySQL converts parameters to the types of earlier executions, so only those who bind alike may share. NULL
        (type 6) binds nothing.
        """
        n, flag_at = self.n_params, self.flag_at
        if len(packet) > flag_at + 2 * n:
            types = self.types = packet[flag_at + 1 : flag_at + 1 + 2 * n]
            if not mysql:
                return
            if types[::2].find(b"\x06") >= 0 and self.bound:
                pairs = zip(_pairs(types), _pairs(self.bound), strict=True)
                types = b"".join([old if new[0] == 6 else new for new, old in pairs])
            if types != self.bound:
                self.bound = types
                self.shared_key = (self.text, self.settings, types)


_LONG_DATA_ERRORS = (b"send_long_data", b"mysql_stmt_precheck")  # as the servers call the function that failed


def remember_long_data_error(statement: Prepared, error: Err) -> None:
    """An execution failed: if it is because of long data, so will all others until the statement is reset (B.4)."""
    if statement.long_data and any(name in error.message for name in _LONG_DATA_ERRORS):
        statement.failure, statement.stuck = error, True


def _pairs(types: bytes) -> list[bytes]:
    return [types[i : i + 2] for i in range(0, len(types), 2)]


def execute_packet(packet: bytes, statement: Prepared, statement_id: int, bound: dict[int, bytes]) -> bytes:
    """Return the COM_STMT_EXECUTE frames of a client for a backend, where the statement has `statement_id`.

    Parameter types travel only when the client sends them anew; a backend may have been bound by someone else since
    (`bound`: the types by statement id), so they are remembered, and put in where they are missing (B.4). One that
    ends inside its parameters goes on as it is: what is wrong with it the server says.
    """
    ident = statement_id.to_bytes(4, "little")
    n = statement.n_params
    flag_at = statement.flag_at
    if not n or len(packet) <= flag_at:
        return packet[:5] + ident + packet[9:]
    if packet[flag_at]:
        types = packet[flag_at + 1 : flag_at + 1 + 2 * n]
        if len(types) == 2 * n:
            statement.types = bound[statement_id] = types
        return packet[:5] + ident + packet[9:]
    if not statement.types or bound.get(statement_id) == statement.types:
        return packet[:5] + ident + packet[9:]
    bound[statement_id] = statement.types
    size = packet[0] | packet[1] << 8 | packet[2] << 16
    payload = packet[4:] if size < MAX_FRAME else join_frames(packet)
    flag_at -= 4
    return frame(payload[:1] + ident + payload[5:flag_at] + b"\x01" + statement.types + payload[flag_at + 1 :])


_STRINGS = frozenset((0x0F, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE))  # types that come as bytes with their length


def first_string(packet: bytes, statement: Prepared) -> bytes | None:
    """The first parameter of a COM_STMT_EXECUTE, if it is a string that came with it."""
    n, flag_at = statement.n_params, statement.flag_at
    if packet[4] != c.COM_STMT_EXECUTE or not n or len(packet) <= flag_at or packet[14] & 1 or statement.long_data:
        return None
    new = packet[flag_at]
    types = packet[flag_at + 1 : flag_at + 1 + 2 * n] if new else statement.types
    values = packet[flag_at + 1 + (2 * n if new else 0) :]
    if not types or types[0] not in _STRINGS or not values or values[0] > 250 or len(values) <= values[0]:
        return None
    return values[1 : 1 + values[0]]


def remember_bulk_types(statement: Prepared, packet: bytes) -> None:
    """The types of a COM_STMT_BULK_EXECUTE hold for the executions behind it, in bulk or not."""
    types = packet[11 : 11 + 2 * statement.n_params]
    if packet[9] & c.STMT_BULK_SEND_TYPES and len(types) == 2 * statement.n_params:
        statement.types = types


def bulk_packet(packet: bytes, statement: Prepared, statement_id: int, bound: dict[int, bytes]) -> bytes:
    """`execute_packet` for COM_STMT_BULK_EXECUTE, whose types come before all rows."""
    ident = statement_id.to_bytes(4, "little")
    types = statement.types
    if packet[9] & c.STMT_BULK_SEND_TYPES or not types or bound.get(statement_id) == types:
        bound[statement_id] = types
        return packet[:5] + ident + packet[9:]
    bound[statement_id] = types
    payload = join_frames(packet)
    flags = bytes((payload[5] | c.STMT_BULK_SEND_TYPES, payload[6]))
    return frame(payload[:1] + ident + flags + types + payload[1 + BULK_HEAD :])


def join_frames(packet: bytes) -> bytes:
    """Return the payload of a command that came in several frames."""
    parts = []
    pos = 0
    while pos < len(packet):
        size = packet[pos] | packet[pos + 1] << 8 | packet[pos + 2] << 16
        parts.append(packet[pos + 4 : pos + 4 + size])
        pos += 4 + size
    return b"".join(parts)


def end_private(client: Client, statement: Prepared, backend: Backend | None) -> None:
    """Cursor and long data are over: the statement can be shared again."""
    statement_id = backend.statements.pop(statement, 0) if backend is not None else 0
    if statement_id and backend is not None and not backend.lost:
        backend.close_statement(statement_id)
    statement.cursor = statement.long_data = False
    _recount_pins(client)


def _recount_pins(client: Client) -> None:
    """Pinned by cursors and long data exactly while there are some."""
    held = client.statements.values() if client.statements else ()
    if not any(statement.cursor for statement in held):
        client.drop_pins(pins.CURSOR)
    if not any(statement.long_data for statement in held):
        client.drop_pins(pins.LONG_DATA)
