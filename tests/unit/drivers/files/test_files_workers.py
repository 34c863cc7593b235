"""Two processes find what one finds, and the death of one is survived."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from rfs.production.rollback.drivers.files import FilesDriver, reader, scan, walk, workers
from rfs.production.rollback.drivers.files.columns import Before, Folder
from rfs.production.rollback.drivers.files.workers import Told
from rfs.production.rollback.errors import RollbackError, TimedOutError
from rfs.production.rollback.model import Component
from rfs.testing import MemoryStore, component

PARENT = os.getpid()

# A parallel test runner has a thread of its own, which takes no part in what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def children() -> set[str]:
    """The processes that this one has started and not waited for; other tests' may be among them."""
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


class DividedStore(MemoryStore):
    """A store of which a child can have a part. `pids` are those of the children that stored something."""

    def __init__(self, c: Component) -> None:
        super().__init__()
        self.pids: set[int] = set()
        self.sealed_early = 0
        self.folder = Path(c.home) / "annex"
        self.folder.mkdir(exist_ok=True)

    def annex(self) -> MemoryAnnex:
        return MemoryAnnex(self, self.folder)

    def seal_early(self) -> None:
        assert os.getpid() == PARENT
        self.sealed_early += 1

    def adopt(self, name: str, ids: bytes, sizes: list[int], counts: list[int], lengths: list[int]) -> None:
        assert counts == []
        self.pids.add(int(name))
        data = Path(self.folder, name).read_bytes()
        for at, (offset, size) in enumerate(zip(lengths, sizes, strict=True)):
            assert self.put(data[offset : offset + size]) == ids[at * 32 : (at + 1) * 32]


class MemoryAnnex:
    """A file to which contents are written. Between it and the store `counts` are nothing and `lengths` offsets."""

    def __init__(self, store: MemoryStore, folder: Path) -> None:
        self.identify, self.folder = store.identify, folder
        self.seen: set[bytes] = set()
        self.size = 0
        self.news: list[tuple[bytes, int, int]] = []

    def has(self, blob: bytes) -> bool:
        return blob in self.seen

    def put_all(self, contents: Sequence[bytes]) -> list[bytes]:
        with open(Path(self.folder, str(os.getpid())), "ab") as file:
            for data in contents:
                if self.identify(data) not in self.seen:
                    self.seen.add(self.identify(data))
                    self.news.append((self.identify(data), self.size, len(data)))
                    self.size += file.write(data)
        return list(map(self.identify, contents))

    def taken(self) -> list[Told]:
        news, self.news = self.news, []
        if not news:
            return []
        return [(str(os.getpid()), b"".join(n[0] for n in news), [n[2] for n in news], [], [n[1] for n in news])]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Component:
    monkeypatch.setattr(workers, "_MANY", 10)
    monkeypatch.setattr(scan, "_MANY", 10)
    monkeypatch.setattr(scan, "_BUNCH", 100_000)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    root = tmp_path / "root"
    for folder in range(60):
        (root / f"{folder % 7}" / f"{folder}").mkdir(parents=True)
        for file in range(10):
            (root / f"{folder % 7}" / f"{folder}" / f"{file}").write_bytes(b"%d" % file * (folder * file))
        os.symlink("0", root / f"{folder % 7}" / f"{folder}" / "link")
    (root / "big").write_bytes(os.urandom(300_000))
    os.link(root / "big", root / "3" / "linked")
    os.setxattr(root / "big", "user.x", b"1")
    return component("files", tmp_path, path="root")


def alone(c: Component, monkeypatch: pytest.MonkeyPatch) -> object:
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_MANY", 1 << 40)
        patch.setattr(scan, "_MANY", 1 << 40)
        return FilesDriver().capture(component("files", Path(c.home), name="alone", path="root"), MemoryStore(), None)


def slowly(monkeypatch: pytest.MonkeyPatch, in_parent: bool) -> None:
    """Make one of both processes so slow that the other does nearly everything."""
    really = reader.Reader.block

    def block(self: reader.Reader, *args: object) -> object:
        if (os.getpid() == PARENT) == in_parent:
            os.sched_yield()
            signal.sigtimedwait([], 0.01)
        return really(self, *args)

    monkeypatch.setattr(reader.Reader, "block", block)


@pytest.mark.parametrize("slow_parent", [True, False])
def test_both_find_what_one_finds(tree: Component, monkeypatch: pytest.MonkeyPatch, slow_parent: bool) -> None:
    store = DividedStore(tree)
    wanted = alone(tree, monkeypatch)
    slowly(monkeypatch, slow_parent)
    found = FilesDriver().capture(tree, store, None)
    assert (found.parts, found.fingerprint) == (wanted.parts, wanted.fingerprint)
    if slow_parent:
        assert len(store.pids) == store.sealed_early == 1
        assert PARENT not in store.pids
    assert FilesDriver().fingerprint(tree, rehash=True) == found.fingerprint
    shutil.rmtree(Path(tree.home) / "root")
    FilesDriver().restore(tree, store, found)
    assert FilesDriver().verify(tree, store, found) == []


def test_helper_that_dies_is_replaced_by_the_parent(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = alone(tree, monkeypatch)
    really = reader.Reader.block
    done = []

    def block(self: reader.Reader, *args: object) -> object:
        if os.getpid() != PARENT:
            done.append(1)
            if len(done) == 15:
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            signal.sigtimedwait([], 0.01)
        return really(self, *args)

    monkeypatch.setattr(reader.Reader, "block", block)
    store = DividedStore(tree)
    before = children()
    found = FilesDriver().capture(tree, store, None)
    assert found.parts == wanted.parts
    assert children() == before


def test_what_the_helper_cannot_read_is_the_same_error(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    really = reader.Reader.block

    def block(self: reader.Reader, fd: int, folder: Folder, before: Before) -> object:
        if os.getpid() != PARENT:
            raise self.unreadable(folder.path, PermissionError(13, "Permission denied"))
        signal.sigtimedwait([], 0.01)
        return really(self, fd, folder, before)

    monkeypatch.setattr(reader.Reader, "block", block)
    with pytest.raises(RollbackError) as caught:
        FilesDriver().capture(tree, DividedStore(tree), None)
    assert caught.value.key == "path.unreadable"
    assert "permission denied" in str(caught.value)


def test_what_the_helper_cannot_store_is_the_same_error(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(self: MemoryAnnex) -> None:
        raise RollbackError("store.no_space", path="/store")

    monkeypatch.setattr(MemoryAnnex, "taken", taken)
    slowly(monkeypatch, in_parent=True)
    with pytest.raises(RollbackError) as caught:
        FilesDriver().capture(tree, DividedStore(tree), None)
    assert caught.value.key == "store.no_space"
    assert "/store" in str(caught.value)


def test_beside_a_thread_nothing_is_forked(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    store = DividedStore(tree)
    assert FilesDriver().capture(tree, store, None).parts == alone(tree, monkeypatch).parts
    assert not store.pids


def test_parent_that_gives_up_ends_the_helper(tree: Component) -> None:
    store = DividedStore(tree)
    store.time_out_at = 5
    before = children()
    with pytest.raises(TimedOutError):
        FilesDriver().capture(tree, store, None)
    assert children() == before


def test_helper_keeps_no_descriptor_of_the_parents(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock would be held by it, should it outlive the parent."""
    really = reader.Reader.block
    with open(Path(tree.home) / "lock", "w") as lock:
        note = Path(tree.home) / "seen"

        def block(self: reader.Reader, *args: object) -> object:
            if os.getpid() != PARENT and not note.exists():
                open_files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
                note.write_text("\n".join(path for path in open_files if path.endswith("lock")) + "!")
            return really(self, *args)

        monkeypatch.setattr(reader.Reader, "block", block)
        slowly(monkeypatch, in_parent=True)
        FilesDriver().capture(tree, DividedStore(tree), None)
        assert not lock.closed
        assert note.read_text() == "!"


def change(root: Path) -> None:
    """Change a little in many ways, at the top, deep down, and across subtrees."""
    (root / "1" / "8" / "3").write_bytes(b"other")
    shutil.rmtree(root / "2")
    shutil.rmtree(root / "4" / "11")
    (root / "new" / "deep" / "er").mkdir(parents=True)
    (root / "new" / "deep" / "er" / "f").write_bytes(b"f")
    (root / "5" / "5" / "added").mkdir()
    os.link(root / "big", root / "6" / "6" / "linked too")
    os.link(root / "0" / "7" / "1", root / "1" / "1" / "across")
    shutil.rmtree(root / "3" / "3")
    (root / "3" / "3").write_bytes(b"was a folder")
    os.chmod(root / "0", 0o700)


@pytest.mark.parametrize(
    "slow_parent", [True, pytest.param(False, marks=pytest.mark.slow), pytest.param(None, marks=pytest.mark.slow)]
)
def test_a_later_look_is_shared_by_subtrees(
    tree: Component, monkeypatch: pytest.MonkeyPatch, slow_parent: bool | None
) -> None:
    store = DividedStore(tree)
    root = Path(tree.home) / "root"
    first = FilesDriver().capture(tree, store, None)
    os.sched_yield()
    signal.sigtimedwait([], 0.05)
    first = FilesDriver().capture(tree, store, first)
    if slow_parent is not None:
        really = walk.Walker._look

        def look(self: walk.Walker, *args: object) -> object:
            if (os.getpid() == PARENT) == slow_parent:
                signal.sigtimedwait([], 0.005)
            return really(self, *args)

        monkeypatch.setattr(walk.Walker, "_look", look)
    unchanged = FilesDriver().capture(tree, store, first)
    assert unchanged.parts == first.parts
    change(root)
    wanted = alone(tree, monkeypatch)
    found = FilesDriver().capture(tree, store, first)
    assert (found.parts, found.fingerprint) == (wanted.parts, wanted.fingerprint)
    assert FilesDriver().fingerprint(tree, rehash=False) == found.fingerprint
    FilesDriver().restore(tree, store, first)
    assert FilesDriver().verify(tree, store, first) == []
    FilesDriver().restore(tree, store, found)
    assert FilesDriver().verify(tree, store, found) == []
    assert FilesDriver().fingerprint(tree, rehash=True) == found.fingerprint


def test_store_that_lost_something_is_asked_before_the_look_is_shared(
    tree: Component, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DividedStore(tree)
    first = FilesDriver().capture(tree, store, None)
    signal.sigtimedwait([], 0.05)
    first = FilesDriver().capture(tree, store, first)
    whole = dict(store.blobs)
    for blob in list(store.blobs)[::3]:
        del store.blobs[blob]
    again = FilesDriver().capture(tree, store, None)
    assert again.parts == first.parts
    assert store.blobs == whole
