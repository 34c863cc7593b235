"""Who is at work: the user of the operating system, or the one behind sudo where that can be seen to be true.

An environment variable is easily set. So SUDO_USER only counts when that user began this session, or one of the
processes that this one descends from is that user's: what sudo leaves behind, and what nobody else can make.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from rfs.production.rollback.model import storable

_DEEPEST = 64


def person() -> str:
    """Return the name of whoever runs this; the user's number where that has no name."""
    import pwd

    named = os.environ.get("SUDO_USER")
    if named is not None and began_by(named):
        return storable(named)
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def began_by(name: str) -> bool:
    """Tell whether this process can be seen to descend from a user's, or to belong to a session of theirs.

    Root is everybody's forefather, so of root only root itself can say that.
    """
    import pwd

    try:
        uid = int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except (KeyError, UnicodeEncodeError):
        return False
    if uid == 0:
        return os.getuid() == 0
    return uid == _session_of() or uid in _forefathers()


def _session_of() -> int | None:
    """Return the user who logged in, which the kernel keeps; None where nobody did, or it keeps none."""
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


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
