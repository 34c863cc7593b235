"""What a capture saw may stand in for another look only when the writers have stopped since."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfs.production.rollback.drivers.files import FilesDriver
from rfs.production.rollback.drivers.files.scan import Scan
from rfs.testing import MemoryStore, component


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    run = Scan.run

    def counted(self: Scan, *arguments: object) -> object:
        seen.append("look")
        return run(self, *arguments)

    monkeypatch.setattr(Scan, "run", counted)
    return seen


def make(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_text("one")
    return root


def test_a_restore_right_after_a_capture_of_stopped_writers_looks_only_to_verify(
    tmp_path: Path, looks: list[str]
) -> None:
    root, store, driver = make(tmp_path), MemoryStore(), FilesDriver()
    c = component("files", tmp_path, path="root")
    want = driver.capture(c, store, None)
    (root / "a").write_text("two, and longer")
    (root / "new").write_text("new")
    driver.capture(c, store, want)
    looks.clear()
    store.still = True
    driver.stage(c, store, want)
    driver.restore(c, store, want)
    assert looks == []
    assert driver.verify(c, store, want) == []
    assert looks == ["look"]
    assert (root / "a").read_text() == "one"
    assert not (root / "new").exists()


def test_without_that_word_it_looks_again(tmp_path: Path, looks: list[str]) -> None:
    root, store, driver = make(tmp_path), MemoryStore(), FilesDriver()
    c = component("files", tmp_path, path="root")
    want = driver.capture(c, store, None)
    (root / "a").write_text("changed after the last capture")
    looks.clear()
    driver.stage(c, store, want)
    driver.restore(c, store, want)
    assert looks == ["look"]
    assert (root / "a").read_text() == "one"


def test_what_was_seen_does_not_count_once_a_restore_has_begun(tmp_path: Path, looks: list[str]) -> None:
    root, store, driver = make(tmp_path), MemoryStore(), FilesDriver()
    c = component("files", tmp_path, path="root")
    want = driver.capture(c, store, None)
    (root / "a").write_text("two, and longer")
    other = driver.capture(c, store, want)
    store.still = True
    driver.restore(c, store, want)
    driver.restore(c, store, other)
    assert (root / "a").read_text() == "two, and longer"
    driver.restore(c, store, want)
    assert (root / "a").read_text() == "one"
