"""The shim and the model of power loss, against the real file system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.crash import shim
from tests.crash.sweeps import ROOT, needs_shim

pytestmark = needs_shim

CHILD = """
import json, os, random, sys, shutil
from pathlib import Path
from tests.crash import toy
from tests.crash.harness import Bench, look
from tests.crash.power import FileSystem, pool, read_log
from tests.crash.shim import CONTROL, Control

base = Path(sys.argv[1])
control = Control(os.environ[CONTROL])
bench = Bench(toy.EveryCall(), control, base / "bench")
bench.prepare()
bench.reset()
model = FileSystem(bench.world)
log, graveyard = base / "log", base / "graveyard"
graveyard.mkdir()
outcome = bench.act(log=str(log), graveyard=str(graveyard))
kinds = [kind.name for kind in control.kinds()]
for record in read_log(log):
    model.apply(record)
real = look(bench.world / "live")
inodes = {path.name: path.lstat().st_ino for path in (bench.world / "live").iterdir()}
parts = base / "parts"
parts.mkdir()
model.image("all", random.Random(1)).build(base / "bench" / "again", pool([bench.world, graveyard], parts))
again = base / "bench" / "again" / "live"
kept = {path.name: path.lstat().st_ino for path in again.iterdir()}
print(json.dumps([outcome.how, outcome.text, kinds, real, look(again), inodes, kept]))
"""


def run(tmp_path: Path) -> tuple[str, str, list[str], dict[str, str], dict[str, str], dict[str, int], dict[str, int]]:
    control = tmp_path / "control"
    shim.make_control(control)
    environment = {**shim.environment(control), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    how, text, kinds, real, again, inodes, kept = json.loads(done.stdout)
    return how, text, kinds, real, again, inodes, kept


def test_every_call_is_seen_and_the_log_replays_into_the_same_tree(tmp_path: Path) -> None:
    how, text, kinds, real, again, inodes, kept = run(tmp_path)
    assert how == "ok", text
    assert set(kinds) == {kind.name for kind in shim.Kind}
    assert again == real
    assert kept == inodes


def test_calls_are_not_counted_while_nothing_is_armed(tmp_path: Path) -> None:
    control = tmp_path / "control"
    shim.make_control(control)
    command = [sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write('x')", str(tmp_path / "file")]
    subprocess.run(command, env=shim.environment(control), check=True)
    assert shim.Control(str(control)).count == 0


def test_the_count_goes_on_in_programs_that_are_started(tmp_path: Path) -> None:
    control = tmp_path / "control"
    shim.make_control(control)
    block = shim.Control(str(control))
    block.set()
    block.arm(os.getpgid(0))
    command = ["sh", "-c", f"mkdir {tmp_path}/a && rmdir {tmp_path}/a"]
    subprocess.run(command, env=shim.environment(control), check=True)
    block.disarm()
    assert block.count == 2
