"""Too many clients, too few file descriptors, time limits of the server: said in words, and over when they are over."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
from collections.abc import Callable

import pymysql
import pytest

from proxy.wire.packets import parse_err
from tests.chaos.tags import connect
from tests.conftest import Proxy
from tests.live.raw import Raw, ServerError
from tests.servers import Server, wait_until

Start = Callable[..., Proxy]


def is_served(pooler: Proxy) -> bool:
    """Whether a newcomer is let in, and gets an answer."""
    with contextlib.suppress(ServerError), Raw(pooler) as client:
        return client.get("SELECT 1") == b"1"
    return False


def test_one_client_too_many_is_refused_and_the_next_one_accepted_when_there_is_room(
    mariadb: Server, proxy: Start
) -> None:
    pooler = proxy(mariadb, max_connections=2, listen__max_clients=4)
    clients = [Raw(pooler) for _ in range(4)]
    for _ in range(3):
        with pytest.raises(ServerError) as told:
            Raw(pooler)
        error = told.value.err
        assert (error.code, error.state) == (1040, b"")
        assert error.message == b"Too many connections: listen.max_clients is 4"
    with pytest.raises(pymysql.OperationalError, match="1040"):
        pymysql.connect(host=pooler.host, port=pooler.port, user="app", password="app-secret")
    assert [client.get("SELECT 1") for client in clients] == [b"1"] * 4
    clients.pop().quit()
    pooler.wait_for_metric('mybouncer_clients{state="idle"}', 3)
    clients.append(Raw(pooler))
    for client in clients:
        client.quit()
    pooler.wait_for_metric('mybouncer_clients{state="idle"}', 0)


def test_without_file_descriptors_newcomers_are_refused_and_nobody_else_notices(mariadb: Server, proxy: Start) -> None:
    pooler = proxy(mariadb, max_connections=2)
    settled = [Raw(pooler) for _ in range(3)]
    for client in settled:
        client.ok("SELECT 1")
    used = sorted(map(int, os.listdir(f"/proc/{pooler.pid}/fd")))
    _, hard = before = resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE, (used[-1] + 4, hard))
    try:
        newcomers = [socket.create_connection((pooler.host, pooler.port), timeout=10) for _ in range(20)]
        first = [newcomer.recv(4096) for newcomer in newcomers]
        greeted = [packet for packet in first if packet[4] == 10]
        told = [parse_err(packet[4:]) for packet in first if packet[4] == 0xFF]
        assert len(greeted) < 10
        assert len(told) == 20 - len(greeted)
        for error in told:
            assert (error.code, error.state) == (1040, b"")
            assert error.message == b"Too many connections: no file descriptors left (ulimit -n)"
        for client in settled:
            client.ok("SELECT 1")
        assert "clients refused" in pooler.log()
        for newcomer in newcomers:
            newcomer.close()
        # Those that were greeted have left, so that there is room for one.
        wait_until(lambda: is_served(pooler), 5.0, "it accepts again")
    finally:
        resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE, before)
    for client in [*settled, *(Raw(pooler) for _ in range(10))]:
        client.ok("SELECT 1")
        client.quit()


def test_the_limit_on_descriptors_is_raised_to_the_hard_one_and_if_that_is_low_the_log_says_for_how_many_it_does(
    mariadb: Server, proxy: Start
) -> None:
    pooler = proxy(mariadb, max_connections=8, descriptors=(64, 100))
    assert resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE) == (100, 100)
    wait_until(lambda: "suffice_for=60" in pooler.log(), 5.0, "it is logged")
    assert "descriptors=100" in pooler.log()
    assert pooler.metrics()["mybouncer_clients_max"] == 60


def test_an_idle_connection_goes_before_the_server_ends_it_and_a_pinned_one_ends_as_on_the_server(
    world: Server, shared_proxy: Start
) -> None:
    pooler = shared_proxy(world, max_connections=2)
    retired = 'mybouncer_backend_closes_total{reason="wait_timeout"}'
    with connect(pooler) as client, connect(pooler) as pinned:
        pinned.ok("SET SESSION wait_timeout = 1")
        pinned.ok("BEGIN")
        client.ok("SET SESSION wait_timeout = 3")
        # MySQL says why on the connection, MariaDB only ends it; so do we.
        assert pinned.has_answer(5.0)
        if world.flavour == "mysql":
            pinned.expect_answer(0)
            assert parse_err(pinned.read_packet()).code == 4031
        assert pinned.at_end()
        wait_until(lambda: pooler.metrics().get(retired) == 1, 5.0, "the idle one is closed by us")
        assert client.get("SELECT @@wait_timeout") == b"3"
        client.quit()


def test_a_client_that_stops_sending_or_reading_is_cut_off_after_the_time_it_has_set(
    world: Server, shared_proxy: Start
) -> None:
    pooler = shared_proxy(world, max_connections=2)
    with connect(pooler) as sending, connect(pooler) as reading:
        sending.ok("SET SESSION net_read_timeout = 1")
        command = b"\x03INSERT INTO tags VALUES ('half') -- " + b"x" * (2 << 20)
        sending.sock.sendall(struct.pack("<I", len(command)) + command[: 3 << 19])
        reading.ok("SET SESSION net_write_timeout = 1")
        ten = "(" + " UNION ALL ".join(["SELECT 1"] * 10) + ")"
        reading.send_query(f"SELECT REPEAT('x', 50000) FROM {ten} a, {ten} b, {ten} c")  # 50 MB
        pooler.wait_for_metric('mybouncer_backends{state="leased"}', 2)
        pooler.wait_for_metric('mybouncer_backends{state="leased"}', 0)
        sending.expect_answer()
        assert parse_err(sending.read_packet()).code == 1159
        assert sending.at_end()
        with pytest.raises((EOFError, ConnectionResetError)):
            reading.answer()
        assert pooler.metrics()['mybouncer_client_disconnects_total{reason="net_write_timeout"}'] == 1
    assert world.execute("SELECT COUNT(*) FROM chaos.tags") == [(0,)]
