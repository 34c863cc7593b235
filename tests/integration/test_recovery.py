"""An interrupted rollback, when meanwhile something else changed as well: rfs.toml, the disk, the store's owner."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from small import Small

from rfs.production.rollback import upkeep
from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.sqlite import SqliteDriver
from rfs.production.rollback.errors import (
    ConflictError,
    HeldError,
    InterruptedByUserError,
    RevertedError,
    RollbackError,
    UsageError,
)
from rfs.production.rollback.lock import actor
from rfs.production.rollback.model import CheckpointType, OperationStatus
from rfs.production.rollback.operation import LEFT, Mark, Operation
from rfs.production.rollback.plan import Action, Step


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def die(operation: Operation, step: Step) -> Operation:
    raise Killed


def die_before_verification(app: Application) -> None:
    """Roll back to the latest checkpoint; it dies when everything is restored."""
    app.engine.steps[Action.VERIFY] = die
    with pytest.raises(Killed):
        app.rollback("@latest")


def interrupted_of(app: Application) -> Operation:
    """Return the operation that is open, which there has to be."""
    found = app.catalog.open_operation()
    assert found is not None
    return found


@pytest.fixture
def half_done(tmp_path: Path) -> Small:
    """At version 2, with a rollback to version 1 that died between restore and verification."""
    small = Small(tmp_path)
    with small.open() as app:
        app.checkpoint()
        small.version(2)
        die_before_verification(app)
    return small


def without_database(small: Small) -> str:
    """Take the database out of rfs.toml; return what it said."""
    config = small.home / "rfs.toml"
    text = config.read_text()
    config.write_text(text.replace('[components.db]\nkind = "sqlite"\npath = "tree/small.db"\n', ""))
    assert "sqlite" not in config.read_text()
    return text


def refused(small: Small, match: str) -> str:
    """See everything that would carry the operation on refused, with nothing changed; return the hint."""
    with small.open() as app:
        interrupted = interrupted_of(app)
        journal = app.catalog.journal(interrupted.operation_id)
        state = small.state()
        for act in (app.recover, app.checkpoint, app.resume, app.abort):
            with pytest.raises(ConflictError, match=match) as caught:
                act()
        assert app.catalog.open_operation() == interrupted
        assert app.catalog.journal(interrupted.operation_id) == journal
        assert len(app.catalog.checkpoints()) == 3
        assert small.state() == state
        return caught.value.hint


def of_an_older_release(small: Small) -> None:
    """Take from the open operation what an older release did not write down."""
    with small.open() as app:
        interrupted = interrupted_of(app)
        app.catalog.put_operation(msgspec.structs.replace(interrupted, components=()))


def test_a_component_that_left_rfs_toml_is_asked_for_before_anything_is_touched(half_done: Small) -> None:
    of_an_older_release(half_done)
    text = without_database(half_done)
    assert "Put it back" in refused(half_done, "needs the component db")
    (half_done.home / "rfs.toml").write_text(text)
    with half_done.open() as app:
        assert [operation.status for operation in app.recover()] == [OperationStatus.COMPLETED]
        assert half_done.is_at(1)


def edit(small: Small, old: str, new: str) -> None:
    config = small.home / "rfs.toml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


@pytest.mark.parametrize("forward", [True, False], ids=["recover", "abort"])
def test_it_is_settled_where_it_began_whatever_rfs_toml_says_by_now(half_done: Small, forward: bool) -> None:
    without_database(half_done)
    edit(half_done, 'path = "tree"\nkeep = ["uploads/"]', 'path = "elsewhere"')
    edit(half_done, "[store]", '[components.more]\nkind = "config"\npath = "tree/code.txt"\n[store]')
    elsewhere = half_done.home / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_text("not captured by anybody")
    with half_done.open() as app:
        if forward:
            assert [each.status for each in app.recover()] == [OperationStatus.COMPLETED]
        else:
            assert app.abort().status is OperationStatus.REVERTED
        assert [notice for notice in app.notices if "has changed since" in notice and "tree, db" in notice]
        assert app.engine.parts is app.parts
        assert (elsewhere / "precious.txt").exists()
        version = 1 if forward else 2
        assert half_done.is_at(version)
        assert half_done.state()["rows"] == [(f"row of version {n}",) for n in range(1, version + 1)]
        assert (half_done.tree / "uploads" / "2.jpg").exists()
        # From here on rfs.toml counts again.
        assert set(app.checkpoint().captures) == {"tree", "settings", "more"}


def test_a_pattern_taken_out_of_exclude_meanwhile_removes_nothing(tmp_path: Path) -> None:
    small = Small(tmp_path)
    edit(small, "keep =", 'exclude = ["cache/"]\nkeep =')
    with small.open() as app:
        app.checkpoint()
        small.version(2)
        (small.tree / "cache").mkdir()
        (small.tree / "cache" / "warm").write_text("in no checkpoint")
        die_before_verification(app)
    edit(small, 'exclude = ["cache/"]\n', "")
    with small.open() as app:
        app.recover()
        assert (small.tree / "cache" / "warm").exists()
        assert small.is_at(1)


def test_a_driver_that_is_gone_is_asked_for_before_anything_is_touched(half_done: Small) -> None:
    with half_done.open() as app:
        interrupted = interrupted_of(app)
        replace = msgspec.structs.replace
        gone = tuple(replace(c, kind="gone") if c.name == "db" else c for c in interrupted.components)
        app.catalog.put_operation(replace(interrupted, components=gone))
    assert "Bring that back" in refused(half_done, "cannot be used now: .*unknown kind: gone")


def test_an_application_that_was_moved_is_settled_where_it_is(half_done: Small, tmp_path: Path) -> None:
    half_done.home = (half_done.home / "rfs.toml").parent.rename(tmp_path.with_name("moved"))
    half_done.tree = half_done.home / "tree"
    edit(half_done, f"{tmp_path}/key", f"{half_done.home}/key")
    edit(half_done, 'path = "tree/small.db"', 'path = "small.db"')
    assert "Put it back" in refused(half_done, "needs the component db")
    edit(half_done, 'path = "small.db"', 'path = "tree/small.db"')
    with half_done.open() as app:
        assert [each.status for each in app.recover()] == [OperationStatus.COMPLETED]
        assert half_done.is_at(1)
        app.undo()
        assert half_done.is_at(2)


def test_rfs_toml_alone_must_not_be_moved_meanwhile(half_done: Small) -> None:
    config = half_done.home / "rfs.toml"
    other = half_done.home / "etc"
    other.mkdir()
    config.rename(other / "rfs.toml")
    home, half_done.home = half_done.home, other
    edit(half_done, "[store]", f'[store]\npath = "{home}/.rfs"')
    assert "Put rfs.toml back there" in refused(half_done, "began with the rfs.toml in")


SERVICE = """
[components.web]
kind = "service"
manager = "command"
start = ["touch", "{home}/web"]
stop = ["rm", "{home}/web"]
status = ["test", "-e", "{home}/web"]
stop_timeout = "100ms"
[[health]]
name = "well"
command = ["true"]
retries = 0
"""


@pytest.fixture
def half_done_with_service(tmp_path: Path) -> Small:
    """As `half_done`, with a service and a health check."""
    small = Small(tmp_path, more=SERVICE.format(home=tmp_path))
    (tmp_path / "web").touch()
    with small.open() as app:
        app.checkpoint()
        small.version(2)
        die_before_verification(app)
    return small


def test_a_service_is_taken_anew_from_rfs_toml_when_somebody_says_so(half_done_with_service: Small) -> None:
    small = half_done_with_service
    (small.home / "web").touch()
    edit(small, 'stop = ["rm"', 'stop = ["ls"')
    with small.open() as app:
        for name in ("tree", "nobody"):
            with pytest.raises(ConflictError, match=f"{name} cannot be taken"):
                app.resume(current=[name])
        with pytest.raises(HeldError, match="did not stop"):
            app.resume(current=["web"])
    edit(small, 'stop = ["ls"', 'stop = ["rm"')
    with small.open() as app:
        with pytest.raises(HeldError, match="did not stop"):
            app.resume()
        assert [notice for notice in app.notices if "--current web" in notice]
        with pytest.raises(RevertedError):
            app.resume(current=["web"], reason="mended")
        journal = app.catalog.journal(app.catalog.operations()[0].operation_id)
        notes = [each.note for each in journal if each.mark is Mark.RESUMED]
        assert notes[-1] == f"resume by {actor()} with web as in rfs.toml now: mended"
    assert (small.home / "web").exists()
    assert small.is_at(2)


def test_health_is_what_rfs_toml_says_now(half_done_with_service: Small) -> None:
    # No data depends on it, and correcting a check that is wrong is how people get out of it.
    edit(half_done_with_service, 'command = ["true"]', 'command = ["false"]')
    with half_done_with_service.open() as app, pytest.raises(HeldError, match="health check failed"):
        app.recover()
    edit(half_done_with_service, 'command = ["false"]', 'command = ["true"]')
    with half_done_with_service.open() as app, pytest.raises(RevertedError):
        app.resume()


def test_prune_and_forget_keep_all_that_a_held_operation_took(half_done: Small) -> None:
    edit(half_done, "[store]", "[retention]\nkeep_last = 1\n[store]")
    with half_done.open() as app:
        app.engine.steps[Action.VERIFY] = die
        # Dies when it has kept what is there, and not yet written down where.
        put = app.catalog.put_operation
        app.catalog.put_operation = lambda o, mark=None: die(o, LEFT) if o.left else put(o, mark)
        with pytest.raises(Killed):
            app.recover()
    with half_done.open() as app:
        interrupted = interrupted_of(app)
        assert not interrupted.lefts
        app.catalog.put_operation(msgspec.structs.replace(interrupted, status=OperationStatus.HELD))
        taken = [c.checkpoint_id for c in app.catalog.checkpoints() if c.operation_id]
        assert len(taken) == 3
        spare = app.engine.checkpoint(["settings"], CheckpointType.MANUAL, health=lambda: None, deployment_id="")
        for needed in (interrupted.plan.target, *taken):
            with pytest.raises(ConflictError, match="needed by the open operation"):
                upkeep.forget(app, [needed])
        upkeep.forget(app, [spare.checkpoint_id])
        removed = upkeep.prune(app, dry_run=False).retained.remove
        assert not {interrupted.plan.target, *taken} & set(removed)
        assert not upkeep.verify(app).damaged
        for act in (app.checkpoint, app.recover, app.undo, lambda: app.amend(taken[0], pinned=True)):
            with pytest.raises(HeldError, match="NEEDS ATTENTION"):
                act()
        assert app.resume().status is OperationStatus.COMPLETED


def test_writers_that_a_checkpoint_held_are_let_go_whatever_rfs_toml_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[str] = []
    monkeypatch.setattr(SqliteDriver, "quiesce", lambda _, c: held.append(c.options["path"]))
    monkeypatch.setattr(SqliteDriver, "resume", lambda _, c: held.remove(c.options["path"]))

    def killed(*_: object) -> None:
        raise Killed

    def interrupted() -> Small:
        with small.open() as app, monkeypatch.context() as patch:
            patch.setattr(app.engine, "capture", killed)
            patch.setattr(app.engine, "let_writers_go", lambda _: None)
            with pytest.raises(Killed):
                app.checkpoint()
        assert held == ["tree/small.db"]
        return small

    small = Small(tmp_path)
    interrupted()
    text = without_database(small)
    with small.open() as app:
        app.recover()
        assert (held, app.notices) == ([], [])
    (small.home / "rfs.toml").write_text(text)
    interrupted()
    without_database(small)
    with small.open() as app:

        def stuck(*_: object) -> None:
            raise RollbackError("sqlite.locked", path="small.db", seconds=30, who="")

        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(SqliteDriver, "resume", stuck)
                app.checkpoint()
        assert len([notice for notice in app.notices if "db were held" in notice and "tries it again" in notice]) == 2
        assert held
        # An older release noted names alone; and a plug-in can be gone.
        noted = app.catalog.noted("quiesced")
        assert noted is not None
        app.catalog.note("quiesced", noted.replace('"kind":"sqlite"', '"kind":"gone"'))
        app.recover()
        assert "nothing here can let them go" in app.notices[-1]
        assert app.catalog.noted("quiesced") is None
        app.catalog.note("quiesced", "settings,gone")
        app.recover()


def test_what_was_interrupted_once_can_be_done_later(tmp_path: Path) -> None:
    small = Small(tmp_path)
    with small.open() as app:
        app.checkpoint()
        small.version(2)
        for act in (app.checkpoint, lambda: app.plan("@latest"), app.recover, lambda: upkeep.verify(app)):
            if act != app.recover:
                app.beat.interrupt()
                with pytest.raises(InterruptedByUserError):
                    act()
            act()
        begun = app.engine.steps[Action.RESTORE]

        def interrupted(operation: Operation, step: Step) -> Operation:
            app.beat.interrupt()
            return begun(operation, step)

        app.engine.steps[Action.RESTORE] = interrupted
        with pytest.raises(InterruptedByUserError):
            app.rollback("@latest")
        assert small.is_at(2)
        app.engine.steps[Action.RESTORE] = begun
        app.rollback("@-1")
        assert small.is_at(1)
        # What came too late for one call is meant for the next: nobody asked it to be forgotten.
        app.beat.interrupt()
        with pytest.raises(InterruptedByUserError):
            app.undo()


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
        app.engine.steps[Action.VERIFY] = die
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
        assert half_done.is_at(2)
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
        assert half_done.is_at(2)


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
        assert half_done.is_at(2)


def test_a_stop_that_never_succeeds_can_be_skipped(half_done: Small) -> None:
    # A service that is gone cannot be stopped: without the skip no resume or abort would ever come to an end.
    with half_done.open() as app:
        interrupted = interrupted_of(app)
        replace = msgspec.structs.replace
        steps = (Step("stop:db", Action.STOP, "db"), *interrupted.plan.steps)
        app.catalog.put_operation(replace(interrupted, plan=replace(interrupted.plan, steps=steps)))

        def gone(operation: Operation, step: Step) -> Operation:
            raise RollbackError("service.no_stop", unit="db", why="it is gone")

        app.engine.steps[Action.STOP] = gone
        with pytest.raises(RollbackError, match="NEEDS ATTENTION"):
            app.recover()
        with pytest.raises(RevertedError):
            app.resume(skip="stop:db")
        assert app.catalog.open_operation() is None
        assert half_done.is_at(2)


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
    with pytest.raises(UsageError, match=r"belongs to the application of .*/one/"):
        Application.open(str(two / "rfs.toml"))
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


def test_an_application_that_was_moved_behind_a_link_keeps_its_store(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    home = Small(old, store=tmp_path / "store")
    with home.open() as app:
        app.checkpoint()
    old.rename(new)
    old.symlink_to(new)
    (new / "tree" / "code.txt").write_text("changed")
    with Application.open(str(new / "rfs.toml")) as app:
        app.rollback("@latest")
    assert (new / "tree" / "code.txt").read_text().startswith("version 1")
    with Application.open(str(old / "rfs.toml")) as app:
        app.undo()
    assert (new / "tree" / "code.txt").read_text() == "changed"


def test_a_copy_by_hard_links_is_another_application(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    with Small(one, store=tmp_path / "store").open() as app:
        app.checkpoint()
    shutil.copytree(one, two, copy_function=os.link)
    assert os.path.samefile(one / "rfs.toml", two / "rfs.toml")
    with pytest.raises(UsageError, match=r"belongs to the application of .*/one/"):
        Application.open(str(two / "rfs.toml"))
