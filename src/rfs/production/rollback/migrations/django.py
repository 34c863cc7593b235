"""Django: its history is read as a table, its migrations as files; what the way down is, Django itself says."""

from __future__ import annotations

import os
import re

from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.migrations.scripts import Files, Revision, State, listed, read
from rfs.production.rollback.migrations.session import Session
from rfs.production.rollback.model import Component

TABLE = "django_migrations"
_PASSED_BY = frozenset({"node_modules", "site-packages", "venv", "env", "static", "media"})
_DEEP = 6
_MIGRATION = re.compile(r"\d\w*\.py")


def files(c: Component, manage: str) -> dict[str, bytes]:
    """Return the migrations of the project's own apps: APP/NAME.py. Of apps of one name none is taken."""
    found: dict[str, list[str]] = {}
    _walk(c, os.path.dirname(manage), found, 0)
    return {
        f"{label}/{name}": read(c, os.path.join(folders[0], name))
        for label, folders in found.items()
        if len(folders) == 1
        for name in listed(c, folders[0])
        if name.endswith(".py")
    }


def _walk(c: Component, folder: str, found: dict[str, list[str]], depth: int) -> None:
    names = listed(c, folder)
    if os.path.basename(folder) == "migrations" and any(map(_MIGRATION.fullmatch, names)):
        found.setdefault(os.path.basename(os.path.dirname(folder)), []).append(folder)
        return
    if depth == _DEEP or "pyvenv.cfg" in names:
        return
    for name in names:
        path = os.path.join(folder, name)
        if (
            name not in _PASSED_BY
            and not name.startswith((".", "__"))
            and os.path.isdir(path)
            and not os.path.islink(path)
        ):
            _walk(c, path, found, depth + 1)


def state(session: Session, scripts: Files, table: str | None) -> State:
    """Return what is in force, and what the scripts know of it; of apps without scripts, nothing is missing."""
    rows: list[tuple[str, str]] = []
    if {"app", "name"} <= session.columns(table or TABLE):
        rows = [(app, name) for app, name in session.rows(f"SELECT app, name FROM {table or TABLE} ORDER BY id")]
    written = {name.removesuffix(".py") for name in scripts if _MIGRATION.fullmatch(name.partition("/")[2])}
    own = {name.partition("/")[0] for name in written}
    applied = [f"{app}.{name}" for app, name in rows]
    known = {name.replace("/", ".", 1) for name in written}
    newest = {app: f"{app}.{name}" for app, name in rows}
    return State(
        applied=tuple(applied),
        heads=tuple(sorted(newest.values())),
        missing=tuple(f"{app}.{name}" for app, name in rows if app in own and f"{app}.{name}" not in known),
        pending=tuple(sorted(known.difference(applied))),
        known={version: Revision(version=version) for version in sorted(known.union(applied))},
    )


def target_of(written: str) -> str:
    """Return a target as "APP.NAME".

    Raises:
        UsageError: it is written in another way.
    """
    app, dot, name = written.replace("/", ".").partition(".")
    if not (dot and re.fullmatch(r"\w+", app) and re.fullmatch(r"\w+", name)):
        raise UsageError("migrate.django_target", target=written)
    return f"{app}.{name}"


def at(found: State, applied: tuple[str, ...]) -> tuple[str, ...]:
    """Return the targets that lead to what was in force at a checkpoint: one for each app that moved since."""
    gone = [version for version in found.applied if version not in applied]
    targets: dict[str, str] = {}
    for version in gone:
        app = version.partition(".")[0]
        kept = [each for each in found.applied if each in applied and each.partition(".")[0] == app]
        targets[app] = kept[-1] if kept else f"{app}.zero"
    return tuple(targets.values())


def settings_of(c: Component, manage: str) -> str:
    """Return the settings module that a manage.py names; "" when none can be seen in it."""
    found = re.search(r"""DJANGO_SETTINGS_MODULE["'][^"']+["']([\w.]+)["']""", read(c, manage).decode(errors="replace"))
    return found[1] if found is not None else ""
