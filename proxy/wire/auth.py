"""Password arithmetic of the authentication plugins (protocol.md A.4, A.5). No IO; RSA is the caller's."""

from __future__ import annotations

import hashlib
import hmac
import os

from .constants import CACHING_SHA2_PASSWORD as CACHING_SHA2
from .constants import NATIVE_PASSWORD as NATIVE

_NONCE_BYTES = bytes(b % 90 + 37 for b in range(256))


def make_nonce() -> bytes:
    """Return 20 random bytes without NUL and `$`, as servers make them (A.1)."""
    return os.urandom(20).translate(_NONCE_BYTES)


def _xor(a: bytes, b: bytes) -> bytes:
    if len(a) != len(b):
        raise ValueError("not of one length")
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def sha1(data: bytes) -> bytes:
    """SHA-1, because that is what mysql_native_password is made of."""
    return hashlib.sha1(data, usedforsecurity=False).digest()


def scramble_native(password: bytes, nonce: bytes) -> bytes:
    """mysql_native_password: SHA1(p) xor SHA1(nonce + SHA1(SHA1(p))); b"" for an empty password."""
    return scramble_native_sha1(sha1(password), nonce) if password else b""


def scramble_native_sha1(stage1: bytes, nonce: bytes) -> bytes:
    """The same from SHA1(p) alone, which is as good as the password here."""
    return _xor(stage1, sha1(nonce[:20] + sha1(stage1)))


def native_sha1(scramble: bytes, nonce: bytes, stored: bytes) -> bytes | None:
    """Return SHA1(p) out of a mysql_native_password scramble, if that was made with the password behind `stored`.

    `stored` is SHA1(SHA1(p)), what a server keeps.
    """
    if len(scramble) != 20:
        return None
    stage1 = _xor(scramble, sha1(nonce[:20] + stored))
    return stage1 if hmac.compare_digest(sha1(stage1), stored) else None


def scramble_sha2(password: bytes, nonce: bytes) -> bytes:
    """caching_sha2_password: SHA256(p) xor SHA256(SHA256(SHA256(p)) + nonce); b"" for an empty password."""
    if not password:
        return b""
    stage1 = hashlib.sha256(password).digest()
    stage2 = hashlib.sha256(stage1).digest()
    return _xor(stage1, hashlib.sha256(stage2 + nonce[:20]).digest())


def sha2_verifier(password: bytes) -> bytes:
    """Return SHA256(SHA256(p)): enough to check a scramble, not enough to make one."""
    return hashlib.sha256(hashlib.sha256(password).digest()).digest()


def check_sha2(scramble: bytes, nonce: bytes, verifier: bytes) -> bool:
    """Tell whether a caching_sha2_password scramble was made with the password behind `verifier`."""
    if len(scramble) != 32:
        return False
    stage1 = _xor(scramble, hashlib.sha256(verifier + nonce[:20]).digest())
    return hmac.compare_digest(hashlib.sha256(stage1).digest(), verifier)


def certificate_proof(stored: bytes, nonce: bytes, fingerprint: bytes) -> bytes:
    """What MariaDB's clients believe a certificate by that nobody has signed: the info of the login's OK.

    Only who knows SHA1(SHA1(p)), `stored`, can make it. `fingerprint` is the certificate's SHA-256.
    """
    return b"\x01" + hashlib.sha256(stored + nonce[:20] + fingerprint).hexdigest().upper().encode()


def xor_nonce(data: bytes, nonce: bytes) -> bytes:
    """Xor `data` with the repeated nonce: what is inside the RSA exchange (and undone the same way)."""
    return bytes(b ^ nonce[i % len(nonce)] for i, b in enumerate(data))


class Secret:
    """What logs in to a server: a password, or only its SHA1, which is enough for mysql_native_password.

    `vouched`: the configuration says whose it is, so that the server may go by who *we* are (its auth_socket plugin).
    """

    __slots__ = ("_sha2", "native_hash", "password", "sha1", "vouched")

    def __init__(self, password: bytes | None, stage1: bytes, *, vouched: bool = False) -> None:
        self.password = password
        self.sha1 = stage1
        self.native_hash = sha1(stage1)
        self.vouched = vouched
        self._sha2 = sha2_verifier(password) if password is not None else None

    @classmethod
    def of(cls, password: bytes, *, vouched: bool = False) -> Secret:
        """Of a password in the clear."""
        return cls(password, sha1(password), vouched=vouched)

    @classmethod
    def of_sha1(cls, stage1: bytes) -> Secret:
        """Of SHA1(p), which a client's own answer has told us."""
        return cls(None, stage1)

    def __repr__(self) -> str:
        return f"<Secret {'SHA1 only' if self.password is None else 'password'}>"

    def same(self, other: Secret) -> bool:
        """Whether both come from the same password."""
        if self._sha2 is not None and other._sha2 is not None:
            return hmac.compare_digest(self._sha2, other._sha2)
        return hmac.compare_digest(self.native_hash, other.native_hash)

    @property
    def ident(self) -> bytes:
        """What tells secrets of an account apart; nothing that logs in anywhere."""
        return self.native_hash if self._sha2 is None else self._sha2

    def answers(self, plugin: bytes, answer: bytes, nonce: bytes) -> bool:
        """Whether this is a client's answer of `plugin` to the nonce."""
        if not answer:
            return self.password == b""
        if plugin == NATIVE:
            return native_sha1(answer, nonce, self.native_hash) is not None
        return plugin == CACHING_SHA2 and self._sha2 is not None and check_sha2(answer, nonce, self._sha2)
