"""How a client shows that it has its account's password, as `auth.mode` allows (protocol.md A.4, A.5).

    the answer to the greeting's nonce fits what the server accepted not long ago ------------------> known
    "users":        it fits the password in the configuration                                       -> to be proven
    "lookup":       it fits a hash in the server's table, and gives away what logs in there         -> to be proven
    "passthrough":  [AuthSwitch] -> full authentication: the password itself, in the clear over TLS -> to be proven
                    or a unix socket, else encrypted with our RSA key

The modes are tried in their order. A mismatch in one is no answer but the next one's turn; with "passthrough" the
server decides. Unknown names and wrong passwords go the same way, round trip by round trip.
"""

from __future__ import annotations

import hmac
import pwd
from typing import TYPE_CHECKING

from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.auth import Secret
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import Err, Greeting, HandshakeResponse, build_auth_switch

from .connect import Refused
from .peer import uid_of_peer

if TYPE_CHECKING:
    import socket

    from .lookup import Hashes
    from .relay import Relay
    from .stream import PacketStream

_FAST_OK = b"\x01\x03"
_FULL = b"\x01\x04"
_WANTS_KEY = b"\x02"
_WANTS_RSA = b"\x01"  # the same, in sha256_password
_CHECKED_HERE = (c.CACHING_SHA2_PASSWORD, c.NATIVE_PASSWORD)
_EMPTY = Secret.of(b"").native_hash  # servers keep none of an empty password
_SOMEBODY = 65534  # what the kernel calls users of other namespaces
_NO_LOOKUP = b"mybouncer cannot look up accounts at the server: its log says why"


def first_plugin(modes: tuple[str, ...], *, mariadb: bool) -> bytes:
    """The plugin of our greeting.

    What is looked up are hashes for mysql_native_password, and MariaDB's clients (11.4 and later) log in with nothing
    else where they have no CA for our certificate.
    """
    native = "lookup" in modes or ("users" in modes and mariadb)
    return c.NATIVE_PASSWORD if native else c.CACHING_SHA2_PASSWORD


class Challenge:
    """What one client is asked."""

    def __init__(
        self,
        relay: Relay,
        stream: PacketStream,
        greeting: Greeting,
        response: HandshakeResponse,
        address: str,
        *,
        private: bool,
        answered: bool,
    ) -> None:
        self._relay = relay
        self._stream = stream
        self._greeting = greeting
        self._response = response
        self._address = address
        self._private = private
        self._answered = answered  # the response holds an answer to the greeting's nonce
        self._modes = relay.config.auth.mode
        self.plugin = response.plugin
        if not response.capabilities & c.CLIENT_PLUGIN_AUTH:
            self.plugin = c.NATIVE_PASSWORD  # of the time before there were others
        self.nonce = greeting.nonce
        self._answer = response.auth_response
        if self._answer == b"\0" and self.plugin in _CHECKED_HERE:
            self._answer = b""

    async def run(self) -> tuple[Secret, bool]:
        """Return what logs in to the server as this client's account, and whether that is known already.

        Raises Refused.
        """
        user = self._response.username
        accounts = self._relay.accounts
        if self._is_system_user():
            listed = accounts.listed(user)
            assert listed is not None
            return self._found(listed, accounts.credentials.is_proven(user, listed))
        if self.plugin == c.CLEAR_PASSWORD and self._private and self._answer:
            return await self._in_the_clear(Secret.of(_without_nul(self._answer)))
        if not self._is_answered:
            if self._switches_once and self._modes != ("users",):
                return await self._in_the_clear(Secret.of(await self._by_sha256()))
            await self._first_answer()
        secret = accounts.credentials.proven(user, self.plugin, self._answer, self.nonce)
        if secret is not None:
            return self._found(secret, True)
        for mode in self._modes:
            if mode == "passthrough":
                return await self._passed_through()
            secret = accounts.listed(user) if mode == "users" else await self._looked_up()
            if secret is not None and secret.answers(self.plugin, self._answer, self.nonce):
                return self._found(secret, False)
        raise Refused(self._denied())

    async def _in_the_clear(self, given: Secret) -> tuple[Secret, bool]:
        """The client has given the password itself."""
        accounts, user = self._relay.accounts, self._response.username
        if accounts.credentials.is_proven(user, given):
            return given, True
        for mode in self._modes:
            if mode == "passthrough":
                return given, False
            if mode == "users":
                listed = accounts.listed(user)
                if listed is not None and listed.same(given):
                    return listed, False
            elif any(hmac.compare_digest(stored or _EMPTY, given.native_hash) for stored in await self._hashes()):
                return given, False
        raise Refused(self._denied())

    def _found(self, secret: Secret, proven: bool) -> tuple[Secret, bool]:
        if self.plugin == c.CACHING_SHA2_PASSWORD and self._answer:
            self._stream.write_packet(_FAST_OK)
        return secret, proven

    @property
    def _is_answered(self) -> bool:
        """Whether the response holds an answer that can be checked here.

        A client that can do nothing else than its plugin answers the nonce of our greeting all the same.
        """
        ours = self.plugin == self._greeting.plugin
        return self._answered and (ours or (self.plugin in _CHECKED_HERE and bool(self._answer)))

    @property
    def _switches_once(self) -> bool:
        """libmysqlclient on plain TCP.

        It refuses to ask for a key with caching_sha2_password and asks with sha256_password; and a second
        AuthSwitchRequest in one login is an error to it.
        """
        return not self._private and self._response.attributes.get(b"_client_name") == b"libmysql"

    async def _first_answer(self) -> None:
        """Have an answer that can be checked here, of a plugin that suits the modes."""
        if self.plugin == c.NATIVE_PASSWORD and self._modes != ("passthrough",):
            await self._switch(self.plugin)  # it says nothing until it is asked
        elif "passthrough" in self._modes or self.plugin == c.CACHING_SHA2_PASSWORD:
            await self._switch(c.CACHING_SHA2_PASSWORD)
        else:
            await self._switch(self._greeting.plugin)

    async def _switch(self, plugin: bytes) -> None:
        self.plugin, self.nonce = plugin, auth.make_nonce()
        self._stream.write_packet(build_auth_switch(plugin, self.nonce))
        self._answer = await self._stream.read_packet()
        if self._answer == b"\0":
            self._answer = b""

    # "lookup"

    async def _looked_up(self) -> Secret | None:
        """What fits one of the hashes that the server has for this name."""
        if self.plugin != c.NATIVE_PASSWORD:
            if "passthrough" in self._modes:
                return None  # that asks this client for more than a hash is good for
            await self._switch(c.NATIVE_PASSWORD)
        for stored in await self._hashes():
            if not stored and not self._answer:
                return Secret.of(b"")
            stage1 = auth.native_sha1(self._answer, self.nonce, stored)
            if stage1 is not None:
                return Secret.of_sha1(stage1)
        return None

    async def _hashes(self) -> Hashes:
        lookup = self._relay.accounts.lookup
        assert lookup is not None
        hashes = await lookup.hashes(self._response.username)
        if hashes is None and self._modes[-1] == "lookup":
            raise Refused(Err(c.CR_CONN_HOST_ERROR, b"HY000", _NO_LOOKUP))
        return hashes or ()

    # "passthrough"

    async def _passed_through(self) -> tuple[Secret, bool]:
        credentials, user = self._relay.accounts.credentials, self._response.username
        if self.plugin != c.CACHING_SHA2_PASSWORD:
            await self._switch(c.CACHING_SHA2_PASSWORD)
            known = credentials.proven(user, self.plugin, self._answer, self.nonce)
            if known is not None:
                return self._found(known, True)
        if not self._answer:
            return Secret.of(b""), False
        return Secret.of(await self._full()), False

    async def _full(self) -> bytes:
        """caching_sha2_password's full authentication: the password itself."""
        if self._switches_once:
            return await self._by_sha256()
        self._stream.write_packet(_FULL)
        answer = await self._stream.read_packet()
        return await self._by_rsa() if answer == _WANTS_KEY else _without_nul(answer)

    async def _by_sha256(self) -> bytes:
        await self._switch(c.SHA256_PASSWORD)
        return await self._by_rsa() if self._answer == _WANTS_RSA else self._answer.rstrip(b"\0")

    async def _by_rsa(self) -> bytes:
        """Give the client our public key, decrypt what it sends."""
        key = await self._relay.accounts.rsa_key()
        self._stream.write_packet(b"\x01" + key.pem)
        secret = await self._stream.read_packet()
        try:
            return _without_nul(auth.xor_nonce(await key.decrypt(secret), self.nonce))
        except ValueError as exc:
            raise ProtocolError("the encrypted password cannot be decrypted") from exc

    # Who else

    def _is_system_user(self) -> bool:
        """Whether the process at the other end of a unix socket runs as the account's `system_user`."""
        known = self._relay.config.users.get(self._response.username.decode("utf-8", "surrogateescape"))
        if known is None or not known.system_user or "users" not in self._modes or not self._is_local:
            return False
        assert self._stream.transport is not None
        return known.system_user in _names_of_peer(self._stream.transport.get_extra_info("socket"))

    @property
    def _is_local(self) -> bool:
        return self._address.startswith("unix:")

    def _denied(self) -> Err:
        """The server's words, for whom it was not asked about."""
        self._relay.stats.errors[(c.ER_ACCESS_DENIED, "proxy")] += 1
        user = self._response.username
        host = b"localhost" if self._is_local else self._address.rpartition(":")[0].encode()
        using = b"YES" if self._answer else b"NO"
        return Err(
            c.ER_ACCESS_DENIED, b"28000", b"Access denied for user '%s'@'%s' (using password: %s)" % (user, host, using)
        )


def _names_of_peer(sock: socket.socket) -> tuple[str, ...]:
    """The number and, if it has one, the name of the user that a unix socket's other end runs as."""
    uid = uid_of_peer(sock)
    if uid is None or uid == _SOMEBODY:
        return ()
    try:
        return str(uid), pwd.getpwuid(uid).pw_name
    except KeyError:
        return (str(uid),)


def _without_nul(password: bytes) -> bytes:
    return password[:-1] if password.endswith(b"\0") else password
