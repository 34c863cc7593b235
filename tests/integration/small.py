"""An application without services: a folder, a settings file and a database. Quick to make and to break."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rfs.production.rollback.application import Application
from rfs.production.rollback.model import CheckOutcome, HealthReport
from rfs.production.rollback.pulse import Beat

CONFIG = """
[app]
name = "small"
[components.tree]
kind = "files"
path = "tree"
keep = ["uploads/"]
[components.settings]
kind = "config"
path = "tree/settings.toml"
[components.db]
kind = "sqlite"
path = "tree/small.db"
[store]
key = "file:{home}/key"
"""


class Small:
    """Args: home: an empty folder. store: where the store goes, when not beside rfs.toml."""

    def __init__(self, home: Path, store: Path | None = None, more: str = "") -> None:
        self.home = home
        self.tree = home / "tree"
        (self.tree / "uploads").mkdir(parents=True)
        self.store = store or home / ".rfs"
        text = CONFIG.format(home=home) + (f'path = "{store}"\n' if store else "") + more
        (home / "rfs.toml").write_text(text)
        self.version(1)
        Application.create(str(home / "rfs.toml")).close()

    def open(self) -> Application:
        return Application.open(str(self.home / "rfs.toml"))

    def version(self, number: int) -> None:
        """Write version `number` of everything."""
        (self.tree / "code.txt").write_text(f"version {number}\n" * 50)
        (self.tree / f"only-in-{number}.txt").write_text(f"{number}\n")
        (self.tree / f"only-in-{number - 1}.txt").unlink(missing_ok=True)
        (self.tree / "settings.toml").write_text(f"# kept\nversion = {number}\npassword = 'hunter{number}'\n")
        (self.tree / "uploads" / f"{number}.jpg").write_bytes(bytes([number]) * 3000)
        db = sqlite3.connect(self.tree / "small.db")
        db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, v)")
        db.execute("INSERT INTO t (v) VALUES (?)", (f"row of version {number}",))
        db.commit()
        db.close()

    def is_at(self, number: int) -> bool:
        """Whether the code is of version `number`."""
        return (self.tree / "code.txt").read_text().startswith(f"version {number}\n")

    def state(self) -> dict[str, object]:
        """Everything but the uploads."""
        db = sqlite3.connect(self.tree / "small.db")
        rows = db.execute("SELECT v FROM t ORDER BY n").fetchall()
        db.close()
        files = {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
            for path in self.tree.iterdir()
            if path.is_file() and not path.name.startswith("small.db")
        }
        return {"rows": rows, **files}


def sick_at_first(app: Application) -> None:
    """Let the first health check fail and every later one pass: a rollback turns back, and the state before is well."""
    asked: list[bool] = []

    def check(beat: Beat, *, once: bool = False) -> HealthReport:
        asked.append(once)
        return HealthReport((CheckOutcome("h", len(asked) > 1, required=True, detail="sick", seconds=0),))

    app.engine.check = check
