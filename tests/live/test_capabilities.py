"""What clients and server can do, between them and us: offered, asked for, passed on.

The table is protocol.md A.2. A capability that changes what a server does for its client goes to the backend as the
client has it, and such clients share backends only with their like (`PASSED`). What the pooler bridges or does itself
is offered and not passed on; the rest is not offered.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from proxy.wire import auth
from proxy.wire import constants as c
from proxy.wire.framing import PacketReader, frame
from proxy.wire.packets import Greeting, HandshakeResponse, parse_auth_switch
from tests.clients.clients import LOGINS, Account, Login, Target
from tests.conftest import Proxy
from tests.live.raw import CAPABILITIES, Raw
from tests.live.recorder import Recorder
from tests.live.transcripts import Witness, same
from tests.servers import Server, wait_until

PASSED = {
    "FOUND_ROWS": c.CLIENT_FOUND_ROWS,
    "LOCAL_FILES": c.CLIENT_LOCAL_FILES,
    "IGNORE_SPACE": c.CLIENT_IGNORE_SPACE,
    "MULTI_RESULTS": c.CLIENT_MULTI_RESULTS,
    "PS_MULTI_RESULTS": c.CLIENT_PS_MULTI_RESULTS,
    "STMT_BULK_OPERATIONS": c.MARIADB_CLIENT_STMT_BULK_OPERATIONS,
}
ALL_PASSED = sum(PASSED.values())

# Bridged, or nothing that a server would notice.
OURS = (
    c.CLIENT_LONG_PASSWORD
    | c.CLIENT_LONG_FLAG
    | c.CLIENT_CONNECT_WITH_DB
    | c.CLIENT_NO_SCHEMA
    | c.CLIENT_ODBC
    | c.CLIENT_PROTOCOL_41
    | c.CLIENT_INTERACTIVE
    | c.CLIENT_SSL
    | c.CLIENT_IGNORE_SIGPIPE
    | c.CLIENT_TRANSACTIONS
    | c.CLIENT_RESERVED
    | c.CLIENT_SECURE_CONNECTION
    | c.CLIENT_MULTI_STATEMENTS
    | c.CLIENT_PLUGIN_AUTH
    | c.CLIENT_CONNECT_ATTRS
    | c.CLIENT_PLUGIN_AUTH_LENENC
    | c.CLIENT_SESSION_TRACK
    | c.CLIENT_DEPRECATE_EOF
)
MASKED = (
    c.CLIENT_COMPRESS
    | c.CLIENT_CAN_HANDLE_EXPIRED_PASSWORDS
    | c.CLIENT_OPTIONAL_RESULTSET_METADATA
    | c.CLIENT_ZSTD_COMPRESSION
    | c.CLIENT_QUERY_ATTRIBUTES
    | c.CLIENT_MULTI_FACTOR
    | c.CLIENT_CAPABILITY_EXTENSION
    | c.CLIENT_SSL_VERIFY_SERVER_CERT
    | c.CLIENT_REMEMBER_OPTIONS
    | c.MARIADB_CLIENT_PROGRESS
    | c.MARIADB_CLIENT_EXTENDED_METADATA
    | c.MARIADB_CLIENT_CACHE_METADATA
    | c.MARIADB_CLIENT_BULK_UNIT_RESULTS
)

# What every connection to the server has, whatever its clients can do; LONG_PASSWORD and SSL where the server has them.
ALWAYS = (
    c.CLIENT_LONG_PASSWORD
    | c.CLIENT_LONG_FLAG
    | c.CLIENT_PROTOCOL_41
    | c.CLIENT_SSL
    | c.CLIENT_TRANSACTIONS
    | c.CLIENT_SECURE_CONNECTION
    | c.CLIENT_PLUGIN_AUTH
    | c.CLIENT_PLUGIN_AUTH_LENENC
    | c.CLIENT_CONNECT_ATTRS
    | c.CLIENT_SESSION_TRACK
    | c.CLIENT_DEPRECATE_EOF
)

# Bits that are known of the drivers in these tests: what they have, and what they do not have (protocol.md A.2).
KNOWN = {
    "pymysql": (c.CLIENT_MULTI_RESULTS, c.CLIENT_DEPRECATE_EOF | c.CLIENT_SESSION_TRACK | c.CLIENT_PS_MULTI_RESULTS),
    "aiomysql": (c.CLIENT_MULTI_RESULTS, c.CLIENT_DEPRECATE_EOF | c.CLIENT_SESSION_TRACK | c.CLIENT_PS_MULTI_RESULTS),
    "mysqlclient": (c.CLIENT_PS_MULTI_RESULTS | c.CLIENT_SESSION_TRACK, 0),
    "connector": (c.CLIENT_MULTI_RESULTS, c.CLIENT_DEPRECATE_EOF | c.CLIENT_PS_MULTI_RESULTS),
    "mariadb-cli": (c.CLIENT_PS_MULTI_RESULTS | c.CLIENT_SESSION_TRACK, c.CLIENT_DEPRECATE_EOF),
    "mysql-cli": (c.CLIENT_DEPRECATE_EOF | c.CLIENT_SESSION_TRACK | c.CLIENT_PS_MULTI_RESULTS, 0),
}


class Chain:
    """Clients -> `outside` -> pooler -> `inside` -> server."""

    def __init__(self, server: Server, inside: Recorder, outside: Recorder, pooler: Proxy) -> None:
        self.server = server
        self.inside = inside
        self.outside = outside
        self.pooler = pooler

    @property
    def offered_by_server(self) -> int:
        return next(shake.greeting.capabilities for shake in self.inside.handshakes if shake.greeting is not None)

    def expected_of_backend(self, sent: int) -> int:
        """The capabilities of the connection that a client gets which has sent these."""
        offered = self.offered_by_server & ~MASKED
        return (ALWAYS | (sent & offered & ALL_PASSED)) & self.offered_by_server


@pytest.fixture(scope="module")
def chain(server: Server, module_proxy: Callable[..., Proxy]) -> Iterator[Chain]:
    """A pooler with a witness on either side."""
    with Recorder(server.port) as inside:
        pooler = module_proxy(f"mysql://127.0.0.1:{inside.port}", max_connections=20)
        wait_until(lambda: any(shake.whole for shake in inside.handshakes), 10, "the server was greeted")
        with Recorder(pooler.port) as outside:
            yield Chain(server, inside, outside, pooler)


def test_the_greeting_is_the_servers_without_what_is_not_offered(server: Server, chain: Chain) -> None:
    with Raw(server) as direct, Raw(chain.pooler) as pooled:
        theirs, ours = direct.greeting, pooled.greeting
    assert ours.capabilities == (theirs.capabilities | c.CLIENT_CONNECT_ATTRS | c.CLIENT_SSL) & ~MASKED
    assert not ours.capabilities & MASKED
    assert not theirs.capabilities & ~(MASKED | OURS | ALL_PASSED), "a bit that nobody has thought about"
    assert (ours.version, ours.charset, ours.status) == (theirs.version, theirs.charset, theirs.status)
    assert ours.is_mariadb == theirs.is_mariadb == (server.flavour == "mariadb")
    assert ours.plugin == c.CACHING_SHA2_PASSWORD
    assert ours.thread_id >= 0x80000000
    bulk = c.MARIADB_CLIENT_STMT_BULK_OPERATIONS if server.flavour == "mariadb" else 0
    assert ours.capabilities >> 32 == bulk >> 32


@pytest.mark.parametrize("name", LOGINS)
def test_what_a_driver_can_do_is_what_its_connection_to_the_server_can_do(chain: Chain, name: str) -> None:
    login: Login = LOGINS[name]
    before = len(chain.outside.handshakes)
    assert login(Target(port=chain.outside.port), Account(), "SELECT 42") == [("42",)]
    sent = chain.outside.sent[before]
    has, has_not = KNOWN.get(name, (0, 0))
    assert sent & has == has and not sent & has_not, f"{name} has changed: {sent:#x}"
    expected = chain.expected_of_backend(sent)
    assert expected in chain.inside.sent, f"{expected:#x} is none of {sorted(map(hex, set(chain.inside.sent)))}"


@pytest.mark.parametrize("name", PASSED)
def test_a_capability_that_matters_is_passed_and_divides_the_pool(chain: Chain, name: str) -> None:
    bit = PASSED[name]
    if not chain.offered_by_server & bit:
        pytest.skip(f"this server does not offer {name}")
    plain = CAPABILITIES & ~ALL_PASSED & ~c.CLIENT_LONG_PASSWORD
    where: list[list[object]] = []
    for wanted in (plain, plain | bit):
        # Bits that do not matter do not divide: both clients of a kind use the same connection.
        others = (c.CLIENT_SESSION_TRACK | c.CLIENT_ODBC | c.CLIENT_INTERACTIVE, c.CLIENT_DEPRECATE_EOF)
        with (
            Raw(chain.outside, without=~(wanted & ~others[1]), add=wanted & ~others[1]) as first,
            Raw(chain.outside, without=~(wanted | others[0]), add=wanted | others[0]) as second,
        ):
            where.append([client.get("SELECT CONNECTION_ID() + 0") for client in (first, second)])
        assert chain.expected_of_backend(wanted) in chain.inside.sent
    assert where[0][0] == where[0][1]
    assert where[1][0] == where[1][1]
    assert where[0][0] != where[1][0]


@pytest.mark.parametrize("bits", [0, c.CLIENT_FOUND_ROWS, c.CLIENT_IGNORE_SPACE], ids=["none", "rows", "space"])
def test_what_is_passed_has_its_effect_also_behind_a_client_without_it(server: Server, chain: Chain, bits: int) -> None:
    def scenario(client: Witness) -> None:
        client.ok("CREATE TEMPORARY TABLE found (id INT)")
        client.ok("INSERT INTO found VALUES (1), (2)")
        client.ok("UPDATE found SET id = 1")
        client.ok("UPDATE found SET id = 1")
        client.query("SELECT COUNT (*) FROM found")
        client.query("SELECT @@sql_mode LIKE '%IGNORE_SPACE%'")

    with Raw(chain.pooler, database="test") as other:
        for _ in range(2):
            same(server, chain.pooler, scenario, database="test", add=bits)
            assert other.get("SELECT @@sql_mode LIKE '%IGNORE_SPACE%'") == b"0"


def test_capabilities_that_were_not_offered_do_not_count(chain: Chain) -> None:
    everything = (1 << 64) - 1
    with _logged_in(chain.pooler, everything & ~c.CLIENT_COMPRESS & ~c.CLIENT_SSL, attributes=True) as sock:
        sock.sendall(frame(b"\x03SELECT 'with all bits set'"))
        assert b"with all bits set" in sock.recv(4096)
    backends = chain.inside.sent
    assert all(not caps & MASKED for caps in backends), sorted(map(hex, set(backends)))


@pytest.mark.parametrize("plugin_auth", [True, False])
def test_connect_attributes_that_are_announced_and_not_sent_are_none(chain: Chain, plugin_auth: bool) -> None:
    caps = CAPABILITIES | c.CLIENT_CONNECT_ATTRS
    caps &= ~(0 if plugin_auth else c.CLIENT_PLUGIN_AUTH)
    with _logged_in(chain.pooler, caps, attributes=False) as sock:
        sock.sendall(frame(b"\x03SELECT 'no attributes'"))
        assert b"no attributes" in sock.recv(4096)


def _logged_in(target: Proxy, capabilities: int, *, attributes: bool) -> socket.socket:
    """A connection whose handshake response has these bits, parsed as the server does: only what was offered counts."""
    sock = socket.create_connection((target.host, target.port), timeout=10)
    reader = PacketReader(strict=False)

    def packet() -> bytes:
        while (found := reader.next_packet()) is None:
            reader.feed(sock.recv(4096))
        return found

    greeting = Greeting.parse(packet())
    counted = capabilities & greeting.capabilities
    parts = HandshakeResponse(
        counted,
        45,
        b"nopass",
        b"",
        database=b"test" if counted & c.CLIENT_CONNECT_WITH_DB else None,
        plugin=c.NATIVE_PASSWORD,
        attributes={b"program_name": b"test"} if attributes else {},
    ).encode()
    if not attributes:
        parts = parts.removesuffix(b"\0")  # the length of the block, which is missing too
    sock.sendall(frame((capabilities & 0xFFFFFFFF).to_bytes(4, "little") + parts[4:], 1))
    answer = packet()
    if answer[0] == 0xFE:
        plugin, nonce = parse_auth_switch(answer)
        assert plugin == c.CACHING_SHA2_PASSWORD
        sock.sendall(frame(auth.scramble_sha2(b"", nonce), 3))
        answer = packet()
    assert answer[0] == 0x00, answer
    return sock
