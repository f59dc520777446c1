"""The Python drivers behind one set of names; where they differ, the difference is here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiomysql
import mysql.connector
import MySQLdb
import MySQLdb.constants.CLIENT
import MySQLdb.cursors
import pymysql
import pymysql.cursors
from pymysql.constants import CLIENT

from tests.clients.clients import Target

_LOGIN = {"user": "app", "password": "app-secret"}

Connection = Any
Cursor = Any
Results = list[list[tuple[Any, ...]]]


@dataclass(frozen=True, eq=False)
class Driver:
    """How one driver connects and does what the DB-API leaves to it."""

    name: str
    connect: Callable[..., Connection]
    errors: tuple[type[Exception], ...]
    code_and_text: Callable[[Exception], tuple[Any, Any]]
    unbuffered: Callable[[Connection], Cursor]
    set_autocommit: Callable[[Connection, bool], object]
    ping: Callable[[Connection], object]
    results: Callable[[Connection, str], Results]
    settle: Callable[[Connection], object] = lambda connection: None
    multi: dict[str, Any] = field(default_factory=dict)
    local_infile: dict[str, Any] = field(default_factory=dict)
    no_local_infile: dict[str, Any] = field(default_factory=dict)
    ends_missing_files: bool = True


def _args(error: Exception) -> tuple[Any, Any]:
    return (error.args[0], error.args[1]) if len(error.args) > 1 else (None, str(error))


def _all_results(connection: Connection, sql: str) -> Results:
    """The rows of every result; results without rows are left out."""
    found: Results = []
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        while True:
            if cursor.description:
                found.append([tuple(row) for row in cursor.fetchall()])
            if not cursor.nextset():
                return found
    finally:
        cursor.close()


# --- PyMySQL ---


def _connect_pymysql(target: Target, database: str = "test", **options: Any) -> Connection:
    return pymysql.connect(**target.where, **_LOGIN, database=database, read_timeout=20, **options)


# --- aiomysql ---


class _Blocking:
    """An aiomysql connection or cursor whose coroutines are run to their end at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            return self._loop.run_until_complete(_await(result)) if hasattr(result, "__await__") else result

        return call

    def cursor(self, *args: Any) -> _Blocking:
        return _Blocking(self._loop, self._loop.run_until_complete(_await(self._inner.cursor(*args))))

    def close(self) -> None:
        if isinstance(self._inner, aiomysql.Connection):
            self._loop.run_until_complete(self._inner.ensure_closed())
            self._loop.close()
        else:
            self._loop.run_until_complete(self._inner.close())


async def _await(awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(20):
        return await awaitable


def _connect_aiomysql(target: Target, database: str = "test", **options: Any) -> Connection:
    loop = asyncio.new_event_loop()

    async def connect() -> aiomysql.Connection:
        return await aiomysql.connect(**target.where, **_LOGIN, db=database, **options)

    return _Blocking(loop, loop.run_until_complete(connect()))


# --- mysqlclient ---


def _connect_mysqlclient(target: Target, database: str = "test", **options: Any) -> Connection:
    return MySQLdb.connect(**target.where, **_LOGIN, database=database, read_timeout=20, **options)


# --- mysql-connector-python ---


def _connect_connector(target: Target, database: str = "test", **options: Any) -> Connection:
    return mysql.connector.connect(**target.where, **_LOGIN, database=database, use_pure=True, **options)


def _connector_autocommit(connection: Connection, on: bool) -> None:
    connection.autocommit = on


def _connector_settle(connection: Connection) -> None:
    if connection.unread_result:
        connection.consume_results()


DRIVERS = {
    driver.name: driver
    for driver in (
        Driver(
            "pymysql",
            _connect_pymysql,
            (pymysql.MySQLError,),
            _args,
            lambda connection: connection.cursor(pymysql.cursors.SSCursor),
            lambda connection, on: connection.autocommit(on),
            lambda connection: connection.ping(reconnect=False),
            _all_results,
            multi={"client_flag": CLIENT.MULTI_STATEMENTS},
            local_infile={"local_infile": True},
        ),
        Driver(
            "aiomysql",
            _connect_aiomysql,
            (pymysql.MySQLError,),
            _args,
            lambda connection: connection.cursor(aiomysql.SSCursor),
            lambda connection, on: connection.autocommit(on),
            lambda connection: connection.ping(False),
            _all_results,
            multi={"client_flag": CLIENT.MULTI_STATEMENTS},
            local_infile={"local_infile": True},
        ),
        Driver(
            "mysqlclient",
            _connect_mysqlclient,
            (MySQLdb.Error,),
            _args,
            lambda connection: connection.cursor(MySQLdb.cursors.SSCursor),
            lambda connection, on: connection.autocommit(on),
            lambda connection: connection.ping(),
            _all_results,
            multi={"client_flag": MySQLdb.constants.CLIENT.MULTI_STATEMENTS},
            local_infile={"local_infile": 1},
            no_local_infile={"local_infile": 0},  # without it, libmariadb offers files
        ),
        Driver(
            "connector",
            _connect_connector,
            (mysql.connector.Error,),
            lambda error: (getattr(error, "errno", None), getattr(error, "msg", str(error))),
            lambda connection: connection.cursor(buffered=False),
            _connector_autocommit,
            lambda connection: connection.ping(reconnect=False),
            _all_results,
            settle=_connector_settle,
            local_infile={"allow_local_infile": True},
            ends_missing_files=False,  # it raises, and leaves the server waiting for the file
        ),
    )
}
