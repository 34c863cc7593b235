"""Migrations of the application's databases: how they stand, the way down, and what a plan has to say about them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from rfs.production.rollback import selectors
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.driver import BlobSource, Finding
from rfs.production.rollback.errors import IrreversibleError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.migrations.migrator import ToolMigrator, files_of, objects_of, outermost, stands_at
from rfs.production.rollback.model import DeploymentCheckpoint, Downgrade, Migrations

_SHOWN = 8


class MigrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the migrations of one database stand.

    Attributes:
        applied: in force, oldest first.
        pending: with a script, but not in force.
        missing: in force, but without a script or its way down in the application as it is; with the newest
            checkpoint that has it, or "".
        checkpoint: the last checkpoint, when it recorded them; else "".
        since: in force now, and not at that checkpoint.
        gone: in force at that checkpoint, and not now.
        why: a sentence, when they cannot be read; then there is nothing else.
    """

    component: str
    tool: str
    heads: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    missing: dict[str, str] = {}
    checkpoint: str = ""
    since: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    why: str = ""


def statuses(catalog: Catalog, parts: Mapping[str, Part]) -> list[MigrationStatus]:
    """Return how the migrations of every database stand whose table in rfs.toml names some.

    Raises:
        NotFoundError: there is none.
    """
    found = [(name, part, part.migrator) for name, part in parts.items() if isinstance(part.migrator, ToolMigrator)]
    if not found:
        raise NotFoundError("migrate.none")
    return [_status(catalog, name, part, migrator) for name, part, migrator in found]


def _status(catalog: Catalog, name: str, part: Part, migrator: ToolMigrator) -> MigrationStatus:
    try:
        looked = migrator.look(part.component)
    except RollbackError as error:
        return MigrationStatus(component=name, tool=migrator.options.tool or "", why=str(error))
    state = looked.state
    latest = catalog.latest(safety=False)
    then = latest.migrations.get(name) if latest is not None else None
    known = latest is not None and then is not None and not then.why
    before = (*then.applied, *then.missing) if known and then is not None else ()
    now = list(dict.fromkeys((*state.applied, *state.missing)))
    return MigrationStatus(
        component=name,
        tool=looked.tool,
        heads=state.heads,
        applied=tuple(now),
        pending=state.pending,
        missing={version: _holder(catalog, name, version) for version in state.missing},
        checkpoint=latest.checkpoint_id if known and latest is not None else "",
        since=tuple(version for version in now if known and version not in before),
        gone=tuple(version for version in before if version not in now),
    )


def _holder(catalog: Catalog, name: str, version: str) -> str:
    """Return the newest checkpoint whose scripts have a version, or ""."""
    for checkpoint, recorded in _recorded(catalog, name):
        if version in recorded.applied and version not in recorded.missing:
            return checkpoint.checkpoint_id
    return ""


def _recorded(catalog: Catalog, name: str) -> Iterator[tuple[DeploymentCheckpoint, Migrations]]:
    """Yield the checkpoints that recorded the migrations of a component, newest first, equal scripts once."""
    seen: set[tuple[bytes, ...]] = set()
    for checkpoint in sorted(catalog.checkpoints(), key=lambda each: each.created_at, reverse=True):
        recorded = checkpoint.migrations.get(name)
        if recorded is not None and recorded.parts and recorded.parts not in seen:
            seen.add(recorded.parts)
            yield checkpoint, recorded


def findings(parts: Mapping[str, Part]) -> Iterator[Finding]:
    """Yield what would keep migrations from being recorded or taken back."""
    for name, part in parts.items():
        if isinstance(part.migrator, ToolMigrator):
            try:
                missing = part.migrator.look(part.component).state.missing
            except RollbackError as error:
                yield Finding("warning", str(error), error.hint)
                continue
            if missing:
                text = f"The application has no way down from migrations of {name}: {_list(missing)}."
                yield Finding(
                    "warning", text, "Bring their scripts back; `rfs migrate status` tells which checkpoint has them."
                )


def chosen(parts: Mapping[str, Part], name: str | None) -> tuple[Part, ToolMigrator]:
    """Return the component that is meant: the only one with migrations when none is named.

    Raises:
        NotFoundError: there is none.
        UsageError: there are several.
    """
    able = {each: part for each, part in parts.items() if isinstance(part.migrator, ToolMigrator)}
    if not able or (name is not None and name not in able):
        raise (
            NotFoundError("migrate.none")
            if not able
            else NotFoundError("components.unknown", name=name, known=", ".join(able))
        )
    if name is None and len(able) > 1:
        raise UsageError("migrate.several", components=", ".join(able))
    part = able[name or next(iter(able))]
    if not isinstance(part.migrator, ToolMigrator):
        raise TypeError(part)
    return part, part.migrator


def plan_down(
    catalog: Catalog, parts: Mapping[str, Part], blobs: BlobSource, target: str, component: str | None
) -> Downgrade:
    """Return the way down to a target; nothing is changed.

    The scripts are those of the application as it is; where these lack something, the newest of a checkpoint that
    has it all.

    Args:
        target: a version as the tool takes it, or `@…`: what was in force at that checkpoint.
        component: which database; None when there is but one.

    Raises:
        NotFoundError: there is no such version, checkpoint or component.
        IrreversibleError: something on the way has no script. With the key "migrate.covered" the field `checkpoint`
            names one that is what the way would lead to, and `versions_back` what it takes away.
        RollbackError: there is nothing to take back, or it cannot be read.
    """
    part, migrator = chosen(parts, component)
    c = part.component
    at = _at(catalog, c.name, target) if target.startswith("@") else None
    try:
        return migrator.plan(c, None, "", target, at)
    except (IrreversibleError, NotFoundError, RollbackError) as error:
        if error.key not in ("migrate.no_script", "migration.unknown", "migrate.unreadable", "migrate.unusable"):
            raise
        refused = [error]
    for checkpoint, recorded in _recorded(catalog, c.name):
        try:
            return migrator.plan(c, files_of(blobs, recorded), checkpoint.checkpoint_id, target, at)
        except RollbackError as error:
            if error.key not in ("migrate.no_script", "migration.unknown"):
                raise
            refused.append(error)
    if refused[0].key == "migrate.no_script":
        raise _no_way(catalog, (part, migrator), target, at, refused)
    raise refused[0]


def sql_of(catalog: Catalog, parts: Mapping[str, Part], blobs: BlobSource, way: Downgrade) -> str:
    """Return the SQL that a way down runs, as its tool prints it."""
    part, migrator = chosen(parts, way.component)
    recorded = catalog.checkpoint(way.source).migrations[way.component] if way.source else None
    return migrator.sql(part.component, None if recorded is None else files_of(blobs, recorded), way)


def _at(catalog: Catalog, name: str, selector: str) -> Migrations:
    checkpoint = selectors.find(selector, catalog)
    recorded = checkpoint.migrations.get(name)
    if recorded is None or recorded.why:
        raise NotFoundError("migrate.not_recorded", checkpoint=checkpoint.checkpoint_id, component=name)
    return recorded


def _no_way(
    catalog: Catalog,
    of: tuple[Part, ToolMigrator],
    target: str,
    at: Migrations | None,
    refused: Sequence[RollbackError],
) -> IrreversibleError:
    """Return what is told when a script is nowhere: what can be done instead, by which checkpoint."""
    part, migrator = of
    name, versions = part.component.name, refused[0].fields["versions"]
    # Scripts of a checkpoint may know of the whole way, though something on it cannot be taken back.
    way: Any = next((error.fields["way"] for error in refused if error.fields.get("way")), None)
    now = migrator.look(part.component).state
    there = {*now.applied, *now.missing}
    staying = {*at.applied, *at.missing} if at is not None else there - set(way) if way is not None else None
    before: str | None = None
    for checkpoint, recorded in _whole(catalog, name, set(str(versions).split(", "))):
        id_, then = checkpoint.checkpoint_id, {*recorded.applied, *recorded.missing}
        if then == staying or (staying is None and stands_at(migrator.tool(part.component), now, recorded, target)):
            back = tuple(sorted(there - then))
            return IrreversibleError(
                "migrate.covered", versions=versions, checkpoint=id_, component=name, target=target, versions_back=back
            )
        before = before or (id_ if staying is None or staying <= then else None)
    hint = "Write the down scripts: no checkpoint of the database is from before it. Nothing was changed."
    if before is not None:
        rollback = f"`rfs rollback {before} --only {name}`"
        hint = f"{rollback} goes back to before it; its plan says which rows that takes away. Then run this again."
    return IrreversibleError("migrate.no_way", versions=versions, hint=hint)


def _whole(catalog: Catalog, name: str, stuck: set[str]) -> Iterator[tuple[DeploymentCheckpoint, Migrations]]:
    """Yield the checkpoints of a database, newest first, at which nothing was in force that has no way down."""
    for checkpoint in catalog.ordinary():
        recorded = checkpoint.migrations.get(name)
        if recorded is None or recorded.why or name not in checkpoint.captures:
            continue
        if not stuck & {*recorded.applied, *recorded.missing}:
            yield checkpoint, recorded


def compatibility(
    parts: Mapping[str, Part], blobs: BlobSource, target: DeploymentCheckpoint, going_back: Collection[str]
) -> list[str]:
    """Return sentences for a plan that takes code back without its database, or the database without its code.

    Args:
        going_back: the components that are restored.
    """
    code = [name for name, part in parts.items() if part.driver.kind == "files" and name in target.captures]
    sentences: list[str] = []
    for name, part in parts.items():
        then = target.migrations.get(name)
        code_goes, data_goes = any(each in going_back for each in code), name in going_back
        if not isinstance(part.migrator, ToolMigrator) or then is None or not code or code_goes == data_goes:
            continue
        try:
            looked = part.migrator.look(part.component)
        except RollbackError as error:
            sentences.append(f"Whether the code will fit the schema of {name} cannot be told: {error}")
            continue
        if then.why:
            sentences.append(f"Whether the code will fit the schema of {name} cannot be told: {then.why}")
            continue
        objects = objects_of(blobs, then)
        sentences += _sentences(name, target.checkpoint_id, then, looked.state.heads, code_goes=code_goes)
        now = {*looked.state.applied, *looked.state.missing}
        newer = [version for version in (*looked.state.applied, *looked.state.missing) if version not in then.applied]
        older = [version for version in then.applied if version not in now]
        sentences += _differences(name, newer, older, (looked.objects, objects), code_goes=code_goes)
    return sentences


def _sentences(name: str, checkpoint: str, then: Migrations, heads: Sequence[str], *, code_goes: bool) -> list[str]:
    if tuple(sorted(heads)) == tuple(sorted(then.heads)):
        return []
    stays = f"{name} stays as it is" if code_goes else "the code stays as it is"
    goes = "the code" if code_goes else name
    return [
        f"Back to {checkpoint} goes {goes}, but {stays}: {name} is at {_list(heads)}, and was at {_list(then.heads)}."
    ]


def _differences(
    name: str,
    newer: Sequence[str],
    older: Sequence[str],
    objects: tuple[Sequence[str], Sequence[str]],
    *,
    code_goes: bool,
) -> list[str]:
    """Say what one side has and the other has not."""
    now, then = objects
    added = outermost([each for each in now if each not in set(then)])
    removed = outermost([each for each in then if each not in set(now)])
    words = [
        (
            "migrations that the code of the checkpoint does not know"
            if code_goes
            else "migrations that the code may need",
            newer,
        ),
        (
            "migrations less than the code of the checkpoint needs"
            if code_goes
            else "migrations that the code may not know",
            older,
        ),
        (
            "tables and columns that the code of the checkpoint does not know"
            if code_goes
            else "tables and columns that the code may need",
            added,
        ),
        (
            "tables and columns less than the code of the checkpoint needs"
            if code_goes
            else "tables and columns that the code may not know",
            removed,
        ),
    ]
    will = "has" if code_goes else "loses"
    verbs = (will, "has" if code_goes else "gets back", will, "has" if code_goes else "gets back")
    return [f"{name} {verb} {what}: {_list(which)}." for verb, (what, which) in zip(verbs, words, strict=True) if which]


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more
