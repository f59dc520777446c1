"""A database with every column type: dumped directly and through the proxy, and restored both ways.

The dumps have to be the same to the byte, and what is restored from them the same database: every table's checksum,
and its dump. The programs are the server's own (`mariadb-dump`, `mysqldump`).
"""

from __future__ import annotations

import filecmp
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.clients.clients import Account, Target, cli_command, with_login
from tests.clients.suites.tables import DumpResult, Tables
from tests.conftest import Proxy
from tests.servers import Server, find_dump

SQL = Path(__file__).parent / "dumps"
CONTENTS = ("common.sql", "{flavour}.sql")
EVERYTHING = Account("dumper", "dumper-secret", "everything")
COPIES = ("restored_directly", "restored_through")
WITHOUT_GIANT = f"--ignore-table={EVERYTHING.database}.giant"
DEADLINE = 120

_CONTENTS_OF_DUMPS = ("--routines", "--events", "--triggers", "--skip-dump-date", "--max-allowed-packet=64M")
_FLAVOUR_OPTIONS: dict[str, tuple[str, ...]] = {"mariadb": (), "mysql": ("--set-gtid-purged=OFF", "--no-tablespaces")}


@dataclass(frozen=True)
class Database:
    """One server with the database on it, and the two ways to it."""

    server: Server
    direct: Target
    through: Target
    directory: Path

    def dump(self, name: str, target: Target, database: str, *options: str) -> Path:
        """The file with the dump of a database."""
        argv, env = with_login(find_dump(self.server.flavour), target, EVERYTHING)
        path = self.directory / f"{name}.sql"
        with path.open("wb") as output:
            flavour_options = _FLAVOUR_OPTIONS[self.server.flavour]
            _run([*argv, *_CONTENTS_OF_DUMPS, *flavour_options, *options, database], env, stdout=output)
        return path

    def load(self, path: Path, target: Target, database: str) -> None:
        """Runs a file of statements with the command line client."""
        argv, env = cli_command(self.server.flavour, target, replace(EVERYTHING, database=database))
        with path.open("rb") as script:
            _run([*argv, "--max-allowed-packet=64M", "--default-character-set=utf8mb4"], env, stdin=script)

    def checksums(self, database: str) -> dict[str, int]:
        """Every table's checksum."""
        tables = [
            name
            for (name,) in self.server.execute(
                "SELECT table_name FROM information_schema.tables"
                f" WHERE table_schema = '{database}' AND table_type = 'BASE TABLE'"
            )
        ]
        quoted = ", ".join(f"`{database}`.`{name.replace('`', '``')}`" for name in tables)
        rows = self.server.execute(f"CHECKSUM TABLE {quoted} EXTENDED")
        return {name.removeprefix(f"{database}."): checksum for name, checksum in rows}


def _run(argv: list[str], env: dict[str, str], **streams: Any) -> None:
    done = subprocess.run(argv, env=env, stderr=subprocess.PIPE, timeout=DEADLINE, check=False, **streams)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert done.stderr == b""


@pytest.fixture(scope="module")
def database(
    server: Server, module_proxy: Callable[..., Proxy], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    databases = (EVERYTHING.database, *COPIES)
    server.execute(
        f"CREATE USER {EVERYTHING.user}@'%' IDENTIFIED BY '{EVERYTHING.password}'",
        f"GRANT ALL ON *.* TO {EVERYTHING.user}@'%'",
        *(f"CREATE DATABASE {name} CHARACTER SET utf8mb4" for name in databases),
    )
    pooler = module_proxy(server, max_connections=4)
    ways = Target(port=server.port), Target(port=pooler.port)
    one = Database(server, *ways, tmp_path_factory.mktemp("dumps"))
    for name in CONTENTS:
        one.load(SQL / name.format(flavour=server.flavour), one.direct, EVERYTHING.database)
    yield one
    pooler.stop()
    server.execute(*(f"DROP DATABASE {name}" for name in databases), f"DROP USER {EVERYTHING.user}@'%'")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--opt",), id="that locks tables"),
        pytest.param(("--single-transaction", "--quick", WITHOUT_GIANT), id="in one transaction"),
        pytest.param(("--skip-opt", "--hex-blob", "--complete-insert", WITHOUT_GIANT), id="row by row"),
    ],
)
def test_a_dump_through_the_proxy_is_the_same_to_the_byte(
    database: Database, options: tuple[str, ...], tables: Tables
) -> None:
    direct = database.dump("direct", database.direct, EVERYTHING.database, *options)
    through = database.dump("through", database.through, EVERYTHING.database, *options)
    assert direct.stat().st_size > (200_000 if WITHOUT_GIANT in options else 17 << 20)
    equal = filecmp.cmp(direct, through, shallow=False)
    row = DumpResult(f"dump, `{' '.join(options)}`: bytes", direct.stat().st_size, through.stat().st_size, equal)
    tables.of(database.server.flavour).dumps.append(row)
    assert equal


def test_what_is_restored_through_the_proxy_is_the_same_database(database: Database, tables: Tables) -> None:
    original = database.dump("original", database.through, EVERYTHING.database, "--skip-comments")
    expected = database.checksums(EVERYTHING.database)
    restored = []
    for copy, target in zip(COPIES, (database.direct, database.through), strict=True):
        database.load(original, target, copy)
        sums = database.checksums(copy)
        dumped_again = database.dump(copy, database.direct, copy, "--skip-comments")
        same_dump = filecmp.cmp(original, dumped_again, shallow=False)
        assert (sums, same_dump) == (expected, True), copy
        restored.append(len(sums))
    row = DumpResult("tables with equal checksums and an equal dump after a restore", *restored, True)
    tables.of(database.server.flavour).dumps.append(row)
