"""From the tables of rfs.toml to components with their drivers, checked against each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import msgspec

from rfs.production.rollback.capturing import Part
from rfs.production.rollback.driver import Driver
from rfs.production.rollback.errors import NotFoundError, UsageError
from rfs.production.rollback.model import Component
from rfs.production.rollback.plan import order
from rfs.production.rollback.settings import Settings, convert_table

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from rfs.production.rollback.migrating import Migrator

GROUP = "rfs.drivers"
"""The entry point group in which other packages offer drivers."""

# Reading entry points costs 20 ms, so the kinds that come with rfs are not looked up.
BUILT_IN = {
    "files": ("files", "FilesDriver"),
    "config": ("config", "ConfigDriver"),
    "environment": ("environment", "EnvironmentDriver"),
    "sqlite": ("sqlite", "SqliteDriver"),
    "postgresql": ("postgresql", "PostgresqlDriver"),
    "service": ("service", "ServiceDriver"),
}

MIGRATED = ("postgresql", "sqlite")
"""The kinds whose migrations rfs knows."""


def load_parts(settings: Settings, work: str) -> dict[str, Part]:
    """Return every component with its driver, by name, in the order of capture and restore.

    Args:
        settings: what rfs.toml says.
        work: folder under which each component has a private folder of local state.

    Raises:
        UsageError: an option is wrong, or components overlap.
        NotFoundError: a kind is unknown.
    """
    drivers = _drivers({table.kind for table in settings.components})
    parts: dict[str, Part] = {}
    tables = {table.name: table for table in settings.components}
    for name in order({table.name: table.depends_on for table in tables.values()}):
        table = tables[name]
        if table.kind not in drivers:
            raise NotFoundError("components.kind", name=name, kind=table.kind, known=", ".join(_known_kinds()))
        driver = drivers[table.kind]()
        convert_table(settings, table.options, driver.options, ("components", name))
        component = Component(
            name=name,
            kind=table.kind,
            options=table.options,
            home=settings.home,
            work=os.path.join(work, name),
            depends_on=table.depends_on,
        )
        parts[name] = Part(component, driver, _migrator(component))
    return _carve(parts, settings.store.path)


def recorded_parts(components: Sequence[Component], present: Mapping[str, Part], settings: Settings) -> dict[str, Part]:
    """Return components as they were written down, each with a driver; they are not carved anew.

    Args:
        present: those of now, whose drivers are used where they are of the same kind: they may be code of
            this process alone.

    Raises:
        UsageError: a driver cannot be used, or does not take the options any more.
        NotFoundError: a kind is unknown.
    """
    kept = [present[c.name] for c in components if c.name in present and present[c.name].driver.kind == c.kind]
    own = {part.component.name: part.driver for part in kept}
    found = _drivers({c.kind for c in components if c.name not in own})
    parts: dict[str, Part] = {}
    for c in components:
        if c.name not in own and c.kind not in found:
            raise NotFoundError("components.kind", name=c.name, kind=c.kind, known=", ".join(_known_kinds()))
        driver = own.get(c.name) or found[c.kind]()
        convert_table(settings, c.options, driver.options, ("components", c.name))
        parts[c.name] = Part(c, driver, _migrator(c))
    return parts


def _migrator(c: Component) -> Migrator | None:
    """Return what knows the migrations of a component; only databases have some, and not each says which."""
    if c.kind not in MIGRATED or "migrations" not in c.options:
        return None
    from rfs.production.rollback.migrating import table_of

    table = table_of(c.options)
    if table is None:
        return None
    from rfs.production.rollback.migrations.migrator import ToolMigrator

    return ToolMigrator(table)


def _drivers(kinds: set[str]) -> dict[str, type[Driver]]:
    found: dict[str, type[Driver]] = {}
    for kind in kinds & BUILT_IN.keys():
        module, name = BUILT_IN[kind]
        found[kind] = getattr(import_module(f"rfs.production.rollback.drivers.{module}"), name)
    for kind in kinds - BUILT_IN.keys():
        offered = [each for each in _offered() if each.name == kind]
        if len({each.value for each in offered}) > 1:
            raise UsageError("components.offers", kind=kind, packages=", ".join(sorted(map(_package, offered))))
        if offered:
            found[kind] = _load(offered[0])
    return found


def _load(offered: EntryPoint) -> type[Driver]:
    try:
        found = offered.load()
    except Exception as error:  # whatever somebody else's module raises when it is imported
        # A plug-in that is half removed, was made for another release, or is broken.
        why = str(error) if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: {error}"
        raise _unusable(offered, why.rstrip(".")) from error
    if not (isinstance(found, type) and issubclass(found, Driver)):
        raise _unusable(offered, "it is no subclass of rfs.plugin.Driver")
    if found.__abstractmethods__:
        raise _unusable(offered, f"it has no method {', '.join(sorted(found.__abstractmethods__))}")
    if getattr(found, "kind", None) != offered.name:
        raise _unusable(offered, f"its own kind is {getattr(found, 'kind', 'missing')}")
    if not issubclass(getattr(found, "options", type(None)), msgspec.Struct):
        raise _unusable(offered, "its options are no msgspec.Struct")
    return found


def _unusable(offered: EntryPoint, why: str) -> UsageError:
    package = _package(offered)
    return UsageError("components.driver", kind=offered.name, package=package, where=offered.value, why=why)


def _package(offered: EntryPoint) -> str:
    return offered.dist.name if offered.dist is not None else offered.value.partition(":")[0]


def _known_kinds() -> list[str]:
    return sorted({*BUILT_IN, *(each.name for each in _offered())})


def _offered() -> Sequence[EntryPoint]:
    from importlib.metadata import entry_points

    return tuple(entry_points(group=GROUP))


def _carve(parts: Mapping[str, Part], store: str) -> dict[str, Part]:
    """Give each component with a folder the paths inside it that others own, and refuse what overlaps."""
    owned = {name: part.driver.owns(part.component) for name, part in parts.items()}
    _refuse_same(owned)
    carved: dict[str, Part] = {}
    outer: dict[str, list[str]] = {}
    for name, part in parts.items():
        root = part.driver.root(part.component)
        if root is None:
            carved[name] = _with_carved(part, _others(parts, owned, name)) if part.driver.runs else part
            continue
        if inside(root, store):
            raise UsageError("components.store_inside", store=store, component=name)
        others = [(other, path) for other, paths in owned.items() if other != name for path in paths]
        within = [(other, path) for other, path in others if inside(path, root)]
        for other, path in within:
            _refuse_nested(parts, name, root, other, path)
        holes = tuple(sorted({path for _, path in within} | ({store} if inside(store, root) else set())))
        carved[name] = _with_carved(part, holes)
        for inner in dict.fromkeys(other for other, _ in within):
            outer.setdefault(inner, []).append(name)
    return _outer_first(carved, outer)


def _with_carved(part: Part, carved: tuple[str, ...]) -> Part:
    return msgspec.structs.replace(part, component=msgspec.structs.replace(part.component, carved=carved))


def _others(parts: Mapping[str, Part], owned: Mapping[str, Sequence[str]], name: str) -> tuple[str, ...]:
    """Return the files and folders that the components beside `name` look after."""
    found = {path for other, paths in owned.items() if other != name for path in paths}
    roots = (part.driver.root(part.component) for other, part in parts.items() if other != name)
    return tuple(sorted(found.union(root for root in roots if root is not None)))


def _outer_first(parts: Mapping[str, Part], outer: Mapping[str, Sequence[str]]) -> dict[str, Part]:
    """Let what lies in a component's folder come after it: without the folder it cannot be restored.

    Where rfs.toml says the opposite, that counts.
    """
    nested: dict[str, Part] = {}
    needs = {name: set(part.component.depends_on) for name, part in parts.items()}
    for name, part in parts.items():
        more = tuple(each for each in outer.get(name, ()) if each not in needs[name] and not _needs(needs, each, name))
        needs[name] |= set(more)
        c = part.component
        nested[name] = (
            msgspec.structs.replace(part, component=msgspec.structs.replace(c, depends_on=(*c.depends_on, *more)))
            if more
            else part
        )
    return {name: nested[name] for name in order({n: p.component.depends_on for n, p in nested.items()})}


def _needs(depends_on: Mapping[str, set[str]], name: str, other: str) -> bool:
    """Tell whether `name` depends on `other`, directly or through others."""
    return any(each == other or _needs(depends_on, each, other) for each in depends_on.get(name, ()))


def _refuse_same(owned: Mapping[str, Sequence[str]]) -> None:
    seen: dict[str, str] = {}
    for name, paths in owned.items():
        for path in paths:
            if path in seen and seen[path] != name:
                raise UsageError("components.same_path", first=seen[path], second=name, path=path)
            seen[path] = name


def _refuse_nested(parts: Mapping[str, Part], outer: str, root: str, inner: str, path: str) -> None:
    folder = parts[inner].driver.root(parts[inner].component)
    if folder != path:
        return
    relative = os.path.relpath(path, root)
    excluded = [str(each).strip("/") for each in parts[outer].component.options.get("exclude", ())]
    if relative not in excluded:
        raise UsageError("components.nested", inner=inner, outer=outer, path=path, relative=relative)


def inside(path: str, folder: str) -> bool:
    """Tell whether `path` is `folder` or lies in it. Both absolute."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
