"""Nothing outside is ever written, and what cannot be done is refused before anything changes."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from file_trees import ROOT, describe, hostile

from rfs.production.rollback.drivers.files import FilesDriver, content, manifest, reader, scan
from rfs.production.rollback.drivers.files import apply as applying
from rfs.production.rollback.drivers.files.bulk import OneByOne
from rfs.production.rollback.drivers.files.columns import Folder
from rfs.production.rollback.errors import IntegrityError, RollbackError, UsageError
from rfs.production.rollback.model import Capture, Component
from rfs.testing import MemoryStore, component

needs_root = pytest.mark.skipif(not ROOT, reason="NOT TESTED: needs root, to become another user")
NOBODY = 65534


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def as_nobody(call: Callable[[], Any]) -> Any:
    """Run a function in a process of another user; return what it returned, or the error it raised."""
    sys.stdout.flush()
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner's threads take no part in this
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            answer = call()
        except RollbackError as error:
            answer = error
        except BaseException:  # whatever it is, the parent must hear of it
            answer = traceback.format_exc()
        os.write(write, pickle.dumps(answer))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        answer = pickle.loads(file.read())
    os.waitpid(child, 0)
    if isinstance(answer, RollbackError):
        raise answer
    assert not (isinstance(answer, str) and answer.startswith("Traceback")), answer
    return answer


def make(tmp: Path, *names: str) -> Path:
    root = tmp / "root"
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


def owned_by_nobody(*paths: Path) -> None:
    for path in paths:
        for each in [path, *path.rglob("*")]:
            os.chown(each, NOBODY, NOBODY, follow_symlinks=False)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder that another user reaches."""
    # Only what the test runner made is opened up, wherever it was told to put that.
    for folder in (tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in folder.parents:
            os.chmod(folder, folder.stat().st_mode | 0o011)
        elif not folder.stat().st_mode & 0o001:
            pytest.skip(f"NOT TESTED: another user cannot reach {folder}")
    return tmp_path


def test_missing_and_wrong_roots(tmp_path: Path, store: MemoryStore) -> None:
    c = component("files", tmp_path, path="root")
    for make_it, key in (
        (lambda: None, "path.missing"),
        (lambda: os.symlink("nowhere", tmp_path / "root"), "path.missing"),
        (lambda: ((tmp_path / "root").unlink(), (tmp_path / "root").write_text("x")), "path.kind"),
    ):
        make_it()
        with pytest.raises(RollbackError) as caught:
            FilesDriver().capture(c, store, None)
        assert caught.value.key == key
        assert [finding.level for finding in FilesDriver().examine(c)] == ["error"]


def test_pattern_that_cannot_be_understood(tmp_path: Path, store: MemoryStore) -> None:
    make(tmp_path, "a")
    with pytest.raises(UsageError) as caught:
        FilesDriver().capture(component("files", tmp_path, path="root", exclude=["/"]), store, None)
    assert "components.part.exclude" in str(caught.value)


@needs_root
def test_unreadable_is_an_error_never_skipped(world: Path, store: MemoryStore) -> None:
    root = make(world, "a", "folder/b")
    c = component("files", world, path="root")
    owned_by_nobody(root, Path(c.work))
    os.chown(root / "a", 0, 0)
    os.chmod(root / "a", 0o600)
    with pytest.raises(RollbackError) as caught:
        as_nobody(lambda: FilesDriver().capture(c, store, None))
    assert (caught.value.key, caught.value.fields["path"]) == ("path.unreadable", "a")
    os.chown(root / "a", NOBODY, NOBODY)
    os.chmod(root / "folder", 0o000)
    with pytest.raises(RollbackError) as caught:
        as_nobody(lambda: FilesDriver().capture(c, store, None))
    assert (caught.value.key, caught.value.fields["path"]) == ("path.unreadable", "folder")
    assert [f.level for f in as_nobody(lambda: list(FilesDriver().examine(c)))] == []
    os.chown(root, 0, 0)
    assert [f.level for f in as_nobody(lambda: list(FilesDriver().examine(c)))] == ["error", "warning"]


@needs_root
def test_owners_that_cannot_be_restored_are_refused_first(world: Path, store: MemoryStore) -> None:
    root = make(world, "a", "b", "d/c")
    c = component("files", world, path="root")
    os.chown(root / "a", 1234, 1234)
    want = FilesDriver().capture(c, store, None)
    owned_by_nobody(root, Path(c.work))
    os.chmod(world, 0o777)
    (root / "b").write_text("later")
    before = describe(root)
    with pytest.raises(RollbackError) as caught:
        as_nobody(lambda: FilesDriver().restore(c, store, want))
    assert caught.value.key == "path.owner"
    assert describe(root) == before


@needs_root
def test_owner_as_the_only_difference_is_refused_too(world: Path, store: MemoryStore) -> None:
    root = make(world, "a")
    c = component("files", world, path="root")
    owned_by_nobody(root, Path(c.work))
    os.chmod(world, 0o777)
    os.chown(root / "a", 1234, NOBODY)
    want = FilesDriver().capture(c, store, None)
    for owner, wanted in ((NOBODY, want), (4321, want)):
        os.chown(root / "a", owner, NOBODY)
        before = describe(root)
        with pytest.raises(RollbackError) as caught:
            as_nobody(lambda wanted=wanted: FilesDriver().restore(c, store, wanted))
        assert (caught.value.key, caught.value.fields["path"]) == ("path.owner", "a")
        assert describe(root) == before


@needs_root
@pytest.mark.parametrize("stage_beside", [True, False])
def test_without_root_everything_that_is_ones_own_comes_back(
    world: Path, store: MemoryStore, stage_beside: bool
) -> None:
    root = make(world, "a", "d/e/f", "closed/g", "secret")
    c = component("files", world, path="root")
    os.setxattr(root / "a", "user.n", b"1")
    os.chmod(root / "a", 0o444)
    os.chmod(root / "secret", 0o200)
    os.symlink("a", root / "l")
    owned_by_nobody(root, Path(c.work))
    os.chmod(world, 0o777 if stage_beside else 0o755)
    os.chmod(root / "closed", 0o555)
    want, state = FilesDriver().capture(c, store, None), describe(root)
    os.chmod(root / "closed", 0o755)
    (root / "closed" / "g").write_text("later")
    (root / "closed" / "h").write_text("later")
    os.remove(root / "a")
    shutil.rmtree(root / "d")
    owned_by_nobody(root)
    os.chmod(root / "closed", 0o555)
    os.chmod(root / "secret", 0o600)

    def there() -> int:
        FilesDriver().stage(c, store, want)
        changed = FilesDriver().restore(c, store, want).changed
        FilesDriver().release(c)
        return changed

    assert as_nobody(there) > 0
    assert describe(root) == state
    assert not list(world.glob("**/.rfs-*"))


# — hostile manifests —


def forged(store: MemoryStore, c: Component, change: Callable[[Any], None]) -> Capture:
    """Return a capture whose first part was changed as decoded MessagePack, and stored again."""
    want = FilesDriver().capture(c, store, None)
    refs, body = store.get_part(want.parts[0])
    decoded = msgspec.msgpack.decode(body)
    change(decoded)
    part = store.put_part(refs, msgspec.msgpack.encode(decoded))
    return msgspec.structs.replace(want, parts=(part, *want.parts[1:]))


def rename_first(name: bytes) -> Callable[[Any], None]:
    def change(part: Any) -> None:
        record = next(record for record in part[1] if record[0] == b"")
        names = record[1].split(b"\0")
        names[names.index(b"victim")] = name
        record[1] = b"\0".join(names)

    return change


def repath(path: bytes) -> Callable[[Any], None]:
    def change(part: Any) -> None:
        next(record for record in part[1] if record[0] == b"d")[0] = path

    return change


def add_group(*group: str) -> Callable[[Any], None]:
    def change(part: Any) -> None:
        part[3] = ["\0".join(group).encode()]

    return change


@pytest.mark.parametrize(
    "change",
    [
        rename_first(b"../outside"),
        rename_first(b"/nowhere/outside"),
        rename_first(b".."),
        rename_first(b"."),
        rename_first(b""),
        rename_first(b"other"),
        repath(b"../d"),
        repath(b"/d"),
        repath(b"d/.."),
        repath(b"nowhere"),
        repath(b"victim"),
        add_group("victim", "../outside"),
        add_group("victim", "d"),
        add_group("victim", "other", "other"),
    ],
)
def test_manifest_that_names_anything_outside_is_refused(
    tmp_path: Path, store: MemoryStore, change: Callable[[Any], None]
) -> None:
    root = make(tmp_path, "victim", "other", "d/e")
    c = component("files", tmp_path, path="root")
    want = forged(store, c, change)
    (root / "victim").write_text("later")
    before = describe(tmp_path)
    with pytest.raises(RollbackError) as caught:
        FilesDriver().restore(c, store, want)
    assert caught.value.key == "path.unsafe"
    assert {k: v for k, v in describe(tmp_path).items() if ".work" not in k} == {
        k: v for k, v in before.items() if ".work" not in k
    }


def test_manifest_of_any_bytes_is_an_expected_error(tmp_path: Path, store: MemoryStore) -> None:
    hostile(tmp_path / "root")
    c = component("files", tmp_path, path="root")
    want = FilesDriver().capture(c, store, None)
    refs, body = store.get_part(want.parts[0])
    for at in range(0, len(body), 3):
        for damaged in (body[:at], body[:at] + bytes([body[at] ^ 0x41]) + body[at + 1 :]):
            part = store.put_part(refs, damaged)
            assert outcome(lambda part=part: manifest.read([part], store)) in {"", "path.unsafe", "store.damaged"}
    for parts in ((), (store.put_part([], b""),)):
        with pytest.raises(IntegrityError):
            manifest.read(parts, store)


def outcome(call: Callable[[], object]) -> str:
    """Return the key of the expected error that a call raised, or ""."""
    try:
        call()
    except RollbackError as error:
        return error.key
    return ""


@pytest.mark.parametrize("target", ["{elsewhere}", "../elsewhere", "..", "."])
def test_captured_link_may_not_lead_anywhere(tmp_path: Path, store: MemoryStore, target: str) -> None:
    """A forged text of the root's own link would make another folder the root.

    What it leads to is always bait under tmp_path: with a broken guard, the restore replaces that folder.
    """
    home = tmp_path / "app"
    (home / "releases" / "1").mkdir(parents=True)
    (home / "releases" / "1" / "a").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("precious")
    os.symlink("releases/1", home / "current")
    c = component("files", home, path="current")

    def change(part: Any) -> None:
        part[2] = target.format(elsewhere=tmp_path / "elsewhere").encode()

    want = forged(store, c, change)
    before = describe(tmp_path / "elsewhere")
    with pytest.raises(RollbackError) as caught:
        FilesDriver().restore(c, store, want)
    assert caught.value.key == "path.unsafe"
    assert describe(tmp_path / "elsewhere") == before
    assert os.readlink(home / "current") == "releases/1"


def test_folder_swapped_for_a_link_during_the_restore(
    tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path, "d/a", "d/b", "e")
    c = component("files", tmp_path, path="root")
    want = FilesDriver().capture(c, store, None)
    (root / "d" / "a").write_text("later")
    (root / "d" / "new").write_text("later")
    outside = tmp_path / "outside"
    shutil.copytree(root / "d", outside)
    before = describe(outside)
    really = applying.Applier.run

    def swapped(self: applying.Applier, tasks: Any) -> None:
        (root / "d").rename(root / "moved")
        os.symlink(outside, root / "d")
        really(self, tasks)

    monkeypatch.setattr(applying.Applier, "run", swapped)
    with pytest.raises(RollbackError) as caught:
        FilesDriver().restore(c, store, want)
    assert caught.value.key == "path.swapped"
    assert describe(outside) == before
    monkeypatch.undo()
    FilesDriver().restore(c, store, want)
    assert describe(outside) == before
    assert FilesDriver().verify(c, store, want) == []


def test_stage_replaced_by_a_link_is_not_followed(tmp_path: Path, store: MemoryStore) -> None:
    root = make(tmp_path, "a")
    c = component("files", tmp_path, path="root")
    want = FilesDriver().capture(c, store, None)
    (root / "a").write_text("later")
    FilesDriver().stage(c, store, want)
    (stage,) = tmp_path.glob(".rfs-stage-*")
    shutil.rmtree(stage)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")
    (tmp_path / "outside" / "room-precious").write_text("precious")
    os.symlink(tmp_path / "outside", stage)
    with contextlib.suppress(RollbackError):
        FilesDriver().stage(c, store, want)
    assert (tmp_path / "outside" / "room-precious").exists()
    FilesDriver().restore(c, store, want)
    assert FilesDriver().verify(c, store, want) == []
    FilesDriver().release(c)
    assert sorted(os.listdir(tmp_path / "outside")) == ["precious", "room-precious"]
    assert (tmp_path / "outside" / "precious").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == [".work", "outside", "root"]
    assert os.listdir(root) == ["a"]


@pytest.mark.slow
def test_release_follows_no_link_and_removes_whatever_depth(tmp_path: Path, store: MemoryStore) -> None:
    root = make(tmp_path, "a")
    c = component("files", tmp_path, path="root")
    want = FilesDriver().capture(c, store, None)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "p").write_text("p")
    deep = root / "extra"
    deep.mkdir()
    os.symlink(tmp_path / "precious", deep / "link")
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(250):
        os.mkdir("deeper", dir_fd=fd)
        os.mkdir("beside", dir_fd=fd)
        child = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
    os.close(fd)
    late = FilesDriver().capture(c, store, want)
    assert late.entries == 503
    FilesDriver().restore(c, store, want)
    assert os.listdir(root) == ["a"]
    FilesDriver().restore(c, store, late)
    assert FilesDriver().verify(c, store, late) == []
    FilesDriver().restore(c, store, want)
    FilesDriver().release(c)
    assert (tmp_path / "precious" / "p").read_text() == "p"
    assert not list(tmp_path.glob(".rfs-*"))


# — files that change while they are read —


def test_file_that_changes_once_is_read_again(
    tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path, "a")
    (root / "a").write_bytes(bytes(2 << 20))  # what is small and has rested for a moment is read in another way
    c = component("files", tmp_path, path="root")
    really = content._read_once
    reads = []

    def disturbed(fd: int, status: os.stat_result, sink: Any) -> Any:
        found = really(fd, status, sink)
        if not reads:
            (root / "a").write_text("changed while read")
        reads.append(1)
        return found

    monkeypatch.setattr(content, "_read_once", disturbed)
    want = FilesDriver().capture(c, store, None)
    assert len(reads) == 2
    assert want.warnings == ()
    monkeypatch.undo()
    (root / "a").write_text("later")
    FilesDriver().restore(c, store, want)
    assert (root / "a").read_text() == "changed while read"


def test_file_that_never_rests_is_captured_with_a_warning(
    tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path, "a")
    (root / "a").write_bytes(bytes(2 << 20))  # what is small and has rested for a moment is read in another way
    c = component("files", tmp_path, path="root")
    really = content._read_once

    def disturbed(fd: int, status: os.stat_result, sink: Any) -> Any:
        found = really(fd, status, sink)
        with open(root / "a", "a") as file:
            file.write("more")
        return found

    monkeypatch.setattr(content, "_read_once", disturbed)
    want = FilesDriver().capture(c, store, None)
    assert want.warnings == ("a kept changing while it was read.",)
    monkeypatch.undo()
    now = FilesDriver().capture(c, store, want)
    assert now.fingerprint != want.fingerprint
    assert now.warnings == ()


@pytest.mark.parametrize("read", ["with care", "quickly", "at once"])
def test_files_that_vanish_or_become_something_else_while_listed(
    tmp_path: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    root = make(tmp_path, "a", "b", "c", "d/e", "f/g", "z")
    c = component("files", tmp_path, path="root")
    really = reader.Reader._read_all
    done = []

    def disturbed(self: reader.Reader, fd: int, folder: Folder, *more: Any) -> None:
        if not done:
            assert folder.listed() == ["a", "b", "c", "d", "f", "z"]
            done.append(1)
            (root / "b").unlink()
            (root / "c").unlink()
            os.symlink("z", root / "c")
            shutil.rmtree(root / "d")
            shutil.rmtree(root / "f")
            os.symlink(tmp_path, root / "f")
        really(self, fd, folder, *more)

    monkeypatch.setattr(reader.Reader, "_read_all", disturbed)
    if read == "at once":
        time.sleep(0.05)  # only what is older than the clock's tick is
    else:
        slow = OneByOne()
        monkeypatch.setattr(scan, "bulk", lambda *, many: slow)
        monkeypatch.setattr(reader.Reader, "is_settled", lambda *_: read == "quickly")
    want = FilesDriver().capture(c, store, None)
    monkeypatch.undo()
    assert done
    assert want.entries in {4, 5}
    now = FilesDriver().capture(c, store, want)
    assert now.entries == len({"a", "c", "f", "z"})
    FilesDriver().restore(c, store, want)
    assert FilesDriver().verify(c, store, want) == []
