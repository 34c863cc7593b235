"""What of an operation that is not the newest one an undo takes back: what it changed, and nothing that came since."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rfs.production.rollback import keypath
from rfs.production.rollback.capturing import Capturer, Part
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.driver import BlobSource, overrides
from rfs.production.rollback.errors import ConflictError, NotFoundError
from rfs.production.rollback.merging import Clash, Resolution
from rfs.production.rollback.model import Capture, Change, Ref
from rfs.production.rollback.operation import DEPLOYMENT, EDIT, Operation
from rfs.production.rollback.operationlog import AnyOperation, OperationLog

Selection = dict[str, tuple[str, ...]]
_LISTED = 5
# As `ls` and the driver of files show a folder's mode.
_FOLDER = re.compile("d[r-][w-]")


def part_to_undo(
    engine: Capturer, log: OperationLog, operation: Operation, names: Sequence[str], how: str
) -> tuple[list[str], Selection]:
    """Return which of its components an undo of a named operation takes back, and what of each.

    A component that nothing newer touched, or of which no part can be restored alone, is taken back as a whole, or
    as the part that the operation was about. So is one of which the state after it is no longer kept.

    Args:
        how: what becomes of what was changed since; see Resolution.

    Raises:
        ConflictError: change.conflict, and `how` does not say what then; operation.already, nothing is left of it.
    """
    whole, chosen, clashes = [], dict[str, tuple[str, ...]](), list[Clash]()
    for name in names:
        sides = _sides(engine.catalog, operation, name)
        part = engine.parts[name]
        able = how != Resolution.WHOLE and overrides(part.driver, "select") and not part.driver.tables
        if not able or not _may_be_built_on(log, operation, name):
            sides = None
        found = None if sides is None else _changed(part, engine.blobs, operation, *sides)
        if found is None:
            whole.append(name)
            continue
        keys, apart = found
        clashes += [Clash(f"{name} {key}", *(_told(ref) for ref in three)) for key, three in apart.items()]
        left = tuple(key for key in keys if how != Resolution.OURS or key not in apart)
        if left:
            chosen[name] = left
    if clashes and how == Resolution.REFUSE:
        raise _conflict(operation, clashes)
    if not whole and not chosen:
        raise ConflictError("operation.already", operation=operation.operation_id)
    return [name for name in names if name in whole or name in chosen], {**operation.plan.part_of(whole), **chosen}


def _sides(catalog: Catalog, operation: Operation, name: str) -> tuple[Capture, Capture] | None:
    """Return a component before and after an operation, or None when one of the two is not kept (any longer)."""
    if operation.kind == DEPLOYMENT:
        return None
    try:
        found = [catalog.checkpoint(each).captures[name] for each in (operation.state_before, operation.plan.target)]
    except (NotFoundError, KeyError):
        return None
    return found[0], found[1]


def _may_be_built_on(log: OperationLog, operation: Operation, name: str) -> bool:
    """Tell whether something may have changed a component since; after an edit that need not be in the log yet."""
    return operation.kind == EDIT or _is_older(log, operation, name)


def _is_older(log: OperationLog, operation: Operation, name: str) -> bool:
    """Tell whether something that stands came after an operation and touched the component."""
    newer: dict[str, AnyOperation] = {}
    for each in log.history():
        if each.operation_id == operation.operation_id:
            break
        if each.status == "completed" and name in each.plan.components:
            newer[each.operation_id] = each
    for id_, each in list(newer.items()):
        if id_ in newer and each.undoes in newer:
            del newer[id_], newer[each.undoes]
    return bool(newer)


def _changed(
    part: Part, blobs: BlobSource, operation: Operation, before: Capture, after: Capture
) -> tuple[list[str], dict[str, tuple[Ref | None, Ref | None, Ref | None]]] | None:
    """Return the keys that an operation changed and that are not as before yet, and of those that were changed since
    what they were after it, before it, and are now; None when only the whole tells.
    """
    c, driver = part.component, part.driver
    made = list(driver.changes(c, blobs, before, after))
    if c.name in operation.plan.selection:
        made = driver.among(made, operation.plan.selection[c.name])
    since = {each.key: each for each in driver.changes(c, blobs, after, None)}
    if not since and operation.kind == EDIT:
        return None
    left = {each.key: each for each in driver.changes(c, blobs, before, None)}
    keys: list[str] = []
    apart: dict[str, tuple[Ref | None, Ref | None, Ref | None]] = {}
    for change in sorted(made, key=lambda each: each.key):
        key = keypath.table_of(change.key) if driver.root(c) is None else change.key
        if key in ("", "."):
            return None
        if change.key not in left:
            continue
        if key.startswith("file:") and driver.root(c) is None:
            continue  # its mode or layout, which is of the whole file
        if keys and driver.root(c) is not None and key.startswith(keys[-1] + "/"):
            continue
        if _is_folder(change) and ((change.before and change.after) or driver.among(list(since.values()), [key])):
            continue  # what is in it tells; with what came since it stays
        keys.append(key)
        if change.key in since:
            apart[key] = (change.after, change.before, since[change.key].after)
    return list(dict.fromkeys(keys)), apart


def _is_folder(change: Change) -> bool:
    return any(side is not None and _FOLDER.match(side.label) for side in (change.before, change.after))


def _told(ref: Ref | None) -> str:
    if ref is None:
        return "nothing"
    return f"{ref.label}, {ref.size:,} bytes" if ref.label.startswith("-") else ref.label


def _conflict(operation: Operation, clashes: Sequence[Clash]) -> ConflictError:
    listed = "; ".join(
        f"{each.where}: {each.want} before it, {each.base} after it, {each.onto} now" for each in clashes[:_LISTED]
    )
    more = " …" if len(clashes) > _LISTED else ""
    what = f"What {operation.kind} {operation.operation_id} changed"
    return ConflictError("change.conflict", what=what, listed=f" ({listed}{more})", done="Nothing was changed.")
