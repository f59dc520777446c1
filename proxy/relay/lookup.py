"""Password hashes read from the server's own table, by an account that may: `auth.mode` with "lookup".

With the hash of a mysql_native_password account a client's answer can be checked, and the answer gives away what
logs in to the server (protocol.md A.4). What was read is kept for `auth.cache_ttl`, for names that do not exist as
well, so that both are answered alike. The names that are asked for meanwhile are read together; the connection is
beside the cap, and closed when nobody asks any more. It is opened as all others are, so what `tls.backend` demands
holds for it too. A lookup account that the server refuses is left alone for `auth.cache_ttl`: each client's login would
be one more with a wrong password, until the server locks it.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from proxy.wire.auth import Secret

from .backend import Backend
from .connect import Refused, Turn

if TYPE_CHECKING:
    from .relay import Relay

_AT_MOST = 10_000
_AT_ONCE = 200
_LONGEST_NAME = 128
_UTF8MB4 = 45
_MYSQL = b"\x03SELECT user, plugin, authentication_string FROM mysql.user WHERE user IN (%s)"
_MARIADB = b"\x03SELECT User, Priv FROM mysql.global_priv WHERE User IN (%s)"
_LATER = 1.0  # seconds after a failure that says nothing about the account

Hashes = tuple[bytes, ...]  # SHA1(SHA1(password)) each, b"" for an empty password


class Lookup:
    """The hashes of one server's accounts."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._found: dict[bytes, tuple[float, Hashes]] = {}
        self._asked: dict[bytes, asyncio.Future[Hashes | None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._not_before = float("-inf")  # it has failed: nobody tries again until then

    def forget(self) -> None:
        """Somebody may have changed a password."""
        self._found.clear()
        self._not_before = float("-inf")

    def forget_expired(self) -> None:
        """Let go of what would be read again anyway."""
        since = self._relay.clock() - self._relay.config.auth.cache_ttl
        self._found = {user: found for user, found in self._found.items() if found[0] > since}

    async def hashes(self, user: bytes) -> Hashes | None:
        """The hashes that accounts of this name have, whatever their host; None if they could not be read."""
        relay = self._relay
        read_at, hashes = self._found.get(user, (float("-inf"), ()))
        if relay.clock() - read_at < relay.config.auth.cache_ttl or not _possible(user):
            return hashes
        if relay.clock() < self._not_before:
            return None
        asked = self._asked.get(user)
        if asked is None:
            asked = self._asked[user] = relay.loop.create_future()
        if self._task is None or self._task.done():
            self._task = relay.spawn(self._answer())
        return await asyncio.shield(asked)

    async def _answer(self) -> None:
        """Read until nobody asks any more."""
        timeout = self._relay.config.backend.connect_timeout
        try:
            async with asyncio.timeout(timeout):
                connection = await self._connect()
            try:
                while self._asked:
                    async with asyncio.timeout(timeout):
                        await self._read(connection, list(self._asked)[:_AT_ONCE])
            finally:
                connection.close("lookup")
                connection.transport.close()
        except Exception as exc:  # whatever it is: those who wait are told, and nobody else is concerned
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        denied = isinstance(exc, Refused) and exc.err.code in Turn.DENIED
        self._not_before = self._relay.clock() + (self._relay.config.auth.cache_ttl if denied else _LATER)
        self._relay.limited_log("lookup", "accounts cannot be looked up", error=str(exc) or "timed out")
        asked, self._asked = self._asked, {}
        for future in asked.values():
            future.set_result(None)

    async def _connect(self) -> Backend:
        relay, auth = self._relay, self._relay.config.auth
        user = auth.lookup_user.encode()
        secret = Secret.of(auth.lookup_password.get_secret_value().encode(), vouched=True)
        login = await relay.dialer.connect(user, secret, 0, _UTF8MB4, [])
        connection = Backend(relay, relay.unproven_pool(user, 0), login.transport, login.greeting.thread_id)
        login.transport.set_protocol(connection)
        return connection

    async def _read(self, connection: Backend, users: list[bytes]) -> None:
        # In hexadecimal, so that nothing that somebody calls himself can be more than a name.
        names = b", ".join(b"_utf8mb4 x'%s'" % user.hex().encode() for user in users)
        mariadb = self._relay.profile.mariadb
        (answer,) = await connection.run(((_MARIADB if mariadb else _MYSQL) % names,))
        if answer.error is not None:
            raise Refused(answer.error)
        found: dict[bytes, list[bytes]] = {}
        for name, *rest in answer.values():
            words = [None if word is None else word.decode() for word in rest]
            found.setdefault(name or b"", []).extend(_of_mariadb(words[0] or "") if mariadb else _of_plugin(*words))
        now = self._relay.clock()
        for user in users:
            hashes = tuple(found.get(user, ()))
            self._found[user] = now, hashes
            if len(self._found) > _AT_MOST:  # somebody tries names
                del self._found[next(iter(self._found))]
            self._asked.pop(user).set_result(hashes)


def _possible(user: bytes) -> bool:
    """Whether an account can have this name: a query with any other would fail for everybody."""
    try:
        return len(user.decode()) <= _LONGEST_NAME
    except UnicodeDecodeError:
        return False


def _of_mariadb(priv: str) -> list[bytes]:
    """What mysql.global_priv says, with all that an account may log in with (`IDENTIFIED VIA a OR b`)."""
    document = json.loads(priv)
    found = []
    for way in document.get("auth_or", [document]):
        merged = document | way
        found += _of_plugin(merged.get("plugin", ""), merged.get("authentication_string", ""))
    return found


def _of_plugin(plugin: str | None, stored: str | None) -> list[bytes]:
    if plugin not in ("", "mysql_native_password") or stored is None:
        return []
    if not stored:
        return [b""]
    try:
        return [bytes.fromhex(stored[1:])] if len(stored) == 41 and stored[0] == "*" else []
    except ValueError:
        return []  # "*THISISNOTAVALIDPASSWORD…": nobody logs in with it
