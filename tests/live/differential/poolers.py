"""The poolers of a stage: one with a slot, one with two, each a process; as they are, or with a planted leak."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import Proxy
from tests.servers import Server, free_port

# Whoever has to wait has made the rule of `model` wrong: say so soon. Logins shall not need a slot.
_SETTINGS = {
    "QUEUE__TIMEOUT": "2s",
    "AUTH__CACHE_TTL": "1h",
    "LISTEN__DRAIN_TIMEOUT": "0s",
    "CONSOLE__SOCKET": "off",
    "SESSION__PIN_LOG": os.environ.get("DIFF_PIN_LOG", "false"),
}


@contextlib.contextmanager
def poolers(
    server: Server, directory: Path, plant: str | None = None, slots: tuple[int, ...] = (1, 2)
) -> Iterator[dict[int, Proxy]]:
    """Started, by their number of slots."""
    with contextlib.ExitStack() as stack:
        running = {}
        for count in slots:
            running[count] = _start(server, directory, count, plant)
            stack.callback(running[count].finish)
        for one in running.values():
            one.wait_ready()
        yield running


def _start(server: Server, directory: Path, slots: int, plant: str | None) -> Proxy:
    port, http_port = free_port(), free_port()
    module = ["-m", "proxy"] if plant is None else ["-m", "tests.live.differential.planted", plant]
    argv = [sys.executable, *module, "serve", "--backend", server.url, "--listen", f"127.0.0.1:{port}"]
    argv += ["--http", f"127.0.0.1:{http_port}", "--max-connections", str(slots)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MYBOUNCER_")}
    environment |= {f"MYBOUNCER_{name}": value for name, value in _SETTINGS.items()}
    return Proxy(argv, environment, port, http_port, directory / f"pooler-{slots}-{plant or 'as-it-is'}.log")
