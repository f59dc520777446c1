"""Logs in with the drivers of PyPI and the command lines; see run.py for what goes in and comes out.

python -m tests.clients.matrix.python [--without-cryptography]
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

if "--without-cryptography" in sys.argv:
    sys.modules["cryptography"] = None  # type: ignore[assignment]

Cell = dict[str, Any]
WHO = "SELECT CURRENT_USER()"


def _where(cell: Cell) -> dict[str, Any]:
    if cell["socket"]:
        return {"unix_socket": cell["socket"]}
    return {"host": "127.0.0.1", "port": cell["port"]}


def _login(cell: Cell) -> dict[str, Any]:
    return _where(cell) | {"user": cell["user"], "password": cell["password"]} | cell["setting"]


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _ask(connection: Any) -> str:
    cursor = connection.cursor()
    cursor.execute(WHO)
    ((who,),) = cursor.fetchall()
    cursor.close()
    connection.close()
    return str(who)


def _pymysql(cell: Cell) -> str:
    import pymysql

    return _ask(pymysql.connect(**_login(cell), **({"ssl": _context()} if cell["tls"] else {"ssl_disabled": True})))


def _async(module: Any, cell: Cell) -> str:
    async def run() -> str:
        connection = await module.connect(**_login(cell), **({"ssl": _context()} if cell["tls"] else {}))
        async with connection.cursor() as cursor:
            await cursor.execute(WHO)
            ((who,),) = await cursor.fetchall()
        connection.close()
        return str(who)

    return asyncio.run(run())


def _aiomysql(cell: Cell) -> str:
    import aiomysql

    return _async(aiomysql, cell)


def _asyncmy(cell: Cell) -> str:
    import asyncmy

    return _async(asyncmy, cell)


def _mysqlclient(cell: Cell) -> str:
    import MySQLdb

    return _ask(MySQLdb.connect(**_login(cell), **({"ssl": {"cipher": "DEFAULT"}} if cell["tls"] else {})))


def _connector(cell: Cell) -> str:
    import mysql.connector

    return _ask(mysql.connector.connect(**_login(cell), use_pure=True, ssl_disabled=not cell["tls"]))


def _cli(flavour: str, cell: Cell) -> str:
    from tests.clients.clients import Account, Target, run_cli

    target = Target(cell["port"], cell["socket"])
    on, off = ("--ssl", "--skip-ssl") if flavour == "mariadb" else ("--ssl-mode=REQUIRED", "--ssl-mode=DISABLED")
    options = [on if cell["tls"] else off, *cell["setting"].get("options", [])]
    done = run_cli(flavour, target, Account(cell["user"], cell["password"], ""), WHO, *options)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout.strip()


CLIENTS = {
    "PyMySQL": _pymysql,
    "PyMySQL without cryptography": _pymysql,
    "aiomysql": _aiomysql,
    "asyncmy": _asyncmy,
    "mysqlclient on libmariadb": _mysqlclient,
    "mysql-connector-python": _connector,
    "`mysql`": lambda cell: _cli("mysql", cell),
    "`mariadb`": lambda cell: _cli("mariadb", cell),
}


def main() -> None:
    """Every cell of the standard input."""
    for cell in json.load(sys.stdin):
        try:
            said = {"who": CLIENTS[cell["client"]](cell)}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"id": cell["id"]} | said), flush=True)


if __name__ == "__main__":
    main()
