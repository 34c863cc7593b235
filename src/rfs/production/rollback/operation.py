"""An operation: a plan being carried out, and where its journal says it stands. Pure.

The journal is the truth about an interrupted operation. Each step writes *intent*
before it runs and *done* after it; a failure writes *turn*, and done-marks from before
the turn do not count after it; whoever carries it on later writes *resumed*. `position`
reads those marks; the engine acts on them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

import msgspec

from rfs.production.rollback.model import (
    FORMAT,
    Change,
    Component,
    Downgrade,
    HealthReport,
    OperationStatus,
    RollbackRecord,
    RollbackStrategy,
)
from rfs.production.rollback.plan import Action, Plan, Step

OPEN = frozenset({OperationStatus.RUNNING, OperationStatus.HELD})

LEFT = Step("left", Action.LEFT)
"""Keeps what is live in a checkpoint before it is restored over; see `Position.unkept`."""


class Mark(enum.StrEnum):
    """What a journal entry says about a step, or about the whole operation."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    TURN = "turn"
    RESUMED = "resumed"
    BEGUN = "begun"
    ENDED = "ended"


class Entry(msgspec.Struct, frozen=True):
    """One line of the journal. `step` is "" for *turn* and *resumed*."""

    operation: str
    step: str
    mark: Mark
    at: datetime
    note: str = ""


DEPLOYMENT = "deployment"
EDIT = "edit"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that resuming a rollback needs, in any process, after any crash.

    Attributes:
        kind: "rollback", "undo", "redo" (the undo of an undo) or "migration"; or "deployment", a guarded change that
            stays: it has no steps, and `safety` is the checkpoint that its guard took before it. Or "edit", what was
            changed outside of rfs and noticed by it: it has no steps either, and led from `safety` to the target.
        components: all of rfs.toml as it was when it began, which is what it acts on whatever rfs.toml
            says later; empty in records of older releases.
        safety: the checkpoint taken online before anything began.
        before: the checkpoint of the state when the writers had stopped; None until then.
        left: the checkpoint of what was there when it was last turned back or carried on, if anything
            may have been written on half-restored or restored data; `left_earlier` are those before it.
        wanted: the checkpoint that it goes to, where only a part of the target is wanted: that part, and the rest as
            it was when the writers had stopped; None where it goes to the target.
        undoes: the operation that this one takes back.
        downgrade: the migrations that it takes back, which are the plan's only component's; else None.
        inside: the components whose services asked for it, and were stopped by it; None when asked from outside.
        request: the request for approval that it was done with; None where it needed none.
        break_glass: it was done whatever the policy says.
        automatic: nobody asked for it when it began: a guard, a deadline or a condition did.
        surrounded: the hooks before it were run, or one of them, so that those after it must be.
        made: of an edit, the moments between which it was made; it began to be recorded later.
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
    components: tuple[Component, ...] = ()
    status: OperationStatus = OperationStatus.RUNNING
    strategy: RollbackStrategy = RollbackStrategy.IMMEDIATE
    before: str | None = None
    left: str | None = None
    left_earlier: tuple[str, ...] = ()
    wanted: str | None = None
    undoes: str | None = None
    downgrade: Downgrade | None = None
    inside: str | None = None
    request: str | None = None
    break_glass: bool = False
    automatic: bool = False
    surrounded: bool = False
    made: tuple[datetime, datetime] | None = None
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
    def destination(self) -> str:
        """Where it goes, in a word or two for people."""
        if self.kind == DEPLOYMENT:
            return self.reason
        if self.kind == EDIT:
            return ", ".join(self.plan.components)
        if self.plan.selection:
            return f"{self.plan.target} {', '.join(key for keys in self.plan.selection.values() for key in keys)}"
        return self.plan.target if self.downgrade is None else " ".join(self.downgrade.targets)

    @property
    def in_place(self) -> tuple[str, ...]:
        """The components that it changes in place, so that what they were has to be copied wholly."""
        return () if self.downgrade is None else (self.downgrade.component,)

    @property
    def lefts(self) -> tuple[str, ...]:
        """The checkpoints of what was there each time it was turned back or carried on, oldest first."""
        return self.left_earlier if self.left is None else (*self.left_earlier, self.left)

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
            request=self.request,
            break_glass=self.break_glass,
            error=self.error,
            outage=self.outage,
            health=self.health,
            late=self.late,
            left=self.lefts,
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
        unkept: what is live may hold something of which there is no copy: services were started on it,
            a read-back found that something wrote to it, or nobody watched it until it was carried on.
    """

    turned: bool
    done: frozenset[str]
    skipped: frozenset[str]
    outage: bool
    touched: bool
    unkept: bool


def position(plan: Plan, entries: Sequence[Entry]) -> Position:
    """Return where the marks say the operation stands."""
    actions = _actions(plan)
    turned = outage = touched = unkept = False
    done: set[str] = set()
    skipped: set[str] = set()
    for entry in entries:
        action = actions.get(entry.step)
        if entry.mark is Mark.TURN:
            turned = True
            done.clear()
            skipped.clear()
        elif entry.mark is Mark.RESUMED:
            unkept = True
            done -= {LEFT.id} - skipped
        elif entry.mark in (Mark.DONE, Mark.SKIPPED):
            done.add(entry.step)
            if entry.mark is Mark.SKIPPED:
                skipped.add(entry.step)
            elif action in (Action.DELTA, Action.LEFT):
                unkept = False
        elif entry.mark is Mark.FAILED:
            unkept = unkept or action is Action.VERIFY
        elif entry.mark in (Mark.BEGUN, Mark.ENDED):
            continue
        else:
            done.discard(entry.step)
            outage = outage or action is not Action.STAGE
            unkept = unkept or action is Action.START
            if action in (Action.RESTORE, Action.MIGRATE):
                touched = True
                # It was for what was there before this restore; somebody may leave it out once, not for ever.
                done.discard(LEFT.id)
                skipped.discard(LEFT.id)
    return Position(turned, frozenset(done), frozenset(skipped), outage, touched, unkept)


def _actions(plan: Plan) -> dict[str, Action]:
    return {step.id: step.action for step in (*plan.steps, LEFT)}


def _restored(plan: Plan, where: Position) -> bool:
    """Tell whether every component was restored and read back in the present direction."""
    return all(step.id in where.done for step in plan.steps if _data(step))


def standing(plan: Plan, entries: Sequence[Entry]) -> str:
    """Return, as part of a sentence, in what state an interrupted operation leaves the application."""
    actions = {step.id: step.action for step in plan.steps}
    stopped = False
    for entry in entries:
        action = actions.get(entry.step)
        if entry.mark is Mark.INTENT and action is Action.STOP:
            stopped = True
        elif entry.mark is Mark.DONE and action is Action.START:
            stopped = False
    where = position(plan, entries)
    restored = {step.id for step in plan.steps if _data(step)} <= where.done
    words = ["services may be stopped"] if stopped else []
    if where.touched and not restored:
        words.append("data may be half restored")
    return " and ".join(words) or "only its last steps are missing"


def still_done(plan: Plan, where: Position) -> frozenset[str]:
    """Return the steps that a new process need not repeat.

    The crash may have been a reboot, process managers start their services at boot, and whoever
    waits for a recovery may start them by hand: while data is still to be restored, services are
    stopped again, and what was restored already is compared again. When no data was touched yet,
    the state before is captured again. What somebody skipped stays skipped: a stop that cannot
    succeed would hold the operation for ever.
    """
    if _restored(plan, where):
        return where.done
    actions = _actions(plan)
    again = {
        Action.STOP,
        *((Action.RESTORE, Action.VERIFY, Action.MIGRATE) if where.touched else (Action.DELTA, Action.LATE)),
    }
    return frozenset(id_ for id_ in where.done if id_ in where.skipped or actions.get(id_) not in again)


def way_forward(plan: Plan, where: Position) -> list[Step]:
    """Return the steps that lead to the target, in order, the finished ones included."""
    return _left_kept(plan, where, plan.steps) if where.outage else list(plan.steps)


def way_back(plan: Plan, where: Position) -> list[Step]:
    """Return the steps that lead from `where` to the state before, in order.

    Nothing stopped: nothing to do. Services stopped but no data touched: start them again.
    Otherwise the same steps as forward, towards the other state; what may have been written
    meanwhile is captured first, so that it is not lost silently. Components are restored in the
    opposite order: a folder that was not there before goes when what lies in it is gone.
    """
    if not where.outage:
        return []
    if not where.touched:
        return [step for step in plan.steps if step.action is Action.START]
    steps = [step for step in plan.steps if step.action not in (Action.STAGE, Action.DELTA, Action.COMPENSATE)]
    turn = {name: -number for number, name in enumerate(dict.fromkeys(step.component for step in steps if _data(step)))}
    data = iter(sorted(filter(_data, steps), key=lambda step: turn[step.component]))
    return _left_kept(plan, where, [next(data) if _data(step) else step for step in steps])


def _left_kept(plan: Plan, where: Position, steps: Sequence[Step]) -> list[Step]:
    """Return `steps` with LEFT after the stops, where data that may be nobody's copy is to be restored over."""
    if not where.unkept or _restored(plan, where):
        return list(steps)
    first = next(n for n, step in enumerate(steps) if step.action not in (Action.STAGE, Action.STOP))
    return [*steps[:first], LEFT, *steps[first:]]


def _data(step: Step) -> bool:
    return step.action in (Action.RESTORE, Action.VERIFY, Action.MIGRATE)


class Touched(msgspec.Struct, frozen=True):
    """What of a plan decides what its operation needs."""

    components: tuple[str, ...] = ()
    target: str = ""


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """What of an operation decides what it needs: a small part of it, of which there may be very many."""

    operation_id: str
    status: OperationStatus
    created_at: datetime
    safety: str
    kind: str = ""
    plan: Touched = Touched()
    before: str | None = None
    left: str | None = None
    left_earlier: tuple[str, ...] = ()
    undoes: str | None = None

    @property
    def state_before(self) -> str:
        """See `Operation.state_before`."""
        return self.before or self.safety

    @property
    def lefts(self) -> tuple[str, ...]:
        """See `Operation.lefts`."""
        return self.left_earlier if self.left is None else (*self.left_earlier, self.left)


class Ended(Protocol):
    """What of an operation decides whether it can be undone."""

    @property
    def operation_id(self) -> str: ...

    @property
    def status(self) -> OperationStatus: ...

    @property
    def undoes(self) -> str | None: ...

    @property
    def plan(self) -> Plan | Touched: ...


Undoable = TypeVar("Undoable", bound=Ended)


def undoable(operations: Iterable[Undoable], component: str | None = None) -> Iterator[Undoable]:
    """Yield the operations that `undo` may take back, newest first.

    Args:
        operations: newest first; read no further than is asked for.
        component: only those that touched it.

    An operation counts when it completed and something of it was taken back by no standing undo. Undos themselves
    are skipped, so that a second `undo` goes further back; name an undo to take it back.
    """
    return (operation for operation, left in remaining(operations) if component is None or component in left)


def remaining(operations: Iterable[Undoable]) -> Iterator[tuple[Undoable, tuple[str, ...]]]:
    """Yield what `undoable` does, each with its components that no standing undo took back."""
    undone: dict[str, set[str]] = {}
    for operation in operations:
        if operation.status is not OperationStatus.COMPLETED:
            continue
        gone = undone.get(operation.operation_id)
        left = tuple(name for name in operation.plan.components if gone is None or name not in gone)
        if gone is not None and not left:
            continue
        if operation.undoes is not None:
            undone.setdefault(operation.undoes, set()).update(left)
            continue
        yield operation, left


def redoable(operations: Iterable[Undoable], is_redo: Callable[[Undoable], bool]) -> Undoable | None:
    """Return the undo that `redo` takes back, or None: the last one that stands, unless something else came after it.

    Args:
        operations: newest first; read no further than is needed.
        is_redo: tells whether what an operation took back was an undo itself.
    """
    undone: set[str] = set()
    for operation in operations:
        if operation.status is not OperationStatus.COMPLETED or operation.operation_id in undone:
            continue
        if operation.undoes is None:
            return None
        if not is_redo(operation):
            return operation
        undone.add(operation.undoes)
    return None


def facts(operation: Operation, turned: bool = False) -> dict[str, str]:
    """Return what hooks around an operation are told, as environment variables."""
    return {
        "RFS_OPERATION": operation.operation_id,
        "RFS_KIND": operation.kind,
        "RFS_TARGET": operation.destination,
        "RFS_REASON": operation.reason,
        "RFS_DIRECTION": "back" if turned else "forward",
    }
