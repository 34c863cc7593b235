from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rfs.production.rollback.store import Store


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of fsyncs prove nothing here that needs a disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="rfs-store-", dir="/dev/shm") as folder:
        yield Path(folder)


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
