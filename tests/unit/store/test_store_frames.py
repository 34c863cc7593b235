"""Small blobs sealed as one: each is had alone, damage takes no more than its frame, a prune takes frames apart."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from store_kit import DiedError, assert_holds, flip, machine, noise, packs, put_pack_of_format_1, text

from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.store import Store, annex
from rfs.production.rollback.store.packs import Entry, in_frames
from rfs.production.rollback.store.seal import FRAME_SIZE, DamagedError, Type


def everything(kind: str, body: bytes) -> bool:
    return True


def put_many(store: Store, count: int, *, seed: int = 0, size: int = 3_000) -> dict[bytes, bytes]:
    """Put blobs at once; return content by id, in their order."""
    contents = [(noise if number % 2 else text)(size + number, seed * 1_000 + number) for number in range(count)]
    return dict(zip(store.put_all(contents), contents, strict=True))


def frames_of(store: Store, pack: Path) -> list[list[Entry]]:
    return list(in_frames(store._shelf.entries(pack.stem)[0]))


def bytes_of(pack: Path, frame: list[Entry]) -> bytes:
    return pack.read_bytes()[frame[0].offset : frame[0].offset + frame[0].length]


def test_what_lies_in_frames_is_had_in_any_order(store: Store, root: str, key: str) -> None:
    made = put_many(store, 60)
    assert_holds(store, made)
    store.flush()
    frames = frames_of(store, packs(root)[0])
    assert 8 <= len(frames) <= 14
    assert all(sum(entry.size for entry in frame) <= 2 * FRAME_SIZE for frame in frames)
    assert [entry.blob for frame in frames for entry in frame] == list(made)
    assert_holds(store, dict(sorted(made.items())))
    store.close()
    with Store.open(root, key) as again:
        assert_holds(again, dict(reversed(made.items())))
        again.expect(made)
        assert_holds(again, made)
        damage = again.verify()
        assert not damage
        assert damage.checked == 60
        # Each frame is read and opened once.
        assert damage.size == sum(frame[0].length for frame in frames)
        assert again.verify(only=set(made)).size == damage.size


def test_damage_takes_its_frame_and_what_it_took_is_stored_anew(store: Store, root: str, key: str) -> None:
    made = put_many(store, 60)
    store.flush()
    (pack,) = packs(root)
    frames = frames_of(store, pack)
    hit = {entry.blob for entry in frames[2]}
    store.close()
    flip(pack, frames[2][0].offset + 100, 3)
    with Store.open(root, key) as again:
        for blob, data in made.items():
            if blob in hit:
                with pytest.raises(IntegrityError):
                    again.get(blob)
            else:
                assert again.get(blob) == data
        assert again.verify().blobs == hit
        assert again.lacking(set(made)) == hit
        again.put_all(list(made.values()))
        again.flush()
        assert_holds(again, made)
        assert not again.verify().blobs


def test_blobs_that_changed_places_within_a_frame_are_refused(store: Store) -> None:
    """The tag tells nothing of what lies where in a frame: ids do."""
    contents = {store.identify(data): data for data in (b"a" * 50, b"b" * 50)}
    sealed = store._sealer.seal(contents)
    first, second = contents
    store._shelf.append(sealed._replace(ids=second + first), Type.BLOB)
    store.flush()
    for blob in contents:
        with pytest.raises(IntegrityError, match="what its id says"):
            store.get(blob)
    assert store.verify().blobs == set(contents)


def test_a_frame_of_another_type_does_not_open(store: Store) -> None:
    data = b"\0\0\0\0body"
    sealed = store._sealer.seal({store.identify(data): data})
    with pytest.raises(DamagedError):
        store._sealer.open_frame(sealed.data, Type.PART)
    with pytest.raises(DamagedError):
        store._sealer.open_alone(sealed.data, sealed.ids)


def test_a_prune_copies_whole_frames_as_they_are_and_takes_others_apart(store: Store, root: str, key: str) -> None:
    made = put_many(store, 60)
    store.flush()
    (old,) = packs(root)
    frames = frames_of(store, old)
    whole, part = frames[0], frames[1]
    as_it_was = bytes_of(old, whole)
    keep = {entry.blob for entry in (*whole, *part[::2])}
    before = store.size()
    foretold = store.prune(keep, everything, dry_run=True)
    pruned = store.prune(keep, everything, dry_run=False)
    assert pruned.packs_rewritten == 1
    assert pruned.blobs_removed == foretold.blobs_removed == 60 - len(keep)
    assert pruned.freed == before - store.size() > before // 2
    (new,) = packs(root)
    assert as_it_was in new.read_bytes()
    assert_holds(store, {blob: made[blob] for blob in keep})
    assert not any(store.has(blob) for blob in made.keys() - keep)
    assert not store.verify()
    store.close()
    with Store.open(root, key) as again:
        again.rebuild()
        assert_holds(again, {blob: made[blob] for blob in keep})


def test_a_pack_with_little_waste_in_each_frame_is_left(store: Store, root: str) -> None:
    made = put_many(store, 60)
    store.flush()
    old = packs(root)
    keep = {blob for number, blob in enumerate(made) if number % 6}
    assert store.prune(keep, everything, dry_run=False).packs_removed == 0
    assert packs(root) == old


def test_a_prune_leaves_a_pack_whose_kept_frame_is_damaged(store: Store, root: str, key: str) -> None:
    made = put_many(store, 60)
    store.flush()
    (pack,) = packs(root)
    frames = frames_of(store, pack)
    store.close()
    flip(pack, frames[1][0].offset + 50)
    keep = {frames[0][0].blob, *(entry.blob for entry in frames[1])}
    with Store.open(root, key) as again:
        pruned = again.prune(keep, everything, dry_run=False)
        assert pruned.packs_removed == 0
        assert f"{len(frames[1])} of its blobs are damaged" in pruned.left[0]
        assert pack.exists()
        assert again.get(frames[0][0].blob) == made[frames[0][0].blob]
        assert again.lacking(keep) == {entry.blob for entry in frames[1]}


def test_a_prune_brings_a_pack_of_format_1_into_one_of_format_2(store: Store, root: str) -> None:
    old = put_pack_of_format_1(store, [text(3_000 + number, number) for number in range(40)])
    store.recover()
    (first,) = packs(root)
    keep = dict(list(old.items())[::4])
    assert store.prune(set(keep), everything, dry_run=False).packs_rewritten == 1
    (second,) = packs(root)
    assert not first.exists()
    assert second.read_bytes()[8:12] == b"\2\0\0\0"
    assert_holds(store, keep)
    assert not store.verify()


def test_a_copy_in_another_pack_is_enough_when_frames_overlap(store: Store, root: str, key: str) -> None:
    """A frame of which part lies elsewhere, too: one copy of each stays, and none is lost."""
    one = put_many(store, 30)
    store.flush()
    two = put_pack_of_format_1(store, [*list(one.values())[10:15], *(text(100, 50 + n) for n in range(5))])
    assert len(store.recover()) == 1
    keep = {**one, **two}
    for each in range(3):
        store.prune(set(list(keep)[each:]), everything, dry_run=False)
        assert_holds(store, {blob: keep[blob] for blob in list(keep)[each:]})
    store.close()
    with Store.open(root, key) as again:
        again.rebuild()
        assert_holds(again, {blob: keep[blob] for blob in list(keep)[2:]})
        assert not again.verify()


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_what_is_whole_of_a_cut_pack_is_saved_frame_by_frame(store: Store, root: str, key: str, cut: float) -> None:
    made = put_many(store, 60)
    store.flush()
    (pack,) = packs(root)
    frames = frames_of(store, pack)
    store.close()
    length = int(pack.stat().st_size * cut)
    os.truncate(pack, length)
    whole = {e.blob for frame in frames if frame[0].offset + frame[0].length <= length for e in frame}
    with Store.open(root, key) as again:
        as_they_were = [bytes_of(pack, frame) for frame in frames if frame[0].blob in whole]
        assert f"{len(whole)} of its 60 blobs" in again.recover()[0]
        saved = b"".join(path.read_bytes() for path in packs(root))
        assert all(frame in saved for frame in as_they_were)
        assert_holds(again, {blob: made[blob] for blob in whole})
        assert again.lacking(set(made)) == made.keys() - whole
        assert not again.verify()


def test_a_frame_that_is_not_known_as_a_whole_is_not_copied_as_it_is(store: Store, root: str) -> None:
    made = put_many(store, 5)
    store.flush()
    (old,) = packs(root)
    (frame,) = frames_of(store, old)
    known = frame[:-1]
    assert store._shelf.move(known, {entry.blob for entry in known}, bytes_of(old, frame)) == []
    store.flush()
    (new,) = set(packs(root)) - {old}
    assert bytes_of(old, frame) not in new.read_bytes()
    store._shelf.remove([old.stem])
    assert_holds(store, {entry.blob: made[entry.blob] for entry in known})
    assert not store.verify()


def test_what_the_growing_pack_holds_is_not_copied_into_it_again(store: Store, root: str) -> None:
    made = put_many(store, 5)
    store.flush()
    (old,) = packs(root)
    (frame,) = frames_of(store, old)
    for wanted in (set(list(made)[:2]), set(made), set(made)):
        assert store._shelf.move(frame, wanted, bytes_of(old, frame)) == []
    store.flush()
    store._shelf.remove([old.stem])
    (new,) = packs(root)
    assert len(store._shelf.contents(new.stem)) == 5
    assert_holds(store, made)
    assert not store.verify()


def test_a_blob_that_is_entered_twice_is_a_bug_and_not_a_pack(store: Store, root: str) -> None:
    blob = store.put(b"content")
    sealed = store._sealer.seal({blob: b"content"})
    with pytest.raises(RuntimeError, match="twice"):
        store._shelf.append(sealed, Type.BLOB)
    store.discard()
    assert packs(root) == []


def test_of_a_childs_frame_only_what_is_new_is_kept(store: Store, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annex, "WORTH_A_PACK", 1 << 30)
    contents = [noise(2_000, number) for number in range(40)]
    store.put_all(contents[::3])
    helper = store.annex()
    helper.put_all(contents)
    for told in helper.taken():
        store.adopt(*told)
    helper.leave()
    store.flush()
    assert len(packs(root)) == 1
    assert store._shelf.ask(lambda index: index.duplicates()) == {}
    assert store.size() < 44 * 2_000
    assert_holds(store, {store.identify(data): data for data in contents})
    assert not store.verify()


def test_a_prune_that_takes_frames_apart_dies_at_any_call(root: str, key: str) -> None:
    at, died = 0, True
    while died:
        at += 1
        folder = f"{root}-{at}"
        with Store.create(folder, key) as store:
            made = put_many(store, 40, size=1_500)
            store.flush()
            kept = dict(list(made.items())[::3])
            with machine(at) as state, suppress(DiedError):
                store.prune(set(kept), everything, dry_run=False)
            died = bool(state.fired)
        with Store.open(folder, key) as again:
            again.recover()
            assert_holds(again, kept)
            assert not again.verify()
    assert at > 5
