"""Many clients in one process, and what the server and the clients see of it.

`Crowd` keeps the clients of many accounts busy and remembers when each got which answer; `Watch` counts connections on
the server all the time. The client itself is the benchmarks': it costs next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any, NamedTuple, Self, TypeVar

import uvloop

from bench.wire import Client, log_in
from proxy.wire import constants as c
from proxy.wire.framing import frame
from tests.servers import Server

T = TypeVar("T")

_APART = 0.05  # seconds between two looks


def run(main: Coroutine[Any, Any, T], deadline: float = 40.0) -> T:
    """Runs the test's own event loop; what hangs, fails."""

    async def bounded() -> T:
        async with asyncio.timeout(deadline):
            return await main

    return uvloop.run(bounded())


class Answer(NamedTuple):
    """What one statement came to: when it was sent, when it was answered, and the error, "" without one."""

    account: str
    client: int
    began: float
    ended: float
    error: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Crowd:
    """The clients of some accounts, each of which executes one statement after the other."""

    def __init__(self) -> None:
        self.clients: dict[str, list[Client]] = {}
        self.answers: list[Answer] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def log_in(self, port: int, **accounts: int) -> None:
        """So many clients of every account, all at once; the passwords are `<account>-secret`."""
        every = await asyncio.gather(*(log_in(port, name, count) for name, count in accounts.items()))
        for name, clients in zip(accounts, every, strict=True):
            self.clients.setdefault(name, []).extend(clients)

    def start(self, sql: str, *accounts: str) -> None:
        """From now on the clients of these accounts (of all) are busy."""
        command = frame(bytes((c.COM_QUERY,)) + sql.encode())
        for name in accounts or self.clients:
            for number, client in enumerate(self.clients[name]):
                self._tasks.append(asyncio.create_task(self._work(name, number, client, command)))

    async def _work(self, name: str, number: int, client: Client, command: bytes) -> None:
        error = ""
        while not error:
            began = time.monotonic()
            error = await client.execute(command)
            self.answers.append(Answer(name, number, began, time.monotonic(), error))

    async def busy(self, seconds: float) -> list[Answer]:
        """Lets them work for a while; gives what was answered meanwhile."""
        before = len(self.answers)
        await asyncio.sleep(seconds)
        return self.answers[before:]

    async def leave(self) -> None:
        """Everybody goes, whatever they wait for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for clients in self.clients.values():
            for client in clients:
                client.transport.abort()
        self.clients.clear()

    @property
    def errors(self) -> Counter[str]:
        return Counter(answer.error for answer in self.answers if answer.error)


def served(answers: list[Answer]) -> Counter[str]:
    """How many statements of every account were answered."""
    return Counter(answer.account for answer in answers)


def percentile(answers: list[Answer], percent: float) -> float:
    """Within how many seconds so many per cent of them were answered."""
    times = sorted(answer.seconds for answer in answers)
    return times[min(len(times) - 1, int(len(times) * percent / 100))]


class Watch:
    """Counts the connections on the server, all the time: the most of every account, and of these `together`.

    What counts is there in two looks: a list of connections is not made at one instant, and a server closes the socket
    some milliseconds before it takes the connection off the list.
    """

    def __init__(self, server: Server, *together: str) -> None:
        self._server = server
        self._together = together
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.forget()

    def _watch(self) -> None:
        with contextlib.closing(self._server.admin()) as admin, admin.cursor() as cursor:
            while not self._done.wait(0.01):
                now = self._look(cursor)
                self.least_together = min(self.least_together, len(now))
                if self._more(now):
                    time.sleep(_APART)
                    self._count(now & self._look(cursor))

    def _look(self, cursor: Any) -> set[tuple[int, str]]:
        cursor.execute("SELECT id, user FROM information_schema.processlist")
        return {(ident, user) for ident, user in cursor.fetchall() if user in self._together}

    def _more(self, now: set[tuple[int, str]]) -> bool:
        counts = Counter(user for _, user in now)
        return len(now) > self.most_together or any(counts[user] > self.most[user] for user in counts)

    def _count(self, now: set[tuple[int, str]]) -> None:
        self.most_together = max(self.most_together, len(now))
        self.most |= Counter(user for _, user in now)

    def forget(self) -> None:
        """The most, and the least, from now on."""
        self.most: Counter[str] = Counter()
        self.most_together = 0
        self.least_together = 1 << 30

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
