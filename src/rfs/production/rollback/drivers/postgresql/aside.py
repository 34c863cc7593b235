"""The databases that were live once: which there are, who needs them, and when they go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from rfs.production.rollback.drivers.postgresql.connect import administering
from rfs.production.rollback.drivers.postgresql.facts import system_of
from rfs.production.rollback.drivers.postgresql.marks import Beside, drop, mine
from rfs.production.rollback.drivers.postgresql.notes import recall, remember
from rfs.production.rollback.model import Capture, Component, utc_now

# What a failed attempt left is in no checkpoint, and neither is what a lost catalog no longer tells of.
UNCLAIMED_KEPT = timedelta(days=7)


class Aside(msgspec.Struct, frozen=True):
    """A database that was live, is closed, and can come back.

    Attributes:
        since: when it was set aside, UTC, as ISO 8601.
        size: bytes on the server's disk.
    """

    component: str
    name: str
    oid: int
    since: str
    size: int


def listed(c: Component) -> list[Aside]:
    """Return the component's databases that were set aside, oldest first."""
    with administering(c) as connection:
        found = [each for each in mine(connection, c) if each.mark.state == "displaced"]
        sizes = dict(
            connection.execute(
                "SELECT oid::bigint, pg_database_size(oid) FROM pg_database d WHERE oid = ANY(%s)",
                [[each.oid for each in found]],
            ).fetchall()
        )
    aside = [Aside(c.name, each.name, each.oid, each.mark.since, sizes.get(each.oid, 0)) for each in found]
    return sorted(aside, key=lambda each: each.since)


def discard(c: Component, kept: Sequence[Capture], gone: Sequence[Capture], *, dry_run: bool) -> list[str]:
    """Drop the databases that nothing refers to any longer; return a sentence for each. See Driver.discard."""
    said: list[str] = []
    notes = recall(c)
    referring = any(each.meta.get("state") == "reference" and each.meta["oid"] for each in (*kept, *gone))
    if not referring and notes.aside is False:
        return said
    with administering(c) as connection:
        system = system_of(connection)
        needed, given_up = _meant(kept, system), _meant(gone, system)
        for each in mine(connection, c):
            if each.mark.state != "displaced" or each.oid in needed:
                continue
            why = "no checkpoint refers to it any longer" if each.oid in given_up else _unclaimed(each)
            if why is None:
                continue
            if not dry_run:
                drop(connection, each.name)
            said.append(f"The database {each.name}, set aside {each.mark.since[:16]}, goes: {why}.")
        left = any(each.mark.state == "displaced" for each in mine(connection, c))
    if notes.aside is not left:
        remember(c, msgspec.structs.replace(recall(c), aside=left))
    return said


def _meant(captures: Iterable[Capture], system: str) -> set[int]:
    """Return the oids of what references mean on this server."""
    return {c.meta["oid"] for c in captures if c.meta.get("state") == "reference" and c.meta["system"] == system}


def _unclaimed(each: Beside) -> str | None:
    try:
        old = utc_now() - datetime.fromisoformat(each.mark.since) > UNCLAIMED_KEPT
    except ValueError:
        return None
    return f"no checkpoint refers to it, for {UNCLAIMED_KEPT.days} days" if old else None
