"""`--table`: tables of a SQLite database go back, with plan, safety checkpoint and undo; the others stay."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_app import CommandLine
from small import Small

SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, customer REFERENCES customers (id), total);
CREATE TABLE lines (number, "order" REFERENCES orders (id), what, PRIMARY KEY (number, "order")) WITHOUT ROWID;
CREATE TABLE log (text);
CREATE INDEX by_total ON orders (total);
CREATE TRIGGER told AFTER DELETE ON orders BEGIN INSERT INTO log VALUES ('deleted ' || old.id); END;
CREATE VIEW dear AS SELECT * FROM orders WHERE total > 10;
INSERT INTO customers VALUES (1, 'Kim'), (2, 'Lee');
INSERT INTO orders VALUES (1, 1, 10), (2, 2, 20);
INSERT INTO lines VALUES (1, 1, 'tea'), (1, 2, 'rice');
INSERT INTO log (rowid, text) VALUES (7, 'one'), (9, 'two');
"""


class Store(Small, CommandLine):
    """An application with a database of several tables."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(home)
        self._capsys = capsys
        self.sql(SCHEMA)
        self.first = ""

    def sql(self, script: str) -> None:
        with closing(sqlite3.connect(self.tree / "small.db")) as db:
            db.executescript(script)

    def dump(self, *tables: str) -> list[str]:
        """What makes these tables, or all of it, up, with the numbers of rows that have no other name."""
        with closing(sqlite3.connect(self.tree / "small.db")) as db:
            said = [line for line in db.iterdump() if not tables or any(f'"{each}"' in line for each in tables)]
            return [*said, *map(str, db.execute("SELECT rowid FROM log"))]

    def back(self, *tables: str, code: int = 0) -> Any:
        words = [word for table in tables for word in ("--table", table)]
        ran = self.rfs("rollback", self.first, *words, "--reason", "x", "-y", "--json")
        assert ran.code == code, ran
        return ran.data


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Store:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    found = Store(tmp_path / "store", capsys)
    monkeypatch.chdir(found.home)
    found.first = found.json("checkpoint")["id"]
    return found


EVERYTHING = """
UPDATE customers SET name = 'Park' WHERE id = 1;
INSERT INTO orders (customer, total) VALUES (1, 30);
UPDATE orders SET total = 11 WHERE id = 1;
UPDATE lines SET what = 'coffee' WHERE "order" = 1;
INSERT INTO log VALUES ('three');
UPDATE t SET v = 'changed';
"""


def test_tables_go_back_with_their_row_numbers_and_nothing_else_does(store: Store) -> None:
    then = store.dump()
    store.sql(EVERYTHING)
    now = store.dump()
    done = store.back("db:log", "orders")
    after = store.dump()
    for table in ("orders", "log", "sqlite_sequence"):
        assert [line for line in after if f'"{table}"' in line] == [line for line in then if f'"{table}"' in line]
    for table in ("customers", "lines", "t"):
        assert [line for line in after if f'"{table}"' in line] == [line for line in now if f'"{table}"' in line]
    assert after[-2:] == ["(7,)", "(9,)"]  # and no trigger fired
    with closing(sqlite3.connect(store.tree / "small.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT id FROM dear").fetchall() == [(2,)]
    assert store.json("show", done["rollback_id"])["selection"] == {"db": ["log", "orders"]}
    store.sql("INSERT INTO customers VALUES (3, 'Choi')")
    store.json("undo", "-y")
    assert store.dump("orders", "log", "lines", "t") == [
        line for line in now if any(f'"{each}"' in line for each in ("orders", "log", "lines", "t")) or "," in line[-3:]
    ]
    with closing(sqlite3.connect(store.tree / "small.db")) as db:
        assert db.execute("SELECT count(*) FROM customers").fetchone() == (3,)


def test_a_table_whose_definition_changed_comes_back_with_its_indexes_and_triggers(store: Store) -> None:
    then = store.dump("orders")
    store.sql("ALTER TABLE orders ADD COLUMN note; DROP INDEX by_total; DROP TRIGGER told; CREATE TABLE new (x)")
    store.sql("CREATE INDEX other ON orders (note); DELETE FROM lines; DROP TABLE t")
    store.back("orders", "new", "t")
    after = store.dump()
    assert store.dump("orders") == then
    assert any("CREATE TRIGGER told" in line for line in after)
    assert any("CREATE INDEX by_total" in line for line in after)
    assert not any("other" in line or "new" in line for line in after)
    assert any("row of version 1" in line for line in after)
    assert not any('INTO "lines"' in line for line in after)


def test_what_would_refer_to_nothing_is_refused_and_the_plan_says_what_belongs_together(store: Store) -> None:
    store.sql("INSERT INTO orders VALUES (3, 1, 30); INSERT INTO lines VALUES (1, 3, 'salt')")
    store.sql("UPDATE log SET text = 'changed'")
    now = store.dump()
    warned = store.json("plan", store.first, "--table", "orders")["warnings"]
    assert any("lines of db refers" in each and "is --table orders --table lines." in each for each in warned)
    assert not any("log" in each for each in warned)
    error = store.back("orders", code=15)["error"]
    assert error["key"] == "select.dangling"
    assert "lines to orders" in error["message"]
    assert "--table lines --table orders" in error["hint"]
    assert store.dump() == now
    assert store.json("log") == []
    store.back("orders", "lines")
    assert not any("salt" in line for line in store.dump())
    assert not any("refers" in each for each in store.json("plan", store.first, "--table", "log")["warnings"])


def test_what_is_no_ordinary_table_is_refused(store: Store) -> None:
    store.sql("CREATE VIRTUAL TABLE words USING fts5(text); INSERT INTO words VALUES ('a')")
    for name, key in (("words", "select.table"), ("dear", "select.table"), ("sqlite_sequence", "select.table")):
        assert store.back(name, code=15)["error"]["key"] == key
    text = (store.home / "rfs.toml").read_text()
    (store.home / "rfs.toml").write_text(
        text.replace('[components.db]\nkind = "sqlite"', '[components.db]\nkind = "config"')
    )
    assert "no component here is of kind sqlite" in store.rfs("plan", store.first, "--table", "orders").err
