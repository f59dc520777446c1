"""`mybouncer demo`: the same connection leak twice, straight at a private MariaDB and through the real pooler.

Everything it starts lives in one temporary directory and ends with it, however the demonstration ends: the story is a
coroutine, a signal cancels it, and the contexts it is in clean up.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
import tempfile
from pathlib import Path

from .leak import leak, prepare_server, wait_until_gone
from .processes import DemoError, Mariadb, Pooler, Programs, find_mariadb, mariadb, pooler
from .screen import Screen

__all__ = ["run"]

ITERATIONS = 500
SERVER_LIMIT = 20
CAP = 10
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(once: bool) -> int:
    """Show it; 0 if nothing failed through the pooler. Raises KeyboardInterrupt when the comparison was cut short."""
    try:
        programs = find_mariadb()
        _raise_descriptor_limit()
        code = asyncio.run(_until_signal(_Demo(programs, once)))
    except DemoError as error:
        print(f"mybouncer demo: {error}", file=sys.stderr)
        return 1
    if code is None:
        raise KeyboardInterrupt
    return code


async def _until_signal(demo: _Demo) -> int | None:
    """The exit code, or None if a signal came before there was one."""
    loop = asyncio.get_running_loop()
    story = asyncio.create_task(demo.run())
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:  # a second signal does not disturb the cleaning up, which takes a few seconds at most
            stopping = True
            story.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await story
    except asyncio.CancelledError:
        if demo.code is not None:
            demo.screen.farewell()
    return demo.code


class _Demo:
    """The story: two servers, the loop at each, the table, and an open door."""

    def __init__(self, programs: Programs, once: bool) -> None:
        self.programs = programs
        self.once = once
        self.screen = Screen()
        self.code: int | None = None

    async def run(self) -> None:
        """Tell it, and clean up."""
        self.screen.introduce(ITERATIONS, SERVER_LIMIT, CAP)
        async with contextlib.AsyncExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="mybouncer-", ignore_cleanup_errors=True))
            with self.screen.busy("starting a MariaDB of its own, and mybouncer in front of it"):
                server = await stack.enter_async_context(mariadb(self.programs, Path(name), SERVER_LIMIT))
                await prepare_server(server.socket)
                front = await stack.enter_async_context(pooler(server.port, Path(name), CAP))
            await self._compare(server, front)

    async def _compare(self, server: Mariadb, front: Pooler) -> None:
        with self.screen.progress("straight at MariaDB", ITERATIONS) as tell:
            direct = await leak(server.port, ITERATIONS, server.extra_port, tell)
        direct.close()
        await wait_until_gone(server.extra_port)
        with self.screen.progress("through mybouncer", ITERATIONS) as tell:
            pooled = await leak(front.port, ITERATIONS, server.extra_port, tell)
        self.screen.compare(direct, pooled, SERVER_LIMIT, CAP)
        self.code = 0 if pooled.succeeded == ITERATIONS and pooled.peak <= CAP else 1
        if not self.once:
            self.screen.invite(front.port, front.http, server.port, len(pooled.leaked))
            await _first_to_end(server, front)
        pooled.close()


async def _first_to_end(server: Mariadb, front: Pooler) -> None:
    """Serve until a signal cancels this. Raises DemoError when one of the two has ended before."""
    waits = {
        asyncio.create_task(server.process.wait()): "MariaDB",
        asyncio.create_task(front.process.wait()): "mybouncer",
    }
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    raise DemoError(f"{' and '.join(waits[wait] for wait in done)} ended unexpectedly")


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * ITERATIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
