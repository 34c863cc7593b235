"""What every SQLite file of the store needs: transactions, and to know a full disk when it meets one."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whoever has a connection has loaded it; who only opens a store need not
    import apsw

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def transaction(db: apsw.Connection) -> Iterator[None]:
    """Commit what the block does, or none of it.

    Raises:
        apsw.Error: as SQLite raised it; nothing was changed.
    """
    # BEGIN IMMEDIATE: a deferred transaction that reads and then writes fails at once under
    # contention, whatever the busy timeout.
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:  # an interruption too must not leave it open, or the next one fails
        # A COMMIT that failed, on a full disk say, may have ended the transaction or left it open.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def is_full(error: apsw.Error, db: apsw.Connection | None) -> bool:
    """Tell whether SQLite failed because the disk is full, or the user's share of it.

    Args:
        db: the connection that failed, when there was one: only some failures have a code of their own.
    """
    import apsw

    if isinstance(error, apsw.FullError):
        return True
    if db is None or not isinstance(error, (apsw.IOError, apsw.CantOpenError)):
        return False
    try:
        return db.system_errno in NO_SPACE
    except apsw.ConnectionClosedError:
        return False
