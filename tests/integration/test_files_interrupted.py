"""A restore that is interrupted anywhere converges, and turns back exactly."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from file_trees import RSYNC, copy, describe, differences, hostile, mess_up

from rfs.production.rollback.drivers.files import FilesDriver
from rfs.production.rollback.drivers.files import system as calls
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Capture, Component
from rfs.testing import MemoryStore, component
from rfs.testing.faults import interrupt_at


class World:
    """A component with two states, `old` and `new`, of which `new` is live at first."""

    def __init__(self, tmp: Path, **options: Any) -> None:
        self.tmp, self.root = tmp, tmp / "root"
        self.store = MemoryStore()
        self.c: Component = component("files", tmp, path="root", **options)
        hostile(self.root)
        self.old, self.old_state = self.look()
        copy(self.root, tmp / "old")
        mess_up(self.root)
        self.new, self.new_state = self.look()
        copy(self.root, tmp / "new")

    def look(self) -> tuple[Capture, dict[str, Any]]:
        return FilesDriver().capture(self.c, self.store, None), describe(self.root)

    def reset(self) -> None:
        """Make the new state live again, without the driver."""
        shutil.rmtree(self.root)
        copy(self.tmp / "new", self.root)
        FilesDriver().release(self.c)

    def rollback(self, want: Capture) -> None:
        driver = FilesDriver()
        driver.stage(self.c, self.store, want)
        driver.restore(self.c, self.store, want)
        assert driver.verify(self.c, self.store, want) == []


def sweep(world: World) -> range:
    with interrupt_at(1_000_000) as fault:
        world.rollback(world.old)
    world.reset()
    assert fault.calls > 100
    return range(1, fault.calls + 1)


@pytest.mark.slow
def test_every_call_interrupted_then_converged_or_turned_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    points = sweep(world)
    for at in points:
        with interrupt_at(at) as fault:
            world.rollback(world.old)
        # Whether a file is too young for the index to trust depends on the clock, so a run may need a
        # few calls fewer than the one that was counted; it then ended, and must have ended right.
        assert fault.fired or at > points[-1] - 10
        if at % 2 or not fault.fired:
            FilesDriver().restore(world.c, world.store, world.old)
            assert describe(world.root) == world.old_state, f"interrupted at {at}"
        else:
            FilesDriver().restore(world.c, world.store, world.new)
            assert describe(world.root) == world.new_state, f"turned back at {at}"
        FilesDriver().release(world.c)
        assert sorted(os.listdir(tmp_path)) == [".work", "new", "old", "root"]
        world.reset()


@pytest.mark.slow
def test_independent_tool_agrees_after_an_interruption(tmp_path: Path) -> None:
    if RSYNC is None:
        pytest.skip("NOT TESTED: rsync is not installed")
    world = World(tmp_path)
    last = sweep(world)[-1]
    for at in range(20, last, max(1, last // 12)):
        with interrupt_at(at):
            world.rollback(world.old)
        FilesDriver().restore(world.c, world.store, world.old)
        assert differences(tmp_path / "old", world.root) == ""
        with interrupt_at(last - at):
            world.rollback(world.new)
        FilesDriver().restore(world.c, world.store, world.new)
        assert differences(tmp_path / "new", world.root) == ""


def test_killed_after_the_exchange_nothing_is_exchanged_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything was exchanged, then the process died before it could say so."""
    world = World(tmp_path)
    FilesDriver().stage(world.c, world.store, world.old)
    FilesDriver().restore(world.c, world.store, world.old)
    inodes = {path: os.lstat(path).st_ino for path in world.root.rglob("*")}
    monkeypatch.setattr(calls, "exchange", lambda *_: pytest.fail("it was exchanged again"))
    assert FilesDriver().restore(world.c, world.store, world.old).changed == 0
    assert {path: os.lstat(path).st_ino for path in world.root.rglob("*")} == inodes
    assert describe(world.root) == world.old_state


@pytest.mark.slow
def test_second_interruption_inside_the_recovery(tmp_path: Path) -> None:
    world = World(tmp_path)
    last = sweep(world)[-1]
    for at in range(30, last, max(1, last // 10)):
        with interrupt_at(at):
            world.rollback(world.old)
        with interrupt_at(at // 2):
            FilesDriver().restore(world.c, world.store, world.new)
        with interrupt_at(at // 3):
            FilesDriver().restore(world.c, world.store, world.old)
        FilesDriver().restore(world.c, world.store, world.new)
        assert describe(world.root) == world.new_state, f"at {at}"
        world.reset()


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL, errno.ENOSYS])
def test_file_system_that_cannot_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A mount inside answers EXDEV to a rename from the stage; some file systems know no exchange at all."""
    world = World(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(calls, "exchange", refuse)
    if number == errno.EXDEV:
        monkeypatch.setattr(calls, "move", refuse)
    result = FilesDriver().restore(world.c, world.store, world.old)
    assert describe(world.root) == world.old_state
    assert bool(result.warnings) == (number == errno.EXDEV)
    FilesDriver().restore(world.c, world.store, world.new)
    assert describe(world.root) == world.new_state


def test_full_disk_while_staging_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RollbackError) as caught:
        FilesDriver().restore(world.c, world.store, world.old)
    assert caught.value.key == "store.no_space"
    assert describe(world.root) == world.new_state
    monkeypatch.undo()
    FilesDriver().restore(world.c, world.store, world.old)
    assert describe(world.root) == world.old_state


def test_unusable_files_left_in_the_stage_are_made_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    FilesDriver().stage(world.c, world.store, world.old)
    (stage,) = tmp_path.glob(".rfs-stage-*")
    (key,) = (each for each in stage.iterdir() if each.is_dir())
    (list_,) = key.glob("g0-*.list")
    list_.write_bytes(b"\0" * 100)
    (key / "g1.list").write_bytes(list_.read_bytes())
    (key / "g7").mkdir()
    (key / "g7" / "0").write_bytes(b"half")
    FilesDriver().restore(world.c, world.store, world.old)
    assert describe(world.root) == world.old_state
    FilesDriver().release(world.c)
    assert not list(tmp_path.glob(".rfs-*"))


def test_what_changes_after_staging_is_restored_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    driver = FilesDriver()
    driver.stage(world.c, world.store, world.old)
    (world.root / "Case").write_bytes(b"late")
    (world.root / "a-b").unlink()
    (world.root / "later").mkdir()
    driver.restore(world.c, world.store, world.old)
    assert describe(world.root) == world.old_state


def test_the_time_of_a_folder_comes_back_though_the_restore_died_before_it_set_it(tmp_path: Path) -> None:
    """With something excluded in it, its time is no part of the state: nothing else tells that it is to come."""
    world = World(tmp_path, exclude=["*.log"])
    (world.root / "out.log").write_text("excluded")
    FilesDriver().restore(world.c, world.store, world.old)
    os.utime(world.root)  # as if that had died when all but this was done
    assert FilesDriver().restore(world.c, world.store, world.old).changed == 1
    assert {path: state for path, state in describe(world.root).items() if path != "out.log"} == world.old_state
    assert FilesDriver().restore(world.c, world.store, world.old).changed == 0
    FilesDriver().release(world.c)
    os.utime(world.root)  # after the operation it is nobody's business any more
    assert FilesDriver().restore(world.c, world.store, world.old).changed == 0
