"""TCP connections to a host that may be a name.

A lookup cannot be cancelled. While a name server does not answer, the loop's own lookup would keep the process from
ending, and write each failure that nobody waits for any more to stderr. So each has a thread that nobody waits for, and
an answer that comes too late goes nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import TypeVar

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


async def open_tcp(factory: Callable[[], _P], host: str, port: int) -> tuple[asyncio.Transport, _P]:
    """Like the loop's `create_connection`: to the first address of the host that can be reached.

    Raises OSError: why there is no address, or why the last one could not be reached.
    """
    loop = asyncio.get_running_loop()
    *others, last = await _addresses(loop, host)
    for address in others:
        with contextlib.suppress(OSError):
            return await loop.create_connection(factory, address, port)
    return await loop.create_connection(factory, last, port)


async def _addresses(loop: asyncio.AbstractEventLoop, host: str) -> list[str]:
    """At least one."""
    with contextlib.suppress(ValueError):
        return [str(ip_address(host))]
    answer: asyncio.Future[list[str]] = loop.create_future()

    def tell(found: list[str] | OSError) -> None:
        if answer.done():
            return
        if isinstance(found, OSError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def look() -> None:
        found = _look_up(host)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=look, name=f"lookup of {host}", daemon=True).start()
    return await answer


def _look_up(host: str) -> list[str] | OSError:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        return exc
    except UnicodeError as exc:
        return OSError(f"{host!r} cannot be the name of a host: {exc}")
    return [str(address[0]) for *_, address in found]
