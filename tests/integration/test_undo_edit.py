"""`rfs undo --edit`: a conflict is decided in an editor; whatever goes wrong there changes nothing."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_app import CommandLine
from small import Small

from rfs.cli import editing
from rfs.production.rollback import IncrementalRollback

OLD = "".join(f"line {number}\n" for number in range(9))
NEW = OLD.replace("line 2", "second")
LATER = NEW.replace("second", "third").replace("line 7", "seventh")


class Shop(Small, CommandLine):
    """An application with a file and a setting that were changed, tracked, and changed again by somebody else."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(home)
        self._capsys = capsys
        self.code, self.settings = self.tree / "code.txt", self.tree / "settings.toml"
        log = IncrementalRollback(home)
        self.code.write_text(LATER)
        self.file = self._tracked(log, "file", OLD, NEW, "tree/code.txt")
        self.settings.write_text("# kept\nversion = 3\nother = 1\n")
        self.key = self._tracked(log, "settings", 1, 2, "version")

    @staticmethod
    def _tracked(log: IncrementalRollback, component: str, old: Any, new: Any, key: str) -> str:
        found: str = asyncio.run(log.track_change(component, "edit", old, new, key=key)).unwrap()
        return found

    def editor(self, script: str) -> None:
        path = self.home / "editor"
        path.write_text(f"#!{sys.executable}\nimport sys\npath = sys.argv[1]\ntext = open(path).read()\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    found = Shop(tmp_path / "shop", capsys)
    monkeypatch.chdir(found.home)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(found.home / "editor"))
    return found


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "require_terminal", lambda: None)


DECIDE = """
lines = text.splitlines(keepends=True)
start, end = lines.index("<<<<<<< now\\n"), lines.index(">>>>>>> before the change\\n")
assert lines[start + 1 : end] == {inside!r}, lines
open(path, "w").writelines([*lines[:start], {decided!r}, *lines[end + 1 :]])
"""


def test_a_conflict_in_a_text_is_decided_in_a_terminal(shop: Shop) -> None:
    shop.editor(DECIDE.format(inside=["third\n", "=======\n", "line 2\n"], decided="both\n"))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rfs.cli.main", "undo", shop.file, "--edit", "-y"]
    done = subprocess.run(command, cwd=shop.home, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0, done
    assert shop.code.read_text() == LATER.replace("third", "both")
    assert [each["kind"] for each in shop.json("log", "-n", "1")] == ["undo"]
    assert "taken back already" in shop.rfs("undo", shop.file, "-y").err


@pytest.mark.usefixtures("terminal")
def test_a_conflict_in_a_configuration_is_decided_and_the_rest_stays(shop: Shop) -> None:
    inside = ["version = 3\n", "=======\n", "version = 1\n"]
    shop.editor(DECIDE.format(inside=inside, decided="version = 7\n"))
    shop.json("undo", shop.key, "--edit", "-y")
    assert shop.settings.read_text() == "# kept\nversion = 7\nother = 1\n"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("", "conflict markers are left in it"),
        pytest.param("sys.exit(3)", "the editor ended with 3", marks=pytest.mark.slow),
        pytest.param("open(path, 'w').write('[broken')", "not valid TOML", marks=pytest.mark.slow),
        pytest.param("import os; os.remove(path)", "The editor could not be used", marks=pytest.mark.slow),
    ],
)
def test_an_editor_that_is_given_up_changes_nothing(shop: Shop, script: str, why: str) -> None:
    shop.editor(script)
    before = shop.settings.read_bytes()
    ran = shop.rfs("undo", "--edit", "-y")
    assert ran.code != 0
    assert why in ran.err, ran
    assert shop.settings.read_bytes() == before
    assert [each["kind"] for each in shop.json("log")] == ["change", "change"]
    os.environ["EDITOR"] = "/no/such/editor"
    assert "Set VISUAL or EDITOR" in shop.rfs("undo", "--edit", "-y").err


@pytest.mark.usefixtures("terminal")
def test_killed_after_what_was_decided_was_written_nobody_is_asked_again(shop: Shop) -> None:
    from rfs.production.rollback.changelog import ChangeLog

    shop.editor(DECIDE.format(inside=["version = 3\n", "=======\n", "version = 1\n"], decided="version = 7\n"))
    child = os.fork()
    if child == 0:
        ChangeLog._record = lambda *_: os._exit(7)  # type: ignore[method-assign,assignment]
        shop.rfs("undo", shop.key, "--edit", "-y")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert "version = 7" in shop.settings.read_text()
    shop.json("undo", shop.key, "-y")
    assert "version = 7" in shop.settings.read_text()
    assert [each["kind"] for each in shop.json("log", "-n", "1")] == ["undo"]


def test_without_a_terminal_and_with_other_answers_it_is_refused(shop: Shop) -> None:
    ran = shop.rfs("undo", "--edit", "-y")
    assert (ran.code, "--ours or --theirs" in ran.err) == (2, True)
    assert shop.rfs("undo", "--edit", "--ours", "-y").code == 2
    assert shop.code.read_text() == LATER


@pytest.mark.usefixtures("terminal")
def test_what_is_no_text_cannot_be_edited(shop: Shop) -> None:
    shop.code.write_bytes(b"\0")
    ran = shop.rfs("undo", shop.file, "--edit", "-y")
    assert (ran.code, "it is no text" in ran.err) == (2, True)
