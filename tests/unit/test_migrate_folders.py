"""The folders that migrations are run from: gone with whoever made them, also after kill -9."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from rfs.production.rollback.migrating import MigrationsTable
from rfs.production.rollback.migrations import outside
from rfs.production.rollback.model import Component


def tool() -> outside.Tool:
    component = Component(name="db", kind="sqlite", options={}, home="/nowhere", work="/nowhere")
    return outside.Tool(component, MigrationsTable(path="alembic.ini"), "alembic", "/nowhere/alembic.ini", None)


def killed_or_alive(*, killed: bool) -> int:
    """Leave a child in the middle, with its folder; return its pid."""
    made, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        with tool()._folder():
            os.write(told, b".")
            signal.pause()
    os.close(told)
    assert os.read(made, 1) == b"."
    os.close(made)
    if killed:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return pid


def test_what_a_killed_one_left_is_swept_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "rfs-migrate-no-folder").write_text("somebody's")
    (tmp_path / "other").mkdir()
    killed_or_alive(killed=True)
    alive = killed_or_alive(killed=False)
    try:
        with tool()._folder():
            assert len(list(tmp_path.glob("rfs-migrate-*"))) == 4, "too young to be taken for left behind"
        monkeypatch.setattr(outside, "_YOUNG_SECONDS", -60.0)
        with tool()._folder() as ours:
            found = {each.name for each in tmp_path.iterdir()}
            assert len(found) == 4, found
            assert {"other", "rfs-migrate-no-folder", os.path.basename(ours)} < found
    finally:
        os.kill(alive, signal.SIGKILL)
        os.waitpid(alive, 0)
    with tool()._folder():
        pass
    assert {each.name for each in tmp_path.iterdir()} == {"other", "rfs-migrate-no-folder"}
