"""What goes back by itself: where to, how often it did, and what becomes of the version that was live."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import ConflictError, NotFoundError, RollbackError
from rfs.production.rollback.guarded import Deployment
from rfs.production.rollback.model import CheckpointType, DeploymentCheckpoint, OperationStatus
from rfs.production.rollback.operation import DEPLOYMENT, Operation

_BACK = frozenset({"rollback", "undo", "redo"})
REASON = "automatic: "
"""What the reason of an automatic rollback begins with; so the history tells how many there were."""


def roll_back(app: Application, reason: str, trouble: datetime) -> Operation:
    """Go back to the last checkpoint verified healthy before the trouble; quarantine the version that was live.

    The quarantine comes first, so that a crash in the middle leaves it.

    Args:
        reason: a sentence without its full stop.
        trouble: when it began, UTC.

    Raises:
        NotFoundError: monitor.no_target; nothing was done.
        ConflictError: monitor.not_allowed, the policy, or what was said of the live deployment, is against it.
        RollbackError: as for `Application.rollback`.
    """
    target = target_before(app.catalog.ordinary(), trouble)
    live = _live(app)
    if not app.settings.policy.auto_rollback:
        raise ConflictError("monitor.not_allowed", who="[policy] says auto_rollback = false")
    if live is not None and not live.auto_rollback:
        raise ConflictError("monitor.not_allowed", who=f"the deployment {live.guard_id} was only to be watched")
    with app.locked("quarantine"):
        if live is not None:
            app.deployments.quarantine(live.guard_id, reason)
    app.consent = msgspec.structs.replace(app.consent, automatic=True)
    return app.rollback(target.checkpoint_id, reason=f"{REASON}{reason}")


def _live(app: Application) -> Deployment | None:
    guard_id = live_deployment(app.catalog.history())
    with suppress(NotFoundError):  # a catalog made anew may know of the one and not of the other
        return app.deployments.get(guard_id) if guard_id is not None else None
    return None


def target_before(checkpoints: Iterable[DeploymentCheckpoint], trouble: datetime) -> DeploymentCheckpoint:
    """Return where to go back to: never merely the latest.

    Args:
        checkpoints: newest first, without SAFETY ones; read no further than is needed.
        trouble: UTC.

    Raises:
        NotFoundError: there is none from before it that was verified healthy; where none was ever checked, none that
            was not taken because of a condition.
    """
    unchecked: DeploymentCheckpoint | None = None
    checked = False
    for each in checkpoints:
        if each.created_at >= trouble:
            continue
        if each.health is not None:
            checked = True
            if each.health.healthy:
                return each
        elif unchecked is None and each.type is not CheckpointType.CONDITIONAL:
            unchecked = each
    if checked or unchecked is None:
        raise NotFoundError("monitor.no_target")
    return unchecked


def last_rollback(operations: Iterable[Operation]) -> datetime | None:
    """Return when what is live was last brought back, UTC; operations are given newest first."""
    return next((each.finished_at or each.created_at for each in operations if each.kind in _BACK), None)


def automatic_times(operations: Iterable[Operation]) -> list[datetime]:
    """Return when the automatic ones among these rollbacks were, UTC.

    One that was interrupted before it had changed anything is none: it is due still.
    """
    return [each.created_at for each in operations if each.reason.startswith(REASON) and not dropped(each)]


def gist(why: str) -> str:
    """Return what of a complaint stays the same while a value goes up and down."""
    return "".join(letter for letter in why if not letter.isdigit())


def dropped(operation: Operation) -> bool:
    """Tell whether a crash ended an operation before it had changed anything."""
    return operation.status is OperationStatus.REVERTED and operation.error == str(
        RollbackError("operation.interrupted")
    )


def live_deployment(operations: Iterable[Operation]) -> str | None:
    """Return the guard's id of the deployment whose version is live, or None where that is not known.

    Args:
        operations: newest first; read no further than is needed.
    """
    at: datetime | None = None
    for each in operations:
        ended = each.finished_at or each.created_at
        if each.status is not OperationStatus.COMPLETED or (at is not None and ended > at):
            continue
        if each.kind == DEPLOYMENT:
            return each.operation_id
        if each.kind in _BACK and not each.plan.selection and _whole(each):
            at = each.plan.target_created_at
    return None


def _whole(operation: Operation) -> bool:
    restored: Sequence[str] = operation.plan.components
    return {component.name for component in operation.components} <= set(restored)
