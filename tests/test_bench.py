"""What the measurements rest on, as far as it can be tested without measuring."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from bench.compare import Runs, tables
from bench.cores import Layout, pin
from bench.processes import ROOT, BenchError, Run, checkout, commit, cpu_seconds
from bench.sysbench import load
from bench.workloads import WORKLOADS, Figure
from tests.servers import die_with_parent, wait_until

_THREADS = """
import sys, threading
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("started", flush=True)
sys.stdin.readline()
"""


def test_all_threads_of_a_process_are_pinned() -> None:
    core = max(os.sched_getaffinity(0))
    with subprocess.Popen(
        [sys.executable, "-c", _THREADS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        pin(process.pid, (core,))
        threads = [int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir()]
        assert len(threads) == 4
        assert [os.sched_getaffinity(thread) for thread in threads] == [{core}] * 4
        process.kill()


def test_the_layout_says_what_is_pinned() -> None:
    assert str(Layout((0,), (0,))) == "1 core for everything: clients, middle and server; nothing is pinned"
    assert str(Layout((0, 1), (0, 1))).startswith("2 cores for everything")
    assert "pinned to core 2, server and clients to the rest (3, 5)" in str(Layout((2,), (3, 5)))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is only one core")
def test_one_core_is_left_to_the_middle_and_nobody_else_starts_on_it() -> None:
    code = (
        "from bench.cores import layout, leave_one_core_alone as leave\n"
        "print(layout().pinned); leave(); print(*layout().middle, *layout().others)"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", *map(str, sorted(os.sched_getaffinity(0)))]


def test_the_cpu_of_another_process_grows_with_its_work() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=die_with_parent) as process:
        before = cpu_seconds(process.pid)
        wait_until(lambda: cpu_seconds(process.pid) > before + 0.05, 30, "50 ms of CPU")
        process.kill()


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    runs, case = Runs(), ("text", 8)
    for ours, theirs in ((30e-6, 20e-6), (90e-6, 30e-6), (16e-6, 10e-6)):
        runs.add(case, "mybouncer", Run(1000, ours))
        runs.add(case, "HAProxy", Run(2000, theirs))
    assert runs.times(case, "mybouncer", "HAProxy", "cpu") == pytest.approx(1.6)
    assert runs.more(case, "mybouncer", "HAProxy", "cpu") == pytest.approx(10e-6)
    assert runs.times(case, "mybouncer", "HAProxy", "time") == pytest.approx(2)
    assert runs.times(case, "mybouncer", "direct", "time") == 0, "there is nothing to compare with"
    assert runs.times(case, "mybouncer", "HAProxy", "p99_ms") == 0


@pytest.mark.parametrize(
    ("figure", "text", "ratio", "difference", "reached"),
    [
        (Figure("cpu", "HAProxy", 1.3), "CPU ≤ 1.3×", 1.3, 1.0, True),
        (Figure("cpu", "HAProxy", 1.3), "CPU ≤ 1.3×", 1.31, 0.0, False),
        (Figure("p99_ms", "direct", 0.5), "p99 ≤ 0.5×", 0.4, 1.0, True),
        (Figure("cpu", "HAProxy", more=20e-6), "CPU ≤ HAProxy + 20 µs", 3.0, 19e-6, True),
        (Figure("cpu", "HAProxy", more=20e-6), "CPU ≤ HAProxy + 20 µs", 1.1, 21e-6, False),
    ],
)
def test_a_figure_is_a_multiple_or_a_difference(
    figure: Figure, text: str, ratio: float, difference: float, reached: bool
) -> None:
    assert str(figure) == text
    assert figure.reached(ratio, difference) is reached


def test_every_figure_is_about_something_that_runs_have() -> None:
    for workload in WORKLOADS.values():
        for figure in workload.figures:
            assert hasattr(Run(1.0, 1.0), figure.what)
            assert figure.clients is None or figure.clients in workload.clients


def test_restores_are_shown_where_clients_have_settings_of_their_own() -> None:
    runs = Runs()
    for name in ("text", "states"):
        runs.add((name, 64), "direct", Run(1000, 0.0))
        runs.add((name, 64), "mybouncer", Run(500, 40e-6, restores=0.914))
    plain, own = tables("mariadb", runs)
    assert "restores" not in plain.columns
    assert [row[own.columns.index("restores")] for row in own.rows] == ["–", "0.91"]
    assert {len(row) for row in own.rows} == {len(own.columns)}


def test_load_lua_has_every_statement_that_workloads_name() -> None:
    script = (ROOT / "bench" / "load.lua").read_text()
    named = [
        w.run.keywords["statement"] for w in WORKLOADS.values() if isinstance(w.run, partial) and w.run.func is load
    ]
    assert len(named) > 5
    for statement in named:
        assert re.search(rf"run\.{statement}(\(| =)", script), statement


def test_another_revision_is_run_from_a_directory_of_its_own() -> None:
    try:
        head = commit("HEAD")
    except (BenchError, FileNotFoundError) as error:
        pytest.skip(f"no history here: {error}")
    with checkout(head) as directory:
        argv = [sys.executable, "-c", "import proxy.cli; print(proxy.cli.__file__)"]
        said = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=True).stdout.strip()
        assert said == str(directory / "proxy" / "cli.py")
    assert not directory.exists()
    with pytest.raises(BenchError, match="no-such-revision"):
        commit("no-such-revision")
