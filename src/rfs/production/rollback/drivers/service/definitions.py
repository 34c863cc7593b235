"""The files that define a component's units: read, compared, put back."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256

import msgspec

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.drivers import meta as files
from rfs.production.rollback.drivers.service.manager import Places
from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.model import Component

_LINK = files.TEMPORARY_PREFIX + "link"
# The names that meta.replace_file uses, and _LINK. What other drivers stage under the prefix is not ours to remove.
_LEFT = re.compile(re.escape(files.TEMPORARY_PREFIX) + "([0-9a-f]{16}|link)")


class Definition(msgspec.Struct, frozen=True):
    """One file, or one symbolic link on the way to a file.

    Attributes:
        path: relative to the folder of rfs.toml when it lies in there, else absolute.
        data: the file's content, or the link's text.
    """

    path: str
    meta: files.Meta
    data: bytes

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.meta.mode)


class Recorded(msgspec.Struct, frozen=True, array_like=True):
    """A Definition as a capture stores it; its data is the blob at the same position."""

    path: bytes
    meta: files.Meta


def expand_links(paths: Iterable[str]) -> list[str]:
    """Return the absolute paths that matter for reading these: links, what they point to, files. Sorted."""
    found: set[str] = set()
    left = list(paths)
    while left:
        path = left.pop()
        # What was found already is not followed again: links may point at each other.
        if path not in found and os.path.lexists(path):
            found.add(path)
            if os.path.islink(path):
                left.append(os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path))))
    return sorted(found)


def present(c: Component, places: Places) -> list[str]:
    """Return the absolute paths of the definitions that are there and the component's own to look after. Sorted."""
    return sorted({*_own(places), *(path for path in expand_links(places.shared) if not _is_anothers(c, path))})


def without_others(c: Component, definitions: Mapping[str, Definition], places: Places) -> dict[str, Definition]:
    """Return the definitions that the component has to look after; others own what it only shares with them now."""
    own = {*_own(places), *places.files, *places.links}
    return {path: each for path, each in definitions.items() if path in own or not _is_anothers(c, path)}


def _own(places: Places) -> list[str]:
    return [*expand_links(places.files), *(path for path in places.links if os.path.lexists(path))]


def _is_anothers(c: Component, path: str) -> bool:
    return any(path == other or path.startswith(other.rstrip("/") + "/") for other in c.carved)


def next_to_change(wanted: Mapping[str, Definition], live: Mapping[str, Definition], places: Places) -> list[str]:
    """Return the absolute paths that a restore has to put right next; none when it is done.

    What is wanted comes first, since with it the other files may define nothing any more; and of those the links,
    since without them what they lead to may be somebody else's. What a link in `places.files` leads to stays.
    Of what is wanted, files in folders that are not looked into yet come last: by then the definitions that name
    them are there, so that `tidy` finds what is left there of a restore that is killed.
    """
    different = list(differing(wanted, live))
    looked_into = [path for path in wanted if {os.path.dirname(path), _folder_above(path)} & set(places.folders)]
    for which in (looked_into, wanted, places.links, places.files, places.shared):
        found = [path for path in different if path in which]
        if found:
            return found
    return []


def read_definitions(c: Component, paths: Iterable[str]) -> dict[str, Definition]:
    """Return what stands at these absolute paths, by path; those that are not there are left out.

    Raises:
        RollbackError: path.unreadable.
    """
    found: dict[str, Definition] = {}
    for path in paths:
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                about = files.Meta(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
                data = os.fsencode(os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                data, about = files.read_file(path)
            else:
                continue  # a device, or a folder in the place of a file: that defines nothing
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            shown = files.shown(path)
            raise RollbackError("path.unreadable", component=c.name, path=shown, why=files.reason(error)) from error
        found[path] = Definition(_relative(c, path), about, data)
    return found


def record(definitions: Mapping[str, Definition], sink: BlobSink) -> tuple[list[bytes], list[Recorded]]:
    """Store the contents; return their blobs and what to store about them."""
    ordered = [definitions[path] for path in sorted(definitions)]
    blobs = [sink.put(each.data) for each in ordered]
    return blobs, [Recorded(os.fsencode(each.path), each.meta) for each in ordered]


def recall(
    c: Component, blobs: Sequence[bytes], recorded: Sequence[Recorded], source: BlobSource
) -> dict[str, Definition]:
    """Return what `record` stored, by absolute path.

    Raises:
        IntegrityError: a blob is missing, or a path is not one that `record` writes.
    """
    found: dict[str, Definition] = {}
    for blob, each in zip(blobs, recorded, strict=True):
        path = os.fsdecode(each.path)
        absolute = os.path.join(c.home, path)
        # A relative path lies in the folder of rfs.toml, and none is roundabout.
        if os.path.normpath(path) != path or path.startswith("..") or "\0" in path:
            raise IntegrityError("path.unsafe", path=files.shown(path))
        found[absolute] = Definition(path, each.meta, source.get(blob))
    return found


def differing(wanted: Mapping[str, Definition], live: Mapping[str, Definition]) -> Iterator[str]:
    """Yield the absolute paths at which the two differ, sorted."""
    for path in sorted(wanted.keys() | live.keys()):
        if wanted.get(path) != live.get(path):
            yield path


class Made:
    """What restores of one operation made where nothing was: one that turns back does not leave it.

    A restore removes only what its own definitions still name, so it has to be told of this.
    """

    def __init__(self, c: Component) -> None:
        self._c = c
        self._path = os.path.join(c.work, "made.json")

    def note(self, definitions: Mapping[str, Definition]) -> None:
        """Note, before they are made, those of these definitions where nothing is yet."""
        new = {path: _digest(each) for path, each in definitions.items() if not os.path.lexists(path)}
        if new:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(f"{self._path}.new", "wb") as file:
                file.write(
                    msgspec.msgpack.encode({os.fsencode(path): text for path, text in new.items()} | self._noted())
                )
            os.replace(f"{self._path}.new", self._path)

    def left(self, wanted: Mapping[str, Definition]) -> list[str]:
        """Return the absolute paths of those that are still there as they were made, and are not wanted."""
        noted = {os.fsdecode(path): text for path, text in self._noted().items()}
        live = read_definitions(self._c, noted.keys() - wanted.keys())
        return sorted(path for path, each in live.items() if _digest(each) == noted[path])

    def forget(self) -> None:
        """Forget them: the operation is over."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _noted(self) -> dict[bytes, bytes]:
        try:
            with open(self._path, "rb") as file:
                return msgspec.msgpack.decode(file.read(), type=dict[bytes, bytes])
        except (OSError, msgspec.MsgspecError):
            return {}


def _digest(definition: Definition) -> bytes:
    return sha256(definition.data).digest()


def _folder_above(path: str) -> str:
    return os.path.dirname(os.path.dirname(path))


def put_back(c: Component, path: str, wanted: Definition | None) -> None:
    """Make `path` what it is wanted to be; None removes it.

    Raises:
        RollbackError: it could not be written; the old one is untouched.
    """
    if wanted is None:
        files.remove_file(path, component=c.name)
    elif wanted.is_link:
        _replace_link(c, path, wanted)
    else:
        _make_folder(c, os.path.dirname(path))
        files.replace_file(path, wanted.data, wanted.meta, component=c.name)


def _replace_link(c: Component, path: str, wanted: Definition) -> None:
    files.check_owner(path, wanted.meta)
    folder = os.path.dirname(path)
    _make_folder(c, folder)
    temporary = os.path.join(folder, _LINK)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(os.fsdecode(wanted.data), temporary)
        os.lchown(temporary, wanted.meta.uid, wanted.meta.gid)
        os.utime(temporary, ns=(wanted.meta.mtime_ns, wanted.meta.mtime_ns), follow_symlinks=False)
        before = os.stat(folder)
        os.rename(temporary, path)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            files.put_times_back(fd, before)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise files.refused(error, path, c.name) from error


def _make_folder(c: Component, folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise files.refused(error, folder, c.name) from error


def tidy(folder: str) -> None:
    """Remove what a `put_back` that was killed left in a folder. The folder keeps its times."""
    try:
        left = [name for name in os.listdir(folder) if _LEFT.fullmatch(name)]
    except OSError:
        return  # it is gone, or cannot be looked into: then nothing of ours is in it
    for name in left:
        files.remove_file(os.path.join(folder, name))


def shown(path: str) -> str:
    """Return a path fit for any output."""
    return files.shown(path)


def _relative(c: Component, path: str) -> str:
    home = c.home.rstrip("/") + "/"
    return path[len(home) :] if path.startswith(home) else path
