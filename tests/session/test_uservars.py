"""Which SET of a user variable is carried, and as what."""

from __future__ import annotations

import pytest

from proxy.session import pins as p
from proxy.session.classify import Classifier
from proxy.session.state import SettingsTable, restore_after_reset, restore_commands
from proxy.session.uservars import constant
from proxy.session.verdict import NAMES

MYSQL = Classifier(mariadb=False)


@pytest.mark.parametrize(
    ("sql", "assigns"),
    [
        ("SET @x = 1", {b"@x": b"1"}),
        ("set @X:=-1.50 ;", {b"@x": b"-1.50"}),
        ("SET @a.b = 'it is', @c = NULL, @d=TRUE", {b"@a.b": b"'it is'", b"@c": b"NULL", b"@d": b"TRUE"}),
        ("SET @x = 1e-3", {b"@x": b"1e-3"}),
        ("SET @x = ''", {b"@x": b"''"}),
    ],
)
def test_a_constant_is_carried(sql: str, assigns: dict[bytes, bytes]) -> None:
    verdict = MYSQL.classify(sql.encode(), 0)
    assert dict(verdict.assigns) == assigns
    assert verdict.pins == 0
    assert verdict.flags & NAMES


@pytest.mark.parametrize(
    "sql",
    [
        "SET @x = 1 + 1",
        "SET @x = @y",
        "SET @x = 'it''s'",
        "SET @x = 'a' 'b'",
        "SET @x = 'a\\n'",
        "SET @x = 'ä'",
        "SET @x = _latin1'a'",
        "SET @x = x'00'",
        "SET @x = 0x00",
        "SET @x = NOW()",
        "SET @x = DATE'2026-01-01'",
        "SET @x = 1, @y = (SELECT 1)",
        "SET @x = 1, sql_mode = ''",
        "SET @`x` = 1",
        "SET @x = 1; SET @y = 2",
        "SET /* x */ @x = 1",
        "SET @x = 1 COLLATE utf8mb4_bin",
        "SET @x = nullif(1, 2)",
        "SET @x = 1\x00",
    ],
)
def test_everything_else_pins(sql: str) -> None:
    verdict = MYSQL.classify(sql.encode(), 0)
    assert verdict.assigns == ()
    assert verdict.pins & (p.USER_VARIABLE | p.OPAQUE)


@pytest.mark.parametrize(
    ("value", "collation", "found"),
    [
        (b"1", b"gbk_chinese_ci", b"1"),
        (b"'a'", b"utf8mb4_general_ci", b"_utf8mb4'a' COLLATE utf8mb4_general_ci"),
        (b"'a'", b"latin1_bin", b"_latin1'a' COLLATE latin1_bin"),
        (b"'a'", b"ucs2_general_ci", None),
        (b"'a'", b"binary", None),
    ],
)
def test_a_string_is_written_with_its_charset(value: bytes, collation: bytes, found: bytes | None) -> None:
    assert constant(value, collation) == found


def test_user_variables_are_restored_and_what_a_session_never_set_takes_a_reset() -> None:
    table = SettingsTable()
    none = table.make()
    one = table.make(variables=[(b"@x", b"1")])
    other = table.make(variables=[(b"@x", b"2"), (b"@y", b"'a'"), (b"sql_mode", b"ANSI")])
    assert restore_commands(none, one) == (b"\x03SET @`x`=1",)
    assert restore_commands(one, other) == (b"\x03SET @`x`=2,@`y`='a',SESSION sql_mode='ANSI'",)
    assert restore_commands(other, one) is None
    assert restore_commands(one, none) is None
    assert b"@`x`=1" in restore_after_reset(one, None)[0]
    assert "1" not in repr(one).partition("@x")[2]
