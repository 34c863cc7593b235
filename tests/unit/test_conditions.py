"""What `assess` makes of a history of samples."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.conditions import (
    ConditionalRollback,
    Decision,
    Outcome,
    Sample,
    Verdict,
    assess,
    decide,
    is_worse,
)
from rfs.production.rollback.errors import UsageError

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=1)
NAN = float("nan")


def rule(**options):
    return ConditionalRollback("errors", lambda: 0.0, 0.05, **options)


def history(*values, every=30):
    return [
        Sample(at=START + timedelta(seconds=every * n), error=value)
        if isinstance(value, str)
        else Sample(at=START + timedelta(seconds=every * n), value=value)
        for n, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("options", "values", "outcome"),
    [
        ({}, [0.06], Outcome.FAILURE),
        ({}, [0.05], Outcome.SUCCESS),
        ({"below": True}, [0.04], Outcome.FAILURE),
        ({}, [0.06, 0.01], Outcome.SUCCESS),
        ({"failure_limit": 1}, [0.06], Outcome.INCONCLUSIVE),
        ({"failure_limit": 1}, [0.06, 0.07], Outcome.FAILURE),
        ({"failure_limit": 1, "clear": 0.02}, [0.06, 0.03, 0.06], Outcome.INCONCLUSIVE),
        ({"failure_limit": 1, "clear": 0.02}, [0.06, 0.06, 0.03], Outcome.FAILURE),
        ({"failure_limit": 1, "clear": 0.02}, [0.06, 0.06, 0.03, 0.01, 0.06], Outcome.INCONCLUSIVE),
        ({"lasting": 60, "clear": 0.02}, [0.06, 0.03, 0.03, 0.03, 0.06], Outcome.INCONCLUSIVE),
        ({"min_samples": 3, "clear": 0.02}, [0.06, 0.03, 0.03, 0.03], Outcome.INCONCLUSIVE),
        ({"failure_limit": 1}, [0.06, 0.03, 0.06], Outcome.INCONCLUSIVE),
        ({"lasting": 60}, [0.06, 0.06], Outcome.INCONCLUSIVE),
        ({"lasting": 60}, [0.06, 0.06, 0.06], Outcome.FAILURE),
        ({"lasting": 60}, [0.06, NAN, NAN, "down"], Outcome.INCONCLUSIVE),
        ({"min_samples": 3}, [0.06, 0.06], Outcome.INCONCLUSIVE),
        ({"min_samples": 3}, [0.06, 0.06, 0.06], Outcome.FAILURE),
        ({}, [], Outcome.INCONCLUSIVE),
        ({}, [0.01, None], Outcome.INCONCLUSIVE),
        ({"no_data": Outcome.SUCCESS}, [None], Outcome.SUCCESS),
        ({}, [0.01, "down"], Outcome.ERROR),
    ],
)
def test_outcome(options, values, outcome):
    assert assess(rule(**options), history(*values), NOW).outcome is outcome


@pytest.mark.parametrize(
    ("options", "values", "alert"),
    [
        ({}, ["down"] * 4, False),
        ({}, ["down"] * 5, True),
        ({}, ["down"] * 5 + [0.01], False),
        ({}, [None] * 50, False),
        ({"inconclusive_limit": 2}, [None] * 3, True),
        ({"action": "alert"}, [0.06], True),
    ],
)
def test_alert(options, values, alert):
    assert assess(rule(**options), history(*values), NOW).alert is alert


@pytest.mark.parametrize(("after", "outcome"), [(0.105, Outcome.SUCCESS), (0.12, Outcome.FAILURE)])
def test_failing_before_the_change_counts_only_when_it_gets_worse(after, outcome):
    samples = history(0.08, 0.1, after)
    assert assess(rule(), samples, NOW, changed_at=samples[-1].at).outcome is outcome


def test_a_breach_before_the_change_that_was_over_does_not_move_the_bound():
    samples = history(0.1, 0.01, 0.06)
    assert assess(rule(), samples, NOW, changed_at=samples[-1].at).outcome is Outcome.FAILURE


@pytest.mark.parametrize("below", [False, True])
def test_a_burst_just_before_the_change_hides_nothing(below):
    sign = -1 if below else 1
    samples = history(*(sign * each for each in [0.01] * 19 + [0.5, 0.07]))
    condition = ConditionalRollback("errors", lambda: 0.0, sign * 0.05, below=below)
    assert assess(condition, samples, NOW, changed_at=samples[-1].at).outcome is Outcome.FAILURE


@pytest.mark.parametrize(("after", "outcome"), [(0.09, Outcome.SUCCESS), (0.2, Outcome.FAILURE)])
def test_a_burst_in_what_failed_before_does_not_move_the_bound_and_a_good_moment_does_not_move_it_back(after, outcome):
    samples = history(*[0.08, 0.085] * 8, 0.6, 0.08, 0.04, 0.085, 0.04, after)
    assert assess(rule(), samples, NOW, changed_at=samples[-1].at).outcome is outcome


def test_the_trouble_began_with_the_first_value_that_failed_and_not_with_those_that_tripped():
    found = assess(rule(clear=0.02, failure_limit=1), history(0.01, 0.06, 0.03, 0.06, 0.06), NOW)
    assert (found.since, found.failing) == (START + timedelta(seconds=30), 3)


def test_a_failure_within_the_initial_delay_alone_is_not_judged():
    assert assess(rule(initial_delay=90), history(0.5, 0.5), NOW, changed_at=START).outcome is Outcome.INCONCLUSIVE


def test_samples_of_the_future_are_left_out():
    assert assess(rule(), history(0.01, 0.06), START).outcome is Outcome.SUCCESS


@pytest.mark.parametrize("options", [{"clear": 0.06}, {"below": True, "clear": 0.01}, {"lasting": -1}])
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(UsageError):
        rule(**options)


OPTIONS = st.fixed_dictionaries(
    {
        "lasting": st.sampled_from([0, 60]),
        "failure_limit": st.integers(0, 2),
        "min_samples": st.integers(0, 3),
        "baseline": st.booleans(),
        "clear": st.sampled_from([None, 0.02]),
        "below": st.just(value=False),
        "no_data": st.sampled_from([Outcome.INCONCLUSIVE, Outcome.SUCCESS]),
        "consecutive_error_limit": st.integers(0, 5),
        "inconclusive_limit": st.none() | st.integers(0, 5),
        "margin": st.floats(0, 1),
    }
)
NOTHING = st.sampled_from([None, NAN, float("inf"), float("-inf"), "down"])
LEVELS = st.sampled_from([0.0, 0.03, 0.05, 0.06, 0.2, 1.0])


@given(OPTIONS, st.lists(LEVELS | NOTHING, max_size=12), st.lists(NOTHING, min_size=1))
def test_no_data_and_errors_alone_never_roll_back(options, before, values):
    samples = history(*before, *values)
    condition = rule(**options)
    verdict = assess(condition, samples, NOW, changed_at=samples[len(before)].at)
    assert verdict.outcome is not Outcome.FAILURE
    assert decide(condition, verdict, NOW, [])[0] is not Decision.ROLLBACK


@given(OPTIONS, st.lists(LEVELS | NOTHING, max_size=12), NOTHING)
def test_a_sample_that_says_nothing_never_makes_it_trip(options, values, last):
    condition = rule(**options)
    now, then = history(*values, last), history(*values)
    tripped = assess(condition, now, NOW).outcome is Outcome.FAILURE
    assert tripped == (assess(condition, then, NOW).outcome is Outcome.FAILURE)


@given(OPTIONS, st.lists(LEVELS | NOTHING, max_size=12), st.lists(st.sampled_from([0.0, 0.03, 0.05]), max_size=12))
def test_what_was_never_beyond_the_threshold_since_the_change_never_trips(options, before, values):
    samples = history(*before, *values)
    changed_at = START + timedelta(seconds=30 * len(before))
    assert assess(rule(**options), samples, NOW, changed_at=changed_at).outcome is not Outcome.FAILURE


@given(st.lists(st.floats(0, 0.2) | st.none() | st.just("down"), max_size=20), st.randoms())
def test_the_order_in_which_samples_arrive_does_not_matter(values, random):
    samples = history(*values)
    mixed = random.sample(samples, len(samples))
    assert assess(rule(clear=0.02, lasting=60), mixed, NOW) == assess(rule(clear=0.02, lasting=60), samples, NOW)


def tripped(at=START):
    return Verdict(outcome=Outcome.FAILURE, failing=1, since=at, why="errors is 0.07, above 0.05")


@pytest.mark.parametrize(
    ("options", "ago", "decision", "says"),
    [
        ({}, [], Decision.ROLLBACK, ""),
        ({"action": "alert"}, [], Decision.ALERT, ""),
        ({"dry_run": True}, [], Decision.ALERT, "dry run"),
        ({}, [599], Decision.ALERT, "less than 600 s ago"),
        ({}, [601], Decision.ROLLBACK, ""),
        ({}, [-5], Decision.ALERT, "less than 600 s ago"),
        ({}, [601, 5000, 80_000], Decision.ALERT, "only a person"),
        ({}, [601, 5000, 90_000], Decision.ROLLBACK, ""),
        ({"max_auto_rollbacks": 0}, [], Decision.ALERT, "only a person"),
    ],
)
def test_decision(options, ago, decision, says):
    rollbacks = [NOW - timedelta(seconds=each) for each in ago]
    found, why = decide(rule(**options), tripped(), NOW, rollbacks)
    assert found is decision
    assert says in why


def test_what_has_not_tripped_calls_for_nothing():
    assert decide(rule(), assess(rule(), history(0.01), NOW), NOW, []) == (Decision.NOTHING, "")


def pairs_worse(before, after):
    """Cliff's delta, pair by pair."""
    return sum((b > a) - (b < a) for a in before for b in after) / (len(before) * len(after))


NUMBERS = st.lists(st.integers(0, 30).map(float), max_size=25)


@given(NUMBERS, NUMBERS)
def test_worse_is_worse_by_enough_and_never_both_ways(before, after):
    if is_worse(before, after):
        assert len(before) >= 8
        assert len(after) >= 8
        assert pairs_worse(before, after) >= 0.33 - 1e-9
        assert not is_worse(after, before)
        assert is_worse([each * 3 - 7 for each in before], [each * 3 - 7 for each in after])


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (range(10), range(10, 20), True),
        (range(10), range(10), False),
        ([1] * 20, [1] * 20, False),
        (range(7), range(100, 107), False),  # too few to tell
        # U is 78 of 100, and then 77: the exact one-sided probabilities are 0.0177 and 0.0216.
        (range(10), [each - 0.5 for each in (10, 10, 10, 10, 8, 7, 7, 6, 5, 5)], True),
        (range(10), [each - 0.5 for each in (10, 10, 10, 10, 8, 7, 7, 6, 5, 4)], False),
    ],
)
def test_worse(before, after, worse):
    assert is_worse(before, after) is worse


@pytest.mark.parametrize(("old", "trips"), [(0.01, True), (0.049, True), (0.07, False)])
def test_with_a_baseline_it_must_have_been_better_before(old, trips):
    # The last values before the change are well, so that the threshold stands.
    samples = history(*[old] * 20, *[0.01] * 3, *[0.07] * 10)
    found = assess(rule(baseline=True), samples, NOW, changed_at=samples[23].at)
    assert (found.outcome is Outcome.FAILURE) is trips


def test_a_baseline_that_is_missing_trips_nothing_and_a_person_is_told():
    found = assess(rule(baseline=True), history(*[0.07] * 20), NOW)
    assert (found.outcome, found.alert) == (Outcome.INCONCLUSIVE, True)
    assert "too little was measured before the change" in found.why
    assert decide(rule(baseline=True), found, NOW, ())[0] is Decision.ALERT


@pytest.mark.parametrize(("failing", "trips"), [(2, False), (5, True), (20, True)])
def test_a_baseline_is_compared_with_the_newest_values_alone(failing, trips):
    """A version that was well for hours is not excused by that."""
    samples = history(*[0.01] * 20, *[0.01] * 300, *[0.07] * failing)
    found = assess(rule(baseline=True), samples, NOW, changed_at=samples[20].at)
    assert (found.outcome is Outcome.FAILURE, found.alert) == (trips, False)
