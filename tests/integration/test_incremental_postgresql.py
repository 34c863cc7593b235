"""Rows of a PostgreSQL database, taken back one by one on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from postgresql_shop import Shop

from rfs.production.rollback import IncrementalRollback


class Rows:
    """The shop's database, and the log of changes to it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.changes = IncrementalRollback(shop.folder)

    def track(self, old: Any, new: Any, key: Any, component: str = "database") -> str:
        found: str = asyncio.run(self.changes.track_change(component, "x", old, new, key=key)).unwrap()
        return found

    def order(self, pk: int) -> Any:
        with self.shop.connect() as connection:
            query = "SELECT note, paid::float, mood::text, raw FROM orders WHERE id = %s"
            return connection.execute(query, [pk]).fetchone()


@pytest.fixture
def rows(shop: Shop) -> Rows:
    return Rows(shop)


def key(pk: Any, table: str = "orders") -> dict[str, Any]:
    return {"table": table, "pk": pk}


def test_rows_are_taken_back_and_made_again_and_other_columns_stay(rows: Rows) -> None:
    before = rows.order(1), rows.order(2)
    rows.shop.do("UPDATE orders SET note = 'new', paid = 2.5, mood = 'sad', raw = '\\x00ff' WHERE id = 1")
    rows.track(
        {"note": "order 1", "paid": 1, "mood": "glad", "raw": b"\xde\xad\xbe\xef", "data": None},
        {"note": "new", "paid": 2.5, "mood": "sad", "raw": b"\x00\xff", "data": None},
        key(1),
    )
    rows.shop.do("DELETE FROM lines WHERE order_id = 3")
    rows.track({"order_id": 3, "n": 1}, None, key({"order_id": 3, "n": 1}, "public.lines"), "db")
    rows.shop.do("INSERT INTO orders (id, note) VALUES (900, 'mine')")
    rows.track(None, {"id": 900, "note": "mine"}, key({"id": 900}))
    rows.shop.do("UPDATE orders SET tags = '{later}' WHERE id = 1")
    rows.shop.json("undo", "-n", "3", "-y")
    assert (rows.order(1), rows.order(2)) == before
    assert rows.shop.one("SELECT tags FROM orders WHERE id = 1") == ["later"]
    assert rows.shop.one("SELECT count(*) FROM lines WHERE order_id = 3") == 1
    assert rows.order(900) is None
    for _ in range(3):
        rows.shop.json("redo", "-y")
    assert rows.order(1) == ("new", 2.5, "sad", b"\x00\xff")
    assert rows.order(900)[0] == "mine"


def test_a_row_that_somebody_changed_since_is_a_conflict(rows: Rows) -> None:
    rows.shop.do("UPDATE orders SET note = 'theirs' WHERE id = 1")
    change = rows.track({"note": "order 1"}, {"note": "new"}, key(1))
    ran = rows.shop.rfs("undo", "-y", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (15, "change.conflict")
    assert rows.order(1)[0] == "theirs"
    (kept,) = rows.shop.json("undo", "-y", "--ours")
    assert rows.order(1)[0] == "theirs"
    rows.shop.json("undo", kept["rollback_id"], "-y", "--ours")
    rows.shop.json("undo", change, "-y", "--theirs")
    assert rows.order(1)[0] == "order 1"


def test_what_the_server_refuses_is_told_and_changes_nothing(rows: Rows) -> None:
    cases = [
        (key(1, "nothing"), {"note": "x"}, 'relation "nothing" does not exist'),
        (key({"mood": "glad"}), {"note": "x"}, "names 200 rows"),
        (key(1, "log"), {"line": "x"}, "has not one primary key column"),
        (key(1), {"status": "new"}, "violates check constraint"),
        (key(1), {"nobody": 1}, 'column "nobody" does not exist'),
    ]
    for where, new, why in cases:
        rows.track({"note": "order 1", "status": "neither"}, new, where)
        ran = rows.shop.rfs("undo", "-y", "--theirs", "--json")
        assert ran.code == 1, ran
        assert why in ran.data["error"]["message"], ran
    assert rows.shop.one("SELECT count(*) FROM orders WHERE mood = 'glad' AND status = 'new'") == 200
    assert len(rows.changes.change_log) == len(cases)
    path = {"table": "orders", "pk": 1, "path": "x.db"}
    found = asyncio.run(rows.changes.track_change("db", "x", {"note": "a"}, {"note": "b"}, key=path))
    assert found.error.key == "change.value"
