"""What a plan has to know of one component: how its live state differs from what is wanted, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rfs.production.rollback.capturing import Capturer, Part, require_kind
from rfs.production.rollback.driver import overrides
from rfs.production.rollback.model import Capture
from rfs.production.rollback.plan import Scope


def scope_of(engine: Capturer, part: Part, want: Capture | None, measure: bool, keys: Sequence[str] = ()) -> Scope:
    """Return a component as the planner sees it.

    Args:
        want: what it is to be; None for one whose services are only stopped and started.
        measure: compare it with the live state, which takes a scan.
        keys: only this of it, or all.

    Raises:
        ConflictError: it is of another kind than what is wanted.
        RollbackError: the live state cannot be read.
    """
    c, driver = part.component, part.driver
    scope = Scope(
        component=c.name,
        kind=c.kind,
        want=want,
        reversibility=driver.reversibility,
        runs=driver.runs,
        starts=overrides(driver, "start"),
        depends_on=c.depends_on,
    )
    if want is None:
        return scope
    require_kind(part, want)
    if not measure:
        return msgspec.structs.replace(scope, warnings=want.warnings)
    with engine.beat.doing(f"comparing {c.name}"):
        found = changes = tuple(driver.changes(c, engine.blobs, want, None))
        if keys:
            changes = tuple(driver.among(found, keys))
        losses = tuple(driver.losses(c, engine.blobs, want, changes))
        warnings = (*want.warnings, *driver.caveats(c, want, changes))
        if keys:
            warnings = (*warnings, *driver.splits(c, engine.blobs, want, found, keys))
        effort = driver.effort(c, want, changes)
    if keys and (others := len(found) - len(changes)):
        warnings = (*warnings, f"Only a part of {c.name} goes back: {others:,} other changes in it stay.")
    return msgspec.structs.replace(scope, changes=changes, losses=losses, warnings=warnings, effort=effort)
