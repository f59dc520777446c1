"""`SET NAMES` as a session's first statement, answered from what it came to in another session.

Drivers send it behind every login (PyMySQL, asyncmy, PHP). Asking the server costs a short connection three more
statements: the client's own, the restore in front of it, and `SELECT @@collation_connection` behind it.

Law:
* what is learned and what is answered is the first statement of a session, with its settings as the login made them,
  on a server whose `init_connect` is empty: then the text comes to what the server's global variables say, and is
  forgotten whenever those are read again (`Profile.learn`);
* only texts that name a charset, and perhaps a collation: no DEFAULT, no expression, no comment;
* a text that gave an error or a warning is never answered here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from proxy.wire.packets import build_ok
from proxy.wire.response import default_trackers

if TYPE_CHECKING:
    from proxy.session.state import Settings

    from .backend import Backend
    from .client import Client

_AT_MOST = 100
_LONGEST = 100  # bytes of a packet
_TEXT = re.compile(
    rb"\s*SET\s+NAMES\s+('?)(?!DEFAULT\b)[a-z0-9]+\1(\s+COLLATE\s+('?)(?!DEFAULT\b)[a-z0-9_]+\3)?\s*;?\s*\Z",
    re.IGNORECASE,
)


class Outcome(NamedTuple):
    """What a text came to: three settings, and the trackers of its OK."""

    client_charset: bytes
    results_charset: bytes
    collation: bytes
    trackers: bytes


def learn(client: Client, backend: Backend) -> None:
    """The first statement of `client` is over, and the collation behind it is known."""
    relay, settings, reader = client.relay, client.settings, backend.reader
    said = client.said  # of a long one only the beginning
    if not isinstance(said, bytes) or len(said) > _LONGEST or not _TEXT.match(said, 5):
        return
    if not relay.profile.reset_restores_all or reader.error is not None or reader.warnings or client.pins:
        return
    charsets = (settings.client_charset, settings.results_charset, settings.collation)
    if _with(client, *charsets) is not settings:
        return
    known = relay.profile.set_names
    if len(known) >= _AT_MOST:
        known.clear()
    known[said[5:]] = Outcome(*charsets, default_trackers(reader.changes))


def answered(client: Client, text: bytes) -> bool:
    """Whether this was such a text; `client` has not sent a statement to the server yet."""
    outcome = client.relay.profile.set_names.get(text)
    if outcome is None or client.settings is not client.initial_settings:  # COM_SET_OPTION asks no server
        return False
    client.settings = _with(client, *outcome[:3])
    client.reply(build_ok(status=client.status, trackers=outcome.trackers if client.session_track else b""))
    return True


def _with(client: Client, client_charset: bytes, results_charset: bytes, collation: bytes) -> Settings:
    """The client's settings after its login, but for these."""
    return client.relay.settings.replace(
        client.initial_settings,
        client_charset=client_charset,
        results_charset=results_charset,
        collation=collation,
        results_collation=collation,
    )
