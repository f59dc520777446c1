"""Asks the console, in threads of its own, so that keys are answered while mybouncer is not.

What comes of it is put into a queue, and `tell` called: from another thread than the caller's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from proxy.ops.console.connection import Connection
from proxy.ops.console.values import ConsoleError

from .lists import Victim
from .model import Look, Record, numbers, records

FEW, MANY = 100, 2000  # waiting clients that are asked for: to show the longest waits, or to look through them
_ANSWER_WITHIN = 10.0
_KILL_WITHIN = 60.0
_AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class Lost:
    """The console does not answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """What became of a kill."""

    words: str


Event = Look | Lost | Said


class Poller:
    """Looks every `interval` seconds, on a connection that it opens again when it is lost."""

    def __init__(self, connect: Callable[[], Connection], interval: float, tell: Callable[[], None]) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.all_clients = False
        self.all_waits = False
        self._connect = connect
        self._interval = interval
        self._tell = tell
        self._ended = False
        self._now = threading.Event()
        self._connection: Connection | None = connect()  # whoever starts this is told at once that there is none
        self._version = Record({})

    def start(self) -> None:
        """Begin."""
        # Daemons: a console that does not answer does not keep anybody from leaving.
        threading.Thread(target=self._poll, name="poll", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._ended = True
        self._now.set()

    def look_now(self) -> None:
        """Do not wait for the interval to end."""
        self._now.set()

    def _put(self, event: Event) -> None:
        self.events.put(event)
        self._tell()

    def _poll(self) -> None:
        while not self._ended:
            pause = self._interval
            try:
                self._put(self._look())
            except Exception as exc:  # whatever it is: a thread that has ended shows an old screen for ever
                pause = min(self._interval, _AGAIN)
                self._drop()
                self._put(Lost(_words(exc)))
            self._now.wait(pause)
            self._now.clear()
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _look(self) -> Look:
        if self._connection is None:
            self._connection = self._connect()
            self._version = Record({})
        ask = self._connection.ask
        if not self._version.values:
            self._version = records(ask("SHOW VERSION", _ANSWER_WITHIN))[0]
        rows = {
            name: records(ask(f"SHOW {name.upper()}", _ANSWER_WITHIN))
            for name in ("backends", "holders", "accounts", "pins")
        }
        queue = records(ask(f"SHOW QUEUE LIMIT {MANY if self.all_waits else FEW}", _ANSWER_WITHIN))
        clients = records(ask("SHOW CLIENTS", _ANSWER_WITHIN)) if self.all_clients else ()
        statements = records(ask(f"SHOW STATEMENTS LIMIT {FEW}", _ANSWER_WITHIN))
        stats = numbers(ask("SHOW STATS", _ANSWER_WITHIN))
        return Look(time.monotonic(), stats, self._version, queue=queue, statements=statements, clients=clients, **rows)

    def kill(self, victim: Victim) -> None:
        """End whoever is meant, on another connection: it may take as long as the server takes for a KILL."""
        threading.Thread(target=self._kill, args=(victim,), name="kill", daemon=True).start()

    def _kill(self, victim: Victim) -> None:
        try:
            connection = self._connect()
            try:
                self._put(Said(self._end_clients(connection, victim)))
            finally:
                connection.close()
        except Exception as exc:  # it is shown, like everything that can go wrong here
            self._put(Said(f"not killed: {_words(exc)}"))
        self.look_now()

    def _end_clients(self, connection: Connection, victim: Victim) -> str:
        if victim.client is not None:
            return connection.ask(f"KILL CLIENT {victim.client}", _KILL_WITHIN).words
        meant = [one for one in records(connection.ask("SHOW CLIENTS", _ANSWER_WITHIN)) if victim.is_meant(one)]
        killed, trouble = 0, ""
        for number, one in enumerate(meant, 1):
            try:
                connection.ask(f"KILL CLIENT {one.whole('id')}", _KILL_WITHIN)
                killed += 1
            except ConsoleError as exc:  # it has left meanwhile
                trouble = f"; {exc}"
            if number % FEW == 0:
                self._put(Said(f"killed {killed} of {len(meant)} …"))
        return f"killed {killed} of {len(meant)} clients{trouble}" if meant else "they are gone already"


def _words(exc: Exception) -> str:
    if isinstance(exc, OSError):
        return exc.strerror or str(exc) or type(exc).__name__
    return str(exc) if isinstance(exc, ConsoleError) else f"{type(exc).__name__}: {exc}"
