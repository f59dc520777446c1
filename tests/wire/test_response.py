"""A response is followed to its true end, and each client gets what a server would have sent to *it*.

The law of this file: `Exchange.as_sent_to` writes the bytes of a server for one dialect straight from protocol.md
(B.3, C.2), with its own length encoding and framing and nothing of `proxy.wire`. The same exchange is written once
for a backend (DEPRECATE_EOF, SESSION_TRACK, all trackers) and fed to the reader, and once for the client: the
reader's output must be that, byte for byte, however the backend's bytes were cut.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire import response as r
from proxy.wire.framing import ProtocolError
from proxy.wire.packets import Err

Tracker = tuple[int, bytes, bytes]

IN_TRANS, AUTOCOMMIT, MORE, CURSOR, LAST_ROW, CHANGED = 0x0001, 0x0002, 0x0008, 0x0040, 0x0080, 0x4000
OUT_PARAMS = 0x1000
MID_STATUS = AUTOCOMMIT | IN_TRANS
MAX = 0xFFFFFF
VIRTUAL_ID = 0x01020304


# What a server says -----------------------------------------------------------------------------------------------


def number(n: int) -> bytes:
    if n <= 250:
        return struct.pack("<B", n)
    if n <= 0xFFFF:
        return b"\xfc" + struct.pack("<H", n)
    if n <= 0xFFFFFF:
        return b"\xfd" + struct.pack("<I", n)[:3]
    return b"\xfe" + struct.pack("<Q", n)


def text(s: bytes) -> bytes:
    return number(len(s)) + s


def row(*values: bytes | None) -> bytes:
    return b"".join(b"\xfb" if v is None else text(v) for v in values)


def column(name: bytes) -> bytes:
    head = text(b"def") + text(b"db") + text(b"t") + text(b"t") + text(name) + text(name)
    return head + b"\x0c" + struct.pack("<HIBHBH", 45, 1020, 0xFD, 0, 0, 0)


@dataclass(frozen=True)
class Dialect:
    deprecate_eof: bool
    session_track: bool
    backend: bool = False  # all trackers, unfiltered, and the server's own statement ids

    def __str__(self) -> str:
        return f"{'ok' if self.deprecate_eof else 'eof'}-{'trackers' if self.session_track else 'plain'}"

    def hears(self, tracker: Tracker) -> bool:
        """What a server tells by default: the schema, and five variables (C.2)."""
        kind, name, _ = tracker
        charsets = (b"character_set_client", b"character_set_results", b"character_set_connection")
        return self.backend or (
            self.session_track and (kind == 1 or (kind == 0 and name in (b"time_zone", b"autocommit", *charsets)))
        )


BACKEND = Dialect(deprecate_eof=True, session_track=True, backend=True)
CLIENTS = [Dialect(e, t) for e in (True, False) for t in (True, False)]


def tracker_entry(tracker: Tracker) -> bytes:
    kind, name, value = tracker
    body = {0: text(name) + text(value), 2: value, 3: b"\0" + text(value)}.get(kind, text(value))
    return struct.pack("<B", kind) + text(body)


@dataclass(frozen=True)
class Ok:
    """An OK, or the end of rows. `status` never contains CHANGED: it follows from the trackers."""

    affected: int = 0
    insert_id: int = 0
    status: int = AUTOCOMMIT
    warnings: int = 0
    info: bytes = b""
    trackers: tuple[Tracker, ...] = ()
    changed: bool = False  # towards a backend, CHANGED even without trackers: `FLUSH PRIVILEGES` with autocommit off

    @property
    def told(self) -> bool:
        return bool(self.trackers) or self.changed

    def packets(self, to: Dialect) -> list[bytes]:
        return [self.payload(to, b"\x00")]

    def ending(self, to: Dialect) -> bytes:
        if to.deprecate_eof:
            return self.payload(to, b"\xfe")
        return b"\xfe" + struct.pack("<HH", self.warnings, self.status)

    def payload(self, to: Dialect, header: bytes) -> bytes:
        heard = b"".join(tracker_entry(t) for t in self.trackers if to.hears(t))
        told = heard or (self.changed and to.backend)
        status = self.status | (CHANGED if told else 0)
        out = header + number(self.affected) + number(self.insert_id) + struct.pack("<HH", status, self.warnings)
        if told:
            return out + text(self.info) + text(heard)
        return out + text(self.info) if self.info else out


@dataclass(frozen=True)
class Error:
    code: int = 1064
    state: bytes = b"42000"
    message: bytes = b"You have an error"

    def packets(self, to: Dialect) -> list[bytes]:
        return [self.ending(to)]

    def ending(self, to: Dialect) -> bytes:
        return b"\xff" + struct.pack("<H", self.code) + b"#" + self.state + self.message


@dataclass(frozen=True)
class Rows:
    """A result set. With `cursor` the rows stay at the server: one ending stands for both.

    `early` are flags that the EOF before the rows has as well.
    """

    columns: tuple[bytes, ...]
    rows: tuple[bytes, ...] = ()
    end: Ok | Error = Ok()
    cursor: bool = False
    early: int = 0

    def packets(self, to: Dialect) -> list[bytes]:
        out = [number(len(self.columns)), *map(column, self.columns)]
        if not to.deprecate_eof and not self.cursor:
            out.append(b"\xfe" + struct.pack("<HH", 0, MID_STATUS | self.early))
        return [*out, *self.rows, self.end.ending(to)]


@dataclass(frozen=True)
class BareRows:
    """The answer to COM_FIELD_LIST or COM_STMT_FETCH: packets, and their end."""

    rows: tuple[bytes, ...]
    end: Ok | Error = Ok()

    def packets(self, to: Dialect) -> list[bytes]:
        return [*self.rows, self.end.ending(to)]


@dataclass(frozen=True)
class BrokenOff:
    """An ERR where a column definition was due."""

    columns: tuple[bytes, ...]
    sent: int
    end: Error = Error()

    def packets(self, to: Dialect) -> list[bytes]:
        return [number(len(self.columns)), *map(column, self.columns[: self.sent]), self.end.ending(to)]


@dataclass(frozen=True)
class Prepared:
    params: int = 0
    columns: int = 0
    warnings: int = 0
    real_id: int = 7

    def packets(self, to: Dialect) -> list[bytes]:
        shown = self.real_id if to.backend else VIRTUAL_ID
        out = [b"\0" + struct.pack("<IHHBH", shown, self.columns, self.params, 0, self.warnings)]
        for n in (self.params, self.columns):
            out += [column(b"c%d" % i) for i in range(n)]
            if n and not to.deprecate_eof:
                out.append(b"\xfe" + struct.pack("<HH", 0, MID_STATUS))
        return out


@dataclass(frozen=True)
class Infile:
    """LOCAL INFILE: the server asks, the client sends `frames` frames (the empty one counts)."""

    name: bytes = b"/tmp/x"
    frames: int = 2

    def packets(self, to: Dialect) -> list[bytes]:
        return [b"\xfb" + self.name]


@dataclass(frozen=True)
class Bare:
    """One packet as it is."""

    payload: bytes

    def packets(self, to: Dialect) -> list[bytes]:
        return [self.payload]


Part = Ok | Error | Rows | BareRows | BrokenOff | Prepared | Infile | Bare


@dataclass(frozen=True)
class Exchange:
    """One response, in parts. An Infile part splits it: the client's file comes in between."""

    kind: int
    parts: tuple[Part, ...]
    first_seq: int = 1
    early: int = 0  # what the reader is told of the flags, over MID_STATUS

    def as_sent_to(self, to: Dialect) -> list[bytes]:
        """The server's bytes, one item for each stretch that is not interrupted by a file of the client."""
        stretches = [bytearray()]
        seq = self.first_seq
        for part in self.parts:
            for payload in part.packets(to):
                for start in range(0, len(payload) + 1, MAX):
                    piece = payload[start : start + MAX]
                    stretches[-1] += struct.pack("<I", len(piece))[:3] + struct.pack("<B", seq % 256) + piece
                    seq += 1
            if isinstance(part, Infile):
                stretches.append(bytearray())
                seq += part.frames
        return [bytes(s) for s in stretches]

    def check_attributes(self, reader: r.ResponseReader) -> None:
        """What the reader has to know at the end, told from the parts."""
        oks = [p for p in self.parts if isinstance(p, Ok)]
        sets = [p for p in self.parts if isinstance(p, Rows | BareRows)]
        ends = [e for p in self.parts for e in (getattr(p, "end", p),) if isinstance(e, Ok)]
        prepared = [p for p in self.parts if isinstance(p, Prepared)]
        last = getattr(self.parts[-1], "end", self.parts[-1])
        assert reader.done
        assert not reader.local
        assert reader.error == (Err(last.code, last.state, last.message) if isinstance(last, Error) else None)
        assert reader.status == (ends[-1].status | (CHANGED if ends[-1].told else 0) if ends else None)
        assert reader.warnings == [0, *(e.warnings for e in ends), *(p.warnings for p in prepared)][-1]
        assert reader.changes == tuple(t for e in ends for t in e.trackers)
        assert reader.insert_id == [0, *(p.insert_id for p in oks if p.insert_id)][-1]
        assert reader.affected == [0, *(p.affected for p in oks)][-1]
        assert reader.rows == (len(sets[-1].rows) if sets else 0)
        assert reader.had_rows == any(isinstance(p, Rows | BrokenOff) for p in self.parts)
        assert reader.statement_id == (prepared[0].real_id if prepared else 0)
        assert reader.n_params == (prepared[0].params if prepared else 0)


def more(part: Ok) -> Ok:
    return replace(part, status=part.status | MORE)


# How it is fed ----------------------------------------------------------------------------------------------------


def reader_for(client: Dialect, kind: int, early: int = 0) -> r.ResponseReader:
    reader = r.ResponseReader()
    reader.deprecate_eof = client.deprecate_eof
    reader.session_track = client.session_track
    reader.mid_status = MID_STATUS | early
    reader.begin(kind, VIRTUAL_ID)
    return reader


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({i for i in at if 0 < i < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def bytewise(data: bytes) -> list[bytes]:
    return cut(data, range(len(data)))


def whole(data: bytes) -> list[bytes]:
    return [data]


Chop = Callable[[bytes], list[bytes]]


def follow(exchange: Exchange, client: Dialect, chop: Chop = whole) -> r.ResponseReader:
    """Feed the backend's bytes as `chop` cuts them, twice: the second time the columns are known. Check everything."""
    reader = reader_for(client, exchange.kind, exchange.early)
    follow_once(reader, exchange, client, chop)
    reader.begin(exchange.kind, VIRTUAL_ID)
    follow_once(reader, exchange, client, chop)
    return reader


def follow_once(reader: r.ResponseReader, exchange: Exchange, client: Dialect, chop: Chop) -> None:
    said, due = exchange.as_sent_to(BACKEND), exchange.as_sent_to(client)
    for i, (stretch, expected) in enumerate(zip(said, due, strict=True)):
        assert not reader.done
        if i:
            assert reader.local
            assert reader.shift == (last_seq(due[i - 1]) - last_seq(said[i - 1])) % 256
            reader.file_sent()
            assert not reader.local
        chunks = chop(stretch)
        out = b"".join(reader.feed(chunk) for chunk in chunks)
        assert out == expected
        assert reader.extra == 0
    exchange.check_attributes(reader)


def last_seq(stretch: bytes) -> int:
    """The sequence id of the packet that asks for a file."""
    return stretch[-len(Infile().packets(BACKEND)[0]) - 1]


def follow_in_every_way(exchange: Exchange, cuts: Sequence[int] = ()) -> None:
    for client in CLIENTS:
        follow(exchange, client)
        follow(exchange, client, bytewise)
        follow(exchange, client, lambda data: cut(data, cuts))
        check_trailing_bytes(exchange, client, cuts)


def check_trailing_bytes(exchange: Exchange, client: Dialect, cuts: Sequence[int] = ()) -> None:
    behind = b"\x07\0\0\1\0\0\0\2\0\0\0"
    chops: list[Chop] = [whole, bytewise, lambda data: cut(data, cuts)]
    for chop in chops:
        reader = reader_for(client, exchange.kind, exchange.early)
        if chop is whole:
            follow_once(reader, exchange, client, whole)
            reader.begin(exchange.kind, VIRTUAL_ID)
        *before, last = exchange.as_sent_to(BACKEND)
        for stretch in before:
            reader.feed(stretch)
            reader.file_sent()
        out = b"".join(reader.feed(chunk) for chunk in chop(last + behind))
        assert out == exchange.as_sent_to(client)[-1]
        assert reader.extra == len(behind)
        exchange.check_attributes(reader)


# By name ----------------------------------------------------------------------------------------------------------

HEARD: tuple[Tracker, ...] = (
    (0, b"autocommit", b"OFF"),
    (1, b"", b"shop"),
    (0, b"character_set_client", b"utf8mb4"),
)
UNHEARD: tuple[Tracker, ...] = (
    (2, b"", b"1"),
    (0, b"sql_mode", b"ANSI"),
    (0, b"redirect_url", b"mysql://elsewhere"),
    (3, b"", b"3E11FA47-71CA-11E1-9E33-C80AA9429562:23"),
    (4, b"", b"START TRANSACTION;"),
    (5, b"", b"T_R___S_"),
)
MIXED = (UNHEARD[0], HEARD[0], UNHEARD[1], HEARD[1], *UNHEARD[2:], HEARD[2])
SELECT = Rows((b"id", b"name"), (row(b"1", b"ann"), row(b"2", None)))

EXCHANGES = {
    "ok": Exchange(r.QUERY, (Ok(),)),
    "ok with everything": Exchange(r.QUERY, (Ok(3, 1 << 40, 3, 2, b"Rows matched: 3", MIXED),)),
    "ok with trackers nobody hears": Exchange(r.QUERY, (Ok(1, 300, trackers=UNHEARD),)),
    "ok with info, trackers nobody hears": Exchange(r.QUERY, (Ok(info=b"Records: 1", trackers=UNHEARD),)),
    "ok with heard trackers": Exchange(r.SINGLE, (Ok(trackers=HEARD),)),
    "ok with a change that it does not name": Exchange(r.QUERY, (Ok(warnings=1, changed=True),)),
    "ok with info and no trackers": Exchange(r.SINGLE, (Ok(info=b"i" * 300),)),
    "ok of a ping": Exchange(r.SINGLE, (Ok(),)),
    "end of a set option": Exchange(r.SINGLE, (BareRows((), Ok()),)),
    "end of a set option with trackers": Exchange(r.SINGLE, (BareRows((), Ok(trackers=MIXED)),)),
    "error": Exchange(r.QUERY, (Error(),)),
    "error of a ping": Exchange(r.SINGLE, (Error(1053, b"08S01", b"Server shutdown"),)),
    "error of a prepare": Exchange(r.PREPARE, (Error(),)),
    "error of a field list": Exchange(r.ROWS_ONLY, (Error(1146),)),
    "error of statistics": Exchange(r.STATISTICS, (Error(),)),
    "rows": Exchange(r.QUERY, (SELECT,)),
    "no rows": Exchange(r.QUERY, (Rows((b"a",)),)),
    "rows, end with everything": Exchange(r.QUERY, (replace(SELECT, end=Ok(0, 0, 0x23, 9, b"info", MIXED)),)),
    "rows, end with trackers nobody hears": Exchange(r.QUERY, (replace(SELECT, end=Ok(trackers=UNHEARD)),)),
    "rows, end with a change that it does not name": Exchange(r.QUERY, (replace(SELECT, end=Ok(changed=True)),)),
    "rows, end longer than a Router believes": Exchange(
        r.QUERY, (replace(SELECT, end=Ok(trackers=((0, b"time_zone", b"z" * 5000),))),)
    ),
    "rows after a long query": Exchange(r.QUERY, (SELECT,), first_seq=254),
    "rows of 300 columns": Exchange(r.QUERY, (Rows(tuple(b"c%d" % i for i in range(300)), (row(b"x") * 300,)),)),
    "rows that begin with a NULL": Exchange(r.QUERY, (Rows((b"a", b"b"), (row(None, b"x"), row(None, None))),)),
    "rows that begin with an empty string": Exchange(r.QUERY, (Rows((b"a",), (row(b""), row(b""))),)),
    "rows that look like an OK": Exchange(r.QUERY, (Rows((b"a", b"b"), (Ok().payload(BACKEND, b"\0"),)),)),
    "binary rows": Exchange(r.QUERY, (Rows((b"a",), (b"\0\0\xfe", b"\0\4", b"\0\0" + b"\xff" * 9)),)),
    "error behind two rows": Exchange(r.QUERY, (replace(SELECT, end=Error(1242, b"21000", b"")),)),
    "error instead of rows": Exchange(r.QUERY, (Rows((b"a",), (), Error(1317, b"70100", b"interrupted")),)),
    "error instead of a column": Exchange(r.QUERY, (BrokenOff((b"a", b"b", b"c"), 1),)),
    "error instead of the first column": Exchange(r.QUERY, (BrokenOff((b"a", b"b"), 0),)),
    "cursor": Exchange(r.QUERY, (Rows((b"a",), (), Ok(status=AUTOCOMMIT | CURSOR), cursor=True),)),
    "cursor with trackers": Exchange(
        r.QUERY, (Rows((b"a", b"b"), (), Ok(status=CURSOR, warnings=1, trackers=MIXED), cursor=True),)
    ),
    "rows inside a loop over a cursor of the program's own": Exchange(
        r.QUERY,
        (
            Rows((b"a",), (), Ok(status=AUTOCOMMIT | CURSOR | MORE)),
            Rows((b"b",), (b"\1x",), Ok(status=AUTOCOMMIT | CURSOR | MORE)),
            Ok(status=AUTOCOMMIT),
        ),
    ),
    "fetch": Exchange(r.ROWS_ONLY, (BareRows((b"\0\0a", b"\0\0b"), Ok(status=CURSOR)),)),
    "last fetch": Exchange(r.ROWS_ONLY, (BareRows((), Ok(status=CURSOR | LAST_ROW, trackers=MIXED)),)),
    "field list": Exchange(r.ROWS_ONLY, (BareRows((column(b"a") + b"\xfb", column(b"b") + text(b"def"))),)),
    "prepare, nothing": Exchange(r.PREPARE, (Prepared(),)),
    "prepare, params": Exchange(r.PREPARE, (Prepared(params=3, warnings=2),)),
    "prepare, columns": Exchange(r.PREPARE, (Prepared(columns=2),)),
    "prepare, both": Exchange(r.PREPARE, (Prepared(1, 2, 258, 0xFFFFFFFE),)),
    "prepare, both, ids wrap": Exchange(r.PREPARE, (Prepared(300, 300),)),
    "statistics": Exchange(r.STATISTICS, (Bare(b"Uptime: 1  Threads: 2"),)),
    "statistics, empty": Exchange(r.STATISTICS, (Bare(b""),)),
    "statistics that begin with a zero": Exchange(r.STATISTICS, (Bare(b"\0"),)),
    "two results": Exchange(r.QUERY, (replace(SELECT, end=Ok(status=AUTOCOMMIT | MORE)), SELECT)),
    "call": Exchange(
        r.QUERY,
        (
            replace(SELECT, end=Ok(status=MORE, trackers=MIXED)),
            Rows((b"b",), (), Ok(status=MORE, trackers=UNHEARD)),
            Ok(status=IN_TRANS, warnings=3, trackers=HEARD),
        ),
    ),
    "call, of which it is known": Exchange(
        r.QUERY,
        (
            Rows((b"a",), (b"\0\0a", b"\0\0b"), more(Ok(trackers=MIXED)), early=MORE),
            Rows((b"a",), (b"\0\0a",), more(Ok()), early=MORE),
            Rows((b"a",), (), more(Ok()), early=MORE),
            Rows((b"o",), (b"\0\0a",), Ok(status=MORE | OUT_PARAMS, trackers=UNHEARD), early=MORE | OUT_PARAMS),
            Ok(trackers=HEARD),
        ),
        early=MORE,
    ),
    "call that fails behind a row": Exchange(r.QUERY, (Rows((b"a",), (b"\0\0a",), Error(), early=MORE),), early=MORE),
    "ok, rows, error": Exchange(r.QUERY, (more(Ok(2, 9)), replace(SELECT, end=more(Ok())), Error())),
    "oks": Exchange(r.QUERY, (more(Ok(2, 9, trackers=MIXED)), more(Ok(1, 0)), Ok(5, 0, trackers=HEARD))),
    "infile": Exchange(r.QUERY, (Infile(), Ok(2, info=b"Records: 2"))),
    "infile, error": Exchange(r.QUERY, (Infile(frames=300), Error())),
    "rows, infile, ok, infile, rows": Exchange(
        r.QUERY,
        (
            replace(SELECT, end=more(Ok())),
            Infile(frames=1),
            more(Ok(1, 4, trackers=MIXED)),
            Infile(),
            more(Ok()),
            SELECT,
        ),
    ),
    "600 rows": Exchange(r.QUERY, (Rows((b"n",), tuple(row(b"%d" % i) for i in range(600))),)),
    "300 results": Exchange(
        r.QUERY, (*(Rows((b"n",), (row(b"1"),), more(Ok())) for _ in range(300)), Ok(trackers=MIXED))
    ),
}


@pytest.mark.parametrize("client", CLIENTS, ids=str)
@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES.keys())
def test_a_client_gets_what_a_server_would_have_sent_to_it(exchange: Exchange, client: Dialect) -> None:
    follow(exchange, client)
    follow(exchange, client, bytewise)
    check_trailing_bytes(exchange, client, range(0, 4000, 7))


@pytest.mark.parametrize("client", CLIENTS, ids=str)
@pytest.mark.parametrize("n", [254, 255, 256, 257])
@pytest.mark.parametrize("last", [Rows((b"a",), (), Error()), Rows((b"a",), (row(b"1"),)), Rows((b"a",)), Error()])
def test_inserted_packets_are_counted_modulo_256(last: Part, n: int, client: Dialect) -> None:
    """The client's sequence ids are ahead by 0 again after 256 inserted packets."""
    results = [Rows((b"n",), (), more(Ok())) for _ in range(n)]
    follow(Exchange(r.QUERY, (*results, last)), client)
    follow(Exchange(r.QUERY, (*results, last)), client, bytewise)


def test_every_pair_of_cuts_gives_the_same() -> None:
    exchange = Exchange(r.QUERY, (Rows((b"a",), (row(None), row(b"x")), more(Ok(trackers=HEARD))), Ok()))
    size = len(exchange.as_sent_to(BACKEND)[0])
    for client in CLIENTS:
        for a in range(size):
            follow(exchange, client, partial(cut, at=(a, a + 5)))


def test_a_chunk_that_needs_no_change_is_handed_on_as_it_is() -> None:
    data = EXCHANGES["rows"].as_sent_to(BACKEND)[0]
    reader = reader_for(CLIENTS[0], r.QUERY)
    assert reader.feed(data) is data


def test_a_reader_is_used_again_and_remembers_nothing() -> None:
    reader = reader_for(CLIENTS[3], r.QUERY)
    for exchange in EXCHANGES.values():
        reader.mid_status = MID_STATUS | exchange.early
        reader.begin(exchange.kind, VIRTUAL_ID)
        for i, (said, due) in enumerate(
            zip(exchange.as_sent_to(BACKEND), exchange.as_sent_to(CLIENTS[3]), strict=True)
        ):
            if i:
                reader.file_sent()
            assert reader.feed(said) == due
        exchange.check_attributes(reader)


def test_an_empty_chunk_changes_nothing() -> None:
    reader = reader_for(CLIENTS[3], r.QUERY)
    assert reader.feed(b"") == b""
    assert not reader.done
    assert reader.status is None


@pytest.mark.parametrize("client", CLIENTS, ids=str)
@pytest.mark.parametrize("chop", [whole, bytewise])
def test_a_server_that_goes_on_before_it_has_the_file_is_refused(client: Dialect, chop: Chop) -> None:
    asked = Exchange(r.QUERY, (Infile(),)).as_sent_to(BACKEND)[0]
    reader = reader_for(client, r.QUERY)
    assert b"".join(reader.feed(chunk) for chunk in chop(asked)) == asked
    assert reader.local
    assert not reader.done
    assert reader.feed(b"") == b""
    for more_of_it in (b"\0\0\0\2", framed([b"\0\0\0\2\0\0\0"]), framed([b"\1"]), framed([b"\xfbx"])):
        assert feed_all(reader_for(client, r.QUERY), chop(asked + more_of_it + b"\0")) is None


@pytest.mark.parametrize("client", CLIENTS, ids=str)
@pytest.mark.parametrize("chop", [whole, bytewise])
def test_a_server_may_end_the_response_with_an_error_before_it_has_the_file(client: Dialect, chop: Chop) -> None:
    exchange = Exchange(r.QUERY, (replace(SELECT, end=more(Ok())), Infile(), Error(1156, b"08S01", b"order")))
    asked, refused = exchange.as_sent_to(BACKEND)
    due = exchange.as_sent_to(client)
    reader = reader_for(client, r.QUERY)
    assert b"".join(reader.feed(chunk) for chunk in chop(asked)) == due[0]
    assert b"".join(reader.feed(chunk) for chunk in chop(refused)) == due[1]
    assert reader.cut_short
    exchange.check_attributes(reader)
    reader = reader_for(client, r.QUERY)
    assert feed_all(reader, chop(asked + refused)) == b"".join(due)
    assert reader.cut_short


# Large packets ----------------------------------------------------------------------------------------------------


def large_value(payload_size: int) -> bytes:
    """A value whose row has `payload_size` bytes."""
    value = bytes(payload_size - (9 if payload_size > MAX + 4 else 4))
    assert len(row(value)) == payload_size
    return value


@pytest.mark.parametrize("client", [CLIENTS[0], CLIENTS[3]], ids=str)
@pytest.mark.parametrize("size", [MAX - 1, MAX, MAX + 10, 2 * MAX])
def test_rows_of_16_mib_and_more(size: int, client: Dialect) -> None:
    """A row from 16 MiB begins with 0xFE; one of exactly k * 0xFFFFFF is followed by an empty frame."""
    big = row(large_value(size))
    exchange = Exchange(r.QUERY, (Rows((b"a",), (row(b"x"), big, row(b"y")), Ok(trackers=MIXED)),))
    follow(exchange, client)
    start = exchange.as_sent_to(BACKEND)[0].index(big[:64])
    edges = [start + k * (MAX + 4) + i for k in range(3) for i in range(-6, 7)]
    follow(exchange, client, lambda data: cut(data, edges))


def test_continued_frames_are_not_classified_by_their_first_byte() -> None:
    for first in (b"\xfe", b"\xff", b"\0", b"\xfb"):
        big = b"\xfd\xff\xff\xff" + bytes(MAX - 4) + first + b"\1\0\2\0\0\0"
        exchange = Exchange(r.QUERY, (Rows((b"a",), (big,)),))
        follow(exchange, CLIENTS[2])


# Whatever a server may say ----------------------------------------------------------------------------------------

names = st.binary(min_size=1, max_size=8)
trackers = st.lists(st.sampled_from([*HEARD, *UNHEARD, (0, b"time_zone", b""), (0, b"x", b"\xfb" * 260)]), max_size=4)
counts = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))
flags = st.integers(0, 0xFFFF).map(lambda n: n & ~(CHANGED | MORE | CURSOR))
oks = st.builds(
    Ok, counts, counts, flags, st.integers(0, 0xFFFF), st.binary(max_size=5), trackers.map(tuple), st.booleans()
)
ends = st.builds(
    Ok, st.just(0), st.just(0), flags, st.integers(0, 0xFFFF), st.just(b""), trackers.map(tuple), st.booleans()
)
errors = st.builds(Error, st.integers(1000, 5000), st.sampled_from([b"HY000", b"42S02"]), st.binary(max_size=9))
text_rows = st.lists(st.none() | st.binary(max_size=6), min_size=1, max_size=3).map(lambda v: row(*v))
binary_rows = st.binary(max_size=12).map(lambda b: b"\0" + b)
all_rows = st.lists(text_rows, max_size=5) | st.lists(binary_rows, max_size=5)


@st.composite
def queries(draw: st.DrawFn) -> Exchange:
    columns = st.lists(names, min_size=1, max_size=3).map(tuple)
    with_cursor = ends.map(lambda end: replace(end, status=end.status | CURSOR))
    results = oks | st.builds(Rows, columns, all_rows.map(tuple), ends | with_cursor)  # one inside a stored program
    parts: list[Part] = []
    for result in draw(st.lists(results, max_size=3)):
        if isinstance(result, Ok):
            if draw(st.integers(0, 3)) == 0:
                parts.append(Infile(frames=draw(st.integers(1, 300))))
            parts.append(more(result))
        else:
            assert isinstance(result.end, Ok)
            parts.append(replace(result, end=more(result.end)))
    opened = st.builds(Rows, columns, st.just(()), with_cursor, st.just(True))
    parts.append(draw(oks | errors | st.builds(Rows, columns, all_rows.map(tuple), ends | errors) | opened))
    return Exchange(r.QUERY, tuple(parts), draw(st.integers(1, 255)))  # 0 is not an answer: see below


bare_rows = all_rows.map(lambda rows: tuple(p for p in rows if p))
others = st.one_of(
    st.builds(lambda p: Exchange(r.SINGLE, (p,)), oks | errors | st.builds(BareRows, st.just(()), ends)),
    st.builds(lambda p: Exchange(r.ROWS_ONLY, (p,)), st.builds(BareRows, bare_rows, ends | errors)),
    st.builds(
        lambda p: Exchange(r.PREPARE, (p,)),
        st.builds(Prepared, st.integers(0, 3), st.integers(0, 3), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1)),
    ),
)
exchanges = st.one_of(queries(), queries(), others)
cuttings = st.lists(st.integers(0, 400), max_size=8)


@settings(max_examples=150, deadline=None)
@given(exchanges, cuttings)
def test_any_response_cut_anywhere(exchange: Exchange, cuts: list[int]) -> None:
    follow_in_every_way(exchange, cuts)


# Whatever else may arrive -----------------------------------------------------------------------------------------

KINDS = [r.QUERY, r.PREPARE, r.ROWS_ONLY, r.SINGLE, r.STATISTICS]


def feed_all(reader: r.ResponseReader, chunks: Iterable[bytes]) -> bytes | None:
    """The output, or None where the reader refused the bytes."""
    try:
        return b"".join(reader.feed(chunk) for chunk in chunks)
    except ProtocolError:
        return None


def framed(payloads: Iterable[bytes]) -> bytes:
    return b"".join(
        struct.pack("<I", len(p))[:3] + struct.pack("<B", (i + 1) % 256) + p for i, p in enumerate(payloads)
    )


nonsense = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.builds(
            lambda a, b: a + b, st.sampled_from([b"", b"\0", b"\1", b"\xfb", b"\xfe", b"\xff"]), st.binary(max_size=20)
        ),
        max_size=8,
    ).map(framed),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(CLIENTS), nonsense, cuttings)
def test_nonsense_is_refused_with_a_protocol_error_or_followed_alike_however_cut(
    kind: int, client: Dialect, data: bytes, cuts: list[int]
) -> None:
    readers = [reader_for(client, kind) for _ in range(3)]
    results = {
        feed_all(reader, chunks)
        for reader, chunks in zip(readers, ([data], bytewise(data), cut(data, cuts)), strict=True)
    }
    assert len(results) == 1
    if None not in results:
        assert len({(x.done, x.local, x.extra, x.status, x.error, x.rows, x.changes) for x in readers}) == 1


@settings(max_examples=200, deadline=None)
@given(exchanges, st.sampled_from(CLIENTS), st.data())
def test_a_damaged_response_raises_nothing_but_protocol_error(
    exchange: Exchange, client: Dialect, data: st.DataObject
) -> None:
    for stretch in exchange.as_sent_to(BACKEND):
        damaged = bytearray(stretch)
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        feed_all(reader_for(client, exchange.kind), [bytes(damaged)])
        feed_all(reader_for(client, exchange.kind), bytewise(bytes(damaged)))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (r.QUERY, b""),
        (r.QUERY, b"\0"),
        (r.QUERY, b"\0\0\0\2"),
        (r.QUERY, b"\xfc\1"),
        (r.QUERY, b"\xfe"),
        (r.QUERY, b"\xff"),
        (r.QUERY, b"\0\0\0\2\x40\0\0\5ab"),
        (r.QUERY, b"\0\0\0\2\x40\0\0\0\xfe"),
        (r.QUERY, b"\0\0\0\2\x40\0\0\0\3\0\2\5"),
        (r.PREPARE, b""),
        (r.PREPARE, b"\0" * 11),
        (r.PREPARE, b"\1" * 12),
        (r.SINGLE, b""),
        (r.SINGLE, b"\1"),
        (r.SINGLE, b"\xfb/etc/passwd"),
        (r.ROWS_ONLY, b"\xfe\0\0\2"),
        (r.ROWS_ONLY, b"\xff\1"),
    ],
)
@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_malformed_packets_are_refused(kind: int, payload: bytes, client: Dialect) -> None:
    for chop in (whole, bytewise):
        assert feed_all(reader_for(client, kind), chop(framed([payload]))) is None


@pytest.mark.parametrize("chop", [whole, bytewise])
@pytest.mark.parametrize("kind", [r.QUERY, r.PREPARE, r.SINGLE])
def test_an_error_that_was_sent_before_the_command_was_read_is_not_its_answer(kind: int, chop: Chop) -> None:
    unasked = Exchange(kind, (Error(4031, b"HY000", b"The client was disconnected"),), first_seq=0)
    (data,) = unasked.as_sent_to(BACKEND)
    reader = reader_for(BACKEND, kind)
    with pytest.raises(ProtocolError, match="4031 The client was disconnected"):
        for chunk in chop(data):
            assert reader.feed(chunk) == b"", "nothing of it may reach the client"


def test_an_ok_that_would_not_fit_one_frame_any_more_is_refused() -> None:
    """Trackers are sent on one by one; those of this OK (no server's) shared an entry of 16 MiB."""
    pair = text(b"autocommit") + text(bytes(MAX // 2 - 24))
    payload = b"\0\0\0" + struct.pack("<HH", CHANGED, 0) + text(b"") + text(b"\0" + text(pair * 2))
    data = framed([payload + bytes(MAX - 1 - len(payload))])
    assert feed_all(reader_for(CLIENTS[2], r.SINGLE), [data]) is None


def test_mysql_answers_a_prepare_with_an_ok_now_and_then() -> None:
    reader = r.ResponseReader()
    reader.begin(r.PREPARE, VIRTUAL_ID)
    answer = b"\7\0\0\1" + bytes((0, 0, 0, AUTOCOMMIT | IN_TRANS, 0, 0, 0))
    assert reader.feed(answer) == answer
    assert reader.done and not reader.statement_id and reader.error is None


@pytest.mark.parametrize("ok_last", [True, False])
def test_it_is_known_whether_a_response_ends_with_an_ok_or_with_rows(ok_last: bool) -> None:
    reader = r.ResponseReader()
    reader.begin(r.QUERY)
    more = MORE | AUTOCOMMIT
    rows = [b"\1", column(b"a"), row(b"1"), bytes((0xFE, 0, 0, more if ok_last else AUTOCOMMIT, 0, 0, 0))]
    ok = [bytes((0, 1, 0, AUTOCOMMIT if ok_last else more, 0, 0, 0))]
    packets = rows + ok if ok_last else ok + rows
    for number_, payload in enumerate(packets, 1):
        reader.feed(struct.pack("<I", len(payload))[:3] + bytes((number_,)) + payload)
    assert reader.done and reader.had_rows
    assert reader.ok_last is ok_last
