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


@pytest.mark.parametrize("busy", [CAP - UNPROVEN, 3 * CAP], ids=["with room", "on a full pool"])
def test_a_storm_of_unknown_users_stops_nobody(server: Server, proxy: Start, busy: int) -> None:
    # Without TLS: the server takes its time to forget an encrypted connection that it has refused.
    pooler = proxy(server, max_connections=CAP, tls__backend__mode="disabled")
    wrong = [(f"nobody{n}", "secret") for n in range(200)] + [("app2", f"guess{n}") for n in range(100)]

    async def main() -> tuple[list[Answer], list[Answer], list[str], int]:
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
        return before, during, answers, held

    ours = Watch(server, "app", "limited", "app2")
    # Nobody of these lives long, so they are looked at as they are, a few that are being closed among them. On a full
    # pool the accounts that work open connections again as well, and log in like anybody.
    strangers = Watch(server, but=("app", "limited", *(["unauthenticated user"] if busy > CAP else [])), apart=0.0)
    with ours, strangers, Watch(server, "app") as working:
        before, during, answers, held = run(main())
    unknown = said_directly(server, "nobody", "secret")
    expected = Counter(unknown.replace("nobody", f"nobody{n}") for n in range(200))
    expected[said_directly(server, "app2", "a guess")] = 100
    assert Counter(answers) == expected
    assert strangers.most_together <= UNPROVEN + 2, strangers.most
    assert ours.most_together <= CAP, ours.most
    assert held >= CAP - UNPROVEN - 1, "one of them may be on its way"
    assert percentile(during, 99) < 4 * percentile(before, 99) + 1.0
    metrics = pooler.metrics()
    assert metrics['mybouncer_login_failures_total{reason="1045"}'] == len(wrong)
    assert not [name for name in metrics if "nobody" in name]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


async def from_another_address(server: Server) -> asyncio.Server:
    """A way to the server on which it sees 127.0.0.9: it never blocks 127.0.0.1."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(server.host, server.port, local_addr=("127.0.0.9", 0))
        await asyncio.gather(_copy(reader, back), _copy(there, writer), return_exceptions=True)

    return await asyncio.start_server(forward, "127.0.0.1", 0)


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
        async with await from_another_address(server) as way:
            backend = f"mysql://127.0.0.1:{way.sockets[0].getsockname()[1]}"
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
