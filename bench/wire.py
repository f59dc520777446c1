"""A client that costs next to nothing, so that thousands of them fit into one process; run as a process of its own.

    python -m bench.wire crowd PORT USER CLIENTS STATEMENT REPEAT
    python -m bench.wire idle PORT USER CLIENTS

It logs everybody in, says `{"ready": …}`, waits for a line on its standard input, does its work, says what came of it
as one line of JSON, and goes away at the end of its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import uvloop

from bench.processes import raise_descriptor_limit
from proxy.address import Address
from proxy.relay.connect import Dialer, Refused
from proxy.wire import constants as c
from proxy.wire.auth import Secret
from proxy.wire.framing import frame
from proxy.wire.packets import parse_err

_AT_ONCE = 50  # logins under way: a listening socket's queue is not what is measured here
_UTF8MB4 = 45


class Client(asyncio.Protocol):
    """A logged-in connection that executes a statement and follows the answer to its end."""

    __slots__ = ("_answered", "_buffer", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._buffer = b""
        self._answered: asyncio.Future[str] | None = None

    def execute(self, command: bytes) -> asyncio.Future[str]:
        """Send a COM_QUERY that answers with one row set; the result is "" or the error."""
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(command)
        return self._answered

    def data_received(self, data: bytes) -> None:
        """Answers here are small: look at what has come as a whole."""
        data = self._buffer = self._buffer + data
        pos, last = 0, b""
        while len(data) - pos >= 4:
            size = int.from_bytes(data[pos : pos + 3], "little")
            if len(data) - pos - 4 < size:
                return
            last = data[pos + 4 : pos + 4 + size]
            pos += 4 + size
        if pos == len(data) and last[0] in (0xFE, 0xFF):
            self._buffer = b""
            error = parse_err(last) if last[0] == 0xFF else None
            self._end(f"{error.code} {error.message.decode()}" if error else "")

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody may go before the end."""
        self._end(f"connection lost: {exc}")

    def _end(self, what: str) -> None:
        answered, self._answered = self._answered, None
        if answered is not None and not answered.done():
            answered.set_result(what)


async def log_in(port: int, user: str, count: int) -> list[Client]:
    """Log `count` clients in; raises what the first failure says."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one() -> Client:
        async with gate:
            dialer = Dialer(Address("127.0.0.1", port))
            login = await dialer.connect(user.encode(), Secret.of(f"{user}-secret".encode()), 0, _UTF8MB4, [])
        client = Client(login.transport)
        login.transport.set_protocol(client)
        return client

    first = await one()  # the one that proves the password; the others find it known
    return [first, *await asyncio.gather(*(one() for _ in range(count - 1)))]


async def crowd(port: int, user: str, count: int, statement: str, repeat: int) -> None:
    """Everybody executes the statement `repeat` times, all at once."""
    command = frame(bytes((c.COM_QUERY,)) + statement.encode())
    errors: Counter[str] = Counter()
    waits: list[float] = []

    async def work(client: Client) -> None:
        for _ in range(repeat):
            began = time.monotonic()
            error = await client.execute(command)
            waits.append(time.monotonic() - began)
            if error:
                errors[error] += 1

    clients = await log_in(port, user, count)
    say(ready=len(clients))
    await _line()
    began = time.monotonic()
    await asyncio.gather(*map(work, clients))
    say(seconds=time.monotonic() - began, statements=len(waits), errors=dict(errors), slowest=max(waits))
    await _line()


async def idle(port: int, user: str, count: int) -> None:
    """Everybody logs in; later each executes one statement. One has done both before: what is needed once is there."""
    command = frame(bytes((c.COM_QUERY,)) + b"SELECT 1")
    first = await log_in(port, user, 1)
    await first[0].execute(command)
    say(ready=1)
    await _line()
    began = time.monotonic()
    others = await log_in(port, user, count)
    say(seconds=time.monotonic() - began, clients=len(others))
    await _line()
    failed = [error for error in await asyncio.gather(*(client.execute(command) for client in others)) if error]
    say(statements=len(others), errors=len(failed))
    await _line()


async def _line() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def say(**values: Any) -> None:
    """One line of JSON for who started this process."""
    print(json.dumps(values), flush=True)


def main(name: str, *arguments: str) -> int:
    """The process's entry."""
    port, user, count = int(arguments[0]), arguments[1], int(arguments[2])
    raise_descriptor_limit(count + 100)
    work = idle(port, user, count) if name == "idle" else crowd(port, user, count, arguments[3], int(arguments[4]))
    try:
        uvloop.run(work)
    except (Refused, OSError) as error:
        say(failed=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
