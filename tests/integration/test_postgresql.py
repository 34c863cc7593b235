"""A PostgreSQL database goes back and forth with its application, and nothing that a user wrote is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql_shop import Shop, shop_of

from pg_server import Server


@pytest.fixture
def shop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pg_server: Server
) -> Iterator[Shop]:
    with shop_of(tmp_path, capsys, monkeypatch, pg_server) as found:
        yield found


MIGRATION = """
ALTER TABLE orders DROP COLUMN data;
ALTER TABLE orders ADD COLUMN total numeric;
UPDATE orders SET note = 'migrated', total = 3;
"""


def test_a_migration_goes_back_a_thousand_orders_are_told_and_come_back_with_undo(shop: Shop) -> None:
    before = shop.one("SELECT array_agg(o ORDER BY id)::text FROM orders o")
    target = shop.checkpoint()
    shop.do(MIGRATION)
    shop.do("INSERT INTO orders (note, total) SELECT 'late ' || g, g FROM generate_series(1, 1000) g")
    after = shop.one("SELECT array_agg(o ORDER BY id)::text FROM orders o")
    plan = shop.json("plan", target)
    losses = {loss["what"]: loss["count"] for loss in plan["losses"]}
    assert losses["rows in table orders"] == 1000
    assert losses["changed rows in table orders"] == 200
    assert losses["values in column total of table orders"] == 1200
    assert losses["rows in table log"] == 1000
    shop.json("rollback", target, "--yes", "--reason", "it was wrong")
    assert shop.one("SELECT array_agg(o ORDER BY id)::text FROM orders o") == before
    assert len(shop.names()) == 2  # what was live is kept
    shop.json("undo", "--yes", "--reason", "it was right")
    assert shop.one("SELECT array_agg(o ORDER BY id)::text FROM orders o") == after
    with shop.connect() as connection:
        assert connection.execute("INSERT INTO orders (note) VALUES ('next') RETURNING id").fetchone() == (1201,)
