"""SqliteDriver under the conformance suite, with a write-ahead log, with a rollback journal, and with other pages."""

from __future__ import annotations

import os
from pathlib import Path

import apsw

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers.sqlite import SqliteDriver
from rfs.production.rollback.model import Component
from rfs.testing import DriverSuite, component


class SqliteWorld(DriverSuite):
    ways = 4
    most_interruptions = 6
    secrets = ("hunter2",)
    journal = "wal"

    def make_driver(self) -> Driver:
        return SqliteDriver()

    def make_component(self, tmp: Path) -> Component:
        c = component("sqlite", tmp, path="shop.db", busy_timeout="200ms")
        rows = [f"INSERT INTO orders VALUES ({n}, 'hunter2{'x' * 400}')" for n in range(40)]
        self.run(c, "CREATE TABLE orders (n INTEGER PRIMARY KEY, text TEXT)", *rows)
        return c

    def run(self, c: Component, *statements: str) -> None:
        database = apsw.Connection(str(Path(c.home) / "shop.db"))
        try:
            database.pragma("journal_mode", self.journal)
            with database:
                for statement in statements:
                    database.execute(statement)
        finally:
            database.close()

    def change(self, c: Component, n: int) -> None:
        word = os.urandom(4).hex()
        if n == 0:
            self.run(
                c,
                f"UPDATE orders SET text = '{word}' WHERE n % 7 = 0",
                f"INSERT INTO orders (text) VALUES ('hunter2 {word}')",
            )
        elif n == 1:
            self.run(c, f"CREATE TABLE t{word} (n)", f"INSERT INTO t{word} VALUES (1)")
        elif n == 2:
            self.run(c, "DELETE FROM orders", f"INSERT INTO orders (text) VALUES ('{word}')")
        else:
            path = Path(c.home) / "shop.db"
            path.chmod(path.stat().st_mode ^ 0o020)

    def wreck(self, c: Component) -> None:
        (Path(c.home) / "shop.db").write_bytes(b"no database")

    def read(self, c: Component) -> object:
        path = Path(c.home) / "shop.db"
        database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            assert database.execute("PRAGMA integrity_check").get == "ok"
            tables = sorted(name for (name,) in database.execute("SELECT name FROM sqlite_schema"))
            rows = {table: list(database.execute(f"SELECT * FROM {table}")) for table in tables}
            return rows, database.pragma("journal_mode"), database.pragma("page_size"), path.stat().st_mode
        finally:
            database.close()


class TestSqliteWithAWriteAheadLog(SqliteWorld):
    pass


class TestSqliteWithARollbackJournal(SqliteWorld):
    journal = "delete"


class TestSqliteThatChangesItsPages(SqliteWorld):
    """Another page size and another journal mode, as after a VACUUM INTO a new file."""

    ways = 2
    most_interruptions = 5
    journal = "delete"

    def change(self, c: Component, n: int) -> None:
        self.run(c, f"INSERT INTO orders (text) VALUES ('{os.urandom(4).hex()}')")
        database = apsw.Connection(str(Path(c.home) / "shop.db"))
        try:
            size = database.pragma("page_size")
            database.pragma("page_size", 8192 if size == 4096 else 4096)
            database.execute("VACUUM")
            database.pragma("journal_mode", "wal" if n else "delete")
        finally:
            database.close()


del SqliteWorld  # so that pytest collects only its subclasses
