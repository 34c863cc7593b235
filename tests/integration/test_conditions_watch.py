"""`[[conditions]]` under `rfs watch`: measured, remembered, judged, and acted on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from cli_app import App
from guard_kit import Guarded
from test_conditions_guard import QUICK, configure, history, value
from test_watch import once, watching
from waiting import until

from rfs.production.rollback.model import utc_now

RULE = f'trip = "> 0.05"\n{QUICK}'


@pytest.fixture
def app(notes_app: App) -> App:
    """At its second note, with a checkpoint of the first."""
    value(notes_app, 0.01)
    notes_app.checkpoint()
    notes_app.write("two")
    return notes_app


def said(what: str, text: str = "") -> Callable[[dict[str, Any]], bool]:
    return lambda told: told["what"] == what and text in told["text"]


def test_what_trips_goes_back_and_says_why(app: App) -> None:
    configure(app, RULE)
    with watching(app) as daemon:
        value(app, 0.5)
        told = daemon.hears(said("rollback"))
        assert told["text"].endswith("is completed: errors is 0.5, above 0.05.")
        assert app.notes == ["one"]
        (record,) = app.json("log")
        assert record["reason"] == "automatic: errors is 0.5, above 0.05"
        assert record["rollback_id"] == told["subject"]
        # It fails still; but another one so soon would help nobody.
        daemon.hears(said("alert", "less than 600 s ago"))
        value(app, 0.01)
        daemon.hears(said("recovered"))
    assert len(app.json("log")) == 1
    assert [each.what for each in history(app).events()] == ["recovered", "alert", "rollback"]


def whats(told: list[dict[str, Any]]) -> list[str]:
    return [each["what"] for each in told]


def measured(app: App, *values: float, ago: timedelta, every: float = 30.0) -> None:
    """Let these have been measured, the last of them so long ago."""
    with closing(history(app)) as samples:
        for number, each in enumerate(reversed(values)):
            at = utc_now() - ago - timedelta(seconds=every * number)
            row = (int(at.timestamp() * 1e6), each)
            query = "INSERT INTO samples (name, at, value, weight, error) VALUES ('errors', ?, ?, 1, '')"
            samples._change(lambda db, row=row, query=query: db.execute(query, row))


@pytest.mark.slow
def test_cooldown_and_the_number_of_rollbacks_outlive_a_restart(app: App) -> None:
    configure(app, 'trip = "> 0.05"\nmax_auto_rollbacks = 1\nwindow = "1h"\n')
    value(app, 0.5)
    assert whats(once(app)) == ["rollback"]
    app.write("two")
    (told,) = once(app)
    assert (told["what"], "less than 600 s ago" in told["text"]) == ("alert", True)
    assert once(app) == []  # it is the same complaint
    text = (app.folder / "rfs.toml").read_text()
    app.configure(text + 'cooldown = "0s"\n')
    (told,) = once(app)
    assert "there were 1 automatic rollbacks within 3600 s, and only a person may go on" in told["text"]
    (shown,) = app.json("conditions")
    assert (shown["state"], shown["disarmed_until"] is None) == ("tripped", False)
    app.configure(text.replace("max_auto_rollbacks = 1", "max_auto_rollbacks = 2") + 'cooldown = "0s"\n')
    assert whats(once(app)) == ["rollback"]
    assert app.notes == ["one"]


@pytest.mark.slow
def test_the_version_that_was_live_is_quarantined_until_it_is_released(app: App) -> None:
    configure(app, 'trip = "> 0.05"\n')
    assert app.rfs("guard", "--version", "v2", "--", "true").code == 0
    value(app, 0.5)
    assert whats(once(app)) == ["rollback"]
    refused = app.rfs("guard", "--version", "v2", "--", "true")
    assert (refused.code, "errors is 0.5, above 0.05" in refused.err) == (21, True)
    assert app.rfs("guard", "--release", "v2").code == 0
    value(app, 0.01)
    assert app.rfs("guard", "--version", "v2", "--", "true").code == 0


def test_a_checkpoint_is_taken_and_not_again_in_the_cooldown(app: App) -> None:
    configure(app, 'trip = "< 10"\naction = "checkpoint"\n')
    value(app, 5)
    (told,) = once(app)
    assert told["what"] == "checkpoint"
    (taken, _) = app.json("checkpoint", "list")
    assert (taken["id"], taken["type"]) == (told["subject"], "conditional")
    assert taken["message"] == "automatic: errors is 5, below 10"
    assert once(app) == []
    app.configure((app.folder / "rfs.toml").read_text() + 'cooldown = "0s"\n')
    assert whats(once(app)) == ["checkpoint"]
    app.configure((app.folder / "rfs.toml").read_text() + "dry_run = true\n")
    (told,) = once(app)
    assert "a checkpoint would be taken, but this is a dry run" in told["text"]


@pytest.mark.slow
def test_what_was_measured_before_the_last_rollback_does_not_count(app: App) -> None:
    configure(app, 'trip = "> 0.05"\nfailure_limit = 2\ncooldown = "0s"\n')
    value(app, 0.5)
    assert [whats(once(app)) for _ in range(3)] == [[], [], ["rollback"]]
    assert [whats(once(app)) for _ in range(3)] == [[], [], ["rollback"]]


def test_what_was_measured_long_ago_or_in_the_future_does_not_count(app: App) -> None:
    configure(app, 'trip = "> 0.05"\nfor = "1m"\naction = "alert"\n')
    value(app, 0.5)
    # Nobody measured in between; and then the clock was set back by an hour.
    measured(app, 0.5, 0.5, 0.5, ago=timedelta(days=2))
    measured(app, 0.5, 0.5, 0.5, ago=-timedelta(hours=1))
    assert once(app) == []
    assert [each.value for each in history(app).between("errors", utc_now(), utc_now() + timedelta(days=1))] == []
    # It counts when the measuring never ceased.
    measured(app, 0.5, 0.5, 0.5, ago=timedelta(seconds=30))
    assert whats(once(app)) == ["alert"]


@pytest.mark.parametrize(("no_data", "state", "told"), [("inconclusive", "no data", ["alert"]), ("success", "ok", [])])
def test_no_data_is_what_it_is_said_to_count_as(app: App, no_data: str, state: str, told: list[str]) -> None:
    configure(app, f'trip = "> 0.05"\nno_data = "{no_data}"\ninconclusive_limit = 0\n')
    value(app, "NaN")
    assert whats(once(app)) == told
    assert app.json("conditions")[0]["state"] == state


@pytest.mark.slow
def test_what_failed_before_the_deployment_must_get_worse_also_much_later(app: App) -> None:
    configure(app, 'trip = "> 0.05"\n')
    value(app, 0.5)
    assert app.rfs("guard", "--bake", "1s", "--", "true").code == 0
    assert once(app) == []
    value(app, 0.6)
    assert whats(once(app)) == ["rollback"]


@pytest.mark.slow
def test_a_source_that_hangs_or_says_nothing_is_alerted_and_delays_no_other(app: App) -> None:
    hanging = 'name = "hanging"\ncommand = ["sleep", "1234"]\ntimeout = "100ms"\nconsecutive_error_limit = 1\n'
    silent = 'name = "silent"\ncommand = ["true"]\ninconclusive_limit = 1\n'
    text = (app.folder / "rfs.toml").read_text()
    rules = "".join(f'\n[[conditions]]\n{each}trip = "> 1"\n{QUICK}' for each in (hanging, silent))
    app.configure(text + rules)
    configure(app, RULE)
    with watching(app) as daemon:
        said_of = {daemon.hears(said("alert"))["subject"] for _ in range(2)}
        assert said_of == {"hanging", "silent"}
        value(app, 0.5)
        daemon.hears(said("rollback"))
        until(lambda: [each["state"] for each in app.json("conditions")] == ["error", "no data", "tripped"])
        assert daemon.end() == 0
    assert app.notes == ["one"]


@pytest.mark.slow
def test_killed_in_an_automatic_rollback_it_is_finished_by_the_next(app: App) -> None:
    configure(app, RULE)
    (app.folder / "slow-stop").touch()
    with watching(app) as daemon:
        value(app, 0.5)
        until((app.folder / "stopping").exists)
        daemon.end(signal.SIGKILL)
    (app.folder / "slow-stop").unlink()
    with watching(app) as daemon:
        told = daemon.hears(said("settled"))
        assert "is settled: completed" in told["text"]
        daemon.hears(said("alert", "less than 600 s ago"))
    assert app.notes == ["one"]
    assert len(app.json("log")) == 1


@pytest.mark.slow
def test_a_history_that_is_torn_is_begun_anew(app: App) -> None:
    configure(app, 'trip = "> 0.05"\n')
    assert once(app) == []
    path = app.folder / ".rfs" / "conditions.db"
    path.write_bytes(b"torn" * 5000)
    value(app, 0.5)
    assert whats(once(app)) == ["rollback"]
    assert [each.value for each in history(app).of("errors")] == [0.5]


@pytest.mark.slow
def test_what_is_on_trial_is_left_to_its_guard(app: App) -> None:
    configure(app, RULE)
    with watching(app), Guarded(app, "--bake", "1m", "--", "true") as guard:
        guard.phase("baking")
        value(app, 0.5)
        assert guard.end() == 20
    assert [each["reason"].startswith("automatic") for each in app.json("log")] == [False]


@pytest.mark.slow
def test_an_edit_counts_and_a_wrong_one_is_told(app: App) -> None:
    configure(app, 'trip = "> 5"\n' + QUICK)
    with watching(app) as daemon:
        good = (app.folder / "rfs.toml").read_text()
        value(app, 0.5)
        app.configure(good + 'clear = "> 1"\n')
        daemon.wake()
        assert "clear" in daemon.hears(said("error"))["text"]
        app.configure(good.replace("> 5", "> 0.05"))
        daemon.wake()
        daemon.hears(said("rollback"))
