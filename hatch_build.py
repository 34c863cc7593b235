"""What building adds: the small C library of the files driver, where there is a compiler.

Without one nothing fails: rfs then does in Python what the library does (see `drivers/files/bulk.py`), and the
wheel is the same for all machines. `CC=false` leaves it out on purpose.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/rfs/production/rollback/drivers/files")
SOURCE, LIBRARY = FOLDER / "bulk.c", FOLDER / "libbulk.so"


class LibraryHook(BuildHookInterface[Any]):
    """Builds the library beside its source, from where an editable installation takes it, and puts it into wheels."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See BuildHookInterface: called before each build."""
        if self.target_name != "wheel":
            return  # a source archive is built from again
        why = _build(Path(self.root))
        if why:
            self.app.display_warning(f"Without the C library, which makes rfs quicker: {why}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"  # it knows nothing of Python
        build_data["artifacts"].append(f"/{LIBRARY}")


def _build(root: Path) -> str:
    """Build the library; return why that was not possible, or nothing."""
    target = root / LIBRARY
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    compiler = shlex.split(os.environ.get("CC") or "cc")
    flags = ["-std=gnu11", "-O2", "-fPIC", "-shared", *shlex.split(os.environ.get("CFLAGS", ""))]
    try:
        done = subprocess.run(
            [*compiler, *flags, "-o", draft, root / SOURCE], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            draft.replace(target)  # at once: somebody may have the old one loaded
            return ""
        why = done.stderr.strip().splitlines()[:1]
        return f"{compiler[0]} failed{': ' + why[0] if why else ''}"
    except OSError as error:
        return f"{compiler[0]}: {error.strerror}"
    finally:
        draft.unlink(missing_ok=True)
