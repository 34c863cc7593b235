"""An operation: a plan being carried out, and where its journal says it stands. Pure.

The journal is the truth about an interrupted operation. Each step writes *intent*
before it runs and *done* after it; a failure writes *turn*, and done-marks from before
the turn do not count after it. `position` reads those marks; the engine acts on them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime

import msgspec

from rfs.production.rollback.model import (
    FORMAT,
    Change,
    HealthReport,
    OperationStatus,
    RollbackRecord,
    RollbackStrategy,
)
from rfs.production.rollback.plan import Action, Plan, Step

OPEN = frozenset({OperationStatus.RUNNING, OperationStatus.HELD})


class Mark(enum.StrEnum):
    """What a journal entry says about a step, or about the whole operation."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    TURN = "turn"


class Entry(msgspec.Struct, frozen=True):
    """One line of the journal. `step` is "" for a turn."""

    operation: str
    step: str
    mark: Mark
    at: datetime
    note: str = ""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that resuming a rollback needs, in any process, after any crash.

    Attributes:
        kind: "rollback" or "undo".
        safety: the checkpoint taken online before anything began.
        before: the checkpoint of the state when the writers had stopped; None until then.
        left: what a failed attempt had written when it was turned back; None when nothing had run.
        undoes: the operation that this one takes back.
        inside: the components whose services asked for it, and were stopped by it; None when asked from outside.
        stopped_at, started_at: the ends of the outage, UTC.
        late: the first of what was written between `safety` and `before`; `late_count` is how many.
    """

    operation_id: str
    kind: str
    plan: Plan
    reason: str
    actor: str
    created_at: datetime
    safety: str
    status: OperationStatus = OperationStatus.RUNNING
    strategy: RollbackStrategy = RollbackStrategy.IMMEDIATE
    before: str | None = None
    left: str | None = None
    undoes: str | None = None
    inside: str | None = None
    finished_at: datetime | None = None
    stopped_at: datetime | None = None
    started_at: datetime | None = None
    error: str | None = None
    health: HealthReport | None = None
    late: tuple[Change, ...] = ()
    late_count: int = 0
    warnings: tuple[str, ...] = ()
    max_rollback_time: float = 300.0
    recovery_time: float = 300.0
    format: int = FORMAT

    @property
    def state_before(self) -> str:
        """The checkpoint that the way back, or an undo, goes to."""
        return self.before or self.safety

    @property
    def outage(self) -> float | None:
        """Seconds from the stop of the services to their start, or None."""
        stops = any(step.action is Action.STOP for step in self.plan.steps)
        if not stops or self.stopped_at is None or self.started_at is None:
            return None
        return (self.started_at - self.stopped_at).total_seconds()

    def record(self) -> RollbackRecord:
        """Return what the history tells of it."""
        return RollbackRecord(
            rollback_id=self.operation_id,
            checkpoint_id=self.plan.target,
            reason=self.reason,
            executed_at=self.created_at,
            status=self.status,
            backup_id=self.state_before,
            finished_at=self.finished_at,
            strategy=self.strategy,
            components=self.plan.components,
            actor=self.actor,
            kind=self.kind,
            undoes=self.undoes,
            inside=self.inside,
            error=self.error,
            outage=self.outage,
            health=self.health,
            late=self.late,
            warnings=self.warnings,
        )


class Position(msgspec.Struct, frozen=True):
    """Where an operation stands.

    Attributes:
        turned: it is on the way back.
        done: steps finished (or skipped) in the present direction.
        skipped: those of them that somebody decided to leave out.
        outage: a service may have been stopped: it must be finished or turned back, not forgotten.
        touched: a restore may have begun, so live data may be a mixture.
        ran: services may have run on the restored state before the turn, and may have written.
    """

    turned: bool
    done: frozenset[str]
    skipped: frozenset[str]
    outage: bool
    touched: bool
    ran: bool


def position(plan: Plan, entries: Sequence[Entry]) -> Position:
    """Return where the marks say the operation stands."""
    actions = {step.id: step.action for step in plan.steps}
    turned = False
    done: set[str] = set()
    skipped: set[str] = set()
    outage = touched = ran = False
    for entry in entries:
        if entry.mark is Mark.TURN:
            turned = True
            done.clear()
            skipped.clear()
        elif entry.mark in (Mark.DONE, Mark.SKIPPED):
            done.add(entry.step)
            if entry.mark is Mark.SKIPPED:
                skipped.add(entry.step)
        elif entry.mark is Mark.INTENT:
            action = actions[entry.step]
            outage = outage or action is not Action.STAGE
            touched = touched or action is Action.RESTORE
            ran = ran or (action is Action.START and not turned)
    return Position(turned, frozenset(done), frozenset(skipped), outage, touched, ran)


def still_done(plan: Plan, where: Position) -> frozenset[str]:
    """Return the steps that a new process need not repeat.

    The crash may have been a reboot, and process managers start their services at boot: while
    data is still to be restored, services are stopped again. When no data was touched yet, what
    they may have written since is captured again as well. What somebody skipped stays skipped:
    a stop that cannot succeed would hold the operation for ever.
    """
    actions = {step.id: step.action for step in plan.steps}
    to_restore = {id_ for id_, action in actions.items() if action in (Action.RESTORE, Action.VERIFY)}
    if to_restore <= where.done:
        return where.done
    again = {Action.STOP} if where.touched else {Action.STOP, Action.DELTA, Action.LATE}
    return frozenset(id_ for id_ in where.done if id_ in where.skipped or actions[id_] not in again)


def way_back(plan: Plan, where: Position) -> list[Step]:
    """Return the steps that lead from `where` to the state before, in order.

    Nothing stopped: nothing to do. Services stopped but no data touched: start them again.
    Otherwise the same steps as forward, towards the other state; what services wrote meanwhile
    is captured first, so that it is not lost silently. Components are restored in the opposite
    order: a folder that was not there before goes when what lies in it is gone.
    """
    if not where.outage:
        return []
    if not where.touched:
        return [step for step in plan.steps if step.action is Action.START]
    left_out = {Action.STAGE} if where.ran else {Action.STAGE, Action.DELTA}
    steps = [step for step in plan.steps if step.action not in left_out]
    turn = {name: -number for number, name in enumerate(dict.fromkeys(step.component for step in steps if _data(step)))}
    data = iter(sorted(filter(_data, steps), key=lambda step: turn[step.component]))
    return [next(data) if _data(step) else step for step in steps]


def _data(step: Step) -> bool:
    return step.action in (Action.RESTORE, Action.VERIFY)


def undoable(operations: Sequence[Operation]) -> list[Operation]:
    """Return the operations that `undo` may take back, newest first.

    Args:
        operations: newest first.

    An operation counts when it completed and no standing undo took it back. Undos themselves
    are skipped, so that a second `undo` goes further back; name an undo to take it back.
    """
    undone: set[str] = set()
    found: list[Operation] = []
    for operation in operations:
        if operation.status is not OperationStatus.COMPLETED:
            continue
        if operation.operation_id in undone:
            continue
        if operation.undoes is not None:
            undone.add(operation.undoes)
            continue
        found.append(operation)
    return found
