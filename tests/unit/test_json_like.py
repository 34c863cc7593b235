from __future__ import annotations

import math
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.model import CheckpointType, json_like


def test_what_json_has_comes_back_as_it_was_kept() -> None:
    given = OrderedDict(
        a=None, b=True, c=2**70, d=1.5, e="\ud800ü", f=(1, [2, {"g": ()}]), g=CheckpointType.MANUAL, h={}
    )
    kept = json_like(given, "metadata")
    assert kept == msgspec.json.decode(msgspec.json.encode(kept))
    assert kept == {
        "a": None, "b": True, "c": 2**70, "d": 1.5, "e": "\\ud800ü", "f": [1, [2, {"g": []}]], "g": "manual", "h": {},
    }  # fmt: skip


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "metadata['k'] cannot be stored: nan is no number that JSON has"),
        (-math.inf, "-inf is no number"),
        (10**400, "is no number"),
        (b"bytes", "it is of type bytes"),
        (datetime(2026, 1, 1, tzinfo=UTC), "it is of type datetime"),
        ({"a": [0, {1}]}, "metadata['k']['a'][1] cannot be stored: it is of type set"),
        ({1: "a"}, "its key 1 is no string"),
        (LOOP, "contains itself"),
        (object, "it is of type type"),
    ],
)
def test_what_json_has_not_is_named(value: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        json_like({"k": value}, "metadata")
    assert said in str(caught.value)
