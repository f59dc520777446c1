"""The suites: where each comes from, what it needs, and how a copy of it is told where the server is.

A suite is run in a copy of its source. `prepare` makes that copy from the unpacked source and writes the suite's own
configuration files; it changes nothing in the tests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pymysql

from tests.clients.clients import Account, Target
from tests.clients.suites.sources import Source

SUITE_ACCOUNT = Account("suite", "suite-secret", "test1")
ROOT = Account("root", "root-secret", "test_pymysql")

Environment = dict[str, str]
Prepare = Callable[[Path, Path, Target, Account], Environment]


@dataclass(frozen=True)
class Suite:
    """One library's tests."""

    name: str
    source: Source
    prepare: Prepare
    arguments: tuple[str, ...]
    library: str  # the distribution that is tested
    requirements: tuple[str, ...] = ()
    account: Account = SUITE_ACCOUNT
    over_socket: bool = False
    quick: bool = False  # part of `make test`, not only of `make clients`
    deadline: float = 120.0


# --- PyMySQL ---

# The newest source distribution that has the tests of the library.
_PYMYSQL = Source("PyMySQL", "0.10.1", "263040d2779a3b84930f7ac9da5132be0fefcd6f453a885756656103f8ee1fdd")


def _prepare_pymysql(source: Path, copy: Path, target: Target, account: Account) -> Environment:
    shutil.copytree(source / "pymysql", copy / "pymysql")
    login = target.where | {"user": account.user, "passwd": account.password}
    databases = [
        login | {"db": account.database, "use_unicode": True, "local_infile": True},
        login | {"db": "test2"},
    ]
    (copy / "pymysql/tests/databases.json").write_text(json.dumps(databases))
    # The one data file that the distribution leaves out: this many rows of two numbers.
    data = copy / "pymysql/tests/data/load_local_data.txt"
    data.parent.mkdir()
    data.write_text("1,2\n" * 22749)
    return {}


def _prepare_current_pymysql(source: Path, copy: Path, target: Target, account: Account) -> Environment:
    """The tests are inside the package of the library: the installed one is laid over the old one."""
    environment = _prepare_pymysql(source, copy, target, account)
    shutil.copytree(Path(pymysql.__file__).parent, copy / "pymysql", dirs_exist_ok=True)
    return environment


# --- aiomysql ---


def _prepare_aiomysql(source: Path, copy: Path, target: Target, account: Account) -> Environment:
    shutil.copytree(source / "tests", copy / "tests")
    # Over TCP it insists on TLS; over a unix socket it does not.
    (copy / "pytest.ini").write_text(f"[pytest]\naddopts = --mysql-unix-socket=server={target.unix_socket}\n")
    return {"MYSQL_ROOT_PASSWORD": account.password}


# --- mysqlclient ---


def _prepare_mysqlclient(source: Path, copy: Path, target: Target, account: Account) -> Environment:
    shutil.copytree(source / "tests", copy / "tests")
    options = target.where | {"user": account.user, "password": account.password, "database": account.database}
    path = copy / "server.cnf"
    path.write_text("[MySQLdb-tests]\n" + "".join(f"{name}={value}\n" for name, value in options.items()))
    return {"TESTDB": str(path)}


# --- mysql-connector-python ---

_CONNECTOR_NEEDS_MORE = ("tests/otel", "tests/ai", "tests/test_django.py")  # packages that are not about MySQL


def _prepare_connector(source: Path, copy: Path, target: Target, account: Account) -> Environment:
    for folder in ("tests", "cpydist", "examples"):
        shutil.copytree(source / folder, copy / folder)
    version = "lib/mysql/connector/version.py"  # read by cpydist; the library itself is the installed one
    (copy / version).parent.mkdir(parents=True)
    shutil.copy(source / version, copy / version)
    shutil.copy(Path(__file__).with_name("connector_start.py"), copy)
    return {
        "CONNECTOR_PORT": str(target.port),
        "CONNECTOR_USER": account.user,
        "CONNECTOR_PASSWORD": account.password,
    }


SUITES = (
    Suite(
        "pymysql",
        _PYMYSQL,
        _prepare_current_pymysql,
        ("pymysql/tests",),
        library="PyMySQL",
        quick=True,
    ),
    Suite(
        "pymysql-0.10",
        _PYMYSQL,
        _prepare_pymysql,
        ("pymysql/tests",),
        library="PyMySQL 0.10.1",
    ),
    Suite(
        "aiomysql",
        Source("aiomysql", "0.3.2", "72d15ef5cfc34c03468eb41e1b90adb9fd9347b0b589114bd23ead569a02ac1a"),
        _prepare_aiomysql,
        ("tests",),
        library="aiomysql",
        # What its requirements-dev.txt names: with a newer PyMySQL or pytest some of its tests fail anywhere.
        requirements=("aiomysql==0.3.2", "PyMySQL==1.1.2", "SQLAlchemy==1.3.24", "pytest==8.4.2"),
        account=ROOT,
        over_socket=True,
        deadline=300.0,
    ),
    Suite(
        "mysqlclient",
        Source("mysqlclient", "2.3.2", "d8921cc2e8aa0e7f7c1c0b69b17e3a6f370dae235c7e7716938959dac84de4eb"),
        _prepare_mysqlclient,
        ("tests",),
        library="mysqlclient",
        requirements=("SQLAlchemy==2.0.44",),
    ),
    Suite(
        "connector",
        Source("mysql-connector-python", "9.7.0", "933887e71c871b6e9d8908459fe8303ebcf8feb5cc1e1c49caa6490e525cf78e"),
        _prepare_connector,
        ("-p", "connector_start", "tests", *(f"--ignore={path}" for path in _CONNECTOR_NEEDS_MORE)),
        library="mysql-connector-python",
        # The C extension of later ones needs an OpenSSL that Debian 12 does not have.
        requirements=("mysql-connector-python==9.7.0",),
        deadline=1800.0,
    ),
)
