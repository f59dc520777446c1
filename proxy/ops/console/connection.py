"""How `mybouncer console` and `mybouncer top` talk to a running mybouncer: one blocking connection to its console."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from proxy.address import Address
from proxy.config import Config
from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import PacketReader, frame
from proxy.wire.packets import (
    Greeting,
    HandshakeResponse,
    parse_err,
    parse_ok,
    parse_row,
    read_lenenc_int,
    read_lenenc_str,
)

from . import place
from .values import ConsoleError, Row, Value

_TIMEOUT = 10.0
_LARGEST = 1 << 24
_SPOKEN = (
    c.CLIENT_LONG_PASSWORD
    | c.CLIENT_PROTOCOL_41
    | c.CLIENT_SECURE_CONNECTION
    | c.CLIENT_PLUGIN_AUTH
    | c.CLIENT_PLUGIN_AUTH_LENENC
    | c.CLIENT_DEPRECATE_EOF
)
_READ: dict[int, Callable[[str], Value]] = {0x08: int, 0x05: float}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command was answered with: rows of `columns`, or `words` where something was done."""

    columns: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    words: str = ""


class Connection:
    """A connection to the console at `address`. Raises OSError, or ConsoleError if it is refused."""

    def __init__(self, address: Address, password: str = "") -> None:
        self._packets = PacketReader(_LARGEST, strict=False)
        if address.unix_path is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(_TIMEOUT)
            self._socket.connect(address.unix_path)
        else:
            self._socket = socket.create_connection((address.host, address.port), _TIMEOUT)
        try:
            self._log_in(password.encode())
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """The end of it."""
        self._socket.close()

    def _log_in(self, password: bytes) -> None:
        greeting = Greeting.parse(_checked(self._read()))
        proof = auth.scramble_sha2(password, greeting.nonce)
        user = getpass.getuser().encode()
        response = HandshakeResponse(_SPOKEN, 45, user, proof, None, c.CACHING_SHA2_PASSWORD, {})
        self._socket.sendall(frame(response.encode(), 1))
        while _checked(self._read())[0] != 0x00:  # behind the word that the scramble is right
            pass

    def _read(self) -> bytes:
        while True:
            packet = self._packets.next_packet()
            if packet is not None:
                return packet
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("mybouncer has closed the connection")
            self._packets.feed(data)

    def ask(self, text: str, timeout: float = _TIMEOUT) -> Answer:
        """The answer to one command. Raises ConsoleError if it is an error, OSError if there is none."""
        self._socket.settimeout(timeout)
        self._socket.sendall(frame(b"\x03" + text.encode()))
        first = _checked(self._read())
        if first[0] == 0x00:
            return Answer(words=parse_ok(first).info.decode())
        columns = [_column(self._read()) for _ in range(read_lenenc_int(first, 0)[0])]
        rows = []
        while (packet := _checked(self._read()))[0] != 0xFE:
            values = zip(columns, parse_row(packet), strict=True)
            rows.append(tuple([None if value is None else read(value.decode()) for (_, read), value in values]))
        return Answer(tuple(name for name, _ in columns), tuple(rows))


class NoConsole(ConsoleError):
    """There is no console where it should be, or it lets us not in."""


def connect(address: Address, password: str) -> Connection:
    """A connection to the console at `address`. Raises NoConsole, with the address and the reason."""
    try:
        return Connection(address, password)
    except OSError as exc:
        raise NoConsole(f"no console at {address}: {exc.strerror or exc}") from exc
    except ConsoleError as exc:
        raise NoConsole(f"no console at {address}: {exc}", exc.code, exc.state) from exc


def _checked(packet: bytes) -> bytes:
    if packet[:1] == b"\xff":
        error = parse_err(packet)
        raise ConsoleError(error.message.decode(), error.code, error.state.decode())
    return packet


def _column(packet: bytes) -> tuple[str, Callable[[str], Value]]:
    at = 0
    for _ in range(4):
        _, at = read_lenenc_str(packet, at)
    name, at = read_lenenc_str(packet, at)
    _, at = read_lenenc_str(packet, at)
    return name.decode(), _READ.get(packet[at + 7], str)


def find(config: Config) -> Address:
    """Where the console is of the mybouncer that has this configuration, or of the only one that runs here.

    Raises ConsoleError where that is not clear.
    """
    console = config.console
    if console.socket not in ("auto", "off"):
        return Address(unix_path=console.socket)
    if console.socket == "off" and console.address is not None:
        return console.address
    found = place.existing_sockets()
    name = place.socket_name(config.listen.addresses)
    mine = [path for path in found if path.name == name] or found
    if len(mine) == 1:
        return Address(unix_path=str(mine[0]))
    if found:
        raise ConsoleError(f"there are several: say which with --connect unix:PATH: {', '.join(map(str, mine))}")
    places = ", ".join(map(str, place.directories()))
    raise ConsoleError(f"no console found in {places}: does mybouncer run, as this user? --connect says where it is")


def password_for(address: Address, config: Config) -> str:
    """What the port wants; the socket wants none."""
    console = config.console
    if address.is_unix:
        return ""
    password = console.read_password()
    if password or console.password_file or not sys.stdin.isatty():
        return password
    return getpass.getpass("console password: ")
