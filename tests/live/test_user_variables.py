"""A user variable that was carried to another connection is the one that was set: value, type, charset, column."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Proxy
from tests.live.raw import Raw
from tests.servers import Server

CONSTANTS = (
    "NULL",
    "0",
    "-7",
    "9223372036854775807",
    "18446744073709551615",
    "2.50",
    "-0.000",
    "1e3",
    "1.5E-7",
    "''",
    "'a b c'",
    "5",
    "1.25",
    "TRUE",
    "false",
)
CHARSETS = ("utf8mb4", "utf8mb4 COLLATE utf8mb4_bin", "latin1", "utf8mb3")
ASK = (
    "SELECT @x",
    "SELECT @x, CHARSET(@x), COLLATION(@x), COERCIBILITY(@x), @x + 1, CONCAT(@x, 'é'), LENGTH(@x), HEX(@x)",
    "SELECT @x = 'A B C', @x IS NULL, @x <=> '', @never",
)


def asked(client: Raw, between: Callable[[], None]) -> list[object]:
    found: list[object] = []
    for sql in ASK:
        between()
        answer = client.query(sql)
        found.append((answer.columns, answer.rows, answer.warnings, answer.error))
        between()
        answer = client.execute(client.prepare(sql))
        found.append((answer.columns, answer.rows, answer.warnings, answer.error))
    return found


@pytest.mark.parametrize("charset", CHARSETS)
def test_what_is_carried_is_what_was_set(server: Server, shared_proxy: Callable[..., Proxy], charset: str) -> None:
    pooler = shared_proxy(server, max_connections=1)
    with Raw(server) as direct, Raw(pooler) as client, Raw(pooler) as other, Raw(pooler) as third:
        other.ok("SET @x = 'of another one', @y = 3")

        def moved() -> None:
            """The connection has been others', with and without variables of their own."""
            assert other.get("SELECT @x") == b"of another one"
            assert third.get("SELECT @x") is None

        for each in (direct, client):
            each.ok(f"SET NAMES {charset}")
        for constant in CONSTANTS:
            for each in (direct, client):
                each.ok(f"SET @x = {constant}")
            assert asked(client, moved) == asked(direct, lambda: None), constant
        assert 'mybouncer_pins_total{reason="user_variable"}' not in pooler.metrics()
        for each in (direct, client, other, third):
            each.quit()
