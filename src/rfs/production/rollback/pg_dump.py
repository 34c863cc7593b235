"""Which of the pg_dumps of this machine can read a server: one only reads servers of its own version and older ones."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping

OLDEST_SERVER = 15
"""The oldest major version of a server that is taken.

Older ones count what was written some time after it was, and may lose the count: that nobody wrote could not be known.
"""
_WHERE = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
_versions: dict[str, int] = {}


def installed(folder: str | None = None) -> dict[int, str]:
    """Return the paths of the programs by their major version.

    Args:
        folder: where it is looked for; by default on the PATH, which comes first, and where distributions put it.
    """
    if folder is not None:
        folders = [folder]
    else:
        folders = [each for each in os.environ.get("PATH", os.defpath).split(os.pathsep) if each]
        folders += [each for pattern in _WHERE for each in sorted(glob.glob(pattern))]
    found: dict[int, str] = {}
    for path in dict.fromkeys(os.path.join(each, "pg_dump") for each in folders):
        version = _version(path)
        if version is not None:
            found.setdefault(version, path)
    return found


def fitting(found: Mapping[int, str], server: int) -> str | None:
    """Return the path of the lowest version that can read a server of a major version; None when there is none."""
    usable = [version for version in found if version >= server]
    return found[min(usable)] if usable else None


def _version(path: str) -> int | None:
    import subprocess

    if path not in _versions:
        if not os.access(path, os.X_OK):
            return None
        try:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            return None
        number = re.search(r"\) (\d+)", said)
        if number is None:
            return None
        _versions[path] = int(number[1])
    return _versions[path]
