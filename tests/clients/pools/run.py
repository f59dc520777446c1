"""Starts the applications, reads what they say, and ends them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.suites.sources import Unavailable, installed
from tests.conftest import build_go
from tests.servers import Server, die_with_parent

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SQLALCHEMY = ("SQLAlchemy==2.0.44",)
DJANGO = ("Django==5.2.8", "asgiref==3.13.0", "sqlparse==0.6.1")

CONNECTIONS, WORKERS = 15, 10  # of each application
ORDERS = 6000

Phases = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Application:
    """A program, the account it uses, and how it is started; that fails with Unavailable."""

    name: str
    user: str
    argv: Callable[[Path], list[object]]  # given a directory to compile in
    environment: Callable[[], dict[str, str]] = dict


def _go(directory: Path) -> list[object]:
    return [build_go(HERE / "go" / "main.go", directory)]


def _python(module: str) -> Callable[[Path], list[object]]:
    return lambda directory: [sys.executable, "-m", f"tests.clients.pools.{module}"]


def _node(directory: Path) -> list[object]:
    node = shutil.which("node")
    if node is None:
        raise Unavailable("node is not on this machine (`make test` installs it)")
    return [node, HERE / "node.js"]


def _npm_drivers() -> dict[str, str]:
    found = subprocess.run([ROOT / "scripts/npm-drivers", "--find"], capture_output=True, text=True, check=False)
    if found.returncode:
        raise Unavailable("the drivers of npm are not on this machine (`make test` installs them)")
    return {"NODE_PATH": found.stdout.strip()}


def _packages(requirements: tuple[str, ...]) -> Callable[[], dict[str, str]]:
    return lambda: {"PYTHONPATH": str(installed(requirements))}


APPLICATIONS = (
    Application("go", "app", _go),
    Application("sqlalchemy", "app2", _python("alchemy"), _packages(SQLALCHEMY)),
    Application("django", "app", _python("django_shop"), _packages(DJANGO)),
    Application("mysql2", "app2", _node, _npm_drivers),
)


class Running:
    """An application at work."""

    def __init__(self, application: Application, directory: Path, plan: dict[str, Any]) -> None:
        self.name = application.name
        self.done: dict[str, int] = {"statements": 0, "requests": 0, "errors": 0}
        self.finished = False
        self._errors = directory / f"{self.name}.err"
        argv = [str(word) for word in (*application.argv(directory), json.dumps(plan))]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                argv,
                env=os.environ | application.environment(),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                preexec_fn=die_with_parent,
            )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __repr__(self) -> str:
        return f"{self.name}: " + " ".join(f"{name}={value}" for name, value in self.done.items())

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def errors(self) -> str:
        """What it has written to stderr, the beginning."""
        return self._errors.read_text(errors="replace")[:4000]

    def end(self, deadline: float = 15.0) -> int:
        """Let it close its pool; gives the exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(deadline)

    def stop(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            self.done = {name: said[name] for name in self.done}
            self.finished = said["finished"]


def plan_of(application: Application, port: int, seconds: float, phases: Phases) -> dict[str, Any]:
    """What the program gets as its argument."""
    return {
        "port": port,
        "user": application.user,
        "password": f"{application.user}-secret",
        "seconds": seconds,
        "connections": CONNECTIONS,
        "workers": WORKERS,
        "phases": [{"do": do, "seconds": length} for do, length in phases],
    }


def fill(server: Server) -> None:
    """The shop's tables and what is in them at the beginning."""
    note = "n" * 250
    server.execute(
        "DROP TABLE IF EXISTS test.shop_product, test.shop_customer, test.shop_order",
        "CREATE TABLE test.shop_product (id BIGINT PRIMARY KEY, name VARCHAR(100), price INT, stock INT)",
        "CREATE TABLE test.shop_customer (id BIGINT PRIMARY KEY, name VARCHAR(100), points INT)",
        "CREATE TABLE test.shop_order (id BIGINT PRIMARY KEY AUTO_INCREMENT, customer_id BIGINT, product_id BIGINT,"
        " amount INT, note VARCHAR(400), KEY (customer_id))",
        "INSERT INTO test.shop_product VALUES " + ", ".join(f"({i}, 'product {i}', {i}, 0)" for i in range(1, 201)),
        "INSERT INTO test.shop_customer VALUES " + ", ".join(f"({i}, 'customer {i}', 0)" for i in range(1, 1001)),
        "INSERT INTO test.shop_order (customer_id, product_id, amount, note) VALUES "
        + ", ".join(f"({1 + i % 1000}, {1 + i % 200}, 1, '{note}')" for i in range(ORDERS)),
    )
