"""The outage: staged entries are exchanged with live ones, extras go out, folders get their metadata back."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.files import content, system
from rfs.production.rollback.drivers.files.compare import Task, Verb
from rfs.production.rollback.drivers.files.places import Folders
from rfs.production.rollback.drivers.files.remove import remove_tree
from rfs.production.rollback.drivers.files.stage import FEW, Builder, Item, Stage
from rfs.production.rollback.drivers.files.tree import Entry, Tree, join
from rfs.production.rollback.drivers.meta import (
    LOCKING_FLAGS,
    TEMPORARY_PREFIX,
    Meta,
    apply_meta,
    node,
    refused,
    shown,
    unlock,
    write_flags,
)
from rfs.production.rollback.errors import RollbackError

_TICK = 256
_OTHER_FILE_SYSTEM = {errno.EXDEV}
_CANNOT_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


class Applier:
    """Turns a live tree into the wanted one. Run again at any moment it goes on with what still differs.

    Args:
        component: its name, for errors.
        root: the open root folder.
        stage: where everything that is put has been made.
        want, live: the trees; `live` as it was just seen.

    Attributes:
        warnings: sentences about what could not be exchanged.
    """

    def __init__(self, component: str, root: int, stage: Stage, trees: tuple[Tree, Tree], source: BlobSource) -> None:
        self._component, self._root, self._stage, self._source = component, root, stage, source
        self._want, self._live = trees
        self._folders = Folders(root)
        self._others = Folders(root)
        self._touched: set[str] = set()  # folders in which names changed
        self._opened: set[str] = set()  # folders whose own metadata was changed to let names change
        self._described: dict[str, Entry] = {}
        self._away: list[str] = []  # paths that were not put by exchange, on whatever file system
        self._links: dict[int, str] = {}
        self._locked = _locked_folders(trees[1])
        self.warnings: list[str] = []

    def run(self, tasks: list[Task]) -> None:
        """Do all of it; durable on return.

        Raises:
            RollbackError: path.swapped, path.mounted, path.unwritable, path.owner.
        """
        try:
            for number, task in enumerate(tasks):
                if task.verb is Verb.DESCRIBE and task.want is not None:
                    self._described[task.path] = task.want
                else:
                    self._guarded(task.path, self._do, task)
                if number % _TICK == 0:
                    self._source.tick()
            for task in tasks:
                if task.verb is Verb.DESCRIBE and task.want is not None and not task.want.is_folder:
                    self._guarded(task.path, self._describe, task)
            self._lock(tasks)
            self._finish_folders()
            self._sync(tasks)
        finally:
            self._folders.close()
            self._others.close()

    def _guarded(self, path: str, call: Callable[[Task], None], task: Task) -> None:
        try:
            call(task)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise RollbackError("path.mounted", path=shown(path), component=self._component) from error
            raise refused(error, path, self._component) from error

    def _do(self, task: Task) -> None:
        folder, _, name = task.path.rpartition("/")
        fd = self._folders.open(folder)
        if folder in self._locked and folder not in self._opened and unlock(fd):
            self._opened.add(folder)
        if task.live is not None and task.live.extra.flags & LOCKING_FLAGS:
            _unlock(name, fd)
        if task.verb is Verb.WRITE:
            self._write(task, fd, name)
            return
        self._touched.add(folder)
        change = self._take if task.verb is Verb.TAKE else self._put
        try:
            change(task, fd, name)
        except PermissionError:
            # The folder's owner may open it up for this; its own mode comes back at the end.
            mode = os.fstat(fd).st_mode
            if os.geteuid() == 0 or mode & stat.S_IRWXU == stat.S_IRWXU:
                raise
            os.chmod(fd, stat.S_IMODE(mode) | stat.S_IRWXU)
            self._opened.add(folder)
            change(task, fd, name)

    # — putting —

    def _put(self, task: Task, fd: int, name: str) -> None:
        if self._stage.arrived(task):
            return
        item = self._stage.ready(task.path)
        if item is None:
            raise RollbackError("path.swapped", path=shown(task.path))
        try:
            _swap_in(item, fd, name, self._stage)
        except OSError as error:
            if error.errno == errno.EBUSY and task.live is not None and task.live.is_file and task.want is not None:
                self.warnings.append(f"{shown(task.path)} is a mount point and was written in place")
                self._write(task, fd, name)
            elif error.errno in _OTHER_FILE_SYSTEM:
                self._put_across(task, fd, name)
            else:
                raise

    def _put_across(self, task: Task, fd: int, name: str) -> None:
        """Make the entry beside the live one, on the file system that is mounted there, and rename it."""
        if not self._away:
            self.warnings.append(f"{shown(task.path)} lies on another file system and was written there")
        temporary = f"{TEMPORARY_PREFIX}put"
        remove_tree(fd, temporary)
        builder = Builder(self._want, self._source, fd, self._component, sync_each=True, first=self._first)
        builder.build(task.path, task.want, fd, temporary)
        builder.done()
        if task.live is not None and (task.live.is_folder or (task.want is not None and task.want.is_folder)):
            remove_tree(fd, name)
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)
        for number, group in enumerate(self._want.groups):
            for path in group:
                if path == task.path or path.startswith(task.path + "/"):
                    self._links.setdefault(number, path)
        self._away.append(task.path)

    def _first(self, group: int) -> tuple[int, str] | None:
        """Return where a name of a linked file is that was put away from the stage's file system."""
        path = self._links.get(group)
        if path is None:
            return None
        folder, _, name = path.rpartition("/")
        return self._others.open(folder), name

    def _write(self, task: Task, fd: int, name: str) -> None:
        """Give a live file the staged one's content and metadata, its inode stays."""
        item = self._stage.ready(task.path)
        if item is None or task.want is None:
            raise RollbackError("path.swapped", path=shown(task.path))
        staged = os.open(item.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=item.folder)
        try:
            live = _open_to_write(name, fd)
            try:
                content.copy_over(staged, live)
                apply_meta(live, _unlocked(task.want.meta))
                os.fsync(live)
            finally:
                os.close(live)
        finally:
            os.close(staged)

    # — taking out —

    def _take(self, task: Task, fd: int, name: str) -> None:
        out, free = self._stage.park()
        try:
            system.move(fd, name, out, free)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _OTHER_FILE_SYSTEM:
                raise
            remove_tree(fd, name)
            os.fsync(fd)

    # — metadata —

    def _describe(self, task: Task) -> None:
        folder, _, name = task.path.rpartition("/")
        fd = self._folders.open(folder)
        if task.want is None:
            return
        if not task.want.is_file:
            with node(name, fd) as target:
                apply_meta(target, task.want.meta)
            return
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
        except PermissionError:  # its owner may describe what he may not read
            with node(name, fd) as target:
                apply_meta(target, task.want.meta)
            return
        try:
            apply_meta(file, task.want.meta)
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise RollbackError("path.swapped", path=shown(task.path))
            os.fsync(file)
        finally:
            os.close(file)

    def _lock(self, tasks: list[Task]) -> None:
        """Set the flags that would have kept entries from getting to their places. Folders inside come first."""
        for task in tasks:
            if task.verb not in (Verb.PUT, Verb.WRITE) or task.want is None:
                continue
            if task.want.is_folder:
                for folder in reversed(self._want.inside(task.path)):
                    block = self._want.blocks[folder]
                    names = block.listed() if block.extras else []
                    for at, extra in block.extras.items():
                        if extra.flags & LOCKING_FLAGS:
                            self._set_flags(join(folder, names[at]), extra.flags)
            if task.want.extra.flags & LOCKING_FLAGS:
                self._set_flags(task.path, task.want.extra.flags)

    def _set_flags(self, path: str, flags: int) -> None:
        folder, _, name = path.rpartition("/")
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folders.open(folder)
        )
        try:
            write_flags(fd, flags)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _finish_folders(self) -> None:
        """Put back what folders were like: deepest first, as a folder may be closed by its own mode."""
        paths = self._touched | self._opened | {p for p, e in self._described.items() if e.is_folder}
        wanted = {path: entry for path, entry in self._want.find_all(paths).items() if entry.is_folder}
        found = self._live.find_all(paths - wanted.keys())
        for path in sorted(paths, reverse=True):
            entry = wanted.get(path) or found.get(path)
            if entry is None:
                continue
            try:
                fd = self._folders.open(path)
                if path in self._described or path in self._opened:
                    apply_meta(fd, entry.meta)
                else:
                    os.utime(fd, ns=(os.fstat(fd).st_atime_ns, entry.mtime_ns))
            except OSError as error:
                raise refused(error, path, self._component) from error

    def _sync(self, tasks: list[Task]) -> None:
        paths = self._touched | self._opened | {path for path, entry in self._described.items() if entry.is_folder}
        try:
            if len(tasks) > FEW:
                system.sync_file_system(self._root)
                if self._away:
                    for path in {path.rpartition("/")[0] for path in self._away}:
                        system.sync_file_system(self._folders.open(path))
            else:
                for path in paths:
                    os.fsync(self._folders.open(path))
                os.fsync(self._stage.folder)
        except OSError as error:
            raise refused(error, "", self._component) from error


def _swap_in(item: Item, fd: int, name: str, stage: Stage) -> None:
    """Put a staged entry in its place, and whatever is there in the staged one's."""
    try:
        system.exchange(item.folder, item.name, fd, name)
    except FileNotFoundError:
        system.move(item.folder, item.name, fd, name)
    except OSError as error:
        if error.errno not in _CANNOT_EXCHANGE:
            raise
        # Not every file system can exchange. A crash between the two leaves the name free, and the
        # repetition fills it.
        out, free = stage.park()
        with contextlib.suppress(FileNotFoundError):
            system.move(fd, name, out, free)
        system.move(item.folder, item.name, fd, name)


def _unlocked(meta: Meta) -> Meta:
    return Meta(meta.mode, meta.uid, meta.gid, meta.mtime_ns, meta.xattrs, meta.flags & ~LOCKING_FLAGS)


def _unlock(name: str, dir_fd: int) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        unlock(fd)
    finally:
        os.close(fd)


def _open_to_write(name: str, dir_fd: int) -> int:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except PermissionError:
        with node(name, dir_fd) as target:
            os.chmod(target, 0o600)
        return os.open(name, flags, dir_fd=dir_fd)


def _locked_folders(tree: Tree) -> set[str]:
    """Return the folders in which no name may be changed until their flags are cleared."""
    found = {""} if not tree.absent and tree.top.entry(0).extra.flags & LOCKING_FLAGS else set()
    for folder, block in tree.blocks.items():
        for at, extra in block.extras.items():
            if extra.flags & LOCKING_FLAGS and block.entry(at).is_folder:
                found.add(join(folder, block.listed()[at]))
    return found
