"""Settings are one object per value, and a restore brings any backend from one value into another."""

from __future__ import annotations

import gc
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session import pins as p
from proxy.session.lexer import ANSI_QUOTES, NO_BACKSLASH_ESCAPES, UNSAFE_CHARSET, mode_of
from proxy.session.state import (
    COLLATION_UNKNOWN,
    NEEDS_FRESH,
    PIN_MASK,
    SCHEMA_GONE,
    Settings,
    SettingsTable,
    forgets,
    quote,
    restore_after_reset,
    restore_commands,
)

TABLE = SettingsTable()


class Server:
    """A backend that understands the commands of a restore and nothing else."""

    def __init__(self, settings: Settings) -> None:
        self.schema = settings.schema
        self.multi_statements = settings.multi_statements
        self.variables: dict[bytes, bytes | None] = dict(settings.variables)
        self.variables[b"character_set_client"] = settings.client_charset
        self.variables[b"character_set_results"] = settings.results_charset or None
        self.variables[b"collation_connection"] = settings.collation
        self.variables[b"autocommit"] = b"1" if settings.autocommit else b"0"

    def reset(self) -> None:
        self.variables = {
            b"character_set_client": b"latin1",
            b"character_set_results": b"latin1",
            b"collation_connection": b"latin1_swedish_ci",
            b"autocommit": b"1",
        }

    def run(self, command: bytes) -> None:
        if command[0] == 2:
            self.schema = command[1:]
        elif command[0] == 0x1B:
            assert command[1:] in (b"\0\0", b"\1\0")
            self.multi_statements = command[1] == 0
        else:
            assert command.startswith(b"\x03SET ")
            text = command[5:]
            names = re.match(rb"NAMES '(\w+)' COLLATE '(\1_\w+)'(?:,|\Z)", text)
            if names is not None:
                self.variables[b"character_set_client"] = self.variables[b"character_set_results"] = names[1]
                self.variables[b"collation_connection"] = names[2]
                text = text[names.end() :]
            item = re.compile(
                rb"SESSION (\w+)="
                rb"(?:'([^'\\]*)'|_utf8mb4 x'([0-9a-f]*)'|(NULL)|(DEFAULT|@@GLOBAL\.\1)|(-?[\d.]+))(?:,|\Z)"
            )
            while text:
                match = item.match(text)
                assert match, text
                if match[5]:
                    self.variables.pop(match[1], None)
                elif match[4]:
                    self.variables[match[1]] = None
                elif match[3] is not None:
                    self.variables[match[1]] = bytes.fromhex(match[3].decode())
                else:
                    self.variables[match[1]] = match[6] if match[2] is None else match[2]
                text = text[match.end() :]

    def is_in(self, settings: Settings) -> bool:
        other = Server(settings)
        return (self.schema, self.multi_statements, self.variables) == (
            other.schema,
            other.multi_statements,
            other.variables,
        )


VALUES = st.one_of(
    st.sampled_from(
        [b"", b"0", b"-1.5", b"18446744073709551615", b"ON", b"+00:00", b"it's", b"a\\b", b"\\'", b"\xc3\xa9"]
    ),
    st.binary(max_size=12),
)
HOSTILE = b"max_statement_time"
NAMES = st.sampled_from([b"sql_mode", b"time_zone", b"timestamp", b"sort_buffer_size", b"foreign_key_checks", HOSTILE])
SETTINGS = st.builds(
    lambda schema, client, results, collation, autocommit, multi, variables: TABLE.make(
        schema, client, results, collation, autocommit, multi, list(variables.items())
    ),
    st.sampled_from([None, b"a", b"b c"]),
    st.sampled_from([b"utf8mb4", b"latin1", b"gbk"]),
    st.sampled_from([b"", b"utf8mb4", b"latin1"]),
    st.sampled_from([b"utf8mb4_bin", b"latin1_bin"]),
    st.booleans(),
    st.booleans(),
    st.dictionaries(NAMES, VALUES, max_size=4),
)


@given(SETTINGS, SETTINGS)
def test_a_restore_reaches_what_is_wanted_or_says_why_not(have: Settings, want: Settings) -> None:
    plan = restore_commands(have, want)
    assert forgets(have, want) == bool(dict(have.variables).keys() - dict(want.variables).keys())
    if have is want:
        assert plan == ()
    elif have.schema is not None and want.schema is None:
        assert plan is NEEDS_FRESH
    elif have.value(HOSTILE) not in (None, want.value(HOSTILE)):
        assert plan is None
    else:
        assert plan is not None
        assert len(plan) <= 3
        assert [command[0] for command in plan] == sorted(
            (command[0] for command in plan), key=[0x03, 0x1B, 0x02].index
        )
        server = Server(have)
        for command in plan:
            server.run(command)
        assert server.is_in(want)
    assert restore_commands(have, want) is plan


@given(SETTINGS, SETTINGS)
def test_after_a_reset_everything_is_named(have: Settings, want: Settings) -> None:
    plan = restore_after_reset(want, have.schema)
    if have.schema is not None and want.schema is None:
        assert plan is NEEDS_FRESH
        return
    server = Server(have)
    server.reset()
    for command in plan:
        server.run(command)
    assert server.is_in(want)


@given(SETTINGS, st.lists(st.tuples(NAMES, VALUES), max_size=4), st.booleans())
def test_applying_reports_equals_what_the_server_did(
    start: Settings, reports: list[tuple[bytes, bytes]], mariadb: bool
) -> None:
    after, flags = TABLE.apply(start, [(0, name, value) for name, value in reports], mariadb)
    assert dict(after.variables) == {**dict(start.variables), **dict(reports)}
    assert flags == 0
    assert TABLE.apply(after, [(0, name, after.value(name) or b"") for name, _ in reports], mariadb)[0] is after


@given(VALUES)
def test_a_quoted_value_reads_the_same_in_every_mode(value: bytes) -> None:
    text = quote(value)
    assert text.isascii()
    assert b"\\" not in text
    assert re.fullmatch(rb"'[^'\\]*'|_utf8mb4 x'[0-9a-f]*'", text)


def test_equal_settings_are_one_object_and_go_when_nobody_holds_them() -> None:
    table = SettingsTable()
    first = table.make(b"d", variables=[(b"b", b"1"), (b"a", b"2")])
    assert table.make(b"d", variables=[(b"a", b"2"), (b"b", b"1")]) is first
    assert table.replace(first, schema=b"e") is not first
    assert table.replace(first, schema=b"d") is first
    restore_commands(first, table.make(b"x"))
    del first
    gc.collect()
    assert len(table) == 0


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        TABLE.replace(TABLE.make(), colour=b"red")


def test_noise_changes_nothing() -> None:
    start = TABLE.make()
    noise = [
        (0, b"statement_id", b"5"),
        (0, b"last_gtid", b"0-1-2"),
        (2, b"", b"1"),
        (5, b"", b"T_______"),
        (3, b"", b"x"),
    ]
    assert TABLE.apply(start, noise, True) == (start, 0)
    assert TABLE.apply(start, noise, True)[0] is start


def test_set_names_leaves_the_collation_open_until_it_is_read_back() -> None:
    start = TABLE.make()
    names = [
        (0, b"character_set_client", b"latin1"),
        (0, b"character_set_connection", b"latin1"),
        (0, b"character_set_results", b"latin1"),
    ]
    after, flags = TABLE.apply(start, names, False)
    assert flags == COLLATION_UNKNOWN
    assert (after.client_charset, after.results_charset) == (b"latin1", b"latin1")
    done, flags = TABLE.apply(after, [*names, (0, b"collation_connection", b"latin1_bin")], False)
    assert (done.collation, flags) == (b"latin1_bin", 0)


def test_a_schema_comes_and_goes() -> None:
    used, flags = TABLE.apply(TABLE.make(), [(1, b"", b"d")], True)
    assert (used.schema, flags) == (b"d", 0)
    dropped, flags = TABLE.apply(used, [(1, b"", b"")], True)
    assert (dropped.schema, flags) == (None, SCHEMA_GONE)


def test_autocommit_is_a_field_and_not_a_variable() -> None:
    off, _ = TABLE.apply(TABLE.make(), [(0, b"autocommit", b"OFF")], True)
    assert (off.autocommit, off.variables) == (False, ())
    assert TABLE.apply(off, [(0, b"autocommit", b"ON")], True)[0] is TABLE.make()
    assert restore_commands(TABLE.make(), off) == (b"\x03SET SESSION autocommit=0",)


@pytest.mark.parametrize(
    ("name", "value", "pin"),
    [
        (b"insert_id", b"5", p.ONE_SHOT),
        (b"last_insert_id", b"5", p.ONE_SHOT),
        (b"identity", b"5", p.ONE_SHOT),
        (b"gtid_next", b"x:1", p.ONE_SHOT),
        (b"gtid_next", b"AUTOMATIC", 0),
        (b"rand_seed1", b"0", 0),
        (b"profiling", b"ON", p.PROFILING),
        (b"session_track_schema", b"OFF", p.SESSION_TRACK),
        (b"pseudo_thread_id", b"7", p.UNTRACKED_VARIABLE),
        (b"character_set_database", b"latin1", 0),
    ],
)
def test_what_must_not_be_replayed_pins_and_is_not_recorded(name: bytes, value: bytes, pin: int) -> None:
    after, flags = TABLE.apply(TABLE.make(), [(0, name, value)], True)
    assert after is TABLE.make()
    assert flags & PIN_MASK == pin


def test_what_the_other_session_has_not_set_goes_back_to_what_a_login_makes_of_it() -> None:
    plain = TABLE.make()
    frozen, _ = TABLE.apply(plain, [(0, b"timestamp", b"5.500000")], True)
    assert restore_commands(plain, frozen) == (b"\x03SET SESSION timestamp=5.500000",)
    assert restore_commands(frozen, plain) == (b"\x03SET SESSION timestamp=DEFAULT",)
    assert TABLE.without(frozen, b"timestamp") is plain
    several, _ = TABLE.apply(plain, [(0, b"sql_mode", b"ANSI_QUOTES"), (0, b"unique_checks", b"OFF")], True)
    assert restore_commands(several, plain) == (
        b"\x03SET SESSION sql_mode=DEFAULT,SESSION unique_checks=@@GLOBAL.unique_checks",
    )


@pytest.mark.parametrize("value", [b"0.000001", None])
def test_what_can_make_a_set_fail_is_ended_by_a_reset(value: bytes | None) -> None:
    plain = TABLE.make()
    hostile, _ = TABLE.apply(plain, [(0, b"max_statement_time", b"0.000002")], True)
    other = plain if value is None else TABLE.apply(plain, [(0, b"max_statement_time", value)], True)[0]
    assert restore_commands(hostile, other) is None
    assert restore_commands(plain, hostile) == (b"\x03SET SESSION max_statement_time=0.000002",)


def test_a_null_result_charset_is_restored_as_null() -> None:
    want = TABLE.make(results_charset=b"")
    plan = restore_commands(TABLE.make(), want)
    assert plan is not None
    assert b"character_set_results=NULL" in plan[0]


def test_the_lexing_mode_follows_the_settings() -> None:
    table = SettingsTable(sql_mode=b"NO_BACKSLASH_ESCAPES,STRICT_TRANS_TABLES")
    assert table.make().mode == NO_BACKSLASH_ESCAPES
    assert table.make(variables=[(b"sql_mode", b"ANSI_QUOTES")]).mode == ANSI_QUOTES
    assert table.make(client_charset=b"gbk").mode == NO_BACKSLASH_ESCAPES | UNSAFE_CHARSET
    assert mode_of(b"real_as_float,ansi_quotes", b"UTF8MB4") == ANSI_QUOTES


def test_a_name_that_is_no_name_is_never_sent() -> None:
    with pytest.raises(ValueError, match="not the name"):
        restore_commands(TABLE.make(), TABLE.make(variables=[(b"x=1, y", b"1")]))


def test_the_results_collation_is_that_of_a_login_or_of_set_names_and_no_variable_shows_it() -> None:
    login = TABLE.make(collation=b"utf8mb4_general_ci")
    assert login.results_collation == b"utf8mb4_general_ci"
    apart = TABLE.replace(login, collation=b"latin1_german1_ci")
    assert restore_commands(TABLE.make(collation=b"utf8mb4_bin"), apart) == (
        b"\x03SET NAMES 'utf8mb4' COLLATE 'utf8mb4_general_ci',SESSION collation_connection='latin1_german1_ci'",
    )
    by_variable, _ = TABLE.apply(login, [(0, b"character_set_results", b"utf8mb4")], False)
    assert by_variable.results_collation == b""
    (restore,) = restore_commands(login, by_variable) or ()
    assert b"character_set_results='utf8mb4'" in restore and b"NAMES" not in restore


def test_the_schema_is_chosen_again_after_a_reset_even_if_it_is_the_same() -> None:
    want = TABLE.make(schema=b"shop")
    assert restore_after_reset(want, b"shop")[-1] == b"\x02shop"
