"""What a files component's table in rfs.toml says, and what follows from it for each name."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from rfs.production.rollback.drivers.files.patterns import Patterns
from rfs.production.rollback.drivers.meta import TEMPORARY_PREFIX
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.model import Component

STAGE_PREFIX = ".rfs-stage-"
# What a running program leaves beside its files and what means nothing once it has stopped.
TRANSIENT = ("*.pid", "*.sock")


class FilesOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table of a files component.

    Attributes:
        path: the folder, absolute or relative to rfs.toml.
        exclude: patterns as in a .gitignore: neither captured nor touched.
        keep: captured, but what was added since is never removed (uploads).
        in_place: files that must keep their inode: they are written, not exchanged.
    """

    path: str
    exclude: list[str] = []
    keep: list[str] = []
    in_place: list[str] = []


class Rules:
    """The patterns of one component, ready to be asked.

    Attributes:
        carved: by folder (path from the root), the names in it that other components own.
        keep_lines: the patterns of `keep` as they were written.
        identity: changes when the answers may change.

    Raises:
        UsageError: settings.value, when a pattern cannot be understood.
    """

    def __init__(self, c: Component, roots: tuple[str, ...]) -> None:
        options = read_options(c)
        self.exclude = self._patterns(c, "exclude", [*TRANSIENT, *options.exclude])
        self.keep = self._patterns(c, "keep", options.keep)
        self.keep_lines = tuple(options.keep)
        self.in_place = self._patterns(c, "in_place", options.in_place)
        self.carved: dict[str, set[str]] = {}
        for path in c.carved:
            for root in roots:
                if path.startswith(root.rstrip("/") + "/"):
                    folder, name = os.path.split(os.path.relpath(path, root))
                    self.carved.setdefault(folder, set()).add(name)
        self.identity = repr((options.exclude, options.keep, sorted((k, sorted(v)) for k, v in self.carved.items())))

    @staticmethod
    def _patterns(c: Component, key: str, lines: list[str]) -> Patterns:
        try:
            return Patterns(lines)
        except ValueError as error:
            raise UsageError(
                "settings.value", path="rfs.toml", key=f"components.{c.name}.{key}", why=str(error)
            ) from None

    def maybe_left_out(self, folder: str, joined: str) -> bool:
        """Tell whether a folder may hold something that is left out; never wrongly False."""
        return "\0.rfs-" in joined or folder in self.carved or self.exclude.maybe(joined)

    def left_out(self, folder: str, name: str, *, is_folder: bool) -> bool:
        """Tell whether an entry is neither captured nor touched."""
        if name.startswith((STAGE_PREFIX, TEMPORARY_PREFIX)):
            return True
        if name in self.carved.get(folder, ()):
            return True
        return self.exclude.match(folder, name, is_folder=is_folder)


def read_options(c: Component) -> FilesOptions:
    """Return the component's options as their type, whatever mapping they came as.

    Raises:
        msgspec.ValidationError: they were never validated, and are wrong.
    """
    return msgspec.convert(dict[str, Any](c.options), FilesOptions)


def root_of(c: Component) -> str:
    """Return the absolute path that rfs.toml names; the last component may be a link."""
    return os.path.normpath(os.path.join(c.home, os.path.expanduser(read_options(c).path)))
