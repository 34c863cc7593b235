"""Content is cut, hashed and written back equal, whatever its size and holes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfs.production.rollback.drivers.files import content
from rfs.production.rollback.drivers.files.content import Reading
from rfs.production.rollback.drivers.files.tree import NONE, PLAIN, Entry
from rfs.testing import MemoryStore

KIB = 1024


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code with long files a thousand times shorter."""
    monkeypatch.setattr(content, "WHOLE", 8 * KIB)
    monkeypatch.setattr(content, "_LEAST", 256)
    monkeypatch.setattr(content, "_USUAL", 1 * KIB)
    monkeypatch.setattr(content, "_MOST", 4 * KIB)
    monkeypatch.setattr(content, "_WINDOW", 16 * KIB)
    monkeypatch.setattr(content, "_CELL", 1 * KIB)


def read(path: Path, store: MemoryStore | None) -> Reading:
    fd = os.open(path, os.O_RDONLY)
    try:
        return content.read(fd, os.fstat(fd), store)
    finally:
        os.close(fd)


def entry(found: Reading) -> Entry:
    return Entry(0o100644, 0, 0, 0, found.status.st_size, found.digest, found.blob, PLAIN, found.chunks)


def written(path: Path, found: Reading, store: MemoryStore) -> bytes:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        content.write(fd, entry(found), store)
    finally:
        os.close(fd)
    return path.read_bytes()


pieces = st.lists(
    st.tuples(
        st.sampled_from(["data", "zeros", "hole"]), st.sampled_from([1, 100, 1023, 1024, 1025, 4096, 9000, 20_000])
    ),
    max_size=7,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=pieces, seed=st.integers(0, 99))
def test_any_layout_comes_back_and_has_one_digest(tmp_path: Path, parts: list[tuple[str, int]], seed: int) -> None:
    random_bytes = random.Random(seed)
    data = b""
    with open(tmp_path / "laid out", "wb") as file:
        for kind, size in parts:
            piece = random_bytes.randbytes(size) if kind == "data" else bytes(size)
            data += piece
            if kind == "hole":
                file.seek(size, os.SEEK_CUR)
            else:
                file.write(piece)
        file.truncate(len(data))
    (tmp_path / "dense").write_bytes(data)
    store = MemoryStore()
    found = read(tmp_path / "laid out", store)
    assert found.steady
    assert written(tmp_path / "copy", found, store) == data
    digests = {read(tmp_path / name, s).digest for name in ("laid out", "dense", "copy") for s in (None, store)}
    assert digests == {found.digest}
    if data:
        changed = bytearray(data)
        changed[seed % len(data)] ^= 1
        (tmp_path / "dense").write_bytes(changed)
        assert read(tmp_path / "dense", None).digest != found.digest


@pytest.mark.parametrize("size", [0, 1, 8 * KIB, 8 * KIB + 1, 16 * KIB, 100 * KIB, 100 * KIB + 7])
def test_sizes_at_the_edges(tmp_path: Path, size: int) -> None:
    store = MemoryStore()
    data = random.Random(size).randbytes(size)
    (tmp_path / "f").write_bytes(data)
    found = read(tmp_path / "f", store)
    assert (found.chunks is None) == (size <= 8 * KIB)
    assert (found.blob == NONE) == (size == 0 or size > 8 * KIB)
    assert written(tmp_path / "copy", found, store) == data
    if found.chunks is not None:
        assert sum(chunk.length for chunk in found.chunks) == size
        assert max(chunk.length for chunk in found.chunks) <= 4 * KIB


def test_insertion_costs_the_pieces_around_it(tmp_path: Path) -> None:
    store = MemoryStore()
    data = random.Random(1).randbytes(300 * KIB)
    (tmp_path / "f").write_bytes(data)
    read(tmp_path / "f", store)
    before = len(store.blobs)
    (tmp_path / "f").write_bytes(data[: 150 * KIB] + b"inserted" + data[150 * KIB :])
    read(tmp_path / "f", store)
    assert before > 100
    assert len(store.blobs) - before <= 5


def test_written_over_another_file_it_keeps_the_inode(tmp_path: Path) -> None:
    for old, new in ((50 * KIB, 10), (10, 50 * KIB), (0, 0)):
        (tmp_path / "new").write_bytes(os.urandom(new))
        (tmp_path / "old").write_bytes(os.urandom(old))
        inode = (tmp_path / "old").stat().st_ino
        source, target = os.open(tmp_path / "new", os.O_RDONLY), os.open(tmp_path / "old", os.O_RDWR)
        content.copy_over(source, target)
        os.close(source)
        os.close(target)
        assert (tmp_path / "old").read_bytes() == (tmp_path / "new").read_bytes()
        assert (tmp_path / "old").stat().st_ino == inode
