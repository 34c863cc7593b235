"""What a rollback of files does, counted: looks, manifests decoded, comparisons, files read.

No clock is looked at. Each number here was once larger and cost a good part of a rollback.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.files import compare, content, index, manifest, reader
from rfs.production.rollback.drivers.files.scan import Scan
from rfs.production.rollback.model import OperationStatus

CONFIG = """
[app]
name = "counted"
[components.tree]
kind = "files"
path = "tree"
keep = ["uploads/"]
[store]
key = "file:{home}/key"
"""
FOLDERS, FILES = 6, 5


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    counted: collections.Counter[str] = collections.Counter()

    def count(where: Any, name: str, what: str) -> None:
        call: Callable[..., Any] = getattr(where, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            counted[what] += 1
            return call(*arguments, **named)

        monkeypatch.setattr(where, name, counting)

    count(Scan, "run", "looks")
    count(manifest, "read", "manifests decoded")
    count(manifest, "write", "manifests written")
    count(index, "load", "indexes loaded")
    count(compare, "differences", "comparisons")
    count(content, "read", "files read")
    count(reader.Reader, "_read_small", "files read")
    return counted


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in range(FOLDERS):
        (tmp_path / "tree" / str(folder)).mkdir(parents=True)
        for file in range(FILES):
            (tmp_path / "tree" / str(folder) / str(file)).write_text(f"{folder} {file}")
    (tmp_path / "tree" / "uploads").mkdir()
    # As if all of it were long ago: else what is young would be read again, as its times may not tell all.
    monkeypatch.setattr(reader, "_TICKS", -3600 * 10**9)
    (tmp_path / "rfs.toml").write_text(CONFIG.format(home=tmp_path))
    Application.create(str(tmp_path / "rfs.toml")).close()
    return tmp_path


def opened(home: Path) -> Application:
    return Application.open(str(home / "rfs.toml"))


def change(tree: Path) -> None:
    """Modify three files, add two and remove two, which makes five to bring back."""
    for folder in range(3):
        (tree / str(folder) / "0").write_text("changed, and longer")
    for folder in range(2):
        (tree / str(folder) / "new").write_text("new")
        (tree / str(folder) / "1").unlink()


def test_a_rollback_looks_three_times_and_reads_only_what_changed(home: Path, counts: collections.Counter[str]) -> None:
    with opened(home) as app:
        app.checkpoint()
    change(home / "tree")
    counts.clear()
    with opened(home) as app:
        assert app.rollback("@latest").status is OperationStatus.COMPLETED
    assert counts == {
        "looks": 3,  # safety checkpoint, state before, verification
        "manifests decoded": 1,  # what is wanted
        "manifests written": 1,  # the safety checkpoint's; the state before is the same
        "indexes loaded": 1,
        "comparisons": 2,  # for the plan and all that follows from it, and for the verification
        "files read": 5 + 5,  # what was written since is kept, and what was restored is read back
    }


def test_the_checkpoint_after_a_rollback_reads_nothing(home: Path, counts: collections.Counter[str]) -> None:
    with opened(home) as app:
        app.checkpoint()
    change(home / "tree")
    with opened(home) as app:
        app.rollback("@latest")
    counts.clear()
    with opened(home) as app:
        taken = app.checkpoint()
    assert counts["looks"] == 1
    assert counts["files read"] == 0
    assert taken.captures["tree"].stored == 0


def test_what_is_kept_is_no_loss(home: Path) -> None:
    with opened(home) as app:
        app.checkpoint()
        change(home / "tree")
        (home / "tree" / "uploads" / "picture").write_text("stays")
        done = app.rollback("@latest")
    assert {loss.what: (loss.count, loss.examples) for loss in done.plan.losses} == {
        "changed files": (3, ("0/0", "1/0", "2/0")),
        "new files": (2, ("0/new", "1/new")),
    }
    assert (home / "tree" / "uploads" / "picture").read_text() == "stays"
