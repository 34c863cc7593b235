from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_shop import Shop

from rfs.production.rollback.drivers.sqlite import rows
from rfs.production.rollback.drivers.sqlite.pages import Facts
from rfs.production.rollback.model import Capture, Change, ChangeKind

Said = list[tuple[str, str, str, str]]


def said(changes: list[Change]) -> Said:
    return [
        (change.kind.value, change.key, *(ref.label if ref else "" for ref in (change.before, change.after)))
        for change in changes
    ]


@pytest.fixture
def differences(shop: Shop) -> Callable[..., Said]:
    """Give a function that runs statements, and says what they changed and what undoing them would lose."""

    def between(*statements: str) -> tuple[Said, list[tuple[str, int | None]]]:
        want = shop.capture()
        shop.run(*statements)
        live = list(shop.driver.changes(shop.component, shop.store, want, None))
        stored = list(shop.driver.changes(shop.component, shop.store, want, shop.capture()))
        assert live == stored
        lost = shop.driver.losses(shop.component, shop.store, want, live)
        return said(live), [(loss.what, loss.count) for loss in lost]

    return between


def test_rows_are_counted_by_key(differences: Callable[..., Said]) -> None:
    changed, lost = differences(
        "INSERT INTO orders(item) VALUES ('new'), ('newer')",
        "DELETE FROM orders WHERE id <= 7",
        "UPDATE orders SET total = -1 WHERE id BETWEEN 100 AND 102",
    )
    assert changed == [
        ("added", "orders", "", "2 rows"),
        ("changed", "orders", "3 rows", "3 rows"),
        ("removed", "orders", "7 rows", ""),
    ]
    assert lost == [("rows in table orders", 5)]


def test_rows_without_a_key_are_counted_against_each_other(shop: Shop, differences: Callable[..., Said]) -> None:
    shop.run("INSERT INTO notes VALUES ('a'), ('a'), ('a'), ('b'), (NULL), (NULL), (1), (1.0)")
    changed, lost = differences(
        "DELETE FROM notes WHERE rowid = 1",
        "DELETE FROM notes WHERE typeof(text) = 'null'",
        "INSERT INTO notes VALUES ('b'), ('c'), ('A')",
    )
    assert changed == [("added", "notes", "", "3 rows"), ("removed", "notes", "3 rows", "")]
    assert lost == [("rows in table notes", 3)]


def test_a_thousand_rows_are_written_with_a_comma(differences: Callable[..., Said]) -> None:
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1204)"
    changed, _ = differences(f"INSERT INTO notes {many} SELECT i FROM n")
    assert changed == [("added", "notes", "", "1,204 rows")]
    assert differences("DELETE FROM notes WHERE text = 3")[0] == [("removed", "notes", "1 row", "")]


def test_schema_columns_and_values(differences: Callable[..., Said]) -> None:
    changed, lost = differences(
        "ALTER TABLE orders ADD COLUMN note TEXT",
        "UPDATE orders SET note = 'x' WHERE id <= 9",
        "CREATE TABLE extra(x)",
        "INSERT INTO extra VALUES (1), (2)",
        "DROP TABLE notes",
        "CREATE VIEW v AS SELECT 1",
    )
    assert ("added", "orders.note", "", "9 values") in changed
    assert ("added", "schema:table.extra", "", "CREATE TABLE extra(x)") in changed
    assert ("removed", "schema:table.notes", "CREATE TABLE notes(text TEXT)", "") in changed
    assert ("added", "schema:view.v", "", "CREATE VIEW v AS SELECT 1") in changed
    assert [key for kind, key, *_ in changed] == sorted(key for kind, key, *_ in changed)
    assert sorted(lost) == [("rows in table extra", 2), ("values in column note of table orders", 9)]


def test_settings_of_the_database(shop: Shop, differences: Callable[..., Said]) -> None:
    changed, lost = differences("PRAGMA user_version = 42")
    assert changed == [("changed", "user_version", "0", "42")]
    assert lost == []
    want = shop.capture()
    os.chmod(shop.path, 0o600)
    assert said(list(shop.driver.changes(shop.component, shop.store, want, None))) == [
        ("changed", "file:mode", "0644", "0600")
    ]


def test_another_layout_of_the_same_rows(shop: Shop) -> None:
    shop.run("DELETE FROM orders WHERE id % 3 = 0")
    want = shop.capture()
    connection = shop.open()
    connection.execute("VACUUM")
    connection.close()
    (change,) = shop.driver.changes(shop.component, shop.store, want, None)
    assert change.key == "pages"


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("CREATE TABLE t(k TEXT PRIMARY KEY COLLATE NOCASE)", "UPDATE t SET k = upper(k) WHERE k = 'b'"),
        ("CREATE TABLE t(k PRIMARY KEY, v)", "UPDATE t SET v = cast(k AS BLOB) WHERE k = 'b'"),
        ("CREATE TABLE t(k PRIMARY KEY) WITHOUT ROWID", "UPDATE t SET k = 'z' WHERE k = 'b'"),
        ('CREATE TABLE "t"(k, "odd ""name", PRIMARY KEY(k, "odd ""name"))', "UPDATE t SET k = 'z' WHERE k = 'b'"),
        ("CREATE TABLE t(k PRIMARY KEY, g AS (upper(k)))", "UPDATE t SET k = 'z' WHERE k = 'b'"),
    ],
)
def test_unusual_tables(shop: Shop, differences: Callable[..., Said], table: str, change: str) -> None:
    shop.run(table, "INSERT INTO t(k) VALUES ('a'), ('b'), ('c'), (NULL)" if "ROWID" not in table else "SELECT 1")
    shop.run("INSERT INTO t VALUES ('a'), ('b'), ('c')" if "ROWID" in table else "SELECT 1")
    _, lost = differences(change)
    assert lost == [("rows in table t", 1)]


def test_one_and_one_point_nought_are_not_the_same(shop: Shop, differences: Callable[..., Said]) -> None:
    shop.run("CREATE TABLE t(k INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (1, 1), (2, NULL)")
    changed, _ = differences("UPDATE t SET v = 1.0 WHERE k = 1")
    assert changed == [("changed", "t", "1 row", "1 row")]


def test_a_collation_that_only_the_application_has(shop: Shop, differences: Callable[..., Said]) -> None:
    connection = shop.open()
    connection.create_collation("odd", lambda a, b: (a > b) - (a < b))
    connection.execute("CREATE TABLE t(k TEXT PRIMARY KEY COLLATE odd, v)")
    connection.execute("INSERT INTO t VALUES ('a', 1), ('b', 2)")
    connection.close()
    changed, lost = differences("UPDATE t SET v = 3 WHERE rowid = 1")
    assert changed == [("changed", "t", "rows that cannot be compared", "rows that cannot be compared")]
    assert lost == [("rows in table t", None)]


def test_rows_of_a_full_text_index(shop: Shop, differences: Callable[..., Said]) -> None:
    shop.run("CREATE VIRTUAL TABLE docs USING fts5(body)", "INSERT INTO docs VALUES ('one'), ('two')")
    changed, lost = differences("INSERT INTO docs VALUES ('three')")
    assert changed == [("added", "docs", "", "1 row")]
    assert lost == [("rows in table docs", 1)]


def test_another_text_encoding(shop: Shop) -> None:
    want = shop.capture()
    os.unlink(shop.path)
    connection = apsw.Connection(str(shop.path))
    connection.pragma("encoding", "UTF-16")
    connection.execute("CREATE TABLE orders(id INTEGER PRIMARY KEY, item TEXT, total REAL)")
    connection.close()
    changes = list(shop.driver.changes(shop.component, shop.store, want, None))
    assert ("changed", "encoding", "UTF-8", "UTF-16le") in said(changes)
    lost = list(shop.driver.losses(shop.component, shop.store, want, changes))
    assert ("rows in table orders", None) in [(loss.what, loss.count) for loss in lost]


def test_a_broken_live_database_is_one_change(shop: Shop) -> None:
    want = shop.capture()
    shop.path.write_bytes(b"no database" * 1000)
    broken = shop.driver.salvage(shop.component, shop.store, None)
    changes = list(shop.driver.changes(shop.component, shop.store, want, None))
    assert said(changes) == [("changed", "", "a database", "no database")]
    assert list(shop.driver.losses(shop.component, shop.store, want, changes)) == []
    shop.path.write_bytes(b"still none!" * 1000)
    assert said(list(shop.driver.changes(shop.component, shop.store, broken, None))) == [
        ("changed", "", "no database", "no database")
    ]
    os.unlink(shop.path)
    assert said(list(shop.driver.changes(shop.component, shop.store, want, None))) == [
        ("removed", "", "a database", "")
    ]


def test_no_values_of_rows_are_shown(shop: Shop) -> None:
    want = shop.capture()
    shop.run("INSERT INTO notes VALUES ('hunter2')", "UPDATE orders SET item = 'hunter2'")
    changes = list(shop.driver.changes(shop.component, shop.store, want, None))
    lost = list(shop.driver.losses(shop.component, shop.store, want, changes))
    assert "hunter2" not in repr((changes, lost))


def test_counting_can_be_stopped(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_OPS_PER_TICK", 100)
    want: Capture = shop.capture()
    shop.run("DELETE FROM orders")

    class StoppedError(Exception):
        pass

    def tick() -> None:
        raise StoppedError

    with (
        shop_copies(shop, want) as (before, after),
        pytest.raises(StoppedError),
    ):
        rows.compare("part", before, after, tick)


def shop_copies(shop: Shop, want: Capture):
    from contextlib import contextmanager

    from rfs.production.rollback.drivers.sqlite import direct, live
    from rfs.production.rollback.drivers.sqlite.pages import facts_of

    @contextmanager
    def both():
        with (
            shop.driver._assembled(shop.component, shop.store, want) as before,
            live.observed(shop.component, str(shop.path), direct.Patience(1)) as (after, _, facts),
        ):
            yield (before, facts_of(want)), (after, facts)

    return both()


Value = st.one_of(st.none(), st.integers(-3, 3), st.sampled_from([0.0, 1.0, "a", "A", "b", b"a"]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(Value, Value), max_size=8), st.lists(st.tuples(Value, Value), max_size=8))
def test_counts_equal_those_of_a_model(tmp_path_factory: pytest.TempPathFactory, old: list, new: list) -> None:
    from collections import Counter

    folder = tmp_path_factory.mktemp("model")
    sides = []
    for name, content in (("old", old), ("new", new)):
        path = str(folder / name)
        connection = apsw.Connection(path)
        connection.pragma("synchronous", "off")
        connection.execute("CREATE TABLE t(x, y COLLATE NOCASE)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", content)
        connection.close()
        sides.append((path, Facts(page_size=4096, length=8192)))
    found = {c.kind: c for c in rows.compare("part", sides[0], sides[1], lambda: None) if c.key == "t"}

    def typed(content: list) -> Counter:
        return Counter(tuple((type(value), value) for value in row) for row in content)

    added, removed = typed(new) - typed(old), typed(old) - typed(new)
    after = found[ChangeKind.ADDED].after if added else None
    before = found[ChangeKind.REMOVED].before if removed else None
    assert (after.id if after else "rows:0") == f"rows:{added.total()}"
    assert (before.id if before else "rows:0") == f"rows:{removed.total()}"
    assert set(found) == {k for k, v in ((ChangeKind.ADDED, added), (ChangeKind.REMOVED, removed)) if v}


def test_a_table_on_the_same_pages_is_not_compared_row_by_row(
    shop: Shop, differences: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    really = rows._difference

    def note(connection: apsw.Connection, old: rows.Table, *others: Any) -> tuple[int, int, int]:
        compared.append(old.name)
        return really(connection, old, *others)

    monkeypatch.setattr(rows, "_difference", note)
    shop.run("CREATE TABLE more(k TEXT PRIMARY KEY, v) WITHOUT ROWID", "INSERT INTO more VALUES ('a', 1), ('b', 2)")
    assert differences("INSERT INTO notes VALUES ('x')")[0] == [("added", "notes", "", "1 row")]
    assert set(compared) == {"notes"}
    compared.clear()
    assert differences("UPDATE more SET v = 3 WHERE k = 'b'")[0] == [("changed", "more", "1 row", "1 row")]
    assert set(compared) == {"more"}


def test_a_change_where_a_row_overflows_its_page_is_found(shop: Shop, differences: Callable[..., Said]) -> None:
    shop.run("CREATE TABLE large(id INTEGER PRIMARY KEY, v)", "INSERT INTO large VALUES (1, zeroblob(100000))")
    at = 99_999  # the last byte of the last page of its chain
    changed, _ = differences(f"UPDATE large SET v = CAST(zeroblob({at}) || x'01' AS BLOB)")
    assert changed == [("changed", "large", "1 row", "1 row")]


def test_tables_that_changed_places_are_compared(shop: Shop, differences: Callable[..., Said]) -> None:
    shop.run("CREATE TABLE a(x)", "CREATE TABLE b(x)", "INSERT INTO a VALUES (1), (2)", "INSERT INTO b VALUES (3)")
    changed, _ = differences("ALTER TABLE a RENAME TO c", "ALTER TABLE b RENAME TO a", "ALTER TABLE c RENAME TO b")
    assert [line for line in changed if not line[1].startswith("schema:")] == [
        ("added", "a", "", "1 row"),
        ("removed", "a", "2 rows", ""),
        ("added", "b", "", "2 rows"),
        ("removed", "b", "1 row", ""),
    ]


def test_what_lies_below_a_damaged_page_is_not_taken_for_equal(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    connection = apsw.Connection(str(old))
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE u(v); INSERT INTO u VALUES (1)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", ((n, "-" * 500) for n in range(200)))
    root: Any = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 't'").get
    connection.close()
    content = bytearray(old.read_bytes())
    content[(root - 1) * 4096] = 0xFF
    old.write_bytes(content)
    new.write_bytes(content[:-4096] + content[-4096:].replace(b"-" * 100, b"+" * 100))
    facts = Facts(page_size=4096, length=len(content))
    found = rows.compare("part", (str(old), facts), (str(new), facts), lambda: None)
    assert said(found) == [("changed", "t", *["rows that cannot be compared"] * 2)]


def test_what_is_on_no_page_is_on_no_equal_ones(shop: Shop) -> None:
    with shop_copies(shop, shop.capture()) as (before, after):
        connection = apsw.Connection(before[0], flags=apsw.SQLITE_OPEN_READONLY)
        connection.execute("ATTACH ? AS later", (after[0],))
        assert [rows._on_the_same_pages(connection, name) for name in ("orders", "absent")] == [True, False]
        connection.close()
