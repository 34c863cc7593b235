"""Damage of every kind is found, said and never handed out as data; what is whole is saved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import apsw
import pytest
from store_kit import assert_holds, fill, flip, noise, packs

from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.store import Store


def settle_index(root: str) -> None:
    """Bring all of the index into its one file."""
    database = apsw.Connection(str(Path(root, "index.db")))
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


class Stored:
    """One pack with blobs, a part and a record, closed, and its untouched bytes."""

    def __init__(self, root: str, key: str) -> None:
        self.root, self.key = root, key
        with Store.create(root, key) as store:
            self.blobs = fill(store, 5, size=60)
            self.part = store.put_part(list(self.blobs), b"body")
            self.record = store.put_record("checkpoint", b"record")
            store.flush()
        (self.pack,) = packs(root)
        self.good = self.pack.read_bytes()
        settle_index(root)

    def lose_index(self) -> None:
        for path in Path(self.root).glob("index.db*"):
            path.unlink()

    def read(self, store: Store) -> int:
        """Read everything; return how much was refused. Wrong data fails the test."""
        refused = 0
        for blob, data in self.blobs.items():
            try:
                assert store.get(blob) == data
            except IntegrityError:
                refused += 1
        try:
            assert store.get_part(self.part) == (list(self.blobs), b"body")
        except IntegrityError:
            refused += 1
        problems: list[str] = []
        found = list(store.records("checkpoint", problems))
        assert found in ([], [b"record"])
        return refused + (not found)


@pytest.fixture
def stored(root: str, key: str) -> Stored:
    return Stored(root, key)


@pytest.mark.parametrize("index", [True, False], ids=["with index", "without index"])
def test_a_flipped_bit_anywhere_in_a_pack_is_found(stored: Stored, index: bool) -> None:
    shutil.copy(Path(stored.root, "index.db"), Path(stored.root, "saved"))
    end = len(stored.good)
    for offset in [*range(48), *range(48, end - 12, 5), *range(end - 12, end)]:
        flip(stored.pack, offset, offset % 8)
        stored.lose_index()
        if index:
            shutil.copy(Path(stored.root, "saved"), Path(stored.root, "index.db"))
        with Store.open(stored.root, stored.key) as store:
            try:
                refused = stored.read(store)
                damage = store.verify()
            except RollbackError as error:
                # A higher format number in the header is refused before anything is read.
                assert error.key == "store.format"  # noqa: PT017  # that nothing is raised is right, too
                assert 8 <= offset < 12
            else:
                assert damage, offset
                assert damage.packs or damage.blobs
                assert refused <= 1 or not index, offset
                assert len(damage.blobs) == refused or not index
        stored.pack.write_bytes(stored.good)


@pytest.mark.parametrize("index", [True, False], ids=["with index", "without index"])
def test_a_pack_cut_anywhere_is_found_and_what_is_whole_is_saved(stored: Stored, index: bool) -> None:
    shutil.copy(Path(stored.root, "index.db"), Path(stored.root, "saved"))
    for length in [*range(0, len(stored.good), 7), len(stored.good) - 1]:
        for path in packs(stored.root):
            path.unlink()
        stored.pack.write_bytes(stored.good[:length])
        stored.lose_index()
        if index:
            shutil.copy(Path(stored.root, "saved"), Path(stored.root, "index.db"))
        with Store.open(stored.root, stored.key) as store:
            before = stored.read(store)
            assert store.verify()
            said = store.recover()
            assert len(said) == 1
            assert stored.pack.stem in said[0]
            assert stored.read(store) == before
            assert not store.verify()
            assert store.recover() == []
            assert Path(stored.root, "damaged", stored.pack.name).read_bytes() == stored.good[:length]
            # All that was lost can be stored again.
            for data in stored.blobs.values():
                store.put(data)
            store.flush()
            assert_holds(store, stored.blobs)


def test_bytes_after_a_pack_are_found(stored: Stored) -> None:
    stored.pack.write_bytes(stored.good + b"more")
    with Store.open(stored.root, stored.key) as store:
        assert store.verify().packs
        assert len(store.recover()) == 1
        assert stored.read(store) == 0
        assert not store.verify()


@pytest.mark.parametrize("index", [True, False], ids=["with index", "without index"])
def test_bytes_inside_a_pack_are_found(stored: Stored, index: bool) -> None:
    """Between the blobs and the footer, where no tag covers them."""
    footer = len(stored.good) - 12 - int.from_bytes(stored.good[-12:-8], "little")
    stored.pack.write_bytes(stored.good[:footer] + b"more" + stored.good[footer:])
    if not index:
        stored.lose_index()
    with Store.open(stored.root, stored.key) as store:
        assert stored.read(store) == (0 if index else len(stored.blobs) + 2)
        assert "length" in store.verify().packs[0]


def test_what_lies_elsewhere_is_not_lost_with_a_damaged_pack(stored: Stored) -> None:
    flip(stored.pack, 50)
    first = next(iter(stored.blobs))
    with Store.open(stored.root, stored.key) as store:
        assert store.verify().blobs == {first}
        store.put(stored.blobs[first])
        store.flush()
        os.truncate(stored.pack, len(stored.good) - 1)
        (said,) = store.recover()
        assert "7 of its 7" in said
        assert len(packs(stored.root)) == 2
        assert stored.read(store) == 0
        assert not store.verify()


def test_recover_looks_at_what_another_process_did(stored: Stored) -> None:
    with Store.open(stored.root, stored.key) as store:
        for _ in range(600):
            assert all(store.has(blob) for blob in stored.blobs)  # from memory, in the end
        with Store.open(stored.root, stored.key) as other:
            other.prune(set(), lambda kind, body: True, dry_run=False)
        assert store.recover() == []
        assert not any(store.has(blob) for blob in stored.blobs)


def test_a_torn_unsealed_pack_is_removed(stored: Stored) -> None:
    for length in (0, 1, 47, 48, 49, len(stored.good) // 2, len(stored.good)):
        Path(stored.root, "tmp", "ab" * 16 + ".pack").write_bytes(stored.good[:length])
        with Store.open(stored.root, stored.key) as store:
            assert stored.read(store) == 0
            (said,) = store.recover()
            assert f"{length} bytes" in said
            assert os.listdir(Path(stored.root, "tmp")) == []
            assert store.recover() == []
            assert not store.verify()


def test_recover_leaves_the_pack_that_is_growing(store: Store, root: str) -> None:
    blob = store.put(b"growing")
    assert store.recover() == []
    store.flush()
    assert store.get(blob) == b"growing"


def test_a_pack_that_is_gone(stored: Stored) -> None:
    stored.pack.unlink()
    with Store.open(stored.root, stored.key) as store:
        assert stored.read(store) == len(stored.blobs) + 2
        assert not any(store.has(blob) for blob in stored.blobs)
        assert store.verify(only=set(stored.blobs)).blobs == set(stored.blobs)
        assert store.recover() == []


def test_a_lost_pack_is_said(stored: Stored) -> None:
    stored.pack.unlink()
    with Store.open(stored.root, stored.key) as store:
        assert store.recover() == [f"Pack {stored.pack.stem} is gone from the store, and what it held with it."]


def test_a_pack_under_another_name_is_refused(stored: Stored) -> None:
    stored.pack.rename(stored.pack.with_name("cd" * 16 + ".pack"))
    with Store.open(stored.root, stored.key) as store:
        assert stored.read(store) == len(stored.blobs) + 2
        assert "another name" in store.verify().packs[0]


def test_a_pack_of_another_store_is_refused(stored: Stored, tmp_path: Path) -> None:
    with Store.create(str(tmp_path / "other"), stored.key) as other:
        foreign = other.put(b"foreign")
        other.flush()
    (pack,) = packs(str(tmp_path / "other"))
    shutil.copy(pack, Path(stored.root, "packs"))
    with Store.open(stored.root, stored.key) as store:
        assert not store.has(foreign)
        assert stored.read(store) == 0
        assert "another store" in store.verify().packs[0]
        assert "another store" in store.recover()[0]
        assert not store.verify()


def test_two_blobs_that_changed_places_are_refused(root: str, key: str) -> None:
    """Authenticated bytes in a place that belongs to others."""
    with Store.create(root, key) as store:
        first, second = store.put(noise(50, 1)), store.put(noise(50, 2))
        store.flush()
        (pack,) = packs(root)
        data = pack.read_bytes()
        pack.write_bytes(data[:48] + data[48 + 79 : 48 + 158] + data[48 : 48 + 79] + data[48 + 158 :])
        for blob in (first, second):
            with pytest.raises(IntegrityError) as caught:
                store.get(blob)
            assert caught.value.key == "store.damaged"
            assert pack.stem[:12] in str(caught.value)


# — verification —


def test_verify_of_a_sound_store(stored: Stored) -> None:
    ticks = []
    with Store.open(stored.root, stored.key) as store:
        damage = store.verify(tick=lambda items, size: ticks.append((items, size)))
        assert not damage
        assert damage.checked == 7 == sum(items for items, _ in ticks)
        assert damage.size == sum(size for _, size in ticks) > 0
        only = set(list(stored.blobs)[:2])
        assert store.verify(only=only).checked == 2
        assert store.verify(only={bytes(32)}).blobs == {bytes(32)}


def test_verify_may_be_stopped(stored: Stored) -> None:
    def stop(items: int, size: int) -> None:
        raise KeyboardInterrupt

    with Store.open(stored.root, stored.key) as store:
        with pytest.raises(KeyboardInterrupt):
            store.verify(stop)
        assert not store.verify()


def test_verify_of_some_blobs_says_which(stored: Stored) -> None:
    flip(stored.pack, 50)
    first, *rest = stored.blobs
    with Store.open(stored.root, stored.key) as store:
        assert store.verify(only=set(stored.blobs)).blobs == {first}
        assert not store.verify(only=set(rest))


def test_a_damaged_blob_is_stored_again_when_it_is_met_again(stored: Stored) -> None:
    flip(stored.pack, 50)
    first = next(iter(stored.blobs))
    with Store.open(stored.root, stored.key) as store:
        assert store.has(first)
        assert store.verify().blobs == {first}
        assert not store.has(first)
        store.rebuild()
        assert not store.has(first)
        assert store.put(stored.blobs[first]) == first
        store.flush()
        assert stored.read(store) == 0
        assert not store.verify()
    with Store.open(stored.root, stored.key) as store:
        store.rebuild()
        assert stored.read(store) == 0


def test_a_blob_whose_reading_failed_is_stored_again_too(stored: Stored) -> None:
    flip(stored.pack, 50)
    first = next(iter(stored.blobs))
    with Store.open(stored.root, stored.key) as store:
        with pytest.raises(IntegrityError):
            store.get(first)
        store.put(stored.blobs[first])
        store.flush()
        assert store.get(first) == stored.blobs[first]


def test_a_blob_that_reads_again_counts_again(stored: Stored) -> None:
    flip(stored.pack, 50)
    first = next(iter(stored.blobs))
    with Store.open(stored.root, stored.key) as store:
        assert store.verify().blobs == {first}
        stored.pack.write_bytes(stored.good)
        assert not store.verify()
        assert store.has(first)


def test_a_disk_that_cannot_read(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    with Store.open(stored.root, stored.key) as store:
        store.has(bytes(32))
        monkeypatch.setattr(os, "pread", failing)
        with pytest.raises(IntegrityError, match="disk cannot read"):
            store.get(next(iter(stored.blobs)))
        assert len(store.verify().blobs) == 7


def test_a_damaged_record_does_not_hide_the_others(root: str, key: str) -> None:
    with Store.create(root, key) as store:
        store.put_record("checkpoint", noise(50))
        store.put_record("checkpoint", b"second")
        store.flush()
        flip(packs(root)[0], 60)
        with pytest.raises(IntegrityError):
            list(store.records("checkpoint"))
        problems: list[str] = []
        assert list(store.records("checkpoint", problems)) == [b"second"]
        assert len(problems) == 1


# — the index —


def rows(root: str) -> set[tuple[object, ...]]:
    question = (
        "SELECT id, name, type, offset, length, blobs.size, packs.size, stamp FROM blobs JOIN packs ON number = pack"
    )
    database = apsw.Connection(str(Path(root, "index.db")))
    try:
        return set(database.execute(question))
    finally:
        database.close()


def test_an_index_made_from_the_packs_is_equal(root: str, key: str) -> None:
    with Store.create(root, key) as store:
        for seed in range(4):
            made = fill(store, 20, seed=seed)
            store.put_part(list(made), b"%d" % seed)
            store.put_record("checkpoint", b"%d" % seed)
            store.flush()
    before = rows(root)
    assert len(before) == 88
    for path in Path(root).glob("index.db*"):
        path.unlink()
    with Store.open(root, key) as store:
        store.has(bytes(32))
        assert rows(root) == before
        store.rebuild()
    assert rows(root) == before


@pytest.mark.parametrize("offset", [0, 18, 30, 4096, 4200, 8192, 12300, 16400])
@pytest.mark.parametrize("length", [1, 700])
def test_a_damaged_index_is_made_again(root: str, key: str, offset: int, length: int) -> None:
    with Store.create(root, key) as store:
        wanted = fill(store, 300, size=30)
        store.flush()
    settle_index(root)
    path = Path(root, "index.db")
    data = bytearray(path.read_bytes())
    data[offset : offset + length] = bytes(255 - byte for byte in data[offset : offset + length])
    path.write_bytes(data)
    with Store.open(root, key) as store:
        for blob, content in wanted.items():
            assert store.get(blob) == content
        assert not store.verify()
        more = fill(store, 3, seed=1)
        store.flush()
        assert_holds(store, wanted | more)
    with Store.open(root, key) as store:
        store.recover()
        assert_holds(store, wanted | more)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at " * 30, b"SQLite format 3\x00"])
def test_something_else_in_the_place_of_the_index(stored: Stored, content: bytes) -> None:
    stored.lose_index()
    Path(stored.root, "index.db").write_bytes(content)
    with Store.open(stored.root, stored.key) as store:
        assert "index" in store.recover()[0]
        assert stored.read(store) == 0


def test_an_index_of_another_version_is_made_again(stored: Stored) -> None:
    database = apsw.Connection(str(Path(stored.root, "index.db")))
    database.execute("PRAGMA user_version = 7; ALTER TABLE blobs RENAME TO other")
    database.close()
    with Store.open(stored.root, stored.key) as store:
        assert stored.read(store) == 0


def test_an_index_that_points_to_wrong_places_is_made_again(stored: Stored) -> None:
    database = apsw.Connection(str(Path(stored.root, "index.db")))
    database.execute("UPDATE blobs SET offset = offset + 1")
    database.close()
    with Store.open(stored.root, stored.key) as store:
        assert stored.read(store) == 0
        assert not store.verify()


def test_verify_mends_an_index_that_lacks_blobs(stored: Stored) -> None:
    database = apsw.Connection(str(Path(stored.root, "index.db")))
    database.execute("DELETE FROM blobs WHERE type = 0")
    database.close()
    with Store.open(stored.root, stored.key) as store:
        assert not any(store.has(blob) for blob in stored.blobs)
        assert not store.verify()
        assert_holds(store, stored.blobs)


def test_rows_of_a_pack_without_a_readable_footer_are_kept(stored: Stored) -> None:
    flip(stored.pack, len(stored.good) - 40)
    with Store.open(stored.root, stored.key) as store:
        store.rebuild()
        assert stored.read(store) == 0
        (sentence,) = store.verify().packs
        assert stored.pack.stem in sentence
        keep = {*stored.blobs, stored.part}
        pruned = store.prune(keep, lambda kind, body: True, dry_run=False)
        assert pruned.packs_rewritten == 1
        assert not store.verify()
        assert stored.read(store) == 0
        store.rebuild()
        assert stored.read(store) == 0
