"""Interprets plans: run, resume and turn back are one interpreter.

A step is *intent* committed, step run, *done* committed; never another order. Every step
converges, so that running it again after a crash is harmless. When one fails, *turn* is
committed and the same steps are walked towards the state before. When that fails too, the
operation is held: somebody has to look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import msgspec

from rfs.production.rollback.capturing import Capturer, Part
from rfs.production.rollback.catalog import Catalog, Statements, entry
from rfs.production.rollback.errors import (
    ConflictError,
    HeldError,
    IntegrityError,
    InterruptedByUserError,
    NotFoundError,
    RevertedError,
    RollbackError,
    TimedOutError,
)
from rfs.production.rollback.model import (
    Capture,
    Change,
    CheckpointType,
    DeploymentCheckpoint,
    HealthReport,
    OperationStatus,
    storable,
    utc_now,
)
from rfs.production.rollback.operation import (
    OPEN,
    Mark,
    Operation,
    facts,
    position,
    standing,
    still_done,
    way_back,
    way_forward,
)
from rfs.production.rollback.plan import Action, Step
from rfs.production.rollback.pulse import Beat
from rfs.production.rollback.store import Store, disk_faults_told

LATE_LISTED = 100


def _with_warnings(operation: Operation, said: Sequence[str]) -> Operation:
    new = [sentence for sentence in said if sentence not in operation.warnings]
    return msgspec.structs.replace(operation, warnings=(*operation.warnings, *new))


class Engine(Capturer):
    """Args: parts: as for Capturer. check: runs the health checks.

    Attributes:
        steps: what does each action. before_stop: called before a component's services are stopped; may raise.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        parts: Mapping[str, Part],
        check: Callable[[Beat], HealthReport],
        beat: Beat,
    ) -> None:
        super().__init__(store, catalog, parts, beat)
        self.check = check
        self.before_stop: Callable[[Operation, str], None] | None = None
        self._begun: str | None = None
        self._watched = False
        self._found: dict[str, Capture] | None = None
        self.steps: dict[Action, Callable[[Operation, Step], Operation]] = {
            Action.STAGE: self._stage,
            Action.STOP: self._stop,
            Action.DELTA: self._delta,
            Action.LATE: self._stage,
            Action.RESTORE: self._restore,
            Action.VERIFY: self._verify,
            Action.START: self._start,
            Action.HEALTH: self._health,
            Action.LEFT: self._keep_what_is_left,
            Action.MIGRATE: self._migrate,
        }

    def begin(self, operation: Operation) -> None:
        """Write the operation down; from now on a crash is recovered by `run`."""
        self.catalog.begin(operation)
        self._begun = operation.operation_id

    def run(self, operation: Operation, note: str = "") -> Operation:
        """Carry the operation on from wherever its journal says it stands, to its end.

        Args:
            note: for the journal, when it is not the run that follows `begin`: who carries it on, and why.

        Returns:
            The completed operation.

        Raises:
            RevertedError: it failed, and the system is back at the state before.
            HeldError: it failed both ways, or its journal cannot be written any further.
            RollbackError: it failed before anything live was touched.
        """
        with self.told_as_open(operation):
            return self._run(operation, note)

    def _run(self, operation: Operation, note: str) -> Operation:
        plan = operation.plan
        self._take_over(operation, note)
        where = position(plan, self.catalog.journal(operation.operation_id))
        if where.turned:
            return self._go_back(operation, RollbackError("operation.turned", why=operation.error or "it was aborted"))
        if where.outage:
            self._allow_forward(operation)
        done = still_done(plan, where)
        try:
            for step in way_forward(plan, where):
                if step.id not in done:
                    operation = self._take(operation, step)
        except Exception as failure:  # every failure, also a bug, must bring the application back first
            return self._turn(self._reload(operation), failure)
        return self._finish(self._list_late(operation), OperationStatus.COMPLETED)

    def abort(self, operation: Operation, why: Exception, note: str = "") -> Operation:
        """Commit the turn and walk back. Never returns normally: see `run` for what it raises.

        Args:
            why: what is told as the reason, and raised when nothing had to be brought back.
            note: as for `run`.
        """
        with self.told_as_open(operation):
            self._take_over(operation, note)
            return self._turn(operation, why)

    def _take_over(self, operation: Operation, note: str) -> None:
        """Tell the run that began the operation, under whose eyes everything happened, from a later one.

        Services may have been started since by a reboot, by their manager or by a person.
        """
        self._watched = self._begun == operation.operation_id
        self._begun = self._found = None
        self.blobs.still = False
        if not self._watched:
            self.catalog.mark(entry(operation, "", Mark.RESUMED, storable(note)))

    @contextmanager
    def told_as_open(self, operation: Operation) -> Iterator[None]:
        """Let no error pass for the end of an operation that has stopped services and is not over.

        It is one of the catalog's: without a journal, nothing may be done any longer.
        """
        try:
            yield
        except HeldError:
            raise
        except RollbackError as error:
            where = self._standing(operation)
            if not where:
                raise
            raise HeldError(
                "rollback.unfinished",
                kind=operation.kind,
                operation=operation.operation_id,
                where=where,
                why=error,
                hint=error.hint,
            ) from error

    def _standing(self, operation: Operation) -> str:
        """Return how an operation leaves the application, or "" when it is over or has stopped nothing."""
        try:
            journal = self.catalog.journal(operation.operation_id)
            over = self._reload(operation).status not in OPEN
        except RollbackError:
            return "how far it came cannot be read"
        return "" if over or not position(operation.plan, journal).outage else standing(operation.plan, journal)

    def _turn(self, operation: Operation, why: Exception) -> Operation:
        self.blobs.still = False
        where = position(operation.plan, self.catalog.journal(operation.operation_id))
        operation = msgspec.structs.replace(operation, error=storable(str(why)), status=OperationStatus.RUNNING)
        self.catalog.put_operation(operation, entry(operation, "", Mark.TURN, storable(str(why))))
        if not where.outage:
            self._finish(operation, OperationStatus.REVERTED)
            raise why
        return self._go_back(operation, why)

    def _go_back(self, operation: Operation, why: Exception) -> Operation:
        self.beat.deafen()
        self.beat.allow("way back", "recovery_time", operation.recovery_time)
        where = position(operation.plan, self.catalog.journal(operation.operation_id))
        done = still_done(operation.plan, where)
        step: Step | None = None
        try:
            for step in way_back(operation.plan, where):
                if step.id not in done:
                    operation = self._take(operation, step)
        except Exception as failure:  # whatever it is, the operation must be marked as held, not lost
            return self._hold(self._reload(operation), step, why, failure)
        operation = self._finish(operation, OperationStatus.REVERTED)
        if isinstance(why, InterruptedByUserError) or not isinstance(why, RollbackError):
            raise why
        raise RevertedError("rollback.reverted", kind=operation.kind, why=why, hint=why.hint) from why

    def _hold(self, operation: Operation, step: Step | None, why: Exception, failure: Exception) -> Operation:
        self.beat.reset()
        text = storable(f"{why} Then, on the way back: {failure}")
        operation = self._surrounded(operation, OperationStatus.HELD)
        operation = msgspec.structs.replace(operation, status=OperationStatus.HELD, error=text)
        self.catalog.put_operation(operation)
        full = isinstance(failure, RollbackError) and failure.key == "store.no_space"
        raise HeldError(
            "rollback.held_full" if full else "rollback.held",
            kind=operation.kind,
            why=text,
            operation=operation.operation_id,
            step=step.id if step else "STEP",
        ) from failure

    def _take(self, operation: Operation, step: Step) -> Operation:
        if step.action is not Action.STAGE:
            operation = self._surround(operation)
        if step.action is Action.COMPENSATE:  # all else is done and proven, and is not to be turned back any more
            self.beat.reset()
            self.beat.deafen()
        self.catalog.mark(entry(operation, step.id, Mark.INTENT))
        if step.action is not Action.STAGE and operation.stopped_at is None:
            operation = msgspec.structs.replace(operation, stopped_at=utc_now())
            self._allow_forward(operation)
        try:
            with self.beat.doing(step.id.replace(":", " ")), disk_faults_told():
                operation = self.steps[step.action](operation, step)
        except Exception as failure:
            self.catalog.mark(entry(operation, step.id, Mark.FAILED, storable(str(failure))))
            raise
        self.catalog.put_operation(operation, entry(operation, step.id, Mark.DONE))
        return operation

    def _surround(self, operation: Operation) -> Operation:
        """Run the hooks before the outage, once; it is written down first, so that those after it run after a crash."""
        if self.around is None or operation.surrounded or operation.stopped_at is not None:
            return operation
        operation = msgspec.structs.replace(operation, surrounded=True)
        self.catalog.put_operation(operation)
        with self.beat.doing("hooks before the rollback"):
            self.around.before("rollback", facts(operation), self.beat)
        return operation

    def _surrounded(self, operation: Operation, status: OperationStatus) -> Operation:
        """Run the hooks after it; should this be killed, they run again."""
        if self.around is None or not operation.surrounded:
            return operation
        failed = self.around.after("rollback", {**facts(operation), "RFS_STATUS": status})
        return _with_warnings(operation, failed)

    def _allow_forward(self, operation: Operation) -> None:
        self.beat.allow("rollback", "max_rollback_time", operation.max_rollback_time)

    def _finish(self, operation: Operation, status: OperationStatus) -> Operation:
        self.beat.reset()
        operation = self._surrounded(operation, status)
        operation = msgspec.structs.replace(operation, status=status, finished_at=utc_now())
        self.catalog.put_operation(operation)
        # The catalog has it; without room for this, only one rebuilt from the packs would not know of it.
        with suppress(RollbackError), self.store.batch():
            self.store.put_record("operation", msgspec.json.encode(operation))
        self.release(operation, self.parts)
        return operation

    def release(self, operation: Operation, parts: Mapping[str, Part]) -> None:
        """Remove what staging left. Only tidying: the operation is over, and recover repeats it.

        So a failure here must not be told as a failure of the operation.
        """
        for name in operation.plan.components:
            part = parts.get(name)
            if part is not None:
                with suppress(RollbackError, OSError):
                    part.driver.release(part.component)

    def _reload(self, operation: Operation) -> Operation:
        return self.catalog.operation(operation.operation_id)

    # — the steps —

    def _turned(self, operation: Operation) -> bool:
        return position(operation.plan, self.catalog.journal(operation.operation_id)).turned

    def _wanted(self, operation: Operation, name: str) -> Capture:
        if name not in operation.plan.components:
            where = operation.safety
        else:
            where = operation.state_before if self._turned(operation) else operation.wanted or operation.plan.target
        checkpoint = self.catalog.checkpoint(where)
        try:
            return checkpoint.captures[name]
        except KeyError:
            raise NotFoundError("checkpoint.lacks", checkpoint=checkpoint.checkpoint_id, component=name) from None

    def _part(self, step: Step) -> Part:
        try:
            return self.parts[step.component or ""]
        except KeyError:
            known = ", ".join(self.parts)
            raise NotFoundError("components.unknown", name=step.component, known=known) from None

    def _stage(self, operation: Operation, step: Step) -> Operation:
        part = self._part(step)
        part.driver.stage(part.component, self.blobs, self._wanted(operation, part.component.name))
        return operation

    def _stop(self, operation: Operation, step: Step) -> Operation:
        part = self._part(step)
        if self._found is None:
            operation = self._look_at_services(operation)
        if self.before_stop is not None:
            self.before_stop(operation, part.component.name)
        part.driver.stop(part.component, self.beat)
        return operation

    def _look_at_services(self, operation: Operation) -> Operation:
        """Capture what the services are before they are stopped: afterwards none runs, whatever ran."""
        try:
            with self.store.batch():
                self._found = self.capture(self._services(operation), CheckpointType.SAFETY)
        except (InterruptedByUserError, TimedOutError):
            raise
        except RollbackError as error:
            # Whether they can be stopped, and which way to go when not, is for the stop to tell.
            self._found = {}
            text = f"What the services were when they were stopped could not be recorded: {error}"
            return msgspec.structs.replace(operation, warnings=(*operation.warnings, text))
        return operation

    def _services(self, operation: Operation) -> list[str]:
        safety = self.catalog.checkpoint(operation.safety)
        return [name for name in safety.captures if self.parts[name].driver.runs]

    def _delta(self, operation: Operation, step: Step) -> Operation:
        """Capture the state before: the writers have stopped."""
        # What a later run finds of the services may be what the first one left of them.
        found = (self._found if self._watched else None) or {}
        safety = self.catalog.checkpoint(operation.safety)
        message = f"the state before {operation.operation_id}"
        # The services are stopped: the health of this state is what the online capture saw.
        checkpoint = self._capture_stopped(operation, message, found, lambda: safety.health)
        late = self._late(operation, checkpoint)
        if operation.plan.selection:
            # What was written until now where nothing was chosen stays.
            target = self.catalog.checkpoint(operation.plan.target)
            composed = self.compose(target, checkpoint, operation.plan, operation.operation_id)
            operation = msgspec.structs.replace(operation, wanted=composed.checkpoint_id)
        return msgspec.structs.replace(
            operation, before=checkpoint.checkpoint_id, late=tuple(late[:LATE_LISTED]), late_count=len(late)
        )

    def _capture_stopped(
        self,
        operation: Operation,
        message: str,
        found: Mapping[str, Capture],
        health: Callable[[], HealthReport | None],
    ) -> DeploymentCheckpoint:
        """Take a checkpoint while the services are stopped: of those, what was `found`, or else the state before."""
        before = self.catalog.checkpoint(operation.state_before)
        services = {name: found.get(name, before.captures[name]) for name in self._services(operation)}
        checkpoint = self.checkpoint(
            [n for n in operation.plan.components if n not in services],
            CheckpointType.SAFETY,
            taken=services,
            in_place=operation.in_place,
            health=health,
            deployment_id=before.deployment_id,
            metadata=before.metadata,
            operation_id=operation.operation_id,
            message=message,
        )
        skipped = position(operation.plan, self.catalog.journal(operation.operation_id)).skipped
        self.blobs.still = not any(step.action is Action.STOP and step.id in skipped for step in operation.plan.steps)
        return checkpoint

    def _late(self, operation: Operation, before: DeploymentCheckpoint) -> list[Change]:
        safety = self.catalog.checkpoint(operation.safety)
        late: list[Change] = []
        for name, capture in before.captures.items():
            part = self.parts[name]
            late += part.driver.changes(part.component, self.blobs, safety.captures[name], capture)
        return late

    def _list_late(self, operation: Operation) -> Operation:
        """List what only shows now that it was written late. The application runs: this must turn nothing back."""
        self.beat.reset()
        late, warnings = list(operation.late), list(operation.warnings)
        safety = self.catalog.checkpoint(operation.safety)
        for name in operation.plan.components:
            part, told = self.parts[name], [loss for loss in operation.plan.losses if loss.component == name]
            want = self._wanted(operation, name)
            try:
                late += part.driver.late(part.component, self.blobs, want, safety.captures[name], told)
            except RollbackError as error:
                warnings.append(f"What was written late to {name} could not be listed: {error}")
        count = operation.late_count + len(late) - len(operation.late)
        return msgspec.structs.replace(
            operation, late=tuple(late[:LATE_LISTED]), late_count=count, warnings=tuple(warnings)
        )

    def _keep_what_is_left(self, operation: Operation, step: Step) -> Operation:
        """Capture what is there before it is restored over: something may have written to it."""
        message = f"what was left of {operation.operation_id}"
        try:
            checkpoint = self._capture_stopped(operation, message, self._found or {}, lambda: None)
        except RollbackError as error:
            if not self._watched:
                # Nobody knows for how long it was written to: to throw it away is for a person to decide.
                raise
            # Going back at once matters more than a picture of the moment that is being left.
            warning = f"What the failed attempt had written could not be kept: {error}"
            return msgspec.structs.replace(operation, warnings=(*operation.warnings, warning))
        return msgspec.structs.replace(operation, left=checkpoint.checkpoint_id, left_earlier=operation.lefts)

    def _restore(self, operation: Operation, step: Step) -> Operation:
        part = self._part(step)
        if self.around is None:
            return self._restore_one(operation, part)
        turned = self._turned(operation)
        told = {**facts(operation, turned), "RFS_COMPONENT": part.component.name}
        # The way back must not be held by a hook.
        with self.around.both("restore", told, self.beat, must=not turned) as failed:
            operation = self._restore_one(operation, part)
        return _with_warnings(operation, failed)

    def _restore_one(self, operation: Operation, part: Part) -> Operation:
        restored = part.driver.restore(part.component, self.blobs, self._wanted(operation, part.component.name))
        if self._lies_in_another(part):
            self.blobs.still = False
        return _with_warnings(operation, restored.warnings)

    def _migrate(self, operation: Operation, step: Step) -> Operation:
        """Take migrations back where the data is; on the way back, restore what it was."""
        part = self._part(step)
        if self._turned(operation):
            want = self._wanted(operation, part.component.name)
            part.driver.stage(part.component, self.blobs, want)
            return self._verify(self._restore(operation, step), step)
        way = operation.downgrade
        if way is None or part.migrator is None:
            raise ConflictError("migrate.not_configured", component=step.component)
        recorded = self.catalog.checkpoint(way.source).migrations[way.component] if way.source else None
        self.blobs.still = False
        part.migrator.down(part.component, self.blobs, way, recorded, Statements(self.catalog, operation, step))
        return operation

    def _lies_in_another(self, part: Part) -> bool:
        owned = part.driver.owns(part.component)
        # What runs is told of everybody's files, but looks at nothing that a restore could make stale.
        others = [other.component.carved for other in self.parts.values() if not other.driver.runs]
        return any(path in carved for carved in others for path in owned)

    def _verify(self, operation: Operation, step: Step) -> Operation:
        part = self._part(step)
        differences = part.driver.verify(part.component, self.blobs, self._wanted(operation, part.component.name))
        if differences:
            keys = ", ".join(sorted(change.key or change.component for change in differences)[:5])
            more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
            raise IntegrityError("verify.differs", component=step.component, what=keys + more)
        return operation

    def _start(self, operation: Operation, step: Step) -> Operation:
        part = self._part(step)
        self.blobs.still = False
        self._found = None
        said = part.driver.start(part.component, self.blobs, self._wanted(operation, part.component.name))
        return _with_warnings(msgspec.structs.replace(operation, started_at=utc_now()), said or ())

    def _health(self, operation: Operation, step: Step) -> Operation:
        """Gate on health. On the way back only if the state before was healthy: a sick one comes back sick."""
        report = self.check(self.beat)
        operation = msgspec.structs.replace(operation, health=report)
        sick = [f"{c.name} ({c.detail})" for c in report.failures if c.required]
        warnings = [f"The wanted check {c.name} failed: {c.detail}." for c in report.failures if not c.required]
        gates = operation.plan.health_gates
        if self._turned(operation):
            before = self.catalog.checkpoint(operation.safety).health
            gates = gates and (before is None or before.healthy)
        if sick and gates:
            raise IntegrityError("health.failed", checks="; ".join(sick))
        if sick:
            warnings.append(f"The health check failed: {'; '.join(sick)}.")
        return msgspec.structs.replace(operation, warnings=(*operation.warnings, *warnings))
