"""Executions, counted: every INSERT has a tag of its own, and nothing keeps the same tag from being there twice."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator

from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.servers import Server, wait_until

ACCOUNT = ("chaos", "chaos-secret")
SCHEMA = (
    "CREATE DATABASE chaos",
    "CREATE USER chaos@'%' IDENTIFIED BY 'chaos-secret'",
    "GRANT ALL ON chaos.* TO chaos@'%'",
    "CREATE TABLE chaos.tags (tag VARCHAR(40) NOT NULL, KEY (tag))",
    "CREATE TABLE chaos.one (id INT PRIMARY KEY)",
    "INSERT INTO chaos.one VALUES (1)",
)

# What the end of a connection looks like to a statement that was on it.
LOST = {2013, 1053, 1317, 1927}


def connect(proxy: Proxy, *, timeout: float = 30.0) -> Raw:
    return Raw(proxy, *ACCOUNT, "chaos", timeout=timeout)


def connections(server: Server) -> list[int]:
    """The ids of our connections on the server."""
    rows = server.execute("SELECT id FROM information_schema.processlist WHERE user = 'chaos'")
    return [int(ident) for (ident,) in rows]


class Load:
    """Clients that insert one tag after the other, for as long as they are let."""

    def __init__(self, proxy: Proxy, clients: int) -> None:
        self.done: list[str] = []
        self.lost: list[str] = []
        self.errors: Counter[int] = Counter()
        self._answered = [0.0] * clients  # when each of them got an answer last
        self._proxy = proxy
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(clients)]

    def _work(self, number: int) -> None:
        with connect(self._proxy, timeout=60.0) as client:
            for serial in itertools.count():
                if self._stop.is_set():
                    break
                tag = f"{number}-{serial}"
                error = client.query(f"INSERT INTO tags VALUES ('{tag}')").error
                if error is None:
                    self._answered[number] = time.monotonic()
                    self.done.append(tag)
                else:
                    self.lost.append(tag)
                    self.errors[error.code] += 1
            client.quit()

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        """While the block runs."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in self._threads), "a client hangs"

    def wait_for_everybody(self) -> float:
        """Until every client has got something done from now on; the seconds that took."""
        begun = time.monotonic()
        wait_until(lambda: min(self._answered) > begun, 30.0, "everybody is served again")
        return max(self._answered) - begun

    def check(self, server: Server) -> None:
        """What was answered with OK was done once; what was lost, once or never; nothing else."""
        found = Counter(tag for (tag,) in server.execute("SELECT tag FROM chaos.tags"))
        assert self.done, "nothing was done"
        assert not [tag for tag, times in found.items() if times > 1], "executed twice"
        assert not set(self.done) - found.keys(), "answered, but not there"
        assert found.keys() <= {*self.done, *self.lost}, "there, but nobody asked for it"
