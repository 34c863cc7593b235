"""Undo of whatever was done: rollbacks by the engine, single changes by what takes those back."""

from __future__ import annotations

from functools import partial

from rfs.production.rollback import undoing
from rfs.production.rollback.application import Application
from rfs.production.rollback.changelog import ChangeLog
from rfs.production.rollback.merging import Clash, Resolution
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.operationlog import AnyOperation, SmallOperation
from rfs.production.rollback.restorers import Decide
from rfs.production.rollback.restoring import restorer_of
from rfs.production.rollback.tracked import TrackedChange


def to_undo(
    app: Application, number: int = 1, named: str | None = None, component: str | None = None
) -> list[tuple[AnyOperation, tuple[str, ...]]]:
    """Return the operations that `undo` would take back, in that order, and what of each; raises as it does."""
    return undoing.to_undo(app.log, app.catalog, app.parts, number, named=named, component=component)


def change_of(app: Application, operation: SmallOperation) -> TrackedChange:
    """Return the change that an operation made or took back, in the direction in which it did.

    Raises:
        NotFoundError: it is no longer kept.
    """
    with ChangeLog(app, partial(restorer_of, app)) as log:
        change = log.change(operation.change)
    return change.turned() if operation.back else change


def conflicts(app: Application, operations: list[SmallOperation]) -> list[Clash]:
    """Return what was changed since in what these operations changed, as far as it can be seen now."""
    with ChangeLog(app, partial(restorer_of, app)) as log:
        return log.look(operations)


def settle(app: Application) -> None:
    """Finish or revert what a crash interrupted: it may be the last operation that stands.

    Raises:
        HeldError: an operation is held.
    """
    if app.catalog.open_operation() is not None or app.deployments.unlogged() is not None:
        with app.beat.call(), app.exclusively("undo"):
            return


def undo(
    app: Application,
    number: int = 1,
    *,
    operation: str | None = None,
    component: str | None = None,
    reason: str = "",
    how: Resolution = Resolution.REFUSE,
    decide: Decide | None = None,
) -> list[AnyOperation]:
    """Take back the last `number` operations, newest first, or one that is named; return the operations that did.

    Args:
        component: only operations that touched it count, and only it is taken back.
        how: what becomes of what was changed since, of operations that changed one thing, and of one with a plan that
            is named and not the newest.
        decide: has somebody decide about conflicts in the text of a file that one change was made to.

    Raises:
        NotFoundError: there are fewer, or no such operation or component; nothing was changed.
        ConflictError: what one of them changed was changed since; those before it were taken back.
        GoingOnError: they stop this very process, and go on outside it.
        RollbackError: as of a rollback.
    """
    settle(app)
    meant = [each for each, _ in to_undo(app, number, operation, component)]
    if all(isinstance(each, Operation) for each in meant):
        # One call: all are looked at before the first is taken back.
        return [*app.undo(number, operation=operation, component=component, reason=reason, how=how)]
    done: list[AnyOperation] = []
    with ChangeLog(app, partial(restorer_of, app, decide=decide)) as log:
        small = [each for each in meant if isinstance(each, SmallOperation)]
        if len(small) == len(meant):
            return [*log.take_back(small, how, reason)]
        for each in meant:
            if isinstance(each, SmallOperation):
                done += log.take_back([each], how, reason)
            else:
                # By its turn it is the newest one that stands.
                whole = Resolution.WHOLE
                done += app.undo(operation=each.operation_id, component=component, reason=reason, how=whole)
    return done
