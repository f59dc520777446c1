"""Scrambles against PyMySQL's own functions and known answers, and the check of a scramble against a verifier."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql import _auth as pymysql_auth

from proxy.wire import auth
from proxy.wire.constants import CACHING_SHA2_PASSWORD, CLEAR_PASSWORD, NATIVE_PASSWORD

passwords = st.binary(min_size=1, max_size=40)
nonces = st.binary(min_size=20, max_size=20)

NONCE = bytes(range(37, 57))
NATIVE_ANSWER = "a97464d5cc9f6115acba8589805b3524586fa11e"
SHA2_ANSWER = "78abab1648d42b473edd4d7997090c9823f31164d6d2383df07671b4e46581db"


def test_known_answers() -> None:
    """Made once with PyMySQL 1.2, so that a change of both sides is noticed too."""
    assert auth.scramble_native(b"secret", NONCE).hex() == NATIVE_ANSWER
    assert auth.scramble_sha2(b"secret", NONCE).hex() == SHA2_ANSWER


@given(passwords, nonces)
def test_native_is_what_pymysql_sends(password: bytes, nonce: bytes) -> None:
    assert auth.scramble_native(password, nonce) == pymysql_auth.scramble_native_password(password, nonce)


@given(passwords, nonces)
def test_sha2_is_what_pymysql_sends(password: bytes, nonce: bytes) -> None:
    assert auth.scramble_sha2(password, nonce) == pymysql_auth.scramble_caching_sha2(password, nonce)


@given(passwords, nonces)
def test_the_clear_password_in_rsa_is_what_pymysql_encrypts(password: bytes, nonce: bytes) -> None:
    hidden = auth.xor_nonce(password + b"\0", nonce)
    assert hidden == pymysql_auth._xor_password(password + b"\0", nonce)
    assert auth.xor_nonce(hidden, nonce) == password + b"\0"


@given(passwords, nonces)
def test_a_native_scramble_is_what_a_server_with_the_hash_accepts(password: bytes, nonce: bytes) -> None:
    stored = hashlib.sha1(hashlib.sha1(password).digest()).digest()
    mask = hashlib.sha1(nonce + stored).digest()
    stage1 = bytes(a ^ b for a, b in zip(auth.scramble_native(password, nonce), mask, strict=True))
    assert hashlib.sha1(stage1).digest() == stored


@given(passwords, passwords, nonces, nonces)
def test_a_sha2_scramble_is_accepted_for_its_password_and_nonce_only(
    password: bytes, other: bytes, nonce: bytes, other_nonce: bytes
) -> None:
    verifier = auth.sha2_verifier(password)
    scramble = auth.scramble_sha2(password, nonce)
    assert auth.check_sha2(scramble, nonce, verifier)
    assert auth.check_sha2(scramble, nonce, auth.sha2_verifier(other)) == (password == other)
    assert auth.check_sha2(scramble, other_nonce, verifier) == (nonce == other_nonce)


@given(st.binary(max_size=64), nonces)
def test_any_other_answer_is_not_accepted(answer: bytes, nonce: bytes) -> None:
    assert not auth.check_sha2(answer, nonce, auth.sha2_verifier(b"secret"))


def test_a_trailing_nul_of_the_nonce_does_not_count() -> None:
    verifier = auth.sha2_verifier(b"secret")
    assert auth.scramble_native(b"secret", NONCE + b"\0") == auth.scramble_native(b"secret", NONCE)
    assert auth.scramble_sha2(b"secret", NONCE + b"\0") == auth.scramble_sha2(b"secret", NONCE)
    assert auth.check_sha2(auth.scramble_sha2(b"secret", NONCE), NONCE + b"\0", verifier)


@pytest.mark.parametrize("scramble", [auth.scramble_native, auth.scramble_sha2])
def test_an_empty_password_is_an_empty_answer(scramble: object) -> None:
    assert callable(scramble)
    assert scramble(b"", NONCE) == b""


def test_nonces_have_20_bytes_without_nul_and_dollar_and_differ() -> None:
    made = {auth.make_nonce() for _ in range(200)}
    assert len(made) == 200
    assert {len(nonce) for nonce in made} == {20}
    assert not set(b"".join(made)) & set(b"\0$")
    assert max(b"".join(made)) < 0x80


@given(passwords, passwords, nonces)
def test_a_native_answer_gives_away_what_logs_in(password: bytes, other: bytes, nonce: bytes) -> None:
    stored = auth.Secret.of(password).native_hash
    stage1 = auth.native_sha1(auth.scramble_native(password, nonce), nonce, stored)
    assert stage1 == hashlib.sha1(password).digest()
    assert auth.scramble_native_sha1(stage1, nonce) == auth.scramble_native(password, nonce)
    assert (auth.native_sha1(auth.scramble_native(other, nonce), nonce, stored) is None) == (other != password)


@given(st.binary(max_size=64), nonces)
def test_no_other_answer_gives_anything_away(answer: bytes, nonce: bytes) -> None:
    assert auth.native_sha1(answer, nonce, auth.Secret.of(b"secret").native_hash) is None


@given(st.binary(max_size=20), st.binary(max_size=20), nonces)
def test_a_secret_knows_the_answers_that_were_made_with_it(password: bytes, other: bytes, nonce: bytes) -> None:
    secret = auth.Secret.of(password)
    half = auth.Secret.of_sha1(hashlib.sha1(password).digest())
    for given_password in (password, other):
        fits = given_password == password
        native = auth.scramble_native(given_password, nonce)
        sha2 = auth.scramble_sha2(given_password, nonce)
        assert secret.answers(NATIVE_PASSWORD, native, nonce) == fits
        assert secret.answers(CACHING_SHA2_PASSWORD, sha2, nonce) == fits
        assert half.answers(NATIVE_PASSWORD, native, nonce) == (fits and password != b"")
        assert not half.answers(CACHING_SHA2_PASSWORD, sha2, nonce)
        assert secret.same(auth.Secret.of(given_password)) == half.same(auth.Secret.of(given_password)) == fits
    if password:
        assert not secret.answers(CLEAR_PASSWORD, password, nonce), "this is no answer to a nonce"


@given(passwords)
def test_a_secret_never_shows_itself(password: bytes) -> None:
    secrets = (auth.Secret.of(b"canary" + password), auth.Secret.of_sha1(b"canary" + password))
    assert {repr(each) for each in secrets} == {"<Secret password>", "<Secret SHA1 only>"}


def test_the_proof_of_a_certificate_is_what_libmariadb_computes() -> None:
    """A 1 and the SHA-256 of hash, scramble and fingerprint, in capitals (libmariadb, plugins/auth/my_auth.c)."""
    stored, fingerprint = auth.Secret.of(b"secret").native_hash, bytes(range(32))
    made = auth.certificate_proof(stored, NONCE + b"\0", fingerprint)
    assert made == b"\x01" + hashlib.sha256(stored + NONCE + fingerprint).hexdigest().upper().encode()
