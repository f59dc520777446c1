"""Somebody at the console of a pooler."""

from __future__ import annotations

from typing import Any

import pymysql
import pytest
from pymysql.cursors import DictCursor

from proxy.wire.packets import read_lenenc_str

PASSWORD = "correct horse"
Row = dict[str, Any]


class Desk:
    """Somebody at the console of a pooler."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._connection = pymysql.connect(unix_socket=path, user="anybody", cursorclass=DictCursor, read_timeout=30)

    def ask(self, text: str) -> list[Row]:
        with self._connection.cursor() as cursor:
            cursor.execute(text)
            return list(cursor.fetchall())

    def one(self, text: str) -> Row:
        (row,) = self.ask(text)
        return row

    def do(self, text: str) -> str:
        """What a command that has no rows says."""
        self._connection.query(text)
        text, _ = read_lenenc_str(self._connection._result.message, 0)  # PyMySQL leaves its length on it
        return text.decode()

    def error(self, text: str) -> tuple[int, str]:
        with pytest.raises(pymysql.MySQLError) as caught:
            self.ask(text)
        return caught.value.args[0], caught.value.args[1]

    def stats(self) -> dict[str, int]:
        return {row["name"]: row["value"] for row in self.ask("SHOW STATS")}

    def about(self, client: object) -> dict[str, str]:
        return {row["field"]: row["value"] for row in self.ask(f"SHOW CLIENT {client}")}

    def close(self) -> None:
        self._connection.close()
