"""`--edit`: somebody decides about a conflict in an editor, between markers."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile

from rfs.cli.session import bad_usage
from rfs.production.rollback.errors import ConflictError, RollbackError
from rfs.production.rollback.merging import is_marked, marked


def require_terminal() -> None:
    """Refuse --edit where there is no terminal for an editor.

    Raises:
        UsageError: there is none.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        bad_usage("--edit needs a terminal for the editor", "Give --ours or --theirs, or run it in a terminal.")


class Editor:
    """Opens $VISUAL or $EDITOR, else vi, on files in conflict; each conflict is asked about once."""

    def __init__(self) -> None:
        self._decided: dict[tuple[str, bytes], bytes] = {}

    def __call__(self, path: str, ours: bytes, theirs: bytes) -> bytes:
        """Return what somebody made of a text with both sides of each conflict.

        Raises:
            ConflictError: the editor failed, or left something undecided.
            RollbackError: it could not be started.
        """
        text = marked(ours, theirs)
        if (path, text) not in self._decided:
            self._decided[path, text] = self._edited(path, text)
        return self._decided[path, text]

    @staticmethod
    def _edited(path: str, text: bytes) -> bytes:
        command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        # Beside nothing that a service reads; with the file's own name, by which editors tell what is in it.
        with tempfile.TemporaryDirectory(prefix="rfs-") as folder:
            draft = os.path.join(folder, os.path.basename(path))
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(text)
            try:
                status = subprocess.run([*shlex.split(command), draft], check=False).returncode
                with open(draft, "rb") as file:
                    found = file.read()
            except (OSError, ValueError) as error:
                raise RollbackError("edit.failed", command=command, why=error) from error
        if status != 0:
            raise ConflictError("edit.given_up", path=path, why=f"the editor ended with {status}")
        if is_marked(found):
            raise ConflictError("edit.given_up", path=path, why="conflict markers are left in it")
        return found
