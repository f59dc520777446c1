"""What no client may send: an error where possible, the end of the connection, a log line; nobody else notices."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from proxy.wire import constants as c
from proxy.wire.framing import PacketReader, frame
from proxy.wire.packets import Err, Greeting, HandshakeResponse, parse_err
from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.servers import Server, wait_until

Start = Callable[..., Proxy]
GOOD = HandshakeResponse(
    c.CLIENT_PROTOCOL_41 | c.CLIENT_SECURE_CONNECTION | c.CLIENT_PLUGIN_AUTH | c.CLIENT_CONNECT_ATTRS,
    45,
    b"app",
    b"x" * 20,
    plugin=c.NATIVE_PASSWORD,
).encode()


@pytest.fixture
def pooler(mariadb: Server, shared_proxy: Start) -> Proxy:
    """One pooler for the module."""
    return shared_proxy(mariadb, max_connections=2, listen__login_timeout="2s")


@pytest.fixture
def neighbour(pooler: Proxy) -> Iterator[Raw]:
    """A client in a transaction, that must not notice anything."""
    client = Raw(pooler, database="test")
    client.ok("START TRANSACTION")
    yield client
    assert client.get("SELECT 42") == b"42"
    client.ok("ROLLBACK")
    client.quit()


def _until_end(sock: socket.socket) -> list[bytes]:
    """All packets up to the end of the connection."""
    reader = PacketReader(strict=False)
    packets = []
    sock.settimeout(10)
    while True:
        try:
            data = sock.recv(1 << 16)
        except ConnectionResetError:
            return packets
        if not data:
            return packets
        reader.feed(data)
        while (packet := reader.next_packet()) is not None:
            packets.append(packet)


def _error_at_the_end(sock: socket.socket) -> Err:
    packets = _until_end(sock)
    assert packets, "closed without a word"
    return parse_err(packets[-1])


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(b"\x00\x00\x00\x01", 1043, id="an empty response"),
        pytest.param(b"\x10\x00\x00\x01" + bytes(16), 1043, id="a response of before 4.1"),
        pytest.param(b"\xff\xff\xff\x01" + bytes(40), 1153, id="a response of 16 MiB"),
        pytest.param(b"\x01\x00\x01\x01" + bytes(40), 1153, id="a response of 64 KiB and one"),
        pytest.param(frame(GOOD, 7), 1156, id="a response out of order"),
        pytest.param(frame(bytes(64), 1), 1043, id="a response of zeros"),
        pytest.param(frame(GOOD[:32] + b"a" * 60, 1), 1835, id="a user name without an end"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n", 1156, id="an HTTP request"),
    ],
)
def test_nonsense_before_login_is_answered_and_the_connection_closed(
    pooler: Proxy, neighbour: Raw, sent: bytes, code: int
) -> None:
    before = pooler.metrics()["mybouncer_malformed_total"]
    with socket.create_connection((pooler.host, pooler.port), timeout=10) as sock:
        sock.sendall(sent)
        assert _error_at_the_end(sock).code == code
    assert pooler.metrics()["mybouncer_malformed_total"] == before + 1
    assert "malformed packet" in pooler.log()


def test_a_login_packet_byte_by_byte_is_a_login(pooler: Proxy, neighbour: Raw) -> None:
    with socket.create_connection((pooler.host, pooler.port), timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame(GOOD, 1):
            sock.sendall(bytes((byte,)))
        reader = PacketReader(strict=False)
        packets: list[bytes] = []
        while len(packets) < 2:
            reader.feed(sock.recv(4096))
            while (packet := reader.next_packet()) is not None:
                packets.append(packet)
        assert Greeting.parse(packets[0]).plugin == c.CACHING_SHA2_PASSWORD
        assert packets[1].startswith(b"\xfecaching_sha2_password\0")


def test_a_silent_client_is_sent_away(pooler: Proxy, neighbour: Raw) -> None:
    with socket.create_connection((pooler.host, pooler.port), timeout=10) as sock:
        assert _error_at_the_end(sock).code == 1159


@pytest.mark.parametrize(("size", "reason"), [(0, "client_gone"), *((n, "malformed") for n in (3, 20, 36, 60))])
def test_a_login_that_ends_early_is_counted(pooler: Proxy, neighbour: Raw, size: int, reason: str) -> None:
    names = (f'mybouncer_login_failures_total{{reason="{reason}"}}', "mybouncer_malformed_total")
    before = [pooler.metrics().get(name, 0) for name in names]
    sock = socket.create_connection((pooler.host, pooler.port), timeout=10)
    sock.recv(4096)
    sock.sendall(frame(GOOD, 1)[:size])
    sock.close()
    wanted = [before[0] + 1, before[1] + (size > 0)]
    wait_until(lambda: [pooler.metrics().get(name, 0) for name in names] == wanted, 10, "it is counted")


@pytest.mark.parametrize("size", [3, 4, 8])
def test_a_command_that_ends_early_is_counted(pooler: Proxy, neighbour: Raw, size: int) -> None:
    before = pooler.metrics()["mybouncer_malformed_total"]
    client = Raw(pooler)
    client.sock.sendall(frame(b"\x03SELECT 1")[:size])
    client.sock.close()
    wait_until(lambda: pooler.metrics()["mybouncer_malformed_total"] == before + 1, 10, "it is counted")


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        pytest.param(b"\x09\x00\x00\x05\x03SELECT 1", 1156, id="out of order"),
    ],
)
def test_nonsense_in_a_session_is_answered(pooler: Proxy, neighbour: Raw, packet: bytes, code: int) -> None:
    client = Raw(pooler)
    client.sock.sendall(packet)
    client.expect_answer()
    assert parse_err(client.read_packet()).code == code


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        pytest.param(b"", 1047, id="an empty command"),
        pytest.param(b"\x00", 1047, id="COM_SLEEP"),
        pytest.param(b"\x22abc", 1047, id="a command that does not exist"),
        pytest.param(b"\xfe", 1047, id="COM_MULTI"),
        pytest.param(b"\x12\x04\x00\x00\x00", 1235, id="COM_BINLOG_DUMP"),
        pytest.param(b"\x08\x00", 1235, id="COM_SHUTDOWN"),
        pytest.param(b"\x17\x09\x00\x00\x00" + bytes(9), 1243, id="an unknown statement"),
        pytest.param(b"\x17\x01\x00\x00\x00", 1835, id="an execute that is too short"),
        pytest.param(b"\x1b\x07\x00", 1047, id="an unknown option"),
        pytest.param(b"\x03", 1065, id="an empty query"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_connection_stays(
    pooler: Proxy, neighbour: Raw, payload: bytes, code: int
) -> None:
    client = Raw(pooler)
    assert client.command(payload)[0].code == code
    assert client.get("SELECT 1") == b"1"


def test_commands_sent_ahead_of_a_failed_login_are_not_executed(pooler: Proxy, mariadb: Server) -> None:
    mariadb.execute("CREATE TABLE IF NOT EXISTS test.sent_ahead (id INT)", "DELETE FROM test.sent_ahead")
    with socket.create_connection((pooler.host, pooler.port), timeout=10) as sock:
        wrong = HandshakeResponse(
            c.CLIENT_PROTOCOL_41 | c.CLIENT_SECURE_CONNECTION | c.CLIENT_PLUGIN_AUTH,
            45,
            b"app",
            b"",
            plugin=c.CACHING_SHA2_PASSWORD,
        ).encode()
        sock.sendall(frame(wrong, 1) + frame(b"\x03INSERT INTO test.sent_ahead VALUES (1)"))
        assert _error_at_the_end(sock).code == 1045
    assert mariadb.execute("SELECT COUNT(*) FROM test.sent_ahead")[0][0] == 0
