"""What a server sends, packet by packet, so that two connections can be compared to the byte.

`Witness` is a raw client that writes down every packet it reads behind its login. `same` runs a scenario on a new
connection to the server and on one through the pooler, and compares what was written down: columns, rows, flags,
warnings, error texts, everything but

* the number a server gives to a statement: what is compared is which of the connection's statements it means;
* flags that an EOF between columns and rows has because the server knows by then how the statement ends
  (NO_INDEX_USED, MORE_RESULTS outside CALL), and IN_TRANS if this text began the transaction;
* MySQL's trackers of a transaction's state, which the pooler does not pass on, and the bit that says there are
  trackers in an EOF, which has no room for any (MariaDB);
* MySQL's count of warnings in answers to commands that are no statements.

Sequence ids are checked by the client itself.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest

from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME, frame
from proxy.wire.packets import build_eof, build_ok, encode_tracker, iter_trackers, parse_ok
from tests.conftest import Proxy
from tests.live.raw import Raw, Result, Statement, Target
from tests.servers import Server

_KNOWN_EARLY = c.SERVER_STATUS_AUTOCOMMIT | c.SERVER_STATUS_CURSOR_EXISTS | c.SERVER_PS_OUT_PARAMS
_SHOWN = 200  # bytes of a packet that are kept as they are; of a longer one its hash stands for it
_IN_PARENTHESES = re.compile(rb"\((\d+)\)")

Packet = bytes | str
Scenario = Callable[["Witness"], Any]


class Witness(Raw):
    """A raw client that remembers what it was sent, and sends `file` where the server asks for one."""

    def __init__(self, target: Target, *args: Any, **options: Any) -> None:
        self.seen: list[Packet] = []
        self.file: tuple[bytes, ...] = ()
        self._numbers: dict[int, int] = {}
        self._out_parameters = False
        super().__init__(target, *args, **options)
        self.seen.clear()

    def note(self, what: object) -> None:
        """Something else that has to be the same."""
        self.seen.append(repr(what))

    def read_packet(self) -> bytes:
        packet = super().read_packet()
        self.seen.append(self._shown(packet))
        return packet

    def _shown(self, packet: bytes) -> Packet:
        if packet[:1] == b"\xff":
            return _IN_PARENTHESES.sub(lambda found: b"(#%d)" % self._number(int(found[1])), packet)
        if len(packet) <= _SHOWN:
            return packet
        return f"{packet[:40]!r} … {len(packet)} bytes {hashlib.sha256(packet).hexdigest()}"

    def _number(self, ident: int) -> int:
        return self._numbers.setdefault(ident, len(self._numbers) + 1)

    def prepared(self) -> Statement:
        at = len(self.seen)
        statement = super().prepared()
        head = self.seen[at]
        assert isinstance(head, bytes)
        self.seen[at] = b"prepared #%d " % self._number(statement.ident) + head[5:]
        return statement

    def _ok(self, packet: bytes) -> Result:
        result = super()._ok(packet)
        if self.seen:
            self.seen[-1] = _without_transaction_state(packet)
        return result

    def _middle(self, packet: bytes) -> Result:
        result = super()._middle(packet)
        self.seen[-1] = build_eof(0, result.status & _KNOWN_EARLY)
        self._out_parameters = bool(result.status & c.SERVER_PS_OUT_PARAMS)
        return result

    def _end(self, packet: bytes) -> Result:
        result = super()._end(packet)
        if not self.deprecate_eof:
            self.seen[-1] = build_eof(result.warnings, result.status & ~c.SERVER_SESSION_STATE_CHANGED)
        return result

    def ping(self) -> Result:
        result = super().ping()
        self.seen[-1] = f"pong {result.status}"
        return result

    def set_option(self, value: int, more: bytes = b"") -> Result:
        """COM_SET_OPTION, with more bytes behind it."""
        (result,) = self.command(b"\x1b" + value.to_bytes(2, "little") + more)
        if result.error is None:
            self.seen[-1] = f"set {result.status}"
        return result

    def call(self, payload: bytes) -> None:
        """COM_STMT_EXECUTE of a CALL.

        To clients without DEPRECATE_EOF MySQL does not say behind the row of the OUT parameters that an OK follows;
        the pooler does.
        """
        self.send(payload)
        self.expect_answer()
        while True:
            self._out_parameters = False
            result = self._result(True)
            if self._out_parameters:
                self.seen[-1] = "end of OUT parameters"
            elif result.error is not None or not result.status & c.SERVER_MORE_RESULTS:
                return

    def _result(self, binary: bool) -> Result:
        result = super()._result(binary)
        while result.wants_file:
            self.send_file(*self.file)
            result = super()._result(binary)
        return result

    def send_file(self, *chunks: bytes) -> None:
        """The data of LOAD DATA LOCAL, each chunk a packet, and the empty packet behind them."""
        seq = self.next_seq
        data = b""
        for chunk in (*chunks, b""):
            data += frame(chunk, seq)
            seq += 1 + len(chunk) // MAX_FRAME
        self.next_seq = seq
        self.sock.sendall(data)


def _without_transaction_state(packet: bytes) -> bytes:
    ok = parse_ok(packet)
    if not ok.trackers:
        return packet
    kept = [entry for entry in iter_trackers(ok.trackers) if entry[0] != c.TRACK_TRANSACTION_STATE]
    trackers = b"".join(encode_tracker(*entry) for entry in kept)
    return build_ok(ok.affected_rows, ok.last_insert_id, ok.status, ok.warnings, ok.info, trackers, header=packet[0])


def transcript(target: Target, scenario: Scenario, **options: Any) -> list[Packet]:
    """What a new connection sees in the scenario, and that it can still be used."""
    with Witness(target, **options) as client:
        scenario(client)
        client.note(("still usable", client.get("SELECT 40 + 2")))
        client.quit()
        return client.seen


def same(direct: Target, pooled: Target, scenario: Scenario, **options: Any) -> None:
    """Assert that both transcripts are equal."""
    expected, seen = (transcript(target, scenario, **options) for target in (direct, pooled))
    lines = difflib.unified_diff(list(map(repr, expected)), list(map(repr, seen)), "direct", "pooled", n=2, lineterm="")
    assert seen == expected, "\n".join(lines)


both_dialects = pytest.mark.parametrize("deprecate_eof", [True, False], ids=["deprecate_eof", "eof"])


class Both:
    """A server and a pooler before it, with the tables and programs that scenarios use."""

    DATABASE, OTHER = "commands", "commands_two"
    ACCOUNT = ("commands", "commands-secret")
    SCHEMA = (
        f"CREATE DATABASE {DATABASE}",
        f"CREATE DATABASE {OTHER}",
        f"CREATE USER {ACCOUNT[0]}@'%' IDENTIFIED BY '{ACCOUNT[1]}'",
        f"GRANT ALL ON *.* TO {ACCOUNT[0]}@'%'",
        f"USE {DATABASE}",
        "CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(20)) ENGINE=InnoDB",
        "INSERT INTO t VALUES (1, 'one'), (2, NULL), (3, 'three')",
        "CREATE PROCEDURE rows_and_out(IN i INT, OUT o INT, INOUT io INT) "
        "BEGIN SELECT i AS a, i + 1 AS b; SET o = i * 2; SET io = io + i; SELECT 'last'; END",
        "CREATE PROCEDURE only_out(OUT o INT, OUT p VARCHAR(20)) BEGIN SET o = 42; SET p = 'text'; END",
        "CREATE PROCEDURE one_row_and_more() "
        "BEGIN SELECT 1; SELECT id FROM t ORDER BY id; SELECT 1 FROM t WHERE id < 0; END",
        "CREATE PROCEDURE fails() BEGIN SELECT 1; SELECT * FROM nowhere; END",
    )

    def __init__(self, server: Server, pooler: Proxy) -> None:
        self.server = server
        self.pooler = pooler
        server.execute(*self.SCHEMA)

    def remove(self) -> None:
        """Leave the server as it was."""
        user = f"DROP USER {self.ACCOUNT[0]}@'%'"
        self.server.execute(f"DROP DATABASE {self.DATABASE}", f"DROP DATABASE {self.OTHER}", user)

    def compare(self, scenario: Scenario, **options: Any) -> None:
        """`same`, and nothing is left of it."""
        user, password = self.ACCOUNT
        same(self.server, self.pooler, scenario, user=user, password=password, database=self.DATABASE, **options)
        self.pooler.wait_for_metric('mybouncer_backends{state="leased"}', 0)

    def connect(self, target: Target, **options: Any) -> Raw:
        """A connection to one of them."""
        return Raw(target, *self.ACCOUNT, self.DATABASE, timeout=10.0, **options)
