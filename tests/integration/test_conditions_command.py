"""`rfs conditions`."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cli_app import App
from test_conditions_guard import configure, history

from rfs.production.rollback.conditions import Sample
from rfs.production.rollback.model import utc_now


def measured(app: App, *values: float | None | str, ago: float = 0) -> None:
    """Let the values have been measured, one each thirty seconds until `ago` seconds ago."""
    samples = history(app)
    now = utc_now() - timedelta(seconds=ago)
    for number, value in enumerate(values):
        at = now - timedelta(seconds=30 * (len(values) - 1 - number))
        text, number_ = (value, None) if isinstance(value, str) else ("", value)
        samples.add("errors", Sample(at=at, value=number_, error=text))
    samples.close()


def test_it_shows_how_they_stand(notes_app: App) -> None:
    configure(notes_app, 'trip = "> 0.05"\nfor = "45s"\n')
    assert notes_app.json("conditions")[0]["state"] == "unknown"
    measured(notes_app, 0.01, 0.02, None, "down", 0.06, 0.08, 0.5)
    shown = notes_app.rfs("conditions")
    print(shown.out, shown.err)
    print(notes_app.rfs("conditions", "errors").out)
    assert 0
