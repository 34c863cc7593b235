"""A damaged database under a whole rollback: it is mended, and where that fails it comes back damaged, never held."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from small import Small, sick_at_first

from rfs.production.rollback import upkeep
from rfs.production.rollback.drivers.sqlite.driver import CHECKED_BYTES
from rfs.production.rollback.errors import RevertedError, RollbackError
from rfs.production.rollback.model import CheckOutcome, HealthReport
from rfs.production.rollback.pulse import Beat

PAGE = 4096


def fill(path: Path, size: int) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE filler (n INTEGER PRIMARY KEY, data)")
    db.executemany(
        "INSERT INTO filler (data) VALUES (?)", ((os.urandom(PAGE * 16),) for _ in range(size // PAGE // 16))
    )
    db.commit()
    db.close()


def damage(path: Path) -> bytes:
    """Make the pages of the table senseless; return what the file is then."""
    db = sqlite3.connect(path)
    ((root,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'filler'").fetchall()
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(os.urandom(PAGE))
    return path.read_bytes()


def content(path: Path) -> bytes:
    """The file, but for what SQLite counts in its header."""
    data = path.read_bytes()
    return data[:24] + data[28:40] + data[44:92] + data[100:]


def assert_is(path: Path, damaged: bytes) -> None:
    """What is too large to be checked goes back through SQLite, which counts; all else, byte for byte."""
    now = path.read_bytes()
    if len(now) > CHECKED_BYTES:
        now, damaged = (data[:24] + data[28:40] + data[44:92] + data[100:] for data in (now, damaged))
    assert now == damaged


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "precious").write_text("not ours")


def a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("replace", [a_folder, a_link, a_pipe])
def test_what_took_its_place_is_set_aside_and_comes_back(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    small = Small(tmp_path)
    path = small.tree / "small.db"
    with small.open() as app:
        app.checkpoint(tags=["sound"])
        v1 = small.state()
        (small.tree / "code.txt").write_text("version 2")
        replace(path)
        inode = path.lstat().st_ino
        with pytest.raises(RollbackError, match="not a database file"):
            app.checkpoint()
        sick_at_first(app)
        with pytest.raises(RevertedError, match="sick"):
            app.rollback("sound")
        assert path.lstat().st_ino == inode
        assert not list(small.tree.glob(".rfs-tmp-*"))
        app.rollback("sound")
        assert small.state() == v1
        (aside,) = small.tree.glob(".rfs-tmp-displaced-*")
        assert any(str(aside) in finding.text for finding in upkeep.examine(app))
        app.undo()
        assert path.lstat().st_ino == inode
        assert app.catalog.open_operation() is None


@pytest.mark.parametrize("size", [1 << 20, pytest.param(CHECKED_BYTES + (1 << 20), marks=pytest.mark.slow)])
def test_a_damaged_database_is_mended_and_comes_back(tmp_path: Path, size: int) -> None:
    small = Small(tmp_path)
    path = small.tree / "small.db"
    fill(path, size)
    with small.open() as app:
        app.checkpoint(tags=["sound"])
    v1, sound = small.state(), content(path)
    small.version(2)
    damaged = damage(path)
    asked: list[bool] = []

    def check(beat: Beat, *, once: bool = False) -> HealthReport:
        asked.append(once)
        # Sick on the restored state alone, the first time.
        return HealthReport((CheckOutcome("h", len(asked) > 1, required=True, detail="sick", seconds=0),))

    with small.open() as app:
        plan = app.plan("sound")
        assert {(loss.what, loss.count) for loss in plan.losses if loss.component == "db"} >= {
            ("rows in table filler", None)
        }
        app.engine.check = check
        with pytest.raises(RevertedError, match="sick"):
            app.rollback("sound")
        assert_is(path, damaged)
        assert (small.tree / "only-in-2.txt").exists()
        app.rollback("sound")
        assert small.state() == v1
        assert content(path) == sound
        app.undo()
        assert_is(path, damaged)
        assert app.catalog.open_operation() is None
