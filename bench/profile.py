"""Where the pooler's time goes under point selects, as py-spy sees it: by function and by line, in its own frames.

Time in the kernel and in uvloop shows at the Python line that called it, and at `run` for the loop itself.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.compare import points, start, sysbench
from bench.processes import BenchError
from bench.report import Report, console

_RATE = 500  # samples per second
_TOP = 25


def profile(flavour: str, mode: str, clients: int, seconds: int) -> None:
    """Run sysbench through the pooler with py-spy at it, and print two tables."""
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        raise BenchError("there is no py-spy here: pip install py-spy")
    with (
        points(flavour) as backend,
        contextlib.ExitStack() as stack,
        tempfile.NamedTemporaryFile("r", prefix="mybouncer-bench-") as stacks,
    ):
        (middle,) = start(["mybouncer"], backend, stack)
        argv = [spy, "record", "--pid", str(middle.pid), "--rate", str(_RATE), "--duration", str(seconds)]
        argv += ["--nonblocking", "--format", "raw", "--output", stacks.name]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as recording:
            run = sysbench(middle, mode, clients, seconds)
            _, complaint = recording.communicate()
        if recording.returncode:
            raise BenchError(f"py-spy failed: {complaint.strip()[-500:]}")
        lines = stacks.read().splitlines()
    per_line: Counter[str] = Counter()
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in lines:
        frames, _, number = line.rpartition(" ")
        names = frames.split(";")
        per_line[names[-1]] += int(number)
        functions = [re.sub(r":\d+\)$", ")", name) for name in names]
        own[functions[-1]] += int(number)
        for function in set(functions):
            total[function] += int(number)
    samples = sum(own.values())

    def cost(number: int) -> tuple[str, str]:
        return f"{number / samples:.1%}", f"{number / samples * run.cpu_us:.1f}"

    title = f"{flavour}, {mode}, {clients} clients: {run.cpu_us:.1f} µs CPU per statement"
    by_function = Report("", title, ("function", "own", "µs", "with callees", "µs"))
    by_function.rows = [(name, *cost(number), *cost(total[name])) for name, number in own.most_common(_TOP)]
    by_line = Report("", "by line", ("line", "own", "µs"))
    by_line.rows = [(name, *cost(number)) for name, number in per_line.most_common(_TOP)]
    for report in (by_function, by_line):
        report.show()
    console.print(f"{samples} samples")
