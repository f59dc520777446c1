"""Whether everything is as it was before: slots, descriptors, tasks, memory, and what the server counts as ours."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import Proxy
from tests.servers import Server, wait_until

_IN_USE = ("leased", "opening", "resetting", "closing")
_ROOM = 32 << 20  # what Python and malloc keep for the next time


class Before:
    """A pooler while nobody is connected, as it is now; `comes_back` when it is like that again."""

    def __init__(self, proxy: Proxy, server: Server, user: str) -> None:
        self._proxy, self._server, self._user = proxy, server, user
        self._rest(10.0)
        self._descriptors = self._open_descriptors()
        self._tasks = self._metric("event_loop_tasks")
        self._memory = self._resident()

    def comes_back(self, seconds: float = 10.0) -> None:
        """Raises TimeoutError that says what has not come back."""
        self._rest(seconds)
        # A backend more or less is no leak: count the others.
        wait_until(lambda: self._open_descriptors() <= self._descriptors, seconds, "no descriptor is leaked")
        wait_until(lambda: self._metric("event_loop_tasks") <= self._tasks, seconds, "no task is leaked")
        assert self._resident() < self._memory + _ROOM, "memory is leaked"

    def _rest(self, seconds: float) -> None:
        wait_until(self._at_rest, seconds, f"nobody is connected, nothing is in use: {self._proxy!r}")
        on_server = f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{self._user}'"
        idle = self._metric('backends{state="idle"}')
        wait_until(lambda: self._server.execute(on_server)[0][0] == idle, seconds, "the server counts as many as we")

    def _at_rest(self) -> bool:
        now = self._proxy.metrics()
        clients = sum(value for name, value in now.items() if name.startswith("mybouncer_clients{"))
        in_use = sum(now[f'mybouncer_backends{{state="{state}"}}'] for state in _IN_USE)
        within = now['mybouncer_backends{state="idle"}'] <= now["mybouncer_backends_max"]
        return not clients and not in_use and not now["mybouncer_read_ahead_bytes"] and within

    def _metric(self, name: str) -> float:
        return self._proxy.metrics()[f"mybouncer_{name}"]

    def _open_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._proxy.pid}/fd")) - int(self._metric('backends{state="idle"}'))

    def _resident(self) -> int:
        pages = int(Path(f"/proc/{self._proxy.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")
