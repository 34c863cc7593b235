"""What a file is besides its content: read, put back in the order that keeps it, replaced without a gap.

Shared by every driver that writes files. Nothing here follows a link at the last
component of a path.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import stat
import struct
import sys
from collections.abc import Iterator

import msgspec

from rfs.production.rollback.errors import RollbackError

# The flags of chattr(1) that a copy can be given. The others describe how a file system lays
# a file out (extents, inline data), or can only be set while the file is empty (no copy on write).
_SYNC, _IMMUTABLE, _APPEND, _NODUMP, _NOATIME, _DIRSYNC = 0x8, 0x10, 0x20, 0x40, 0x80, 0x10000
KEPT_FLAGS = _SYNC | _IMMUTABLE | _APPEND | _NODUMP | _NOATIME | _DIRSYNC
LOCKING_FLAGS = _IMMUTABLE | _APPEND
_TOPDIR = 0x20000

# _IOR('f', 1, long) and _IOW('f', 2, long); the kernel reads and writes an int all the same.
_LONG = struct.calcsize("l")
_GET_FLAGS = (2 << 30) | (_LONG << 16) | (ord("f") << 8) | 1
_SET_FLAGS = (1 << 30) | (_LONG << 16) | (ord("f") << 8) | 2
_NO_ANSWER = bytes(_LONG)

_NO_FLAGS = {errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_NO_XATTRS = {errno.EOPNOTSUPP, errno.ENOSYS}
_CAPABILITY = b"security.capability"
# Other names in "system." and "security." are written by the kernel itself, from what is kept here anyway.
_SYSTEM_KEPT = {b"system.posix_acl_access", b"system.posix_acl_default"}
_SECURITY_LEFT = {b"security.ima", b"security.evm"}

TEMPORARY_PREFIX = ".rfs-tmp-"


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """A file's metadata.

    Attributes:
        mode: st_mode, with the type bits.
        mtime_ns: nanoseconds since 1970.
        xattrs: (name, value), sorted; with POSIX ACLs and capabilities.
        flags: inode flags as of chattr(1), only those in KEPT_FLAGS.
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    flags: int = 0


def read_meta(target: int | str, status: os.stat_result | None = None) -> Meta:
    """Return the metadata of an open file or folder, or of what `node` gave a path for.

    Args:
        target: a descriptor, or a path that ends at the file itself.
        status: its stat, when the caller has it already.

    Raises:
        OSError: as the system calls do.
    """
    found = os.stat(target) if status is None else status
    return Meta(found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, read_xattrs(target), read_flags(target))


def apply_meta(target: int | str, meta: Meta) -> None:
    """Give an open file or folder this metadata, after its data was written.

    The order matters: a change of owner strips set-user-ID bits and capabilities, an ACL
    changes the mode, everything changes the times, and an immutable file takes nothing more.

    Raises:
        OSError: as the system calls do.
    """
    now = os.stat(target)
    flags_now = read_flags(target)
    if flags_now & LOCKING_FLAGS:
        write_flags(target, flags_now & ~LOCKING_FLAGS)
    if (now.st_uid, now.st_gid) != (meta.uid, meta.gid):
        os.chown(target, meta.uid, meta.gid)
    wanted, found = dict(meta.xattrs), dict(read_xattrs(target))
    if any(found.get(name) != value for name, value in wanted.items()) or found.keys() - wanted.keys():
        _write_xattrs(target, wanted, found, now.st_mode)
    if not stat.S_ISLNK(meta.mode):
        os.chmod(target, stat.S_IMODE(meta.mode))
    if _CAPABILITY in wanted:
        os.setxattr(target, _CAPABILITY, wanted[_CAPABILITY])
    os.utime(target, ns=(now.st_atime_ns, meta.mtime_ns))
    if meta.flags != flags_now & ~LOCKING_FLAGS:
        write_flags(target, meta.flags)


def _write_xattrs(target: int | str, wanted: dict[bytes, bytes], found: dict[bytes, bytes], mode: int) -> None:
    # Without root, a file's owner may not set its attributes while the mode forbids writing.
    if os.geteuid() != 0 and not mode & stat.S_IWUSR and not stat.S_ISLNK(mode):
        os.chmod(target, stat.S_IMODE(mode) | stat.S_IWUSR)
    for name in found.keys() - wanted.keys():
        os.removexattr(target, name)
    for name, value in wanted.items():
        if found.get(name) != value and name != _CAPABILITY:
            os.setxattr(target, name, value)


def read_xattrs(target: int | str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the extended attributes that belong to the state, sorted; none where there are no such things."""
    try:
        names = os.listxattr(target)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()
    pairs = []
    for name in sorted(map(os.fsencode, names)):
        if (name.startswith(b"system.") and name not in _SYSTEM_KEPT) or name in _SECURITY_LEFT:
            continue
        try:
            pairs.append((name, os.getxattr(target, name)))
        except OSError as error:
            if error.errno != errno.ENODATA:  # removed meanwhile
                raise
    return tuple(pairs)


def read_flags(target: int | str) -> int:
    """Return the inode flags that belong to the state.

    They are 0 for a path, as only what can be opened (files and folders) has any, and where
    the file system knows none.
    """
    return 0 if isinstance(target, str) else _all_flags(target) & KEPT_FLAGS


def read_more(fd: int) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
    """Return attributes and flags of an open file, as `read_xattrs` and `read_flags` do; nearly always there are none.

    Raises:
        OSError: as the system calls do.
    """
    try:
        if not os.listxattr(fd):
            return (), _kept_flags(fcntl.ioctl(fd, _GET_FLAGS, _NO_ANSWER))
    except OSError:
        pass  # not every file system has them
    return read_xattrs(fd), read_flags(fd)


@functools.lru_cache
def _kept_flags(answer: bytes) -> int:
    return int.from_bytes(answer[:4], sys.byteorder) & KEPT_FLAGS


def write_flags(target: int | str, flags: int) -> None:
    """Set the inode flags of KEPT_FLAGS to `flags`, leaving the others as they are."""
    if isinstance(target, str):
        return
    before = _all_flags(target)
    after = (before & ~KEPT_FLAGS) | flags
    if after != before:
        fcntl.ioctl(target, _SET_FLAGS, struct.pack("l", after))


def spread_folders(fd: int) -> None:
    """Have an ext4 give each new folder in an open one a region of its own; other file systems are not asked.

    A region in which many files were just removed is slow to make files in: without a journal, ext4 tries
    each inode that was freed within the last minute, and leaves it.
    """
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", _all_flags(fd) | _TOPDIR))


def _all_flags(fd: int) -> int:
    try:
        return int.from_bytes(fcntl.ioctl(fd, _GET_FLAGS, _NO_ANSWER)[:4], sys.byteorder)
    except OSError as error:
        if error.errno in _NO_FLAGS:
            return 0
        raise


@contextlib.contextmanager
def node(name: str, dir_fd: int) -> Iterator[str]:
    """Give a path that ends at the entry itself, whatever it is, a link or a FIFO too, for the calls here.

    Nothing is followed and nothing is opened for reading, so that a FIFO does not block.

    Raises:
        OSError: there is no such entry.
    """
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def read_file(path: str) -> tuple[bytes, Meta]:
    """Return content and metadata of a regular file, read as one moment when that is possible at all.

    Raises:
        OSError: it is missing, not readable, or a link (ELOOP).
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for _ in range(3):
            before = os.fstat(fd)
            data = _read_all(fd)
            after = os.fstat(fd)
            if (before.st_mtime_ns, before.st_ctime_ns, before.st_size) == (
                after.st_mtime_ns,
                after.st_ctime_ns,
                len(data),
            ):
                break
        return data, read_meta(fd, after)
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    pieces = []
    while piece := os.read(fd, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def replace_file(path: str, data: bytes, meta: Meta, *, component: str = "") -> None:
    """Put a complete file in the place of whatever file is at `path`; at every moment one of both is there.

    It is durable on return. The folder's own modification time stays as it was. A link at
    `path` is replaced, not followed. Run again after a crash, it cleans up what it had left.

    Args:
        component: for the error's text.

    Raises:
        RollbackError: path.owner, path.unwritable or store.no_space; the old file is untouched.
    """
    check_owner(path, meta)
    with _folder_of(path, component) as (fd, name):
        temporary = _temporary(name)
        _unlock(fd, temporary)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=fd)
        try:
            write_new(temporary, data, meta, fd)
            _unlock(fd, name)
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:  # an interruption too must leave no draft behind
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=fd)
            raise
        if meta.flags & LOCKING_FLAGS:
            lock_again(name, meta.flags, fd)


def _temporary(name: str) -> str:
    from hashlib import sha256  # loads OpenSSL, which looking does not need

    return TEMPORARY_PREFIX + sha256(os.fsencode(name)).hexdigest()[:16]


def remove_leftover(path: str, *, component: str = "") -> None:
    """Remove what a `replace_file` of `path` that was killed left beside it, if it did.

    Raises:
        RollbackError: path.unwritable.
    """
    folder, name = os.path.split(os.path.abspath(path))
    remove_file(os.path.join(folder, _temporary(name)), component=component)


def write_new(name: str, data: bytes, meta: Meta, dir_fd: int) -> None:
    """Write a new regular file, complete with its metadata, and fsync it.

    Raises:
        OSError: as the system calls do; FileExistsError when there is an entry of that name.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, 0o600, dir_fd=dir_fd)
    try:
        write_all(file, data)
        # Nobody may rename an immutable file, root neither: `lock_again` follows once it is in its place.
        apply_meta(file, msgspec.structs.replace(meta, flags=meta.flags & ~LOCKING_FLAGS))
        os.fsync(file)
    finally:
        os.close(file)


def lock_again(name: str, flags: int, dir_fd: int) -> None:
    """Give a file that is in its place the flags that would have kept it from getting there, durably."""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        write_flags(file, flags)
        os.fsync(file)
    finally:
        os.close(file)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` at the descriptor's position, however many calls that takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def remove_file(path: str, *, component: str = "") -> None:
    """Remove a file, durably, if it is there; the folder's modification time stays as it was.

    Raises:
        RollbackError: path.unwritable.
    """
    if not os.path.lexists(path):
        return
    with _folder_of(path, component) as (fd, name):
        _unlock(fd, name)
        os.unlink(name, dir_fd=fd)


@contextlib.contextmanager
def _folder_of(path: str, component: str) -> Iterator[tuple[int, str]]:
    """Open the folder of `path`; afterwards fsync it and put its times back. Errors become expected ones."""
    folder, name = os.path.split(os.path.abspath(path))
    fd = -1
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        before = os.fstat(fd)
        yield fd, name
        put_times_back(fd, before)
        os.fsync(fd)
    except OSError as error:
        raise refused(error, path, component) from error
    finally:
        if fd >= 0:
            os.close(fd)


def put_times_back(fd: int, before: os.stat_result) -> None:
    """Give a folder the times it had. One that belongs to another user keeps its new ones: only its owner may."""
    with contextlib.suppress(PermissionError):
        os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))


def _unlock(dir_fd: int, name: str) -> None:
    """Clear what would keep an entry from being replaced or removed."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:  # a link, a socket, missing, or not readable: then it has no flags or the rename says why
        return
    try:
        unlock(fd)
    finally:
        os.close(fd)


def unlock(fd: int) -> bool:
    """Clear the immutable and append-only flags of an open file or folder; tell whether there were any."""
    flags = read_flags(fd)
    if not flags & LOCKING_FLAGS:
        return False
    write_flags(fd, flags & ~LOCKING_FLAGS)
    return True


@functools.cache
def _my_groups() -> frozenset[int]:
    return frozenset((os.getegid(), *os.getgroups()))


def may_own(uid: int, gid: int) -> bool:
    """Tell whether this process can give a file to this owner and group."""
    user = os.geteuid()
    return user == 0 or (uid == user and gid in _my_groups())


def check_owner(path: str, meta: Meta) -> None:
    """Refuse before anything is written when the owner could not be restored.

    Raises:
        RollbackError: path.owner.
    """
    if not may_own(meta.uid, meta.gid):
        raise RollbackError("path.owner", path=shown(path))


def refused(error: OSError, path: str, component: str) -> RollbackError:
    """Return the expected error for what the operating system answered to a change."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RollbackError("store.no_space", path=shown(path))
    return RollbackError("path.unwritable", path=shown(path), component=component, why=reason(error))


def reason(error: OSError) -> str:
    """Return the system's reason as the end of a sentence."""
    return (error.strerror or str(error)).lower()


def shown(path: str) -> str:
    """Return a path fit for any output: bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
