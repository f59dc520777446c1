"""Frames: what `frame` writes `PacketReader` reads, however it was cut, and nothing but ProtocolError is raised."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.framing import MAX_FRAME, PacketReader, ProtocolError, frame


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({i for i in at if 0 < i < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def read_all(reader: PacketReader, chunks: Iterable[bytes]) -> list[bytes]:
    packets = []
    for chunk in chunks:
        reader.feed(chunk)
        while (packet := reader.next_packet()) is not None:
            packets.append(packet)
    return packets


def headers(data: bytes) -> list[tuple[int, int]]:
    """(size, sequence id) of all frames."""
    found, pos = [], 0
    while pos < len(data):
        size = struct.unpack("<I", data[pos : pos + 3] + b"\0")[0]
        found.append((size, data[pos + 3]))
        pos += 4 + size
    assert pos == len(data)
    return found


def test_a_frame_is_a_size_a_sequence_id_and_the_payload() -> None:
    assert frame(b"") == b"\0\0\0\0"
    assert frame(b"abc", 5) == b"\3\0\0\5abc"
    assert frame(bytes(0x1234), 256) == b"\x34\x12\0\0" + bytes(0x1234)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (MAX_FRAME - 1, [MAX_FRAME - 1]),
        (MAX_FRAME, [MAX_FRAME, 0]),
        (MAX_FRAME + 1, [MAX_FRAME, 1]),
        (2 * MAX_FRAME, [MAX_FRAME, MAX_FRAME, 0]),
    ],
)
def test_large_payloads_are_split_and_a_full_last_frame_is_followed_by_an_empty_one(
    size: int, sizes: list[int]
) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    data = frame(payload, 254)
    assert headers(data) == [(n, (254 + i) % 256) for i, n in enumerate(sizes)]
    reader = PacketReader(2 * MAX_FRAME)
    reader.expect = 254
    packets = read_all(reader, cut(data, (3, 4, MAX_FRAME + 3, MAX_FRAME + 4, MAX_FRAME + 7, MAX_FRAME + 8)))
    assert len(packets) == 1
    assert packets[0] == payload
    assert reader.expect == (254 + len(sizes)) % 256


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(0, 255), st.lists(st.integers(0, 900)))
def test_packets_come_out_as_they_went_in(payloads: list[bytes], seq: int, cuts: list[int]) -> None:
    data = b"".join(frame(p, seq + i) for i, p in enumerate(payloads))
    for chunks in ([data], cut(data, range(len(data))), cut(data, cuts)):
        reader = PacketReader()
        reader.expect = seq
        assert read_all(reader, chunks) == payloads
        assert reader.expect == (seq + len(payloads)) % 256
        assert reader.take_rest() == b""


@given(st.binary(max_size=3) | st.just(b"\x09\0\0\1abcdefgh"))
def test_bytes_that_are_not_a_whole_packet_are_the_rest(behind: bytes) -> None:
    reader = PacketReader()
    assert read_all(reader, [frame(b"login") + behind]) == [b"login"]
    assert reader.take_rest() == behind
    assert reader.take_rest() == b""
    assert reader.next_packet() is None


def test_packets_that_were_not_asked_for_are_part_of_the_rest() -> None:
    reader = PacketReader()
    reader.feed(frame(b"login") + frame(b"\3select 1"))
    assert reader.next_packet() == b"login"
    assert reader.take_rest() == frame(b"\3select 1")


@pytest.mark.parametrize("whole", [True, False])
def test_a_wrong_sequence_id_is_refused_as_soon_as_it_is_seen(whole: bool) -> None:
    reader = PacketReader()
    reader.feed(frame(b"x" * 10, 1)[: None if whole else 4])
    with pytest.raises(ProtocolError, match="sequence id 1, expected 0") as refused:
        reader.next_packet()
    assert refused.value.code == 1156


def test_a_wrong_sequence_id_in_a_continued_frame_is_refused() -> None:
    data = bytearray(frame(bytes(MAX_FRAME + 1)))
    data[MAX_FRAME + 4 + 3] = 9
    reader = PacketReader(2 * MAX_FRAME)
    reader.feed(bytes(data))
    with pytest.raises(ProtocolError, match="sequence id 9, expected 1"):
        reader.next_packet()


def test_sequence_ids_are_followed_and_not_checked_without_strict() -> None:
    reader = PacketReader(strict=False)
    assert read_all(reader, [frame(b"a", 7) + frame(b"b", 3)]) == [b"a", b"b"]
    assert reader.expect == 4


def test_a_payload_over_the_limit_is_refused_before_it_was_received() -> None:
    reader = PacketReader(10)
    assert read_all(reader, [frame(b"x" * 10)]) == [b"x" * 10]
    reader.feed(frame(b"x" * 11, 1)[:4])
    with pytest.raises(ProtocolError, match="11 bytes, at most 10") as refused:
        reader.next_packet()
    assert refused.value.code == 1153


def test_the_limit_counts_all_frames_of_a_payload() -> None:
    reader = PacketReader(MAX_FRAME + 10)
    reader.feed(frame(bytes(MAX_FRAME + 11)))
    with pytest.raises(ProtocolError, match=f"{MAX_FRAME + 11} bytes"):
        reader.next_packet()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, strict: bool) -> None:
    reader = PacketReader(100, strict=strict)
    try:
        read_all(reader, cut(data, range(len(data))))
    except ProtocolError as refused:
        assert refused.code in (1153, 1156)


@pytest.mark.parametrize("fed", range(13))
def test_a_stream_ends_inside_a_packet_or_between_two(fed: int) -> None:
    reader = PacketReader()
    reader.feed((frame(b"ab", 0) + frame(b"", 1) + frame(b"c", 2))[:fed])
    assert reader.inside == (fed not in (0, 6, 10))
    while reader.next_packet() is not None:
        pass
    assert reader.inside == (fed not in (0, 6, 10))


def test_a_packet_of_several_frames_is_not_over_before_its_last() -> None:
    reader = PacketReader(limit=2 * MAX_FRAME)
    reader.feed(frame(bytes(MAX_FRAME), 0)[: 4 + MAX_FRAME])
    assert reader.next_packet() is None and reader.inside
