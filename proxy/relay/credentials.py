"""What accounts are known by: the secrets that the server has accepted, in memory only.

A secret is *fresh* for `auth.cache_ttl` after the login that proved it, unless somebody may have changed passwords
since that login began; only a fresh one lets clients in. It opens connections for as long as the account has clients,
until the server refuses it. An account keeps the two newest: MySQL's accounts may have two passwords.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.pool.budget import IDLE
from proxy.wire import constants as c

from .connect import Turn

if TYPE_CHECKING:
    from proxy.pool.pool import Account
    from proxy.wire.auth import Secret
    from proxy.wire.packets import Err

    from .relay import Relay

_AT_MOST = 2

# The server has said that an account is not what it was: its clients are to hear that from the server, too.
_CHANGED = frozenset(
    (
        *Turn.DENIED,
        c.ER_MUST_CHANGE_PASSWORD,
        c.ER_MUST_CHANGE_PASSWORD_LOGIN,
        c.ER_ACCOUNT_LOCKED,
        c.MARIADB_ER_ACCOUNT_LOCKED,
        c.ER_SECURE_TRANSPORT_REQUIRED,
    )
)


class Known:
    """A secret that the server has accepted, in a login that began at `proven_at`."""

    __slots__ = ("proven_at", "secret", "turn")

    def __init__(self, secret: Secret, proven_at: float) -> None:
        self.secret = secret
        self.proven_at = proven_at
        self.turn = Turn()

    def __repr__(self) -> str:
        return f"<Known proven_at={self.proven_at:.0f}>"


class Credentials:
    """Of all accounts of one server, by the name that they log in with."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._known: dict[bytes, tuple[Known, ...]] = {}  # newest first
        self._doubted_at = float("-inf")

    def __len__(self) -> int:
        return len(self._known)

    def proven(self, user: bytes, plugin: bytes, answer: bytes, nonce: bytes) -> Secret | None:
        """The fresh secret that a client's answer was made with."""
        fresh = self._fresh(user)
        return next((known.secret for known in fresh if known.secret.answers(plugin, answer, nonce)), None)

    def is_proven(self, user: bytes, secret: Secret) -> bool:
        """Whether the server accepted this secret not long ago."""
        return any(known.secret.same(secret) for known in self._fresh(user))

    def accepted_before(self, user: bytes, secret: Secret) -> bool:
        """Whether the server has accepted this secret, be it long ago."""
        return any(known.secret.same(secret) for known in self._known.get(user, ()))

    def _fresh(self, user: bytes) -> list[Known]:
        since = self._relay.clock() - self._relay.config.auth.cache_ttl
        return [
            known
            for known in self._known.get(user, ())
            if known.proven_at >= since and known.proven_at > self._doubted_at
        ]

    def opener(self, user: bytes) -> Known | None:
        """What opens connections of an account."""
        known = self._known.get(user)
        return known[0] if known else None

    def remember(self, user: bytes, secret: Secret, since: float) -> None:
        """The server has accepted this secret, in a login that began at `since`."""
        others = [known for known in self._known.get(user, ()) if not known.secret.same(secret)]
        self._known[user] = (Known(secret, since), *others[: _AT_MOST - 1])

    def refused(self, user: bytes, secret: Secret, err: Err) -> None:
        """The server has refused a login."""
        if err.code in Turn.DENIED:
            others = tuple(known for known in self._known.get(user, ()) if not known.secret.same(secret))
            if others:
                self._known[user] = others
            else:
                self._known.pop(user, None)
        elif err.code in _CHANGED:
            for known in self._known.get(user, ()):
                known.proven_at = float("-inf")

    def doubt_all(self) -> None:
        """Somebody may have changed a password: every login is proven again."""
        self._doubted_at = self._relay.clock()

    def forget_expired(self) -> None:
        """Let go of secrets that nobody has needed for `auth.cache_ttl`."""
        since = self._relay.clock() - self._relay.config.auth.cache_ttl
        accounts = self._relay.registry.accounts
        for user, known in list(self._known.items()):
            if known[0].proven_at < since and not _needed(accounts.get(user.decode("utf-8", "surrogateescape"))):
                del self._known[user]


def _needed(account: Account | None) -> bool:
    """Whether an account has clients, or connections whose end may have to be made sure of."""
    return account is not None and bool(account.clients or account.waiters or account.slots > account.counts[IDLE])
