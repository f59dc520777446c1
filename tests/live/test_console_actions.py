"""What an operator does at the console, on real servers: KILL, PAUSE, RECONNECT, SET, RELOAD, DRAIN, SHUTDOWN."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Proxy
from tests.live.desk import Desk
from tests.live.raw import Raw
from tests.servers import Server, wait_until

Start = Callable[..., Proxy]


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[list[object]]:
    """Does `work` in a thread, and waits for it at the end; its result is in the list then."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    yield results
    thread.join(30)
    assert results, "it has not ended"


def gone(client: Raw) -> bool:
    """Whether the connection was closed."""
    try:
        return client.query("SELECT 1").error is not None
    except (OSError, EOFError, AssertionError):
        return True


def test_a_client_is_killed_with_what_it_runs(desk: tuple[Proxy, Desk], server: Server) -> None:
    pooler, at = desk
    running, idle = Raw(pooler), Raw(pooler)
    running.send_query("SELECT SLEEP(60), 'a victim'")
    query = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app' AND info LIKE '%a victim%'"
    wait_until(lambda: server.execute(query) == [(1,)], 10, "it runs")
    assert "is gone" in at.do(f"KILL CLIENT {running.greeting.thread_id}")
    assert "is gone" in at.do(f"KILL CLIENT {idle.greeting.thread_id}")
    wait_until(lambda: server.execute(query) == [(0,)], 10, "it is killed on the server too")
    assert gone(idle)
    wait_until(lambda: at.stats()["clients"] == 0, 10, "they have left")
    wait_until(lambda: at.stats()["backends_leased"] == 0, 10, "their connections are free")


def test_a_backend_is_killed_and_its_client_is_told(desk: tuple[Proxy, Desk]) -> None:
    pooler, at = desk
    client = Raw(pooler)
    client.send_query("SELECT SLEEP(60)")
    wait_until(lambda: at.stats()["backends_leased"] == 1, 10, "it runs")
    (leased,) = [row for row in at.ask("SHOW BACKENDS") if row["state"] == "leased"]
    assert f"client {client.greeting.thread_id} (app) had it" in at.do(f"KILL BACKEND {leased['id']}")
    error = client.answer().error
    assert error is not None and error.code in (1317, 2013, 1053)
    another = Raw(pooler)
    assert another.get("SELECT 7") == b"7"
    idle = [row["id"] for row in at.ask("SHOW BACKENDS") if row["state"] == "idle"]
    assert idle
    for ident in idle:
        assert "nobody had it" in at.do(f"KILL BACKEND {ident}")
    wait_until(lambda: at.stats()["backends"] == 0, 10, "they are closed")
    another.quit()
    client.vanish()
    wait_until(lambda: at.stats()["clients"] == 0, 10, "they have left")


def test_a_pause_lets_transactions_end_and_nothing_begin(desk: tuple[Proxy, Desk], server: Server) -> None:
    pooler, at = desk
    other = Desk(at.path)
    holder, client = Raw(pooler, database="test"), Raw(pooler, database="test")
    holder.ok("START TRANSACTION")
    client.ok("DO 1")
    connections = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'"
    with meanwhile(lambda: at.do("PAUSE")) as said:
        wait_until(lambda: other.stats()["paused"] == 1, 10, "it is paused")
        client.send_query("SELECT 7")
        assert holder.get("SELECT 8") == b"8"
        holder.ok("COMMIT")
    assert "no connection to the server is open" in str(said[0])
    assert server.execute(connections) == [(0,)]
    assert "paused" in at.about(client.greeting.thread_id)["why"]
    newcomer = Raw(pooler)  # its password is known here
    newcomer.send_query("SELECT 9")
    wait_until(lambda: at.stats()["queue_waiting"] == 2, 10, "both wait")
    assert at.stats()["backends"] == 0
    assert at.do("RESUME") == "resumed; 2 waiting"
    assert (client.answer().value, newcomer.answer().value) == (b"7", b"9")
    assert at.do("RESUME") == "not paused"
    for one in (holder, client, newcomer):
        one.quit()
    other.close()


def test_a_pause_says_what_it_waits_for_in_vain(own_desk: Callable[..., tuple[Proxy, Desk]]) -> None:
    pooler, desk = own_desk(max_connections=2, listen__drain_timeout="200ms", queue__timeout="200ms")
    holder, client = Raw(pooler, database="test"), Raw(pooler)
    holder.ok("START TRANSACTION")
    assert "1 connection still in use after 0.2 s" in desk.do("PAUSE")
    error = client.query("SELECT 1").error
    assert error is not None and error.code == 1040 and b"paused" in error.message
    holder.ok("COMMIT")
    wait_until(lambda: desk.stats()["backends"] == 0, 10, "it came back and is closed")


def test_a_reconnect_replaces_connections_and_keeps_transactions(desk: tuple[Proxy, Desk]) -> None:
    pooler, at = desk
    holder, idle = Raw(pooler, database="test"), Raw(pooler, database="test")
    holder.ok("START TRANSACTION")
    idle.ok("DO 1")
    before = {row["id"] for row in at.ask("SHOW BACKENDS")}
    assert at.do("RECONNECT") == "1 connection closed, 1 as soon as they come back"
    assert holder.get("SELECT 7") == b"7"
    holder.ok("COMMIT")
    assert idle.get("SELECT 8") == b"8"
    wait_until(lambda: not before & {row["id"] for row in at.ask("SHOW BACKENDS")}, 10, "all are new")
    holder.quit()
    idle.quit()


def test_keys_change_while_it_runs(own_desk: Callable[..., tuple[Proxy, Desk]]) -> None:
    pooler, desk = own_desk(max_connections=1)
    holder, client = Raw(pooler, database="test"), Raw(pooler)
    holder.ok("START TRANSACTION")
    client.send_query("SELECT 7")
    wait_until(lambda: desk.stats()["queue_waiting"] == 1, 10, "it waits")
    assert desk.do("SET queue.timeout = '100ms'") == "queue.timeout is 100ms (was 30s), until RELOAD or a restart"
    error = client.answer().error
    assert error is not None and error.code == 1040, "it holds for those who wait already"
    desk.do("set queue.timeout=1m;")
    client.send_query("SELECT 8")
    desk.do("SET pool.max_connections = 2")
    assert client.answer().value == b"8"
    assert desk.stats()["backends_max"] == 2
    desk.do("""SET users."app".max_clients = 2""")
    with pytest.raises(Exception, match="max_clients"):
        Raw(pooler)
    desk.do("SET log.level = 'error'")
    desk.do("SET queue.max_waiting = 7")
    assert "SET queue.max_waiting" not in pooler.log() and 'command="SET queue.timeout" by="uid' in pooler.log()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SET queue.timeout = 3", "the unit is missing; allowed: a duration"),
        ("SET queue.timeot = '3s'", "did you mean timeout?"),
        (
            "SET backend.url = 'mysql://x'",
            "backend.url can only change with a restart; what can be set while it runs: ",
        ),
        ("SET console.password = 'not to be seen'", "console.password can only change with a restart"),
        ("SET session.read_ahead = '1GiB'", "less than session.read_ahead"),
        ("SET queue.timeout '3s'", "sets no key"),
        ("SET users.app.weight = 0", "from 0.001"),
    ],
)
def test_a_bad_value_is_told_with_what_is_allowed(at_mariadb: tuple[Proxy, Desk], text: str, words: str) -> None:
    pooler, desk = at_mariadb
    assert words in desk.error(text)[1]
    assert "not to be seen" not in pooler.log()
    assert {row["key"]: row["value"] for row in desk.ask("SHOW CONFIG")}["queue.timeout"] == "30s"


def test_a_reload_applies_what_can_be_and_names_the_rest(
    own_desk: Callable[..., tuple[Proxy, Desk]], tmp_path: Path
) -> None:
    path = tmp_path / "mybouncer.toml"
    path.write_text('[queue]\ntimeout = "20s"\n[users."app"]\nmax_connections = 1\n')
    pooler, desk = own_desk(max_connections=5, args=["--config", str(path)])
    client = Raw(pooler)
    assert desk.one("SHOW ACCOUNTS")["max_backends"] == 1
    path.write_text(
        '[queue]\ntimeout = "5s"\n[auth]\ncache_ttl = "1m"\n[tls.client]\nmode = "required"\n'
        "[pool]\nmax_connections = 9\n"
    )
    changed = {row["key"]: (row["value"], row["before"], row["outcome"]) for row in desk.ask("RELOAD")}
    assert changed == {
        "queue.timeout": ("5s", "20s", "applied"),
        "auth.cache_ttl": ("1m", "5m", "applied"),
        "tls.client.mode": ("required", "preferred", "needs a restart"),
        'users."app".max_connections': ("", "1", "applied"),
    }, "the flag for pool.max_connections wins"
    assert {row["key"]: row["value"] for row in desk.ask("SHOW CONFIG")}["tls.client.mode"] == "preferred"
    assert desk.one("SHOW ACCOUNTS")["max_backends"] is None
    assert [row["key"] for row in desk.ask("RELOAD")] == ["tls.client.mode"]
    path.write_text("[queue]\ntimeout = 5\nnonsense = 1\n")
    _, words = desk.error("RELOAD")
    assert "nothing was changed" in words and "nonsense" in words and "the unit is missing" in words
    client.quit()


def test_a_drain_lets_a_transaction_end(own_desk: Callable[..., tuple[Proxy, Desk]]) -> None:
    pooler, desk = own_desk(listen__drain_timeout="20s")
    holder, idle = Raw(pooler, database="test"), Raw(pooler)
    holder.ok("START TRANSACTION")
    assert "draining 2 clients" in desk.do("DRAIN")
    wait_until(lambda: desk.stats()["clients"] == 1, 10, "the idle one is closed")
    assert desk.stats()["draining"] == 1, "the console stays to the end"
    assert gone(idle)
    holder.ok("COMMIT")
    assert pooler.wait() == 0


def test_a_shutdown_does_not_wait(own_desk: Callable[..., tuple[Proxy, Desk]]) -> None:
    pooler, desk = own_desk(listen__drain_timeout="60s")
    holder = Raw(pooler, database="test")
    holder.ok("START TRANSACTION")
    desk.do("SHUTDOWN")
    assert pooler.wait() == 0
