"""What the programs in Python share: workers in threads, the phases, and what has been done so far."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Plan = dict[str, Any]
Act = Callable[[], object]

_PAUSE = 0.15  # seconds between two requests of a worker, on average


class Tally:
    """Counts, and writes them every second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {"statements": 0, "requests": 0, "errors": 0}
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._write_on)
        self._writer.start()

    def count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def attempt(self, act: Act) -> None:
        """One request; what it fails with is an error of the application."""
        try:
            act()
            self.count("requests")
        except Exception:
            self.count("errors")
            traceback.print_exc()

    def finish(self) -> None:
        """Write what the end is."""
        self._over.set()
        self._writer.join()

    def _write_on(self) -> None:
        over = False
        while not over:
            over = self._over.wait(1.0)
            with self._lock:
                line = json.dumps(self._counts | {"finished": over})
            print(line, flush=True)


def carry_out(plan: Plan, tally: Tally, requests: list[tuple[float, Act]], short: Act, dispose: Act) -> None:
    """The phases, until the time is over; then the pool is kept until stdin ends.

    `requests` are what there is to do and how often, `short` is one short SELECT.
    """
    end = time.monotonic() + plan["seconds"]
    weights = [weight for weight, _ in requests]
    acts = [act for _, act in requests]

    def serve(until: float) -> None:
        while time.monotonic() < until:
            tally.attempt(random.choices(acts, weights)[0])
            time.sleep(min(random.expovariate(1.0 / _PAUSE), 1.0))

    # As many threads as connections: with Django each has a connection of its own.
    with ThreadPoolExecutor(plan["connections"]) as threads:
        while time.monotonic() < end:
            for phase in plan["phases"]:
                until = min(end, time.monotonic() + phase["seconds"])
                match phase["do"]:
                    case "burst":
                        barrier = threading.Barrier(plan["connections"])
                        arguments = [(barrier, tally, short)] * plan["connections"]
                        list(threads.map(lambda each: _at_once(*each), arguments))
                    case "work":
                        list(threads.map(serve, [until] * plan["workers"]))
                    case _:
                        time.sleep(max(0.0, until - time.monotonic()))
        tally.finish()
        sys.stdin.read()
    dispose()


def _at_once(barrier: threading.Barrier, tally: Tally, act: Act) -> None:
    barrier.wait()
    tally.attempt(act)
