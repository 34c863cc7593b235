"""The walk of `rfs init` through a folder: which files lie there, and what of it is no part of a release."""

from __future__ import annotations

import os
import re
import sys

import msgspec

from rfs.production.rollback.known_names import CODE, INSTALLED, MADE_AGAIN, PASSING, UPLOADS

MAX_ENTRIES = 200_000


class Tree(msgspec.Struct):
    """What one walk saw. Paths are relative to the folder.

    Attributes:
        excluded, keep: patterns for the release's files component.
        complete: whether everything was looked at.
    """

    files: list[str]
    excluded: set[str]
    keep: set[str]
    complete: bool = True


def walk(folder: str, release: str) -> Tree:
    """Look through a release, and what is shared between releases.

    Args:
        folder: absolute.
        release: "." or, in it, the link to the release in use.
    """
    tree = Tree([], set(), set())
    ours = os.path.realpath(sys.prefix)
    left = [os.path.join(folder, release) if release != "." else folder]
    if release != ".":
        left.append(os.path.join(folder, "shared"))
        # What lies beside the link itself: a supervisord.conf, a database.
        beside = [entry for entry in _scan(folder) if entry.is_file(follow_symlinks=False)]
        tree.files += [entry.name for entry in beside if entry.name.isprintable()]
    while left:
        base = left.pop()
        for entry in sorted(_scan(base), key=lambda each: each.name):
            path = os.path.relpath(entry.path, folder)
            if not path.isprintable() or len(tree.files) >= MAX_ENTRIES:
                # A name that is not text cannot be written into rfs.toml; the files driver takes it as it is.
                tree.complete = tree.complete and len(tree.files) < MAX_ENTRIES
            elif entry.is_dir(follow_symlinks=False):
                inner = os.path.relpath(entry.path, os.path.join(folder, release))
                if entry.name in MADE_AGAIN or os.path.realpath(entry.path) == ours:
                    tree.excluded.add(f"{entry.name}/")
                elif entry.name in PASSING and not _has_code(entry.path):
                    if not inner.startswith(".."):
                        tree.excluded.add(_anchored(inner))
                elif entry.name != ".rfs" and not _holds_packages(entry):
                    if entry.name.lower() in UPLOADS and not inner.startswith(".."):
                        tree.keep.add(_anchored(inner))
                    left.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                tree.files.append(path)
    tree.files.sort(key=lambda path: (path.count("/"), path))
    return tree


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []  # what cannot be read is reported by the checkpoint, with its reason


def _holds_packages(folder: os.DirEntry[str]) -> bool:
    """Tell whether others wrote what is in there, so that its files say nothing about this application."""
    return folder.name in INSTALLED or os.path.lexists(os.path.join(folder.path, "pyvenv.cfg"))


def _has_code(folder: str) -> bool:
    return any(entry.name.endswith(CODE) for entry in _scan(folder))


def _anchored(path: str) -> str:
    """Return a pattern that means just this folder."""
    return "/" + re.sub(r"([*?\[\]\\])", r"\\\1", path) + "/"
