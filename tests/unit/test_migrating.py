"""Which migrations are taken back, in which order, and which checkpoint covers those without a way down."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.migrating import Applied, covering, lacking, version_key, way_down


def applied(*versions: str, without: str = "") -> list[Applied]:
    return [Applied(each, None if each == without else f"-- {each}") for each in versions]


def names(way: list[Applied]) -> list[str]:
    return [each.version for each in way]


numbers = st.lists(st.integers(0, 999), min_size=1, max_size=12, unique=True)


def test_versions_are_ordered_as_people_read_them() -> None:
    wanted = ["1", "1.9", "1.10", "2", "10", "0011", "20260101_a", "20260101_b"]
    assert sorted(sorted(wanted), key=version_key) == wanted
    assert version_key("007") == version_key("7")


def test_the_way_is_what_comes_after_newest_first() -> None:
    there = applied("2", "10", "1", "9")
    assert names(way_down(there, "2")) == ["10", "9"]
    assert names(way_down(there, "0")) == ["10", "9", "2", "1"]


@pytest.mark.parametrize("target", ["1O", "x", "", "v1", "-1"])
def test_a_target_that_nobody_can_mean_is_refused_with_what_there_is(target: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        way_down(applied("1", "2", "10"), target)
    assert caught.value.key == "migration.unknown"
    assert "1, 2, 10" in str(caught.value)


def test_nothing_after_it_is_an_error() -> None:
    for there, target in ((applied("1", "2"), "2"), (applied("1", "2"), "3"), ([], "1")):
        with pytest.raises(RollbackError) as caught:
            way_down(there, target)
        assert caught.value.key == "migration.nothing"


@given(numbers, st.integers(-1, 1000))
def test_what_stays_and_what_goes_is_all_there_is(there: list[int], target: int) -> None:
    versions = [f"{number:03}" for number in there]
    after = [each for each in there if each > target]
    if not after or target < 0:
        with pytest.raises(RollbackError):
            way_down(applied(*versions), f"{target:03}")
        return
    way = names(way_down(applied(*versions), f"{target:03}"))
    assert [int(each) for each in way] == sorted(after, reverse=True)


@given(st.text("019.abZ_-", max_size=12), st.text("019.abZ_-", max_size=12))
def test_the_order_is_total_and_blind_to_zeros_in_front(one: str, other: str) -> None:
    assert (version_key(one) < version_key(other)) + (version_key(other) < version_key(one)) <= 1
    assert version_key(f"0{one}") == version_key(one) or not one[:1].isdecimal()


def test_a_script_of_blanks_is_none() -> None:
    assert lacking([Applied("3", " \n"), Applied("2", "x"), Applied("1", None)]) == ["3", "1"]


@pytest.mark.parametrize(
    ("checkpoints", "chosen"),
    [
        ([], None),
        ([None], None),
        ([["1", "2"]], 0),
        ([["1"]], 0),
        ([["1"], ["1", "2"]], 1),  # that takes back least
        ([["1", "2"], ["1", "2"]], 0),  # the newest
        ([["1", "2", "3"]], None),  # what has no script was in force
        ([["2"]], None),  # what stays was not
        ([["1", "4"]], None),
        ([[]], None),
    ],
)
def test_the_checkpoint_that_covers_takes_back_least(checkpoints: list[list[str] | None], chosen: int | None) -> None:
    way = way_down(applied("1", "2", "3", "4", without="3"), "1")
    assert covering(way, ["1"], checkpoints) == chosen


@given(st.integers(2, 6), st.data())
def test_what_covers_leaves_no_gap_and_nothing_without_a_script(count: int, data: st.DataObject) -> None:
    versions = [str(number) for number in range(1, count + 1)]
    kept = versions[: data.draw(st.integers(0, count - 1))]
    without = data.draw(st.sampled_from(versions[len(kept) :]))
    way = way_down(applied(*versions, without=without), kept[-1] if kept else "0")
    subsets = [list(each) for size in range(count + 1) for each in itertools.combinations(versions, size)]
    checkpoints = data.draw(st.lists(st.sampled_from(subsets), max_size=6))
    chosen = covering(way, kept, checkpoints)
    good = [each for each in checkpoints if each == versions[: len(each)] and len(kept) <= len(each) < int(without)]
    if chosen is None:
        assert not good
    else:
        assert checkpoints[chosen] == max(good, key=len)
