"""A part of an application to be rolled back: which component a path or a key belongs to, and what should go along."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from rfs.production.rollback import keypath
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.driver import overrides
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.model import DeploymentCheckpoint
from rfs.production.rollback.wiring import inside

Selection = dict[str, tuple[str, ...]]


def chosen(
    parts: Mapping[str, Part],
    paths: Sequence[str],
    keys: Sequence[str],
    tables: Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    folder: str = "",
) -> Selection:
    """Return what of which components is meant.

    Args:
        paths: of files or folders of files components, as people write them.
        keys: dotted keys of config components, as keypath has them; "NAME:KEY" says of which.
        tables: of databases; "NAME:TABLE" says of which.
        only: the components that may be meant; all when empty.
        folder: relative paths are relative to it; the working directory when empty.

    Raises:
        UsageError: select.where, or it is not clear which configuration is meant.
    """
    found: dict[str, list[str]] = {}
    usable = {name: part for name, part in parts.items() if not only or name in only}
    for path in paths:
        name, inner = _place(usable, os.path.normpath(os.path.join(folder or os.getcwd(), path)))
        found.setdefault(name, []).append(inner)
    for key in keys:
        name, inner = _of_one(usable, key, tables=False)
        found.setdefault(name, []).append(_as_listed(inner))
    for table in tables:
        name, inner = _of_one(usable, table, tables=True)
        found.setdefault(name, []).append(inner)
    return {name: tuple(dict.fromkeys(each)) for name, each in found.items()}


def _place(parts: Mapping[str, Part], path: str) -> tuple[str, str]:
    owners = [
        (owned, name, part)
        for name, part in parts.items()
        for owned in part.driver.owns(part.component)
        if path == owned or inside(path, owned)
    ]
    if not owners:
        raise UsageError(
            "select.where", path=path, hint="Name a file or folder inside one; --only takes a whole component."
        )
    owned, name, part = max(owners, key=lambda each: len(each[0]))
    if part.driver.root(part.component) != owned or path == owned or not overrides(part.driver, "select"):
        raise UsageError("select.where", path=path, hint=f"It is all of {name}, or belongs to it: give --only {name}.")
    inner = os.path.relpath(path, owned)
    # A plan holds no bytes that are not UTF-8: they are spelled out, as `rfs diff` shows them.
    return name, os.fsencode(inner).decode("utf-8", "backslashreplace")


def _of_one(parts: Mapping[str, Part], key: str, *, tables: bool) -> tuple[str, str]:
    able = [
        name
        for name, part in parts.items()
        if overrides(part.driver, "select")
        and part.driver.root(part.component) is None
        and part.driver.tables is tables
    ]
    name, colon, inner = key.partition(":")
    if colon and name in able:
        return name, inner
    if tables and not able:
        raise UsageError("select.tables", table=key)
    if len(able) != 1:
        known, what = ", ".join(able), "database" if tables else "configuration"
        hint = f'Write "NAME:{key}", with one of {known}.' if able else 'Add a component of kind = "config".'
        raise UsageError("usage", what=f"It is not clear which {what} {key} is of", hint=hint)
    return able[0], key


def _as_listed(key: str) -> str:
    try:
        return keypath.join(keypath.split(key))
    except ValueError as error:
        hint = """Write a.b.c, and 'a."b.c"' where a name has a dot."""
        raise UsageError("usage", what=str(error), hint=hint) from None


def staying(parts: Mapping[str, Part], target: DeploymentCheckpoint) -> list[str]:
    """Return sentences for a plan about what only the checkpoint has, or only rfs.toml."""
    found = [
        f"The checkpoint holds nothing of {name}: it stays as it is." for name in parts if name not in target.captures
    ]
    return found + [
        f"The checkpoint holds {name}, which rfs.toml no longer names: it stays as it is."
        for name in target.captures
        if name not in parts
    ]


def splits(parts: Mapping[str, Part], target: DeploymentCheckpoint, going_back: Collection[str]) -> list[str]:
    """Return sentences for a plan that takes something back without what belongs to it.

    What depends on what belongs together, and so do code and a database whose migrations are known.

    Args:
        going_back: the components that are restored, as a whole or in part.
    """
    together = set(going_back)
    related = _related(parts)
    while more := {b for a, b in related if a in together} - together:
        together |= more
    apart = sorted(name for name in together - set(going_back) if _differs(parts[name], target))
    if not apart:
        return []
    smallest = ",".join(name for name in parts if name in going_back or name in apart)
    verb = "belongs" if len(apart) == 1 else "belong"
    what = f"{', '.join(apart)} {verb} to what goes back, and would stay as now"
    return [f"{what}: the smallest selection that keeps them together is --only {smallest}."]


def _related(parts: Mapping[str, Part]) -> list[tuple[str, str]]:
    pairs = [
        (name, other)
        for name, part in parts.items()
        for other in part.component.depends_on
        if other in parts and not _lies_in(part, parts[other])
    ]
    code = [name for name, part in parts.items() if part.driver.root(part.component) is not None]
    pairs += [(name, each) for name, part in parts.items() if part.migrator is not None for each in code]
    return [*pairs, *((b, a) for a, b in pairs)]


def _lies_in(part: Part, other: Part) -> bool:
    """Tell whether a component depends on another one only because it lies in its folder."""
    folder = other.driver.root(other.component)
    return folder is not None and any(inside(path, folder) for path in part.driver.owns(part.component))


def _differs(part: Part, target: DeploymentCheckpoint) -> bool:
    capture = target.captures.get(part.component.name)
    if capture is None or part.driver.runs or capture.kind != part.driver.kind:
        return False
    try:
        return part.driver.stands(part.component, capture)[0] is not True
    except RollbackError:
        return True
