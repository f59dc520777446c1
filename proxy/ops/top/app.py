"""Keys, looks, signals and time come together here, and become a screen.

One thread: it waits for a key or for a socket, into which the poller and the signal handlers write.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console
from rich.text import Text

from proxy.ops.console.connection import Connection

from .controls import Action, Controls
from .lists import OVERVIEW, Item, List, lists
from .model import History, Look
from .poller import Lost, Poller
from .style import ASCII, UNICODE
from .terminal import Keys, Terminal
from .view import Scene, screen

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_REDRAW = 1.0  # seconds: a clock and the age of what is shown go on when nothing else does
_REST_OF_A_KEY = 0.1


def run(connect: Callable[[], Connection], interval: float) -> None:
    """Show it until the person leaves or a signal ends it; `connect` gives connections to the console."""
    with _wakeups() as (reading, wake):
        poller = Poller(connect, interval, wake)
        with _signals(wake) as signals, Terminal() as terminal:
            try:
                _Top(terminal, poller, interval).run(reading, signals)
            finally:
                poller.stop()


class _Top:
    """What is shown, and what it is made from."""

    def __init__(self, terminal: Terminal, poller: Poller, interval: float) -> None:
        self._terminal = terminal
        self._poller = poller
        self._interval = interval
        self._controls = Controls()
        self._history = History()
        self._keys = Keys()
        self._look: Look | None = None
        self._newest: Look | None = None
        self._lost = ""
        self._lists: list[List] = []
        self._made_for: object = None
        self._console = Console(force_terminal=True, highlight=False, markup=False, emoji=False)
        glyphs = "".join((*UNICODE.bar.values(), UNICODE.spark, UNICODE.ellipsis, UNICODE.marker))
        self._glyphs = UNICODE if terminal.can_show(glyphs) else ASCII

    def run(self, reading: socket.socket, signals: list[int]) -> None:
        """Until somebody wants the end."""
        self._poller.start()
        self._draw()
        while True:
            wait = _REST_OF_A_KEY if self._keys.unclear else _REDRAW
            ready, _, _ = select.select([self._terminal.fileno, reading.fileno()], [], [], wait)
            if reading.fileno() in ready:
                reading.recv(4096)
            if any(number in _ENDING for number in signals):
                return
            if signal.SIGTSTP in signals:
                self._suspend()
            if signal.SIGWINCH in signals:
                self._terminal.forget()
            signals.clear()
            self._take_events()
            if self._terminal.fileno in ready:
                data = self._terminal.read()
                if not data or self._press(self._keys.feed(data)):
                    return
            elif self._keys.unclear and self._press(self._keys.settle()):
                return
            self._draw()

    def _suspend(self) -> None:
        """Ctrl-Z: the shell gets its terminal, until we go on."""
        self._terminal.give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._terminal.take()

    def _take_events(self) -> None:
        while not self._poller.events.empty():
            event = self._poller.events.get()
            if isinstance(event, Look):
                self._lost = ""
                self._history.add(event)
                self._newest = event
            elif isinstance(event, Lost):
                self._lost = event.reason
            else:
                self._controls.message = event.words
        if not self._controls.paused:
            self._look = self._newest
        self._arrange()

    def _arrange(self) -> None:
        controls, look = self._controls, self._look
        if look is not None:
            made_for = (look.at, controls.page, controls.sort, controls.filter)
            if made_for != self._made_for:
                self._made_for = made_for
                self._lists = lists(look, controls.page, controls.sort, controls.filter)
        controls.settle(self._items())

    def _items(self) -> list[Item]:
        return [item for one in self._lists for item in one.items]

    def _press(self, keys: list[str]) -> bool:
        """Whether it is the end."""
        for key in keys:
            action = self._controls.press(key, self._items())
            if action is Action.QUIT:
                return True
            if action is Action.KILL and self._controls.victim is not None:
                self._controls.message = "killing …"
                self._poller.kill(self._controls.victim)
            elif action is Action.LOOK:
                self._poller.all_clients = self._controls.page == "clients"
                self._poller.all_waits = self._controls.page != OVERVIEW or bool(self._controls.filter)
                self._poller.look_now()
            self._arrange()
        return False

    def _draw(self) -> None:
        width, height = self._terminal.size
        scene = Scene(
            self._look, self._history, self._controls, self._lists, self._lost, time.monotonic(), self._interval
        )
        self._terminal.show([self._drawn(line, width) for line in screen(scene, width, height, self._glyphs)])

    def _drawn(self, line: Text, width: int) -> str:
        with self._console.capture() as captured:
            self._console.print(line, end="", width=width, no_wrap=True, crop=False, soft_wrap=True)
        return captured.get()


@contextlib.contextmanager
def _wakeups() -> Iterator[tuple[socket.socket, Callable[[], None]]]:
    """A socket to wait for, and what makes it ready: from other threads and from signal handlers."""
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)

        def wake() -> None:
            with contextlib.suppress(OSError):  # full: it is ready; closed: nobody waits any more
                writing.send(b"!")

        yield reading, wake


@contextlib.contextmanager
def _signals(wake: Callable[[], None]) -> Iterator[list[int]]:
    """The signals that have come, instead of what they do."""
    came: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        came.append(number)
        wake()

    before = {number: signal.signal(number, handle) for number in (*_ENDING, signal.SIGTSTP, signal.SIGWINCH)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
