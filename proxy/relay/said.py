"""What a client's statement is called where people read it: its digest, or with `log.sql = "full"` its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.session.digest import as_line, digest
from proxy.session.verdict import CREDENTIALS

from .prepared import Prepared

if TYPE_CHECKING:
    from .client import Client

_HEAD = 5  # bytes before the text in a packet
_LARGE = 1024  # bytes of a text that is still arriving which are looked at


def last_text(client: Client) -> bytes:
    """The text of the statement that was sent last, or is arriving now; its beginning, if it is long."""
    if client.large is not None:
        return bytes(client.large[_HEAD:_LARGE])
    last = client.said
    return last.text if isinstance(last, Prepared) else last[_HEAD:]


def last_digest(client: Client) -> str:
    """That statement without its data."""
    return digest(last_text(client), client.lex_mode())


def shown(client: Client) -> str:
    """The same as logs and holders show it."""
    return _shown(client, last_text(client))


def shown_now(client: Client) -> str:
    """The same of the statement that is being run, whether or not it has been sent."""
    if client.statement is not None:
        return _shown(client, client.statement.text)
    return _shown(client, client.packet[_HEAD:] or last_text(client))


def _shown(client: Client, text: bytes) -> str:
    """A statement about passwords never shows its text."""
    if client.relay.config.log.sql == "full" and not client.verdict.flags & CREDENTIALS:
        return as_line(text)
    return digest(text, client.lex_mode())
