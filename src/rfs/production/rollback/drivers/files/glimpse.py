"""Many entries of a folder asked about at once, with no Python object for any of them.

What `statx` says of them also shows at a glance whether a folder is just as it was: a glimpse is a
digest of that, and of the folder's own inode and times. That these are the same says that no name
came or went, so that a folder with the same glimpse need not even be listed. Equal to the nanosecond
means unchanged, here as for files; what is too young for that has no glimpse.
"""

from __future__ import annotations

import functools
import os
import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import repeat

from blake3 import blake3

from rfs.production.rollback.drivers.files.tree import pack_rows

_OWN, _LENGTH = 8, 16
_BILLION = 1_000_000_000
_AT_ONCE = 1024
# struct statx: its size in bytes, and which of its 64-bit words tell: links and owner, group and mode,
# inode, size, and seconds and nanoseconds of the change and the modification time.
_STATX = 256
_WORDS = _STATX // 8
_TELLING = (2, 3, 4, 5, 12, 13, 14, 15)
# Links, owner, group, mode, inode, size, then seconds and nanoseconds of both times.
_FIELDS = struct.Struct("<16xIIIH2xQQ48xqI4xqI4x128x")
_NO_FOLLOW = 0x100
_NO_AUTOMOUNT = 0x800
_BASIC = 0x7FF


def own_of(status: os.stat_result) -> bytes:
    """Return of an open folder what changes whenever a name in it does. Its glimpse begins with this."""
    return blake3(pack_rows((status.st_ino, status.st_ctime_ns, status.st_mtime_ns))).digest(length=_OWN)


def glimpse(own: bytes, told: array[int]) -> bytes:
    """Return the glimpse of a folder.

    Args:
        own: what `own_of` told of it before.
        told: what `Asker.ask` told of its entries.
    """
    return own + blake3(b"".join([told[at::_WORDS] for at in _TELLING])).digest(length=_LENGTH)


def rows_of(told: array[int]) -> bytes:
    """Return what `Asker.ask` told as the rows of a block."""
    flat: list[int] = []
    for links, user, group, mode, inode, size, changed, c_rest, modified, m_rest in _FIELDS.iter_unpack(told):
        flat += (inode, changed * _BILLION + c_rest, modified * _BILLION + m_rest, size, mode, user, group, links)
    return pack_rows(flat)


class Asker:
    """Asks about entries of open folders. Use `asker`."""

    def __init__(self) -> None:
        # Importing ctypes costs some milliseconds, and only large trees are worth it.
        import ctypes

        self._statx = ctypes.CDLL(None).statx
        self._buffer = ctypes.create_string_buffer(_STATX * _AT_ONCE)
        self._places = [ctypes.byref(self._buffer, at * _STATX) for at in range(_AT_ONCE)]

    def ask(self, fd: int, names: Sequence[bytes]) -> array[int] | None:
        """Return what there is to know about entries of an open folder, or None when one of them is not there."""
        told = array("Q")
        flags, basic = repeat(_NO_FOLLOW | _NO_AUTOMOUNT), repeat(_BASIC)
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            if any(map(self._statx, repeat(fd), some, flags, basic, self._places)):
                return None
            told.frombytes(memoryview(self._buffer)[: len(some) * _STATX])
        return told


@functools.cache
def asker() -> Asker | None:
    """Return what asks about entries, or None where the C library has no statx."""
    try:
        return Asker() if sys.byteorder == "little" else None
    except AttributeError:
        return None
