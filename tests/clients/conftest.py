"""The option of `make clients`: all suites, not only the quick ones, and a directory for the tables of results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.suites.catalogue import SUITES
from tests.clients.suites.tables import Tables


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tables", type=Path, help="run every suite, and write tables of the results into a directory")


def tables_directory(config: pytest.Config) -> Path | None:
    """Where the tables go. The option is there only if this file is read before the command line is."""
    return config.getoption("--tables", default=None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "suite" in metafunc.fixturenames:
        everything = tables_directory(metafunc.config) is not None
        chosen = [suite for suite in SUITES if suite.quick or everything]
        metafunc.parametrize("suite", chosen, ids=lambda suite: suite.name)


@pytest.fixture(scope="session")
def tables(request: pytest.FixtureRequest) -> Iterator[Tables]:
    """Takes results, and writes them at the end if there is somewhere to write them."""
    collected = Tables()
    yield collected
    directory = tables_directory(request.config)
    if directory is not None:
        collected.write(directory)
