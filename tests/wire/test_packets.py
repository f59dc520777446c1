"""Packets: one side parses what the other builds; nothing but ProtocolError is raised."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket, OKPacketWrapper

from proxy.wire import constants as c
from proxy.wire import packets as p
from proxy.wire.framing import ProtocolError

u16, u32, u64 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
names = st.binary(max_size=30).map(lambda b: b.replace(b"\0", b""))
filled = names.filter(bool)


# Lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "encoded"),
    [
        (0, "00"),
        (250, "fa"),
        (251, "fcfb00"),
        (0xFFFF, "fcffff"),
        (0x10000, "fd000001"),
        (0xFFFFFF, "fdffffff"),
        (0x1000000, "fe0000000100000000"),
        (2**64 - 1, "feffffffffffffffff"),
    ],
)
def test_length_encoded_integers(n: int, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert p.lenenc_int(n) == data
    assert p.read_lenenc_int(b"xx" + data + b"yy", 2) == (n, 2 + len(data))
    for cut in range(len(data)):
        with pytest.raises(ProtocolError):
            p.read_lenenc_int(data[:cut], 0)


@pytest.mark.parametrize("first", [0xFB, 0xFF])
def test_null_and_error_marks_are_not_lengths(first: int) -> None:
    with pytest.raises(ProtocolError):
        p.read_lenenc_int(bytes((first,)) + bytes(10), 0)


@given(st.binary(max_size=300), st.binary(max_size=5))
def test_length_encoded_strings(value: bytes, behind: bytes) -> None:
    data = p.lenenc_str(value)
    assert p.read_lenenc_str(data + behind, 0) == (value, len(data))
    with pytest.raises(ProtocolError):
        p.read_lenenc_str(data[:-1], 0)


def test_a_length_beyond_the_packet_is_not_believed() -> None:
    with pytest.raises(ProtocolError):
        p.read_lenenc_str(b"\xfe" + b"\xff" * 8 + b"abc", 0)


# Greeting ---------------------------------------------------------------------------------------------------------

greetings = st.builds(
    p.Greeting,
    version=names,
    thread_id=u32,
    nonce=st.binary(min_size=20, max_size=20),
    charset=st.integers(0, 255),
    status=u16,
    capabilities=u64.map(lambda n: n | c.CLIENT_PLUGIN_AUTH),
    plugin=names,
)


@given(greetings)
def test_a_greeting_is_parsed_as_it_was_built(greeting: p.Greeting) -> None:
    parsed = p.Greeting.parse(greeting.encode())
    if greeting.capabilities & c.CLIENT_LONG_PASSWORD:
        # The bytes of MariaDB's capabilities mean nothing behind a server that says it is not MariaDB.
        greeting = replace(greeting, capabilities=greeting.capabilities & 0xFFFFFFFF)
    assert parsed == greeting


MYSQL_GREETING = bytes.fromhex(
    "0a 39 2e 37 2e 34 2d 32 00"  # 9.7.4-2
    "0b 00 00 00"
    "01 02 03 04 05 06 07 08 00"
    "ff ff ff 02 00 ff df 15"
    "00 00 00 00 00 00 00 00 00 00"
    "11 12 13 14 15 16 17 18 19 1a 1b 1c 00"
    "63 61 63 68 69 6e 67 5f 73 68 61 32 5f 70 61 73 73 77 6f 72 64 00"  # caching_sha2_password
)
MARIADB_GREETING = (
    b"\x0a5.5.5-10.11.19-MariaDB-log\0"
    + bytes.fromhex(
        "05 00 00 80"
        "01 02 03 04 05 06 07 08 00"
        "fe f7 08 02 00 ff 81 15"
        "00 00 00 00 00 00 1d 00 00 00"
        "11 12 13 14 15 16 17 18 19 1a 1b 1c 00"
    )
    + b"mysql_native_password\0"
)
NONCE = bytes.fromhex("01 02 03 04 05 06 07 08 11 12 13 14 15 16 17 18 19 1a 1b 1c")


def test_the_greeting_of_mysql() -> None:
    greeting = p.Greeting.parse(MYSQL_GREETING)
    assert greeting == p.Greeting(b"9.7.4-2", 11, NONCE, 255, 2, 0xDFFFFFFF, b"caching_sha2_password")
    assert not greeting.is_mariadb
    assert greeting.encode() == MYSQL_GREETING


def test_the_greeting_of_mariadb() -> None:
    greeting = p.Greeting.parse(MARIADB_GREETING)
    assert greeting == p.Greeting(
        b"5.5.5-10.11.19-MariaDB-log", 0x80000005, NONCE, 8, 2, 0x1D_81FFF7FE, b"mysql_native_password"
    )
    assert greeting.is_mariadb
    assert greeting.server_version == "10.11.19-MariaDB-log"
    assert greeting.encode() == MARIADB_GREETING


def test_a_mariadb_that_hides_behind_bit_0_is_known_by_its_version() -> None:
    greeting = p.Greeting.parse(MARIADB_GREETING)
    assert replace(greeting, capabilities=greeting.capabilities | c.CLIENT_LONG_PASSWORD).is_mariadb


@pytest.mark.parametrize("greeting", [MYSQL_GREETING, MARIADB_GREETING])
def test_a_greeting_that_ends_before_its_nonce_is_refused(greeting: bytes) -> None:
    for size in range(greeting.index(NONCE[8:]) + 12):
        with pytest.raises(ProtocolError):
            p.Greeting.parse(greeting[:size])


def test_a_plugin_name_without_its_nul_is_read() -> None:
    """MySQL before 5.5.10 sent it so."""
    assert p.Greeting.parse(MYSQL_GREETING[:-1]).plugin == b"caching_sha2_password"


def test_a_greeting_without_plugin_auth_means_native() -> None:
    greeting = replace(p.Greeting.parse(MYSQL_GREETING), capabilities=0xDFFFFFFF & ~c.CLIENT_PLUGIN_AUTH)
    assert p.Greeting.parse(greeting.encode()).plugin == b"mysql_native_password"


# Handshake response -----------------------------------------------------------------------------------------------

BASE = c.CLIENT_PROTOCOL_41 | c.CLIENT_SECURE_CONNECTION
ALL = 0xFFFFFFFF | c.MARIADB_CLIENT_ALL
OPTIONAL = (
    c.CLIENT_CONNECT_WITH_DB,
    c.CLIENT_PLUGIN_AUTH,
    c.CLIENT_PLUGIN_AUTH_LENENC,
    c.CLIENT_CONNECT_ATTRS,
    c.CLIENT_LONG_PASSWORD,
    c.CLIENT_DEPRECATE_EOF,
)


@st.composite
def responses(draw: st.DrawFn) -> p.HandshakeResponse:
    caps = BASE | sum(draw(st.sets(st.sampled_from(OPTIONAL))))
    if not caps & c.CLIENT_LONG_PASSWORD:
        caps |= draw(u32) << 32
    return p.HandshakeResponse(
        capabilities=caps,
        charset=draw(st.integers(0, 255)),
        username=draw(names),
        auth_response=draw(st.binary(max_size=600 if caps & c.CLIENT_PLUGIN_AUTH_LENENC else 255)),
        database=draw(filled) if caps & c.CLIENT_CONNECT_WITH_DB else None,
        plugin=draw(names) if caps & c.CLIENT_PLUGIN_AUTH else b"",
        attributes=draw(st.dictionaries(st.binary(max_size=20), st.binary(max_size=300), max_size=4))
        if caps & c.CLIENT_CONNECT_ATTRS
        else {},
        max_packet=draw(u32),
    )


@given(responses())
def test_a_handshake_response_is_parsed_as_it_was_built(response: p.HandshakeResponse) -> None:
    assert p.HandshakeResponse.parse(response.encode(), ALL) == response


@given(greetings, responses())
def test_two_of_our_own_peers_understand_each_other(greeting: p.Greeting, response: p.HandshakeResponse) -> None:
    """The client answers with what the greeting offers, and the server reads it with what it offered."""
    seen = p.Greeting.parse(greeting.encode())
    caps = response.capabilities & (seen.capabilities | BASE)
    sent = replace(
        response,
        capabilities=caps,
        auth_response=response.auth_response[:255],
    )
    read = p.HandshakeResponse.parse(sent.encode(), greeting.capabilities | BASE)
    assert read.capabilities == caps
    assert (read.username, read.auth_response, read.charset) == (sent.username, sent.auth_response, sent.charset)
    assert read.database == (sent.database if caps & c.CLIENT_CONNECT_WITH_DB else None)
    assert read.plugin == (sent.plugin if caps & c.CLIENT_PLUGIN_AUTH else b"")
    assert read.attributes == (sent.attributes if caps & c.CLIENT_CONNECT_ATTRS else {})


def handshake(caps: int, behind: bytes) -> bytes:
    return struct.pack("<IIB", caps, 1 << 24, 45) + bytes(23) + behind


def test_capabilities_that_were_not_offered_do_not_count() -> None:
    """mysql 9.7 sets bits that a server masked (A.1)."""
    asked = BASE | c.CLIENT_QUERY_ATTRIBUTES | c.CLIENT_MULTI_FACTOR | c.CLIENT_PLUGIN_AUTH
    response = p.HandshakeResponse.parse(handshake(asked, b"ann\0\2xyplug\0"), BASE | c.CLIENT_PLUGIN_AUTH)
    assert response.capabilities == BASE | c.CLIENT_PLUGIN_AUTH
    assert (response.username, response.auth_response, response.plugin) == (b"ann", b"xy", b"plug")


@pytest.mark.parametrize("offered", [0, c.MARIADB_CLIENT_STMT_BULK_OPERATIONS])
def test_mariadbs_own_capabilities_count_if_they_were_offered_to_one_that_is_no_mysql_client(offered: int) -> None:
    asked = c.MARIADB_CLIENT_STMT_BULK_OPERATIONS | c.MARIADB_CLIENT_CACHE_METADATA
    data = struct.pack("<IIB", BASE, 1 << 24, 45) + bytes(19) + struct.pack("<I", asked >> 32) + b"ann\0\0"
    assert p.HandshakeResponse.parse(data, BASE | offered).capabilities == BASE | offered
    as_mysql = struct.pack("<I", BASE | c.CLIENT_LONG_PASSWORD) + data[4:]
    caps = BASE | c.CLIENT_LONG_PASSWORD
    assert p.HandshakeResponse.parse(as_mysql, caps | offered).capabilities == caps


def test_a_length_that_was_offered_and_not_asked_for_is_one_byte() -> None:
    """An auth response of 251 bytes and more looks different with PLUGIN_AUTH_LENENC."""
    data = handshake(BASE, b"ann\0\xfc" + b"x" * 0xFC)
    assert p.HandshakeResponse.parse(data, 0xFFFFFFFF).auth_response == b"x" * 0xFC


def test_connect_attributes_that_were_announced_and_not_sent_are_none() -> None:
    caps = BASE | c.CLIENT_PLUGIN_AUTH | c.CLIENT_CONNECT_ATTRS
    response = p.HandshakeResponse.parse(handshake(caps, b"ann\0\0native\0"), 0xFFFFFFFF)
    assert (response.plugin, response.attributes) == (b"native", {})


def test_connect_attributes_are_read_as_far_as_they_were_sent() -> None:
    data = handshake(BASE | c.CLIENT_CONNECT_ATTRS, b"ann\0\0\x20\x03_os\x05Linux")
    assert p.HandshakeResponse.parse(data, 0xFFFFFFFF).attributes == {b"_os": b"Linux"}


def test_a_response_of_a_client_without_secure_connection_ends_its_password_with_nul() -> None:
    response = p.HandshakeResponse.parse(handshake(c.CLIENT_PROTOCOL_41, b"ann\0pw\0"), 0xFFFFFFFF)
    assert (response.username, response.auth_response) == (b"ann", b"pw")


def test_an_empty_schema_is_none() -> None:
    caps = BASE | c.CLIENT_CONNECT_WITH_DB
    assert p.HandshakeResponse.parse(handshake(caps, b"ann\0\0\0"), caps).database is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(32),
        bytes(40),
        handshake(BASE, b"")[:32],
        handshake(BASE, b"ann"),
        handshake(BASE, b"ann\0\5abcd"),
        handshake(BASE | c.CLIENT_PLUGIN_AUTH_LENENC, b"ann\0"),
        handshake(BASE | c.CLIENT_PLUGIN_AUTH_LENENC, b"ann\0\xfe\xff\xff\xff\xff\xff\xff\xff\xffab"),
        handshake(BASE | c.CLIENT_CONNECT_WITH_DB, b"ann\0\0shop"),
        handshake(BASE | c.CLIENT_CONNECT_ATTRS, b"ann\0\0\x05\x01a"),
        handshake(BASE | c.CLIENT_CONNECT_ATTRS, b"ann\0\0\x05\x01a\x07b"),
        handshake(c.CLIENT_PROTOCOL_41, b"ann\0pw"),
    ],
)
def test_a_malformed_handshake_response_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        p.HandshakeResponse.parse(data, 0xFFFFFFFF)


# AuthSwitch -------------------------------------------------------------------------------------------------------


@given(filled, st.binary(min_size=20, max_size=20))
def test_an_auth_switch_is_parsed_as_it_was_built(plugin: bytes, nonce: bytes) -> None:
    assert p.parse_auth_switch(p.build_auth_switch(plugin, nonce)) == (plugin, nonce)
    assert MysqlPacket(p.build_auth_switch(plugin, nonce), "utf8").is_auth_switch_request()


def test_a_nonce_of_ed25519_has_no_nul_behind_it_and_may_end_in_one() -> None:
    nonce = bytes(range(1, 32)) + b"\0"
    assert p.parse_auth_switch(b"\xfeclient_ed25519\0" + nonce) == (b"client_ed25519", nonce)


def test_an_auth_switch_without_a_name_means_the_old_password() -> None:
    assert p.parse_auth_switch(b"\xfe") == (b"mysql_old_password", b"")


# OK, EOF, ERR -----------------------------------------------------------------------------------------------------

kinds = st.sampled_from([c.TRACK_SCHEMA, c.TRACK_STATE_CHANGE, c.TRACK_GTIDS, 4, 5, 6, 250])
trackers = st.lists(
    st.tuples(st.just(c.TRACK_SYSTEM_VARIABLE), names, st.binary(max_size=300))
    | st.tuples(kinds, st.just(b""), st.binary(max_size=300)),
    max_size=5,
)


@given(u64, u64, u16, u16, st.binary(max_size=300), trackers, st.sampled_from([0x00, 0xFE]))
def test_an_ok_is_parsed_as_it_was_built(
    affected: int,
    insert_id: int,
    status: int,
    warnings: int,
    info: bytes,
    changes: list[tuple[int, bytes, bytes]],
    header: int,
) -> None:
    block = b"".join(p.encode_tracker(*change) for change in changes)
    data = p.build_ok(affected, insert_id, status, warnings, info, block, header)
    ok = p.parse_ok(data)
    changed = c.SERVER_SESSION_STATE_CHANGED
    assert ok == p.Ok(affected, insert_id, status | changed if block else status & ~changed, warnings, info, block)
    assert list(p.iter_trackers(ok.trackers)) == changes
    assert data[0] == header


def test_the_shortest_ok_has_7_bytes() -> None:
    assert p.build_ok() == b"\0\0\0\2\0\0\0"


@given(u64, u64, u16, u16)
def test_pymysql_reads_our_ok(affected: int, insert_id: int, status: int, warnings: int) -> None:
    packet = MysqlPacket(p.build_ok(affected, insert_id, status, warnings), "utf8")
    assert packet.is_ok_packet()
    ok = OKPacketWrapper(packet)
    assert (ok.affected_rows, ok.insert_id, ok.warning_count) == (affected, insert_id, warnings)
    assert ok.server_status == status & ~c.SERVER_SESSION_STATE_CHANGED


def test_an_ok_as_mysql_sends_it_for_use() -> None:
    """`USE shop` with session_track_state_change: a schema, and a change whose string has no length of its own."""
    ok = p.parse_ok(bytes.fromhex("00 00 00 02 40 00 00 00 0a 01 05 04 73 68 6f 70 02 01 31"))
    assert ok.status == c.SERVER_STATUS_AUTOCOMMIT | c.SERVER_SESSION_STATE_CHANGED
    assert list(p.iter_trackers(ok.trackers)) == [
        (c.TRACK_SCHEMA, b"", b"shop"),
        (c.TRACK_STATE_CHANGE, b"", b"1"),
    ]


def test_one_entry_may_hold_several_variables() -> None:
    pairs = b"".join(map(p.lenenc_str, (b"a", b"1", b"b", b"2")))
    assert list(p.iter_trackers(b"\0" + p.lenenc_str(pairs))) == [(0, b"a", b"1"), (0, b"b", b"2")]


@pytest.mark.parametrize("block", ["00", "0002", "000201", "00020161", "0103056162", "0100", "030100", "0500"])
def test_a_malformed_tracker_is_refused(block: str) -> None:
    with pytest.raises(ProtocolError):
        list(p.iter_trackers(bytes.fromhex(block)))


@given(u16, u16)
def test_an_eof_has_warnings_before_status(warnings: int, status: int) -> None:
    assert p.build_eof(warnings, status) == b"\xfe" + struct.pack("<HH", warnings, status)


def test_an_error_with_and_without_a_state() -> None:
    assert p.build_err(1040, "08004", "Too many connections") == b"\xff\x10\x04#08004Too many connections"
    assert p.build_err(1040, b"", b"Too many connections") == b"\xff\x10\x04Too many connections"


@given(u16, st.sampled_from([b"", b"HY000", b"08S01"]), st.binary(max_size=50))
def test_an_error_is_parsed_as_it_was_built(code: int, state: bytes, message: bytes) -> None:
    if not state and message.startswith(b"#"):
        message = b"x" + message
    assert p.parse_err(p.build_err(code, state, message)) == p.Err(code, state, message)


def test_a_text_that_utf8_cannot_hold_does_not_fail() -> None:
    assert p.build_err(1, "", "a\udc80b") == b"\xff\1\0a?b"


# Rows and columns -------------------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.binary(max_size=300), max_size=6))
def test_a_row_is_its_values(values: list[bytes | None]) -> None:
    data = b"".join(b"\xfb" if v is None else p.lenenc_str(v) for v in values)
    assert p.parse_row(data) == values


@given(filled.map(lambda b: bytes(x & 0x7F for x in b)), st.integers(0, 255), u32, u16, u16, st.integers(0, 255))
def test_pymysql_reads_our_column(name: bytes, kind: int, length: int, charset: int, flags: int, decimals: int) -> None:
    column = FieldDescriptorPacket(p.build_column(name, kind, length, charset, flags, decimals), "utf8")
    assert column.name == name.decode()
    assert (column.type_code, column.length, column.charsetnr) == (kind, length, charset)
    assert (column.flags, column.scale) == (flags, decimals)


# Anything ---------------------------------------------------------------------------------------------------------

PARSERS: list[Callable[[bytes], object]] = [
    p.Greeting.parse,
    lambda data: p.HandshakeResponse.parse(data, 0xFFFFFFFF),
    p.parse_auth_switch,
    p.parse_ok,
    p.parse_err,
    p.parse_row,
    lambda data: list(p.iter_trackers(data)),
    lambda data: p.read_lenenc_int(data, 0),
    lambda data: p.read_lenenc_str(data, 0),
]

SEEDS = [
    MYSQL_GREETING,
    MARIADB_GREETING,
    p.HandshakeResponse(
        BASE | sum(OPTIONAL), 45, b"ann", b"x" * 32, b"shop", b"native", {b"_os": b"x", b"_pid": b"1"}
    ).encode(),
    p.build_auth_switch(b"caching_sha2_password", NONCE),
    p.build_ok(1, 300, 2, 0, b"info", p.encode_tracker(0, b"autocommit", b"ON") + p.encode_tracker(1, b"", b"s")),
    p.build_err(1064, b"42000", b"near"),
]


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_no_parser_raises_anything_but_protocol_error(data: bytes) -> None:
    for parse in PARSERS:
        try:
            parse(data)
        except ProtocolError as refused:
            assert refused.code in (c.ER_HANDSHAKE, c.ER_MALFORMED_PACKET)


@settings(max_examples=300)
@given(st.sampled_from(SEEDS), st.data())
def test_no_damaged_packet_raises_anything_but_protocol_error(seed: bytes, data: st.DataObject) -> None:
    damaged = bytearray(seed[: data.draw(st.integers(1, len(seed)))])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(
            st.sampled_from([0, 1, 0x7F, 0xFB, 0xFC, 0xFE, 0xFF])
        )
    for parse in PARSERS:
        try:
            parse(bytes(damaged))
        except ProtocolError:
            continue
