"""`--table` on a real PostgreSQL server: tables go back, with plan, safety checkpoint and undo; the others stay."""

from __future__ import annotations

from typing import Any

import pytest
from pg_everything import EVERYTHING
from postgresql_shop import Shop, catalog

from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.postgresql import compare, mixing
from rfs.production.rollback.drivers.postgresql.content import Contents

ORDERS = "SELECT array_agg(o ORDER BY id)::text FROM orders o"
LINES = "SELECT array_agg(l ORDER BY l)::text FROM lines l"
LOG = "SELECT array_agg(line ORDER BY line)::text FROM log"
NEXT = "SELECT nextval('orders_id_seq')"


def back(shop: Shop, target: str, *tables: str, code: int = 0) -> Any:
    words = [word for table in tables for word in ("--table", table)]
    ran = shop.rfs("rollback", target, *words, "--reason", "x", "-y", "--json")
    assert ran.code == code, ran
    return ran.data


def test_tables_go_back_and_nothing_else_does_and_undo_brings_them_again(shop: Shop) -> None:
    target = shop.checkpoint()
    then = shop.one(ORDERS), shop.one(LINES)
    shop.do("UPDATE orders SET note = 'wrong' WHERE id < 11")
    shop.do("INSERT INTO orders (note) SELECT 'late ' || g FROM generate_series(1, 30) g")
    shop.do("INSERT INTO lines SELECT id, 2 FROM orders WHERE id > 200; DELETE FROM lines WHERE order_id < 6")
    shop.do("INSERT INTO log VALUES ('of today'); UPDATE days SET n = 8")
    now, log, days = (shop.one(ORDERS), shop.one(LINES)), shop.one(LOG), shop.one("SELECT n FROM days")
    plan = shop.json("plan", target, "--table", "orders", "--table", "lines")
    losses = {loss["what"]: loss["count"] for loss in plan["losses"]}
    assert losses["rows in table orders"] == losses["rows in table lines"] == 30
    assert losses["changed rows in table orders"] == 10
    assert not any("log" in what for what in losses)
    assert any("in a copy of the whole database" in warning for warning in plan["warnings"])
    done = back(shop, target, "orders", "public.lines")
    assert (shop.one(ORDERS), shop.one(LINES)) == then
    assert (shop.one(LOG), shop.one("SELECT n FROM days")) == (log, days)
    assert shop.json("show", done["rollback_id"])["selection"] == {"db": ["orders", "public.lines"]}
    assert shop.one(NEXT) == 201
    shop.do("INSERT INTO log VALUES ('since')")
    log = shop.one(LOG)
    shop.json("undo", "--yes", "--reason", "it was right")
    assert (shop.one(ORDERS), shop.one(LINES)) == now
    assert shop.one(LOG) == log
    assert shop.one(NEXT) == 231


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("DROP TABLE orders CASCADE; INSERT INTO log VALUES ('dropped')", id="dropped"),
        pytest.param(
            "ALTER TABLE orders ADD COLUMN total numeric, ALTER COLUMN note TYPE text; DROP INDEX orders_note_idx;"
            "CREATE INDEX other ON orders (total); COMMENT ON TABLE orders IS 'otherwise';"
            "DROP TRIGGER noted ON orders; COMMENT ON COLUMN orders.total IS 'new';"
            "REVOKE ALL ON orders FROM CURRENT_USER",
            id="altered",
        ),
    ],
)
def test_a_table_that_is_gone_or_another_one_comes_back_with_all_that_belongs_to_it(shop: Shop, change: str) -> None:
    shop.do(
        "GRANT SELECT ON orders TO PUBLIC; GRANT INSERT (note) ON orders TO PUBLIC;"
        "GRANT USAGE ON SEQUENCE orders_id_seq TO PUBLIC"
    )
    shop.do("COMMENT ON CONSTRAINT orders_pkey ON orders IS 'k'; COMMENT ON COLUMN orders.note IS 'n'")
    shop.do("COMMENT ON INDEX orders_note_idx IS 'i'; CREATE RULE r AS ON DELETE TO orders WHERE false DO NOTHING")
    shop.do("ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON orders USING (true)")
    shop.do("CREATE STATISTICS s ON paid, mood FROM orders")
    target = shop.checkpoint()
    then = catalog(shop)
    dropped = change.startswith("DROP TABLE")
    shop.do(change)
    back(shop, target, "orders", *(["lines"] if dropped else []))
    found = catalog(shop)
    if dropped:
        shop.do("CREATE VIEW glad AS SELECT id FROM orders WHERE mood = 'glad'")
        found = catalog(shop)
        assert shop.one(LOG).count("dropped") == 1
    assert found == then
    shop.do("INSERT INTO orders (note) VALUES ('next')")
    assert shop.one("SELECT max(id) FROM orders") == 201
    assert shop.one("SELECT count(*) FROM log WHERE line = 'next'") == 1  # its trigger fires


def test_what_would_refer_to_nothing_is_refused_before_anything_is_touched(shop: Shop) -> None:
    target = shop.checkpoint()
    shop.do("INSERT INTO orders (note) VALUES ('late'); INSERT INTO lines VALUES (201, 1)")
    now = catalog(shop)
    warned = shop.json("plan", target, "--table", "orders")["warnings"]
    assert any("lines of db refers" in each and "is --table orders --table lines." in each for each in warned)
    error = back(shop, target, "orders", code=15)["error"]
    assert error["key"] == "select.dangling"
    assert "lines to orders" in error["message"]
    assert "--table lines --table orders" in error["hint"]
    assert catalog(shop) == now
    (record,) = shop.json("log")
    assert (record["status"], record["outage"]) == ("reverted", None)
    assert shop.names() == [shop.database]
    back(shop, target, "orders", "lines")
    assert shop.one("SELECT count(*) FROM orders") == 200


@pytest.mark.parametrize(
    ("table", "key", "why"),
    [
        ("glad", "select.table", "it is a view"),
        ("days", "select.table", "it is partitioned"),
        ("days_2026", "select.table", "it is a partition"),
        ("nothing", "select.none", "neither then nor now"),
        ("other.orders", "select.none", "neither then nor now"),
    ],
)
def test_what_cannot_go_back_alone_is_refused_by_name(shop: Shop, table: str, key: str, why: str) -> None:
    target = shop.checkpoint()
    shop.do("DELETE FROM lines")
    error = back(shop, target, table, code=10 if key == "select.none" else 15)["error"]
    assert (error["key"], why in error["message"]) == (key, True)
    assert shop.one("SELECT count(*) FROM lines") == 0
    assert shop.json("log") == []


SERVICE = """
[components.web]
kind = "service"
manager = "command"
start = ["touch", "running"]
stop = ["./stop"]
status = ["test", "-e", "running"]
"""


def test_what_is_written_to_other_tables_until_the_stop_stays(shop: Shop) -> None:
    """It was not in the copy that was made before."""
    insert = f"import psycopg; psycopg.connect({shop.dsn!r}, autocommit=True).execute"
    import sys

    (shop.folder / "stop").write_text(
        f"#!/bin/sh\ntest -e running || exit 0\nrm running\n"
        f'exec {sys.executable} -c "{insert}(\\"INSERT INTO orders (note) VALUES (\'late\')\\")"\n'
    )
    (shop.folder / "stop").chmod(0o755)
    (shop.folder / "running").touch()
    shop.configure((shop.folder / "rfs.toml").read_text().replace("[store]", f"{SERVICE}\n[store]"))
    target = shop.checkpoint()
    shop.do("DELETE FROM lines")
    back(shop, target, "lines")
    assert shop.one("SELECT count(*) FROM lines") == 200
    assert shop.one("SELECT count(*) FROM orders WHERE note = 'late'") == 1
    assert (shop.folder / "running").exists()


@pytest.mark.slow
def test_a_role_that_may_not_create_databases_gets_its_tables_in_place(shop: Shop) -> None:
    shop.may_not_create()
    target = shop.checkpoint()
    then = shop.one(LINES)
    shop.do("DELETE FROM lines; INSERT INTO log VALUES ('of today')")
    back(shop, target, "lines")
    assert shop.one(LINES) == then
    assert shop.one("SELECT count(*) FROM log WHERE line = 'of today'") == 1
    shop.json("undo", "--yes", "--reason", "x")
    assert shop.one("SELECT count(*) FROM lines") == 0
    assert shop.names() == [shop.database]


def test_a_mixture_of_a_database_with_itself_is_that_database(shop: Shop) -> None:
    """Of each of its tables, and of all together: nothing is lost, moved or taken for another one's."""
    with shop.connect() as connection:
        connection.execute(EVERYTHING)
    shop.checkpoint()
    with Application.open(str(shop.folder / "rfs.toml")) as app:
        (taken,) = app.catalog.checkpoints()
        capture = taken.captures["db"]
        contents = Contents(capture, app.engine.blobs)
        whole = list(contents.pieces())
        tables = _tables(shop)
        strange = mixing.others(each for each in whole if isinstance(each, mixing.Statements))
        chosen = [frozenset([table]) for table in tables if table not in strange]
        assert len(chosen) > 8
        for some in [*chosen, frozenset().union(*chosen)]:
            wanted = mixing.Wanted(contents, some)
            assert wanted.tables == some
            assert list(mixing.mixed(iter(whole), wanted, some, "db")) == whole, some
        # And what belongs to all of them is all there is of tables.
        left = mixing.mixed(iter(whole), mixing.Wanted(contents, frozenset()), frozenset(), "db")
        assert list(left) == whole
        outline = compare.outline(whole)
        assert len(outline["rows"]) >= len(tables) - len(strange)


def _tables(shop: Shop) -> list[tuple[str, str]]:
    with shop.connect() as connection:
        rows: list[Any] = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('public', 'app')"
        ).fetchall()
        return [(schema, name) for schema, name in rows]
