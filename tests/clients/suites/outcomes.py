"""Runs a suite, reads what became of each test, and compares two such runs."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.metadata
import os
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.clients.clients import Target
from tests.clients.suites.catalogue import Suite
from tests.clients.suites.sources import installed
from tests.servers import die_with_parent

EXPLAINED = Path(__file__).with_name("explained.toml")
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
_TESTS_FAILED = 1  # the exit code; 0 is none, and the others mean that they were not all run
_WORST_LAST = ("passed", "skipped", "failed")

Outcomes = dict[str, str]


def run(suite: Suite, target: Target, directory: Path) -> Outcomes:
    """Runs the suite at a server, in a directory that this makes, and gives the outcome of each test."""
    directory.mkdir()
    variables = suite.prepare(suite.source.unpacked(), directory, target, suite.account)
    within = variables.pop("PYTHONPATH", "")
    python_path = [str(path) for path in (directory / within, packages(suite)) if path]
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {"HOME": str(directory), "PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(python_path)} | variables
    report = directory / "report.xml"
    argv = [sys.executable, *suite.command, *suite.arguments]
    code, output = _run(argv, environment, directory, suite.deadline)
    if code not in (0, _TESTS_FAILED):
        raise RuntimeError(f"the tests of {suite.name} did not run to their end ({code}):\n{output[-6000:]}")
    return read_report(report)


def packages(suite: Suite) -> Path | None:
    """The directory with what the suite needs beside the project's own environment, if it needs anything."""
    return installed(suite.requirements) if suite.requirements else None


def _run(argv: list[str], environment: dict[str, str], directory: Path, deadline: float) -> tuple[int, str]:
    """Exit code and output; what the suite leaves behind of its own processes ends with it."""
    log = directory / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            code = process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"not within {deadline:g} s:\n{log.read_text(errors='replace')[-3000:]}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return code, log.read_text(errors="replace")


def read_report(report: Path) -> Outcomes:
    """The outcomes in a report in JUnit's format."""
    outcomes: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('classname')}::{case.get('name')}"
        # One that fails and then cannot be cleaned up is there twice.
        outcomes[test] = max(outcomes.get(test, "passed"), _outcome(case), key=_WORST_LAST.index)
    return outcomes


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"


def counts(outcomes: Outcomes) -> Counter[str]:
    """How many passed, failed and were skipped."""
    return Counter(outcomes.values())


def library_version(suite: Suite) -> str:
    """Name and version of the library that the suite tests."""
    if " " in suite.library:
        return suite.library
    pinned = [requirement for requirement in suite.requirements if requirement.startswith(f"{suite.library}==")]
    version = pinned[0].rpartition("=")[2] if pinned else importlib.metadata.version(suite.library)
    return f"{suite.library} {version}"


# --- differences ---


@dataclass(frozen=True, order=True)
class Difference:
    """A test that did not come out the same."""

    test: str
    direct: str
    through: str

    def __str__(self) -> str:
        return f"{self.test}: directly {self.direct}, through the proxy {self.through}"


def differences(direct: Outcomes, through: Outcomes) -> list[Difference]:
    """The tests that came out differently, those that only one of the runs has among them."""
    pairs = ((test, direct.get(test, "absent"), through.get(test, "absent")) for test in direct.keys() | through.keys())
    return sorted(Difference(*pair) for pair in pairs if pair[1] != pair[2])


def explain(suite: str, flavour: str, found: list[Difference]) -> tuple[dict[Difference, str], list[str]]:
    """The reason of each difference that explained.toml has one for; and its patterns that explain nothing any more."""
    reasons: dict[Difference, str] = {}
    idle = []
    for pattern, reason in _explanations(f"{suite}@{flavour}"):
        matched = [difference for difference in found if fnmatch.fnmatchcase(difference.test, pattern)]
        reasons |= dict.fromkeys(matched, reason)
        idle += [] if matched else [pattern]
    return reasons, idle


def _explanations(run_of: str) -> Iterator[tuple[str, str]]:
    for entry in tomllib.loads(EXPLAINED.read_text())["explained"]:
        for runs, patterns in entry["tests"].items():
            if fnmatch.fnmatchcase(run_of, runs):
                for pattern in patterns:
                    yield pattern, entry["reason"]
