"""Many processes at one application at once, some of them killed: no lost operation, no invented one, nobody stuck."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.crash.whole import CONFIG, make_first, make_second, seen

from rfs.production.rollback import upkeep
from rfs.production.rollback.application import Application
from rfs.production.rollback.model import CheckpointType, OperationStatus

# Each process says when it begins, then what it did; it waits for the others as long as it takes.
WORKER = """
import sys
from rfs.production.rollback.application import Application
config, what, word = sys.argv[1:]
with Application.open(config, wait=120) as app:
    print("begin", flush=True)
    if what == "checkpoint":
        print("done", app.checkpoint(message=word).checkpoint_id, flush=True)
    else:
        print("done", app.rollback(word).operation_id, flush=True)
"""


def crowd(world: Path, many: int) -> None:
    (world / "live").mkdir()
    config = world / "rfs.toml"
    config.write_text(CONFIG.format(world=world))
    make_first(world / "live")
    Application.create(str(config)).close()
    with Application.open(str(config)) as app:
        target = app.checkpoint(message="first").checkpoint_id
    first = seen(world / "live")
    make_second(world / "live")
    second = seen(world / "live")
    workers = []
    for number in range(many):
        what, word = ("rollback", target) if number % 5 == 4 else ("checkpoint", f"by {number}")
        command = [sys.executable, "-c", WORKER, str(config), what, word]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for number, worker in enumerate(workers):
        if number % 4 == 3:
            assert worker.stdout is not None
            worker.stdout.readline()
            worker.kill()
    acknowledged: list[str] = []
    for number, worker in enumerate(workers):
        out, err = worker.communicate(timeout=180)
        if number % 4 != 3:
            assert worker.returncode == 0, err
        acknowledged += [line.split()[1] for line in out.splitlines() if line.startswith("done ")]
    with Application.open(str(config), wait=10) as app:
        app.recover()
        taken = [c for c in app.catalog.checkpoints() if c.type is not CheckpointType.SAFETY]
        operations = app.catalog.operations()
        completed = [o.operation_id for o in operations if o.status is OperationStatus.COMPLETED]
        known = {c.checkpoint_id for c in taken} | set(completed)
        assert set(acknowledged) <= known, "an acknowledged operation is not in the log"
        assert len(acknowledged) == len(set(acknowledged)) >= many // 2
        assert not upkeep.verify(app).damaged
        assert app.catalog.open_operation() is None
    assert seen(world / "live") == (first if completed else second)


def test_ten_processes_at_one_application(tmp_path: Path) -> None:
    crowd(tmp_path, 10)


@pytest.mark.slow
def test_fifty_processes_at_one_application(tmp_path: Path) -> None:
    crowd(tmp_path, 50)
