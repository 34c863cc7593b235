"""How long `rfs log` and `rfs undo` take where 100,000 operations are in the log, half in each of its two places.

Wall-clock time, the least of several runs, as a user waits for it, with the start of the interpreter.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import apsw
import msgspec

from benchmarks.measure import compile_rfs, run
from benchmarks.tools import RFS
from rfs.production.rollback import IncrementalRollback
from rfs.production.rollback.application import Application
from rfs.production.rollback.operationlog import OPERATIONS

LIMITS = {"log": 0.3, "undo": 0.5}
OPERATIONS_MADE = 100_000
_ROUNDS = 5


def seconds(place: Path) -> dict[str, float]:
    """Measure both commands on a small application.

    Args:
        place: a folder that does not exist yet; it gets the application and its store.

    Raises:
        RuntimeError: a command failed; with the end of what it said.
    """
    place.mkdir()
    settings = place / "settings.toml"
    settings.write_text("[server]\nworkers = 1\n")
    env = {"HOME": str(place / "home"), "XDG_CONFIG_HOME": str(place / "home")}
    os.environ.update(env)
    run([RFS, "init", "--yes", "--store", str(place / "store")], cwd=place, env=env)
    run([RFS, "checkpoint", "-q"], cwd=place, env=env)
    settings.write_text("[server]\nworkers = 2\n")
    run([RFS, "rollback", "@latest", "--yes", "--reason", "x"], cwd=place, env=env)
    log = IncrementalRollback(place)
    track(log, settings, 1)
    multiply(place)
    least = dict.fromkeys(LIMITS, float("inf"))
    for number in range(2, _ROUNDS + 2):
        track(log, settings, number)
        least["log"] = min(least["log"], run([RFS, "log"], cwd=place, env=env)[0].wall)
        least["undo"] = min(least["undo"], run([RFS, "undo", "--yes"], cwd=place, env=env)[0].wall)
        if f"workers = {number - 1}\n" not in settings.read_text():
            message = f"the undo did nothing: {settings.read_text()}"
            raise RuntimeError(message)
        settings.write_text(f"[server]\nworkers = {number}\n")
    return least


def track(log: IncrementalRollback, settings: Path, number: int) -> None:
    """Change the setting to a number, from the one before, and track that."""
    settings.write_text(f"[server]\nworkers = {number}\n")
    asyncio.run(log.track_change("configuration", "update", number - 1, number, key="server.workers")).unwrap()


def multiply(place: Path) -> None:
    """Let the log have OPERATIONS_MADE operations, of which all but the last are copies of its two, a day older."""
    with Application.open(str(place / "rfs.toml")) as app:
        small, big = list(app.log.history())
        day = timedelta(days=1)
        one, other = (msgspec.structs.replace(each, created_at=each.created_at - day) for each in (small, big))
        half = OPERATIONS_MADE // 2
        sealed = app.store.seal(msgspec.json.encode(one))
        rows = [(f"{number:024x}", sealed) for number in range(half)]
        ids = [f"{number:012x}" for number in range(half)]
        plain = [(each, msgspec.json.encode(msgspec.structs.replace(other, operation_id=each))) for each in ids]
        paths = os.path.join(app.store.path, "ledger.db"), os.path.join(app.store.path, "catalog.db")
    with closing(apsw.Connection(paths[0])) as db, db:
        # What was there stays the newest.
        db.execute("UPDATE entries SET seq = seq + ?", (half,))
        query = f"INSERT INTO entries (seq, log, name, body) VALUES (?, '{OPERATIONS}', ?, ?)"
        db.executemany(query, [(number, *row) for number, row in enumerate(rows[1:], 1)])
    with closing(apsw.Connection(paths[1])) as db, db:
        db.execute("UPDATE operations SET seq = seq + ?", (half,))
        query = "INSERT INTO operations (seq, id, status, record) VALUES (?, ?, 'completed', ?)"
        db.executemany(query, [(number + 1, *row) for number, row in enumerate(plain[: half - 1])])


if __name__ == "__main__":
    import tempfile

    compile_rfs()
    with tempfile.TemporaryDirectory() as folder:
        for word, found in seconds(Path(folder) / "app").items():
            print(f"rfs {word} with {OPERATIONS_MADE:,} operations: {found:.2f} s (at most {LIMITS[word]} s)")
