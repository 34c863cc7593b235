"""Hostile trees come back exactly, and an independent tool says so."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from file_trees import ROOT, RSYNC, copy, describe, differences, hostile, mess_up
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfs.production.rollback.drivers.files import FilesDriver, bulk, index, reader, scan, tree, walk
from rfs.production.rollback.model import Capture, ChangeKind, Component
from rfs.testing import MemoryStore, component

needs_rsync = pytest.mark.skipif(RSYNC is None, reason="NOT TESTED: rsync is not installed")
needs_root = pytest.mark.skipif(not ROOT, reason="NOT TESTED: needs root")
MIB = 1 << 20


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def take(c: Component, store: MemoryStore, previous: Capture | None = None) -> Capture:
    return FilesDriver().capture(c, store, previous)


def bring(c: Component, store: MemoryStore, want: Capture) -> int:
    """Stage, restore, verify and release, as an operation does, each by another process's driver."""
    FilesDriver().stage(c, store, want)
    done = FilesDriver().restore(c, store, want)
    assert FilesDriver().verify(c, store, want) == []
    assert FilesDriver().fingerprint(c, rehash=True).digest == want.fingerprint.digest
    FilesDriver().release(c)
    return done.changed


@needs_rsync
def test_hostile_tree_there_and_back(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    hostile(root)
    copy(root, tmp_path / "first")
    first = take(c, store)
    assert describe(root) == describe(tmp_path / "first")
    mess_up(root)
    copy(root, tmp_path / "second")
    second = take(c, store, first)
    for _ in range(2):
        bring(c, store, first)
        assert differences(tmp_path / "first", root) == ""
        assert describe(root) == describe(tmp_path / "first")
        bring(c, store, second)
        assert differences(tmp_path / "second", root) == ""
    assert sorted(os.listdir(tmp_path)) == [".work", "first", "root", "second"]


@needs_rsync
def test_into_an_empty_folder_and_into_none(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    hostile(root)
    copy(root, tmp_path / "copy")
    want = take(c, store)
    shutil.rmtree(root)
    gone = FilesDriver().salvage(c, store, want)
    assert gone.fingerprint == FilesDriver().fingerprint(c, rehash=False)
    bring(c, store, want)
    assert differences(tmp_path / "copy", root) == ""
    bring(c, store, gone)
    assert not root.exists()
    assert bring(c, store, gone) == 0
    root.mkdir()
    bring(c, store, want)
    assert differences(tmp_path / "copy", root) == ""


@needs_root
def test_immutable_files_and_folders(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    (root / "locked folder" / "below").mkdir(parents=True)
    for name in ("a", "b", "locked folder/c", "locked folder/below/d"):
        (root / name).write_bytes(name.encode())
    locks = [root / "a", root / "locked folder" / "below" / "d", root / "locked folder"]
    if subprocess.run(["chattr", "+i", *map(str, locks)], check=False, capture_output=True).returncode:
        pytest.skip("NOT TESTED: this file system has no immutable flag")

    def flags() -> dict[str, str]:
        lines = subprocess.run(["lsattr", "-R", str(root)], check=True, capture_output=True, text=True).stdout
        return {line.split()[-1]: line.split()[0] for line in lines.splitlines() if "/" in line and line[0] in "-abcs"}

    try:
        first, state, locked = take(c, store), describe(root), flags()
        subprocess.run(["chattr", "-R", "-i", str(root)], check=True)
        shutil.rmtree(root / "locked folder")
        (root / "a").write_bytes(b"other")
        (root / "extra").mkdir()
        (root / "extra" / "e").write_bytes(b"e")
        subprocess.run(["chattr", "+i", str(root / "extra" / "e"), str(root / "extra"), str(root / "b")], check=True)
        second, other_state, other_locked = take(c, store, first), describe(root), flags()
        subprocess.run(["chattr", "+a", str(root)], check=True)
        for _ in range(2):
            bring(c, store, first)
            assert (describe(root), flags()) == (state, locked)
            bring(c, store, second)
            assert (describe(root), flags()) == (other_state, other_locked)
    finally:
        subprocess.run(["chattr", "-R", "-i", "-a", str(tmp_path)], check=False)


@needs_root
def test_owners_acls_and_capabilities(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    (root / "folder").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "folder/c")):
        (root / name).write_bytes(b"x")
        os.chown(root / name, 100 + number, 200 + number)
    os.chown(root / "folder", 7, 8)
    subprocess.run(["setfacl", "-m", "u:1:rwx,g:2:r", str(root / "a")], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:3:rwx", str(root / "folder")], check=True)
    os.setxattr(root / "b", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    first, state = take(c, store), describe(root)
    assert "security.capability" in state["b"][5]
    assert "system.posix_acl_default" in state["folder"][5]
    subprocess.run(["setfacl", "-R", "-b", str(root)], check=True)
    subprocess.run(["chown", "-R", "5:6", str(root)], check=True)
    (root / "b").write_bytes(b"y")
    (root / "folder" / "c").unlink()
    # A default of the folder above must not reach what is staged below it.
    subprocess.run(["setfacl", "-d", "-m", "u:9:rwx", str(tmp_path)], check=True)
    bring(c, store, first)
    assert describe(root) == state


def test_metadata_alone_is_changed_in_place(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    root.mkdir()
    (root / "a").write_bytes(b"x")
    os.setxattr(root / "a", "user.n", b"1")
    inode = (root / "a").stat().st_ino
    (root / "setuid").write_bytes(b"x")
    if ROOT:
        os.chown(root / "setuid", 5, 6)
    os.chmod(root / "setuid", 0o4755)
    want, state = take(c, store), describe(root)
    os.chmod(root / "a", 0o600)
    os.utime(root / "a")
    os.setxattr(root / "a", "user.n", b"2")
    if ROOT:
        os.chown(root / "setuid", 7, 6)  # the kernel takes the bit away when the owner changes
        os.chmod(root / "setuid", 0o4755)
    bring(c, store, want)
    assert describe(root) == state
    assert (root / "a").stat().st_ino == inode


def test_holes_stay_holes(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    root.mkdir()
    sizes = {"small": 5 * MIB, "large": 40 * MIB, "only a hole": 100 * MIB, "huge": 1 << 36}
    for name, size in sizes.items():
        with open(root / name, "wb") as file:
            if name != "only a hole":
                file.seek(size // 2 + 5)
                file.write(os.urandom(70_000))
            file.truncate(size)
    blocks = {name: (root / name).stat().st_blocks for name in sizes}
    began = time.monotonic()
    want = take(c, store)
    digest = FilesDriver().fingerprint(c, rehash=True).digest
    assert sum(map(len, store.blobs.values())) < MIB
    for name in sizes:
        (root / name).write_bytes(b"dense")
    bring(c, store, want)
    assert time.monotonic() - began < 20
    for name, size in sizes.items():
        status = (root / name).stat()
        assert status.st_size == size
        assert status.st_blocks <= blocks[name] + 64
    assert digest == want.fingerprint.digest


def test_holes_and_written_zeros_are_equal_content(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    root.mkdir()
    data = os.urandom(300_000) + bytes(11 * MIB) + os.urandom(100) + bytes(MIB + 7)
    for name in ("long", "short"):
        content = data if name == "long" else data[299_000 : 299_000 + 3 * MIB]
        (root / name).write_bytes(content)
        with open(root / f"{name} with holes", "wb") as file:
            for at in range(0, len(content), 4096):
                if any(content[at : at + 4096]):
                    file.seek(at)
                    file.write(content[at : at + 4096])
            file.truncate(len(content))
        for each in (name, f"{name} with holes"):
            os.utime(root / each, ns=(1, 1))
    before = take(c, store)
    (root / "long").rename(root / "x")
    (root / "long with holes").rename(root / "long")
    (root / "x").rename(root / "long with holes")
    assert take(c, store).fingerprint == before.fingerprint
    state = describe(root)
    for path in list(root.iterdir()):
        path.unlink()
    bring(c, store, before)
    assert {k: v[4] for k, v in state.items() if v} == {k: v[4] for k, v in describe(root).items() if v}


@pytest.mark.slow
def test_long_file_is_stored_in_pieces_and_a_change_costs_a_few(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    root.mkdir()
    data = bytearray(random.Random(5).randbytes(48 * MIB))
    (root / "big").write_bytes(data)
    first, state = take(c, store), describe(root)
    stored = len(store.blobs)
    assert 20 < stored < 200
    with open(root / "big", "wb") as file:
        file.write(data[:7_000_001] + b"inserted" + data[7_000_001:])
    second = take(c, store, first)
    assert len(store.blobs) - stored <= 4
    assert second.fingerprint != first.fingerprint
    bring(c, store, first)
    assert describe(root) == state


def test_in_place_keeps_the_inode(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root", in_place=["*.sock.d/", "watched", "/only/here"])
    (root / "x.sock.d").mkdir(parents=True)
    (root / "only").mkdir()
    names = ("watched", "x.sock.d/inner", "only/here")
    for name in (*names, "other"):
        (root / name).write_bytes(name.encode() * 100)
        os.chmod(root / name, 0o444)
    inodes = {name: (root / name).stat().st_ino for name in (*names, "other")}
    want, state = take(c, store), describe(root)
    for name in (*names, "other"):
        with open(root / name, "wb") as file:
            file.write(os.urandom(70_000))
    bring(c, store, want)
    assert describe(root) == state
    assert {name for name in inodes if (root / name).stat().st_ino == inodes[name]} == set(names)


@needs_rsync
def test_root_that_is_a_link(tmp_path: Path, store: MemoryStore) -> None:
    """As Capistrano has it: `current` is turned from one release to the next."""
    c = component("files", tmp_path, path="current")
    for release in ("1", "2"):
        (tmp_path / "releases" / release).mkdir(parents=True)
        (tmp_path / "releases" / release / "version").write_text(release)
    os.symlink("releases/1", tmp_path / "current")
    os.utime(tmp_path, ns=(1, 77))
    copy(tmp_path / "releases", tmp_path / "copy")
    os.utime(tmp_path, ns=(1, 77))
    first = take(c, store)
    (tmp_path / "current").unlink()
    os.symlink("releases/2", tmp_path / "current")
    os.utime(tmp_path, ns=(1, 77))
    (tmp_path / "releases" / "1" / "version").write_text("spoilt")
    (tmp_path / "releases" / "1" / "extra").write_text("extra")
    second = take(c, store, first)
    (change, *_) = FilesDriver().changes(c, store, first, None)
    assert change.key == "."
    assert change.before is not None
    assert change.before.label == "-> releases/1"
    told = {loss.what: loss.count for loss in FilesDriver().losses(c, store, first, [])}
    assert told == {f"changed or new files in {tmp_path / 'releases' / '1'}": 2}
    bring(c, store, first)
    assert os.readlink(tmp_path / "current") == "releases/1"
    assert differences(tmp_path / "copy", tmp_path / "releases") == ""
    assert tmp_path.stat().st_mtime_ns == 77
    bring(c, store, second)
    assert os.readlink(tmp_path / "current") == "releases/2"
    assert sorted(os.listdir(tmp_path)) == [".work", "copy", "current", "releases"]
    shutil.rmtree(tmp_path / "releases" / "1")
    bring(c, store, first)
    assert (tmp_path / "current" / "version").read_text() == "1"


def test_root_turns_from_folder_to_link_and_back(tmp_path: Path, store: MemoryStore) -> None:
    c = component("files", tmp_path, path="current")
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "a").write_text("folder")
    folder, state = take(c, store), describe(tmp_path / "current")
    (tmp_path / "current").rename(tmp_path / "r1")
    os.symlink("r1", tmp_path / "current")
    (tmp_path / "r1" / "a").write_text("linked")
    link = take(c, store)
    bring(c, store, folder)
    assert not (tmp_path / "current").is_symlink()
    assert describe(tmp_path / "current") == state
    bring(c, store, link)
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "current" / "a").read_text() == "linked"


def test_incremental_captures_find_every_change(tmp_path: Path, store: MemoryStore) -> None:
    """The index is trusted exactly as far as it can be: a change right after the look is seen."""
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    root.mkdir()
    path = root / "same size"
    previous: Capture | None = None
    seen = set()
    for number in range(40):
        path.write_bytes(b"%06d" % number)
        os.utime(path, ns=(1, 1_000))
        previous = take(c, store, previous)
        assert previous.fingerprint.digest not in seen
        seen.add(previous.fingerprint.digest)


@pytest.mark.parametrize("tick", [1_000_000_000, 4_000_000])
def test_file_system_with_coarse_times(
    tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, tick: int
) -> None:
    """Where stamps are coarse, two writes get the same ones: what is too young is not believed."""
    really = tree.row_of

    def coarse(status: os.stat_result) -> tuple[int, ...]:
        numbers = list(really(status))
        numbers[tree.CTIME] -= numbers[tree.CTIME] % tick
        numbers[tree.MTIME] -= numbers[tree.MTIME] % tick
        return tuple(numbers)

    slow = bulk.OneByOne()
    monkeypatch.setattr(scan, "bulk", lambda *, many: slow)
    monkeypatch.setattr(bulk, "row_of", coarse)
    monkeypatch.setattr(walk, "row_of", coarse)
    monkeypatch.setattr(reader, "row_of", coarse)
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    root.mkdir()
    previous: Capture | None = None
    seen = set()
    for number in range(25):
        (root / "same size").write_bytes(b"%06d" % number)
        os.utime(root / "same size", ns=(1, 1_000))
        previous = take(c, store, previous)
        assert previous.fingerprint.digest not in seen
        seen.add(previous.fingerprint.digest)


def test_names_of_one_file_are_split_and_joined(tmp_path: Path, store: MemoryStore) -> None:
    """Content and metadata are equal everywhere: only which names are one file differs."""
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    (root / "d").mkdir(parents=True)
    names = ("a", "b", "d/c", "d/e")
    states = []
    for groups in (("a", "b", "d/c", "d/e"), ("aB", "bA"), ("ab", "d/cd/e"), ("ad/c", "b")):
        for name in names:
            (root / name).unlink(missing_ok=True)
        for group in groups:
            for name in names:
                if name.lower() in group.lower():
                    first = next(each for each in names if each.lower() in group.lower())
                    if first == name:
                        (root / name).write_bytes(b"equal")
                    elif not (root / name).exists():
                        os.link(root / first, root / name)
        for name in names:
            if not (root / name).exists():
                (root / name).write_bytes(b"equal")
            os.utime(root / name, ns=(1, 1))
        os.utime(root / "d", ns=(1, 1))
        os.utime(root, ns=(1, 1))
        states.append((take(c, store), describe(root)))
    assert len({capture.fingerprint.digest for capture, _ in states}) == 4
    for want, state in [*states, *states[::-1], *states[::2], *states[1::2]]:
        bring(c, store, want)
        assert describe(root) == state


def test_damaged_or_foreign_index_is_no_index(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    hostile(root)
    want = take(c, store)
    kept = Path(c.work) / "files.index"
    whole = kept.read_bytes()
    for damaged in (
        b"",
        whole[:100],
        whole[:-1],
        whole[:200] + b"\xff" + whole[201:],
        whole + b"x",
        whole[:18] + bytes(40),
    ):
        kept.write_bytes(damaged)
        assert take(c, store, want).fingerprint == want.fingerprint
    time.sleep(0.05)  # from here on files are old enough for the index to be believed
    settled = take(c, store, want)
    whole = kept.read_bytes()
    at = whole.index(b"\n") + 1 + 32
    forged = msgspec.msgpack.decode(whole[at:], type=index.Index)
    for block in forged.blocks.values():
        block.digest = bytes(32)
    kept.write_bytes(whole[:at] + msgspec.msgpack.encode(forged))
    assert take(c, store, settled).fingerprint == want.fingerprint

    shutil.rmtree(c.work)
    assert take(c, store, want).parts == want.parts
    # Another store: what the index knows to be stored is not there.
    other = MemoryStore()
    again = take(c, other)
    assert again.fingerprint == want.fingerprint
    state = describe(root)
    mess_up(root)
    bring(c, other, again)
    assert describe(root) == state


@pytest.mark.parametrize("parts", [3, 3000])
def test_an_index_is_found_again_small_as_it_is_and_large_compressed(tmp_path: Path, parts: int) -> None:
    kept = index.Index("rules", {}, [bytes([n % 250]) * 32 for n in range(parts)], [1] * parts)
    index.save(str(tmp_path), kept)
    assert index.load(str(tmp_path)) == kept
    size = (tmp_path / "files.index").stat().st_size
    assert size < 300 if parts == 3 else size < 20_000


def test_unchanged_tree_reads_nothing(tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    hostile(root)
    os.utime(tmp_path / "root")
    time.sleep(0.05)  # the look must be later than the files, by the clock that stamps them
    want = take(c, store)
    again = take(c, store, want)
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("a file was read"))
    monkeypatch.setattr(os, "listxattr", lambda path: () if isinstance(path, int) else pytest.fail(str(path)))
    assert take(c, store, again).parts == want.parts


def test_after_a_rollback_the_next_capture_reads_nothing(
    tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    hostile(root)
    want = take(c, store)
    mess_up(root)
    bring(c, store, want)
    time.sleep(0.05)
    take(c, store, want)
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("a file was read"))
    assert take(c, store, want).fingerprint == want.fingerprint


# — generated trees —

names = st.one_of(
    st.sampled_from(["a", "b", "c", "a-b", "a b", "A", "link", "x.log"]),
    st.binary(min_size=1, max_size=6)
    .map(os.fsdecode)
    .filter(lambda n: not set(n) & {"/", "\0"} and n not in {".", ".."}),
)
leaves = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=20), st.sampled_from([0o644, 0o600, 0o4755, 0o444])),
    st.tuples(st.just("link"), st.binary(min_size=1, max_size=9).filter(lambda b: b"\0" not in b), st.just(0)),
    st.tuples(st.just("pipe"), st.just(b""), st.just(0o640)),
    st.tuples(st.just("same"), st.just(b""), st.just(0)),
    st.tuples(st.just("hole"), st.binary(max_size=9), st.just(0o644)),
)
folders = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=14)
generated = st.dictionaries(names, folders, max_size=5)


def build(root: Path, nodes: dict[str, object], seed: random.Random, files: list[Path]) -> None:
    for name, node in nodes.items():
        path = root / name
        if isinstance(node, dict):
            path.mkdir()
            build(path, node, seed, files)
            os.chmod(path, seed.choice([0o755, 0o700, 0o2755]))
        else:
            kind, data, mode = node
            if kind == "link":
                os.symlink(data, os.fsencode(path))
            elif kind == "pipe":
                os.mkfifo(path, mode)
            elif kind == "same" and files:
                os.link(seed.choice(files), path)
            else:
                path.write_bytes(data)
                if kind == "hole":
                    os.truncate(path, 50_000)
                os.chmod(path, mode or 0o644)
                files.append(path)
        os.utime(path, ns=(0, seed.choice([1, 1_600_000_000_000_000_000, 2**62, -5])), follow_symlinks=False)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=generated, second=generated, number=st.integers(0, 1 << 30))
def test_generated_trees_come_back_exactly(
    place: Path, first: dict[str, object], second: dict[str, object], number: int
) -> None:
    tmp = Path(tempfile.mkdtemp(dir=place))
    seed = random.Random(number)
    store = MemoryStore()
    c = component("files", tmp, path="root")
    states = []
    for nodes in (first, second):
        root = tmp / "root"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        build(root, nodes, seed, [])
        states.append((take(c, store, states[-1][0] if states else None), describe(root)))
    for want, state in [*states, states[0]]:
        bring(c, store, want)
        assert describe(tmp / "root") == state
    a, b = states[0][0], states[1][0]
    found = list(FilesDriver().changes(c, store, a, b))
    gone = {change.key for change in found if change.kind is ChangeKind.REMOVED}
    assert len(gone) == len(set(states[0][1]) - set(states[1][1]))
    shutil.rmtree(tmp)
