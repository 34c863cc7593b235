"""`[[conditions]]` in the bake of `rfs guard`: each is measured before the change and after it."""

from __future__ import annotations

import asyncio
import signal
from contextlib import closing
from datetime import timedelta

import pytest
from cli_app import CHECK, App, Ran
from guard_kit import Guarded, gone
from waiting import until

from rfs.core.result import Failure
from rfs.production.rollback import DeploymentRollbackManager, RollbackError
from rfs.production.rollback.conditions import Sample
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.samples import Samples

QUICK = 'interval = "50ms"\n'
BAKE = ("--bake", "20s")


def configure(app: App, *tables: str) -> None:
    """Add conditions; `cat value` measures what a test writes there."""
    head = '\n[[conditions]]\nname = "errors"\ncommand = ["cat", "value"]\n'
    app.configure((app.folder / "rfs.toml").read_text() + "".join(head + table for table in tables))


def value(app: App, text: object) -> None:
    new = app.folder / "value.new"
    new.write_text(f"{text}\n")
    new.rename(app.folder / "value")


def deploy(app: App, *words: str, then: object = 0.5) -> Ran:
    """Deploy what writes a note, and lets the condition measure something else."""
    change = f"{app.insert('two')}; echo {then} > value"
    return app.rfs("guard", *words, "--", "sh", "-c", change)


@pytest.fixture
def app(notes_app: App) -> App:
    value(notes_app, 0.01)
    return notes_app


def test_what_turns_bad_goes_back_and_its_version_is_quarantined(app: App) -> None:
    configure(app, f'trip = "> 0.05"\n{QUICK}')
    done = deploy(app, "--version", "v2", *BAKE)
    assert done.code == 20, done
    assert "errors is 0.5, above 0.05" in done.err
    assert app.notes == ["one"]
    value(app, 0.01)
    again = deploy(app, "--version", "v2")
    assert again.code == 21
    assert "errors is 0.5" in again.err


def test_what_stays_well_is_kept(app: App) -> None:
    configure(app, f'trip = "> 0.05"\n{QUICK}')
    done = deploy(app, "--bake", "300ms", then=0.02)
    assert (done.code, app.notes) == (0, ["one", "two"]), done
    # Nobody else measures: what the guard did is the history.
    assert [each.value for each in history(app).of("errors")][-1] == 0.02


def history(app: App) -> Samples:
    return Samples(str(app.folder / ".rfs"))


@pytest.mark.slow
def test_it_only_observes_when_it_is_told_to(app: App) -> None:
    configure(app, f'trip = "> 0.05"\n{QUICK}')
    done = deploy(app, "--no-rollback", *BAKE)
    assert done.code not in (0, 20)
    assert "errors is 0.5, above 0.05" in done.err
    assert app.notes == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "before", "then", "goes_back"),
    [
        ('trip = "< 10"', 20, 5, True),
        ('trip = "< 10"', 20, 15, False),
        ('trip = "> 0.05"\nfor = "200ms"', 0.01, 0.5, True),
        ('trip = "> 0.05"\nfor = "1h"', 0.01, 0.5, False),
        ('trip = "> 0.05"\nfailure_limit = 2', 0.01, 0.5, True),
        ('trip = "> 0.05"\nfailure_limit = 1000', 0.01, 0.5, False),
        ('trip = "> 0.05"\nmin_samples = 1000', 0.01, 0.5, False),
        ('trip = "> 0.05"\ninitial_delay = "1h"', 0.01, 0.5, False),
        ('trip = "> 0.05"\ndry_run = true', 0.01, 0.5, False),
        ('trip = "> 0.05"\naction = "alert"', 0.01, 0.5, False),
        ('trip = "> 0.05"\naction = "checkpoint"', 0.01, 0.5, False),
        # It failed before: only what is worse by the margin counts.
        ('trip = "> 0.05"', 0.5, 0.54, False),
        ('trip = "> 0.05"', 0.5, 0.56, True),
        ('trip = "> 0.05"\nmargin = 0.5', 0.5, 0.56, False),
        ('trip = "> 0.05"\nbaseline = true', 0.01, 0.5, True),
        ('trip = "> 0.05"\nbaseline = true', 0.06, 0.06, False),
        ('trip = "> 0.05"', 0.01, "NaN", False),
        ('trip = "> 0.05"', 0.01, "", False),
    ],
)
def test_each_key_counts(app: App, table: str, before: object, then: object, goes_back: bool) -> None:
    value(app, before)
    configure(app, f"{table}\n{QUICK}")
    done = deploy(app, "--bake", "20s" if goes_back else "600ms", then=then)
    assert app.notes == (["one"] if goes_back else ["one", "two"]), done
    assert (done.code == 20) is goes_back


@pytest.mark.slow
def test_an_alert_is_a_warning_of_what_is_kept(app: App) -> None:
    configure(app, f'trip = "> 0.05"\naction = "alert"\n{QUICK}')
    done = deploy(app, "--bake", "500ms")
    assert (done.code, "Errors is 0.5, above 0.05." in done.err) == (3, True), done


def test_without_a_bake_it_is_told_that_nothing_was_judged(app: App) -> None:
    configure(app, f'trip = "> 0.05"\n{QUICK}')
    # Who reads a pipe waits for somebody who writes to it.
    said = app.rfs("guard", "--", "sh", "-c", f"{app.insert('two')}; rm value; mkfifo value")
    assert (said.code, "errors: nothing was measured in the bake" in said.err) == (0, True), said
    assert "1 condition" in app.rfs("guard", "--dry-run", "--", "true").out


@pytest.mark.slow
def test_what_the_daemon_measured_before_counts(app: App) -> None:
    """Nothing is waited for, and what failed then already must get worse."""
    configure(app, f'trip = "> 0.05"\nbaseline = true\n{QUICK}')
    with closing(history(app)) as samples:
        for ago in range(10, 0, -1):
            samples.add("errors", Sample(at=utc_now() - timedelta(seconds=ago), value=0.4 + ago / 1000))
    value(app, "down")
    said = deploy(app, "--bake", "600ms", then=0.42)
    assert "Measuring the conditions" not in said.err
    assert said.code == 0, said
    assert deploy(app, *BAKE, then=0.9).code == 20


def test_a_source_that_hangs_stands_in_nobodys_way(app: App) -> None:
    """Neither in that of the health checks, nor of a cancellation; and nothing of it is left."""
    text = '\n[[conditions]]\nname = "hangs"\ntrip = "> 1"\ntimeout = "200ms"\ncommand = ["./hang"]\n'
    (app.folder / "hang").write_text("#!/bin/sh\necho $$ >> hanging\ntrap '' TERM\nsleep 4321\n")
    (app.folder / "hang").chmod(0o755)
    app.configure((app.folder / "rfs.toml").read_text() + text + QUICK + CHECK)
    said = app.rfs("guard", "--bake", "1h", "--", "touch", "sick")
    assert (said.code, "the health check failed: sane" in said.err) == (20, True), said
    assert app.notes == ["one"]
    until(lambda: all(gone(int(pid)) for pid in (app.folder / "hanging").read_text().split()))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heeded_while_something_hangs(app: App, number: int) -> None:
    text = '\n[[conditions]]\nname = "hangs"\ntrip = "> 1"\ntimeout = "30s"\ncommand = ["sleep", "4321"]\n'
    app.configure((app.folder / "rfs.toml").read_text() + text + QUICK)
    with Guarded(app, "--bake", "1h", "--", "sh", "-c", app.insert("two")) as guarded:
        until(lambda: "Measuring the conditions" in guarded.said)
        guarded.signal(number)
        assert guarded.end() == 130
    assert app.notes == ["one"]
    assert app.json("log") == []


@pytest.mark.slow
def test_deploy_asks_them_too(app: App) -> None:
    configure(app, f'trip = "> 0.05"\n{QUICK}')

    async def act() -> RollbackError:
        change = ["sh", "-c", f"{app.insert('two')}; echo 0.5 > value"]
        result = await DeploymentRollbackManager(app.folder).deploy("d", change, {"version": "v2"}, bake=20)
        assert isinstance(result, Failure)
        return result.error

    error = asyncio.run(act())
    assert (error.code, "errors is 0.5, above 0.05" in str(error)) == (20, True)
    assert app.notes == ["one"]


def test_a_condition_that_cannot_be_is_refused_by_name(app: App) -> None:
    configure(app, 'trip = "> 1"\ncoldown = 5\n')
    for words in (("guard", "--", "touch", "deployed"), ("watch", "--once"), ("conditions",)):
        done = app.rfs(*words)
        assert done.code == 2, done
        assert "conditions[1].coldown (line " in done.err
        assert "Did you mean cooldown?" in done.err
    assert not (app.folder / "deployed").exists()
    assert "coldown" in app.rfs("doctor").out


@pytest.mark.parametrize(
    ("table", "warned"),
    [("", True), ('for = "1m"\n', False), ("failure_limit = 2\n", False), ("dry_run = true\n", False)],
)
def test_doctor_warns_of_a_rollback_that_one_measurement_decides(app: App, table: str, warned: bool) -> None:
    configure(app, f'trip = "> 0.05"\n{table}')
    assert ("One measurement of errors beyond its threshold rolls back" in app.rfs("doctor").out) is warned
