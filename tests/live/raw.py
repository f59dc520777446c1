"""A MySQL client on a bare socket: every capability, command and byte order is the test's choice.

Strict where drivers are not: sequence ids must follow on each other, and an answer must end where it says it ends.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import Protocol, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME, PacketReader, frame
from proxy.wire.packets import (
    Err,
    Greeting,
    HandshakeResponse,
    iter_trackers,
    parse_auth_switch,
    parse_err,
    parse_ok,
    parse_row,
    read_lenenc_int,
    ssl_request,
)
from tests.live.payloads import READ_ONLY_CURSOR as READ_ONLY_CURSOR
from tests.live.payloads import Statement as Statement
from tests.live.payloads import Value, as_bytes, binary_row, column_of
from tests.live.payloads import execute_long_payload as execute_long_payload
from tests.live.payloads import execute_payload as execute_payload

CAPABILITIES = (
    c.CLIENT_LONG_PASSWORD
    | c.CLIENT_LONG_FLAG
    | c.CLIENT_PROTOCOL_41
    | c.CLIENT_SECURE_CONNECTION
    | c.CLIENT_TRANSACTIONS
    | c.CLIENT_PLUGIN_AUTH
    | c.CLIENT_PLUGIN_AUTH_LENENC
    | c.CLIENT_LOCAL_FILES
    | c.CLIENT_MULTI_STATEMENTS
    | c.CLIENT_MULTI_RESULTS
    | c.CLIENT_PS_MULTI_RESULTS
    | c.CLIENT_SESSION_TRACK
    | c.CLIENT_DEPRECATE_EOF
)


class Target(Protocol):
    """Something that listens: a server of the tests or the pooler."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class ServerError(Exception):
    """The answer was an ERR that the test did not ask for."""

    def __init__(self, err: Err) -> None:
        super().__init__(f"{err.code} ({err.state.decode()}): {err.message.decode('utf-8', 'replace')}")
        self.err = err


@dataclass
class Result:
    """One answer: an OK, an ERR, or rows and what ended them."""

    rows: list[list[Value]] = field(default_factory=list)
    columns: list[bytes] = field(default_factory=list)  # their definitions as sent
    error: Err | None = None
    status: int = 0
    warnings: int = 0
    affected: int = 0
    insert_id: int = 0
    info: bytes = b""
    trackers: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    has_rows: bool = False
    wants_file: bool = False  # LOAD DATA LOCAL: the answer goes on when the file has been sent

    @property
    def code(self) -> int:
        """The error's code, 0 without one."""
        return self.error.code if self.error is not None else 0

    @property
    def value(self) -> Value:
        """The first column of the only row."""
        assert self.error is None, self.error
        assert len(self.rows) == 1, self.rows
        return self.rows[0][0]

    @property
    def names(self) -> list[bytes]:
        """The names of the columns."""
        return [column_of(definition)[0] for definition in self.columns]


class Raw:
    """One connection. Answers are read only when asked for, so that commands can be sent ahead."""

    def __init__(
        self,
        target: Target,
        user: str = "app",
        password: str = "app-secret",
        database: str | None = None,
        *,
        deprecate_eof: bool = True,
        session_track: bool = True,
        add: int = 0,
        without: int = 0,
        timeout: float = 20.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.sock = self._connect(target, timeout)
        self._tls = tls
        self._reader = PacketReader(1 << 30)
        try:
            self._log_in(
                user.encode(),
                password.encode(),
                database.encode() if database is not None else None,
                (CAPABILITIES | add)
                & ~without
                & ~(0 if deprecate_eof else c.CLIENT_DEPRECATE_EOF)
                & ~(0 if session_track else c.CLIENT_SESSION_TRACK),
            )
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self, target: Target, timeout: float) -> socket.socket:
        sock = socket.create_connection((target.host, target.port), timeout=timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _log_in(self, user: bytes, password: bytes, database: bytes | None, wanted: int) -> None:
        first = self.read_packet()
        if first[0] == 0xFF:
            raise ServerError(parse_err(first))
        self.greeting = greeting = Greeting.parse(first)
        if database is not None:
            wanted |= c.CLIENT_CONNECT_WITH_DB
        self.capabilities = wanted & greeting.capabilities
        self.deprecate_eof = bool(self.capabilities & c.CLIENT_DEPRECATE_EOF)
        if self._tls is not None:
            self.capabilities |= c.CLIENT_SSL
            self._reply(ssl_request(self.capabilities, 45))
            self.sock = self._tls.wrap_socket(self.sock)
        nonce, plugin = greeting.nonce, greeting.plugin
        response = HandshakeResponse(
            self.capabilities, 45, user, _scramble(plugin, password, nonce), database, plugin
        ).encode()
        self._reply(response)
        while True:
            packet = self.read_packet()
            if packet[0] == 0x00:
                self.login = self._ok(packet)
                return
            if packet[0] == 0xFF:
                raise ServerError(parse_err(packet))
            if packet[0] == 0xFE:
                plugin, nonce = parse_auth_switch(packet)
                self._reply(_scramble(plugin, password, nonce))
            elif packet == b"\x01\x04" and self._tls is not None:
                self._reply(password + b"\0")
            elif packet == b"\x01\x04":
                self._reply(b"\x02")
                key = load_pem_public_key(self.read_packet()[1:])
                assert isinstance(key, rsa.RSAPublicKey)
                oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
                self._reply(key.encrypt(auth.xor_nonce(password + b"\0", nonce), oaep))
            else:
                assert packet == b"\x01\x03", packet

    def _reply(self, payload: bytes) -> None:
        seq = self._reader.expect
        self.sock.sendall(frame(payload, seq))
        self._reader.expect = (seq + 1) & 0xFF

    # Packets

    @property
    def ident(self) -> int:
        """The connection id of the greeting."""
        return self.greeting.thread_id

    def read_packet(self) -> bytes:
        """The next payload. Raises EOFError at the end of the connection."""
        while (packet := self._reader.next_packet()) is None:
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError("connection closed by the server")
            self._reader.feed(data)
        return packet

    def send(self, payload: bytes) -> None:
        """Send a command and read nothing."""
        self.sock.sendall(frame(payload))

    def send_query(self, sql: str | bytes) -> None:
        """Send a COM_QUERY and read nothing."""
        self.send(b"\x03" + as_bytes(sql))

    def has_answer(self, seconds: float = 0.0) -> bool:
        """Whether something has arrived (or the connection has ended) within so many seconds."""
        return bool(select.select([self.sock], [], [], seconds)[0])

    def at_end(self) -> bool:
        """Read up to the end of the connection: True if nothing came before it."""
        try:
            return not self.sock.recv(1 << 16)
        except ConnectionResetError:
            return True

    @property
    def next_seq(self) -> int:
        """The sequence id of the next packet, whoever sends it."""
        return self._reader.expect

    @next_seq.setter
    def next_seq(self, seq: int) -> None:
        self._reader.expect = seq & 0xFF

    def expect_answer(self, frames: int = 1) -> None:
        """The next answer belongs to a command of so many frames."""
        self._reader.expect = frames & 0xFF

    # Answers

    def results(self, *, binary: bool = False) -> list[Result]:
        """The answer to a command: one result, or several of them."""
        found = []
        while True:
            result = self._result(binary)
            found.append(result)
            assert not result.wants_file, "the server wants a file"
            if result.error is not None or not result.status & c.SERVER_MORE_RESULTS:
                return found

    def _ok(self, packet: bytes) -> Result:
        ok = parse_ok(packet)
        return Result(
            status=ok.status,
            warnings=ok.warnings,
            affected=ok.affected_rows,
            insert_id=ok.last_insert_id,
            info=ok.info,
            trackers=list(iter_trackers(ok.trackers)),
        )

    def _end(self, packet: bytes) -> Result:
        """What ends rows: an EOF, or an OK in its place."""
        if self.deprecate_eof:
            return self._ok(packet)
        assert len(packet) == 5, packet
        return Result(warnings=packet[1] | packet[2] << 8, status=packet[3] | packet[4] << 8)

    def _middle(self, packet: bytes) -> Result:
        """The EOF between columns and rows."""
        return self._end(packet)

    def _is_end(self, packet: bytes) -> bool:
        return packet[0] == 0xFE and (len(packet) < MAX_FRAME if self.deprecate_eof else len(packet) < 9)

    def _result(self, binary: bool) -> Result:
        packet = self.read_packet()
        if packet[0] == 0xFF:
            return Result(error=parse_err(packet))
        if packet[0] == 0x00:
            return self._ok(packet)
        if self._is_end(packet):
            return self._end(packet)
        if packet[0] == 0xFB:
            return Result(wants_file=True)
        count, _ = read_lenenc_int(packet, 0)
        columns = [self.read_packet() for _ in range(count)]
        if not self.deprecate_eof:
            eof = self.read_packet()
            assert self._is_end(eof), eof
            early = self._middle(eof)
            if early.status & c.SERVER_STATUS_CURSOR_EXISTS:
                early.columns, early.has_rows = columns, True
                return early
        return self._rows(columns, binary)

    def _rows(self, columns: list[bytes], binary: bool) -> Result:
        rows: list[list[Value]] = []
        while True:
            packet = self.read_packet()
            if packet[0] == 0xFF:
                return Result(rows, columns, error=parse_err(packet), has_rows=True)
            if self._is_end(packet):
                result = self._end(packet)
                result.rows, result.columns, result.has_rows = rows, columns, True
                return result
            rows.append(binary_row(packet, columns) if binary else list(parse_row(packet)))

    # Commands

    def command(self, payload: bytes, *, binary: bool = False) -> list[Result]:
        """Run one command."""
        self.send(payload)
        self.expect_answer(len(payload) // MAX_FRAME + 1)
        return self.results(binary=binary)

    def query(self, sql: str | bytes) -> Result:
        """COM_QUERY; the last result, an error is not raised."""
        return self.command(b"\x03" + as_bytes(sql))[-1]

    def queries(self, sql: str | bytes) -> list[Result]:
        """COM_QUERY with all its results."""
        return self.command(b"\x03" + as_bytes(sql))

    def ok(self, sql: str | bytes) -> Result:
        """COM_QUERY that must not fail."""
        result = self.query(sql)
        if result.error is not None:
            raise ServerError(result.error)
        return result

    def get(self, sql: str | bytes) -> Value:
        """COM_QUERY for one value."""
        return self.ok(sql).value

    def answer(self) -> Result:
        """The last result of a command that was sent before."""
        self.expect_answer()
        return self.results()[-1]

    def prepare(self, sql: str | bytes) -> Statement:
        """COM_STMT_PREPARE; raises ServerError."""
        self.send(b"\x16" + as_bytes(sql))
        self.expect_answer()
        return self.prepared()

    def prepared(self) -> Statement:
        """The answer to COM_STMT_PREPARE; raises ServerError."""
        packet = self.read_packet()
        if packet[0] == 0xFF:
            raise ServerError(parse_err(packet))
        ident, columns, params = struct.unpack("<IHH", packet[1:9])
        for group in (params, columns):
            for _ in range(group):
                self.read_packet()
            if group and not self.deprecate_eof:
                assert self._is_end(self.read_packet())
        return Statement(ident, params, columns)

    def execute(
        self, statement: Statement, *values: str | bytes | int | None, types: bool = True, cursor: int = 0
    ) -> Result:
        """COM_STMT_EXECUTE; without `types` the ones of the execution before count."""
        self.send(execute_payload(statement, values, types=types, cursor=cursor))
        self.expect_answer()
        return self.results(binary=True)[-1]

    def long_data(self, statement: Statement, param: int, data: bytes) -> None:
        """COM_STMT_SEND_LONG_DATA, which has no answer."""
        self.send(b"\x18" + struct.pack("<IH", statement.ident, param) + data)

    def fetch(self, statement: Statement, count: int, columns: list[bytes]) -> Result:
        """COM_STMT_FETCH of rows with these column definitions."""
        self.send(b"\x1c" + struct.pack("<II", statement.ident, count))
        self.expect_answer()
        return self._rows(columns, True)

    def close_statement(self, statement: Statement) -> None:
        """COM_STMT_CLOSE, which has no answer."""
        self.send(b"\x19" + struct.pack("<I", statement.ident))

    def reset_statement(self, statement: Statement) -> Result:
        """COM_STMT_RESET."""
        return self.command(b"\x1a" + struct.pack("<I", statement.ident))[-1]

    def reset(self) -> Result:
        """COM_RESET_CONNECTION."""
        return self.command(b"\x1f")[-1]

    def ping(self) -> Result:
        """COM_PING."""
        return self.command(b"\x0e")[-1]

    def set_option(self, value: int) -> Result:
        """COM_SET_OPTION: 0 turns multi-statements on, 1 off."""
        return self.command(b"\x1b" + struct.pack("<H", value))[-1]

    def init_db(self, name: str) -> Result:
        """COM_INIT_DB."""
        return self.command(b"\x02" + name.encode())[-1]

    def field_list(self, table: str) -> Result:
        """COM_FIELD_LIST: the definitions come as rows, raw."""
        self.send(b"\x04" + table.encode() + b"\0")
        self.expect_answer()
        return self.fields()

    def fields(self) -> Result:
        """The answer to COM_FIELD_LIST."""
        found: list[bytes] = []
        while True:
            packet = self.read_packet()
            if packet[0] == 0xFF:
                return Result(error=parse_err(packet))
            if self._is_end(packet):
                result = self._end(packet)
                result.columns = found
                return result
            found.append(packet)

    def statistics(self) -> bytes:
        """COM_STATISTICS: a bare string."""
        self.send(b"\x09")
        self.expect_answer()
        return self.read_packet()

    def change_user(self, user: str, password: str, database: str = "") -> Result:
        """COM_CHANGE_USER, up to its OK or ERR."""
        payload = b"\x11" + user.encode() + b"\0\0" + database.encode() + b"\0" + struct.pack("<H", 45)
        self.send(payload + c.CACHING_SHA2_PASSWORD + b"\0")
        self.expect_answer()
        nonce = b""
        while True:
            packet = self.read_packet()
            if packet[0] == 0x00:
                return self._ok(packet)
            if packet[0] == 0xFF:
                return Result(error=parse_err(packet))
            if packet[0] == 0xFE:
                plugin, nonce = parse_auth_switch(packet)
                self._reply(_scramble(plugin, password.encode(), nonce))
            elif packet == b"\x01\x04":
                self._reply(b"\x02")
                key = load_pem_public_key(self.read_packet()[1:])
                assert isinstance(key, rsa.RSAPublicKey)
                oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
                self._reply(key.encrypt(auth.xor_nonce(password.encode() + b"\0", nonce), oaep))

    def pipeline(self, *payloads: bytes) -> None:
        """Send several commands in one write."""
        self.sock.sendall(b"".join(map(frame, payloads)))

    # Ends

    def quit(self) -> None:
        """COM_QUIT, and wait until the other side has closed."""
        self.send(b"\x01")
        self.at_end()
        self.sock.close()

    def close(self) -> None:
        """Close the socket, without a word."""
        self.sock.close()

    def vanish(self) -> None:
        """End with RST, as a crashed host's connection does when it comes back."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def _scramble(plugin: bytes, password: bytes, nonce: bytes) -> bytes:
    if plugin == c.NATIVE_PASSWORD:
        return auth.scramble_native(password, nonce)
    assert plugin == c.CACHING_SHA2_PASSWORD, plugin
    return auth.scramble_sha2(password, nonce)
