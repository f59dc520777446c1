"""A pooler whose server is listened to."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from tests.conftest import Proxy
from tests.live.scripts import Play
from tests.live.wiretap import Sightings, Wiretap
from tests.servers import Server

ACCOUNT = ("seen", "seen-secret")
SCHEMA = "seen"

WORLD = (
    "CREATE DATABASE seen",
    "CREATE DATABASE seen_two",
    "CREATE USER seen@'%' IDENTIFIED BY 'seen-secret'",
    "GRANT ALL ON seen.* TO seen@'%'",
    "GRANT ALL ON seen_two.* TO seen@'%'",
    "USE seen",
    "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT UNIQUE) ENGINE=InnoDB",
    "INSERT INTO t VALUES (1, 1)",
    "CREATE PROCEDURE nothing() DO 0",
)
WORLDS_END = ("DROP DATABASE seen", "DROP DATABASE seen_two", "DROP USER seen@'%'")


# Once a minute the pooler asks the server about itself, and forgets what `SET NAMES` has come to: not on this stage.
_YOUNG = 40.0


class Stage:
    """Scripts are played on it; `sightings` are what the server saw. The server has the `WORLD`, and its log on."""

    def __init__(self, server: Server, proxy: Callable[..., Proxy], *, max_connections: int) -> None:
        self.server = server
        self._proxy = proxy
        self._max_connections = max_connections
        self._open()

    def _open(self) -> None:
        self._opened = time.monotonic()
        self._tap = Wiretap(self.server.port)
        # What is encrypted cannot be listened to.
        options = {"queue__timeout": "5s", "tls__backend__mode": "disabled"}
        self.pooler = self._proxy(self._tap.url, max_connections=self._max_connections, **options)
        self.sightings = Sightings(self.server, self._tap)

    def close(self) -> None:
        """End the pooler."""
        self.pooler.stop()
        self.sightings.close()
        self._tap.close()

    def begin(self) -> None:
        """Bring the connection into the state of a new session, and forget what came before."""
        if time.monotonic() - self._opened > _YOUNG:
            self.close()
            self._open()
        with closing(self._play()) as play:
            play.run(["x> SELECT GET_LOCK('x', 0), 1", "x> COM_QUIT"])  # costs a reset
            play.run(["x> SELECT 1", "x> COM_QUIT"])
        self.sightings.begin()

    def play(self, script: list[str]) -> list[str]:
        """Play a script; what happened."""
        self.begin()
        with closing(self._play()) as play:
            play.run(script)
            return play.lines()

    def _play(self) -> Play:
        return Play(self.pooler, self.sightings, ACCOUNT, SCHEMA)
