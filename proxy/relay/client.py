"""A connection that an application opened to us, after its login: commands in, answers out.

One command at a time (`busy`); what a client sends ahead waits in `buffer`, and is not read further than the limit.
Everything between a complete command and the end of its lease is plain calls: see `lease` for that life.

A command larger than `session.request_buffer` is not read further until the client holds a lease; then it is taken
in whole, so that a statement is always classified as a whole, and never half sent (docs/decisions.md).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.pool.queue import Failure, FailureKind, Waiter
from proxy.session import classify as cl
from proxy.session import pins
from proxy.session.lexer import ANSI_QUOTES, NO_BACKSLASH_ESCAPES
from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME, ProtocolError, frame
from proxy.wire.packets import Err, build_err, build_ok, parse_change_user
from proxy.wire.response import PREPARE, QUERY, ROWS_ONLY, SINGLE, STATISTICS

from . import answers, lease
from .prepared import LAST_PREPARED, Prepared, join_frames

if TYPE_CHECKING:
    from proxy.pool.pool import Pool
    from proxy.session.classify import Verdict
    from proxy.session.state import Settings

    from .backend import Backend
    from .internal import Answer
    from .relay import Relay


# From here on the transport's buffer counts as read-ahead.
WRITE_HIGH, WRITE_LOW = 64 * 1024, 16 * 1024

_PLAIN = cl.Verdict(b"", flags=cl.PLAIN)
_KEEPS_DIAGNOSTICS = cl.Verdict(b"", flags=cl.PLAIN | cl.KEEPS_DIAGNOSTICS)

_COUNT_LABELS = {cl.SHOW_COUNT_WARNINGS: b"@@session.warning_count", cl.SHOW_COUNT_ERRORS: b"@@session.error_count"}

_QUERY_HEAD, _EXECUTE_HEAD = bytes((0, c.COM_QUERY)), bytes((0, c.COM_STMT_EXECUTE))  # sequence id and command
_STATEMENT_HEADS = (_QUERY_HEAD, _EXECUTE_HEAD)
_LEX_FLAGS = c.SERVER_STATUS_NO_BACKSLASH_ESCAPES | c.SERVER_STATUS_ANSI_QUOTES

# Commands whose only treatment is to go to a backend, with the kind of their response.
_FORWARDED = {
    c.COM_INIT_DB: SINGLE,
    c.COM_FIELD_LIST: ROWS_ONLY,
    c.COM_STATISTICS: STATISTICS,
    c.COM_PROCESS_INFO: QUERY,
    c.COM_REFRESH: SINGLE,
    c.COM_DEBUG: SINGLE,
}

_REFUSED = {
    c.COM_SHUTDOWN: "COM_SHUTDOWN is not passed on: stop the server itself, or mybouncer with SIGTERM",
    c.COM_BINLOG_DUMP: "replication does not go through a pooler: connect to the server",
    c.COM_BINLOG_DUMP_GTID: "replication does not go through a pooler: connect to the server",
    c.COM_REGISTER_SLAVE: "replication does not go through a pooler: connect to the server",
    c.COM_CLONE: "cloning does not go through a pooler: connect to the server",
    c.COM_SUBSCRIBE_GROUP_REPLICATION_STREAM: "replication does not go through a pooler: connect to the server",
    c.COM_STMT_BULK_EXECUTE: "bulk execution was not offered: send the rows one by one, or as one INSERT",
}


class Client(asyncio.Protocol):
    """A logged-in client and its session."""

    __slots__ = (
        "address",
        "backend",
        "buffer",
        "busy",
        "capabilities",
        "capturing",
        "closed",
        "deprecate_eof",
        "diagnostics",
        "file_left",
        "file_more",
        "found_rows",
        "has_diagnostics",
        "ident",
        "idle_since",
        "initial_settings",
        "insert_id",
        "insert_id_backend",
        "kind",
        "large",
        "last",
        "looping",
        "next_statement_id",
        "one_shot_transaction",
        "packet",
        "paused",
        "pins",
        "pool",
        "prepared_verdict",
        "preparing",
        "program",
        "read_ahead",
        "relay",
        "reply_seq",
        "resume",
        "row_count",
        "session_track",
        "settings",
        "slow",
        "statement",
        "statements",
        "status",
        "transport",
        "tries",
        "upload",
        "user",
        "verdict",
        "waiter",
    )

    def __init__(
        self, relay: Relay, transport: asyncio.Transport, ident: int, pool: Pool, settings: Settings, capabilities: int
    ) -> None:
        self.relay = relay
        self.transport = transport
        self.ident = ident
        self.pool = pool
        self.settings = self.initial_settings = settings
        self.capabilities = capabilities
        self.deprecate_eof = bool(capabilities & c.CLIENT_DEPRECATE_EOF)
        self.session_track = bool(capabilities & c.CLIENT_SESSION_TRACK)
        self.status = relay.profile.status & lease.SESSION_FLAGS
        self.address = self.program = ""
        self.user = pool.account.name
        self.idle_since = relay.loop.time()
        self.backend: Backend | None = None
        self.last: Backend | None = None
        self.waiter: Waiter | None = None
        self.busy = self.closed = self.looping = self.paused = self.slow = False
        self.buffer = b""
        self.packet = b""
        self.verdict: Verdict = _PLAIN
        self.kind = QUERY
        self.tries = 0
        self.reply_seq = 1
        self.pins = 0
        self.one_shot_transaction = False
        self.statement: Prepared | None = None
        self.statements: dict[int, Prepared] | None = None
        self.next_statement_id = 1
        self.preparing = b""
        self.prepared_verdict: Verdict = _PLAIN
        self.insert_id = 0
        self.insert_id_backend: Backend | None = None
        self.has_diagnostics = False
        self.diagnostics: Answer | None = None
        self.capturing = 0
        self.resume: Backend | None = None
        self.row_count = 0
        self.found_rows = 1
        self.large: bytearray | None = None
        self.upload: Backend | None = None
        self.file_left = 0
        self.file_more = False
        self.read_ahead = 0

    def __repr__(self) -> str:
        return f"<Client {self.ident:#x} {self.user} from {self.address} busy={self.busy} pins={pins.names(self.pins)}>"

    # What the client sends

    def data_received(self, data: bytes) -> None:
        """Take what arrived; run the next command if none runs. Hot: one whole statement takes the short way."""
        relay = self.relay
        have = len(data)
        relay.stats.bytes_from_clients += have
        head = data[3:5]
        if (
            head in _STATEMENT_HEADS
            and not self.busy
            and not self.buffer
            and not self.slow
            and not self.closed
            and data[0] | data[1] << 8 | data[2] << 16 == have - 4
            and have <= relay.request_buffer
        ):
            relay.stats.commands[data[4]] += 1
            self.reply_seq = 1
            self.packet = data
            if head == _QUERY_HEAD:
                self._query(data[5:])
            else:
                self._execute(data)
            return
        if self.upload is not None:
            self._file_data(data)
            return
        if self.large is not None:
            self._large_data(data)
            return
        self.buffer = self.buffer + data if self.buffer else data
        if not self.busy:
            self.go_on()
        # A command that is about to be whole never pauses: it is a header and the request buffer at most.
        if len(self.buffer) > self.relay.request_buffer + 4 and not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Run the commands in the buffer until one has to wait."""
        if self.looping:
            return
        self.looping = True
        behind = False
        while self.buffer and not self.busy and not self.closed:
            if self.slow and self.transport.get_write_buffer_size() > self.relay.read_ahead:
                behind = True  # it sends on and does not read: `resume_writing` goes on
                break
            data = self.buffer
            have = len(data)
            if have < 4:
                break
            size = data[0] | data[1] << 8 | data[2] << 16
            if size == MAX_FRAME or size > self.relay.request_buffer:
                self._begin_large()
                continue
            if have < 4 + size:
                break
            if have == 4 + size:
                self.buffer = b""
            else:
                self.buffer = data[4 + size :]
                data = data[: 4 + size]
            self._command(data)
        self.looping = False
        if self.paused and not self.busy and not self.closed and not behind:
            self.paused = False
            self.transport.resume_reading()

    def _command(self, packet: bytes, reply_seq: int = 1) -> None:
        """Run one whole command. Hot: COM_QUERY goes straight to `lease.start`."""
        self.reply_seq = reply_seq
        if len(packet) == 4:
            self._reply_error(c.ER_UNKNOWN_COMMAND, b"08S01", "Unknown command: an empty packet")
            return
        if packet[3]:
            self.malformed("Got packets out of order", c.ER_NET_PACKETS_OUT_OF_ORDER)
            return
        command = packet[4]
        self.relay.stats.commands[command] += 1
        self.packet = packet
        if command == c.COM_QUERY:
            self._query(self._text(packet))
        elif command == c.COM_STMT_EXECUTE:
            self._execute(packet)
        else:
            self._other(command, packet)

    def _query(self, text: bytes) -> None:
        mode = self._lex_mode() if self.status & _LEX_FLAGS else self.settings.mode
        verdict = self.relay.classifier.classify(text, mode)
        if verdict.local and self.backend is None and not self.capturing:
            last = self.last
            if last is None or not lease.at_hand(self, last, verdict.needs):
                self.verdict = verdict
                self.answer_locally()
                self._over()
                return
        self.verdict = verdict
        self.kind = QUERY
        self.statement = None
        self.tries = 0
        self.busy = True
        lease.start(self)

    def _run(self, verdict: Verdict, kind: int, statement: Prepared | None = None) -> None:
        self.verdict = verdict
        self.kind = kind
        self.statement = statement
        self.tries = 0
        self.busy = True
        lease.start(self)

    def _text(self, packet: bytes) -> bytes:
        size = packet[0] | packet[1] << 8 | packet[2] << 16
        return packet[5:] if size < MAX_FRAME else join_frames(packet)[1:]

    def _lex_mode(self) -> int:
        status = self.status
        mode = self.settings.mode
        if status & c.SERVER_STATUS_NO_BACKSLASH_ESCAPES:
            mode |= NO_BACKSLASH_ESCAPES
        if status & c.SERVER_STATUS_ANSI_QUOTES:
            mode |= ANSI_QUOTES
        return mode

    def _other(self, command: int, packet: bytes) -> None:
        kind = _FORWARDED.get(command)
        if kind is not None:
            self._run(_KEEPS_DIAGNOSTICS if command in (c.COM_INIT_DB, c.COM_STATISTICS) else _PLAIN, kind)
        elif command == c.COM_PING:
            self._reply(build_ok(status=self.status))
        elif command == c.COM_QUIT:
            self.close("quit")
        elif command == c.COM_STMT_PREPARE:
            self.preparing = self._text(packet)
            self.prepared_verdict = self.relay.classifier.classify(self.preparing, self._lex_mode())
            self._run(_PLAIN, PREPARE)
        elif command == c.COM_STMT_CLOSE:
            self._close_statement(packet)
        elif command == c.COM_STMT_SEND_LONG_DATA:
            self._long_data(packet)
        elif command == c.COM_STMT_RESET:
            self._reset_statement(packet)
        elif command == c.COM_STMT_FETCH:
            self._fetch(packet)
        elif command == c.COM_SET_OPTION:
            self._set_option(packet)
        elif command == c.COM_RESET_CONNECTION:
            self._reset_connection()
        elif command == c.COM_CHANGE_USER:
            self._change_user(packet)
        elif command == c.COM_PROCESS_KILL:
            self._process_kill(packet)
        elif command in _REFUSED:
            self._reply_error(c.ER_NOT_SUPPORTED_YET, b"42000", _REFUSED[command])
        else:
            self._reply_error(c.ER_UNKNOWN_COMMAND, b"08S01", "Unknown command")

    # Large commands

    def _begin_large(self) -> None:
        """The next command is larger than the request buffer: hold a lease before more of it is read."""
        self.large = bytearray(self.buffer)
        self.buffer = b""
        self.busy = True
        self.packet = b"\0"  # not sent yet
        self.reply_seq = 1
        self.verdict = _PLAIN
        self.kind = lease.RESERVE
        self.statement = None
        self.tries = 0
        if self.backend is not None:
            self._large_data(b"")
            return
        if not self.paused:
            self.paused = True
            self.transport.pause_reading()
        lease.start(self)

    def reserved(self) -> None:
        """The lease for a large command is there."""
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        self._large_data(b"")

    def _large_data(self, data: bytes) -> None:
        large = self.large
        assert large is not None
        large += data
        if self.backend is None:
            if not self.paused:
                self.paused = True
                self.transport.pause_reading()
            return
        pos = 0
        expected = 0
        while True:
            if len(large) < pos + 4:
                return
            size = large[pos] | large[pos + 1] << 8 | large[pos + 2] << 16
            if large[pos + 3] != expected & 0xFF:
                self.malformed("Got packets out of order", c.ER_NET_PACKETS_OUT_OF_ORDER)
                return
            expected += 1
            pos += 4 + size
            if pos - 4 * expected > self.relay.profile.max_allowed_packet:
                self.reply_seq = expected
                text = "Got a packet bigger than 'max_allowed_packet' bytes"
                self.die(Err(c.ER_NET_PACKET_TOO_LARGE, b"08S01", text.encode()), True)
                return
            if size < MAX_FRAME:
                break
        if len(large) < pos:
            return
        packet, self.buffer = bytes(large[:pos]), bytes(large[pos:])
        self.busy = False
        self.large = None
        self._command(packet, expected)
        if self.backend is not None and not self.busy:
            lease.settle(self, self.backend)
        if not self.busy:
            self.go_on()

    # Prepared statements

    def _statement(self, packet: bytes, name: str) -> Prepared | None:
        """The statement that a command names; None if there is none, and then an ERR was sent."""
        ident = int.from_bytes(packet[5:9], "little") if len(packet) >= 9 else 0
        if ident == LAST_PREPARED and self.relay.profile.mariadb:
            ident = self.next_statement_id - 1
        statement = self.statements.get(ident) if self.statements else None
        if statement is None and name:
            text = f"Unknown prepared statement handler ({ident}) given to {name}"
            self._reply_error(c.ER_UNKNOWN_STMT_HANDLER, b"HY000", text)
        return statement

    def remember_statement(self, statement: Prepared) -> None:
        """A statement was prepared."""
        if self.statements is None:
            self.statements = {}
        self.statements[statement.virtual_id] = statement
        self.next_statement_id += 1

    def _execute(self, packet: bytes) -> None:
        statement = self.statements.get(int.from_bytes(packet[5:9], "little")) if self.statements else None
        if statement is None or len(packet) < 9:
            statement = self._statement(packet, "mysqld_stmt_execute")
            if statement is None:
                return
        if len(packet) < 14:
            self.malformed("COM_STMT_EXECUTE is too short", c.ER_MALFORMED_PACKET)
            return
        if statement.failure is not None:
            error, statement.failure = statement.failure, None
            self._reply(build_err(error.code, error.state or b"HY000", error.message))
            return
        if packet[9]:
            statement.cursor = True  # it belongs to this client alone, so its statement must not be shared
        if statement.n_params and len(packet) > statement.flag_at and packet[statement.flag_at]:
            statement.bind(packet, mysql=not self.relay.profile.mariadb)
        self.verdict = statement.verdict
        self.kind = QUERY
        self.statement = statement
        self.tries = 0
        self.busy = True
        lease.start(self)

    def _fetch(self, packet: bytes) -> None:
        statement = self._statement(packet, "mysqld_stmt_fetch")
        if statement is None:
            return
        if not statement.cursor or self.backend is None:
            self._reply_error(1421, b"HY000", f"The statement ({statement.virtual_id}) has no open cursor.")
            return
        self._run(_PLAIN, ROWS_ONLY, statement)

    def end_private(self, statement: Prepared, backend: Backend | None) -> None:
        """Cursor and long data are over: the statement can be shared again."""
        statement_id = backend.statements.pop(statement, 0) if backend is not None else 0
        if statement_id and backend is not None and not backend.lost:
            backend.close_statement(statement_id)
        statement.cursor = statement.long_data = False
        self.recount_statement_pins()

    def recount_statement_pins(self) -> None:
        """Pinned by cursors and long data exactly while there are some."""
        held = self.statements.values() if self.statements else ()
        if not any(statement.cursor for statement in held):
            self.drop_pins(pins.CURSOR)
        if not any(statement.long_data for statement in held):
            self.drop_pins(pins.LONG_DATA)

    def _close_statement(self, packet: bytes) -> None:
        statement = self._statement(packet, "")
        if statement is None or self.statements is None:
            return
        del self.statements[statement.virtual_id]
        if statement.private:
            self.end_private(statement, self.backend)
            self._maybe_release()

    def _reset_statement(self, packet: bytes) -> None:
        statement = self._statement(packet, "mysqld_stmt_reset")
        if statement is None:
            return
        statement.failure = None
        if statement.private:
            self.end_private(statement, self.backend)
        self._reply(build_ok(status=self.status))
        self._maybe_release()

    def _maybe_release(self) -> None:
        """A pin may have ended without a statement."""
        if self.backend is not None and not self.busy:
            lease.settle(self, self.backend)

    def _long_data(self, packet: bytes) -> None:
        statement = self._statement(packet, "")
        if statement is None or statement.failure is not None:
            return
        statement.long_data = True
        self._run(_PLAIN, lease.NO_RESPONSE, statement)

    # Commands answered here

    def _set_option(self, packet: bytes) -> None:
        value = int.from_bytes(packet[5:7], "little")
        if len(packet) != 7 or value > 1:
            self._reply_error(c.ER_UNKNOWN_COMMAND, b"08S01", f"Unknown command: option {value}, 0 or 1 is allowed")
            return
        self.settings = self.relay.settings.replace(self.settings, multi_statements=value == 0)
        self._reply(answers.end_of_data(deprecate_eof=self.deprecate_eof, status=self.status))

    def _process_kill(self, packet: bytes) -> None:
        ident = int.from_bytes(packet[5:9], "little")
        if ident >= self.relay.FIRST_CLIENT_ID:
            self._reply_error(1094, b"HY000", f"Unknown thread id: {ident}")
        else:
            self._run(_PLAIN, SINGLE)

    def _reset_connection(self) -> None:
        """COM_RESET_CONNECTION: a fresh session that keeps its schema (protocol.md B.1)."""
        backend = self.backend
        if backend is not None:
            # Whatever the session held ends on the backend that holds it.
            if self.pins & lease.UNRESETTABLE:
                lease.release_closed(self, backend, "unresettable_session")
            else:
                self.backend = None
                backend.client = backend.last_client = None
                lease.reset(backend)
        self.pins = 0
        self.one_shot_transaction = False
        self.statements = None
        self.status = self.relay.profile.status & lease.SESSION_FLAGS
        self.settings = self.relay.settings_after_reset(self.initial_settings, self.settings)
        self.insert_id = 0
        self.insert_id_backend = None
        self.row_count = 0
        self.found_rows = 1
        self.has_diagnostics = False
        self.diagnostics = None
        self.last = None
        self._reply(build_ok(status=self.status))
        if backend is not None and self.relay.draining:
            self.close("drain")

    def _change_user(self, packet: bytes) -> None:
        """COM_CHANGE_USER ends here: a login on this connection, and nothing of the old session stays."""
        try:
            response = parse_change_user(packet[4:], self.capabilities)
        except ProtocolError as exc:
            self.malformed(str(exc), exc.code)
            return
        rest = self.buffer
        self._forget("change_user")
        self.relay.change_user(self, response, rest)

    def answer_locally(self) -> None:
        """Answer a statement that asks for nothing but soft state which we have."""
        verdict = self.verdict
        local = verdict.local
        known = self.diagnostics
        asks_warnings = local not in (cl.SELECT_ROW_COUNT, cl.SELECT_FOUND_ROWS)
        if asks_warnings and self.has_diagnostics and known is None:
            self.refuse("the diagnostics area was lost with the connection to the server that knew it")
            return
        columns: list[bytes] | tuple[bytes, ...] = answers.WARNING_COLUMNS
        rows: list[bytes] = list(known.rows) if known is not None and self.has_diagnostics else []
        if known is not None and known.columns:
            columns = known.columns
        if local != cl.SHOW_WARNINGS:
            errors = [row for row in rows if row[1:6] == b"Error"]
            number = {
                cl.SELECT_ROW_COUNT: self.row_count,
                cl.SELECT_FOUND_ROWS: self.found_rows,
                cl.SHOW_COUNT_WARNINGS: len(rows),
                cl.SHOW_COUNT_ERRORS: len(errors),
            }
            if local == cl.SHOW_ERRORS:
                rows = errors
            else:
                columns = [answers.number_column(verdict.local_label or _COUNT_LABELS[local])]
                rows = [answers.number_row(number[local])]
        self.row_count = -1
        if not asks_warnings:
            self.found_rows = 1
            self.has_diagnostics = False
        self.transport.write(
            answers.result_set(columns, rows, deprecate_eof=self.deprecate_eof, status=self.status, seq=self.reply_seq)
        )
        self.packet = b""

    def capture_done(self, backend: Backend, captured: list[Answer] | None, count: int) -> None:
        """Another client needed the backend where our soft state was; here is that state."""
        self.capturing -= 1
        for answer in (captured or [])[:count]:
            if answer.error is not None:
                continue
            if len(answer.columns) == 3:
                if self.last is backend:
                    self.diagnostics = answer
            elif self.insert_id_backend is backend:
                self.insert_id = int(answer.values()[0][0] or 0)
                self.insert_id_backend = None
                if backend.insert_id is None:
                    backend.insert_id = self.insert_id
        resume, self.resume = self.resume, None
        if resume is not None and self.backend is resume and not self.closed:
            lease.ready(self, resume)

    # Waiting

    def granted(self, backend: Backend) -> None:
        """The queue has a backend for us."""
        self.waiter = None
        self.backend = backend
        backend.client = self
        if self.kind == lease.RESERVE:
            self.reserved()
        else:
            lease.ready(self, backend)

    def wait_failed(self, failure: Failure) -> None:
        """The wait is over without a backend."""
        waiter, self.waiter = self.waiter, None
        if failure.kind is FailureKind.DRAIN:
            self.refuse_shutdown()
            return
        code, state, text = self.relay.describe_failure(failure, waiter)
        if self.kind == lease.RESERVE:
            self.die(Err(code, state, text.encode()), True)
        else:
            self.fail(code, state, text)

    def refuse_shutdown(self) -> None:
        """mybouncer is stopping: the next statement is refused and the connection closed."""
        self.die(Err(c.ER_SERVER_SHUTDOWN, b"08S01", b"Server shutdown in progress"), True)

    # What the client receives

    def forward(self, data: bytes) -> None:
        """Pass a chunk of a response on."""
        self.transport.write(data)
        self.relay.stats.bytes_to_clients += len(data)
        if self.slow:
            self._count_read_ahead()

    def pause_writing(self) -> None:
        """The client reads slower than the server sends: from now on we count what it owes us."""
        self.slow = True
        self._count_read_ahead()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.slow = False
        self.relay.stats.read_ahead_bytes -= self.read_ahead
        self.read_ahead = 0
        if self.backend is not None:
            self.backend.resume_reading()
        if not self.busy and not self.closed:
            self.go_on()

    def _count_read_ahead(self) -> None:
        size = self.transport.get_write_buffer_size()
        stats = self.relay.stats
        stats.read_ahead_bytes += size - self.read_ahead
        self.read_ahead = size
        backend = self.backend
        if (
            backend is not None
            and backend.running
            and (size > self.relay.read_ahead or stats.read_ahead_bytes > self.relay.read_ahead_total)
        ):
            backend.pause_reading()

    def _reply(self, payload: bytes) -> None:
        self.transport.write(frame(payload, self.reply_seq))
        self.packet = b""

    def _reply_error(self, code: int, state: bytes, text: str) -> None:
        self.relay.stats.errors[(code, "proxy")] += 1
        self._reply(build_err(code, state, text))

    def answer_error(self, error: Err) -> None:
        """Answer the command with an error; it is over as soon as the caller says so."""
        statement = self.statement
        if statement is not None and statement.private:
            backend = self.backend
            if backend is None or statement not in backend.statements:
                self.end_private(statement, None)  # the server has neither its cursor nor its data
            if self.kind == lease.NO_RESPONSE:
                statement.failure = error
                self.packet = b""
                return
        self._reply(build_err(error.code, error.state or b"HY000", error.message))

    def refuse(self, text: str) -> None:
        """`answer_error` for what cannot be had here."""
        self.relay.stats.errors[(c.ER_NOT_SUPPORTED_YET, "proxy")] += 1
        self.answer_error(Err(c.ER_NOT_SUPPORTED_YET, b"42000", text.encode()))

    def fail(self, code: int, state: bytes, text: str) -> None:
        """End the command with an error of ours; the connection stays usable."""
        self.relay.stats.errors[(code, "proxy")] += 1
        self.fail_command(Err(code, state, text.encode()))

    def fail_command(self, error: Err) -> None:
        """End the command with the server's error."""
        self.answer_error(error)
        self._over()

    def _over(self) -> None:
        self.busy = False
        self.packet = b""
        self.statement = None
        self.go_on()

    def die(self, error: Err, at_boundary: bool) -> None:
        """End the connection, with an error where a packet can still be started."""
        if at_boundary and not self.closed:
            self.relay.stats.errors[(error.code, "proxy")] += 1
            self.transport.write(frame(build_err(error.code, error.state, error.message), self.reply_seq))
        self.close("error")

    def malformed(self, text: str, code: int) -> None:
        """The client sent what no client may send."""
        self.relay.count_malformed(self.address, text)
        state = b"08S01" if code == c.ER_NET_PACKETS_OUT_OF_ORDER else b"HY000"
        self.die(Err(code, state, text.encode()), True)

    # Session

    def add_pins(self, mask: int) -> None:
        """Pin the session."""
        new = mask & ~self.pins
        if not new:
            return
        if new & pins.SAVEPOINT and self.status & (c.SERVER_STATUS_AUTOCOMMIT | c.SERVER_STATUS_IN_TRANS):
            new &= ~pins.SAVEPOINT
        if new & pins.NEXT_TRANSACTION:
            self.one_shot_transaction = False
        self.pins |= new
        if new:
            self.relay.pinned(self, new)

    def drop_pins(self, mask: int) -> None:
        """What held the session is provably over."""
        self.pins &= ~mask

    def transaction_characteristics(self, text: bytes) -> None:
        """The tracker shows a pending SET TRANSACTION, and when it has been consumed (protocol.md C.4).

        SET autocommit = 1 in a READ ONLY transaction leaves one behind too.
        """
        if text.startswith(b"SET TRANSACTION"):
            self.add_pins(pins.NEXT_TRANSACTION)
            self.one_shot_transaction = True
        elif not text and self.one_shot_transaction:
            self.one_shot_transaction = False
            self.drop_pins(pins.NEXT_TRANSACTION)

    def transaction_state(self, text: bytes) -> None:
        """The tracker shows LOCK TABLES as its eighth character."""
        if text[7:8] == b"L":
            self.add_pins(pins.LOCK_TABLES)
        elif self.pins & pins.LOCK_TABLES:
            self.drop_pins(pins.LOCK_TABLES)

    # LOAD DATA LOCAL

    def begin_file(self, backend: Backend) -> None:
        """The server has asked for a file: what the client sends next is that file."""
        self.upload = backend
        self.file_left = 0
        self.file_more = False
        if self.paused and not backend.writing_paused:
            self.resume_upload()
        early, self.buffer = self.buffer, b""
        if early:
            self._file_data(early)

    def _file_data(self, data: bytes) -> None:
        """Pass file data on, up to and including the empty packet that ends it."""
        backend = self.upload
        assert backend is not None
        if self.buffer:
            data, self.buffer = self.buffer + data, b""
        shift = backend.reader.shift
        out = bytearray(data) if shift else None
        pos = min(self.file_left, len(data)) if self.file_left > 0 else 0
        self.file_left = max(0, self.file_left) - pos
        done = False
        while pos < len(data) and not self.file_left:
            if len(data) - pos < 4:
                self.buffer = data[pos:]
                break
            size = data[pos] | data[pos + 1] << 8 | data[pos + 2] << 16
            if out is not None:
                out[pos + 3] = (data[pos + 3] - shift) & 0xFF
            pos += 4
            ends, self.file_more = not (size or self.file_more), size == MAX_FRAME
            if ends:
                done = True
                self.buffer = data[pos:]
                break
            taken = min(size, len(data) - pos)
            pos += taken
            self.file_left = size - taken
        backend.transport.write(bytes(out[:pos]) if out is not None else data[:pos])
        if done:
            self.upload = None
            backend.reader.file_sent()

    def pause_upload(self) -> None:
        """The server takes no more for now."""
        if not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def resume_upload(self) -> None:
        """The server takes again."""
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    # Ends

    def close(self, reason: str) -> None:
        """Close the connection after what was written has been sent."""
        if not self.closed:
            self._forget(reason)
            self.transport.close()

    def eof_received(self) -> bool:
        """The client has closed."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self.slow:
            self.relay.stats.read_ahead_bytes -= self.read_ahead
            self.slow = False
            self.read_ahead = 0
        if not self.closed:
            self._forget("client_gone")

    def _forget(self, reason: str) -> None:
        self.closed = True
        self.buffer = b""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            self.relay.registry.cancel(waiter)
        backend = self.backend
        if backend is not None:
            lease.abandon(self, backend)
        self.upload = None
        self.relay.client_gone(self, reason)
