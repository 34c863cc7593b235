"""One application, as rfs.toml describes it: what the command line and the manager stand on.

Synchronous, and expected conditions are raised as RollbackError. Each method that changes
something takes the application's lock, settles what a crash left behind, and acts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback import selectors
from rfs.production.rollback.capturing import Drift, drift_of, require_kind
from rfs.production.rollback.deferring import Deferring
from rfs.production.rollback.errors import ConflictError, NotFoundError, UsageError
from rfs.production.rollback.lock import actor, holder
from rfs.production.rollback.model import (
    Capture,
    CheckpointType,
    DeploymentCheckpoint,
    Downgrade,
    HealthReport,
    Loss,
    RollbackStrategy,
    json_like,
    new_id,
    storable,
    utc_now,
)
from rfs.production.rollback.operation import EDIT, Operation
from rfs.production.rollback.plan import Plan, differs, make_migration_plan, select
from rfs.production.rollback.recovery import InsideError, interruptible
from rfs.production.rollback.status import Status

if TYPE_CHECKING:
    from rfs.production.rollback.guarded import Deployment
    from rfs.production.rollback.threeway import Meant


class Application(Deferring):
    """What can be done with an application: checkpoint, look, plan, roll back, undo.

    `beat.interrupt()` may be called from a signal handler or another thread: the call that is running, or
    when none is the next one, turns back.
    """

    # — checkpoints —

    @interruptible
    def checkpoint(
        self,
        *,
        message: str = "",
        tags: Sequence[str] = (),
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        kind: CheckpointType = CheckpointType.MANUAL,
        deployment_id: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> DeploymentCheckpoint:
        """Take a checkpoint of the whole application, or of some components.

        Raises:
            UsageError: there are no components, or `metadata` is nothing that JSON can hold.
            FrozenError: it is the one before a deployment (AUTOMATIC), and a freeze is in force.
            RollbackError: it could not be taken; nothing exists of it.
        """
        self._require_components()
        if kind is CheckpointType.AUTOMATIC:
            self.require_unfrozen("The deployment")
        names = select(list(self.parts), only, without)
        facts = json_like(metadata or {}, "metadata")
        with self.exclusively("checkpoint"), self.engine.around_checkpoint(kind, self.notices):
            return self.engine.checkpoint(
                names,
                kind,
                health=self._health_or_none,
                state=self.shown_state,
                message=storable(message),
                tags=tuple(storable(tag) for tag in tags),
                deployment_id=storable(deployment_id),
                metadata=facts,
            )

    def find(self, selector: str) -> DeploymentCheckpoint:
        """Return the checkpoint that a selector means; see selectors.find."""
        return selectors.find(selector, self.catalog)

    @interruptible
    def amend(
        self,
        selector: str,
        *,
        pinned: bool | None = None,
        add_tags: Sequence[str] = (),
        message: str | None = None,
    ) -> DeploymentCheckpoint:
        """Pin or unpin a checkpoint, add tags to it, or change its message."""
        with self.exclusively("amend"):
            old = self.find(selector)
            new = msgspec.structs.replace(
                old,
                pinned=old.pinned if pinned is None else pinned,
                tags=tuple(dict.fromkeys((*old.tags, *(storable(tag) for tag in add_tags)))),
                message=old.message if message is None else storable(message),
                revision=old.revision + 1,
            )
            with self.store.batch():
                self.store.put_record("checkpoint", msgspec.json.encode(new))
            self.catalog.put_checkpoint(new)
            return new

    # — looking —

    @interruptible
    def plan(
        self,
        selector: str,
        *,
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        selection: Mapping[str, Sequence[str]] | None = None,
        undoes: Operation | None = None,
    ) -> Plan:
        """Return what a rollback to a checkpoint would do, lose and need. Changes nothing.

        Args:
            selection: see `rollback`.
            undoes: the operation that it would take back.

        Raises:
            NotFoundError: no such checkpoint or component.
            IrreversibleError: the policy refuses it.
        """
        self._require_components()
        target = self.find(selector)
        captures = self._chosen(target, only, without, selection)
        return self.with_needs(self.plan_captures(target, captures, selection, undoes=undoes))

    @interruptible
    def status(self) -> Status:
        """Return how the live state stands against the last checkpoint, and what is going on."""
        latest = self.catalog.latest(safety=False)
        drift: list[Drift] = []
        for name, part in self.parts.items():
            capture = latest.captures.get(name) if latest is not None else None
            drift.append(drift_of(part, capture))
        open_operation = self.catalog.open_operation()
        open_ = self.catalog.open_deployment()
        guarded = open_ is not None and self.deployments.owned()
        due = open_ is not None and self.due() is not None
        running = holder(self.lock_path)
        found = Status(self.settings.name, latest, tuple(drift), open_operation, running, open_, guarded, due)
        later = tuple(self.catalog.waiting_deferred())
        return msgspec.structs.replace(
            found, frozen=self.frozen(), waiting=self.waiting(), deferred=later, gradual=self.waves()
        )

    def is_worked_on(self) -> bool:
        """Tell whether an operation runs now, in whatever process."""
        return bool(holder(self.lock_path))

    def _health_or_none(self) -> HealthReport | None:
        return self.check_health(self.beat, once=True) if self.checks_health else None

    def shown_state(self) -> dict[str, Any]:
        """Return what a checkpoint's record shows of the state just captured, secrets masked."""
        return {}

    # — rollback —

    @interruptible
    def rollback(
        self,
        selector: str,
        *,
        reason: str = "",
        only: Sequence[str] = (),
        without: Sequence[str] = (),
        selection: Mapping[str, Sequence[str]] | None = None,
        expected: Plan | None = None,
        confirm: float | None = None,
    ) -> Operation:
        """Bring the application to a checkpoint; if that fails, bring it back to the state before.

        Args:
            selection: of these components only a part: paths from the root, or dotted keys. What is written
                meanwhile to the rest of them stays. No other component is restored unless `only` names it.
            expected: a plan made earlier; refused when today's differs materially.
            confirm: seconds in which somebody has to confirm it, or it is taken back; see `confirm`.

        Raises:
            RevertedError: it failed, and the system is back at the state before.
            HeldError: it failed both ways.
            GoingOnError: it stops this very process, and goes on outside it.
            RollbackError: it was refused; nothing was changed.
        """
        self._require_components()
        try:
            with self.exclusively(f"rollback to {selector}"):
                target = self.find(selector)
                captures = self._chosen(target, only, without, selection)
                self.require_outside()
                trial = nullcontext() if confirm is None else self._on_trial(target.checkpoint_id, confirm)
                with trial as began:
                    return self._roll_back(
                        target, captures, selection, kind="rollback", reason=reason, expected=expected, began=began
                    )
        except InsideError as inside:
            arguments = {
                "selector": selector,
                "reason": reason,
                "only": only,
                "without": without,
                "selection": selection,
                "confirm": confirm,
            }
            return self._carry(inside, "rollback", expected=expected, **arguments)[0]

    @interruptible
    def undo(
        self,
        number: int = 1,
        *,
        operation: str | None = None,
        component: str | None = None,
        reason: str = "",
        how: str = "refuse",
    ) -> list[Operation]:
        """Take back the last `number` operations that have a plan, newest first, or one that is named.

        Args:
            component: only operations that touched it count, and only it is taken back.
            how: of a named one that is not the newest only what it changed is taken back, where that can be; this says
                what becomes of what was changed since. See merging.Resolution.

        Raises:
            NotFoundError: there are fewer, or no such operation or component; nothing was changed.
            ConflictError: what it changed was changed since.
            GoingOnError: they stop this very process, and go on outside it.
        """
        try:
            with self.exclusively("undo"):
                # All are looked at first: the second must not be refused when the first is done.
                asked = self._to_undo(number, operation, component)
                # Since an edit more may have been edited, which is in no log yet.
                edit = next((each.operation_id for each, _ in asked if len(asked) == 1 and each.kind == EDIT), None)
                chosen = [(each, self.part_to_undo(each, names, operation or edit, how)) for each, names in asked]
                meant = [(each, part.selection, *self._before(each, part.names, part.merged)) for each, part in chosen]
                self.require_outside()
                done: list[Operation] = []
                if len(meant) > 1:
                    plans = [
                        self.plan_captures(before, captures, part, measure=False, undoes=each)
                        for each, part, before, captures in meant
                    ]
                    self.approved_all([each for each, *_ in meant], plans, reason)
                for each, part, before, captures in meant:
                    kind = "undo" if each.undoes is None else "redo"
                    why = reason or f"{kind} of {each.kind} {each.operation_id}"
                    done += [self._roll_back(before, captures, part, kind=kind, reason=why, undoes=each.operation_id)]
                return done
        except InsideError as inside:
            named = {"operation": operation, "component": component, "reason": reason, "how": str(how)}
            return self._carry(inside, "undo", expected=None, number=number, **named)

    def _to_undo(
        self, number: int, named: str | None, component: str | None
    ) -> list[tuple[Operation, tuple[str, ...]]]:
        from rfs.production.rollback.undoing import to_undo  # what only looks does not need it, and start-up is a goal

        meant = {"named": named, "component": component}
        found = to_undo(self.log, self.catalog, self.parts, number, planned=True, **meant)
        return [(each, names) for each, names in found if isinstance(each, Operation)]

    def part_to_undo(self, operation: Operation, names: Sequence[str], named: str | None, how: str) -> Meant:
        """Return which components `undo` takes back of an operation, and what of each; raises as it does."""
        from rfs.production.rollback.threeway import Meant, part_to_undo  # seldom needed

        if named is None or not self.parts.keys() >= set(names):
            return Meant(names, operation.plan.part_of(names), {})
        return part_to_undo(self.engine, self.log, operation, names, how)

    def _before(
        self, operation: Operation, names: Sequence[str], merged: Mapping[str, Mapping[str, bytes]] | None = None
    ) -> tuple[DeploymentCheckpoint, dict[str, Capture]]:
        """Return the checkpoint of the state before an operation, and the captures in it that undo it.

        Args:
            merged: by component and key, what files are to say instead.
        """
        before = self.catalog.checkpoint(operation.state_before)
        if merged:
            before = self.engine.rewritten(before, merged)
        captures = self._chosen(before, names, ()) if names else {}
        for name, capture in captures.items():
            require_kind(self.parts[name], capture)
        self.engine.require_blobs(captures.values())
        return before, captures

    def _roll_back(
        self,
        target: DeploymentCheckpoint,
        captures: Mapping[str, Capture],
        selection: Mapping[str, Sequence[str]] | None = None,
        *,
        kind: str,
        reason: str,
        expected: Plan | None = None,
        undoes: str | None = None,
        began: Callable[[str], None] | None = None,
        automatic: bool = False,
        operation_id: str | None = None,
        **recorded: Any,
    ) -> Operation:
        """Roll back, with the lock held. `automatic`: what nobody asks for now waits for nobody's approval."""
        engine = self.engine
        engine.require_blobs(captures.values())
        taken = self.catalog.operation(undoes) if undoes is not None else None
        plan = self.plan_captures(target, captures, selection, measure=False, undoes=taken, automatic=automatic)
        if expected is not None and (change := differs(expected, plan)):
            raise ConflictError("plan.changed", what=change)
        request = None if automatic else self.approved(kind, plan, reason, undoes)
        operation_id = operation_id or new_id()
        safety = self._safety(kind, operation_id, captures, deployment_id=target.deployment_id)
        composed = engine.compose(target, safety, plan, operation_id) if plan.selection else None
        captures = captures if composed is None else composed.captures
        losses = [loss for name, want in captures.items() for loss in self._losses(name, want, safety.captures[name])]
        plan = msgspec.structs.replace(plan, losses=tuple(losses))
        if began is not None:
            began(operation_id)
        wanted = None if composed is None else composed.checkpoint_id
        facts = {"undoes": undoes, "wanted": wanted, "request": request, **recorded}
        return self._carry_out(operation_id, kind, plan, safety, reason=reason, automatic=automatic, **facts)

    def _bring_back(self, deployment: Deployment, reason: str, began: Callable[[str], None]) -> Operation:
        if deployment.operation_id is None:
            target = self.catalog.checkpoint(deployment.checkpoint_id)
            return self._roll_back(
                target, self._chosen(target, (), ()), kind="rollback", reason=reason, began=began, automatic=True
            )
        done = self.catalog.operation(deployment.operation_id)
        before, captures = self._before(done, done.plan.components)
        part, undoes = done.plan.part_of(captures), done.operation_id
        facts: dict[str, Any] = {"reason": reason, "undoes": undoes, "began": began, "automatic": True}
        return self._roll_back(before, captures, part, kind="undo", **facts)

    def _safety(self, kind: str, operation_id: str, names: Collection[str], **facts: Any) -> DeploymentCheckpoint:
        """Take the safety checkpoint of an operation on these components; services belong to each."""
        return self.engine.checkpoint(
            [name for name, part in self.parts.items() if name in names or part.driver.runs],
            CheckpointType.SAFETY,
            health=self._health_or_none,
            operation_id=operation_id,
            message=f"before {kind} {operation_id}",
            **facts,
        )

    def _carry_out(
        self,
        operation_id: str,
        kind: str,
        plan: Plan,
        safety: DeploymentCheckpoint,
        *,
        reason: str,
        automatic: bool = False,
        **recorded: Any,
    ) -> Operation:
        # The waves of a rollback are approved together, and then made one after the other; somebody asked for them.
        automatic = automatic and not (recorded.get("strategy") is RollbackStrategy.GRADUAL and kind == "rollback")
        glass = "" if automatic else self.consent.break_glass
        operation = Operation(
            operation_id=operation_id,
            kind=kind,
            plan=plan,
            reason=storable(reason),
            actor=self.consent.person or actor(),
            created_at=utc_now(),
            components=tuple(part.component for part in self.parts.values()),
            safety=safety.checkpoint_id,
            inside=", ".join(self.carried) or None,
            break_glass=bool(glass),
            automatic=automatic or self.consent.automatic,
            warnings=(f"BREAK-GLASS: {self.person} went past the policy: {storable(glass)}.",) if glass else (),
            max_rollback_time=self.settings.policy.max_rollback_time,
            recovery_time=self.settings.policy.recovery_time,
            **recorded,
        )
        self.engine.begin(operation)
        return self.engine.run(operation)

    # — migrations —

    @interruptible
    def plan_down(self, target: str, component: str | None = None) -> Downgrade:
        """Return the migrations that `migrate_down` would take back; see downgrading.plan_down. Changes nothing."""
        from rfs.production.rollback.downgrading import plan_down

        return plan_down(self.catalog, self.parts, self.engine.blobs, target, component)

    @interruptible
    def sql_down(self, way: Downgrade) -> str:
        """Return the SQL that a way down runs, as its tool prints it. Changes nothing."""
        from rfs.production.rollback.downgrading import sql_of

        return sql_of(self.catalog, self.parts, self.engine.blobs, way)

    @interruptible
    def migrate_down(
        self, target: str, *, component: str | None = None, reason: str = "", expected: Downgrade | None = None
    ) -> Operation:
        """Take migrations of a database back where it is, with the services stopped; if that fails, restore it.

        Args:
            target: a version as the tool takes it, or `@…`: what was in force at that checkpoint.
            component: which database; None when there is but one with migrations.
            expected: the way down as it was agreed to; refused when it is another by now.

        Raises:
            RevertedError: it failed, and the system is back at the state before.
            HeldError: it failed both ways.
            GoingOnError: it stops this very process, and goes on outside it.
            RollbackError: it was refused, or nothing is to be taken back; nothing was changed.
        """
        from rfs.production.rollback.scoping import scope_of

        try:
            with self.exclusively(f"migrate down to {target}"):
                way = self.plan_down(target, component)
                if expected is not None and way != expected:
                    raise ConflictError("plan.changed", what=f"the migrations are {', '.join(way.versions)}")
                self.require_outside()
                request = self.approved_down(way, reason)
                operation_id = new_id()
                safety = self._safety(
                    "migration", operation_id, [way.component], deployment_id="", in_place=[way.component]
                )
                wanted = {way.component: safety.captures[way.component]}
                scopes = [scope_of(self.engine, part, wanted.get(name), False) for name, part in self.parts.items()]
                taking_part = [scope for scope in scopes if scope.want is not None or scope.runs]
                plan = make_migration_plan(safety, taking_part, self.settings.policy, utc_now())
                facts: dict[str, Any] = {"reason": reason, "downgrade": way, "request": request}
                return self._carry_out(operation_id, "migration", plan, safety, **facts)
        except InsideError as inside:
            return self._carry(inside, "migrate_down", target=target, component=component, reason=reason)[0]

    def _chosen(
        self,
        target: DeploymentCheckpoint,
        only: Sequence[str],
        without: Sequence[str],
        selection: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, Capture]:
        if selection:
            only = tuple(dict.fromkeys((*only, *selection)))
        names = select(list(self.parts), only, without)
        for name in names if only else ():
            if name not in target.captures:
                raise NotFoundError("checkpoint.lacks", checkpoint=target.checkpoint_id, component=name)
        captures = {name: target.captures[name] for name in names if name in target.captures}
        if not captures:
            raise NotFoundError("checkpoint.lacks", checkpoint=target.checkpoint_id, component=", ".join(names))
        return captures

    def _losses(self, name: str, want: Capture, safety: Capture) -> list[Loss]:
        part = self.parts[name]
        changes = tuple(part.driver.changes(part.component, self.engine.blobs, want, safety))
        return list(part.driver.losses(part.component, self.engine.blobs, want, changes))

    def _require_components(self) -> None:
        if not self.parts:
            raise UsageError("app.empty", path=self.settings.path)
