"""Payloads of the protocol: parse them, build them. Sources: protocol.md A.1, A.2, B.3, C.2.

Every parser raises ProtocolError on malformed input and nothing else; none of them trusts a length it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from . import constants as c
from .framing import ProtocolError


def lenenc_int(n: int) -> bytes:
    """Return `n` as a length-encoded integer."""
    if n < 0xFB:
        return bytes((n,))
    if n < 1 << 16:
        return b"\xfc" + n.to_bytes(2, "little")
    if n < 1 << 24:
        return b"\xfd" + n.to_bytes(3, "little")
    return b"\xfe" + n.to_bytes(8, "little")


_WIDTH = {0xFC: 2, 0xFD: 3, 0xFE: 8}


def read_lenenc_int(data: bytes, pos: int) -> tuple[int, int]:
    """Return (value, position behind it). Raises ProtocolError where the bytes end or are NULL (0xFB)."""
    if pos >= len(data):
        raise ProtocolError("packet ends inside a length", c.ER_MALFORMED_PACKET)
    first = data[pos]
    if first < 0xFB:
        return first, pos + 1
    width = _WIDTH.get(first)
    if width is None or pos + 1 + width > len(data):
        raise ProtocolError("packet ends inside a length", c.ER_MALFORMED_PACKET)
    return int.from_bytes(data[pos + 1 : pos + 1 + width], "little"), pos + 1 + width


def lenenc_str(s: bytes) -> bytes:
    """Return `s` with its length before it."""
    return lenenc_int(len(s)) + s


def read_lenenc_str(data: bytes, pos: int) -> tuple[bytes, int]:
    """Return (string, position behind it)."""
    if pos < len(data) and (size := data[pos]) < 0xFB:  # almost always, and a login has a dozen of them
        pos += 1
    else:
        size, pos = read_lenenc_int(data, pos)
    if pos + size > len(data):
        raise ProtocolError("packet ends inside a string", c.ER_MALFORMED_PACKET)
    return data[pos : pos + size], pos + size


def _read_nul_str(data: bytes, pos: int) -> tuple[bytes, int]:
    end = data.find(b"\0", pos)
    if end < 0:
        raise ProtocolError("packet ends inside a NUL-terminated string", c.ER_MALFORMED_PACKET)
    return data[pos:end], end + 1


@dataclass(frozen=True, slots=True)
class Greeting:
    """HandshakeV10, the server's first packet. `nonce` is 20 bytes, `capabilities` has MariaDB's own from bit 32 on."""

    version: bytes
    thread_id: int
    nonce: bytes
    charset: int
    status: int
    capabilities: int
    plugin: bytes

    @property
    def is_mariadb(self) -> bool:
        """MariaDB leaves bit 0 clear, or says its name in the version (A.1)."""
        return not self.capabilities & c.CLIENT_LONG_PASSWORD or b"MariaDB" in self.version

    @property
    def server_version(self) -> str:
        """The version for people: without what MariaDB puts before it for old replicas (A.1)."""
        return self.version.decode("utf-8", "replace").removeprefix("5.5.5-")

    @classmethod
    def parse(cls, data: bytes) -> Greeting:
        if not data or data[0] != 10:
            raise ProtocolError(f"greeting of protocol {data[0] if data else 'none'}, only 10 is known")
        version, pos = _read_nul_str(data, 1)
        if pos + 31 > len(data):
            raise ProtocolError("greeting too short")
        thread_id = int.from_bytes(data[pos : pos + 4], "little")
        nonce = data[pos + 4 : pos + 12]
        low = int.from_bytes(data[pos + 13 : pos + 15], "little")
        charset = data[pos + 15]
        status = int.from_bytes(data[pos + 16 : pos + 18], "little")
        capabilities = low | int.from_bytes(data[pos + 18 : pos + 20], "little") << 16
        auth_len = data[pos + 20]
        extended = int.from_bytes(data[pos + 27 : pos + 31], "little")
        pos += 31
        rest = max(13, auth_len - 8)
        nonce += data[pos : pos + 12]
        if len(nonce) != 20:
            raise ProtocolError("greeting too short")
        pos += rest
        plugin = c.NATIVE_PASSWORD
        if capabilities & c.CLIENT_PLUGIN_AUTH:
            plugin = data[pos:].split(b"\0", 1)[0]
        return cls(version, thread_id, nonce, charset, status, _with_extended(capabilities, extended), plugin)

    def encode(self) -> bytes:
        caps = self.capabilities
        return b"".join(
            (
                b"\x0a",
                self.version,
                b"\0",
                self.thread_id.to_bytes(4, "little"),
                self.nonce[:8],
                b"\0",
                (caps & 0xFFFF).to_bytes(2, "little"),
                bytes((self.charset & 0xFF,)),
                self.status.to_bytes(2, "little"),
                (caps >> 16 & 0xFFFF).to_bytes(2, "little"),
                bytes((len(self.nonce) + 1,)),
                bytes(6),
                (caps >> 32).to_bytes(4, "little"),
                self.nonce[8:],
                b"\0",
                self.plugin,
                b"\0",
            )
        )


def _with_extended(capabilities: int, extended: int) -> int:
    """MariaDB's own capabilities are there only where LONG_PASSWORD is clear (A.1)."""
    return capabilities if capabilities & c.CLIENT_LONG_PASSWORD else capabilities | extended << 32


def _read_attributes(data: bytes, pos: int) -> dict[bytes, bytes]:
    attributes: dict[bytes, bytes] = {}
    size, pos = read_lenenc_int(data, pos)
    end = min(len(data), pos + size)
    while pos < end:
        name, pos = read_lenenc_str(data, pos)
        value, pos = read_lenenc_str(data, pos)
        attributes[name] = value
    return attributes


def ssl_request(capabilities: int, charset: int) -> bytes:
    """The SSLRequest: a handshake response that ends before the name. The TLS handshake follows it.

    MariaDB goes by the capabilities that are in it, whatever the response behind it says.
    """
    return (
        (capabilities & 0xFFFFFFFF).to_bytes(4, "little")
        + (1 << 24).to_bytes(4, "little")
        + bytes((charset & 0xFF,))
        + bytes(19)
        + (capabilities >> 32).to_bytes(4, "little")
    )


@dataclass(frozen=True, slots=True)
class HandshakeResponse:
    """HandshakeResponse41. `capabilities` are what both sides have (client and offered, A.1)."""

    capabilities: int
    charset: int
    username: bytes
    auth_response: bytes = field(repr=False)
    database: bytes | None = None
    plugin: bytes = b""
    attributes: dict[bytes, bytes] = field(default_factory=dict)
    max_packet: int = 1 << 24

    @classmethod
    def parse(cls, data: bytes, offered: int) -> HandshakeResponse:
        """Parse a response to a greeting that offered `offered` capabilities."""
        if len(data) < 33:
            raise ProtocolError("handshake response too short")
        sent = _with_extended(int.from_bytes(data[:4], "little"), int.from_bytes(data[28:32], "little"))
        if not sent & c.CLIENT_PROTOCOL_41:
            raise ProtocolError("client speaks the protocol of before MySQL 4.1")
        caps = sent & offered
        max_packet = int.from_bytes(data[4:8], "little")
        charset = data[8]
        username, pos = _read_nul_str(data, 32)
        if caps & c.CLIENT_PLUGIN_AUTH_LENENC:
            auth, pos = read_lenenc_str(data, pos)
        elif caps & c.CLIENT_SECURE_CONNECTION:
            size = data[pos] if pos < len(data) else 0
            auth, pos = data[pos + 1 : pos + 1 + size], pos + 1 + size
            if len(auth) < size:
                raise ProtocolError("handshake response ends inside the scramble")
        else:
            auth, pos = _read_nul_str(data, pos)
        database = None
        if caps & c.CLIENT_CONNECT_WITH_DB and pos < len(data):
            database, pos = _read_nul_str(data, pos)
        plugin = b""
        if caps & c.CLIENT_PLUGIN_AUTH and pos < len(data):
            end = data.find(b"\0", pos)
            end = len(data) if end < 0 else end
            plugin, pos = data[pos:end], end + 1
        attributes: dict[bytes, bytes] = {}
        # Some clients set CONNECT_ATTRS and send no block (A.1), so a missing one is not an error.
        if caps & c.CLIENT_CONNECT_ATTRS and pos < len(data):
            attributes = _read_attributes(data, pos)
        return cls(caps, charset, username, auth, database or None, plugin, attributes, max_packet)

    def encode(self) -> bytes:
        caps = self.capabilities
        parts = [
            (caps & 0xFFFFFFFF).to_bytes(4, "little"),
            self.max_packet.to_bytes(4, "little"),
            bytes((self.charset & 0xFF,)),
            bytes(19),
            (caps >> 32).to_bytes(4, "little"),
            self.username,
            b"\0",
            lenenc_str(self.auth_response)
            if caps & c.CLIENT_PLUGIN_AUTH_LENENC
            else bytes((len(self.auth_response),)) + self.auth_response,
        ]
        if caps & c.CLIENT_CONNECT_WITH_DB:
            parts += [self.database or b"", b"\0"]
        if caps & c.CLIENT_PLUGIN_AUTH:
            parts += [self.plugin, b"\0"]
        if caps & c.CLIENT_CONNECT_ATTRS:
            parts.append(lenenc_str(b"".join(lenenc_str(k) + lenenc_str(v) for k, v in self.attributes.items())))
        return b"".join(parts)


def parse_change_user(data: bytes, capabilities: int) -> HandshakeResponse:
    """Parse COM_CHANGE_USER as the login that it is; `capabilities` stay those of the connection."""
    username, pos = _read_nul_str(data, 1)
    if pos + 1 > len(data) or pos + 1 + data[pos] > len(data):
        raise ProtocolError("packet ends inside the scramble", c.ER_MALFORMED_PACKET)
    auth, pos = data[pos + 1 : pos + 1 + data[pos]], pos + 1 + data[pos]
    database, pos = _read_nul_str(data, pos)
    charset = int.from_bytes(data[pos : pos + 2], "little")
    pos += 2
    plugin = b""
    if capabilities & c.CLIENT_PLUGIN_AUTH and pos < len(data):
        plugin, pos = _read_nul_str(data, pos)
    attributes: dict[bytes, bytes] = {}
    if capabilities & c.CLIENT_CONNECT_ATTRS and pos < len(data):
        attributes = _read_attributes(data, pos)
    return HandshakeResponse(capabilities, charset, username, auth, database or None, plugin, attributes)


def build_auth_switch(plugin: bytes, nonce: bytes) -> bytes:
    """Return an AuthSwitchRequest with a 20-byte nonce."""
    return b"\xfe" + plugin + b"\0" + nonce + b"\0"


def parse_auth_switch(data: bytes) -> tuple[bytes, bytes]:
    """Return (plugin, nonce without its trailing NUL) of an AuthSwitchRequest."""
    if len(data) == 1:
        return b"mysql_old_password", b""
    plugin, pos = _read_nul_str(data, 1)
    nonce = data[pos:]
    # client_ed25519 sends 32 bytes and no NUL (A.4); the last of them may well be 0.
    return plugin, nonce[:20] if len(nonce) == 21 and nonce.endswith(b"\0") else nonce


class Ok(NamedTuple):
    """An OK packet, or an OK that stands for EOF. `trackers` is the raw block of session trackers.

    A tuple, because one is made for every statement and a frozen dataclass takes twice as long.
    """

    affected_rows: int
    last_insert_id: int
    status: int
    warnings: int
    info: bytes
    trackers: bytes


def parse_ok(data: bytes) -> Ok:
    """Parse an OK payload (header 0x00 or 0xFE) as sent with SESSION_TRACK negotiated."""
    if len(data) == 7 and data[1] < 0xFB and data[2] < 0xFB:
        # The usual one: nothing but flags and small numbers.
        return Ok(data[1], data[2], data[3] | data[4] << 8, data[5] | data[6] << 8, b"", b"")
    affected, pos = read_lenenc_int(data, 1)
    insert_id, pos = read_lenenc_int(data, pos)
    if pos + 4 > len(data):
        raise ProtocolError("OK packet too short", c.ER_MALFORMED_PACKET)
    status = data[pos] | data[pos + 1] << 8
    warnings = data[pos + 2] | data[pos + 3] << 8
    pos += 4
    info = trackers = b""
    if pos < len(data):
        info, pos = read_lenenc_str(data, pos)
        if status & c.SERVER_SESSION_STATE_CHANGED and pos < len(data):
            trackers, pos = read_lenenc_str(data, pos)
    return Ok(affected, insert_id, status, warnings, info, trackers)


def build_ok(
    affected_rows: int = 0,
    last_insert_id: int = 0,
    status: int = c.SERVER_STATUS_AUTOCOMMIT,
    warnings: int = 0,
    info: bytes = b"",
    trackers: bytes = b"",
    header: int = 0x00,
) -> bytes:
    """Return an OK payload; the info is length-prefixed and left out when empty, as both servers do (B.3)."""
    status = status | c.SERVER_SESSION_STATE_CHANGED if trackers else status & ~c.SERVER_SESSION_STATE_CHANGED
    tail = b""
    if info or trackers:
        tail = lenenc_str(info)
        if trackers:
            tail += lenenc_str(trackers)
    return (
        bytes((header,))
        + lenenc_int(affected_rows)
        + lenenc_int(last_insert_id)
        + status.to_bytes(2, "little")
        + warnings.to_bytes(2, "little")
        + tail
    )


def build_eof(warnings: int = 0, status: int = c.SERVER_STATUS_AUTOCOMMIT) -> bytes:
    """Return an EOF payload (warnings before status: the other way round than in an OK)."""
    return b"\xfe" + warnings.to_bytes(2, "little") + (status & 0xFFFF).to_bytes(2, "little")


@dataclass(frozen=True, slots=True)
class Err:
    """An ERR packet. `state` is b"" where the packet had none."""

    code: int
    state: bytes
    message: bytes


def parse_err(data: bytes) -> Err:
    """Parse an ERR payload, with or without `#sqlstate` (F)."""
    if len(data) < 3:
        raise ProtocolError("ERR packet too short", c.ER_MALFORMED_PACKET)
    code = data[1] | data[2] << 8
    if data[3:4] == b"#":
        return Err(code, data[4:9], data[9:])
    return Err(code, b"", data[3:])


def build_err(code: int, state: bytes | str, message: bytes | str) -> bytes:
    """Return an ERR payload; an empty `state` leaves the `#sqlstate` out (before capabilities are known)."""
    state = state.encode() if isinstance(state, str) else state
    message = message.encode("utf-8", "replace") if isinstance(message, str) else message
    mark = b"#" + state if state else b""
    return b"\xff" + code.to_bytes(2, "little") + mark + message


def iter_trackers(block: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (type, name, value) of a tracker block; `name` is b"" for all but system variables."""
    pos = 0
    while pos < len(block):
        kind = block[pos]
        body, pos = read_lenenc_str(block, pos + 1)
        if kind == c.TRACK_SYSTEM_VARIABLE:
            at = 0
            while at < len(body):
                name, at = read_lenenc_str(body, at)
                value, at = read_lenenc_str(body, at)
                yield kind, name, value
        elif kind == c.TRACK_GTIDS:
            value, _ = read_lenenc_str(body, 1)  # behind a byte that names the encoding
            yield kind, b"", value
        elif kind == c.TRACK_STATE_CHANGE or kind > c.TRACK_TRANSACTION_STATE:
            # The one kind whose string has no length of its own; and kinds of later versions, as they are.
            yield kind, b"", body
        else:
            value, _ = read_lenenc_str(body, 0)
            yield kind, b"", value


def encode_tracker(kind: int, name: bytes, value: bytes) -> bytes:
    """Return one entry of a tracker block, the inverse of `iter_trackers`."""
    if kind == c.TRACK_SYSTEM_VARIABLE:
        return bytes((kind,)) + lenenc_str(lenenc_str(name) + lenenc_str(value))
    if kind == c.TRACK_GTIDS:
        return bytes((kind,)) + lenenc_str(b"\0" + lenenc_str(value))
    if kind == c.TRACK_STATE_CHANGE or kind > c.TRACK_TRANSACTION_STATE:
        return bytes((kind,)) + lenenc_str(value)
    return bytes((kind,)) + lenenc_str(lenenc_str(value))


def parse_row(data: bytes) -> list[bytes | None]:
    """Return the values of a text-protocol row."""
    values: list[bytes | None] = []
    pos = 0
    while pos < len(data):
        if data[pos] == 0xFB:
            values.append(None)
            pos += 1
        else:
            value, pos = read_lenenc_str(data, pos)
            values.append(value)
    return values


def build_column(name: bytes, kind: int, length: int, charset: int = 63, flags: int = 0x81, decimals: int = 0) -> bytes:
    """Return a column definition as servers send it for an expression without a table."""
    return (
        lenenc_str(b"def")
        + b"\0\0\0"
        + lenenc_str(name)
        + b"\0\x0c"
        + charset.to_bytes(2, "little")
        + length.to_bytes(4, "little")
        + bytes((kind,))
        + flags.to_bytes(2, "little")
        + bytes((decimals, 0, 0))
    )
