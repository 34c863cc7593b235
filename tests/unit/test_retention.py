"""Retention: the rules one by one, then properties that must hold for any history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.model import CheckpointType, DeploymentCheckpoint
from rfs.production.rollback.retention import DEFAULT, NO_RULE, Retention, apply

NOW = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)


def made(number: int, age: timedelta, **fields: object) -> DeploymentCheckpoint:
    record = {"type": CheckpointType.MANUAL, "deployment_id": "", **fields}
    return DeploymentCheckpoint(checkpoint_id=f"{number:012x}", created_at=NOW - age, **record)


def every(step: timedelta, count: int, **fields: object) -> list[DeploymentCheckpoint]:
    return [made(n, step * n, **fields) for n in range(count)]


def numbers(ids: tuple[str, ...]) -> list[int]:
    return [int(each, 16) for each in ids]


def test_keep_last_keeps_the_newest_in_order() -> None:
    found = apply(every(timedelta(hours=1), 5), Retention(keep_last=2), NOW)
    assert numbers(found.keep) == [0, 1]
    assert numbers(found.remove) == [2, 3, 4]
    assert found.reasons[found.remove[0]] == (NO_RULE,)


def test_daily_keeps_the_newest_of_each_day_that_has_one() -> None:
    history = [made(n, timedelta(hours=h)) for n, h in enumerate([1, 2, 25, 26, 73, 74, 200])]
    found = apply(history, Retention(keep_daily=3), NOW)
    assert numbers(found.keep) == [0, 2, 4]


def test_weeks_are_iso_weeks_across_a_new_year() -> None:
    first = DeploymentCheckpoint(
        checkpoint_id="a" * 12,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        type=CheckpointType.MANUAL,
        deployment_id="",
    )
    same_week = DeploymentCheckpoint(
        checkpoint_id="b" * 12,
        created_at=datetime(2025, 12, 29, tzinfo=UTC),
        type=CheckpointType.MANUAL,
        deployment_id="",
    )
    found = apply([first, same_week], Retention(keep_weekly=5), NOW)
    assert found.remove == ("b" * 12,)
    assert apply([first, same_week], Retention(keep_yearly=5), NOW).remove == ()


def test_hourly_monthly_and_yearly() -> None:
    history = [made(n, timedelta(days=d, minutes=5)) for n, d in enumerate([0, 10, 40, 50, 400])]
    assert numbers(apply(history, Retention(keep_monthly=2), NOW).keep) == [0, 2]
    assert numbers(apply(history, Retention(keep_yearly=9), NOW).keep) == [0, 4]
    minutes = every(timedelta(minutes=20), 7)  # 12:00, 11:40 … 10:00
    assert numbers(apply(minutes, Retention(keep_hourly=2), NOW).keep) == [0, 1]


def test_within_tags_pins_and_holds_join() -> None:
    history = [
        made(0, timedelta(days=1)),
        made(1, timedelta(days=2), tags=("release",)),
        made(2, timedelta(days=3), pinned=True),
        made(3, timedelta(days=4)),
        made(4, timedelta(days=5)),
    ]
    policy = Retention(keep_within=36 * 3600, keep_tags=("release",))
    found = apply(history, policy, NOW, {f"{3:012x}": "the last one verified healthy"})
    assert numbers(found.keep) == [0, 1, 2, 3]
    assert found.reasons[f"{3:012x}"] == ("the last one verified healthy",)
    assert found.reasons[f"{1:012x}"] == ("tag release",)
    assert "young enough" in found.reasons[f"{0:012x}"]


def test_safety_checkpoints_are_not_counted_and_stay_only_when_held() -> None:
    history = [
        made(0, timedelta(hours=1), type=CheckpointType.SAFETY),
        made(1, timedelta(hours=2), type=CheckpointType.SAFETY),
        made(2, timedelta(hours=3)),
        made(3, timedelta(hours=4)),
    ]
    found = apply(history, Retention(keep_last=1), NOW, {f"{0:012x}": "undo of 123 needs it"})
    assert numbers(found.keep) == [0, 2]


def test_the_newest_stays_even_when_no_rule_keeps_it() -> None:
    found = apply(every(timedelta(days=30), 3), Retention(keep_tags=("x",)), NOW)
    assert numbers(found.keep) == [0]
    assert found.reasons[found.keep[0]] == ("the newest",)


def test_a_hold_on_something_that_is_gone_is_no_matter() -> None:
    assert apply([], DEFAULT, NOW, {"f" * 12: "held"}).keep == ()


def test_the_default_keeps_ten_seven_days_and_four_weeks() -> None:
    found = apply(every(timedelta(hours=6), 200), DEFAULT, NOW)
    kept = numbers(found.keep)
    days = [0, 3, 7, 11, 15, 19, 23]  # noon of the 31st, then 18:00 of each day before
    weeks = [0, 7, 35, 63]  # Tuesday the 31st, then 18:00 of three Sundays
    assert kept == sorted({*range(10), *days, *weeks})


counts = st.integers(0, 5)
policies = st.builds(
    Retention,
    keep_last=counts,
    keep_hourly=counts,
    keep_daily=counts,
    keep_weekly=counts,
    keep_monthly=counts,
    keep_yearly=counts,
    keep_within=st.floats(0, 1e7),
    keep_tags=st.lists(st.sampled_from("abc"), max_size=2).map(tuple),
)
entries = st.tuples(
    st.integers(-3600, 10**8),
    st.sampled_from(list(CheckpointType)),
    st.booleans(),
    st.lists(st.sampled_from("abc"), max_size=2).map(tuple),
)
histories = st.lists(entries, max_size=30).map(
    lambda rows: [
        made(n, timedelta(seconds=age), type=kind, pinned=pinned, tags=tags)
        for n, (age, kind, pinned, tags) in enumerate(rows)
    ]
)


@given(histories, policies, st.sets(st.integers(0, 29)))
def test_every_checkpoint_is_judged_once_and_what_is_held_stays(history, policy, held) -> None:
    holds = {f"{n:012x}": "held" for n in held}
    found = apply(history, policy, NOW, holds)
    ids = [checkpoint.checkpoint_id for checkpoint in history]
    assert sorted([*found.keep, *found.remove]) == sorted(ids)
    assert set(found.reasons) == set(ids)
    assert not set(found.remove) & set(holds)
    for checkpoint in history:
        if checkpoint.pinned or set(checkpoint.tags) & set(policy.keep_tags):
            assert checkpoint.checkpoint_id in found.keep
    assert all(found.reasons[each] == (NO_RULE,) for each in found.remove)
    assert all(NO_RULE not in found.reasons[each] for each in found.keep)


@given(histories, policies)
def test_applying_it_again_removes_nothing_more(history, policy) -> None:
    once = apply(history, policy, NOW)
    left = [checkpoint for checkpoint in history if checkpoint.checkpoint_id in once.keep]
    assert apply(left, policy, NOW).remove == ()


@given(histories, policies, policies)
def test_a_union_of_rules_keeps_at_least_what_each_keeps(history, one, other) -> None:
    both = Retention(
        **{
            name: max(getattr(one, name), getattr(other, name))
            for name in Retention.__struct_fields__
            if name != "keep_tags"
        },
        keep_tags=(*one.keep_tags, *other.keep_tags),
    )
    assert set(apply(history, one, NOW).keep) <= set(apply(history, both, NOW).keep)


@given(histories, policies)
def test_the_order_of_the_input_does_not_matter_for_distinct_times(history, policy) -> None:
    distinct = list({checkpoint.created_at: checkpoint for checkpoint in history}.values())
    assert set(apply(distinct, policy, NOW).keep) == set(apply(distinct[::-1], policy, NOW).keep)
