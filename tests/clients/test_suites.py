"""Other people's test suites: the proxy in front of a server gives the same list of results as the server.

Each runs twice at the same time, at a fresh server and through a fresh proxy in front of another one. A test that
comes out differently has to be explained in suites/explained.toml.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients.clients import Target
from tests.clients.suites.catalogue import ROOT, SUITE_ACCOUNT, Suite
from tests.clients.suites.outcomes import counts, differences, explain, library_version, packages, run
from tests.clients.suites.sources import Unavailable
from tests.clients.suites.tables import SuiteResult, Tables
from tests.conftest import Proxy, cannot_run
from tests.servers import Server

ACCOUNTS = (
    f"CREATE DATABASE {SUITE_ACCOUNT.database}",
    f"CREATE USER {SUITE_ACCOUNT.user}@'%' IDENTIFIED BY '{SUITE_ACCOUNT.password}'",
    f"GRANT ALL ON *.* TO {SUITE_ACCOUNT.user}@'%' WITH GRANT OPTION",
    f"ALTER USER {ROOT.user}@localhost IDENTIFIED BY '{ROOT.password}'",
)


@pytest.fixture(autouse=True)
def _obtained(suite: Suite) -> None:
    try:
        suite.source.unpacked()
        packages(suite)
    except Unavailable as error:
        cannot_run(f"the tests of {suite.library} cannot be had: {error}")


@pytest.fixture
def targets(
    flavour: str, suite: Suite, own_server: Callable[..., Server], proxy: Callable[..., Proxy], tables: Tables
) -> list[Target]:
    """A server, and a proxy in front of another one."""
    servers = [own_server(flavour, max_connections=100, **suite.options) for _ in range(2)]
    for server in servers:
        server.execute(*ACCOUNTS, *suite.statements)
    direct, behind = servers
    tables.of(flavour).version = f"{flavour} {direct.version}"
    if suite.over_socket:
        path = str(behind.directory / "proxy")
        proxy(f"mysql+unix://{behind.socket}", max_connections=suite.cap, args=["--listen", f"unix:{path}"])
        return [Target(unix_socket=direct.socket), Target(unix_socket=path)]
    return [Target(port=direct.port), Target(port=proxy(behind, max_connections=suite.cap).port)]


def test_a_suite_has_the_same_results_through_the_proxy(
    flavour: str, suite: Suite, targets: list[Target], tables: Tables, tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(run, suite, target, tmp_path / way)
            for way, target in zip(("direct", "through"), targets, strict=True)
        ]
    direct, through = (one.result() for one in runs)
    found = differences(direct, through)
    reasons, idle = explain(suite.name, flavour, found)
    result = SuiteResult(suite.name, library_version(suite), suite.cap, direct, through, found, reasons)
    tables.of(flavour).suites[suite.name] = result

    assert counts(direct)["passed"] > 100, f"nearly nothing of it was run: {counts(direct)}"
    unexplained = [str(difference) for difference in found if difference not in reasons]
    assert not unexplained, "\n".join([f"in {tmp_path}:", *unexplained])
    assert not idle or suite.is_short, f"explained, but not different any more: {idle}"
