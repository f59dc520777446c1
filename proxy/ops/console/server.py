"""The console's sockets, logins, and the commands of the protocol.

On the unix socket whoever has our uid, or root's, is let in; its file is closed to others, and the kernel is asked who
it is. On the port a password is needed (`caching_sha2_password` or `mysql_native_password`, without TLS); a wrong one
costs a second. Answers go out in slices: between two of them clients go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
from collections.abc import Iterable, Iterator
from itertools import count, islice

from proxy.address import Address
from proxy.config import ConsoleConfig
from proxy.relay.answers import end_of_data
from proxy.relay.listener import remove_stale
from proxy.relay.peer import uid_of_peer
from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import PacketReader, ProtocolError, frame
from proxy.wire.packets import (
    Greeting,
    HandshakeResponse,
    build_auth_switch,
    build_column,
    build_eof,
    build_err,
    build_ok,
    lenenc_int,
    lenenc_str,
)

from . import commands, dialect
from .place import own_directory, socket_name
from .values import Column, ConsoleError, Context, Row, Value, harmless

MAX_SESSIONS = 32  # on the port, so that nobody fills memory with logins that never end
SLICE = 50  # rows: some 0.5 ms of work
_WRONG_PASSWORD_DELAY = 1.0

_TYPES = {"text": (0xFD, 45, 0x01), "int": (0x08, 63, 0x80), "float": (0x05, 63, 0x80)}
_UTF8MB4 = 45
_OFFERED = (
    c.CLIENT_LONG_PASSWORD
    | c.CLIENT_FOUND_ROWS
    | c.CLIENT_LONG_FLAG
    | c.CLIENT_CONNECT_WITH_DB
    | c.CLIENT_IGNORE_SPACE
    | c.CLIENT_PROTOCOL_41
    | c.CLIENT_INTERACTIVE
    | c.CLIENT_TRANSACTIONS
    | c.CLIENT_SECURE_CONNECTION
    | c.CLIENT_MULTI_RESULTS
    | c.CLIENT_PLUGIN_AUTH
    | c.CLIENT_PLUGIN_AUTH_LENENC
    | c.CLIENT_CONNECT_ATTRS
    | c.CLIENT_DEPRECATE_EOF
)
_DONE = (c.COM_PING, c.COM_INIT_DB, c.COM_RESET_CONNECTION)


class Console:
    """The console of a running mybouncer."""

    def __init__(self, context: Context, config: ConsoleConfig) -> None:
        self._context = context
        self._config = config
        self._password = b""
        self._servers: list[asyncio.Server] = []
        self._sessions: set[asyncio.Task[None]] = set()
        self._on_port = 0
        self._ids = count(1)
        self.socket: str | None = None
        self.address: Address | None = None

    async def open(self, listening: list[Address]) -> None:
        """Listen. Raises OSError if an address that was asked for, or the password's file, cannot be had."""
        try:
            if self._config.socket != "off":
                await self._open_socket(listening)
            if self._config.address is not None:
                self._password = self._config.read_password().encode()
                await self._open_port(self._config.address)
        except OSError:
            await self.close()
            raise

    async def _open_socket(self, listening: list[Address]) -> None:
        path = self._config.socket
        try:
            if path == "auto":
                path = str(own_directory() / socket_name(listening))
            sock = _bind(path)
        except OSError as exc:
            if self._config.socket != "auto":
                raise OSError(exc.errno, f"cannot listen on {path} for the console: {exc.strerror or exc}") from exc
            self._context.relay.log.warning("no console: its socket cannot be had", error=str(exc))
            return
        self.socket = path
        self._servers.append(await asyncio.start_unix_server(self._arrived_on_socket, sock=sock))

    async def _open_port(self, address: Address) -> None:
        try:
            server = await asyncio.start_server(self._arrived_on_port, address.host, address.port)
        except OSError as exc:
            raise OSError(exc.errno, f"cannot listen on {address} for the console: {exc.strerror or exc}") from exc
        self._servers.append(server)
        self.address = Address(address.host, server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, end all sessions."""
        for server in self._servers:
            server.close()
        for task in list(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        if self.socket is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.socket)
        self._servers.clear()

    async def _arrived_on_socket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = uid_of_peer(writer.get_extra_info("socket"))
        # Where the kernel does not say, the mode of the file is all there is.
        private = uid is None or uid in (0, os.geteuid())
        if not private:
            self._context.relay.limited_log("console", "console refused", uid=uid)
            text = f"the console is for uid {os.geteuid()} and root, not for uid {uid}"
            writer.write(frame(build_err(1045, b"", text)))
        else:
            await self._run(reader, writer, None, f"uid {uid}")
        writer.close()

    async def _arrived_on_port(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        self._on_port += 1
        try:
            if self._on_port > MAX_SESSIONS:
                writer.write(frame(build_err(c.ER_CON_COUNT, b"", f"Too many connections: {MAX_SESSIONS} consoles")))
            else:
                await self._run(reader, writer, self._password, f"{peer[0]}:{peer[1]}")
        finally:
            self._on_port -= 1
            writer.close()

    async def _run(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, password: bytes | None, who: str
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._sessions.add(task)
        session = _Session(self._context, reader, writer, next(self._ids), who)
        try:
            if await session.log_in(password):
                await session.serve()
        except ProtocolError as exc:
            with contextlib.suppress(OSError):
                session.send(build_err(exc.code, b"08S01", str(exc)))
        except (_Gone, OSError, TimeoutError):
            pass
        except asyncio.CancelledError:  # we are stopping
            pass
        finally:
            self._sessions.discard(task)


class _Gone(Exception):
    """The other side has closed."""


class _Session:
    """One connection."""

    def __init__(
        self, context: Context, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ident: int, who: str
    ) -> None:
        self._context = context
        self._reader = reader
        self._writer = writer
        self._packets = PacketReader()
        self._seq = 0
        self._deprecate_eof = False
        self._who = who
        self._about = dialect.Session(ident, "")

    async def _read(self) -> bytes:
        while True:
            packet = self._packets.next_packet()
            if packet is not None:
                self._seq = self._packets.expect
                return packet
            data = await self._reader.read(65536)
            if not data:
                raise _Gone
            self._packets.feed(data)

    def send(self, payload: bytes) -> None:
        """Send one packet."""
        self._writer.write(frame(payload, self._seq))
        self._seq = (self._seq + 1) & 0xFF

    # Login

    async def log_in(self, password: bytes | None) -> bool:
        """Whether whoever it is may come in; on the unix socket (no password) the kernel has said so."""
        nonce = auth.make_nonce()
        self.send(
            Greeting(
                dialect.SERVER_VERSION.encode(), self._about.ident, nonce, _UTF8MB4, c.SERVER_STATUS_AUTOCOMMIT,
                _OFFERED, c.CACHING_SHA2_PASSWORD,
            ).encode()
        )  # fmt: skip
        async with asyncio.timeout(self._context.relay.config.listen.login_timeout):
            self._packets.expect = 1
            response = HandshakeResponse.parse(await self._read(), _OFFERED)
            self._deprecate_eof = bool(response.capabilities & c.CLIENT_DEPRECATE_EOF)
            self._about.user = response.username.decode("utf-8", "replace")
            self._about.schema = _text(response.database)
            if not await self._may(response, nonce, password):
                await asyncio.sleep(_WRONG_PASSWORD_DELAY)
                self._context.relay.limited_log("console", "console refused", client=self._who)
                self.send(build_err(c.ER_ACCESS_DENIED, b"28000", "Access denied: wrong password for the console"))
                return False
        self.send(build_ok())
        return True

    async def _may(self, response: HandshakeResponse, nonce: bytes, password: bytes | None) -> bool:
        plugin, proof = response.plugin, response.auth_response
        if plugin not in (c.CACHING_SHA2_PASSWORD, c.NATIVE_PASSWORD):
            plugin, nonce = c.CACHING_SHA2_PASSWORD, auth.make_nonce()
            self.send(build_auth_switch(plugin, nonce))
            self._packets.expect = self._seq
            proof = await self._read()
        if password is not None:
            scramble = auth.scramble_native if plugin == c.NATIVE_PASSWORD else auth.scramble_sha2
            if not hmac.compare_digest(proof.rstrip(b"\0") if len(proof) == 1 else proof, scramble(password, nonce)):
                return False
        if plugin == c.CACHING_SHA2_PASSWORD and len(proof) > 1:
            self.send(b"\x01\x03")
        return True

    # Commands

    async def serve(self) -> None:
        """Answer commands until the client leaves."""
        while True:
            self._packets.expect = 0
            packet = await self._read()
            command = packet[0] if packet else c.COM_SLEEP
            if command == c.COM_QUIT:
                return
            try:
                await self._command(command, packet)
            except ConsoleError as exc:
                self.send(build_err(exc.code, exc.state, str(exc)))
            except (OSError, _Gone):
                raise
            except Exception as exc:
                self._context.relay.log.error("console command failed", error=repr(exc), exc_info=exc)
                self.send(build_err(1105, "HY000", f"failed: {type(exc).__name__}"))
            await self._writer.drain()

    async def _command(self, command: int, packet: bytes) -> None:
        if command == c.COM_QUERY:
            await self._query(packet[1:].decode("utf-8", "replace"))
        elif command in _DONE:
            if command == c.COM_INIT_DB:
                self._about.schema = _text(packet[1:])
            self.send(build_ok())
        elif command == c.COM_STATISTICS:
            relay = self._context.relay
            self.send(f"clients: {len(relay.clients)}  backends: {len(relay.backends)}".encode())
        elif command in (c.COM_FIELD_LIST, c.COM_SET_OPTION, c.COM_DEBUG):
            self.send(end_of_data(deprecate_eof=self._deprecate_eof, status=c.SERVER_STATUS_AUTOCOMMIT))
        elif command == c.COM_STMT_PREPARE:
            raise ConsoleError("the console takes text, no prepared statements", c.ER_UNSUPPORTED_PS)
        elif command not in (c.COM_STMT_CLOSE, c.COM_STMT_SEND_LONG_DATA):  # these have no answer
            raise ConsoleError("Unknown command: the console takes text", c.ER_UNKNOWN_COMMAND, "08S01")

    async def _query(self, text: str) -> None:
        text = dialect.plain(text)
        if not text:
            raise ConsoleError("Query was empty", 1065, "42000")
        said = dialect.answer(text, self._about)
        if isinstance(said, dialect.Table):
            await self._send_table(said.columns, said.rows)
        elif said is not None:
            self.send(build_ok())
        else:
            await self._run(*commands.find(text))

    async def _run(self, command: commands.Command, argument: str, limit: int | None) -> None:
        if not command.words.startswith("SHOW"):
            named = argument.partition("=")[0].strip()
            self._context.relay.log.info("console", command=f"{command.words} {named}".rstrip(), by=self._who)
        if command.action is not None:
            words = await command.action(self._context, argument)
            self.send(build_ok(info=words.encode()))
        else:
            await self._send_table(command.columns, commands.rows(command, self._context, argument, limit))

    async def _send_table(self, columns: tuple[Column, ...], rows: Iterable[Row]) -> None:
        walk: Iterator[Row] = iter(rows)
        first = list(islice(walk, SLICE))  # an error comes before the columns
        self.send(lenenc_int(len(columns)))
        for column in columns:
            kind, charset, flags = _TYPES[column.kind]
            self.send(build_column(column.name.encode(), kind, 1024, charset, flags, decimals=31))
        if not self._deprecate_eof:
            self.send(build_eof())
        part = first
        while part:
            for row in part:
                self.send(b"".join([_encode(value) for value in row]))
            await self._writer.drain()
            await asyncio.sleep(0)
            part = list(islice(walk, SLICE))
        self.send(build_ok(header=0xFE) if self._deprecate_eof else build_eof())


def _encode(value: Value) -> bytes:
    return b"\xfb" if value is None else lenenc_str(harmless(str(value)).encode())


def _text(name: bytes | None) -> str | None:
    return None if name is None else name.decode("utf-8", "replace")


def _bind(path: str) -> socket.socket:
    remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # no await until it is back
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock
