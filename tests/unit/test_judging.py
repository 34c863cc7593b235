"""On what a configured condition is judged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rfs.production.rollback.conditions import ConditionalRollback, Outcome, Sample
from rfs.production.rollback.judging import Ground, State, judge, standing, unbroken

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def rule(**options):
    return ConditionalRollback("errors", lambda: 0.0, 0.05, **options)


def ago(seconds):
    return NOW - timedelta(seconds=seconds)


def samples(*pairs):
    """Return samples of (seconds ago, value)."""
    return [Sample(at=ago(seconds), value=value) for seconds, value in pairs]


def outcome(condition, taken, ground=Ground(), before=(), **options):  # noqa: B008 — it is frozen
    return judge(condition, before, taken, ground, NOW, **options).outcome


def test_time_without_measurements_tells_nothing():
    lasting = rule(lasting=60)
    assert outcome(lasting, samples((90, 0.5), (60, 0.5), (30, 0.5), (0, 0.5))) is Outcome.FAILURE
    # 3 x (30 + 10) s is the longest gap.
    assert outcome(lasting, samples((300, 0.5), (0, 0.5))) is Outcome.INCONCLUSIVE
    assert outcome(lasting, samples((119, 0.5), (0, 0.5))) is Outcome.FAILURE
    assert outcome(rule(), samples((500, 0.5))) is Outcome.INCONCLUSIVE
    assert unbroken(samples((500, 0.5), (30, 0.1), (0, 0.2)), rule(), NOW) == samples((30, 0.1), (0, 0.2))


def test_what_is_measured_before_the_last_rollback_or_in_the_future_does_not_count():
    taken = samples((60, 0.5), (30, 0.5), (0, 0.01))
    assert outcome(rule(), taken[:2]) is Outcome.FAILURE
    assert outcome(rule(), taken[:2], Ground(live_since=ago(10))) is Outcome.INCONCLUSIVE
    assert outcome(rule(), taken) is Outcome.SUCCESS
    assert outcome(rule(), [*taken, *samples((-30, 0.5))]) is Outcome.SUCCESS


def test_what_is_measured_while_the_change_is_made_is_neither_before_nor_after():
    ground = Ground(changing=ago(60), changed=ago(20))
    before = samples((90, 0.01), (70, 0.01))
    assert outcome(rule(), [*before, *samples((50, 0.5), (30, 0.5), (0, 0.01))], ground, before) is Outcome.SUCCESS
    assert outcome(rule(), samples((50, 0.5), (30, 0.5)), ground, before) is Outcome.INCONCLUSIVE
    # Were it taken for what was before, 0.5 would be no worse.
    assert outcome(rule(), samples((50, 0.5), (0, 0.5)), ground, before) is Outcome.FAILURE


def test_what_failed_before_must_get_worse():
    ground = Ground(changing=ago(60), changed=ago(50))
    assert outcome(rule(), samples((0, 0.5)), ground, samples((70, 0.5))) is Outcome.SUCCESS
    assert outcome(rule(), samples((0, 0.6)), ground, samples((70, 0.5))) is Outcome.FAILURE


def test_the_time_after_a_rollback_and_after_the_start_is_not_judged():
    delayed = rule(initial_delay=60)
    taken = samples((30, 0.5), (0, 0.5))
    assert outcome(delayed, taken) is Outcome.FAILURE
    assert outcome(delayed, taken, Ground(live_since=ago(50))) is Outcome.INCONCLUSIVE
    assert outcome(delayed, taken, began=ago(50)) is Outcome.INCONCLUSIVE
    # What was measured before the daemon was started anew still counts.
    assert outcome(delayed, taken, began=ago(10)) is Outcome.FAILURE


def test_compared_is_the_time_before_the_change_and_after_the_last_rollback():
    assert Ground().compared(rule()) is None
    assert Ground(changing=NOW, changed=NOW).compared(rule()) == (ago(1800), NOW)
    assert Ground(live_since=ago(100), changing=NOW, changed=NOW).compared(rule()) == (ago(100), NOW)


@pytest.mark.parametrize(
    ("taken", "state"),
    [
        ([], State.UNKNOWN),
        (samples((500, 0.01)), State.UNKNOWN),
        (samples((0, 0.01)), State.OK),
        (samples((60, 0.5), (0, 0.5)), State.FAILING),
        (samples((110, 0.5), (0, 0.5)), State.TRIPPED),
        (samples((0, None)), State.NO_DATA),
        ([Sample(at=NOW, error="down")], State.ERROR),
    ],
)
def test_how_it_stands(taken, state):
    assert standing(rule(lasting=100), (), taken, Ground(), NOW).state is state


@pytest.mark.parametrize(
    ("rollbacks", "most", "until"),
    [
        ((10, 20), 3, None),
        ((10, 20), 2, 80),
        ((10, 20, 200), 2, 80),
        ((10, 20, 30), 2, 80),
        ((), 0, 100),
    ],
)
def test_until_when_it_is_disarmed(rollbacks, most, until):
    limited = rule(max_auto_rollbacks=most, window=100)
    found = standing(limited, (), (), Ground(rollbacks=tuple(ago(each) for each in rollbacks)), NOW).disarmed_until
    assert found == (NOW + timedelta(seconds=until) if until is not None else None)


def test_after_a_clock_that_was_set_back_it_is_judged_on():
    """The change lies in the future then; the samples are of since the clock was set: see Probe."""
    ground = Ground(changing=ago(-3600), changed=ago(-3500))
    taken = samples((60, 0.5), (30, 0.5), (0, 0.5))
    assert outcome(rule(lasting=60), taken, ground) is Outcome.FAILURE
    assert outcome(rule(), samples((0, 0.01)), ground) is Outcome.SUCCESS
    before = samples(*((-3600 + 30 * each, 0.5) for each in range(1, 10)))
    assert outcome(rule(), taken, ground, before) is Outcome.SUCCESS
    assert outcome(rule(), samples((0, 0.6)), ground, before) is Outcome.FAILURE
    assert standing(rule(), before, taken, ground, NOW).state is State.OK
    assert outcome(rule(), taken, Ground(live_since=ago(-10))) is Outcome.FAILURE
