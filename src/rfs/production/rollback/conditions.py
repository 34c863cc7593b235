"""Whether a measured condition calls for a rollback. Pure: sources measure, `assess` judges, nothing here acts.

Only measured values can trip a condition. Time that passes without any, samples that failed and
samples that say nothing never do; they can only ask for a person.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import takewhile
from operator import attrgetter
from typing import Literal, get_args

import msgspec

from rfs.production.rollback.errors import UsageError

Action = Literal["rollback", "alert", "checkpoint"]


class Outcome(StrEnum):
    """What one sample, or a whole history, says."""

    SUCCESS = "success"
    FAILURE = "failure"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement.

    Attributes:
        at: when, UTC.
        value: None, NaN or infinite where there was nothing to measure.
        weight: how many observations (requests, say) the value stands for.
        error: why measuring failed; empty when it did not.
    """

    at: datetime
    value: float | None = None
    weight: int = 1
    error: str = ""

    @property
    def measured(self) -> float | None:
        """The value, where there is a usable one."""
        usable = not self.error and self.value is not None and math.isfinite(self.value)
        return self.value if usable else None


class ConditionalRollback(msgspec.Struct, frozen=True):
    """One rule.

    Attributes:
        name: for people.
        condition: returns a number, a Sample, or an awaitable of one.
        threshold: trips strictly above it; strictly below it with `below`.
        action: what to do when it trips: "rollback", "alert", or take a "checkpoint", of type CONDITIONAL.
        below: small values are the bad ones.
        clear: how far the value must come back to be well again once it failed; the threshold when left out. A value
            in between neither trips it nor ends what has tripped.
        lasting: seconds between the first and the last of failing samples in a row before it trips.
        failure_limit: more failing samples in a row than this trip it.
        consecutive_error_limit: more failed measurements in a row than this alert.
        inconclusive_limit: more samples in a row that say nothing than this alert; None never does.
        min_samples: observations that those in a row must stand for before it trips.
        no_data: what a sample without a usable value counts as.
        initial_delay: seconds after the change whose samples are left out.
        margin: fraction by which a condition that failed before the change must get worse to count.
        baseline: the newest values, as many as fail and at least eight, must also be worse than those before the
            change, by `is_worse`; with fewer than eight from before it there is only an alert. What else changed at
            that moment, the load for one, is not told apart from the change.
        dry_run: it is judged and told, and nothing is done.
        interval: seconds between two measurements.
        timeout: seconds that one may take; longer counts as failed.
        cooldown: seconds after an automatic rollback, or a checkpoint that it had taken, in which there is no other.
        max_auto_rollbacks: so many within `window` seconds; then only a person may.

    Raises:
        UsageError: a limit is negative, an action is unknown, or `clear` lies on the wrong side of the threshold.
    """

    name: str
    condition: Callable[[], float | Sample | Awaitable[float | Sample]]
    threshold: float
    action: Action = "rollback"
    below: bool = False
    clear: float | None = None
    lasting: float = 0.0
    failure_limit: int = 0
    consecutive_error_limit: int = 4
    inconclusive_limit: int | None = None
    min_samples: int = 0
    no_data: Literal[Outcome.INCONCLUSIVE, Outcome.SUCCESS] = Outcome.INCONCLUSIVE
    initial_delay: float = 0.0
    margin: float = 0.1
    baseline: bool = False
    dry_run: bool = False
    interval: float = 30.0
    timeout: float = 10.0
    cooldown: float = 600.0
    max_auto_rollbacks: int = 3
    window: float = 86_400.0

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            hint = "rollback, alert or checkpoint."
            raise UsageError("usage", what=f"{self.name} has no action {self.action!r}", hint=hint)
        if not math.isfinite(self.threshold):
            raise UsageError("usage", what=f"The threshold of {self.name} is no number", hint="Give a finite one.")
        limits: tuple[float, ...] = (self.lasting, self.failure_limit, self.consecutive_error_limit, self.min_samples)
        limits += (self.inconclusive_limit or 0, self.initial_delay, self.margin)
        limits += (self.cooldown, self.max_auto_rollbacks, self.window)
        if not all(limit >= 0 for limit in limits):
            raise UsageError("usage", what=f"A limit of {self.name} is negative", hint="Give zero or more.")
        if not (self.interval > 0 and self.timeout > 0):
            what = f"The interval and the timeout of {self.name} must be longer than nothing"
            raise UsageError("usage", what=what, hint="Give seconds.")
        if self.clear is not None and _worse(self, self.clear, self.threshold):
            raise UsageError("usage", what=f"{self.name} would clear beyond its threshold", hint="Swap the two.")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a history calls for.

    Attributes:
        outcome: FAILURE when it tripped.
        alert: a person should know, though nothing is rolled back for it.
        failing: failing samples since it was last well.
        since: when the first of those was measured, UTC; None without any.
        why: a sentence, without its full stop, when it tripped or a person should know.
    """

    outcome: Outcome
    alert: bool = False
    failing: int = 0
    since: datetime | None = None
    why: str = ""


def assess(
    condition: ConditionalRollback, samples: Sequence[Sample], now: datetime, *, changed_at: datetime | None = None
) -> Verdict:
    """Judge a history.

    Args:
        samples: in any order; those later than `now`, after a clock was set back, are left out.
        now: UTC.
        changed_at: when the change that is being watched was made; earlier samples only tell whether it failed before.
    """
    history = sorted((each for each in samples if each.at <= now), key=attrgetter("at"))
    before = [each for each in history if changed_at is not None and each.at < changed_at]
    warm = timedelta(seconds=condition.initial_delay)
    after = [each for each in history[len(before) :] if changed_at is None or each.at >= changed_at + warm]
    bound = _bound(condition, before)
    failing: list[Sample] = []
    streak: list[Sample] = []
    tripped = False
    for sample in after:
        value = sample.measured
        if value is None:
            continue
        if _worse(condition, value, bound):
            failing.append(sample)
            streak.append(sample)
            tripped = tripped or _is_enough(condition, streak)
            continue
        # Between the two limits nothing is well again, and nothing more is failing either.
        streak = []
        if _cleared(condition, value, bound):
            failing, tripped = [], False
    unheard = _unheard(condition, after)
    since = failing[0].at if failing else None
    if tripped:
        why = f"{condition.name} is {failing[-1].value:g}, {'below' if condition.below else 'above'} {bound:g}"
        if not condition.baseline or _worse_than_before(condition, before, after, since):
            alert = bool(unheard) or condition.action == "alert" or condition.dry_run
            return Verdict(outcome=Outcome.FAILURE, alert=alert, failing=len(failing), since=since, why=why)
        if len(_values(before)) < FEWEST:
            unheard = f"{why}, and too little was measured before the change to compare that with"
    outcome = _latest(condition, after, failing)
    return Verdict(outcome=outcome, alert=bool(unheard), failing=len(failing), since=since, why=unheard)


class Decision(StrEnum):
    """What is to be done about a verdict."""

    NOTHING = "nothing"
    ALERT = "alert"
    ROLLBACK = "rollback"
    CHECKPOINT = "checkpoint"


def decide(
    condition: ConditionalRollback, verdict: Verdict, now: datetime, earlier: Sequence[datetime]
) -> tuple[Decision, str]:
    """Return what a verdict calls for, and why, in a sentence without its full stop.

    Args:
        now: UTC.
        earlier: when the automatic rollbacks so far were, UTC; with the action "checkpoint", the checkpoints that this
            condition had taken.
    """
    if verdict.outcome is not Outcome.FAILURE:
        return (Decision.ALERT, verdict.why) if verdict.alert else (Decision.NOTHING, "")
    if condition.action == "alert":
        return Decision.ALERT, verdict.why
    taking = condition.action == "checkpoint"
    if condition.dry_run:
        would = "a checkpoint would be taken" if taking else "it would be rolled back"
        return Decision.ALERT, f"{verdict.why}; {would}, but this is a dry run"
    # After a clock that was set back, what lies in the future counts as just now.
    ago = [max((now - each).total_seconds(), 0.0) for each in earlier]
    cooling = any(seconds < condition.cooldown for seconds in ago)
    if taking:
        return (Decision.NOTHING, "") if cooling else (Decision.CHECKPOINT, verdict.why)
    many = sum(seconds < condition.window for seconds in ago) >= condition.max_auto_rollbacks
    if not cooling and not many:
        return Decision.ROLLBACK, verdict.why
    held = f"the last automatic rollback was less than {condition.cooldown:g} s ago"
    if not cooling:
        held = f"there were {condition.max_auto_rollbacks} automatic rollbacks within {condition.window:g} s, "
        held += "and only a person may go on"
    return Decision.ALERT, f"{verdict.why}; {held}"


def _is_enough(condition: ConditionalRollback, streak: list[Sample]) -> bool:
    return (
        len(streak) > condition.failure_limit
        and streak[-1].at - streak[0].at >= timedelta(seconds=condition.lasting)
        and sum(each.weight for each in streak) >= condition.min_samples
    )


def _latest(condition: ConditionalRollback, after: list[Sample], failing: list[Sample]) -> Outcome:
    if not after or failing:
        return Outcome.INCONCLUSIVE
    return _outcome(condition, after[-1])


def _outcome(condition: ConditionalRollback, sample: Sample) -> Outcome:
    if sample.error:
        return Outcome.ERROR
    return Outcome.SUCCESS if sample.measured is not None else condition.no_data


def _unheard(condition: ConditionalRollback, after: list[Sample]) -> str:
    """Return why a person should know: the newest samples have failed, or said nothing, for too long."""
    errors = _latest_in_a_row(condition, after, Outcome.ERROR)
    if errors > condition.consecutive_error_limit:
        return f"{condition.name} could not be measured {errors} times in a row: {after[-1].error}"
    silent = _latest_in_a_row(condition, after, Outcome.INCONCLUSIVE)
    if condition.inconclusive_limit is not None and silent > condition.inconclusive_limit:
        return f"{condition.name} had nothing to say {silent} times in a row"
    return ""


def _latest_in_a_row(condition: ConditionalRollback, after: list[Sample], outcome: Outcome) -> int:
    return sum(1 for _ in takewhile(lambda each: _outcome(condition, each) is outcome, reversed(after)))


def _worse_than_before(
    condition: ConditionalRollback, before: list[Sample], after: list[Sample], since: datetime | None
) -> bool:
    """Compare the newest values alone: a version that was well for long must not be excused by that."""
    failing = sum(each.measured is not None and since is not None and each.at >= since for each in after)
    old, new = _values(before), _values(after)[-max(FEWEST, failing) :]
    return is_worse([-each for each in old], [-each for each in new]) if condition.below else is_worse(old, new)


def _values(samples: list[Sample]) -> list[float]:
    return [each.measured for each in samples if each.measured is not None]


def _bound(condition: ConditionalRollback, before: list[Sample]) -> float:
    """Return what a value must be worse than: further out where the change found it failing already.

    It did where most of the newest five values before it are beyond the threshold. What it must be worse than is the
    margin beyond nine tenths of the newest twenty: one short burst among them would otherwise hide any failure.
    """
    values = _values(before)[: -_USUAL - 1 : -1]
    newest = values[:_NEWEST]
    if 2 * sum(_worse(condition, each, condition.threshold) for each in newest) <= len(newest):
        return condition.threshold
    bad = sorted(values, reverse=condition.below)[math.ceil(0.9 * len(values)) - 1]
    return bad + (-1 if condition.below else 1) * condition.margin * abs(bad)


_NEWEST, _USUAL = 5, 20


def _worse(condition: ConditionalRollback, value: float, bound: float) -> bool:
    return value < bound if condition.below else value > bound


def _cleared(condition: ConditionalRollback, value: float, bound: float) -> bool:
    # With a bound moved out by an earlier failure, coming back behind that bound is being as well as before.
    if condition.clear is None or bound != condition.threshold:
        return True
    return not _worse(condition, value, condition.clear)


# One-sided, 98 % confidence.
_Z = 2.0537
_EFFECT = 0.33
FEWEST = 8
"""Values on each side that `is_worse` needs at least."""


def is_worse(before: Sequence[float], after: Sequence[float]) -> bool:
    """Tell whether values are larger than those before by more than chance, and by enough to matter.

    The rank test of Mann and Whitney (Annals of Mathematical Statistics 18, 1947) with the normal approximation,
    corrected for ties and continuity, at 98 % confidence; and Cliff's delta of at least 0.33, which is the usual line
    between a small effect and a medium one.

    Returns:
        False also when either side has fewer than eight values: that is no evidence.
    """
    m, n = len(before), len(after)
    if min(m, n) < FEWEST:
        return False
    ranked = sorted([(value, 0) for value in before] + [(value, 1) for value in after])
    rank_sum = ties = 0.0
    at = 0
    while at < m + n:
        end = at
        while end < m + n and ranked[end][0] == ranked[at][0]:
            end += 1
        count = end - at
        rank_sum += (at + end + 1) / 2 * sum(side for _, side in ranked[at:end])
        ties += count**3 - count
        at = end
    u = rank_sum - n * (n + 1) / 2
    variance = m * n / 12 * ((m + n + 1) - ties / ((m + n) * (m + n - 1)))
    if variance <= 0:
        return False  # all are equal
    return (u - m * n / 2 - 0.5) / math.sqrt(variance) >= _Z and 2 * u / (m * n) - 1 >= _EFFECT
