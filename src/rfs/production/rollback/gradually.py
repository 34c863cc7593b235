"""Rolls instances back wave by wave: what `--strategy gradual`, `resume` and `abort` of it stand on.

The lock is held from the first wave to the end or the pause. Each batch is an ordinary rollback of the components of
its instances, with the others left running; see gradual.py for what is written down between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from rfs.production.rollback.application import Application
from rfs.production.rollback.baking import BakeConditions, bake_conditions
from rfs.production.rollback.duration import parse_duration
from rfs.production.rollback.errors import (
    ConflictError,
    HeldError,
    InterruptedByUserError,
    NotFoundError,
    PausedError,
    RevertedError,
    RollbackError,
    UsageError,
)
from rfs.production.rollback.gradual import Gradual, Stage
from rfs.production.rollback.instances import Instances, counted, in_waves
from rfs.production.rollback.lock import actor
from rfs.production.rollback.model import Capture, DeploymentCheckpoint, RollbackStrategy, new_id, storable, utc_now
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.plan import Plan, differs
from rfs.production.rollback.recovery import InsideError
from rfs.production.rollback.waves import Waves

_LOOK_SECONDS = 1.0


class Rolling:
    """Gradual rollbacks of one application.

    Args:
        app: open; used by this alone until a call returns.
        tell: given a sentence at each wave.

    Attributes:
        warnings: sentences about what did not go as it should, though nothing failed for it.
    """

    def __init__(self, app: Application, tell: Callable[[str], None] = lambda _: None) -> None:
        self._app = app
        self._tell = tell
        self._waves = Waves(app.catalog, app.settings, app.beat.tick)
        self.warnings: list[str] = []
        self._conditions: BakeConditions | None = None

    # — what is asked for —

    def plan(self, selector: str, *, only: Sequence[str] = (), without: Sequence[str] = ()) -> Plan:
        """Return what a gradual rollback would do altogether. Changes nothing.

        Raises:
            UsageError: there are no instances.
            ConflictError: something would change that they share.
            NotFoundError: no such checkpoint or component, or it has nothing of the instances.
        """
        self._instances()
        target = self._app.find(selector)
        return self._planned(target, self._app._chosen(target, only, without))

    def waves(self, plan: Plan) -> list[tuple[str, ...]]:
        """Return the instances of each wave of a plan."""
        instances = self._instances()
        return in_waves(instances.of(plan.components), instances.table.waves)

    def begin(
        self,
        selector: str,
        *,
        reason: str = "",
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        expected: Plan | None = None,
    ) -> Gradual:
        """Roll the instances back, wave by wave.

        Args:
            expected: a plan made earlier; refused when today's differs materially.

        Returns:
            It, completed; with `failed` where it was to go on whatever failed.

        Raises:
            PausedError: a wave failed; the others are where the text says.
            RevertedError: a wave failed, and what was done has been taken back.
            HeldError: an instance is neither as it was nor as it should be.
            RollbackError: it was refused; nothing was changed.
        """
        app = self._app
        instances = self._instances()
        with self._alone(f"gradual rollback to {selector}"):
            if (found := self._waves.open()) is not None:
                raise ConflictError("gradual.open", gradual=found.gradual_id, stage=found.stage, told=found.told())
            target = app.find(selector)
            captures = app._chosen(target, only, without)
            plan = self._planned(target, captures)
            if expected is not None and (change := differs(expected, plan)):
                raise ConflictError("plan.changed", what=change)
            request = app.approved("rollback", plan, reason, None)
            record = self._record(instances, target, captures, reason, request)
            if self._waves.traffic is not None:
                self._waves.traffic.check(record.instances)
            return self._go_on(self._waves.keep(record))

    def resume(self) -> Gradual:
        """Go on with the one that is paused, from where it stands; raises as `begin`."""
        with self._alone("resume"):
            found = self._paused()
            self._refuse_if_overtaken(found)
            return self._go_on(self._waves.keep(found, stage=Stage.RUNNING, why="", failed={}))

    def abort(self, reason: str = "") -> Gradual:
        """Take back what was done of the one that is paused; where something else was done since, only end it.

        Raises:
            PausedError: that failed; the text says where the instances are.
            HeldError: an instance is neither as it was nor as it should be.
            NotFoundError: none is open.
        """
        with self._alone("abort"):
            found = self._paused()
            why = f"it was aborted by {actor()}" + (f": {storable(reason)}" if reason else "")
            if self._overtaken(found) is not None:
                return self._waves.end(found, Stage.CANCELLED, why)
            return self._take_back(found, why)

    # — the parts of it —

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        try:
            with self._app.beat.call(), self._app.exclusively(what):
                self._app.require_outside()
                yield
        except InsideError as inside:
            raise ConflictError("gradual.inside", components=", ".join(inside.components)) from inside

    def _instances(self) -> Instances:
        found = self._app.settings.instances
        if found is None:
            raise UsageError("gradual.no_instances", path=self._app.settings.path)
        return found

    def _planned(self, target: DeploymentCheckpoint, captures: Mapping[str, Capture]) -> Plan:
        instances = self._instances()
        if not instances.of(captures):
            raise NotFoundError("gradual.lacks", checkpoint=target.checkpoint_id)
        plan = self._app.plan_captures(target, captures)
        shared = [name for name in instances.shared(captures) if plan.changes.get(name)]
        if shared:
            raise ConflictError("gradual.shared", components=",".join(shared))
        if outside := [each.name for each in plan.external if each.compensate]:
            raise ConflictError("gradual.external", names=", ".join(outside))
        return plan

    def _record(
        self,
        instances: Instances,
        target: DeploymentCheckpoint,
        captures: Mapping[str, Capture],
        reason: str,
        request: str | None,
    ) -> Gradual:
        table = instances.table
        names = instances.of(captures)
        kept = next((each for each in self._app.catalog.deployments() if each.phase == "kept"), None)
        return Gradual(
            gradual_id=new_id(),
            target=target.checkpoint_id,
            reason=storable(reason),
            actor=actor(),
            created_at=utc_now(),
            waves=tuple(in_waves(names, table.waves)),
            components={
                instance: tuple(name for name in captures if instances.components.get(name) == instance)
                for instance in names
            },
            at_once=counted(table.max_unavailable, len(names)),
            bake=parse_duration(table.bake),
            on_failure=table.on_failure,
            request=request,
            version=storable(str(target.metadata.get("version", ""))),
            version_before="" if kept is None else kept.version,
        )

    def _go_on(self, record: Gradual) -> Gradual:
        """Do the waves that are not done; where they are watched, the conditions of rfs.toml are measured."""
        watched = bake_conditions(self._app, self._tell) if record.bake else nullcontext()
        with watched as self._conditions:
            if self._conditions is not None:
                self._conditions.start()
                self._conditions.compare()
            return self._all_waves(record)

    def _all_waves(self, record: Gradual) -> Gradual:
        for number, wave in enumerate(record.waves, 1):
            if left := record.left(wave):
                self._tell(f"Wave {number} of {len(record.waves)}: {', '.join(left)}.")
            for batch in record.batches(left):
                record = self._try(record, batch, partial(self._batch, batch=batch, number=number))
            if number > record.baked:
                record = self._try(record, (), partial(self._bake, number=number, wave=wave))
        if record.failed:
            self.warnings += [f"{instance} is as it was: {why}" for instance, why in record.failed.items()]
        return self._waves.end(record, Stage.COMPLETED)

    def _try(self, record: Gradual, batch: Sequence[str], do: Callable[[Gradual], Gradual]) -> Gradual:
        """Do a part of it; should that fail, do what is to be done then."""
        try:
            return do(record)
        except HeldError as error:
            self._paused_by(error, held=True)
            raise
        except InterruptedByUserError as error:
            raise self._pause(self._latest(), "it was interrupted") from error
        except RollbackError as error:
            record = self._latest()
            why = str(error).rstrip(".")
            if record.on_failure == "continue":
                failed = {**record.failed, **dict.fromkeys(batch, why)}
                if not batch:
                    self.warnings.append(str(error))
                return self._waves.keep(record, failed=failed, doing=(), operation_id=None)
            if record.on_failure == "revert":
                self._take_back(record, why)
                raise RevertedError("gradual.reverted", gradual=record.gradual_id, why=why) from error
            raise self._pause(record, why) from error
        except Exception as error:  # a bug, too, must leave it as something that can be gone on with
            self._paused_by(error, held=False)
            raise

    def _batch(self, record: Gradual, batch: tuple[str, ...], number: int) -> Gradual:
        target = self._app.catalog.checkpoint(record.target)
        names = [name for instance in batch for name in record.components[instance]]
        captures = {name: target.captures[name] for name in names}
        reason = f"wave {number} of gradual rollback {record.gradual_id}: {', '.join(batch)}"

        def roll_back(began: Callable[[str], None]) -> Operation:
            return self._app._roll_back(
                target,
                captures,
                kind="rollback",
                reason=f"{record.reason} ({reason})" if record.reason else reason,
                began=began,
                automatic=True,
                request=record.request,
                strategy=RollbackStrategy.GRADUAL,
            )

        operation = self._act(record, batch, roll_back)
        record = self._latest()
        done = {**record.done, **dict.fromkeys(batch, operation.operation_id)}
        return self._waves.keep(record, done=done, doing=(), operation_id=None)

    def _take_back(self, record: Gradual, why: str) -> Gradual:
        """Take back what was done, newest first."""
        record = self._waves.keep(record, stage=Stage.REVERTING, why=why)
        for operation_id in dict.fromkeys(reversed(record.done.values())):
            batch = tuple(instance for instance, by in record.done.items() if by == operation_id)
            self._tell(f"Taking back: {', '.join(batch)}.")
            try:
                record = self._undo(record, batch, operation_id)
            except HeldError as error:
                self._paused_by(error, held=True)
                raise
            except RollbackError as error:
                raise self._pause(self._latest(), str(error).rstrip(".")) from error
        return self._waves.end(record, Stage.REVERTED, why)

    def _undo(self, record: Gradual, batch: tuple[str, ...], operation_id: str) -> Gradual:
        app = self._app
        done = app.catalog.operation(operation_id)
        before, captures = app._before(done, done.plan.components)

        def roll_back(began: Callable[[str], None]) -> Operation:
            return app._roll_back(
                before,
                captures,
                kind="undo",
                reason=f"gradual rollback {record.gradual_id} is taken back: {', '.join(batch)}",
                undoes=operation_id,
                began=began,
                automatic=True,
                request=record.request,
                strategy=RollbackStrategy.GRADUAL,
            )

        self._act(record, batch, roll_back)
        record = self._latest()
        left = {instance: by for instance, by in record.done.items() if by != operation_id}
        return self._waves.keep(record, done=left, doing=(), operation_id=None)

    def _act(
        self, record: Gradual, batch: tuple[str, ...], roll_back: Callable[[Callable[[str], None]], Operation]
    ) -> Operation:
        """Roll a batch back, or forth, without requests to it and with everything else left running."""
        record = self._waves.keep(record, doing=batch, operation_id=None, drained=batch)
        held = False
        try:
            if self._waves.traffic is not None:
                self.warnings += filter(None, map(self._waves.traffic.drain, batch))
            names = [name for instance in batch for name in self._components(instance)]
            with self._narrowed(names):
                return roll_back(self._began)
        except HeldError:
            held = True  # it may not run at all
            raise
        finally:
            if not held:
                self.warnings += self._waves.get_requests(batch)
                self._waves.keep(self._latest(), drained=())

    def _began(self, operation_id: str) -> None:
        self._waves.keep(self._latest(), operation_id=operation_id)

    def _components(self, instance: str) -> list[str]:
        """Return all of an instance, its services too, whichever of them are rolled back."""
        return [name for name, whose in self._instances().components.items() if whose == instance]

    @contextmanager
    def _narrowed(self, names: Sequence[str]) -> Iterator[None]:
        """Let what is in the block know of these components only: the services of the others are to go on."""
        app = self._app
        whole = app.parts
        app.parts = app.engine.parts = {name: part for name, part in whole.items() if name in names}
        try:
            yield
        finally:
            app.parts = app.engine.parts = whole

    def _bake(self, record: Gradual, number: int, wave: Sequence[str]) -> Gradual:
        """Watch the instances that are done for as long as it is asked for."""
        done = [instance for instance in record.instances if instance in record.done]
        if record.bake and done:
            names = [name for instance in done for name in self._components(instance)]
            since, until = utc_now(), time.monotonic() + record.bake
            conditions = self._conditions
            if conditions is not None:
                conditions.begin()
            with self._narrowed(names):
                while (left := until - time.monotonic()) > 0:
                    report = self._app.check_health(self._app.beat, once=True)
                    if not report:
                        failed = "; ".join(f"{check.name}: {check.detail}" for check in report.failures)
                        raise RollbackError("gradual.sick", instances=", ".join(wave), failed=failed)
                    if conditions is not None and (why := conditions.tripped(since)) is not None:
                        raise RollbackError("gradual.tripped", instances=", ".join(wave), why=why)
                    self._nap(min(left, _LOOK_SECONDS))
            if conditions is not None:
                conditions.pause()
        return self._waves.keep(record, baked=number)

    def _nap(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._app.beat.tick()
            time.sleep(min(left, 0.1))  # the bake asked for, in naps short enough to be interrupted

    # — paused —

    def _latest(self) -> Gradual:
        found = self._waves.last()
        if found is None:  # pragma: no cover — it is written down before anything is done
            raise NotFoundError("gradual.none")
        return found

    def _paused(self) -> Gradual:
        found = self._waves.open()
        if found is None:
            raise NotFoundError("gradual.none")
        return found

    def _pause(self, record: Gradual, why: str) -> PausedError:
        record = self._waves.keep(record, doing=(), operation_id=None)
        record = self._waves.pause(record, why)
        where = ", ".join(f"{instance}: {version}" for instance, version in record.where().items())
        told = record.told()
        return PausedError(
            "gradual.paused", gradual=record.gradual_id, why=why, told=told[:1].upper() + told[1:], where=where
        )

    def _paused_by(self, error: Exception, *, held: bool) -> None:
        record = self._latest()
        if not held:
            record = self._waves.keep(record, doing=(), operation_id=None)
        self._waves.pause(record, storable(str(error)).rstrip("."))

    def _overtaken(self, record: Gradual) -> Operation | None:
        newest = self._app.catalog.latest_operation()
        return newest if newest is not None and newest.operation_id != record.last_operation else None

    def _refuse_if_overtaken(self, record: Gradual) -> None:
        if (newest := self._overtaken(record)) is not None:
            raise ConflictError(
                "gradual.overtaken", gradual=record.gradual_id, kind=newest.kind, operation=newest.operation_id
            )


def roll_back_gradually(
    app: Application, selector: str, *, reason: str, only: Sequence[str], whole: bool
) -> dict[str, Any]:
    """Roll back in waves; return what a program is told. Raises as `Rolling.begin`; UsageError unless `whole`."""
    if not whole:
        raise UsageError("gradual.part")
    rolling = Rolling(app)
    found = rolling.begin(selector, reason=reason, only=only)
    return {
        "rollback_id": found.gradual_id,
        "status": str(found.stage),
        "rolled_back_to": found.target,
        "instances": found.where(),
        "warnings": rolling.warnings,
    }
