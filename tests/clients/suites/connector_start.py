"""A pytest plugin for the suite of mysql-connector-python, which has a program of its own to run it.

It is copied beside the suite and does what that program does for `--use-external-server`: an empty database, and the
server's address and version where the suite looks for them.
"""

from __future__ import annotations

import os
import re

import mysql.connector
from mysql.connector.constants import ClientFlag

import tests  # theirs
from tests import mysqld


def pytest_configure() -> None:
    where = {
        "host": "127.0.0.1",
        "port": int(os.environ["CONNECTOR_PORT"]),
        "user": os.environ["CONNECTOR_USER"],
        "password": os.environ["CONNECTOR_PASSWORD"],
    }
    server = mysqld.MySQLExternalServer("", "server1")
    with mysql.connector.connect(use_pure=True, **where) as connection, connection.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS myconnpy")
        cursor.execute("CREATE DATABASE myconnpy CHARACTER SET utf8mb4")
        cursor.execute("SELECT VERSION(), @@license, @@socket")
        version, server.license, server.unix_socket = cursor.fetchone()
        # Its asyncio connections fail where there is no TLS, unless told so.
        without_tls = {} if connection._handshake["capabilities"] & ClientFlag.SSL else {"ssl_disabled": True}
    server.version = tuple(map(int, re.match(r"(\d+)\.(\d+)\.(\d+)", version).groups()))
    server.client_config = where | without_tls | {"database": "myconnpy", "connection_timeout": 60, "unix_socket": None}
    tests.OPTIONS_INIT = True
    tests.IPV6_AVAILABLE = False
    tests.MYSQL_EXTERNAL_SERVER = True
    tests.MYSQL_SERVERS.append(server)
    tests.MYSQL_VERSION = server.version
    tests.MYSQL_LICENSE = server.license
    tests.MYSQL_VERSION_TXT = ".".join(map(str, server.version))
