"""Follow a server's response to its true end, and hand the client its own dialect of it.

Law: a backend always speaks DEPRECATE_EOF and SESSION_TRACK (protocol.md 0.3). `ResponseReader` is told what the
client speaks and returns, chunk by chunk, what to send to it. It never guesses: a response is over when the
packet that ends it was parsed, and bytes behind that end are counted in `extra` (the caller closes the backend).

Three differences are bridged:

* a client without DEPRECATE_EOF gets an EOF after column definitions, EOF instead of OK at the end of rows, and
  every later sequence id moved on (`_shift`);
* a client without SESSION_TRACK gets no trackers; one with it gets those that servers send by default;
* the statement id of a prepared statement becomes the client's virtual one.

`feed` is the hot loop: one pass over packet headers, no object per packet, the chunk itself is returned when nothing
in it had to change. Frames of 0xFFFFFF bytes continue in the next frame, which is not classified (B.3). Statements of
one shape have the same column definitions: those of the last result are remembered (`_head`) and skipped as a whole.
"""

from __future__ import annotations

from . import constants as c
from .framing import MAX_FRAME, ProtocolError
from .packets import (
    Err,
    build_eof,
    build_ok,
    encode_tracker,
    iter_trackers,
    parse_err,
    parse_ok,
    read_lenenc_int,
)

# What kind of response is awaited.
QUERY, PREPARE, ROWS_ONLY, SINGLE, STATISTICS = range(5)
NO_RESPONSE = -1  # the server does not answer

# Where in it we are; in _LOCAL the server waits for a file, and has nothing to say but an ERR.
_FIRST, _COLUMNS, _ROWS, _PREPARED_COLUMNS, _LOCAL, _DONE = range(6)

# What servers track for a client that negotiated SESSION_TRACK and set nothing (C.2).
_DEFAULT_TRACKED = frozenset(
    (
        b"time_zone",
        b"autocommit",
        b"character_set_client",
        b"character_set_results",
        b"character_set_connection",
    )
)

_UNUSUAL = c.SERVER_MORE_RESULTS | c.SERVER_STATUS_CURSOR_EXISTS | c.SERVER_SESSION_STATE_CHANGED

_NOTHING: tuple[tuple[int, bytes, bytes], ...] = ()


def default_trackers(found: tuple[tuple[int, bytes, bytes], ...]) -> bytes:
    """Those that a client gets which negotiated SESSION_TRACK and set nothing."""
    kept = b""
    for kind, name, value in found:
        if kind == c.TRACK_SCHEMA or (kind == c.TRACK_SYSTEM_VARIABLE and name in _DEFAULT_TRACKED):
            kept += encode_tracker(kind, name, value)
    return kept


class ResponseReader:
    """Reads one response. `begin` once per command, `feed` until `done`.

    Before it, `mid_status` is what is known of the flags before rows come; SERVER_MORE_RESULTS in it says that the
    command is a CALL.

    After the end: `status` (flags of the last OK or EOF, None if there was none), `error` (Err or None), `changes`
    (all session trackers, accumulated), `insert_id`, `affected`, `warnings`, `rows` (of the last result set),
    `ok_last` (the end was an OK and not that of rows), `statement_id`, `n_params` (PREPARE), `local` (the server waits
    for a file), `cut_short` (it did not wait for its end but sent an ERR), `extra` (bytes behind the end). `kind` is
    what was awaited.
    """

    __slots__ = (
        "_cont",
        "_eof_due",
        "_file_passed",
        "_head",
        "_held",
        "_left",
        "_left_columns",
        "_phase",
        "_shift",
        "_skip",
        "_virtual_id",
        "affected",
        "changes",
        "cut_short",
        "deprecate_eof",
        "done",
        "error",
        "extra",
        "had_rows",
        "insert_id",
        "kind",
        "local",
        "mid_status",
        "n_params",
        "ok_last",
        "rows",
        "session_track",
        "statement_id",
        "status",
        "warnings",
    )

    def __init__(self) -> None:
        self._head = b""
        self.deprecate_eof = self.session_track = True
        self.mid_status = c.SERVER_STATUS_AUTOCOMMIT
        self.begin(SINGLE)

    def begin(self, kind: int, virtual_id: int = 0) -> None:
        """Await the response of a command. `virtual_id` replaces the statement id of a PREPARE."""
        self.kind = kind
        self._phase = _ROWS if kind == ROWS_ONLY else _FIRST
        self._virtual_id = virtual_id
        self._held = b""
        self._skip = self._left = self._left_columns = self._shift = 0
        self._cont = self._eof_due = False
        self.done = self.local = self.cut_short = self.had_rows = self._file_passed = self.ok_last = False
        self.status: int | None = None
        self.error: Err | None = None
        self.changes: tuple[tuple[int, bytes, bytes], ...] = _NOTHING
        self.insert_id = self.affected = self.warnings = self.rows = 0
        self.statement_id = self.n_params = self.extra = 0

    def file_sent(self) -> None:
        """The client has sent its file to the end: the response goes on."""
        self.local = False
        self._file_passed = True
        self._phase = _FIRST

    @property
    def untouched(self) -> bool:
        """Nothing of the response has been passed on yet: an error can still take its place."""
        return self._phase == _FIRST and not self._shift and self.status is None and not self._file_passed

    @property
    def with_file(self) -> bool:
        """The server asks, or has asked, for a file."""
        return self.local or self._file_passed

    @property
    def shift(self) -> int:
        """How far the client's sequence ids are ahead of the server's."""
        return self._shift

    def feed(self, data: bytes) -> bytes:
        """Follow `data`, return what the client is to receive. Raises ProtocolError on nonsense.

        Hot: 0.27 us a row (0.36 where ids are shifted); a point select costs 1.1 us, translated for a client
        without DEPRECATE_EOF 1.4, twice that with other columns than the one before, and 2 to 3 more where its end
        carries trackers (CPython 3.11, 2026-11).
        """
        new = self._phase == _FIRST and self.status is None
        if self._held:
            data = self._held + data
            self._held = b""
            new = False
        known = len(self._head) if new and self._head and data.startswith(self._head) else 0
        if known:
            whole = self._one_row(data, known)
            if whole is not None:
                return whole
            self._eof_due = not self.deprecate_eof
            self.had_rows = True
            self._phase = _ROWS
        src: bytes | bytearray = data
        shift = self._shift
        if shift:
            src = bytearray(data)
        parts: list[bytes | bytearray] = []
        end = len(data)
        mark = 0
        pos = known
        if self._skip:
            pos = min(self._skip, end)
            self._skip -= pos
        phase = self._phase
        rows = self.rows
        cont = self._cont
        while pos < end:
            if end - pos < 5 and (end - pos < 4 or data[pos : pos + 3] != b"\0\0\0"):
                break  # not even a first byte, and not an empty packet
            size = data[pos] | data[pos + 1] << 8 | data[pos + 2] << 16
            after = pos + 4 + size
            if cont:
                cont = size == MAX_FRAME
            else:
                first = data[pos + 4] if size else -1
                if phase == _ROWS:
                    if first == 0xFF or (first == 0xFE and size < MAX_FRAME):
                        if after > end:
                            break
                        if size == 7 and first == 0xFE and not self._eof_due and data[pos + 5 : pos + 7] == b"\0\0":
                            # Almost always: nothing but status and warnings, and nothing follows.
                            status = data[pos + 7] | data[pos + 8] << 8
                            if not status & _UNUSUAL:
                                self.status = status
                                self.warnings = data[pos + 9] | data[pos + 10] << 8
                                self._phase = _DONE
                                self.done = True
                                if not self.deprecate_eof:
                                    parts.append(src[mark:pos])
                                    parts.append(b"\5\0\0%c\xfe" % ((data[pos + 3] + shift) & 0xFF))
                                    parts.append(data[pos + 9 : pos + 11] + data[pos + 7 : pos + 9])
                                    mark = after
                                elif shift:
                                    src[pos + 3] = (data[pos + 3] + shift) & 0xFF  # type: ignore[index]
                                pos = after
                                break
                        replaced = self._terminate(data[pos + 4 : after], data[pos + 3])
                        if replaced is not None:
                            parts.append(src[mark:pos])
                            parts.append(replaced)
                            mark = after
                        pos = after
                        shift = self._shift
                        if shift and src is data:
                            src = bytearray(data)
                        phase = self._phase
                        if self.done:
                            break
                        continue
                    if self._eof_due:
                        # The first row: now it is certain that no cursor was opened, whose one EOF stands for both.
                        early = self._early_status(data, after, size)
                        if early < 0:
                            break
                        parts.append(src[mark:pos])
                        parts.append(self._inserted_eof((data[pos + 3] - 1) & 0xFF, early))
                        mark = pos
                        shift = self._shift
                        if src is data:
                            src = bytearray(data)
                        self._eof_due = False
                    rows += 1
                elif phase == _COLUMNS and first != 0xFF:
                    self._left -= 1
                    if not self._left:
                        phase = self._phase = _ROWS
                        self._eof_due = not self.deprecate_eof
                        rows = 0
                        if new and self.kind == QUERY and self.status is None and after <= end:
                            self._head = data[:after]
                        if shift:
                            src[pos + 3] = (data[pos + 3] + shift) & 0xFF  # type: ignore[index]
                        if after > end:
                            self._skip = after - end
                            pos = end
                        else:
                            pos = after
                        continue
                elif phase == _PREPARED_COLUMNS and first != 0xFF:
                    if after > end:
                        break
                    if shift:
                        src[pos + 3] = (data[pos + 3] + shift) & 0xFF  # type: ignore[index]
                    pos = after
                    self._left -= 1
                    if not self._left:
                        if not self.deprecate_eof:
                            parts.append(src[mark:pos])
                            mark = pos
                            parts.append(self._inserted_eof(data[after - size - 1], self.mid_status))
                            shift = self._shift
                            if src is data:
                                src = bytearray(data)
                        self._next_prepared_group()
                        phase = self._phase
                        if self.done:
                            break
                    continue
                elif phase < _LOCAL:
                    # The first packet of a result, or an ERR where a column definition was due.
                    if after > end:
                        break
                    if size == 1 and 0 < first < 0xFB and phase == _FIRST and self.kind == QUERY:
                        self._left = first
                        phase = self._phase = _COLUMNS
                        self.had_rows = True
                        if shift:
                            src[pos + 3] = (data[pos + 3] + shift) & 0xFF  # type: ignore[index]
                        pos = after
                        continue
                    payload = data[pos + 4 : after]
                    replaced = self._first(first, payload, data[pos + 3])
                    if replaced is not None:
                        parts.append(src[mark:pos])
                        parts.append(replaced)
                        mark = after
                    elif shift:
                        src[pos + 3] = (data[pos + 3] + shift) & 0xFF  # type: ignore[index]
                    pos = after
                    shift = self._shift
                    phase = self._phase
                    if self.done:
                        break
                    continue
                elif phase == _LOCAL:
                    if first != 0xFF:
                        raise ProtocolError("server went on before it had the file", c.ER_MALFORMED_PACKET)
                    if after > end:
                        break
                    replaced = self._fail(data[pos + 4 : after], data[pos + 3])
                    if replaced is not None:
                        parts.append(src[mark:pos])
                        parts.append(replaced)
                        mark = after
                    pos = after
                    self.local = False
                    self.cut_short = True
                    break
                else:
                    break  # behind the end
                cont = size == MAX_FRAME
            if shift:
                src[pos + 3] = (data[pos + 3] + shift) & 0xFF  # type: ignore[index]
            if after > end:
                self._skip = after - end
                pos = end
            else:
                pos = after
        self.rows = rows
        self._cont = cont
        if self.done:
            self.extra += end - pos
        else:
            self._held = data[pos:]
        if not parts and src is data:
            return data if pos == end else data[:pos]
        parts.append(src[mark:pos])
        return b"".join(parts)

    def _one_row(self, data: bytes, pos: int) -> bytes | None:
        """The whole response, if behind its head there is one row and the usual end; None: it is something else."""
        end = len(data)
        if end - pos < 16:
            return None
        size = data[pos] | data[pos + 1] << 8 | data[pos + 2] << 16
        last = pos + 4 + size
        if end - last != 11 or size == MAX_FRAME or data[pos + 4] >= 0xFE or data[last : last + 3] != b"\7\0\0":
            return None
        status = data[last + 7] | data[last + 8] << 8
        if data[last + 4 : last + 7] != b"\xfe\0\0" or status & _UNUSUAL:
            return None
        self.status = status
        self.warnings = data[last + 9] | data[last + 10] << 8
        self.had_rows = self.done = True
        self.rows = 1
        self._phase = _DONE
        if self.deprecate_eof:
            return data
        seq = data[pos + 3]
        now = self.mid_status
        return b"%b\5\0\0%c\xfe\0\0%c%c%b%c%b\5\0\0%c\xfe%b%b" % (
            data[:pos],
            seq,
            now & 0xFF,
            now >> 8 & 0xFF,
            data[pos : pos + 3],
            (seq + 1) & 0xFF,
            data[pos + 4 : last],
            (seq + 2) & 0xFF,
            data[last + 9 :],
            data[last + 7 : last + 9],
        )

    def _early_status(self, data: bytes, after: int, size: int) -> int:
        """The flags of the EOF before the rows; below 0 when more of `data` is needed to tell.

        In a CALL the row may be that of the OUT parameters, which their receivers know by this EOF; ours know it by
        the packet behind the row.
        """
        status = self.mid_status
        if not status & c.SERVER_MORE_RESULTS or size == MAX_FRAME:
            return status
        if len(data) < after + 5:
            return -1
        end = after + 4 + (data[after] | data[after + 1] << 8 | data[after + 2] << 16)
        if data[after + 4] != 0xFE or end - after >= MAX_FRAME:
            return status
        if len(data) < end:
            return -1
        return status | parse_ok(data[after + 4 : end]).status & c.SERVER_PS_OUT_PARAMS

    def _inserted_eof(self, seq: int, status: int) -> bytes:
        """An EOF packet behind the server's packet `seq`; everything later moves on by one."""
        self._shift = (self._shift + 1) & 0xFF
        return bytes((5, 0, 0, (seq + self._shift) & 0xFF, 0xFE, 0, 0, status & 0xFF, status >> 8 & 0xFF))

    def _packet(self, payload: bytes, seq: int) -> bytes:
        """`payload` as the one frame it came in, numbered for the client."""
        if len(payload) >= MAX_FRAME:
            raise ProtocolError("server sent an OK or ERR of 16 MiB", c.ER_MALFORMED_PACKET)
        return len(payload).to_bytes(3, "little") + bytes(((seq + self._shift) & 0xFF,)) + payload

    def _first(self, first: int, payload: bytes, seq: int) -> bytes | None:
        """Handle the first packet of a result. Return its replacement, or None to pass it on."""
        kind = self.kind
        if first == 0xFF:
            return self._fail(payload, seq)
        if kind == STATISTICS:
            self._end()
            return None
        if kind == PREPARE:
            return self._prepared(first, payload, seq)
        if first == 0x00:
            return self._ok(payload, seq)
        if kind == SINGLE:
            if first == 0xFE:
                return self._terminate(payload, seq)
            raise ProtocolError(f"server answered with packet type {first:#04x}", c.ER_MALFORMED_PACKET)
        if first == 0xFB:
            self.local = True
            self._phase = _LOCAL
            return None
        self._left = first if 0 < first < 0xFB else read_lenenc_int(payload, 0)[0]
        if not self._left:
            raise ProtocolError("result set without columns", c.ER_MALFORMED_PACKET)
        self._phase = _COLUMNS
        self.had_rows = True
        return None

    def _prepared(self, first: int, payload: bytes, seq: int) -> bytes | None:
        if first == 0x00 and len(payload) == 7:
            return self._ok(payload, seq)  # MySQL, to a SET GLOBAL without the privilege in a transaction
        if first != 0x00 or len(payload) < 12:
            raise ProtocolError("malformed answer to COM_STMT_PREPARE", c.ER_MALFORMED_PACKET)
        self.statement_id = int.from_bytes(payload[1:5], "little")
        self._left_columns = int.from_bytes(payload[5:7], "little")
        self.n_params = self._left = int.from_bytes(payload[7:9], "little")
        self.warnings = int.from_bytes(payload[10:12], "little")
        self._phase = _PREPARED_COLUMNS
        if not self._left:
            self._next_prepared_group()
        return self._packet(payload[:1] + self._virtual_id.to_bytes(4, "little") + payload[5:], seq)

    def _next_prepared_group(self) -> None:
        self._left, self._left_columns = self._left_columns, 0
        if not self._left:
            self._end()

    def _ok(self, payload: bytes, seq: int) -> bytes | None:
        """An OK packet: the end of a result without rows."""
        ok = parse_ok(payload)
        self.status = ok.status
        self.warnings = ok.warnings
        self.affected = ok.affected_rows
        self.insert_id = ok.last_insert_id or self.insert_id
        if not ok.status & c.SERVER_MORE_RESULTS:
            self.ok_last = True
            self._end()
        if not ok.status & c.SERVER_SESSION_STATE_CHANGED:
            return None
        kept = self._track(ok.trackers)
        return self._packet(build_ok(ok.affected_rows, ok.last_insert_id, ok.status, ok.warnings, ok.info, kept), seq)

    def _terminate(self, payload: bytes, seq: int) -> bytes | None:
        """Handle the packet that ends rows, OK-EOF or ERR. Return its replacement, or None to pass it on."""
        if payload[0] == 0xFF:
            out = b""
            if self._eof_due:
                self._eof_due = False
                out = self._inserted_eof((seq - 1) & 0xFF, self.mid_status)
            failed = self._fail(payload, seq)
            # After 256 inserted packets `_shift` is 0 again, yet the one just inserted must go out.
            return out + (failed or self._packet(payload, seq)) if out else failed
        ok = parse_ok(payload)
        status = self.status = ok.status
        self.warnings = ok.warnings
        out = b""
        if self._eof_due:
            self._eof_due = False
            # A cursor's answer is the last of its response; before others, the cursor is one inside a stored program.
            if status & (c.SERVER_STATUS_CURSOR_EXISTS | c.SERVER_MORE_RESULTS) != c.SERVER_STATUS_CURSOR_EXISTS:
                out = self._inserted_eof((seq - 1) & 0xFF, self.mid_status)
        if status & c.SERVER_MORE_RESULTS:
            self._phase = _FIRST
        else:
            self._end()
        kept = self._track(ok.trackers) if ok.trackers else b""
        if self.deprecate_eof:
            if not status & c.SERVER_SESSION_STATE_CHANGED and not self._shift:
                return None
            return out + self._packet(
                build_ok(ok.affected_rows, ok.last_insert_id, status, ok.warnings, ok.info, kept, header=0xFE),
                seq,
            )
        eof = build_eof(ok.warnings, status & ~c.SERVER_SESSION_STATE_CHANGED)
        return out + self._packet(eof, seq)

    def _fail(self, payload: bytes, seq: int) -> bytes | None:
        error = parse_err(payload)
        if not seq and self.untouched:
            # Not an answer: sent before the server has read the command, which it never will (protocol.md E.2).
            raise ProtocolError(f"server ended the connection: {error.code} {error.message.decode(errors='replace')}")
        self.error = error
        self._end()
        return self._packet(payload, seq) if self._shift else None

    def _track(self, block: bytes) -> bytes:
        """Remember the trackers of `block`; return those that the client gets."""
        found = tuple(iter_trackers(block))
        self.changes = self.changes + found if self.changes else found
        return default_trackers(found) if self.session_track else b""

    def _end(self) -> None:
        self._phase = _DONE
        self.done = True
