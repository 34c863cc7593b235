"""Many entries of a folder asked about, or read, at once: in one call to a small C library where that was built.

Without it, entries are asked about one by one, and nothing is read here: `Reader` reads what it is
not given. Both tell the same. What `bulk.c` finds unusual in any way, it leaves to Python.
"""

from __future__ import annotations

import functools
import os
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from rfs.production.rollback.drivers.files.tree import ROW_BYTES, Block, pack_rows, row_of

if TYPE_CHECKING:
    from ctypes import CDLL

_LIBRARY = os.path.join(os.path.dirname(__file__), "libbulk.so")
_VERSION = 1
# A content that is larger is worth being read with care. So many bytes are read together.
SMALL = 1 << 20
_ROOM = 4 << 20
# So many are read together where it is done one by one.
_SINGLY = 16
# What the library tells of a folder.
_UNKNOWN, _SAME = 0, 1


def stamp_of(status: os.stat_result) -> bytes:
    """Return of an open folder what changes whenever a name in it does."""
    return pack_rows((status.st_ino, status.st_ctime_ns, status.st_mtime_ns))


class OneByOne:
    """What can be had everywhere.

    Attributes:
        glances: whether it can tell of whole folders.
    """

    glances = False

    def rows(self, fd: int, names: bytes) -> bytes | None:
        """Return the rows of entries, as a block has them.

        Args:
            fd: the open folder.
            names: of entries, joined by NUL; none when empty.

        Returns:
            None when one of them is not there, or cannot be asked about.
        """
        flat: list[int] = []
        try:
            for name in names.split(b"\0") if names else ():
                flat += row_of(os.stat(name, dir_fd=fd, follow_symlinks=False))
        except OSError:
            return None
        return pack_rows(flat)

    def contents(
        self, fd: int, names: bytes, rows: bytes, places: Sequence[int], *, how: int, started: int
    ) -> Iterator[list[bytes | None]]:
        """Yield what the files at some places hold, or None where that is to be found out with more care.

        It comes in pieces, each for so many of the next places as can be held in memory. What is told is the content
        of a regular file of at most SMALL bytes, without holes, extended attributes and flags, that was as its row says
        after it was read, too, and is settled as `Reader.is_settled` says.

        Args:
            fd: the open folder.
            names: of its entries, joined by NUL.
            rows: of its entries.
            places: positions of those that are wanted, ascending.
            how: the flags of open(2).
            started: when the look began, nanoseconds since 1970.
        """
        return ([None] * len(places[at : at + _SINGLY]) for at in range(0, len(places), _SINGLY))

    def folders(self, root: int, known: Sequence[tuple[str, Block]]) -> list[bytes | None]:
        """Return for each folder the present rows of the entries that it had, or None where it is to be looked at.

        That there are rows says that its stamp stands, too: it is still the same names that are in it.

        Args:
            root: the open folder below which they are.
            known: their paths from there, and what is known of them, with a stamp.
        """
        return [None] * len(known)


class AtOnce(OneByOne):
    """What the C library can do. Use `bulk`."""

    glances = True

    def __init__(self, library: CDLL) -> None:
        import ctypes

        self._rows, self._read = library.rfs_bulk_rows, library.rfs_bulk_read
        number, text, size, place = ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p
        self._rows.argtypes = (number, text, size, place)
        clock = ctypes.c_uint64
        self._read.argtypes = (number, text, text, place, size, number, clock, clock, place, size, place)
        self._read.restype = size
        self._folders = library.rfs_bulk_folders
        self._folders.argtypes = (number, text, text, place, size, text, text, place, place)
        self._folders.restype = None
        self._room = array("B")

    def rows(self, fd: int, names: bytes) -> bytes | None:
        """See `OneByOne.rows`."""
        count = names.count(b"\0") + 1 if names else 0
        told = array("Q", bytes(count * ROW_BYTES))
        return told.tobytes() if self._rows(fd, names, count, told.buffer_info()[0]) == 0 else None

    def contents(
        self, fd: int, names: bytes, rows: bytes, places: Sequence[int], *, how: int, started: int
    ) -> Iterator[list[bytes | None]]:
        """See `OneByOne.contents`."""
        if not self._room:  # only who reads needs it
            self._room = array("B", bytes(_ROOM))
        wanted = array("q", places)
        while wanted:
            lengths = array("q", bytes(8 * len(wanted)))
            done = self._read(
                *(fd, names, rows, wanted.buffer_info()[0], len(wanted), how, started, SMALL),
                *(self._room.buffer_info()[0], _ROOM, lengths.buffer_info()[0]),
            )
            used = [max(length, 0) for length in lengths[:done]]
            held = memoryview(self._room)[: sum(used)].tobytes()
            yield [
                held[end - length : end] if length >= 0 else None
                for end, length in zip(accumulate(used), lengths, strict=False)
            ]
            wanted = wanted[done:]

    def folders(self, root: int, known: Sequence[tuple[str, Block]]) -> list[bytes | None]:
        """See `OneByOne.folders`."""
        blocks = [block for _, block in known]
        counts = array("q", [len(block) for block in blocks])
        rows = b"".join([block.rows for block in blocks])
        seen, told = array("B", bytes(len(rows))), array("B", bytes(len(known)))
        self._folders(
            *(root, os.fsencode("\0".join([path for path, _ in known])), b"".join([block.stamp for block in blocks])),
            *(counts.buffer_info()[0], len(known), b"\0".join([block.names for block in blocks if block.rows])),
            *(rows, seen.buffer_info()[0], told.buffer_info()[0]),
        )
        found: list[bytes | None] = []
        at = 0
        for block, what in zip(blocks, told, strict=True):
            end = at + len(block.rows)
            # What is as it is known need not be held twice.
            found.append(None if what == _UNKNOWN else block.rows if what == _SAME else seen[at:end].tobytes())
            at = end
        return found


@functools.cache
def _at_once() -> OneByOne:
    # Importing ctypes costs some milliseconds, and only large trees are worth it.
    import ctypes

    try:
        library = ctypes.CDLL(_LIBRARY)
        if library.rfs_bulk_version() == _VERSION:
            return AtOnce(library)
    except (OSError, AttributeError):
        pass  # it was not built, or for another machine, or is another one
    return _one_by_one


_one_by_one = OneByOne()


def bulk(*, many: bool) -> OneByOne:
    """Return what asks about entries and reads them: the quick one when there are many and it was built."""
    return _at_once() if many else _one_by_one
