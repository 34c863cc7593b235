"""What is excluded, kept, carved out or transient; and what the plugin page is told."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from file_trees import ROOT, describe

from rfs.production.rollback.drivers.files import FilesDriver
from rfs.production.rollback.errors import ConflictError, RollbackError
from rfs.production.rollback.model import Change, ChangeKind, Component
from rfs.testing import MemoryStore, component

needs_root = pytest.mark.skipif(not ROOT, reason="NOT TESTED: needs root")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def write(root: Path, *names: str, text: str = "x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def paths(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


def changes(c: Component, store: MemoryStore, a: object, b: object = None) -> dict[str, ChangeKind]:
    found: list[Change] = list(FilesDriver().changes(c, store, a, b))
    return {change.key: change.kind for change in found}


def test_excluded_is_neither_captured_nor_touched(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root", exclude=["*.log", "tmp/", "/build", "!keep.log"])
    write(root, "a", "a.log", "keep.log", "d/b.log", "d/tmp/x", "tmp/y", "build/z", "d/build/w", "d/tmp2")
    want = FilesDriver().capture(c, store, None)
    digest = want.fingerprint.digest
    assert want.entries == len({"a", "keep.log", "d", "d/build", "d/build/w", "d/tmp2"})
    write(root, "a.log", "new.log", "d/tmp/x", "build/more", "gone/deep/x.log", text="later")
    os.remove(root / "d" / "b.log")
    shutil.rmtree(root / "gone")
    assert FilesDriver().fingerprint(c, rehash=False).digest == digest
    assert FilesDriver().verify(c, store, want) == []
    write(root, "gone/deep/x.log", "gone/deep/other", "gone/whole/other", text="later")
    os.remove(root / "a")
    before = paths(root)
    FilesDriver().restore(c, store, want)
    assert paths(root) == before - {"gone/deep/other", "gone/whole/other"} | {"a"}
    assert not (root / "gone" / "whole").exists()
    assert (root / "a.log").read_text() == "later"
    # What shelters an excluded file had to stay, and is no difference.
    assert FilesDriver().verify(c, store, want) == []
    assert changes(c, store, want) == {}


def test_kept_is_captured_but_never_removed(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root", keep=["uploads/", "*.jpg"])
    write(root, "code", "uploads/1", "uploads/old/2", "x.jpg")
    want = FilesDriver().capture(c, store, None)
    write(root, "uploads/3", "uploads/new/4", "y.jpg", "photos/z.jpg", "photos/z.txt", "code", text="later")
    os.remove(root / "uploads" / "1")
    shutil.rmtree(root / "uploads" / "old")
    os.remove(root / "x.jpg")
    late = FilesDriver().capture(c, store, want)
    found = changes(c, store, want)
    assert found == {
        "code": ChangeKind.CHANGED,
        "photos/z.txt": ChangeKind.ADDED,
        "uploads/1": ChangeKind.REMOVED,
        "uploads/old": ChangeKind.REMOVED,
        "uploads/old/2": ChangeKind.REMOVED,
        "x.jpg": ChangeKind.REMOVED,
    }
    losses = list(FilesDriver().losses(c, store, want, list(FilesDriver().changes(c, store, want, None))))
    assert [(loss.what, loss.count, loss.examples) for loss in losses] == [
        ("changed files", 1, ("code",)),
        ("new files", 1, ("photos/z.txt",)),
    ]
    FilesDriver().restore(c, store, want)
    assert FilesDriver().verify(c, store, want) == []
    everything = {"code", "uploads/1", "uploads/old/2", "x.jpg", "uploads/3", "uploads/new/4", "y.jpg", "photos/z.jpg"}
    assert paths(root) == everything
    assert (root / "code").read_text() == "x"
    shutil.rmtree(root / "photos")
    assert FilesDriver().fingerprint(c, rehash=True).digest == want.fingerprint.digest
    FilesDriver().restore(c, store, late)
    assert (root / "photos" / "z.txt").read_text() == "later"


def test_kept_in_the_identity_only_while_it_is_kept(tmp_path: Path, store: MemoryStore) -> None:
    """The patterns were changed between the capture and now."""
    root = tmp_path / "root"
    write(root, "a", "x.jpg")
    keeping = component("files", tmp_path, path="root", keep=["*.jpg"])
    plain = component("files", tmp_path, path="root")
    with_keep = FilesDriver().capture(keeping, store, None)
    without = FilesDriver().capture(plain, store, None)
    os.remove(root / "x.jpg")
    for c, capture in ((keeping, with_keep), (plain, with_keep), (keeping, without), (plain, without)):
        assert changes(c, store, capture) == {"x.jpg": ChangeKind.REMOVED}
        assert [change.key for change in FilesDriver().verify(c, store, capture) if change.key != "."] == ["x.jpg"]
    FilesDriver().restore(plain, store, with_keep)
    assert paths(root) == {"a", "x.jpg"}


def test_carved_and_transient_names_are_left_alone(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    carved = [str(root / "data" / f"app.db{end}") for end in ("", "-wal", "-shm", "-journal")] + [str(root / "other")]
    c = component("files", tmp_path, path="root", carved=carved)
    write(root, "a", "data/app.db", "data/app.db-wal", "other/x", "run.pid", "data/settings")
    (root / "run.sock").write_text("a file called so")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "listen"))
        want = FilesDriver().capture(c, store, None)
        assert want.entries == len({"a", "data", "data/settings"})
        write(root, "data/app.db-journal", "data/app.db", "data/extra", "other/y", "run.pid", text="later")
        os.remove(root / "data" / "app.db-wal")
        found = changes(c, store, want)
        assert found == {"data/extra": ChangeKind.ADDED}
        FilesDriver().restore(c, store, want)
        assert (root / "listen").is_socket()
    assert FilesDriver().verify(c, store, want) == []
    assert (root / "data" / "app.db").read_text() == "later"
    assert (root / "other" / "y").exists()
    assert (root / "run.pid").read_text() == "later"
    os.remove(root / "data" / "app.db-journal")
    # The folder's own time tells nothing where names that are no part of the state come and go.
    assert FilesDriver().verify(c, store, want) == []


def test_what_shelters_others_files_cannot_become_something_else(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root", exclude=["*.log"])
    write(root, "x", "y")
    want = FilesDriver().capture(c, store, None)
    os.remove(root / "x")
    write(root, "x/precious.log", "y", text="later")
    before = describe(root)
    with pytest.raises(ConflictError) as caught:
        FilesDriver().restore(c, store, want)
    assert caught.value.key == "path.sheltering"
    assert describe(root) == before


def test_links_that_leave_the_component_are_told(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    write(root, "a", "b")
    os.link(root / "a", tmp_path / "outside")
    want = FilesDriver().capture(c, store, None)
    (warning,) = want.warnings
    assert "hard links" in warning
    assert warning.endswith(": a")
    (root / "a").write_text("later")
    FilesDriver().restore(c, store, want)
    assert (root / "a").read_text() == "x"
    assert (tmp_path / "outside").read_text() == "later"


def test_changes_name_both_sides(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    write(root, "a", "b", "d/e")
    os.symlink("a", root / "l")
    first = FilesDriver().capture(c, store, None)
    write(root, "new", "b", text="longer")
    os.chmod(root / "a", 0o600)
    (root / "l").unlink()
    os.symlink("b", root / "l")
    shutil.rmtree(root / "d")
    second = FilesDriver().capture(c, store, first)
    found = {change.key: change for change in FilesDriver().changes(c, store, first, second)}
    assert [*found] == ["a", "b", "d", "d/e", "l", "new"]
    assert {key: change.kind.value for key, change in found.items()} == {
        "a": "changed",
        "b": "changed",
        "d": "removed",
        "d/e": "removed",
        "l": "changed",
        "new": "added",
    }
    b, new = found["b"], found["new"]
    assert b.before is not None
    assert b.after is not None
    assert (b.before.size, b.after.size) == (1, 6)
    assert b.before.id != b.after.id
    assert new.after is not None
    assert new.after.label == "-rw-r--r--"
    assert found["l"].after is not None
    assert found["l"].after.label.endswith("-> b")


@needs_root
def test_mounts_inside_are_captured_written_and_told(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    c = component("files", tmp_path, path="root")
    write(root, "a", "settings", "mnt/hidden", "bound/below")
    write(tmp_path, "elsewhere/s", "tree/1", "tree/2", "tree/d/3")
    mounts = [(tmp_path / "elsewhere" / "s", root / "settings"), (tmp_path / "tree", root / "mnt")]
    done: list[Path] = []
    try:
        for what, where in mounts:
            if subprocess.run(["mount", "--bind", str(what), str(where)], check=False).returncode:
                pytest.skip("NOT TESTED: mounting is not allowed here")
            done.append(where)
        where = root / "bound"
        if subprocess.run(["mount", "-t", "tmpfs", "none", str(where)], check=False).returncode == 0:
            done.append(where)
        write(root, "bound/t", "bound/u/v")
        os.link(root / "bound" / "t", root / "bound" / "u" / "linked")
        os.link(root / "mnt" / "1", root / "mnt" / "d" / "one")
        want, state = FilesDriver().capture(c, store, None), describe(root)
        assert len([finding for finding in FilesDriver().examine(c) if "mounted" in finding.text]) == 3
        write(root, "settings", "mnt/1", "mnt/extra/deep", "bound/t", "bound/w/x", text="later")
        os.remove(root / "mnt" / "2")
        shutil.rmtree(root / "bound" / "u")
        (root / "mnt" / "d" / "3").unlink()
        (root / "mnt" / "d" / "3").mkdir()
        late, late_state = FilesDriver().capture(c, store, want), describe(root)
        FilesDriver().stage(c, store, want)
        result = FilesDriver().restore(c, store, want)
        assert describe(root) == state
        assert any("settings" in warning and "in place" in warning for warning in result.warnings)
        assert any("another file system" in warning for warning in result.warnings)
        assert FilesDriver().verify(c, store, want) == []
        assert (tmp_path / "elsewhere" / "s").read_text() == "x"
        FilesDriver().restore(c, store, late)
        assert describe(root) == late_state
        # A folder that something is mounted in is never carried away with it.
        os.makedirs(root / "extra" / "m")
        subprocess.run(["mount", "--bind", str(tmp_path / "tree"), str(root / "extra" / "m")], check=True)
        done.append(root / "extra" / "m")
        with pytest.raises(RollbackError) as caught:
            FilesDriver().restore(c, store, want)
        assert caught.value.key == "path.mounted"
        assert describe(tmp_path / "tree") == describe(root / "mnt")
    finally:
        for where in reversed(done):
            subprocess.run(["umount", str(where)], check=True)


@needs_root
def test_root_that_is_a_mount_point_is_staged_inside(tmp_path: Path, store: MemoryStore) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(root)], check=False).returncode:
        pytest.skip("NOT TESTED: mounting is not allowed here")
    try:
        c = component("files", tmp_path, path="root")
        write(root, "a", "d/b")
        os.utime(root, ns=(1, 5))
        want, state = FilesDriver().capture(c, store, None), describe(root)
        write(root, "a", "new", text="later")
        shutil.rmtree(root / "d")
        late = FilesDriver().capture(c, store, want)
        FilesDriver().stage(c, store, want)
        assert [path.name for path in root.glob(".rfs-stage-*")]
        assert FilesDriver().fingerprint(c, rehash=True) == late.fingerprint
        assert FilesDriver().verify(c, store, late) == []
        FilesDriver().restore(c, store, want)
        assert FilesDriver().verify(c, store, want) == []
        FilesDriver().release(c)
        assert describe(root) == state
    finally:
        subprocess.run(["umount", str(root)], check=True)
