"""A server that does not run for a while (SIGSTOP): its kernel takes everything, and nothing answers."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.tags import connect
from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.live.raw import ServerError as Refused
from tests.servers import Server, wait_until

Start = Callable[..., Proxy]


def has_stopped(pid: int) -> bool:
    """Whether every thread stands still. One takes the signal and stops the others: until then, they go on."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended in the meantime
            if (task / "stat").read_text().rpartition(")")[2].split()[0] != "T":
                return False
    return True


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: has_stopped(server.pid), 10.0, "the server stands still")
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def quickly(proxy: Proxy, path: str, seconds: float = 2.0) -> tuple[int, str]:
    """What a request is answered with; the pooler itself is not stopped."""
    begun = time.monotonic()
    answer = proxy.get(path)
    assert time.monotonic() - begun < seconds, f"{path} is slow"
    return answer


def abandoned_handshakes(server: Server) -> int:
    """How many connections have ended before their login; MySQL counts refused logins with them, so nothing there."""
    rows = server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_connects_preauth'")
    return int(rows[0][1]) if rows else 0


def tags(server: Server) -> list[str]:
    return [str(tag) for (tag,) in server.execute("SELECT tag FROM chaos.tags ORDER BY tag")]


def test_what_was_sent_is_done_once_when_the_server_goes_on_and_what_waits_is_served_then(
    world: Server, shared_proxy: Start
) -> None:
    pooler = shared_proxy(
        world, max_connections=2, backend__connect_timeout="300ms", queue__timeout_down="1s", listen__login_timeout="1s"
    )
    clients = [connect(pooler) for _ in range(4)]
    for client in clients[:2]:
        client.ok("BEGIN")
    for client in clients[:2]:
        client.ok("COMMIT")
    with stopped(world):
        for number, client in enumerate(clients):
            client.send_query(f"INSERT INTO tags VALUES ('{number}')")
        pooler.wait_for_metric('mybouncer_clients{state="waiting"}', 2)
        with pytest.raises(Refused) as told:
            Raw(pooler, "app2", "app2-secret", timeout=10.0)
        assert told.value.err.code in (1040, 2003)
        assert b"listen.login_timeout" in told.value.err.message or b"Can't connect" in told.value.err.message
        assert not any(client.has_answer() for client in clients), "nobody has an answer, and nobody is given up"
        for path in ("/healthz", "/metrics", "/readyz"):
            quickly(pooler, path)
    for client in clients:
        assert client.answer().error is None
        client.quit()
    assert tags(world) == ["0", "1", "2", "3"]


def test_while_no_connection_can_be_opened_clients_are_told_and_afterwards_it_goes_on_at_once(
    world: Server, shared_proxy: Start
) -> None:
    pooler = shared_proxy(
        world,
        max_connections=1,
        backend__connect_timeout="200ms",
        queue__timeout_down="700ms",
        pool__idle_timeout="1ms",
    )
    abandoned = abandoned_handshakes(world)
    with connect(pooler) as client:
        pooler.wait_for_metric('mybouncer_backends{state="idle"}', 0)
        with stopped(world):
            refused = client.query("INSERT INTO tags VALUES ('never')").error
            assert refused is not None
            assert (refused.code, refused.state) == (2003, b"HY000")
            assert refused.message == f"Can't connect to MySQL server on '127.0.0.1:{world.port}' (timed out)".encode()
            assert quickly(pooler, "/readyz")[0] == 503
            assert quickly(pooler, "/healthz")[0] == 200
            client.send_query("INSERT INTO tags VALUES ('served')")
            pooler.wait_for_metric('mybouncer_clients{state="waiting"}', 1)
        assert client.answer().error is None
        client.quit()
    assert tags(world) == ["served"]
    assert abandoned_handshakes(world) == abandoned, "after max_connect_errors of them our host would be blocked"


def test_who_waits_in_vain_is_told_that_the_server_does_not_answer(world: Server, shared_proxy: Start) -> None:
    pooler = shared_proxy(world, max_connections=1, queue__timeout="4s")
    with connect(pooler) as running, connect(pooler) as waiting:
        running.ok("BEGIN")
        running.ok("COMMIT")
        with stopped(world):
            running.send_query("INSERT INTO tags VALUES ('late')")
            pooler.wait_for_metric('mybouncer_clients{state="leased"}', 1)
            refused = waiting.query("INSERT INTO tags VALUES ('never')").error
            assert refused is not None
            assert (refused.code, refused.state) == (1040, b"08004")
            assert b"1 running; 0 waiting; the server has not answered for " in refused.message
        assert running.answer().error is None
        assert waiting.query("INSERT INTO tags VALUES ('served')").error is None
    assert tags(world) == ["late", "served"]
