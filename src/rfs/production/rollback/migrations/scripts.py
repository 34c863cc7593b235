"""The scripts of a tool as one bundle of files, from the application as it is or from a checkpoint, and their graph."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component, Migrations

Files = Mapping[str, bytes]
"""The content of each file, by a name that is the same wherever the application lies."""

_FORMAT = 1


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """One migration as its file tells.

    Attributes:
        parents: what it comes after.
        down: whether there is a way back.
    """

    version: str
    title: str = ""
    parents: tuple[str, ...] = ()
    down: bool = True


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force in a database, in the eyes of some scripts.

    Attributes:
        applied: oldest first; without those whose place the scripts do not tell.
        missing: in force, but unknown to the scripts.
        pending: known to the scripts, but not in force; oldest first.
        known: every revision of the scripts, by its version.
    """

    applied: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    known: dict[str, Revision] = {}


class _Body(msgspec.Struct, frozen=True, array_like=True):
    format: int
    names: tuple[str, ...]
    objects: tuple[str, ...]


def put(sink: BlobSink, files: Files, objects: Sequence[str]) -> bytes:
    """Store scripts with the names of the database's objects; return the part's id."""
    names = sorted(files)
    blobs = sink.put_all([files[name] for name in names])
    return sink.put_part(blobs, msgspec.msgpack.encode(_Body(_FORMAT, tuple(names), tuple(objects))))


def get(source: BlobSource, recorded: Migrations) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the files and the names of objects that `put` was given."""
    files: dict[str, bytes] = {}
    objects: tuple[str, ...] = ()
    for part in recorded.parts:
        blobs, encoded = source.get_part(part)
        body = msgspec.msgpack.decode(encoded, type=_Body)
        files |= {name: source.get(blob) for name, blob in zip(body.names, blobs, strict=True)}
        objects += body.objects
    return files, objects


def write(files: Files, folder: str) -> None:
    """Write files into an empty folder of ours; names are checked, as they came from a store."""
    for name, data in files.items():
        path = os.path.normpath(os.path.join(folder, name))
        if os.path.isabs(name) or not path.startswith(folder.rstrip("/") + "/"):
            raise RollbackError("migrate.unusable", path=name, why="it lies outside of its folder")
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(path, "xb") as file:
            file.write(data)


def read(c: Component, path: str) -> bytes:
    """Return the content of a file of the application.

    Raises:
        RollbackError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise RollbackError("migrate.unreadable", component=c.name, path=path, why=error.strerror) from error


def listed(c: Component, folder: str) -> list[str]:
    """Return the names in a folder of the application, sorted.

    Raises:
        RollbackError: it cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise RollbackError("migrate.unreadable", component=c.name, path=folder, why=error.strerror) from error


def in_order(known: Mapping[str, Revision]) -> list[str]:
    """Return the versions so that each comes after what it comes after; otherwise by name.

    A circle, which no tool would accept, ends up at the end.
    """
    left = {version: {p for p in each.parents if p in known} for version, each in known.items()}
    done: list[str] = []
    while left:
        ready = sorted(version for version, needs in left.items() if not needs) or sorted(left)
        done += ready
        left = {version: needs - set(ready) for version, needs in left.items() if version not in ready}
    return done


def before(known: Mapping[str, Revision], versions: Iterable[str]) -> set[str]:
    """Return these versions and everything that they come after."""
    found: set[str] = set()
    left = list(versions)
    while left:
        version = left.pop()
        if version not in found:
            found.add(version)
            left += known[version].parents if version in known else ()
    return found
