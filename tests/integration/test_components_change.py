"""rfs.toml changes between a checkpoint and what is done with it; and texts that are not UTF-8."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from small import Small

from rfs.production.rollback.differences import diff
from rfs.production.rollback.drivers.files import FilesDriver
from rfs.production.rollback.errors import ConflictError, NotFoundError, RevertedError, RollbackError
from rfs.production.rollback.model import Change, CheckOutcome, HealthReport

DB = '[components.db]\nkind = "sqlite"\npath = "tree/small.db"\n'
SICK = HealthReport((CheckOutcome("http", healthy=False, required=True, detail="500", seconds=0.0),))


def rewrite(small: Small, old: str, new: str) -> None:
    config = small.home / "rfs.toml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


@pytest.fixture
def twice(tmp_path: Path) -> Small:
    """At version 1 after two rollbacks: of everything, and before it of the tree alone."""
    small = Small(tmp_path)
    with small.open() as app:
        app.checkpoint()
        small.version(2)
        app.rollback("@latest")
        small.version(3)
        app.rollback("@latest", only=["tree"])
    return small


def test_undo_refuses_all_when_one_needs_a_component_that_is_gone(twice: Small) -> None:
    rewrite(twice, DB, "")
    with twice.open() as app:
        with pytest.raises(NotFoundError, match="no component called db"):
            app.undo(2)
        assert len(app.catalog.operations()) == 2
        app.undo(1)
        assert (twice.tree / "code.txt").read_text().startswith("version 3")


def test_undo_refuses_all_when_one_is_of_another_kind_now(twice: Small) -> None:
    # An environment file with the database's name: never restored, so its content does not matter.
    rewrite(twice, DB, '[components.db]\nkind = "environment"\npath = "other.env"\n')
    (twice.home / "other.env").write_text("A=1\n")
    with twice.open() as app:
        with pytest.raises(ConflictError, match="of kind sqlite at the checkpoint"):
            app.undo(2)
        assert len(app.catalog.operations()) == 2


def test_undo_refuses_to_act_elsewhere_and_names_the_way_to_do_it(twice: Small) -> None:
    rewrite(twice, 'path = "tree"\nkeep = ["uploads/"]', 'path = "elsewhere"')
    elsewhere = twice.home / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "of-another.txt").write_text("here")
    with twice.open() as app:
        last = app.catalog.operations()[0]
        for act in (app.undo, lambda: app.undo(2), lambda: app.undo(operation=last.operation_id)):
            with pytest.raises(ConflictError, match="acted on tree in tree") as caught:
                act()
        assert f"rfs rollback {last.state_before}" in caught.value.hint
        assert len(app.catalog.operations()) == 2
        assert (elsewhere / "of-another.txt").exists()
        app.rollback(last.state_before, only=["tree"])
        assert (elsewhere / "code.txt").read_text().startswith("version 3")
        # The same component may lie in the same place by another way of writing it.
        rewrite(twice, 'path = "elsewhere"', f'path = "{elsewhere}"')
    with twice.open() as app:
        app.undo()
        assert (elsewhere / "of-another.txt").exists()


def test_a_plan_names_what_is_in_the_checkpoint_and_no_longer_in_rfs_toml(twice: Small) -> None:
    rewrite(twice, DB, "")
    with twice.open() as app:
        assert any("db, which rfs.toml no longer names" in warning for warning in app.plan("@latest").warnings)


def test_a_changed_kind_is_no_damage(twice: Small) -> None:
    rewrite(twice, DB, '[components.db]\nkind = "environment"\npath = "other.env"\n')
    (twice.home / "other.env").write_text("A=1\n")
    with twice.open() as app:
        with pytest.raises(ConflictError, match="of kind sqlite at the checkpoint"):
            diff(app, "@latest")
        assert diff(app, "@latest", only=["settings"])
        (drift,) = (each for each in app.status().drift if each.component == "db")
        assert drift.equal is None
        assert "sqlite" in drift.detail


def test_a_rollback_of_nothing_is_refused(tmp_path: Path) -> None:
    # It would stop and start services for nothing, and say that it succeeded.
    small = Small(tmp_path)
    with small.open() as app:
        app.checkpoint(only=["db"])
        for act in (app.rollback, app.plan):
            with pytest.raises(NotFoundError, match="holds nothing of the component tree, settings"):
                act("@latest", without=["db"])
        assert app.catalog.operations() == []


def test_what_is_not_utf_8_is_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(tmp_path)
    odd = os.fsdecode(b"\xff")
    with small.open() as app:
        made = app.checkpoint(message=f"m{odd}", tags=[f"t{odd}"], deployment_id=odd)
        assert app.find(made.checkpoint_id) == made
        assert "udcff" in made.message
        assert app.amend(made.checkpoint_id, message=odd, add_tags=[odd]).revision == 1
        small.version(2)
        (Path(os.fsdecode(os.fsencode(small.tree) + b"/late\xff"))).write_text("late")
        monkeypatch.setenv("SUDO_USER", f"kim{odd}")
        operation = app.rollback(made.checkpoint_id, reason=f"r{odd}")
        assert app.catalog.operation(operation.operation_id) == operation

        # An error about such a file must not keep the way back from being written down.
        calls = iter([True])

        def verify(*_: object) -> list[Change]:
            if next(calls, False):
                raise RollbackError("path.changing", path=f"file{odd}")
            return []

        monkeypatch.setattr(FilesDriver, "verify", verify)
        with pytest.raises(RevertedError, match="kept changing"):
            app.undo()
        assert app.catalog.open_operation() is None


def test_a_folder_that_was_deleted_with_all_that_lay_in_it(tmp_path: Path) -> None:
    small = Small(tmp_path)
    rewrite(small, 'keep = ["uploads/"]\n', "")
    with small.open() as app:
        app.checkpoint()
        state = small.state()
        shutil.rmtree(small.tree)
        reports = iter([SICK])
        app.engine.check = lambda beat: next(reports, HealthReport())
        with pytest.raises(RevertedError, match="health check failed"):
            app.rollback("@latest")
        assert not small.tree.exists()
        app.rollback("@latest")
        assert small.state() == state
