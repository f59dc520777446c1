"""The program that everyone has written once: it opens connections and closes nothing.

    for i := 0; i < 500; i++ {
        db, _ := sql.Open("mysql", dsn)
        rows, err := db.Query("SELECT … WHERE id > ?", i)   // rows are never read, nothing is closed
    }

Each connection prepares a statement, executes it, reads the answer's columns and not its rows, and stays open.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.address import Address
from proxy.relay.connect import Dialer, Refused
from proxy.relay.stream import PacketStream, PeerGone
from proxy.wire import constants as c
from proxy.wire.auth import Secret
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import parse_err, parse_row

from .processes import DemoError

USER, PASSWORD, SCHEMA = "shop", "shop-secret", "shop"
WATCHER = "watcher"
QUERY = "SELECT id, customer, note FROM shop.orders WHERE id > ?"
ROWS = 200

_UTF8MB4 = 45
_TYPE_LONGLONG = b"\x08\x00"
_PATIENCE = 60.0
_SAMPLE_EVERY = 0.005

_SETUP = (
    f"CREATE DATABASE {SCHEMA}",
    f"CREATE TABLE {SCHEMA}.orders (id INT PRIMARY KEY, customer VARCHAR(40), note VARCHAR(120))",
    f"INSERT INTO {SCHEMA}.orders VALUES "  # noqa: S608  # nobody's input
    + ", ".join(f"({number}, 'customer {number}', REPEAT('-', 100))" for number in range(1, ROWS + 1)),
    f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'",
    f"GRANT ALL ON {SCHEMA}.* TO {USER}@'%'",
    f"CREATE USER {WATCHER}@'%'",
    f"GRANT PROCESS ON *.* TO {WATCHER}@'%'",
)


@dataclass
class Outcome:
    """What became of one loop. The streams in `leaked` are its open connections."""

    tried: int = 0
    succeeded: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    slowest: float = 0.0
    leaked: list[PacketStream] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """How many iterations failed."""
        return self.tried - self.succeeded

    def close(self) -> None:
        """Close what the loop has left open."""
        for stream in self.leaked:
            if stream.transport is not None:
                stream.transport.abort()
        self.leaked.clear()


async def prepare_server(socket: str) -> None:
    """Create the account, its table, and the account that watches."""
    stream = await _log_in(Address(unix_path=socket), "root", "")
    for statement in _SETUP:
        await _rows(stream, statement)
    _close(stream)


async def leak(port: int, iterations: int, watch_port: int, tell: Callable[[Outcome], None]) -> Outcome:
    """Run the loop, while somebody counts the account's connections on the server; `tell` hears every iteration."""
    outcome = Outcome()
    done = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_watch(watch_port, outcome, done))
            for number in range(iterations):
                await _iterate(port, number, outcome)
                tell(outcome)
            done.set()
    except ExceptionGroup as group:
        raise DemoError(f"the connection that watches MariaDB is lost: {group.exceptions[0]}") from group
    return outcome


async def wait_until_gone(watch_port: int) -> None:
    """Wait until the server has noticed that the account's connections are closed."""
    async with asyncio.timeout(_PATIENCE):
        watcher = await _log_in(Address("127.0.0.1", watch_port), WATCHER, "")
        while await _connections(watcher):  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(_SAMPLE_EVERY)
        _close(watcher)


async def _watch(watch_port: int, outcome: Outcome, done: asyncio.Event) -> None:
    """Keep the peak, with one more look when all are there.

    What counts is there in two looks: MariaDB has a place more, for people with rights, and who is refused there has
    logged in by then.
    """
    watcher = await _log_in(Address("127.0.0.1", watch_port), WATCHER, "")
    before = await _connections(watcher)
    last = False
    while not last:
        last = done.is_set()
        await asyncio.sleep(_SAMPLE_EVERY)
        now = await _connections(watcher)
        outcome.peak = max(outcome.peak, len(before & now))
        before = now
    _close(watcher)


async def _connections(watcher: PacketStream) -> set[bytes | None]:
    rows = await _rows(watcher, f"SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{USER}'")  # noqa: S608
    return {ident for (ident,) in rows}


async def _iterate(port: int, number: int, outcome: Outcome) -> None:
    started = time.monotonic()
    try:
        async with asyncio.timeout(_PATIENCE):
            stream = await _log_in(Address("127.0.0.1", port), USER, PASSWORD)
            outcome.leaked.append(stream)
            await _execute_unread(stream, number % ROWS)
        outcome.succeeded += 1
    except Refused as refused:
        outcome.refusals[f"{refused.err.code} {refused.err.message.decode('utf-8', 'replace')}"] += 1
    except (OSError, PeerGone, ProtocolError) as error:  # TimeoutError is an OSError
        outcome.refusals[str(error) or type(error).__name__] += 1
    outcome.tried += 1
    outcome.slowest = max(outcome.slowest, time.monotonic() - started)


async def _execute_unread(stream: PacketStream, argument: int) -> None:
    first = await _command(stream, bytes((c.COM_STMT_PREPARE,)) + QUERY.encode())
    statement, columns, parameters = first[1:5], first[5:7], first[7:9]
    for _ in range(int.from_bytes(columns, "little") + int.from_bytes(parameters, "little")):
        await stream.read_packet()
    # No cursor, one execution, no NULLs, the parameter's type and value.
    head = bytes((c.COM_STMT_EXECUTE,)) + statement + b"\x00" + (1).to_bytes(4, "little") + b"\x00\x01"
    first = await _command(stream, head + _TYPE_LONGLONG + argument.to_bytes(8, "little"))
    for _ in range(first[0]):
        await stream.read_packet()
    assert stream.transport is not None
    stream.transport.pause_reading()  # the rows: nobody will ever read them


async def _log_in(address: Address, user: str, password: str) -> PacketStream:
    login = await Dialer(address).connect(user.encode(), Secret.of(password.encode()), 0, _UTF8MB4, [])
    stream = PacketStream(limit=1 << 20)
    stream.connection_made(login.transport)
    login.transport.set_protocol(stream)
    return stream


async def _command(stream: PacketStream, payload: bytes) -> bytes:
    """Send a command and return the first packet of its answer. Raises Refused for an ERR."""
    stream.expect(0)
    stream.write_packet(payload)
    first = await stream.read_packet()
    if first[:1] == b"\xff":
        raise Refused(parse_err(first))
    return first


async def _rows(stream: PacketStream, statement: str) -> list[list[bytes | None]]:
    """Execute a statement; its rows."""
    first = await _command(stream, bytes((c.COM_QUERY,)) + statement.encode())
    if first[0] == 0:
        return []
    for _ in range(first[0]):
        await stream.read_packet()
    rows = []
    while (packet := await stream.read_packet())[0] != 0xFE:
        rows.append(parse_row(packet))
    return rows


def _close(stream: PacketStream) -> None:
    assert stream.transport is not None
    stream.expect(0)
    stream.write_packet(bytes((c.COM_QUIT,)))
    stream.transport.close()
