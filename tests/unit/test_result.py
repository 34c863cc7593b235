from __future__ import annotations

import pytest

from rfs.core.result import Failure, Result, Success, WrongSideError


def halve(number: int) -> Result[int, str]:
    return Success(number // 2) if number % 2 == 0 else Failure(f"{number} is odd")


def test_a_success_carries_its_value_through_map_and_bind() -> None:
    assert Success(20).map(str) == Success("20")
    assert Success(20).bind(halve).bind(halve) == Success(5)
    assert Success(20).bind(halve).bind(halve).bind(halve) == Failure("5 is odd")
    assert Success(1).map_error(str).unwrap_or(9) == 1


def test_a_failure_passes_everything_by() -> None:
    failed: Result[int, str] = halve(3)
    assert failed.map(lambda number: number + 1) == failed
    assert failed.bind(halve) == failed
    assert failed.map_error(len) == Failure(8)
    assert failed.unwrap_or(7) == 7


def test_the_wrong_side_raises() -> None:
    with pytest.raises(WrongSideError):
        _ = Success(1).error
    with pytest.raises(WrongSideError, match="3 is odd"):
        _ = halve(3).value
    with pytest.raises(ValueError, match="as it was"):
        Failure(ValueError("as it was")).unwrap()
    with pytest.raises(WrongSideError):
        Failure("text").unwrap()


def test_both_sides_match() -> None:
    match halve(8):
        case Success(value):
            assert value == 4
        case Failure(error):
            pytest.fail(error)
    assert halve(8).is_success()
    assert not halve(8).is_failure()
    assert halve(7).is_failure()
    assert not halve(7).is_success()
