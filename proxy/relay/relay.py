"""The relay of one server: what clients, backends, the pool's registry and the server's profile share.

One object per server address, so that several can live in one process later; no module-level state. It counts, looks
at the clock for the registry. Who may log in is `accounts`' business, whether the server can be used `health`'s.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from proxy.pool.budget import CLOSING, FREE, IDLE, OPENING
from proxy.pool.pool import Account
from proxy.pool.queue import Failure, FailureKind
from proxy.pool.registry import Registry
from proxy.session import pins
from proxy.session.classify import Classifier
from proxy.session.state import Settings, SettingsTable
from proxy.session.verdict import FIRST_VIRTUAL_ID
from proxy.wire import constants as c
from proxy.wire.packets import Greeting, HandshakeResponse

from . import login, numbers, soft, upload
from .accounts import Accounts
from .backend import Backend
from .certificates import CertificateError, ServerCertificate, ServerTls
from .connect import Dialer, Silent
from .control import Control
from .health import Health
from .holders import Holders
from .profile import Profile
from .said import shown_now
from .statements import Statements
from .stats import Counters
from .unread import Unread
from .watch import Watch

if TYPE_CHECKING:
    from proxy.config import Config
    from proxy.pool.pool import Pool

    from .client import Client

AUTO_START = 4  # slots until the first login tells what the server allows
CONTROL_SLOTS = 1

_OWN_DESCRIPTORS = 32  # listeners, http, the log, threads that look up a name

_CLOSE_DEADLINE = 10.0  # seconds that a server may take to close its side
_GOODBYE = 2.0  # the same when we stop
_TICK = 0.02
RETIRE_EVERY = 1.0
LEARN_EVERY = 60.0


class Log(Protocol):
    """What we need of a structured logger."""

    def info(self, event: str, **values: Any) -> Any: ...

    def warning(self, event: str, **values: Any) -> Any: ...

    def error(self, event: str, **values: Any) -> Any: ...


class LimitedLog(Protocol):
    """A warning that is repeated at most now and then, per key; whether it was written.

    A value may be a function that makes it, for what only a line that is written should cost.
    """

    def __call__(self, key: str, event: str, **values: Any) -> bool: ...


class Relay:
    """Everything about one server."""

    FIRST_CLIENT_ID = FIRST_VIRTUAL_ID
    CHANGE_USER = "change_user"  # why a client is forgotten whose connection stays

    def __init__(
        self, config: Config, log: Log, limited_log: LimitedLog, clock: Callable[[], float] | None = None
    ) -> None:
        self.config = config
        self.log = log
        self.limited_log = limited_log
        self.loop = asyncio.get_running_loop()
        self.clock = clock or self.loop.time
        self.stats = Counters()
        self.profile = Profile()
        self.unread = Unread(self.profile)
        self.settings = SettingsTable()
        self.classifier = Classifier(mariadb=False, trusted_functions=config.session.trusted_functions)
        self.address = config.backend.address
        self.request_buffer = config.session.request_buffer
        self.read_ahead = config.session.read_ahead
        self.read_ahead_total = config.session.read_ahead_total
        self.descriptors = sys.maxsize  # how many the process may have
        self.clients: dict[int, Client] = {}
        self.backends: set[Backend] = set()
        self.draining = False
        self.drained = asyncio.Event()
        self.all_closed = asyncio.Event()
        self.on_server_seen: Callable[[], None] = lambda: None
        self.queue_full = Failure(FailureKind.TIMEOUT, c.ER_CON_COUNT, "queue.max_waiting")
        self.accounts = Accounts(self)
        self.control = Control(self)
        self.health = Health(self)
        tls = config.tls
        self.certificate = ServerCertificate(tls.client) if tls.client.mode != "disabled" else None
        server_tls = ServerTls(tls.backend) if tls.backend.mode != "disabled" else None
        self.dialer = Dialer(self.address, server_tls, Silent(self.spawn))
        self.statements = Statements(self)
        self.watch = Watch(self)
        self.holders = Holders(self)
        cap = config.pool.max_connections
        self.registry = Registry(
            AUTO_START if cap == "auto" else cap,
            clock=self.clock,
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
        self._learned_at = float("-inf")

    # Life

    def start(self) -> None:
        """Begin to look for the server."""
        self.spawn(self.health.first_sight())
        self.spawn(self.accounts.rsa_key())
        self._retire_timer = self.loop.call_later(RETIRE_EVERY, self._retire)

    def seen(self, greeting: Greeting) -> None:
        """The server has greeted us."""
        self.health.answered()
        first = self.profile.greeting is None
        self.profile.greeting = greeting
        if first:
            self.classifier = Classifier(greeting.is_mariadb, self.config.session.trusted_functions)
            self.log.info("server seen", server=self.address.label, version=greeting.server_version)
            self.on_server_seen()

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
        wanted = self.registry.tick(self.clock())
        if wanted is not None:
            self._tick_timer = self.loop.call_later(min(max(wanted, 0.002), _TICK), self._tick)

    def _retire(self) -> None:
        self._retire_timer = self.loop.call_later(RETIRE_EVERY, self._retire)
        pool = self.config.pool
        now = self.clock()
        self.registry.retire(now, pool.idle_timeout, pool.max_lifetime)
        self.unread.look(now)
        upload.look(self.backends, now)
        self.registry.forget_unused()
        self.watch.look(now)
        self.holders.look(now)
        self.statements.look()
        self.accounts.forget_expired()
        self._refresh_certificate()
        if self.profile.learned and now - self._learned_at >= LEARN_EVERY and self.registry.shares.holding:
            self._learn_again(now)
        self.watch_queue()

    def _learn_again(self, now: float) -> None:
        """Ask for what an administrator may have changed: the server once, and each account that has a limit."""
        self._learned_at = now
        accounts = sorted(self.registry.shares.holding, key=lambda account: not account.counts[IDLE])
        for account in accounts:
            if account is accounts[0] or account.max_connections is not None:
                self.spawn(self.accounts.ask_again(account, server=account is accounts[0]))

    def adjust_cap(self) -> None:
        """`auto`: what the server allows, less a reserve for people and the control slot."""
        self._learned_at = self.clock()
        self.settings.sql_mode = b"ANSI_QUOTES" if self.profile.ansi_quotes else b""
        if self.config.pool.max_connections != "auto":
            return
        allowed = self.profile.max_connections
        cap = max(1, allowed - max(5, allowed // 10) - CONTROL_SLOTS)
        if cap != self.registry.budget.cap:
            self.registry.set_cap(cap)
            self.log.info("cap set from the server", max_connections=allowed, cap=cap)

    def _refresh_certificate(self) -> None:
        """Take up changed files; one that cannot be used leaves the one before in its place."""
        if self.certificate is None:
            return
        try:
            if self.certificate.refresh():
                self.log.info("certificate taken up", certificate=self.config.tls.client.certificate)
        except CertificateError as exc:
            self.limited_log("certificate", "certificate cannot be used, the one before stays", error=str(exc))

    # Clients

    @property
    def clients_max(self) -> int:
        """`listen.max_clients`, or what file descriptors suffice for: the server's connections need some as well."""
        left = self.descriptors - self.registry.budget.cap - _OWN_DESCRIPTORS
        return min(self.config.listen.max_clients, max(left, self.descriptors // 2))

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
            if reason != self.CHANGE_USER:  # its connection stays, and may become another client
                self.stats.client_disconnects[reason] += 1
        self._check_drained()

    def change_user(self, client: Client, response: HandshakeResponse, rest: bytes) -> None:
        """`client` has ended its session and logs in again on the same connection."""
        self.spawn(login.change_user(self, client.transport, response, client, rest))

    def login_failed(self, reason: str) -> None:
        """A connection ended before its login was complete."""
        self.stats.login_failures[reason] += 1
        self.stats.client_disconnects["login_failed"] += 1

    def count_malformed(self, address: str, text: str) -> None:
        """A client sent what no client may send."""
        self.stats.malformed += 1
        host = address.rpartition(":")[0]
        self.limited_log(f"malformed {host} {text}", "malformed packet", client=address, error=text)

    def pinned(self, client: Client, mask: int) -> None:
        """A session got new pins."""
        for name in pins.names(mask):
            self.stats.pins[name] += 1
            if self.config.session.pin_log:
                self.limited_log(
                    f"pin {client.user} {name}",
                    "session pinned",
                    client=client.address,
                    user=client.user,
                    reason=name,
                    statement=lambda: shown_now(client),
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
            results_collation=b"",
        )

    def pool(self, user: bytes, key: int) -> Pool:
        """The pool of an account and capabilities."""
        return self.registry.pool(self.registry.account(*self._terms(user)), key)

    def unproven_pool(self, user: bytes, key: int) -> Pool:
        """The same, but an account that we do not know stays unknown: the name may be made up."""
        terms = self._terms(user)
        return self.registry.pool(self.registry.accounts.get(terms[0]) or Account(*terms), key)

    def _terms(self, user: bytes) -> tuple[str, float, int | None]:
        """An account's name, weight and limit of ours."""
        name = user.decode("utf-8", "surrogateescape")
        known = self.config.users.get(name)
        return (name, 1.0, None) if known is None else (name, known.weight, known.max_connections)

    def set_terms(self, account: Account) -> None:
        """Weight and limit of an account are what the configuration says now; the server's limit is asked for again."""
        _, weight, limit = self._terms(account.name.encode("utf-8", "surrogateescape"))
        self.registry.set_limits(account, weight, limit)
        self.spawn(self.accounts.ask_again(account, server=False))

    def _close_backend(self, backend: Backend, reason: str) -> None:
        """The registry wants it closed: an idle one, whose last client may still ask for its soft state."""
        if not soft.capture(backend, lambda: backend.close(reason)):
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

    def describe_failure(self, failure: Failure, since: float) -> tuple[int, bytes, str]:
        """The answer (code, SQLSTATE, text) to a client that has waited since `since` and ended with `failure`."""
        if failure.kind is FailureKind.DOWN:
            return c.CR_CONN_HOST_ERROR, b"HY000", self.health.down_text()
        if failure.kind is FailureKind.DRAIN:
            return c.ER_SERVER_SHUTDOWN, b"08S01", "Server shutdown in progress"
        if failure.kind is FailureKind.TIMEOUT:
            now = self.clock()
            limit = failure.message or "queue.timeout"
            waited = "the queue is full" if failure is self.queue_full else f"waited {now - since:.1f} s"
            where = f"for a connection to {self.address.label}"
            why = self.registry.describe(now) + self.health.silence(now)
            return c.ER_CON_COUNT, b"08004", f"Too many connections: {waited} {where} ({why}; {limit})"
        return failure.code, failure.sqlstate, failure.message

    # Numbers, when asked

    @property
    def tasks(self) -> int:
        """How many tasks the event loop has: none for a client that has logged in, whatever it does."""
        return len(asyncio.all_tasks(self.loop))

    def client_states(self) -> dict[str, int]:
        """How many clients are in each state."""
        return numbers.client_states(self.clients.values())

    def pinned_sessions(self) -> dict[str, int]:
        """How many sessions have each pin reason."""
        return numbers.pinned_sessions(self.clients.values())

    def holder_counts(self) -> dict[str, int]:
        """How many holders there are of each kind."""
        return self.holders.counts()

    def prepared_statements(self) -> dict[str, int]:
        """How many prepared statements clients and backends have."""
        return numbers.prepared_statements(self.clients.values(), self.backends)
