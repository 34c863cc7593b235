"""What takes a change back in this application: by rfs.toml, and for what the application did to its configuration."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.config import ConfigDriver
from rfs.production.rollback.drivers.formats import UnparsableError
from rfs.production.rollback.drivers.writing import UnwritableError, read, write
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.merging import Clash, Resolution, merge_content, merge_values
from rfs.production.rollback.restorers import (
    ConfigRestorer,
    Decide,
    DifferentError,
    FileRestorer,
    Intent,
    Restorer,
    decided,
    put_and_reload,
    require_merged,
)
from rfs.production.rollback.rows import postgresql_rows, sqlite_rows
from rfs.production.rollback.tracked import TrackedChange
from rfs.production.rollback.versions import FilePlace, Versions, configured_place

# What the guide's words stand for: the one component of that kind.
_KINDS = {"configuration": ("config",), "database": ("sqlite", "postgresql")}


def restorer_of(app: Application, component: str, kind: str = "change", *, decide: Decide | None = None) -> Restorer:
    """Return what takes back changes of a component.

    Args:
        component: "file", "configuration", "database", or a component of rfs.toml by its name.
        kind: see TrackedChange.
        decide: has somebody decide about conflicts in text; see restorers.decided.

    Raises:
        UsageError: change.no_restorer.
    """
    if kind != "change":
        place = _configuration(app, component)
        return _VersionRestorer(app, place) if kind == "save" else _ContentRestorer(app, place, decide)
    if component == "file":
        return FileRestorer(component, app.settings.home, app.settings.store.path, decide)
    return _configured(app, component, decide)


def _configuration(app: Application, component: str) -> FilePlace:
    part = app.parts.get(component)
    if part is None or not isinstance(part.driver, ConfigDriver):
        why = "it is no configuration of rfs.toml, and only the program that applied it can"
        raise UsageError("change.no_restorer", component=component, why=why, known=_known(app))
    return configured_place(part.component, part.driver, app.beat)


def _configured(app: Application, component: str, decide: Decide | None) -> Restorer:
    kinds = _KINDS.get(component, ())
    meant = [part for name, part in app.parts.items() if name == component]
    if not meant:
        meant = [part for part in app.parts.values() if part.component.kind in kinds]
    if len(meant) == 1:
        c, driver = meant[0].component, meant[0].driver
        if isinstance(driver, ConfigDriver):
            return ConfigRestorer(configured_place(c, driver, app.beat), decide)
        if c.kind == "sqlite":
            return sqlite_rows(c.name, c.options["path"], app.settings.home)
        if c.kind == "postgresql":
            return postgresql_rows(c)
    if component == "database" and not any(part.component.kind == "postgresql" for part in meant):
        return sqlite_rows(component, None, app.settings.home)
    if meant:
        why = "more than one component is meant" if len(meant) > 1 else f"it is of kind {meant[0].component.kind}"
    else:
        why = "there is no such component"
    raise UsageError("change.no_restorer", component=component, why=why, known=_known(app))


def _known(app: Application) -> str:
    names = [name for name, part in app.parts.items() if part.component.kind in sum(_KINDS.values(), ())]
    return ", ".join(dict.fromkeys(["file", *names]))


class _ContentRestorer:
    """A version that was applied to a file: the file as it was, with the keys that others changed since."""

    def __init__(self, app: Application, place: FilePlace, decide: Decide | None) -> None:
        self.name = place.component
        self._app = app
        self._place = place
        self._decide = decide

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        there = self._place.content()
        if there is None or not intent.is_done(there):
            self._written(change, there, how)

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        before = self._place.content()
        content = before if before is not None and intent.is_done(before) else self._written(change, before, how)
        if self._decide is not None and content is not None and content != before:
            # What somebody decided is neither side, by which it could be known again.
            intent.write_down(content)
        put_and_reload(self._place, before, content)
        with closing(Versions(self._app, self._place)) as versions:
            versions.write(*versions.point(change.old["current"], change.new["current"]))

    def _written(self, change: TrackedChange, there: bytes | None, how: Resolution) -> bytes | None:
        """Return what the file is to say; None: it is to go."""
        path = self._place.path
        merged, clashes = self._merged(change, there, how)
        content = decided(self._decide, path, clashes, how, lambda how: self._merged(change, there, how)[0])
        if content is None:
            require_merged(path, clashes, how)
            return merged
        self._place.require_usable(content)
        return content

    def _merged(self, change: TrackedChange, there: bytes | None, how: Resolution) -> tuple[bytes | None, list[Clash]]:
        base, want = change.new["content"], change.old["content"]
        merged: bytes | None
        clashes: list[Clash]
        said = self._said(base), self._said(want), self._said(there)
        if there is None or there in (base, want) or how is Resolution.WHOLE or None in said:
            merged, clashes = merge_content(base, want, there, how)
        else:
            values, clashes = merge_values(*said, how)
            try:
                merged = write(there, values, self._place.format)
            except UnwritableError as error:
                raise UsageError("config.unsaid", path=self._place.path, why=error) from None
        return merged, clashes

    def _said(self, content: bytes | None) -> dict[str, Any] | None:
        """Return what a content says, or None when it is not there or has no keys that can be read."""
        try:
            return None if content is None else read(content, self._place.format)
        except UnparsableError:
            return None


class _VersionRestorer:
    """A version that was saved: it goes, or comes back."""

    def __init__(self, app: Application, place: FilePlace) -> None:
        self.name = place.component
        self._app = app
        self._place = place

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        with closing(Versions(self._app, self._place)) as versions:
            there = versions.record(change.key)
        if how is Resolution.REFUSE and there not in (change.old["version"], change.new["version"]):
            what = f"The version {change.key}"
            raise DifferentError(what)

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        self.look(change, how, intent)
        with closing(Versions(self._app, self._place)) as versions:
            if how is Resolution.OURS and versions.record(change.key) != change.new["version"]:
                return
            pointed = versions.point(change.old["current"], change.new["current"])
            versions.write(versions.entry(change.key, change.old["version"]), *pointed)
