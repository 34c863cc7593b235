"""Looking at a store that may only be read: another user's, or one on a medium that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_app import App

from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import RollbackError

LOOKING = (
    ("log",),
    ("show",),
    ("checkpoint", "list"),
    ("checkpoint", "show"),
    ("status",),
    ("plan",),
    ("diff",),
    ("verify",),
    ("recover", "--dry-run"),
    ("undo", "--dry-run"),
    ("prune", "--dry-run"),
)


class Reader:
    """Runs commands as somebody to whom permissions apply, which they do not to root."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.prefix: list[str] = []
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("permissions are not tested: root heeds none, and setpriv is missing")
            self.prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]

    def rfs(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, sys.executable, "-m", "rfs.cli.main", *words]
        return subprocess.run(
            command, cwd=self.app.folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )


@pytest.fixture
def used(notes_app: App) -> App:
    """An application with a rollback behind it, and a row that its last checkpoint lacks."""
    notes_app.checkpoint()
    notes_app.write("two")
    assert notes_app.rfs("rollback", "@latest", "--reason", "x", "-y").code in (0, 3)
    notes_app.write("three")
    return notes_app


@pytest.fixture
def locked_store(used: App) -> Iterator[Path]:
    """Its store, which its owner may no longer write to."""
    store = used.folder / ".rfs"
    paths = [store, *store.rglob("*")]
    modes = [(path, path.stat().st_mode) for path in paths]
    for path, mode in modes:
        path.chmod(mode & ~0o222)
    yield store
    for path, mode in modes:
        path.chmod(mode)


@pytest.mark.slow
def test_everything_can_be_looked_at_in_a_store_that_may_not_be_written(used: App, locked_store: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in locked_store.rglob("*")}
    reader = Reader(used)
    for words in LOOKING:
        ran = reader.rfs(*words)
        assert ran.returncode == 0, (words, ran)
    assert "1 row" in reader.rfs("diff").stdout
    assert {path: path.stat().st_mtime_ns for path in locked_store.rglob("*")} == before
    for words in (("checkpoint",), ("undo", "-y")):
        ran = reader.rfs(*words)
        assert ran.returncode == 1, (words, ran)
        assert "Permission denied" in ran.stderr
    ran = reader.rfs("doctor")
    assert ran.returncode == 1
    assert "catalog.db cannot be written" in ran.stdout


@pytest.mark.slow
def test_without_the_key_the_lists_can_be_read(used: App) -> None:
    reader = Reader(used)
    (used.folder / "notes.key").chmod(0)
    for words in (("log",), ("checkpoint", "list"), ("status",)):
        ran = reader.rfs(*words)
        assert ran.returncode == 0, (words, ran)
    for words in (("plan",), ("verify",)):
        ran = reader.rfs(*words)
        assert ran.returncode == 2, (words, ran)
        assert "notes.key of the store cannot be read: Permission denied" in ran.stderr


def seal(tiny: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)


LEFT_OPEN = """
import os, sys
from rfs.production.rollback.catalog import Catalog
catalog = Catalog(sys.argv[1])
catalog.note("told", "last")
os._exit(0)
"""


def test_a_catalog_on_a_medium_that_cannot_be_written(tiny: Path) -> None:
    closed, opened, torn = (tiny / name for name in ("closed.db", "opened.db", "torn.db"))
    Catalog(str(closed)).close()
    for path in (opened, torn):
        subprocess.run([sys.executable, "-c", LEFT_OPEN, str(path)], check=True)
    Path(f"{torn}-shm").unlink()
    newer = tiny / "newer.db"
    Catalog(str(newer)).close()
    subprocess.run(
        [sys.executable, "-c", "import apsw, sys; apsw.Connection(sys.argv[1]).pragma('user_version', 99)", newer],
        check=True,
    )
    seal(tiny)
    looked = Catalog(str(closed))
    assert looked.empty()
    with pytest.raises(RollbackError, match="Read-only file system"):
        looked.note("a", "b")
    assert looked.empty(), "it can still be looked at"
    assert looked.unwritable is not None
    left = Catalog(str(opened))
    assert left.noted("told") == "last", "also what is in its log alone"
    with pytest.raises(RollbackError) as caught:
        Catalog(str(torn))
    assert caught.value.key == "catalog.unsettled"
    with pytest.raises(RollbackError, match="format 99"):
        Catalog(str(newer))
    with pytest.raises(RollbackError, match="Read-only file system"):
        Catalog(str(tiny / "none.db"))


def test_what_is_written_meanwhile_is_seen(tiny: Path) -> None:
    path = str(tiny / "catalog.db")
    Catalog(path).close()
    seal(tiny)
    looked = Catalog(path)
    assert looked.noted("told") is None
    subprocess.run(["mount", "-o", "remount,rw", str(tiny)], check=True)
    subprocess.run([sys.executable, "-c", LEFT_OPEN, path], check=True)
    seal(tiny)
    assert looked.noted("told") == "last"


# — another application's store —


def test_another_applications_store_is_not_looked_at(used: App, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    text = (used.folder / "rfs.toml").read_text(encoding="utf-8")
    text = text.replace('".rfs"', f'"{used.folder}/.rfs"').replace("file:notes.key", f"file:{used.folder}/notes.key")
    (other / "rfs.toml").write_text(text, encoding="utf-8")
    (other / "rfs.toml").chmod(0o644)
    for words in (*LOOKING, ("status", "--json"), ("doctor",)):
        ran = used.rfs(*words, "--config", str(other / "rfs.toml"))
        assert ran.code == 2, (words, ran)
        assert str(used.folder / "rfs.toml") in ran.err + ran.out
    assert used.rfs("log").code == 0
    # Moved there with its store, it is the same application.
    shutil.move(used.folder / "rfs.toml", used.folder / "moved.toml")
    assert used.rfs("log", "--config", str(other / "rfs.toml")).code == 0
