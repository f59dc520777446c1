"""Log lines: one per event, readable by people and machines, without secrets, and not too many."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog

from proxy.ops.logs import Limiter, configure, get_logger


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_line_is_time_level_event_and_pairs() -> None:
    out = io.StringIO()
    configure("info", "logfmt", out)
    get_logger(client=7).warning("session pinned", reason="temporary_table", forever=True)
    stamp, _, rest = out.getvalue().partition(" ")
    assert datetime.fromisoformat(stamp.removeprefix("timestamp=")).utcoffset() == timedelta(0)
    assert rest == 'level=warning event="session pinned" client=7 reason=temporary_table forever=true\n'


def test_json_for_collectors() -> None:
    out = io.StringIO()
    configure("info", "json", out)
    get_logger().info("started", address="[::1]:6033")
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["address"]) == ("started", "info", "[::1]:6033")


def test_the_level_holds() -> None:
    out = io.StringIO()
    configure("warning", "logfmt", out)
    get_logger().info("unimportant")
    get_logger().error("important")
    assert len(out.getvalue().splitlines()) == 1


@pytest.mark.parametrize("fmt", ["logfmt", "json"])
def test_secrets_are_blanked_and_lines_stay_lines(fmt: str) -> None:
    out = io.StringIO()
    configure("info", fmt, out)
    get_logger().info("login\nlevel=error", password="s3cr3t", auth_response=b"s3cr3t", **{"odd key=x": "a\nb"})
    assert "s3cr3t" not in out.getvalue()
    assert len(out.getvalue().splitlines()) == 1


@pytest.mark.parametrize("fmt", ["logfmt", "json"])
def test_what_clients_say_does_not_reach_the_terminal(fmt: str) -> None:
    out = io.StringIO()
    configure("info", fmt, out)
    get_logger().info("holder", who="`shop\x1b[2J\x9b` pid 7", kind="ok\u202e")
    assert out.getvalue().strip().isprintable()
    assert "shop" in out.getvalue() and "x1b[2J" in out.getvalue()


def test_a_limited_line_comes_once_per_key_and_interval_and_counts_the_rest() -> None:
    out = io.StringIO()
    configure("info", "logfmt", out)
    now = 100.0
    limited = Limiter(10.0, lambda: now)
    logger = get_logger()
    written = [limited(logger, "refused", "client refused") for _ in range(5)]
    written.append(limited(logger, "other", "something else"))
    now = 110.0
    written.append(limited(logger, "refused", "client refused"))
    assert written == [True, False, False, False, False, True, True]
    assert ["suppressed=4" in line for line in out.getvalue().splitlines()] == [False, False, True]


def test_what_goes_on_is_written_more_and_more_rarely_and_starts_over_after_a_silence() -> None:
    out = io.StringIO()
    configure("info", "logfmt", out)
    now = 0.0
    limited = Limiter(10.0, lambda: now)
    written = []
    for second in range(24 * 3600):
        now = float(second)
        if limited(get_logger(), "down", "server down"):
            written.append(second)
    assert written[:5] == [0, 10, 30, 70, 150]
    assert len(written) < 20
    assert out.getvalue().count("suppressed=") == len(written) - 1
    now += Limiter.FORGIVEN
    assert [limited(get_logger(), "down", "server down") for _ in range(2)] == [True, False]
    now += 10.0
    assert limited(get_logger(), "down", "server down")


def test_what_happens_now_and_then_is_not_written_each_time() -> None:
    configure("error", "logfmt", io.StringIO())
    now = 0.0
    limited = Limiter(10.0, lambda: now)
    lines = 0
    for minute in range(24 * 60):
        now = 60.0 * minute
        lines += limited(get_logger(), "pin", "session pinned")
    assert lines < 20


def test_a_value_that_costs_something_is_made_for_lines_that_are_written_only() -> None:
    out = io.StringIO()
    configure("info", "logfmt", out)
    limited = Limiter(10.0, lambda: 0.0)
    made = []
    for _ in range(3):
        limited(get_logger(), "key", "event", statement=lambda: made.append("x") or "made")
    assert made == ["x"]
    assert "statement=made" in out.getvalue()


def test_keys_of_a_limiter_do_not_fill_memory() -> None:
    configure("error", "logfmt", io.StringIO())
    limited = Limiter(10.0, lambda: 0.0)
    for n in range(5 * Limiter.MAX_KEYS):
        limited(get_logger(), f"client {n}", "x")
    assert len(limited._keys) == Limiter.MAX_KEYS
