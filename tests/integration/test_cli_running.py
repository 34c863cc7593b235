"""What happens while a command runs: signals, time limits, two at once, questions and progress."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cli_app import SERVICE, TOML, App
from waiting import until

from rfs.cli import progress
from rfs.production.rollback.lock import exclusive

PATIENCE = 30.0


@pytest.fixture
def changed(notes_app: App) -> App:
    """With a checkpoint, and one row written since."""
    notes_app.checkpoint()
    notes_app.write("two")
    return notes_app


ROLLBACK = ("rollback", "@latest", "--reason", "x", "-y")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_turns_a_rollback_back(changed: App, number: signal.Signals) -> None:
    (changed.folder / "slow-stop").touch()
    running = changed.start(*ROLLBACK)
    until((changed.folder / "stopping").exists)
    running.send_signal(number)
    # It is turned back at once, though the service would never stop; the way back starts it again.
    _, err = running.communicate(timeout=PATIENCE)
    (changed.folder / "slow-stop").unlink()
    assert running.returncode == 130, err
    assert "turned back" in err
    assert changed.notes == ["one", "two"]
    assert (changed.folder / "running").exists()
    assert changed.json("log")[0]["status"] == "reverted"
    assert changed.json("status")["open_operation"] is None


def test_a_time_limit_turns_a_rollback_back(changed: App) -> None:
    (changed.folder / "slow-stop").touch()
    running = changed.start(*ROLLBACK, "--timeout", "2s", "--json")
    out, err = running.communicate(timeout=PATIENCE)
    (changed.folder / "slow-stop").unlink()
    assert running.returncode == 124, err
    assert json.loads(out)["data"]["error"]["message"] == "It took longer than 2 s."
    assert changed.notes == ["one", "two"]
    assert changed.json("log")[0]["status"] == "reverted"


def test_a_time_limit_ends_a_command_that_only_looks(changed: App) -> None:
    os.rename(changed.folder / "service", changed.folder / "quick")
    (changed.folder / "service").write_text("#!/bin/sh\nsleep 60\n", encoding="utf-8")
    (changed.folder / "service").chmod(0o755)
    began = time.monotonic()
    ran = changed.rfs("status", "--timeout", "300ms")
    assert ran.code == 124
    assert time.monotonic() - began < PATIENCE


def test_a_locked_application_is_said_to_be_and_waited_for(changed: App) -> None:
    lock = str(changed.folder / ".rfs" / "lock")
    with exclusive(lock, "a test"):
        ran = changed.rfs("checkpoint")
        assert ran.code == 11
        assert "a test by" in ran.err
        assert "--timeout" in ran.err
        assert changed.rfs("checkpoint", "--timeout", "200ms").code == 11
        assert changed.rfs("status").code == 0, "looking needs no lock"
        waiting = changed.start("checkpoint", "--timeout", "1m", "-q")
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=1)
    out, err = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 0, err
    assert len(out.strip()) == 12


def _open_files(pid: int) -> list[str]:
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(each.readlink()))
    return found


def test_a_signal_while_it_waits_for_the_lock_ends_it_at_once(changed: App) -> None:
    lock = str(changed.folder / ".rfs" / "lock")
    with exclusive(lock, "a test"):
        waiting = changed.start("checkpoint", "--timeout", "1m")
        until(lambda: lock in _open_files(waiting.pid))
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 130, err
    assert "Nothing is half done" in err


def test_the_next_command_settles_what_a_kill_left_and_says_so(changed: App) -> None:
    (changed.folder / "slow-stop").touch()
    running = changed.start(*ROLLBACK)
    until((changed.folder / "stopping").exists)
    running.kill()
    running.communicate(timeout=PATIENCE)
    (changed.folder / "slow-stop").unlink()
    assert changed.json("status")["open_operation"]["status"] == "running"
    for look in ("status", "log", "show"):
        assert "INTERRUPTED (rfs recover)" in changed.rfs(look).out
    assert changed.rfs("status", "--exit-code").code == 31
    assert "is not over" in changed.rfs("plan").err
    ran = changed.rfs("checkpoint")
    assert ran.code in (0, 3), ran
    assert "settled first" in ran.err
    assert changed.json("log")[0]["status"] in ("completed", "reverted")


HOOK = """
[[hooks]]
before = "rollback"
run = ["sh", "-c", "test ! -e slow-hook || echo > begun && while test -e slow-hook; do sleep 0.05; done"]
"""


def test_recover_says_where_the_application_is_when_nothing_had_been_changed(changed: App) -> None:
    with (changed.folder / "rfs.toml").open("a") as settings:
        settings.write(HOOK)
    (changed.folder / "slow-hook").touch()
    running = changed.start(*ROLLBACK)
    until((changed.folder / "begun").exists)
    running.kill()
    running.communicate(timeout=PATIENCE)
    (changed.folder / "slow-hook").unlink()
    ran = changed.rfs("recover")
    assert ran.code == 0, ran
    assert changed.json("log")[0]["status"] == "reverted"
    assert changed.notes == ["one", "two"]
    assert f"as it was before, at {changed.json('show')['safety']}" in ran.out
    assert "undo" not in ran.out


# — questions on a terminal —


class Terminal:
    """A command on a pseudo-terminal, as a person has it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._master, slave = pty.openpty()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "rfs.cli.main", *words],
            cwd=folder,
            env={**os.environ, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait(timeout=PATIENCE)
        os.close(self._master)

    def expect(self, text: str) -> None:
        latest = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < latest, self.seen
            assert self._read(), self.seen

    def answer(self, text: str) -> None:
        os.write(self._master, text.encode() + b"\n")

    def interrupt(self) -> None:
        """Press Ctrl-C once it reads: just before, it only counts after the read; a second one may meet it ending."""
        until(self._asleep)
        self._child.send_signal(signal.SIGINT)

    def _asleep(self) -> bool:
        state = Path(f"/proc/{self._child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state == "S"

    def end(self) -> int:
        while self._read():
            pass
        return self._child.wait(timeout=PATIENCE)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], PATIENCE)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False  # how Linux says that the other side is closed
        self.seen += data.decode(errors="replace")
        return bool(data)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["nothing"], 10, "No checkpoint matches"), (["@latest", "--only", "dbb"], 10, "no component called dbb")],
)
def test_nobody_is_asked_why_for_nothing(changed: App, words: list[str], code: int, said: str) -> None:
    with Terminal(changed.folder, "rollback", *words) as terminal:
        assert terminal.end() == code
        assert said in terminal.seen
        assert "Reason" not in terminal.seen


def test_on_a_terminal_the_plan_is_shown_and_asked_about(changed: App) -> None:
    with Terminal(changed.folder, "rollback", "@latest") as terminal:
        terminal.expect("Reason")
        terminal.answer("it broke")
        terminal.expect("Roll back? [y/N]")
        assert "row" in terminal.seen
        assert "\x1b[" in terminal.seen, "colours"
        terminal.answer("y")
        assert terminal.end() == 0, terminal.seen
    assert changed.notes == ["one"]
    assert changed.json("log")[0]["reason"] == "it broke"
    with Terminal(changed.folder, "undo", "--no-color") as terminal:
        terminal.expect("Take back 1 operation? [y/N]")
        terminal.answer("n")
        assert terminal.end() == 130
    assert "Nothing was changed." in terminal.seen
    assert "\x1b[3" not in terminal.seen, "no colours"
    assert changed.notes == ["one"]


@pytest.fixture
def much(notes_app: App) -> App:
    """So much differs that it fits on no terminal."""
    (notes_app.folder / "files").mkdir()
    text = (notes_app.folder / "rfs.toml").read_text()
    notes_app.configure(text + '\n[components.files]\nkind = "files"\npath = "files"\n')
    notes_app.checkpoint()
    for number in range(40):
        (notes_app.folder / "files" / f"new-{number:02}.txt").write_text("x")
    return notes_app


PAGER = "sed 's/^/| /' | head -n 300; echo paged >> pager.log"


def test_what_does_not_fit_is_shown_by_the_pager_with_its_colours(much: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER", PAGER)
    for words in (("diff", "-v"), ("changes", "-v"), ("diff", "-v", "--no-color")):
        with Terminal(much.folder, *words) as terminal:
            assert terminal.end() == 0, terminal.seen
        assert "| " in terminal.seen
        assert "new-39.txt" in terminal.seen
        assert ("\x1b[" in terminal.seen) is ("--no-color" not in words)
    assert (much.folder / "pager.log").read_text() == 3 * "paged\n"


@pytest.mark.parametrize(
    ("pager", "words"),
    [
        (PAGER, ("diff", "-v", "--no-pager")),
        (PAGER, ("diff", "-q")),
        (PAGER, ("diff", "-v", "--json")),
        (PAGER, ("diff", "--stat")),
        (PAGER, ("log",)),  # nothing was done: it fits
        ("cat", ("diff", "-v")),
        ("", ("diff", "-v")),
        ("./there-is-no-such-pager", ("diff", "-v")),
    ],
)
def test_without_a_pager_all_is_printed_at_once(
    much: App, monkeypatch: pytest.MonkeyPatch, pager: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PAGER", pager)
    with Terminal(much.folder, *words) as terminal:
        assert terminal.end() == 0, terminal.seen
    assert "| " not in terminal.seen
    assert not (much.folder / "pager.log").exists()
    if words[:2] in (("diff", "-v"), ("diff", "-q")):
        assert "new-39.txt" in terminal.seen


def test_a_pager_that_is_left_early_fails_nothing(much: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGER", "head -n 1")
    for number in range(2000):
        (much.folder / "files" / f"more-{number}.txt").write_text("x")
    with Terminal(much.folder, "diff", "-v", "--exit-code") as terminal:
        assert terminal.end() == 15, terminal.seen
    assert "Traceback" not in terminal.seen


def test_ctrl_c_at_a_question_changes_nothing(notes_app: App) -> None:
    # The slow component comes first, so that the line of progress is there before the question.
    notes_app.configure(TOML.replace("components.web", "components.app"))
    (notes_app.folder / "service").write_text(SERVICE.replace("status)", "status) sleep 0.6;"), encoding="utf-8")
    notes_app.checkpoint()
    with Terminal(notes_app.folder, "rollback", "@latest", "--reason", "x") as terminal:
        terminal.expect("comparing db")
        terminal.expect("Roll back? [y/N]")
        terminal.interrupt()
        assert terminal.end() == 130, terminal.seen
    assert "Nothing is half done" in terminal.seen
    assert notes_app.json("log") == []


# — progress —


def test_plain_lines_where_stderr_is_no_terminal(changed: App) -> None:
    assert changed.rfs("checkpoint", "-v").err.splitlines()[:2] == ["capturing db", "capturing web"]
    assert changed.rfs("checkpoint").err == "", "short steps say nothing"


def test_a_long_step_without_figures_is_told_when_it_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = progress.PlainReporter(lambda: None, 5.0, announce=False)
    for what, seconds in (("stop web", 31.0), ("delta", 1.0), ("start web", 12.0)):
        reporter(what, 0, 0)
        now[0] += seconds
    reporter.close()
    assert capsys.readouterr().err.splitlines() == ["stop web: took 31 s", "start web: took 12 s"]


def test_json_progress_is_one_object_a_line_on_stderr(changed: App) -> None:
    ran = changed.rfs(*ROLLBACK, "--json")
    events = [json.loads(line) for line in ran.err.splitlines()]
    steps = [event["step"] for event in events if event["event"] == "step"]
    assert "capturing db" in steps
    assert "restore db" in steps
    assert steps.index("stop web") < steps.index("restore db") < steps.index("start web")


def test_progress_has_a_rate_and_an_estimate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    begun: list[bool] = []
    reporter = progress.PlainReporter(lambda: begun.append(True), 5.0, announce=True)

    class Known:
        entries = 4000

    reporter.known = lambda: {"release": Known()}
    reporter("capturing release", 0, 0)
    for second, entries in ((101.0, 50), (110.0, 1000), (111.0, 1001)):
        now[0] = second
        reporter("capturing release", entries, 3_000_000)
    assert begun == [True]
    assert capsys.readouterr().err.splitlines() == [
        "capturing release",
        "capturing release: 1,000 of 4,000, 3.0 MB, 100/s, 30 s left",
    ]


def test_a_terminal_gets_one_line_that_vanishes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes what pytest captures for a terminal
    reporter = progress.make_reporter(lambda: None, json=False, terminal=True, quiet=False, announce=True, color=False)
    reporter("capturing release", 0, 0)
    reporter("capturing release", 10, 100)
    assert "capturing release" in capsys.readouterr().err
    reporter.pause()
    erased = capsys.readouterr().err
    assert "\x1b[2K" in erased, "the line is gone"
    assert "\x1b[?25h" in erased, "the cursor is there"
    reporter("restore release", 0, 0)
    assert "restore release" in capsys.readouterr().err
    reporter.close()
