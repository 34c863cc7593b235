"""Which operations an undo takes back, and whether it still can."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice

from rfs.production.rollback import selectors
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import ConflictError, NotFoundError, UsageError
from rfs.production.rollback.model import Component, OperationStatus
from rfs.production.rollback.operation import Operation, redoable, remaining
from rfs.production.rollback.wiring import inside


def to_undo(
    catalog: Catalog, parts: Mapping[str, Part], number: int, named: str | None, component: str | None
) -> list[tuple[Operation, tuple[str, ...]]]:
    """Return the operations that an undo takes back, in that order, each with those of its components that it does.

    Args:
        parts: the components of now.
        number: how many of the last ones; 1 with `named`.
        named: one of them, as people name it.
        component: only operations that touched it, and only it.

    Raises:
        NotFoundError: there are fewer, or no such operation or component, or its state before is gone.
        ConflictError: the named one did not complete; a component lies elsewhere now.
    """
    if component is not None and component not in parts:
        raise NotFoundError("components.unknown", name=component, known=", ".join(parts))
    if named is not None:
        able = [_named(catalog, named, component)]
    elif number < 1:
        raise UsageError("usage", what="-n must be at least 1", hint="`rfs undo` takes back one operation.")
    else:
        found = (each for each in remaining(catalog.history()) if component is None or component in each[1])
        able = list(islice(found, number))
    if len(able) < number:
        raise NotFoundError("operation.too_few" if able else "operation.nothing_to_undo", asked=number, count=len(able))
    for operation, _ in able:
        _require_undoable(catalog, parts, operation)
    return able if component is None else [(operation, (component,)) for operation, _ in able]


def to_redo(catalog: Catalog) -> str:
    """Return the id of the undo that a redo takes back.

    Raises:
        NotFoundError: nothing was undone last.
    """
    found = redoable(catalog.history(), lambda each: catalog.operation(each.undoes or "").undoes is not None)
    if found is None:
        raise NotFoundError("operation.nothing_to_redo")
    return found.operation_id


def _named(catalog: Catalog, named: str, component: str | None) -> tuple[Operation, tuple[str, ...]]:
    chosen = catalog.operation(selectors.find_id(named, catalog.operation_ids))
    if chosen.status is not OperationStatus.COMPLETED:
        raise ConflictError("operation.not_undoable", operation=chosen.operation_id, status=chosen.status)
    if component is not None and component not in chosen.plan.components:
        raise NotFoundError("operation.untouched", operation=chosen.operation_id, name=component)
    return chosen, chosen.plan.components


def _require_undoable(catalog: Catalog, parts: Mapping[str, Part], operation: Operation) -> None:
    """Refuse to undo what has no state before any more, or elsewhere than where it acted.

    Where a service's definitions lie is part of its state, so services are not asked.
    """
    try:
        catalog.checkpoint(operation.state_before)
    except NotFoundError:
        raise NotFoundError("operation.state_gone", kind=operation.kind, operation=operation.operation_id) from None
    for then in operation.components:
        part = parts.get(then.name)
        if then.name not in operation.plan.components or part is None or part.driver.kind != then.kind:
            continue
        before, now = _places(part, then), _places(part, part.component)
        if not part.driver.runs and before != now:
            raise ConflictError(
                "operation.elsewhere",
                kind=operation.kind,
                operation=operation.operation_id,
                name=then.name,
                then=before[0] if before else "elsewhere",
                before=operation.state_before,
            )


def _places(part: Part, c: Component) -> list[str]:
    """Return the paths that a component has, those in the application's folder relative to it: it may be moved."""
    return [os.path.relpath(path, c.home) if inside(path, c.home) else path for path in part.driver.owns(c)]
