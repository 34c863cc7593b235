"""The components as they were when an operation began, whatever rfs.toml says by now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from rfs.production.rollback.capturing import Part
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import ConflictError, RollbackError
from rfs.production.rollback.model import Component
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.settings import Settings
from rfs.production.rollback.wiring import recorded_parts


class Began(NamedTuple):
    """What of something other than an operation decides which components it acts on; the fields are an operation's."""

    kind: str
    operation_id: str
    components: tuple[Component, ...]
    safety: str


def parts_of(
    operation: Operation | Began, catalog: Catalog, present: Mapping[str, Part], settings: Settings, work: str
) -> Mapping[str, Part]:
    """Return the components that an operation acts on.

    Args:
        catalog: where it is written down.
        present: the components of now.
        settings: of now.
        work: folder of local state, in the store of now.

    Raises:
        ConflictError: they cannot be had; nothing was changed.
    """
    facts = {"kind": operation.kind, "operation": operation.operation_id}
    then = {c.name: c for c in operation.components}
    home, its_work = next(((c.home, os.path.dirname(c.work)) for c in then.values()), ("", ""))
    same_store = bool(then) and _same(its_work, work)
    if same_store and _same(home, settings.home):
        try:
            return recorded_parts(list(then.values()), present, settings)
        except RollbackError as error:
            raise ConflictError("operation.driver", why=error, **facts) from error
    if same_store and os.path.lexists(home):
        raise ConflictError("operation.moved", home=home, now=settings.home, **facts)
    # The application was moved or copied, with all its paths, or an older release began it.
    for name, capture in catalog.checkpoint(operation.safety).captures.items():
        part = present.get(name)
        options = then[name].options if name in then else None
        if part is None or part.driver.kind != capture.kind or options not in (None, part.component.options):
            raise ConflictError("operation.component", name=name, **facts)
    return present


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def edited(operation: Operation | Began, then: Mapping[str, Part], now: Mapping[str, Part]) -> list[str]:
    """Return sentences about what rfs.toml says otherwise than when an operation began."""
    changed = {
        name: part
        for name, part in then.items()
        if name not in now
        or (part.component.kind, part.component.options) != (now[name].component.kind, now[name].component.options)
    }
    if not changed:
        return []
    began = f"since the {operation.kind} {operation.operation_id} began"
    notices = [f"rfs.toml has changed {began} ({', '.join(changed)}): it is carried on with what it said then."]
    services = ",".join(name for name, part in changed.items() if name in now and part.driver.runs)
    if services:
        notices.append(f"If that is what it fails on, `rfs resume --current {services}` takes what rfs.toml says now.")
    return notices
