"""PostgresqlDriver under the conformance suite, on a real server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pg_server import Server
from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers.postgresql import PostgresqlDriver
from rfs.production.rollback.model import Component
from rfs.testing import DriverSuite, component
from suite_marks import slow


class TestPostgresql(DriverSuite):
    ways = 4
    most_interruptions = 6
    secrets = ("hunter2", "correct horse")

    @pytest.fixture(autouse=True)
    def serve(self, pg_server: Server) -> None:
        self.server = pg_server

    def make_driver(self) -> Driver:
        return PostgresqlDriver()

    def make_component(self, tmp: Path) -> Component:
        self.name = f"suite{os.urandom(3).hex()}"
        dsn = self.server.create(self.name)
        c = component("postgresql", tmp, url=f"{dsn} password='correct horse'", bin=str(self.server.bin))
        self.run(
            "CREATE TABLE orders (n int PRIMARY KEY, text text)",
            "INSERT INTO orders SELECT g, 'hunter2' || g FROM generate_series(1, 40) g",
            "CREATE TABLE log (line text)",
            "INSERT INTO log VALUES ('a'), ('a'), (E'tab\\tnew\\nline\\\\.')",
            "CREATE SEQUENCE s",
        )
        return c

    def tear_down(self, c: Component) -> None:
        with self.server.connect() as connection:
            found = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{self.name}%"])
            for (name,) in found.fetchall():
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def run(self, *statements: str) -> None:
        with self.server.connect(self.name, f"{self.name}_owner") as connection:
            for statement in statements:
                connection.execute(statement)

    def change(self, c: Component, n: int) -> None:
        word = os.urandom(4).hex()
        if n == 0:
            self.run(
                f"UPDATE orders SET text = '{word}' WHERE n % 7 = 0",
                f"INSERT INTO orders SELECT coalesce(max(n), 0) + 1, 'hunter2 {word}' FROM orders",
                "SELECT nextval('s')",
            )
        elif n == 1:
            self.run(f"CREATE TABLE t{word} (n int)", f"INSERT INTO t{word} VALUES (1)")
        elif n == 2:
            self.run(
                "DROP TABLE IF EXISTS log",
                "DELETE FROM orders",
                f"INSERT INTO orders VALUES (1, '{word}')",
                f"ALTER TABLE orders ADD COLUMN c{word} int DEFAULT 5",
            )
        else:
            self.run(f"ALTER DATABASE {self.name} SET work_mem = '{int(word, 16) % 1000 + 64}kB'")

    def wreck(self, c: Component) -> None:
        with self.server.connect() as connection:
            connection.execute(f"DROP DATABASE {self.name} WITH (FORCE)")

    def read(self, c: Component) -> object:
        with self.server.connect(self.name) as connection:
            return _everything(connection)

    # Each builds dozens of databases.
    test_restore_turns_back_after_it_was_interrupted = slow(
        DriverSuite.test_restore_turns_back_after_it_was_interrupted
    )
    test_restore_is_exact_from_and_to_every_state = slow(DriverSuite.test_restore_is_exact_from_and_to_every_state)
    test_restore_refuses_damaged_blobs_before_it_changes_anything = slow(
        DriverSuite.test_restore_refuses_damaged_blobs_before_it_changes_anything
    )
    test_restore_is_exact_while_everything_stands_still = slow(
        DriverSuite.test_restore_is_exact_while_everything_stands_still
    )
    test_capture_with_a_previous_one_is_exact = slow(DriverSuite.test_capture_with_a_previous_one_is_exact)
    test_restore_is_exact_after_its_time_ran_out = slow(DriverSuite.test_restore_is_exact_after_its_time_ran_out)
    test_restore_is_exact_when_the_state_changed_after_staging = slow(
        DriverSuite.test_restore_is_exact_when_the_state_changed_after_staging
    )
    test_verify_is_empty_only_when_it_is_equal = slow(DriverSuite.test_verify_is_empty_only_when_it_is_equal)
    test_fingerprint_is_equal_only_for_equal_states = slow(DriverSuite.test_fingerprint_is_equal_only_for_equal_states)
    test_restore_converges_after_it_was_interrupted = slow(DriverSuite.test_restore_converges_after_it_was_interrupted)


@pytest.mark.slow
class TestPostgresqlInPlace(TestPostgresql):
    """The role may not create databases; so a database that is gone cannot be made again."""

    most_interruptions = 3

    def make_component(self, tmp: Path) -> Component:
        c = super().make_component(tmp)
        with self.server.connect() as connection:
            connection.execute(sql.SQL("ALTER ROLE {} NOCREATEDB").format(sql.Identifier(f"{self.name}_owner")))
        return c

    wreck = DriverSuite.wreck


def _everything(connection: psycopg.Connection[Any]) -> object:
    tables = (
        "SELECT quote_ident(relname), relacl FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )
    found = sorted(connection.execute(tables).fetchall())
    rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name, _ in found}
    columns = connection.execute(
        "SELECT table_name, column_name, data_type, column_default FROM information_schema.columns"
        " WHERE table_schema = 'public' ORDER BY 1, 2"
    ).fetchall()
    settings = connection.execute(
        "SELECT setconfig FROM pg_db_role_setting WHERE setdatabase ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchall()
    sequence = connection.execute("SELECT last_value, is_called FROM s").fetchall()
    return found, rows, columns, settings, sequence
