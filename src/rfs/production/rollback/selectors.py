"""Which checkpoint or operation a user means. Asks for no more records than it takes to know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Protocol

from rfs.production.rollback.errors import NotFoundError, UsageError
from rfs.production.rollback.model import DeploymentCheckpoint

HEX = re.compile(r"[0-9a-f]{1,12}")
# Of a tracked change, of which there may be very many, the id is longer.
LONG_HEX = re.compile(r"[0-9a-f]{1,24}")
SHOWN = 5


class Checkpoints(Protocol):
    """Where checkpoints are looked for; the catalog is one."""

    def ordinary(self) -> Iterable[DeploymentCheckpoint]:
        """Return all but the SAFETY ones, newest first."""

    def checkpoint_ids(self, prefix: str) -> list[str]:
        """Return the ids that begin with `prefix`, also of SAFETY ones, newest first."""

    def checkpoint(self, checkpoint_id: str) -> DeploymentCheckpoint:
        """Return the checkpoint with exactly this id."""


class Ids(Protocol):
    """Where operations are looked for."""

    def __call__(self, prefix: str, limit: int) -> list[str]:
        """Return the ids that begin with `prefix`, newest first, at most `limit` when that is not negative."""


def find(selector: str, checkpoints: Checkpoints) -> DeploymentCheckpoint:
    """Return the one checkpoint that `selector` means.

    Args:
        selector: `@latest`; `@last-good`, the last one verified healthy; `@-N`, the Nth before the
            latest; a tag or a version (the newest that has it); the beginning of an id; or an ISO
            time, for the last checkpoint not after it (a time without a zone is local).
        checkpoints: where it is looked for. SAFETY ones are only found by their id.

    Raises:
        NotFoundError: nothing matches.
        UsageError: the beginning of an id matches several.
    """
    if selector.startswith("@"):
        found = _relative(selector, checkpoints.ordinary())
    elif not selector:
        found = None
    else:
        ordinary = list(checkpoints.ordinary())
        found = _named(selector, ordinary) or _prefixed(selector, checkpoints) or _before(selector, ordinary)
    if found is None:
        raise NotFoundError("checkpoint.none", selector=selector)
    return found


def _relative(selector: str, ordinary: Iterable[DeploymentCheckpoint]) -> DeploymentCheckpoint | None:
    if selector == "@latest":
        return next(iter(ordinary), None)
    if selector == "@last-good":
        return next((c for c in ordinary if c.verified_healthy), None)
    back = re.fullmatch(r"@-(\d{1,9})", selector)
    if back is None:
        raise UsageError(
            "usage", what=f"{selector} is not a selector", hint="Use @latest, @last-good, @-2, an id, a tag or a time."
        )
    return next(islice(ordinary, int(back[1]), None), None)


def _named(selector: str, ordinary: list[DeploymentCheckpoint]) -> DeploymentCheckpoint | None:
    tagged = next((c for c in ordinary if selector in c.tags), None)
    return tagged or next((c for c in ordinary if selector == c.version), None)


def _prefixed(selector: str, checkpoints: Checkpoints) -> DeploymentCheckpoint | None:
    matches = checkpoints.checkpoint_ids(selector) if HEX.fullmatch(selector) else []
    if len(matches) > 1:
        raise UsageError("checkpoint.many", selector=selector, count=len(matches), matches=", ".join(matches[:SHOWN]))
    return checkpoints.checkpoint(matches[0]) if matches else None


def _before(selector: str, ordinary: list[DeploymentCheckpoint]) -> DeploymentCheckpoint | None:
    try:
        moment = datetime.fromisoformat(selector).astimezone()
    except ValueError:
        return None
    return next((c for c in ordinary if c.created_at <= moment), None)


def find_id(selector: str, ids: Ids) -> str:
    """Return the one operation id that begins with `selector`, or with `@latest` the newest.

    Raises:
        NotFoundError: none does.
        UsageError: several do.
    """
    matches: list[str] = []
    if selector == "@latest":
        matches = ids("", 1)
    elif LONG_HEX.fullmatch(selector):
        matches = ids(selector, -1)
    if not matches:
        raise NotFoundError("operation.none", selector=selector)
    if len(matches) > 1:
        raise UsageError("operation.many", selector=selector, count=len(matches), matches=", ".join(matches[:SHOWN]))
    return matches[0]
