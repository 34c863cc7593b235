"""Who is at work, as the kernel knows it: the user who logged in, or the one behind sudo.

Not by SUDO_USER: who wants to approve what they asked for themselves need only set that variable, or take it away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

_NOBODY = (1 << 32) - 1
_DEEPEST = 64


def person() -> str:
    """Return the name of whoever runs this; the user's number where that has no name.

    That is the user of the login session, which stays the same whatever they become; where the kernel keeps none, as in
    containers, the user of the nearest process that this one descends from, other than root and its own; else its own.
    """
    import pwd

    own = os.getuid()
    behind = _logged_in()
    if behind is None:
        behind = next((uid for uid in _forefathers() if uid not in (0, own)), own)
    try:
        return pwd.getpwuid(behind).pw_name
    except KeyError:
        return str(behind)


def _logged_in() -> int | None:
    """Return the user who logged in; None where nobody did, as with services, or the kernel keeps none."""
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:
            uid = int(file.read())
    except (OSError, ValueError):
        return None
    return None if uid == _NOBODY else uid


def _forefathers() -> Iterator[int]:
    """Yield the real users of the processes that this one descends from, as far as they may be looked at."""
    pid = os.getppid()
    for _ in range(_DEEPEST):
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
                told = dict(line.rstrip("\n").partition(":\t")[::2] for line in file)
            yield int(told["Uid"].split()[0])
            pid = int(told["PPid"])
        except (OSError, KeyError, ValueError):
            return
        if pid <= 0:
            return
