"""Every client library, in one process per toolchain: cells in, and for each whether its login has worked.

A program gets a JSON list of cells on its standard input and gives a line of JSON for each: its id, and `who` it is on
the server or the `error`. A setting is what the library's documentation has for logins that fail without.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clients.matrix.python import CLIENTS as PYTHON

HERE = Path(__file__).parent
GOPATH = Path("/usr/share/gocode")
CONNECTOR_J = Path("/usr/share/java/mariadb-java-client.jar")
DEADLINE = 120

Cell = dict[str, Any]
Settings = dict[str, dict[str, Any]]  # by client


class Absent(Exception):
    """A toolchain is not on this machine; the text says what is missing."""


@dataclass(frozen=True)
class Toolchain:
    """What runs a group of clients, and which settings they know; a quick one is part of `make test`."""

    name: str
    clients: tuple[str, ...]
    run: Callable[[list[Cell], Path], dict[int, Cell]]
    settings: Settings = field(default_factory=dict)
    quick: bool = False


def _program(argv: Iterable[object], cells: list[Cell], **environment: str) -> dict[int, Cell]:
    done = subprocess.run(
        [str(word) for word in argv],
        input=json.dumps(cells),
        env=os.environ | environment,
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {said["id"]: said for said in map(json.loads, done.stdout.splitlines())}


def _need(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Absent(f"{name} is not on this machine (`make matrix` installs it)")
    return found


def _python(cells: list[Cell], directory: Path) -> dict[int, Cell]:
    without = [cell for cell in cells if cell["client"].endswith("without cryptography")]
    others = [cell for cell in cells if cell not in without]
    argv = (sys.executable, "-m", "tests.clients.matrix.python")
    return _program(argv, others) | _program([*argv, "--without-cryptography"], without)


def _node(cells: list[Cell], directory: Path) -> dict[int, Cell]:
    script = HERE.parents[2] / "scripts" / "npm-drivers"
    found = subprocess.run([script, "--find"], capture_output=True, text=True, check=False)
    if found.returncode:
        raise Absent("the drivers of npm are not on this machine (`make test` installs them)")
    return _program([_need("node"), HERE / "node.js"], cells, NODE_PATH=found.stdout.strip())


def _php(cells: list[Cell], directory: Path) -> dict[int, Cell]:
    return _program([_need("php"), HERE / "php.php"], cells)


def _go(cells: list[Cell], directory: Path) -> dict[int, Cell]:
    if not (GOPATH / "src/github.com/go-sql-driver/mysql").is_dir():
        raise Absent("go-sql-driver is not on this machine (`make test` installs it)")
    environment = {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": ""}
    return _program([_need("go"), "run", HERE / "go" / "main.go"], cells, **environment)


def _java(cells: list[Cell], directory: Path) -> dict[int, Cell]:
    if not CONNECTOR_J.exists():
        raise Absent("libmariadb-java is not on this machine (`make matrix` installs it)")
    subprocess.run([_need("javac"), "-d", directory, HERE / "Login.java"], check=True, timeout=DEADLINE)
    lines = []
    for cell in cells:
        options = dict(cell["setting"])
        if cell["tls"]:
            options |= {"useSsl": "true", "trustServerCertificate": "true"}
        if cell["socket"]:
            options["localSocket"] = cell["socket"]
        url = f"jdbc:mariadb://127.0.0.1:{cell['port'] or 3306}/?" + "&".join(f"{k}={v}" for k, v in options.items())
        lines.append("\t".join((str(cell["id"]), url, cell["user"], cell["password"])))
    path = os.pathsep.join(map(str, (directory, CONNECTOR_J, "/usr/share/java/*")))
    done = subprocess.run(
        [_need("java"), "-cp", path, "Login"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = (line.split("\t", 2) for line in done.stdout.splitlines())
    return {int(ident): {"id": int(ident), what: text} for ident, what, text in found}


TOOLCHAINS = (
    Toolchain("Python and command lines", tuple(PYTHON), _python, quick=True),
    Toolchain("go-sql-driver", ("go-sql-driver",), _go, quick=True),
    Toolchain(
        "npm", ("npm mysql2", "npm mysql", "npm mariadb"), _node, {"npm mariadb": {"allowPublicKeyRetrieval": True}}
    ),
    Toolchain("Connector/J", ("Connector/J",), _java, {"Connector/J": {"allowPublicKeyRetrieval": "true"}}),
    Toolchain("PHP", ("PHP mysqli", "PHP PDO"), _php),
)
