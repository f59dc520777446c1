"""What an operator can do. Each returns, in words, what was done; what cannot be done is a ConsoleError."""

from __future__ import annotations

import asyncio
import re

from proxy.pool.budget import CLOSING, IDLE
from proxy.relay.backend import Backend
from proxy.wire.packets import Err

from .client import find_client, parse_id
from .values import ConsoleError, Context

_LOOK_AGAIN = 0.02
_SETTING = re.compile(r"(?P<key>[^=\s]+|users\.\"[^\"]*\"\.\w+)\s*=\s*(?P<value>.*)", re.DOTALL)


async def pause(context: Context, _: str) -> str:
    """Give out no connection, close all as they come back, wait for the last."""
    relay = context.relay
    relay.registry.pause(relay.backends)
    limit = relay.config.listen.drain_timeout
    deadline = relay.clock() + limit
    # It looks again instead of being told: who is told of every release is on everybody's way.
    while relay.registry.budget.in_use and relay.clock() < deadline and relay.registry.paused:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_AGAIN)
    if not relay.registry.paused:
        return "resumed meanwhile"
    left = relay.registry.budget.in_use
    if left:
        return f"paused; {_many(left)} still in use after {limit:g} s (listen.drain_timeout): SHOW BACKENDS"
    return "paused: no connection to the server is open; clients wait, at most queue.timeout, until RESUME"


async def resume(context: Context, _: str) -> str:
    """The end of PAUSE."""
    registry = context.relay.registry
    if not registry.paused:
        return "not paused"
    registry.resume()
    context.relay.watch_queue()
    return f"resumed; {len(registry.queue)} waiting"


async def reconnect(context: Context, _: str) -> str:
    """Replace every connection to the server."""
    relay = context.relay
    total = len(relay.backends)
    idle = relay.registry.budget.counts[IDLE]
    relay.registry.replace(relay.backends, "reconnect")
    return f"{_many(idle)} closed, {total - idle} as soon as they come back"


async def drain(context: Context, _: str) -> str:
    """As SIGTERM."""
    context.stop(False)
    limit = context.relay.config.listen.drain_timeout
    return f"draining {len(context.relay.clients)} clients, for {limit:g} s at most; then it ends"


async def shutdown(context: Context, _: str) -> str:
    """As a second SIGTERM."""
    context.stop(True)
    return f"ending now, with {len(context.relay.clients)} clients"


async def kill_client(context: Context, argument: str) -> str:
    """End a client's connection, and what it runs."""
    victim = find_client(context.relay, argument)
    error = await context.relay.control.end_client(victim)
    if error is not None:
        return f"client {argument} is gone, but what it ran may still run: {_words(error)}"
    return f"client {argument} ({victim.user} from {victim.address}) is gone"


async def kill_backend(context: Context, argument: str) -> str:
    """End a connection to the server."""
    relay = context.relay
    ident = parse_id(argument)
    backend = next((one for one in relay.backends if one.thread_id == ident and not one.lost), None)
    if backend is None:
        raise ConsoleError(
            f"there is no backend {argument}: SHOW BACKENDS lists them, their ids in its column id", 1094
        )
    if backend.slot == CLOSING:
        raise ConsoleError(f"backend {argument} is being closed already ({backend.close_reason})")
    return await _kill(context, backend)


async def _kill(context: Context, backend: Backend) -> str:
    if backend.slot == IDLE:
        context.relay.registry.replace([backend], "killed")
        return f"backend {backend.thread_id} is closed; nobody had it"
    client = backend.client
    whose = "nobody had it" if client is None else f"client {client.ident} ({client.user}) had it"
    error = await context.relay.control.end_backend(backend)
    if error is not None:
        raise ConsoleError(f"backend {backend.thread_id} could not be killed: {_words(error)}")
    return f"backend {backend.thread_id} is killed; {whose}"


async def set_key(context: Context, argument: str) -> str:
    """Change a key of the configuration."""
    match = _SETTING.fullmatch(argument.strip())
    if match is None:
        raise ConsoleError(
            f"SET <key> = <value>, for example SET queue.timeout = '10s'; not {argument!r}", 1064, "42000"
        )
    return context.live.set(match["key"], unquoted(match["value"].strip()))


def unquoted(text: str) -> str:
    """Without the quotes around it, if there are."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"`" else text


def _many(number: int) -> str:
    return f"{number} connection{'' if number == 1 else 's'}"


def _words(error: Err) -> str:
    return f"{error.code} {error.message.decode('utf-8', 'replace')}"
