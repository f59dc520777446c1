"""What drivers and ORMs say when they connect: which of it reaches the server, and that none of it pins.

Each visit connects, asks one question and leaves. What is listed is what every visit after the first one adds: they
find the connection to the server as the one before has left it.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiomysql
import asyncmy
import mariadb
import mysql.connector
import MySQLdb
import pymysql
import pytest

from tests.clients.matrix.run import TOOLCHAINS, Absent
from tests.clients.suites.catalogue import SUITES, Suite
from tests.clients.suites.sources import Source, Unavailable, installed
from tests.conftest import cannot_run
from tests.live.scripts import for_flavour, shortened
from tests.live.stage import ACCOUNT, SCHEMA, Stage
from tests.servers import wait_until

TIMES = 3

Visits = Callable[[int, Path], object]  # so many of them, to a port

LOGIN: dict[str, Any] = {"host": "127.0.0.1", "user": ACCOUNT[0], "password": ACCOUNT[1]}


def python(connect: Callable[..., Any], **options: Any) -> Visits:
    """A DB-API driver in this process."""

    def visits(port: int, _directory: Path) -> None:
        for _ in range(TIMES):
            with closing(connect(**LOGIN, port=port, **options)) as connection, closing(connection.cursor()) as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchall()

    return visits


def coroutines(connect: Callable[..., Any]) -> Visits:
    """A driver for asyncio."""

    async def visit(port: int) -> None:
        connection = await connect(**LOGIN, port=port, db=SCHEMA)
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT 1")
        await connection.ensure_closed()

    async def visits(port: int) -> None:
        for _ in range(TIMES):
            await visit(port)

    return lambda port, _directory: asyncio.run(visits(port))


def _suite(name: str) -> Suite:
    return next(suite for suite in SUITES if suite.name == name)


def program(code: str, *paths: Callable[[], Path]) -> Visits:
    """A Python program with libraries that the project's own environment does not have."""

    def visits(port: int, _directory: Path) -> None:
        try:
            path = os.pathsep.join(str(find()) for find in paths)
        except Unavailable as error:
            cannot_run(str(error))
        argv = [sys.executable, "-c", code, *map(str, (port, *ACCOUNT, SCHEMA, TIMES))]
        done = subprocess.run(argv, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    return visits


def _sqlalchemy_source() -> Path:
    source = _suite("sqlalchemy-pymysql").source
    assert isinstance(source, Source)
    return source.unpacked() / "lib"


def _django_packages() -> Path:
    return installed(_suite("django").requirements)


_SQLALCHEMY = """
import sys
from sqlalchemy import create_engine, text
port, user, password, schema, times = sys.argv[1:]
for _ in range(int(times)):
    engine = create_engine(f"mysql+{driver}://{{user}}:{{password}}@127.0.0.1:{{port}}/{{schema}}")
    with engine.connect() as connection:
        connection.execute(text("SELECT 1")).all()
    engine.dispose()
"""

_DJANGO = """
import sys
from django.conf import settings
port, user, password, schema, times = sys.argv[1:]
database = {"ENGINE": "django.db.backends.mysql", "HOST": "127.0.0.1", "PORT": port, "USER": user,
            "PASSWORD": password, "NAME": schema, "TIME_ZONE": "UTC"}
settings.configure(DATABASES={"default": database}, USE_TZ=True)
from django.db import connection
for _ in range(int(times)):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchall()
    connection.close()
"""


def toolchain(client: str, **setting: Any) -> Visits:
    """A driver of another language, which asks who it is."""

    def visits(port: int, directory: Path) -> None:
        chain = next(chain for chain in TOOLCHAINS if client in chain.clients)
        cell = {"client": client, "port": port, "socket": "", "tls": False, "user": ACCOUNT[0]}
        cell |= {"password": ACCOUNT[1], "setting": chain.settings.get(client, {}) | setting}
        try:
            said = chain.run([cell | {"id": number} for number in range(TIMES)], directory)
        except Absent as why:
            cannot_run(str(why))
        assert all("who" in one for one in said.values()), said

    return visits


_NUMBER = re.compile(r"^(\+ )?\(\d+\) ")  # of a connection
OPENING = 8  # commands that only the first visit needs: a connection, and what SET NAMES comes to

VISITS: dict[str, Visits] = {
    "PyMySQL": python(pymysql.connect, database=SCHEMA),
    "PyMySQL, autocommit": python(pymysql.connect, database=SCHEMA, autocommit=True),
    "PyMySQL, init_command": python(pymysql.connect, database=SCHEMA, init_command="SET time_zone = '+00:00'"),
    "PyMySQL, sql_mode": python(pymysql.connect, database=SCHEMA, charset="utf8mb4", sql_mode="ANSI"),
    "aiomysql": coroutines(aiomysql.connect),
    "asyncmy": coroutines(asyncmy.connect),
    "mysqlclient": python(MySQLdb.connect, database=SCHEMA),
    "mysqlclient, charset": python(MySQLdb.connect, database=SCHEMA, charset="utf8mb4", autocommit=True),
    "connector": python(mysql.connector.connect, database=SCHEMA, use_pure=True),
    "connector, autocommit": python(mysql.connector.connect, database=SCHEMA, use_pure=True, autocommit=True),
    "mariadb": python(mariadb.connect, database=SCHEMA),
    "SQLAlchemy, PyMySQL": program(_SQLALCHEMY.format(driver="pymysql"), _sqlalchemy_source),
    "SQLAlchemy, mysqlclient": program(_SQLALCHEMY.format(driver="mysqldb"), _sqlalchemy_source),
    "Django": program(_DJANGO, _django_packages),
    "go-sql-driver": toolchain("go-sql-driver"),
    "go-sql-driver, settings": toolchain("go-sql-driver", collation="utf8mb4_bin", time_zone="%27%2B00:00%27"),
    "npm mysql2": toolchain("npm mysql2", database=SCHEMA),
    "npm mysql": toolchain("npm mysql", database=SCHEMA),
    "npm mariadb": toolchain("npm mariadb", database=SCHEMA),
    "PHP mysqli": toolchain("PHP mysqli"),
    "PHP PDO": toolchain("PHP PDO"),
}


_SQLALCHEMY = """
        SET NAMES utf8mb4
        SELECT @@collation_connection
        SELECT VERSION()
        SELECT DATABASE()
        [mariadb] SELECT @@tx_isolation
        [mysql] SELECT @@transaction_isolation
        SELECT @@sql_mode
        SELECT @@lower_case_table_names
        ROLLBACK
        SELECT 1
        ROLLBACK
"""

ADDED = {
    "PyMySQL": """
        SET SESSION autocommit=1
        SET AUTOCOMMIT = 0
        SELECT 1
    """,
    "PyMySQL, autocommit": """
        SELECT 1
    """,
    "PyMySQL, init_command": """
        SET SESSION autocommit=1,SESSION time_zone=DEFAULT
        SET time_zone = '+00:00'
        SET AUTOCOMMIT = 0
        SELECT 1
    """,
    "PyMySQL, sql_mode": """
        SET SESSION autocommit=1,SESSION sql_mode=DEFAULT
        SET sql_mode='ANSI'
        SET AUTOCOMMIT = 0
        SELECT 1
    """,
    "aiomysql": """
        SET SESSION autocommit=1
        SET AUTOCOMMIT = 0
        SELECT 1
    """,
    "asyncmy": """
        SET SESSION autocommit=1
        SET AUTOCOMMIT = 0
        SELECT 1
    """,
    "mysqlclient": """
        SET SESSION autocommit=1
        SET autocommit=0
        SELECT 1
    """,
    "mysqlclient, charset": """
        SELECT 1
    """,
    "connector": """
        SET SESSION autocommit=1
        SET @@session.autocommit = OFF
        SELECT 1
    """,
    "connector, autocommit": """
        SET @@session.autocommit = ON
        SELECT 1
    """,
    "mariadb": """
        SET SESSION autocommit=1
        SET AUTOCOMMIT=0
        SELECT 1
    """,
    "SQLAlchemy, PyMySQL": """
        SET SESSION autocommit=1
        SET AUTOCOMMIT = 0
    """
    + _SQLALCHEMY,
    "SQLAlchemy, mysqlclient": """
        SET SESSION autocommit=1
        SET autocommit=0
    """
    + _SQLALCHEMY,
    "Django": """
        [mariadb] SET SESSION tx_isolation=DEFAULT
        [mysql] SET SESSION transaction_isolation=DEFAULT
        SET autocommit=0
        SET autocommit=1
        SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED
        SELECT 1
    """,
    "go-sql-driver": """
        SELECT CURRENT_USER()
    """,
    "go-sql-driver, settings": """
        SET SESSION time_zone=DEFAULT
        SET time_zone='+00:00'
        SELECT CURRENT_USER()
    """,
    "npm mysql2": """
        SELECT CURRENT_USER() AS who
    """,
    "npm mysql": """
        SELECT CURRENT_USER() AS who
    """,
    "npm mariadb": """
        SELECT CURRENT_USER() AS who
    """,
    "PHP mysqli": """
        SELECT CURRENT_USER()
    """,
    "PHP PDO": """
        SELECT CURRENT_USER()
    """,
}


@pytest.mark.parametrize("name", VISITS)
def test_a_visit_adds_what_is_listed_and_does_not_pin(stage: Stage, name: str, tmp_path: Path) -> None:
    wanted = [line.strip() for line in for_flavour(ADDED[name], stage.server.flavour)]
    stage.begin()
    pins = pinned(stage)
    VISITS[name](stage.pooler.port, tmp_path)
    wait_until(lambda: at_rest(stage), 10, "everybody has left")
    assert pinned(stage) == pins
    lines = [_NUMBER.sub(r"\1", shortened(line)) for line in stage.sightings.lines()]
    later = (TIMES - 1) * wanted
    assert lines[-len(later) :] == later, lines
    assert len(lines) <= TIMES * len(wanted) + OPENING, lines


def pinned(stage: Stage) -> dict[str, float]:
    """How often sessions have been pinned, by reason."""
    return {name: value for name, value in stage.pooler.metrics().items() if name.startswith("mybouncer_pins_total")}


def at_rest(stage: Stage) -> bool:
    """Nobody is there, and no connection is in use."""
    now = stage.pooler.metrics()
    states = ("leased", "opening", "resetting", "closing")
    clients = sum(value for name, value in now.items() if name.startswith("mybouncer_clients{"))
    return not clients and not any(now[f'mybouncer_backends{{state="{state}"}}'] for state in states)
