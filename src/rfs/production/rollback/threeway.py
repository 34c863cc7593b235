"""What of an operation that is not the newest one an undo takes back: what it changed, and nothing that came since."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rfs.production.rollback import keypath
from rfs.production.rollback.capturing import Capturer, Part
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.driver import BlobSource, overrides
from rfs.production.rollback.errors import ConflictError, NotFoundError
from rfs.production.rollback.merging import MOST_BYTES, Clash, Resolution, is_text, merge_lines
from rfs.production.rollback.model import Capture, Change, Ref
from rfs.production.rollback.operation import DEPLOYMENT, EDIT, Operation
from rfs.production.rollback.operationlog import AnyOperation, OperationLog

Selection = dict[str, tuple[str, ...]]
Contents = dict[str, dict[str, bytes]]
_LISTED = 5
# As `ls` and the driver of files show a folder's mode.
_FOLDER = re.compile("d[r-][w-]")


class Meant(NamedTuple):
    """What an undo takes back.

    Attributes:
        names: the components.
        selection: what of each, where it is not all of it.
        merged: by component and key, what files are to say in which other lines were changed since.
    """

    names: Sequence[str]
    selection: Selection
    merged: Contents


def part_to_undo(engine: Capturer, log: OperationLog, operation: Operation, names: Sequence[str], how: str) -> Meant:
    """Return which of its components an undo of a named operation takes back, and what of each.

    A component that nothing newer touched, or of which no part can be restored alone, is taken back as a whole, or
    as the part that the operation was about. So is one of which the state after it is no longer kept.

    Args:
        how: what becomes of what was changed since; see Resolution.

    Raises:
        ConflictError: change.conflict, and `how` does not say what then; operation.already, nothing is left of it.
    """
    whole, chosen, clashes, merged = [], dict[str, tuple[str, ...]](), list[Clash](), Contents()
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
        texts = _merged(part, engine.blobs, sides, apart, Resolution(how)) if sides is not None else {}
        apart = {key: three for key, three in apart.items() if key not in texts}
        merged |= {name: texts} if texts else {}
        clashes += [Clash(f"{name} {key}", *(_told(ref) for ref in three)) for key, three in apart.items()]
        left = tuple(key for key in keys if how != Resolution.OURS or key not in apart)
        if left:
            chosen[name] = left
    if clashes and how == Resolution.REFUSE:
        raise _conflict(operation, clashes)
    if not whole and not chosen:
        raise ConflictError("operation.already", operation=operation.operation_id)
    there = [name for name in names if name in whole or name in chosen]
    return Meant(there, {**operation.plan.part_of(whole), **chosen}, merged)


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


def _merged(
    part: Part,
    blobs: BlobSource,
    sides: tuple[Capture, Capture],
    apart: Mapping[str, tuple[Ref | None, Ref | None, Ref | None]],
    how: Resolution,
) -> dict[str, bytes]:
    """Return what those of these files are to say that are text and differ in nothing else, line by line."""
    c, driver = part.component, part.driver
    if not overrides(driver, "rewrite"):
        return {}
    found: dict[str, bytes] = {}
    for key, (base, want, onto) in apart.items():
        if base is None or want is None or onto is None or not base.label == want.label == onto.label:
            continue  # a mode or an owner is not merged
        before, after, now = (driver.content(c, blobs, side, key, MOST_BYTES) for side in (*sides, None))
        if after is None or before is None or now is None or not all(map(is_text, (before, after, now))):
            continue
        text, clashes = merge_lines(after, before, now, how)
        if not clashes or how is not Resolution.REFUSE:
            found[key] = text
    return found


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
