"""Where the pooler's time goes under point selects: what py-spy sees, and what is called how often per statement.

py-spy's shares are of the time in which the process wanted a processor. With one core for everything, a `write` that
wakes a client is often where the pooler loses its processor to it, and seems long for that reason: compare lines of
Python with each other, and take what a statement costs from `compare`. cProfile's counts of calls are exact; its
times are inflated, those of small functions most.
"""

from __future__ import annotations

import contextlib
import pstats
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.compare import BACKENDS
from bench.processes import BenchError, mybouncer, prime
from bench.report import Table, console
from bench.sysbench import points
from bench.workloads import WORKLOADS
from tests.servers import Server

_RATE = 500  # samples per second
_TOP = 25


def profile(flavour: str, workload: str, clients: int, seconds: int) -> None:
    """Run sysbench through the pooler with py-spy at it, then with cProfile in it, and print tables."""
    with points(flavour) as backend:
        _sampled(backend, workload, clients, seconds)
        if not WORKLOADS[workload].alone:  # a reader of rows first reads some that are not in its figures
            _counted(backend, workload, clients, seconds)


def _sampled(backend: Server, workload: str, clients: int, seconds: int) -> None:
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        console.print("There is no py-spy here (pip install py-spy); without it there are only the counts.")
        return
    with (
        tempfile.TemporaryDirectory(prefix="mybouncer-bench-") as directory,
        mybouncer(backend.url, BACKENDS) as middle,
    ):
        prime(middle.port)
        stacks = Path(directory) / "stacks"
        argv = [spy, "record", "--pid", str(middle.pid), "--rate", str(_RATE), "--duration", str(seconds)]
        argv += ["--nonblocking", "--format", "raw", "--output", str(stacks)]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as recording:
            run = WORKLOADS[workload].run(middle, clients, seconds)
            _, complaint = recording.communicate()
        if recording.returncode:
            raise BenchError(f"py-spy failed: {complaint.strip()[-500:]}")
        lines = stacks.read_text().splitlines()
    per_line: Counter[str] = Counter()
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in lines:
        frames, _, number = line.rpartition(" ")
        names = [name or "(outside Python)" for name in frames.split(";")]
        per_line[names[-1]] += int(number)
        functions = [re.sub(r":\d+\)$", ")", name) for name in names]
        own[functions[-1]] += int(number)
        for function in set(functions):
            total[function] += int(number)
    samples = own.total()
    kind = WORKLOADS[workload].kind
    title = f"py-spy, {workload}, {clients} clients: {run.cpu * kind.factor:.1f} {kind.cpu} for one, {samples} samples"
    by_function = Table(title, ("function", "own", "with callees"))
    for name, count in own.most_common(_TOP):
        by_function.rows.append((name, f"{count / samples:.1%}", f"{total[name] / samples:.1%}"))
    by_line = Table("by line", ("line", "own"))
    by_line.rows = [(name, f"{count / samples:.1%}") for name, count in per_line.most_common(_TOP)]
    by_function.show()
    by_line.show()


def _counted(backend: Server, workload: str, clients: int, seconds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="mybouncer-bench-") as directory:
        output = Path(directory) / "profile"
        with contextlib.ExitStack() as stack:
            middle = stack.enter_context(mybouncer(backend.url, BACKENDS, python=("-m", "cProfile", "-o", str(output))))
            prime(middle.port)
            run = WORKLOADS[workload].run(middle, clients, seconds)
        seen: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = vars(pstats.Stats(str(output)))[
            "stats"
        ]
    statements = run.per_second * seconds
    calls = sum(entry[1] for entry in seen.values()) / statements
    report = Table(f"cProfile, {workload}: {calls:.0f} calls per statement", ("function", "calls", "own µs"))
    # What runs at the start and at the end is none of a statement's business.
    often = {where: entry for where, entry in seen.items() if entry[1] > 0.5 * statements}
    for (path, at, name), (_, count, own, *_) in sorted(often.items(), key=lambda item: -item[1][2])[:40]:
        where = f"{name} ({Path(path).name}:{at})" if at else name[:50]
        report.rows.append((where, f"{count / statements:.2f}", f"{own / statements * 1e6:.2f}"))
    report.show()
