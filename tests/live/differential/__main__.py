"""Plays examples until told otherwise: `python -m tests.live.differential --server mariadb --seed 7 --examples 1`.

    --server mariadb|mysql|both    which
    --seed N                       the first seed; the others count on from there
    --examples N, --statements N   how many of either (default: until there is a difference)
    --script FILE                  play a script (- is standard input) instead
    --length N                     steps of an example
    --keep-going                   report differences and go on
    --plant NAME                   with a planted leak (see `leaks`)

It starts servers and poolers of its own. The exit code is 1 if there was a difference.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from tests import servers

from .check import LENGTH, Failure, check
from .play import Stage
from .poolers import poolers
from .steps import from_text
from .world import World


def main() -> int:
    """Parse, play, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.live.differential", description=__doc__)
    parser.add_argument("--server", choices=(*servers.FLAVOURS, "both"), default="both")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=0)
    parser.add_argument("--statements", type=int, default=0)
    parser.add_argument("--script")
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("--plant")
    options = parser.parse_args()
    flavours = servers.FLAVOURS if options.server == "both" else (options.server,)
    return max([_on(flavour, options) for flavour in flavours])


def _on(flavour: str, options: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mb-differential-")))
        server = servers.start_server(flavour, max_connections=200)
        stack.callback(server.remove)
        world = stack.enter_context(World(server))
        stage = Stage(world, stack.enter_context(poolers(server, directory, options.plant)))
        if options.script:
            text = sys.stdin.read() if options.script == "-" else Path(options.script).read_text()
            setup, steps = from_text(text)
            found = stage.play(setup, steps)
            print(found or "both sides are alike")
            return int(found is not None)
        return _soak(stage, flavour, options)


def _soak(stage: Stage, flavour: str, options: argparse.Namespace) -> int:
    started = time.monotonic()
    seed, failures = options.seed, 0
    while not options.examples or seed < options.seed + options.examples:
        if options.statements and stage.played >= options.statements:
            break
        failure: Failure | None = check(stage, seed, options.length)
        seconds = time.monotonic() - started
        progress = f"{flavour}: seed {seed}, {stage.played:,} statements, {stage.played / seconds:,.0f}/s"
        print(f"{progress}, {failures} differences", end="\r" if sys.stdout.isatty() else "\n", flush=True)
        seed += 1
        if failure is not None:
            failures += 1
            print("\n" + failure.report(), flush=True)
            if not options.keep_going:
                break
    print(f"\n{flavour}: {stage.played:,} statements in {time.monotonic() - started:.0f} s, {failures} differences")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
