"""A small real application, and the command line run on it: in this process, or in one of its own."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rfs.cli.main import main

TOML = """\
[app]
name = "notes"
[components.db]
kind = "sqlite"
path = "notes.db"
[components.web]
kind = "service"
manager = "command"
start = ["./service", "start"]
stop = ["./service", "stop"]
status = ["./service", "status"]
[store]
path = ".rfs"
key = "file:notes.key"
"""

SERVICE = """\
#!/bin/sh
echo "$1" >> service.log
case $1 in
  start) test ! -e refuse-start || exit 1
         rm -f sick; test ! -e sick-once || mv sick-once sick
         touch running ;;
  stop) test -e slow-stop && { touch stopping; while test -e slow-stop; do sleep 0.02; done; }; rm -f running ;;
  status) test -e running ;;
esac
"""

CHECK = """
[[health]]
name = "sane"
command = ["test", "!", "-e", "sick"]
retries = 0
"""


class Ran(NamedTuple):
    """What a command ended with and printed."""

    code: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        assert list(found) == ["schema", "ok", "code", "data", "warnings"]
        assert found["schema"] == "rfs/1"
        assert found["code"] == self.code
        return found

    @property
    def data(self) -> Any:
        return self.envelope["data"]


class CommandLine:
    """The command line in this process, as it would be run without a terminal."""

    _capsys: pytest.CaptureFixture[str]

    def rfs(self, *words: str) -> Ran:
        """Run a command in this process, as it would be run without a terminal."""
        self._capsys.readouterr()
        code = main(words)
        out, err = self._capsys.readouterr()
        return Ran(code, out, err)

    def json(self, *words: str) -> Any:
        """Run a command that must do what it was asked, with --json; return the data."""
        ran = self.rfs(*words, "--json")
        assert ran.envelope["ok"], ran
        return ran.data


class App(CommandLine):
    """The application in `folder`, with its service running."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        (folder / "service").write_text(SERVICE, encoding="utf-8")
        (folder / "service").chmod(0o755)
        (folder / "running").touch()
        self.configure(TOML)
        self.sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        self.write("one")

    def configure(self, text: str) -> None:
        path, new = self.folder / "rfs.toml", self.folder / "rfs.toml.new"
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        new.rename(path)  # a daemon may be reading it

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "notes.db")) as db, db:
            return db.execute(statement, values).fetchall()

    def write(self, text: str) -> None:
        self.sql("INSERT INTO notes (text) VALUES (?)", text)

    @property
    def notes(self) -> list[str]:
        return [text for (text,) in self.sql("SELECT text FROM notes ORDER BY id")]

    python = sys.executable

    def insert(self, text: str) -> str:
        """Return a line of shell that writes a note."""
        write = f"db.execute('INSERT INTO notes (text) VALUES (?)', ('{text}',)); db.commit()"
        code = f"import sqlite3; db = sqlite3.connect('notes.db'); {write}"
        return f'{self.python} -c "{code}"'

    def checkpoint(self, *words: str) -> str:
        """Take a checkpoint; return its id."""
        found: str = self.json("checkpoint", *words)["id"]
        return found

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        command = [sys.executable, "-m", "rfs.cli.main", *words]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.folder, text=True, **{**pipes, **options})
