"""What is asked of many entries at once is what Python's own calls tell, with the C library and without it."""

from __future__ import annotations

import ctypes
import os
import time
from array import array
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest

from rfs.production.rollback.drivers.files import FilesDriver, bulk, glance, index, places, scan
from rfs.production.rollback.drivers.files.bulk import AtOnce, OneByOne, stamp_of
from rfs.production.rollback.drivers.files.tree import Block, empty_block, pack_rows, row_of
from rfs.production.rollback.drivers.meta import write_flags
from rfs.production.rollback.model import Capture, Component
from rfs.testing import MemoryStore, component

HOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
LATER = time.time_ns() + 10**12


@pytest.fixture
def library() -> AtOnce:
    found = bulk.bulk(many=True)
    if not isinstance(found, AtOnce):
        pytest.skip("NOT TESTED: the C library was not built; that needs a compiler")
    return found


@pytest.fixture(params=["at once", "one by one"])
def way(request: pytest.FixtureRequest) -> OneByOne:
    if request.param == "one by one":
        return OneByOne()
    found: OneByOne = request.getfixturevalue("library")
    return found


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder with one of everything, and a descriptor of it."""
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "plain").write_bytes(b"plain")
    (folder / "long").write_bytes(b"x" * 5000)
    (folder / "empty").touch()
    (folder / "huge").write_bytes(bytes(range(256)) * ((bulk.SMALL >> 8) + 1))
    (folder / "sparse").write_bytes(b"x" * 5000)
    os.truncate(folder / "sparse", 1 << 19)
    (folder / "told").write_bytes(b"told")
    os.setxattr(folder / "told", "user.x", b"1")
    (folder / "flagged").write_bytes(b"flagged")
    os.link(folder / "plain", folder / "linked")
    os.symlink("plain", folder / "link")
    os.mkfifo(folder / "fifo", 0o600)
    (folder / "folder").mkdir(mode=0o711)
    (folder / "not \udcff utf-8").write_bytes(b"name")
    (folder / "한글").write_bytes("한글".encode())
    (folder / "old").touch()
    os.utime(folder / "old", ns=(0, -1_500_000_001))
    (folder / "late").touch()
    os.utime(folder / "late", ns=(0, 9_000_000_000_000_000_001))
    if os.geteuid() == 0:
        os.chown(folder / "old", 4_000_000_000, 3_999_999_999)
    with open(folder / "flagged", "rb") as file:
        write_flags(file.fileno(), 0x40)  # chattr +d: no dump
    fd = os.open(folder, os.O_RDONLY)
    yield folder, fd
    os.close(fd)


def listed(folder: Path) -> tuple[list[str], bytes, bytes]:
    names = sorted(os.listdir(folder))
    return names, os.fsencode("\0".join(names)), rows_in(folder, names)


def rows_in(folder: Path, names: list[str]) -> bytes:
    return pack_rows([number for name in names for number in row_of(os.lstat(folder / name))])


def test_rows_are_those_that_python_tells(odd: tuple[Path, int], way: OneByOne) -> None:
    folder, fd = odd
    os.truncate(folder / "sparse", 1 << 33)
    _, joined, rows = listed(folder)
    assert way.rows(fd, joined) == rows
    assert way.rows(fd, b"") == b""
    assert way.rows(fd, b"plain\0is not there") is None


def contents(way: OneByOne, folder: Path, fd: int, started: int = LATER) -> dict[str, bytes]:
    names, joined, rows = listed(folder)
    found = list(chain.from_iterable(way.contents(fd, joined, rows, range(len(names)), how=HOW, started=started)))
    assert len(found) == len(names)
    return {name: data for name, data in zip(names, found, strict=True) if data is not None}


PLAIN = ("plain", "linked", "long", "empty", "not \udcff utf-8", "한글")


def test_what_is_plain_is_read_and_nothing_else(odd: tuple[Path, int], library: AtOnce) -> None:
    folder, fd = odd
    assert contents(library, folder, fd) == {name: (folder / name).read_bytes() for name in PLAIN}


def test_without_the_library_nothing_is_read_here(odd: tuple[Path, int]) -> None:
    assert contents(OneByOne(), *odd) == {}


def test_a_full_room_is_emptied_on_the_way(
    odd: tuple[Path, int], library: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fd = odd
    monkeypatch.setattr(bulk, "_ROOM", bulk.SMALL + 1)
    small = AtOnce(ctypes.CDLL(bulk._LIBRARY))
    for number in range(3):
        (folder / f"large {number}").write_bytes(os.urandom(bulk.SMALL - number))
    found = contents(small, folder, fd)
    assert found == {name: (folder / name).read_bytes() for name in (*PLAIN, "large 0", "large 1", "large 2")}


def test_a_file_needs_room_for_a_byte_more_that_says_whether_it_grew(odd: tuple[Path, int]) -> None:
    read = ctypes.CDLL(bulk._LIBRARY).rfs_bulk_read if os.path.exists(bulk._LIBRARY) else None
    if read is None:
        pytest.skip("NOT TESTED: the C library was not built; that needs a compiler")
    folder, fd = odd
    read.argtypes = AtOnce(ctypes.CDLL(bulk._LIBRARY))._read.argtypes
    room = ctypes.create_string_buffer(6000)
    for size, done in ((5000, 0), (5001, 1)):
        places, lengths = array("q", [0]), array("q", [0])
        told = read(
            *(fd, b"long", rows_in(folder, ["long"]), places.buffer_info()[0], 1, HOW, LATER, bulk.SMALL),
            *(ctypes.addressof(room), size, lengths.buffer_info()[0]),
        )
        assert (told, lengths[0] if told else 0) == (done, 5000 * done)


def test_some_of_a_folder_are_read(odd: tuple[Path, int], library: AtOnce) -> None:
    folder, fd = odd
    names, joined, rows = listed(folder)
    wanted = [names.index("linked"), names.index("link"), names.index("plain")]
    places = sorted(wanted)
    [found] = library.contents(fd, joined, rows, places, how=HOW, started=LATER)
    assert found == [None if names[at] == "link" else b"plain" for at in places]
    assert list(library.contents(fd, joined, rows, [], how=HOW, started=LATER)) == []


@pytest.mark.parametrize("changed", ["content", "another file", "a link", "gone", "shorter", "attribute"])
def test_what_is_no_longer_as_it_was_listed_is_not_read(odd: tuple[Path, int], library: AtOnce, changed: str) -> None:
    folder, fd = odd
    _, joined, rows = listed(folder)
    file = folder / "long"
    match changed:
        case "content":
            file.write_bytes(b"y" * 5000)
        case "another file":
            file.rename(folder.parent / "moved")
            file.write_bytes(b"x" * 5000)
        case "a link":
            file.rename(folder.parent / "moved")
            file.symlink_to(folder.parent / "moved")
        case "gone":
            file.unlink()
        case "shorter":
            os.truncate(file, 10)
        case "attribute":
            os.setxattr(file, "user.x", b"1")
    at = joined.split(b"\0").index(b"long")
    assert list(library.contents(fd, joined, rows, [at], how=HOW, started=LATER)) == [[None]]


def test_what_is_too_young_is_not_read(odd: tuple[Path, int], library: AtOnce) -> None:
    folder, fd = odd
    changed = os.stat(folder / "plain").st_ctime_ns
    assert "plain" not in contents(library, folder, fd, started=changed)
    assert "plain" not in contents(library, folder, fd, started=changed + 20_000_000)
    assert "plain" in contents(library, folder, fd, started=changed + 20_000_001)
    # Its own time lies ahead; it may be written to until then without its telling.
    os.utime(folder / "plain", ns=(0, changed + 1_000_000_000))
    assert "plain" not in contents(library, folder, fd, started=changed + 1_000_000_000)
    assert "plain" in contents(library, folder, fd, started=changed + 1_020_000_001)


# — folders —


def known(root: Path, *paths: str) -> list[tuple[str, Block]]:
    found = []
    for path in paths:
        names, joined, rows = listed(root / path)
        assert names == sorted(names)
        block = empty_block()
        block.names, block.rows, block.stamp = joined, rows, stamp_of(os.stat(root / path))
        found.append((path, block))
    return found


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[tuple[Path, int, list[tuple[str, Block]]]]:
    root = tmp_path / "nested"
    for folder in ("a/b/c", "a/empty", "d"):
        (root / folder).mkdir(parents=True)
        if folder != "a/empty":
            (root / folder / "one").write_text(folder)
            (root / folder / "two").write_text(folder)
    fd = os.open(root, os.O_RDONLY)
    yield root, fd, known(root, "", "a", "a/b", "a/b/c", "a/empty", "d")
    os.close(fd)


def told(library: AtOnce, fd: int, asked: list[tuple[str, Block]]) -> dict[str, bytes | None]:
    return dict(zip([path for path, _ in asked], library.folders(fd, asked), strict=True))


def test_folders_that_did_not_change_are_told_as_they_are_known(
    nested: tuple[Path, int, list[tuple[str, Block]]], library: AtOnce
) -> None:
    _, fd, asked = nested
    found = told(library, fd, asked)
    assert all(found[path] is block.rows for path, block in asked)
    assert library.folders(fd, []) == []
    assert OneByOne().folders(fd, asked) == [None] * len(asked)


def test_of_a_folder_with_the_same_names_the_present_rows_are_told(
    nested: tuple[Path, int, list[tuple[str, Block]]], library: AtOnce
) -> None:
    root, fd, asked = nested
    (root / "a/b/c/two").write_text("something else")
    found = told(library, fd, asked)
    assert found.pop("a/b/c") == rows_in(root / "a/b/c", ["one", "two"])
    assert found == {path: block.rows for path, block in asked if path != "a/b/c"}


@pytest.mark.parametrize(
    ("change", "unknown"),
    [
        (lambda root: (root / "d/new").touch(), {"d"}),
        (lambda root: (root / "a/empty").rmdir(), {"a", "a/empty"}),
        # All that was told of c is still true of what the path now leads to, but no look follows links.
        (
            lambda root: [(root / "a").rename(root / "z"), os.symlink("z", root / "a")],
            {"", "a", "a/b", "a/b/c", "a/empty"},
        ),
        (lambda root: [(root / "d").rename(root.parent / "out"), os.symlink("../out", root / "d")], {"", "d"}),
        (lambda root: [(root / "d").rename(root / "old"), (root / "d").mkdir()], {"", "d"}),
    ],
)
def test_a_folder_in_which_names_may_have_changed_is_not_told_of(
    nested: tuple[Path, int, list[tuple[str, Block]]],
    library: AtOnce,
    change: Callable[[Path], object],
    unknown: set[str],
) -> None:
    root, fd, asked = nested
    change(root)
    found = told(library, fd, asked)
    assert {path for path, rows in found.items() if rows is None} == unknown


def test_an_entry_that_cannot_be_asked_about_leaves_its_folder_open(
    nested: tuple[Path, int, list[tuple[str, Block]]], library: AtOnce
) -> None:
    # As when it goes away between the look at the folder and the one at it.
    _, fd, asked = nested
    for path, block in asked:
        if path == "a/b/c":
            block.names = b"one\0not"
    found = told(library, fd, asked)
    assert [path for path, rows in found.items() if rows is None] == ["a/b/c"]


def test_a_folder_is_quiet_when_all_in_it_is() -> None:
    blocks = {path: empty_block() for path in ("", "a", "a/b", "a/b/c", "a/d", "e", "e/f")}
    for block in blocks.values():
        block.rows = b"known"
    rows = dict.fromkeys(blocks, b"known")
    assert glance.quiet(blocks, rows) == set(blocks)
    assert glance.quiet(blocks, rows | {"a/b": b"other"}) == {"a/b/c", "a/d", "e", "e/f"}
    del rows["e"]
    assert glance.quiet(blocks, rows) == {"a", "a/b", "a/b/c", "a/d", "e/f"}
    assert glance.quiet(blocks, {}) == set()


class Stopping(MemoryStore):
    def tick(self, items: int = 0, size: int = 0) -> None:
        raise TimeoutError


def test_two_threads_tell_the_same_and_stop_when_told_to(
    nested: tuple[Path, int, list[tuple[str, Block]]], way: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fd, asked = nested
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    whole = glance.at_folders(way, fd, asked, None)
    monkeypatch.setattr(glance, "_PIECE", 1)
    assert glance.at_folders(way, fd, asked, None) == whole == way.folders(fd, asked)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # else the other thread may be done before this one has begun
    with pytest.raises(TimeoutError):
        glance.at_folders(way, fd, asked * 1000, Stopping())


@pytest.mark.parametrize("number", range(3))
def test_every_number_of_a_stamp_counts(
    nested: tuple[Path, int, list[tuple[str, Block]]], library: AtOnce, number: int
) -> None:
    _, fd, asked = nested
    stamp = array("Q", asked[-1][1].stamp)
    stamp[number] += 1
    asked[-1][1].stamp = stamp.tobytes()
    assert [path for path, rows in told(library, fd, asked).items() if rows is None] == ["d"]


# — whole looks —


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: OneByOne) -> Component:
    if os.stat(tmp_path).st_dev not in places.steady_devices():
        pytest.skip("NOT TESTED: needs a temporary folder on a local file system")
    monkeypatch.setattr(scan, "bulk", lambda *, many: way)
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


def test_what_is_too_young_has_no_stamp(tree: Component) -> None:
    store = MemoryStore()
    young = Path(tree.home) / "root" / "a" / "b"
    young.touch()
    look(tree, None, store)
    known = index.load(tree.work)
    assert known is not None
    # b's own times are too young, and so is what a tells of b.
    assert {path for path, block in known.blocks.items() if block.stamp} == {b"", b"a/empty", b"c"}


def test_a_stamp_is_renewed_when_only_the_folder_itself_changed(tree: Component) -> None:
    store = MemoryStore()
    first = look(tree, None, store)
    root = Path(tree.home) / "root"
    (root / "c" / "passing").touch()
    (root / "c" / "passing").unlink()
    time.sleep(0.05)  # likewise: what is younger than the tick is not believed
    look(tree, first, store)
    known = index.load(tree.work)
    assert known is not None
    assert all(block.stamp for block in known.blocks.values())


def test_a_file_system_that_is_not_known_to_tell_is_listed(tree: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_STEADY", set())
    look(tree, None, MemoryStore())
    known = index.load(tree.work)
    assert known is not None
    assert not any(block.stamp for block in known.blocks.values())


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


def test_with_the_library_and_without_it_all_is_the_same(
    tree: Component, way: OneByOne, library: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    first = look(tree, None, store)
    other = library if type(way) is OneByOne else OneByOne()
    monkeypatch.setattr(scan, "bulk", lambda *, many: other)
    assert look(tree, first, store).parts == first.parts
    (Path(tree.home) / "root" / "a" / "b" / "new").touch()
    time.sleep(0.05)  # likewise: what is younger than the tick is not believed
    changed = look(tree, first, store)
    monkeypatch.setattr(scan, "bulk", lambda *, many: way)
    assert look(tree, changed, store).parts == changed.parts != first.parts


def test_the_library_is_for_many_folders(tree: Component) -> None:
    assert type(bulk.bulk(many=False)) is OneByOne


def test_another_library_is_not_used(library: AtOnce, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bulk._at_once.cache_clear()
    try:
        monkeypatch.setattr(bulk, "_VERSION", 0)
        assert type(bulk.bulk(many=True)) is OneByOne
        bulk._at_once.cache_clear()
        monkeypatch.setattr(bulk, "_LIBRARY", str(tmp_path / "not there"))
        assert type(bulk.bulk(many=True)) is OneByOne
    finally:
        bulk._at_once.cache_clear()
