"""Digests: what a statement is, without its data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session.digest import LENGTH, READ, digest
from proxy.session.lexer import ANSI_QUOTES, NO_BACKSLASH_ESCAPES, UNSAFE_CHARSET

DIGESTS = [
    ("SELECT 1", "SELECT ?"),
    ("select  *\n\tfrom t where id=17 and name = 'O''Hara'", "select * from t where id=? and name = ?"),
    ("SELECT a1, `2nd`, t3.x FROM t3", "SELECT a1, `2nd`, t3.x FROM t3"),
    ("SELECT -1.5e-3, .5, 0x1F, 1e5 FROM t", "SELECT -?, … FROM t"),
    ("SELECT * FROM t WHERE id IN (1, 2, 3)", "SELECT * FROM t WHERE id IN (?, …)"),
    ("SELECT * FROM t WHERE id IN (1,2)", "SELECT * FROM t WHERE id IN (?, …)"),
    ("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')", "INSERT INTO t VALUES (?, …), …"),
    ("SELECT 1 -- a comment\n, 2 /* another */", "SELECT ?, …"),
    ("/* app:web */ SELECT v FROM t WHERE id = 5;", "SELECT v FROM t WHERE id = ?"),
    ("SELECT ?", "SELECT ?"),
    ("", ""),
]


@pytest.mark.parametrize(("sql", "wanted"), DIGESTS)
def test_literals_comments_and_layout_are_taken_out(sql: str, wanted: str) -> None:
    assert digest(sql.encode()) == wanted


def test_nothing_behind_a_literal_without_an_end_is_shown() -> None:
    assert "secret" not in digest(b"SELECT a FROM t WHERE p = 'secret and more")
    assert digest(b"SELECT a FROM t WHERE p = 'secret and more").startswith("SELECT a FROM t WHERE p =")


def test_double_quotes_are_a_literal_or_a_name() -> None:
    assert digest(b'SELECT "a b"') == "SELECT ?"
    assert digest(b'SELECT "a b"', ANSI_QUOTES) == 'SELECT "a b"'


def test_what_cannot_be_read_with_certainty_is_not_shown() -> None:
    assert digest("SELECT 'é\\' OR 'x'".encode(), UNSAFE_CHARSET) == "SELECT …"


def test_it_has_a_bounded_length_whatever_the_text() -> None:
    assert len(digest(b"SELECT " + b"a, " * 100_000)) <= LENGTH + 2


WORDS = st.text(st.characters(blacklist_characters="'\\\"`#-/*?", min_codepoint=33, max_codepoint=0x2FF), min_size=3)


@given(WORDS.map(lambda word: f"canary{word}canary"), st.sampled_from([0, NO_BACKSLASH_ESCAPES, ANSI_QUOTES]))
def test_a_literal_is_never_in_it(word: str, mode: int) -> None:
    quoted = f"'{word}'"
    for sql in (f"SELECT * FROM t WHERE a = {quoted}", f"INSERT INTO t VALUES ({quoted}, 1), ({quoted}, 2)"):
        assert "canary" not in digest(sql.encode(), mode)


@given(st.binary(max_size=2 * READ), st.integers(0, 7))
def test_any_bytes_have_one_printable_line(sql: bytes, mode: int) -> None:
    line = digest(sql, mode)
    assert "\n" not in line and (line.isprintable() or not line)
    assert len(line) <= LENGTH + 2


@given(
    st.lists(st.integers(0, 10**12), min_size=2, max_size=30), st.lists(st.integers(0, 10**12), min_size=2, max_size=30)
)
def test_the_number_of_values_does_not_matter(one: list[int], other: list[int]) -> None:
    digests = {digest(f"SELECT v FROM t WHERE id IN ({', '.join(map(str, ids))})".encode()) for ids in (one, other)}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "sql",
    [b'ALTER USER u IDENTIFIED BY "secret"', b'set password = "secret"', b'CREATE USER "u" identified by "secret'],
)
def test_a_password_in_the_wrong_quotes_is_not_shown(sql: bytes) -> None:
    assert "secret" not in digest(sql, ANSI_QUOTES)
