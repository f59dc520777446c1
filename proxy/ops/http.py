"""Metrics, health and a status page over HTTP.

Law: nothing here changes anything, and nothing here names a password or the text of a statement. There is no login:
the address is private by default. `/healthz` says that the event loop runs; `/readyz` says whether a client would
be served, and why not. Numbers are copied on the event loop; turning them into text happens in a thread, so that a
scrape does not hold up clients.
"""

from __future__ import annotations

import asyncio
import html
import inspect
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy import __version__
from proxy.address import Address
from proxy.ops.metrics import Buckets, Renderer, Snapshot

Ready = Callable[[], tuple[bool, str] | Awaitable[tuple[bool, str]]]
READY_TIMEOUT = 5.0
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class HttpServer:
    """The running HTTP server; `address` is where it can be reached, also when port 0 was asked for."""

    def __init__(self, runner: web.AppRunner, address: Address) -> None:
        self._runner = runner
        self.address = address

    async def stop(self) -> None:
        """Stop listening and end running requests."""
        await self._runner.cleanup()


async def start_http(address: Address, snapshot: Callable[[], Snapshot], ready: Ready) -> HttpServer:
    """Listen on `address`; `OSError` if that cannot be done."""
    pages = _Pages(snapshot, ready)
    app = web.Application()
    app.add_routes(
        [
            web.get("/", pages.status),
            web.get("/metrics", pages.metrics),
            web.get("/healthz", pages.healthz),
            web.get("/readyz", pages.readyz),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        if address.unix_path is not None:
            await web.UnixSite(runner, address.unix_path).start()
        else:
            await web.TCPSite(runner, address.host, address.port).start()
            address = Address(address.host, runner.addresses[0][1])
    except BaseException:
        await runner.cleanup()
        raise
    return HttpServer(runner, address)


class _Pages:
    def __init__(self, snapshot: Callable[[], Snapshot], ready: Ready) -> None:
        self._snapshot = snapshot
        self._ready = ready
        self._renderer = Renderer()
        self._started = time.monotonic()

    async def metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        body, content_type = await asyncio.to_thread(self._renderer.render, self._snapshot(), accept)
        return web.Response(body=body, headers={**_HEADERS, "Content-Type": content_type})

    async def healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": __version__}, headers=_HEADERS)

    async def readyz(self, _request: web.Request) -> web.Response:
        ready, reason = await self._ask_ready()
        return web.json_response({"ready": ready, "reason": reason}, status=200 if ready else 503, headers=_HEADERS)

    async def status(self, _request: web.Request) -> web.Response:
        ready, reason = await self._ask_ready()
        page = _status_page(self._snapshot(), ready, reason, time.monotonic() - self._started)
        headers = {**_HEADERS, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def _ask_ready(self) -> tuple[bool, str]:
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                answer = self._ready()
                return await answer if inspect.isawaitable(answer) else answer
        except TimeoutError:
            return False, f"no answer within {READY_TIMEOUT:g} s"
        except Exception as error:
            return False, f"the check failed: {type(error).__name__}"


def _number(snapshot: Snapshot, name: str, *labels: str) -> float:
    """The sum of what has these labels first."""
    values = snapshot[name].items()
    return sum(value for key, value in values if key[: len(labels)] == labels and not isinstance(value, Buckets))


def _facts(snapshot: Snapshot) -> list[tuple[str, str]]:
    def n(name: str, *labels: str) -> str:
        return f"{_number(snapshot, name, *labels):,.0f}"

    def states(name: str) -> str:
        return ", ".join(f"{value:,.0f} {key[0]}" for key, value in snapshot[name].items() if value) or "none"

    return [
        ("clients", f"{n('clients')} of {n('clients_max')}: {states('clients')}"),
        (
            "connections to the server",
            f"{n('backends')} of {n('backends_max')} ({n('backends_effective_max')} now): {states('backends')}",
        ),
        (
            "waiting",
            f"{n('queue_waiting')}, the longest for {_number(snapshot, 'queue_oldest_wait_seconds'):.1f} s",
        ),
        ("given up waiting", f"{n('queue_timeouts_total')} timed out, {n('queue_rejected_total')} rejected"),
        ("refusals no client saw", n("refusals_absorbed_total")),
        ("pinned sessions", states("pinned_sessions")),
        ("statements", n("statements_total")),
        ("transactions", n("transactions_total")),
        ("errors clients saw", n("errors_total")),
        ("failed logins", n("login_failures_total")),
    ]


def _status_page(snapshot: Snapshot, ready: bool, reason: str, uptime: float) -> str:
    facts = [
        ("version", __version__),
        ("up for", _duration(uptime)),
        ("ready", "yes" if ready else f"no: {reason}"),
        *_facts(snapshot),
    ]
    rows = "\n".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in facts)
    return _PAGE.format(rows=rows)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mybouncer</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem; max-width: 48rem; color: #222; background: #fff }}
th {{ text-align: left; font-weight: normal; color: #666; padding-right: 1.5rem; vertical-align: top }}
@media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #111 }} th {{ color: #999 }} }}
</style>
<h1>mybouncer</h1>
<table>
{rows}
</table>
<p><a href="/metrics">metrics</a> <a href="/healthz">health</a> <a href="/readyz">readiness</a></p>
"""
