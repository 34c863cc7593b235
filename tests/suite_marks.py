"""Marks for single checks of `DriverSuite`, where they take long for one driver only."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest


def slow(check: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
    """Return a check that is marked as slow here, and not for every other driver as well."""

    @wraps(check)
    def call(self: Any, tmp_path: Path) -> None:
        check(self, tmp_path)

    return pytest.mark.slow(call)
