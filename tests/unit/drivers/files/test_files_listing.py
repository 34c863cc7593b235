"""A folder is listed again when names in it may have changed, and only then."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from rfs.production.rollback.drivers.files import FilesDriver, index, places, reader
from rfs.production.rollback.drivers.files.tree import CTIME, ROW
from rfs.production.rollback.model import Capture, Component
from rfs.testing import MemoryStore, component


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    scandir = os.scandir

    def counted(fd: int) -> Any:
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", counted)
    return seen


class World:
    """Three folders in a row with a file each, which were looked at when they were old enough to be believed."""

    def __init__(self, tmp_path: Path, **options: Any) -> None:
        self.root, self.store, self.driver = tmp_path / "root", MemoryStore(), FilesDriver()
        self.c: Component = component("files", tmp_path, path="root", **options)
        (self.root / "a" / "b").mkdir(parents=True)
        (self.root / "c").mkdir()
        for folder in ("a", "a/b", "c"):
            (self.root / folder / "file").write_text(folder)
        time.sleep(0.03)  # by then times can tell a later change
        self.captured = self.look()

    def look(self) -> Capture:
        self.captured = self.driver.capture(self.c, self.store, None)
        return self.captured

    def listed_anew(self) -> Capture:
        """Look without knowing anything of an earlier look."""
        os.remove(Path(self.c.work) / "files.index")
        return FilesDriver().capture(self.c, self.store, None)


@pytest.fixture
def steady(tmp_path: Path) -> None:
    if os.stat(tmp_path).st_dev not in places.steady_devices():
        pytest.skip("NOT TESTED: needs a temporary folder on a local file system")


@pytest.mark.usefixtures("steady")
def test_only_the_root_and_what_changed_are_listed(tmp_path: Path, listed: list[str]) -> None:
    world = World(tmp_path)
    listed.clear()
    first = world.captured
    assert world.look() == first
    assert listed == ["root"]
    (world.root / "a" / "b" / "new").write_text("new")
    listed.clear()
    assert world.look().entries == first.entries + 1
    assert listed == ["root", "b"]
    os.remove(world.root / "a" / "b" / "file")
    (world.root / "a" / "b" / "file").mkdir()
    assert world.look().fingerprint == world.listed_anew().fingerprint


@pytest.mark.usefixtures("steady")
def test_a_file_that_changed_in_a_folder_that_did_not_is_seen(tmp_path: Path, listed: list[str]) -> None:
    world = World(tmp_path, exclude=["out"])
    (world.root / "c" / "out").write_text("excluded")
    first = world.look()
    time.sleep(0.03)
    world.look()
    (world.root / "c" / "file").write_text("changed")
    os.chmod(world.root / "a" / "file", 0o600)
    listed.clear()
    second = world.look()
    assert listed == ["root"]
    assert second.fingerprint != first.fingerprint
    assert second.fingerprint == world.listed_anew().fingerprint
    assert [change.key for change in world.driver.changes(world.c, world.store, first, second)] == ["a/file", "c/file"]


@pytest.mark.usefixtures("steady")
def test_a_folder_too_young_to_tell_is_listed(tmp_path: Path, listed: list[str]) -> None:
    world = World(tmp_path)
    (world.root / "c" / "new").write_text("new")
    world.look()
    known = index.load(world.c.work)
    assert known is not None
    top = known.blocks[b""]
    rows = dict(zip(top.listed(), top.numbers()[CTIME::ROW], strict=True))
    assert rows["c"] == 0 < rows["a"]
    listed.clear()
    world.look()
    assert listed == ["root", "c"]


def test_a_file_system_that_is_not_known_to_tell_is_listed(
    tmp_path: Path, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_STEADY", set())
    world = World(tmp_path)
    listed.clear()
    world.look()
    assert sorted(listed) == ["a", "b", "c", "root"]


def test_other_rules_and_a_thorough_look_list_everything(
    tmp_path: Path, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_TICKS", 0)
    world = World(tmp_path)
    listed.clear()
    world.driver.fingerprint(world.c, rehash=True)
    assert sorted(listed) == ["a", "b", "c", "root"]
    listed.clear()
    other = component("files", tmp_path, path="root", exclude=["file"])
    assert FilesDriver().capture(other, world.store, None).entries == 3
    assert sorted(listed) == ["a", "b", "c", "root"]
