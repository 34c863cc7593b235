"""Which tools migrate databases in a folder: Alembic, Django, and folders of SQL."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_DOWN = re.compile(r"\d[\d.]*.*\.down\.sql")


def tools(folder: str, files: Sequence[str]) -> list[tuple[str, str]]:
    """Return (path, what it is called) of each, as `migrations` of a component takes the path.

    Args:
        files: those of the folder, relative to it.
    """
    found = [(path, "Alembic") for path in files if os.path.basename(path) == "alembic.ini"]
    found += [(path, "Django") for path in files if os.path.basename(path) == "manage.py" and _is_django(folder, path)]
    folders = dict.fromkeys(os.path.dirname(path) for path in files if _DOWN.fullmatch(os.path.basename(path)))
    return found + [(path or ".", "SQL") for path in folders]


def _is_django(folder: str, path: str) -> bool:
    try:
        with open(os.path.join(folder, path), "rb") as file:
            return b"DJANGO_SETTINGS_MODULE" in file.read(1 << 16)
    except OSError:
        return False
