"""What a rollback does once it does not do again: checking, unpacking, and waiting for the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from sqlite_shop import Shop

from rfs.production.rollback.drivers.sqlite import SqliteDriver, pages
from rfs.production.rollback.errors import IntegrityError

driver_module = sys.modules["rfs.production.rollback.drivers.sqlite.driver"]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    really = driver_module.soundness

    def note(copy: str, *, thorough: bool) -> str:
        made.append(copy)
        return str(really(copy, thorough=thorough))

    monkeypatch.setattr(driver_module, "soundness", note)
    return made


def test_what_is_put_back_is_checked_once(shop: Shop, checks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    want = shop.capture()
    shop.run("DELETE FROM orders WHERE id % 2")
    before = shop.driver.salvage(shop.component, shop.store, None)
    checks.clear()
    assert list(shop.driver.changes(shop.component, shop.store, want, before))
    assert len(checks) == 2  # each of them
    shop.driver.stage(shop.component, shop.store, want)
    shop.restore(want)
    monkeypatch.setattr(driver_module.Seen, "soundness", lambda *_, **__: pytest.fail("it was checked again"))
    assert shop.driver.verify(shop.component, shop.store, want) == []
    assert len(checks) == 2
    shop.driver.release(shop.component)
    # Who did not check it does.
    with pytest.raises(pytest.fail.Exception):
        SqliteDriver().verify(shop.component, shop.store, want)


def test_one_that_is_not_sound_is_refused_each_time(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    want = shop.capture()
    shop.run("DELETE FROM orders")
    monkeypatch.setattr(driver_module, "soundness", lambda copy, *, thorough: "broken")
    for _ in range(2):
        with pytest.raises(IntegrityError) as caught:
            shop.driver.stage(shop.component, shop.store, want)
        assert caught.value.key == "sqlite.damaged"
    assert shop.rows() == []


def test_what_two_states_share_is_unpacked_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.orders(501, 4000)
    a = shop.capture()
    shop.run("UPDATE orders SET item = 'x' WHERE id = 1")
    b = shop.capture()
    asked: list[bytes] = []
    really = shop.store.get
    monkeypatch.setattr(shop.store, "get", lambda blob: asked.append(blob) or really(blob))
    assert [change.key for change in shop.driver.changes(shop.component, shop.store, a, b)] == ["orders"]
    assert len(asked) == len(set(asked))
    assert set(asked) == set(shop.store.blobs)


def test_one_put_together_from_another_is_byte_for_byte_what_was_captured(shop: Shop, tmp_path: Path) -> None:
    a = shop.capture()
    shop.orders(501, 1500)
    shop.run("DELETE FROM orders WHERE id < 100")
    b = shop.capture()
    whole, mixed = tmp_path / "whole", tmp_path / "mixed"
    for want, base in ((b, a), (a, b)):
        with open(whole, "wb+") as one, open(mixed, "wb+") as other, open(tmp_path / "base", "wb+") as first:
            pages.assemble(base, shop.store, first.fileno())
            pages.assemble(want, shop.store, one.fileno())
            pages.assemble(want, shop.store, other.fileno(), (base, first.fileno()))
        assert whole.read_bytes() == mixed.read_bytes()


def test_a_base_that_is_not_what_it_was_is_noticed(shop: Shop, tmp_path: Path) -> None:
    shop.orders(501, 4000)
    a = shop.capture()
    shop.run("UPDATE orders SET item = 'x' WHERE id = 1")
    b = shop.capture()
    with open(tmp_path / "base", "wb+") as base, open(tmp_path / "copy", "wb+") as copy:
        pages.assemble(a, shop.store, base.fileno())
        os.pwrite(base.fileno(), b"!", a.size - 1)
        with pytest.raises(IntegrityError):
            pages.assemble(b, shop.store, copy.fileno(), (a, base.fileno()))


def test_the_disk_is_waited_for_only_by_what_is_put_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    want = shop.capture()
    shop.run("DELETE FROM orders WHERE id % 2")
    now = shop.capture()
    waited: list[str] = []
    really = os.fsync

    def note(fd: int) -> None:
        waited.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).partition("-")[2].partition("-")[0])
        really(fd)

    monkeypatch.setattr(driver_module.os, "fsync", note)
    assert list(shop.driver.changes(shop.component, shop.store, want, now))
    assert "whole" not in waited
    shop.driver.stage(shop.component, shop.store, want)
    assert "stage" in waited
    shop.driver.release(shop.component)
    shop.restore(want)
    assert "whole" in waited


def test_damage_is_told_as_such_though_what_is_wanted_is_known_to_be_sound(shop: Shop) -> None:
    want = shop.capture()
    shop.run("DELETE FROM notes", "INSERT INTO notes VALUES ('x')")
    shop.driver.stage(shop.component, shop.store, want)
    shop.restore(want)
    content = bytearray(shop.path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8] = b"\xff" * 8
    shop.path.write_bytes(content)
    assert "integrity" in {change.key for change in shop.driver.verify(shop.component, shop.store, want)}
    shop.driver.release(shop.component)
