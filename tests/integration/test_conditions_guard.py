"""`[[conditions]]` in the bake of `rfs guard`: each is measured before the change and after it."""

from __future__ import annotations

import pytest
from cli_app import App, Ran

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
