"""Round trips, ids, types, duplicates, records, and who may use the store."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_kit import assert_holds, fill, noise, packs, text

from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.store import Store
from rfs.production.rollback.store import packs as packs_module
from rfs.production.rollback.store.seal import FRAME_SIZE, Type

blobs = st.one_of(st.binary(max_size=300), st.binary(max_size=40).map(lambda data: data * 50))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=blobs, flush=st.booleans())
def test_blobs_come_back(store: Store, data: bytes, flush: bool) -> None:
    blob = store.put(data)
    if flush:
        store.flush()
    assert blob == store.identify(data)
    assert len(blob) == 32
    assert store.has(blob)
    assert store.get(blob) == data


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(refs=st.lists(st.binary(min_size=32, max_size=32), max_size=5), body=blobs, flush=st.booleans())
def test_parts_come_back(store: Store, refs: list[bytes], body: bytes, flush: bool) -> None:
    part = store.put_part(refs, body)
    if flush:
        store.flush()
    assert store.get_part(part) == (refs, body)
    assert store.has(part)
    assert store.reachable([part]) == {part, *refs}


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_may_be_put(store: Store, kind: type) -> None:
    for data in (b"", noise(5000), text(5000)):
        assert store.get(store.put(kind(data))) == data


def test_what_was_flushed_is_there_when_opened_again(store: Store, root: str, key: str) -> None:
    wanted = fill(store, 200)
    part = store.put_part(list(wanted), b"body")
    store.flush()
    store.close()
    with Store.open(root, key) as again:
        assert again.id == store.id
        assert_holds(again, wanted)
        assert again.get_part(part) == (list(wanted), b"body")
        assert again.reachable([part]) == {part, *wanted}


def test_what_was_not_flushed_is_not(store: Store, root: str, key: str) -> None:
    blob = store.put(b"lost")
    store.close()
    with Store.open(root, key) as again:
        assert not again.has(blob)
        assert os.listdir(Path(root, "tmp")) == []


def test_the_same_content_is_stored_once(store: Store) -> None:
    data = noise(5000)
    blob = store.put(data)
    before = store.stored
    assert store.put(data) == blob
    assert store.stored == before
    store.flush()
    after = store.stored
    assert store.put(data) == blob
    store.flush()
    assert store.stored == after
    assert store.size() == after


def test_duplicates_are_found_among_many(store: Store, root: str, key: str) -> None:
    wanted = fill(store, 1500, size=40)
    store.flush()
    size = store.size()
    # More than the number of questions after which ids are held in memory.
    assert fill(store, 1500, size=40) == wanted
    store.flush()
    assert store.size() == size
    assert all(store.has(blob) for blob in wanted)
    assert not store.has(bytes(32))


def test_small_content_is_compressed_and_noise_is_not_made_larger(store: Store) -> None:
    store.put(text(100_000))
    assert store.stored < 2_000
    before = store.stored
    store.put(noise(100_000))
    assert store.stored - before == 100_000 + 12 + 16 + 1


def test_nothing_readable_is_on_the_disk(store: Store, root: str) -> None:
    secret = b"correct horse battery staple"
    blob = store.put(secret)
    store.put_part([blob], secret)
    store.put_record("checkpoint", secret)
    store.flush()
    for path in (path for path in Path(root).rglob("*") if path.is_file()):
        assert secret not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600


def test_many_are_put_as_one_by_one(store: Store) -> None:
    here, sealed = store.put(b"here"), store.put(b"sealed")
    store.flush()
    contents = [b"a", b"here", text(5000), b"a", noise(3000), b"sealed", b""]
    blobs = store.put_all(contents)
    assert blobs == [store.identify(data) for data in contents]
    assert (blobs[1], blobs[5]) == (here, sealed)
    before = store.stored
    assert store.put_all(contents[::-1]) == blobs[::-1]
    assert store.stored == before
    store.flush()
    assert_holds(store, dict(zip(blobs, contents, strict=True)))


def test_what_threads_prepared_is_put_in_the_order_of_the_calls(store: Store) -> None:
    contents = [[noise(FRAME_SIZE, seed), b"the same", noise(20_000, seed % 2)] for seed in range(8)]
    prepared: dict[int, Callable[[], list[bytes]]] = {}

    def prepare(number: int) -> None:
        prepared[number] = store.prepare(contents[number])

    threads = [threading.Thread(target=prepare, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.stored == 0
    blobs = [blob for number in range(8) for blob in prepared[number]()]
    assert blobs == [store.identify(data) for some in contents for data in some]
    store.flush()
    (name,) = store._shelf.place.names()
    assert store._shelf.contents(name).ids() == list(dict.fromkeys(blobs))
    assert_holds(store, dict(zip(blobs, [data for some in contents for data in some], strict=True)))


def test_two_stores_give_the_same_content_different_ids(store: Store, tmp_path: Path, key: str) -> None:
    with Store.create(str(tmp_path / "other"), key) as other:
        assert other.id != store.id
        assert other.put(b"same") != store.put(b"same")


def test_the_same_content_is_sealed_differently_each_time(store: Store) -> None:
    large = noise(FRAME_SIZE)
    contents = {store.identify(data): data for data in (b"same", large, b"other")}
    first, second = store._sealer.seal(contents), store._sealer.seal(contents)
    frames = [frame.data for sealed in (first, second) for frame in sealed.frames()]
    assert b"".join(frames) == first.data + second.data
    assert len({frame[:12] for frame in frames}) == len(frames) == 6
    alone = [store.seal(b"same") for _ in range(2)]
    assert alone[0] != alone[1]
    assert [store.unseal(each) for each in alone] == [b"same", b"same"]


def test_no_type_passes_for_another(store: Store) -> None:
    content = struct.pack("<I", 0) + b"body"
    blob, part = store.put(content), store.put_part([], b"body")
    record = store.put_record("checkpoint", b"body")
    assert len({blob, part, record}) == 3
    for flushed in (False, True):
        if flushed:
            store.flush()
        for wrong in (part, record):
            with pytest.raises(IntegrityError) as caught:
                store.get(wrong)
            assert caught.value.key == "store.blob_missing"
        for wrong in (blob, record):
            with pytest.raises(IntegrityError):
                store.get_part(wrong)


def test_a_part_sealed_as_a_blob_does_not_open(store: Store) -> None:
    """Also a store that lies about types in its own index is found out."""
    content = struct.pack("<I", 0) + b"body"
    sealed = store._sealer.seal({store.identify(content): content})
    part = store.put_part([], b"something else")
    store._shelf.append(sealed._replace(ids=store.identify(b"victim")), Type.BLOB)
    store.flush()
    with pytest.raises(IntegrityError) as caught:
        store.get(store.identify(b"victim"))
    assert caught.value.key == "store.damaged"
    assert store.get_part(part) == ([], b"something else")


def test_content_that_is_not_what_its_id_says_is_refused(store: Store) -> None:
    """A worker that mixed up two files, or a bit that fell before it was sealed."""
    victim = store.identify(b"victim")
    store._shelf.append(store._sealer.seal({victim: b"something else"}), Type.BLOB)
    store.flush()
    with pytest.raises(IntegrityError, match="what its id says"):
        store.get(victim)
    assert store.verify().blobs == {victim}


def test_a_missing_blob_is_said_to_be_missing(store: Store) -> None:
    with pytest.raises(IntegrityError, match="lacks a blob") as caught:
        store.get(bytes(32))
    assert caught.value.key == "store.blob_missing"
    with pytest.raises(IntegrityError):
        store.reachable([bytes(32)])


def test_refs_must_be_ids(store: Store) -> None:
    with pytest.raises(ValueError, match="ref"):
        store.put_part([b"short"], b"")


def test_an_enormous_blob_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfs.production.rollback.store.seal.LARGEST_BLOB", 10)
    with pytest.raises(ValueError, match="cut it"):
        store.put(bytes(11))


# — packs fill up —


def test_a_full_pack_is_sealed_by_itself(store: Store, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "FULL_SIZE", 20_000)
    wanted = fill(store, 200, size=500)
    assert len(packs(root)) >= 3
    assert_holds(store, wanted)
    store.flush()
    assert_holds(store, wanted)
    *full, last = sorted((path.stat().st_size for path in packs(root)), reverse=True)
    assert all(20_000 <= size < 30_000 for size in full)
    assert last < 30_000


def test_ids_in_memory_know_packs_that_were_sealed_since(
    store: Store, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs_module, "FULL_COUNT", 20)
    for _ in range(1100):
        assert not store.has(bytes(32))
    wanted = fill(store, 50)
    assert len(packs(root)) == 2
    assert_holds(store, wanted)
    size = store.stored
    assert fill(store, 50) == wanted
    assert store.stored == size


def test_a_pack_of_very_many_tiny_blobs_is_sealed_too(store: Store, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "FULL_COUNT", 50)
    wanted = fill(store, 120, size=10)
    assert len(packs(root)) == 2
    assert_holds(store, wanted)


def test_large_blobs_lie_between_small_ones(store: Store, root: str, key: str) -> None:
    sizes = (10, 300_000, 20, 3_000_000, 30, 262_144, 800_000, 400_000, 40)
    wanted = {store.put(data): data for data in (noise(size, size) for size in sizes)}
    for blob, data in wanted.items():
        assert store.get(blob) == data  # from the growing pack
    more = {store.put(data): data for data in (noise(size, size + 1) for size in sizes)}
    store.flush()
    with Store.open(root, key) as other:
        assert_holds(other, wanted | more)
        assert not other.verify()


def test_discard_drops_the_growing_pack_only(store: Store, root: str) -> None:
    kept = fill(store, 10)
    store.flush()
    lost = fill(store, 10, seed=1)
    store.discard()
    assert os.listdir(Path(root, "tmp")) == []
    assert_holds(store, kept)
    assert not any(store.has(blob) for blob in lost)
    again = fill(store, 10, seed=1)
    store.flush()
    assert_holds(store, kept | again)


def test_flush_of_nothing_makes_no_pack(store: Store, root: str) -> None:
    store.flush()
    store.flush()
    assert packs(root) == []
    assert store.size() == 0


def test_more_packs_than_descriptors(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "_OPEN_FILES", 3)
    wanted = {}
    for seed in range(8):
        wanted |= fill(store, 2, seed=seed)
        store.flush()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert_holds(store, wanted)
    assert len(os.listdir("/proc/self/fd")) <= before + 3


# — records —


def test_records_come_back_by_kind_and_in_order(store: Store, root: str, key: str) -> None:
    for number in range(30):
        store.put_record("checkpoint", b"%d" % number)
        store.put_record("operation", b"o%d" % number)
        if number % 10 == 9:
            store.flush()
    store.put_record("checkpoint", b"not flushed")
    assert list(store.records("checkpoint")) == [b"%d" % number for number in range(30)]
    store.close()
    with Store.open(root, key) as again:
        assert list(again.records("operation")) == [b"o%d" % number for number in range(30)]
        assert list(again.records("nothing")) == []


def test_a_record_is_newest_even_when_the_clock_went_back(
    store: Store, root: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_record("checkpoint", b"first")
    store.flush()
    store.close()
    monkeypatch.setattr("time.time_ns", lambda: 5)
    with Store.open(root, key) as again:
        again.put_record("checkpoint", b"second")
        again.put_record("checkpoint", b"third")
        again.flush()
        assert list(again.records("checkpoint")) == [b"first", b"second", b"third"]


def test_the_same_record_may_be_put_twice(store: Store) -> None:
    store.put_record("checkpoint", b"same")
    store.put_record("checkpoint", b"same")
    store.flush()
    assert list(store.records("checkpoint")) == [b"same", b"same"]


# — workers —


def in_a_child(work) -> bytes:
    """Fork, run `work` in the child, and return what it returned."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on, forking under a test runner with threads warns.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return result


def test_a_forked_worker_may_do_nothing_else(store: Store) -> None:
    wanted = fill(store, 10)
    store.flush()
    store.put(b"growing")

    def attempt() -> bytes:
        refused = 0
        for call in (
            lambda: store.put(b"child"),
            lambda: store.has(bytes(32)),
            store.flush,
            store.annex,
            lambda: store.adopt("", b"", [], [], []),
            lambda: store.get(bytes(32)),
        ):
            try:
                call()
            except RuntimeError:
                refused += 1
        store.close()
        return b"%d" % refused

    assert in_a_child(attempt) == b"6"
    store.flush()
    assert_holds(store, wanted | {store.identify(b"growing"): b"growing"})


def test_threads_may_share_a_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs_module, "FULL_SIZE", 30_000)
    made: list[dict[bytes, bytes]] = []

    def work(seed: int) -> None:
        mine = fill(store, 150, seed=seed % 2)
        assert_holds(store, mine)
        made.append(mine)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.flush()
    assert len(made) == 4
    for mine in made:
        assert_holds(store, mine)
    assert not store.verify()


# — starting up —


def test_opening_imports_nothing_heavy(store: Store, root: str, key: str) -> None:
    program = (
        "import sys\n"
        "from rfs.production.rollback.store import Store\n"
        f"Store.open({root!r}, {key!r}).close()\n"
        "print([m for m in ('zstandard', 'cryptography', 'blake3', 'apsw') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
