"""A session of a script on one side: sends a step, reads its answer, and gives it as a value to compare.

What is compared are the packets, cut into their parts. Masked is what no two connections have alike: ids of
connections and statements, and the names of the side's schemas, which are equally long.
"""

from __future__ import annotations

import contextlib
import re
import struct

from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME, frame
from proxy.wire.packets import lenenc_str, parse_err
from tests.live.raw import Raw, Result, Statement, Target

from .steps import LOOSE, Step, Value

DIRECT, POOLED = b"zqd", b"zqp"
PASSWORD = "differential-secret"
ACCOUNTS = ("zq_one", "zq_two")

Outcome = tuple[object, ...]
GONE: Outcome = ("the connection has ended",)

_NUMBERS = re.compile(rb"\d+")
_ABOUT_IDS = frozenset((1094, 1095, 1243, 1317, 1927, 1421))
_NO_STATEMENT = frozenset(("ping", "set_option", "init_db", "reset", "reset_statement", "change_user"))
_ABOUT_THE_SESSION = (
    c.SERVER_STATUS_IN_TRANS
    | c.SERVER_STATUS_AUTOCOMMIT
    | c.SERVER_STATUS_NO_BACKSLASH_ESCAPES
    | c.SERVER_STATUS_IN_TRANS_READONLY
    | c.SERVER_STATUS_ANSI_QUOTES
)
_UNKNOWN_HANDLE = Statement(77777, 0, 0)

_KINDS = {
    "null": 6,
    "tiny": 1,
    "short": 2,
    "long": 3,
    "longlong": 8,
    "float": 4,
    "double": 5,
    "decimal": 246,
    "string": 254,
    "varstring": 253,
    "blob": 252,
    "date": 10,
    "time": 11,
    "datetime": 12,
}
_PACKED = {"tiny": "<b", "short": "<h", "long": "<i", "longlong": "<q", "float": "<f", "double": "<d"}


def _value(kind: str, value: object) -> bytes:
    """A parameter as COM_STMT_EXECUTE carries it."""
    if kind in _PACKED:
        return struct.pack(_PACKED[kind], value)
    if kind == "date":
        year, month, day = value  # type: ignore[misc]
        return struct.pack("<BHBB", 4, year, month, day)
    if kind == "datetime":
        return struct.pack("<BHBBBBB", 7, *value)  # type: ignore[misc]
    if kind == "time":
        negative, hours, minutes, seconds = value  # type: ignore[misc]
        return struct.pack("<BBIBBB", 8, negative, 0, hours, minutes, seconds)
    return b"" if kind == "null" else lenenc_str(str(value).encode())


def execution(ident: int, values: tuple[Value, ...], *, cursor: int, types: bool, long_data: frozenset[int]) -> bytes:
    """A COM_STMT_EXECUTE with parameters of any type."""
    head = b"\x17" + struct.pack("<IBI", ident, cursor, 1)
    if not values:
        return head
    nulls = bytearray((len(values) + 7) // 8)
    kinds = data = b""
    for i, (kind, value) in enumerate(values):
        if kind == "null":
            nulls[i // 8] |= 1 << i % 8
        kinds += bytes((_KINDS[kind], 0))
        data += b"" if i in long_data else _value(kind, value)
    return head + bytes(nulls) + (b"\x01" + kinds if types else b"\x00") + data


class Session(Raw):
    """One connection of one side."""

    def __init__(self, target: Target, name: bytes, options: tuple[bool, bool, bool, str]) -> None:
        deprecate_eof, session_track, found_rows, schema = options
        self.name = name
        self.handles: dict[str, Statement] = {}
        self.long: dict[str, set[int]] = {}
        self.gone = False
        super().__init__(
            target,
            ACCOUNTS[0],
            PASSWORD,
            self.own(schema).decode() if schema else None,
            deprecate_eof=deprecate_eof,
            session_track=session_track,
            add=c.CLIENT_FOUND_ROWS if found_rows else 0,
            timeout=30.0,
        )

    def own(self, text: str) -> bytes:
        """A text with the names of this side."""
        return text.encode().replace(DIRECT, self.name)

    # One step

    def start(self, step: Step) -> None:
        """Send the step's command. What goes to and fro is done in `finish`."""
        payload = self._payload(step)
        if payload is not None:
            with contextlib.suppress(OSError):
                self.sock.sendall(frame(payload))
            self.expect_answer(len(payload) // MAX_FRAME + 1)

    def _payload(self, step: Step) -> bytes | None:
        op = step.op
        handle = self.handles.get(step.handle, _UNKNOWN_HANDLE)
        ident = struct.pack("<I", handle.ident)
        if op in ("query", "prepare", "init_db"):
            return {"query": b"\x03", "prepare": b"\x16", "init_db": b"\x02"}[op] + self.own(step.text)
        if op == "execute":
            long_data = frozenset(self.long.pop(step.handle, ()))
            cursor, types = step.number & 1, not step.number & 2
            return execution(handle.ident, step.values, cursor=cursor, types=types, long_data=long_data)
        if op == "close":
            self.handles.pop(step.handle, None)
            return b"\x19" + ident
        if op == "reset_statement":
            self.long.pop(step.handle, None)
            return b"\x1a" + ident
        if op == "long_data":
            self.long.setdefault(step.handle, set()).add(step.number)
            return b"\x18" + ident + struct.pack("<H", step.number) + self.own(step.text)
        if op == "fetch":
            return b"\x1c" + ident + struct.pack("<I", step.number)
        if op == "field_list":
            return b"\x04" + self.own(step.text) + b"\0"
        if op == "set_option":
            return b"\x1b" + struct.pack("<H", step.number)
        if op == "bytes":
            return bytes.fromhex(step.text)
        return {"ping": b"\x0e", "reset": b"\x1f", "statistics": b"\x09"}.get(op)

    def finish(self, step: Step) -> Outcome:
        """Read the answer."""
        try:
            return self._outcome(step)
        except (EOFError, ConnectionError):
            self.gone = True
            return GONE

    def _outcome(self, step: Step) -> Outcome:
        op = step.op
        if op == "prepare":
            return self._prepared_as(step.handle)
        if op in ("close", "long_data"):
            return ()
        if op == "fetch":
            return self.parts(self._rows([], True), step)
        if op == "field_list":
            return self.parts(self.fields(), step)
        if op == "statistics":
            return (bool(self.read_packet()),)
        if op == "change_user":
            result = self.change_user(ACCOUNTS[step.number], PASSWORD, self.own(step.text).decode())
            self._forget()
            return self.parts(result, step)
        if op == "reset":
            self._forget()
        return tuple(self.parts(result, step) for result in self.results(binary=op == "execute"))

    def _forget(self) -> None:
        self.handles.clear()
        self.long.clear()

    def _prepared_as(self, handle: str) -> Outcome:
        self.long.pop(handle, None)
        packet = self.read_packet()
        if packet[0] == 0xFF:
            self.handles.pop(handle, None)
            return self.parts(Result(error=parse_err(packet)), None)
        if len(packet) < 12:
            return "no answer to a PREPARE", packet
        ident, columns, params = struct.unpack("<IHH", packet[1:9])
        groups = []
        for count in (params, columns):
            groups.append([self.masked(self.read_packet()) for _ in range(count)])
            if count and not self.deprecate_eof:
                assert self._is_end(self.read_packet())
        self.handles[handle] = Statement(ident, params, columns)
        return "prepared", params, columns, packet[9:], *groups

    def _rows(self, columns: list[bytes], binary: bool) -> Result:
        """As they came: nobody looks into them."""
        rows: list[bytes] = []
        while True:
            packet = self.read_packet()
            if packet[0] == 0xFF:
                return Result(rows, columns, error=parse_err(packet), has_rows=True)  # type: ignore[arg-type]
            if self._is_end(packet):
                result = self._end(packet)
                result.rows, result.columns, result.has_rows = rows, columns, True  # type: ignore[assignment]
                return result
            rows.append(packet)

    def masked(self, text: bytes) -> bytes:
        """A text with the names of the direct side."""
        return text.replace(POOLED, DIRECT)

    def parts(self, result: Result, step: Step | None) -> Outcome:
        """A result as what is compared."""
        error = result.error
        said = None
        if error is not None:
            text = self.masked(error.message)
            said = (error.code, error.state, _NUMBERS.sub(b"#", text) if error.code in _ABOUT_IDS else text)
        status, warnings = result.status & ~c.SERVER_SESSION_STATE_CHANGED, result.warnings
        if step is not None and step.op in _NO_STATEMENT:
            status, warnings = status & _ABOUT_THE_SESSION, 0
        if step is not None and "found_rows" in step.text.lower():
            warnings = 0  # MySQL's, that it is deprecated
        rows: object = [self.masked(row) for row in result.rows]  # type: ignore[arg-type]
        if step is not None and step.effect & LOOSE:
            rows = len(result.rows)
        return (
            "rows" if result.has_rows else "error" if error is not None else "ok",
            [self.masked(column) for column in result.columns],
            rows,
            said,
            status,
            warnings,
            result.affected,
            result.insert_id,
            self.masked(result.info),
        )
