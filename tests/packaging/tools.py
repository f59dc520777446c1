"""The programs that files of ours are made for, as the tests call them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import ROOT, cannot_run

COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"


def run(*argv: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Its standard output; fails with all it said when it fails."""
    done = outcome(*argv, cwd=cwd, env=env)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def outcome(*argv: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What came of it, good or bad."""
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def program(name: str) -> str:
    """Its path; a test whose program is not here cannot run."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")
    return path or cannot_run(f"no {name} on this machine (`make test` installs it)")


@functools.cache
def compose() -> list[str]:
    """Docker Compose: the plugin where there is one, else the program."""
    docker = shutil.which("docker")
    if docker and outcome(docker, "compose", "version").returncode == 0:
        return [docker, "compose"]
    return [program("docker-compose")]


@functools.cache
def promtool() -> str:
    """Prometheus' own checker."""
    found = outcome(ROOT / "scripts" / "promtool", "--find")
    return found.stdout.strip() or cannot_run("no promtool on this machine (`make test` installs it)")
