"""Rollbacks that a condition makes when it trips, because somebody armed them with it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from cli_app import App
from test_conditions_guard import configure, value
from test_scheduled_rollback import due, once, status_of

from rfs.production.rollback import ConditionalRollback, RollbackManager, RollbackStrategy

ALERTS = 'trip = "> 0.05"\naction = "alert"\n'


@pytest.fixture
def app(notes_app: App) -> App:
    """With a condition that only alerts, two checkpoints, and a note written since."""
    value(notes_app, 0.01)
    configure(notes_app, ALERTS)
    notes_app.checkpoint("--tag", "first")
    notes_app.write("two")
    notes_app.checkpoint()
    notes_app.write("three")
    return notes_app


def armed(app: App, *words: str) -> str:
    done = app.rfs("rollback", "first", "--when", "errors", "--yes", "--reason", "just in case", "--json", *words)
    assert done.code == 3, done
    found: str = done.data["rollback_id"]
    return found


def test_it_is_made_when_its_condition_trips_and_once(app: App) -> None:
    rollback_id = armed(app)
    assert f"Armed: rollback {rollback_id}" in app.rfs("status").out
    assert once(app) == []
    assert status_of(app, rollback_id)[0] == "armed"
    value(app, 0.5)
    assert "rollback" in [told["what"] for told in once(app)]
    assert app.notes == ["one"], "where it was armed for, not the last healthy one"
    done = app.json("show", rollback_id)
    assert (done["status"], done["strategy"]) == ("completed", "conditional")
    assert done["reason"] == "just in case: errors is 0.5, above 0.05"
    app.write("four")
    once(app)
    assert app.notes == ["one", "four"]


@pytest.mark.slow
def test_it_takes_the_place_of_what_the_condition_would_do(app: App) -> None:
    app.configure((app.folder / "rfs.toml").read_text().replace('action = "alert"', 'action = "rollback"'))
    rollback_id = armed(app)
    value(app, 0.5)
    once(app)
    assert [each["rollback_id"] for each in app.json("log")] == [rollback_id]
    assert app.notes == ["one"]


@pytest.mark.slow
def test_called_off_it_is_not_made(app: App) -> None:
    rollback_id = armed(app)
    assert app.json("cancel", rollback_id)["status"] == "cancelled"
    value(app, 0.5)
    assert [told["what"] for told in once(app)] == ["alert"]
    assert app.notes == ["one", "two", "three"]


@pytest.mark.slow
def test_a_freeze_does_not_stop_it_and_a_lock_only_for_a_while(app: App) -> None:
    from rfs.production.rollback.application import Application

    rollback_id = armed(app)
    assert app.rfs("freeze", "--reason", "a fair").code == 0
    value(app, 0.5)
    with Application.open(str(app.folder / "rfs.toml")) as other, other.locked("a test"):
        once(app)
    assert app.notes == ["one", "two", "three"]
    # It tripped, and that is on the disk: it is made though the condition is well again.
    with Application.open(str(app.folder / "rfs.toml")) as opened:
        opened.trip("errors", "errors is 0.5, above 0.05")
    value(app, 0.01)
    assert "rollback" in [told["what"] for told in once(app)]
    assert status_of(app, rollback_id)[0] == "completed"


def test_a_dry_run_does_not_trip_it_and_too_late_it_is_not_made(app: App) -> None:
    text = (app.folder / "rfs.toml").read_text()
    rollback_id = armed(app)
    app.configure(text.replace('action = "alert"', "dry_run = true"))
    value(app, 0.5)
    assert [told["what"] for told in once(app)] == ["alert"]
    value(app, 0.01)
    due(app, rollback_id, timedelta(hours=2))
    assert "refused" in [told["what"] for told in once(app)]


def test_its_condition_must_be_there_and_stay(app: App) -> None:
    done = app.rfs("rollback", "first", "--when", "erors", "--yes", "--reason", "x")
    assert done.code == 10
    assert "errors" in done.err
    rollback_id = armed(app)
    app.configure((app.folder / "rfs.toml").read_text().partition("[[conditions]]")[0])
    (told,) = once(app)
    assert told["what"] == "refused"
    assert "no condition errors" in told["text"]
    assert status_of(app, rollback_id)[0] == "cancelled"


@pytest.mark.parametrize("flags", [("--at", "in 2h"), ("--confirm", "10m"), ("--break-glass",)])
def test_what_contradicts_it_is_refused(app: App, flags: tuple[str, ...]) -> None:
    assert app.rfs("rollback", "first", "--when", "errors", "--yes", "--reason", "x", *flags).code == 2


def test_from_python(app: App) -> None:
    async def ask(**more: Any) -> Any:
        manager = RollbackManager(app.folder)
        return await manager.rollback_to_checkpoint("first", "x", strategy=RollbackStrategy.CONDITIONAL, **more)

    assert asyncio.run(ask(condition="errors")).unwrap()["status"] == "armed"
    assert asyncio.run(ask()).error.code == 2
    assert asyncio.run(ask(condition="erors")).error.code == 10


def own(app: App, condition: Any, **options: Any) -> Any:
    """Arm a rollback with a condition of this program's own."""
    rule = ConditionalRollback("own", condition, 0.05, interval=0.05, **options)
    manager = RollbackManager(app.folder)
    return manager.rollback_to_checkpoint(
        "first", "just in case", strategy=RollbackStrategy.CONDITIONAL, condition=rule
    )


async def eventually(app: App, rollback_id: str, status: str) -> Any:
    manager = RollbackManager(app.folder)
    while True:
        found = next(each for each in manager.get_rollback_history() if each.rollback_id == rollback_id)
        if found.status == status:
            return found
        await asyncio.sleep(0.02)


@pytest.mark.slow
def test_a_condition_of_the_program_makes_it_once(app: App) -> None:
    async def main() -> None:
        measured = [0.01]
        done = (await own(app, lambda: measured[0])).unwrap()
        assert done["status"] == "armed"
        # The daemon leaves it alone while the program lives.
        out, _ = await asyncio.to_thread(app.start("watch", "--once", "--json").communicate)
        assert out == ""
        measured[0] = 0.5
        record = await asyncio.wait_for(eventually(app, done["rollback_id"], "completed"), 60)
        assert record.reason == "just in case: own is 0.5, above 0.05"
        assert record.strategy == "conditional"

    app.configure((app.folder / "rfs.toml").read_text().partition("[[conditions]]")[0])
    asyncio.run(asyncio.wait_for(main(), 60))
    assert app.notes == ["one"]
    assert list((app.folder / ".rfs").glob("armed-*")) == []


def test_it_can_be_called_off_and_ends_with_its_program(app: App) -> None:
    async def main() -> str:
        first = (await own(app, lambda: 0.01)).unwrap()["rollback_id"]
        assert (await RollbackManager(app.folder).cancel_rollback(first)).is_success()
        second: str = (await own(app, lambda: 0.01)).unwrap()["rollback_id"]
        assert (await own(app, lambda: 0.01, dry_run=True)).is_success()
        return second

    app.configure((app.folder / "rfs.toml").read_text().partition("[[conditions]]")[0])
    rollback_id = asyncio.run(asyncio.wait_for(main(), 60))
    assert status_of(app, rollback_id)[0] == "armed"
    assert {told["what"] for told in once(app)} == {"refused"}
    status, why = status_of(app, rollback_id)
    assert (status, why) == ("cancelled", "the program that measured its condition has ended")
    assert app.notes == ["one", "two", "three"]
