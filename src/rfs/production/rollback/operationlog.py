"""The one log of everything that was done: rollbacks and their undos, versions of configurations, tracked changes.

Operations with a plan are in the catalog. Those that change one thing and need none are in the ledger, written in
the same transaction as what they did. Both are read newest first, and no further than is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, islice

import msgspec

from rfs.production.rollback import selectors
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.ledger import Drop, Ledger, Put
from rfs.production.rollback.lock import actor
from rfs.production.rollback.model import OperationStatus, storable, utc_now
from rfs.production.rollback.operation import Operation, Touched
from rfs.production.rollback.store import Store
from rfs.production.rollback.tracked import INTENTS, STANDING, UNDONE, TrackedChange, new_change_id

OPERATIONS = "operations"


class SmallOperation(msgspec.Struct, frozen=True, kw_only=True):
    """One that changed one thing.

    Attributes:
        operation_id: of a change, the change's own.
        kind: "change" (tracked), "save" (of a version), "configuration" (a version applied), "undo" or "redo".
        what: which thing of the component, for people.
        change: the id of the change that it made, took back or made again.
        back: the change no longer stood after it.
        after: the newest operation that had a plan when it was made: whatever the clock says, it comes after that one.
    """

    operation_id: str
    kind: str
    component: str
    what: str
    change: str
    created_at: datetime
    actor: str
    reason: str = ""
    undoes: str | None = None
    back: bool = False
    after: str = ""

    @property
    def status(self) -> OperationStatus:
        """It is in the log once it is done."""
        return OperationStatus.COMPLETED

    @property
    def plan(self) -> Touched:
        """What it touched, as of an operation that has a plan."""
        return Touched((self.component,))

    @property
    def destination(self) -> str:
        """What it is about, in a word or two for people."""
        return f"{self.component} {self.what}" if self.what else self.component


AnyOperation = Operation | SmallOperation


def of_change(change: TrackedChange, component: str, reason: str, catalog: Catalog) -> SmallOperation:
    """Return the operation, of this moment, that made a change.

    Args:
        component: its name in rfs.toml, where it is one of those.
        catalog: of the operations that have a plan.
    """
    return SmallOperation(
        operation_id=change.change_id,
        kind=change.kind,
        component=component,
        what=storable(change.what),
        change=change.change_id,
        created_at=utc_now(),
        actor=actor(),
        reason=storable(reason),
        after=_newest(catalog),
    )


def taking_back(operation: SmallOperation, reason: str, catalog: Catalog) -> SmallOperation:
    """Return the operation, of this moment, that takes another one back."""
    return msgspec.structs.replace(
        operation,
        operation_id=new_change_id(),
        kind="undo" if operation.undoes is None else "redo",
        created_at=utc_now(),
        actor=actor(),
        reason=storable(reason),
        undoes=operation.operation_id,
        back=not operation.back,
        after=_newest(catalog),
    )


def _newest(catalog: Catalog) -> str:
    return "".join(catalog.operation_ids("", 1))


def noted(operation: SmallOperation) -> Put:
    """Return what writes an operation to the ledger."""
    return Put(OPERATIONS, operation.operation_id, msgspec.json.encode(operation))


class OperationLog:
    """Args: catalog, store: of the application. A ledger that is not there yet is an empty one."""

    def __init__(self, catalog: Catalog, store: Store) -> None:
        self._catalog = catalog
        self._store = store
        self._opened: Ledger | None = None

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _ledger(self) -> Ledger | None:
        if self._opened is None and os.path.exists(os.path.join(self._store.path, "ledger.db")):
            self._opened = Ledger(self._store)
        return self._opened

    def history(self) -> Iterator[AnyOperation]:
        """Yield all operations, newest first.

        Raises:
            RollbackError: the catalog or the ledger cannot be read.
        """
        if self._ledger is None:
            return iter(self._catalog.history())
        return self._merged(self._catalog.history(), self._small(self._ledger))

    def _merged(self, planned: Iterator[Operation], small: Iterator[SmallOperation]) -> Iterator[AnyOperation]:
        """Yield both in one order: by what each small one came after, and by time where that is not known."""
        passed: set[str] = set()
        ours, theirs = next(planned, None), next(small, None)
        known = self._knows(theirs)
        while ours is not None and theirs is not None:
            # What was written by an earlier release does not say it; and a catalog that was made anew knows of none.
            by_time = not known and ours.created_at <= theirs.created_at
            if by_time or theirs.after in passed or theirs.after == ours.operation_id:
                yield theirs
                theirs = next(small, None)
                known = self._knows(theirs)
            else:
                yield ours
                passed.add(ours.operation_id)
                ours = next(planned, None)
        yield from chain([] if ours is None else [ours], planned)
        yield from chain([] if theirs is None else [theirs], small)

    def _knows(self, operation: SmallOperation | None) -> bool:
        """Tell whether the catalog has what an operation says it came after."""
        return operation is not None and operation.after in self._catalog.operation_ids(operation.after or "-", 1)

    @staticmethod
    def _small(ledger: Ledger) -> Iterator[SmallOperation]:
        return (msgspec.json.decode(entry.body, type=SmallOperation) for entry in ledger.entries(OPERATIONS))

    def find(self, selector: str) -> AnyOperation:
        """Return the operation whose id begins with `selector`, or with `@latest` the newest.

        Raises:
            NotFoundError: none does.
            UsageError: several do.
        """
        return self.get(selectors.find_id(selector, self.ids))

    def get(self, operation_id: str) -> AnyOperation:
        """Return the operation of this id.

        Raises:
            NotFoundError: there is none.
        """
        body = self._ledger.find(OPERATIONS, operation_id) if self._ledger is not None else None
        return self._catalog.operation(operation_id) if body is None else msgspec.json.decode(body, type=SmallOperation)

    def ids(self, prefix: str = "", limit: int = -1) -> list[str]:
        """Return the ids that begin with `prefix`, newest first; at most `limit` when that is not negative."""
        if not prefix:
            return [each.operation_id for each in islice(self.history(), None if limit < 0 else limit)]
        there = [] if self._ledger is None else self._ledger.names(OPERATIONS, prefix, limit)
        found = [*self._catalog.operation_ids(prefix, limit), *there]
        return found if limit < 0 else found[:limit]

    def prune(self, keep: int, since: datetime, *, dry_run: bool) -> int:
        """Remove the oldest operations that changed one thing, and the changes that no other one is about.

        Args:
            keep: so many stay, the newest; and those since `since`.
            dry_run: only count.

        Returns:
            How many operations went, or would.
        """
        ledger = self._ledger
        if ledger is None or not ledger.names(OPERATIONS, "", keep + 1)[keep:]:
            return 0
        needed: set[str] = set()
        gone: dict[str, str] = {}
        for number, each in enumerate(self._small(ledger)):
            if number < keep or each.created_at > since:
                needed.add(each.change)
            else:
                gone[each.operation_id] = each.change
        lost = set(gone.values()) - needed
        if not dry_run:
            operations = [Drop(OPERATIONS, each) for each in gone]
            ledger.write(*operations, *(Drop(log, each) for log in (STANDING, UNDONE, INTENTS) for each in lost))
        return len(gone)
