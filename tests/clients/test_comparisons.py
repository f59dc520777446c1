"""The comparison of two runs of a suite, whose verdict test_suites.py trusts."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path

import pytest

from tests.clients.suites import outcomes
from tests.clients.suites.catalogue import SUITES
from tests.clients.suites.outcomes import Difference, differences, explain, read_report
from tests.servers import FLAVOURS

REPORT = """
<testsuites><testsuite>
  <testcase classname="a" name="passes" />
  <testcase classname="a" name="fails"><failure message="no" /></testcase>
  <testcase classname="a" name="breaks"><error message="no" /></testcase>
  <testcase classname="a" name="is_skipped"><skipped message="no" /></testcase>
  <testcase classname="a" name="passes_and_cannot_be_cleaned_up" />
  <testcase classname="a" name="passes_and_cannot_be_cleaned_up"><error message="no" /></testcase>
</testsuite></testsuites>
"""

TABLE = """
[[explained]]
reason = "slow"
tests."one@*" = ["m.C::slow*"]

[[explained]]
reason = "other"
tests."two@mysql" = ["*"]
"""


def test_a_report_gives_the_outcome_of_each_test(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT.strip())
    assert read_report(tmp_path / "report.xml") == {
        "a::passes": "passed",
        "a::fails": "failed",
        "a::breaks": "failed",
        "a::is_skipped": "skipped",
        "a::passes_and_cannot_be_cleaned_up": "failed",
    }


def test_a_test_that_only_one_run_has_is_a_difference() -> None:
    direct = {"same": "failed", "worse": "passed", "gone": "passed"}
    through = {"same": "failed", "worse": "skipped", "new": "passed"}
    assert differences(direct, through) == [
        Difference("gone", "passed", "absent"),
        Difference("new", "absent", "passed"),
        Difference("worse", "passed", "skipped"),
    ]


def test_only_the_table_explains_and_what_it_explains_in_vain_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.toml").write_text(TABLE)
    monkeypatch.setattr(outcomes, "EXPLAINED", tmp_path / "table.toml")
    slow, fast = Difference("m.C::slow[1]", "passed", "failed"), Difference("m.C::fast", "passed", "failed")
    assert explain("one", "mariadb", [slow, fast]) == ({slow: "slow"}, [])
    assert explain("one", "mysql", [fast]) == ({}, ["m.C::slow*"])
    assert explain("two", "mysql", [fast]) == ({fast: "other"}, [])
    assert explain("two", "mariadb", [fast]) == ({}, [])


def test_the_table_names_runs_that_there_are() -> None:
    runs = [f"{suite.name}@{flavour}" for suite in SUITES for flavour in FLAVOURS]
    for entry in tomllib.loads(outcomes.EXPLAINED.read_text())["explained"]:
        for pattern in entry["tests"]:
            assert fnmatch.filter(runs, pattern), pattern
