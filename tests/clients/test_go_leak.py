"""The leaking program in real Go: it fails on the server, and does not through the proxy."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Proxy
from tests.servers import Server

DEADLINE = 60


@pytest.fixture(scope="module")
def crowded(server: Server) -> Iterator[Server]:
    """The server with 100 connections allowed, and the table to read."""
    rows = ", ".join(f"({i}, 'row {i}')" for i in range(400))
    ((allowed,),) = server.execute("SELECT @@global.max_connections")
    server.execute(
        "SET GLOBAL max_connections = 100",
        "CREATE TABLE test.leak (id INT PRIMARY KEY, v VARCHAR(20))",
        f"INSERT INTO test.leak VALUES {rows}",
    )
    yield server
    server.execute(f"SET GLOBAL max_connections = {allowed}", "DROP TABLE test.leak")


def _run(go_leak: Path, port: int, *flags: str) -> dict[str, int]:
    dsn = f"app:app-secret@tcp(127.0.0.1:{port})/test"
    done = subprocess.run([go_leak, "-dsn", dsn, *flags], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode in (0, 1), done.stderr
    pairs = (word.partition("=") for word in done.stdout.split())
    return {name: int(value) for name, _, value in pairs}


def _connections_of_app(server: Server) -> int:
    return int(server.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'")[0][0])


class _Watch:
    """Notes the most connections of the account that the server has at a time."""

    def __init__(self, server: Server) -> None:
        self.most = self.looks = 0
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        with self._server.admin() as connection, connection.cursor() as cursor:
            while not self._stop.wait(0.01):
                cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'")
                self.most = max(self.most, cursor.fetchone()[0])
                self.looks += 1

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()


def test_straight_at_the_server_the_leak_uses_up_its_connections(go_leak: Path, crowded: Server) -> None:
    result = _run(go_leak, crowded.port)
    assert 0 < result["succeeded"] <= 101, result
    assert result["succeeded"] + result["error_1040"] == 300, result


@pytest.mark.parametrize(("interpolate", "read"), [("false", 1), ("true", 0)], ids=["prepared", "text"])
def test_through_the_proxy_every_query_of_the_leak_succeeds(
    go_leak: Path, crowded: Server, proxy: Callable[..., Proxy], interpolate: str, read: int
) -> None:
    pooler = proxy(crowded, max_connections=8)
    with _Watch(crowded) as watch:
        result = _run(go_leak, pooler.port, f"-read={read}", f"-interpolate={interpolate}")
    assert result == {"iterations": 300, "succeeded": 300, "open": 300}
    assert watch.looks > 0
    assert 0 < watch.most <= 8
    metrics = pooler.metrics()
    assert metrics["mybouncer_backend_connects_total"] <= 8
    assert metrics["mybouncer_client_connections_total"] == 300
    assert metrics["mybouncer_queue_timeouts_total"] == 0
    pooler.wait_for_metric('mybouncer_clients{state="idle"}', 0)
    assert _connections_of_app(crowded) <= 8
