"""The relay of one server: what clients, backends, the pool's registry and the server's profile share.

One object per server address, so that several can live in one process later; no module-level state. It opens and
closes backends when the registry asks for it, keeps the credentials that opened them, and counts.

Credentials are kept in memory only. A password is *proven* by a login to the server; for `auth.cache_ttl` after that a
client is checked against it here.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.pool.budget import CLOSING, FREE, IDLE, OPENING
from proxy.pool.queue import Failure, FailureKind, LoginWaiter, Waiter
from proxy.pool.registry import Registry
from proxy.session import pins
from proxy.session.classify import Classifier
from proxy.session.state import Settings, SettingsTable
from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import Err, Greeting, HandshakeResponse

from . import lease
from .backend import Backend
from .connect import KEY, Refused, connect
from .internal import Answer
from .login import WaitOver
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
_PROBE_EVERY = 5.0
_REFUSED_SERVER = (c.ER_CON_COUNT, c.ER_CANT_CREATE_THREAD)
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class Log(Protocol):
    """What we need of a structured logger."""

    def info(self, event: str, **values: Any) -> Any: ...

    def warning(self, event: str, **values: Any) -> Any: ...

    def error(self, event: str, **values: Any) -> Any: ...


class LimitedLog(Protocol):
    """A warning that is repeated at most now and then, per key."""

    def __call__(self, key: str, event: str, **values: Any) -> Any: ...


class RsaKey:
    """The key that clients encrypt their password with."""

    def __init__(self) -> None:
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.pem = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Credentials:
    """A proven password of an account."""

    __slots__ = ("password", "proven_at", "verifier")

    def __init__(self, password: bytes, proven_at: float) -> None:
        self.password = password
        self.verifier = auth.sha2_verifier(password)
        self.proven_at = proven_at

    def __repr__(self) -> str:
        return f"<Credentials proven_at={self.proven_at:.0f}>"


class Relay:
    """Everything about one server."""

    FIRST_CLIENT_ID = 0x80000000  # real ids do not reach it, so no KILL of ours can hit a stranger

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
        cap = config.pool.max_connections
        self.registry = Registry(
            AUTO_START if cap == "auto" else cap,
            clock=self.loop.time,
            open_backend=self._open_backend,
            close_backend=self._close_backend,
            queue_timeout=config.queue.timeout,
            queue_timeout_down=config.queue.timeout_down,
            max_waiting=config.queue.max_waiting,
            quantum=config.pool.quantum,
            login_timeout=config.listen.login_timeout,
            max_lifetime=config.pool.max_lifetime,
            describe_leases=self.describe_leases,
        )
        self._credentials: dict[bytes, Credentials] = {}
        self._proving: dict[bytes, tuple[bytes, asyncio.Task[None]]] = {}
        self._schemas: set[tuple[str, bytes]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tick_timer: asyncio.TimerHandle | None = None
        self._retire_timer: asyncio.TimerHandle | None = None
        self._last_client_id = self.FIRST_CLIENT_ID - 1
        self._rsa_key: asyncio.Future[RsaKey] | None = None
        self._last_event = self._last_probe = float("-inf")
        self._last_error = "not seen yet"

    # Life

    def start(self) -> None:
        """Begin to look for the server."""
        self._spawn(self._first_sight())
        self._spawn(self._warm_rsa_key())
        self._retire_timer = self.loop.call_later(_RETIRE_EVERY, self._retire)

    async def _warm_rsa_key(self) -> None:
        await self.rsa_key()

    async def _first_sight(self) -> None:
        """One complete login that is expected to be refused teaches us the greeting."""
        delay = 0.05
        while self.profile.greeting is None:
            await self.probe()
            if self.profile.greeting is None:
                self.limited_log(
                    "server_down", "server cannot be reached", server=self.address.label, error=self._last_error
                )
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)

    async def probe(self) -> bool:
        """Ask the server for a greeting, with a login of our own that it refuses; True if it answered."""
        self._last_probe = self.loop.time()
        greeted: list[Greeting] = []
        try:
            async with asyncio.timeout(self.config.backend.connect_timeout):
                login = await connect(self.address, PROBE_USER, b"", 0, 45, greeted)
            login.transport.write(b"\x01\0\0\0\x01")
            login.transport.close()
        except (Refused, OSError, PeerGone, ProtocolError, TimeoutError) as exc:
            self._last_error = str(exc) or "timed out"
        if greeted:
            self._seen(greeted[0])
        return bool(greeted)

    def _seen(self, greeting: Greeting) -> None:
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
        if self.registry.down_since is None and (self.backends or now - self._last_event < _PROBE_EVERY):
            return self.profile.greeting is not None, self._last_error if self.profile.greeting is None else "ok"
        if now - self._last_probe >= _PROBE_EVERY:
            return (True, "ok") if await self.probe() else (False, self.down_text())
        seen = self._last_event >= self._last_probe
        return (True, "ok") if seen else (False, self.down_text())

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

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
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
        expired = now - self.config.auth.cache_ttl
        for user, credentials in list(self._credentials.items()):
            account = self.registry.accounts.get(_name(user))
            if credentials.proven_at < expired and account is None:
                del self._credentials[user]
        if len(self._schemas) > 10_000:
            self._schemas.clear()
        self.watch_queue()

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
        """A login is complete."""
        self.clients[client.ident] = client
        client.pool.account.clients += 1
        if self.draining:
            client.close("drain")

    def client_gone(self, client: Client, reason: str) -> None:
        """A client's connection has ended."""
        if self.clients.pop(client.ident, None) is not None:
            client.pool.account.clients -= 1
            self.stats.client_disconnects[reason] += 1
        self._check_drained()

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
        name = _name(user)
        known = self.config.users.get(name)
        if known is not None:
            account = self.registry.account(name, known.weight, known.max_connections)
        else:
            account = self.registry.account(name)
        return self.registry.pool(account, key)

    # Credentials

    async def admit(self, user: bytes) -> None:
        """A gate for logins; nobody is turned away here yet."""

    def is_proven(self, user: bytes, password: bytes) -> bool:
        """Whether this is a password that the server accepted not long ago."""
        known = self._fresh(user)
        return known is not None and hmac.compare_digest(known.password, password)

    def is_proven_scramble(self, user: bytes, scramble: bytes, nonce: bytes) -> bool:
        """The same for a caching_sha2_password scramble."""
        known = self._fresh(user)
        return known is not None and auth.check_sha2(scramble, nonce, known.verifier)

    def _fresh(self, user: bytes) -> Credentials | None:
        known = self._credentials.get(user)
        if known is None or self.loop.time() - known.proven_at > self.config.auth.cache_ttl:
            return None
        return known

    def forget_credentials(self) -> None:
        """Somebody may have changed a password: every login is proven again."""
        for known in self._credentials.values():
            known.proven_at = float("-inf")

    async def rsa_key(self) -> RsaKey:
        """Our RSA key; made once, in a thread, because it takes a while."""
        if self._rsa_key is None:
            self._rsa_key = asyncio.ensure_future(asyncio.to_thread(RsaKey))
        return await asyncio.shield(self._rsa_key)

    async def prove(self, user: bytes, password: bytes, key: int) -> None:
        """Log in to the server with what a client gave us. Raises Refused with the server's answer, or WaitOver.

        One proof per account at a time; a login with the same password joins it.
        """
        verifier = auth.sha2_verifier(password)
        while (running := self._proving.get(user)) is not None:
            if running[0] == verifier:
                await asyncio.shield(running[1])
                return
            await asyncio.wait([running[1]])
        task = self._spawn(self._prove(user, password, key))
        self._proving[user] = (verifier, task)
        task.add_done_callback(lambda done: (self._proving.pop(user, None), done.cancelled() or done.exception()))
        await asyncio.shield(task)

    async def _prove(self, user: bytes, password: bytes, key: int) -> None:
        slot: asyncio.Future[None] = self.loop.create_future()

        def failed(failure: Failure) -> None:
            if not slot.done():
                slot.set_exception(WaitOver(failure))

        def granted() -> None:
            nonlocal slot
            if slot.done():
                self.registry.login_done(None)
            else:
                slot.set_result(None)

        waiter = LoginWaiter(granted, failed)
        self.registry.login_slot(waiter)
        self.watch_queue()
        while True:
            await slot
            pool = self.pool(user, key)
            try:
                backend = await self._connect(pool, user, password)
            except Exception as exc:
                failure = self._failure(exc)
                if failure.kind is FailureKind.ACCOUNT_ERROR:
                    self.registry.login_done(None)
                    raise
                slot = self.loop.create_future()
                if not self.registry.login_failed(waiter, failure):
                    raise
                self.watch_queue()
                continue
            self._credentials[user] = Credentials(password, self.loop.time())
            pool = self.pool(user, key)  # the account may have been dropped as unused meanwhile
            backend.slot = OPENING
            self.registry.adopt(backend, pool)
            return

    async def check_schema(self, pool: Pool, settings: Settings) -> None:
        """Make sure that the account may use the schema of `settings`. Raises Refused or WaitOver."""
        assert settings.schema is not None
        known = (pool.account.name, settings.schema)
        if known in self._schemas:
            return
        backend = await self._borrow(pool, settings)
        try:
            answers = await backend.run((bytes((c.COM_INIT_DB,)) + settings.schema,))
        except ConnectionError as exc:
            raise WaitOver(Failure(FailureKind.DOWN)) from exc
        error = answers[0].error
        if error is None:
            self._schemas.add(known)
            backend.bare = False
            if backend.settings is not None:
                backend.settings = self.settings.replace(backend.settings, schema=settings.schema)
        self.registry.release(backend)
        if error is not None:
            raise Refused(error)

    async def _borrow(self, pool: Pool, settings: Settings) -> Backend:
        """Wait for a lease, for a login. Raises WaitOver."""
        # A stranger to everybody's soft state: what the last client left is read before it is lost.
        backend: Backend | None = self.registry.acquire_nowait(pool, settings, False, None, None)
        if backend is None:
            future: asyncio.Future[Backend] = self.loop.create_future()

            def granted(backend: Backend) -> None:
                if future.done():
                    self.registry.release(backend)
                else:
                    future.set_result(backend)

            def failed(failure: Failure) -> None:
                if not future.done():
                    future.set_exception(WaitOver(failure))

            waiter = Waiter(pool, None, settings, False, None, granted, failed)
            self.registry.enqueue(waiter)
            self.watch_queue()
            try:
                backend = await future
            except asyncio.CancelledError:
                if not self.registry.cancel(waiter) and future.done() and not future.cancelled():
                    self.registry.release(future.result())
                raise
        captured: asyncio.Event = asyncio.Event()
        if lease.capture_before_close(backend, captured.set):
            await captured.wait()
        return backend

    # Backends

    def _open_backend(self, pool: Pool) -> None:
        self._spawn(self._open(pool))

    async def _open(self, pool: Pool) -> None:
        user = pool.account.name.encode("utf-8", "surrogateescape")
        known = self._credentials.get(user)
        if known is None:
            err = f"Access denied for user '{pool.account.name}': its password is not known any more, log in again"
            self.registry.open_failed(pool, Failure(FailureKind.ACCOUNT_ERROR, c.ER_ACCESS_DENIED, err, b"28000"))
            return
        try:
            backend = await self._connect(pool, user, known.password)
        except Exception as exc:
            failure = self._failure(exc)
            if failure.code == c.ER_ACCESS_DENIED and self._credentials.get(user) is known:
                del self._credentials[user]
            self.registry.open_failed(pool, failure)
            self.watch_queue()
            return
        backend.slot = OPENING
        self.registry.opened(backend)

    async def _connect(self, pool: Pool, user: bytes, password: bytes) -> Backend:
        """Open a backend and bring it into a known state."""
        started = self.loop.time()
        profile = self.profile
        waiter = next(iter(pool.account.waiters), None)
        wanted = waiter.settings if waiter is not None else None
        collation_id = profile.login_collation(wanted.collation if isinstance(wanted, Settings) else b"")
        greeted: list[Greeting] = []
        key = pool.key
        assert isinstance(key, int)
        try:
            async with asyncio.timeout(self.config.backend.connect_timeout):
                login = await connect(self.address, user, password, key & KEY, collation_id, greeted)
                if self.address.unix_path is None:
                    _keep_alive(login.transport)
                backend = Backend(self, pool, login.transport, login.greeting.thread_id)
                login.transport.set_protocol(backend)
                backend.slot = FREE
                self.backends.add(backend)
                try:
                    await self._introduce(backend, login.greeting, collation_id)
                except BaseException:
                    backend.close_reason = "login"
                    backend.transport.abort()
                    raise
        except Exception as exc:
            code = exc.err.code if isinstance(exc, Refused) else c.CR_CONN_HOST_ERROR
            self.stats.backend_connect_failures[str(code)] += 1
            raise
        finally:
            if greeted:
                self._seen(greeted[0])
        self.stats.backend_connects += 1
        self.stats.backend_connect_seconds.observe(self.loop.time() - started)
        return backend

    async def _introduce(self, backend: Backend, greeting: Greeting, collation_id: int) -> None:
        profile = self.profile
        if profile.greeting is None:
            self._seen(greeting)
        if not profile.learned:
            profile.learn(await backend.run(profile.questions()))
            self._adjust_cap()
        answers = await backend.run((profile.track_command,))
        if answers[0].error is not None:
            raise Refused(answers[0].error)
        charset, collation, results = profile.charset_of(collation_id)
        backend.settings = self.settings.make(
            client_charset=charset,
            results_charset=results,
            collation=collation,
            autocommit=bool(greeting.status & c.SERVER_STATUS_AUTOCOMMIT),
        )

    def _adjust_cap(self) -> None:
        """`auto`: what the server allows, less a reserve for people and the control slot."""
        self.settings.sql_mode = b"ANSI_QUOTES" if self.profile.ansi_quotes else b""
        if self.config.pool.max_connections == "auto":
            allowed = self.profile.max_connections
            cap = max(1, allowed - max(5, allowed // 10) - CONTROL_SLOTS)
            self.registry.set_cap(cap)
            self.log.info("cap set from the server", max_connections=allowed, cap=cap)

    def _failure(self, exc: Exception) -> Failure:
        """What an attempt to open a backend ended with, for the registry."""
        if isinstance(exc, Refused):
            err = exc.err
            text = err.message.decode("utf-8", "replace")
            kind = _refusal_kind(err)
            if kind is not FailureKind.ACCOUNT_ERROR:
                self.limited_log("refused", "server refused a connection", code=err.code, error=text)
            return Failure(kind, err.code, text, err.state or b"HY000")
        self._last_error = str(exc) or "timed out"
        self.limited_log("server_down", "server cannot be reached", server=self.address.label, error=self._last_error)
        return Failure(FailureKind.DOWN, c.CR_CONN_HOST_ERROR, self._last_error)

    def _close_backend(self, backend: Backend, reason: str) -> None:
        """The registry wants it closed: an idle one, whose last client may still ask for its soft state."""
        if not lease.capture_before_close(backend, lambda: backend.close(reason)):
            backend.close(reason)

    def backend_closing(self, backend: Backend) -> None:
        """No longer usable; its slot is kept until the server has closed its side."""
        if backend.slot not in (OPENING, FREE, CLOSING):
            self.registry.begin_close(backend)

    def abort_later(self, backend: Backend) -> None:
        """A server that does not close its side in time is not waited for any longer."""
        self.loop.call_later(_CLOSE_DEADLINE, lambda: None if backend.lost else backend.transport.abort())

    def backend_lost(self, backend: Backend) -> None:
        """The connection has ended; its slot is free."""
        self.backends.discard(backend)
        if self.draining and not self.backends:
            self.all_closed.set()
        if backend.slot == FREE:
            return
        self.stats.backend_closes[backend.close_reason or "lost"] += 1
        self.registry.lost(backend)
        self.watch_queue()

    # Words

    def down_text(self) -> str:
        """The text of our 2003."""
        return f"Can't connect to MySQL server on '{self.address.label}' ({self._last_error})"

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

    def describe_leases(self) -> str:
        """What the leased backends are doing, in words."""
        in_transaction = pinned = running = 0
        for backend in self.backends:
            client = backend.client
            if client is None:
                continue
            if client.busy:
                running += 1
            elif client.pins:
                pinned += 1
            else:
                in_transaction += 1
        return f"{in_transaction} idle in transaction, {pinned} pinned, {running} running"

    # Numbers, when asked

    def client_states(self) -> dict[str, int]:
        """How many clients are in each state."""
        states = dict.fromkeys(("idle", "waiting", "leased", "transaction", "pinned"), 0)
        for client in self.clients.values():
            if client.waiter is not None:
                states["waiting"] += 1
            elif client.pins:
                states["pinned"] += 1
            elif client.backend is None:
                states["idle"] += 1
            elif client.status & c.SERVER_STATUS_IN_TRANS:
                states["transaction"] += 1
            else:
                states["leased"] += 1
        return states

    def pinned_sessions(self) -> dict[str, int]:
        """How many sessions have each pin reason."""
        found = dict.fromkeys(pins.PIN_NAMES.values(), 0)
        for client in self.clients.values():
            if client.pins:
                for name in pins.names(client.pins):
                    found[name] += 1
        return found

    def prepared_statements(self) -> dict[str, int]:
        """How many prepared statements clients and backends have."""
        return {
            "client": sum(len(client.statements) for client in self.clients.values() if client.statements),
            "backend": sum(len(backend.statements) for backend in self.backends),
        }


def _name(user: bytes) -> str:
    return user.decode("utf-8", "surrogateescape")


def _refusal_kind(err: Err) -> FailureKind:
    if err.code in _REFUSED_SERVER:
        return FailureKind.REFUSED_SERVER
    if err.code == c.ER_TOO_MANY_USER_CONNECTIONS:
        return FailureKind.REFUSED_ACCOUNT
    if err.code == c.ER_USER_LIMIT_REACHED and b"max_user_connections" in err.message:
        return FailureKind.REFUSED_ACCOUNT
    return FailureKind.ACCOUNT_ERROR


def _keep_alive(transport: asyncio.Transport) -> None:
    """Find out about a server that has vanished, within half a minute."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


__all__ = ["Answer", "Relay"]
