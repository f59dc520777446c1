"""Our own commands on a backend: a batch written at once, its answers collected in order.

Used for what surrounds a client's statement (restore, capture, reset, read back), never for the statement itself.
Answers are kept whole: only commands whose answers are small may run here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.wire import constants as c
from proxy.wire.framing import PacketReader, ProtocolError, frame
from proxy.wire.packets import Err, Ok, parse_err, parse_ok, parse_row, read_lenenc_int


@dataclass(slots=True)
class Answer:
    """The answer to one command: `error`, or `ok` (an OK, or the OK that ends rows), `columns` and `rows` raw."""

    ok: Ok | None = None
    error: Err | None = None
    columns: list[bytes] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)
    statement_id: int = 0

    def values(self) -> list[list[bytes | None]]:
        """The rows, decoded."""
        return [parse_row(row) for row in self.rows]


class Batch:
    """Commands (payloads) sent in one write. `done(answers)` is called at the end, with None if the backend died."""

    __slots__ = ("_commands", "_left", "_phase", "_reader", "answers", "done")

    def __init__(self, commands: Sequence[bytes], done: Callable[[list[Answer] | None], None]) -> None:
        self._commands = commands
        self._reader = PacketReader(64 << 20, strict=False)
        self.answers: list[Answer] = [Answer()]
        self.done = done
        self._phase = "first"
        self._left = 0

    def encode(self) -> bytes:
        """The bytes of all commands."""
        return b"".join([frame(command) for command in self._commands])

    def feed(self, data: bytes) -> bool:
        """Take what the server sent; True when the last answer is complete. Raises ProtocolError."""
        self._reader.feed(data)
        while (payload := self._reader.next_packet()) is not None:
            if len(self.answers) > len(self._commands):
                raise ProtocolError("server sent a packet that nobody asked for", c.ER_MALFORMED_PACKET)
            if self._packet(payload):
                self._phase = "first"
                self.answers.append(Answer())
        if len(self.answers) <= len(self._commands):
            return False
        self.answers.pop()
        return True

    def _packet(self, payload: bytes) -> bool:
        """Take one packet; True when it ends the answer."""
        answer = self.answers[-1]
        if not payload:
            raise ProtocolError("empty packet from the server", c.ER_MALFORMED_PACKET)
        first = payload[0]
        if first == 0xFF:
            answer.error = parse_err(payload)
            return True
        if self._phase == "first":
            return self._first(payload, first, answer)
        if self._phase == "skip":
            self._left -= 1
            return not self._left
        if self._phase == "columns":
            answer.columns.append(payload)
            self._left -= 1
            if not self._left:
                self._phase = "rows"
            return False
        if first == 0xFE:
            answer.ok = parse_ok(payload)
            return True
        answer.rows.append(payload)
        return False

    def _first(self, payload: bytes, first: int, answer: Answer) -> bool:
        if self._commands[len(self.answers) - 1][0] == c.COM_STMT_PREPARE:
            answer.statement_id = int.from_bytes(payload[1:5], "little")
            self._left = int.from_bytes(payload[5:7], "little") + int.from_bytes(payload[7:9], "little")
            self._phase = "skip"
            return not self._left
        if self._commands[len(self.answers) - 1][0] == c.COM_STATISTICS:
            return True
        if first in (0x00, 0xFE):
            answer.ok = parse_ok(payload)
            return not answer.ok.status & c.SERVER_MORE_RESULTS
        if first == 0xFB:
            raise ProtocolError("server asked for a file that nobody offered", c.ER_MALFORMED_PACKET)
        self._left, _ = read_lenenc_int(payload, 0)
        self._phase = "columns"
        return False
