"""A storm of logins that the server refuses, beside people who work: everybody gets what he is due.

Those who may come in do, those who may not hear so from the server itself, and what the storm takes is bounded.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable

import pymysql
import pytest

from bench.wire import log_in
from proxy.address import Address
from proxy.pool.logins import PATIENCE
from proxy.relay.connect import Dialer, Refused
from proxy.wire.auth import Secret
from proxy.wire.framing import frame
from tests.conftest import Proxy
from tests.live.crowd import Answer, Crowd, Watch, percentile, run
from tests.servers import Server

Start = Callable[..., Proxy]

CAP = 8
UNPROVEN = CAP // 4
UTF8MB4 = 45


async def refused(port: int, user: str, password: str) -> str:
    """What a login is refused with; "" if it is not."""
    try:
        login = await Dialer(Address("127.0.0.1", port)).connect(
            user.encode(), Secret.of(password.encode()), 0, UTF8MB4, []
        )
    except Refused as refusal:
        return str(refusal)
    login.transport.abort()
    return ""


def said_directly(server: Server, user: str, password: str) -> str:
    with pytest.raises(pymysql.MySQLError) as error:
        pymysql.connect(host=server.host, port=server.port, user=user, password=password)
    code, text = error.value.args
    return f"{code}: {text}"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)


class Way:
    """A way to the server, on which it sees `address`; tells the most that were on it at a time without being "app".

    Somebody is on it until the server has closed his connection. The server's own list would show him for longer.
    """

    def __init__(self, server: Server, address: str) -> None:
        self._address = address
        self._server = server
        self._now: Counter[str] = Counter()
        self.strangers = 0

    async def __aenter__(self) -> str:
        self._listener = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        return f"mysql://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._server.host, self._server.port, local_addr=(self._address, 0))
        writer.write(await there.read(1 << 16))
        login = await reader.read(1 << 16)
        user = login[36:].split(b"\0", 1)[0].decode()
        self._now[user] += 1
        self.strangers = max(self.strangers, self._now.total() - self._now["app"])
        back.write(login)
        forth = asyncio.create_task(_copy(reader, back))
        await _copy(there, writer)
        self._now[user] -= 1
        writer.close()
        await forth
        back.close()


@pytest.mark.parametrize("busy", [CAP - UNPROVEN, 3 * CAP], ids=["with room", "on a full pool"])
def test_a_storm_of_unknown_users_stops_nobody(server: Server, proxy: Start, busy: int) -> None:
    wrong = [(f"nobody{n}", "secret") for n in range(200)] + [("app2", f"guess{n}") for n in range(100)]

    way = Way(server, "127.0.0.1")

    async def main() -> tuple[list[Answer], list[Answer], list[str], int]:
        async with way as backend:
            # Without TLS, so that the way can read the names.
            pooler = proxy(backend, max_connections=CAP, tls__backend__mode="disabled")
            crowd = Crowd()
            await crowd.log_in(pooler.port, app=busy)
            crowd.start("SELECT SLEEP(0.005)")
            before = await crowd.busy(0.7)
            storm = asyncio.gather(*(refused(pooler.port, *each) for each in wrong))
            if busy > CAP:
                await asyncio.sleep(PATIENCE)  # from now on logins get what they may have at most
            working.forget()
            start, began = len(crowd.answers), time.monotonic()
            assert not storm.done()
            (newcomer,) = await log_in(pooler.port, "limited", 1)
            newcomer.transport.abort()
            answers = await storm
            held = working.least_together
            during = crowd.answers[start:]
            rate = len(during) / (time.monotonic() - began)
            assert rate > 0.25 * len(before) / 0.7, "those who work go on"
            assert not crowd.errors
            await crowd.leave()
            metrics = await asyncio.to_thread(pooler.metrics)
            assert metrics['mybouncer_login_failures_total{reason="1045"}'] == len(wrong)
            assert not [name for name in metrics if "nobody" in name]
        return before, during, answers, held

    with Watch(server, "app", "limited", "app2") as ours, Watch(server, "app") as working:
        before, during, answers, held = run(main())
    unknown = said_directly(server, "nobody", "secret")
    expected = Counter(unknown.replace("nobody", f"nobody{n}") for n in range(200))
    expected[said_directly(server, "app2", "a guess")] = 100
    assert Counter(answers) == expected
    assert way.strangers == UNPROVEN, "all that they may have, and no more"
    assert ours.most_together <= CAP, ours.most
    assert held >= CAP - UNPROVEN - 1, "one of them may be on its way"
    assert percentile(during, 99) < 4 * percentile(before, 99) + 1.0


def greeting_for(address: str, server: Server) -> bytes:
    """What the server says first to somebody who then leaves without a word."""
    with socket.create_connection((server.host, server.port), timeout=10, source_address=(address, 0)) as sock:
        return sock.recv(1024)


# MySQL blocks no loopback address at all.
def test_refused_logins_do_not_get_our_host_blocked(own_server: Callable[..., Server], proxy: Start) -> None:
    server = own_server("mariadb", max_connect_errors=1, skip_name_resolve=0)
    server.execute(
        "INSTALL SONAME 'auth_ed25519'", "INSTALL SONAME 'auth_pam'", "CREATE USER pam@'%' IDENTIFIED VIA pam"
    )
    wrong = [(f"nobody{n}", "secret") for n in range(30)] + [("app2", f"guess{n}") for n in range(10)]

    async def main() -> None:
        async with Way(server, "127.0.0.9") as backend:
            pooler = proxy(backend, max_connections=CAP)
            said = await asyncio.gather(*(refused(pooler.port, *each) for each in wrong))
            assert {text[:5] for text in said} <= {"1045:", "1251:"}  # who is unknown is asked by any of the plugins
            for _ in range(3):
                assert (await refused(pooler.port, "pam", "secret")).startswith("1251:")
            (client,) = await log_in(pooler.port, "app", 1)
            assert await client.execute(frame(b"\x03SELECT 1")) == ""
            client.transport.abort()

    run(main())
    until_blocked = [greeting_for("127.0.0.9", server) for _ in range(4)]
    assert b"is blocked because of many connection errors" in until_blocked[-1], "the test would have seen it"
