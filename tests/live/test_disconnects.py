"""What is counted of connections that come and go, however they end."""

from __future__ import annotations

from collections.abc import Callable

import pymysql
import pytest

from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.servers import Server, wait_until


def test_every_connection_that_came_is_counted_when_it_has_gone(server: Server, proxy: Callable[..., Proxy]) -> None:
    pooler = proxy(server, max_connections=2, listen__max_clients=2)
    with Raw(pooler) as first, Raw(pooler, "app2", "app2-secret") as second:
        with pytest.raises(pymysql.err.OperationalError) as full:
            pymysql.connect(host=pooler.host, port=pooler.port, user="app", password="app-secret")
        assert full.value.args[0] == 1040
        assert first.change_user("app2", "app2-secret").error is None
        assert first.ok("SELECT 1")
        assert second.change_user("app", "wrong").code == 1045
    with pytest.raises(pymysql.err.OperationalError):
        pymysql.connect(host=pooler.host, port=pooler.port, user="app", password="wrong")

    def ended() -> dict[str, float]:
        name = "mybouncer_client_disconnects_total"
        return {key.removeprefix(name): value for key, value in pooler.metrics().items() if key.startswith(name)}

    wait_until(lambda: sum(ended().values()) == 4, 10, "all four have gone")
    assert pooler.metrics()["mybouncer_client_connections_total"] == 4
    assert ended() == {'{reason="refused"}': 1, '{reason="login_failed"}': 2, '{reason="client_gone"}': 1}


MALFORMED = [b"\x11app", b"\x11app\0\x14abc", b"\x11app\0\0", b"\x11app\0\0test", b"\x11app\0\x14" + b"a" * 20]


@pytest.mark.parametrize("payload", MALFORMED)
def test_a_malformed_change_of_user_is_answered_as_the_server_does(
    server: Server, shared_proxy: Callable[..., Proxy], payload: bytes
) -> None:
    pooler = shared_proxy(server, max_connections=2)
    seen = []
    for target in (server, pooler):
        with Raw(target) as client:
            error = client.command(payload)[-1].error
            try:
                goes_on = client.query("SELECT 1").error is None
            except (EOFError, ConnectionError):
                goes_on = False
            seen.append((error, goes_on))
    assert seen[0] == seen[1]
    assert seen[0][0] is not None and seen[0][0].code == 1047
