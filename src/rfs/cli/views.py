"""Records as the command line shows them: JSON-like for programs, text for people.

The JSON is part of the interface: keys are only ever added. Nothing secret is in it, as
drivers mask what they hand out; a caller's own `state` and fields that only the engine
needs are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.cli.style import style
from rfs.cli.text import change_lines, counted, nice_seconds, nice_size, nice_time, printable, table
from rfs.production.rollback.guarded import Deployment
from rfs.production.rollback.model import (
    Change,
    ChangeKind,
    DeploymentCheckpoint,
    HealthReport,
    Migrations,
    OperationStatus,
)
from rfs.production.rollback.operation import Entry, Mark, Operation
from rfs.production.rollback.plan import Action, Plan

if TYPE_CHECKING:
    from rfs.production.rollback.approvals import ApprovalRequest, Stands
    from rfs.production.rollback.deferred import Deferred

STATUS_COLORS = {
    OperationStatus.COMPLETED: "green",
    OperationStatus.REVERTED: "yellow",
    OperationStatus.HELD: "red",
    OperationStatus.RUNNING: "cyan",
}


def as_json(value: Any) -> Any:
    """Return a record as JSON-like values."""
    return msgspec.to_builtins(value)


# — checkpoints —


def checkpoint_json(checkpoint: DeploymentCheckpoint) -> dict[str, Any]:
    """Return what programs may know of a checkpoint."""
    return {
        "id": checkpoint.checkpoint_id,
        "created_at": checkpoint.created_at.isoformat(),
        "type": str(checkpoint.type),
        "deployment_id": checkpoint.deployment_id,
        "version": checkpoint.version,
        "message": checkpoint.message,
        "tags": list(checkpoint.tags),
        "pinned": checkpoint.pinned,
        "healthy": checkpoint.health.healthy if checkpoint.health is not None else None,
        "health": as_json(checkpoint.health),
        "operation_id": checkpoint.operation_id,
        "seconds": checkpoint.seconds,
        "components": {
            name: {
                "kind": capture.kind,
                "entries": capture.entries,
                "size": capture.size,
                "stored": capture.stored,
                "fingerprint": capture.fingerprint.digest,
                "warnings": list(capture.warnings),
            }
            for name, capture in checkpoint.captures.items()
        },
    }


def checkpoint_table(checkpoints: Sequence[DeploymentCheckpoint]) -> str:
    """Return one line for each checkpoint."""
    rows = []
    for each in checkpoints:
        words = [f"[{tag}]" for tag in each.tags] + ["pinned"] * each.pinned + [each.version, each.message]
        rows.append(
            (
                style(each.checkpoint_id, fg="cyan"),
                nice_time(each.created_at),
                str(each.type),
                nice_size(sum(capture.size for capture in each.captures.values())),
                health_word(each.health),
                printable(" ".join(word for word in words if word)),
            )
        )
    return table(rows, ("ID", "TAKEN", "TYPE", "SIZE", "HEALTH", ""))


def checkpoint_text(checkpoint: DeploymentCheckpoint) -> str:
    """Return everything about one checkpoint."""
    facts = [
        ("checkpoint", style(checkpoint.checkpoint_id, fg="cyan")),
        ("taken", f"{nice_time(checkpoint.created_at)} in {nice_seconds(checkpoint.seconds)}"),
        ("type", str(checkpoint.type)),
        ("message", printable(checkpoint.message)),
        ("tags", printable(", ".join(checkpoint.tags))),
        ("version", printable(checkpoint.version)),
        ("deployment", printable(checkpoint.deployment_id)),
        ("pinned", "yes" if checkpoint.pinned else ""),
        ("operation", checkpoint.operation_id or ""),
        ("health", health_word(checkpoint.health)),
        *((f"migrations of {name}", printable(_at(each))) for name, each in checkpoint.migrations.items()),
    ]
    lines = [table([(name, value) for name, value in facts if value]), ""]
    rows = [
        (
            name,
            capture.kind,
            counted(capture.entries, "entry", "entries"),
            nice_size(capture.size),
            f"{nice_size(capture.stored)} new",
        )
        for name, capture in checkpoint.captures.items()
    ]
    lines.append(table(rows, ("COMPONENT", "KIND", "ENTRIES", "SIZE", "STORED")))
    return "\n".join(lines)


def _at(recorded: Migrations) -> str:
    return "unknown" if recorded.why else ", ".join(recorded.heads) or "none in force"


def migration_notes(checkpoint: DeploymentCheckpoint) -> tuple[str, ...]:
    """Return why the migrations of a database could not be recorded, for each of which they could not."""
    return tuple(
        f"The migrations of {name} were not recorded: {recorded.why}"
        for name, recorded in checkpoint.migrations.items()
        if recorded.why
    )


def capture_warnings(checkpoint: DeploymentCheckpoint) -> list[str]:
    """Return what could not be captured exactly, and what was not well when it was captured."""
    warnings = [f"{name}: {text}" for name, capture in checkpoint.captures.items() for text in capture.warnings]
    return warnings + health_warnings(checkpoint.health)


# — guarded deployments —


def deployment_json(found: Deployment) -> dict[str, Any]:
    """Return what programs may know of a guarded deployment."""
    built = as_json(found)
    return {
        key: value
        for key, value in built.items()
        if key not in ("revision", "format", "group", "boot_id", "components")
    }


# — scheduled and armed rollbacks —


def deferred_json(found: Deferred) -> dict[str, Any]:
    """Return what programs may know of a scheduled or an armed rollback: what they may of an operation, and more."""
    data: dict[str, Any] = as_json(found.record())
    return {**data, "condition": found.condition, "rule": found.rule, "selection": as_json(found.selection)}


def deferred_line(found: Deferred) -> str:
    """Return one that waits in a line."""
    when = nice_time(found.at) if found.at is not None else f"when {printable(found.condition)} trips"
    asked = f" ([[schedules]] {printable(found.rule)})" if found.rule else f", asked for by {found.actor}"
    why = f"; it waits: {printable(found.why)}" if found.why else ""
    word = str(found.status).capitalize()
    return f"{word}: rollback {style(found.rollback_id, fg='cyan')} to {printable(found.target)}, {when}{asked}{why}"


# — health —


def health_word(health: HealthReport | None) -> str:
    """Return the health at the time, for a column of that name."""
    if health is None or not health.checks:
        return "not checked"
    return style("healthy", fg="green") if health.healthy else style("unhealthy", fg="red")


def health_phrase(health: HealthReport | None) -> str:
    """Return the health at the time as it stands in a sentence."""
    return health_word(health) if health is not None and health.checks else "health not checked"


def health_warnings(health: HealthReport | None) -> list[str]:
    """Return one sentence for each check that failed."""
    failures = health.failures if health is not None else ()
    return [f"The health check {check.name} failed: {check.detail}." for check in failures]


# — plans —


def plan_json(plan: Plan, *, everything: bool) -> dict[str, Any]:
    """Return a plan for programs: counts, and with `everything` each change."""
    data = as_json(plan)
    data["hash"] = plan.hash
    data["nothing_to_do"] = plan.nothing_to_do
    data["counts"] = {name: _counts(changes) for name, changes in plan.changes.items()}
    if not everything:
        del data["changes"]
    return dict(data)


def _counts(changes: Sequence[Change]) -> dict[str, int]:
    counts = {str(kind): 0 for kind in ChangeKind}
    for change in changes:
        counts[change.kind] += 1
    return counts


PLURALS = re.compile(r"\b(row|value|file|folder|key|unit|table)s\b")

# What a rollback does about a change that happened since the checkpoint.
BACKWARDS = {ChangeKind.ADDED: "to remove", ChangeKind.CHANGED: "to change back", ChangeKind.REMOVED: "to bring back"}


def plan_text(plan: Plan, *, checked: bool, everything: bool) -> str:
    """Return what a rollback would do, lose, need and cost.

    Args:
        checked: whether there are health checks at all.
    """
    head = f"Rollback to {style(plan.target, fg='cyan')}, taken {nice_time(plan.target_created_at)}"
    lines = [style(head, bold=True)]
    for name in plan.components:
        changes = plan.changes.get(name, ())
        counts = _counts(changes)
        words = [f"{counts[kind]:,} {what}" for kind, what in BACKWARDS.items() if counts[kind]]
        lines.append(f"\n{style(name, bold=True)}: {', '.join(words) or 'nothing differs'}")
        lines += _backward_lines(changes, everything=everything)
    lines.append("")
    if plan.losses:
        lines.append(style("Written since the checkpoint, and lost (kept in the safety checkpoint):", fg="red"))
        for loss in plan.losses:
            what = PLURALS.sub(r"\1", loss.what, count=1) if loss.count == 1 else loss.what
            number = f"{loss.count:,}" if loss.count is not None else "some"
            examples = f" ({printable(', '.join(loss.examples))})" if loss.examples else ""
            lines.append(f"  {loss.component}: {number} {what}{examples}")
    else:
        lines.append("Nothing written since the checkpoint would be lost.")
    stopped = [step.component or "" for step in plan.steps if step.action is Action.STOP]
    lines.append(f"Services stopped meanwhile: {', '.join(stopped) or 'none'}.")
    estimate = f"about {nice_seconds(plan.estimate.seconds)}, {nice_seconds(plan.estimate.outage)} of it outage"
    gate = ""
    if checked:
        gate = "; a failing health check " + ("turns it back" if plan.health_gates else "only warns")
    lines.append(f"It is {plan.reversibility}; {estimate}{gate}.")
    lines += external_lines(plan)
    if plan.approvals:
        lines.append(f"It needs {counted(plan.approvals, 'approval')}, of: {printable(', '.join(plan.approvers))}.")
    return "\n".join(lines)


def external_lines(plan: Plan) -> list[str]:
    """Return a line for each thing that a plan leaves behind outside of the application."""
    lines = []
    for each in plan.external:
        then = "nothing makes it good" if not each.compensate else printable(" ".join(each.compensate))
        if each.compensate:
            then = f"then {then}" if each.runs else "its compensation is not run, as this goes forward in time"
        lines.append(f"  {printable(each.name)}: {each.reversibility}; {then}")
    return ["Outside of the application, and not taken back:", *lines] if lines else []


def _backward_lines(changes: Sequence[Change], *, everything: bool) -> list[str]:
    """The changes as the rollback makes them: what was added since is removed, and so on."""
    opposite = {ChangeKind.ADDED: ChangeKind.REMOVED, ChangeKind.REMOVED: ChangeKind.ADDED}
    turned = [
        Change(each.component, opposite.get(each.kind, each.kind), each.key, each.after, each.before)
        for each in changes
    ]
    return change_lines(turned, everything=everything)


def changes_text(changes: Sequence[Change], *, everything: bool) -> str:
    """Return changes by component."""
    lines = []
    for name in dict.fromkeys(change.component for change in changes):
        own = [change for change in changes if change.component == name]
        lines.append(f"{style(name, bold=True)}: {counted(len(own), 'change')}")
        lines += change_lines(own, everything=everything)
    return "\n".join(lines) or "Nothing differs."


# — approvals —


def request_json(request: ApprovalRequest, stand: Stands) -> dict[str, Any]:
    """Return what programs may know of a request for approval."""
    built = as_json(request)
    return {**{key: value for key, value in built.items() if key not in ("plan", "format")}, "stands": str(stand)}


def request_line(request: ApprovalRequest, stand: Stands) -> str:
    """Return a request for approval as a line."""
    by = ", ".join(vote.by for vote in request.votes if vote.approves) or "nobody yet"
    what = f"{request.kind} to {printable(request.target)}, asked for by {printable(request.asked_by)}"
    why = f" ({printable(request.reason)})" if request.reason else ""
    name = style(request.request_id, fg="cyan")
    return f"Request {name}: {what}{why}; {stand}, approved by {printable(by)}, until {nice_time(request.expires_at)}"


# — operations —


def operation_json(operation: Operation) -> dict[str, Any]:
    """Return what programs may know of an operation."""
    data: dict[str, Any] = as_json(operation.record())
    data["late_count"] = operation.late_count
    data["safety"] = operation.safety
    data["selection"] = as_json(operation.plan.selection)
    data["downgrade"] = as_json(operation.downgrade)
    data["made"] = as_json(operation.made)
    return data


def status_word(status: OperationStatus, *, alive: bool = True) -> str:
    """Return the status, coloured; a held operation says what the word means.

    Args:
        alive: whether somebody is at work on the application now.
    """
    if status is OperationStatus.RUNNING and not alive:
        return style("INTERRUPTED (rfs recover)", fg="red")
    word = "HELD (needs attention)" if status is OperationStatus.HELD else str(status)
    return style(word, fg=STATUS_COLORS.get(status))


def operation_text(operation: Operation, *, everything: bool, alive: bool) -> str:
    """Return everything about one operation but its steps. `alive`: see `status_word`."""
    facts = [
        (operation.kind, style(operation.operation_id, fg="cyan")),
        ("status", status_word(operation.status, alive=alive)),
        *_where_to(operation),
        ("state before", operation.state_before),
        ("kept on the way", ", ".join(operation.lefts)),
        ("undoes", operation.undoes or ""),
        ("reason", printable(operation.reason)),
        ("by", operation.actor + (f", inside {operation.inside}" if operation.inside else "")),
        ("approved", f"request {operation.request}" if operation.request else ""),
        ("policy", style("BREAK-GLASS", fg="red", bold=True) if operation.break_glass else ""),
        *((word, nice_time(at)) for word, at in zip(("made after", "made before"), operation.made or (), strict=False)),
        ("began", nice_time(operation.created_at)),
        ("ended", nice_time(operation.finished_at) if operation.finished_at else ""),
        ("outage", nice_seconds(operation.outage) if operation.outage is not None else ""),
        ("components", ", ".join(operation.plan.components)),
        *((f"only of {name}", printable(", ".join(keys))) for name, keys in operation.plan.selection.items()),
        ("health", health_word(operation.health) if operation.health is not None and operation.health.checks else ""),
        ("error", printable(operation.error or "")),
    ]
    lines = [table([(name, value) for name, value in facts if value])]
    if operation.late_count:
        lines.append(
            f"\nWritten late, between the safety checkpoint and the stop: {counted(operation.late_count, 'change')}"
        )
        lines += change_lines(operation.late, everything=everything)
    return "\n".join(lines)


def _where_to(operation: Operation) -> list[tuple[str, str]]:
    way = operation.downgrade
    if way is None:
        return [("to checkpoint", operation.plan.target)]
    return [
        ("down to", printable(" ".join(way.targets))),
        ("taken back", printable(", ".join(way.versions))),
        ("scripts of", way.source or "the application"),
    ]


def journal_table(journal: Sequence[Entry]) -> str:
    """Return one line for each step that was tried: when it began, how it ended, and how long it took."""
    rows: list[tuple[str, str, str, str, str]] = []
    begun: dict[str, datetime] = {}
    for mark in journal:
        if mark.mark is Mark.INTENT:
            begun[mark.step] = mark.at
            continue
        at = begun.pop(mark.step, None)
        took = f"{(mark.at - at).total_seconds():.3f} s" if at else ""
        rows.append((nice_time(at or mark.at), mark.step or "—", str(mark.mark), took, printable(mark.note)))
    rows += [(nice_time(at), step, "not ended", "", "") for step, at in begun.items()]
    return table(rows, ("BEGAN", "STEP", "ENDED", "TOOK", ""))


def done_text(operation: Operation) -> str:
    """Return what an operation that just ended did, in a sentence or two."""
    outage = f", {nice_seconds(operation.outage)} outage" if operation.outage is not None else ""
    name = style(operation.operation_id, fg="cyan")
    what = f"{operation.kind.capitalize()} {name} {status_word(operation.status)}{outage}"
    if operation.status is OperationStatus.REVERTED:
        return f"{what}. The application is as it was before, at {operation.state_before}."
    if operation.downgrade is not None:
        way = operation.downgrade
        count = counted(len(way.versions), "migration")
        where = f"{count} of {way.component} taken back, to {' '.join(way.targets)}"
        return f"{what}. {where}; the state before is kept: `rfs undo`."
    chosen = [key for keys in operation.plan.selection.values() for key in keys]
    whose = printable(", ".join(chosen)) + (" are" if len(chosen) > 1 else " is") if chosen else "The application is"
    return f"{what}. {whose} as at {operation.plan.target}; the state before is kept: `rfs undo`."


def fresh_warnings(operation: Operation) -> list[str]:
    """Return the warnings that the plan had not given already."""
    late = operation.late_count
    written = [f"{counted(late, 'change')} written late; `rfs show {operation.operation_id}` lists them."] * bool(late)
    return [warning for warning in operation.warnings if warning not in operation.plan.warnings] + written
