"""Accounts: the passwords that open their backends, and the opening itself.

Credentials are kept in memory only. A password is *proven* by a login to the server (`proofs`); for `auth.cache_ttl`
after that a client is checked against it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.pool.budget import FREE, IDLE, OPENING
from proxy.pool.queue import Failure, FailureKind, QueueFull, Waiter
from proxy.session.state import Settings
from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.packets import Err, Greeting

from . import soft
from .backend import Backend
from .connect import KEY, Refused
from .proofs import Proofs, WaitOver

if TYPE_CHECKING:
    from proxy.pool.pool import Account, Pool

    from .relay import Relay

_REFUSED_SERVER = (c.ER_CON_COUNT, c.ER_CANT_CREATE_THREAD)
_LIMIT_OF_ACCOUNT = b"\x03SELECT @@session.max_user_connections"
_LIMITS_OF_SESSION = _LIMIT_OF_ACCOUNT + b", @@session.wait_timeout"
_MAX_SCHEMAS = 10_000


class RsaKey:
    """The key that clients encrypt their password with."""

    def __init__(self) -> None:
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._turn = asyncio.Lock()
        self.pem = self._private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    async def decrypt(self, secret: bytes) -> bytes:
        """Raises ValueError. It takes 0.7 ms, so it is done once per turn of the loop: statements go on in between."""
        # SHA-1 is what the protocol says for this padding.
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
        async with self._turn:
            await asyncio.sleep(0)
            return self._private.decrypt(secret, oaep)


class Credentials:
    """A proven password of an account."""

    __slots__ = ("password", "proven_at", "verifier")

    def __init__(self, password: bytes, proven_at: float) -> None:
        self.password = password
        self.verifier = auth.sha2_verifier(password)
        self.proven_at = proven_at

    def __repr__(self) -> str:
        return f"<Credentials proven_at={self.proven_at:.0f}>"


class Accounts:
    """Who may log in, as far as we know, and how their backends are opened."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self._credentials: dict[bytes, Credentials] = {}
        self.proofs = Proofs(self)
        self._schemas: set[tuple[str, bytes]] = set()
        self._rsa_key: asyncio.Future[RsaKey] | None = None

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
        if known is None or self.relay.loop.time() - known.proven_at > self.relay.config.auth.cache_ttl:
            return None
        return known

    def forget_proofs(self) -> None:
        """Somebody may have changed a password: every login is proven again."""
        for known in self._credentials.values():
            known.proven_at = float("-inf")

    def forget_expired(self) -> None:
        """Drop passwords that nobody has used for `auth.cache_ttl`."""
        expired = self.relay.loop.time() - self.relay.config.auth.cache_ttl
        for user, known in list(self._credentials.items()):
            if known.proven_at < expired and _name(user) not in self.relay.registry.accounts:
                del self._credentials[user]

    def password(self, account: Account) -> bytes:
        """What opens connections of this account. Raises Refused if it is not known any more."""
        known = self._credentials.get(user_of(account))
        if known is None:
            text = f"Access denied for user '{account.name}': its password is not known any more, log in again"
            raise Refused(Err(c.ER_ACCESS_DENIED, b"28000", text.encode()))
        return known.password

    async def rsa_key(self) -> RsaKey:
        """Our RSA key; made once, in a thread, because it takes a while."""
        if self._rsa_key is None:
            self._rsa_key = asyncio.ensure_future(asyncio.to_thread(RsaKey))
        return await asyncio.shield(self._rsa_key)

    def remember(self, user: bytes, password: bytes) -> None:
        """The server has accepted this password just now."""
        self._credentials[user] = Credentials(password, self.relay.loop.time())

    async def check_schema(self, pool: Pool, settings: Settings) -> None:
        """Make sure that the account may use the schema of `settings`. Raises Refused or WaitOver."""
        assert settings.schema is not None
        if len(self._schemas) > _MAX_SCHEMAS:
            self._schemas.clear()
        known = (pool.account.name, settings.schema)
        if known in self._schemas:
            return
        since = self.relay.loop.time()
        backend = await self.borrow(pool, settings)
        try:
            answers = await backend.run((bytes((c.COM_INIT_DB,)) + settings.schema,))
        except ConnectionError as exc:
            raise WaitOver(Failure(FailureKind.DOWN), since) from exc
        error = answers[0].error
        if error is not None:
            backend.soft |= soft.STALE_WARNINGS
        if error is None:
            self._schemas.add(known)
            backend.bare = False
            if backend.settings is not None:
                backend.settings = self.relay.settings.replace(backend.settings, schema=settings.schema)
        self.relay.registry.release(backend)
        if error is not None:
            raise Refused(error)

    async def borrow(self, pool: Pool, settings: object) -> Backend:
        """Wait for a lease of our own, whose soft state is nobody's any more. Raises WaitOver."""
        # A stranger to everybody's soft state: what the last client left is read before it is lost.
        backend: Backend | None = self.relay.registry.acquire_nowait(pool, settings, False, None, None)
        if backend is None:
            future: asyncio.Future[Backend] = self.relay.loop.create_future()

            def granted(backend: Backend) -> None:
                if future.done():
                    self.relay.registry.release(backend)
                else:
                    future.set_result(backend)

            def failed(failure: Failure) -> None:
                if not future.done():
                    future.set_exception(WaitOver(failure, waiter.enqueued_at))

            waiter = Waiter(pool, None, settings, False, None, granted, failed)
            try:
                self.relay.registry.enqueue(waiter)
            except QueueFull:
                raise WaitOver(self.relay.queue_full, self.relay.loop.time()) from None
            self.relay.watch_queue()
            try:
                backend = await future
            except asyncio.CancelledError:
                if not self.relay.registry.cancel(waiter) and future.done() and not future.cancelled():
                    self.relay.registry.release(future.result())
                raise
        captured: asyncio.Event = asyncio.Event()
        if soft.capture_before_close(backend, captured.set):
            await captured.wait()
        return backend

    # Backends

    def open_backend(self, pool: Pool) -> None:
        """The registry wants a backend for `pool`."""
        self.relay.spawn(self._open(pool))

    async def _open(self, pool: Pool) -> None:
        user = user_of(pool.account)
        known = self._credentials.get(user)
        if known is None:
            err = f"Access denied for user '{pool.account.name}': its password is not known any more, log in again"
            self.relay.registry.open_failed(pool, Failure(FailureKind.ACCOUNT_ERROR, c.ER_ACCESS_DENIED, err, b"28000"))
            return
        try:
            backend = await self.connect(pool, user, known.password)
        except Exception as exc:
            failure = self.failure(exc)
            if failure.code == c.ER_ACCESS_DENIED and self._credentials.get(user) is known:
                del self._credentials[user]
            self.relay.registry.open_failed(pool, failure)
            self.relay.watch_queue()
            return
        backend.slot = OPENING
        self.relay.registry.opened(backend)

    async def connect(self, pool: Pool, user: bytes, password: bytes) -> Backend:
        """Open a backend and bring it into a known state."""
        started = self.relay.loop.time()
        profile = self.relay.profile
        waiter = next(iter(pool.account.waiters), None)
        wanted = waiter.settings if waiter is not None else None
        collation_id = profile.login_collation(wanted.collation if isinstance(wanted, Settings) else b"")
        greeted: list[Greeting] = []
        key = pool.key
        assert isinstance(key, int)
        try:
            async with asyncio.timeout(self.relay.config.backend.connect_timeout):
                login = await self.relay.dialer.connect(user, password, key & KEY, collation_id, greeted)
                backend = Backend(self.relay, pool, login.transport, login.greeting.thread_id)
                login.transport.set_protocol(backend)
                backend.slot = FREE
                self.relay.backends.add(backend)
                try:
                    await self._introduce(backend, login.greeting, collation_id)
                except BaseException:
                    backend.close_reason = "login"
                    backend.transport.abort()
                    raise
        except Exception as exc:
            code = exc.err.code if isinstance(exc, Refused) else c.CR_CONN_HOST_ERROR
            self.relay.stats.backend_connect_failures[str(code)] += 1
            raise
        finally:
            if greeted:
                self.relay.seen(greeted[0])
        self.relay.stats.backend_connects += 1
        self.relay.stats.backend_connect_seconds.observe(self.relay.loop.time() - started)
        return backend

    async def _introduce(self, backend: Backend, greeting: Greeting, collation_id: int) -> None:
        profile = self.relay.profile
        if profile.greeting is None:
            self.relay.seen(greeting)
        if not profile.learned:
            answers = await backend.run(profile.questions())
            error = next((answer.error for answer in answers if answer.error is not None), None)
            if error is not None:
                raise Refused(error)
            profile.learn(answers)
            self.relay.adjust_cap()
        tracked, limits = await backend.run((profile.track_command, _LIMITS_OF_SESSION))
        if tracked.error is not None:
            raise Refused(tracked.error)
        if limits.error is not None and limits.error.code == c.ER_MUST_CHANGE_PASSWORD:
            raise Refused(limits.error)  # MariaDB lets such an account in, but to nothing that a session needs
        if limits.error is None:
            connections, seconds = limits.values()[0]
            self._learn_limit(backend.pool.account, int(connections or 0))
            backend.wait_timeout = float(seconds or 0)
        charset, collation, results = profile.charset_of(collation_id)
        backend.settings = self.relay.settings.make(
            client_charset=charset,
            results_charset=results,
            collation=collation,
            autocommit=bool(greeting.status & c.SERVER_STATUS_AUTOCOMMIT),
        )

    async def ask_again(self, account: Account, *, server: bool) -> None:
        """Ask on one of the account's backends what its limit is now, and about the `server` too."""
        backends = [backend for backend in self.relay.backends if backend.pool.account is account]
        if not backends:
            return
        pool = min(backends, key=lambda backend: backend.slot != IDLE).pool
        profile = self.relay.profile
        with contextlib.suppress(WaitOver, ConnectionError, ValueError):
            backend = await self.borrow(pool, None)
            limit, *told = await backend.run((_LIMIT_OF_ACCOUNT, *(profile.questions() if server else ())))
            self.relay.registry.release(backend)
            if limit.error is None:
                self._learn_limit(account, int(limit.values()[0][0] or 0))
            if told:
                profile.learn(told)
                self.relay.adjust_cap()

    def _learn_limit(self, account: Account, allowed: int) -> None:
        """The account's MAX_USER_CONNECTIONS, 0 where it has none; a smaller one of ours stays."""
        known = self.relay.config.users.get(account.name)
        own = known.max_connections if known is not None else None
        limit = min(own or allowed, allowed) if allowed else own
        if limit != account.max_connections:
            self.relay.registry.set_limits(account, account.weight, limit)

    def failure(self, exc: Exception) -> Failure:
        """What an attempt to open a backend ended with, for the registry."""
        if isinstance(exc, Refused):
            err = exc.err
            text = err.message.decode("utf-8", "replace")
            kind = refusal_kind(err)
            if kind is not FailureKind.ACCOUNT_ERROR:
                self.relay.limited_log("refused", "server refused a connection", code=err.code, error=text)
            return Failure(kind, err.code, text, err.state or b"HY000")
        self.relay.health.failed(exc)
        return Failure(FailureKind.DOWN, c.CR_CONN_HOST_ERROR, self.relay.health.last_error)


def _name(user: bytes) -> str:
    return user.decode("utf-8", "surrogateescape")


def user_of(account: Account) -> bytes:
    """The name that an account logs in with."""
    return account.name.encode("utf-8", "surrogateescape")


def refusal_kind(err: Err) -> FailureKind:
    if err.code in _REFUSED_SERVER:
        return FailureKind.REFUSED_SERVER
    if err.code == c.ER_TOO_MANY_USER_CONNECTIONS:
        return FailureKind.REFUSED_ACCOUNT
    if err.code == c.ER_USER_LIMIT_REACHED and b"max_user_connections" in err.message:
        return FailureKind.REFUSED_ACCOUNT
    return FailureKind.ACCOUNT_ERROR
