"""`mybouncer demo` as a person starts it: what it shows, what it answers, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, require_server
from tests.servers import wait_until

DEMO = [sys.executable, "-m", "proxy", "demo"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The demonstration's directory goes where the test can see it."""
    require_server("mariadb")
    (tmp_path / "t").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MYBOUNCER_")}
    return kept | {"TMPDIR": str(tmp_path / "t"), "COLUMNS": "80", "PYTHONUNBUFFERED": "1"}


def left_behind(environment: dict[str, str]) -> list[str]:
    """What lies in its directory, and the processes that were started in it."""
    place = environment["TMPDIR"]
    found = os.listdir(place)
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if place.encode() in command:
            found.append(command.decode(errors="replace"))
    return found


def row(output: str, name: str) -> list[str]:
    """The cells of a row of the table."""
    (line,) = [line for line in output.splitlines() if re.match(rf"\W+{name}\b", line)]
    return [cell.strip() for cell in re.split("[│|]", line.strip("│| "))][1:]


@pytest.mark.live
@pytest.mark.xdist_group("mariadb")
def test_shown_once_the_leak_breaks_the_server_and_not_the_pooler(environment: dict[str, str]) -> None:
    done = subprocess.run([*DEMO, "--once"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert row(done.stdout, "succeeded")[1] == "500"
    direct, pooled = map(int, row(done.stdout, "refused"))
    assert direct > 400
    assert pooled == 0
    assert row(done.stdout, "with the error") == ["1040 Too many connections", "–"]
    peak, of = re.findall(r"\d+", row(done.stdout, "peak on the server")[1])
    assert 1 <= int(peak) <= int(of) == 10
    assert left_behind(environment) == []


@pytest.mark.live
@pytest.mark.xdist_group("mariadb")
@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("starting a MariaDB", signal.SIGTERM, 1),  # its tables are being created
        ("straight at MariaDB: 100/500", signal.SIGINT, 1),
        ("through mybouncer: 100/500", signal.SIGTERM, 1),
        ("Ctrl-C ends it", signal.SIGINT, 0),
    ],
)
def test_a_signal_at_any_moment_leaves_nothing_behind(
    environment: dict[str, str], tmp_path: Path, moment: str, number: int, code: int
) -> None:
    output = tmp_path / "output"
    with open(output, "wb") as stream:
        process = subprocess.Popen(DEMO, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: moment in output.read_text() or process.poll() is not None, 60, f"it says {moment!r}")
        process.send_signal(number)
        assert process.wait(30) == code, output.read_text()
    finally:
        process.kill()
        process.wait()
    assert left_behind(environment) == []


def test_without_mariadb_it_says_how_to_get_one(tmp_path: Path) -> None:
    # On a machine that has one, what is found is hidden by looking for it elsewhere.
    code = (
        "import sys, proxy.demo.processes as p; p._SEARCH = ();"
        "from proxy.cli import main; sys.exit(main(['demo', '--once']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "apt-get install mariadb-server" in done.stderr
    assert "Traceback" not in done.stderr
