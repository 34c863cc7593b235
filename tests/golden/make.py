"""Makes format-2.tar.gz: an application whose rollback was killed in the middle, as this release leaves it.

Run once for each format number, by the release that introduces it; the file is then never changed.
A later release must finish what it holds (test_golden.py).
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from rfs.production.rollback.application import Application

CONFIG = """
[app]
name = "golden"
[components.tree]
kind = "files"
path = "tree"
[components.settings]
kind = "config"
path = "settings.toml"
[components.env]
kind = "environment"
path = "golden.env"
[components.db]
kind = "sqlite"
path = "golden.db"
[store]
key = "file:golden.key"
"""

KILLED = """
import os, signal
from rfs.production.rollback.application import Application
app = Application.open("rfs.toml")
put = app.catalog.put_operation
def put_operation(operation, mark=None):
    if mark is not None and mark.step == "restore:settings":
        os.kill(os.getpid(), signal.SIGKILL)
    put(operation, mark)
app.catalog.put_operation = put_operation
app.rollback("@latest", reason="interrupted")
"""


def version(folder: Path, number: int) -> None:
    """Bring the application in `folder` to version `number`."""
    tree = folder / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "code.txt").write_text(f"version {number}\n")
    (tree / f"only-in-{number}.txt").write_text("x" * 100)
    (folder / "settings.toml").write_text(f"# kept\nversion = {number}\n")
    (folder / "golden.env").write_text(f"VERSION={number}\n")
    db = sqlite3.connect(folder / "golden.db")
    db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, v)")
    db.execute("INSERT INTO t (v) VALUES (?)", (f"row of version {number}",))
    db.commit()
    db.close()


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "golden"
        folder.mkdir()
        os.chdir(folder)
        (folder / "rfs.toml").write_text(CONFIG)
        version(folder, 1)
        with Application.create("rfs.toml") as app:
            app.checkpoint(message="version 1", tags=["one"], metadata={"version": "1"})
        version(folder, 2)
        (folder / "tree" / "only-in-1.txt").unlink()
        killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
        assert killed.returncode == -signal.SIGKILL
        with tarfile.open(target, "w:gz") as archive:
            archive.add(folder, "golden")


if __name__ == "__main__":
    main(Path(__file__).parent / "format-2.tar.gz")
