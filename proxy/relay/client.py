"""A connection that an application opened to us, after its login: commands in, answers out.

One command at a time (`busy`); what a client sends ahead waits in `buffer`, and is not read further than the limit.
Everything between a complete command and the end of its lease is plain calls: see `lease` for that life. COM_QUERY and
COM_STMT_EXECUTE are here, the other commands in `commands`, what is larger than a command in `upload`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.pool.queue import Failure, FailureKind, Waiter
from proxy.session import pins
from proxy.session.lexer import ANSI_QUOTES, NO_BACKSLASH_ESCAPES
from proxy.session.verdict import KILL_CONNECTION
from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME, frame
from proxy.wire.packets import Err, build_err
from proxy.wire.response import NO_RESPONSE, QUERY

from . import answers, commands, lease, release, set_names, soft, upload
from .commands import PLAIN
from .prepared import Prepared, end_private, join_frames
from .stream import CUT_SHORT

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.pool.pool import Pool
    from proxy.session.holds import Held
    from proxy.session.state import Settings
    from proxy.session.verdict import Verdict

    from .backend import Backend
    from .doubt import Doubt
    from .internal import Answer
    from .relay import Relay
    from .statements import Totals


# From here on the transport's buffer counts as read-ahead.
WRITE_HIGH, WRITE_LOW = 64 * 1024, 16 * 1024

_QUERY_HEAD, _EXECUTE_HEAD = bytes((0, c.COM_QUERY)), bytes((0, c.COM_STMT_EXECUTE))  # sequence id and command
_STATEMENT_HEADS = (_QUERY_HEAD, _EXECUTE_HEAD)
_LEX_FLAGS = c.SERVER_STATUS_NO_BACKSLASH_ESCAPES | c.SERVER_STATUS_ANSI_QUOTES


class Client(asyncio.Protocol):
    """A logged-in client and its session."""

    __slots__ = (
        "address",
        "backend",
        "bound_name",
        "buffer",
        "busy",
        "capabilities",
        "capturing",
        "closed",
        "connected_at",
        "counted",
        "deprecate_eof",
        "diagnostics",
        "doubt",
        "file_left",
        "file_more",
        "found_rows",
        "has_diagnostics",
        "held",
        "ident",
        "idle_since",
        "initial_settings",
        "insert_id",
        "insert_id_backend",
        "kind",
        "large",
        "last",
        "last_prepared",
        "libmariadb",
        "looping",
        "next_statement_id",
        "noted",
        "noted_for",
        "one_shot_transaction",
        "packet",
        "paused",
        "pins",
        "pool",
        "prepared_texts",
        "prepared_verdict",
        "preparing",
        "program",
        "read_ahead",
        "relay",
        "reply_seq",
        "rested_at",
        "resume",
        "row_count",
        "said",
        "sent",
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
        "waited",
        "waited_for",
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
        self.status = relay.profile.status & c.SESSION_FLAGS
        self.address = self.program = ""
        self.libmariadb = False
        self.user = pool.account.name
        self.connected_at = self.idle_since = relay.clock()
        self.rested_at = self.connected_at  # when it last gave a backend back; only for its first few commands
        self.said: Prepared | bytes = b""  # the last command sent to the server, or its beginning
        self.sent = 0  # how many were
        self.waited = 0.0  # seconds in the queue, for the one of this number
        self.waited_for = 0
        self.noted: tuple[Totals, int] | None = None  # what the one of this number was counted in, and its weight
        self.noted_for = 0
        self.backend: Backend | None = None
        self.last: Backend | None = None
        self.waiter: Waiter | None = None
        self.busy = self.closed = self.looping = self.paused = self.slow = False
        self.buffer = b""
        self.packet = b""
        self.verdict: Verdict = PLAIN
        self.kind = QUERY
        self.tries = 0
        self.reply_seq = 1
        self.pins = 0
        self.held: Held | None = None  # what the pins stand for, by name
        self.bound_name: bytes | None = None  # the first parameter of the execution that runs, where it is a name
        self.prepared_texts: dict[bytes, Verdict] | None = None  # on what SQL's own PREPARE has prepared
        self.one_shot_transaction = False
        self.statement: Prepared | None = None
        self.statements: dict[int, Prepared] | None = None
        self.next_statement_id = 1
        self.last_prepared = 0  # what MariaDB's statement id -1 means
        self.preparing = b""
        self.prepared_verdict: Verdict = PLAIN
        self.insert_id = 0
        self.insert_id_backend: Backend | None = None
        self.has_diagnostics = False
        self.diagnostics: Answer | None = None
        self.doubt: Doubt | None = None
        self.capturing = 0
        self.resume: Callable[[], None] | None = None
        self.row_count = 0
        self.found_rows = 0
        self.counted: Prepared | bytes = b""  # the command whose rows `found_rows` is the number of
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
            upload.file_data(self, data)
            return
        if self.large is not None:
            upload.large_data(self, data)
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
                upload.begin_large(self)
                continue
            if have < 4 + size:
                break
            if have == 4 + size:
                self.buffer = b""
            else:
                self.buffer = data[4 + size :]
                data = data[: 4 + size]
            self.command(data)
        self.looping = False
        if self.paused and not self.busy and not self.closed and not behind:
            self.paused = False
            self.transport.resume_reading()

    def command(self, packet: bytes, reply_seq: int = 1) -> None:
        """Run one whole command. Hot: COM_QUERY goes straight to `lease.start`."""
        self.reply_seq = reply_seq
        if len(packet) == 4:
            self.reply_error(c.ER_UNKNOWN_COMMAND, b"08S01", "Unknown command")
            return
        if packet[3]:
            self.malformed("Got packets out of order", c.ER_NET_PACKETS_OUT_OF_ORDER)
            return
        command = packet[4]
        self.relay.stats.commands[command] += 1
        self.packet = packet
        if command == c.COM_QUERY:
            self._query(self.text(packet))
        elif command == c.COM_STMT_EXECUTE:
            self._execute(packet)
        else:
            commands.run(self, command, packet)

    def _query(self, text: bytes) -> None:
        if not self.sent and set_names.answered(self, text):
            self.over()
            return
        mode = self.lex_mode() if self.status & _LEX_FLAGS else self.settings.mode
        verdict = self.relay.classifier.classify(text, mode)
        if verdict.local >= KILL_CONNECTION:
            commands.special(self, verdict)
            return
        if verdict.local and self.backend is None and not self.capturing:
            last = self.last
            if last is None or not soft.at_hand(self, last, verdict.needs):
                self.verdict = verdict
                self.statement = None
                if soft.lists_nothing(self):
                    self.run(self.verdict, QUERY)
                    return
                soft.answer(self)
                self.over()
                return
        self.run(verdict, QUERY)

    def run(self, verdict: Verdict, kind: int, statement: Prepared | None = None) -> None:
        self.verdict = verdict
        self.kind = kind
        self.statement = statement
        self.tries = 0
        self.busy = True
        lease.start(self)

    def text(self, packet: bytes) -> bytes:
        size = packet[0] | packet[1] << 8 | packet[2] << 16
        return packet[5:] if size < MAX_FRAME else join_frames(packet)[1:]

    def lex_mode(self) -> int:
        status = self.status
        mode = self.settings.mode
        if status & c.SERVER_STATUS_NO_BACKSLASH_ESCAPES:
            mode |= NO_BACKSLASH_ESCAPES
        if status & c.SERVER_STATUS_ANSI_QUOTES:
            mode |= ANSI_QUOTES
        return mode

    def remember_statement(self, statement: Prepared) -> None:
        """A statement was prepared."""
        if self.statements is None:
            self.statements = {}
        self.statements[statement.virtual_id] = statement
        self.last_prepared = statement.virtual_id
        self.next_statement_id += 1

    def _execute(self, packet: bytes) -> None:
        statement = self.statements.get(int.from_bytes(packet[5:9], "little")) if self.statements else None
        if statement is None or len(packet) < 14:
            statement = commands.find_statement(self, packet, "mysqld_stmt_execute", 9)
            if statement is None:
                return
        if statement.failure is not None:
            commands.fail_execution(self, statement)
            return
        if statement.cursor and not packet[9] and not statement.long_data:
            # MySQL takes no execution without a cursor behind one with it: its answer would have no rows and no end.
            end_private(self, statement, self.backend)
        if packet[9]:
            statement.cursor = True  # it belongs to this client alone, so its statement must not be shared
        if statement.n_params and len(packet) > statement.flag_at and packet[statement.flag_at]:
            statement.bind(packet, mysql=not self.relay.profile.mariadb)
        self.run(statement.verdict, QUERY, statement)

    # Waiting

    def granted(self, backend: Backend) -> None:
        """The queue has a backend for us."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            self.waited = backend.leased_since - waiter.enqueued_at
            self.waited_for = self.sent + 1
        self.backend = backend
        backend.client = self
        if self.kind == lease.RESERVE:
            upload.reserved(self)
        else:
            lease.ready(self, backend)

    def wait_failed(self, failure: Failure) -> None:
        """The wait is over without a backend."""
        waiter, self.waiter = self.waiter, None
        assert waiter is not None
        if failure.kind is FailureKind.DRAIN:
            self.refuse_shutdown()
            return
        code, state, text = self.relay.describe_failure(failure, waiter.enqueued_at)
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
            self.relay.unread.add(self)

    def reply(self, payload: bytes) -> None:
        self.transport.write(frame(payload, self.reply_seq))
        self.packet = b""

    def reply_error(self, code: int, state: bytes, text: str) -> None:
        self.relay.stats.errors[(code, "proxy")] += 1
        self.reply(build_err(code, state, text))

    def answer_error(self, error: Err) -> None:
        """Answer the command with an error; it is over as soon as the caller says so."""
        statement = self.statement
        if statement is not None and statement.private:
            backend = self.backend
            if backend is None or statement not in backend.statements:
                end_private(self, statement, None)  # the server has neither its cursor nor its data
            if self.kind == NO_RESPONSE:
                statement.failure = error
                self.packet = b""
                return
        self.reply(answers.error(error, to_libmariadb=self.libmariadb))

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
        self.over()

    def over(self) -> None:
        self.busy = False
        self.packet = b""
        self.statement = None
        self.go_on()

    def die(self, error: Err, at_boundary: bool) -> None:
        """End the connection, with an error where a packet can still be started."""
        if at_boundary and not self.closed:
            self.relay.stats.errors[(error.code, "proxy")] += 1
            self.transport.write(frame(answers.error(error, to_libmariadb=self.libmariadb), self.reply_seq))
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
        if self.held is not None:
            self.held.nothing(mask)

    # Ends

    def close(self, reason: str) -> None:
        """Close the connection after what was written has been sent."""
        if not self.closed:
            self.forget(reason)
            self.transport.close()
            self.relay.unread.add(self)

    def cut(self, reason: str) -> None:
        """Close the connection at once: nobody reads what was written."""
        if not self.closed:
            self.forget(reason)
        self.transport.abort()

    def eof_received(self) -> bool:
        """The client has closed."""
        if self.buffer and not self.busy:
            self.relay.count_malformed(self.address, CUT_SHORT)
        self.cut("client_gone")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.relay.unread.discard(self)
        if self.slow:
            self.relay.stats.read_ahead_bytes -= self.read_ahead
            self.slow = False
            self.read_ahead = 0
        if not self.closed:
            self.forget("client_gone")

    def forget(self, reason: str) -> None:
        self.closed = True
        self.buffer = b""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            self.relay.registry.cancel(waiter)
        backend = self.backend
        if backend is not None:
            release.abandon(self, backend)
        self.upload = None
        self.relay.client_gone(self, reason)
