"""Reading many blobs of a pack without asking the index for each: never something else than the index would say."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
from store_kit import assert_holds, fill, flip, noise, packs

from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.store import Store
from rfs.production.rollback.store import nearby as nearby_module
from rfs.production.rollback.store.index import Index


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the index is asked for; a pack's list is held after the fifth."""
    monkeypatch.setattr(nearby_module, "_ASKED_BEFORE_HOLDING", 5)
    found: list[bytes] = []
    real = Index.find

    def find(index: Index, blob: bytes) -> Any:
        found.append(blob)
        return real(index, blob)

    monkeypatch.setattr(Index, "find", find)
    return found


def held(store: Store, count: int = 20, seed: int = 0) -> dict[bytes, bytes]:
    """Fill a pack and read all of it; it is held afterwards."""
    made = fill(store, count, seed=seed)
    store.flush()
    assert_holds(store, made)
    return made


def test_the_index_is_asked_a_few_times_only(store: Store, asked: list[bytes]) -> None:
    made = held(store)
    assert len(asked) == 5
    assert_holds(store, made)
    assert len(asked) == 5


def test_the_packs_read_last_are_held_and_no_more(store: Store, asked: list[bytes]) -> None:
    made = []
    for seed in range(3):
        made.append(fill(store, 20, seed=seed))
        store.flush()
    for blobs in made:
        assert_holds(store, blobs)
    asked.clear()
    assert_holds(store, made[1] | made[2])
    assert asked == []
    assert_holds(store, made[0])
    assert len(asked) == 5


def test_a_flush_lets_go_of_them(store: Store, asked: list[bytes]) -> None:
    made = held(store)
    asked.clear()
    store.flush()
    assert_holds(store, made)
    assert len(asked) == 5


def test_a_blob_of_a_pack_that_was_pruned_is_missing(store: Store) -> None:
    made = held(store)
    store.prune(set(), lambda kind, body: False, dry_run=False)
    with pytest.raises(IntegrityError) as caught:
        store.get(next(iter(made)))
    assert caught.value.key == "store.blob_missing"


def test_a_blob_that_another_process_moved_is_found(store: Store, root: str, key: str) -> None:
    made = held(store)
    kept = dict(list(made.items())[::3])
    with Store.open(root, key) as other:
        other.prune(set(kept), lambda kind, body: False, dry_run=False)
        (moved,) = packs(root)
        assert_holds(other, kept)
    assert moved.exists()
    assert_holds(store, kept)


def test_damage_that_came_later_is_found(store: Store, root: str) -> None:
    made = held(store)
    (pack,) = packs(root)
    flip(pack, 48 + 20)
    first = next(iter(made))
    with pytest.raises(IntegrityError) as caught:
        store.get(first)
    assert caught.value.key == "store.damaged"
    assert not store.has(first)


def test_the_whole_copy_is_read_when_the_one_at_hand_is_damaged(store: Store, root: str) -> None:
    data = noise(300)
    blob = store.put(data)
    made = held(store)
    (pack,) = packs(root)
    sound = pack.read_bytes()
    flip(pack, 48 + 20)
    store.verify(only={blob})
    # Stored anew, because its only copy is damaged.
    assert store.put(data) == blob
    store.flush()
    assert len(packs(root)) == 2
    pack.write_bytes(sound)
    assert_holds(store, made)
    flip(pack, 48 + 20)
    assert store.get(blob) == data


def test_no_type_passes_for_another(store: Store) -> None:
    made = held(store)
    with pytest.raises(IntegrityError) as caught:
        store.get_part(next(iter(made)))
    assert caught.value.key == "store.blob_missing"


def test_a_forked_child_is_refused(store: Store) -> None:
    blob = next(iter(held(store)))
    with warnings.catch_warnings():
        # From Python 3.12 on, forking under a test runner with threads warns.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            store.get(blob)
        except RuntimeError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_pack_whose_list_cannot_be_read_is_read_through_the_index(store: Store, root: str) -> None:
    made = fill(store, 20)
    store.flush()
    (pack,) = packs(root)
    flip(pack, pack.stat().st_size - 20)
    assert_holds(store, made)
