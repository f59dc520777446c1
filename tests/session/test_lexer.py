"""Literals and comments go, everything else stays, and doubt is None."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.session.lexer import ANSI_QUOTES, NO_BACKSLASH_ESCAPES, UNSAFE_CHARSET, blank, statements, tokens, unquote


@pytest.mark.parametrize(
    ("sql", "mode", "expected"),
    [
        (b"SELECT 'a', \"b\"", 0, b"select '', ''"),
        (b"SELECT 'it''s'", 0, b"select '''"),
        (rb"SELECT 'it\'s'", 0, b"select ''"),
        (rb"SELECT '\\', 'x'", 0, b"select '', ''"),
        (rb"SELECT '\', 'x'", NO_BACKSLASH_ESCAPES, b"select '', ''"),
        (rb"SELECT '\', 'x'", 0, None),
        (b'SELECT "A""B`"', ANSI_QUOTES, b'select `a"b```'),
        (b"SELECT `It's`", 0, b"select `it's`"),
        (b"a/*x*/b", 0, b"a b"),
        (b"a/**/b", 0, b"a b"),
        (b"a -- x\nb", 0, b"a  \nb"),
        (b"a --", 0, b"a  "),
        (b"a --\tx", 0, b"a  "),
        (b"a --1", 0, b"a --1"),
        (b"a - -1 / 2", 0, b"a - -1 / 2"),
        (b"a # it's\nb", 0, b"a  \nb"),
        (b"'-- no' /* it's */", 0, b"''  "),
        (b"/*!50003 SET a */", 0, b" /*!  set a  */ "),
        (b"/*M!100100 'x' */", 0, b" /*!  ''  */ "),
        (b"/*+ hint(a) */", 0, b" "),
        (b"/*+ hint('a') */", 0, None),
        (b"/*!50003 it's */", 0, None),
        (b"/*!50003 '*/' */", 0, None),
        (b"/*!50003 /* x */ */", 0, None),
        (b"/*!50003 a", 0, None),
        (b"/* a", 0, None),
        (b"'a", 0, None),
        (b'"a', 0, None),
        (b'"a', ANSI_QUOTES, None),
        (b"`a", 0, None),
        (b"a\0b", 0, None),
        (b"a -- x\0 b", 0, None),
        (b"a --\xa0b", 0, None),
        (b"'a\0b'", 0, b"''"),
        (b"'\x95'", UNSAFE_CHARSET, None),
        (b"'a'", UNSAFE_CHARSET, b"''"),
    ],
)
def test_blanking(sql: bytes, mode: int, expected: bytes | None) -> None:
    assert blank(sql, mode) == expected


def test_tokens_and_statements() -> None:
    assert tokens(b"set @a:=@@b.`c``d`, x='' ;") == [
        b"set", b"@", b"a", b":=", b"@@", b"b", b".", b"`c``d`", b",", b"x", b"=", b"''", b";",
    ]  # fmt: skip
    assert statements(b"; a;;b c;") == [[b"a"], [b"b", b"c"]]
    assert unquote(b"`c``d`") == b"c`d"
    assert unquote(b"c") == b"c"


@example("--#", 0)
@given(st.text("'\"`\\ax-#/*!\n ;", max_size=30), st.integers(0, 3))
def test_blanking_never_raises_and_what_it_leaves_is_stable(text: str, mode: int) -> None:
    once = blank(text.encode(), mode)
    if once is not None and b"/*!" not in once and b"`" not in once:
        evened = re.sub(rb"'+", b"''", once)
        assert blank(evened, NO_BACKSLASH_ESCAPES) == evened


@given(st.text("ab'\"\\-#/*; ", max_size=20), st.sampled_from([b"a", b"get_lock", b"@x"]))
def test_a_properly_quoted_literal_hides_exactly_its_content(content: str, code: bytes) -> None:
    literal = content.replace("\\", "\\\\").replace("'", "\\'").encode()
    assert blank(code + b" '" + literal + b"' " + code, 0) == code + b" '' " + code
