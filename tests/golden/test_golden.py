"""What an older release left behind, this one finishes; see make.py."""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest

from rfs.production.rollback import upkeep
from rfs.production.rollback.application import Application
from rfs.production.rollback.model import OperationStatus

FORMATS = sorted(Path(__file__).parent.glob("format-*.tar.gz"))


@pytest.fixture(params=FORMATS, ids=lambda path: path.name.split(".")[0])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="fully_trusted")
    home = tmp_path / "golden"
    (home / "golden.key").chmod(0o600)
    return home


def test_there_is_one_for_each_format() -> None:
    assert [path.name for path in FORMATS] == ["format-1.tar.gz", "format-2.tar.gz"]


def is_version_1(folder: Path) -> bool:
    db = sqlite3.connect(folder / "golden.db")
    rows = db.execute("SELECT v FROM t").fetchall()
    db.close()
    return (
        rows == [("row of version 1",)]
        and (folder / "tree" / "code.txt").read_text() == "version 1\n"
        and sorted(path.name for path in (folder / "tree").iterdir()) == ["code.txt", "only-in-1.txt"]
        and (folder / "settings.toml").read_text() == "# kept\nversion = 1\n"
        and (folder / "golden.env").read_text() == "VERSION=1\n"
    )


def test_its_interrupted_rollback_is_finished(folder: Path) -> None:
    assert not is_version_1(folder)
    with Application.open(str(folder / "rfs.toml")) as app:
        assert [operation.status for operation in app.recover()] == [OperationStatus.COMPLETED]
        assert is_version_1(folder)
        assert not upkeep.verify(app).damaged
        app.undo()
        assert not is_version_1(folder)
        app.rollback("one")
        assert is_version_1(folder)


def test_it_can_be_turned_back_instead(folder: Path) -> None:
    with Application.open(str(folder / "rfs.toml")) as app:
        assert app.abort().status is OperationStatus.REVERTED
        assert (folder / "settings.toml").read_text() == "# kept\nversion = 2\n"
        assert (folder / "tree" / "code.txt").read_text() == "version 2\n"


def test_its_catalog_is_made_again_from_packs_and_key(folder: Path) -> None:
    for lost in ("catalog.db", "catalog.db-wal", "catalog.db-shm", "index.db", "index.db-wal", "index.db-shm"):
        (folder / ".rfs" / lost).unlink(missing_ok=True)
    shutil.rmtree(folder / ".rfs" / "work")
    with Application.open(str(folder / "rfs.toml")) as app:
        assert upkeep.rebuild(app) >= 2
        app.rollback("one")
    assert is_version_1(folder)
