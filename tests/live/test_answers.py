"""What the pooler answers by itself: code, SQLSTATE and text, as bytes and as drivers show them.

The table is in docs/answers.md.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import mysql.connector
import pymysql
import pytest

from proxy.wire.packets import Err
from tests.clients.clients import Target
from tests.clients.drivers import DRIVERS, Driver
from tests.conftest import Proxy
from tests.live.raw import Raw, ServerError
from tests.live.recorder import Recorder
from tests.servers import Server, wait_until

Start = Callable[..., Proxy]
Connection = Any
Said = tuple[Any, Any]

every_driver = pytest.mark.parametrize("driver", DRIVERS.values(), ids=DRIVERS.keys())


def connect(driver: Driver, proxy: Proxy, **options: Any) -> contextlib.AbstractContextManager[Connection]:
    return contextlib.closing(driver.connect(Target(port=proxy.port), autocommit=True, **options))


def ask(connection: Connection, sql: str) -> Any:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


def refusal(driver: Driver, action: Callable[[], Any]) -> Said:
    """Code and text of the error that the action ends with."""
    with pytest.raises(driver.errors) as raised:
        action()
    error = raised.value
    if driver.name == "aiomysql" and isinstance(error.__cause__, pymysql.MySQLError):
        error = error.__cause__  # it wraps what went wrong in a login
    if isinstance(error, mysql.connector.Error):
        assert error.sqlstate is None or error.sqlstate in ("08004", "08S01", "42000", "HY000"), error.sqlstate
    code, text = driver.code_and_text(error)
    return code, text


def raw_refusal(client: Raw, sql: str = "SELECT 1") -> Err:
    error = client.query(sql).error
    assert error is not None
    return error


def refused_login(proxy: Proxy, **options: Any) -> Err:
    with pytest.raises(ServerError) as raised:
        Raw(proxy, **options)
    return raised.value.err


@contextlib.contextmanager
def transaction(proxy: Proxy) -> Iterator[Raw]:
    """A client that holds a connection to the server."""
    with Raw(proxy, database="test") as holder:
        holder.ok("START TRANSACTION")
        yield holder
        holder.ok("COMMIT")
        holder.quit()


# --- waiting ---


@pytest.fixture(scope="module")
def impatient(server: Server, module_proxy: Start) -> Proxy:
    """One connection, and nobody waits long for it."""
    return module_proxy(server, max_connections=1, queue__timeout="200ms")


@pytest.fixture(scope="module")
def crowded(server: Server, module_proxy: Start) -> Proxy:
    """One connection, and one may wait for it."""
    return module_proxy(server, max_connections=1, queue__max_waiting=1)


WAITED = (
    r"Too many connections: waited 0\.[23] s for a connection to 127\.0\.0\.1:\d+ "
    r"\(cap 1: 1 idle in transaction, 0 pinned, 0 running; 0 waiting; queue\.timeout\)"
)
FULL = (
    r"Too many connections: the queue is full for a connection to 127\.0\.0\.1:\d+ "
    r"\(cap 1: 1 idle in transaction, 0 pinned, 0 running; 1 waiting; queue\.max_waiting\)"
)


def _is_told_and_goes_on(driver: Driver, proxy: Proxy, connection: Connection, text: str) -> None:
    code, said = refusal(driver, lambda: ask(connection, "SELECT 2"))
    assert code == 1040
    assert re.fullmatch(text, said), said
    with Raw(proxy) as raw:
        error = raw_refusal(raw)
        assert (error.code, error.state) == (1040, b"08004")
        assert re.fullmatch(text, error.message.decode()), error.message


@every_driver
def test_who_waits_too_long_is_told_so_and_goes_on_later(driver: Driver, impatient: Proxy) -> None:
    with connect(driver, impatient) as connection:
        with transaction(impatient):
            _is_told_and_goes_on(driver, impatient, connection, WAITED)
        assert ask(connection, "SELECT 3") == [(3,)]


@every_driver
def test_who_finds_the_queue_full_is_told_so_at_once_and_goes_on_later(driver: Driver, crowded: Proxy) -> None:
    with connect(driver, crowded) as connection, Raw(crowded) as waiter:
        with transaction(crowded):
            waiter.send_query("SELECT 1")
            crowded.wait_for_metric('mybouncer_clients{state="waiting"}', 1)
            _is_told_and_goes_on(driver, crowded, connection, FULL)
        assert waiter.answer().value == b"1"
        assert ask(connection, "SELECT 3") == [(3,)]


# --- too many clients ---


@pytest.fixture
def small(small_proxy: Proxy) -> Proxy:
    """Room for four clients, two of them of one account; there is nobody."""

    def nobody() -> bool:
        return not sum(value for name, value in small_proxy.metrics().items() if name.startswith("mybouncer_clients{"))

    wait_until(nobody, 10, "the clients of the last test have gone")
    return small_proxy


@pytest.fixture(scope="module")
def small_proxy(server: Server, module_proxy: Start) -> Proxy:
    return module_proxy(
        server, max_connections=2, listen__max_clients=4, env={"MYBOUNCER_USERS__app__MAX_CLIENTS": "2"}
    )


@every_driver
def test_one_client_more_than_may_be_is_refused_before_the_greeting(driver: Driver, small: Proxy) -> None:
    other = ("app2", "app2-secret")
    with Raw(small), Raw(small), Raw(small, *other), Raw(small, *other):
        text = "Too many connections: listen.max_clients is 4"
        assert refused_login(small) == Err(1040, b"", text.encode())
        assert refusal(driver, lambda: driver.connect(Target(port=small.port))) == (1040, text)
    small.wait_for_metric('mybouncer_clients{state="idle"}', 0)
    with connect(driver, small) as connection:
        assert ask(connection, "SELECT 1") == [(1,)]


@every_driver
def test_one_client_more_than_its_account_may_have_is_refused_behind_its_login(driver: Driver, small: Proxy) -> None:
    text = "User 'app' has exceeded the 'max_clients' resource (current value: 2)"
    with Raw(small) as first, Raw(small) as second:
        assert refused_login(small) == Err(1226, b"42000", text.encode())
        assert refused_login(small, password="wrong").code == 1045
        assert refusal(driver, lambda: driver.connect(Target(port=small.port))) == (1226, text)
        first.quit()
        with connect(driver, small) as connection:
            assert ask(connection, "SELECT 1") == [(1,)]
        assert second.change_user("app", "app-secret").error is None  # itself does not count


# --- the server ---


@pytest.fixture
def gate(server: Server) -> Iterator[Recorder]:
    """What stands between the pooler and the server."""
    with Recorder(server.port) as recorder:
        yield recorder


def behind(gate: Recorder) -> str:
    return f"mysql://127.0.0.1:{gate.port}"


def test_a_server_that_cannot_be_reached_is_2003(gate: Recorder, proxy: Start) -> None:
    pooler = proxy(behind(gate), max_connections=2, queue__timeout_down="200ms")
    text = rf"Can't connect to MySQL server on '127\.0\.0\.1:{gate.port}' \(.+\)"
    connections = {name: driver.connect(Target(port=pooler.port)) for name, driver in DRIVERS.items()}
    with Raw(pooler) as raw:
        assert raw.get("SELECT 1") == b"1"
        gate.close()
        pooler.wait_for_metric('mybouncer_backends{state="idle"}', 0)
        error = raw_refusal(raw)
        assert (error.code, error.state) == (2003, b"HY000")
        assert re.fullmatch(text, error.message.decode()), error.message
        for name, driver in DRIVERS.items():
            for connection in (connections[name], connections[name]):
                code, said = refusal(driver, lambda connection=connection: ask(connection, "SELECT 1"))
                assert code == seen_by(driver, 2003)
                assert re.fullmatch(text, said), said
        refused = refused_login(pooler, user="app2", password="app2-secret")
        assert (refused.code, refused.state) == (2003, b"HY000")
    for connection in connections.values():
        connection.close()


LOST = "Lost connection to MySQL server during query"

# libmariadb takes errors with codes of its own for forgeries; for its clients there are codes of the server's.
AS_SEEN_BY = {"mysqlclient": {2003: 1429, 2013: 1927}}


def seen_by(driver: Driver, code: int) -> int:
    return AS_SEEN_BY.get(driver.name, {}).get(code, code)


_numbers = itertools.count()


def _sleep() -> str:
    """A statement that takes long and can be told from all others; the server goes on with it for a while."""
    return f"SELECT SLEEP(20) + {next(_numbers)}"


def _cut_while_it_runs(server: Server, gate: Recorder, sql: str) -> threading.Thread:
    """Cut the connections to the server as soon as the statement runs there."""

    def cut() -> None:
        running = f"SELECT COUNT(*) FROM information_schema.processlist WHERE info = '{sql}'"
        wait_until(lambda: server.execute(running)[0][0], 10, "the statement runs")
        gate.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    return thread


@every_driver
def test_a_connection_lost_in_a_statement_is_2013_and_ends_only_who_had_something_on_it(
    driver: Driver, server: Server, gate: Recorder, proxy: Start
) -> None:
    pooler = proxy(behind(gate), max_connections=2)
    for before, kept in (([], True), (["START TRANSACTION"], False), (["SET @x = 0 + 1"], False)):
        sql = _sleep()
        with contextlib.suppress(*driver.errors, RuntimeError), connect(driver, pooler) as connection:
            for statement in before:
                ask(connection, statement)
            thread = _cut_while_it_runs(server, gate, sql)
            said = refusal(driver, lambda connection=connection, sql=sql: ask(connection, sql))
            assert said == (seen_by(driver, 2013), LOST)
            thread.join()
            if kept:
                assert ask(connection, "SELECT 5") == [(5,)]
            else:
                with pytest.raises(driver.errors):
                    ask(connection, "SELECT 5")
    with Raw(pooler) as raw:
        sql = _sleep()
        thread = _cut_while_it_runs(server, gate, sql)
        assert raw_refusal(raw, sql) == Err(2013, b"HY000", LOST.encode())
        thread.join()
        assert raw.get("SELECT 6") == b"6"


# --- the end ---

SHUTDOWN = Err(1053, b"08S01", b"Server shutdown in progress")


@every_driver
def test_a_drain_lets_go_who_is_idle_refuses_who_waits_and_finishes_what_runs(
    driver: Driver, server: Server, proxy: Start
) -> None:
    pooler = proxy(server, max_connections=1, listen__drain_timeout="10s")
    said: list[Said] = []
    waiter = driver.connect(Target(port=pooler.port), autocommit=True)  # drivers begin with statements of their own
    with Raw(pooler) as idle, Raw(pooler, database="test") as holder, Raw(pooler) as waiting:
        holder.ok("START TRANSACTION")
        thread = threading.Thread(target=lambda: said.append(refusal(driver, lambda: ask(waiter, "SELECT 1"))))
        thread.start()
        waiting.send_query("SELECT 2")
        pooler.wait_for_metric('mybouncer_clients{state="waiting"}', 2)
        pooler.terminate()
        thread.join(10)
        assert said == [(1053, "Server shutdown in progress")]
        assert idle.at_end(), "an error that nobody asked for"
        assert waiting.answer().error == SHUTDOWN
        assert waiting.at_end()
        holder.pipeline(b"\x03SELECT 3", b"\x03COMMIT", b"\x03SELECT 4")
        holder.expect_answer()
        assert holder.results()[0].value == b"3"
        assert holder.answer().error is None
        assert holder.answer().error == SHUTDOWN  # a new statement
        assert holder.at_end()
        with contextlib.suppress(Exception):
            waiter.close()
    assert pooler.wait() == 0


@every_driver
def test_what_still_runs_when_the_drain_is_over_is_ended_with_1053(
    driver: Driver, server: Server, proxy: Start
) -> None:
    pooler = proxy(server, max_connections=3, listen__drain_timeout="300ms")
    said: list[Said] = []
    with Raw(pooler) as raw, Raw(pooler, database="test") as holder:
        holder.ok("START TRANSACTION")
        running = driver.connect(Target(port=pooler.port), autocommit=True)
        thread = threading.Thread(target=lambda: said.append(refusal(driver, lambda: ask(running, "SELECT SLEEP(3)"))))
        thread.start()
        raw.send_query("SELECT SLEEP(3)")
        pooler.wait_for_metric('mybouncer_backends{state="leased"}', 3)
        pooler.signal(signal.SIGTERM)
        thread.join(10)
        assert said == [(1053, "Server shutdown in progress")]
        assert raw.answer().error == SHUTDOWN
        assert raw.at_end()
        holder.next_seq = 1
        with contextlib.suppress(EOFError):  # idle in its transaction: it is told, and closed
            holder.read_packet()
        assert holder.at_end()
        with contextlib.suppress(Exception):
            running.close()
    assert pooler.wait() == 0


# --- what is not passed on ---


BINLOG_DUMP = 0x12
NO_REPLICATION = (1235, "replication does not go through a pooler: connect to the server")
UNKNOWN = (1047, "Unknown command")


def _pymysql(connection: Connection) -> None:
    connection._execute_command(BINLOG_DUMP, b"\4\0\0\0")
    connection._read_packet()


def _connector(connection: Connection) -> None:
    connection._handle_ok(connection._send_cmd(BINLOG_DUMP, b"\4\0\0\0"))


# What each driver can be made to send that is no statement and does not exist, or is not passed on.
NOT_PASSED_ON: dict[str, tuple[Callable[[Connection], Any], Said]] = {
    "pymysql": (_pymysql, NO_REPLICATION),
    "aiomysql": (_pymysql, NO_REPLICATION),
    "connector": (_connector, NO_REPLICATION),
    "mysqlclient": (lambda connection: connection.set_server_option(7), UNKNOWN),
}


@every_driver
def test_what_is_not_passed_on_is_said_in_words_and_the_connection_goes_on(driver: Driver, impatient: Proxy) -> None:
    send, expected = NOT_PASSED_ON[driver.name]
    with connect(driver, impatient) as connection:
        assert refusal(driver, lambda: send(connection)) == expected
        assert ask(connection, "SELECT 1") == [(1,)]
