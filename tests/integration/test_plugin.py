"""A plug-in's wheel beside that of rfs: its driver is found by its entry point, works, and is missed clearly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fresh import ROOT, Environment, build, run

from flags import serving

TOML = """
[app]
name = "shop"

[components.flags]
kind = "document"
url = "{url}"
token = "file:token"
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("plugin")
    environment = Environment(folder / "venv")
    environment.install(build(ROOT, folder / "rfs"))
    environment.install(build(ROOT / "examples" / "rfs-document", folder / "document"))
    return environment


def test_a_driver_is_found_works_and_is_missed(fresh: Environment, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()

    def rfs(*words: str, status: int = 0) -> str:
        return run(fresh.bin / "rfs", *words, cwd=app, status=status, HOME=str(tmp_path), XDG_CONFIG_HOME="")

    with serving() as flags:
        flags.token = "hunter2"
        first = json.loads(flags.text)
        (app / "rfs.toml").write_text(TOML.format(url=flags.url))
        (app / "token").write_text("hunter2\n")
        rfs("init")
        rfs("doctor")
        rfs("checkpoint", "--tag", "v1")
        flags.text = b'{"checkout": {"express": false, "token": "another"}, "limits": [1, 2]}'
        plan = rfs("plan", "v1")
        assert "/checkout/express  false → true" in plan
        assert "/checkout/token\n" in plan
        assert "hunter2" not in plan
        rfs("rollback", "v1", "--yes", "--reason", "a test")
        assert json.loads(flags.text) == first
        (app / "token").write_text("wrong\n")
        doctor = rfs("doctor", status=1)
        assert "401" in doctor
    module = fresh.packages / "rfs_document"
    shutil.move(module, tmp_path / "aside")
    half = rfs("checkpoint", status=2)
    assert "The kind document is offered by rfs-document, but its driver" in half
    assert "Install rfs-document anew" in half
    (info,) = fresh.packages.glob("rfs_document-*.dist-info")
    shutil.move(info, tmp_path / "aside")
    gone = rfs("checkpoint", status=10)
    assert "unknown kind: document" in gone
    assert "config, environment, files, service, sqlite" in gone
