"""What `rfs doctor` says about a files component."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rfs.production.rollback.driver import Finding
from rfs.production.rollback.drivers.files import index, places
from rfs.production.rollback.drivers.files.options import Rules
from rfs.production.rollback.drivers.files.stage import existing
from rfs.production.rollback.drivers.files.tree import ROW, UID
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component


def findings(c: Component) -> Iterator[Finding]:
    """Yield what would stand in the way of a capture or a restore of a component."""
    try:
        place = places.locate(c)
        Rules(c, (place.path, place.real))
    except RollbackError as error:
        yield Finding("error", str(error), error.hint)
        return
    if not os.access(place.real, os.R_OK | os.X_OK):
        problem = RollbackError("path.unreadable", path=shown(place.real), component=c.name, why="permission denied")
        yield Finding("error", str(problem), problem.hint)
    elif not os.access(place.real, os.W_OK):
        problem = RollbackError("path.unwritable", path=shown(place.real), component=c.name, why="permission denied")
        yield Finding("error", str(problem), problem.hint)
    if os.geteuid() != 0 and (other := _owned_by_others(c, place.real)):
        owner = RollbackError("path.owner", path=shown(other))
        yield Finding("warning", str(owner), owner.hint)
    for mount in places.mounts_under(place.real):
        yield Finding(
            "warning",
            f"Something is mounted at {shown(mount)}, inside the component {c.name}: "
            "files there are written one by one during an outage.",
            "Exclude it, if it is no part of the application.",
        )
    for path in existing(c, {place.path, place.real}):
        yield Finding(
            "warning",
            f"A rollback left its stage at {shown(path)}.",
            "`rfs recover` finishes what was interrupted and removes it.",
        )


def _owned_by_others(c: Component, real: str) -> str | None:
    """Return a path whose owner is another user; beyond the first level only as the last look knows."""
    user = os.geteuid()
    if os.stat(real).st_uid != user:
        return real
    known = index.load(c.work)
    for folder, block in known.blocks.items() if known is not None else ():
        for name, uid in zip(block.listed(), block.numbers()[UID::ROW], strict=True):
            if uid != user:
                return os.path.join(real, os.fsdecode(folder), name)
    return None
