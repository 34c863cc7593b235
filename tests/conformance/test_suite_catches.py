"""The conformance suite itself: right drivers pass all of it, and each wrong one is caught by the check for it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import wrong_drivers as wrong

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component
from rfs.testing import DriverSuite, MemoryDriver, component, interrupt_at


class FolderWorld:
    """The hooks of the suite for a folder of plain files."""

    ways = 4
    secrets = ("hunter2",)

    def make_component(self, tmp: Path) -> Component:
        c = component("folder", tmp, path="live")
        live = tmp / "live"
        live.mkdir()
        for name in "abc":
            (live / name).write_text(name * 50)
        return c

    def change(self, c: Component, n: int) -> None:
        if (Path(c.work) / "held").exists():
            return
        live = Path(c.home) / "live"
        count = len(list(live.iterdir()))
        if n == 0:
            (live / "a").write_text(f"{os.urandom(8).hex():.<50}")
        elif n == 1:
            (live / f"new{count}").write_text("new")
            (live / f"newer{count}").write_text("hunter2")
        elif n == 2:
            for path in live.iterdir():
                path.unlink()
            (live / f"only{os.urandom(4).hex()}").touch()
        else:
            (live / "b").write_text(os.urandom(8).hex())
            (live / "z").write_text(os.urandom(8).hex())

    def read(self, c: Component) -> object:
        return {path.name: path.read_bytes() for path in (Path(c.home) / "live").iterdir()}


class TestARightFolderDriver(FolderWorld, DriverSuite):
    def make_driver(self) -> Driver:
        return wrong.FolderDriver()


class TestADriverThatWritesInPlace(FolderWorld, DriverSuite):
    def make_driver(self) -> Driver:
        return wrong.WritesInPlace()


class TestMemoryDriver(DriverSuite):
    secrets = ("hunter2",)

    def make_driver(self) -> Driver:
        return wrong.SalvagesAll({"count": 0, "password": "hunter2"})

    def driver_after_crash(self) -> Driver:
        return self.driver  # its component is its memory

    def make_component(self, tmp: Path) -> Component:
        return component("memory", tmp)

    def change(self, c: Component, n: int) -> None:
        assert isinstance(self.driver, MemoryDriver)
        self.driver.value = {**self.driver.value, "count": self.driver.value["count"] + 1, "way": n}

    def wreck(self, c: Component) -> None:
        assert isinstance(self.driver, MemoryDriver)
        self.driver.value = None

    def read(self, c: Component) -> object:
        assert isinstance(self.driver, MemoryDriver)
        return self.driver.value


CAUGHT = [
    (wrong.CaptureTouches, "capture_changes_nothing"),
    (wrong.ForgetsReferences, "capture_is_complete_in_its_references"),
    (wrong.StoresTheTime, "capture_of_an_unchanged_state_stores_nothing"),
    (wrong.TrustsThePrevious, "capture_with_a_previous_one_is_exact"),
    (wrong.CapturesHalf, "capture_that_runs_out_of_time_is_no_capture"),
    (wrong.FingerprintOfNames, "fingerprint_is_equal_only_for_equal_states"),
    (wrong.FingerprintOfTimes, "fingerprint_is_equal_only_for_equal_states"),
    (wrong.ChangesUnsorted, "changes_are_sorted_consistent_and_antisymmetric"),
    (wrong.ChangesOnlyAdd, "changes_are_sorted_consistent_and_antisymmetric"),
    (wrong.ChangesIgnoreLive, "changes_are_sorted_consistent_and_antisymmetric"),
    (wrong.ShowsValues, "nothing_secret_is_said"),
    (wrong.ShowsDigests, "nothing_secret_is_said"),
    (wrong.LosesNothing, "losses_are_well_formed"),
    (wrong.ExaminesWrongly, "examine_changes_nothing_and_finds_no_error_in_a_sound_component"),
    (wrong.LeavesExtras, "restore_is_exact_from_and_to_every_state"),
    (wrong.ComparesSizes, "restore_is_exact_from_and_to_every_state"),
    (wrong.StillIsNothingToDo, "restore_is_exact_while_everything_stands_still"),
    (wrong.HashesByItself, "restore_is_idempotent"),
    (wrong.RestoresAlways, "restore_is_idempotent"),
    (wrong.RemembersInMemory, "restore_from_a_stored_capture"),
    (wrong.ResumesBlindly, "restore_converges_after_it_was_interrupted"),
    (wrong.ResumesBlindly, "restore_turns_back_after_it_was_interrupted"),
    (wrong.SwallowsTheTime, "restore_is_exact_after_its_time_ran_out"),
    (wrong.FetchesLate, "restore_refuses_damaged_blobs_before_it_changes_anything"),
    (wrong.RestoresDamage, "restore_refuses_damaged_blobs_before_it_changes_anything"),
    (wrong.StagesLive, "stage_changes_nothing_live_and_may_be_repeated"),
    (wrong.TrustsItsStaging, "restore_is_exact_when_the_state_changed_after_staging"),
    (wrong.NeverReleases, "release_leaves_nothing_behind_and_may_be_repeated"),
    (wrong.VerifiesNothing, "verify_is_empty_only_when_it_is_equal"),
    (wrong.ResumesByEmptying, "quiesce_and_resume_may_be_repeated"),
    (wrong.HoldsInMemory, "resume_lets_the_writers_go_also_in_a_new_process"),
    (wrong.StartsByChanging, "stop_and_start_may_be_repeated"),
]


@pytest.mark.parametrize(("driver", "check"), CAUGHT)
def test_a_wrong_driver_is_caught(driver: type[Driver], check: str, tmp_path: Path) -> None:
    class Suite(FolderWorld, DriverSuite):
        def make_driver(self) -> Driver:
            return driver()

    with pytest.raises((AssertionError, RollbackError)):
        getattr(Suite(), f"test_{check}")(tmp_path)


def test_a_start_that_believes_its_own_note_is_caught(tmp_path: Path) -> None:
    class Suite(FolderWorld, DriverSuite):
        def make_driver(self) -> Driver:
            return wrong.StartsByItsNote()

        def make_component(self, tmp: Path) -> Component:
            c = super().make_component(tmp)
            (tmp / "live" / "pid").write_text("1")
            return c

    with pytest.raises(AssertionError, match="did not finish what was interrupted at call 2"):
        Suite().test_stop_and_start_may_be_repeated(tmp_path)


@pytest.mark.parametrize("driver", [wrong.SalvagesNothing, wrong.TakesWrecks])
def test_a_driver_that_cannot_tell_wrecks_is_caught(driver: type[MemoryDriver], tmp_path: Path) -> None:
    class Suite(TestMemoryDriver):
        def make_driver(self) -> Driver:
            return driver({"count": 0})

    with pytest.raises((AssertionError, RollbackError)):
        Suite().test_what_capture_refuses_is_salvaged_and_mended(tmp_path)


def test_a_component_that_rfs_toml_could_not_describe_is_caught(tmp_path: Path) -> None:
    class Misspelled(TestARightFolderDriver):
        def make_component(self, tmp: Path) -> Component:
            return component("folder", tmp, pth="live")

    class OfAnotherKind(TestARightFolderDriver):
        def make_component(self, tmp: Path) -> Component:
            return component("files", tmp, path="live")

    with pytest.raises(msgspec.ValidationError, match="pth"):
        Misspelled().test_capture_changes_nothing(tmp_path)
    with pytest.raises(AssertionError, match="another kind"):
        OfAnotherKind().test_capture_changes_nothing(tmp_path)


def test_open_options_are_caught() -> None:
    class Suite(FolderWorld, DriverSuite):
        def make_driver(self) -> Driver:
            return wrong.TakesAnyOption()

    with pytest.raises(AssertionError):
        Suite().test_options_refuse_unknown_keys()


def test_every_check_is_proved_to_catch_something() -> None:
    checks = {name.removeprefix("test_") for name in dir(DriverSuite) if name.startswith("test_")}
    elsewhere = {"options_refuse_unknown_keys", "what_capture_refuses_is_salvaged_and_mended"}
    assert checks - elsewhere == {check for _, check in CAUGHT}


# — interrupt_at —


def _work(folder: Path) -> Iterator[str]:
    (folder / "a").write_bytes(b"x")
    yield "opened"
    (folder / "a").rename(folder / "b")
    yield "renamed"
    descriptor = os.open(folder / "b", os.O_RDWR)
    try:
        os.write(descriptor, b"1")
        yield "written"
        os.fsync(descriptor)
        yield "synced"
    finally:
        os.close(descriptor)
        (folder / "b").unlink()
    yield "removed"


def test_interrupt_at_stops_at_each_call_and_lets_nobody_tidy_up(tmp_path: Path) -> None:
    with interrupt_at(100) as fault:
        everything = list(_work(tmp_path))
    assert (fault.calls, fault.fired) == (5, False)
    for at in range(1, 6):
        done = []
        with interrupt_at(at) as fault:
            for each in _work(tmp_path):
                done.append(each)
        assert fault.fired
        assert done == everything[: at - 1]
        assert ((tmp_path / "a").exists(), (tmp_path / "b").exists()) == (at == 2, at > 2)
        for left in tmp_path.iterdir():
            left.unlink()


def test_interrupt_at_sees_the_c_library_through_ctypes(tmp_path: Path) -> None:
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    here, there = os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / "b")
    (tmp_path / "a").touch()
    with interrupt_at(1) as fault:
        library.renameat2(-100, here, -100, there, 0)
    assert fault.fired
    assert (tmp_path / "a").exists()
    assert library.renameat2(-100, here, -100, there, 0) == 0
    assert (tmp_path / "b").exists()


def test_interrupt_at_sees_what_is_sent_and_which_commands_start(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    with here, there:
        done: list[str] = []
        with interrupt_at(3) as fault:
            here.sendall(b"1")
            done.append("sent")
            with here.makefile("wb", buffering=0) as file:
                file.write(b"2")
            done.append("written")
            subprocess.run(["touch", tmp_path / "started"], check=True)
        assert (done, fault.fired, there.recv(9)) == (["sent", "written"], True, b"12")
        assert not (tmp_path / "started").exists()
        here.sendall(b"3")
        assert there.recv(9) == b"3"
