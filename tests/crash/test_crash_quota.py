"""A user's share of the disk that is used up: the same as a full disk, which SQLite does not say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.crash import shim
from tests.crash.sweeps import ROOT, needs_shim

pytestmark = needs_shim

QUOTA = """
import os, sys
from tests.crash.shim import CONTROL, Control, Fault
from rfs.production.rollback.database import Database
from rfs.production.rollback.errors import RollbackError

made = Database(sys.argv[1], lambda: False, lambda db: None)
made.change(lambda db: db.execute("CREATE TABLE t (a)") and None, lambda: False)
control = Control(os.environ[CONTROL])
for act in (
    lambda: made.change(lambda db: db.execute("INSERT INTO t VALUES (1)") and None, lambda: False),
    lambda: made.set_aside(1 << 20),
    lambda: Database(sys.argv[1] + f".{at}.new", lambda: False, lambda db: None),
):
    for at in (1, 3):
        control.set(at=at, fault=Fault.EDQUOT)
        control.arm(os.getpgid(0))
        try:
            act()
        except RollbackError as error:
            print(error.key)
        finally:
            control.disarm()
"""


def test_a_quota_that_is_used_up_is_a_full_disk(tmp_path: Path) -> None:
    control = tmp_path / "control"
    shim.make_control(control)
    environment = {**shim.environment(control), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", QUOTA, str(tmp_path / "catalog.db")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"store.no_space"}
    assert len(done.stdout.split()) >= 5
