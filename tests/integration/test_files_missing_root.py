"""A root that is not there is a state: a rollback brings the folder back, and one that fails takes it away again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from small import Small

from rfs.production.rollback.errors import RevertedError
from rfs.production.rollback.model import CheckOutcome, HealthReport, RollbackRecord
from rfs.production.rollback.pulse import Beat

MORE = """
[components.logs]
kind = "files"
path = "logs"
keep = ["*.txt"]
exclude = ["*.log"]
"""


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """An application whose two folders are gone since the checkpoint `whole`."""
    (tmp_path / "logs" / "deep").mkdir(parents=True)
    (tmp_path / "logs" / "a.txt").write_text("a")
    (tmp_path / "logs" / "deep" / "b.txt").write_text("b")
    (tmp_path / "logs" / "c").write_text("c")
    small = Small(tmp_path, more=MORE)
    with small.open() as app:
        app.checkpoint(tags=["whole"])
    shutil.rmtree(small.tree)
    shutil.rmtree(tmp_path / "logs")
    return small


def fail(small: Small, *written: str) -> RollbackRecord:
    """Let a rollback fail when all is back and somebody has written some files; return its record."""

    asked: list[bool] = []

    def check(beat: Beat, *, once: bool = False) -> HealthReport:
        asked.append(once)
        for name in written if len(asked) == 1 else ():
            (small.home / name).parent.mkdir(parents=True, exist_ok=True)
            (small.home / name).write_text("new")
        return HealthReport((CheckOutcome("h", len(asked) > 1, required=True, detail="sick", seconds=0),))

    with small.open() as app:
        app.engine.check = check
        with pytest.raises(RevertedError, match="sick"):
            app.rollback("whole")
        assert app.catalog.open_operation() is None
        return app.catalog.operations()[0].record()


def files(small: Small) -> set[str]:
    roots = (small.tree, small.home / "logs")
    return {str(path.relative_to(small.home)) for root in roots for path in (root, *root.rglob("*")) if path.exists()}


def test_what_the_rollback_brought_back_goes_with_the_folder(small: Small) -> None:
    record = fail(small)
    assert files(small) == set()
    assert not [warning for warning in record.warnings if "stays" in warning]
    with small.open() as app:
        app.rollback("whole")
        assert (small.tree / "uploads" / "1.jpg").exists()
        app.undo()
        # Forward, others were still in it when its turn came: it goes with the last of them, which had no folder then.
        assert files(small) == set()
        app.rollback("whole")
        assert (small.tree / "uploads" / "1.jpg").read_bytes() == bytes([1]) * 3000


def test_what_somebody_wrote_meanwhile_stays_and_is_told(small: Small) -> None:
    record = fail(small, "tree/uploads/mine.jpg", "tree/uploads/1.jpg", "logs/deep/x.log", "logs/new/y", "logs/deep/z")
    assert files(small) == {
        "tree",
        "tree/uploads",
        "tree/uploads/1.jpg",
        "tree/uploads/mine.jpg",
        "logs",
        "logs/deep",
        "logs/deep/x.log",
    }
    assert (small.tree / "uploads" / "1.jpg").read_text() == "new"
    told = "\n".join(record.warnings)
    assert "uploads/1.jpg, uploads/mine.jpg" in told
    assert f"{small.home}/logs was to go, and stays with what is excluded or another component's" in told
    assert len(record.left) == 1


def test_nothing_is_taken_away_that_no_checkpoint_vouches_for(small: Small) -> None:
    with small.open() as app:
        app.rollback("whole")
    for work in (small.store / "work").iterdir():
        (work / "files.brought").unlink(missing_ok=True)
    with small.open() as app:
        app.undo()
    assert files(small) >= {"tree/uploads/1.jpg", "logs/a.txt", "logs/deep/b.txt"}
    assert not os.path.exists(small.tree / "code.txt")
    assert not os.path.exists(small.home / "logs" / "c")
