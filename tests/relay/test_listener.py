"""Connections before their login, on real sockets: whoever leaves, stalls or is one too many costs nothing for long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import structlog
import uvloop

from proxy.address import Address
from proxy.config import load
from proxy.relay.listener import Listener
from proxy.relay.relay import Relay
from proxy.wire import constants as c
from proxy.wire.packets import Greeting, parse_err
from tests.servers import free_port

SEEN = Greeting(b"9.7.4", 1, b"n" * 20, 45, c.SERVER_STATUS_AUTOCOMMIT, 0xFFFFFFFF, c.CACHING_SHA2_PASSWORD)
LINGER_RST = struct.pack("ii", 1, 0)


@contextlib.asynccontextmanager
async def listening(*, seen: bool = True, **config: object) -> AsyncIterator[Listener]:
    """A listener of its own; nobody is behind it."""
    overrides = {key.replace("__", "."): value for key, value in config.items()}
    overrides |= {"backend.url": f"mysql://127.0.0.1:{free_port()}", "pool.max_connections": 4}
    quiet = structlog.wrap_logger(None, processors=[_drop])
    relay = Relay(load(overrides=overrides), quiet, lambda *_, **__: None)
    listener = Listener(relay)
    listener.open((Address("127.0.0.1", 0),))
    if seen:
        relay.seen(SEEN)
    try:
        yield listener
    finally:
        listener.close()
        await relay.drain(0.0)


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(asyncio.wait_for(scenario(), 20.0))


async def eventually(condition: Callable[[], object], what: str, seconds: float = 5.0) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.005)


def dial(listener: Listener) -> socket.socket:
    """A connection that the kernel has taken; the listener has not seen it yet."""
    sock = socket.create_connection((listener.addresses[0].host, listener.addresses[0].port))
    sock.setblocking(False)
    return sock


async def packet(sock: socket.socket) -> bytes:
    """The payload of the first packet; b"" if the connection has ended."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:3], "little"):
        more = await loop.sock_recv(sock, 4096)
        if not more:
            return b""
        data += more
    return data[4:]


def by_rst(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RST)
    sock.close()


def by_fin(sock: socket.socket) -> None:
    sock.close()


def by_half_closing(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


ENDINGS = pytest.mark.parametrize("leave", [by_rst, by_fin, by_half_closing])


@pytest.mark.parametrize("sent", [0, 3, 20])
@ENDINGS
def test_who_leaves_before_the_login_is_forgotten_at_once(leave: Callable[[socket.socket], None], sent: int) -> None:
    async def scenario() -> None:
        async with listening(listen__login_timeout="60s") as listener:
            before = len(os.listdir("/proc/self/fd"))
            leavers = [dial(listener) for _ in range(3)]
            for sock in leavers:
                assert (await packet(sock))[0] == 10
                sock.send((b"\x80\0\0\x01" + bytes(32))[:sent])
            assert listener.pending == 3
            for sock in leavers:
                leave(sock)
            await eventually(lambda: not listener.pending, "all are forgotten")
            stats = listener.relay.stats
            cut_short = 3 if sent and leave is not by_rst else 0
            failures = stats.login_failures
            assert (failures["client_gone"], failures["malformed"]) == (3 - cut_short, cut_short)
            assert stats.malformed == cut_short
            for sock in leavers:
                sock.close()
            assert len(os.listdir("/proc/self/fd")) == before

    run(scenario)


@ENDINGS
def test_who_leaves_before_the_server_was_seen_is_forgotten_at_once(leave: Callable[[socket.socket], None]) -> None:
    async def scenario() -> None:
        async with listening(seen=False, queue__timeout_down="60s") as listener:
            held = dial(listener)
            await eventually(lambda: listener.pending == 1, "it is held")
            leave(held)
            await eventually(lambda: not listener.pending, "it is forgotten")
            listener.relay.seen(SEEN)
            held.close()

    run(scenario)


def test_who_speaks_before_the_greeting_is_out_of_order() -> None:
    async def scenario() -> None:
        async with listening(seen=False) as listener:
            eager = dial(listener)
            eager.send(b"\x20\0\0\x01" + bytes(32))
            assert parse_err(await packet(eager)).code == c.ER_NET_PACKETS_OUT_OF_ORDER
            assert not listener.pending
            eager.close()

    run(scenario)


def test_who_says_nothing_is_told_so_when_the_time_for_the_login_is_over() -> None:
    async def scenario() -> None:
        async with listening(listen__login_timeout="50ms") as listener:
            silent = dial(listener)
            assert (await packet(silent))[0] == 10
            assert parse_err(await packet(silent)).code == c.ER_NET_READ_INTERRUPTED
            assert not listener.pending
            silent.close()

    run(scenario)


def test_one_client_more_than_allowed_is_refused_before_the_greeting_until_one_leaves() -> None:
    async def scenario() -> None:
        async with listening(listen__max_clients=2) as listener:
            first, second = dial(listener), dial(listener)
            assert (await packet(first))[0] == (await packet(second))[0] == 10
            third = dial(listener)
            error = parse_err(await packet(third))
            assert (error.code, error.state) == (1040, b"")
            assert error.message == b"Too many connections: listen.max_clients is 2"
            assert await packet(third) == b""
            first.close()
            await eventually(lambda: listener.pending == 1, "the first one has left")
            fourth = dial(listener)
            assert (await packet(fourth))[0] == 10
            for sock in (second, third, fourth):
                sock.close()

    run(scenario)


def test_who_is_held_before_the_server_was_seen_counts_as_a_client() -> None:
    async def scenario() -> None:
        async with listening(seen=False, listen__max_clients=1) as listener:
            held = dial(listener)
            await eventually(lambda: listener.pending == 1, "it is held")
            refused = dial(listener)
            assert parse_err(await packet(refused)).code == 1040
            listener.relay.seen(SEEN)
            assert (await packet(held))[0] == 10
            held.close()
            refused.close()

    run(scenario)


def test_file_descriptors_are_left_for_the_server_and_who_is_refused_for_it_reads_why() -> None:
    async def scenario() -> None:
        async with listening(listen__max_clients=100) as listener:
            relay = listener.relay
            relay.descriptors = 200
            assert relay.clients_max == 100
            relay.descriptors = 100
            assert relay.clients_max == 100 - 4 - 32
            relay.descriptors = 2
            assert relay.clients_max == 1
            first, second = dial(listener), dial(listener)
            assert (await packet(first))[0] == 10
            error = parse_err(await packet(second))
            assert error.message == b"Too many connections: no file descriptors for more than 1 clients (ulimit -n)"
            first.close()
            second.close()

    run(scenario)


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """As if the process had as many files open as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = []
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


def test_without_descriptors_newcomers_are_refused_before_the_greeting_and_afterwards_accepted_again() -> None:
    async def scenario() -> None:
        async with listening() as listener:
            logging_in = dial(listener)
            assert (await packet(logging_in))[0] == 10
            newcomers = [dial(listener) for _ in range(5)]
            with no_descriptor_left():
                for sock in newcomers:
                    error = parse_err(await packet(sock))
                    assert (error.code, error.state) == (1040, b"")
                    assert b"no file descriptors left" in error.message
            assert listener.pending == 1, "who was there before is not disturbed"
            assert listener.relay.stats.errors[(1040, "proxy")] == 5
            late = dial(listener)
            assert (await packet(late))[0] == 10
            for sock in (logging_in, late, *newcomers):
                sock.close()

    run(scenario)


def test_even_if_the_spare_descriptor_is_gone_the_listener_goes_on_when_there_are_some_again() -> None:
    async def scenario() -> None:
        async with listening() as listener:
            assert listener._give_up_spare()
            newcomer = dial(listener)
            with no_descriptor_left():
                await asyncio.sleep(0.3)  # it looks every 0.1 s, and must neither spin nor close itself
                assert not listener.pending
            assert (await packet(newcomer))[0] == 10
            assert listener._spare is not None
            newcomer.close()

    run(scenario)


def test_a_host_that_vanishes_is_found_out_because_accepted_sockets_ask_for_it() -> None:
    async def scenario() -> None:
        async with listening() as listener:
            client = dial(listener)
            assert (await packet(client))[0] == 10
            (newcomer,) = listener._newcomers.values()
            sock = newcomer.sock
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, interval, count = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            assert idle + interval * count <= 120
            client.close()

    run(scenario)


def test_closing_twice_is_harmless_and_leaves_nothing_open() -> None:
    async def scenario() -> None:
        before = set(os.listdir("/proc/self/fd"))
        async with listening() as listener:
            client = dial(listener)
            assert (await packet(client))[0] == 10
            listener.close()
            assert parse_err(await packet(client)).code == c.ER_SERVER_SHUTDOWN
            client.close()
        assert len(os.listdir("/proc/self/fd")) <= len(before)

    run(scenario)
