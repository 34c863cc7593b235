"""Space set aside in the store, so that an operation can be ended on a disk that fills up meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress

from rfs.production.rollback.store.files import PRIVATE_FILE

# The journal of a large rollback and of its way back, what SQLite makes beside it when it is
# opened again, and a small pack.
SIZE = 8 << 20
# Where less than this is free, a reserve would itself be what fills the disk.
ROOM = 4 * SIZE


class Reserve:
    """A file of real blocks that is removed when the catalog must be written and the disk is full.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.path = os.path.join(folder, "reserve")

    def there(self) -> bool:
        """Tell whether there is something to give up."""
        try:
            return os.stat(self.path).st_size >= SIZE
        except OSError:
            return False

    def make(self) -> None:
        """Set the space aside, unless it is, or the disk has no room for it; never fails."""
        if self.there():
            return
        # It is a help and no more: whoever cannot write here finds that out where it matters.
        with suppress(OSError):
            state = os.statvfs(self._folder)
            if state.f_bavail * state.f_frsize < ROOM:
                return
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
            try:
                os.posix_fallocate(fd, 0, SIZE)
            except OSError:
                os.unlink(self.path)
            finally:
                os.close(fd)

    def give_up(self) -> bool:
        """Give the space back to the disk; tell whether there was any."""
        there = self.there()
        with suppress(OSError):
            os.unlink(self.path)
        return there
