"""Metric histories with known truth: what a condition would have measured before and after a change.

Each history is made from its number alone, so a run is the same everywhere. A history is a change at a known moment,
ten minutes of samples before it and twenty after it, one every thirty seconds, and the moment from which the new
version really was bad; or none, where every rollback would be a false one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rfs.production.rollback.conditions import Sample

CHANGED_AT = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL = 30
BEFORE, AFTER = 20, 40
"""Samples before the change, and after it."""
BUSY, QUIET = 600, 6
"""Requests within one interval: twenty a second, and one every five seconds."""


@dataclass(frozen=True)
class Metric:
    """What is measured. `counts`: a sample stands for as many observations as there were requests."""

    name: str
    threshold: float
    clear: float
    counts: bool


ERRORS = Metric("error rate", 0.05, 0.02, counts=True)
P99 = Metric("p99, s", 2.0, 1.5, counts=True)
MEMORY = Metric("memory", 0.9, 0.8, counts=False)


@dataclass(frozen=True)
class History:
    """One history. `bad_from`: since when the new version is bad; None when it is good."""

    scene: str
    metric: Metric
    samples: tuple[Sample, ...]
    bad_from: datetime | None


class _Making:
    """The dice of one history, and what is usual in all."""

    def __init__(self, seed: str) -> None:
        self.dice = random.Random(seed)

    def around(self, value: float, spread: float = 0.1) -> float:
        return value * self.dice.uniform(1 - spread, 1 + spread)

    def requests(self, mean: float) -> int:
        # Poisson, by its normal approximation where there are many.
        if mean > 50:
            return max(0, round(self.dice.gauss(mean, math.sqrt(mean))))
        count, left = 0, math.exp(-mean)
        product = self.dice.random()
        while product > left:
            count += 1
            product *= self.dice.random()
        return count

    def failed(self, requests: int, rate: float) -> int:
        if requests > 50:
            spread = math.sqrt(requests * rate * (1 - rate))
            return min(requests, max(0, round(self.dice.gauss(requests * rate, spread))))
        return sum(self.dice.random() < rate for _ in range(requests))

    def measured(self, metric: Metric, level: float, traffic: float = BUSY) -> tuple[float | None, int]:
        """Return a value with its weight, as a server with this true level would have given it."""
        if metric is MEMORY:
            return min(level * self.dice.gauss(1, 0.01), 1.0), 1
        requests = self.requests(traffic)
        if not requests:
            return None, 0  # what a rate is of no requests, nobody knows
        if metric is ERRORS:
            return self.failed(requests, level) / requests, requests
        # A quantile of few requests is a noisy one.
        return level * math.exp(self.dice.gauss(0, 0.12 + 0.6 / math.sqrt(requests))), requests


Levels = Callable[[int], float]


def _history(
    making: _Making, scene: str, metric: Metric, level: Levels, *, bad_at: int | None = None, traffic: float = BUSY
) -> History:
    samples = []
    for number in range(-BEFORE, AFTER):
        value, weight = making.measured(metric, level(number), traffic)
        samples.append(Sample(at=_at(number), value=value, weight=weight))
    return History(scene, metric, tuple(samples), None if bad_at is None else _at(bad_at))


def _at(number: int) -> datetime:
    return CHANGED_AT + timedelta(seconds=INTERVAL * number)


def _normal(making: _Making, metric: Metric) -> float:
    """Return a level that is well, as far from the threshold as a threshold is usually put."""
    return making.around({ERRORS: 0.01, P99: 0.8, MEMORY: 0.5}[metric], 0.3)


def _any(making: _Making) -> Metric:
    return making.dice.choice((ERRORS, P99, MEMORY))


def _requests(making: _Making) -> Metric:
    return making.dice.choice((ERRORS, P99))


# — good versions —


def noise(making: _Making) -> History:
    """A steady level and its noise."""
    metric = _any(making)
    normal = _normal(making, metric)
    return _history(making, "noise", metric, lambda _: normal)


def spikes(making: _Making) -> History:
    """Up to four short bursts beyond the threshold, before and after alike: a client gone mad, a backup."""
    metric = _any(making)
    normal = _normal(making, metric)
    high: dict[int, float] = {}
    for _ in range(making.dice.randint(1, 4)):
        at, length = making.dice.randrange(-BEFORE, AFTER), making.dice.choice((1, 1, 1, 2))
        high |= dict.fromkeys(range(at, at + length), metric.threshold * making.dice.uniform(1.1, 3))
    most = 0.99 if metric.counts else 1
    return _history(making, "spikes", metric, lambda number: min(high.get(number, normal), most))


def warming_up(making: _Making) -> History:
    """Cold caches and connections: bad for up to a minute after the change, and then as before."""
    metric = _requests(making)
    normal, cold = _normal(making, metric), metric.threshold * making.dice.uniform(1.2, 3)
    lasts = making.dice.randint(1, 2)
    return _history(making, "warming up", metric, lambda number: cold if 0 <= number < lasts else normal)


def little_traffic(making: _Making) -> History:
    """A request every five seconds: one that fails is a sixth of them."""
    metric = _requests(making)
    normal = _normal(making, metric)
    return _history(making, "little traffic", metric, lambda _: normal, traffic=QUIET)


def failing_before(making: _Making) -> History:
    """It was beyond the threshold before the change, and still is: as bad, and no worse."""
    metric = _any(making)
    level = metric.threshold * making.dice.uniform(1.15, 2 if metric is not MEMORY else 1.05)
    return _history(making, "failing before, as now", metric, lambda _: level)


def daily_wave(making: _Making) -> History:
    """The load rises with the day, and the figure with the load, to between 70 and 95 % of the threshold."""
    metric = _any(making)
    low, top = _normal(making, metric), metric.threshold * making.dice.uniform(0.7, 0.95)
    phase = making.dice.uniform(0, 1)

    def level(number: int) -> float:
        return low + (top - low) * (1 - math.cos(math.pi * (phase + (number + BEFORE) / (BEFORE + AFTER)))) / 2

    return _history(making, "daily wave", metric, level)


def gaps(making: _Making) -> History:
    """A good version whose measurements are missing for a while, are NaN or fail."""
    metric = _any(making)
    normal = _normal(making, metric)
    return _with_gaps(making, _history(making, "gaps", metric, lambda _: normal))


def nothing_measured(making: _Making) -> History:
    """Since the change there is nothing but gaps and errors, after a normal time before it."""
    metric = _any(making)
    normal = _normal(making, metric)
    made = _history(making, "nothing but gaps and errors", metric, lambda _: normal)
    samples = [each if each.at < CHANGED_AT else _lost(making, each) for each in made.samples]
    return History(made.scene, metric, tuple(samples), None)


# — bad versions —


def failures(making: _Making) -> History:
    """A part of the requests fails from the change on: 7 to 30 %."""
    normal, bad = _normal(making, ERRORS), making.dice.uniform(0.07, 0.3)
    return _history(making, "requests fail", ERRORS, lambda number: normal if number < 0 else bad, bad_at=0)


def failures_in_little_traffic(making: _Making) -> History:
    """A quarter to all of the requests fail, of which there are few."""
    normal, bad = _normal(making, ERRORS), making.dice.uniform(0.25, 1)
    scene = "requests fail, little traffic"
    return _history(making, scene, ERRORS, lambda number: normal if number < 0 else bad, bad_at=0, traffic=QUIET)


def failures_with_gaps(making: _Making) -> History:
    """As `failures`, and measurements are missing."""
    normal, bad = _normal(making, ERRORS), making.dice.uniform(0.07, 0.3)
    level: Levels = lambda number: normal if number < 0 else bad  # noqa: E731 - two lines say no more
    return _with_gaps(making, _history(making, "requests fail, gaps", ERRORS, level, bad_at=0))


def failures_after_a_spike(making: _Making) -> History:
    """As `failures`; a short burst just before the change had nothing to do with it."""
    normal, bad = _normal(making, ERRORS), making.dice.uniform(0.07, 0.3)
    burst = -making.dice.randint(1, 3)

    def level(number: int) -> float:
        return bad if number >= 0 else making.dice.uniform(0.2, 0.6) if number == burst else normal

    return _history(making, "requests fail, spike before", ERRORS, level, bad_at=0)


def slower(making: _Making) -> History:
    """The new version is slow: a p99 of 1.2 to 2 times the threshold."""
    normal, bad = _normal(making, P99), P99.threshold * making.dice.uniform(1.2, 2)
    return _history(making, "slow", P99, lambda number: normal if number < 0 else bad, bad_at=0)


def leak(making: _Making) -> History:
    """The new version leaks memory: it is bad once it is past the threshold, within 12 minutes."""
    normal, passes = _normal(making, MEMORY), making.dice.randint(6, 24)
    slope = (MEMORY.threshold - normal) / passes

    def level(number: int) -> float:
        return min(normal + slope * max(number, 0), 0.99)

    return _history(making, "memory leak", MEMORY, level, bad_at=passes)


def slow_drift(making: _Making) -> History:
    """More and more requests fail with the new version, from 1 % to over 10 % within twenty minutes."""
    normal, end = _normal(making, ERRORS), making.dice.uniform(0.1, 0.2)
    slope = (end - normal) / AFTER

    def level(number: int) -> float:
        return normal + slope * max(number, 0)

    passes = next(number for number in range(AFTER) if level(number) > ERRORS.threshold)
    return _history(making, "slow drift", ERRORS, level, bad_at=passes)


def worse_than_before(making: _Making) -> History:
    """It was beyond the threshold before the change, and is two to four times as bad since."""
    metric = _requests(making)
    level = metric.threshold * making.dice.uniform(1.15, 1.6)
    worse = level * making.dice.uniform(2, 4)
    return _history(
        making, "failing before, worse now", metric, lambda number: level if number < 0 else worse, bad_at=0
    )


def _with_gaps(making: _Making, made: History) -> History:
    """Take a run of measurements away, and every fourth of the others."""
    start, length = making.dice.randrange(AFTER), making.dice.randint(3, 12)
    gone = {_at(number) for number in range(start, start + length)}
    samples = []
    for each in made.samples:
        lost = each.at in gone or making.dice.random() < 0.25
        samples.append(_lost(making, each) if lost else each)
    return History(made.scene, made.metric, tuple(samples), made.bad_from)


def _lost(making: _Making, sample: Sample) -> Sample:
    what = making.dice.choice(("none", "nan", "inf", "error"))
    error = "connection refused" if what == "error" else ""
    value = {"nan": math.nan, "inf": math.inf}.get(what)
    return Sample(at=sample.at, value=value, weight=sample.weight, error=error)


SCENES: tuple[Callable[[_Making], History], ...] = (
    noise, spikes, warming_up, little_traffic, failing_before, daily_wave, gaps, nothing_measured,
    failures, failures_in_little_traffic, failures_with_gaps, failures_after_a_spike, slower, leak, slow_drift,
    worse_than_before,
)  # fmt: skip
"""What there is, the good versions first."""


def histories(number: int, seed: str = "rfs") -> Iterator[History]:
    """Yield so many histories, each scene in turn."""
    for each in range(number):
        yield SCENES[each % len(SCENES)](_Making(f"{seed}/{each}"))
