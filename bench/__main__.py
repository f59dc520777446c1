"""`python -m bench [compare|crowd|idle|tls|profile]`; without a name, all but the last."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.compare import TARGETS, compare
from bench.cores import leave_one_core_alone
from bench.processes import BenchError
from bench.report import Report, console
from bench.workloads import WORKLOADS
from tests.servers import FLAVOURS, ServerError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement and return the exit code."""
    options = _parser().parse_args(argv)
    if not options.unpinned:
        leave_one_core_alone()
    try:
        for measurement in (options.measurement,) if options.measurement else _ALL:
            _MEASUREMENTS[measurement](options)
    except (BenchError, ServerError, TimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bench", description="Measurements of mybouncer; see bench/README.md.")
    parser.add_argument("measurement", nargs="?", choices=_MEASUREMENTS, help="default: all but profile")
    parser.add_argument("--server", choices=FLAVOURS, default="mariadb")
    parser.add_argument("--quick", action="store_true", help="compare: one configuration, 30 s, nothing written")
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="compare, profile: repeatable")
    parser.add_argument("--through", choices=TARGETS, action="append", help="compare: repeatable")
    parser.add_argument(
        "--against", metavar="REV|KEY=VALUE", help="compare: also another revision, or setting, and the multiples of it"
    )
    parser.add_argument("--unpinned", action="store_true", help="leave it to the scheduler who runs on which core")
    parser.add_argument("--clients", type=int, action="append", help="how many; for compare repeatable")
    parser.add_argument("--seconds", type=int, help="compare, tls, profile: length of one run")
    parser.add_argument("--rounds", type=int, help="compare, tls: how often everything is repeated")
    return parser


def _finish(report: Report, options: argparse.Namespace, *, write: bool = True) -> None:
    report.show()
    if write:
        report.name += "-unpinned" if options.unpinned else ""
        report.write()
        console.print(f"written: bench/results/{report.name}.md")


def _compare(options: argparse.Namespace) -> None:
    quick = options.quick
    report = compare(
        options.server,
        workloads=options.workload or (("text",) if quick else tuple(WORKLOADS)),
        clients=options.clients or ((64,) if quick else None),
        targets=options.through or TARGETS,
        against=options.against,
        seconds=options.seconds or (1 if quick else 3),
        rounds=options.rounds or (6 if quick else 4),
        quick=quick,
    )
    _finish(report, options, write=not (quick or options.through or options.workload))


def _crowd(options: argparse.Namespace) -> None:
    from bench.crowd import crowd

    _finish(crowd(options.server, (options.clients or [2000])[0]), options)


def _idle(options: argparse.Namespace) -> None:
    from bench.idle import idle

    _finish(idle(options.server, (options.clients or [5000])[0]), options)


def _tls(options: argparse.Namespace) -> None:
    from bench.tls import tls

    _finish(tls(options.server, (options.clients or [300])[0], options.seconds or 3, options.rounds or 4), options)


def _profile(options: argparse.Namespace) -> None:
    from bench.profile import profile

    workload, clients = (options.workload or ["text"])[0], (options.clients or [64])[0]
    profile(options.server, workload, clients, options.seconds or 8)


_ALL = ("compare", "crowd", "idle", "tls")
_MEASUREMENTS = {"compare": _compare, "crowd": _crowd, "idle": _idle, "tls": _tls, "profile": _profile}

if __name__ == "__main__":
    sys.exit(main())
