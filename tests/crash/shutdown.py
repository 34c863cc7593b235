"""A real file system on a loop device, shut down in the middle: what was not made durable is really lost.

Needs root, loop devices and mkfs. It checks the model of power.py against ext4 and XFS, which
keep names and metadata in order; so it sees a missing fsync of a file, and the model sees more.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.crash.harness import Bench, Report, SweepError
from tests.crash.shim import Fault

SIZES = {"ext4": 96, "xfs": 320}  # MiB; XFS refuses less than 300


def unavailable(kind: str) -> str | None:
    """Return why no file system of this kind can be mounted here, or None."""
    if os.geteuid() != 0:
        return "not root"
    for tool in ("losetup", "mount", f"mkfs.{kind}"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    probe = subprocess.run(["losetup", "-f"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "no loop devices"


@contextmanager
def mounted(kind: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Make a file system in `folder`, mount it, and yield its device and mount point."""
    image, mount = folder / "image", folder / "mount"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(SIZES[kind] << 20)
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)
    device = subprocess.run(
        ["losetup", "-f", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        subprocess.run(["mount", device, str(mount)], check=True)
        try:
            yield device, mount
        finally:
            subprocess.run(["umount", str(mount)], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def shutdown_sweep(
    bench: Bench, device: str, mount: str, *, limit: int, seed: int = 1, until: Sequence[str] = ()
) -> Report:
    """Shut the file system down at `limit` sampled calls, with its log flushed and without; remount, recover, judge.

    For `until` see Report.
    """
    report = Report(f"{type(bench.scenario).__name__} file-system shutdown", until)
    began = time.monotonic()
    bench.prepare()
    bench.reset()
    outcome = bench.act()
    calls = bench.control.count
    if outcome.how != "ok":
        raise SweepError("without any fault, act", outcome)
    chance = random.Random(seed)
    for at in sorted(chance.sample(range(1, calls + 1), min(limit, calls))):
        flags = chance.choice([1, 2])
        bench.reset()
        subprocess.run(["sync", "-f", mount], check=True)
        outcome = bench.act(Fault.SHUTDOWN, at, mount=mount, shutdown_flags=flags)
        where = f"shut down ({'log flushed' if flags == 1 else 'log lost'}) at call {at} ({bench.control.what})"
        report.fired += bool(bench.control.fired)
        subprocess.run(["umount", mount], check=True)
        subprocess.run(["mount", device, mount], check=True)
        if outcome.how == "ok":
            continue  # this run made fewer calls than the one that was counted, and nothing was shut down
        if outcome.how != "killed":
            report.add(where, f"unfired: {outcome.how} {outcome.text}")
            continue
        report.add(where, bench.verdict())
        if report.enough:
            break
    report.seconds = time.monotonic() - began
    return report
