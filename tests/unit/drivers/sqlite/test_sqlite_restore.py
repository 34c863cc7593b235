from __future__ import annotations

from sqlite_shop import Shop


def test_round_trip(shop: Shop) -> None:
    before = shop.rows()
    want = shop.capture()
    shop.run("UPDATE orders SET total = 0", "DROP TABLE notes", "PRAGMA user_version = 7")
    assert shop.restore(want) > 0
    assert shop.rows() == before
    shop.assert_is(want)
    assert shop.restore(want) == 0
