"""Which checkpoint or operation a user means. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from rfs.production.rollback.errors import NotFoundError, UsageError
from rfs.production.rollback.model import CheckpointType, DeploymentCheckpoint

HEX = re.compile(r"[0-9a-f]{1,12}")
SHOWN = 5


def find(selector: str, checkpoints: Sequence[DeploymentCheckpoint]) -> DeploymentCheckpoint:
    """Return the one checkpoint that `selector` means.

    Args:
        selector: `@latest`; `@last-good`, the last one verified healthy; `@-N`, the Nth before the
            latest; a tag or a version (the newest that has it); the beginning of an id; or an ISO
            time, for the last checkpoint not after it (a time without a zone is local).
        checkpoints: newest first. SAFETY ones are only found by their id.

    Raises:
        NotFoundError: nothing matches.
        UsageError: the beginning of an id matches several.
    """
    ordinary = [c for c in checkpoints if c.type is not CheckpointType.SAFETY]
    if selector.startswith("@"):
        found = _relative(selector, ordinary)
    elif not selector:
        found = None
    else:
        found = _named(selector, ordinary) or _prefixed(selector, checkpoints) or _before(selector, ordinary)
    if found is None:
        raise NotFoundError("checkpoint.none", selector=selector)
    return found


def _relative(selector: str, ordinary: Sequence[DeploymentCheckpoint]) -> DeploymentCheckpoint | None:
    if selector == "@latest":
        return ordinary[0] if ordinary else None
    if selector == "@last-good":
        return next((c for c in ordinary if c.verified_healthy), None)
    back = re.fullmatch(r"@-(\d{1,9})", selector)
    if back is None:
        raise UsageError(
            "usage", what=f"{selector} is not a selector", hint="Use @latest, @last-good, @-2, an id, a tag or a time."
        )
    number = int(back[1])
    return ordinary[number] if number < len(ordinary) else None


def _named(selector: str, ordinary: Sequence[DeploymentCheckpoint]) -> DeploymentCheckpoint | None:
    tagged = next((c for c in ordinary if selector in c.tags), None)
    return tagged or next((c for c in ordinary if selector == c.version), None)


def _prefixed(selector: str, checkpoints: Sequence[DeploymentCheckpoint]) -> DeploymentCheckpoint | None:
    if not HEX.fullmatch(selector):
        return None
    matches = [c for c in checkpoints if c.checkpoint_id.startswith(selector)]
    if len(matches) > 1:
        shown = ", ".join(c.checkpoint_id for c in matches[:SHOWN])
        raise UsageError("checkpoint.many", selector=selector, count=len(matches), matches=shown)
    return matches[0] if matches else None


def _before(selector: str, ordinary: Sequence[DeploymentCheckpoint]) -> DeploymentCheckpoint | None:
    try:
        moment = datetime.fromisoformat(selector).astimezone()
    except ValueError:
        return None
    return next((c for c in ordinary if c.created_at <= moment), None)


def find_id(selector: str, ids: Sequence[str]) -> str:
    """Return the one operation id that begins with `selector`; `@latest` is the first of `ids`.

    Raises:
        NotFoundError: none does.
        UsageError: several do.
    """
    if selector == "@latest" and ids:
        return ids[0]
    matches = [each for each in ids if selector and each.startswith(selector)]
    if not matches:
        raise NotFoundError("operation.none", selector=selector)
    if len(matches) > 1:
        raise UsageError("operation.many", selector=selector, count=len(matches), matches=", ".join(matches[:SHOWN]))
    return matches[0]
