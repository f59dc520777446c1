"""Random sessions on a server that is simulated down to its session state: everybody sees what a session of his own
would show, in the order he asked, whoever leaves or dies in between."""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from proxy.pool.budget import LEASED
from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import build_err, build_ok, parse_err, parse_row
from tests.relay.world import IN_TRANS, App, Server, World, result, schema, text_row, trackers, variable

STEPS = 600
COMMANDS = {  # and how often
    "select": 2,
    "insert": 2,
    "warnings": 2,
    "row_count": 1,
    "insert_id": 3,
    "zone": 1,
    "set_zone": 1,
    "begin": 1,
    "commit": 1,
    "err": 1,
    "schema": 1,
    "use": 1,
    "set_a": 1,
    "get_a": 1,
    "reset": 1,
    "ping": 1,
    "execute": 2,
}


class Simulated:
    """One backend's session on the server, with one answer at a time."""

    def __init__(self, storm: Storm, server: Server) -> None:
        self.storm = storm
        self.server = server
        self.due: deque[bytes] = deque()  # commands not answered yet
        self.schema = b""
        self.pin = b"NULL"
        self.fresh()

    def fresh(self) -> None:
        self.zone = b"SYSTEM"
        self.pin = b"NULL"
        self.insert_id = 0
        self.row_count = 0
        self.warnings: list[tuple[bytes, ...]] = []
        self.transaction = False
        self.statements: dict[int, bytes] = {}

    @property
    def status(self) -> int:
        return IN_TRANS if self.transaction else c.SERVER_STATUS_AUTOCOMMIT

    def listen(self) -> None:
        for command in self.server.take():
            if command[0] == c.COM_STMT_CLOSE:
                del self.statements[int.from_bytes(command[1:5], "little")]
            else:
                self.due.append(command)

    def answer(self) -> None:
        data = self._answer(self.due.popleft())
        cut = self.storm.random.randrange(len(data) + 1) if self.storm.random.random() < 0.2 else 0
        if cut:
            self.server.transport.arrive(data[:cut])
        if data[cut:]:
            self.server.transport.arrive(data[cut:])

    def _ok(self, **fields: Any) -> bytes:
        return frame(build_ok(status=self.status, warnings=len(self.warnings), **fields), 1)

    def _rows(self, *rows: tuple[bytes, ...], columns: int = 1) -> bytes:
        found = [text_row(row) for row in rows]
        return result(columns, found, status=self.status, warnings=len(self.warnings))

    def _answer(self, command: bytes) -> bytes:
        kind, text = command[0], command[1:]
        if kind == c.COM_QUIT:
            self.server.transport.lose()
            return b""
        if kind == c.COM_RESET_CONNECTION:
            self.fresh()
            return self._ok()
        if kind == c.COM_SET_OPTION:
            self.row_count = -1
            return frame(build_ok(status=self.status, header=0xFE), 1)
        if kind == c.COM_INIT_DB:
            self.schema, self.row_count = text, 0
            return self._ok(trackers=trackers(schema(text)))
        if kind == c.COM_STMT_PREPARE:
            self.warnings = []
            ident = self.storm.serial()
            self.statements[ident] = text
            return frame(b"\0" + ident.to_bytes(4, "little") + bytes(7), 1)
        if kind == c.COM_STMT_EXECUTE:
            text = self.statements[int.from_bytes(command[1:5], "little")]
        return self._query(text)

    def _query(self, text: bytes) -> bytes:
        if text == b"SHOW WARNINGS":
            self.row_count = -1
            return self._rows(*self.warnings, columns=3)
        if text == b"SHOW WARNINGS LIMIT 0":
            self.row_count = -1
            return self._rows(columns=3)
        if text == b"SELECT ROW_COUNT()":
            return self._select(b"%d" % self.row_count)
        if text == b"SELECT LAST_INSERT_ID()":
            return self._select(b"%d" % self.insert_id)
        self.warnings = []
        if text.startswith(b"SELECT "):
            values = {b"@@time_zone": self.zone, b"@a": self.pin, b"DATABASE()": self.schema or b"NULL"}
            return self._select(values.get(text[7:], text[7:]))
        if found := re.match(rb"INSERT INTO t VALUES \((\d+)\)", text):
            self.insert_id = self.storm.serial()
            self.storm.inserted[int(found[1])] = self.insert_id
            self.row_count = self.insert_id % 5 + 1
            if self.insert_id % 2:
                self.warnings = [(b"Warning", b"1265", found[1])]
            return self._ok(affected_rows=self.row_count, last_insert_id=self.insert_id)
        self.row_count = 0
        if found := re.match(rb"SET last_insert_id=(\d+)", text):
            self.insert_id = int(found[1])
            return self._ok()
        if text in (b"BEGIN", b"COMMIT"):
            self.transaction = text == b"BEGIN"
            return self._ok()
        if found := re.search(rb"@(?:a|`a`) ?= ?(?:0 \+ )?(\d+)", text):
            self.pin = found[1]
        if text.startswith(b"ERR "):
            self.warnings = [(b"Error", b"1064", text[4:])]
            self.row_count = -1
            return frame(build_err(1064, "42000", text[4:]), 1)
        changes = b""
        if found := re.search(rb"(?<!session_track_)time_zone ?= ?(?:'(.*?)'|DEFAULT)", text):
            self.zone = found[1] or b"SYSTEM"
            changes = trackers(variable(b"time_zone", self.zone))
        assert text.startswith(
            (b"DO (", b"SET SESSION ", b"SET NAMES ", b"SET time_zone", b"SET session_track", b"SET @")
        ), text
        return self._ok(trackers=changes)

    def _select(self, value: bytes) -> bytes:
        self.warnings = []
        self.row_count = -1
        return self._rows((value,))


class Player:
    """A client, and what a session of its own would answer."""

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        self.schema = storm.random.choice([b"a", b"b"])
        self.app: App = storm.world.app(storm.random.choice([0, storm.modern]), schema=self.schema)
        self.zone, self.pin = b"SYSTEM", b"NULL"
        self.last_insert = 0
        self.warnings: list[tuple[bytes, ...]] = []
        self.row_count = 0
        self.prepared: dict[bytes, int] = {}
        self.expected: deque[tuple[bytes, Callable[[], Any]]] = deque()

    def play(self) -> None:
        """Send one to three commands at once."""
        commands = [self._command() for _ in range(self.storm.random.choice([1, 1, 1, 2, 3]))]
        self.app.transport.arrive(b"".join(frame(command) for command in commands))

    def _command(self) -> bytes:
        number = self.storm.serial()
        (choice,) = self.storm.random.choices(list(COMMANDS), list(COMMANDS.values()))
        return getattr(self, f"_{choice}")(number)

    def _expect(self, text: bytes, answer: Callable[[], Any], command: int = c.COM_QUERY) -> bytes:
        self.expected.append((text, answer))
        return bytes((command,)) + text

    def _plain(self, text: bytes, value: Callable[[], Any], row_count: int = -1) -> bytes:
        def answer() -> Any:
            self.warnings, self.row_count = [], row_count
            return value()

        return self._expect(text, answer)

    def _select(self, n: int) -> bytes:
        return self._plain(b"SELECT %d" % n, lambda: b"%d" % n)

    def _insert(self, n: int) -> bytes:
        def answer() -> None:
            ident = self.storm.inserted[n]
            self.last_insert = ident
            self.row_count = ident % 5 + 1
            self.warnings = [(b"Warning", b"1265", b"%d" % n)] if ident % 2 else []

        return self._expect(b"INSERT INTO t VALUES (%d)" % n, answer)

    def _warnings(self, n: int) -> bytes:
        def answer() -> list[tuple[bytes, ...]]:
            self.row_count = -1
            return list(self.warnings)

        return self._expect(b"SHOW WARNINGS", answer)

    def _row_count(self, n: int) -> bytes:
        def answer() -> bytes:
            count, self.row_count, self.warnings = self.row_count, -1, []
            return b"%d" % count

        return self._expect(b"SELECT ROW_COUNT()", answer)

    def _insert_id(self, n: int) -> bytes:
        return self._plain(b"SELECT LAST_INSERT_ID()", lambda: b"%d" % self.last_insert)

    def _zone(self, n: int) -> bytes:
        return self._plain(b"SELECT @@time_zone", lambda: self.zone)

    def _set_zone(self, n: int) -> bytes:
        zone = b"+0%d:00" % (n % 3)

        def answer() -> None:
            self.zone = zone

        return self._plain(b"SET time_zone = '%s'" % zone, answer, 0)

    def _begin(self, n: int) -> bytes:
        return self._plain(b"BEGIN", lambda: None, 0)

    def _commit(self, n: int) -> bytes:
        return self._plain(b"COMMIT", lambda: None, 0)

    def _err(self, n: int) -> bytes:
        def answer() -> int:
            self.warnings, self.row_count = [(b"Error", b"1064", b"%d" % n)], -1
            return 1064

        return self._expect(b"ERR %d" % n, answer)

    def _schema(self, n: int) -> bytes:
        return self._plain(b"SELECT DATABASE()", lambda: self.schema)

    def _use(self, n: int) -> bytes:
        name = b"ab"[n % 2 : n % 2 + 1]

        def answer() -> None:
            self.schema, self.row_count = name, 0

        return self._expect(name, answer, c.COM_INIT_DB)

    def _set_a(self, n: int) -> bytes:
        def answer() -> None:
            self.pin = b"%d" % n

        # The second is no constant, and pins.
        return self._plain((b"SET @a = %d" if n % 4 else b"SET @a = 0 + %d") % n, answer, 0)

    def _get_a(self, n: int) -> bytes:
        return self._plain(b"SELECT @a", lambda: self.pin)

    def _reset(self, n: int) -> bytes:
        def answer() -> None:
            self.zone, self.pin = b"SYSTEM", b"NULL"
            self.last_insert = self.row_count = 0
            self.warnings = []
            self.prepared = {}

        return self._expect(b"", answer, c.COM_RESET_CONNECTION)

    def _ping(self, n: int) -> bytes:
        return self._expect(b"", lambda: None, c.COM_PING)

    def _execute(self, n: int) -> bytes:
        """Prepare it if there is room for one more, else execute one of those there are."""
        if self.expected or self.app.client.busy:
            return self._ping(n)
        if len(self.prepared) < 2 or n % 4 == 0:
            text = b"SELECT %d" % n

            def answer() -> int:
                self.warnings = []
                return self.prepared.setdefault(text, n)

            return self._expect(text, lambda: ("id", answer()), c.COM_STMT_PREPARE)
        text = self.storm.random.choice(list(self.prepared))
        body = self.prepared[text].to_bytes(4, "little") + bytes((0, 1, 0, 0, 0))
        self._plain(text, lambda: text[7:])
        return bytes((c.COM_STMT_EXECUTE,)) + body


class Storm:
    """All of them, and what happens next."""

    modern = c.CLIENT_DEPRECATE_EOF | c.CLIENT_SESSION_TRACK

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.inserted: dict[int, int] = {}
        self.simulated: list[Simulated] = []
        self.players: list[Player] = []
        self.answered = self.refused = 0
        self._serial = 0

    def serial(self) -> int:
        self._serial += 1
        return self._serial

    def step(self, *, deaths: bool) -> None:
        dice = self.random.random()
        if len(self.players) < 4:
            self.players.append(Player(self))
        player = self.random.choice(self.players)
        if dice < 0.45:
            if not player.expected and not player.app.closed:
                player.play()
        elif dice < 0.97 or not deaths:
            busy = [server for server in self.simulated if server.due and not server.server.transport.lost]
            if busy:
                self.random.choice(busy).answer()
        elif dice < 0.985:
            if not player.app.closed:
                player.app.transport.lose()
        else:
            alive = [server for server in self.simulated if not server.server.transport.lost]
            if alive:
                self.random.choice(alive).server.transport.lose()
        self.world.spin()
        self.look()

    def look(self) -> None:
        for server in self.world.servers[len(self.simulated) :]:
            self.simulated.append(Simulated(self, server))
        for simulated in self.simulated:
            if not simulated.server.transport.lost:
                simulated.listen()
                if simulated.server.transport.aborted:
                    simulated.server.transport.lose()
        for player in list(self.players):
            self.read(player)
            if player.app.closed:
                self.players.remove(player)

    def read(self, player: Player) -> None:
        """Compare what came with what had to come."""
        payloads = deque(player.app.take())
        while payloads:
            text, expected = player.expected.popleft()
            first = payloads.popleft()
            if first[0] == 0xFF:
                code = parse_err(first).code
                if code in (c.CR_SERVER_LOST, c.ER_NOT_SUPPORTED_YET):
                    self.refused += 1
                    self.forget(player)
                    return
                got: Any = code
            elif first[0] == 0x00:
                got = None
                if len(first) == 12:
                    wanted = expected()
                    player.prepared[text] = int.from_bytes(first[1:5], "little")
                    assert wanted[0] == "id"
                    self.answered += 1
                    continue
            else:
                old = not player.app.client.deprecate_eof
                for _ in range(first[0] + old):
                    payloads.popleft()
                rows = []
                while payloads[0][0] != 0xFE:
                    rows.append(tuple(parse_row(payloads.popleft())))
                payloads.popleft()
                got = rows if first[0] == 3 else rows[0][0]
            assert got == expected(), text
            self.answered += 1

    def forget(self, player: Player) -> None:
        """After a loss nobody knows what the session would show: a client that is careful resets it, or leaves."""
        player.app.transport.lose()
        player.expected.clear()

    def settle(self) -> None:
        """Answer everything, end every session that holds a backend; then nobody may wait for anything."""
        for _ in range(10_000):
            busy = [server for server in self.simulated if server.due and not server.server.transport.lost]
            holders = [player for player in self.players if player.app.client.backend and not player.app.client.busy]
            if busy:
                busy[0].answer()
            elif holders:
                holders[0].app.transport.lose()
            else:
                break
            self.world.spin()
            self.look()
        for player in self.players:
            assert not player.expected, (player.app.client, player.expected)
        assert self.world.relay.registry.budget.counts[LEASED] == 0


@pytest.mark.parametrize("deaths", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_everybody_sees_a_session_of_his_own(make_world: Callable[..., World], seed: int, deaths: bool) -> None:
    world = make_world(cap=1 + seed % 3, mariadb=seed % 2 == 0)
    storm = Storm(world, seed)
    for _ in range(STEPS):
        storm.step(deaths=deaths)
    storm.settle()
    assert storm.answered > 50
