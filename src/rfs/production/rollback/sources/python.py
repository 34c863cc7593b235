"""A Python function of the application, called in a process of its own.

So it is always the code that is there now, also after a deployment or a rollback; it may run under the application's
own interpreter; and when it hangs, it is ended.
"""

from __future__ import annotations

import os
import re
import sys

import msgspec

from rfs.production.rollback.secret import absolute
from rfs.production.rollback.sources.base import Source, SourceContext
from rfs.production.rollback.sources.command import Printed

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

# What it prints itself must not be taken for the number, nor hide it.
_CALL = """\
import asyncio, importlib, inspect, os, sys
out = os.dup(1)
os.dup2(2, 1)

def call(target):
    sys.path.insert(0, os.getcwd())
    module, _, name = target.partition(":")
    found = importlib.import_module(module)
    for word in name.split("."):
        found = getattr(found, word)
    value = found()
    if inspect.isawaitable(value):
        async def wait(): return await value
        value = asyncio.run(wait())
    value, count = value if isinstance(value, tuple) and len(value) == 2 else (value, 1)
    if isinstance(value, bool) or (value is not None and not hasattr(value, "__float__")):
        raise TypeError(f"{type(value).__name__} is no number")
    return f"{float('nan') if value is None else float(value)!r} {int(count)}"

try:
    told, status = call(sys.argv[1]), 0
except BaseException as error:
    told, status = f"{type(error).__name__}: {error}".splitlines()[0], 1
sys.stdout.flush()
sys.stderr.flush()
os.write(out, f"\\n{told}\\n".encode())
os._exit(status)  # what the code may say at its end would come after the answer
"""


class Python(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Python function.

    Attributes:
        python: "module:function", found from the folder of rfs.toml. It takes nothing, may be async, and returns a
            number, a pair of a number and how many observations it stands for, or None where there are no data.
        interpreter: path of the Python that runs it, the application's own for one; that of rfs when left out.
    """

    python: str
    interpreter: str | None = None

    def __post_init__(self) -> None:
        if not _TARGET.fullmatch(self.python):
            why = f'{self.python!r} is no function; write "module:function"'
            raise ValueError(why)

    def open(self, context: SourceContext) -> Source:
        """See SourceSpec."""
        own = sys.executable or "python3"
        interpreter = own if self.interpreter is None else _program(self.interpreter, context.home)
        return Printed(context, (interpreter, "-c", _CALL, self.python), about=self.python)


def _program(interpreter: str, home: str) -> str:
    return absolute(interpreter, home) if os.sep in interpreter else interpreter
