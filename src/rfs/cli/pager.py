"""What does not fit on the terminal is shown by a pager, as git does it: $PAGER, else less."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress

from rfs.cli.style import unstyle

# Quit when it fits after all, pass colours on, leave the text on the screen.
_LESS = "FRX"


def fits(text: str) -> bool:
    """Tell whether a text fits on the terminal that is standard output."""
    columns, lines = shutil.get_terminal_size()
    taken = sum(1 + max(0, len(line) - 1) // max(columns, 1) for line in unstyle(text).split("\n"))
    return taken < lines  # the prompt takes one


def page(text: str) -> bool:
    """Show a text in the pager; tell whether there is one. Ctrl-C meanwhile is the pager's."""
    command = os.environ.get("PAGER", "less")
    if command in ("", "cat"):
        return False
    try:
        # As in git and man, it is a command of the shell; -c for dash and bash alike.
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            env={"LESS": _LESS, **os.environ},
            text=True,
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
        )
    except OSError:
        return False
    with suppress(BrokenPipeError, KeyboardInterrupt):  # it was left before the end
        process.communicate(text)
    while True:
        with suppress(KeyboardInterrupt):
            return process.wait() != _NOT_FOUND


_NOT_FOUND = 127
