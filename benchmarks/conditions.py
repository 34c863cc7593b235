"""Conditions judged on 10,000 histories whose truth is known: `make bench-conditions`.

Every history is judged as the loop would: sample by sample, by `assess` and `decide` themselves, until the first
rollback. One is false when the version is good; a bad version that stays is a miss.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.histories import CHANGED_AT, History, histories
from rfs.production.rollback.conditions import ConditionalRollback, Decision, assess, decide

RESULT = Path(__file__).parent / "results" / "conditions.md"
NUMBER = 10_000
RECOMMENDED: dict[str, Any] = {"lasting": 60, "min_samples": 20, "clear": True}
"""`clear`: the metric's own second limit."""


def grid() -> Iterator[dict[str, Any]]:
    """Yield every setting that is judged."""
    for lasting, least, baseline in itertools.product((0, 60, 120), (0, 20, 200), (False, True)):
        yield {"lasting": lasting, "min_samples": least, "baseline": baseline}
    for limit in (1, 2, 4):
        yield {"failure_limit": limit, "min_samples": 20}


def around() -> Iterator[dict[str, Any]]:
    """Yield what the recommended setting is compared with."""
    yield RECOMMENDED
    yield {**RECOMMENDED, "clear": False}
    yield {**RECOMMENDED, "lasting": 30}
    yield {**RECOMMENDED, "lasting": 120}
    yield {**RECOMMENDED, "min_samples": 0}
    yield {**RECOMMENDED, "min_samples": 200}
    yield {**RECOMMENDED, "baseline": True}
    yield {**RECOMMENDED, "initial_delay": 60}
    yield {**RECOMMENDED, "margin": 0.5}


class Tally:
    """What became of the histories of a scene under one setting."""

    def __init__(self) -> None:
        self.number = self.bad = self.false = self.misses = 0
        self.delays: list[float] = []

    def add(self, history: History, at: datetime | None) -> None:
        """Count one: `at` is when it was rolled back, None when it was not."""
        self.number += 1
        self.bad += history.bad_from is not None
        if history.bad_from is None:
            self.false += at is not None
        elif at is None:
            self.misses += 1
        else:
            self.delays.append(max((at - history.bad_from).total_seconds(), 0.0))

    def __add__(self, other: Tally) -> Tally:
        both = Tally()
        for each in (self, other):
            both.number, both.bad = both.number + each.number, both.bad + each.bad
            both.false, both.misses = both.false + each.false, both.misses + each.misses
            both.delays += each.delays
        return both


def rule(history: History, setting: dict[str, Any]) -> ConditionalRollback:
    """Return the condition that a setting makes of a metric. `min_samples` is of what is counted: not of memory."""
    metric, options = history.metric, dict(setting)
    if not metric.counts:
        options.pop("min_samples", None)
    if options.pop("clear", False):
        options["clear"] = metric.clear
    return ConditionalRollback(metric.name, lambda: 0.0, metric.threshold, **options)


def rolled_back(history: History, condition: ConditionalRollback) -> datetime | None:
    """Return when a history is first rolled back, judged sample by sample; None when it is not."""
    first = next(
        (each for each in history.samples if each.at >= CHANGED_AT and _beyond(condition, each.measured)), None
    )
    if first is None:
        return None  # nothing can fail that was never beyond the threshold; tests/unit/test_conditions.py
    for end, sample in enumerate(history.samples, start=1):
        if sample.at < first.at:
            continue
        verdict = assess(condition, history.samples[:end], sample.at, changed_at=CHANGED_AT)
        if decide(condition, verdict, sample.at, ())[0] is Decision.ROLLBACK:
            return sample.at
    return None


def _beyond(condition: ConditionalRollback, value: float | None) -> bool:
    return value is not None and value > condition.threshold


def judge(made: Iterable[History], settings: Sequence[dict[str, Any]]) -> list[dict[str, Tally]]:
    """Return, for each setting, what became of each scene."""
    found: list[dict[str, Tally]] = [defaultdict(Tally) for _ in settings]
    for history in made:
        for tallies, setting in zip(found, settings, strict=True):
            tallies[history.scene].add(history, rolled_back(history, rule(history, setting)))
    return found


def main() -> None:
    """Judge them all; only a whole run writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=NUMBER)
    number = parser.parse_args().histories
    started = time.process_time()
    settings = [*grid(), *around()]
    found = judge(histories(number), settings)
    page = render(number, settings, found)
    print(page)
    print(f"{time.process_time() - started:.0f} s of CPU", file=sys.stderr)
    if number == NUMBER:
        RESULT.write_text(page, encoding="utf-8")


# — the page —


def render(number: int, settings: Sequence[dict[str, Any]], found: Sequence[dict[str, Tally]]) -> str:
    """Return the whole page."""
    scenes = list(found[0])
    bad = [scene for scene in scenes if found[0][scene].bad]
    nothing = sum(each["nothing but gaps and errors"].false for each in found)
    at = list(settings).index(RECOMMENDED)
    lines = [
        f"# Conditions on {number:,} histories",
        "",
        *_INTRODUCTION,
        "",
        f"**Rollbacks from missing data or errors alone: {nothing}**, under all {len(settings)} settings.",
        "",
        "## Every setting",
        "",
        _HEADER,
        "|--:|--:|---|--:|--:|--:|--:|--:|--:|",
        *(_row(each, _all(tallies)) for each, tallies in itertools.islice(zip(settings, found, strict=True), at)),
        "",
        "## Around the recommended one",
        "",
        f"`{_written(RECOMMENDED)}`, and one thing other.",
        "",
        "| | false rollbacks | misses | seconds to detection: median | of 95 % |",
        "|---|--:|--:|--:|--:|",
        *(
            _other(each, _all(tallies))
            for each, tallies in itertools.islice(zip(settings, found, strict=True), at, None)
        ),
        "",
        "## By scene",
        "",
        "A single sample beyond the threshold (the defaults), beside the recommended setting.",
        "",
        "| | the version is | histories | false: defaults | recommended | misses: defaults | recommended | median s: defaults | recommended |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for scene in scenes:
        plain, ours = found[0][scene], found[at][scene]
        kind = "bad" if scene in bad else "good"
        figures = [plain.false, ours.false, *((plain.misses, ours.misses) if scene in bad else ("", ""))]
        delays = [_seconds(each.delays, 0.5) for each in (plain, ours)]
        lines.append(f"| {scene} | {kind} | {ours.number} | " + " | ".join(map(str, [*figures, *delays])) + " |")
    return "\n".join([*lines, "", *_MEANING, ""])


_HEADER = (
    "| `for`, s | `min_samples` | `baseline` | `failure_limit` | false rollbacks | % of the good | misses | % of the bad "
    "| median s to detection |"
)

_INTRODUCTION = (
    "`make bench-conditions` makes them from a seed: a change, ten minutes of samples before it and twenty after it, one every 30 seconds, of an",
    "error rate (threshold 5 %), a p99 latency (2 s) or memory (90 %). The truth is known. Each is judged sample by sample by the functions that",
    "judge in production, `assess` and `decide`, until the first rollback. That is *false* when the version is good; *missed* is a bad one that is",
    "still there after twenty minutes. Detection counts from when the figure of a bad version passed the threshold.",
)

_MEANING = (
    "## What it means",
    "",
    "- **One sample is no evidence.** The defaults, which roll back at the first value beyond the threshold, are as quick as can be, and roll back",
    "  most good versions that are warming up, have a burst or little traffic. They suit a figure that is never beyond its threshold by chance.",
    "- **`for` is what helps most**: a minute at an interval of 30 seconds (three samples in a row) costs a minute and leaves one of forty.",
    "  `failure_limit` 2 does the same by count, however long the samples take to come.",
    "- **`min_samples` has to fit the traffic.** 20 keeps single requests from deciding; 200 with twelve requests a minute is a quarter of an",
    "  hour of failing, so such versions stay. The figure is of what the values stand for, in a row; without counts it is of samples.",
    "- **`baseline`** takes eight samples since the change, four minutes here, whatever `for` says. It is for what a threshold alone cannot tell:",
    "  with a `for` beside it, it halves the few that are left and costs minutes.",
    "- **`clear`** changes next to nothing of this: it says when a complaint is over, not when it begins.",
    "- **What was measured before the change counts**: failing already, as now, does not roll back, and a burst just before the change hides nothing.",
    "",
    'We recommend `for = "60s"` with `interval = "30s"`, `min_samples = 20` where a source counts, and `for = "120s"` where a rollback costs more',
    "than two minutes of a bad version.",
)


def _all(tallies: dict[str, Tally]) -> Tally:
    return sum(tallies.values(), Tally())


def _row(setting: dict[str, Any], tally: Tally) -> str:
    cells = [
        setting.get("lasting", 0),
        setting.get("min_samples", 0),
        "yes" if setting.get("baseline") else "no",
        setting.get("failure_limit", 0),
        *_counts(tally),
        _seconds(tally.delays, 0.5),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _counts(tally: Tally) -> list[str]:
    false = f"{100 * tally.false / max(tally.number - tally.bad, 1):.2f}"
    return [str(tally.false), false, str(tally.misses), f"{100 * tally.misses / max(tally.bad, 1):.2f}"]


def _other(setting: dict[str, Any], tally: Tally) -> str:
    other = {name: value for name, value in setting.items() if RECOMMENDED.get(name) != value}
    name = f"`{_written(other)}`" if other else "as recommended"
    delays = [_seconds(tally.delays, share) for share in (0.5, 0.95)]
    return f"| {name} | {tally.false} | {tally.misses} | {delays[0]} | {delays[1]} |"


def _written(setting: dict[str, Any]) -> str:
    names = {"lasting": "for"}
    said = {True: "yes", False: "none"}
    return ", ".join(
        f"{names.get(name, name)} {said[value] if isinstance(value, bool) else value}"
        for name, value in setting.items()
    )


def _seconds(delays: Sequence[float], share: float) -> str:
    if not delays:
        return ""
    if share == 0.5:
        return f"{statistics.median(delays):.0f}"
    return f"{sorted(delays)[min(int(share * len(delays)), len(delays) - 1)]:.0f}"


if __name__ == "__main__":
    main()
