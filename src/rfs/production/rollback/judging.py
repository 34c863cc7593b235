"""On what a configured condition is judged: its own measurements of the state that is live, and nothing older.

A rollback makes what was measured before it the history of another state. What was measured before a deployment only
tells whether the condition failed before, and what is measured while it is being made tells nothing. `judge` is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import takewhile

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.automatic import automatic_times, last_rollback
from rfs.production.rollback.conditions import ConditionalRollback, Outcome, Sample, Verdict, assess
from rfs.production.rollback.model import CheckpointType
from rfs.production.rollback.samples import KEPT

COMPARED = 60
"""So many intervals before a change are compared with what comes after it."""
RULE = "condition"
"""The key of a CONDITIONAL checkpoint's metadata that names the condition."""
# Measurements further apart than so many times what one may take were not made by a daemon that ran on.
_GAP = 3
# A rule that is measured once a year must not look back to before there were years.
_LONGEST = 1e9


class Ground(msgspec.Struct, frozen=True):
    """What happened to the application, as far as judging has to know. All times UTC.

    Attributes:
        live_since: when the last rollback ended: what was measured before is of a state that went; None without any.
        changing: when the last deployment since then began; None without any.
        changed: when its change had ended.
        rollbacks: when the automatic rollbacks were.
        on_trial: a deployment or rollback is open, and its guard judges.
    """

    live_since: datetime | None = None
    changing: datetime | None = None
    changed: datetime | None = None
    rollbacks: tuple[datetime, ...] = ()
    on_trial: bool = False

    def compared(self, rule: ConditionalRollback) -> tuple[datetime, datetime] | None:
        """Return from when to when was measured what the present is compared with, or None."""
        if self.changing is None:
            return None
        since = self.changing - timedelta(seconds=COMPARED * rule.interval)
        return (since if self.live_since is None else max(since, self.live_since)), self.changing


def ground_of(app: Application, now: datetime, rules: Sequence[ConditionalRollback]) -> Ground:
    """Return it as it is now, reading no more of the history than these rules need."""
    # What happened before everything that is remembered of what was measured decides nothing.
    spans = [each for rule in rules for each in (rule.window, rule.cooldown, rule.initial_delay, KEPT * rule.interval)]
    oldest = now - timedelta(seconds=min(_LONGEST, max([0.0, *spans])))
    lately = list(takewhile(lambda each: each.created_at >= oldest, app.catalog.history()))
    rollbacks = automatic_times(lately)
    live_since = last_rollback(lately)
    newest = next((each for each in app.catalog.deployments() if each.kind == "guard" and each.changed_at), None)
    changing = changed = None
    if newest is not None and (live_since is None or newest.created_at > live_since):
        changing, changed = newest.changing_at, newest.changed_at
    on_trial = app.deployments.open() is not None
    return Ground(live_since, changing, changed, tuple(rollbacks), on_trial)


def taken_by(app: Application, rule: ConditionalRollback, now: datetime) -> list[datetime]:
    """Return when the checkpoints within its cooldown were taken that a condition asked for, UTC."""
    oldest = now - timedelta(seconds=rule.cooldown)
    found = []
    for each in app.catalog.ordinary():
        if each.created_at < oldest:
            break
        if each.type is CheckpointType.CONDITIONAL and each.metadata.get(RULE) == rule.name:
            found.append(each.created_at)
    return found


def judge(
    rule: ConditionalRollback,
    before: Sequence[Sample],
    samples: Sequence[Sample],
    ground: Ground,
    now: datetime,
    *,
    began: datetime | None = None,
) -> Verdict:
    """Judge what a condition measured.

    Args:
        before: what was measured in the time that `Ground.compared` names.
        samples: what was measured; what does not count is left out here. After a clock that was set back: only what
            was measured since.
        began: when the monitoring began; what was measured in `initial_delay` after that is left out.
    """
    since = ground.changed or ground.live_since
    compared = [each for each in before if ground.changing is not None and each.at < ground.changing]
    if since is not None and since > now:
        since, compared = _set_back(samples, compared, now)
    warm = timedelta(seconds=rule.initial_delay)
    after = [
        each
        for each in sorted(samples, key=lambda each: each.at)
        if each.at <= now
        and (since is None or each.at >= since)
        and (began is None or not began <= each.at < began + warm)
    ]
    return assess(rule, [*compared, *unbroken(after, rule, now)], now, changed_at=since)


def _set_back(samples: Sequence[Sample], before: list[Sample], now: datetime) -> tuple[datetime, list[Sample]]:
    """Return since when is measured, and what was measured before, by a clock that was set back after the change."""
    first = min((each.at for each in samples if each.at <= now), default=now)
    last = max((each.at for each in before), default=first)
    by = last - first + timedelta(microseconds=1)
    return first, [msgspec.structs.replace(each, at=each.at - by) for each in before]


def unbroken(samples: Sequence[Sample], rule: ConditionalRollback, now: datetime) -> Sequence[Sample]:
    """Return the newest of these samples (oldest first) between which the measuring never ceased.

    Time that passed without any, while nothing ran or after a clock was set forward, tells nothing.
    """
    longest = timedelta(seconds=_GAP * (rule.interval + rule.timeout))
    first = len(samples)
    after = now
    while first and after - samples[first - 1].at <= longest:
        first -= 1
        after = samples[first].at
    return samples[first:]


class State(StrEnum):
    """How a condition stands. FAILING: too bad, though not for long enough yet; UNKNOWN: nobody measures it."""

    OK = "ok"
    FAILING = "failing"
    TRIPPED = "tripped"
    NO_DATA = "no data"
    ERROR = "error"
    UNKNOWN = "unknown"


class Standing(msgspec.Struct, frozen=True):
    """A condition, as people look at it.

    Attributes:
        samples: what was measured, oldest first.
        disarmed_until: with so many automatic rollbacks behind it there is no other before then, UTC; None otherwise.
    """

    rule: ConditionalRollback
    state: State
    verdict: Verdict
    samples: tuple[Sample, ...] = ()
    disarmed_until: datetime | None = None


def standing(
    rule: ConditionalRollback, before: Sequence[Sample], samples: Sequence[Sample], ground: Ground, now: datetime
) -> Standing:
    """Return how a condition stands; arguments as for `judge`."""
    verdict = judge(rule, before, samples, ground, now)
    since = ground.changed or ground.live_since
    there = [each for each in samples if each.at <= now and (since is None or each.at >= since or since > now)]
    fresh = unbroken(there, rule, now)
    found = {
        Outcome.SUCCESS: State.OK,
        Outcome.FAILURE: State.TRIPPED,
        Outcome.ERROR: State.ERROR,
        Outcome.INCONCLUSIVE: State.FAILING if verdict.failing else State.NO_DATA,
    }[verdict.outcome]
    until = _disarmed_until(rule, ground.rollbacks, now) if rule.action == "rollback" else None
    return Standing(rule, found if fresh else State.UNKNOWN, verdict, tuple(samples), until)


def _disarmed_until(rule: ConditionalRollback, rollbacks: Sequence[datetime], now: datetime) -> datetime | None:
    window = timedelta(seconds=rule.window)
    counted = sorted(each for each in rollbacks if now - each < window)
    most = rule.max_auto_rollbacks
    if len(counted) < most:
        return None
    return counted[-most] + window if most else now + window
