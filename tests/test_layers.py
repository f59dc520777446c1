"""The floors of the building: imports point down, and the lower floors know nothing of sockets.

The law is the table below. A module's floor is its package, or its own name if it lies directly in `proxy/`. Imports
for type checking count: knowing a type is knowing the floor.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# floor -> the floors it may import from, beside itself. "proxy" is the package's own name and version.
LEAVES = {"proxy", "address", "histogram"}  # values; they import nothing of ours
PURE = LEAVES | {"wire", "session", "pool"}
ALLOWED: dict[str, set[str]] = {
    "proxy": set(),
    "address": set(),
    "histogram": set(),
    "values": {"address"},
    "wire": set(),
    "session": LEAVES | {"wire"},
    "pool": LEAVES | {"wire"},
    "sections": {"address", "values"},
    "config": PURE | {"values", "sections"},
    "relay": PURE | {"config"},
    "ops": PURE | {"config", "relay"},
    "server": PURE | {"config", "relay", "ops"},
    "demo": PURE | {"config", "relay", "ops", "server"},
    "cli": PURE | {"values", "config", "relay", "ops", "server", "demo"},
    "__main__": {"proxy", "cli"},
}
# Who decides does not do: these floors get bytes and times as arguments.
SOCKETS = {"asyncio", "socket", "selectors", "ssl", "uvloop", "aiohttp", "aiomysql"}
FORBIDDEN: dict[str, set[str]] = {"wire": SOCKETS, "session": SOCKETS, "pool": SOCKETS | {"time"}}
STANDARD_LIBRARY_ONLY = {"wire", "address", "histogram"}


def floor_of(module: str) -> str:
    """`proxy.wire.auth` → `wire`; `proxy` → `proxy`."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0] or "proxy"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Every module that the file imports anywhere in it, with the line; relative ones made absolute."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            # `from proxy import wire` imports a floor, `from proxy import __version__` a name of the package
            for alias in node.names:
                is_floor = base == "proxy" and alias.name in ALLOWED
                yield node.lineno, f"proxy.{alias.name}" if is_floor else base


def breaches(root: Path) -> list[str]:
    """What in `root/proxy` breaks the law, one line each."""
    found = []
    for path in sorted((root / "proxy").rglob("*.py")):
        module = module_name(path, root)
        floor = floor_of(module)
        where = path.relative_to(root)
        if floor not in ALLOWED:
            found.append(f"{where}: {floor} has no floor; give it one in {Path(__file__).name}")
            continue
        for line, imported in imports(path, module):
            complaint = _complaint(floor, imported)
            if complaint:
                found.append(f"{where}:{line}: {complaint}")
    return found


def _complaint(floor: str, imported: str) -> str | None:
    top = imported.partition(".")[0]
    if top == "proxy":
        target = floor_of(imported)
        if target != floor and target not in ALLOWED[floor]:
            return f"{floor} must not import {target} ({imported})"
    elif top in FORBIDDEN.get(floor, ()):
        return f"{floor} must not import {imported}"
    elif floor in STANDARD_LIBRARY_ONLY and top not in sys.stdlib_module_names:
        return f"{floor} may import the standard library only, not {imported}"
    return None


def test_imports_point_down() -> None:
    assert breaches(ROOT) == []


def test_there_is_something_to_look_at() -> None:
    floors = {floor_of(module_name(path, ROOT)) for path in (ROOT / "proxy").rglob("*.py")}
    assert floors >= {"wire", "session", "pool", "relay", "ops", "config", "cli"}


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("wire/auth.py", "import cryptography.hazmat", "wire may import the standard library only"),
        ("wire/auth.py", "from proxy.session import pins", "wire must not import session"),
        ("wire/auth.py", "import socket", "wire must not import socket"),
        ("session/state.py", "from proxy.pool.queue import Queue", "session must not import pool"),
        ("session/state.py", "def late():\n    import asyncio", "session must not import asyncio"),
        ("pool/queue.py", "from ..session import pins", "pool must not import session"),
        ("pool/queue.py", "from time import monotonic", "pool must not import time"),
        ("pool/__init__.py", "from ..relay import relay", "pool must not import relay"),
        ("relay/relay.py", "from proxy import ops", "relay must not import ops"),
        ("relay/relay.py", "if TYPE_CHECKING:\n    from proxy.server import Server", "relay must not import server"),
        ("ops/http.py", "import proxy.cli", "ops must not import cli"),
        ("config.py", "from .relay import backend", "config must not import relay"),
        ("attic/old.py", "", "attic has no floor"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, path: str, text: str, complaint: str) -> None:
    planted = tmp_path / "proxy" / path
    planted.parent.mkdir(parents=True)
    planted.write_text(text)
    (found,) = breaches(tmp_path)
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("wire/auth.py", "import hashlib\nfrom proxy.wire import constants\nfrom . import framing"),
        ("relay/relay.py", "import asyncio\nfrom ..pool.queue import Queue\nfrom proxy import __version__, wire"),
        ("cli.py", "from proxy.server import run"),
    ],
)
def test_what_is_allowed_is_not_found(tmp_path: Path, path: str, text: str) -> None:
    planted = tmp_path / "proxy" / path
    planted.parent.mkdir(parents=True)
    planted.write_text(text)
    assert breaches(tmp_path) == []
