"""Confirm or revert: a guarded change, or a rollback, that goes back by itself unless somebody confirms it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from cli_app import CHECK, TOML, App
from guard_kit import PATIENCE, Guarded, end_commands
from waiting import until

from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import ConflictError
from rfs.production.rollback.guarded import Deployment
from rfs.production.rollback.lock import exclusive


@pytest.fixture
def app(notes_app: App) -> Iterator[App]:
    """With a checkpoint, and one row written since."""
    notes_app.checkpoint()
    notes_app.write("two")
    yield notes_app
    end_commands(notes_app)


def undecided(app: App) -> Deployment | None:
    with Application.open(str(app.folder / "rfs.toml")) as opened:
        return opened.deployments.open()


def guard(app: App, bake: str = "1h") -> tuple[str, ...]:
    return ("guard", "--confirm-by", "person", "--bake", bake, "--", "sh", "-c", app.insert("three"))


def rollback(app: App, bake: str = "1h") -> tuple[str, ...]:
    return ("rollback", "@latest", "--reason", "x", "-y", "--confirm", bake)


NAMES = ("words", "after", "before")
GUARD = (guard, ["one", "two", "three"], ["one", "two"])
ROLLBACK = (rollback, ["one"], ["one", "two"])
IDS = ["guard", "rollback"]
KINDS = pytest.mark.parametrize(NAMES, [GUARD, ROLLBACK], ids=IDS)
GUARD_SLOW = pytest.mark.parametrize(NAMES, [pytest.param(*GUARD, marks=pytest.mark.slow), ROLLBACK], ids=IDS)
ROLLBACK_SLOW = pytest.mark.parametrize(NAMES, [GUARD, pytest.param(*ROLLBACK, marks=pytest.mark.slow)], ids=IDS)


@GUARD_SLOW
def test_confirmed_it_stays(app: App, words: Any, after: list[str], before: list[str]) -> None:
    with Guarded(app, *words(app)) as guarded:
        guarded.phase("baking")
        status = app.rfs("status").out
        assert "On trial: " in status
        assert f"rfs confirm {app.json('status')['deployment']['guard_id']}" in status
        assert app.json("confirm", "--dry-run")["phase"] == "baking"
        assert app.json("confirm")["phase"] == "kept"
        assert guarded.end() == 0, guarded.err
    assert app.notes == after
    assert app.rfs("confirm").code == 10, "there is nothing left to confirm"


@ROLLBACK_SLOW
def test_nobody_confirms_it_and_it_goes_back(app: App, words: Any, after: list[str], before: list[str]) -> None:
    with Guarded(app, *words(app, "200ms")) as guarded:
        assert guarded.end() == 20, guarded.err
    assert "nobody confirmed it in time" in guarded.err
    assert ("The rollback was taken back" if words is rollback else "The deployment failed") in guarded.err
    assert app.notes == before
    assert undecided(app) is None
    assert app.json("log")[0]["status"] == "completed"


@pytest.mark.slow
@KINDS
def test_cancelled_it_goes_back_at_once(app: App, words: Any, after: list[str], before: list[str]) -> None:
    with Guarded(app, *words(app)) as guarded:
        guarded.phase("baking")
        ran = app.rfs("cancel")
        assert (ran.code, "was taken back" in ran.out) == (0, True), ran
        assert guarded.end() == 20, guarded.err
    assert app.notes == before


@pytest.mark.slow
@KINDS
def test_killed_it_still_waits_and_can_be_confirmed(app: App, words: Any, after: list[str], before: list[str]) -> None:
    with Guarded(app, *words(app)) as guarded:
        guarded.phase("baking")
        guarded.signal(signal.SIGKILL)
        guarded.end()
    assert app.rfs("recover").out == "Nothing was interrupted.\n", "its time is not over"
    assert "Nobody looks after it" in app.rfs("status").out
    assert app.rfs("guard", "--", "true").code == 11, "one at a time"
    assert app.rfs(*rollback(app)).code == 11
    assert app.json("extend", "--for", "2h")["bake"] == 7200
    assert app.rfs("confirm", "0" * 12).code == 15
    assert app.rfs("confirm").code == 0
    assert app.notes == after


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("settle", ["recover", "checkpoint"])
def test_killed_it_goes_back_once_its_time_is_over(
    app: App, words: Any, after: list[str], before: list[str], settle: str
) -> None:
    with Guarded(app, *words(app)) as guarded:
        guarded.phase("baking")
        guarded.signal(signal.SIGKILL)
        guarded.end()
    assert app.rfs("extend", "--for", "1ms").code == 0
    assert app.rfs("confirm").code == 15, "too late"
    assert app.notes == after
    ran = app.rfs(settle)
    assert (ran.code, "nobody confirmed it in time" in ran.err) == (0, True), ran
    assert app.notes == before
    assert undecided(app) is None
    assert app.rfs("recover").out == "Nothing was interrupted.\n"


@pytest.mark.slow
@KINDS
def test_killed_and_then_cancelled(app: App, words: Any, after: list[str], before: list[str]) -> None:
    with Guarded(app, *words(app)) as guarded:
        guarded.phase("baking")
        guarded.signal(signal.SIGKILL)
        guarded.end()
    assert app.rfs("cancel").code == 0
    assert app.notes == before


@pytest.mark.slow
@KINDS
def test_extended_it_waits_longer(app: App, words: Any, after: list[str], before: list[str]) -> None:
    with Guarded(app, *words(app)) as guarded:
        guarded.phase("baking")
        assert app.rfs("extend", "--for", "1s").code == 0
        assert guarded.end() == 20, "the timer is replaced, not prolonged"
    assert app.notes == before


@pytest.mark.slow
def test_a_rollback_has_its_deadline_on_the_disk_before_anything_is_stopped(app: App) -> None:
    (app.folder / "slow-stop").touch()
    with Guarded(app, *rollback(app)) as guarded:
        until((app.folder / "stopping").exists)
        found = undecided(app)
        assert found is not None
        assert (found.kind, found.phase, found.deadline is not None) == ("rollback", "changing", True)
        guarded.signal(signal.SIGKILL)
        guarded.end()
    (app.folder / "slow-stop").unlink()
    # The rollback itself is finished, as any is that was killed in its outage; and it still wants to be confirmed.
    assert app.rfs("recover").code in (0, 3)
    assert app.notes == ["one"]
    assert app.rfs("extend", "--for", "1ms").code == 0
    assert app.rfs("recover").code in (0, 3)
    assert app.notes == ["one", "two"]


@pytest.mark.slow
def test_a_rollback_that_turns_back_has_nothing_to_confirm(app: App) -> None:
    (app.folder / "slow-stop").touch()
    with Guarded(app, *rollback(app)) as guarded:
        until((app.folder / "stopping").exists)
        guarded.signal(signal.SIGINT)
        assert guarded.end() == 130, guarded.err
    (app.folder / "slow-stop").unlink()
    assert undecided(app) is None
    assert app.notes == ["one", "two"]


@pytest.mark.slow
def test_a_command_that_runs_cannot_be_confirmed_but_cancelled(app: App) -> None:
    with Guarded(app, "--", "sh", "-c", app.insert("three") + "; touch begun; sleep 1000") as guarded:
        until((app.folder / "begun").exists)
        assert app.rfs("confirm").code == 15
        assert app.rfs("extend", "--for", "1h").code == 15
        assert app.rfs("cancel").code == 0
        assert guarded.end() == 20
    assert app.notes == ["one", "two"]


@pytest.mark.slow
def test_a_confirmation_waits_for_a_moment_that_somebody_has_the_lock(app: App) -> None:
    with Guarded(app, *guard(app)) as guarded:
        guarded.phase("baking")
        with exclusive(str(app.folder / ".rfs" / "lock"), "a checkpoint"):
            confirming = app.start("confirm")
            with pytest.raises(subprocess.TimeoutExpired):
                confirming.wait(timeout=1)
        _, err = confirming.communicate(timeout=PATIENCE)
        assert confirming.returncode == 0, err
        assert guarded.end() == 0, guarded.err


@pytest.mark.slow
def test_what_was_cancelled_cannot_be_confirmed_any_more(app: App) -> None:
    with Guarded(app, *guard(app)) as guarded:
        guarded.phase("baking")
        with Application.open(str(app.folder / "rfs.toml")) as opened:
            found = opened.deployments.pending(None)
            opened.deployments.change(found.guard_id, cancelled=True)
            with pytest.raises(ConflictError):
                opened.confirm()
        assert guarded.end() == 20, guarded.err
    assert app.notes == ["one", "two"]


@pytest.mark.slow
def test_what_cannot_be_taken_back_says_so_and_may_be_kept(app: App) -> None:
    app.configure(TOML + CHECK)
    with Guarded(app, "--bake", "1h", "--", "sh", "-c", app.insert("three")) as guarded:
        guarded.phase("baking")
        guarded.signal(signal.SIGKILL)
        guarded.end()
    for pack in (app.folder / ".rfs" / "packs").glob("*.pack"):
        pack.rename(app.folder / pack.name)
    (app.folder / ".rfs" / "index.db").unlink()
    ran = app.rfs("checkpoint")
    assert (ran.code, "that is refused" in ran.err) == (15, True), ran
    assert "cannot be taken back" in app.rfs("status").out
    for pack in app.folder.glob("*.pack"):
        pack.rename(app.folder / ".rfs" / "packs" / pack.name)
    assert app.rfs("confirm").code == 0
    assert app.notes == ["one", "two", "three"]
    assert app.rfs("checkpoint").code == 0
