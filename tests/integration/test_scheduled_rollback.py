"""Rollbacks that are made later: written down, made once by `rfs watch`, or refused and told."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cli_app import App
from guard_kit import Guarded
from waiting import until

from rfs.production.rollback import RollbackManager, RollbackStrategy
from rfs.production.rollback.application import Application
from rfs.production.rollback.deferred import Deferred
from rfs.production.rollback.model import utc_now


def add(app: App, text: str) -> None:
    app.configure((app.folder / "rfs.toml").read_text() + text)


def once(app: App) -> list[dict[str, Any]]:
    done = app.rfs("watch", "--once", "--json")
    assert done.code == 0, done
    return [json.loads(line) for line in done.out.splitlines()]


def scheduled(app: App, *words: str) -> str:
    """Schedule a rollback to the last checkpoint; return its id."""
    done = app.rfs("rollback", "@latest", "--yes", "--reason", "at night", "--json", *(words or ("--at", "in 2h")))
    assert done.code == 3, done
    assert "rfs watch" in done.envelope["warnings"][-1]
    found: str = done.data["rollback_id"]
    return found


def edit(app: App, rollback_id: str, change: Callable[[Deferred], dict[str, Any]]) -> None:
    import msgspec

    with Application.open(str(app.folder / "rfs.toml")) as opened:
        opened.catalog.change_deferred(rollback_id, lambda old: msgspec.structs.replace(old, **change(old)))


def due(app: App, rollback_id: str, ago: timedelta = timedelta(seconds=1)) -> None:
    """Let its time have come so long ago."""
    edit(app, rollback_id, lambda _: {"at": utc_now() - ago})


def status_of(app: App, rollback_id: str) -> tuple[str, str]:
    found = app.json("show", rollback_id)
    return found["status"], found["error"] or ""


@pytest.fixture
def changed(notes_app: App) -> App:
    """An application with a checkpoint, and a note written since."""
    notes_app.checkpoint()
    notes_app.write("two")
    return notes_app


def test_it_is_made_when_it_is_due_and_once(changed: App) -> None:
    rollback_id = scheduled(changed)
    assert once(changed) == []
    assert changed.notes == ["one", "two"]
    assert f"Scheduled: rollback {rollback_id}" in changed.rfs("status").out
    assert changed.json("status")["deferred"][0]["rollback_id"] == rollback_id
    assert status_of(changed, rollback_id)[0] == "scheduled"
    assert changed.json("log")[0]["status"] == "scheduled"
    due(changed, rollback_id)
    assert [told["what"] for told in once(changed)] == ["rollback"]
    assert changed.notes == ["one"]
    done = changed.json("show", rollback_id)
    assert (done["status"], done["strategy"], done["reason"]) == ("completed", "scheduled", "at night")
    changed.write("three")
    assert once(changed) == []
    assert changed.notes == ["one", "three"]
    assert changed.json("status")["deferred"] == []
    assert [each["rollback_id"] for each in changed.json("log")] == [rollback_id]
    assert changed.rfs("undo", "--yes").code == 0
    assert changed.notes == ["one", "two"]


def test_it_is_called_off_and_then_neither_made_nor_called_off_again(changed: App) -> None:
    rollback_id = scheduled(changed)
    assert changed.json("cancel", rollback_id, "--dry-run")["status"] == "scheduled"
    assert changed.json("cancel", rollback_id[:6], "--reason", "not needed")["status"] == "cancelled"
    due(changed, rollback_id)
    assert once(changed) == []
    assert changed.notes == ["one", "two"]
    status, why = status_of(changed, rollback_id)
    assert status == "cancelled"
    assert "not needed" in why
    assert changed.rfs("cancel", rollback_id).code == 15
    assert changed.rfs("cancel", "0123456789ab").code == 10


def test_one_that_is_too_late_is_not_made_and_told(changed: App) -> None:
    rollback_id = scheduled(changed)
    due(changed, rollback_id, timedelta(minutes=61))
    (told,) = once(changed)
    assert told["what"] == "refused"
    assert "within 3600 s" in told["text"]
    assert status_of(changed, rollback_id)[0] == "cancelled"
    assert changed.notes == ["one", "two"]
    add(changed, '[policy]\nmisfire_grace = "2h"\n')
    later = scheduled(changed)
    due(changed, later, timedelta(minutes=61))
    assert [told["what"] for told in once(changed)] == ["rollback"]
    assert changed.notes == ["one"]


def test_another_plan_than_was_agreed_to_is_refused(changed: App) -> None:
    rollback_id = scheduled(changed)
    (changed.folder / "env").write_text("A=1\n")
    toml = (changed.folder / "rfs.toml").read_text()
    changed.configure(
        toml.replace("[components.web]", '[components.web]\ndepends_on = ["db"]').replace(
            "[store]",
            '[components.job]\nkind = "service"\nmanager = "command"\nstart = ["true"]\nstop = ["true"]\n'
            'status = ["true"]\n[store]',
        )
    )
    due(changed, rollback_id)
    (told,) = once(changed)
    assert told["what"] == "refused"
    assert "the steps differ" in told["text"]
    assert changed.notes == ["one", "two"]


def test_a_schema_that_was_migrated_since_is_refused(changed: App) -> None:
    rollback_id = scheduled(changed)
    changed.sql("ALTER TABLE notes ADD COLUMN author TEXT")
    due(changed, rollback_id)
    (told,) = once(changed)
    assert told["what"] == "refused"
    assert "the schema of db was changed" in told["text"]


def test_the_target_is_kept_while_it_waits(changed: App) -> None:
    target = changed.json("checkpoint", "list")[0]["id"]
    rollback_id = scheduled(changed)
    changed.checkpoint()
    refused = changed.rfs("checkpoint", "forget", target, "--yes")
    assert refused.code == 15
    assert f"needed by the scheduled rollback {rollback_id}" in refused.err
    add(changed, "[retention]\nkeep_last = 1\n")
    changed.json("prune", "--yes")
    assert target in [each["id"] for each in changed.json("checkpoint", "list")]
    changed.json("cancel", rollback_id)
    changed.json("prune", "--yes")
    assert target not in [each["id"] for each in changed.json("checkpoint", "list")]


def test_a_target_that_is_gone_all_the_same_is_refused(changed: App) -> None:
    rollback_id = scheduled(changed)
    edit(changed, rollback_id, lambda _: {"target": "0123456789ab"})
    due(changed, rollback_id)
    (told,) = once(changed)
    assert told["what"] == "refused"
    assert "0123456789ab" in told["text"]


def test_while_the_application_is_locked_it_waits(changed: App) -> None:
    rollback_id = scheduled(changed)
    due(changed, rollback_id)
    with Application.open(str(changed.folder / "rfs.toml")) as other, other.locked("a test"):
        assert once(changed) == []
        assert "it waits" in changed.rfs("status").out
    assert [told["what"] for told in once(changed)] == ["rollback"]


def test_a_guard_that_is_under_way_is_decided_first(changed: App) -> None:
    rollback_id = scheduled(changed)
    with Guarded(changed, "--confirm-by", "person", "--bake", "10m", "--", "true"):
        until(lambda: "baking until" in changed.rfs("status").out)
        due(changed, rollback_id)
        assert once(changed) == []
        assert "is decided first" in changed.rfs("status").out
        assert changed.rfs("confirm").code == 0
    assert [told["what"] for told in once(changed)] == ["rollback"]
    assert changed.notes == ["one"]


def test_a_freeze_keeps_it_from_being_made_until_it_is_too_late(changed: App) -> None:
    rollback_id = scheduled(changed)
    due(changed, rollback_id)
    assert changed.rfs("freeze", "--reason", "a fair").code == 0
    assert once(changed) == []
    due(changed, rollback_id, timedelta(hours=2))
    (told,) = once(changed)
    assert told["what"] == "refused"
    assert "frozen" in told["text"]
    assert changed.notes == ["one", "two"]


def test_one_that_fails_is_told_and_not_tried_again(changed: App) -> None:
    rollback_id = scheduled(changed)
    due(changed, rollback_id)
    add(changed, '[[hooks]]\nbefore = "rollback"\nrun = ["false"]\n')
    (told,) = once(changed)
    assert "is reverted" in told["text"]
    assert status_of(changed, rollback_id)[0] == "reverted"
    assert once(changed) == []
    assert changed.notes == ["one", "two"]


def test_a_rule_of_rfs_toml_waits_for_its_time_and_fires_each_time(changed: App) -> None:
    changed.json("checkpoint", "tag", "@latest", "base")
    add(changed, '[[schedules]]\ndo = "rollback"\nto = "base"\ncron = "0 3 * * SUN"\nmessage = "as each week"\n')
    assert once(changed) == []
    (waiting,) = changed.json("status")["deferred"]
    assert datetime.fromisoformat(waiting["at"]) > utc_now()
    assert waiting["rule"] == "rollback to base at 0 3 * * SUN UTC"
    due(changed, waiting["rollback_id"])
    assert [told["what"] for told in once(changed)] == ["rollback"]
    assert changed.notes == ["one"]
    assert once(changed) == []
    (following,) = changed.json("status")["deferred"]
    assert following["rollback_id"] != waiting["rollback_id"]
    # One that is called off is left out, and not made up.
    changed.json("cancel", following["rollback_id"])
    once(changed)
    (after,) = changed.json("status")["deferred"]
    assert datetime.fromisoformat(after["at"]) - datetime.fromisoformat(following["at"]) == timedelta(days=7)
    changed.configure((changed.folder / "rfs.toml").read_text().partition("[[schedules]]")[0])
    assert [told["what"] for told in once(changed)] == ["refused"]
    assert changed.json("status")["deferred"] == []


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('do = "rollback"\nevery = "1h"', "to belongs to a rollback"),
        ('to = "base"\nevery = "1h"', "to belongs to a rollback"),
        ('do = "rollback"\nto = "base"', "either every or cron"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_by_name(changed: App, table: str, said: str) -> None:
    add(changed, f"[[schedules]]\n{table}\n")
    done = changed.rfs("watch", "--once")
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize("words", [("--at", "yesterday"), ("--at", "2020-01-01"), ("--at", "in 0s")])
def test_a_time_that_is_none_or_over_is_refused(changed: App, words: tuple[str, ...]) -> None:
    assert changed.rfs("rollback", "@latest", "--yes", "--reason", "x", *words).code == 2


@pytest.mark.parametrize("flags", [("--confirm", "10m"), ("--break-glass",)])
def test_what_contradicts_a_time_is_refused(changed: App, flags: tuple[str, ...]) -> None:
    assert changed.rfs("rollback", "@latest", "--yes", "--reason", "x", "--at", "in 2h", *flags).code == 2


async def scheduled_in_python(app: App, **more: Any) -> Any:
    manager = RollbackManager(app.folder)
    return await manager.rollback_to_checkpoint("@latest", "later", strategy=RollbackStrategy.SCHEDULED, **more)


def test_from_python(changed: App) -> None:
    import asyncio

    at = datetime.now() + timedelta(hours=3)  # noqa: DTZ005 — a naive time is a local one, which is what is shown here
    done = asyncio.run(scheduled_in_python(changed, at=at)).unwrap()
    assert done["status"] == "scheduled"
    manager = RollbackManager(changed.folder)
    (record,) = manager.get_rollback_history()
    assert (record.rollback_id, record.status, record.at) == (done["rollback_id"], "scheduled", at.astimezone(UTC))
    due(changed, done["rollback_id"])
    once(changed)
    (record,) = manager.get_rollback_history()
    assert (record.rollback_id, record.status, record.strategy) == (done["rollback_id"], "completed", "scheduled")
    assert asyncio.run(scheduled_in_python(changed)).error.code == 2
    another = asyncio.run(scheduled_in_python(changed, at=utc_now() + timedelta(hours=1))).unwrap()
    assert asyncio.run(manager.cancel_rollback(another["rollback_id"])).is_success()
    assert asyncio.run(manager.cancel_rollback(another["rollback_id"])).is_failure()
