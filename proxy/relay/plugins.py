"""What each authentication plugin wants of us when we log in to the server (protocol.md A.4).

A server may ask for several of them in one login, one after the other. A password leaves in the clear only where
nobody can read it: over TLS, or over a unix socket.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from nacl import bindings as nacl

from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import Err, parse_err

from .stream import PacketStream

_ONLY_SHA1 = "of this password mybouncer knows what mysql_native_password needs"
_PARSEC_ROUNDS = 1024
_MOST_PARSEC_ROUNDS = 10  # powers of two of the above: more than a second of work is nobody's honest wish


class Refused(Exception):
    """The server answered with an ERR; `err` is its own."""

    def __init__(self, err: Err) -> None:
        super().__init__(f"{err.code}: {err.message.decode('utf-8', 'replace')}")
        self.err = err


@dataclass(slots=True)
class Exchange:
    """One login in progress: who speaks with the server, and what may be said aloud."""

    stream: PacketStream
    secret: auth.Secret
    local: bool  # a unix socket
    secured: bool  # TLS
    plugin: bytes = b""
    nonce: bytes = b""
    given_up: str = ""  # why the server cannot have the answer that it asked for last

    @property
    def password(self) -> bytes:
        """The password in the clear, for the plugins that need it."""
        assert self.secret.password is not None
        return self.secret.password

    async def ask(self, payload: bytes) -> bytes:
        """Send a packet, return the answer. Raises Refused if that is an ERR."""
        self.stream.write_packet(payload)
        packet = await self.stream.read_packet()
        if packet[:1] == b"\xff":
            raise Refused(parse_err(packet))
        return packet


def first_answer(plugin: bytes, secret: auth.Secret, nonce: bytes) -> bytes | None:
    """What goes into the handshake response, where one packet can be the whole of it; None: let the server ask."""
    if plugin == c.NATIVE_PASSWORD:
        return b"" if secret.password == b"" else auth.scramble_native_sha1(secret.sha1, nonce)
    if plugin == c.CACHING_SHA2_PASSWORD and secret.password is not None:
        return auth.scramble_sha2(secret.password, nonce)
    return None


async def answer(exchange: Exchange) -> None:
    """Do what the server has asked for with an AuthSwitchRequest, or give up: it may ask for something else then."""
    plugin = exchange.plugin
    exchange.given_up = ""
    scramble = first_answer(plugin, exchange.secret, exchange.nonce)
    handler = _HANDLERS.get(plugin)
    if scramble is not None:
        exchange.stream.write_packet(scramble)
    elif exchange.secret.password is None and (handler is not None or plugin == c.CACHING_SHA2_PASSWORD):
        give_up(exchange, f"{_ONLY_SHA1}, and the server asks for '{_name(plugin)}'")
    elif handler is not None:
        await handler(exchange)
    else:
        give_up(exchange, f"mybouncer cannot log in with authentication plugin '{_name(plugin)}'")


async def full_authentication(exchange: Exchange) -> None:
    """caching_sha2_password: the server has not the hash at hand and wants the password itself."""
    await _send_secret(exchange, aloud=exchange.secured or exchange.local, ask=b"\x02")


def give_up(exchange: Exchange, text: str) -> None:
    """Go on with the login all the same, with what has a signature's length: less counts against our host."""
    exchange.given_up = text
    exchange.stream.write_packet(bytes(64))


def _name(plugin: bytes) -> str:
    return plugin.decode("ascii", "replace")


async def _sha256(exchange: Exchange) -> None:
    # Over a unix socket the server waits for it encrypted, too (protocol.md A.4).
    await _send_secret(exchange, aloud=exchange.secured, ask=b"\x01")


async def _send_secret(exchange: Exchange, *, aloud: bool, ask: bytes) -> None:
    password = exchange.password
    if aloud or not password:
        exchange.stream.write_packet(password + b"\0")
        return
    packet = await exchange.ask(ask)
    try:
        key = load_pem_public_key(packet[1:])
    except ValueError as exc:
        raise ProtocolError(f"the server's public key cannot be read: {exc}") from exc
    if not isinstance(key, rsa.RSAPublicKey):
        raise ProtocolError("the server's public key is not an RSA key")
    # SHA-1 is what the protocol says for this padding.
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
    exchange.stream.write_packet(key.encrypt(auth.xor_nonce(password + b"\0", exchange.nonce), oaep))


async def _clear(exchange: Exchange) -> None:
    if not (exchange.secured or exchange.local):
        give_up(exchange, "mysql_clear_password goes over TLS or a unix socket only, see tls.backend.mode")
        return
    exchange.stream.write_packet(exchange.password + b"\0")


async def _ed25519(exchange: Exchange) -> None:
    exchange.stream.write_packet(sign_ed25519(exchange.password, exchange.nonce))


def sign_ed25519(password: bytes, nonce: bytes) -> bytes:
    """client_ed25519: an Ed25519 signature of the nonce, with a key that is made from a password of any length.

    That length is why `cryptography`, which takes keys of 32 bytes, cannot make it; libsodium has the arithmetic.
    """
    digest = hashlib.sha512(password).digest()
    secret = bytearray(digest[:32])
    secret[0] &= 248
    secret[31] = (secret[31] & 127) | 64
    scalar = bytes(secret)
    public = nacl.crypto_scalarmult_ed25519_base_noclamp(scalar)
    r = nacl.crypto_core_ed25519_scalar_reduce(hashlib.sha512(digest[32:] + nonce).digest())
    point = nacl.crypto_scalarmult_ed25519_base_noclamp(r)
    k = nacl.crypto_core_ed25519_scalar_reduce(hashlib.sha512(point + public + nonce).digest())
    return bytes(point + nacl.crypto_core_ed25519_scalar_add(r, nacl.crypto_core_ed25519_scalar_mul(k, scalar)))


async def _parsec(exchange: Exchange) -> None:
    salt = (await exchange.ask(b"")).removeprefix(b"\x01")
    if len(salt) < 3 or salt[:1] != b"P" or salt[1] > _MOST_PARSEC_ROUNDS:
        raise ProtocolError("the server's salt for parsec cannot be used")
    rounds = _PARSEC_ROUNDS << salt[1]
    seed = await asyncio.to_thread(hashlib.pbkdf2_hmac, "sha512", exchange.password, salt[2:], rounds, 32)
    ours = os.urandom(32)
    exchange.stream.write_packet(ours + Ed25519PrivateKey.from_private_bytes(seed).sign(exchange.nonce + ours))


_HANDLERS: dict[bytes, Callable[[Exchange], Awaitable[None]]] = {
    c.SHA256_PASSWORD: _sha256,
    c.CLEAR_PASSWORD: _clear,
    c.ED25519: _ed25519,
    c.PARSEC: _parsec,
}
