"""`rfs watch`: what is scheduled is done when it is due, and what nobody looks after is settled."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_app import App
from waiting import until

from rfs.production.rollback.application import Application
from rfs.production.rollback.model import utc_now

SCHEDULES = """
[[schedules]]
every = "6h"
message = "as always"
[[schedules]]
do = "prune"
cron = "0 3 * * *"
time_zone = "Asia/Seoul"
[[schedules]]
do = "drill"
every = "7d"
components = ["db"]
"""
HOLDING = """
[[hooks]]
before = "checkpoint"
run = ["sh", "-c", "touch holding; while test -e hold; do sleep 0.02; done"]
"""


@pytest.fixture
def scheduled(notes_app: App) -> App:
    add(notes_app, SCHEDULES)
    return notes_app


def add(app: App, text: str) -> None:
    app.configure((app.folder / "rfs.toml").read_text() + text)


def once(app: App) -> list[dict[str, Any]]:
    done = app.rfs("watch", "--once", "--json")
    assert done.code == 0, done
    return [json.loads(line) for line in done.out.splitlines()]


def long_ago(app: App, rule: str, ago: timedelta) -> None:
    """Let a schedule have been done so long ago."""
    with Application.open(str(app.folder / "rfs.toml")) as opened:
        assert opened.catalog.noted(f"schedule {rule}") is not None
        opened.catalog.note(f"schedule {rule}", (utc_now() - ago).isoformat())


class Daemon:
    """Args: process: a running `rfs watch --json`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def hears(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read on until something wanted is told."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told: dict[str, Any] = json.loads(line)
            if wanted(told):
                return told
        pytest.fail(f"it ended: {self._process.communicate()[1]}")

    def wake(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def end(self, number: int = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        self._process.communicate(timeout=60)
        return self._process.returncode


@contextmanager
def watching(app: App) -> Iterator[Daemon]:
    process = app.start("watch", "--json")
    try:
        daemon = Daemon(process)
        daemon.hears(lambda told: told["what"] == "started")
        yield daemon
    finally:
        process.kill()
        process.communicate()


def test_what_is_due_is_done_once_and_remembered(scheduled: App) -> None:
    scheduled.checkpoint()
    assert [told["what"] for told in once(scheduled)] == ["checkpoint", "prune", "drill"]
    taken = scheduled.json("checkpoint", "list")[0]
    assert (taken["type"], taken["message"]) == ("scheduled", "as always")
    assert once(scheduled) == []
    long_ago(scheduled, "checkpoint every 6h", timedelta(hours=5))
    assert once(scheduled) == []
    # Three were missed while nothing was there to take them: they are made up by one.
    long_ago(scheduled, "checkpoint every 6h", timedelta(hours=19))
    assert [told["what"] for told in once(scheduled)] == ["checkpoint"]
    assert once(scheduled) == []
    # A clock that was set back does not stop it for ever.
    long_ago(scheduled, "checkpoint every 6h", -timedelta(days=400))
    assert [told["what"] for told in once(scheduled)] == ["checkpoint"]


def test_a_rollback_that_was_killed_is_settled(notes_app: App) -> None:
    notes_app.checkpoint()
    notes_app.write("two")
    (notes_app.folder / "slow-stop").touch()
    running = notes_app.start("rollback", "@latest", "--yes", "--reason", "a test")
    until((notes_app.folder / "stopping").exists)
    with watching(notes_app) as daemon:
        running.kill()
        running.communicate()
        (notes_app.folder / "slow-stop").unlink()
        told = daemon.hears(lambda told: told["what"] == "settled" and told["subject"] != "")
        assert "is settled: completed" in told["text"]
    assert notes_app.notes == ["one"]
    assert (notes_app.folder / "running").exists()


def test_a_deployment_whose_guard_died_goes_back_when_its_time_is_over(notes_app: App) -> None:
    guard = notes_app.start("guard", "--confirm-by", "person", "--bake", "10m", "--", "touch", "deployed")
    until((notes_app.folder / "deployed").exists)
    until(lambda: "baking until" in notes_app.rfs("status").out)
    notes_app.write("two")
    guard.kill()
    guard.communicate()
    with watching(notes_app) as daemon:
        assert notes_app.rfs("extend", "--for", "1s").code == 0
        daemon.hears(lambda told: told["what"] == "settled")
    assert notes_app.notes == ["one"]


def test_there_is_one_for_each_store_and_sigterm_ends_it(scheduled: App) -> None:
    with watching(scheduled) as daemon:
        second = scheduled.rfs("watch", "--once")
        assert second.code == 11
        assert "rfs watch by" in second.err
        assert daemon.end() == 0
    once(scheduled)


def test_doctor_says_that_nobody_does_what_is_scheduled(scheduled: App) -> None:
    assert "`rfs watch` does not run" in scheduled.rfs("doctor").out
    with watching(scheduled):
        assert "rfs watch" not in scheduled.rfs("doctor").out
    add(scheduled, "[[schedules]]\nevry = 1\n")
    assert "evry" in scheduled.rfs("doctor").out


def test_a_checkpoint_that_is_being_taken_is_given_up_at_the_end_and_taken_by_the_next(scheduled: App) -> None:
    add(scheduled, HOLDING)
    (scheduled.folder / "hold").touch()
    with watching(scheduled) as daemon:
        until((scheduled.folder / "holding").exists)
        assert daemon.end() == 0
    assert scheduled.json("checkpoint", "list") == []
    (scheduled.folder / "hold").unlink()
    assert "checkpoint" in [told["what"] for told in once(scheduled)]


def test_killed_in_a_checkpoint_it_takes_it_when_it_runs_again(scheduled: App) -> None:
    add(scheduled, HOLDING)
    (scheduled.folder / "hold").touch()
    with watching(scheduled) as daemon:
        until((scheduled.folder / "holding").exists)
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    (scheduled.folder / "hold").unlink()
    assert "checkpoint" in [told["what"] for told in once(scheduled)]


def test_what_fails_is_told_and_is_due_still(scheduled: App) -> None:
    (scheduled.folder / "notes.db").rename(scheduled.folder / "away")
    told = once(scheduled)
    assert [each["what"] for each in told] == ["error", "prune", "error"]
    assert told[0]["text"].startswith("checkpoint every 6h: ")
    (scheduled.folder / "away").rename(scheduled.folder / "notes.db")
    assert [each["what"] for each in once(scheduled)] == ["checkpoint", "drill"]


def test_an_edit_of_rfs_toml_counts_and_a_bad_one_is_told_once(notes_app: App) -> None:
    with watching(notes_app) as daemon:
        good = (notes_app.folder / "rfs.toml").read_text()
        notes_app.configure(good + "\n[[schedules]]\nevry = 1\n")
        daemon.wake()
        told = daemon.hears(lambda told: told["what"] == "error")
        assert "evry" in told["text"]
        daemon.wake()
        notes_app.configure(good + '\n[[schedules]]\nevery = "6h"\n')
        daemon.wake()
        texts = [told["text"]]
        daemon.hears(lambda told: told["what"] == "checkpoint" or texts.append(told["text"]))
        # The line that it names may be that of the next file already.
        assert len(texts) == len(set(texts)) <= 2


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "either every or cron"),
        ('every = "1h"\ncron = "* * * * *"', "either every or cron"),
        ('cron = "61 * * * *"', "cron expression"),
        ('cron = "0 3 * * *"\ntime_zone = "Mars/Olympus"', "time zone"),
        ('every = "1h"\ncomponents = ["dbb"]', 'no component called "dbb"'),
        ('every = "1h"\ndo = "prune"\ncomponents = ["db"]', "components belongs to"),
        ('every = "1h"\ndo = "drill"\nmessage = "x"', "message belongs to"),
        ('every = "1h"\n[[schedules]]\nevery = "1h"', "there twice"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(notes_app: App, table: str, said: str) -> None:
    add(notes_app, f"\n[[schedules]]\n{table}\n")
    done = notes_app.rfs("watch", "--once")
    assert done.code == 2
    assert "schedules" in done.err
    assert said in done.err


@pytest.mark.parametrize("kind", ["systemd", "supervisor"])
def test_what_starts_it_is_written_and_not_written_over(notes_app: App, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "units"
    words = ("watch", "--install", kind, "--into", str(folder))
    assert notes_app.rfs(*words, "--dry-run").code == 0
    assert not folder.exists()
    done = notes_app.rfs(*words)
    assert done.code == 0
    (path,) = folder.iterdir()
    text = path.read_text()
    assert f"rfs watch --config {notes_app.folder}/rfs.toml" in text
    assert notes_app.rfs(*words).code == 0
    path.write_text("mine")
    assert notes_app.rfs(*words).code == 2
    assert path.read_text() == "mine"
    assert notes_app.rfs(*words, "--yes").code == 0
    assert path.read_text() == text
    if kind == "systemd" and shutil.which("systemd-analyze"):
        verified = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
        assert path.name not in verified.stderr, verified.stderr
