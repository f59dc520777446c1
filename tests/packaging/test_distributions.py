"""Wheel and sdist as `python -m build` makes them of a checkout, and the wheel at work where no checkout is."""

from __future__ import annotations

import email
import os
import shutil
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy import __version__
from tests.conftest import ROOT, cannot_run, require_server
from tests.packaging.tools import outcome, run

# All tests use what one worker has built.
pytestmark = pytest.mark.xdist_group("distributions")

_NOT_TRACKED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "*.egg-info")


@dataclass(frozen=True)
class Built:
    """A copy of the checkout, the sdist made of it, and the wheel made of that sdist."""

    checkout: Path
    sdist: Path
    wheel: Path


def build(checkout: Path, output: Path, *what: str) -> None:
    """With the setuptools that is here, so that nothing has to be fetched."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, *what, checkout, cwd=output.parent)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    place = tmp_path_factory.mktemp("distributions")
    checkout = place / "checkout"
    shutil.copytree(ROOT, checkout, ignore=_NOT_TRACKED)
    # What somebody who tried deploy/compose.yaml has lying about.
    (checkout / "deploy" / "secrets").mkdir(exist_ok=True)
    (checkout / "deploy" / "secrets" / "root_password").write_text("secret")
    build(checkout, place / "dist")
    (sdist,) = (place / "dist").glob("*.tar.gz")
    (wheel,) = (place / "dist").glob("*.whl")
    return Built(checkout, sdist, wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_sdist_holds_what_is_needed_to_run_it_and_no_secrets(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    here = [ROOT / "config", ROOT / "docs", ROOT / "deploy", ROOT / "proxy"]
    wanted = {str(path.relative_to(ROOT)) for top in here for path in top.rglob("*.*") if path.is_file()}
    wanted = {name for name in wanted if "__pycache__" not in name and "secrets" not in name}
    assert len(wanted) > 60
    assert wanted | {"README.md", "CHANGELOG.md", "Dockerfile", "pyproject.toml"} <= names
    assert [name for name in names if name.startswith(("deploy/secrets", "tests", "bench", "."))] == [".dockerignore"]


def test_the_sdist_and_the_checkout_build_the_same_wheel(built: Built, tmp_path: Path) -> None:
    build(built.checkout, tmp_path / "dist", "--wheel")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name == built.wheel.name == f"mybouncer-{__version__}-py3-none-any.whl"
    assert contents(wheel) == contents(built.wheel)


def test_the_wheel_holds_the_typed_package_and_nothing_else(built: Built) -> None:
    names = contents(built.wheel).keys()
    assert {name.partition("/")[0] for name in names} == {"proxy", f"mybouncer-{__version__}.dist-info"}
    assert "proxy/py.typed" in names


def test_the_metadata_says_what_it_is(built: Built) -> None:
    text = contents(built.wheel)[f"mybouncer-{__version__}.dist-info/METADATA"].decode()
    metadata = email.message_from_string(text)
    assert metadata["Name"] == "mybouncer"
    assert metadata["Version"] == __version__
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in (metadata.get_all("Classifier") or [])
    assert str(metadata.get_payload()).strip() == (ROOT / "README.md").read_text().strip()


@pytest.mark.live
def test_the_wheel_works_in_an_empty_environment_away_from_the_checkout(built: Built, tmp_path: Path) -> None:
    require_server("mariadb")
    place = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=tmp_path)
    # Ours, for an environment that has none of its own.
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--python", str(place))
    installed = outcome(*pip, "install", "--no-compile", built.wheel)
    if installed.returncode != 0:
        cannot_run(f"pip cannot install the wheel and what it requires:\n{installed.stderr.strip()[-2000:]}")
    (tmp_path / "t").mkdir()
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "t"), "COLUMNS": "80"}

    def mybouncer(*arguments: str | Path) -> list[str]:
        return run(place / "bin" / "mybouncer", *arguments, cwd=tmp_path, env=environment).splitlines()

    run(*pip, "check")
    assert mybouncer("--version") == [f"mybouncer {__version__}"]
    assert mybouncer("check-config", ROOT / "config" / "mybouncer.toml")[0].endswith("mybouncer.toml: ok")
    refused = [line for line in mybouncer("demo", "--once") if "refused" in line][-1]
    assert refused.split("│")[3].strip() == "0"
