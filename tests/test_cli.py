"""The command line as a person meets it: what it prints, and its exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from proxy import __version__, cli

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("MYBOUNCER_LOG__LEVEL", raising=False)


class FakeModule(ModuleType):
    """Stands in for a module whose `run` is called by the command line."""

    def __init__(self, name: str, result: int | BaseException) -> None:
        super().__init__(name)
        self.calls: list[Any] = []
        self.result = result

    def run(self, argument: Any, *_: object) -> int:
        self.calls.append(argument)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def fake(monkeypatch: pytest.MonkeyPatch, name: str, result: int | BaseException = 0) -> FakeModule:
    module = FakeModule(name, result)
    monkeypatch.setitem(sys.modules, name, module)
    # `from package import module` looks at the package first.
    monkeypatch.setattr(sys.modules["proxy"], name.rpartition(".")[2], module, raising=False)
    return module


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mybouncer {__version__}\n"


def test_the_version_needs_nothing_heavy() -> None:
    """Neither the configuration nor the server is imported for it."""
    code = (
        "import sys; from proxy.cli import main; main(['--version']);"
        "print([m for m in ('pydantic', 'asyncio', 'uvloop', 'aiohttp', 'structlog') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[1] == "[]"


def test_the_package_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"mybouncer {__version__}\n")


def test_help_lists_the_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("serve", "check-config", "console", " top ", "demo"))


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--nonsense"], ["check-config"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_good_file_is_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-config", str(ROOT / "config" / "mybouncer.toml")]) == 0
    out = capsys.readouterr().out
    assert "ok" in out and "127.0.0.1:3306" in out and "127.0.0.1:6033" in out


def test_all_faults_of_a_file_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[pool]\nmax_conections = 3\nidle_timeout = 30\n")
    assert cli.main(["check-config", str(path)]) == 2
    err = capsys.readouterr().err
    assert "2 faults" in err
    assert f"{path}: pool.idle_timeout = 30" in err
    assert "did you mean max_connections?" in err


def test_the_environment_is_checked_with_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MYBOUNCER_QUEUE__TIMEOUT", "30")
    assert cli.main(["check-config", str(ROOT / "config" / "minimal.toml")]) == 2
    assert "environment variable MYBOUNCER_QUEUE__TIMEOUT: queue.timeout" in capsys.readouterr().err


def test_serve_gets_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    server = fake(monkeypatch, "proxy.server")
    flags = ["--backend", "mysql://db:3307", "--listen", "a:1", "--listen", "unix:/x", "--http", "off"]
    assert cli.main(["serve", *flags, "--max-connections", "7"]) == 0
    (config,) = server.calls
    assert (config.backend.host, config.backend.port) == ("db", 3307)
    assert [str(address) for address in config.listen.addresses] == ["a:1", "unix:/x"]
    assert config.http.address is None
    assert config.pool.max_connections == 7


def test_serve_reads_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = fake(monkeypatch, "proxy.server")
    path = tmp_path / "a.toml"
    path.write_text("[pool]\nmax_connections = 3\n")
    assert cli.main(["serve", "--config", str(path)]) == 0
    assert server.calls[0].pool.max_connections == 3


def test_a_bad_flag_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    server = fake(monkeypatch, "proxy.server")
    assert cli.main(["serve", "--max-connections", "lots", "--backend", "db"]) == 2
    err = capsys.readouterr().err
    assert "flag --max-connections" in err and "flag --backend" in err
    assert server.calls == []


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (OSError(98, "Address already in use"), "Address already in use"),
        (RuntimeError("what happened"), "RuntimeError: what happened"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_failure_is_one_line_and_1(
    failure: BaseException, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(monkeypatch, "proxy.server", failure)
    assert cli.main(["serve"]) == 1
    err = capsys.readouterr().err
    assert words in err and len(err.splitlines()) == 1


def test_whoever_debugs_gets_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "proxy.server", RuntimeError("what happened"))
    monkeypatch.setenv("MYBOUNCER_LOG__LEVEL", "debug")
    with pytest.raises(RuntimeError, match="what happened"):
        cli.main(["serve"])


@pytest.mark.parametrize("result", [0, 1])
def test_the_exit_code_of_the_server_is_ours(result: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "proxy.server", result)
    assert cli.main(["serve"]) == result


@pytest.mark.parametrize(("flags", "once"), [([], False), (["--once"], True)])
def test_demo_is_told_whether_to_stay(flags: list[str], once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = fake(monkeypatch, "proxy.demo")
    assert cli.main(["demo", *flags]) == 0
    assert demo.calls == [once]
