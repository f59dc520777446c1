"""A pooler whose server is listened to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

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


class Stage:
    """Scripts are played on it; `sightings` are what the server saw."""

    def __init__(self, server: Server, tap: Wiretap, pooler: Proxy) -> None:
        self.server = server
        self.pooler = pooler
        self.sightings = Sightings(server, tap)

    def begin(self) -> None:
        """Bring the connection into the state of a new session, and forget what came before."""
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


@contextmanager
def staged(server: Server, proxy: Callable[..., Proxy], max_connections: int) -> Iterator[Stage]:
    """A stage with so many connections, before a server that has the `WORLD` and its general log on."""
    with Wiretap(server.port) as tap:
        # What is encrypted cannot be listened to.
        options = {"queue__timeout": "5s", "tls__backend__mode": "disabled"}
        stage = Stage(server, tap, proxy(tap.url, max_connections=max_connections, **options))
        with closing(stage.sightings):
            yield stage
