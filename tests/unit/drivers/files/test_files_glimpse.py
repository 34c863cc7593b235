"""What is asked of many entries at once is what Python's own calls tell, and no change slips past a glimpse."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rfs.production.rollback.drivers.files import FilesDriver, glimpse, index, places, walk
from rfs.production.rollback.drivers.files.tree import pack_rows, row_of
from rfs.production.rollback.model import Capture, Component
from rfs.testing import MemoryStore, component

asker = glimpse.asker()
pytestmark = pytest.mark.skipif(asker is None, reason="NOT TESTED: the C library has no statx")


def test_rows_are_those_that_python_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asker is not None
    monkeypatch.setattr(glimpse, "_AT_ONCE", 4)
    (tmp_path / "file").write_bytes(b"x" * 5000)
    os.truncate(tmp_path / "file", 1 << 33)
    os.link(tmp_path / "file", tmp_path / "linked")
    os.symlink("nowhere", tmp_path / "link")
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir(mode=0o711)
    (tmp_path / "not \udcff utf-8").touch()
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", ns=(0, -1_500_000_001))
    (tmp_path / "late").touch()
    os.utime(tmp_path / "late", ns=(0, 9_000_000_000_000_000_001))
    if os.geteuid() == 0:
        os.chown(tmp_path / "old", 4_000_000_000, 3_999_999_999)
    names = sorted(os.listdir(tmp_path))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        told = asker.ask(fd, [os.fsencode(name) for name in names])
        assert told is not None
        numbers = [number for name in names for number in row_of(os.lstat(tmp_path / name))]
        assert glimpse.rows_of(told) == pack_rows(numbers)
        assert glimpse.rows_of(type(told)("Q")) == b""
        assert asker.ask(fd, [b"file", b"is not there"]) is None
    finally:
        os.close(fd)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Component:
    if os.stat(tmp_path).st_dev not in places.steady_devices():
        pytest.skip("NOT TESTED: needs a temporary folder on a local file system")
    monkeypatch.setattr(walk, "_MANY", 1)
    root = tmp_path / "root"
    for folder in ("a", "a/b", "a/empty", "c"):
        (root / folder).mkdir(parents=True)
        for name in ("one", "two") if folder != "a/empty" else ():
            (root / folder / name).write_text(folder + name)
    os.symlink("one", root / "c" / "link")
    time.sleep(0.05)  # what is younger than the clock's tick is not believed
    return component("files", tmp_path, path="root")


def look(c: Component, previous: Capture | None, store: MemoryStore) -> Capture:
    return FilesDriver().capture(c, store, previous)


def test_unchanged_folders_are_not_even_listed(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    first = look(tree, None, store)
    listed = []
    for call in ("listdir", "scandir"):
        really = getattr(os, call)
        monkeypatch.setattr(os, call, lambda fd, really=really: listed.append(fd) or really(fd))
    assert look(tree, first, store).parts == first.parts
    assert listed == []
    (Path(tree.home) / "root" / "a" / "new").touch()
    assert look(tree, first, store).parts != first.parts
    # The root holds a's times, and so is another one, too, but no name in it came or went.
    assert len(listed) == 1


def with_times_put_back(path: Path, change: Callable[[], object]) -> None:
    before = path.lstat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: with_times_put_back(root / "a/b/one", lambda: (root / "a/b/one").write_text("a/bONE")),
    "mode": lambda root: (root / "a/b/one").chmod(0o600),
    "time": lambda root: os.utime(root / "c/two", ns=(1, 1)),
    "added": lambda root: with_times_put_back(root / "a/b", (root / "a/b/new").touch),
    "added to none": lambda root: with_times_put_back(root / "a/empty", (root / "a/empty/new").touch),
    "removed": lambda root: with_times_put_back(root / "c", (root / "c/two").unlink),
    "renamed": lambda root: with_times_put_back(root / "c", lambda: (root / "c/two").rename(root / "c/three")),
    "exchanged": lambda root: [
        (root / "a/b/one").rename(root / "x"),
        (root / "a/b/two").rename(root / "a/b/one"),
        (root / "x").rename(root / "a/b/two"),
    ],
    "another type": lambda root: [(root / "a/b/two").unlink(), os.symlink("a/btwo", root / "a/b/two")],
    "a folder less": lambda root: (root / "a/empty").rmdir(),
    "attribute": lambda root: os.setxattr(root / "a/b/one", "user.x", b"1"),
    "attribute of a folder": lambda root: os.setxattr(root / "a/empty", "user.x", b"1"),
    "linked": lambda root: with_times_put_back(root / "c", lambda: os.link(root / "a/b/one", root / "c/more")),
    "the root": lambda root: with_times_put_back(root, (root / "new").touch),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_seen(tree: Component, what: str) -> None:
    store = MemoryStore()
    first = look(tree, None, store)
    CHANGES[what](Path(tree.home) / "root")
    time.sleep(0.05)  # likewise: what is younger than the tick is not believed
    changed = look(tree, first, store)
    fresh = component("files", Path(tree.home), name="fresh", path="root")
    assert changed.fingerprint != first.fingerprint
    assert changed.fingerprint == look(fresh, None, store).fingerprint
    assert look(tree, changed, store).parts == changed.parts


def test_what_is_too_young_has_no_glimpse(tree: Component) -> None:
    store = MemoryStore()
    young = Path(tree.home) / "root" / "a" / "b"
    young.touch()
    look(tree, None, store)
    known = index.load(tree.work)
    assert known is not None
    # b's own times are too young, and so is what a tells of b.
    assert {path for path, block in known.blocks.items() if block.glimpse} == {b"", b"a/empty", b"c"}


def test_a_glimpse_is_renewed_when_only_the_folder_itself_changed(tree: Component) -> None:
    store = MemoryStore()
    first = look(tree, None, store)
    root = Path(tree.home) / "root"
    (root / "c" / "passing").touch()
    (root / "c" / "passing").unlink()
    time.sleep(0.05)  # likewise: what is younger than the tick is not believed
    look(tree, first, store)
    known = index.load(tree.work)
    assert known is not None
    assert all(block.glimpse for block in known.blocks.values())


def test_a_file_system_that_is_not_known_to_tell_is_listed(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_STEADY", set())
    look(tree, None, MemoryStore())
    known = index.load(tree.work)
    assert known is not None
    assert not any(block.glimpse for block in known.blocks.values())


def test_other_rules_and_a_thorough_look_list_everything(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    look(tree, None, store)
    listed = []
    really = os.listdir
    monkeypatch.setattr(os, "listdir", lambda fd: listed.append(fd) or really(fd))
    FilesDriver().fingerprint(tree, rehash=True)
    assert len(listed) == 5
    other = component("files", Path(tree.home), path="root", exclude=["nothing"])
    look(other, None, store)
    assert len(listed) == 10


def test_without_statx_all_is_the_same(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    first = look(tree, None, store)
    monkeypatch.setattr(walk, "asker", lambda: None)
    assert look(tree, first, store).parts == first.parts
    (Path(tree.home) / "root" / "a" / "b" / "new").touch()
    changed = look(tree, first, store)
    monkeypatch.undo()
    assert look(tree, changed, store).fingerprint == changed.fingerprint
