"""Logging in to a server that refuses: when a refusal is over. The server is a socket of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from proxy.address import Address
from proxy.relay import connect
from proxy.wire import constants as c
from proxy.wire.auth import Secret
from proxy.wire.framing import frame
from proxy.wire.packets import Greeting, HandshakeResponse, build_auth_switch, build_err

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TOO_MANY = frame(build_err(1040, b"", "Too many connections"), 0)


async def log_in(serve: Serve) -> connect.Refused:
    """What comes of a login to a server that behaves like `serve`."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(connect.Refused) as refused:
            await connect.Dialer(Address("127.0.0.1", port)).connect(b"app", Secret.of(b"secret"), 0, 45, [])
        return refused.value


def test_a_refused_connection_is_over_when_the_server_has_closed_it() -> None:
    async def main() -> None:
        closing, closed = asyncio.Event(), []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(TOO_MANY)
            await closing.wait()
            closed.append(True)
            writer.close()

        login = asyncio.create_task(log_in(serve))
        for _ in range(100):
            await asyncio.sleep(0.001)
        assert not login.done()
        closing.set()
        assert (await login).err.code == 1040
        assert closed

    asyncio.run(main())


def test_a_server_that_refuses_and_does_not_close_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "REFUSED_CLOSES", 0.05)

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(TOO_MANY)
            assert await reader.read() == b""
            writer.close()

        assert (await log_in(serve)).err.code == 1040

    asyncio.run(main())


def asked_for(greeting: Greeting, question: bytes) -> tuple[connect.Refused, list[bytes]]:
    """What comes of a login in which the server asks for this, and gets an answer that it refuses; and that answer."""
    received = []

    async def packet(reader: asyncio.StreamReader) -> bytes:
        head = await reader.readexactly(4)
        return await reader.readexactly(int.from_bytes(head[:3], "little"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(greeting.encode(), 0))
        await packet(reader)
        writer.write(frame(question, 2))
        received.append(await packet(reader))
        writer.write(frame(build_err(1045, b"28000", "Access denied"), 4))
        writer.close()

    return asyncio.run(log_in(serve)), received


def test_a_login_with_a_plugin_that_we_do_not_have_is_finished_before_it_is_refused() -> None:
    greeting = Greeting(b"10.11.19-MariaDB", 1, b"n" * 20, 45, 2, 0xFFFFFFFF & ~1, c.NATIVE_PASSWORD)
    refused, received = asked_for(greeting, build_auth_switch(b"auth_gssapi_client", b"n" * 20))
    assert refused.err.code == 1251
    assert b"auth_gssapi_client" in refused.err.message
    assert [len(answer) for answer in received] == [64]


def test_a_login_with_a_second_factor_is_finished_and_refused_in_words() -> None:
    greeting = Greeting(b"9.7.4", 1, b"n" * 20, 45, 2, 0xFFFFFFFF, c.CACHING_SHA2_PASSWORD)
    refused, received = asked_for(greeting, b"\x02authentication_webauthn_client\0challenge")
    assert refused.err.code == 1251
    assert b"second factor" in refused.err.message
    assert [len(answer) for answer in received] == [64]


def test_many_logins_with_one_secret_are_refused_by_one_of_them() -> None:
    """Those that come after it are finished in nobody's name, so that no account is locked."""

    async def main() -> None:
        users: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            greeting = Greeting(b"9.7.4", 1, b"n" * 20, 45, 2, 0xFFFFFFFF, c.NATIVE_PASSWORD)
            writer.write(frame(greeting.encode(), 0))
            head = await reader.readexactly(4)
            response = await reader.readexactly(int.from_bytes(head[:3], "little"))
            users.append(HandshakeResponse.parse(response, 0xFFFFFFFF).username)
            writer.write(frame(build_err(1045, b"28000", f"Access denied for {users[-1].decode()}"), 2))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        dialer = connect.Dialer(Address("127.0.0.1", server.sockets[0].getsockname()[1]))
        turn = connect.Turn()
        async with server:
            logins = [dialer.connect(b"app", Secret.of(b"secret"), 0, 45, [], turn) for _ in range(5)]
            refused = await asyncio.gather(*logins, return_exceptions=True)
        assert users.count(b"app") == 1
        assert users.count(connect.PROBE_USER) == 4
        assert [str(each) for each in refused] == ["1045: Access denied for app"] * 5

    asyncio.run(main())
