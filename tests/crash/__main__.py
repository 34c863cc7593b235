"""The process that carries the shim: `python -m tests.crash MODULE:SCENARIO MODE [LIMIT] [SEED]`."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.crash.harness import Bench, Sweep
from tests.crash.power import power_sweep
from tests.crash.shim import CONTROL, Control, Fault
from tests.crash.shutdown import shutdown_sweep

from rfs.production.rollback import catalog
from rfs.production.rollback.drivers.files import room as files_room
from rfs.production.rollback.drivers.sqlite import room as sqlite_room
from rfs.production.rollback.store import reserve


def set_little_aside() -> None:
    """Make what is set aside small: as many calls as ever, and of no other use where only the shim fills the disk.

    Each point would fill, copy and free 25 MB of memory for nothing. Here, because the tests of full disks
    share a process with what imports the scenarios.
    """
    reserve.SIZE = catalog.JOURNAL_SPACE = sqlite_room._MORE = files_room._MORE = 1 << 16


def main() -> None:
    set_little_aside()
    module, _, name = sys.argv[1].partition(":")
    options = json.loads(sys.argv[2])
    scenario = getattr(importlib.import_module(module), name)()
    control = Control(os.environ[CONTROL])
    # Not in the system's temporary folder: a sweep is thousands of small trees, and memory is quickest.
    memory = options.get("base") or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    base = Path(tempfile.mkdtemp(prefix="rfs-crash-", dir=memory))
    try:
        bench = Bench(scenario, control, base / "bench")
        limit, seed, until = options.get("limit"), options.get("seed", 1), options.get("until", ())
        if options["mode"] == "power":
            report = power_sweep(bench, limit=limit, seed=seed, until=until)
        elif options["mode"] == "shutdown":
            report = shutdown_sweep(bench, options["device"], options["base"], limit=limit, seed=seed, until=until)
        elif options["mode"] == "nested":
            report = Sweep(bench, seed=seed).nested(limit)
        elif options["mode"] == "reboots":
            report = Sweep(bench, seed=seed, until=until).reboots(limit)
        else:
            faults = [Fault(word) for word in options["faults"]]
            report = Sweep(bench, faults, limit=limit, seed=seed, until=until).run()
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(report.to_json())


if __name__ == "__main__":
    main()
