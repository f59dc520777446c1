"""Every client library × authentication plugin of the account × transport: what works is what docs/matrix.md says.

Each cell is the first login of an account that nobody has used before, so that the password itself has to come across.
A login that fails is tried again, by another such account, with the library's setting for it if there is one.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.clients.matrix.run import TOOLCHAINS, Absent, Cell, Toolchain
from tests.conftest import Proxy, cannot_run
from tests.servers import MARIADB_11_8, Server

DOCUMENT = Path(__file__).parents[2] / "docs" / "matrix.md"
TRANSPORTS = ("plain TCP", "TLS", "unix socket")
PLUGINS = {
    "caching_sha2_password": ("mysql", "IDENTIFIED WITH caching_sha2_password BY '{}'"),
    "sha256_password": ("mysql", "IDENTIFIED WITH sha256_password BY '{}'"),
    "mysql_native_password": ("mariadb", "IDENTIFIED BY '{}'"),
    "client_ed25519": (MARIADB_11_8, "IDENTIFIED VIA ed25519 USING PASSWORD('{}')"),
    "parsec": (MARIADB_11_8, "IDENTIFIED VIA parsec USING PASSWORD('{}')"),
}
HEAD = "| client | transport | " + " | ".join(f"`{plugin}`" for plugin in PLUGINS) + " |"
RULE = "|---" * (2 + len(PLUGINS)) + "|"
WORKS, NOT = "works", "no"


@dataclass
class World:
    """Poolers in front of the servers, and accounts for each cell."""

    servers: dict[str, Server]
    plain: dict[str, Proxy]  # these do not offer TLS,
    secure: dict[str, Proxy]  # and these demand it, except on the unix socket
    sockets: dict[str, str]
    made: list[tuple[str, str]] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)

    def cells(self, wanted: list[tuple[str, str, str]], settings: dict[str, dict[str, Any]]) -> list[Cell]:
        """A cell and an account for each client, plugin and transport."""
        cells, statements = [], {flavour: [] for flavour in self.servers}
        for ident, (client, plugin, transport) in enumerate(wanted):
            flavour, identified = PLUGINS[plugin]
            proxy = (self.secure if transport == "TLS" else self.plain)[flavour]
            user, password = f"cell_{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
            statements[flavour].append(f"CREATE USER {user}@'%' {identified.format(password)}")
            self.made.append((flavour, user))
            cells.append(
                {
                    "id": ident,
                    "client": client,
                    "port": 0 if transport == "unix socket" else proxy.port,
                    "socket": self.sockets[flavour] if transport == "unix socket" else "",
                    "tls": transport == "TLS",
                    "user": user,
                    "password": password,
                    "setting": settings.get(client, {}),
                }
            )
        for flavour, server in self.servers.items():
            server.execute(*(statements[flavour] or ["DO 0"]))
        return cells

    def drop(self) -> None:
        """Remove the accounts."""
        for flavour, server in self.servers.items():
            users = ", ".join(f"{user}@'%'" for where, user in self.made if where == flavour)
            server.execute(f"DROP USER {users}" if users else "DO 0")


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest,
    mariadb: Server,
    mysql: Server,
    mariadb_11_8: Server,
    module_proxy: Callable[..., Proxy],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    servers = {"mariadb": mariadb, "mysql": mysql, MARIADB_11_8: mariadb_11_8}
    mariadb_11_8.execute("INSTALL SONAME 'auth_ed25519'")
    paths = {flavour: str(tmp_path_factory.mktemp("matrix") / "socket") for flavour in servers}

    def start(mode: str, listen: bool) -> dict[str, Proxy]:
        return {
            flavour: module_proxy(
                server,
                wait=False,
                max_connections=10,
                tls__client__mode=mode,
                args=["--listen", f"unix:{paths[flavour]}"] if listen else (),
            )
            for flavour, server in servers.items()
        }

    plain, secure = start("disabled", listen=False), start("required", listen=True)
    for proxy in (*plain.values(), *secure.values()):
        proxy.wait_ready()
    one = World(servers, plain, secure, paths)
    yield one
    one.drop()
    if request.config.getoption("--write-matrix", default=False):
        before, _, rest = DOCUMENT.read_text().partition(HEAD)
        after = rest.partition("\n\n")[2]
        DOCUMENT.write_text(before + "\n".join([HEAD, RULE, *one.rows]) + "\n\n" + after)
    mariadb_11_8.execute("UNINSTALL SONAME 'auth_ed25519'")


def _results(world: World, toolchain: Toolchain, directory: Path) -> dict[tuple[str, str, str], str]:
    everything = list(itertools.product(toolchain.clients, PLUGINS, TRANSPORTS))
    found: dict[tuple[str, str, str], str] = {}
    for settings in ({}, toolchain.settings):
        wanted = [key for key in everything if found.get(key) != WORKS and (not settings or key[0] in settings)]
        if not wanted:
            continue
        cells = world.cells(wanted, settings)
        said = toolchain.run(cells, directory)
        for key, cell in zip(wanted, cells, strict=True):
            if said[cell["id"]].get("who") == f"{cell['user']}@%":
                found[key] = f"with {_in_words(settings[key[0]])}" if settings else WORKS
            elif key not in found:
                found[key] = f"{NOT}: {said[cell['id']].get('error')}"
    return found


def _in_words(setting: dict[str, Any]) -> str:
    words = setting.get("options") or [f"{name}={str(value).lower()}" for name, value in setting.items()]
    return ", ".join(f"`{word}`" for word in words)


def _rows(found: dict[tuple[str, str, str], str]) -> list[str]:
    """The lines of the table: one for each client and transport."""
    lines = []
    for client, transport in dict.fromkeys((client, transport) for client, _, transport in found):
        cells = [found[client, plugin, transport].partition(":")[0] for plugin in PLUGINS]
        lines.append(f"| {client} | {transport} | " + " | ".join(cells) + " |")
    return lines


def test_every_client_logs_in_as_the_matrix_says(
    world: World, toolchain: Toolchain, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    try:
        found = _results(world, toolchain, tmp_path)
    except Absent as absent:
        cannot_run(str(absent))
    lines = _rows(found)
    world.rows += lines
    if request.config.getoption("--write-matrix", default=False):
        return
    document = DOCUMENT.read_text().splitlines()
    errors = {key: text for key, text in found.items() if text.startswith(NOT)}
    assert [line for line in lines if line not in document] == [], errors


def test_the_matrix_has_a_row_for_each_client_and_transport_and_no_other() -> None:
    _, _, table = DOCUMENT.read_text().partition(HEAD)
    rows = [line.split(" | ")[:2] for line in table.partition("\n\n")[0].splitlines()[2:]]
    wanted = itertools.product((client for toolchain in TOOLCHAINS for client in toolchain.clients), TRANSPORTS)
    assert sorted((client.removeprefix("| "), transport) for client, transport in rows) == sorted(wanted)
