"""The same work directly, through HAProxy as a TCP relay, through mybouncer. All in one run, interleaved.

Absolute numbers are the machine's; the ratios are what can be compared. CPU is that of the process in the middle (user
and system) per unit of work, with its logins in it, on a processor of its own (bench.cores).
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.cores import layout
from bench.processes import Middle, Run, checkout, commit, haproxy, mybouncer, prime
from bench.report import OtherWork, Report, Table, console, first_line, machine
from bench.sysbench import points
from bench.workloads import WORKLOADS, Figure, Kind
from tests.servers import Server

BACKENDS = 8
TARGETS = ("direct", "HAProxy", "mybouncer")
SLOWER = 1.05  # of another revision: more is too much

Case = tuple[str, int]  # workload, clients


@dataclass
class Runs:
    """What every round showed, by case and target; and how two targets compare.

    Rounds differ more than what is compared, so a ratio is the median of the rounds' ratios.
    """

    _all: dict[Case, dict[str, list[Run]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add(self, case: Case, target: str, run: Run) -> None:
        """Keep a round's."""
        self._all[case][target].append(run)

    def cases(self) -> Iterable[Case]:
        """In the order in which they were measured."""
        return self._all

    def targets(self, case: Case) -> Iterable[str]:
        """What the case was measured through."""
        return self._all[case]

    def median(self, case: Case, target: str, what: str) -> float:
        """Of an attribute, over the rounds."""
        values: list[float] = [getattr(run, what) for run in self._all[case][target]]
        return statistics.median(values)

    def times(self, case: Case, target: str, base: str, what: str) -> float:
        """How many times the base's; 0 without a base, or where there is nothing to compare."""
        pairs = self._pairs(case, target, base, what)
        return statistics.median(value / other for value, other in pairs) if all(map(all, pairs)) and pairs else 0.0

    def more(self, case: Case, target: str, base: str, what: str) -> float:
        """How much more than the base's."""
        return statistics.median(value - other for value, other in self._pairs(case, target, base, what))

    def _pairs(self, case: Case, target: str, base: str, what: str) -> list[tuple[float, float]]:
        runs = self._all[case]
        if base not in runs:
            return []
        return [(getattr(run, what), getattr(other, what)) for run, other in zip(runs[target], runs[base], strict=True)]


def compare(
    flavour: str,
    *,
    workloads: Sequence[str] = tuple(WORKLOADS),
    clients: Sequence[int] | None = None,
    targets: Sequence[str] = TARGETS,
    against: str | None = None,
    seconds: int = 3,
    rounds: int = 4,
    quick: bool = False,
) -> Report:
    """Measure and return the tables; nothing is written. `against` is measured as well: another revision, or this
    one with another setting.
    """
    others = OtherWork()
    cases = [
        (name, count)
        for name in workloads
        for count in (WORKLOADS[name].clients if WORKLOADS[name].alone else clients or WORKLOADS[name].clients)
    ]
    runs = Runs()
    with points(flavour) as backend, contextlib.ExitStack() as stack:
        middles = list(start(targets, against, backend, stack))
        for number in range(rounds):
            for case in cases:
                # Every other round backwards: what warms up or wears off favours nobody.
                for middle in middles if number % 2 == 0 else reversed(middles):
                    with console.status(f"round {number + 1} of {rounds}: {_label(case)}, {middle.name}"):
                        runs.add(case, middle.name, WORKLOADS[case[0]].run(middle, case[1], seconds))
        version = backend.version
    shown = list(tables(flavour, runs))
    if against:
        shown.append(_against(runs, middles[-1].name))
    report = Report(f"compare-{flavour}", f"mybouncer on {flavour}, {BACKENDS} backends", shown)
    report.notes = [
        f"Median of {rounds} round{'s' if rounds != 1 else ''} of {seconds} s each, interleaved; a ratio is the median "
        "of the rounds'. CPU is user + system time of the process in the middle, per statement, connection or row; "
        "time is that of one of them, over all clients.",
        _who_runs_where(),
        "Wanted are the figures of the design, with the answer of this run.",
        str(others),
    ]
    if quick:
        report.notes += _against_last_time(flavour, runs)
    report.machine = machine(
        f"{flavour} {version}",
        first_line("haproxy", "-v").partition(" - ")[0],
        first_line("sysbench", "--version"),
    )
    return report


def _who_runs_where() -> str:
    if not layout().pinned:
        return f"Cores: {layout()}. Whoever is in the middle can be preempted by its own clients: CPU is unsteady."
    return (
        f"Cores: {layout()}. So nobody in the middle is preempted by its own clients, all of them get the same load, "
        "and server and clients have no more cores when there is nobody in the middle."
    )


def start(
    targets: Iterable[str], against: str | None, backend: Server, stack: contextlib.ExitStack
) -> Iterator[Middle]:
    """Start what stands in the middle; what it is measured against comes last."""
    url = backend.url
    for target in targets:
        if target == "direct":
            yield Middle(target, backend.port)
        elif target == "HAProxy":
            yield primed(stack.enter_context(haproxy(backend.port)))
        else:
            yield primed(stack.enter_context(mybouncer(url, BACKENDS)))
    if against and "=" in against:
        key, _, value = against.partition("=")
        yield primed(stack.enter_context(mybouncer(url, BACKENDS, name=against, **{key.replace(".", "__"): value})))
    elif against:
        root = stack.enter_context(checkout(against))
        yield primed(stack.enter_context(mybouncer(url, BACKENDS, name=commit(against), root=root)))


def primed(middle: Middle) -> Middle:
    """Something to connect to, after one login."""
    prime(middle.port)
    return middle


def _label(case: Case) -> str:
    return f"{case[0]}, {case[1]}"


def tables(flavour: str, runs: Runs) -> Iterator[Table]:
    """A table for every kind of workload, in the order in which they were measured."""
    kinds: dict[Kind, Table] = {}
    for case in runs.cases():
        kind = WORKLOADS[case[0]].kind
        columns = (
            "workload, clients",
            "through",
            kind.rate,
            "time, of direct",
            "p99 ms",
            "of direct",
            kind.cpu,
            "of HAProxy",
            *(("restores",) if kind.restores else ()),
            "wanted",
        )
        table = kinds.setdefault(kind, Table(kind.title, columns))
        table.rows += [_row(flavour, runs, case, target, kind) for target in runs.targets(case)]
    yield from kinds.values()


def _row(flavour: str, runs: Runs, case: Case, target: str, kind: Kind) -> Sequence[str]:
    p99, cpu = runs.median(case, target, "p99_ms"), runs.median(case, target, "cpu")
    return (
        _label(case),
        target,
        f"{runs.median(case, target, 'per_second'):,.0f}",
        times(runs.times(case, target, "direct", "time")),
        f"{p99:.2f}" if p99 else "–",
        times(runs.times(case, target, "direct", "p99_ms")),
        f"{cpu * kind.factor:.1f}" if cpu else "–",
        times(runs.times(case, target, "HAProxy", "cpu")),
        *((_restores(runs, case, target),) if kind.restores else ()),
        _wanted(flavour, runs, case) if target == "mybouncer" else "",
    )


def _restores(runs: Runs, case: Case, target: str) -> str:
    return "–" if target in ("direct", "HAProxy") else f"{runs.median(case, target, 'restores'):.2f}"


def times(value: float) -> str:
    """A multiple in words, or that there is none."""
    return f"{value:.2f}×" if value else "–"


def _wanted(flavour: str, runs: Runs, case: Case) -> str:
    """The figures that are to be reached, each with yes or no."""

    def answer(figure: Figure) -> str:
        ratio = runs.times(case, "mybouncer", figure.base, figure.what)
        if not ratio:
            return f"{figure}: not measured"
        reached = figure.reached(ratio, runs.more(case, "mybouncer", figure.base, figure.what))
        return f"{figure}: {'yes' if reached else 'no'}"

    name, clients = case
    figures = [
        figure
        for figure in WORKLOADS[name].figures
        if figure.clients in (None, clients) and figure.server in (None, flavour)
    ]
    return "; ".join(map(answer, figures)) or "–"


def _against(runs: Runs, other: str) -> Table:
    """This checkout as a multiple of another revision, or of itself with another setting."""
    table = Table(f"Against {other}", ("workload, clients", "time", "p99", "CPU", f"at most {SLOWER}×"))
    for case in runs.cases():
        time, p99, cpu = (runs.times(case, "mybouncer", other, what) for what in ("time", "p99_ms", "cpu"))
        table.rows.append(
            (_label(case), times(time), times(p99), times(cpu), "yes" if max(time, cpu) <= SLOWER else "no")
        )
    return table


def _against_last_time(flavour: str, runs: Runs) -> list[str]:
    """What has changed since the last quick run, from the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mybouncer" / "bench-quick.json"
    known: dict[str, list[float]] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
    notes = []
    for case in runs.cases():
        if "mybouncer" not in runs.targets(case):
            continue
        now = [
            runs.median(case, "mybouncer", "cpu") * WORKLOADS[case[0]].kind.factor,
            runs.times(case, "mybouncer", "HAProxy", "cpu"),
            runs.median(case, "mybouncer", "per_second"),
        ]
        name = f"{flavour}, {_label(case)}{'' if layout().pinned else ', unpinned'}"
        if last := known.get(name):
            notes.append(
                f"last time -> now ({name}): {last[0]:.1f} -> {now[0]:.1f} {WORKLOADS[case[0]].kind.cpu} "
                f"({now[0] / last[0] - 1:+.1%}), "
                f"of HAProxy's {last[1]:.2f}× -> {now[1]:.2f}×, {last[2]:,.0f} -> {now[2]:,.0f}/s"
            )
        known[name] = now
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(json.dumps(known))
    return notes
