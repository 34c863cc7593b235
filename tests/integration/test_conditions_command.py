"""`rfs conditions`."""

from __future__ import annotations

from datetime import timedelta

from cli_app import App
from test_conditions_guard import configure, history

from rfs.production.rollback.conditions import Sample
from rfs.production.rollback.model import utc_now


def measured(app: App, *values: float | str | None) -> None:
    """Let the values have been measured, one each thirty seconds until now; a text is an error."""
    samples = history(app)
    for number, each in enumerate(reversed(values)):
        at = utc_now() - timedelta(seconds=30 * number)
        sample = Sample(at=at, error=each) if isinstance(each, str) else Sample(at=at, value=each)
        samples._change(
            lambda db, sample=sample: db.execute(
                "INSERT INTO samples (name, at, value, weight, error) VALUES (?, ?, ?, ?, ?)",
                ("errors", int(sample.at.timestamp() * 1e6), sample.measured, sample.weight, sample.error),
            )
        )
    samples.close()


def test_it_shows_how_they_stand_and_makes_nothing(notes_app: App) -> None:
    assert "no conditions in rfs.toml" in notes_app.rfs("conditions").out
    configure(notes_app, 'trip = "> 0.05"\nfor = "45s"\n')
    assert notes_app.json("conditions")[0]["state"] == "unknown"
    assert not (notes_app.folder / ".rfs" / "conditions.db").exists()
    measured(notes_app, 0.01, 0.02, None, "down", 0.06, 0.08, 0.5)
    shown = notes_app.rfs("conditions")
    assert "nobody measures" in shown.err
    line = shown.out.splitlines()[1].split()
    assert line[:6] == ["errors", "tripped", "0.5", ">", "0.05", "▁▁·×▅▅█"]
    (told,) = notes_app.json("conditions")
    assert (told["value"], told["failing"], told["threshold"]) == (0.5, 3, 0.05)
    assert told["why"] == "errors is 0.5, above 0.05"
    assert [each["error"] for each in told["samples"]] == ["", "", "", "down", "", "", ""]
    assert notes_app.rfs("conditions", "-q").out == "errors tripped\n"


def test_of_one_it_shows_more(notes_app: App) -> None:
    configure(notes_app, 'trip = "< 10"\nclear = "> 12"\ndry_run = true\n')
    measured(notes_app, *[float(10 + n % 3) for n in range(50)], 5.0)
    shown = notes_app.rfs("conditions", "errors").out
    assert "clears     > 12" in shown
    assert "rollback, dry run" in shown
    assert "┄" in shown
    assert len(notes_app.json("conditions", "errors")["samples"]) == 51
    assert len(notes_app.json("conditions")[0]["samples"]) == 30
    unknown = notes_app.rfs("conditions", "error")
    assert (unknown.code, "There are: errors." in unknown.err) == (10, True)
