"""A connection that we opened to the server.

What arrives on it belongs, in this order, to: our own batch of commands, the response that a client awaits, or nobody.
Whatever belongs to nobody closes the backend (protocol.md E.2: an idle one is told of 4031 or a shutdown that way).

Its slot in the budget is freed only in `connection_lost`: when the server has closed its side, or when there is no
connection any more. Places (`slot`) are moved by the pool's registry alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from proxy.pool.budget import FREE
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError, frame
from proxy.wire.response import ResponseReader

from . import aftercare, lease, upload
from .connect import set_user_timeout
from .internal import Answer, Batch

if TYPE_CHECKING:
    from proxy.pool.pool import Pool
    from proxy.session.state import Settings

    from .client import Client
    from .prepared import Prepared
    from .relay import Relay

MAX_STATEMENTS = 200  # prepared statements kept on a backend; the server's limit is 16382 over all connections

_QUIT = frame(bytes((c.COM_QUIT,)))


class Backend(asyncio.Protocol):
    """One connection of a pool. The attributes up to `retire_at` are the pool's interface."""

    __slots__ = (
        "bare",
        "batch",
        "bound",
        "capabilities",
        "client",
        "close_reason",
        "counted_before",
        "idle_since",
        "insert_id",
        "killers",
        "last_client",
        "leased_since",
        "lost",
        "patient",
        "pool",
        "reader",
        "reading_paused",
        "relay",
        "retire_at",
        "running",
        "sent_at",
        "settings",
        "slot",
        "soft",
        "spoiled",
        "statements",
        "thread_id",
        "transport",
        "unresettable",
        "wait_timeout",
        "writing_paused",
    )

    def __init__(self, relay: Relay, pool: Pool, transport: asyncio.Transport, thread_id: int) -> None:
        self.relay = relay
        self.pool = pool
        self.capabilities = pool.key if isinstance(pool.key, int) else 0
        self.slot = FREE
        self.settings: Settings | None = None
        self.bare = True
        self.last_client: Client | None = None
        self.idle_since = self.leased_since = self.sent_at = 0.0
        self.wait_timeout = relay.profile.timeouts[b"wait_timeout"]
        self.retire_at = 0.0
        self.transport = transport
        self.thread_id = thread_id
        self.reader = ResponseReader()
        self.client: Client | None = None
        self.batch: Batch | None = None
        self.running = False
        self.soft = 0
        self.insert_id: int | None = 0  # what LAST_INSERT_ID() is here, None if only the server knows
        self.statements: dict[object, int] = {}
        self.bound: dict[int, bytes] = {}  # the parameter types last sent, by statement id
        self.close_reason = ""
        self.killers = 0  # KILLs on their way here: nobody else may get this backend before they have arrived
        self.patient = False
        self.lost = self.reading_paused = self.writing_paused = False
        self.unresettable = False  # a client that left may have left what no reset undoes
        # What the last client had counted (`Client.counted`) when FOUND_ROWS() here became that of something else.
        self.counted_before: Prepared | bytes | None = None
        self.spoiled = False  # ROW_COUNT() and FOUND_ROWS() here are not those of the last client's statement

    def __repr__(self) -> str:
        return f"<Backend {self.thread_id} slot={self.slot} running={self.running}>"

    @property
    def idle_limit(self) -> float:
        """How long it may be idle: the server ends it after `wait_timeout`, perhaps while a statement is on its way."""
        seconds = min(self.wait_timeout, self.relay.profile.timeouts[b"wait_timeout"])
        own = None if self.settings is None else self.settings.value(b"wait_timeout")
        if own is not None:
            seconds = float(own)
        return min(0.8 * seconds, seconds - 2.0)

    # What the server sends

    def data_received(self, data: bytes) -> None:
        """Pass a chunk of the running response on. Hot: nothing is awaited or created here."""
        if self.running:
            reader = self.reader
            try:
                out = reader.feed(data)
            except ProtocolError as exc:
                if not self.close_reason:  # else it answers to a file that ended in the middle, and closes
                    self.broken(f"protocol error: {exc}")
                return
            client = self.client
            if client is not None and out:
                client.forward(out)
            if reader.done:
                self.running = False
                if self.reading_paused:
                    self.resume_reading()  # the server has finished, whether or not the client has read it all
                if reader.extra:
                    self.broken("bytes behind the end of a response")
                else:
                    aftercare.finish(self, client)
            elif reader.local and (client is None or client.upload is None):
                upload.file_wanted(self, client)
            return
        self._own_data(data)

    def _own_data(self, data: bytes) -> None:
        batch = self.batch
        if batch is None:
            if not self.close_reason:
                self._last_words(data)
                self.close("unasked_data")
            return
        try:
            complete = batch.feed(data)
        except (ProtocolError, IndexError) as exc:
            self.broken(f"protocol error: {exc}")
            return
        if complete:
            self.batch = None
            batch.done(batch.answers)

    def _last_words(self, data: bytes) -> None:
        """Why the server ends it (4031): told to a client that holds it and is idle, as on a direct connection."""
        client = self.client
        if client is not None and not client.busy and len(data) > 6 and data[4] == 0xFF:
            self.relay.stats.errors[(data[5] | data[6] << 8, "server")] += 1
            client.forward(data)

    def eof_received(self) -> bool:
        """The server has closed: so do we, without waiting for what it has not read, and `connection_lost` follows."""
        self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The server is done with this connection."""
        answering = self.running or self.batch is not None
        self.lost = True
        self.running = False
        if isinstance(exc, TimeoutError):
            self.close_reason = self.close_reason or "timed_out"
            self.relay.health.failed(exc)
        self.relay.backend_lost(self, exc, answering)
        batch, self.batch = self.batch, None
        if batch is not None:
            batch.done(None)
        client, self.client = self.client, None
        if client is not None:
            lease.lost(self, client)

    def pause_writing(self) -> None:
        """The server takes no more: stop reading from the client that uploads."""
        self.writing_paused = True
        if self.client is not None:
            upload.pause(self.client)

    def resume_writing(self) -> None:
        """The server takes again."""
        self.writing_paused = False
        if self.client is not None:
            upload.resume(self.client)

    # What we send

    def send(self, data: bytes, kind: int, virtual_id: int = 0) -> None:
        """Send a client's command and await a response of `kind`."""
        self.reader.begin(kind, virtual_id)
        self.running = True
        self.sent_at = self.relay.clock()
        self.transport.write(data)

    def run_batch(self, commands: Sequence[bytes], done: Callable[[list[Answer] | None], None]) -> None:
        """Send our own commands in one write. `done` is called from the loop, never from inside this call."""
        assert self.batch is None, "one batch at a time"
        assert not self.running, "no batch while a response is awaited"
        self.batch = Batch(commands, done)
        self.transport.write(self.batch.encode())

    async def run(self, commands: Sequence[bytes]) -> list[Answer]:
        """Send our own commands and wait for the answers. Raises ConnectionError if the backend dies."""
        future: asyncio.Future[list[Answer] | None] = asyncio.get_running_loop().create_future()
        self.run_batch(commands, lambda answers: None if future.done() else future.set_result(answers))
        answers = await future
        if answers is None:
            raise ConnectionError("backend lost")
        return answers

    def remember_statement(self, key: object, statement_id: int) -> None:
        """Record a statement prepared here; the one it replaces, or the oldest, is closed."""
        old = self.statements.pop(key, 0)
        if not old and len(self.statements) >= MAX_STATEMENTS:
            shared = next((other for other in self.statements if isinstance(other, tuple)), None)
            old = self.statements.pop(shared, 0)  # one with a cursor or long data is in use
        self.statements[key] = statement_id
        if old:
            self.close_statement(old)

    def knows(self, statement: Prepared) -> bool:
        """Whether the statement is prepared here; one that nobody has executed yet becomes the asker's."""
        key = statement.key
        if key in self.statements:
            return True
        if statement.private or not statement.bound:
            return False
        fresh = self.statements.pop(statement.fresh_key, 0)
        if fresh:
            self.statements[key] = fresh
        return bool(fresh)

    def forget_statements(self) -> None:
        """A reset has closed them all."""
        self.statements.clear()
        self.bound.clear()

    def close_statement(self, statement_id: int) -> None:
        """COM_STMT_CLOSE: the server sends no answer."""
        self.bound.pop(statement_id, None)
        self.transport.write(frame(bytes((c.COM_STMT_CLOSE,)) + statement_id.to_bytes(4, "little")))

    def be_patient(self, yes: bool) -> None:
        """Whether the server may well read nothing for long, as it does while it takes in the rows of a file."""
        self.patient = yes
        set_user_timeout(self.transport, not yes)

    def pause_reading(self) -> None:
        """Stop reading the response: its client does not keep up."""
        if not self.reading_paused and not self.lost:
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read the response again."""
        if self.reading_paused:
            self.reading_paused = False
            if not self.lost:
                self.transport.resume_reading()

    # Ends

    def close(self, reason: str) -> None:
        """Say goodbye. The slot stays taken until the server has closed its side."""
        if self.close_reason or self.lost:
            return
        self.close_reason = reason
        self.resume_reading()
        self.relay.backend_closing(self)
        self.transport.write(_QUIT)

    def hang_up(self, reason: str) -> None:
        """End a command that cannot be completed: the server sees the end of our stream and gives up by itself."""
        if self.close_reason or self.lost:
            return
        self.close_reason = reason
        self.resume_reading()
        self.relay.backend_closing(self)
        self.transport.write_eof()

    def broken(self, reason: str) -> None:
        """The server spoke nonsense: nothing that comes from it means anything any more."""
        self.relay.log.warning("backend broken", thread_id=self.thread_id, reason=reason)
        self.close_reason = self.close_reason or "protocol_error"
        self.relay.backend_closing(self)
        self.transport.abort()
