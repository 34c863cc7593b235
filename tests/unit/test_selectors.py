from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from rfs.production.rollback.errors import NotFoundError, UsageError
from rfs.production.rollback.model import CheckOutcome, CheckpointType, DeploymentCheckpoint, HealthReport
from rfs.production.rollback.selectors import find, find_id

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def made(hour: int, checkpoint_id: str, **fields: object) -> DeploymentCheckpoint:
    return DeploymentCheckpoint(
        **{
            "checkpoint_id": checkpoint_id,
            "deployment_id": "",
            "created_at": NOON + timedelta(hours=hour),
            "type": CheckpointType.MANUAL,
            **fields,
        }
    )


WELL = HealthReport((CheckOutcome("http", healthy=True, required=True, detail="", seconds=0.1),))
SICK = HealthReport((CheckOutcome("http", healthy=False, required=True, detail="", seconds=0.1),))
ALL = [
    made(4, "ffff00000000", type=CheckpointType.SAFETY, health=WELL),
    made(3, "abcd11111111", health=SICK, tags=("nightly",)),
    made(2, "abcd22222222", metadata={"version": "v2.0"}, health=HealthReport()),
    made(1, "123456789012", health=WELL, metadata={"version": "v1.0"}),
    made(0, "777777777777", tags=("nightly", "first")),
]


class Listed:
    """Checkpoints, newest first."""

    def __init__(self, listed: Sequence[DeploymentCheckpoint]) -> None:
        self._listed = listed

    def ordinary(self) -> list[DeploymentCheckpoint]:
        return [each for each in self._listed if each.type is not CheckpointType.SAFETY]

    def checkpoint_ids(self, prefix: str) -> list[str]:
        return [each.checkpoint_id for each in self._listed if each.checkpoint_id.startswith(prefix)]

    def checkpoint(self, checkpoint_id: str) -> DeploymentCheckpoint:
        return next(each for each in self._listed if each.checkpoint_id == checkpoint_id)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("@latest", "abcd11111111"),
        ("@-0", "abcd11111111"),
        ("@-2", "123456789012"),
        ("@last-good", "123456789012"),
        ("nightly", "abcd11111111"),
        ("first", "777777777777"),
        ("v1.0", "123456789012"),
        ("abcd1", "abcd11111111"),
        ("ffff", "ffff00000000"),
        ("2026-05-04T13:30:00+00:00", "123456789012"),
        ("2026-05-04T13:00:00+00:00", "123456789012"),
        ("2026-06-01", "abcd11111111"),
    ],
)
def test_each_way_of_naming_one(selector: str, expected: str) -> None:
    assert find(selector, Listed(ALL)).checkpoint_id == expected


@pytest.mark.parametrize("selector", ["@-9", "nothing", "eeee", "2020-01-01", ""])
def test_nothing_matches(selector: str) -> None:
    with pytest.raises(NotFoundError):
        find(selector, Listed(ALL))


def test_the_beginning_of_two_ids_names_both() -> None:
    with pytest.raises(UsageError, match=r"matches 2 .*abcd11111111, abcd22222222"):
        find("abcd", Listed(ALL))


def test_an_unknown_relative_word_is_a_mistake_not_a_miss() -> None:
    with pytest.raises(UsageError, match="@newest"):
        find("@newest", Listed(ALL))
    with pytest.raises(UsageError):
        find("@-" + "9" * 5000, Listed(ALL))


def test_operations_are_found_by_the_beginning_of_their_id() -> None:
    def ids(prefix: str, limit: int) -> list[str]:
        return [each for each in ("aa11", "aa22", "bb33") if each.startswith(prefix)][: limit if limit >= 0 else None]

    assert find_id("b", ids) == "bb33"
    assert find_id("@latest", ids) == "aa11"
    with pytest.raises(UsageError, match="matches 2"):
        find_id("aa", ids)
    for nothing in ("c", "", "zz", "~"):
        with pytest.raises(NotFoundError):
            find_id(nothing, ids)
