"""Clients that do not take what is written to them.

There are two kinds: those that were closed while they had not read everything (the transport waits for them), and those
whose result is held back at the server. Neither is waited for any longer than servers do: `net_write_timeout` without
one byte of progress. We have to look ourselves: while we do not read from the server, it cannot tell us that it has
given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import Client
    from .profile import Profile


class Unread:
    """What each of them has not taken yet, and since when that has not changed."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._clients: dict[Client, tuple[int, float]] = {}

    def add(self, client: Client) -> None:
        """From now on it is looked at, if there is anything to read."""
        size = client.transport.get_write_buffer_size()
        if size:
            self._clients.setdefault(client, (size, client.relay.clock()))

    def discard(self, client: Client) -> None:
        """Its connection has ended."""
        self._clients.pop(client, None)

    def __len__(self) -> int:
        return len(self._clients)

    def look(self, now: float) -> None:
        """End those who have taken nothing for too long; forget those who can take their time again."""
        for client, (before, since) in list(self._clients.items()):
            size = client.transport.get_write_buffer_size()
            if not size or not (client.closed or _held_back(client)):
                del self._clients[client]
            elif size != before:
                self._clients[client] = (size, now)
            elif now - since > self._profile.timeout(b"net_write_timeout", client.settings):
                del self._clients[client]
                client.cut("net_write_timeout")


def _held_back(client: Client) -> bool:
    return client.backend is not None and client.backend.reading_paused
