"""A world for the relay: real clients, backends, registry and relay, on transports and a clock that the test drives.

No sockets, no servers, no time that passes by itself. The test is both ends: an `App` is what an application sees of
its connection, a `Server` what the server sees of one backend. Nothing is answered unless the test answers it.

    world = World(cap=1)
    app = world.app()
    app.query(b"SELECT 1")          # opens a backend
    server = world.server           # the one that was opened last
    assert server.take() == [query(b"SELECT 1")]
    server.rows([b"1"])
    assert app.rows() == [[b"1"]]
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from proxy.config import load
from proxy.ops.logs import Limiter
from proxy.pool.budget import FREE, STATES
from proxy.relay import connect
from proxy.relay.accounts import user_of
from proxy.relay.backend import Backend
from proxy.relay.client import Client
from proxy.relay.control import ControlConnection
from proxy.relay.relay import Relay
from proxy.wire import constants as c
from proxy.wire.auth import Secret
from proxy.wire.framing import MAX_FRAME, frame
from proxy.wire.packets import (
    Err,
    Greeting,
    build_column,
    build_err,
    build_ok,
    encode_tracker,
    lenenc_int,
    lenenc_str,
    parse_err,
    parse_row,
)

AUTOCOMMIT = c.SERVER_STATUS_AUTOCOMMIT
IN_TRANS = c.SERVER_STATUS_IN_TRANS | AUTOCOMMIT
MODERN = c.CLIENT_DEPRECATE_EOF | c.CLIENT_SESSION_TRACK
OLD = 0

QUIT = bytes((c.COM_QUIT,))
RESET = bytes((c.COM_RESET_CONNECTION,))
PROBE = bytes((c.COM_SET_OPTION, 1, 0))
SHOW_WARNINGS = b"\x03SHOW WARNINGS"
INSERT_ID = b"\x03SELECT LAST_INSERT_ID()"
CLEAR_WARNINGS = b"\x03DO (SELECT 1 FROM (SELECT 1) x)"


# --- a clock ---


class _NoSelector:
    def __init__(self, loop: ClockLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        assert timeout is not None, "everybody waits, and nothing will ever happen"
        self._loop.now += timeout
        return []


class ClockLoop(asyncio.BaseEventLoop):
    """An event loop without IO, whose time jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self._selector = _NoSelector(self)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


# --- a transport ---


class FakeTransport(asyncio.Transport):
    """Remembers what was written, one entry per write. It is lost when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.buffered = 0  # what the peer has not taken yet; set by the test
        self.reading = True
        self.closing = self.aborted = self.eof = self.lost = False
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        assert not self.lost, f"write to a lost connection: {data!r}"
        assert not self.closing, f"write to a closed connection: {data!r}"
        assert isinstance(data, bytes)
        if data:
            self.writes.append(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def pause_reading(self) -> None:
        assert self.reading and not self.lost
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading and not self.lost
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def write_eof(self) -> None:
        self.eof = True

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # The other side

    def arrive(self, data: bytes) -> None:
        """The peer's bytes arrive."""
        assert not self.lost
        if not self.closing:
            assert self.reading, "nobody reads here"
            self.protocol.data_received(data)

    def lose(self, exc: Exception | None = None) -> None:
        """The connection ends."""
        assert not self.lost
        self.lost = self.closing = True
        self.protocol.connection_lost(exc)

    def take(self) -> bytes:
        data = b"".join(self.writes)
        self.writes.clear()
        return data


def packets(data: bytes) -> list[tuple[int, bytes]]:
    """(sequence id of the last frame, payload) of every packet; nothing may be left over."""
    found = []
    pos = 0
    payload = b""
    while pos < len(data):
        size = int.from_bytes(data[pos : pos + 3], "little")
        seq = data[pos + 3]
        assert len(data) >= pos + 4 + size, f"half a packet: {data[pos:]!r}"
        payload += data[pos + 4 : pos + 4 + size]
        pos += 4 + size
        if size < MAX_FRAME:
            found.append((seq, payload))
            payload = b""
    assert not payload
    return found


# --- packets that servers send ---


def trackers(*entries: tuple[int, bytes, bytes]) -> bytes:
    return b"".join(encode_tracker(*entry) for entry in entries)


def variable(name: bytes, value: bytes) -> tuple[int, bytes, bytes]:
    return c.TRACK_SYSTEM_VARIABLE, name, value


def schema(name: bytes) -> tuple[int, bytes, bytes]:
    return c.TRACK_SCHEMA, b"", name


STATE_CHANGE = (c.TRACK_STATE_CHANGE, b"", b"1")


def text_row(values: tuple[bytes | None, ...]) -> bytes:
    return b"".join(b"\xfb" if value is None else lenenc_str(value) for value in values)


def result(
    columns: int,
    rows: list[bytes],
    *,
    status: int = AUTOCOMMIT,
    warnings: int = 0,
    changes: bytes = b"",
    seq: int = 1,
) -> bytes:
    """A result set as backends send it (DEPRECATE_EOF)."""
    payloads = [lenenc_int(columns), *(build_column(b"c%d" % i, 0xFD, 20) for i in range(columns)), *rows]
    payloads.append(build_ok(status=status, warnings=warnings, trackers=changes, header=0xFE))
    return frames(payloads, seq)


def frames(payloads: list[bytes], seq: int = 1) -> bytes:
    out = b""
    for payload in payloads:
        out += frame(payload, seq)
        seq += 1 + len(payload) // MAX_FRAME
    return out


def query(text: bytes) -> bytes:
    return bytes((c.COM_QUERY,)) + text


def prepare(text: bytes) -> bytes:
    return bytes((c.COM_STMT_PREPARE,)) + text


def execute(ident: int, body: bytes = b"", flags: int = 0) -> bytes:
    return bytes((c.COM_STMT_EXECUTE,)) + ident.to_bytes(4, "little") + bytes((flags, 1, 0, 0, 0)) + body


def on_statement(command: int, ident: int, body: bytes = b"") -> bytes:
    return bytes((command,)) + ident.to_bytes(4, "little") + body


def init_db(name: bytes) -> bytes:
    return bytes((c.COM_INIT_DB,)) + name


# --- both ends ---


class App:
    """An application's end of a client connection."""

    def __init__(self, world: World, client: Client, transport: FakeTransport) -> None:
        self.world = world
        self.client = client
        self.transport = transport

    def send(self, *payloads: bytes) -> None:
        """Commands, in one segment."""
        self.transport.arrive(b"".join(frame(payload) for payload in payloads))

    def raw(self, data: bytes) -> None:
        self.transport.arrive(data)

    def query(self, text: bytes) -> None:
        self.send(query(text))
        self.world.spin()

    def take(self) -> list[bytes]:
        """The payloads received since the last call; their sequence ids must follow on each other."""
        found = packets(self.transport.take())
        expected = None
        for seq, payload in found:
            assert expected is None or seq == expected or seq == 1, f"sequence id {seq}, expected {expected}"
            expected = (seq + 1 + len(payload) // MAX_FRAME) & 0xFF
        return [payload for _, payload in found]

    def rows(self) -> list[list[bytes | None]]:
        """The rows of the one text result that was received."""
        payloads = self.take()
        columns = payloads[0][0]
        old = not self.client.deprecate_eof
        assert not old or payloads[1 + columns][0] == 0xFE
        assert payloads[-1][0] == 0xFE
        assert len(payloads[-1]) == 5 if old else len(payloads[-1]) >= 7
        return [parse_row(row) for row in payloads[1 + columns + old : -1]]

    def error(self) -> Err:
        """The one packet received, an ERR."""
        (payload,) = self.take()
        assert payload[0] == 0xFF, payload
        return parse_err(payload)

    def ok(self) -> bool:
        """Whether the one packet received is an OK."""
        (payload,) = self.take()
        assert payload[0] == 0x00, payload
        return True

    def leave(self) -> None:
        """The application has closed its connection."""
        self.transport.lose()
        self.world.spin()

    @property
    def closed(self) -> bool:
        return self.transport.closing


class Server:
    """The server's end of a backend."""

    def __init__(self, world: World, backend: Backend, transport: FakeTransport) -> None:
        self.world = world
        self.backend = backend
        self.transport = transport
        self.goodbye = False

    def take(self) -> list[bytes]:
        """The commands received since the last call."""
        return [payload for _, payload in packets(self.transport.take())]

    def writes(self) -> int:
        return len(self.transport.writes)

    def send(self, data: bytes) -> None:
        self.transport.arrive(data)
        if not self.transport.lost:
            self.world.spin()

    def ok(self, times: int = 1, **fields: Any) -> None:
        """As many OKs, each the answer to one command, in one segment."""
        self.send(frame(build_ok(**fields), 1) * times)

    def eof(self, **fields: Any) -> None:
        """The answer to COM_SET_OPTION."""
        self.send(frame(build_ok(header=0xFE, **fields), 1))

    def rows(self, *rows: bytes | tuple[bytes | None, ...] | None, columns: int = 1, **fields: Any) -> None:
        found = [text_row(row if isinstance(row, tuple) else (row,)) for row in rows]
        self.send(result(columns, found, **fields))

    def err(self, code: int = 1064, text: bytes = b"no", state: bytes = b"42000") -> None:
        self.send(frame(build_err(code, state, text), 1))

    def prepared(self, ident: int, params: int = 0, columns: int = 0) -> None:
        """The answer to COM_STMT_PREPARE."""
        head = b"\0" + ident.to_bytes(4, "little") + columns.to_bytes(2, "little") + params.to_bytes(2, "little")
        definitions = [build_column(b"?", 0xFD, 20)] * params + [build_column(b"c", 0xFD, 20)] * columns
        self.send(frames([head + b"\0\0\0", *definitions]))

    def die(self) -> None:
        """The server's side has ended."""
        self.transport.lose()
        self.world.spin()

    @property
    def slot(self) -> str:
        return "free" if self.backend.slot == FREE else STATES[self.backend.slot]

    @property
    def closed(self) -> bool:
        """Whether the pooler has given the backend up."""
        return bool(self.backend.close_reason)


class World:
    """One relay. `opening` holds the openings that were asked for while `hold_openings` is set."""

    def __init__(self, cap: int = 2, *, mariadb: bool = False, learned: bool = True, **config: object) -> None:
        self.loop = ClockLoop()
        self.faults: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(context))
        overrides = {key.replace("__", "."): value for key, value in config.items()}
        overrides["pool.max_connections"] = cap
        self.servers: list[Server] = []
        self.apps: list[App] = []
        self.hold_openings = False
        self.opening: list[asyncio.Future[None]] = []
        self.refusal: Exception | None = None  # raised by the next openings
        self.refused_users: dict[bytes, Exception] = {}  # raised by those of these users
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.limiter: Limiter | None = None  # without one, all that could be in the log is
        self.relay: Relay = self.loop.run_until_complete(self._make(load(overrides=overrides)))
        version = b"5.5.5-10.11.19-MariaDB" if mariadb else b"9.7.4"
        capabilities = 0xFFFFFFFF & ~(c.CLIENT_LONG_PASSWORD if mariadb else 0)
        self.relay.seen(Greeting(version, 1, b"n" * 20, 45, AUTOCOMMIT, capabilities, c.CACHING_SHA2_PASSWORD))
        self.relay.profile.learned = learned
        self.relay._learned_at = self.loop.now
        self.relay.accounts.connect = self._connect  # type: ignore[method-assign]
        self.relay.control._connect = self._connect_control  # type: ignore[method-assign]
        self.controls: list[Server] = []
        self.hold_controls = False
        self.control_refusal: Exception | None = None  # raised by the next openings of the control connection

    async def _make(self, config: Any) -> Relay:
        quiet = structlog.wrap_logger(None, processors=[self._log])

        def limited(key: str, event: str, **values: Any) -> bool:
            if self.limiter is not None:
                return self.limiter(quiet, key, event, **values)
            self.log.append((event, {name: v() if callable(v) else v for name, v in values.items()}))
            return True

        return Relay(config, quiet, limited)

    def _log(self, logger: Any, method: str, event: dict[str, Any]) -> Any:
        self.log.append((event.pop("event"), event))
        raise structlog.DropEvent

    async def _connect(self, pool: Any, known: Any) -> Backend:
        if self.hold_openings:
            future = self.loop.create_future()
            self.opening.append(future)
            await future
        refusal = self.refused_users.get(user_of(pool.account), self.refusal)
        if refusal is not None:
            raise refusal
        transport = FakeTransport()
        backend = Backend(self.relay, pool, transport, 100 + len(self.servers))
        transport.protocol = backend
        backend.slot = FREE
        backend.settings = self.relay.settings.make()
        self.relay.backends.add(backend)
        self.servers.append(Server(self, backend, transport))
        return backend

    async def _connect_control(self, pool: Any) -> ControlConnection:
        if self.control_refusal is not None:
            raise self.control_refusal
        if self.hold_controls:
            await self.loop.create_future()
        transport = FakeTransport()
        control = ControlConnection(self.relay, pool, transport, 1000 + len(self.controls))
        transport.protocol = control
        self.controls.append(Server(self, control, transport))
        return control

    # Who is there

    @property
    def control(self) -> Server:
        """The control connection that was opened last."""
        return self.controls[-1]

    @property
    def server(self) -> Server:
        """The backend that was opened last."""
        return self.servers[-1]

    def app(self, capabilities: int = MODERN, *, user: str = "app", key: int = 0, **settings: Any) -> App:
        """A client that has logged in."""
        relay = self.relay
        name = user.encode()
        if relay.accounts.credentials.opener(name) is None:
            relay.accounts.credentials.remember(name, Secret.of(b"secret"), self.loop.now)
        pool = relay.pool(name, key)
        pool.account.clients += 1
        transport = FakeTransport()
        client = Client(relay, transport, relay.next_client_id(), pool, relay.settings.make(**settings), capabilities)
        transport.protocol = client
        relay.client_ready(client)
        self.apps.append(App(self, client, transport))
        return self.apps[-1]

    def settled(self, app: App, text: bytes = b"SELECT 1") -> Server:
        """Let the app run one statement on whatever backend it gets; return that one."""
        app.query(text)
        backend = app.client.backend
        assert backend is not None
        server = next(server for server in self.servers if server.backend is backend)
        while backend.batch is not None:
            server.ok(len(server.take()))
        assert server.take() == [query(text)]
        server.rows(b"1")
        assert app.rows() == [[b"1"]]
        return server

    def processlist(self, *alive: Server, user: str = "app") -> None:
        """The server answers the control connection which connections of an account it still has."""
        assert self.control.take() == [b"\x03SHOW PROCESSLIST"]
        self.control.rows(*((b"%d" % one.backend.thread_id, user.encode()) for one in alive), columns=2)

    def control_ends(self) -> None:
        """The control connection has said goodbye, and the server has closed it."""
        assert self.control.take() == [QUIT]
        self.control.die()

    # Time

    def spin(self) -> None:
        """Let everything happen that is due."""
        for _ in range(6):
            self.loop.run_until_complete(_nothing())
        assert not self.faults, self.faults

    def advance(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.spin()

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    # What must always hold

    def check(self) -> None:
        """Counts are lengths, and nobody is in two places."""
        self.spin()
        registry = self.relay.registry
        opening = registry.budget.counts[STATES.index("opening")]
        slots = [server.backend.slot for server in self.servers if server.backend.slot != FREE]
        assert registry.budget.in_use == len(slots) + opening
        for place, name in enumerate(STATES):
            if name != "opening":
                assert registry.budget.counts[place] == slots.count(place), name
        for server in self.servers:
            backend = server.backend
            if backend.client is not None:
                assert backend.client.backend is backend
                assert server.slot == "leased"
            if server.slot == "idle":
                assert not backend.running and backend.batch is None and backend.client is None
                assert server.transport.reading and not server.closed
        for app in self.apps:
            if app.client.backend is not None:
                assert app.client.backend.client is app.client
            if app.client.closed:
                assert app.client.backend is None and app.client.waiter is None
            if app.client.waiter is not None:
                assert app.client.busy

    def close(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(_nothing())
        self.loop.run_until_complete(_nothing())
        self.loop.close()


async def _nothing() -> None:
    await asyncio.sleep(0)


__all__ = ["Refused", "World"]

Refused = connect.Refused
