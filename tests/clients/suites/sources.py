"""Where the suites come from: the source distributions of the libraries, as the package index has them.

Nothing of theirs is in this repository. A source is fetched once, checked against its hash and unpacked below the
user's cache directory; what a suite needs beside the project's own environment is installed into a directory of its
own there. Both stay for later runs, and no run writes into them.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.servers import cache_directory, locked


class Unavailable(RuntimeError):
    """The package index did not give what was asked for."""


@dataclass(frozen=True)
class Source:
    """A source distribution that contains the tests of its library."""

    project: str
    version: str
    sha256: str

    def unpacked(self) -> Path:
        """The directory it is unpacked in."""
        return _made_once(f"{self.project}-{self.version}", self._unpack)

    def _unpack(self, directory: Path) -> None:
        with tempfile.TemporaryDirectory() as download:
            required = Path(download, "required.txt")
            required.write_text(f"{self.project}=={self.version} --hash=sha256:{self.sha256}\n")
            _pip("download", "--no-deps", f"--no-binary={self.project}", "-d", download, "-r", required)
            (archive,) = Path(download).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(download, filter="data")
            (top,) = (path for path in Path(download).iterdir() if path.is_dir())
            shutil.copytree(top, directory)


@dataclass(frozen=True)
class Package:
    """A package of the distribution that contains tests: scripts/install-packages installs it."""

    name: str
    directory: Path

    def unpacked(self) -> Path:
        """The directory they are in."""
        if not self.directory.is_dir():
            raise Unavailable(f"{self.directory} is not there; it is in {self.name}")
        return self.directory


def installed(requirements: tuple[str, ...]) -> Path:
    """A directory for PYTHONPATH with these requirements, and not what they require."""
    name = "packages-" + hashlib.sha256(repr((sys.version_info[:2], requirements)).encode()).hexdigest()[:16]
    return _made_once(name, lambda directory: _pip("install", "--no-deps", "--target", directory, *requirements))


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    directory = cache_directory() / "suites" / name
    with locked(directory.with_name(f"{name}.lock")):
        if not directory.exists():
            unfinished = directory.with_name(f"{name}.building")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(directory)
    return directory


def _pip(*arguments: str | Path) -> None:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"pip {arguments[0]} failed:\n{done.stdout[-4000:]}")
