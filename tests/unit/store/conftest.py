from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rfs.production.rollback.store import Store


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def key(tmp_path: Path) -> str:
    return str(tmp_path / "keys" / "app.key")


@pytest.fixture
def store(root: str, key: str) -> Iterator[Store]:
    with Store.create(root, key) as made:
        yield made
