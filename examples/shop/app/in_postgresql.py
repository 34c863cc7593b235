"""The database on a server; needs psycopg, and nothing else of the shop does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

NUMBERED = ("products", "customers", "orders", "ledger")


class Postgresql:
    begin = "BEGIN"

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, row_factory=dict_row, connect_timeout=10)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        return self._connection.execute(statement.replace("?", "%s"), values)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(statement.replace("?", "%s"), rows)

    def run(self, script: str) -> None:
        self._connection.execute(script)

    def schema_version(self) -> int:
        [row] = self._connection.execute("SELECT version FROM schema_version").fetchall()
        return int(row["version"])

    def check(self) -> str:
        self._connection.execute("SELECT 1")
        return "ok"

    def created(self) -> None:
        for table in NUMBERED:
            sequence = f"pg_get_serial_sequence('{table}', 'id')"
            self._connection.execute(f"SELECT setval({sequence}, (SELECT max(id) FROM {table}))")

    def close(self) -> None:
        self._connection.close()
