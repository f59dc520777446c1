"""The HTTP side, asked over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy import __version__
from proxy.address import Address
from proxy.ops import http
from proxy.ops.http import HttpServer, Ready, start_http
from proxy.ops.metrics import Snapshot
from tests.test_metrics import a_registry, exporter_of

T = TypeVar("T")
LOCAL = Address("127.0.0.1", 0)


def a_snapshot() -> Snapshot:
    return exporter_of().snapshot()


async def get(server: HttpServer, path: str, **headers: str) -> tuple[int, Any, str]:
    if server.address.unix_path is not None:
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(server.address.unix_path)
        url = f"http://localhost{path}"
    else:
        connector = aiohttp.TCPConnector()
        url = f"http://{server.address.label}{path}"
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(10)) as session,
        session.get(url, headers=headers) as response,
    ):
        return response.status, response.headers, await response.text()


def ask(
    path: str,
    ready: Ready = lambda: (True, "the server answers"),
    snapshot: Callable[[], Snapshot] = a_snapshot,
    address: Address = LOCAL,
    **headers: str,
) -> tuple[int, Any, str]:
    async def run() -> tuple[int, Any, str]:
        server = await start_http(address, snapshot, ready)
        try:
            return await get(server, path, **headers)
        finally:
            await server.stop()

    return asyncio.run(run())


def test_metrics_can_be_scraped() -> None:
    status, headers, text = ask("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"mybouncer_clients", "mybouncer_refusals_absorbed", "process_cpu_seconds"} <= families


def test_a_scraper_that_knows_openmetrics_gets_it() -> None:
    _, headers, text = ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_health_is_told_while_the_event_loop_runs() -> None:
    status, headers, text = ask("/healthz", lambda: (False, "the server is down"))
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert __version__ in text


def test_ready() -> None:
    status, _, text = ask("/readyz")
    assert (status, text) == (200, '{"ready": true, "reason": "the server answers"}')


def test_not_ready_comes_with_the_reason() -> None:
    async def ready() -> tuple[bool, str]:
        return False, "no answer from 127.0.0.1:3306"

    status, _, text = ask("/readyz", ready)
    assert (status, text) == (503, '{"ready": false, "reason": "no answer from 127.0.0.1:3306"}')


def test_a_check_that_fails_is_not_ready() -> None:
    def ready() -> tuple[bool, str]:
        raise RuntimeError("with s3cr3t in it")

    status, _, text = ask("/readyz", ready)
    assert status == 503
    assert "RuntimeError" in text and "s3cr3t" not in text


def test_a_check_that_hangs_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READY_TIMEOUT", 0.01)

    async def ready() -> tuple[bool, str]:
        await asyncio.Event().wait()
        raise AssertionError

    status, _, text = ask("/readyz", ready)
    assert status == 503 and "no answer" in text


def test_the_status_page_shows_the_main_numbers() -> None:
    registry = a_registry()
    status, headers, text = ask("/", lambda: (False, "<down>"), lambda: exporter_of(registry=registry).snapshot())
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert "4 of 10,000: 3 idle, 1 pinned" in text
    assert "0 of 10 (10 now): none" in text
    assert "no: &lt;down&gt;" in text and "<down>" not in text
    assert "<script" not in text


def test_what_does_not_exist_is_404_and_nothing_can_be_changed() -> None:
    assert ask("/nothing")[0] == 404

    async def post() -> int:
        server = await start_http(LOCAL, a_snapshot, lambda: (True, ""))
        try:
            url = f"http://{server.address.label}/metrics"
            async with aiohttp.ClientSession() as session, session.post(url) as response:
                return response.status
        finally:
            await server.stop()

    assert asyncio.run(post()) == 405


def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    assert ask("/healthz", address=Address(unix_path=str(tmp_path / "http.sock")))[0] == 200


def test_an_address_in_use_is_an_oserror_and_leaves_nothing_behind() -> None:
    async def run() -> None:
        first = await start_http(LOCAL, a_snapshot, lambda: (True, ""))
        try:
            with pytest.raises(OSError):
                await start_http(first.address, a_snapshot, lambda: (True, ""))
        finally:
            await first.stop()
        again = await start_http(first.address, a_snapshot, lambda: (True, ""))
        await again.stop()

    asyncio.run(run())


def test_stop_does_not_wait_for_an_idle_scraper() -> None:
    async def run() -> None:
        server = await start_http(LOCAL, a_snapshot, lambda: (True, ""))
        _, writer = await asyncio.open_connection(server.address.host, server.address.port)
        async with asyncio.timeout(10):
            await server.stop()
        writer.close()

    asyncio.run(run())
