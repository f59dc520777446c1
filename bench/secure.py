"""Clients that speak TLS, with one context for all of them; run as a process of its own.

    python -m bench.secure idle PORT mysql|at-once CLIENTS
    python -m bench.secure run PORT mysql|at-once CLIENTS SECONDS STATEMENT
    python -m bench.secure connect PORT pymysql|socket|resuming SECONDS

TLS begins where the protocol has it, behind a request, or at once, as before a terminator that knows no MySQL.
A process says `{"ready": …}`, waits for a line on its standard input, does its work and says what came of it.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time
from typing import cast

import pymysql

from bench.processes import PASSWORD, SCHEMA, USER, raise_descriptor_limit
from bench.wire import say
from tests.live.raw import Raw, ServerError, Target

LARGE = "SELECT REPEAT('x', 102400)"


class _Port:
    host = "127.0.0.1"

    def __init__(self, port: int) -> None:
        self.port = port


class Client(Raw):
    """A logged-in connection. Answers are read by their size, which is always the first one's."""

    def __init__(self, port: int, context: ssl.SSLContext, *, at_once: bool) -> None:
        self._at_once = context if at_once else None
        super().__init__(_Port(port), USER, PASSWORD, SCHEMA, tls=None if at_once else context, timeout=60)
        self.size = 0

    def _connect(self, target: Target, timeout: float) -> socket.socket:
        sock = super()._connect(target, timeout)
        return self._at_once.wrap_socket(sock) if self._at_once is not None else sock

    def measure(self, statement: str) -> None:
        """Execute the statement once, strictly, and note how long its answer is."""
        self.send_query(statement)
        self.expect_answer()
        packets = [self.read_packet() for _ in range(3)]
        while packets[-1][0] != 0xFE:
            packets.append(self.read_packet())
        self.size = sum(4 + len(packet) for packet in packets)

    def read(self) -> None:
        """Take an answer off the socket."""
        got = 0
        while got < self.size:
            data = self.sock.recv(1 << 17)
            if not data:
                raise EOFError("connection lost in an answer")
            got += len(data)


def context() -> ssl.SSLContext:
    """Of a client that asks for TLS and checks nothing."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


class Resuming:
    """A context whose connections resume the session of the one before."""

    def __init__(self, version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> None:
        self._context = context()
        self._context.maximum_version = version
        self._session: ssl.SSLSession | None = None
        self.resumed = 0

    def wrap_socket(self, sock: socket.socket) -> ssl.SSLSocket:
        secured = self._context.wrap_socket(sock, session=self._session)
        self.resumed += bool(secured.session_reused)
        return secured

    def keep(self, sock: socket.socket) -> None:
        """The connection is about to end: with TLS 1.3 its ticket is there by now."""
        assert isinstance(sock, ssl.SSLSocket)
        self._session = sock.session


def idle(port: int, way: str, count: int) -> None:
    """One client, then the others; each gets an answer of 100 KB, and does nothing more."""
    raise_descriptor_limit(count + 100)
    one = context()
    clients = [Client(port, one, at_once=way == "at-once")]
    clients[0].measure(LARGE)
    say(ready=1)
    sys.stdin.readline()
    clients += [Client(port, one, at_once=way == "at-once") for _ in range(count)]
    say(clients=count)
    sys.stdin.readline()
    for client in clients[1:]:
        client.measure(LARGE)
    say(statements=count)
    sys.stdin.readline()


def run(port: int, way: str, count: int, seconds: float, statement: str) -> None:
    """Everybody executes the statement for so many seconds: all ask, then each answer is read."""
    one = context()
    clients = [Client(port, one, at_once=way == "at-once") for _ in range(count)]
    for client in clients:
        client.measure(statement)
    say(ready=count)
    sys.stdin.readline()
    statements, began = 0, time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        for client in clients:
            client.send_query(statement)
        for client in clients:
            client.read()
        statements += count
    say(count=statements, seconds=now - began)
    sys.stdin.readline()


def connect(port: int, client: str, seconds: float) -> None:
    """One after the other: connect, a statement, quit."""
    one, resuming = context(), Resuming()

    def with_pymysql() -> None:
        connection = pymysql.connect(
            host="127.0.0.1", port=port, user=USER, password=PASSWORD, database=SCHEMA, ssl=one, autocommit=None
        )
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchall()
        connection.close()

    def with_socket() -> None:
        with Client(port, one, at_once=False) as connection:
            connection.measure("SELECT 1")

    def with_resumption() -> None:
        with Client(port, cast(ssl.SSLContext, resuming), at_once=False) as connection:
            connection.measure("SELECT 1")
            resuming.keep(connection.sock)

    once = {"pymysql": with_pymysql, "socket": with_socket, "resuming": with_resumption}[client]
    once()
    say(ready=1)
    sys.stdin.readline()
    count, began, cpu = 0, time.monotonic(), time.process_time()
    while (now := time.monotonic()) < began + seconds:
        once()
        count += 1
    if client == "resuming" and resuming.resumed != count:
        say(failed=f"{resuming.resumed} of {count} connections resumed their session")
        return
    say(count=count, seconds=now - began, cpu=time.process_time() - cpu)
    sys.stdin.readline()


def main(name: str, port: str, *rest: str) -> int:
    """The process's entry."""
    try:
        if name == "idle":
            idle(int(port), rest[0], int(rest[1]))
        elif name == "run":
            run(int(port), rest[0], int(rest[1]), float(rest[2]), rest[3])
        else:
            connect(int(port), rest[0], float(rest[1]))
    except (ServerError, pymysql.MySQLError, OSError, EOFError) as error:
        say(failed=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
