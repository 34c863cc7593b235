"""Which operations an undo takes back, and whether it still can."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import islice

from rfs.production.rollback.capturing import Part
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import ConflictError, NotFoundError, UsageError
from rfs.production.rollback.model import Component, OperationStatus
from rfs.production.rollback.operation import Operation, redoable, remaining
from rfs.production.rollback.operationlog import AnyOperation, OperationLog
from rfs.production.rollback.wiring import inside


def to_undo(
    log: OperationLog,
    catalog: Catalog,
    parts: Mapping[str, Part],
    number: int,
    *,
    named: str | None,
    component: str | None,
    planned: bool = False,
) -> list[tuple[AnyOperation, tuple[str, ...]]]:
    """Return the operations that an undo takes back, in that order, each with those of its components that it does.

    Args:
        log: in which the last ones are looked for.
        parts: the components of now.
        number: how many of the last ones; 1 with `named`.
        named: one of them, as people name it.
        component: only operations that touched it, and only it.
        planned: only operations that have a plan.

    Raises:
        NotFoundError: there are fewer, or no such operation or component, or its state before is gone.
        ConflictError: the named one did not complete; a component lies elsewhere now.
    """
    if named is not None:
        able = [_named(log, parts, named, component)]
    elif number < 1:
        raise UsageError("usage", what="-n must be at least 1", hint="`rfs undo` takes back one operation.")
    else:
        history = remaining(catalog.history() if planned else log.history())
        found = (each for each in history if component is None or component in each[1])
        able = list(islice(found, number))
    if component is not None and component not in parts and not able:
        raise _unknown(parts, component)
    if len(able) < number:
        raise NotFoundError("operation.too_few" if able else "operation.nothing_to_undo", asked=number, count=len(able))
    for operation, _ in able:
        if isinstance(operation, Operation):
            _require_undoable(catalog, parts, operation)
    return able if component is None else [(operation, (component,)) for operation, _ in able]


def to_redo(log: OperationLog) -> str:
    """Return the id of the undo that a redo takes back.

    Raises:
        NotFoundError: nothing was undone last.
    """

    def is_redo(each: AnyOperation) -> bool:
        # What a small one took back may be pruned.
        return each.kind == "redo" or (isinstance(each, Operation) and log.get(each.undoes or "").undoes is not None)

    found = redoable(log.history(), is_redo)
    if found is None:
        raise NotFoundError("operation.nothing_to_redo")
    return found.operation_id


def _unknown(parts: Mapping[str, Part], name: str) -> NotFoundError:
    return NotFoundError("components.unknown", name=name, known=", ".join(parts))


def _named(
    log: OperationLog, parts: Mapping[str, Part], named: str, component: str | None
) -> tuple[AnyOperation, tuple[str, ...]]:
    chosen = log.find(named)
    if chosen.status is not OperationStatus.COMPLETED:
        raise ConflictError("operation.not_undoable", operation=chosen.operation_id, status=chosen.status)
    if component is not None and component not in chosen.plan.components:
        if component not in parts:
            raise _unknown(parts, component)
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
