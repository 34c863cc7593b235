"""`[[external]]`: what a rollback leaves behind outside of the application, and the commands that make it good."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import DeploymentCheckpoint, Reversibility
from rfs.production.rollback.operation import DEPLOYMENT, Entry, Mark, Operation, facts
from rfs.production.rollback.plan import Action, External, Plan, Step
from rfs.production.rollback.process import run
from rfs.production.rollback.settings import Source

FIELDS = (
    "checkpoint.id",
    "checkpoint.created_at",
    "checkpoint.version",
    "operation.id",
    "operation.kind",
    "operation.reason",
    "app.name",
)
"""What a command may name in braces; all else in braces stays as it is."""
_FIELD = re.compile(r"\{([a-z_]+(?:\.[a-z_]+)+)\}")


class ExternalTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[external]]` table: a system outside in which the application has effects that no rollback takes back.

    Attributes:
        name: what it is called in plans and records.
        reversibility: of those effects.
        compensate: program and arguments that make them good, run when a rollback is done and proven, in the folder of
            rfs.toml without a shell; with it the effects count as compensable.
        components: only a rollback that restores one of these has to do with it; all when left out.
        timeout: until the command is ended.
    """

    name: str
    reversibility: Reversibility
    compensate: tuple[str, ...] | None = None
    components: tuple[str, ...] = ()
    timeout: Duration = 60

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise ValueError("name must be a word or some, on one line")
        if self.compensate is not None and not (self.compensate and self.compensate[0]):
            raise ValueError("compensate takes a list: a program and its arguments")
        unknown = [name for word in self.compensate or () for name in _FIELD.findall(word) if name not in FIELDS]
        if unknown:
            why = f"compensate has no field {{{unknown[0]}}}; there are {', '.join(FIELDS)}"
            raise ValueError(why)
        if parse_duration(self.timeout) == 0:
            raise ValueError("timeout must be longer than nothing")


def parse_external(
    tables: Sequence[Mapping[str, Any]], path: str, components: Collection[str]
) -> tuple[ExternalTable, ...]:
    """Return what the `[[external]]` tables describe.

    Args:
        path: of rfs.toml, for complaints.
        components: the names that there are.

    Raises:
        UsageError: a key is unknown or missing, a value is not usable, a name comes twice or is no component's.
    """
    source = Source(path)
    found = [source.convert(table, ExternalTable, ("external", number)) for number, table in enumerate(tables)]
    for number, each in enumerate(found):
        if any(other.name == each.name for other in found[:number]):
            source.bad(("external", number, "name"), f'there is another one called "{each.name}"')
        for name in each.components:
            if name not in components:
                source.bad(("external", number, "components"), f'there is no component called "{name}"')
    return tuple(found)


def external_of(
    tables: Sequence[ExternalTable], components: Collection[str], undoes: Operation | None
) -> tuple[External, ...]:
    """Return what a rollback of some components leaves behind.

    Args:
        undoes: what it takes back. The undo of a rollback goes forward in time, to effects that are wanted, so that
            nothing is to be made good; that of a deployment goes back as a rollback does.
    """
    runs = undoes is None or undoes.kind == DEPLOYMENT
    return tuple(
        External(
            name=each.name,
            reversibility=each.reversibility,
            compensate=each.compensate or (),
            timeout=parse_duration(each.timeout),
            runs=runs,
        )
        for each in tables
        if not each.components or not set(each.components).isdisjoint(components)
    )


def compensated_by(operation: Operation) -> list[str]:
    """Return a sentence about what an operation made good outside, which its undo does not take back."""
    done = [step.id.partition(":")[2] for step in operation.plan.steps if step.action is Action.COMPENSATE]
    if not done:
        return []
    return [f"The {operation.kind} {operation.operation_id} compensated for {', '.join(done)}; that is not undone."]


def ungated(plan: Plan, wanted: Reversibility) -> list[str]:
    """Return a sentence about what of a plan goes past the policy's least reversibility."""
    steps = [step.id for step in plan.steps if step.reversibility.rank > wanted.rank]
    names = [each.name for each in plan.external if each.effective.rank > wanted.rank]
    what = ", ".join(dict.fromkeys([*steps, *names]))
    return [f"It goes past [policy] min_reversibility = {wanted}: {what} cannot be taken back that well."] * bool(what)


def command_of(external: External, operation: Operation, target: DeploymentCheckpoint, app: str) -> list[str]:
    """Return a compensation's program and arguments, with its fields filled in; times are UTC."""
    values = {
        "checkpoint.id": target.checkpoint_id,
        "checkpoint.created_at": target.created_at.isoformat(),
        "checkpoint.version": target.version,
        "operation.id": operation.operation_id,
        "operation.kind": operation.kind,
        "operation.reason": operation.reason,
        "app.name": app,
    }
    return [_FIELD.sub(lambda found: values.get(found[1], found[0]), word) for word in external.compensate]


def compensate(
    operation: Operation, step: Step, journal: Sequence[Entry], target: DeploymentCheckpoint, *, app: str, home: str
) -> list[str]:
    """Run one compensation, at most once; return what went wrong with it as sentences. It raises nothing expected.

    Args:
        journal: of the operation, the step's own intent included. One before that belongs to a run that was killed in
            the middle: to refund twice is worse than to have somebody look.
        target: the checkpoint that was gone back to.
        app: the application's name.
        home: the folder that it runs in.
    """
    external = next(each for each in operation.plan.external if f"{Action.COMPENSATE}:{each.name}" == step.id)
    command = command_of(external, operation, target, app)
    what = f"The compensation for {external.name} ({' '.join(command)})"
    if sum(each.step == step.id and each.mark is Mark.INTENT for each in journal) > 1:
        return [f"{what} was interrupted, and is not run twice: look whether it came about, and run it by hand if not."]
    env = {**facts(operation), "RFS_EXTERNAL": external.name}
    try:
        ended = run(command, cwd=home, timeout=external.timeout, env=env)
    except RollbackError as error:
        return [f"{what} failed: {error} Run it by hand."]
    if ended.status == 0:
        return []
    said = ended.output.strip().rpartition("\n")[2]
    return [f"{what} ended with {ended.reason}{': ' + said if said else ''}. Run it by hand."]
