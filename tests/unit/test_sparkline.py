"""What was measured, drawn in letters."""

from __future__ import annotations

import pytest

from rfs.cli.sparkline import chart, sparkline
from rfs.production.rollback.conditions import Sample
from rfs.production.rollback.model import utc_now


def samples(*values: float | str | None) -> list[Sample]:
    now = utc_now()
    return [Sample(at=now, error=each) if isinstance(each, str) else Sample(at=now, value=each) for each in values]


@pytest.mark.parametrize(
    ("values", "below", "plain", "line"),
    [
        ((0, 4, 5, 5.1, 7, 10), False, False, "▁▄▄▅▆█"),
        ((10, 5, 4, 0), True, False, "▁▄▅█"),
        ((1, None, float("nan"), "down", 9), False, False, "▁··×█"),
        ((1, None, "down", 9), False, True, "_ x#"),
        ((5, 5), False, False, "▄▄"),
        ((-1e308, 1e308), False, False, "▁█"),
        ((), False, False, ""),
    ],
)
def test_beyond_the_threshold_it_rises_above_the_middle(values, below, plain, line):
    assert sparkline(samples(*values), 5, below=below, width=30, plain=plain) == line


def test_the_newest_are_shown():
    assert sparkline(samples(9, 9, 1), 5, below=False, width=2) == "█▁"


def test_a_chart_marks_the_threshold_and_shows_the_worst_of_each_few():
    drawn = chart(samples(*[1.0] * 10, 9.0, *[1.0] * 9), 5, below=False, width=10)
    assert len(drawn) == 8
    assert [line for line in drawn if line.lstrip().startswith("5>")] == ["        5> ┄┄┄┄┄█┄┄┄┄"]
    assert drawn[0].split() == ["9", "█"]
    assert len(chart(samples(-1e308, 1e308), 0, below=False, width=10)) == 8
    assert chart(samples(1.0, 1.0), 1, below=False, width=10, plain=True)[-1] == "        1> ##"
