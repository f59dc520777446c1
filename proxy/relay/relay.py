"""The relay of one server: what clients, backends, the pool's registry and the server's profile share.

One object per server address, so that several can live in one process later; no module-level state. It counts, looks
at the clock for the registry, and knows when the server was last seen. Who may log in is `accounts`' business.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from proxy.pool.budget import CLOSING, FREE, IDLE, OPENING
from proxy.pool.queue import Failure, FailureKind, Waiter
from proxy.pool.registry import Registry
from proxy.session import pins
from proxy.session.classify import Classifier
from proxy.session.state import Settings, SettingsTable
from proxy.session.verdict import FIRST_VIRTUAL_ID
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import Greeting, HandshakeResponse

from . import login, numbers, soft
from .accounts import Accounts, WaitOver
from .backend import Backend
from .connect import Refused, connect
from .control import Control
from .profile import Profile
from .stats import Counters
from .stream import PeerGone

if TYPE_CHECKING:
    from proxy.config import Config
    from proxy.pool.pool import Pool

    from .client import Client

AUTO_START = 4  # slots until the first login tells what the server allows
CONTROL_SLOTS = 1
PROBE_USER = b"mybouncer_probe"

_CLOSE_DEADLINE = 10.0  # seconds that a server may take to close its side
_GOODBYE = 2.0  # the same when we stop
_TICK = 0.02
_RETIRE_EVERY = 1.0
_LEARN_EVERY = 60.0
_STALL, _STALL_EVERY = 5.0, 60.0
_PROBE_EVERY = 5.0


class Log(Protocol):
    """What we need of a structured logger."""

    def info(self, event: str, **values: Any) -> Any: ...

    def warning(self, event: str, **values: Any) -> Any: ...

    def error(self, event: str, **values: Any) -> Any: ...


class LimitedLog(Protocol):
    """A warning that is repeated at most now and then, per key."""

    def __call__(self, key: str, event: str, **values: Any) -> Any: ...


class Relay:
    """Everything about one server."""

    FIRST_CLIENT_ID = FIRST_VIRTUAL_ID

    def __init__(self, config: Config, log: Log, limited_log: LimitedLog) -> None:
        self.config = config
        self.log = log
        self.limited_log = limited_log
        self.loop = asyncio.get_running_loop()
        self.stats = Counters()
        self.profile = Profile()
        self.settings = SettingsTable()
        self.classifier = Classifier(mariadb=False, trusted_functions=config.session.trusted_functions)
        self.address = config.backend.address
        self.request_buffer = config.session.request_buffer
        self.read_ahead = config.session.read_ahead
        self.read_ahead_total = config.session.read_ahead_total
        self.clients_max = config.listen.max_clients
        self.clients: dict[int, Client] = {}
        self.backends: set[Backend] = set()
        self.draining = False
        self.drained = asyncio.Event()
        self.all_closed = asyncio.Event()
        self.on_server_seen: Callable[[], None] = lambda: None
        self.queue_full = Failure(FailureKind.TIMEOUT, c.ER_CON_COUNT, "queue.max_waiting")
        self.accounts = Accounts(self)
        self.control = Control(self)
        cap = config.pool.max_connections
        self.registry = Registry(
            AUTO_START if cap == "auto" else cap,
            clock=self.loop.time,
            open_backend=self.accounts.open_backend,
            close_backend=self._close_backend,
            queue_timeout=config.queue.timeout,
            queue_timeout_down=config.queue.timeout_down,
            max_waiting=config.queue.max_waiting,
            quantum=config.pool.quantum,
            login_timeout=config.listen.login_timeout,
            max_lifetime=config.pool.max_lifetime,
            describe_leases=lambda: numbers.describe_leases(self.backends),
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tick_timer: asyncio.TimerHandle | None = None
        self._retire_timer: asyncio.TimerHandle | None = None
        self._last_client_id = self.FIRST_CLIENT_ID - 1
        self._learned_at = self._stall_logged = float("-inf")
        self._grants_seen = 0
        self._no_grant_since = self.loop.time()
        self._last_event = self._last_probe = self._last_failure = float("-inf")
        self.last_error = "not seen yet"

    # Life

    def start(self) -> None:
        """Begin to look for the server."""
        self.spawn(self._first_sight())
        self.spawn(self.accounts.rsa_key())
        self._retire_timer = self.loop.call_later(_RETIRE_EVERY, self._retire)

    async def _first_sight(self) -> None:
        """One complete login that is expected to be refused teaches us the greeting."""
        delay = 0.05
        while self.profile.greeting is None:
            if not await self.probe():
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)

    async def probe(self) -> bool:
        """Ask the server for a greeting, with a login of our own that it refuses; True if it answered."""
        self._last_probe = self.loop.time()
        greeted: list[Greeting] = []
        try:
            async with asyncio.timeout(self.config.backend.connect_timeout):
                accepted = await connect(self.address, PROBE_USER, b"", 0, 45, greeted)
            accepted.transport.write(b"\x01\0\0\0\x01")
            accepted.transport.close()
        except (Refused, OSError, PeerGone, ProtocolError, TimeoutError) as exc:
            self.last_error = str(exc) or "timed out"
        if greeted:
            self.seen(greeted[0])
        else:
            self.cannot_reach()
        return bool(greeted)

    def seen(self, greeting: Greeting) -> None:
        """The server has greeted us."""
        self._last_event = self.loop.time()
        first = self.profile.greeting is None
        self.profile.greeting = greeting
        if first:
            self.classifier = Classifier(greeting.is_mariadb, self.config.session.trusted_functions)
            self.log.info("server seen", server=self.address.label, version=greeting.version.decode("utf-8", "replace"))
            self.on_server_seen()

    async def ready(self) -> tuple[bool, str]:
        """Whether statements can be run now, and why not."""
        if self.draining:
            return False, "draining"
        now = self.loop.time()
        stale = self._last_failure >= self._last_event or (not self.backends and now - self._last_event >= _PROBE_EVERY)
        if stale and now - self._last_probe >= _PROBE_EVERY:
            await self.probe()
        if self._last_failure >= self._last_event:
            return False, self.down_text()
        return True, "ok"

    async def drain(self, seconds: float) -> None:
        """Finish what runs, take nothing new; after `seconds` end the rest. Then close all backends."""
        self.draining = True
        self.registry.fail_all_waiters(Failure(FailureKind.DRAIN))
        for client in list(self.clients.values()):
            if client.backend is None and not client.busy:
                client.close("drain")
        self._check_drained()
        try:
            async with asyncio.timeout(seconds):
                await self.drained.wait()
        except TimeoutError:
            self.log.warning("drain timeout", clients=len(self.clients))
        for client in list(self.clients.values()):
            if client.backend is not None and client.backend.running and not client.backend.reader.untouched:
                client.close("drain")  # in the middle of an answer there is no place for an error
            else:
                client.refuse_shutdown()
        for backend in list(self.backends):
            if backend.slot == IDLE or not (backend.running or backend.batch):
                backend.close("drain")
            else:
                backend.transport.abort()
        if self.backends:
            try:
                async with asyncio.timeout(_GOODBYE):
                    await self.all_closed.wait()
            except TimeoutError:
                for backend in list(self.backends):
                    backend.transport.abort()
        for timer in (self._tick_timer, self._retire_timer):
            if timer is not None:
                timer.cancel()
        for task in list(self._tasks):
            task.cancel()

    def _check_drained(self) -> None:
        if self.draining and not self.clients:
            self.drained.set()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine that ends when the relay does."""
        task: asyncio.Task[Any] = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Time

    def watch_queue(self) -> None:
        """Somebody waits: let the registry look at the clock."""
        if self._tick_timer is None:
            self._tick_timer = self.loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._tick_timer = None
        wanted = self.registry.tick(self.loop.time())
        if wanted is not None:
            self._tick_timer = self.loop.call_later(min(max(wanted, 0.002), _TICK), self._tick)

    def _retire(self) -> None:
        self._retire_timer = self.loop.call_later(_RETIRE_EVERY, self._retire)
        pool = self.config.pool
        now = self.loop.time()
        self.registry.retire(now, pool.idle_timeout, pool.max_lifetime)
        self.registry.forget_unused()
        self._end_idle_transactions(now)
        self._watch_grants(now)
        self.accounts.forget_expired()
        if self.profile.learned and now - self._learned_at > _LEARN_EVERY:
            self._learned_at = now
            self.spawn(self._learn_again())
        self.watch_queue()

    async def _learn_again(self) -> None:
        """Ask an idle backend for what an administrator may have changed."""
        pool = next((backend.pool for backend in self.backends if backend.slot == IDLE), None)
        if pool is None:
            return
        with contextlib.suppress(WaitOver, ConnectionError, ValueError):
            backend = await self.accounts.borrow(pool, None)
            answers = await backend.run(self.profile.questions())
            self.registry.release(backend)
            self.profile.learn(answers)
            self.adjust_cap()

    def adjust_cap(self) -> None:
        """`auto`: what the server allows, less a reserve for people and the control slot."""
        self._learned_at = self.loop.time()
        self.settings.sql_mode = b"ANSI_QUOTES" if self.profile.ansi_quotes else b""
        if self.config.pool.max_connections != "auto":
            return
        allowed = self.profile.max_connections
        cap = max(1, allowed - max(5, allowed // 10) - CONTROL_SLOTS)
        if cap != self.registry.budget.cap:
            self.registry.set_cap(cap)
            self.log.info("cap set from the server", max_connections=allowed, cap=cap)

    def _watch_grants(self, now: float) -> None:
        """While clients wait and nobody has got a connection for a while, say why, once a minute."""
        queue = self.registry.queue
        if not queue.line or queue.grants != self._grants_seen:
            self._grants_seen = queue.grants
            self._no_grant_since = now
            return
        if now - self._no_grant_since >= _STALL and now - self._stall_logged >= _STALL_EVERY:
            self._stall_logged = now
            self.log.warning(
                "nobody gets a connection",
                waiting=len(queue),
                seconds=round(now - self._no_grant_since, 1),
                cap=self.registry.budget.cap,
                why=numbers.describe_stall(self.backends, now),
            )

    def _end_idle_transactions(self, now: float) -> None:
        """`session.idle_transaction_timeout`: FIN only, an unasked ERR confuses drivers."""
        limit = self.config.session.idle_transaction_timeout
        if not limit:
            return
        for client in list(self.clients.values()):
            if client.backend is not None and not client.busy and now - client.idle_since > limit:
                self.log.warning(
                    "idle transaction ended", client=client.address, user=client.user, seconds=now - client.idle_since
                )
                client.close("idle_transaction_timeout")

    # Clients

    def next_client_id(self) -> int:
        """A virtual connection id that no live client has."""
        ident = self._last_client_id
        while True:
            ident = ident + 1 if ident < 0xFFFFFFFF else self.FIRST_CLIENT_ID
            if ident not in self.clients:
                self._last_client_id = ident
                return ident

    def client_ready(self, client: Client) -> None:
        """A login is complete; it has been counted in the client's account."""
        self.clients[client.ident] = client
        if self.draining:
            client.close("drain")

    def client_gone(self, client: Client, reason: str) -> None:
        """A client's connection has ended."""
        if self.clients.pop(client.ident, None) is not None:
            client.pool.account.clients -= 1
            self.stats.client_disconnects[reason] += 1
        self._check_drained()

    def change_user(self, client: Client, response: HandshakeResponse, rest: bytes) -> None:
        """`client` has ended its session and logs in again on the same connection."""
        self.spawn(login.change_user(self, client.transport, response, client, rest))

    def login_failed(self, reason: str) -> None:
        """A connection ended before its login was complete."""
        self.stats.login_failures[reason] += 1

    def count_malformed(self, address: str, text: str) -> None:
        """A client sent what no client may send."""
        self.stats.malformed += 1
        self.limited_log(f"malformed {address.rpartition(':')[0]}", "malformed packet", client=address, error=text)

    def pinned(self, client: Client, mask: int) -> None:
        """A session got new pins."""
        for name in pins.names(mask):
            self.stats.pins[name] += 1
            if self.config.session.pin_log:
                kind = client.verdict.kind.decode("ascii", "replace")
                self.limited_log(
                    f"pin {client.user} {name}",
                    "session pinned",
                    client=client.address,
                    user=client.user,
                    reason=name,
                    statement=kind,
                )

    def initial_settings(self, response: HandshakeResponse) -> Settings:
        """The settings a session has when its login is complete."""
        charset, collation, results = self.profile.charset_of(response.charset)
        return self.settings.make(
            schema=response.database,
            client_charset=charset,
            results_charset=results,
            collation=collation,
            autocommit=bool(self.profile.status & c.SERVER_STATUS_AUTOCOMMIT),
            multi_statements=bool(response.capabilities & c.CLIENT_MULTI_STATEMENTS),
        )

    def settings_after_reset(self, initial: Settings, current: Settings) -> Settings:
        """What COM_RESET_CONNECTION makes of a session: it keeps the schema (protocol.md D.1)."""
        if self.profile.mariadb:
            return self.settings.replace(initial, schema=current.schema, multi_statements=current.multi_statements)
        charset, collation, results = self.profile.default_charset
        return self.settings.replace(
            initial,
            schema=current.schema,
            multi_statements=current.multi_statements,
            client_charset=charset,
            collation=collation,
            results_charset=results,
        )

    def pool(self, user: bytes, key: int) -> Pool:
        """The pool of an account and capabilities."""
        name = user.decode("utf-8", "surrogateescape")
        known = self.config.users.get(name)
        if known is not None:
            account = self.registry.account(name, known.weight, known.max_connections)
        else:
            account = self.registry.account(name)
        return self.registry.pool(account, key)

    def _close_backend(self, backend: Backend, reason: str) -> None:
        """The registry wants it closed: an idle one, whose last client may still ask for its soft state."""
        if not soft.capture_before_close(backend, lambda: backend.close(reason)):
            backend.close(reason)

    def backend_closing(self, backend: Backend) -> None:
        """No longer usable; its slot is kept until the server has closed its side, or is made to."""
        if backend.slot == FREE:
            return
        if backend.slot not in (OPENING, CLOSING):
            self.registry.begin_close(backend)
        self.loop.call_later(_CLOSE_DEADLINE, lambda: None if backend.lost else self.control.make_sure(backend))

    def backend_lost(self, backend: Backend, exc: Exception | None, answering: bool) -> None:
        """The connection has ended. Unless the server ended it, it may not know that yet: then the slot is kept."""
        by_server = exc is None or (isinstance(exc, ConnectionError) and not answering)
        broken = backend.close_reason == "protocol_error"
        if backend.slot in (FREE, OPENING) or self.draining or (by_server and not broken):
            self.backend_gone(backend)
            return
        backend.close_reason = backend.close_reason or "lost"
        if backend.slot != CLOSING:
            self.registry.begin_close(backend)
        self.control.make_sure(backend)

    def backend_gone(self, backend: Backend) -> None:
        """The server is done with it: its slot is free."""
        if not backend.lost:
            backend.transport.abort()
            return
        self.backends.discard(backend)
        if self.draining and not self.backends:
            self.all_closed.set()
        if backend.slot == FREE:
            return
        self.stats.backend_closes[backend.close_reason or "lost"] += 1
        self.registry.lost(backend)
        self.watch_queue()

    # Words

    def cannot_reach(self) -> None:
        """The server does not answer: remember it, and log it now and then."""
        self._last_failure = self.loop.time()
        self.limited_log("server_down", "server cannot be reached", server=self.address.label, error=self.last_error)

    def down_text(self) -> str:
        """The text of our 2003."""
        return f"Can't connect to MySQL server on '{self.address.label}' ({self.last_error})"

    def describe_failure(self, failure: Failure, waiter: Waiter | None) -> tuple[int, bytes, str]:
        """The answer (code, SQLSTATE, text) to a client whose wait ended with `failure`."""
        if failure.kind is FailureKind.DOWN:
            return c.CR_CONN_HOST_ERROR, b"HY000", self.down_text()
        if failure.kind is FailureKind.DRAIN:
            return c.ER_SERVER_SHUTDOWN, b"08S01", "Server shutdown in progress"
        if failure.kind is FailureKind.TIMEOUT:
            now = self.loop.time()
            limit = failure.message or "queue.timeout"
            waited = "the queue is full" if failure is self.queue_full else "waited"
            if waiter is not None and failure is not self.queue_full:
                waited = f"waited {now - waiter.enqueued_at:.1f} s"
            where = f"for a connection to {self.address.label}"
            return (
                c.ER_CON_COUNT,
                b"08004",
                (f"Too many connections: {waited} {where} ({self.registry.describe(now)}; {limit})"),
            )
        return failure.code, failure.sqlstate, failure.message

    # Numbers, when asked

    def client_states(self) -> dict[str, int]:
        """How many clients are in each state."""
        return numbers.client_states(self.clients.values())

    def pinned_sessions(self) -> dict[str, int]:
        """How many sessions have each pin reason."""
        return numbers.pinned_sessions(self.clients.values())

    def prepared_statements(self) -> dict[str, int]:
        """How many prepared statements clients and backends have."""
        return numbers.prepared_statements(self.clients.values(), self.backends)
