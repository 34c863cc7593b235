"""Marks the fault tests by their folder, so that `make test` can leave their slow ones to `make crash`."""

from __future__ import annotations

from pathlib import Path

import pytest

CRASH = Path(__file__).parent / "crash"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(CRASH):
            item.add_marker("crash")
