"""The suites: where each comes from, what it needs, and how a copy of it is told where the server is.

A suite is run in a copy of its source. `prepare` makes that copy from the unpacked source and writes the suite's own
configuration files; it changes nothing in the tests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pymysql

from tests.clients.clients import Account, Target
from tests.clients.suites.sources import Package, Source
from tests.servers import FLAVOURS

SUITE_ACCOUNT = Account("suite", "suite-secret", "test1")
ROOT = Account("root", "root-secret", "test_pymysql")

# Run in the copy; the report is in JUnit's format.
_PYTEST = ("-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir=.")
_PYTEST += ("--junit-xml=report.xml",)

Environment = dict[str, str]
Prepare = Callable[[Path, Path, Target, Account], Environment]


@dataclass(frozen=True)
class Suite:
    """One library's tests."""

    name: str
    source: Source | Package
    prepare: Prepare
    arguments: tuple[str, ...]
    library: str  # the distribution that is tested; with its version, if that is not the one of a requirement
    command: tuple[str, ...] = _PYTEST  # for Python, in the copy; writes report.xml
    requirements: tuple[str, ...] = ()
    account: Account = SUITE_ACCOUNT
    over_socket: bool = False
    short: tuple[str, ...] = ()  # the arguments in `make test`; without them it is only in `make clients`
    deadline: float = 120.0
    cap: int = 4
    flavours: tuple[str, ...] = FLAVOURS
    statements: tuple[str, ...] = ()  # what root does at the server first
    options: dict[str, object] = field(default_factory=dict)  # of the server
    is_short: bool = False

    def shortened(self) -> Suite:
        """As `make test` runs it."""
        return replace(self, arguments=self.short, is_short=self.short != self.arguments)


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


# --- SQLAlchemy ---


def _prepare_sqlalchemy(source: Path, copy: Path, target: Target, account: Account) -> Environment:
    for folder in ("test", "lib"):
        shutil.copytree(source / folder, copy / folder)
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(source / name, copy)
    where = f"{account.user}:{account.password}@{target.host}:{target.port}/{account.database}?charset=utf8mb4"
    databases = (f"{driver} = mysql+{driver}://{where}\n" for driver in ("pymysql", "mysqldb"))
    (copy / "test.cfg").write_text("[db]\n" + "".join(databases))
    return {"PYTHONPATH": "lib"}


def _sqlalchemy(driver: str, *short: str) -> Suite:
    """Its tests of what a dialect has to do, and its own of this dialect, with one driver."""
    everything = ("test/dialect/test_suite.py", "test/dialect/mysql")
    options = ("-o", "addopts=-p warnings -p logging", "--maxfail=10000", "--db", driver)
    return Suite(
        f"sqlalchemy-{driver}",
        Source("SQLAlchemy", "2.0.44", "0ae7454e1ab1d780aee69fd2aae7d6b8670a581d8847f2d1e0f7ddfbf47e5a22"),
        _prepare_sqlalchemy,
        (*options, *everything),
        library=f"SQLAlchemy 2.0.44 on {driver}",
        short=(*options, *short) if short else (),
        statements=("CREATE DATABASE test_schema CHARACTER SET utf8mb4", "ALTER DATABASE test1 CHARACTER SET utf8mb4"),
        deadline=600.0,
    )


# --- Django ---

# What talks to a database most: transactions, locks, schema changes, introspection, every kind of query.
_DJANGO = """
    aggregation annotations backends basic bulk_create constraints custom_pk datetimes db_functions delete expressions
    expressions_case expressions_window from_db_value get_or_create indexes inspectdb introspection lookup migrations
    model_fields multiple_database queries raw_query schema select_for_update select_related serializers
    test_utils timezones transaction_hooks transactions update
"""


def _prepare_django(source: Path, copy: Path, target: Target, account: Account) -> Environment:
    shutil.copytree(source / "tests", copy, dirs_exist_ok=True)
    login = {"HOST": target.host, "PORT": target.port, "USER": account.user, "PASSWORD": account.password}
    databases = {
        name: {"ENGINE": "django.db.backends.mysql", "NAME": f"django_{name}", "TEST": {"CHARSET": "utf8mb4"}} | login
        for name in ("default", "other")
    }
    settings = {
        "DATABASES": databases,
        "SECRET_KEY": "none",
        "USE_TZ": False,
        "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
        "DEFAULT_AUTO_FIELD": "django.db.models.AutoField",
        "TEST_RUNNER": "xmlrunner.extra.djangotestrunner.XMLTestRunner",
        "TEST_OUTPUT_FILE_NAME": "report.xml",
    }
    (copy / "suite_settings.py").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    return {}


# --- MariaDB's own ---

# As its own program starts a server, for what the expected results depend on.
_MYSQLTEST_OPTIONS: dict[str, object] = {
    "character_set_server": "latin1",
    "collation_server": "latin1_swedish_ci",
    "default_storage_engine": "myisam",
    "use_stat_tables": "preferably",
    "histogram_type": "json_hb",
    "sort_buffer_size": "256K",
    "max_heap_table_size": "1M",
    "key_buffer_size": "1M",
    "log_bin_trust_function_creators": 1,
    "local_infile": 1,
    "secure_file_priv": "/",
    "performance_schema": 1,
}


def _prepare_mysqltest(source: Path, copy: Path, target: Target, account: Account) -> Environment:
    shutil.copy(Path(__file__).with_name("mysqltest.py"), copy / "test_mysqltest.py")
    return {"MYSQLTEST_SOURCE": str(source), "MYSQLTEST_SOCKET": target.unix_socket, "MYSQLTEST_PROTOCOL": ""}


def _prepare_mysqltest_prepared(source: Path, copy: Path, target: Target, account: Account) -> Environment:
    return _prepare_mysqltest(source, copy, target, account) | {"MYSQLTEST_PROTOCOL": "--ps-protocol"}


def _mysqltest(name: str, prepare: Prepare, *short: str) -> Suite:
    return Suite(
        name,
        Package("mariadb-test", Path("/usr/share/mysql/mysql-test")),
        prepare,
        ("test_mysqltest.py",),
        library=f"MariaDB's main suite ({name})",
        short=short and ("test_mysqltest.py", "-k", " or ".join(short)),
        account=ROOT,
        over_socket=True,
        deadline=1800.0,
        cap=20,  # some of them work with a dozen sessions in transactions
        flavours=("mariadb",),
        statements=("ALTER USER root@localhost IDENTIFIED BY ''", "CREATE DATABASE IF NOT EXISTS test"),
        options=_MYSQLTEST_OPTIONS,
    )


SUITES = (
    Suite(
        "pymysql",
        _PYMYSQL,
        _prepare_current_pymysql,
        ("pymysql/tests",),
        library="PyMySQL",
        short=("pymysql/tests",),
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
    _sqlalchemy("pymysql"),
    _sqlalchemy("mysqldb"),
    Suite(
        "django",
        Source("Django", "5.2.8", "23254866a5bb9a2cfa6004e8b809ec6246eba4b58a7589bc2772f1bcc8456c7f"),
        _prepare_django,
        tuple(_DJANGO.split()),
        library="Django",
        command=("runtests.py", "--settings=suite_settings", "--parallel=1", "-v0", "--noinput"),
        requirements=(
            "Django==5.2.8",
            "asgiref==3.13.0",
            "sqlparse==0.6.1",
            "unittest-xml-reporting==4.0.0",
            "lxml==6.1.3",
        ),
        short=("backends", "transactions", "transaction_hooks", "get_or_create", "select_for_update"),
        deadline=1800.0,
    ),
    _mysqltest(
        "mysqltest",
        _prepare_mysqltest,
        "trans",
        "lock",
        "temp_table",
        "user_var",
        "sp-",
        "variables",
        "ctype_u",
        "insert",
        "union",
        "func_",
        "view",
        "alter",
        "null",
        "group",
    ),
    _mysqltest("mysqltest-prepared", _prepare_mysqltest_prepared),
)
