"""Say first what will be done, lost, needed and how long it takes. Pure: nothing here reads or writes.

A plan is data: the engine interprets its steps, the journal stores it, and an older
release's plan is resumed by a newer release, so actions are only ever added.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from rfs.production.rollback.errors import IrreversibleError, NotFoundError, UsageError
from rfs.production.rollback.instances import expanded_names
from rfs.production.rollback.model import (
    FORMAT,
    Capture,
    Change,
    DeploymentCheckpoint,
    Effort,
    Loss,
    Reversibility,
)

# Two cores, ext4: staged and verified files and bytes per second, renames per second. They only
# feed the estimate of a first rollback; afterwards the history's own figures are used.
STAGE_FILES_PER_SECOND = 4_000.0
STAGE_BYTES_PER_SECOND = 80e6
EXCHANGES_PER_SECOND = 20_000.0
SERVICE_SECONDS = 2.0


class Action(enum.StrEnum):
    """The engine's vocabulary, in the order in which a rollback speaks it."""

    STAGE = "stage"
    STOP = "stop"
    DELTA = "delta"
    LATE = "late"
    RESTORE = "restore"
    VERIFY = "verify"
    START = "start"
    HEALTH = "health"
    # In no plan: the engine puts it in after the stops where what is live may be nobody's copy yet.
    LEFT = "left"
    # Makes good, by a command of the user's, what no rollback takes back; when all else is done and proven.
    COMPENSATE = "compensate"
    # Changes a component in place, by code of the application's own; on the way back the component is restored.
    MIGRATE = "migrate"


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a rollback may take and must prove, and what a guarded deployment does by itself. Times in seconds.

    Attributes:
        auto_rollback: a guarded deployment that fails is rolled back; otherwise that is only told.
        max_rollback_time: from the stop of the services to the end of the health check.
        recovery_time: a reserve of its own for going back to the state before.
        health_check_required: a failing required check turns the rollback back.
        min_reversibility: a plan with a worse step, or that leaves something external behind that is worse, is refused.
        bake: how long a guarded deployment is watched when its command has ended and it is well.
        on_interrupt: what becomes of one whose guard is interrupted or killed.
        on_hangup: what its guard does when the terminal is closed.
        approval_required: a rollback that somebody asks for needs the approvals of `[approvals]`.
        misfire_grace: how long after its time a scheduled rollback still fires, when nothing could fire it then.
    """

    auto_rollback: bool = True
    max_rollback_time: float = 300.0
    recovery_time: float = 300.0
    health_check_required: bool = True
    approval_required: bool = False
    min_reversibility: Reversibility = Reversibility.COMPENSABLE
    bake: float = 0.0
    on_interrupt: Literal["revert", "keep"] = "revert"
    on_hangup: Literal["revert", "continue"] = "revert"
    misfire_grace: float = 3600.0


class Step(msgspec.Struct, frozen=True):
    """One thing the engine does. `id` is "action" or "action:component" and unique in its plan."""

    id: str
    action: Action
    component: str | None = None
    reversibility: Reversibility = Reversibility.IDEMPOTENT


class External(msgspec.Struct, frozen=True, kw_only=True):
    """A system outside of the application, in which the application has effects.

    Attributes:
        reversibility: of those effects, as declared.
        compensate: program and arguments that make them good, with the fields of external.FIELDS; empty without one.
        timeout: seconds until that is ended.
        runs: it is run, as the plan goes back in time.
    """

    name: str
    reversibility: Reversibility
    compensate: tuple[str, ...] = ()
    timeout: float = 60.0
    runs: bool = True

    @property
    def effective(self) -> Reversibility:
        """How well its effects can be taken back, by its command where it has one."""
        return min(self.reversibility, Reversibility.COMPENSABLE, key=_rank) if self.compensate else self.reversibility


def _rank(reversibility: Reversibility) -> int:
    return reversibility.rank


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """One component as the planner sees it: what is wanted, and how the live state differs from that.

    Attributes:
        want: None for services that are only stopped and started around the restore of others.
        changes: from the wanted state to the live one.
        runs: it has processes to stop first and to start last.
        starts: something makes a restored state of it take effect once the services run.
        warnings: sentences about what restoring cannot do exactly.
        effort: what the driver reckons; without it the sizes in `changes` tell.
    """

    component: str
    kind: str
    want: Capture | None
    changes: tuple[Change, ...] = ()
    losses: tuple[Loss, ...] = ()
    reversibility: Reversibility = Reversibility.REVERSIBLE
    runs: bool = False
    starts: bool = False
    depends_on: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    effort: Effort | None = None


class Estimate(msgspec.Struct, frozen=True):
    """Seconds; of the whole, and of the outage inside it."""

    seconds: float
    outage: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollback would do, lose and need.

    Attributes:
        target: the checkpoint's id.
        components: in the order in which they are restored.
        steps: what the engine walks, forward as they stand.
        selection: of components of which only a part is restored, by name, what: paths from the root, or dotted keys.
        external: what it leaves behind outside of the application.
        approvals: how many approvals it needs.
        approvers: who may give them.
    """

    target: str
    target_created_at: datetime
    created_at: datetime
    components: tuple[str, ...]
    steps: tuple[Step, ...]
    changes: dict[str, tuple[Change, ...]] = {}
    losses: tuple[Loss, ...] = ()
    reversibility: Reversibility = Reversibility.REVERSIBLE
    warnings: tuple[str, ...] = ()
    estimate: Estimate = Estimate(0.0, 0.0)
    health_gates: bool = True
    selection: dict[str, tuple[str, ...]] = {}
    external: tuple[External, ...] = ()
    approvals: int = 0
    approvers: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def hash(self) -> str:
        """SHA-256 over target, components, selection, kinds of step, reversibility and what is external: never counts
        or sizes, which always move on a live system."""
        words = [str(self.format), self.target, *self.components]
        words += [f"{step.id}={step.reversibility}" for step in self.steps]
        words += [f"{name}: {key}" for name, keys in sorted(self.selection.items()) for key in keys]
        words += [f"{each.name}={each.reversibility}={' '.join(each.compensate)}" for each in self.external]
        from hashlib import sha256  # loads OpenSSL, which looking does not need

        return sha256("\n".join(words).encode()).hexdigest()

    def part_of(self, components: Collection[str]) -> dict[str, tuple[str, ...]]:
        """Return what of these components it is about: what was a part is undone as that part."""
        return {name: keys for name, keys in self.selection.items() if name in components}

    @property
    def nothing_to_do(self) -> bool:
        return not any(self.changes.values())


def make_plan(
    target: DeploymentCheckpoint,
    scopes: Sequence[Scope],
    policy: Policy,
    now: datetime,
    external: Sequence[External] = (),
) -> Plan:
    """Return the plan that brings the components in `scopes` to `target`.

    Args:
        target: the checkpoint to go to.
        scopes: one for each component that is restored, and for each other one that has
            services: those are stopped and started, whatever was selected. In any order.
        policy: decides whether the plan is allowed, and whether health gates it.
        now: UTC.
        external: what it leaves behind outside of the application.

    Raises:
        UsageError: the components depend on each other in a circle.
        IrreversibleError: a step, or what is external, is worse than `policy.min_reversibility`.
    """
    names = order({scope.component: scope.depends_on for scope in scopes})
    by_name = {scope.component: scope for scope in scopes}
    ordered = [by_name[name] for name in names]
    steps = _steps(ordered)
    worst = max((step.reversibility for step in steps), key=lambda r: r.rank, default=Reversibility.IDEMPOTENT)
    if worst.rank > policy.min_reversibility.rank:
        bad = [step.id for step in steps if step.reversibility.rank > policy.min_reversibility.rank]
        raise IrreversibleError(
            "rollback.irreversible", found=worst, wanted=policy.min_reversibility, steps=", ".join(bad)
        )
    left = [each for each in external if each.effective.rank > policy.min_reversibility.rank]
    if left:
        found = ", ".join(f"{each.name} ({each.effective})" for each in left)
        raise IrreversibleError("external.irreversible", found=found, wanted=policy.min_reversibility)
    worst = max([worst, *(each.effective for each in external)], key=_rank)
    steps += [
        Step(f"{Action.COMPENSATE}:{each.name}", Action.COMPENSATE, None, each.effective)
        for each in external
        if each.compensate and each.runs
    ]
    warnings = [sentence for scope in ordered for sentence in scope.warnings]
    return Plan(
        target=target.checkpoint_id,
        target_created_at=target.created_at,
        created_at=now,
        components=tuple(scope.component for scope in ordered if scope.want is not None),
        steps=tuple(steps),
        changes={scope.component: scope.changes for scope in ordered if scope.want is not None},
        losses=tuple(loss for scope in ordered for loss in scope.losses),
        reversibility=worst,
        warnings=tuple(warnings),
        estimate=estimate(ordered),
        health_gates=policy.health_check_required,
        external=tuple(external),
    )


def make_migration_plan(safety: DeploymentCheckpoint, scopes: Sequence[Scope], policy: Policy, now: datetime) -> Plan:
    """Return the plan that changes components in place by their own migrations, with the services stopped.

    Health does not gate it: between the migration and the code that fits it, an application may rightly be unwell.

    Args:
        safety: the checkpoint of the state before, which the way back goes to.
        scopes: one for each component that is migrated (`want` is its capture in `safety`), and for each with services.

    Raises:
        IrreversibleError: a step is worse than `policy.min_reversibility`.
    """
    plan = make_plan(safety, scopes, policy, now)
    steps = [step for step in plan.steps if step.action not in (Action.STAGE, Action.LATE, Action.VERIFY)]
    in_place = [
        Step(f"migrate:{step.component}", Action.MIGRATE, step.component, step.reversibility)
        if step.action is Action.RESTORE
        else step
        for step in steps
    ]
    return msgspec.structs.replace(plan, steps=tuple(in_place), health_gates=False)


def _steps(ordered: Sequence[Scope]) -> list[Step]:
    wanted = [scope for scope in ordered if scope.want is not None]
    data = [scope for scope in wanted if not scope.runs]
    running = [scope for scope in ordered if scope.runs]
    steps = [Step(f"stage:{s.component}", Action.STAGE, s.component) for s in wanted]
    steps += [Step(f"stop:{s.component}", Action.STOP, s.component) for s in reversed(running)]
    steps += [Step("delta", Action.DELTA)]
    steps += [Step(f"late:{s.component}", Action.LATE, s.component) for s in data]
    for scope in wanted:
        steps += [
            Step(f"restore:{scope.component}", Action.RESTORE, scope.component, scope.reversibility),
            Step(f"verify:{scope.component}", Action.VERIFY, scope.component),
        ]
    steps += [
        Step(f"start:{s.component}", Action.START, s.component) for s in [*running, *[s for s in data if s.starts]]
    ]
    return [*steps, Step("health", Action.HEALTH)]


def order(depends_on: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names so that each comes after those it depends on; ties by name.

    A dependency that is not among the names is not waited for.

    Raises:
        UsageError: there is a circle.
    """
    left = {name: {d for d in needs if d in depends_on} for name, needs in depends_on.items()}
    done: list[str] = []
    while left:
        ready = sorted(name for name, needs in left.items() if not needs)
        if not ready:
            raise UsageError("components.cycle", path=" → ".join(sorted(left)))
        done += ready
        left = {name: needs - set(ready) for name, needs in left.items() if name not in ready}
    return done


def estimate(scopes: Sequence[Scope]) -> Estimate:
    """Return how long it will take, from what differs."""
    reckoned = [scope.effort for scope in scopes if scope.effort is not None]
    scopes, told = [scope for scope in scopes if scope.effort is None], scopes
    changes = [change for scope in scopes for change in scope.changes]
    wanted = sum(change.before.size for change in changes if change.before is not None)
    staging = len(changes) / STAGE_FILES_PER_SECOND + wanted / STAGE_BYTES_PER_SECOND
    entries = sum(scope.want.entries for scope in scopes if scope.want is not None)
    services = SERVICE_SECONDS * sum(1 for scope in told if scope.runs)
    outage = services + len(changes) / EXCHANGES_PER_SECOND + 2 * entries / 200_000
    outage += sum(effort.outage for effort in reckoned)
    staging += sum(effort.staging for effort in reckoned)
    return Estimate(seconds=staging + outage + entries / 200_000, outage=outage)


def select(available: Sequence[str], only: Sequence[str] = (), without: Sequence[str] = ()) -> list[str]:
    """Return the component names that are meant, in the order they are available.

    Args:
        only: when given, just these. A name that belongs to each instance means that of all of them.
        without: never these.

    Raises:
        NotFoundError: a name is not available.
        UsageError: nothing is left.
    """
    only, without = expanded_names(only, available), expanded_names(without, available)
    for name in [*only, *without]:
        if name not in available:
            raise NotFoundError("components.unknown", name=name, known=", ".join(available) or "none")
    chosen = [name for name in available if (not only or name in only) and name not in without]
    if not chosen:
        raise UsageError("usage", what="No component is left to act on", hint="Give fewer --except.")
    return chosen


def differs(old: Plan, new: Plan) -> str:
    """Return what changed materially between two plans as one phrase, or "" when nothing did."""
    if old.hash == new.hash:
        return ""
    if old.target != new.target:
        return f"the target was {old.target} and is {new.target}"
    if old.components != new.components:
        return f"the components were {', '.join(old.components)} and are {', '.join(new.components)}"
    if old.selection != new.selection:
        return "what was chosen of the components is something else"
    if old.external != new.external:
        return "what is declared as external differs"
    before = {(step.id, step.reversibility) for step in old.steps}
    after = {(step.id, step.reversibility) for step in new.steps}
    return "the steps differ: " + ", ".join(sorted(step for step, _ in before ^ after))
