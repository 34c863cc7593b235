"""What the tests call: one sweep, run in a process of its own that carries the shim."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.crash import shim
from tests.crash.harness import PROBLEMS
from tests.crash.shim import Fault

ROOT = Path(__file__).parents[2]
MACHINE_FAULTS = (Fault.KILL, Fault.TORN, Fault.ENOSPC, Fault.EIO)
LOSSES = ("lost", "corrupt")  # what a forgotten fsync comes to

needs_shim = pytest.mark.skipif(shim.missing() is not None, reason=f"NO CRASH TESTS: {shim.missing()}")


class Found:
    """A sweep's report as the test sees it."""

    def __init__(self, raw: dict[str, object]) -> None:
        self.line = str(raw["line"])
        self.tried = int(str(raw["tried"]))
        self.fired = int(str(raw["fired"]))
        self.problems: list[tuple[str, str]] = [tuple(each) for each in raw["problems"]]
        self.verdicts: dict[str, int] = dict(raw["verdicts"])

    def count(self, *kinds: str) -> int:
        return sum(1 for kind, _ in self.problems if kind in (kinds or PROBLEMS))

    def expect_clean(self) -> None:
        """Fail with the first problems unless there are none, and every armed fault was seen to fire."""
        print(self.line)
        first = "\n".join(f"[{kind}] {text}" for kind, text in self.problems[:8])
        assert not self.problems, f"{self.line}\n{first}"
        assert self.tried, "the sweep tried nothing"
        assert self.fired >= self.tried, f"{self.line}: a fault was armed and did not fire"

    def expect_caught(self, *kinds: str) -> None:
        """Fail unless the negative control was caught as one of `kinds` (any, when none are named)."""
        print(f"negative control {self.line}")
        assert self.count(*kinds), f"the negative control was NOT caught: {self.line}"


def sweep(scenario: type, *faults: Fault, limit: int | None = None, seed: int = 1, until: Sequence[str] = ()) -> Found:
    """Break `scenario` off at every call (or `limit` sampled ones), with each of `faults`.

    Here and below, `until` are kinds of problem of which the first is enough: it is for negative controls.
    """
    words = [str(f) for f in faults or MACHINE_FAULTS]
    return _run(scenario, mode="sweep", faults=words, limit=limit, seed=seed, until=until)


def nested(scenario: type, pairs: int, seed: int = 1) -> Found:
    """Kill `scenario`, then kill its recovery."""
    return _run(scenario, mode="nested", limit=pairs, seed=seed)


def reboots(scenario: type, rounds: int, seed: int = 1, until: Sequence[str] = ()) -> Found:
    """Kill `scenario`, and several times over let services write on what is there and kill the recovery."""
    return _run(scenario, mode="reboots", limit=rounds, seed=seed, until=until)


def power(scenario: type, *, limit: int | None = None, seed: int = 1, until: Sequence[str] = ()) -> Found:
    """Lose power in `scenario`."""
    return _run(scenario, mode="power", limit=limit, seed=seed, until=until)


def shutdown(
    scenario: type, device: str, mount: Path, limit: int, *, seed: int = 1, until: Sequence[str] = ()
) -> Found:
    """Shut the file system at `mount` down in `scenario`."""
    return _run(scenario, mode="shutdown", device=device, base=str(mount), limit=limit, seed=seed, until=until)


def _run(scenario: type, **options: object) -> Found:
    control = Path(os.environ.get("TMPDIR", "/tmp")) / f"rfs-shim-control-{os.getpid()}"
    shim.make_control(control)
    try:
        environment = shim.environment(control)
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'src'}"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.crash",
                f"{scenario.__module__}:{scenario.__qualname__}",
                json.dumps(options),
            ],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        control.unlink()
    assert done.returncode == 0, f"the sweep itself failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return Found(json.loads(done.stdout.splitlines()[-1]))
