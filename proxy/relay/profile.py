"""What we know of the server: its greeting, and what its first authenticated connection told us.

A fact about one server address, learned at run time and refreshed by every login; nothing here is configured. Before
the first login only the greeting is known (`learned` is False) and no client can have a session yet.
"""

from __future__ import annotations

from proxy.session.state import Settings
from proxy.wire import constants as c
from proxy.wire.packets import Greeting

from .internal import Answer
from .set_names import Outcome

_UTF8MB4 = (b"utf8mb4", b"utf8mb4_general_ci")
_UTF8MB4_ID = 45

# Variables that change by themselves: with them every OK would carry a tracker (protocol.md C.2).
_NOISE = frozenset((b"statement_id", b"gtid_executed", b"gtid_owned", b"warning_count", b"error_count", b"last_gtid"))

_TRACK = (
    b"\x03SET session_track_system_variables='%s', session_track_schema=ON, "
    b"session_track_state_change=ON, session_track_transaction_info='CHARACTERISTICS'"
)

_GLOBALS = (
    b"\x03SELECT @@global.max_connections, @@global.character_set_client, @@global.character_set_results, "
    b"@@global.collation_connection, @@global.sql_mode, @@global.init_connect, @@global.max_allowed_packet, "
    b"@@global.wait_timeout, @@global.net_read_timeout, @@global.net_write_timeout"
)
_TIMEOUTS = (b"wait_timeout", b"net_read_timeout", b"net_write_timeout")  # the last columns of that


class Profile:
    """Facts about the server. Sizes in bytes."""

    def __init__(self) -> None:
        self.greeting: Greeting | None = None
        self.learned = False
        self.max_connections = 0
        self.max_allowed_packet = 16 << 20
        self.timeouts = {b"wait_timeout": 28800.0, b"net_read_timeout": 30.0, b"net_write_timeout": 60.0}
        self.collations: dict[int, tuple[bytes, bytes]] = {}
        self._ids: dict[bytes, int] = {}
        self.default_charset = (*_UTF8MB4, b"utf8mb4")
        self.sql_mode = b""
        self.ansi_quotes = False
        self.reset_restores_all = True
        self.track_command = _TRACK % b"*"
        self.set_names: dict[bytes, Outcome] = {}  # by text

    @property
    def mariadb(self) -> bool:
        """Whether the server is MariaDB."""
        return self.greeting is not None and self.greeting.is_mariadb

    @property
    def status(self) -> int:
        """The status flags that a new session starts with."""
        return self.greeting.status if self.greeting is not None else c.SERVER_STATUS_AUTOCOMMIT

    def questions(self) -> tuple[bytes, ...]:
        """The commands that teach us the server, for one authenticated connection."""
        names = () if self.mariadb else (b"\x03SHOW SESSION VARIABLES",)
        return (_GLOBALS, b"\x03SHOW COLLATION", *names)

    def learn(self, answers: list[Answer]) -> None:
        """Take in the answers to `questions`. Raises ValueError when the server would not say."""
        for answer in answers:
            if answer.error is not None:
                raise ValueError(f"the server does not tell about itself: {answer.error}")
        self.set_names.clear()
        values = [value or b"" for value in answers[0].values()[0]]
        self.max_connections = int(values[0])
        self.default_charset = (values[1], values[3], values[2])
        self.sql_mode = values[4]
        self.ansi_quotes = b"ANSI_QUOTES" in values[4]
        # What init_connect did is not done again after COM_RESET_CONNECTION (protocol.md D.1).
        self.reset_restores_all = not values[5]
        self.max_allowed_packet = int(values[6])
        self.timeouts = {name: float(value) for name, value in zip(_TIMEOUTS, values[7:], strict=True)}
        for name, charset, ident, *_ in answers[1].values():
            if name is not None and charset is not None and ident is not None:
                self.add_collation(int(ident), charset, name)
        if len(answers) > 2:
            names = [row[0] for row in answers[2].values() if row[0] is not None]
            kept = [n for n in names if n not in _NOISE and not n.startswith(b"performance_schema")]
            self.track_command = _TRACK % b",".join(kept)
        self.learned = True

    def add_collation(self, ident: int, charset: bytes, name: bytes) -> None:
        """The server has this collation of this charset."""
        self.collations[ident] = (charset, name)
        self._ids[name] = ident

    def timeout(self, name: bytes, settings: Settings) -> float:
        """A time-out of the server, in seconds, as a session with these settings has it."""
        own = settings.value(name)
        return self.timeouts[name] if own is None else float(own)

    def charset_of(self, collation_id: int) -> tuple[bytes, bytes, bytes]:
        """Return (client, collation_connection, results) of a session that logged in with `collation_id` (A.3)."""
        known = self.collations.get(collation_id)
        if known is None:
            return self.default_charset[0], self.default_charset[1], self.default_charset[2]
        return known[0], known[1], known[0]

    def is_collation(self, name: bytes) -> bool:
        """Whether the server has a collation of this very name, which is no alias and belongs to one charset."""
        return name in self._ids

    def login_collation(self, collation: bytes) -> int:
        """Return an id for a login that comes as near to `collation` as one byte allows."""
        ident = self._ids.get(collation, _UTF8MB4_ID)
        return ident if ident < 256 else _UTF8MB4_ID
