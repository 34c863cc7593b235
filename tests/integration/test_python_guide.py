"""docs/python.md: its programs run, both type checkers accept them, and it names what is public."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small import Small

from pg_server import Server
from rfs.core import result
from rfs.production import rollback

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "python.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_each_program_runs(number: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    small = Small(tmp_path)
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    if "DATABASE_URL" in PROGRAMS[number]:
        server: Server = request.getfixturevalue("pg_server")
        server.create("guide")
        environment["DATABASE_URL"] = f"postgresql://guide_owner@/guide?host={server.socket}"
        environment["PATH"] = f"{server.bin}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-W", "error", "-c", PROGRAMS[number]]
    done = subprocess.run(
        command, cwd=small.home, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_both_type_checkers_know_what_a_result_holds(tmp_path: Path) -> None:
    files = [str(ROOT / "tests" / "typing" / "narrowing.py")]
    for number, program in enumerate(PROGRAMS):
        path = tmp_path / f"program_{number}.py"
        path.write_text(program)
        files.append(str(path))
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--cache-dir", str(tmp_path / "c")]
    ty = [str(Path(sys.executable).with_name("ty")), "check", "--python", sys.prefix]
    for command in (mypy, ty):
        done = subprocess.run([*command, *files], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    # Both are able to say no.
    (tmp_path / "wrong.py").write_text(
        "from rfs.production.rollback import RollbackManager\n\n\n"
        "async def wrong(manager: RollbackManager) -> int:\n"
        '    return (await manager.create_checkpoint("d")).unwrap()\n'
    )
    for command in (mypy, ty):
        done = subprocess.run([*command, "wrong.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stdout + done.stderr


def test_the_exported_names_are_exactly_the_documented_ones() -> None:
    names = GUIDE.partition("## Names\n")[2].partition("From `rfs.core.result`")[0]
    documented = re.findall(r"`(\w+)`", names)
    assert documented == rollback.__all__
    assert all(hasattr(rollback, name) for name in documented)
    assert all(hasattr(result, name) for name in ("Result", "Success", "Failure"))
    table = "".join(re.findall(r"^\| `.*$", GUIDE.partition("## Scheduled")[0], re.MULTILINE))
    methods = re.findall(r"`(?:await )?(\w+)\(", table)
    assert methods
    assert all(hasattr(rollback.RollbackManager, name) for name in methods)
