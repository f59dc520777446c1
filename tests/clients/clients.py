"""Six clients behind one call: log in, run one statement, give its rows; or say how the login was refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiomysql
import mysql.connector
import MySQLdb
import pymysql
import pytest

from tests.servers import find_client

DEADLINE = 20


@dataclass(frozen=True)
class Target:
    """Where to connect: TCP, or a unix socket if there is a path."""

    port: int = 0
    unix_socket: str = ""
    host: str = "127.0.0.1"

    @property
    def where(self) -> dict[str, Any]:
        """As keywords that the Python drivers share."""
        return {"unix_socket": self.unix_socket} if self.unix_socket else {"host": self.host, "port": self.port}


@dataclass(frozen=True)
class Account:
    """Who logs in, and with which schema."""

    user: str = "app"
    password: str = "app-secret"
    database: str = "test"


class Refused(Exception):
    """The client got an ERR: its code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


Rows = list[tuple[str, ...]]


def _texts(rows: Any) -> Rows:
    return [tuple("NULL" if value is None else str(value) for value in row) for row in rows]


def _with_pymysql(target: Target, account: Account, sql: str) -> Rows:
    try:
        connection = pymysql.connect(
            **target.where, user=account.user, password=account.password, database=account.database or None
        )
    except pymysql.MySQLError as error:
        raise Refused(*error.args) from None
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(sql)
        return _texts(cursor.fetchall())


def _with_aiomysql(target: Target, account: Account, sql: str) -> Rows:
    async def run() -> Rows:
        try:
            connection = await aiomysql.connect(
                **target.where, user=account.user, password=account.password, db=account.database or None
            )
        except pymysql.MySQLError as error:
            # aiomysql wraps the server's error in its own
            cause = error.__cause__ if isinstance(error.__cause__, pymysql.MySQLError) else error
            raise Refused(*cause.args) from None
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(sql)
                return _texts(await cursor.fetchall())
        finally:
            await connection.ensure_closed()

    return asyncio.run(run())


def _with_mysqlclient(target: Target, account: Account, sql: str) -> Rows:
    try:
        connection = MySQLdb.connect(
            **target.where, user=account.user, password=account.password, database=account.database
        )
    except MySQLdb.Error as error:
        raise Refused(*error.args) from None
    with contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        return _texts(cursor.fetchall())


def _with_connector(target: Target, account: Account, sql: str, pure: bool = True) -> Rows:
    try:
        connection = mysql.connector.connect(
            **target.where,
            user=account.user,
            password=account.password,
            database=account.database or None,
            use_pure=pure,
            connection_timeout=DEADLINE,
        )
    except mysql.connector.Error as error:
        raise Refused(error.errno, error.msg) from None
    with contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        return _texts(cursor.fetchall())


_CLI_ERROR = re.compile(r"^ERROR (\d+) \(\w+\)(?: at line \d+)?: (.*)$", re.MULTILINE)


def cli_command(flavour: str, target: Target, account: Account) -> tuple[list[str], dict[str, str]]:
    """How to call `mariadb` or `mysql`: arguments, environment. Skips the test where the program is missing."""
    argv, env = with_login(find_client(flavour), target, account)
    return [*argv, f"--database={account.database}"] if account.database else argv, env


def with_login(program: list[str] | None, target: Target, account: Account) -> tuple[list[str], dict[str, str]]:
    """A command line program with the options that say where to log in and as whom; and the environment for it."""
    if program is None:
        pytest.skip("a command line client is not on this machine (`make test` installs them)")
    where = (
        [f"--socket={target.unix_socket}"]
        if target.unix_socket
        else [f"--host={target.host}", f"--port={target.port}", "--protocol=TCP"]
    )
    # An empty MYSQL_PWD is "no password" for one of them and "ask" for the other.
    password = [] if account.password else ["--skip-password"]
    env = os.environ | ({"MYSQL_PWD": account.password} if account.password else {})
    return [*program, *where, f"--user={account.user}", *password], env


def run_cli(
    flavour: str, target: Target, account: Account, script: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script with a command line client."""
    argv, env = cli_command(flavour, target, account)
    return subprocess.run(
        [*argv, "--batch", "--skip-column-names", *options],
        input=script,
        env=env,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def _with_cli(flavour: str, target: Target, account: Account, sql: str) -> Rows:
    done = run_cli(flavour, target, account, sql)
    error = _CLI_ERROR.search(done.stderr)
    if error is not None:
        raise Refused(int(error[1]), error[2])
    assert done.returncode == 0, done.stderr
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


Login = Callable[[Target, Account, str], Rows]

LOGINS: dict[str, Login] = {
    "pymysql": _with_pymysql,
    "aiomysql": _with_aiomysql,
    "mysqlclient": _with_mysqlclient,
    "connector": _with_connector,
    "mariadb-cli": lambda target, account, sql: _with_cli("mariadb", target, account, sql),
    "mysql-cli": lambda target, account, sql: _with_cli("mysql", target, account, sql),
}
if mysql.connector.HAVE_CEXT:
    LOGINS["connector-c"] = lambda target, account, sql: _with_connector(target, account, sql, pure=False)
