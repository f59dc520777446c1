"""`SET NAMES` behind a login, answered here: what the server answers, and the session is the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from proxy.wire.packets import iter_trackers, parse_err, parse_ok
from tests.conftest import Proxy
from tests.live.raw import Raw, Target
from tests.servers import Server

CHARSETS = (
    "SELECT @@character_set_client, @@character_set_connection, @@character_set_results, @@collation_connection, "
    "COLLATION('a'), DATABASE(), @@autocommit"
)


def said(target: Target, text: str, *, session_track: bool) -> tuple[object, object, list[object]]:
    """What answers the first statement of a session, its trackers (in no order), and what the session is then."""
    with Raw(target, database="test", session_track=session_track) as client:
        client.send_query(text)
        client.expect_answer()
        answer = client.read_packet()
        (row,) = client.ok(CHARSETS).rows
        client.quit()
        if answer[0] == 0xFF:
            return parse_err(answer), None, row
        ok = parse_ok(answer)
        return ok._replace(trackers=b""), sorted(iter_trackers(ok.trackers)), row


@pytest.mark.parametrize("session_track", [True, False], ids=["trackers", "no trackers"])
@pytest.mark.parametrize(
    "text",
    [
        "SET NAMES utf8mb4",
        "set names 'latin1'",
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
        "SET NAMES utf8",  # gives a warning on MySQL
        "SET NAMES nosuch",
        "SET NAMES DEFAULT",
    ],
)
def test_every_session_is_told_what_the_server_would_tell_it(
    server: Server, shared_proxy: Callable[..., Proxy], text: str, session_track: bool
):
    pooler = shared_proxy(server, max_connections=1)
    expected = said(server, text, session_track=session_track)
    for turn in range(3):
        assert said(pooler, text, session_track=session_track) == expected, turn


def test_the_server_is_asked_once(server: Server, proxy: Callable[..., Proxy]):
    pooler = proxy(server, max_connections=1)

    with contextlib.closing(server.admin()) as admin:

        def times() -> int:
            with admin.cursor() as cursor:
                cursor.execute("SHOW GLOBAL STATUS LIKE 'Com_set_option'")
                return int(cursor.fetchone()[1])

        said(pooler, "SET NAMES latin1", session_track=True)
        before = times()
        for _ in range(5):
            said(pooler, "SET NAMES latin1", session_track=True)
        assert times() == before
