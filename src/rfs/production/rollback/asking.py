"""What RollbackManager is asked for with a strategy, and what it tells of rollbacks that are made later. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rfs.production.rollback.conditions import ConditionalRollback
from rfs.production.rollback.errors import UsageError
from rfs.production.rollback.model import RollbackRecord, RollbackStrategy

if TYPE_CHECKING:
    from rfs.production.rollback.deferred import Deferred

# What each strategy needs, and may not be left out.
_NEEDS = {
    RollbackStrategy.IMMEDIATE: "",
    RollbackStrategy.GRADUAL: "",
    RollbackStrategy.SCHEDULED: "at",
    RollbackStrategy.CONDITIONAL: "condition",
}


def put_off_until(strategy: RollbackStrategy, **given: object) -> dict[str, Any]:
    """Return what a strategy puts a rollback off until, as `Application.defer` takes it; empty when it is made now.

    Args:
        given: the arguments that belong to one strategy, None where they were left out.

    Raises:
        UsageError: they are not those of the strategy.
    """
    wanted, kind = _NEEDS[strategy], str(strategy).upper()
    article = "An" if kind[0] in "AEIOU" else "A"
    for name, value in given.items():
        if name == wanted and value is None:
            raise UsageError("usage", what=f"{article} {kind} rollback needs {name}", hint=f"Give {name}.")
        if name != wanted and value is not None:
            raise UsageError("usage", what=f"{article} {kind} rollback has no {name}", hint=f"Leave {name} out.")
    if wanted == "condition" and not isinstance(given[wanted], str | ConditionalRollback):
        what = "condition takes a ConditionalRollback, or the name of a condition in rfs.toml"
        raise UsageError("usage", what=what, hint="Give one of the two.")
    return {wanted: given[wanted]} if wanted else {}


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
