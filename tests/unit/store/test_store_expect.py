"""What will be read is read ahead; what is missing is found out by one question."""

from __future__ import annotations

import os
from typing import Any

import pytest
from store_kit import assert_holds, fill, flip, packs

from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.store import Store
from rfs.production.rollback.store import store as store_module
from rfs.production.rollback.store.index import Index


def count(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    asked: list[Any] = []
    real = getattr(Index, name)

    def counting(self: Index, *arguments: Any) -> Any:
        asked.append(arguments)
        return real(self, *arguments)

    monkeypatch.setattr(Index, name, counting)
    return asked


def test_what_is_expected_is_asked_for_once_and_read_ahead(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fill(store, 700)
    store.flush()
    second = fill(store, 700, seed=1)
    store.flush()
    wanted, ahead = first | second, set()

    def note(fd: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        ahead.add((os.readlink(f"/proc/self/fd/{fd}"), offset, length))

    monkeypatch.setattr(os, "posix_fadvise", note)
    asked = count(monkeypatch, "find")
    store.expect(wanted)
    assert len(ahead) == len(wanted)
    assert {path for path, _, _ in ahead} == {str(path) for path in packs(store.path)}
    assert_holds(store, wanted)
    assert asked == []


def test_what_is_not_there_or_no_longer_is_no_harm_to_expect(store: Store) -> None:
    wanted = fill(store, 20)
    store.flush()
    missing = bytes(32)
    store.expect([*wanted, missing])
    with pytest.raises(IntegrityError):
        store.get(missing)
    kept = dict(list(wanted.items())[:10])
    (old,) = packs(store.path)
    store.prune(kept.keys(), lambda *_: True, dry_run=False)
    if old.exists():  # it was not worth rewriting
        os.rename(old, old.with_suffix(".gone"))
        with pytest.raises(IntegrityError):
            store.get(next(iter(kept)))
        os.rename(old.with_suffix(".gone"), old)
    assert_holds(store, kept)


def test_a_damaged_copy_that_is_expected_gives_way_to_a_sound_one(store: Store, root: str, key: str) -> None:
    wanted = fill(store, 3, size=5000)
    store.flush()
    (pack,) = packs(root)
    flip(pack, 2000)
    assert store.verify().blobs
    assert fill(store, 3, size=5000) == wanted  # the damaged one is stored again
    store.flush()
    store.expect(wanted)
    assert_holds(store, wanted)


def test_all_that_is_missing_is_found_by_one_question(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fill(store, 1500, size=40)
    lacking = [bytes([number]) * 32 for number in range(3)]
    part = store.put_part([*wanted, *lacking], b"body")
    unsealed = store.missing([part])
    store.flush()
    asked = count(monkeypatch, "has")
    assert store.missing([part]) == unsealed == lacking
    assert asked == []
    nowhere = b"\xff" * 32
    assert store.missing([part, nowhere, part]) == [nowhere, *lacking]
    few = store.put_part(lacking[:1], b"")
    assert store.missing([few]) == lacking[:1]


def test_a_part_that_was_found_whole_is_read_once(store: Store, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback asks whether all is here, and then for what it asked about."""
    part = store.put_part([], b"body" * 100)
    store.flush()
    assert store.missing([part]) == []
    (pack,) = packs(root)
    flip(pack, 100)
    assert store.get_part(part) == ([], b"body" * 100)
    with pytest.raises(IntegrityError):
        store.get_part(part)
    assert store.missing([part]) == [part]
    flip(pack, 100)
    monkeypatch.setattr(store_module, "_MOST_LOOKED_THROUGH", 100)
    store.verify()  # it is sound again
    assert store.missing([part]) == []
    flip(pack, 100)
    with pytest.raises(IntegrityError):  # too much to be kept
        store.get_part(part)


def test_many_are_asked_for_as_one_is(store: Store) -> None:
    held = set(fill(store, 5))
    store.flush()
    unsealed = {store.put(b"not flushed")}
    nowhere = {b"\xff" * 32}
    assert store.lacking(held | unsealed | nowhere) == nowhere
