"""`[[conditions]]` as rfs.toml writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfs.production.rollback import settings
from rfs.production.rollback.conditional import open_conditions, parse_conditions
from rfs.production.rollback.conditions import ConditionalRollback, Outcome
from rfs.production.rollback.errors import UsageError

HEAD = '[app]\nname = "a"\n[[conditions]]\nname = "errors"\ncommand = ["true"]\n'
ALL = """
trip = "< -1.5e3"
clear = "> .5"
for = "2m"
interval = 5
initial_delay = "1h"
failure_limit = 1
consecutive_error_limit = 2
inconclusive_limit = 3
min_samples = 4
no_data = "success"
margin = 0.5
baseline = true
dry_run = true
cooldown = "3m"
max_auto_rollbacks = 5
window = "4m"
timeout = "500ms"
action = "checkpoint"
"""


def parsed(folder: Path, table: str) -> settings.Settings:
    (folder / "rfs.toml").write_text(HEAD + table)
    return settings.load(str(folder / "rfs.toml"))


def test_every_key_counts(tmp_path: Path) -> None:
    (opened,) = open_conditions(parsed(tmp_path, ALL))
    opened.close()
    rule = opened.rule
    wanted = ConditionalRollback(
        "errors",
        rule.condition,
        -1500.0,
        "checkpoint",
        below=True,
        clear=0.5,
        lasting=120,
        failure_limit=1,
        consecutive_error_limit=2,
        inconclusive_limit=3,
        min_samples=4,
        no_data=Outcome.SUCCESS,
        initial_delay=3600,
        margin=0.5,
        baseline=True,
        dry_run=True,
        interval=5,
        timeout=0.5,
        cooldown=180,
        max_auto_rollbacks=5,
        window=240,
    )
    assert rule == wanted


def test_the_defaults_are_those_of_a_rule_in_python(tmp_path: Path) -> None:
    ((table, _),) = parse_conditions(parsed(tmp_path, 'trip = "> 5"'))
    rule = table.rule()
    assert rule == ConditionalRollback("errors", rule.condition, 5.0)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('trip = "0.05"', 'trip takes "> 0.05" or "< 10"'),
        ('trip = ">= 0.05"', 'trip takes "> 0.05" or "< 10"'),
        ('trip = "> nan"', 'trip takes "> 0.05" or "< 10"'),
        ('trip = "> 1e999"', 'trip takes "> 0.05" or "< 10"'),
        ("", "it is missing"),
        ('trip = "> 1"\nclear = "> 0.5"', "clear must lie on the good side"),
        ('trip = "> 1"\nclear = "< 2"', "clear must lie on the good side"),
        ('trip = "> 1"\ninterval = 0', "interval must be longer than nothing"),
        ('trip = "> 1"\ntimeout = "0s"', "timeout must be longer than nothing"),
        ('trip = "> 1"\nfor = "soon"', "not a duration"),
        ('trip = "> 1"\nfor = "400d"', "for is longer than a year"),
        ('trip = "> 1"\nfailure_limit = -1', "failure_limit is negative"),
        ('trip = "> 1"\nmargin = nan', "margin is negative"),
        ('trip = "> 1"\ninconclusive_limit = -1', "inconclusive_limit is negative"),
        ('trip = "> 1"\naction = "page"', "page"),
        ('trip = "> 1"\nno_data = "failure"', "failure"),
        ('trip = "> 1"\ncoldown = 5', "Did you mean cooldown?"),
        ('trip = "> 1"\nhttp = "http://127.0.0.1"', "exactly one of"),
        ('trip = "> 1"\n[[conditions]]\nname = "errors"\ntrip = "> 1"\ncommand = ["true"]', "another condition called"),
        ('trip = "> 1"\n[[conditions]]\nname = "a b"\ntrip = "> 1"\ncommand = ["true"]', "may only have letters"),
        ('trip = "> 1"\n[[conditions]]\nname = "b"\ntrip = "> 1"', "exactly one of prometheus"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_conditions(parsed(tmp_path, table))
    assert "conditions" in str(refused.value)
    assert said in f"{refused.value} {refused.value.hint}"
