"""Looking after the store: forget, prune, verify, rebuild, and what `rfs doctor` looks at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.catalog import Brief
from rfs.production.rollback.deployments import RECORD
from rfs.production.rollback.driver import Finding, overrides
from rfs.production.rollback.edits import NOTE, needed, parse_track
from rfs.production.rollback.errors import ConflictError, IntegrityError, NotFoundError, RollbackError
from rfs.production.rollback.guarded import Deployment
from rfs.production.rollback.listening import parse_metrics
from rfs.production.rollback.lock import holder
from rfs.production.rollback.model import Capture, CheckpointType, DeploymentCheckpoint, OperationStatus, utc_now
from rfs.production.rollback.noticing import require_watchfiles
from rfs.production.rollback.operation import EDIT, Operation, Trace, undoable
from rfs.production.rollback.retention import Retained, apply
from rfs.production.rollback.scheduled import lock_path, parse_schedules
from rfs.production.rollback.store import Damage, Pruned

UNDO_KEPT = timedelta(days=7)
UNDO_KEPT_AT_LEAST = 5
CHANGES_KEPT = 100_000


class Cleaned(msgspec.Struct, frozen=True):
    """What a prune did, or would do: why each checkpoint stays or goes, and the space gained.

    Attributes:
        unreadable: checkpoints that stay though the manifests of these components cannot be read. What those
            need cannot be known, so that nothing was removed from the store, only from the catalog.
        discarded: a sentence for each thing that drivers kept elsewhere, and that goes with the checkpoints.
        changes: how many of the oldest operations that changed one thing went, which cannot be undone any more.
    """

    retained: Retained
    pruned: Pruned
    unreadable: dict[str, tuple[str, ...]] = {}
    discarded: tuple[str, ...] = ()
    changes: int = 0


class Verified(msgspec.Struct, frozen=True):
    """What a verification found: the damage, and which checkpoints are whole and which are not."""

    damage: Damage
    whole: tuple[str, ...]
    damaged: tuple[str, ...]


def holds(app: Application, briefs: Iterable[Brief]) -> dict[str, str]:
    """Return the checkpoints that must stay whatever retention says, with the reason for each.

    Args:
        briefs: of all checkpoints.
    """
    reasons: dict[str, str] = {}
    recent = utc_now() - UNDO_KEPT
    last = app.catalog.latest(safety=False)
    if last is not None:
        # Retention goes by the clock, which may have jumped back since older ones were taken.
        reasons[last.checkpoint_id] = "the last one taken"
    for brief in briefs:
        if brief.type is CheckpointType.SAFETY and brief.operation_id is None and brief.created_at > recent:
            reasons[brief.checkpoint_id] = "a backup of the last days"
    reasons.update(dict.fromkeys(needed(app.catalog.noted(NOTE)), "tracking goes on from it"))
    good = next((c for c in app.catalog.ordinary() if c.verified_healthy), None)
    if good is not None:
        reasons[good.checkpoint_id] = "the last verified healthy one"
    able = _still_undoable(app.catalog.traces())
    for operation in able:
        reasons.update(dict.fromkeys(operation.lefts, f"what {operation.operation_id} left behind"))
    return {**reasons, **_undoing(able), **_open_needs(app, briefs)}


def _undoing(able: Iterable[Trace]) -> dict[str, str]:
    return {
        each: f"needed to undo {operation.operation_id}"
        for operation in able
        # What was changed since an edit is told by the state after it.
        for each in (operation.safety, operation.state_before, *([operation.plan.target] * (operation.kind == EDIT)))
    }


def _open_needs(app: Application, briefs: Iterable[Brief]) -> dict[str, str]:
    """Return what needs to be there for whatever is not over: an operation, which may come to need what it took, and
    a guarded deployment."""
    needs: dict[str, str] = {}
    deployment = app.deployments.open()
    if deployment is not None:
        why = f"needed by the guarded deployment {deployment.guard_id}"
        states = [deployment.checkpoint_id]
        with suppress(NotFoundError):  # the rollback that it is about was not begun
            states.append(app.catalog.operation(deployment.operation_id or "").state_before)
        needs = dict.fromkeys(filter(None, states), why)
    for waiting in app.catalog.waiting_deferred():
        with suppress(RollbackError):  # what a rule of rfs.toml names may not be there; then nothing is held
            why = f"needed by the {waiting.strategy} rollback {waiting.rollback_id}"
            needs[app.find(waiting.target).checkpoint_id] = why
    operation = app.catalog.open_operation()
    if operation is None:
        return needs
    taken = [brief.checkpoint_id for brief in briefs if brief.operation_id == operation.operation_id]
    why = f"needed by the open operation {operation.operation_id}"
    scripts = operation.downgrade.source if operation.downgrade is not None else ""
    needed = (operation.plan.target, scripts, operation.safety, operation.state_before, *operation.lefts, *taken)
    return {**needs, **dict.fromkeys(filter(None, needed), why)}


def _still_undoable(operations: Iterable[Trace]) -> list[Trace]:
    """Return the operations that can still be undone, of all from the newest on; few of many are kept in memory."""
    recent = utc_now() - UNDO_KEPT
    young: list[Trace] = []

    def passing() -> Iterator[Trace]:
        for operation in operations:
            if operation.created_at > recent:
                young.append(operation)
            yield operation

    able = enumerate(undoable(passing()))
    kept = [o for n, o in able if n < UNDO_KEPT_AT_LEAST or o.created_at > recent]
    ids = {o.operation_id for o in kept}
    # An undo can be undone as well, and a failed attempt's pictures are somebody's only copy.
    ended = (OperationStatus.COMPLETED, OperationStatus.REVERTED)
    return kept + [o for o in young if o.status in ended and o.operation_id not in ids]


def forget(app: Application, selectors: Sequence[str]) -> list[DeploymentCheckpoint]:
    """Remove checkpoints by name. Their space comes back with the next prune.

    Raises:
        ConflictError: one is pinned, or needed.
    """
    with app.unsettled("forget"):
        chosen = [app.find(selector) for selector in selectors]
        needs = {**_undoing(_still_undoable(app.catalog.traces())), **_open_needs(app, app.catalog.briefs())}
        _refuse_needed(chosen, needs)
        app.catalog.forget([checkpoint.checkpoint_id for checkpoint in chosen])
        _discard(app, app.catalog.checkpoint_ids(""), chosen, dry_run=False)
        return chosen


def _keeps_elsewhere(app: Application) -> dict[str, Part]:
    """Return the components whose drivers keep something outside the store."""
    return {name: part for name, part in app.parts.items() if overrides(part.driver, "discard")}


def _discard(
    app: Application, kept: Iterable[str], gone: Iterable[DeploymentCheckpoint], *, dry_run: bool
) -> list[str]:
    """Let each driver remove what it keeps outside the store; what cannot go now goes with a later prune."""
    keeping = _keeps_elsewhere(app)
    if not keeping or app.catalog.open_operation() is not None:
        return []
    captures: dict[str, tuple[list[Capture], list[Capture]]] = {name: ([], []) for name in keeping}
    for which, checkpoints in enumerate((map(app.catalog.checkpoint, kept), gone)):
        for checkpoint in checkpoints:
            for name in keeping.keys() & checkpoint.captures.keys():
                if checkpoint.captures[name].kind == keeping[name].driver.kind:
                    captures[name][which].append(checkpoint.captures[name])
    said: list[str] = []
    for name, part in keeping.items():
        try:
            said += part.driver.discard(part.component, *captures[name], dry_run=dry_run)
        except RollbackError as error:
            said.append(f"What {name} keeps for checkpoints could not be looked through: {error}")
    return said


def _refuse_needed(chosen: Iterable[DeploymentCheckpoint], needed: Mapping[str, str]) -> None:
    for checkpoint in chosen:
        id_ = checkpoint.checkpoint_id
        if checkpoint.pinned:
            hint = f"Run `rfs checkpoint unpin {id_}` first."
            raise ConflictError("checkpoint.pinned", checkpoint=id_, why="it is pinned", hint=hint)
        if id_ in needed:
            hint = "It goes by itself when nothing needs it any longer."
            raise ConflictError("checkpoint.pinned", checkpoint=id_, why=needed[id_], hint=hint)


def prune(app: Application, *, dry_run: bool, forget_damaged: Sequence[str] = ()) -> Cleaned:
    """Apply the retention rules, then remove from the store what nothing needs any longer.

    Args:
        dry_run: only tell.
        forget_damaged: checkpoints that are damaged and given up, also where they are kept to undo something.

    Raises:
        ConflictError: one of those is whole, pinned, or needed by the open operation; nothing was changed.
    """
    # What an open operation needs is held. It is not settled first: that may take the room that is made here.
    # Of a store that may only be looked at nobody can change anything, and no lock can be had.
    looking = nullcontext() if app.catalog.unwritable else app.locked("prune")
    with looking if dry_run else app.unsettled("prune"):
        briefs = list(app.catalog.briefs())
        given_up = _given_up(app, forget_damaged, briefs)
        rest = [brief for brief in briefs if brief.checkpoint_id not in given_up]
        retained = apply(rest, app.settings.retention, utc_now(), holds(app, briefs))
        retained = Retained(retained.keep, (*retained.remove, *given_up), {**retained.reasons, **given_up})
        removed = set(retained.remove)
        kept = {brief.checkpoint_id: brief.revision for brief in briefs if brief.checkpoint_id not in removed}
        keep, unreadable = _needed_blobs(app, map(app.catalog.checkpoint, kept))
        gone = [app.catalog.checkpoint(each) for each in removed] if _keeps_elsewhere(app) else []
        if not dry_run and removed:
            app.catalog.forget(sorted(removed))
        discarded = tuple(_discard(app, kept, gone, dry_run=dry_run))
        changes = app.log.prune(CHANGES_KEPT, utc_now() - UNDO_KEPT, dry_run=dry_run)

        def stays(kind: str, body: bytes) -> bool:
            if kind != "checkpoint":
                return True
            record = msgspec.json.decode(body, type=Brief)
            return kept.get(record.checkpoint_id) == record.revision

        if unreadable:
            # Any blob may be one that they need, should what is damaged come back from a backup.
            return Cleaned(retained, Pruned(), unreadable, discarded, changes)
        pruned = app.store.prune(keep, stays, dry_run=dry_run)
        return Cleaned(retained, pruned, discarded=discarded, changes=changes)


def _given_up(app: Application, selectors: Sequence[str], briefs: Iterable[Brief]) -> dict[str, tuple[str, ...]]:
    chosen = [app.find(selector) for selector in selectors]
    _refuse_needed(chosen, _open_needs(app, briefs))
    for checkpoint in chosen:
        if not app.engine.missing(checkpoint.captures.values()):
            raise ConflictError("checkpoint.whole", checkpoint=checkpoint.checkpoint_id)
    return {checkpoint.checkpoint_id: ("damaged, and given up",) for checkpoint in chosen}


def _needed_blobs(
    app: Application, kept: Iterable[DeploymentCheckpoint]
) -> tuple[set[bytes], dict[str, tuple[str, ...]]]:
    """Return what the checkpoints need, and the components of each whose manifests cannot be read."""
    keep: set[bytes] = set()
    lost: set[bytes] = set()
    unreadable: dict[str, tuple[str, ...]] = {}
    for checkpoint in kept:
        for part in set(_parts([checkpoint])) - keep:
            keep.add(part)
            try:
                keep |= app.store.reachable([part])
            except IntegrityError:
                lost.add(part)
        held = {name: capture.parts for name, capture in checkpoint.captures.items()}
        held |= {f"migrations of {name}": recorded.parts for name, recorded in checkpoint.migrations.items()}
        names = [name for name, parts in held.items() if not lost.isdisjoint(parts)]
        if names:
            unreadable[checkpoint.checkpoint_id] = tuple(names)
    return keep, unreadable


def _parts(checkpoints: Iterable[DeploymentCheckpoint]) -> list[bytes]:
    return [part for c in checkpoints for part in c.parts]


def verify(app: Application, selector: str | None = None) -> Verified:
    """Read stored data back: of one checkpoint, or all of it, and tell which checkpoints are whole."""
    chosen = [app.find(selector)] if selector is not None else app.catalog.checkpoints()
    only = _reachable(app, chosen) if selector is not None else None
    with app.beat.call(), app.beat.doing("verifying"):
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

    Of a damaged ledger, which the packs do not have, what can be read is saved.
    Checkpoints that were forgotten but not yet pruned come back with it.
    """
    from rfs.production.rollback.ledger_rescue import rescue  # seldom needed

    with app.exclusively("rebuild"):
        app.log.close()
        rescued = rescue(app.store)
        if rescued is not None:
            app.notices.append(
                f"The ledger was damaged: {rescued.records:,} records of it were saved, and the rest of what programs "
                f"tracked, and of versions of configurations, is lost. The damaged file is kept in {rescued.kept}."
            )
        app.store.rebuild()
        newest: dict[str, DeploymentCheckpoint] = {}
        for body in app.store.records("checkpoint"):
            record = msgspec.json.decode(body, type=DeploymentCheckpoint)
            known = newest.get(record.checkpoint_id)
            if known is None or known.revision < record.revision:
                newest[record.checkpoint_id] = record
        whole = [c for c in newest.values() if not app.engine.missing(c.captures.values())]
        operations = [msgspec.json.decode(body, type=Operation) for body in app.store.records("operation")]
        deployments = [msgspec.json.decode(body, type=Deployment) for body in app.store.records(RECORD)]
        app.catalog.refill(whole, operations, deployments)
        return len(whole) + len(operations) + len({each.guard_id for each in deployments})


def examine(app: Application) -> list[Finding]:
    """Return what would go wrong: what each driver finds, the health checks, the clock, and the space."""
    findings: list[Finding] = []
    for part in app.parts.values():
        findings += part.driver.examine(part.component)
    if any(part.migrator is not None for part in app.parts.values()):
        from rfs.production.rollback import downgrading

        findings += downgrading.findings(app.parts)
    unwritable = app.catalog.unwritable
    if unwritable is not None:
        findings.append(Finding("error", str(unwritable), unwritable.hint))
    try:
        app.store.check_key()
    except RollbackError as error:
        findings.append(Finding("error", str(error), error.hint))
    with app.beat.call():
        report = app.check_health(app.beat, once=True)
    for check in report.failures:
        level = "error" if check.required else "warning"
        findings.append(
            Finding(level, f"The health check {check.name} fails: {check.detail}.", "Start it, or correct [[health]].")
        )
    findings += _clock(app)
    findings += _space(app)
    findings += _schedules(app)
    findings += _tracked(app)
    if app.settings.conditions:
        from rfs.production.rollback.ruling import examine as examine_conditions

        findings += examine_conditions(app)
    return findings


def _schedules(app: Application) -> list[Finding]:
    try:
        scheduled = parse_schedules(app.settings, list(app.parts))
        parse_metrics(app.settings)
    except RollbackError as error:
        return [Finding("error", str(error), error.hint)]
    if holder(lock_path(app.settings)):
        return []
    found = []
    if scheduled:
        text = "Nobody does what [[schedules]] says: `rfs watch` does not run."
        found.append(Finding("warning", text, "Run `rfs watch`."))
    if app.settings.notify:
        text = "What [[notify]] cannot be told at once is not tried again: `rfs watch` does not run."
        found.append(Finding("warning", text, "Run `rfs watch`."))
    return found


def _tracked(app: Application) -> list[Finding]:
    try:
        if parse_track(app.settings, {name: part.component.kind for name, part in app.parts.items()}) is None:
            return []
        require_watchfiles()
    except RollbackError as error:
        return [Finding("error", str(error), error.hint)]
    if holder(lock_path(app.settings)):
        return []
    return [Finding("warning", "Nobody records edits, as [track] says: `rfs watch` does not run.", "Run `rfs watch`.")]


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
