"""What a client says about a prepared statement, and the rows it gets for it: bytes, without a connection."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from proxy.wire.packets import lenenc_str, read_lenenc_str

READ_ONLY_CURSOR = 1

_INTEGERS = {1: "<b", 2: "<h", 3: "<i", 8: "<q", 9: "<i", 13: "<h"}
_FLOATS = {4: "<f", 5: "<d"}
_LONGLONG, _VAR_STRING, _NULL = 8, 253, 6

Value = bytes | int | float | None


@dataclass
class Statement:
    """A prepared statement: its id and what PREPARE said about it."""

    ident: int
    params: int
    columns: int


def execute_payload(
    statement: Statement, values: tuple[str | bytes | int | None, ...], *, types: bool = True, cursor: int = 0
) -> bytes:
    """COM_STMT_EXECUTE. A value that was sent as long data is given as b"" and left out by `long_data_payload`."""
    head = b"\x17" + struct.pack("<IBI", statement.ident, cursor, 1)
    if not statement.params:
        return head
    assert len(values) == statement.params
    nulls = bytearray((len(values) + 7) // 8)
    kinds, data = b"", b""
    for i, value in enumerate(values):
        if value is None:
            nulls[i // 8] |= 1 << i % 8
            kinds += bytes((_NULL, 0))
        elif isinstance(value, int):
            kinds += bytes((_LONGLONG, 0))
            data += struct.pack("<q", value)
        else:
            kinds += bytes((_VAR_STRING, 0))
            data += lenenc_str(as_bytes(value))
    return head + bytes(nulls) + (b"\x01" + kinds if types else b"\x00") + data


def execute_long_payload(statement: Statement) -> bytes:
    """COM_STMT_EXECUTE of a statement whose only parameter was sent as long data."""
    assert statement.params == 1
    return b"\x17" + struct.pack("<IBI", statement.ident, 0, 1) + b"\0\x01" + bytes((_VAR_STRING, 0))


def as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def column_of(definition: bytes) -> tuple[bytes, int]:
    """(name, type) of a column definition."""
    pos = 0
    for _ in range(4):
        _, pos = read_lenenc_str(definition, pos)
    name, pos = read_lenenc_str(definition, pos)
    _, pos = read_lenenc_str(definition, pos)
    return name, definition[pos + 7]


def binary_row(packet: bytes, columns: list[bytes]) -> list[Value]:
    """A row of the binary protocol; dates and decimals stay bytes."""
    assert packet[0] == 0
    pos = 1 + (len(columns) + 9) // 8
    row: list[Value] = []
    for i, definition in enumerate(columns):
        if packet[1 + (i + 2) // 8] >> (i + 2) % 8 & 1:
            row.append(None)
            continue
        kind = column_of(definition)[1]
        format_ = _INTEGERS.get(kind) or _FLOATS.get(kind)
        if format_ is not None:
            (value,) = struct.unpack_from(format_, packet, pos)
            pos += struct.calcsize(format_)
            row.append(value)
        else:
            text, pos = read_lenenc_str(packet, pos)
            row.append(text)
    return row
