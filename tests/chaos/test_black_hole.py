"""A server that cannot be reached any more and does not say so: packets go out, and nothing ever comes back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from proxy.wire.framing import frame
from tests.chaos.network import Network
from tests.chaos.tags import SCHEMA, connect
from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.servers import Server, wait_until

FOUND_OUT = 15.0  # seconds

Start = Callable[..., Proxy]


@pytest.fixture
def far(network: Network, own_world: Callable[..., Server]) -> Server:
    """A server in a network of its own."""
    return own_world("mariadb", host=network.host, inside=network.inside, extra_args=("--bind-address=0.0.0.0",))


@pytest.fixture
def near(mariadb: Server) -> Iterator[Server]:
    """A server that nothing happens to."""
    mariadb.execute(*SCHEMA)
    yield mariadb
    mariadb.execute("DROP DATABASE chaos", "DROP USER chaos@'%'")


def let_sleep(server: Server, client: Raw, seconds: int) -> None:
    """The client's statement runs on the server."""
    client.send_query(f"SELECT SLEEP({seconds}) FROM one")
    running = f"SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP({seconds})%'"
    wait_until(lambda: server.execute(running)[0][0] == 1, 5.0, "it runs")


@contextlib.contextmanager
def row_is_locked(server: Server) -> Iterator[None]:
    """Somebody has inserted the row 7 and makes up his mind."""
    with contextlib.closing(server.admin(database="chaos", autocommit=False)) as holder:
        holder.query("INSERT INTO one VALUES (7)")
        yield
        holder.rollback()


def send_file(client: Raw) -> None:
    """Rows that cannot be inserted for now, and more behind them than fit on the way."""
    client.send_query("LOAD DATA LOCAL INFILE 'f' INTO TABLE one")
    client.expect_answer()
    assert client.read_packet() == b"\xfbf"
    rows = b"7\n" + b"".join(b"%d\n" % number for number in range(100, 60_000))
    pieces = [rows[at : at + 16384] for at in range(0, len(rows), 16384)]  # as clients do it: the server takes one
    client.sock.sendall(b"".join(frame(piece, seq) for seq, piece in enumerate([*pieces, b""], 2)))
    client.expect_answer(len(pieces) + 3)


def test_a_black_hole_is_found_out_and_a_server_that_is_only_busy_is_not_taken_for_one(
    far: Server, network: Network, near: Server, proxy: Start
) -> None:
    pooler = proxy(far, max_connections=3, queue__timeout_down="60s")
    hasty = proxy(far, max_connections=1, backend__connect_timeout="500ms", queue__timeout_down="500ms")
    steady = proxy(near, max_connections=3)
    running, in_transaction, idle = (connect(pooler, timeout=60.0) for _ in range(3))
    newcomer = connect(hasty)
    patient, loading, resting = (connect(steady, timeout=60.0) for _ in range(3))
    for client in (running, in_transaction, idle, resting):
        client.ok("BEGIN")
    resting.ok("COMMIT")
    idle.ok("COMMIT")
    running.ok("COMMIT")
    in_transaction.ok("INSERT INTO tags VALUES ('in a transaction')")
    let_sleep(far, running, 600)
    let_sleep(near, patient, 13)
    hasty_idle = hasty.metrics()['mybouncer_backends{state="idle"}']
    assert hasty_idle == 1
    with row_is_locked(near):
        send_file(loading)
        network.pull()
        pulled = time.monotonic()
        # An idle connection gets a statement; it may have been executed, and is not sent again.
        idle.send_query("INSERT INTO tags VALUES ('on an idle one')")
        for client in (running, in_transaction, idle):
            assert client.has_answer(FOUND_OUT - (time.monotonic() - pulled)), "it hangs"
        for client in (running, idle):
            error = client.answer().error
            assert error is not None
            assert (error.code, error.state) == (2013, b"HY000")
        assert in_transaction.at_end()
        # By now a connection has to be opened, which cannot be done.
        hasty.wait_for_metric('mybouncer_backends{state="idle"}', 0)
        begun = time.monotonic()
        refused = newcomer.query("INSERT INTO tags VALUES ('never')").error
        assert refused is not None
        assert (refused.code, refused.state) == (2003, b"HY000")
        assert time.monotonic() - begun < 5.0
        assert hasty.get("/readyz")[0] == 503
        assert steady.get("/readyz")[0] == 200, "it was asked on an idle connection"
        assert not patient.has_answer()
        assert not loading.has_answer()
    assert loading.results()[-1].affected == 59_901, "the server was only waiting for the row"
    assert patient.answer().error is None
    resting.ok("SELECT 1")
    idle.send_query("INSERT INTO tags VALUES ('afterwards')")
    network.plug()
    assert idle.answer().error is None
    wait_until(lambda: newcomer.query("SELECT 1").error is None, 10.0, "it is found again")
    for state, count in (("closing", 0), ("opening", 0), ("leased", 0)):
        pooler.wait_for_metric(f'mybouncer_backends{{state="{state}"}}', count)
    found = [tag for (tag,) in far.execute("SELECT tag FROM chaos.tags ORDER BY tag")]
    assert found in (["afterwards"], ["afterwards", "on an idle one"])
    assert pooler.metrics()['mybouncer_backend_closes_total{reason="timed_out"}'] == 3
