"""An application with a policy: what a plan holds by it, what has to be approved, and what a freeze stops.

Nothing here stands in the way of what goes back by itself: a guard's rollback, the way back of one that failed, what a
crash interrupted, a deadline that nobody confirmed. See docs/governance.md.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from rfs.production.rollback.catalog import FREEZES
from rfs.production.rollback.errors import ApprovalNeededError, RollbackError
from rfs.production.rollback.model import Capture, DeploymentCheckpoint, Downgrade, Reversibility, utc_now
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.plan import Action, Plan, Scope, Step, make_plan
from rfs.production.rollback.pulse import Reporter
from rfs.production.rollback.recovery import interruptible
from rfs.production.rollback.settings import Settings
from rfs.production.rollback.settling import Settling

if TYPE_CHECKING:
    from rfs.production.rollback.approvals import ApprovalRequest, Stands
    from rfs.production.rollback.auditing import AuditLog
    from rfs.production.rollback.external import ExternalTable
    from rfs.production.rollback.freezing import Freeze, InForce
    from rfs.production.rollback.governance import Governance


class Consenting(Settling, ABC):
    """Args: as of Recoverable."""

    def __init__(self, settings: Settings, *, reporter: Reporter | None = None, wait: float = 0.0) -> None:
        super().__init__(settings, reporter=reporter, wait=wait)
        if settings.approvals is not None or settings.freeze or settings.policy.approval_required:
            _ = self.governance  # what rfs.toml says of it is checked before anything is done
        if settings.external:
            _ = self.external
        # Also what began when rfs.toml named something external is finished.
        self.engine.steps[Action.COMPENSATE] = self._compensate

    @cached_property
    def governance(self) -> Governance:
        """What the policy asks of people."""
        from rfs.production.rollback.governance import Governance  # most applications have none

        return Governance(self.settings, self.catalog, self.store)

    def with_needs(self, plan: Plan) -> Plan:
        """Return a plan with what it needs of people, and what they should know."""
        if (frozen := self.frozen()) is not None:
            text = f"Deployments are frozen {frozen.told}; that stops no rollback."
            plan = msgspec.structs.replace(plan, warnings=(*plan.warnings, text))
        table = self.governance.table if self.settings.policy.approval_required else None
        if table is None:
            return plan
        return msgspec.structs.replace(plan, approvals=table.required, approvers=table.approvers)

    # — the audit log —

    @property
    def audit(self) -> AuditLog:
        """The log of who did what."""
        from rfs.production.rollback.auditing import AuditLog  # what only looks does not need it

        return AuditLog(self.settings.store.path, self.catalog, self.settings.name)

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Hold the lock, with everything that is done, and was done by whoever died, in the audit log."""
        with super().locked(what):
            self._keep_books("")
            try:
                yield
            finally:
                self._keep_books(None)

    def _keep_books(self, who: str | None) -> None:
        """Write what is owed to the audit log; nothing about that log may stop what is done, or its way back."""
        from rfs.production.rollback.bookkeeping import Bookkeeper

        try:
            Bookkeeper(self.catalog, self.store, self.audit, lambda: self.person if who is None else who).keep()
        except (OSError, RollbackError, msgspec.DecodeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            text = f"The audit log could not be written: {why.rstrip('.')}. The next command adds what is missing."
            if text not in self.notices:
                self.notices.append(text)

    # — what is external —

    @cached_property
    def external(self) -> tuple[ExternalTable, ...]:
        """What rollbacks leave behind outside of the application."""
        if not self.settings.external:
            return ()
        from rfs.production.rollback.external import parse_external  # most applications have none

        return parse_external(self.settings.external, self.settings.path, list(self.parts))

    def plan_captures(
        self,
        target: DeploymentCheckpoint,
        captures: Mapping[str, Capture],
        selection: Mapping[str, Sequence[str]] | None = None,
        *,
        measure: bool = True,
        undoes: Operation | None = None,
        automatic: bool = False,
    ) -> Plan:
        """Make the plan.

        Args:
            measure: without it no component is compared with the live state, which takes a scan.
            undoes, automatic: see `made_plan`.
        """
        from rfs.production.rollback.scoping import scope_of  # status needs none, and start-up is a goal

        chosen = {name: tuple(keys) for name, keys in (selection or {}).items()}
        keys = [chosen.get(name, ()) for name in self.parts]
        scopes = [
            scope_of(self.engine, self.parts[n], captures.get(n), measure, k)
            for n, k in zip(self.parts, keys, strict=True)
        ]
        taking_part = [scope for scope in scopes if scope.want is not None or scope.runs]
        plan = self.made_plan(target, taking_part, undoes, automatic=automatic)
        from rfs.production.rollback.selection import splits, staying

        left_out = staying(self.parts, target)
        if measure and len(captures) < len(self.parts):
            left_out += splits(self.parts, target, captures)
        if any(part.migrator is not None for part in self.parts.values()):
            from rfs.production.rollback.downgrading import compatibility

            left_out += compatibility(self.parts, self.engine.blobs, target, captures)
        if not self.checks_health:
            left_out.append("No health checks are configured: only the read-back proves the rollback.")
        return msgspec.structs.replace(plan, warnings=(*plan.warnings, *left_out), selection=chosen)

    def made_plan(
        self, target: DeploymentCheckpoint, scopes: Sequence[Scope], undoes: Operation | None, *, automatic: bool
    ) -> Plan:
        """Return the plan that brings components to a checkpoint, with what is external.

        Args:
            undoes: what it takes back.
            automatic: it goes back by itself, as it was agreed to; as by break-glass, no policy refuses it.

        Raises:
            IrreversibleError: as of plan.make_plan.
        """
        from rfs.production.rollback.external import compensated_by, external_of, ungated

        policy = wanted = self.settings.policy
        free = automatic or self.consent.automatic or bool(self.consent.break_glass)
        if free:
            policy = msgspec.structs.replace(policy, min_reversibility=Reversibility.UNKNOWN)
        restored = [scope.component for scope in scopes if scope.want is not None]
        plan = make_plan(target, scopes, policy, utc_now(), external_of(self.external, restored, undoes))
        told = ungated(plan, wanted.min_reversibility) if free else []
        if undoes is not None:
            told += compensated_by(undoes)
        return msgspec.structs.replace(plan, warnings=(*plan.warnings, *told))

    def _compensate(self, operation: Operation, step: Step) -> Operation:
        from rfs.production.rollback.external import compensate

        journal = self.catalog.journal(operation.operation_id)
        target = self.catalog.checkpoint(operation.plan.target)
        app, home = self.settings.name, self.settings.home
        said = compensate(operation, step, journal, target, app=app, home=home)
        return msgspec.structs.replace(operation, warnings=(*operation.warnings, *said))

    # — approvals —

    def approved(self, kind: str, plan: Plan, reason: str, undoes: str | None) -> str | None:
        """Return the request that a plan may be carried out with; see Governance.require for what it raises."""
        if not (self.settings.policy.approval_required or self.consent.request):
            return None
        from rfs.production.rollback.governance import Asked

        asked = Asked(
            kind=kind, target=plan.target, components=plan.components, reason=reason, plan=plan, undoes=undoes
        )
        return self.governance.require(asked, self.consent)

    def approved_all(self, operations: Sequence[Operation], plans: Sequence[Plan], reason: str) -> None:
        """Have several undos approved before the first of them is done.

        Raises:
            ApprovalNeededError: approvals of at least one are missing; all that are missing were asked for.
        """
        missing: list[str] = []
        for each, plan in zip(operations, plans, strict=True):
            try:
                self.approved("undo" if each.undoes is None else "redo", plan, reason, each.operation_id)
            except ApprovalNeededError as error:
                missing.append(error.request)
        if missing:
            raise ApprovalNeededError("approval.several", requests=", ".join(missing))

    def approved_down(self, way: Downgrade, reason: str) -> str | None:
        """Return the request that migrations may be taken back with; as `approved`."""
        if not (self.settings.policy.approval_required or self.consent.request):
            return None
        from rfs.production.rollback.governance import Asked

        target = f"{way.component} {' '.join(way.targets)}"
        asked = Asked(kind="migration", target=target, components=(way.component,), reason=reason, downgrade=way)
        return self.governance.require(asked, self.consent)

    def waiting(self) -> tuple[tuple[ApprovalRequest, Stands], ...]:
        """Return the requests for approval that are not over, each with how it stands."""
        return tuple(self.governance.waiting()) if self.settings.policy.approval_required else ()

    @interruptible
    def vote(self, selector: str, *, approves: bool, reason: str = "") -> tuple[ApprovalRequest, Stands]:
        """Approve or reject a request, as whoever is at work; see Governance.vote."""
        with self._patiently("approve" if approves else "reject"):
            return self.governance.vote(selector, self.person, approves=approves, reason=reason)

    # — freezes —

    def frozen(self) -> InForce | None:
        """Return the freeze that is in force now, or None."""
        known = self.settings.freeze or self.catalog.noted(FREEZES) is not None
        return self.governance.frozen() if known else None

    def require_unfrozen(self, what: str) -> None:
        """Refuse a deployment, or a scheduled rollback, that a freeze blocks; see Governance.require_unfrozen."""
        if self.frozen() is not None:
            self.governance.require_unfrozen(what, self.consent)

    @interruptible
    def freeze(self, reason: str, until: datetime | None = None) -> Freeze:
        """Declare a freeze: until a time (UTC), or until it is lifted.

        Raises:
            UsageError: it would be over already.
            RollbackError: it cannot be written down.
        """
        with self._patiently("freeze"):
            return self.governance.freeze(self.person, reason, until)

    @interruptible
    def unfreeze(self, reason: str = "") -> list[Freeze]:
        """Lift every declared freeze; returns those.

        Raises:
            NotFoundError: none is in force.
            RollbackError: it cannot be written down.
        """
        with self._patiently("unfreeze"):
            return self.governance.unfreeze(self.person, reason)
