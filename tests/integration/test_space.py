"""A full disk, in the store or beside the application: a clear error, and nothing lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import mounted
from filling import Ended, Filling
from small import Small

from rfs.production.rollback import upkeep
from rfs.production.rollback.database import Database
from rfs.production.rollback.errors import GuardRevertedError, RevertedError, RollbackError
from rfs.production.rollback.guarding import CommandChange, Guard, Trial

MEGABYTE = 1 << 20


@pytest.fixture
def filling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Filling]:
    """An application whose store has room for a reserve, until it is filled."""
    home = tmp_path / "home"
    home.mkdir()
    for disk in mounted(tmp_path / "disk", 48):
        yield Filling(disk, home, monkeypatch)


def fill(place: Path, leave: int) -> Path:
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    filler = place / "filler"
    filler.write_bytes(os.urandom(max(0, free - leave)))
    return filler


def test_a_full_store_refuses_a_checkpoint_and_a_rollback_and_loses_nothing(tiny: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    small = Small(home, store=tiny / "store")
    with small.open() as app:
        app.checkpoint(tags=["one"])
    v1 = small.state()
    small.version(2)
    (small.tree / "code.txt").write_bytes(os.urandom(2 * MEGABYTE))
    v2 = small.state()
    filler = fill(tiny, MEGABYTE // 2)
    with small.open() as app:
        for act in (app.checkpoint, lambda: app.rollback("one")):
            with pytest.raises(RollbackError) as caught:
                act()
            assert "no space left" in str(caught.value)
            assert caught.value.hint
            assert small.state() == v2
        assert len(app.catalog.checkpoints()) == 1
        assert app.catalog.open_operation() is None
    filler.unlink()
    with small.open() as app:
        app.rollback("one")
        assert small.state() == v1
        app.undo()
        assert small.state() == v2


def test_no_room_to_stage_is_found_before_anything_is_stopped(tiny: Path, tmp_path: Path) -> None:
    home = tiny / "home"
    home.mkdir()
    small = Small(home, store=tmp_path / "store")
    (small.tree / "code.txt").write_bytes(os.urandom(3 * MEGABYTE))
    v1 = small.state()
    with small.open() as app:
        app.checkpoint(tags=["one"])
    small.version(2)
    v2 = small.state()
    filler = fill(tiny, MEGABYTE)
    with small.open() as app:
        with pytest.raises(RollbackError, match="no space left"):
            app.rollback("one")
        assert small.state() == v2
        assert not [
            entry for entry in app.catalog.journal(app.catalog.operations()[0].operation_id) if entry.step == "delta"
        ]
    filler.unlink()
    with small.open() as app:
        app.rollback("one")
        assert small.state() == v1


def test_an_amendment_that_found_no_room_leaves_nothing_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(tmp_path)
    with small.open() as app:
        app.checkpoint(tags=["one"])

        def full() -> None:
            raise RollbackError("store.no_space", path=app.store.path)

        with monkeypatch.context() as patch:
            patch.setattr(app.store, "flush", full)
            with pytest.raises(RollbackError, match="no space left"):
                app.amend("one", message="never said")
        upkeep.prune(app, dry_run=False)
        upkeep.rebuild(app)
        assert app.find("one").message == ""


# — a disk that fills up while the services are stopped —

IN_THE_OUTAGE = (
    "stop web", "delta", "late tree", "late db", "restore tree", "verify tree", "restore db",
    "verify db", "restore settings", "verify settings", "start web", "start settings", "health",
)  # fmt: skip


def judged(ended: Ended) -> int:
    """Fail unless it ended exactly old or exactly new with the services running, and said which."""
    code = ended.error.code if ended.error is not None else 0
    assert (code, ended.state) in {(0, "new"), (30, "old")}, (code, ended)
    assert ended.running
    return code


@pytest.mark.parametrize(
    ("step", "leave", "sick"),
    [
        ("stop web", 0, False),
        ("delta", 3, False),
        ("late db", 0, False),
        ("restore db", 1, False),
        ("verify settings", 0, False),
        ("health", 0, False),
        ("late tree", 0, True),
        ("health", 0, True),
    ],
)
def test_a_disk_that_fills_up_in_the_outage(filling: Filling, step: str, leave: int, *, sick: bool) -> None:
    code = judged(filling.roll_back(step, lambda: filling.fill(leave), sick=sick))
    assert code == 30 or not sick
    with filling.small.open() as app:
        assert app.catalog.open_operation() is None


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Filling]:
    """An application on a small disk, whose store is elsewhere."""
    for disk in mounted(tmp_path / "disk", 8):
        (disk / "home").mkdir()
        yield Filling(disk, disk / "home", monkeypatch, tmp_path / "store")


@pytest.mark.parametrize(
    ("step", "leave", "sick", "code"),
    [
        ("stop web", 0, False, 30),
        ("restore tree", 0, False, 30),
        ("restore db", 2, False, 30),
        ("restore settings", 0, False, 30),
        ("start web", 0, False, 0),
        ("health", 0, True, 30),
    ],
)
def test_the_applications_own_disk_fills_up_in_the_outage(
    own: Filling, step: str, leave: int, code: int, *, sick: bool
) -> None:
    assert judged(own.roll_back(step, lambda: own.fill(leave), sick=sick)) == code
    with own.small.open() as app:
        assert app.catalog.open_operation() is None


def test_no_room_for_a_way_back_is_found_before_anything_is_stopped(own: Filling) -> None:
    own.fill(120)
    with own.small.open() as app:
        with pytest.raises(RollbackError, match=r"way back would need 1\.\d MB on the disk") as caught:
            app.rollback("one")
        assert caught.value.key == "path.no_room"
        assert not [
            mark for mark in app.catalog.journal(app.catalog.operations()[0].operation_id) if "stop" in mark.step
        ]
    assert own.ended().state == "old"
    assert not list(own.small.home.glob(".rfs-stage-*"))
    own.make_room()
    with own.small.open() as app:
        app.rollback("one")
    assert own.ended().state == "new"


def test_holes_need_no_room_for_a_way_back(own: Filling) -> None:
    with (own.small.tree / "code.txt").open("r+b") as file:
        file.truncate(1 << 30)
    with own.small.open() as app:
        app.rollback("one")
    assert own.ended().state == "new"


def test_a_way_back_without_room_says_what_ends_it(own: Filling, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a file system that cannot set space aside.
    monkeypatch.setattr("rfs.production.rollback.drivers.files.room.allocate", lambda path, size, base: None)
    ended = own.roll_back("stop web", lambda: own.fill(0))
    assert ended.error is not None
    assert ended.error.key == "rollback.held_full"
    assert "Free some space there, then run `rfs resume" in ended.error.hint
    own.make_room()
    with own.small.open() as app, pytest.raises(RevertedError):
        app.resume()
    assert own.ended() == Ended(None, "old", running=True)


@pytest.mark.slow
@pytest.mark.parametrize("sick", [False, True])
@pytest.mark.parametrize("step", IN_THE_OUTAGE)
def test_a_disk_that_fills_up_at_any_step_to_any_degree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, *, sick: bool
) -> None:
    for leave in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 40):
        home = tmp_path / f"home-{leave}"
        home.mkdir()
        for disk in mounted(tmp_path / f"disk-{leave}", 48):
            filling = Filling(disk, home, monkeypatch)
            judged(filling.roll_back(step, lambda leave=leave, filling=filling: filling.fill(leave), sick=sick))


def test_what_writes_on_gets_nothing_of_what_was_set_aside(filling: Filling) -> None:
    hungry = filling.small.home / "hungry"
    hungry.touch()
    writing = ["sh", "-c", 'while test -e "$0"; do cat /dev/zero >> "$1"; done', hungry, filling.disk / "filler"]
    children: list[subprocess.Popen[bytes]] = []

    def begin() -> None:
        filling.fill(0)
        children.append(subprocess.Popen(writing, stderr=subprocess.DEVNULL))

    try:
        judged(filling.roll_back("stop web", begin))
    finally:
        hungry.unlink()
        for child in children:
            child.wait(30)


@pytest.mark.parametrize(
    ("step", "where"),
    [("stop web", "services may be stopped"), ("restore db", "half restored"), ("health", "only its last steps")],
)
def test_a_journal_that_cannot_be_written_is_no_end(
    filling: Filling, monkeypatch: pytest.MonkeyPatch, step: str, where: str
) -> None:
    # As on a file system that cannot set space aside, where a reserve never fitted.
    filling.have_no_reserve()
    monkeypatch.setattr(Database, "set_aside", lambda file, size: None)
    ended = filling.roll_back(step, lambda: filling.fill(0))
    assert ended.error is not None
    assert (ended.error.code, ended.error.key) == (31, "rollback.unfinished")
    assert where in str(ended.error)
    assert "nothing was changed" not in str(ended.error) + ended.error.hint
    assert "rfs recover" in ended.error.hint
    with filling.small.open() as app:
        assert app.status().open_operation is not None, "one can look"
        with pytest.raises(RollbackError) as caught:
            app.recover()
        assert caught.value.code == 31
        upkeep.prune(app, dry_run=False)
    filling.make_room()
    with filling.small.open() as app:
        error = None
        try:
            app.recover()
        except RollbackError as found:
            error = found
        judged(filling.ended(error))
        assert app.catalog.open_operation() is None
        assert app.recover() == []


class _Died(BaseException):
    """What a kill is to those who would catch an exception."""


def test_recovery_on_a_full_disk_has_the_reserve(filling: Filling) -> None:
    def die() -> None:
        raise _Died

    with pytest.raises(_Died):
        filling.roll_back("verify db", die)
    filling.fill(0)
    reserve = filling.store / "reserve"
    assert reserve.stat().st_blocks * 512 == reserve.stat().st_size, "real blocks"
    with filling.small.open() as app:
        assert app.status().open_operation is not None
        assert reserve.exists(), "looking takes nothing of it"
        app.recover()
    judged(filling.ended())
    assert not reserve.exists()
    filling.make_room()
    with filling.small.open() as app:
        app.checkpoint()
    assert reserve.exists(), "set aside again"


def test_prune_works_on_a_full_disk(filling: Filling) -> None:
    small = filling.small
    config = small.home / "rfs.toml"
    config.write_text(config.read_text() + "[retention]\nkeep_last = 1\n")
    for number in range(3):
        (small.tree / "code.txt").write_bytes(os.urandom(MEGABYTE))
        with small.open() as app:
            app.checkpoint(message=str(number))
    filling.fill(0)
    with small.open() as app:
        cleaned = upkeep.prune(app, dry_run=False)
        assert len(cleaned.retained.remove) == 3
        assert cleaned.pruned.freed > 2 * MEGABYTE
        assert len(app.catalog.checkpoints()) == 1


def test_a_checkpoint_does_not_take_the_reserve(filling: Filling) -> None:
    filling.fill(0)
    with filling.small.open() as app, pytest.raises(RollbackError, match="no space left"):
        app.checkpoint()
    assert (filling.store / "reserve").exists()


def test_doctor_says_that_there_is_no_reserve(filling: Filling) -> None:
    with filling.small.open() as app:
        assert not [found for found in upkeep.examine(app) if "set aside" in found.text]
        filling.have_no_reserve()
        assert [found.level for found in upkeep.examine(app) if "set aside" in found.text] == ["warning"]


@pytest.mark.slow
def test_a_change_that_fills_the_stores_disk_is_taken_back_all_the_same(filling: Filling) -> None:
    script = f"echo 3 > {filling.small.tree}/only-in-2.txt; cat /dev/zero > {filling.disk}/filler; exit 5"
    with filling.small.open() as app:
        with pytest.raises(GuardRevertedError) as told:
            Guard(app).run(CommandChange(["sh", "-c", script]), Trial())
        assert told.value.code == 5
        assert filling.small.state() == filling.old
        assert app.deployments.open() is None
