"""An application that has a second SQLite database attached: each is a component, and both go back in one outage."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small import Small

from rfs.production.rollback.errors import RevertedError
from rfs.production.rollback.model import OperationStatus


def hook(when: str, shell: str) -> str:
    return f'[[hooks]]\n{when}\nrun = ["sh", "-c", "{shell}"]\n'


PAUSE = hook('before = "checkpoint"', "touch pause && cat held") + hook('after = "checkpoint"', "rm pause && echo > on")
OUTAGE = (
    hook('before = "rollback"', "echo down >> outage")
    + hook('before = "restore"', "echo $RFS_COMPONENT >> outage")
    + hook('after = "rollback"', "echo up >> outage")
)
LOG = """
busy_timeout = "200ms"
[components.log]
kind = "sqlite"
path = "tree/log.db"
busy_timeout = "200ms"
"""

# The application: one connection that it never closes. A line is an SQL statement; it answers with the rows.
SHELL = """
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("ATTACH ? AS log", (sys.argv[2],))
for line in sys.stdin:
    try:
        print(json.dumps(db.execute(line).fetchall()), flush=True)
    except sqlite3.Error as error:
        print(json.dumps(str(error)), flush=True)
"""
# One that writes to both all the time, one transaction after the other, and holds still when it is told to.
WRITER = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("ATTACH ? AS log", (sys.argv[2],))
print("writing", flush=True)
while True:
    db.execute("BEGIN")
    db.execute("INSERT INTO main.t (v) VALUES ('pair')")
    db.execute("INSERT INTO log.t (v) VALUES ('pair')")
    db.execute("COMMIT")
    if os.path.exists("pause"):
        open("held", "w").close()
        open("on").close()
"""


class Attached(Small):
    """Args: journal: of both databases."""

    def __init__(self, home: Path, journal: str = "wal", hooks: str = "") -> None:
        super().__init__(home, home.parent / "store")
        text = (home / "rfs.toml").read_text()
        (home / "rfs.toml").write_text(text.replace('path = "tree/small.db"\n', f'path = "tree/small.db"{LOG}') + hooks)
        self.both = (self.tree / "small.db", self.tree / "log.db")
        for path in self.both:
            with sqlite3.connect(path) as db:
                db.execute(f"PRAGMA journal_mode = {journal}")
                db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, v)")
                db.execute("INSERT INTO t (v) VALUES ('first')")
            db.close()

    @contextmanager
    def running(self, program: str) -> Iterator[subprocess.Popen[str]]:
        words = [sys.executable, "-c", program, *map(str, self.both)]
        with subprocess.Popen(
            words, cwd=self.home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def rows(self) -> list[list[str]]:
        found = []
        for path in self.both:
            db = sqlite3.connect(path)
            found.append([v for (v,) in db.execute("SELECT v FROM t ORDER BY n")])
            db.close()
        return found


def ask(process: subprocess.Popen[str], statement: str) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(statement + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def write(process: subprocess.Popen[str], what: str) -> None:
    """One transaction over both."""
    for statement in ("BEGIN", *(f"INSERT INTO {side}.t (v) VALUES ('{what}')" for side in ("main", "log")), "COMMIT"):
        assert ask(process, statement) == []


def last(process: subprocess.Popen[str]) -> Any:
    """What the application sees last in both, through the connection that it has had all the time."""
    (row,) = ask(process, "SELECT (SELECT v FROM main.t ORDER BY n DESC), (SELECT v FROM log.t ORDER BY n DESC)")
    return row


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_both_go_back_in_one_outage_under_the_connection_that_has_them(tmp_path: Path, journal: str) -> None:
    home = Attached(tmp_path / "home", journal, OUTAGE)
    with home.running(SHELL) as shop, home.open() as app:
        write(shop, "early")
        checkpoint = app.checkpoint()
        write(shop, "late")
        done = app.rollback(checkpoint.checkpoint_id)
        assert done.status is OperationStatus.COMPLETED
        assert last(shop) == ["early", "early"]
        steps = (home.home / "outage").read_text().split()
        assert (steps[0], steps[-1]) == ("down", "up")
        assert steps.count("down") == steps.count("up") == steps.count("db") == steps.count("log") == 1
        write(shop, "after")
        app.undo()
        assert last(shop) == ["late", "late"]
        assert [ask(shop, f"PRAGMA {side}.integrity_check") for side in ("main", "log")] == [[["ok"]]] * 2


@pytest.mark.parametrize("why", ["page size", "reader"])
def test_when_one_cannot_be_written_to_both_stay_as_they_are_and_who_has_it_is_named(tmp_path: Path, why: str) -> None:
    home = Attached(tmp_path / "home", "wal" if why == "page size" else "delete")
    with home.open() as app:
        checkpoint = app.checkpoint()
        db = sqlite3.connect(home.both[1])
        if why == "page size":
            db.executescript("PRAGMA journal_mode = delete; PRAGMA page_size = 8192; VACUUM; PRAGMA journal_mode = wal")
        db.close()
        with home.running(SHELL) as shop:
            write(shop, "late")
            if why == "reader":
                assert ask(shop, "BEGIN") == []
                assert ask(shop, "SELECT count(*) FROM log.t") == [[2]]
            said = " ".join(app.plan(checkpoint.checkpoint_id).warnings)
            assert f"({shop.pid})" in said
            assert str(home.both[1]) in said
            with pytest.raises(RevertedError) as caught:
                app.rollback(checkpoint.checkpoint_id)
            assert f"The database {home.both[1]} stayed locked for 0.2 s; " in str(caught.value)
            assert f"({shop.pid})" in str(caught.value)
            if why == "reader":
                assert ask(shop, "COMMIT") == []
            assert last(shop) == ["late", "late"]
            write(shop, "after")
        assert [rows[-2:] for rows in home.rows()] == [["late", "after"]] * 2
        app.rollback(checkpoint.checkpoint_id)
    assert [rows[-1] for rows in home.rows()] == ["first", "first"]


def test_hooks_that_hold_the_writers_make_a_checkpoint_of_both_one_moment(tmp_path: Path) -> None:
    home = Attached(tmp_path / "home", hooks=PAUSE)
    for name in ("held", "on"):
        os.mkfifo(home.home / name)
    with home.open() as app:
        with home.running(WRITER) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
            checkpoint = app.checkpoint()
        app.rollback(checkpoint.checkpoint_id)
    pairs = [rows.count("pair") for rows in home.rows()]
    assert pairs[0] == pairs[1] > 0
