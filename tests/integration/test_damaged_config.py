"""Settings of which nothing can be read: the rollback mends them, and one that fails brings back what was there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small import Small, sick_at_first

from rfs.production.rollback.errors import RevertedError

MORE = """
[components.env]
kind = "environment"
path = "etc/small.env"
"""


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "precious").write_text("not ours")


def no_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def described(folder: Path) -> object:
    found = (path for path in (folder, *folder.rglob("*")) if path.exists())
    return {str(path.relative_to(folder)): (path.stat().st_mode, path.stat().st_ino) for path in found}


@pytest.mark.parametrize("broken", [a_folder, no_folder])
def test_it_is_mended_and_comes_back(tmp_path: Path, broken: Callable[[Path], None]) -> None:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "small.env"
    path.write_text("TOKEN=hunter2\n")
    small = Small(tmp_path, more=MORE)
    with small.open() as app:
        app.checkpoint(tags=["whole"])
        broken(path)
        before = described(tmp_path / "etc")
        assert app.plan("whole").changes["env"]
        sick_at_first(app)
        with pytest.raises(RevertedError, match="sick"):
            app.rollback("whole")
        assert described(tmp_path / "etc") == before
        app.rollback("whole")
        assert path.read_text() == "TOKEN=hunter2\n"
        app.undo()
        assert described(tmp_path / "etc") == before
