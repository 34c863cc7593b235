"""What a table was measured on, without names of hosts or people."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def describe(place: Path) -> list[str]:
    """Return lines about the processor, memory, file system and system under `place`."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = re.search(r"^model name\s*: (.*)$", file.read(), re.MULTILINE)
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = re.search(r"^MemTotal:\s*(\d+)", file.read(), re.MULTILINE)
    processor = model.group(1) if model else platform.machine()
    gibibytes = int(memory.group(1)) / (1 << 20) if memory else 0.0
    load = os.getloadavg()[0]
    system = f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
    processors = len(os.sched_getaffinity(0))
    return [
        f"{processors} processors ({processor}), {gibibytes:.0f} GiB of memory, {_file_system(place)}",
        f"{system}, warm cache; load average before the run: {load:.1f}",
    ]


def _file_system(place: Path) -> str:
    """Return the type of the file system, by the longest mount point above the folder."""
    found = ("", "?")
    with open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            _, at, kind, *_ = line.split()
            if os.path.commonpath([at, place]) == at:
                found = max(found, (at, kind))
    return found[1]
