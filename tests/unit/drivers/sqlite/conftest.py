from __future__ import annotations

from pathlib import Path

import pytest
from sqlite_shop import Shop


@pytest.fixture(params=["wal", "delete"])
def shop(tmp_path: Path, request: pytest.FixtureRequest) -> Shop:
    return Shop(tmp_path, request.param)
