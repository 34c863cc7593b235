"""What a capture saw may stand in for another look only when the writers have stopped since."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfs.production.rollback.drivers.files import FilesDriver, manifest
from rfs.production.rollback.drivers.files.scan import Scan
from rfs.production.rollback.errors import TimedOutError
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


def test_what_was_written_between_two_captures_is_restored_too(tmp_path: Path) -> None:
    root, store, driver = make(tmp_path), MemoryStore(), FilesDriver()
    c = component("files", tmp_path, path="root")
    (root / "b").write_text("one")
    want = driver.capture(c, store, None)
    (root / "a").write_text("two, and longer")
    safety = driver.capture(c, store, want)
    driver.stage(c, store, want)
    (root / "b").write_text("late, and longer")
    (root / "late").mkdir()
    before = driver.capture(c, store, safety)
    assert [change.key for change in driver.changes(c, store, safety, before)] == ["b", "late"]
    store.still = True
    driver.stage(c, store, want)
    driver.restore(c, store, want)
    assert driver.verify(c, store, want) == []
    assert ((root / "a").read_text(), (root / "b").read_text()) == ("one", "one")
    driver.restore(c, store, before)
    assert (root / "b").read_text() == "late, and longer"
    assert (root / "late").is_dir()


def test_a_capture_that_failed_leaves_nothing_for_the_next_to_go_wrong_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "_MOST_ENTRIES", 1)  # each folder is a part of its own
    root, store = make(tmp_path), MemoryStore()
    c = component("files", tmp_path, path="root")
    for name in "abcd":
        (root / f"folder {name}").mkdir()
        (root / f"folder {name}" / name).write_text(name)
    failed = 0
    for tick in range(1, 100):
        driver = FilesDriver()
        old = driver.capture(c, store, None)
        (root / "Added").mkdir()  # moves the parts of all others by one
        store.time_out_at = store.ticks + tick
        try:
            driver.capture(c, store, old)
        except TimedOutError:
            failed += 1
        store.time_out_at = None
        assert driver.capture(c, store, old).parts == FilesDriver().capture(c, store, None).parts, tick
        (root / "Added").rmdir()
    assert 5 < failed < 99
