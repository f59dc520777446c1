"""Our RSA key: what clients encrypt with it comes back, without holding up everybody else."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from proxy.relay.accounts import RsaKey


def encrypted(key: RsaKey, text: bytes) -> bytes:
    public = load_pem_public_key(key.pem)
    assert isinstance(public, rsa.RSAPublicKey)
    return public.encrypt(text, padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None))


def test_a_crowd_of_logins_leaves_the_loop_to_others_in_between() -> None:
    async def main() -> None:
        key = RsaKey()
        secrets = [b"secret %d" % n for n in range(20)]
        loop = asyncio.get_running_loop()
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        loop.call_soon(turn)
        assert await asyncio.gather(*(key.decrypt(encrypted(key, secret)) for secret in secrets)) == secrets
        assert turns >= len(secrets)

    asyncio.run(main())


def test_what_was_not_encrypted_with_it_is_an_error_and_the_next_one_has_its_turn() -> None:
    async def main() -> None:
        key = RsaKey()
        with pytest.raises(ValueError):
            await key.decrypt(b"x" * 256)
        assert await key.decrypt(encrypted(key, b"secret")) == b"secret"

    asyncio.run(main())
