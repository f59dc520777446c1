"""Commands as bytes: sent ahead, in pieces, too large, out of order, unknown; and files that the server asks for."""

from __future__ import annotations

import pytest

from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME, frame
from proxy.wire.packets import build_err, build_ok, parse_err
from tests.relay.world import (
    IN_TRANS,
    MODERN,
    OLD,
    QUIT,
    App,
    Server,
    World,
    init_db,
    packets,
    query,
    result,
    text_row,
)

PING = bytes((c.COM_PING,))


# Sent ahead and in pieces


def test_commands_sent_ahead_run_one_after_the_other_and_are_answered_in_order(world: World):
    app = world.app()
    server = world.settled(app)
    app.send(query(b"SELECT 1"), PING, query(b"SELECT 2"), PING)
    assert server.take() == [query(b"SELECT 1")]
    server.rows(b"1")
    assert server.take() == [query(b"SELECT 2")]
    server.rows(b"2")
    payloads = app.take()
    assert [payload[:1] for payload in payloads].count(b"\0") == 2
    assert payloads[2] == b"\x011" and payloads[4][0] == 0 and payloads[7] == b"\x012" and payloads[9][0] == 0


def test_a_command_may_arrive_byte_by_byte(world: World):
    app = world.app()
    server = world.settled(app)
    for byte in frame(query(b"SELECT 1")):
        assert server.take() == []
        app.raw(bytes((byte,)))
    assert server.take() == [query(b"SELECT 1")]


def test_a_response_may_arrive_byte_by_byte(world: World):
    app = world.app(OLD)
    server = world.settled(app)
    app.query(b"SELECT a, b FROM t")
    server.take()
    for byte in result(2, [text_row((b"1", None)), text_row((b"", b"x" * 300))]):
        assert server.slot == "leased"
        server.transport.arrive(bytes((byte,)))
    assert app.rows() == [[b"1", None], [b"", b"x" * 300]]
    assert server.slot == "idle"


def test_what_is_sent_ahead_beyond_the_buffer_is_not_read_and_read_again_later(make_world):
    world = make_world(session__request_buffer="1KiB")
    app = world.app()
    server = world.settled(app)
    app.send(query(b"SELECT 1"), query(b"SELECT '%s'" % (b"x" * 700)), query(b"SELECT '%s'" % (b"y" * 700)))
    assert not app.transport.reading
    for _ in range(3):
        assert len(server.take()) == 1
        server.rows(b"1")
    assert app.transport.reading
    app.send(PING)
    assert app.take()[-1][0] == 0


def test_a_client_that_sends_on_without_reading_its_answers_is_not_read_for_ever(make_world):
    world = make_world(session__request_buffer="1KiB", session__read_ahead="1KiB")
    app = world.app()
    app.transport.buffered = 5000
    app.client.pause_writing()
    app.send(*[PING] * 500)
    assert app.take() == []
    assert not app.transport.reading
    app.transport.buffered = 0
    app.client.resume_writing()
    assert len(app.take()) == 500
    assert app.transport.reading


# Out of order, unknown, refused


def test_packets_out_of_order_end_the_connection_as_the_server_does(world: World):
    app = world.app()
    server = world.settled(app)
    app.raw(frame(query(b"SELECT 1"), 1))
    assert app.error().code == c.ER_NET_PACKETS_OUT_OF_ORDER
    assert app.closed
    assert server.take() == []
    assert world.relay.stats.malformed == 1


def test_an_empty_packet_is_an_unknown_command(world: World):
    app = world.app()
    app.raw(frame(b""))
    assert app.error().code == c.ER_UNKNOWN_COMMAND
    assert not app.closed
    assert not world.servers


@pytest.mark.parametrize("command", [0x00, 0x05, 0x06, 0x0B, 0x0F, 0x10, 0x13, 0x14, 0x1D, 0x22, 0x7F, 0xFE, 0xFF])
def test_unknown_commands_are_answered_without_a_backend(world: World, command: int):
    app = world.app()
    app.send(bytes((command,)) + b"whatever", PING)
    error, ok = app.take()
    assert parse_err(error).code == c.ER_UNKNOWN_COMMAND
    assert ok[0] == 0
    assert not world.servers


@pytest.mark.parametrize(
    ("command", "mariadb"),
    [
        (c.COM_SHUTDOWN, True),
        (c.COM_BINLOG_DUMP, True),
        (c.COM_REGISTER_SLAVE, False),
        (c.COM_BINLOG_DUMP_GTID, False),
        (c.COM_CLONE, False),
    ],
)
def test_what_is_not_passed_on_is_refused_in_words(make_world, command: int, mariadb: bool):
    world = make_world(mariadb=mariadb)
    app = world.app()
    app.send(bytes((command,)))
    error = app.error()
    assert error.code == c.ER_NOT_SUPPORTED_YET and error.message
    assert not world.servers


@pytest.mark.parametrize(("command", "mariadb"), [(c.COM_SHUTDOWN, False), (c.COM_CLONE, True)])
def test_what_this_server_does_not_have_is_an_unknown_command(make_world, command: int, mariadb: bool):
    app = make_world(mariadb=mariadb).app()
    app.send(bytes((command,)))
    assert app.error().code == c.ER_UNKNOWN_COMMAND


def test_a_wrong_option_is_an_unknown_command_and_half_an_option_is_malformed(world: World):
    app = world.app()
    app.send(bytes((c.COM_SET_OPTION, 7, 0)))
    assert app.error().code == c.ER_UNKNOWN_COMMAND
    app.send(bytes((c.COM_SET_OPTION, 1)))
    assert app.error().code == c.ER_MALFORMED_PACKET
    assert not app.closed


@pytest.mark.parametrize(
    ("command", "answer", "received"),
    [
        (bytes((c.COM_STATISTICS,)), b"Uptime: 1  Threads: 2", b"Uptime: 1  Threads: 2"),
        (bytes((c.COM_DEBUG,)), build_ok(header=0xFE), b"\xfe\0\0\x02\0"),
        (bytes((c.COM_FIELD_LIST,)) + b"t\0", build_ok(header=0xFE), b"\xfe\0\0\x02\0"),
        (init_db(b""), build_err(1046, "3D000", "No database selected"), None),
    ],
)
def test_commands_with_answers_of_their_own_shape_are_followed_to_their_end(world: World, command, answer, received):
    app = world.app(OLD)
    server = world.settled(app)
    app.send(command)
    assert server.take() == [command]
    server.send(frame(answer, 1))
    assert app.take() == [answer if received is None else received]
    while server.backend.batch is not None:
        server.eof() if server.take()[-1][0] == c.COM_SET_OPTION else server.rows(columns=3)
    assert server.slot == "idle"


# Large commands


def test_a_large_command_gets_its_lease_first_and_then_is_read(make_world):
    world = make_world(cap=1, session__request_buffer="1KiB")
    holder, app = world.app(), world.app()
    holder.query(b"BEGIN")
    server = world.server
    server.take()
    server.ok(status=IN_TRANS)
    data = frame(query(b"SELECT '%s'" % (b"x" * 5000)))
    app.raw(data[:2000])
    world.spin()
    assert not app.transport.reading
    assert app.client.waiter is not None
    holder.query(b"COMMIT")
    server.take()
    server.ok()
    assert app.transport.reading
    assert server.slot == "leased" and server.backend.client is app.client
    app.raw(data[2000:4000])
    assert server.take() == []
    app.raw(data[4000:] + frame(PING))
    assert server.take() == [data[4:]]
    server.rows(b"1")
    assert app.take()[-1][0] == 0
    assert server.slot == "idle"


def test_a_large_command_in_a_transaction_is_read_at_once(make_world):
    world = make_world(session__request_buffer="1KiB")
    app = world.app()
    app.query(b"BEGIN")
    server = world.server
    server.take()
    server.ok(status=IN_TRANS)
    data = frame(query(b"SELECT '%s'" % (b"x" * 5000)))
    app.raw(data[:2000])
    assert app.transport.reading
    app.raw(data[2000:])
    assert server.take() == [data[4:]]


def test_a_large_command_sent_ahead_in_a_transaction_is_read_to_its_end(make_world):
    world = make_world(session__request_buffer="1KiB")
    app = world.app()
    app.query(b"BEGIN")
    server = world.server
    server.take()
    data = frame(query(b"SELECT '%s'" % (b"x" * 5000)))
    app.raw(data[:2000])
    assert not app.transport.reading  # BEGIN has no answer yet
    server.ok(status=IN_TRANS)
    assert app.transport.reading
    app.raw(data[2000:])
    assert server.take() == [data[4:]]


def test_a_large_command_is_classified_as_a_whole(make_world):
    world = make_world(session__request_buffer="1KiB")
    app = world.app()
    app.raw(frame(query(b"SELECT '%s', @a := 1" % (b"x" * 5000))))
    world.spin()
    world.server.take()
    world.server.rows(b"1")
    assert app.client.pins


def test_a_command_of_more_than_16_mib_goes_on_in_frames_and_is_answered_behind_them(world: World):
    world.relay.profile.max_allowed_packet = 1 << 26
    app = world.app()
    server = world.settled(app)
    payload = query(b"SELECT '%s'" % (b"x" * (MAX_FRAME + 100)))
    data = frame(payload)
    app.raw(data[:1000])
    world.spin()
    app.raw(data[1000:])
    assert server.transport.writes == [data]
    server.transport.writes.clear()
    server.send(result(1, [text_row((b"1",))], seq=2))
    assert [seq for seq, _ in packets(app.transport.take())] == [2, 3, 4, 5]


def test_a_command_of_exactly_one_frame_ends_with_an_empty_one(world: World):
    world.relay.profile.max_allowed_packet = 1 << 26
    app = world.app()
    server = world.settled(app)
    payload = query(b"SELECT 1".ljust(MAX_FRAME - 1))
    data = frame(payload)
    app.raw(data[:-4])
    world.spin()
    assert server.take() == []
    app.raw(data[-4:])
    assert server.take() == [payload]


def test_a_frame_out_of_order_inside_a_large_command_ends_the_connection(world: World):
    world.relay.profile.max_allowed_packet = 1 << 26
    app = world.app()
    server = world.settled(app)
    app.raw(b"\xff\xff\xff\0" + bytes(MAX_FRAME) + b"\1\0\0\7")
    assert app.error().code == c.ER_NET_PACKETS_OUT_OF_ORDER
    assert app.closed
    server.take()
    server.ok(2)
    assert server.slot == "idle"


def test_more_than_max_allowed_packet_is_1153_and_nothing_is_sent(make_world):
    world = make_world(session__request_buffer="1KiB")
    world.relay.profile.max_allowed_packet = 4096
    app = world.app()
    server = world.settled(app)
    app.raw(frame(query(b"x" * 5000))[:1500])
    assert app.error().code == c.ER_NET_PACKET_TOO_LARGE
    assert app.closed
    assert query(b"") not in server.take()
    server.ok(2)
    assert server.slot == "idle"


def test_a_large_command_that_is_answered_here_lets_the_next_one_run(make_world):
    world = make_world(session__request_buffer="1KiB")
    app = world.app()
    server = world.settled(app)
    app.raw(frame(b"\x7f" + bytes(5000)) + frame(PING))
    error, ok = app.take()
    assert parse_err(error).code == c.ER_UNKNOWN_COMMAND and ok[0] == 0
    assert server.slot == "idle"


def test_a_backend_lost_while_a_large_command_arrives_is_replaced(make_world):
    world = make_world(cap=1, session__request_buffer="1KiB")
    app = world.app()
    first = world.settled(app)
    data = frame(query(b"SELECT '%s'" % (b"x" * 5000)))
    world.hold_openings = True
    app.raw(data[:2000])
    first.die()
    app.raw(data[2000:3000])
    assert not app.transport.reading
    world.opening.pop().set_result(None)
    world.spin()
    assert app.transport.reading
    app.raw(data[3000:])
    assert world.server.take() == [data[4:]]


# LOAD DATA LOCAL


def load(world: World, capabilities: int = MODERN) -> tuple[App, Server]:
    """A client that has been asked for a file."""
    app = world.app(capabilities, key=c.CLIENT_LOCAL_FILES)
    app.query(b"LOAD DATA LOCAL INFILE 'x' INTO TABLE t")
    server = world.server
    server.take()
    server.send(frame(b"\xfbx", 1))
    assert app.take() == [b"\xfbx"]
    return app, server


def test_a_file_is_passed_on_and_the_answer_behind_it(world: World):
    app, server = load(world)
    app.raw(frame(b"1\t2\n", 2) + frame(b"3\t4\n", 3))
    assert server.transport.take() == frame(b"1\t2\n", 2) + frame(b"3\t4\n", 3)
    app.raw(frame(b"", 4))
    assert server.transport.take() == frame(b"", 4)
    server.send(frame(build_ok(2), 5))
    assert packets(app.transport.take()) == [(5, build_ok(2))]
    assert server.slot == "idle"


@pytest.mark.parametrize("size", range(1, 12))
def test_a_file_may_arrive_in_pieces_and_the_next_command_behind_it(world: World, size: int):
    app, server = load(world)
    data = frame(b"1\t2\n", 2) + frame(b"3", 3) + frame(b"", 4)
    stream = data + frame(PING)
    for at in range(0, len(stream), size):
        app.raw(stream[at : at + size])
    assert server.transport.take() == data
    assert app.take() == []
    server.send(frame(build_ok(2), 5))
    assert [payload[0] for payload in app.take()] == [0, 0]


def test_an_empty_frame_behind_a_full_one_does_not_end_the_file(world: World):
    app, server = load(world)
    app.raw(frame(bytes(MAX_FRAME), 2))
    app.raw(frame(b"more", 4))
    server.transport.take()
    assert app.client.upload is not None
    app.raw(frame(b"", 5))
    assert app.client.upload is None
    server.send(frame(build_ok(2), 6))


def test_after_a_result_whose_numbers_were_shifted_a_file_is_numbered_for_the_server(world: World):
    app = world.app(0, key=c.CLIENT_LOCAL_FILES, multi_statements=True)
    app.query(b"SELECT 1; LOAD DATA LOCAL INFILE 'x' INTO TABLE t")
    server = world.server
    server.take()
    server.eof()
    server.take()
    first = result(1, [b"\x011"], status=c.SERVER_MORE_RESULTS | c.SERVER_STATUS_AUTOCOMMIT)
    server.send(first + frame(b"\xfbx", 5))
    assert packets(app.transport.take())[-1] == (6, b"\xfbx")
    for byte in frame(b"1", 7) + frame(b"", 8):
        app.raw(bytes((byte,)))
    assert server.transport.take() == frame(b"1", 6) + frame(b"", 7)
    server.send(frame(build_ok(1), 8))
    assert packets(app.transport.take()) == [(9, build_ok(1))]


def test_a_server_that_takes_no_more_of_a_file_stops_the_client(world: World):
    app, server = load(world)
    server.backend.pause_writing()
    assert not app.transport.reading
    server.backend.resume_writing()
    assert app.transport.reading
    app.raw(frame(b"", 2))
    server.send(frame(build_ok(1), 3))


def test_a_file_that_the_server_breaks_off_ends_both_connections_behind_its_error(world: World):
    app, server = load(world)
    app.raw(frame(b"\x03SELECT 1", 0))  # no file: the client has given up, and forgotten that it was asked
    assert server.transport.take() == frame(b"\x03SELECT 1", 0)
    server.send(frame(build_err(1156, "08S01", "Got packets out of order"), 2))
    assert packets(app.transport.take()) == [(2, build_err(1156, "08S01", "Got packets out of order"))]
    assert app.closed
    assert server.transport.eof and server.slot == "closing"
    server.die()
    assert server.slot == "free"


@pytest.mark.parametrize("code", [1053, 1927, 4031])
def test_a_server_that_hangs_up_behind_its_error_costs_a_free_client_nothing(world: World, code: int):
    app = world.app()
    server = world.settled(app)
    app.query(b"SELECT 2")
    server.take()
    server.err(code, state=b"08S01")
    assert app.error().code == code
    assert server.slot == "closing" and not app.closed
    app.query(b"SELECT 3")
    assert world.server is not server
    server.die()


@pytest.mark.parametrize("code", [1053, 1153])
def test_a_server_that_hangs_up_in_a_transaction_or_on_its_client_ends_the_client(world: World, code: int):
    app = world.app()
    app.query(b"BEGIN" if code == 1053 else b"SELECT 1")
    server = world.server
    server.take()
    if code == 1053:
        server.ok(status=IN_TRANS)
        app.take()
        app.query(b"SELECT 1")
        server.take()
    server.err(code, state=b"08S01")
    assert app.error().code == code
    assert app.closed
    server.die()


def test_a_file_that_the_client_did_not_offer_breaks_the_backend(world: World):
    app = world.app()
    app.query(b"LOAD DATA LOCAL INFILE 'x' INTO TABLE t")
    server = world.server
    server.take()
    server.send(frame(b"\xfbx", 1))
    assert server.transport.aborted
    server.die()
    assert app.closed


def test_a_client_lost_in_an_upload_ends_the_servers_input_and_never_completes_it(world: World):
    app, server = load(world)
    app.raw(frame(b"1\t2\n", 2))
    app.leave()
    assert server.transport.eof
    assert server.slot == "closing"
    assert QUIT not in server.take()
    server.die()
    assert server.slot == "free"


def test_a_client_that_left_before_the_file_was_asked_for_does_not_keep_the_backend(world: World):
    app = world.app(key=c.CLIENT_LOCAL_FILES)
    app.query(b"LOAD DATA LOCAL INFILE 'x' INTO TABLE t")
    server = world.server
    server.take()
    app.leave()
    server.send(frame(b"\xfbx", 1))
    assert server.transport.eof
    server.die()


def test_a_backend_lost_in_an_upload_ends_the_client_too(world: World):
    app, server = load(world)
    app.raw(frame(b"1\t2\n", 2))
    server.die()
    assert app.closed
    assert app.take() == []
