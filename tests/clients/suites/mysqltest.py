"""MariaDB's own tests, each as a test of pytest: what the server answers is what the expected results say.

It is copied into a directory of its own and run there. The distribution's program for them, mariadb-test-run, is not
used: at a server that it has not started it does not clean up between them, so that one which fails makes others fail.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pymysql
import pytest

SOURCE = Path(os.environ["MYSQLTEST_SOURCE"])
SOCKET = os.environ["MYSQLTEST_SOCKET"]
SERVER = Path(SOCKET).parent  # its data and its socket, and the proxy's, are there
DEADLINE = 60.0
SKIPPED = 62  # the program's exit code

# These want a server started for them, stop it, change it for everybody, look for other programs, count the server's
# connections (which are not the clients', behind a pooler), or take very long.
_NOT_AT_A_SERVER_OF_OTHERS = re.compile(
    r"restart_mysqld|shutdown|have_debug|big_test|bootstrap|start_mysqld|kill_mysqld|mysqld_cmd|replication|master-slave"
    r"|--?exec|system |perl|plugin|set global|@@global|create user|grant |flush privileges|set password"
    r"|mysql\.|count_sessions|analyze_format|benchmark\(",
    re.IGNORECASE,
)
_OWN_OPTIONS = (".opt", "-master.opt", "-slave.opt", ".cnf", ".combinations")


def _fits(path: Path) -> bool:
    if any(path.with_name(path.stem + suffix).exists() for suffix in _OWN_OPTIONS):
        return False
    return not _NOT_AT_A_SERVER_OF_OTHERS.search(path.read_text(errors="replace"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    paths = sorted((SOURCE / "main").glob("*.test"))
    metafunc.parametrize("path", [path for path in paths if _fits(path)], ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def _data() -> None:
    """The files that tests load, where they look for them: two above the directory of a database."""
    (SERVER / "std_data").symlink_to(SOURCE / "std_data")


@pytest.fixture
def _clean(_data: None) -> None:
    """As the first test found it."""
    root = pymysql.connect(unix_socket=SOCKET, user="root")
    with contextlib.closing(root), root.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        for (name,) in cursor.fetchall():
            if name not in ("information_schema", "mysql", "performance_schema", "sys"):
                with contextlib.suppress(pymysql.err.OperationalError):  # a file that is no table's is in the way
                    cursor.execute(f"DROP DATABASE `{name}`")
                shutil.rmtree(SERVER / "data" / name, ignore_errors=True)
        cursor.execute("CREATE DATABASE test")
        cursor.execute("CREATE DATABASE mtr")
        cursor.execute("CREATE PROCEDURE mtr.add_suppression(pattern TEXT) BEGIN END")


@pytest.mark.usefixtures("_clean")
def test_main(path: Path, tmp_path: Path) -> None:
    expected = Path(shutil.copy(path.with_suffix(".result"), tmp_path))  # what differs is written beside it
    argv = ["mysqltest", "--no-defaults", "--silent", "--user=root", f"--socket={SOCKET}", "--database=test"]
    argv += [f"--tmpdir={tmp_path}", f"--logdir={tmp_path}", f"--test-file={path}"]
    argv += [f"--result-file={expected}", *os.environ["MYSQLTEST_PROTOCOL"].split()]
    environment = os.environ | {
        "MYSQL_TEST_DIR": str(SOURCE),
        "MYSQLTEST_VARDIR": str(SERVER),
        "MYSQL_TMP_DIR": str(tmp_path),
        "MASTER_MYSOCK": SOCKET,
        "MASTER_MYPORT": "3306",
        "DEFAULT_MASTER_PORT": "3306",
        "MARIADB_CHARSETS": "",
    }
    done = subprocess.run(argv, cwd=SOURCE, env=environment, capture_output=True, timeout=DEADLINE, check=False)
    if done.returncode == SKIPPED:
        pytest.skip(done.stderr.decode(errors="replace")[-200:])
    assert done.returncode == 0, (
        done.stderr.decode(errors="replace")[-4000:] + done.stdout.decode(errors="replace")[-1000:]
    )
