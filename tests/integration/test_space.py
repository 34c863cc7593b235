"""A full disk, in the store or beside the application: a clear error, and nothing lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import Small

from rfs.production.rollback import upkeep
from rfs.production.rollback.errors import RollbackError

MEGABYTE = 1 << 20


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a full disk is not tested: this user cannot mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


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
