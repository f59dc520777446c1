"""A client that only logs in: which plugins it has, and over what, is the test's choice. It notes every packet."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import PacketReader, frame
from proxy.wire.packets import (
    Err,
    Greeting,
    HandshakeResponse,
    Ok,
    parse_auth_switch,
    parse_err,
    parse_ok,
    ssl_request,
)

CAPABILITIES = (
    c.CLIENT_LONG_PASSWORD
    | c.CLIENT_PROTOCOL_41
    | c.CLIENT_SECURE_CONNECTION
    | c.CLIENT_PLUGIN_AUTH
    | c.CLIENT_PLUGIN_AUTH_LENENC
    | c.CLIENT_DEPRECATE_EOF
)
MODERN = (c.CACHING_SHA2_PASSWORD, c.NATIVE_PASSWORD)
NATIVE_ONLY = (c.NATIVE_PASSWORD,)
CLEAR_ONLY = (c.CLEAR_PASSWORD,)


class PluginMissing(Exception):
    """The other side asks for a plugin that this client does not have."""


class Handshake:
    """One login. `ok` or `err` is what came of it; `packets` what was said, as (who, length) of each packet."""

    def __init__(
        self,
        where: int | str,
        user: str,
        password: str,
        *,
        plugins: tuple[bytes, ...] = MODERN,
        tls: bool = False,
        name: bytes = b"",
    ) -> None:
        self._plugins = plugins
        self._password = password.encode()
        self._aloud = tls or isinstance(where, str)
        self.sock: socket.socket = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        self.sock.settimeout(20)
        self.sock.connect(where if isinstance(where, str) else ("127.0.0.1", where))
        self._reader = PacketReader(1 << 20)
        self.packets: list[tuple[str, int]] = []
        self.ok: Ok | None = None
        self.err: Err | None = None
        self.plugin = self.nonce = self.fingerprint = b""
        try:
            self._run(user.encode(), tls, name)
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    @property
    def code(self) -> int:
        """The error's code, 0 without one."""
        return self.err.code if self.err is not None else 0

    def _run(self, user: bytes, tls: bool, name: bytes) -> None:
        self.greeting = greeting = Greeting.parse(self._read())
        capabilities = (CAPABILITIES | c.CLIENT_CONNECT_ATTRS | (c.CLIENT_SSL if tls else 0)) & greeting.capabilities
        if tls:
            self._secure(capabilities)
        self.plugin, self.nonce = greeting.plugin, greeting.nonce
        if self.plugin not in self._plugins:
            self.plugin = self._plugins[0]
        answer = self._answer()
        attributes = {b"_client_name": name} if name else {}
        self._write(HandshakeResponse(capabilities, 45, user, answer, None, self.plugin, attributes).encode())
        while self.ok is None and self.err is None:
            self._go_on(self._read())

    def _go_on(self, packet: bytes) -> None:
        if packet[0] == 0x00:
            self.ok = parse_ok(packet)
        elif packet[0] == 0xFF:
            self.err = parse_err(packet)
        elif packet[0] == 0xFE:
            plugin, self.nonce = parse_auth_switch(packet)
            if plugin not in self._plugins:
                raise PluginMissing(plugin)
            self.plugin = plugin
            self._write(self._answer())
        elif packet == b"\x01\x04":
            self._write(self._password + b"\0" if self._aloud else b"\x02")
        elif packet[:2] == b"\x01-":
            key = load_pem_public_key(packet[1:])
            assert isinstance(key, rsa.RSAPublicKey)
            oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
            self._write(key.encrypt(auth.xor_nonce(self._password + b"\0", self.nonce), oaep))
        else:
            assert packet == b"\x01\x03", packet

    def _answer(self) -> bytes:
        if self.plugin == c.NATIVE_PASSWORD:
            return auth.scramble_native(self._password, self.nonce)
        if self.plugin == c.CLEAR_PASSWORD:
            return self._password + b"\0"
        if self.plugin == c.SHA256_PASSWORD:
            return b"\x01"
        assert self.plugin == c.CACHING_SHA2_PASSWORD
        return auth.scramble_sha2(self._password, self.nonce)

    def _secure(self, capabilities: int) -> None:
        self._write(ssl_request(capabilities, 45))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        secured = context.wrap_socket(self.sock)
        self.sock = secured
        shown = secured.getpeercert(binary_form=True)
        assert shown is not None
        self.fingerprint = hashlib.sha256(shown).digest()

    def query(self, sql: str) -> str:
        """The first column of the only row."""
        self._reader.expect = 0
        self._write(b"\x03" + sql.encode())
        columns = self._read()
        assert columns == b"\x01", columns
        self._read()
        row = self._read()
        assert self._read()[0] == 0xFE
        return row[1 : 1 + row[0]].decode()

    def _read(self) -> bytes:
        while (packet := self._reader.next_packet()) is None:
            data = b""
            with contextlib.suppress(ConnectionResetError):
                data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError("closed")
            self._reader.feed(data)
        self.packets.append(("they", len(packet)))
        return packet

    def _write(self, payload: bytes) -> None:
        self.packets.append(("we", len(payload)))
        self.sock.sendall(frame(payload, self._reader.expect))
        self._reader.expect = (self._reader.expect + 1) & 0xFF
