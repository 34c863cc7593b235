"""One SQLite transaction: wholly, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whoever has a connection has loaded it; who only opens a store need not
    import apsw


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
