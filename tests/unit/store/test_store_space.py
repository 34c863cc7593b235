"""A disk that is full, and a disk that is read-only: real ones, where root may mount them."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_kit import assert_holds, fill, fill_disk, noise

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.store import Store
from rfs.production.rollback.store.index import Index


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = run("mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "rfs-test", str(place))
    if done.returncode != 0:
        pytest.skip(f"NOT TESTED: a full disk and a read-only one need a mounted tmpfs: {done.stderr.strip()}")
    yield place
    run("umount", "-l", str(place))


def put_until_full(store: Store, size: int) -> None:
    for number in range(10_000):
        store.put(noise(size, number + 1_000_000))
        if number % 5 == 4:
            store.flush()


@pytest.mark.parametrize("size", [300, 200_000])
def test_a_full_disk(disk: Path, key: str, size: int) -> None:
    root = str(disk / "store")
    with Store.create(root, key) as store:
        first = fill(store, 20, size=20_000)
        store.put_record("checkpoint", b"first")
        store.flush()
        with pytest.raises(RollbackError) as caught:
            put_until_full(store, size)
        assert caught.value.key == "store.no_space"
        store.discard()
        assert_holds(store, first)
    # Not a byte is left, not even for the index: what is stored must be readable all the same.
    for path in Path(root).glob("index.db*"):
        path.unlink()
    ballast = fill_disk(disk)
    with Store.open(root, key) as store:
        assert_holds(store, first)
        assert list(store.records("checkpoint")) == [b"first"]
        pruned = store.prune(set(first), lambda kind, body: True, dry_run=False)
        assert pruned.freed > 0
    ballast.unlink()
    with Store.open(root, key) as store:
        store.recover()
        assert store.recover() == []
        assert_holds(store, first)
        more = fill(store, 20, seed=1)
        store.flush()
        assert_holds(store, first | more)
        assert not store.verify()


def test_no_room_for_a_store(disk: Path, key: str) -> None:
    ballast = fill_disk(disk)
    with pytest.raises(RollbackError) as caught:
        Store.create(str(disk / "store"), key)
    assert caught.value.key == "store.no_space"
    ballast.unlink()
    Store.create(str(disk / "store"), key).close()


@pytest.mark.parametrize("index", [True, False], ids=["with index", "without index"])
def test_a_read_only_disk(disk: Path, key: str, index: bool) -> None:
    root = str(disk / "store")
    with Store.create(root, key) as store:
        wanted = fill(store, 20)
        store.flush()
    if not index:
        for path in Path(root).glob("index.db*"):
            path.unlink()
    assert run("mount", "-o", "remount,ro", str(disk)).returncode == 0
    with Store.open(root, key) as store:
        assert_holds(store, wanted)
        assert not store.verify()
        with pytest.raises(RollbackError) as caught:
            store.put(b"more")
        assert caught.value.key == "store.unwritable"
        assert "ead-only" in str(caught.value)
        store.discard()
        assert_holds(store, wanted)
        with pytest.raises(RollbackError) as caught:
            store.prune(set(), lambda kind, body: True, dry_run=False)
        assert caught.value.key == "store.unwritable"
        assert_holds(store, wanted)


@pytest.mark.parametrize("call", ["add", "drop"])
def test_no_room_for_the_index_alone(
    store: Store, root: str, key: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The packs come first; the index finds out when there is room again."""
    kept = fill(store, 10)
    store.flush()
    lost = fill(store, 10, seed=1)
    store.flush()

    def full(*args: object) -> None:
        raise RollbackError("store.no_space", path="index.db")

    with monkeypatch.context() as patch:
        patch.setattr(Index, call, full)
        if call == "drop":
            assert store.prune(set(kept), lambda kind, body: True, dry_run=False).packs_removed == 1
        else:
            late = fill(store, 10, seed=2)
            with pytest.raises(RollbackError) as caught:
                store.flush()
            assert caught.value.key == "store.no_space"
    if call == "drop":
        assert not any(store.has(blob) for blob in lost)
    else:
        with pytest.raises(RollbackError):
            store.flush()
        store.discard()
        assert_holds(store, {**lost, **late})
    assert_holds(store, kept)
    assert not store.verify()
    assert store.recover() == []


def test_after_a_failure_not_even_what_is_stored_may_be_put(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes on would take a checkpoint for whole of which other blobs are lost."""
    blob = store.identify(b"stored")
    store.put(b"stored")
    store.flush()

    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RollbackError):
            store.put(noise(3_000_000))
    for call in (lambda: store.put(b"stored"), lambda: store.adopt("", blob, [6], [1], [1])):
        with pytest.raises(RollbackError) as caught:
            call()
        assert caught.value.key == "store.no_space"
    store.discard()
    assert store.put(b"stored") == blob
