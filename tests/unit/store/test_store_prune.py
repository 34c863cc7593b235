"""Prune removes what is not kept, and at no moment anything that is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from store_kit import DiedError, assert_holds, fill, flip, machine, noise, packs

from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.store import Store
from rfs.production.rollback.store import prune as prune_module


def everything(kind: str, body: bytes) -> bool:
    return True


def nothing(kind: str, body: bytes) -> bool:
    return False


def half(made: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return dict(list(made.items())[::2])


def filled(store: Store, seeds: Iterable[int], count: int = 20) -> list[dict[bytes, bytes]]:
    """One pack for each seed."""
    made = []
    for seed in seeds:
        made.append(fill(store, count, seed=seed))
        store.flush()
    return made


def test_what_nothing_needs_goes(store: Store, root: str) -> None:
    first, second = filled(store, range(2))
    before = store.size()
    pruned = store.prune(set(second), everything, dry_run=False)
    assert pruned.packs_removed == 1
    assert pruned.packs_rewritten == 0
    assert pruned.blobs_removed == 20
    assert pruned.freed == before - store.size() > 0
    assert len(packs(root)) == 1
    assert_holds(store, second)
    assert not any(store.has(blob) for blob in first)
    with pytest.raises(IntegrityError):
        store.get(next(iter(first)))


def test_a_pack_of_mostly_waste_is_rewritten(store: Store, root: str, key: str) -> None:
    (made,) = filled(store, range(1))
    kept = half(made)
    before, (old,) = store.size(), packs(root)
    pruned = store.prune(set(kept), everything, dry_run=False)
    assert pruned.packs_removed == pruned.packs_rewritten == 1
    assert pruned.blobs_removed == 10
    assert pruned.freed == before - store.size() > 0
    assert not old.exists()
    assert_holds(store, kept)
    assert not any(store.has(blob) for blob in made.keys() - kept.keys())
    assert not store.verify()
    store.close()
    with Store.open(root, key) as again:
        assert again.recover() == []
        assert_holds(again, kept)


def test_a_pack_with_little_waste_is_left(store: Store, root: str) -> None:
    (made,) = filled(store, range(1))
    keep = set(list(made)[1:])
    old = packs(root)
    pruned = store.prune(keep, everything, dry_run=False)
    assert (pruned.freed, pruned.packs_removed, pruned.blobs_removed) == (0, 0, 0)
    assert packs(root) == old


def test_many_small_packs_are_merged(store: Store, root: str) -> None:
    made = filled(store, range(prune_module.MANY_SMALL - 1))
    keep = set().union(*made)
    assert store.prune(keep, everything, dry_run=False).packs_removed == 0
    made += filled(store, [99])
    keep |= set(made[-1])
    pruned = store.prune(keep, everything, dry_run=False)
    assert pruned.packs_rewritten == prune_module.MANY_SMALL
    assert pruned.blobs_removed == 0
    assert len(packs(root)) == 1
    for part in made:
        assert_holds(store, part)
    assert store.prune(keep, everything, dry_run=False).packs_removed == 0


def test_a_large_prune_settles_in_between(store: Store, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old packs go as soon as their copies are durable, so that room for one pack is enough."""
    monkeypatch.setattr(prune_module, "FULL_SIZE", 1_000)
    made = filled(store, range(5))
    kept = [half(part) for part in made]
    most = 0
    real = os.fsync

    def watching(fd: int) -> None:
        nonlocal most
        most = max(most, len(packs(root)))
        real(fd)

    monkeypatch.setattr(os, "fsync", watching)
    assert store.prune(set().union(*kept), everything, dry_run=False).packs_rewritten == 5
    assert most <= 6
    for part in kept:
        assert_holds(store, part)
    assert not store.verify()


def test_a_dry_run_changes_nothing_and_foretells(store: Store, root: str) -> None:
    made = filled(store, range(3))
    keep = set(half(made[0])) | set(made[1])
    before = {path: path.read_bytes() for path in packs(root)}
    foretold = store.prune(keep, nothing, dry_run=True)
    assert {path: path.read_bytes() for path in packs(root)} == before
    for part in made:
        assert_holds(store, part)
    done = store.prune(keep, nothing, dry_run=False)
    assert foretold.packs_removed == done.packs_removed == 2
    assert foretold.packs_rewritten == done.packs_rewritten == 1
    assert foretold.blobs_removed == done.blobs_removed == 30
    assert abs(foretold.freed - done.freed) < 1_500  # the new pack's own index


def test_records_are_kept_as_one_says_and_stay_in_order(store: Store) -> None:
    for number in range(6):
        store.put_record("checkpoint", b"%d" % number)
        store.put_record("operation", b"%d" % number)
        waste = fill(store, 20, seed=number)
        store.flush()
    asked: list[tuple[str, bytes]] = []

    def wanted(kind: str, body: bytes) -> bool:
        asked.append((kind, body))
        return kind == "operation" or body in (b"1", b"4")

    pruned = store.prune(set(), wanted, dry_run=False)
    assert sorted(asked) == sorted((kind, b"%d" % n) for n in range(6) for kind in ("checkpoint", "operation"))
    assert pruned.blobs_removed == 6 * 20 + 4
    assert list(store.records("checkpoint")) == [b"1", b"4"]
    assert list(store.records("operation")) == [b"%d" % number for number in range(6)]
    assert not any(store.has(blob) for blob in waste)
    store.put_record("checkpoint", b"new")
    store.flush()
    assert list(store.records("checkpoint")) == [b"1", b"4", b"new"]
    store.rebuild()
    assert list(store.records("checkpoint")) == [b"1", b"4", b"new"]


def test_an_unwanted_record_goes_even_from_a_pack_with_little_waste(store: Store) -> None:
    made = fill(store, 20)
    store.put_record("checkpoint", b"forgotten")
    store.flush()
    store.prune(set(made), nothing, dry_run=False)
    assert list(store.records("checkpoint")) == []
    assert_holds(store, made)
    assert store.prune(set(made), nothing, dry_run=False).packs_removed == 0


def test_a_tiny_pack_without_waste_is_left(store: Store) -> None:
    part = store.put_part([], b"")
    store.put_record("checkpoint", b"")
    store.flush()
    assert store.prune({part}, everything, dry_run=False).packs_removed == 0


def test_parts_are_kept_with_what_they_refer_to(store: Store) -> None:
    made = fill(store, 20)
    kept, lost = store.put_part(list(half(made)), b"kept"), store.put_part(list(made), b"lost")
    store.flush()
    store.prune(store.reachable([kept]), nothing, dry_run=False)
    assert store.get_part(kept) == (list(half(made)), b"kept")
    assert_holds(store, half(made))
    assert not store.has(lost)


def test_prune_refuses_while_something_is_not_flushed(store: Store) -> None:
    store.put(b"growing")
    with pytest.raises(RuntimeError, match="flush"):
        store.prune(set(), everything, dry_run=False)


def test_nothing_is_removed_when_the_callback_fails(store: Store) -> None:
    (made,) = filled(store, range(1))
    store.put_record("checkpoint", b"x")
    store.flush()

    def failing(kind: str, body: bytes) -> bool:
        raise ValueError(body)

    with pytest.raises(ValueError, match="x"):
        store.prune(set(), failing, dry_run=False)
    assert_holds(store, made)


def test_what_was_pruned_may_be_stored_again(store: Store) -> None:
    (made,) = filled(store, range(1))
    assert all(store.has(blob) for blob in made)
    store.prune(set(), nothing, dry_run=False)
    assert store.size() == 0
    assert filled(store, range(1)) == [made]
    assert_holds(store, made)


def test_a_store_that_was_open_elsewhere_notices(store: Store, root: str, key: str) -> None:
    """Another process prunes between two operations of this one."""
    wanted = {store.put(b"%d" % number): b"%d" % number for number in range(1200)}
    store.flush()
    assert all(store.has(blob) for blob in wanted)  # the ids are held in memory now
    with Store.open(root, key) as other:
        other.prune(set(), nothing, dry_run=False)
    again = {store.put(data): data for data in wanted.values()}
    store.flush()
    assert_holds(store, again)


def test_a_store_notices_after_a_flush_that_had_nothing_to_write(store: Store, root: str, key: str) -> None:
    wanted = {store.put(b"%d" % number): b"%d" % number for number in range(1200)}
    store.flush()
    store.put(b"0")  # is there: asks once for changes, and begins no pack
    store.flush()
    assert all(store.has(blob) for blob in wanted)  # the ids are held in memory now
    with Store.open(root, key) as other:
        other.prune(set(), nothing, dry_run=False)
    again = {store.put(data): data for data in wanted.values()}
    store.flush()
    assert_holds(store, again)


def test_a_reader_goes_on_while_another_prunes(store: Store, root: str, key: str) -> None:
    (made,) = filled(store, range(1))
    kept = half(made)
    with Store.open(root, key) as other:
        assert_holds(other, kept)
        store.prune(set(kept), nothing, dry_run=False)
        assert_holds(other, kept)
        other.verify()


def test_a_reader_that_looked_before_the_prune_looks_again(
    store: Store, root: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the question where a blob lies and its reading, its pack goes."""
    (made,) = filled(store, range(1))
    kept = half(made)
    with Store.open(root, key) as other:
        other.has(bytes(32))
        from rfs.production.rollback.store.index import Index

        real = Index.find
        pending = [True]

        def find(index: Index, blob: bytes) -> object:
            found = real(index, blob)
            if pending.pop() if pending else False:
                store.prune(set(kept), nothing, dry_run=False)
            return found

        monkeypatch.setattr(Index, "find", find)
        assert_holds(other, kept)
        assert not pending


# — damage —


def test_a_damaged_blob_keeps_its_pack(store: Store, root: str) -> None:
    (made,) = filled(store, range(1))
    kept = half(made)
    (old,) = packs(root)
    flip(old, 60)  # in the first blob, which is kept
    first = next(iter(kept))
    for _ in range(2):
        pruned = store.prune(set(kept), nothing, dry_run=False)
        assert len(pruned.left) == 1
        assert old.stem in pruned.left[0]
        assert old.exists()
        assert_holds(store, {blob: data for blob, data in kept.items() if blob != first})
        size = store.size()
    assert store.prune(set(kept), nothing, dry_run=False).freed == 0
    assert store.size() == size
    flip(old, 60)  # it was the cable
    assert not store.verify()
    assert_holds(store, kept)


def test_a_damaged_blob_that_nothing_needs_is_no_obstacle(store: Store, root: str) -> None:
    (made,) = filled(store, range(1))
    kept = dict(list(made.items())[10:])
    flip(packs(root)[0], 60)
    assert store.prune(set(kept), nothing, dry_run=False).left == ()
    assert not store.verify()
    assert_holds(store, kept)


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize("waste", [0, 20])
def test_a_damaged_record_keeps_its_pack(store: Store, root: str, waste: int, read_before: bool) -> None:
    """Whether it is wanted cannot be asked."""
    store.put_record("checkpoint", noise(50))
    made = fill(store, 5)
    fill(store, waste, seed=1)
    store.flush()
    (old,) = packs(root)
    flip(old, 60)
    if read_before:
        assert store.verify()
    for _ in range(2):
        pruned = store.prune(set(made), nothing, dry_run=False)
        assert old.exists()
        assert len(pruned.left) == bool(waste)
        assert_holds(store, made)
    flip(old, 60)
    assert list(store.records("checkpoint")) == [noise(50)]


@pytest.mark.parametrize("forget", [False, True], ids=["marked", "not marked"])
@pytest.mark.parametrize("damaged", [0, 1], ids=["older", "newer"])
def test_of_two_copies_the_whole_one_stays(store: Store, root: str, key: str, forget: bool, damaged: int) -> None:
    (made,) = filled(store, range(1), count=2)
    (first,) = packs(root)
    flip(first, 60)
    assert len(store.verify().blobs) == 1
    filled(store, range(1), count=2)
    (second,) = set(packs(root)) - {first}
    if damaged == 1:
        flip(first, 60)
        flip(second, 60)
    if forget:
        store.close()
        for path in Path(root).glob("index.db*"):
            path.unlink()
    with Store.open(root, key) as again:
        assert again.prune(set(made), nothing, dry_run=False).left == ()
        assert_holds(again, made)
        assert not again.verify()
        assert again.prune(set(made), nothing, dry_run=False).left == ()
        assert_holds(again, made)


def test_an_unreadable_pack_is_left_and_said(store: Store, root: str, key: str) -> None:
    (made, _) = filled(store, range(2))
    store.close()
    bad = packs(root)[0]
    bad.write_bytes(b"rubbish" * 100)
    for path in Path(root).glob("index.db*"):
        path.unlink()
    with Store.open(root, key) as again:
        pruned = again.prune(set(made), nothing, dry_run=False)
        assert len(pruned.left) == 1
        assert bad.exists()


# — crashes and failures at every call —


class Scene:
    """Packs to remove, to rewrite and to leave, duplicates, records; and what must survive."""

    def __init__(self, root: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.key = root, key
        with Store.create(root, key) as store:
            dead, mixed, worn, whole = filled(store, range(4), count=8)
            self.part = store.put_part(list(half(mixed)), b"part")
            store.put_record("checkpoint", b"kept")
            store.put_record("checkpoint", b"lost")
            store.flush()
        self.kept = {**half(mixed), **half(worn), **whole}
        self.lost = [*dead, *(mixed.keys() - self.kept.keys())]
        self.keep = {*self.kept, self.part}
        monkeypatch.setattr(prune_module, "FULL_SIZE", 100)

    def prune(self, store: Store) -> None:
        store.prune(self.keep, lambda kind, body: body == b"kept", dry_run=False)

    def check(self, store: Store) -> None:
        assert_holds(store, self.kept)
        assert store.get_part(self.part)[1] == b"part"
        assert b"kept" in list(store.records("checkpoint"))
        assert not store.verify()


@pytest.mark.parametrize("fault", [None, errno.ENOSPC, errno.EIO], ids=["dies", "no space", "EIO"])
def test_prune_fails_or_dies_at_any_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int | None) -> None:
    at, fired = 0, []
    while True:
        at += 1
        scene = Scene(str(tmp_path / f"s{at}"), str(tmp_path / "key"), monkeypatch)
        store = Store.open(scene.root, scene.key)
        store.recover()
        with machine(at, fault) as state:
            try:
                # After a death nothing is closed or tidied up: the process is gone.
                scene.prune(store)
            except DiedError:
                assert fault is None
            except RollbackError as error:
                assert error.key in {"store.no_space", "store.unwritable"}  # noqa: PT017  # that nothing is raised is right, too
        if not state.fired:
            break
        fired.append(state.fired)
        if fault is not None:
            scene.check(store)  # also without a new start
            store.close()
        with Store.open(scene.root, scene.key) as again:
            scene.check(again)
            again.recover()
            scene.check(again)
            assert again.recover() == []
            scene.prune(again)
            scene.check(again)
            assert not any(again.has(blob) for blob in scene.lost)
            assert list(again.records("checkpoint")) == [b"kept"]
            assert os.listdir(Path(scene.root, "tmp")) == []
        store.close()
    assert {"write", "fsync", "rename", "unlink"} <= set(fired)
    assert len(fired) >= 15


@pytest.mark.slow
def test_prune_dies_and_so_does_the_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = 0
    for at in range(1, 40, 2):
        for then in (1, 2, 4, 7):
            scene = Scene(str(tmp_path / f"s{at}-{then}"), str(tmp_path / "key"), monkeypatch)
            first = Store.open(scene.root, scene.key)
            with machine(at) as died, suppress(DiedError):
                scene.prune(first)
            second = Store.open(scene.root, scene.key)
            with machine(then) as died_again, suppress(DiedError):
                second.recover()
                scene.prune(second)
            points += bool(died.fired and died_again.fired)
            with Store.open(scene.root, scene.key) as again:
                again.recover()
                scene.check(again)
            first.close()
            second.close()
    assert points > 20


@pytest.mark.parametrize("fault", [None, errno.ENOSPC, errno.EROFS], ids=["dies", "no space", "read-only"])
def test_a_checkpoint_fails_or_dies_at_any_call(tmp_path: Path, fault: int | None) -> None:
    at, fired = 0, []
    while True:
        at += 1
        root, key = str(tmp_path / f"s{at}"), str(tmp_path / "key")
        with Store.create(root, key) as store:
            before = fill(store, 5)
            store.flush()
        store = Store.open(root, key)
        store.has(bytes(32))
        acknowledged = False
        large = {store.identify(noise(3 << 20)): noise(3 << 20)}
        with machine(at, fault) as state:
            try:
                wanted = fill(store, 5, seed=1)
                store.put(noise(3 << 20))
                wanted |= fill(store, 5, seed=2) | large
                store.flush()
                acknowledged = True
            except DiedError:
                assert fault is None
            except RollbackError as error:
                assert error.key == ("store.no_space" if fault == errno.ENOSPC else "store.unwritable")  # noqa: PT017  # that nothing is raised is right, too
        if not state.fired:
            break
        fired.append(state.fired)
        assert not acknowledged or fault is not None
        if fault is not None:
            if not acknowledged:
                # Until it is discarded, nothing of it may be taken for stored.
                with pytest.raises(RollbackError):
                    store.flush()
                with pytest.raises(RollbackError):
                    store.put(b"more")
            store.discard()
            assert_holds(store, before)
            after = fill(store, 5, seed=3)
            store.flush()
            before |= after
            store.close()
        with Store.open(root, key) as again:
            again.recover()
            assert again.recover() == []
            assert_holds(again, before)
            assert os.listdir(Path(root, "tmp")) == []
            assert not again.verify()
            wanted = fill(again, 5, seed=1) | fill(again, 5, seed=2)
            again.flush()
            assert_holds(again, before | wanted)
        store.close()
    assert {"open", "write", "fsync", "rename"} <= set(fired)
