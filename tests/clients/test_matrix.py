"""Every client library × authentication plugin of the account × transport: what works is what docs/matrix.md says.

Each cell is the first login of an account that nobody has used before, so that the password itself has to come across.
A login that fails is tried again, by another such account: with the library's setting for it if there is one, and then
with what the pooler can be told, the account's password (`[users]`) or who may read its hash (`lookup`).
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
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
READER = "matrix_reader"  # whom the server lets read hashes

Key = tuple[str, str, str]  # client, plugin, transport


@dataclass
class Poolers:
    """One in front of each server that does not offer TLS, and one that demands it, except on its unix socket."""

    plain: dict[str, Proxy]
    secure: dict[str, Proxy]
    sockets: dict[str, str]

    def place(self, cells: list[Cell]) -> None:
        """Say to each cell where it logs in."""
        for cell in cells:
            flavour, transport = PLUGINS[cell["plugin"]][0], cell["transport"]
            local = transport == "unix socket"
            cell["tls"] = transport == "TLS"
            cell["port"] = 0 if local else (self.secure if cell["tls"] else self.plain)[flavour].port
            cell["socket"] = self.sockets[flavour] if local else ""


@dataclass
class World:
    """The servers, poolers in front of them, and accounts for each cell."""

    servers: dict[str, Server]
    start: Callable[..., Poolers]
    poolers: Poolers
    made: list[tuple[str, str]] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)

    def cells(self, wanted: list[Key], settings: dict[str, dict[str, Any]]) -> list[Cell]:
        """A cell and an account for each client, plugin and transport."""
        cells, statements = [], {flavour: [] for flavour in self.servers}
        for ident, (client, plugin, transport) in enumerate(wanted):
            flavour, identified = PLUGINS[plugin]
            user, password = f"cell_{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
            statements[flavour].append(f"CREATE USER {user}@'%' {identified.format(password)}")
            self.made.append((flavour, user))
            cells.append(
                {
                    "id": ident,
                    "client": client,
                    "plugin": plugin,
                    "transport": transport,
                    "user": user,
                    "password": password,
                    "setting": settings.get(client, {}),
                }
            )
        for flavour, server in self.servers.items():
            server.execute(*(statements[flavour] or ["DO 0"]))
        return cells

    def told(self, mode: str, cells: list[Cell]) -> Poolers:
        """Poolers of their own, with what they are told about the accounts of these cells."""
        flavours = {PLUGINS[cell["plugin"]][0] for cell in cells}
        if mode == "lookup":
            return self.start(
                flavours, auth__mode=[mode, "passthrough"], auth__lookup_user=READER, auth__lookup_password=READER
            )
        listed = {f"MYBOUNCER_USERS__{cell['user']}__PASSWORD": cell["password"] for cell in cells}
        return self.start(flavours, auth__mode=[mode, "passthrough"], env=listed)

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
    mariadb.execute(
        f"CREATE USER {READER}@'%' IDENTIFIED BY '{READER}'", f"GRANT SELECT ON mysql.global_priv TO {READER}@'%'"
    )

    def start(flavours: Iterable[str], **config: Any) -> Poolers:
        paths = {flavour: str(tmp_path_factory.mktemp("matrix") / "socket") for flavour in flavours}

        def each(mode: str, listen: bool) -> dict[str, Proxy]:
            return {
                flavour: module_proxy(
                    servers[flavour],
                    wait=False,
                    max_connections=10,
                    tls__client__mode=mode,
                    args=["--listen", f"unix:{path}"] if listen else (),
                    **config,
                )
                for flavour, path in paths.items()
            }

        poolers = Poolers(each("disabled", listen=False), each("required", listen=True), paths)
        for proxy in (*poolers.plain.values(), *poolers.secure.values()):
            proxy.wait_ready()
        return poolers

    one = World(servers, start, start(servers), made=[("mariadb", READER)])
    yield one
    one.drop()
    if request.config.getoption("--write-matrix", default=False):
        before, _, rest = DOCUMENT.read_text().partition(HEAD)
        after = rest.partition("\n\n")[2]
        DOCUMENT.write_text(before + "\n".join([HEAD, RULE, *one.rows]) + "\n\n" + after)
    mariadb_11_8.execute("UNINSTALL SONAME 'auth_ed25519'")


def _results(world: World, toolchain: Toolchain, directory: Path) -> dict[Key, str]:
    everything = list(itertools.product(toolchain.clients, PLUGINS, TRANSPORTS))
    found: dict[Key, str] = {}

    def attempt(wanted: list[Key], settings: dict[str, dict[str, Any]], mode: str = "") -> set[Key]:
        """Those that log in; why the others do not is noted."""
        if not wanted:
            return set()
        cells = world.cells(wanted, settings)
        (world.told(mode, cells) if mode else world.poolers).place(cells)
        said = toolchain.run(cells, directory)
        answers = {key: (cell, said[cell["id"]]) for key, cell in zip(wanted, cells, strict=True)}
        for key, (_, answer) in answers.items():
            found.setdefault(key, f"{NOT}: {answer.get('error')}")
        return {key for key, (cell, answer) in answers.items() if answer.get("who") == f"{cell['user']}@%"}

    found |= dict.fromkeys(attempt(everything, {}), WORKS)
    with_setting = [key for key in everything if found[key] != WORKS and key[0] in toolchain.settings]
    for key in attempt(with_setting, toolchain.settings):
        found[key] = f"with {_in_words(toolchain.settings[key[0]])}"
    failed = [key for key in everything if found[key].startswith(NOT)]
    listed = attempt(failed, {}, "users")
    looked_up = attempt([key for key in failed if key[1] == "mysql_native_password"], {}, "lookup")
    for key in listed | looked_up:
        modes = {"`[users]`": listed, "`lookup`": looked_up}
        found[key] = "with " + " or ".join(mode for mode, those in modes.items() if key in those)
    return found


def _in_words(setting: dict[str, Any]) -> str:
    words = setting.get("options") or [f"{name}={str(value).lower()}" for name, value in setting.items()]
    return ", ".join(f"`{word}`" for word in words)


def _rows(found: dict[Key, str]) -> list[str]:
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
