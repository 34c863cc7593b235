"""What rollbacks set aside instead of throwing it away: which databases there are, and the rows that only they have."""

from __future__ import annotations

from collections.abc import Sequence

from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.postgresql import Aside, PostgresqlDriver, Surplus, listed, surplus
from rfs.production.rollback.errors import NotFoundError
from rfs.production.rollback.model import Capture
from rfs.production.rollback.selectors import find_id


def databases(app: Application) -> list[tuple[Aside, tuple[str, ...]]]:
    """Return the databases that were set aside, each with the checkpoints that refer to it."""
    checkpoints = app.catalog.checkpoints()
    found: list[tuple[Aside, tuple[str, ...]]] = []
    for name, part in app.parts.items():
        if isinstance(part.driver, PostgresqlDriver):
            meant = [(c.checkpoint_id, c.captures[name]) for c in checkpoints if name in c.captures]
            for aside in listed(part.component):
                found.append((aside, tuple(id_ for id_, capture in meant if capture.meta.get("oid") == aside.oid)))
    return found


def salvaged(app: Application, selector: str, tables: Sequence[str]) -> list[Surplus]:
    """Return the rows that an operation took away: those of the state before it that its target has not.

    Args:
        selector: the operation.
        tables: only these; all when empty.

    Raises:
        NotFoundError: it set no database aside, or its checkpoints are gone.
        ConflictError: the database is gone.
    """
    operation = app.catalog.operation(find_id(selector, app.catalog.operation_ids))
    before, target = (app.catalog.checkpoint(id_) for id_ in (operation.state_before, operation.plan.target))
    found: list[Surplus] = []
    looked = False
    for name in operation.plan.components:
        part = app.parts.get(name)
        if part is not None and isinstance(part.driver, PostgresqlDriver) and _set_aside(before.captures.get(name)):
            looked = True
            with app.beat.call():
                captures = target.captures[name], before.captures[name]
                found += surplus(part.component, app.engine.blobs, *captures, tables)
    if not looked:
        raise NotFoundError("postgresql.not_displaced", operation=operation.operation_id)
    return found


def _set_aside(capture: Capture | None) -> bool:
    if capture is None or capture.kind != PostgresqlDriver.kind:
        return False
    return bool(capture.meta.get("oid")) or capture.meta["state"] == "dump"  # where nothing may be set aside
