"""A small database to capture and restore."""

from __future__ import annotations

from pathlib import Path

import apsw

from rfs.production.rollback.drivers.sqlite import SqliteDriver
from rfs.production.rollback.model import Capture, Component
from rfs.testing import MemoryStore, component


class Shop:
    """A small database with its driver, its component and a store."""

    def __init__(self, home: Path, journal: str) -> None:
        self.home = home
        self.path = home / "shop.db"
        self.journal = journal
        self.store = MemoryStore()
        self.driver = SqliteDriver()
        self.component: Component = component("sqlite", home, path="shop.db", busy_timeout="200ms")
        self.run(
            "CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT, total REAL)",
            "CREATE TABLE notes(text TEXT)",
            "CREATE INDEX by_item ON orders(item)",
        )
        self.orders(1, 500)

    def open(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(5000)
        connection.pragma("journal_mode", self.journal)
        connection.pragma("synchronous", "off")
        return connection

    def run(self, *statements: str) -> None:
        connection = self.open()
        try:
            with connection:
                for statement in statements:
                    connection.execute(statement)
        finally:
            connection.close()

    def orders(self, first: int, last: int) -> None:
        line = "-" * 300
        rows = ", ".join(f"({n}, 'item {n} {line}', {n / 4})" for n in range(first, last + 1))
        self.run(f"INSERT INTO orders VALUES {rows}")

    def rows(self, query: str = "SELECT * FROM orders ORDER BY id") -> list[tuple[object, ...]]:
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def capture(self, previous: Capture | None = None) -> Capture:
        return self.driver.capture(self.component, self.store, previous)

    def restore(self, want: Capture) -> int:
        return self.driver.restore(self.component, self.store, want).changed

    def assert_is(self, want: Capture) -> None:
        assert self.driver.verify(self.component, self.store, want) == []
        self.assert_is_equal(want)

    def assert_is_equal(self, want: Capture) -> None:
        assert self.driver.fingerprint(self.component, rehash=True) == want.fingerprint
        assert self.rows("PRAGMA integrity_check") == [("ok",)]
