"""The entry point. `rfs --version` is answered before anything else is imported, `rfs status` without click."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; those of this process when None.

    Returns:
        The exit code; see rfs.cli.codes.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        from rfs import __version__

        sys.stdout.write(f"rfs {__version__}\n")
        return 0
    # A command is soon over, and what it holds is mostly not circular: looking for what is costs a tenth of the time.
    gc.set_threshold(100_000)
    _load_msgspec()
    if words[:1] == ["status"]:
        from rfs.cli.status import is_plain, quick

        if is_plain(words) and "_RFS_COMPLETE" not in os.environ:
            return quick(words)
    from rfs.cli.app import run

    return run(words)


def _load_msgspec() -> None:
    """Load msgspec without typing_extensions, which it takes, where installed, for what typing has since 3.11.

    That would be a tenth of the time until `rfs status` answers. Whoever else wants it afterwards gets it.
    """
    if "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # what makes an import of it fail
    try:
        import msgspec  # noqa: F401  # for the sake of loading it
    finally:
        del sys.modules["typing_extensions"]


if __name__ == "__main__":
    sys.exit(main())
