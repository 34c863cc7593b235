"""One regular file, captured and restored whole: content, owner, mode, times and attributes, or that it is not there.

The base of the drivers for configuration and environment files. A link in its place is
refused, never followed: what it leads to may belong to somebody else.
"""

from __future__ import annotations

import os
import stat
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSink, BlobSource, Driver, Finding
from rfs.production.rollback.drivers import displaced
from rfs.production.rollback.drivers.formats import UnparsableError, Value
from rfs.production.rollback.drivers.meta import (
    TEMPORARY_PREFIX,
    Meta,
    check_owner,
    put_times_back,
    read_file,
    reason,
    refused,
    remove_file,
    remove_leftover,
    replace_file,
    shown,
)
from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.model import Capture, Change, ChangeKind, Component, Fingerprint, Ref, Restored

MANIFEST_FORMAT = 1


class File(msgspec.Struct, frozen=True):
    """A state of the file.

    Attributes:
        kind: "file" or "absent"; or, recorded only as the state before a rollback, "link" or "other".
        meta: None unless a file.
        data: the content, the link's text, or which other thing it is; when even its folder is not there, the
            nearest one above that is.
    """

    kind: str
    meta: Meta | None = None
    data: bytes = b""

    def __repr__(self) -> str:
        # The content may hold secrets, which must not get into a traceback or a log by accident.
        return f"File(kind={self.kind!r}, meta={self.meta!r})"

    @property
    def fingerprint(self) -> Fingerprint:
        identity = msgspec.msgpack.encode((MANIFEST_FORMAT, self.kind, self.meta))
        data = b"" if self.kind == "absent" else self.data
        return Fingerprint(blake3(identity + data).hexdigest(), int(self.kind != "absent"), len(data))


class OneFileDriver(Driver):
    """A driver of components that are one file; says which file, and what changed inside it."""

    @abstractmethod
    def path(self, c: Component) -> str:
        """Return the file's absolute path."""

    def _inside(self, c: Component, source: BlobSource, before: File, after: File) -> Iterator[Change]:
        """Yield the differences between two contents that differ; none when only their layout does."""
        from rfs.production.rollback.drivers.keys import key_changes

        try:
            old, new = self.keys(c, before), self.keys(c, after)
        except UnparsableError:
            yield whole(c, source, before, after)
            return
        yield from key_changes(c, source, old, new)

    @abstractmethod
    def keys(self, c: Component, file: File) -> dict[str, Value]:
        """Return the keys of a regular file with their values, those that must not be shown marked as secret.

        Raises:
            UnparsableError: it has no keys, or none that can be read.
        """

    def invalid(self, c: Component, file: File) -> RollbackError | None:
        """Return what is wrong with the content, without a word of it, or None."""
        return None

    # — the plugin page —

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        return self._capture(c, sink, live_file(c, self.path(c)))

    def salvage(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        return self._capture(c, sink, live_file(c, self.path(c), as_it_is=True))

    def _capture(self, c: Component, sink: BlobSink, file: File) -> Capture:
        wrong = self.invalid(c, file)
        body = msgspec.msgpack.encode((MANIFEST_FORMAT, file.kind, file.meta))
        part = sink.put_part([sink.put(file.data)], body)
        sink.tick(1, len(file.data))
        fingerprint = file.fingerprint
        return Capture(
            component=c.name,
            kind=self.kind,
            fingerprint=fingerprint,
            parts=(part,),
            entries=fingerprint.entries,
            size=fingerprint.size,
            # Broken configuration is exactly what a checkpoint may be wanted of.
            warnings=() if wrong is None else (str(wrong),),
        )

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        return live_file(c, self.path(c), as_it_is=True).fingerprint

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        # The file is small: to stage it is to know that it can be fetched, and put in its place.
        file, path = stored(want, source), self.path(c)
        live_file(c, path, as_it_is=True)
        if file.meta is not None:
            check_owner(path, file.meta)

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        file, path = stored(want, source), self.path(c)
        live = live_file(c, path, as_it_is=True)
        warnings: list[str] = []
        if live.fingerprint != want.fingerprint:
            source.tick(1, len(file.data))
            if live.kind == "other":
                warnings.append(displaced.set_aside(path, c.name))
            if file.kind in ("file", "link"):
                warnings += displaced.make_folders(path, c.name)
            self._put(c, path, file)
        if file.kind == "absent" and file.data:
            displaced.remove_folders(path, file.data)
        return Restored(int(live.fingerprint != want.fingerprint), tuple(warnings))

    @staticmethod
    def _put(c: Component, path: str, file: File) -> None:
        if file.meta is not None:
            replace_file(path, file.data, file.meta, component=c.name)
        elif file.kind == "link":
            _replace_link(c, path, os.fsdecode(file.data))
        else:
            remove_file(path, component=c.name)
            if file.kind == "other":
                displaced.put_back(path, file.data, c.name)

    def release(self, c: Component) -> None:
        remove_leftover(self.path(c), component=c.name)

    def outline(self, c: Component) -> Any:
        from rfs.production.rollback.drivers.keys import shown_keys

        file = live_file(c, self.path(c), as_it_is=True)
        try:
            return shown_keys(self.keys(c, file)) if file.kind == "file" else super().outline(c)
        except UnparsableError:
            return super().outline(c)

    def owns(self, c: Component) -> tuple[str, ...]:
        return (self.path(c),)

    def examine(self, c: Component) -> Iterator[Finding]:
        path = self.path(c)
        try:
            file = live_file(c, path)
        except RollbackError as error:
            yield Finding("error", str(error), error.hint)
            return
        if file.kind == "absent":
            missing = RollbackError("path.missing", component=c.name, path=shown(path))
            yield Finding("warning", str(missing), missing.hint)
        elif file.meta is not None:
            yield from self._examine_file(c, path, file, file.meta)
        folder = os.path.dirname(path)
        if not os.access(folder, os.W_OK):
            why = "this user may not write to its folder"
            locked = RollbackError("path.unwritable", component=c.name, path=shown(path), why=why)
            yield Finding("error", str(locked), locked.hint)
        yield from displaced.left(path)

    def _examine_file(self, c: Component, path: str, file: File, meta: Meta) -> Iterator[Finding]:
        wrong = self.invalid(c, file)
        if wrong is not None:
            yield Finding("warning", str(wrong), wrong.hint)
        try:
            check_owner(path, meta)
        except RollbackError as error:
            yield Finding("error", str(error), error.hint)

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        live = live_file(c, self.path(c), as_it_is=True)
        return [] if live.fingerprint == want.fingerprint else self._compare(c, source, stored(want, source), live)

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        after = live_file(c, self.path(c), as_it_is=True) if b is None else stored(b, source)
        if after.fingerprint != a.fingerprint:
            yield from self._compare(c, source, stored(a, source), after)

    def _compare(self, c: Component, source: BlobSource, before: File, after: File) -> list[Change]:
        if before.kind == after.kind == "absent":
            return []
        if before.kind != after.kind or before.kind != "file":
            return [whole(c, source, before, after)]
        changes = list(_meta_changes(c, before.meta, after.meta))
        if before.data != after.data:
            # That it was written later goes without saying.
            changes = [change for change in changes if change.key != "file:modified"]
            changes += list(self._inside(c, source, before, after)) or [_layout(c, source, before, after)]
        return sorted(changes, key=lambda change: change.key)


def whole(c: Component, source: BlobSource, before: File, after: File) -> Change:
    """Return the change of the whole file, in sizes only."""

    def side(file: File) -> Ref | None:
        if file.kind == "absent":
            return None
        label = "a symbolic link" if file.kind == "link" else f"{len(file.data):,} bytes"
        if file.kind == "other":
            label = displaced.label(file.data)
        return Ref(source.identify(file.data).hex(), len(file.data), label)

    kind = ChangeKind.CHANGED
    if before.kind == "absent":
        kind = ChangeKind.ADDED
    elif after.kind == "absent":
        kind = ChangeKind.REMOVED
    return Change(c.name, kind, "", side(before), side(after))


def _layout(c: Component, source: BlobSource, before: File, after: File) -> Change:
    old, new = (
        Ref(source.identify(file.data).hex(), len(file.data), "comments and layout") for file in (before, after)
    )
    return Change(c.name, ChangeKind.CHANGED, "file:layout", old, new)


def _meta_changes(c: Component, before: Meta | None, after: Meta | None) -> Iterator[Change]:
    if before is None or after is None:
        return
    sides = {
        "file:mode": (f"{stat.S_IMODE(before.mode):04o}", f"{stat.S_IMODE(after.mode):04o}"),
        "file:owner": (f"{before.uid}:{before.gid}", f"{after.uid}:{after.gid}"),
        "file:modified": (_time(before.mtime_ns), _time(after.mtime_ns)),
        "file:attributes": (_attributes(before), _attributes(after)),
    }
    same_attributes = (before.xattrs, before.flags) == (after.xattrs, after.flags)
    for key, (old, new) in sides.items():
        if old != new or (key == "file:attributes" and not same_attributes):
            yield Change(c.name, ChangeKind.CHANGED, key, Ref(old, label=old), Ref(new, label=new))


def _time(ns: int) -> str:
    from datetime import UTC, datetime  # only when times differ, and start-up is a goal

    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"


def _attributes(meta: Meta) -> str:
    # Names only: nobody knows what a value is.
    return ", ".join(
        [name.decode(errors="replace") for name, _ in meta.xattrs] + ([f"flags {meta.flags:#x}"] if meta.flags else [])
    )


def stored(capture: Capture, source: BlobSource) -> File:
    """Return the state that a capture recorded.

    Raises:
        IntegrityError: it is missing, damaged or makes no sense.
    """
    wrong = IntegrityError(
        "store.damaged",
        what=f"the manifest of {capture.component}",
        hint="`rfs verify --store` lists what is damaged and which checkpoints are whole.",
    )
    if len(capture.parts) != 1:
        raise wrong
    refs, body = source.get_part(capture.parts[0])
    try:
        version, kind, meta = msgspec.msgpack.decode(body, type=tuple[int, str, Meta | None])
    except msgspec.DecodeError:
        raise wrong from None
    if version != MANIFEST_FORMAT or len(refs) != 1 or kind not in ("file", "absent", "link", "other"):
        raise wrong
    if (kind == "file") != (meta is not None) or (meta is not None and not stat.S_ISREG(meta.mode)):
        raise wrong
    file = File(kind, meta, source.get(refs[0]))
    if file.fingerprint != capture.fingerprint:
        raise wrong
    return file


def live_file(c: Component, path: str, *, as_it_is: bool = False) -> File:
    """Return the state of the live file.

    Args:
        as_it_is: record also what is no regular file, or cannot be read, instead of refusing it.

    Raises:
        RollbackError: it cannot be read, or something else stands in its place.
    """
    try:
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode):
            return _read(path, found, as_it_is=as_it_is)
        if as_it_is:
            is_link = stat.S_ISLNK(found.st_mode)
            return File("link", None, os.fsencode(os.readlink(path))) if is_link else _other(found)
    except (FileNotFoundError, NotADirectoryError):
        return File("absent", None, displaced.lacking(path))
    except OSError as error:
        raise RollbackError("path.unreadable", path=shown(path), component=c.name, why=reason(error)) from error
    kind = f"a symbolic link to {shown(os.readlink(path))}" if stat.S_ISLNK(found.st_mode) else displaced.kind_of(found)
    raise RollbackError("path.kind", path=shown(path), component=c.name, found=kind, wanted="a regular file")


def _read(path: str, found: os.stat_result, *, as_it_is: bool) -> File:
    try:
        data, meta = read_file(path)
    except PermissionError:
        if not as_it_is:
            raise
        return _other(found)
    return File("file", meta, data)


def _other(found: os.stat_result) -> File:
    return File("other", None, displaced.identity(found))


def _replace_link(c: Component, path: str, text: str) -> None:
    """Put a symbolic link in the place of whatever file is there, durably, in one rename."""
    folder, name = os.path.split(path)
    temporary = TEMPORARY_PREFIX + "link-" + name
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            before = os.fstat(fd)
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=fd)
            os.symlink(text, temporary, dir_fd=fd)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            put_times_back(fd, before)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise refused(error, path, c.name) from error
