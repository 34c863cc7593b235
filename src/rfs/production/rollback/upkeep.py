"""Looking after the store: forget, prune, verify, rebuild, and what `rfs doctor` looks at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.driver import Finding
from rfs.production.rollback.errors import ConflictError, IntegrityError, RollbackError
from rfs.production.rollback.model import CheckpointType, DeploymentCheckpoint, OperationStatus, utc_now
from rfs.production.rollback.operation import Operation, undoable
from rfs.production.rollback.retention import Retained, apply
from rfs.production.rollback.store import Damage, Pruned

UNDO_KEPT = timedelta(days=7)
UNDO_KEPT_AT_LEAST = 5


class Cleaned(msgspec.Struct, frozen=True):
    """What a prune did, or would do: why each checkpoint stays or goes, and the space gained."""

    retained: Retained
    pruned: Pruned


class Verified(msgspec.Struct, frozen=True):
    """What a verification found: the damage, and which checkpoints are whole and which are not."""

    damage: Damage
    whole: tuple[str, ...]
    damaged: tuple[str, ...]


def holds(app: Application) -> dict[str, str]:
    """Return the checkpoints that must stay whatever retention says, with the reason for each."""
    checkpoints = app.catalog.checkpoints()
    operations = app.catalog.operations()
    reasons: dict[str, str] = {}
    recent = utc_now() - UNDO_KEPT
    last = next((c for c in checkpoints if c.type is not CheckpointType.SAFETY), None)
    if last is not None:
        # Retention goes by the clock, which may have jumped back since older ones were taken.
        reasons[last.checkpoint_id] = "the last one taken"
    for checkpoint in checkpoints:
        if (
            checkpoint.type is CheckpointType.SAFETY
            and checkpoint.operation_id is None
            and checkpoint.created_at > recent
        ):
            reasons[checkpoint.checkpoint_id] = "a backup of the last days"
    good = next((c for c in checkpoints if c.type is not CheckpointType.SAFETY and c.verified_healthy), None)
    if good is not None:
        reasons[good.checkpoint_id] = "the last verified healthy one"
    for operation in _still_undoable(operations):
        for each in {operation.safety, operation.state_before}:
            reasons[each] = f"needed to undo {operation.operation_id}"
        for each in operation.lefts:
            reasons[each] = f"what {operation.operation_id} left behind"
    for operation in operations:
        if operation.status in (OperationStatus.RUNNING, OperationStatus.HELD):
            for needed in (operation.plan.target, operation.safety, operation.before, *operation.lefts):
                if needed is not None:
                    reasons[needed] = f"needed by the open operation {operation.operation_id}"
    return reasons


def _still_undoable(operations: Sequence[Operation]) -> list[Operation]:
    able = undoable(operations)
    recent = utc_now() - UNDO_KEPT
    kept = [o for n, o in enumerate(able) if n < UNDO_KEPT_AT_LEAST or o.created_at > recent]
    ids = {o.operation_id for o in kept}
    # An undo can be undone as well, and a failed attempt's pictures are somebody's only copy.
    others = [
        o
        for o in operations
        if o.created_at > recent
        and o.status in (OperationStatus.COMPLETED, OperationStatus.REVERTED)
        and o.operation_id not in ids
    ]
    return kept + others


def forget(app: Application, selectors: Sequence[str]) -> list[DeploymentCheckpoint]:
    """Remove checkpoints by name. Their space comes back with the next prune.

    Raises:
        ConflictError: one is pinned, or needed.
    """
    with app.exclusively("forget"):
        chosen = [app.find(selector) for selector in selectors]
        reasons = holds(app)
        for checkpoint in chosen:
            if checkpoint.pinned:
                hint = f"Run `rfs checkpoint unpin {checkpoint.checkpoint_id}` first."
                raise ConflictError(
                    "checkpoint.pinned", checkpoint=checkpoint.checkpoint_id, why="it is pinned", hint=hint
                )
            why = reasons.get(checkpoint.checkpoint_id, "")
            if "operation" in why or "undo" in why:
                hint = "It goes by itself when nothing needs it any longer."
                raise ConflictError("checkpoint.pinned", checkpoint=checkpoint.checkpoint_id, why=why, hint=hint)
        app.catalog.forget([checkpoint.checkpoint_id for checkpoint in chosen])
        return chosen


def prune(app: Application, *, dry_run: bool) -> Cleaned:
    """Apply the retention rules, then remove from the store what nothing needs any longer."""
    # What an open operation needs is held. It is not settled first: that may take the room that is made here.
    with app.locked("prune") if dry_run else app.unsettled("prune"):
        checkpoints = app.catalog.checkpoints()
        retained = apply(checkpoints, app.settings.retention, utc_now(), holds(app))
        removed = set(retained.remove)
        kept = [c for c in checkpoints if c.checkpoint_id not in removed]
        # A checkpoint that cannot be read whole must not make prune throw away what is left of it.
        parts = _parts(kept)
        keep = app.store.reachable(parts)
        if not dry_run and removed:
            app.catalog.forget(sorted(removed))
        ids = {c.checkpoint_id: c.revision for c in kept}

        def stays(kind: str, body: bytes) -> bool:
            if kind != "checkpoint":
                return True
            record = msgspec.json.decode(body, type=DeploymentCheckpoint)
            return ids.get(record.checkpoint_id) == record.revision

        return Cleaned(retained, app.store.prune(keep, stays, dry_run=dry_run))


def _parts(checkpoints: Iterable[DeploymentCheckpoint]) -> list[bytes]:
    return [part for c in checkpoints for capture in c.captures.values() for part in capture.parts]


def verify(app: Application, selector: str | None = None) -> Verified:
    """Read stored data back: of one checkpoint, or all of it, and tell which checkpoints are whole."""
    chosen = [app.find(selector)] if selector is not None else app.catalog.checkpoints()
    only = _reachable(app, chosen) if selector is not None else None
    with app.beat.doing("verifying"):
        damage = app.store.verify(app.beat.tick, only)
    # The store remembers what failed, so that what is damaged counts as missing now.
    damaged = [c.checkpoint_id for c in chosen if app.engine.missing(c.captures.values())]
    whole = [c.checkpoint_id for c in chosen if c.checkpoint_id not in damaged]
    return Verified(damage, tuple(whole), tuple(damaged))


def _reachable(app: Application, checkpoints: Iterable[DeploymentCheckpoint]) -> set[bytes]:
    """Return what the checkpoints need, as far as their manifests can be read."""
    found: set[bytes] = set()
    for part in _parts(checkpoints):
        found.add(part)
        with suppress(IntegrityError):
            found |= app.store.reachable([part])
    return found


def rebuild(app: Application) -> int:
    """Make index and catalog again from the packs and the key. Returns how many records were found.

    Checkpoints that were forgotten but not yet pruned come back with it.
    """
    with app.exclusively("rebuild"):
        app.store.rebuild()
        newest: dict[str, DeploymentCheckpoint] = {}
        for body in app.store.records("checkpoint"):
            record = msgspec.json.decode(body, type=DeploymentCheckpoint)
            known = newest.get(record.checkpoint_id)
            if known is None or known.revision < record.revision:
                newest[record.checkpoint_id] = record
        whole = [c for c in newest.values() if not app.engine.missing(c.captures.values())]
        operations = [msgspec.json.decode(body, type=Operation) for body in app.store.records("operation")]
        app.catalog.refill(whole, operations)
        return len(whole) + len(operations)


def examine(app: Application) -> list[Finding]:
    """Return what would go wrong: what each driver finds, the health checks, the clock, and the space."""
    findings: list[Finding] = []
    for part in app.parts.values():
        findings += part.driver.examine(part.component)
    unwritable = app.catalog.unwritable
    if unwritable is not None:
        findings.append(Finding("error", str(unwritable), unwritable.hint))
    try:
        app.store.check_key()
    except RollbackError as error:
        findings.append(Finding("error", str(error), error.hint))
    report = app.check_health(app.beat, once=True)
    for check in report.failures:
        level = "error" if check.required else "warning"
        findings.append(
            Finding(level, f"The health check {check.name} fails: {check.detail}.", "Start it, or correct [[health]].")
        )
    findings += _clock(app)
    findings += _space(app)
    return findings


def _clock(app: Application) -> list[Finding]:
    latest = app.catalog.latest(safety=True)
    if latest is not None and latest.created_at > utc_now() + timedelta(minutes=1):
        text = f"The clock is behind the last checkpoint ({latest.created_at:%Y-%m-%d %H:%M} UTC)."
        return [Finding("warning", text, "Set the clock; times of checkpoints will be out of order.")]
    return []


def _space(app: Application) -> list[Finding]:
    findings = []
    if app.catalog.unwritable is None and not app.store.reserve.there():
        text = "The store has no space set aside for an operation during which the disk fills up."
        hint = "Free 40 MB beside the store; the next command that changes something sets it aside again."
        findings.append(Finding("warning", text, hint))
    state = os.statvfs(app.settings.store.path)
    free = state.f_bavail * state.f_frsize
    latest = app.catalog.latest(safety=True)
    size = sum(capture.size for capture in latest.captures.values()) if latest is not None else 0
    if free < size:
        text = f"{free / 1e6:.0f} MB are free beside the store; the application has {size / 1e6:.0f} MB."
        findings.append(Finding("warning", text, "A rollback that changes much may run out of space: free some."))
    return findings
