"""What the pooler says on stderr: a line per event, `key=value` (logfmt) or JSON, ISO timestamps in UTC.

Law: a log line names an event and what it concerns; never a password, a hash, or the text of a statement.
Keys that could hold a secret are blanked here as a last line of defence. Where clients decide how often
something happens, use `Limiter`: a line per key per interval, and a count of those left out, so that
logging never becomes the load.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import structlog
from structlog.typing import EventDict, Processor

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_SECRET = ("password", "passwd", "secret", "token", "auth_response", "authdata", "hash", "nonce", "scramble")


class Logger(Protocol):
    """What `get_logger()` gives: an event and key=value pairs, by level."""

    def debug(self, event: str, **values: Any) -> Any:
        """For finding a fault."""

    def info(self, event: str, **values: Any) -> Any:
        """Something an operator wants in the history."""

    def warning(self, event: str, **values: Any) -> Any:
        """Something an operator should look at."""

    def error(self, event: str, **values: Any) -> Any:
        """Something that failed for somebody."""


def configure(level: str = "info", fmt: str = "logfmt", stream: TextIO | None = None) -> None:
    """Set up structlog for the process: `level` and `fmt` as in `[log]`, to `stream` (stderr)."""
    renderer: Processor = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    if fmt == "logfmt":
        renderer = structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _blank_secrets,
            structlog.processors.format_exc_info,
            _plain_keys,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=stream if stream is not None else sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger(**values: Any) -> Logger:
    """A logger whose lines all carry `values`."""
    logger: Logger = structlog.get_logger(**values)
    return logger


def _blank_secrets(_logger: object, _method: str, event: EventDict) -> EventDict:
    for key in event:
        if any(word in key.lower() for word in _SECRET):
            event[key] = "***"
    return event


def _plain_keys(_logger: object, _method: str, event: EventDict) -> EventDict:
    """logfmt refuses keys with spaces; a log call must not raise."""
    return {key.replace(" ", "_").replace("=", "_") or "_": value for key, value in event.items()}


class Limiter:
    """At most one line per key and interval; the next line says how many were left out.

    Keys are forgotten oldest first beyond `MAX_KEYS`, so that a key made from a client's address cannot
    fill memory.
    """

    MAX_KEYS = 1000

    def __init__(self, interval: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        # key → [when the last line was written, lines left out since], oldest line first
        self._keys: dict[str, list[float]] = {}

    def __call__(self, logger: Logger, key: str, event: str, *, level: str = "warning", **values: Any) -> bool:
        """Log `event` unless a line with this key was written in the last interval; whether it was logged."""
        now = self._clock()
        last = self._keys.get(key)
        if last is not None and now - last[0] < self._interval:
            last[1] += 1
            return False
        suppressed = int(self._keys.pop(key)[1]) if last is not None else 0
        self._keys[key] = [now, 0]
        if len(self._keys) > self.MAX_KEYS:
            del self._keys[next(iter(self._keys))]
        if suppressed:
            values["suppressed"] = suppressed
        getattr(logger, level)(event, **values)
        return True
