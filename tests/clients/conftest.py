"""The options of `make clients` and `make matrix`: everything, not only what is quick, and what to write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.matrix.run import TOOLCHAINS
from tests.clients.suites.catalogue import SUITES
from tests.clients.suites.tables import Tables


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", action="store_true", help="log in with the clients of every toolchain")
    parser.addoption("--write-matrix", action="store_true", help="with --matrix: write the table, check nothing")
    parser.addoption("--soak", type=float, help="how many seconds test_pools.py works, instead of a few")
    parser.addoption("--tables", type=Path, help="run every suite, and write tables of the results into a directory")


def tables_directory(config: pytest.Config) -> Path | None:
    """Where the tables go. The option is there only if this file is read before the command line is."""
    return config.getoption("--tables", default=None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "suite" in metafunc.fixturenames:
        everything = tables_directory(metafunc.config) is not None
        chosen = SUITES if everything else [suite.shortened() for suite in SUITES if suite.short]
        pairs = [pytest.param(suite, name, id=f"{name}-{suite.name}") for suite in chosen for name in suite.flavours]
        metafunc.parametrize(("suite", "flavour"), pairs)
    if "toolchain" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--matrix", default=False)
        toolchains = [toolchain for toolchain in TOOLCHAINS if toolchain.quick or everything]
        metafunc.parametrize("toolchain", toolchains, ids=lambda toolchain: toolchain.name)


@pytest.fixture(scope="session")
def tables(request: pytest.FixtureRequest) -> Iterator[Tables]:
    """Takes results, and writes them at the end if there is somewhere to write them."""
    collected = Tables()
    yield collected
    directory = tables_directory(request.config)
    if directory is not None:
        collected.write(directory)
