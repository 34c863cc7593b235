"""A scratch copy of an application, to rehearse a rollback on: nothing live is ever changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.settings import ComponentTable, Settings, StoreSettings
from rfs.production.rollback.store import Store

KINDS = frozenset({"files", "config", "environment", "sqlite"})
"""The kinds whose whole place is one path, which a copy of them can have elsewhere."""

# What a restored configuration file would tell the live services.
_NOT_COPIED = frozenset({"reload", "reload_timeout"})


def copy_application(app: Application, folder: str) -> Settings:
    """Copy what an application keeps in files to a folder, and return the settings of the copy.

    Services are not copied, nor health checks: they are the live ones'. Neither are components of other
    kinds, whose place is not a path.

    Args:
        app: the live application; only looked at.
        folder: an empty folder that only its user may enter. The copy of PATH is at `tree/PATH` in it.

    Raises:
        UsageError: there is nothing that could be copied.
        RollbackError: something cannot be read, or there is no room for it.
    """
    parts = {name: part for name, part in app.parts.items() if part.component.kind in KINDS}
    if not parts:
        what = "Nothing of this application can be copied for a rehearsal"
        raise UsageError("usage", what=what, hint=f"Components of these kinds can: {', '.join(sorted(KINDS))}.")
    settings = scratch_settings(app, parts, folder)
    Store.create(settings.store.path, settings.store.key).close()
    with Application(settings) as copy, copy.store.batch():
        for name, part in copy.parts.items():
            live = parts[name]
            # Its notes about the live files go into a folder of their own: the copy's would not be true of them.
            component = msgspec.structs.replace(live.component, work=os.path.join(folder, "work", name))
            os.makedirs(component.work, exist_ok=True)
            capture = live.driver.capture(component, copy.engine.blobs, None)
            os.makedirs(os.path.dirname(place_in(live, folder)), exist_ok=True)
            part.driver.restore(part.component, copy.engine.blobs, capture)
            part.driver.release(part.component)
    return settings


def scratch_settings(app: Application, parts: Mapping[str, Part], folder: str) -> Settings:
    """Return settings in which components have a place in a folder: PATH is at `tree/PATH` in it.

    Args:
        parts: components of KINDS.
        folder: absolute.
    """
    return Settings(
        path=os.path.join(folder, "rfs.toml"),
        home=folder,
        name=app.settings.name,
        components=tuple(_copied(parts, folder)),
        store=StoreSettings(path=os.path.join(folder, "store"), key=os.path.join(folder, "key")),
        policy=app.settings.policy,
        retention=app.settings.retention,
    )


def _copied(parts: Mapping[str, Part], folder: str) -> Iterator[ComponentTable]:
    for name, part in parts.items():
        options = {key: value for key, value in part.component.options.items() if key not in _NOT_COPIED}
        yield ComponentTable(
            name=name,
            kind=part.component.kind,
            depends_on=tuple(each for each in part.component.depends_on if each in parts),
            options={**options, "path": place_in(part, folder)},
        )


def place_in(part: Part, folder: str) -> str:
    """Return where the component has its place in a folder for which `scratch_settings` were made."""
    live = os.path.normpath(os.path.join(part.component.home, str(part.component.options["path"])))
    return os.path.join(folder, "tree", live.lstrip("/"))
