"""The stage: a folder on the tree's own file system where what is wanted is made complete before it is needed.

    STAGE/KEY/g0-RANDOM/0, 1, 2 …   complete entries, each to be exchanged with the live one
    STAGE/KEY/g0-RANDOM.list        which path each is for and its inode; written when all of them are durable
    STAGE/KEY/out/                  what was live and should not be there any longer

KEY names the wanted state. RANDOM is for ext4, which chooses the region of such a folder by its name: see
`spread_folders`. After an exchange the staged name holds the old entry, whose
inode is not the listed one: so a repetition sees that this path is done.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec
from blake3 import blake3

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.files import content
from rfs.production.rollback.drivers.files.compare import Task, Verb
from rfs.production.rollback.drivers.files.places import Folders, mounts_under, stage_folders, times_kept
from rfs.production.rollback.drivers.files.reader import OPEN_FOLDER
from rfs.production.rollback.drivers.files.remove import remove_tree
from rfs.production.rollback.drivers.files.system import sync_file_system
from rfs.production.rollback.drivers.files.tree import DIGEST, Entry, Tree, above, join
from rfs.production.rollback.drivers.meta import (
    LOCKING_FLAGS,
    apply_meta,
    check_owner,
    node,
    refused,
    shown,
    spread_folders,
    write_all,
)
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

# Up to this many files are synced one by one; for more, one sync of the file system is
# cheaper, though it also waits for what others have written.
FEW = 64
# So many blobs, of so many bytes, are read ahead.
_EXPECTED = 2_000
_EXPECTED_SIZE = 64 << 20
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ACL_FOR_NEW = "system.posix_acl_default"


class _Listed(msgspec.Struct, array_like=True):
    path: bytes
    item: str
    inode: int


class Item(NamedTuple):
    """A staged entry: its name in an open folder, and the inode that it has until it is exchanged."""

    folder: int
    name: str
    inode: int


class Stage:
    """The stage of one wanted state. Use `Stage.opened`."""

    def __init__(self, folder: int, component: str) -> None:
        self.folder = folder
        self._component = component
        self._generations: dict[str, int] = {}
        self._items: dict[str, Item] = {}
        self._out = -1
        self._parked = 0
        self._went_out = False

    @classmethod
    @contextlib.contextmanager
    def opened(cls, c: Component, real: str, key: str) -> Iterator[Stage]:
        """Open the stage, making it when there is none; what an interrupted staging left half done is removed.

        Raises:
            RollbackError: path.unwritable or store.no_space.
        """
        try:
            base = _open_base(c, real)
        except OSError as error:
            raise refused(error, real, c.name) from error
        stage = None
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(key, 0o700, dir_fd=base)
                os.fsync(base)
            stage = cls(os.open(key, OPEN_FOLDER, dir_fd=base), c.name)
            stage._load()
            yield stage
        except OSError as error:
            raise refused(error, real, c.name) from error
        finally:
            if stage is not None:
                stage._close()
            os.close(base)

    def _close(self) -> None:
        for fd in (*self._generations.values(), self._out, self.folder):
            if fd >= 0:
                os.close(fd)

    def _load(self) -> None:
        names = sorted(os.listdir(self.folder), key=lambda name: (len(name), name))
        self._went_out = "out" in names
        for name in names:
            if name.startswith("g") and "." not in name:
                listed = self._read_list(name) if f"{name}.list" in names else None
                if listed is None:
                    remove_tree(self.folder, name)
                    continue
                fd = self._generations[name] = os.open(name, OPEN_FOLDER, dir_fd=self.folder)
                for entry in listed:
                    self._items[os.fsdecode(entry.path)] = Item(fd, entry.item, entry.inode)

    def _read_list(self, generation: str) -> list[_Listed] | None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(f"{generation}.list", flags, dir_fd=self.folder), "rb") as file:
            data = file.read()
        if blake3(data[DIGEST:]).digest() != data[:DIGEST]:
            return None
        return msgspec.msgpack.decode(data[DIGEST:], type=list[_Listed])

    def begun(self, tasks: Iterable[Task]) -> bool:
        """Tell whether an interrupted restore may have changed the live folder; these tasks are what is left to do."""
        return self._went_out or not self._items.keys() <= {task.path for task in tasks}

    def ready(self, path: str) -> Item | None:
        """Return the staged entry for a path, if it is still here."""
        item = self._items.get(path)
        if item is None:
            return None
        try:
            status = os.stat(item.name, dir_fd=item.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return item if status.st_ino == item.inode else None

    def park(self) -> tuple[int, str]:
        """Return a folder and a free name in it, for what goes out."""
        if self._out < 0:
            with contextlib.suppress(FileExistsError):
                os.mkdir("out", 0o700, dir_fd=self.folder)
            self._out = os.open("out", OPEN_FOLDER, dir_fd=self.folder)
            self._parked = len(os.listdir(self._out))
        while True:
            name = str(self._parked)
            self._parked += 1
            try:
                os.stat(name, dir_fd=self._out, follow_symlinks=False)
            except FileNotFoundError:
                return self._out, name

    # — making —

    def make(self, tasks: list[Task], want: Tree, source: BlobSource) -> None:
        """Make what the tasks put or write, unless it is here already; all of it is durable on return.

        Raises:
            RollbackError: path.owner before anything is made; path.unwritable or store.no_space.
            IntegrityError: a blob is missing or damaged.
        """
        missing = self._missing(tasks, want)
        if not missing:
            return
        for task in missing:
            _check_owners(task, want)
        number = 0
        while any(name.startswith(f"g{number}-") for name in self._generations):
            number += 1
        generation = f"g{number}-{os.urandom(4).hex()}"
        spread_folders(self.folder)
        os.mkdir(generation, 0o700, dir_fd=self.folder)
        fd = self._generations[generation] = os.open(generation, OPEN_FOLDER, dir_fd=self.folder)
        builder = Builder(want, source, fd, self._component, sync_each=len(missing) <= FEW)
        listed = []
        for at, task in enumerate(missing):
            if not at % _EXPECTED:
                source.expect(_blobs(missing[at : at + _EXPECTED], want))
            name = str(at)
            builder.build(task.path, task.want, fd, name)
            inode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
            listed.append(_Listed(os.fsencode(task.path), name, inode))
            self._items[task.path] = Item(fd, name, inode)
        builder.done()
        if len(missing) > FEW or builder.count > FEW:
            sync_file_system(fd)
        else:
            os.fsync(fd)
        self._write_list(generation, listed)

    def _write_list(self, generation: str, listed: list[_Listed]) -> None:
        body = msgspec.msgpack.encode(listed)
        file = os.open("list.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self.folder)
        try:
            write_all(file, blake3(body).digest() + body)
            os.fsync(file)
        finally:
            os.close(file)
        os.rename("list.new", f"{generation}.list", src_dir_fd=self.folder, dst_dir_fd=self.folder)
        os.fsync(self.folder)

    def _missing(self, tasks: list[Task], want: Tree) -> list[Task]:
        """Return the tasks whose entry is to be made. The names of one file are made together or not at all."""
        made = [task for task in tasks if task.verb in (Verb.PUT, Verb.WRITE)]
        missing = {task.path for task in made if self.ready(task.path) is None and not self.arrived(task)}
        if want.groups:
            _spread(missing, made, want)
        return [task for task in made if task.path in missing]

    def arrived(self, task: Task) -> bool:
        """Tell whether a name of a linked file has the staged inode already, from before an interruption."""
        item = self._items.get(task.path)
        if item is None or task.group < 0 or task.want is None or task.live is None:
            return False
        return task.live.inode == item.inode and task.want.same_content(task.live) and task.want.same_meta(task.live)


def _spread(missing: set[str], made: list[Task], want: Tree) -> None:
    """Add to `missing` every task that shares a linked file with one of them."""
    groups_of: dict[str, set[int]] = {task.path: set() for task in made}
    for number, group in enumerate(want.groups):
        for path in group:
            for here in (path, *above(path)):
                if here in groups_of:
                    groups_of[here].add(number)
                    break
    spread: set[int] = set()
    while True:
        more = set().union(*(groups_of[path] for path in missing)) - spread
        if not more:
            return
        spread |= more
        missing.update(path for path, groups in groups_of.items() if groups & more)


def _blobs(tasks: Iterable[Task], want: Tree) -> list[bytes]:
    """Return the blobs that some tasks need first."""
    found: list[bytes] = []
    size = 0
    for entry in _entries(tasks, want):
        size += entry.size
        if size > _EXPECTED_SIZE or len(found) >= _EXPECTED:
            break
        if entry.chunks is not None:
            found += [chunk.blob for chunk in entry.chunks]
        elif entry.size:
            found.append(entry.blob)
    return found


def _entries(tasks: Iterable[Task], want: Tree) -> Iterator[Entry]:
    for task in tasks:
        if task.want is None:
            continue
        yield task.want
        for folder in want.inside(task.path) if task.want.is_folder else ():
            block = want.blocks[folder]
            yield from map(block.entry, range(len(block)))


def _check_owners(task: Task, want: Tree) -> None:
    if task.want is None:
        return
    check_owner(task.path, task.want.meta)
    if os.geteuid() != 0 and task.want.is_folder:
        for folder in want.inside(task.path):
            block = want.blocks[folder]
            for at, name in enumerate(block.listed()):
                check_owner(join(folder, name), block.entry(at).meta)


class Builder:
    """Makes wanted entries, complete with content and metadata, in folders that nobody looks at.

    Args:
        links: a folder for further names by which linked files are held together.
        first: tells for a group which name of it is there already, as an open folder and a name.

    Attributes:
        count: how many entries it made.
    """

    def __init__(
        self,
        want: Tree,
        source: BlobSource,
        links: int,
        component: str,
        *,
        sync_each: bool,
        first: Callable[[int], tuple[int, str] | None] | None = None,
    ) -> None:
        self._want, self._source, self._component = want, source, component
        self._sync_each = sync_each
        self._member = {path: number for number, group in enumerate(want.groups) for path in group}
        self._links = links
        self._first = first
        self._linked: set[int] = set()
        self.count = 0

    def done(self) -> None:
        """Remove the further names by which linked files were held together while they were made."""
        for number in self._linked:
            os.unlink(f"link-{number}", dir_fd=self._links)
        self._linked.clear()

    def build(self, path: str, entry: Entry | None, dir_fd: int, name: str) -> None:
        """Make the wanted entry of a path under a free name of an open folder; a folder with all that is in it.

        Raises:
            OSError: as the system calls do.
            IntegrityError: a blob is missing or damaged.
            RollbackError: path.unsafe, when there is no such entry.
        """
        if entry is None:
            raise RollbackError("path.unsafe", path=shown(path))
        if not entry.is_folder:
            self._make(path, entry, dir_fd, name)
            return
        os.mkdir(name, 0o700, dir_fd=dir_fd)
        root = os.open(name, OPEN_FOLDER, dir_fd=dir_fd)
        folders = Folders(root)
        inside = self._want.inside(path)
        try:
            made: list[tuple[str, Entry]] = [("", entry)]
            for folder in inside:
                below = folder[len(path) + 1 :]
                fd = folders.open(below)
                block = self._want.blocks[folder]
                numbers = block.numbers()
                for at, child in enumerate(block.listed()):
                    here = block.entry(at, numbers)
                    if here.is_folder:
                        os.mkdir(child, 0o700, dir_fd=fd)
                        made.append((join(below, child), here))
                    else:
                        self._make(join(folder, child), here, fd, child)
            made.sort(key=lambda pair: pair[0], reverse=True)
            for below, folder_entry in made:
                self._finish(folders.open(below), folder_entry)
        finally:
            folders.close()
            os.close(root)

    def _make(self, path: str, entry: Entry, dir_fd: int, name: str) -> None:
        group = self._member.get(path, -1)
        if group in self._linked:
            os.link(f"link-{group}", name, src_dir_fd=self._links, dst_dir_fd=dir_fd, follow_symlinks=False)
        elif self._first is not None and group >= 0 and (there := self._first(group)) is not None:
            os.link(there[1], name, src_dir_fd=there[0], dst_dir_fd=dir_fd, follow_symlinks=False)
        else:
            make_node(entry, dir_fd, name, self._source, self._finish)
            if group >= 0:
                os.link(name, f"link-{group}", src_dir_fd=dir_fd, dst_dir_fd=self._links, follow_symlinks=False)
                self._linked.add(group)
        self.count += 1
        self._source.tick(1, entry.size)

    def _finish(self, target: int | str, entry: Entry) -> None:
        meta = entry.meta
        if meta.flags & LOCKING_FLAGS:
            # Nobody may rename an immutable file, nor change names in such a folder: these flags come last of all.
            meta = msgspec.structs.replace(meta, flags=meta.flags & ~LOCKING_FLAGS)
        apply_meta(target, meta)
        if self._sync_each and isinstance(target, int):
            os.fsync(target)


def make_node(
    entry: Entry, dir_fd: int, name: str, source: BlobSource, finish: Callable[[int | str, Entry], None]
) -> None:
    """Make one entry that is no folder under a free name.

    Args:
        finish: called with the open file (or, for what cannot be opened, a path) and the entry.
    """
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFREG:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=dir_fd)
        try:
            content.write(fd, entry, source)
            finish(fd, entry)
        finally:
            os.close(fd)
        return
    if kind == stat.S_IFLNK:
        os.symlink(entry.extra.link, os.fsencode(name), dir_fd=dir_fd)
    elif kind == stat.S_IFIFO:
        os.mkfifo(name, 0o600, dir_fd=dir_fd)
    elif kind in (stat.S_IFBLK, stat.S_IFCHR):
        os.mknod(name, kind | 0o600, entry.extra.device, dir_fd=dir_fd)
    else:
        raise RollbackError("path.unsafe", path=shown(name))
    with node(name, dir_fd) as target:
        finish(target, entry)


def _open_base(c: Component, real: str) -> int:
    """Open the component's stage folder, made when missing."""
    places = stage_folders(c, real)
    for path in places:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.open(path, OPEN_FOLDER)
    last: OSError | None = None
    for path in places:
        try:
            parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            last = error
            continue
        try:
            with times_kept(parent):
                os.mkdir(os.path.basename(path), 0o700, dir_fd=parent)
            os.fsync(parent)
            fd = os.open(os.path.basename(path), OPEN_FOLDER, dir_fd=parent)
        except OSError as error:
            last = error
            continue
        finally:
            os.close(parent)
        # Files made here must get no rights from a default that the folder above hands down.
        with contextlib.suppress(OSError):
            os.removexattr(fd, _ACL_FOR_NEW)
        spread_folders(fd)
        return fd
    assert last is not None  # noqa: S101 — there is at least one place
    raise last


def is_there(c: Component, real: str, key: str) -> bool:
    """Tell whether there is a stage of a wanted state."""
    return any(os.path.isdir(os.path.join(path, key)) for path in stage_folders(c, real))


def existing(c: Component, reals: Iterable[str]) -> list[str]:
    """Return the stage folders that exist for a component."""
    return sorted({path for real in reals for path in stage_folders(c, real) if os.path.isdir(path)})


def release(c: Component, reals: Iterable[str]) -> None:
    """Remove a component's stages, with all that was parked there.

    Raises:
        RollbackError: path.mounted or path.unwritable.
    """
    for path in existing(c, reals):
        if mounts_under(path):
            raise RollbackError("path.mounted", path=shown(path), component=c.name)
        parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with times_kept(parent):
                remove_tree(parent, os.path.basename(path))
        except OSError as error:
            raise refused(error, path, c.name) from error
        finally:
            os.close(parent)
