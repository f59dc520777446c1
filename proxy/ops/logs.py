"""What the pooler says on stderr: a line per event, `key=value` (logfmt) or JSON, ISO timestamps in UTC.

Law: a log line names an event and what it concerns; never a password, a hash, or (unless `log.sql` says so) the data
in a statement.
Keys that could hold a secret are blanked here as a last line of defence. Where clients decide how often
something happens, use `Limiter`: fewer and fewer lines per key, and a count of those left out, so that
logging never becomes the load, and a day of the same fits on a screen.
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
            _plain_values,
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


def _plain_values(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Clients name themselves: what a terminal obeys is shown and not done."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in value)
    return event


class Limiter:
    """For each key a line, then one at growing intervals; each says how many were left out before it.

    An interval is twice the one before, from `interval` to `LONGEST` seconds, so that a day of the same is some twenty
    lines; what has not happened for `FORGIVEN` seconds starts over. Keys are forgotten oldest first beyond `MAX_KEYS`,
    so that a key made from a client's address cannot fill memory.
    """

    MAX_KEYS = 1000
    LONGEST = 4 * 3600.0
    FORGIVEN = 3600.0

    def __init__(self, interval: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._keys: dict[str, _Repeats] = {}  # the one whose line is oldest first

    def __call__(self, logger: Logger, key: str, event: str, *, level: str = "warning", **values: Any) -> bool:
        """Log `event` if it is time for a line with this key; whether it was logged.

        A value may be a function that makes it, for what costs more than a line that is left out should.
        """
        now = self._clock()
        repeats = self._keys.get(key)
        if repeats is None or now - repeats.happened >= self.FORGIVEN:
            suppressed = 0 if repeats is None else repeats.suppressed
            repeats = _Repeats(self._interval)
        elif now - repeats.written >= repeats.interval:
            suppressed = repeats.suppressed
            repeats.interval = min(2 * repeats.interval, self.LONGEST)
        else:
            repeats.suppressed += 1
            repeats.happened = now
            return False
        repeats.suppressed = 0
        repeats.written = repeats.happened = now
        self._keys.pop(key, None)
        self._keys[key] = repeats
        if len(self._keys) > self.MAX_KEYS:
            del self._keys[next(iter(self._keys))]
        values = {name: value() if callable(value) else value for name, value in values.items()}
        if suppressed:
            values["suppressed"] = suppressed
        getattr(logger, level)(event, **values)
        return True


class _Repeats:
    """One key: when its event happened last, when it was written, from when on it will be again, how many were not."""

    __slots__ = ("happened", "interval", "suppressed", "written")

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.happened = self.written = 0.0
        self.suppressed = 0
