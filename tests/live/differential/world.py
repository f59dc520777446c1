"""What both sides are played on: accounts, schemas made anew for every example, and when a session has gone."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from tests.conftest import Proxy
from tests.servers import Server, wait_until

from .wire import ACCOUNTS, DIRECT, PASSWORD, POOLED

_SIDES = (DIRECT.decode(), POOLED.decode())
_PROGRAMS = (
    "CREATE PROCEDURE {0}.give(i INT) SELECT i, i + 1 AS more",
    "CREATE PROCEDURE {0}.twice(i INT, OUT o INT) BEGIN SELECT i; SET o = 2 * i; END",
    "CREATE PROCEDURE {0}.make_temporary() CREATE TEMPORARY TABLE tmp SELECT 1 AS id, 'by CALL' AS v",
    "CREATE PROCEDURE {0}.take_lock(name VARCHAR(60)) SELECT GET_LOCK(name, 0)",
    "CREATE PROCEDURE {0}.set_things() BEGIN SET @a = 7; SET SESSION sql_notes = 0; SET time_zone = '+09:00'; END",
    "CREATE PROCEDURE {0}.fail(i INT) BEGIN SELECT 1; SET @b = i; SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'p'; END",
    "CREATE PROCEDURE {0}.begin_one(i INT) BEGIN START TRANSACTION; SELECT COUNT(*) FROM shared; END",
    "CREATE FUNCTION {0}.plus_one(i INT) RETURNS INT DETERMINISTIC NO SQL RETURN i + 1",
    "CREATE FUNCTION {0}.remember(i INT) RETURNS INT DETERMINISTIC NO SQL BEGIN SET @remembered = i; RETURN i; END",
)
_TABLES = (
    "CREATE TABLE {0}.shared (id INT PRIMARY KEY, v VARCHAR(20))",
    "INSERT INTO {0}.shared VALUES (1, 'x1'), (2, 'y2'), (3, 'x3'), (4, NULL), (5, RIGHT('{0}', 3))",
    "CREATE VIEW {0}.a_view AS SELECT id, v FROM {0}.shared",
)
_MORE_TABLES = (
    "CREATE TABLE {0}.child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES {0}.shared (id))",
    "CREATE TABLE {0}.all_types (a BIGINT, b INT, c VARCHAR(20), d DECIMAL(8,2), e VARCHAR(30), f DATETIME, g DOUBLE)",
    "INSERT INTO {0}.all_types VALUES (1, 2, 'c', 4.5, 'e', '2020-01-02 03:04:05', 0.5), (NULL,3,'',0,NULL,NULL,NULL)",
    "CREATE TABLE {0}.triggering (id INT AUTO_INCREMENT PRIMARY KEY, v INT)",
    "CREATE TRIGGER {0}.remembers BEFORE INSERT ON {0}.triggering FOR EACH ROW SET @by_trigger = NEW.v",
)
_SEQUENCE = "CREATE SEQUENCE {0}.seq NOCACHE"
_OWN_TABLES = (
    "CREATE TABLE {0}.s{1} (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20), u INT UNIQUE)",
    "CREATE TABLE {0}.m{1} (id INT AUTO_INCREMENT PRIMARY KEY, v CHAR(1)) ENGINE={2}",
)


class World:
    """The server with its accounts; use as a context."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.mariadb = server.flavour == "mariadb"
        self._root: Any = None

    def __enter__(self) -> World:
        self._root = self.server.admin()
        self.run("CREATE ROLE zq_role")
        for account in ACCOUNTS:
            self.run(f"CREATE USER {account}@'%' IDENTIFIED BY '{PASSWORD}'", f"GRANT zq_role TO {account}@'%'")
            self.run(*(f"GRANT ALL ON {side}_{one}.* TO {account}@'%'" for side in _SIDES for one in ("one", "two")))
        return self

    def __exit__(self, *_: object) -> None:
        names = ", ".join(f"{account}@'%'" for account in ACCOUNTS)
        self.run(f"DROP USER {names}", "DROP ROLE zq_role", *self._drops())
        self._root.close()

    def run(self, *statements: str) -> Any:
        """Run statements as root; the rows of the last."""
        with self._root.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()

    def _drops(self) -> list[str]:
        return [f"DROP DATABASE IF EXISTS {side}_{one}" for side in _SIDES for one in ("one", "two")]

    def make_schemas(self, sessions: int) -> None:
        """Drop what is there, make everything anew, for both sides."""
        self.run(*self._drops())
        for side in _SIDES:
            first = (*_TABLES, *_MORE_TABLES, *_PROGRAMS, *((_SEQUENCE,) if self.mariadb else ()))
            for schema, tables in ((f"{side}_one", first), (f"{side}_two", _TABLES)):
                self.run(f"CREATE DATABASE {schema} CHARSET utf8mb4", *(text.format(schema) for text in tables))
                own = _OWN_TABLES if schema.endswith("one") else _OWN_TABLES[:1]
                # MySQL warns of an InnoDB table behind a MyISAM one, whoever had the connection for that.
                engine = "MyISAM" if self.mariadb else "InnoDB"
                self.run(*(text.format(schema, n, engine) for n in range(sessions) for text in own))

    def end_branches(self) -> None:
        """Roll prepared XA branches back, which outlive their sessions."""
        for _, length, _, name in self.run("XA RECOVER"):
            with contextlib.suppress(Exception):
                self.run(f"XA ROLLBACK '{name[:length].decode() if isinstance(name, bytes) else name[:length]}'")

    # When somebody has gone

    def thread_gone(self, ident: int) -> None:
        """Wait until the server has forgotten a connection, and with it everything it held."""
        question = f"SELECT COUNT(*) FROM information_schema.processlist WHERE id = {ident}"
        wait_until(lambda: not self.run(question)[0][0], 15.0, f"connection {ident} has gone")

    def session_variables(self) -> list[str]:
        """The names of all variables that a session has, in order."""
        names = [row[0] for row in self.run("SHOW SESSION VARIABLES")]
        return sorted(name for name in names if self._is_of_session(name))

    def _is_of_session(self, name: str) -> bool:
        with contextlib.suppress(Exception):
            self.run(f"SELECT @@session.`{name}`")
            return True
        return False


def at_rest(proxy: Proxy, leased: int, clients: int | None = None) -> None:
    """Wait until the pooler has taken in that a client has left: nothing is reset or closed, no more is leased."""

    def rests() -> bool:
        numbers = _states(proxy)
        in_use = numbers.get(b'backends{state="leased"}', 0)
        moving = numbers.get(b'backends{state="resetting"}', 0) + numbers.get(b'backends{state="closing"}', 0)
        have = sum(value for name, value in numbers.items() if name.startswith(b"clients{"))
        return not moving and in_use <= leased and (clients is None or have <= clients)

    try:
        wait_until(rests, 15.0, "the pooler comes to rest", every=0.002)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {_states(proxy)}") from None


def _states(proxy: Proxy) -> dict[bytes, float]:
    """What `/metrics` says of clients and backends."""
    with socket.create_connection((proxy.host, proxy.http_port), timeout=10) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        body = b"".join(_chunks(sock))
    found = {}
    for line in body.splitlines():
        if line.startswith((b"mybouncer_backends{", b"mybouncer_clients{")):
            name, _, value = line.removeprefix(b"mybouncer_").rpartition(b" ")
            found[name] = float(value)
    return found


def _chunks(sock: socket.socket) -> Iterator[bytes]:
    while data := sock.recv(1 << 18):
        yield data
