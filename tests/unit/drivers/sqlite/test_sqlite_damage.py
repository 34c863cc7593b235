"""A damaged database: it must not stand in the way of the rollback that mends it, and comes back as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlite_shop import Shop

from rfs.production.rollback.drivers.sqlite import driver as driver_module
from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.model import Capture

PAGE = 4096


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no magic": lambda path: overwrite(path, 0, bytes(16)),
    "no schema": lambda path: overwrite(path, 100, os.urandom(300)),
    "an entry of the schema": lambda path: overwrite(path, PAGE - 196, os.urandom(196)),
    "an inner page": lambda path: overwrite(path, PAGE, os.urandom(PAGE)),
    "many pages": lambda path: overwrite(path, 3 * PAGE, bytes(20 * PAGE)),
    "the list of free pages": lambda path: overwrite(path, 32, os.urandom(8)),
    "cut in a page": lambda path: os.truncate(path, path.stat().st_size // 2 + 100),
    "cut between pages": lambda path: os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE),
    "cut in its header": lambda path: os.truncate(path, 50),
    "empty": lambda path: os.truncate(path, 0),
    "more than its pages": lambda path: overwrite(path, path.stat().st_size, b"more" * 500),
}


def salvage(shop: Shop, previous: Capture | None = None) -> Capture:
    return shop.driver.salvage(shop.component, shop.store, previous)


def content(path: Path) -> bytes:
    """The file, but for what SQLite counts up in the header with each write."""
    data = bytearray(path.read_bytes())
    if data[:6] == b"SQLite":
        data[24:28] = data[40:44] = bytes(4)
        data[92:100] = bytes(8)
    return bytes(data)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_is_rolled_back_and_comes_back(
    shop: Shop, damage: str, *, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(driver_module, "CHECKED_BYTES", PAGE)
    sound = shop.capture()
    DAMAGE[damage](shop.path)
    # What is too large to be checked counts as damaged only when its length says so.
    look = content if large else Path.read_bytes
    damaged = look(shop.path)
    before = salvage(shop)
    changes = list(shop.driver.changes(shop.component, shop.store, sound, before))
    assert changes, "said to be equal"
    # Of what SQLite does not see a restore takes no notice either.
    unseen = damage == "more than its pages"
    assert list(shop.driver.changes(shop.component, shop.store, sound, None)) == ([] if unseen else changes)
    list(shop.driver.losses(shop.component, shop.store, sound, changes))
    shop.driver.stage(shop.component, shop.store, sound)
    shop.restore(sound)
    shop.assert_is(sound)
    shop.driver.stage(shop.component, shop.store, before)
    shop.restore(before)
    assert shop.driver.verify(shop.component, shop.store, before) == []
    assert look(shop.path) == damaged
    assert shop.restore(before) == 0
    assert list(shop.driver.changes(shop.component, shop.store, before, None)) == []
    shop.restore(sound)
    shop.assert_is(sound)


def test_what_only_the_log_of_a_damaged_database_holds_is_kept(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "wal")
    sound = shop.capture()
    held = shop.open()
    try:
        held.execute("PRAGMA wal_autocheckpoint = 0")
        held.execute("INSERT INTO notes VALUES ('in the log alone')")
        log = Path(f"{shop.path}-wal").read_bytes()
        assert log
        damaged = shop.path.read_bytes()
        copy = tmp_path / "copy.db"
        copy.write_bytes(damaged[:100] + os.urandom(300) + damaged[400:])
        # Only page 1 of the file: the log has whole pages, and the schema's is not among them.
        Path(f"{copy}-wal").write_bytes(log)
    finally:
        held.close()
    os.replace(copy, shop.path)
    os.replace(f"{copy}-wal", f"{shop.path}-wal")
    before = salvage(shop)
    shop.restore(sound)
    shop.assert_is(sound)
    shop.restore(before)
    assert shop.driver.verify(shop.component, shop.store, before) == []
    assert b"in the log alone" in shop.path.read_bytes()


def test_a_checkpoint_to_go_back_to_is_refused_without_a_schema(shop: Shop) -> None:
    DAMAGE["no schema"](shop.path)
    with pytest.raises(IntegrityError) as caught:
        shop.capture()
    assert caught.value.key == "sqlite.damaged"


def test_a_large_one_that_was_not_checked_is_found_when_it_is_staged_unless_it_is_a_state_before(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "CHECKED_BYTES", PAGE)
    # As the clock is trusted, what is unchanged is taken from the last capture, whatever that was for.
    monkeypatch.setattr(driver_module, "recall", lambda c, path: shop.driver.fingerprint(c, rehash=True))
    sound = shop.capture()
    DAMAGE["an inner page"](shop.path)
    ordinary = shop.capture()
    before = salvage(shop, ordinary)
    again = shop.capture(before)
    assert ordinary.fingerprint == before.fingerprint == again.fingerprint
    shop.restore(sound)
    for capture in (ordinary, again):
        with pytest.raises(IntegrityError) as caught:
            shop.driver.stage(shop.component, shop.store, capture)
        assert caught.value.key == "sqlite.damaged"
    shop.driver.stage(shop.component, shop.store, before)


def test_tables_that_can_be_read_are_compared_in_a_damaged_database(shop: Shop) -> None:
    sound = shop.capture()
    shop.run("INSERT INTO notes VALUES ('a'), ('b')")
    ((root,),) = shop.rows("SELECT rootpage FROM sqlite_schema WHERE name = 'orders'")
    overwrite(shop.path, (int(str(root)) - 1) * PAGE, os.urandom(PAGE))
    changes = list(shop.driver.changes(shop.component, shop.store, sound, None))
    told = {change.key: change.after.label for change in changes if change.after is not None}
    assert told["notes"] == "2 rows"
    assert told["orders"] == "rows that cannot be compared"
    losses = {loss.what: loss.count for loss in shop.driver.losses(shop.component, shop.store, sound, changes)}
    assert losses == {"rows in table notes": 2, "rows in table orders": None}


@pytest.mark.parametrize("damage", ["an inner page", "more than its pages", "empty"])
def test_what_one_kind_of_capture_knows_of_a_quiet_file_the_other_does_not_take_over(
    shop: Shop, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfs.production.rollback.drivers.sqlite.unchanged.QUIET_NS", 0)
    DAMAGE[damage](shop.path)
    os.utime(shop.path, (1_600_000_000, 1_600_000_000))
    ordinary = shop.capture()
    before = salvage(shop, ordinary)
    assert before.fingerprint != ordinary.fingerprint
    assert salvage(shop, before) == before
    assert shop.driver.fingerprint(shop.component, rehash=False) == ordinary.fingerprint
    assert shop.capture(before).fingerprint == ordinary.fingerprint
    os.truncate(shop.path, 50)
    salvaged = salvage(shop, before)
    assert salvage(shop, salvaged).fingerprint == salvaged.fingerprint
    with pytest.raises(RollbackError):
        shop.capture(salvaged)
