"""Password arithmetic of the authentication plugins (protocol.md A.4, A.5). No IO; RSA is the caller's."""

from __future__ import annotations

import hashlib
import hmac
import os


def make_nonce() -> bytes:
    """Return 20 random bytes without NUL and `$`, as servers make them (A.1)."""
    return bytes(b % 90 + 37 for b in os.urandom(20))


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def scramble_native(password: bytes, nonce: bytes) -> bytes:
    """mysql_native_password: SHA1(p) xor SHA1(nonce + SHA1(SHA1(p))); b"" for an empty password."""
    if not password:
        return b""
    stage1 = hashlib.sha1(password, usedforsecurity=False).digest()
    stage2 = hashlib.sha1(stage1, usedforsecurity=False).digest()
    return _xor(stage1, hashlib.sha1(nonce[:20] + stage2, usedforsecurity=False).digest())


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


def xor_nonce(data: bytes, nonce: bytes) -> bytes:
    """Xor `data` with the repeated nonce: what is inside the RSA exchange (and undone the same way)."""
    return bytes(b ^ nonce[i % len(nonce)] for i, b in enumerate(data))
