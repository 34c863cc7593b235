"""An application whose rollbacks may be made later: they are written down, called off, and made when they are due."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.consenting import Consenting
from rfs.production.rollback.errors import (
    ConflictError,
    LockedError,
    NotFoundError,
    RollbackError,
    UsageError,
)
from rfs.production.rollback.lock import actor, holder
from rfs.production.rollback.model import (
    Capture,
    DeploymentCheckpoint,
    OperationStatus,
    RollbackStrategy,
    in_utc,
    new_id,
    storable,
    utc_now,
)
from rfs.production.rollback.operation import Operation, position
from rfs.production.rollback.recovery import InsideError, interruptible

if TYPE_CHECKING:
    from rfs.production.rollback.deferred import Deferred, Due
    from rfs.production.rollback.plan import Plan


class Deferring(Consenting, ABC):
    """Args: as of Recoverable."""

    @abstractmethod
    def find(self, selector: str) -> DeploymentCheckpoint: ...

    @abstractmethod
    def _chosen(
        self,
        target: DeploymentCheckpoint,
        only: Sequence[str],
        without: Sequence[str],
        selection: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, Capture]: ...

    @abstractmethod
    def _roll_back(
        self,
        target: DeploymentCheckpoint,
        captures: Mapping[str, Capture],
        selection: Mapping[str, Sequence[str]] | None = None,
        *,
        kind: str,
        reason: str,
        **more: Any,
    ) -> Operation: ...

    # — asking for one —

    @interruptible
    def defer(
        self,
        selector: str,
        *,
        at: datetime | None = None,
        condition: str = "",
        reason: str = "",
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        selection: Mapping[str, Sequence[str]] | None = None,
        expected: Plan | None = None,
        rollback_id: str = "",
        owned: bool = False,
    ) -> Deferred:
        """Write down a rollback that is to be made later, by `rfs watch`; nothing else is changed.

        Args:
            at: when; a time without a zone is local.
            condition: instead, the name of the condition in rfs.toml whose trip makes it.
            expected: a plan made earlier; refused when today's differs materially.
            rollback_id: its id, where somebody has chosen it already.
            owned: the condition is none of rfs.toml but this process's; see arming.py.

        Raises:
            ApprovalNeededError: the policy asks for approvals that are missing.
            RollbackError: it was refused, as `rollback` would be; nothing was written down.
        """
        from rfs.production.rollback.approvals import lean
        from rfs.production.rollback.deferred import Deferred
        from rfs.production.rollback.plan import differs

        if not self.parts:
            raise UsageError("app.empty", path=self.settings.path)
        if self.consent.break_glass:
            raise UsageError("glass.later")
        if at is not None and (at := in_utc(at)) <= utc_now():
            raise UsageError("deferred.past", text=at.isoformat(timespec="seconds"))
        if condition and not owned:
            from rfs.production.rollback.conditional import require_condition

            require_condition(self.settings, condition)
        with self._patiently("schedule"):
            target = self.find(selector)
            captures = self._chosen(target, only, without, selection)
            self.engine.require_blobs(captures.values())
            plan = self.plan_captures(target, captures, selection, measure=False)
            if expected is not None and (change := differs(expected, plan)):
                raise ConflictError("plan.changed", what=change)
            request = self.approved("rollback", plan, reason, None)
            self._refuse_if_used(request)
            deferred = Deferred(
                rollback_id=rollback_id or new_id(),
                owned=owned,
                strategy=RollbackStrategy.SCHEDULED if at is not None else RollbackStrategy.CONDITIONAL,
                status=OperationStatus.SCHEDULED if at is not None else OperationStatus.ARMED,
                target=target.checkpoint_id,
                created_at=utc_now(),
                actor=self.consent.person or actor(),
                reason=storable(reason),
                at=at,
                condition=condition,
                components=tuple(captures),
                selection=plan.selection,
                plan=lean(plan),
                schema=self._schemas(captures),
                request=request,
            )
            self.catalog.put_deferred(deferred)
            return deferred

    def _refuse_if_used(self, request: str | None) -> None:
        """What was approved once is carried out once: not where another rollback that waits stands on it."""
        for other in self.catalog.waiting_deferred() if request is not None else ():
            if other.request == request:
                raise ConflictError("approval.used", request=request, operation=other.rollback_id)

    def find_deferred(self, selector: str) -> Deferred:
        """Return the scheduled or armed rollback whose id begins so, whether it waits or is over.

        Raises:
            NotFoundError: none does.
            UsageError: several do.
        """
        found = [each for each in self.catalog.deferred() if each.rollback_id.startswith(selector)] if selector else []
        if not found:
            raise NotFoundError("deferred.none", selector=selector or '""')
        if len(found) > 1:
            ids = ", ".join(each.rollback_id for each in found)
            raise UsageError("deferred.many", selector=selector, count=len(found), matches=ids)
        return found[0]

    @interruptible
    def call_off(self, selector: str, *, reason: str = "") -> Deferred:
        """Let a scheduled or an armed rollback not be made.

        Raises:
            NotFoundError: there is none of this id.
            ConflictError: it is under way, or over.
        """
        with self._patiently("cancel"):
            found = self.follow_up(self.find_deferred(selector))
            if not found.waits or self._due(found)[0] == "under way":
                status = found.status if not found.waits else OperationStatus.RUNNING
                raise ConflictError("deferred.over", rollback=found.rollback_id, status=status)
            return self.give_up(found, f"by {actor()}" + (f": {reason}" if reason else ""))

    def give_up(self, found: Deferred, why: str) -> Deferred:
        """Write down that one that waits is not made; to be called with the lock held."""
        facts = {"status": OperationStatus.CANCELLED, "why": storable(why), "finished_at": utc_now()}
        return self._change(found, **facts)

    # — what is due —

    def look_at(self, found: Deferred) -> Due:
        """Return what is due of one that waits."""
        return self._due(found)[0]

    def _due(self, found: Deferred) -> tuple[Due, Operation | None]:
        from rfs.production.rollback.deferred import due

        operation = self._operation_of(found)
        grace = self.settings.policy.misfire_grace
        dropped = operation is not None and self._was_dropped(operation)
        status = None if operation is None else operation.status
        return due(found, utc_now(), grace, status, dropped=dropped), operation

    def _operation_of(self, found: Deferred) -> Operation | None:
        try:
            return self.catalog.operation(found.operation_id) if found.operation_id is not None else None
        except NotFoundError:  # its id was written down, and then it was not begun
            return None

    def _was_dropped(self, operation: Operation) -> bool:
        """Tell whether an operation was interrupted, and dropped, before it changed anything."""
        from rfs.production.rollback.messages import MESSAGES  # many texts, and seldom needed

        if operation.status is not OperationStatus.REVERTED or operation.error != MESSAGES["operation.interrupted"][0]:
            return False
        return not position(operation.plan, self.catalog.journal(operation.operation_id)).outage

    def follow_up(self, found: Deferred) -> Deferred:
        """Write down how one ended whose operation is over, unless it is; return it as it is now."""
        if not found.waits:
            return found
        step, operation = self._due(found)
        if step != "over" or operation is None:
            return found
        return self._change(found, status=operation.status, why="", finished_at=operation.finished_at)

    def trip(self, condition: str, why: str) -> list[Deferred]:
        """Let the armed rollbacks of a condition that tripped be due, from now on; return those that wait to be made.

        Args:
            why: a sentence without its full stop.
        """
        waiting = self.catalog.waiting_deferred()
        return [self.trip_one(each, why) for each in waiting if each.condition == condition and not each.owned]

    def trip_one(self, found: Deferred, why: str) -> Deferred:
        """Let one be due from now on, unless it is already."""
        return found if found.at is not None else self._change(found, at=utc_now(), tripped=storable(why))

    def owner_path(self, rollback_id: str) -> str:
        """Return the path of the lock that a program holds while it measures the condition of an armed rollback."""
        return os.path.join(self.settings.store.path, f"armed-{rollback_id}")

    def measured(self, found: Deferred) -> bool:
        """Tell whether the program that measures an armed rollback's condition is alive."""
        return bool(holder(self.owner_path(found.rollback_id)))

    def put_off(self, found: Deferred, why: str) -> None:
        """Write down why one that is due waits on, unless that is known."""
        if found.why != storable(why):
            self._change(found, why=storable(why))

    def _change(self, found: Deferred, **facts: Any) -> Deferred:
        def edit(old: Deferred) -> Deferred:
            return msgspec.structs.replace(old, **facts) if old.waits else old

        return self.catalog.change_deferred(found.rollback_id, edit)

    # — making it —

    @interruptible
    def fire(self, rollback_id: str) -> Operation:
        """Make a scheduled or an armed rollback now.

        Raises:
            LockedError, FrozenError: it has to wait, for an operation, a guarded deployment or a freeze to end.
            ConflictError: it waits no longer; or its plan is materially another one than was agreed to.
            RollbackError: as for `rollback`.
        """
        try:
            with self.exclusively("a scheduled rollback"):
                found = self.follow_up(self.find_deferred(rollback_id))
                if not found.waits:
                    raise ConflictError("deferred.over", rollback=found.rollback_id, status=found.status)
                self._require_free()
                if found.strategy is RollbackStrategy.SCHEDULED:  # what trips is an emergency
                    self.require_unfrozen("The scheduled rollback")
                target = self.find(found.target)
                captures = self._chosen(target, found.components, (), found.selection)
                self._require_as_agreed(found, target, captures)
                self.require_outside()
                try:
                    return self._roll_back(
                        target,
                        captures,
                        found.selection,
                        kind="rollback",
                        reason=found.told_reason,
                        began=lambda operation_id: self._begun(found, operation_id),
                        automatic=True,
                        operation_id=self._next_id(found),
                        strategy=found.strategy,
                        request=found.request,
                    )
                finally:
                    # Whoever asked for it may have been stopped for it, and cannot.
                    with suppress(RollbackError):
                        self.follow_up(self.find_deferred(rollback_id))
        except InsideError as inside:
            return self._carry(inside, "fire", rollback_id=rollback_id)[0]

    def _begun(self, found: Deferred, operation_id: str) -> None:
        now = self._change(found, operation_id=operation_id, why="")
        if not now.waits:
            raise ConflictError("deferred.over", rollback=now.rollback_id, status=now.status)

    def _next_id(self, found: Deferred) -> str:
        """Return the id of the operation that it becomes: its own, unless an attempt that changed nothing has that."""
        try:
            self.catalog.operation(found.rollback_id)
        except NotFoundError:
            return found.rollback_id
        return new_id()

    def _require_free(self) -> None:
        guarded = self.deployments.open()
        if guarded is not None:
            raise LockedError("deferred.guarded", kind=guarded.kind, guard=guarded.guard_id, phase=guarded.phase)

    def _require_as_agreed(
        self, found: Deferred, target: DeploymentCheckpoint, captures: Mapping[str, Capture]
    ) -> None:
        from rfs.production.rollback.plan import differs

        # Refused where somebody would be who asked for it now.
        plan = self.plan_captures(target, captures, found.selection, measure=False)
        if found.plan is None:
            return
        change = differs(found.plan, plan)
        if not change:
            now = self._schemas(captures)
            other = sorted(name for name in found.schema.keys() | now if found.schema.get(name) != now.get(name))
            change = f"the schema of {', '.join(other)} was changed since" if other else ""
        if change:
            raise ConflictError("deferred.changed", what=change)

    def _schemas(self, names: Mapping[str, Capture]) -> dict[str, str]:
        """Return what tells of the schema of each database among the components: a digest, or its migrations."""
        from rfs.production.rollback.schemas import schema_of

        told = {name: schema_of(part) for name, part in self.parts.items() if name in names}
        return {name: schema for name, schema in told.items() if schema}


def retryable(error: RollbackError) -> bool:
    """Tell whether a rollback that was refused with this may be tried again later, until its grace is over."""
    return error.retryable or error.key == "rollback.open"
