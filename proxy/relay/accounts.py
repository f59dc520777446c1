"""Accounts: where their secrets come from, and how their backends are opened.

A secret is *proven* by a login to the server (`proofs`); for `auth.cache_ttl` after that clients are checked against it
here (`credentials`). The configuration may know it (`listed`), or the server's own table (`lookup`).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.pool.budget import FREE, IDLE, OPENING
from proxy.pool.queue import Failure, FailureKind, QueueFull, Waiter
from proxy.session.state import Settings
from proxy.wire import constants as c
from proxy.wire.auth import Secret
from proxy.wire.packets import Err, Greeting

from . import soft
from .backend import Backend
from .connect import KEY, Login, Refused
from .credentials import Credentials, Known
from .lookup import Lookup
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


class Accounts:
    """Who may log in, as far as we know, and how their backends are opened."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.credentials = Credentials(relay)
        self.proofs = Proofs(self)
        self.lookup = Lookup(relay) if "lookup" in relay.config.auth.mode else None
        self._listed = {
            name.encode("utf-8", "surrogateescape"): Secret.of(user.password.get_secret_value().encode(), vouched=True)
            for name, user in relay.config.users.items()
            if user.password is not None and "users" in relay.config.auth.mode
        }
        self._schemas: set[tuple[str, bytes]] = set()
        self._rsa_key: asyncio.Future[RsaKey] | None = None

    def listed(self, user: bytes) -> Secret | None:
        """The password that the configuration gives to an account."""
        return self._listed.get(user)

    def passwords_may_have_changed(self) -> None:
        """Somebody may have changed a password: what is known is proven again, what was looked up is read again."""
        self.credentials.doubt_all()
        if self.lookup is not None:
            self.lookup.forget()

    def forget_expired(self) -> None:
        """Let go of secrets that are not needed any more."""
        self.credentials.forget_expired()
        if self.lookup is not None:
            self.lookup.forget_expired()

    async def rsa_key(self) -> RsaKey:
        """Our RSA key; made once, in a thread, because it takes a while."""
        if self._rsa_key is None:
            self._rsa_key = asyncio.ensure_future(asyncio.to_thread(RsaKey))
        return await asyncio.shield(self._rsa_key)

    async def check_schema(self, pool: Pool, settings: Settings) -> None:
        """Make sure that the account may use the schema of `settings`. Raises Refused or WaitOver."""
        assert settings.schema is not None
        if len(self._schemas) > _MAX_SCHEMAS:
            self._schemas.clear()
        known = (pool.account.name, settings.schema)
        if known in self._schemas:
            return
        since = self.relay.clock()
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
                raise WaitOver(self.relay.queue_full, self.relay.clock()) from None
            self.relay.watch_queue()
            try:
                backend = await future
            except asyncio.CancelledError:
                if not self.relay.registry.cancel(waiter) and future.done() and not future.cancelled():
                    self.relay.registry.release(future.result())
                raise
        captured: asyncio.Event = asyncio.Event()
        if soft.capture(backend, captured.set):
            await captured.wait()
        return backend

    # Backends

    def open_backend(self, pool: Pool) -> None:
        """The registry wants a backend for `pool`."""
        self.relay.spawn(self._open(pool))

    async def _open(self, pool: Pool) -> None:
        try:
            backend = await self.connect(pool, self.known(pool.account))
        except Exception as exc:
            self.relay.registry.open_failed(pool, self.failure(exc))
            self.relay.watch_queue()
            return
        backend.slot = OPENING
        self.relay.registry.opened(backend)

    def known(self, account: Account) -> Known:
        """What opens connections of this account. Raises Refused if it is not known any more."""
        known = self.credentials.opener(user_of(account))
        if known is None:
            text = f"Access denied for user '{account.name}': its password is not known any more, log in again"
            raise Refused(Err(c.ER_ACCESS_DENIED, b"28000", text.encode("utf-8", "surrogateescape")))
        return known

    async def log_in(
        self, account: Account, known: Known | Secret, key: int, collation_id: int, greeted: list[Greeting]
    ) -> Login:
        """Log in to the server as `account`. Raises what `Dialer.connect` raises; what is refused is forgotten."""
        user = user_of(account)
        secret, turn = (known, None) if isinstance(known, Secret) else (known.secret, known.turn)
        try:
            return await self.relay.dialer.connect(user, secret, key, collation_id, greeted, turn)
        except Refused as exc:
            self.credentials.refused(user, secret, exc.err)
            raise

    async def connect(self, pool: Pool, known: Known | Secret) -> Backend:
        """Open a backend, with what is known or what is to be proven, and bring it into a known state."""
        started = self.relay.clock()
        profile = self.relay.profile
        waiter = next(iter(pool.account.waiters), None)
        wanted = waiter.settings if waiter is not None else None
        collation_id = profile.login_collation(wanted.collation if isinstance(wanted, Settings) else b"")
        greeted: list[Greeting] = []
        key = pool.key
        assert isinstance(key, int)
        try:
            async with asyncio.timeout(self.relay.config.backend.connect_timeout):
                login = await self.log_in(pool.account, known, key & KEY, collation_id, greeted)
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
        self.relay.stats.backend_connect_seconds.observe(self.relay.clock() - started)
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
