"""An interrupted rollback, when meanwhile something else changed as well: rfs.toml, the disk, the store's owner."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from small import Small

from rfs.production.rollback import upkeep
from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import ConflictError, HeldError, RevertedError, RollbackError, UsageError
from rfs.production.rollback.model import OperationStatus
from rfs.production.rollback.operation import Mark, Operation
from rfs.production.rollback.plan import Action, Step
from rfs.production.rollback.recovery import actor


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def die(operation: Operation, step: Step) -> Operation:
    raise Killed


@pytest.fixture
def half_done(tmp_path: Path) -> Small:
    """At version 2, with a rollback to version 1 that died between restore and verification."""
    small = Small(tmp_path)
    with small.open() as app:
        app.checkpoint()
        small.version(2)
        app.engine._steps[Action.VERIFY] = die
        with pytest.raises(Killed):
            app.rollback("@latest")
    return small


def without_database(small: Small) -> str:
    """Take the database out of rfs.toml; return what it said."""
    config = small.home / "rfs.toml"
    text = config.read_text()
    config.write_text(text.replace('[components.db]\nkind = "sqlite"\npath = "tree/small.db"\n', ""))
    assert "sqlite" not in config.read_text()
    return text


def test_a_component_that_left_rfs_toml_is_asked_for_before_anything_is_touched(half_done: Small) -> None:
    text = without_database(half_done)
    with half_done.open() as app:
        interrupted = app.catalog.open_operation()
        assert interrupted is not None
        journal = app.catalog.journal(interrupted.operation_id)
        for act in (app.recover, app.checkpoint, app.resume, app.abort):
            with pytest.raises(ConflictError, match="needs the component db") as caught:
                act()
            assert "Put it back" in caught.value.hint
        assert app.catalog.open_operation() == interrupted
        assert app.catalog.journal(interrupted.operation_id) == journal
        assert len(app.catalog.checkpoints()) == 3
    (half_done.home / "rfs.toml").write_text(text)
    with half_done.open() as app:
        assert [operation.status for operation in app.recover()] == [OperationStatus.COMPLETED]
        assert (half_done.tree / "code.txt").read_text().startswith("version 1")


def write_on_it(small: Small, text: str) -> None:
    """Do what a service does that came up by itself: change a file, add a row."""
    (small.tree / "code.txt").write_text(text)
    db = sqlite3.connect(small.tree / "small.db")
    db.execute("INSERT INTO t (v) VALUES (?)", (text,))
    db.commit()
    db.close()


def test_what_was_written_on_half_restored_data_is_kept_each_time(half_done: Small) -> None:
    write_on_it(half_done, "after the first reboot")
    with half_done.open() as app:
        app.engine._steps[Action.VERIFY] = die
        with pytest.raises(Killed):
            app.recover(reason="the power is back")
    write_on_it(half_done, "after the second reboot")
    with half_done.open() as app:
        (done,) = app.recover()
        assert done.status is OperationStatus.COMPLETED
        assert len(done.lefts) == 2
        assert done.record().left == done.lefts
        assert [notice for notice in app.notices if done.lefts[1] in notice]
        notes = [e.note for e in app.catalog.journal(done.operation_id) if e.mark is Mark.RESUMED]
        assert notes[0] == f"recover by {actor()}: the power is back"
        version_1 = half_done.state()
        assert not [row for (row,) in version_1["rows"] if "reboot" in row]
        upkeep.forget(app, ["@latest"])
        upkeep.prune(app, dry_run=False)
        for left, text in zip(done.lefts, ("after the first reboot", "after the second reboot"), strict=True):
            app.rollback(left)
            assert (half_done.tree / "code.txt").read_text() == text
            assert half_done.state()["rows"][-1] == (text,)


def test_abort_keeps_what_was_written_before_it_goes_back(half_done: Small) -> None:
    write_on_it(half_done, "by hand")
    with half_done.open() as app:
        done = app.abort(reason="wrong night")
        assert done.status is OperationStatus.REVERTED
        assert f"aborted by {actor()} (wrong night)" in str(done.error)
        assert (half_done.tree / "code.txt").read_text().startswith("version 2")
        assert done.left is not None
        app.rollback(done.left)
        assert half_done.state()["rows"][-1] == ("by hand",)


def test_what_cannot_be_kept_holds_it_until_that_is_left_out(half_done: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    write_on_it(half_done, "by hand")

    def full(*_: object, **__: object) -> None:
        raise RollbackError("store.no_space", path="/store")

    with half_done.open() as app:
        with monkeypatch.context() as patch:
            patch.setattr(app.engine, "checkpoint", full)
            with pytest.raises(HeldError, match="no space left"):
                app.recover()
            assert (half_done.tree / "code.txt").read_text() == "by hand"
            with pytest.raises(RevertedError):
                app.resume(skip="left", reason="it was a test entry")
        assert app.catalog.operations()[0].lefts == ()
        assert (half_done.tree / "code.txt").read_text().startswith("version 2")


def test_nothing_else_begins_while_how_it_ended_cannot_be_written_down(
    half_done: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    with half_done.open() as app:
        before = app.catalog.open_operation()

        def full(*_: object) -> None:
            raise RollbackError("store.no_space", path=app.catalog.path)

        with monkeypatch.context() as patch:
            patch.setattr(app.catalog, "put_operation", full)
            for act in (app.checkpoint, app.abort, lambda: app.rollback("@latest")):
                with pytest.raises(RollbackError, match="no space left"):
                    act()
        assert app.catalog.open_operation() == before
        assert len(app.catalog.operations()) == 1
        assert len(app.catalog.checkpoints()) == 3
        assert app.abort().status is OperationStatus.REVERTED
        assert (half_done.tree / "code.txt").read_text().startswith("version 2")


def test_a_stop_that_never_succeeds_can_be_skipped(half_done: Small) -> None:
    # A service that is gone cannot be stopped: without the skip no resume or abort would ever come to an end.
    with half_done.open() as app:
        interrupted = app.catalog.open_operation()
        assert interrupted is not None
        replace = msgspec.structs.replace
        steps = (Step("stop:db", Action.STOP, "db"), *interrupted.plan.steps)
        app.catalog.put_operation(replace(interrupted, plan=replace(interrupted.plan, steps=steps)))

        def gone(operation: Operation, step: Step) -> Operation:
            raise RollbackError("service.no_stop", unit="db", why="it is gone")

        app.engine._steps[Action.STOP] = gone
        with pytest.raises(RollbackError, match="NEEDS ATTENTION"):
            app.recover()
        with pytest.raises(RevertedError):
            app.resume(skip="stop:db")
        assert app.catalog.open_operation() is None
        assert (half_done.tree / "code.txt").read_text().startswith("version 2")


def test_a_store_is_not_shared_by_two_applications(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    first = Small(one, store=tmp_path / "store")
    with first.open() as app:
        app.checkpoint()
    # A copy of the folder: the same rfs.toml with the same absolute store.
    shutil.copytree(one, two)
    (two / "rfs.toml").write_text((one / "rfs.toml").read_text().replace(f"{one}/key", f"{two}/key"))
    (two / "tree" / "code.txt").write_text("of two")
    with Application.open(str(two / "rfs.toml")) as app:
        for act in (app.checkpoint, app.recover, lambda: app.rollback("@latest")):
            with pytest.raises(UsageError, match=r"belongs to the application of .*/one/"):
                act()
    assert (two / "tree" / "code.txt").read_text() == "of two"
    # Moved, not copied: what was there is gone, and the store goes with it.
    shutil.rmtree(one)
    with Application.open(str(two / "rfs.toml")) as app:
        app.rollback("@latest")
    assert (two / "tree" / "code.txt").read_text().startswith("version 1")
    # A store that was copied along belongs to the copy.
    shutil.copytree(tmp_path / "store", two / ".rfs")
    config = (two / "rfs.toml").read_text()
    (two / "rfs.toml").write_text(config.replace(f'path = "{tmp_path}/store"\n', ""))
    with Application.open(str(two / "rfs.toml")) as app:
        app.undo()
    assert (two / "tree" / "code.txt").read_text() == "of two"
