"""Answers that we give ourselves, in the client's dialect."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import Err, build_column, build_eof, build_err, build_ok, lenenc_int, lenenc_str

_VARCHAR, _LONG, _LONGLONG = 0xFD, 0x03, 0x08
_UTF8 = 33

WARNING_COLUMNS = (
    build_column(b"Level", _VARCHAR, 21, _UTF8, flags=0x01, decimals=31),
    build_column(b"Code", _LONG, 4, flags=0xA1),
    build_column(b"Message", _VARCHAR, 1536, _UTF8, flags=0x01, decimals=31),
)


# libmariadb takes an ERR with one of its own codes for a forgery and shows "2027 Received malformed packet" instead.
# What a server could say comes through.
_TO_LIBMARIADB = {
    c.CR_CONN_HOST_ERROR: (c.ER_CONNECT_TO_FOREIGN_DATA_SOURCE, b"HY000"),
    c.CR_SERVER_LOST: (c.ER_CONNECTION_KILLED, b"70100"),
    c.CR_SSL_CONNECTION_ERROR: (c.ER_CONNECT_TO_FOREIGN_DATA_SOURCE, b"HY000"),
}
LIBMARIADB = b"libmariadb"  # as it names itself in the attributes of a login


def error(err: Err, *, to_libmariadb: bool) -> bytes:
    """The payload of an ERR in words that its receiver accepts."""
    code, state = err.code, err.state or b"HY000"
    if to_libmariadb and code in _TO_LIBMARIADB:
        code, state = _TO_LIBMARIADB[code]
    return build_err(code, state, err.message)


def number_column(label: bytes) -> bytes:
    """The column definition of a function that returns a number."""
    return build_column(label, _LONGLONG, 21)


def count_column(label: bytes) -> bytes:
    """The column definition of SHOW COUNT(*), which is that of a variable."""
    return build_column(label, _LONGLONG, 21, flags=0xA0)


def number_row(value: int) -> bytes:
    """A text row of one number."""
    return lenenc_str(b"%d" % value)


def binary_number_row(value: int) -> bytes:
    """The same in the answer to a COM_STMT_EXECUTE (protocol.md B.4)."""
    return b"\0\0" + value.to_bytes(8, "little", signed=True)


def result_set(
    columns: Sequence[bytes],
    rows: Sequence[bytes],
    *,
    deprecate_eof: bool,
    status: int,
    seq: int = 1,
    warnings: int = 0,
) -> bytes:
    """Return a whole text result set as frames, the first with sequence id `seq`."""
    payloads = [lenenc_int(len(columns)), *columns]
    if not deprecate_eof:
        payloads.append(build_eof(0, status))
    payloads += rows
    if deprecate_eof:
        payloads.append(build_ok(status=status, warnings=warnings, header=0xFE))
    else:
        payloads.append(build_eof(warnings, status))
    return b"".join([frame(payload, seq + i) for i, payload in enumerate(payloads)])


def end_of_data(*, deprecate_eof: bool, status: int) -> bytes:
    """The payload of an EOF as this client knows it: the answer to COM_SET_OPTION and COM_DEBUG."""
    return build_ok(status=status, header=0xFE) if deprecate_eof else build_eof(0, status)
