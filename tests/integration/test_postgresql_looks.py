"""What is asked again and again does not read a whole PostgreSQL database, and says when it is unsure."""

from __future__ import annotations

from typing import Any

import pytest
from postgresql_shop import Shop

from rfs.production.rollback.drivers.postgresql import staging


def _nothing_is_dumped(monkeypatch: pytest.MonkeyPatch) -> None:
    def dumping(*arguments: object) -> object:
        raise AssertionError("all of it was read")

    monkeypatch.setattr(staging, "dumping", dumping)


def _drift(shop: Shop) -> Any:
    (drift,) = shop.json("status")["drift"]
    return drift["equal"], drift["detail"]


def test_status_knows_without_reading_or_says_that_it_does_not(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.do("CREATE SEQUENCE counter CACHE 1; SELECT nextval('counter'), nextval('counter')")
    target = shop.checkpoint()
    with monkeypatch.context() as patched:
        _nothing_is_dumped(patched)
        assert _drift(shop) == (True, "")
        shop.one("SELECT nextval('counter')")  # no transaction of its own, as the server has logged more than that
        equal, detail = _drift(shop)
        assert (equal, "rfs diff" in detail) == (None, True)
        shop.do("INSERT INTO log SELECT 'new' FROM generate_series(1, 7)")
        equal, detail = _drift(shop)
        assert (equal, "rows written since" in detail) == (None, True), detail
        shop.do(f"COMMENT ON DATABASE {shop.database} IS 'another'")
        equal, detail = _drift(shop)
        assert (equal, "comment" in detail) == (False, True)
    shop.json("rollback", target, "--yes", "--reason", "a test")
    with monkeypatch.context() as patched:
        _nothing_is_dumped(patched)
        equal, detail = _drift(shop)
        # The server may have analysed the new tables by itself meanwhile, which it counts as written.
        assert (equal, detail) == (True, "") or (equal is None and "in its catalogs" in detail)
        shop.do("UPDATE log SET line = 'changed' WHERE ctid = (SELECT min(ctid) FROM log)")
        assert _drift(shop)[0] is None
    (tmp,) = (shop.folder / ".rfs").rglob("postgresql.json")
    tmp.unlink()  # it may vanish at any time
    equal, detail = _drift(shop)
    assert (equal, "not compared" in detail) == (None, True)


def test_prune_asks_the_server_only_when_something_was_set_aside(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.checkpoint()
    assert shop.json("prune", "--yes")["discarded"] == []  # nobody had looked yet
    dsn = shop.dsn.replace(str(shop.server.socket), str(shop.folder))
    monkeypatch.setenv("SHOP_DATABASE", dsn)
    assert shop.json("prune", "--yes")["discarded"] == []
    monkeypatch.setenv("SHOP_DATABASE", shop.dsn)
    target = shop.checkpoint()
    shop.do("INSERT INTO log VALUES ('new')")
    shop.json("rollback", target, "--yes", "--reason", "a test")
    monkeypatch.setenv("SHOP_DATABASE", dsn)
    (said,) = shop.json("prune", "--yes")["discarded"]
    assert "could not be looked through" in said


def test_the_estimate_is_of_all_that_is_built_and_learns_its_pace(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LEAST_FOR_A_PACE", 0)
    shop.do("INSERT INTO log SELECT repeat('x', 1000) FROM generate_series(1, 5000)")
    target = shop.checkpoint()
    assert shop.json("plan", target)["estimate"]["seconds"] < 0.1
    shop.do("INSERT INTO log VALUES ('one row differs')")
    first = shop.json("plan", target)["estimate"]
    assert first["outage"] < 1
    assert first["seconds"] > 0.7  # 5 MB and twenty objects at the usual pace, though one row differs
    shop.json("rollback", target, "--yes", "--reason", "a test")
    shop.do("INSERT INTO log VALUES ('one row differs')")
    assert shop.json("plan", target)["estimate"]["seconds"] != pytest.approx(first["seconds"], rel=0.001)
