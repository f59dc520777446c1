"""Connections to a host with a name, with a name server that answers, and with one that does not."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from proxy.relay.names import open_tcp

ADDRESSES = {
    "one": ["127.0.0.1"],
    "several": ["127.0.0.2", "::1", "127.0.0.1"],
    "away": ["127.0.0.2", "127.0.0.3"],
}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Instead of the machine's: `silent` is not answered until the event is set, and does not exist then."""
    answers = threading.Event()

    def getaddrinfo(host: str, port: None, **_: object) -> list[tuple[Any, ...]]:
        if host == "silent":
            answers.wait(60)
        if host not in ADDRESSES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(None, None, 0, "", (address, 0)) for address in ADDRESSES[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield answers
    answers.set()


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody listens there on 127.0.0.1, and nowhere else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def peer_of(host: str, port: int) -> object:
    async def look() -> object:
        transport, _ = await open_tcp(asyncio.Protocol, host, port)
        peer = transport.get_extra_info("peername")
        transport.close()
        return peer

    return uvloop.run(asyncio.wait_for(look(), 20))


@pytest.mark.parametrize("host", ["127.0.0.1", "one", "several"])
def test_the_first_address_that_can_be_reached_is_taken(names: threading.Event, port: int, host: str) -> None:
    assert peer_of(host, port) == ("127.0.0.1", port)


@pytest.mark.parametrize(("host", "words"), [("away", "refused"), ("nobody", "not known")])
def test_a_host_that_cannot_be_reached_is_an_oserror(names: threading.Event, port: int, host: str, words: str) -> None:
    with pytest.raises(OSError, match=words):
        peer_of(host, port)


def test_a_label_that_is_too_long_is_an_oserror(port: int) -> None:
    with pytest.raises(OSError, match="cannot be the name of a host"):
        peer_of("x" * 70 + ".example", port)


def test_a_name_server_that_does_not_answer_keeps_nobody_from_ending(names: threading.Event, port: int) -> None:
    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(open_tcp(asyncio.Protocol, "silent", port), 0.05)

    begin = time.monotonic()
    uvloop.run(give_up())
    assert time.monotonic() - begin < 20
    names.set()
    for thread in threading.enumerate():
        if thread.name.startswith("lookup of"):
            thread.join(20)
            assert not thread.is_alive()


def test_an_answer_that_comes_too_late_is_not_reported(names: threading.Event, port: int) -> None:
    reports: list[dict[str, Any]] = []

    async def give_up() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(open_tcp(asyncio.Protocol, "silent", port), 0.05)
        names.set()
        for thread in threading.enumerate():
            if thread.name.startswith("lookup of"):
                await asyncio.to_thread(thread.join, 20)
        await asyncio.sleep(0)

    uvloop.run(give_up())
    assert reports == []
