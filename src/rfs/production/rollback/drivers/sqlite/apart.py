"""Runs `direct`'s operations in a process of their own where this one must not open the database.

SQLite's locks are POSIX locks: they belong to a process, and closing any descriptor of a file
drops all that the process holds on it. When the application itself, in this process, has
the database open through another copy of the library (Python's sqlite3), our connection would
neither see its locks nor leave them, and would take its write-ahead log away on closing.
So: when the database is open here already, or when another thread could open it at any
moment, the work is done by a child, for which the locks hold as for any other program.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import apsw

from rfs.production.rollback.drivers.sqlite import direct
from rfs.production.rollback.drivers.sqlite.direct import Patience
from rfs.production.rollback.errors import RollbackError

_OPERATIONS: dict[str, Callable[..., None]] = {
    "copy_database": direct.copy_database,
    "copy_file": direct.copy_file,
    "write_back": direct.write_back,
    "set_journal": direct.set_journal,
    "look": direct.look,
    "make_durable": direct.make_durable,
}
_REFUSED = 3
_PR_SET_PDEATHSIG = 1
_CHILD = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {module} import main; main(*sys.argv[2:])"


def run(operation: str, path: str, patience: Patience, given: Mapping[str, Any]) -> None:
    """Run an operation of `direct` by its name.

    Args:
        given: its keyword arguments.

    Raises:
        apsw.Error, OSError: as the operation does, wherever it ran.
        RollbackError: the child did not come to an end of its own.
    """
    if needed(path):
        _run_apart(operation, path, patience, given)
    else:
        _OPERATIONS[operation](path, patience, **given)


def needed(path: str) -> bool:
    """Tell whether this process must not open the database itself."""
    if threading.active_count() > 1:
        return True
    try:
        wanted = os.stat(path)
    except OSError:
        return False
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError:
        return True  # no way to see what is open here
    return any(_is(descriptor, wanted) for descriptor in descriptors)


def _is(descriptor: str, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(int(descriptor)), wanted)
    except OSError:  # the one that listed them
        return False


def _run_apart(operation: str, path: str, patience: Patience, given: Mapping[str, Any]) -> None:
    from rfs.production.rollback.process import run as run_process  # seldom needed, and start-up is a goal

    task = json.dumps([operation, path, patience.seconds, dict(given)])
    child = _CHILD.format(module=__name__)
    command = [sys.executable, "-c", child, json.dumps(sys.path), str(os.getpid()), task]
    ended = run_process(command, cwd="/", timeout=float("inf"), pulse=patience.pulse)
    if ended.status == 0:
        return
    if ended.status == _REFUSED:
        kind, number, text = json.loads(ended.output.splitlines()[-1])
        raise OSError(number, text) if kind == "OSError" else getattr(apsw, kind)(text)
    raise RollbackError("command.failed", command=f"{operation} of {path}", status=ended.reason, output=ended.output)


def main(parent: str, task: str) -> None:
    """The child: do one task; a refusal is the last line of output, as JSON."""
    # A child that outlived its parent could write after somebody else had recovered the database.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(1)
    operation, path, seconds, given = json.loads(task)
    try:
        _OPERATIONS[operation](path, Patience(seconds), **given)
    except apsw.Error as error:
        _refuse(type(error).__name__, 0, str(error))
    except OSError as error:
        _refuse("OSError", error.errno or 0, error.strerror or str(error))


def _refuse(kind: str, number: int, text: str) -> None:
    sys.stdout.write(json.dumps([kind, number, text]) + "\n")
    sys.exit(_REFUSED)
