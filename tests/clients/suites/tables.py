"""The results as tables: one file per server, written when everything has been run on it."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass, field
from pathlib import Path

from proxy import __version__
from tests.clients.suites.catalogue import SUITES
from tests.clients.suites.outcomes import Difference, Outcomes, counts

UNEXPLAINED = "**unexplained**"


@dataclass(frozen=True)
class SuiteResult:
    """One suite's two runs."""

    suite: str
    library: str
    cap: int
    direct: Outcomes
    through: Outcomes
    differences: list[Difference]
    reasons: dict[Difference, str]


@dataclass(frozen=True)
class DumpResult:
    """One comparison of dumps or of what was restored."""

    what: str
    directly: int
    through: int
    equal: bool


@dataclass
class ServerResults:
    """What is known of one server."""

    version: str = ""
    suites: dict[str, SuiteResult] = field(default_factory=dict)
    dumps: list[DumpResult] = field(default_factory=list)

    def is_complete(self, flavour: str) -> bool:
        """Whether every suite for this server has been run; of some of them there is no table."""
        return self.suites.keys() == {suite.name for suite in SUITES if flavour in suite.flavours}


class Tables:
    """The results of a run."""

    def __init__(self) -> None:
        self._servers: dict[str, ServerResults] = {}

    def of(self, flavour: str) -> ServerResults:
        """The results on one server, to be added to."""
        return self._servers.setdefault(flavour, ServerResults())

    def write(self, directory: Path) -> None:
        """One file for each server that everything was run on."""
        for flavour, results in self._servers.items():
            if results.is_complete(flavour):
                directory.mkdir(parents=True, exist_ok=True)
                (directory / f"{flavour}.md").write_text(_page(results))


def _page(results: ServerResults) -> str:
    lines = [
        f"# Other people's tests on {results.version}",
        "",
        f"Written by `make clients` on {datetime.date.today()}: mybouncer {__version__},"
        f" Python {platform.python_version()}. What it says is in [docs/clients.md](../../../docs/clients.md).",
        "",
        *_suite_table(results),
        "",
        "## Dump and restore",
        "",
        "A database with every column type, views, triggers, routines and events; its own programs.",
        "",
        "| | directly | through | equal |",
        "|---|---:|---:|---|",
        *(f"| {dump.what} | {dump.directly:,} | {dump.through:,} | {_yes(dump.equal)} |" for dump in results.dumps),
        "",
        "## Tests that come out differently, and why",
        "",
        *_differences(results),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _yes(true: bool) -> str:
    return "yes" if true else "**no**"


def _suite_table(results: ServerResults) -> list[str]:
    head = ["| suite of | cap | tests | directly: passed, failed, skipped | through | different | unexplained |"]
    return [*head, "|---|---:|---:|---:|---:|---:|---:|", *(_row(result) for result in results.suites.values())]


def _row(result: SuiteResult) -> str:
    def three(outcomes: Outcomes) -> str:
        counted = counts(outcomes)
        return ", ".join(str(counted[outcome]) for outcome in ("passed", "failed", "skipped"))

    unexplained = len(result.differences) - len(result.reasons)
    return (
        f"| {result.library} | {result.cap} | {len(result.direct)} | {three(result.direct)} | {three(result.through)}"
        f" | {len(result.differences)} | {unexplained} |"
    )


def _differences(results: ServerResults) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for result in results.suites.values():
        for difference in result.differences:
            row = f"| {result.suite} | `{difference.test}` | {difference.direct} | {difference.through} |"
            by_reason.setdefault(result.reasons.get(difference, UNEXPLAINED), []).append(row)
    lines = []
    for reason, rows in by_reason.items():
        lines += [reason, "", "| suite | test | directly | through |", "|---|---|---|---|", *rows, ""]
    return lines
