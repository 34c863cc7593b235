"""What RollbackManager is asked for with a strategy, and what it tells of rollbacks that are made later. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.model import RollbackRecord, RollbackStrategy

if TYPE_CHECKING:
    from rfs.production.rollback.deferred import Deferred

# What each strategy needs, and may not be left out.
_NEEDS = {RollbackStrategy.IMMEDIATE: "", RollbackStrategy.GRADUAL: "", RollbackStrategy.SCHEDULED: "at"}


def require_fitting(strategy: RollbackStrategy, **given: object) -> None:
    """Refuse a strategy that there is not, or one with arguments that are not its own.

    Args:
        given: the arguments that belong to one strategy, None where they were left out.

    Raises:
        UsageError: it does not fit.
    """
    if strategy not in _NEEDS:
        known = " or ".join(str(each).upper() for each in _NEEDS)
        raise UsageError("usage", what=f"The strategy {strategy} is not in this release", hint=f"Use {known}.")
    wanted, kind = _NEEDS[strategy], str(strategy).upper()
    article = "An" if kind[0] in "AEIOU" else "A"
    for name, value in given.items():
        if name == wanted and value is None:
            raise UsageError("usage", what=f"{article} {kind} rollback needs {name}", hint=f"Give {name}.")
        if name != wanted and value is not None:
            raise UsageError("usage", what=f"{article} {kind} rollback has no {name}", hint=f"Leave {name} out.")


def told_of(found: Deferred) -> dict[str, Any]:
    """Return what a caller is told of a rollback that was written down."""
    return {"rollback_id": found.rollback_id, "status": str(found.status), "rolled_back_to": found.target}


def with_deferred(done: Sequence[RollbackRecord], deferred: Iterable[Deferred]) -> list[RollbackRecord]:
    """Return records, newest first, with those of deferred rollbacks that are no operations."""
    ids = {each.rollback_id for each in done}
    asked = [each.record() for each in deferred if each.rollback_id not in ids]
    if not asked:
        return list(done)
    return sorted([*asked, *done], key=lambda each: each.executed_at, reverse=True)
