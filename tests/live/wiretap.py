"""What reached the server: the commands on the connections of a pooler, in order, and which of them came together.

The server's general log says what a server has seen, but not everything: neither COM_RESET_CONNECTION, COM_SET_OPTION,
COM_PING nor COM_PROCESS_KILL, on MySQL no statement that it cannot parse, and of several commands not whether they came
in one write. So the pooler reaches its server through a relay that writes down every command, and `Sightings` brings
the two together: what the log can show has to be in it, in the same order and in the same words, and nothing else.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.wire import constants as c
from proxy.wire.framing import PacketReader
from proxy.wire.packets import Greeting
from tests.servers import Server, wait_until

# What the general log calls the commands that it shows.
_LOGGED = {
    c.COM_QUERY: "Query",
    c.COM_INIT_DB: "Init DB",
    c.COM_STMT_PREPARE: "Prepare",
    c.COM_STMT_EXECUTE: "Execute",
    c.COM_STMT_CLOSE: "Close stmt",
    c.COM_STMT_RESET: "Reset stmt",
    c.COM_STMT_SEND_LONG_DATA: "Long Data",
    c.COM_STATISTICS: "Statistics",
    c.COM_QUIT: "Quit",
}
_NAMES = {
    value: name
    for name, value in vars(c).items()
    if name.startswith("COM_") and isinstance(value, int) and name != "COM_QUERY"
}

Log = deque[tuple[str, str]]  # of one connection: kinds and texts


class Disagreement(AssertionError):
    """The general log and the wire do not tell the same."""


@dataclass(frozen=True)
class Command:
    """One command on one of the connections to the server, or the beginning of that connection (no payload)."""

    thread_id: int
    payload: bytes
    begins: bool  # a write: what came before it had been answered

    @property
    def kind(self) -> int:
        return self.payload[0] if self.payload else -1

    @property
    def text(self) -> str:
        return self.payload[1:].decode("utf-8", "replace")


class Wiretap:
    """Listens on a port of its own and passes on to `port`; `commands` are in the order in which they came."""

    host = "127.0.0.1"

    def __init__(self, port: int) -> None:
        self._target = port
        self.commands: list[Command] = []
        self.ended: set[int] = set()  # thread ids of connections that are gone
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server((self.host, 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End all connections, and listen no more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    @property
    def url(self) -> str:
        return f"mysql://{self.host}:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection((self.host, self._target))
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += (client, server)
                line = _Line(self)
                for source, sink, note in ((client, server, line.from_client), (server, client, line.from_server)):
                    threading.Thread(target=line.pass_on, args=(source, sink, note), daemon=True).start()


class _Line:
    """One connection. A packet with the sequence id 0 begins a command; the client's login has others."""

    def __init__(self, tap: Wiretap) -> None:
        self._tap = tap
        self._thread_id = 0
        self._answered = True
        self._greeting = PacketReader(1 << 16, strict=False)
        self._buffer = b""

    def pass_on(self, source: socket.socket, sink: socket.socket, note: Callable[[bytes], None]) -> None:
        """Write down what comes from `source` before it goes on."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                note(data)
                sink.sendall(data)
        self._tap.ended.add(self._thread_id)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def from_server(self, data: bytes) -> None:
        self._answered = True
        if not self._thread_id:
            self._greeting.feed(data)
            packet = self._greeting.next_packet()
            if packet is not None:
                self._thread_id = Greeting.parse(packet).thread_id
                self._tap.commands.append(Command(self._thread_id, b"", True))

    def from_client(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:3], "little")
            if len(self._buffer) < 4 + size:
                return
            if self._buffer[3] == 0:
                self._tap.commands.append(Command(self._thread_id, self._buffer[4 : 4 + size], self._answered))
                self._answered = False
            self._buffer = self._buffer[4 + size :]


class Sightings:
    """What a server saw through a wiretap since `begin`."""

    def __init__(self, server: Server, tap: Wiretap) -> None:
        self._admin = server.admin()
        self._tap = tap
        self._start = 0
        self._threads: list[int] = []

    def close(self) -> None:
        """Ask no more."""
        self._admin.close()

    def begin(self) -> None:
        """Forget what came before. Nothing may be under way; the pool's connections stay open."""
        commands = self._tap.commands
        self._start = len(commands)
        threads = dict.fromkeys(command.thread_id for command in commands)
        self._threads = [thread for thread in threads if thread not in self._tap.ended]
        self._ask("TRUNCATE TABLE mysql.general_log")

    @property
    def count(self) -> int:
        """How many commands there are by now."""
        return len(self._tap.commands) - self._start

    def lines(self, not_logged: frozenset[str] = frozenset()) -> list[str]:
        """Every command, as the general log has it; `not_logged` are texts that may not be in it.

        A `+` in front says: together with the one before it. From the second connection on they have a number.
        """
        commands = self._tap.commands[self._start :]
        found: list[str] = []
        complaint: list[str] = []

        def agree() -> bool:
            found.clear()
            complaint.clear()
            logs = self._logs()
            try:
                found.extend(_shown(command, logs[command.thread_id], not_logged) for command in commands)
                left = {thread: list(log) for thread, log in logs.items() if log}
                if left:
                    raise Disagreement(f"only in the general log: {left}")
            except Disagreement as why:
                complaint.append(str(why))
            return not complaint

        # What has no answer gets into the log a little later.
        with contextlib.suppress(TimeoutError):
            wait_until(agree, 5, "the general log has everything")
        if complaint:
            raise Disagreement(f"{complaint[0]}; before it came {found}")
        threads = self._all_threads()
        numbers = [threads.index(command.thread_id) + 1 for command in commands]
        return [
            ("" if command.begins else "+ ") + (f"({number}) " if number > 1 else "") + line
            for command, number, line in zip(commands, numbers, found, strict=True)
        ]

    def _all_threads(self) -> list[int]:
        later = (command.thread_id for command in self._tap.commands[self._start :])
        return list(dict.fromkeys([*self._threads, *later]))

    def _logs(self) -> dict[int, Log]:
        logs: dict[int, Log] = {thread: deque() for thread in self._all_threads()}
        for thread, kind, argument in self._ask("SELECT thread_id, command_type, argument FROM mysql.general_log"):
            text = argument.decode() if isinstance(argument, bytes) else argument
            # A USE that fails has one more entry, with the error.
            if thread in logs and kind != "Connect" and not (kind == "Init DB" and text.startswith("Access denied")):
                logs[thread].append((kind, text))
        return logs

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        with self._admin.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())


def _shown(command: Command, log: Log, not_logged: frozenset[str]) -> str:
    """The line for a command, whose entries are taken from the log."""
    name = _NAMES.get(command.kind, "connect")
    if command.text in not_logged and not (log and log[0][1] == command.text):
        return command.text if command.kind == c.COM_QUERY else f"{name} {command.text}"
    if command.kind == c.COM_QUERY:
        _take_query(command.text, log)
        return command.text
    if command.kind in _LOGGED:
        kind, text = log.popleft() if log else ("nothing", "")
        if kind != _LOGGED[command.kind] or (text and command.kind != c.COM_STMT_EXECUTE and text != command.text):
            raise Disagreement(f"{name} {command.text!r} is {kind} {text!r} in the general log")
        return f"{name} {text}".rstrip()
    if command.kind == c.COM_SET_OPTION:
        return f"{name} {command.payload[1]}"
    return name


def _take_query(text: str, log: Log) -> None:
    """MySQL has an entry for each statement of a text; both have one more for what PREPARE and EXECUTE name."""
    text = rest = text.strip()
    if log and text.startswith("PREPARE ") and log[0][1].endswith(" FROM ..."):  # how MySQL writes it
        rest = log[0][1]
    while log and log[0][0] == "Query" and log[0][1] and rest.startswith(log[0][1]):
        rest = rest[len(log.popleft()[1]) :].lstrip("; ")
        if not rest:
            break
    if rest:
        raise Disagreement(f"{rest!r} is not in the general log, but {list(log)[:1]}")
    if text.startswith(("PREPARE", "EXECUTE")) and log and log[0][0] in ("Prepare", "Execute"):
        log.popleft()
