"""What a measurement leaves behind: tables on the terminal, and the same in bench/results with the machine named."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from bench.cores import layout

RESULTS = Path(__file__).parent / "results"
console = Console(highlight=False)
_wide = Console(highlight=False, width=max(console.width, 140))  # a narrow terminal wraps tables, and loses nothing


@dataclass
class Table:
    """A title, names of columns, rows."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def show(self) -> None:
        """Print it."""
        table = RichTable(
            title=self.title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
            pad_edge=False,
        )
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        _wide.print(table)

    def markdown(self) -> Iterator[str]:
        """Its lines, without the title."""
        yield "| " + " | ".join(self.columns) + " |"
        yield "|---" + "|---:" * (len(self.columns) - 1) + "|"
        yield from ("| " + " | ".join(row) + " |" for row in self.rows)


@dataclass
class Report:
    """One measurement: its tables, how it was made, and on what."""

    name: str
    title: str
    tables: Sequence[Table]
    notes: list[str] = field(default_factory=list)
    machine: list[str] = field(default_factory=list)

    def show(self) -> None:
        """Print the tables and the notes."""
        for table in self.tables:
            table.show()
        for note in self.notes:
            console.print(note)

    def write(self) -> Path:
        """Write bench/results/<name>.md."""
        RESULTS.mkdir(exist_ok=True)
        lines = [f"# {self.title}", ""]
        for table in self.tables:
            if table.title != self.title:
                lines += [f"## {table.title}", ""]
            lines += [*table.markdown(), ""]
        if len(self.tables) > 1:
            lines += ["## Notes", ""]
        for note in self.notes:
            lines += [note, ""]
        lines += ["## Machine", "", *(f"* {line}" for line in self.machine)]
        path = RESULTS / f"{self.name}.md"
        path.write_text("\n".join(lines) + "\n")
        return path


def machine(*programs: str) -> list[str]:
    """The machine in words: processor, kernel, Python, date; no names of hosts and no paths."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return [
        f"{model}; {layout()}",
        f"{platform.system()} {platform.release()}, {_python()}",
        *programs,
        f"taken on {datetime.datetime.now(datetime.UTC).date().isoformat()}",
    ]


def _python() -> str:
    """Version and build of the interpreter: two builds of one version can be some per cent apart."""
    flags = [flag for flag in str(sysconfig.get_config_var("PY_CFLAGS")).split() if flag.startswith("-O")]
    built = "built " + " ".join(platform.python_build()[1].split()[:3])
    return f"Python {platform.python_version()} ({', '.join([platform.python_compiler(), *flags[-1:], built])})"


class OtherWork:
    """What the processors do beside a measurement: a look at them for a second before it begins, and all through it."""

    def __init__(self) -> None:
        self._start = self._now()
        time.sleep(1)
        self._before, self._start = self._since_start(), self._now()
        if self._before > 0.1:
            console.print(f"[yellow]Something else uses {self._before:.0%} of the processors: expect noise.[/]")

    def __str__(self) -> str:
        """For the end, when the processes that were started have ended."""
        before, meanwhile = self._before, self._since_start()
        return f"Other work used {before:.0%} of the processors before it began, {meanwhile:.0%} meanwhile."

    @staticmethod
    def _now() -> tuple[float, float]:
        """Seconds of processors altogether, and of these what others used."""
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        second = os.sysconf("SC_CLK_TCK")
        idle = ticks[3] + ticks[4]
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = time.process_time() + children.ru_utime + children.ru_stime
        return sum(ticks) / second, (sum(ticks) - idle) / second - ours

    def _since_start(self) -> float:
        (total, others), (total_before, others_before) = self._now(), self._start
        return max(0.0, others - others_before) / (total - total_before)


def first_line(*argv: str) -> str:
    """The first line of what a program says, for its version."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin"
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": path})
    return (done.stdout or done.stderr).strip().splitlines()[0]


def ratio(value: float, base: float) -> str:
    """`value` as a multiple of `base`."""
    return f"{value / base:.2f}×" if base else "–"
