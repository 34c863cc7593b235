"""One undo for a whole application: the public names.

Importing this is cheap: each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfs.production.rollback.errors import RollbackError
    from rfs.production.rollback.manager import RollbackManager
    from rfs.production.rollback.model import (
        CheckpointType,
        DeploymentCheckpoint,
        HealthReport,
        RollbackRecord,
        RollbackStrategy,
    )
    from rfs.production.rollback.plan import Plan
    from rfs.production.rollback.plan import Policy as RollbackPolicy

__all__ = [
    "CheckpointType",
    "DeploymentCheckpoint",
    "HealthReport",
    "Plan",
    "RollbackError",
    "RollbackManager",
    "RollbackPolicy",
    "RollbackRecord",
    "RollbackStrategy",
]

_HOMES = {
    "CheckpointType": ("model", "CheckpointType"),
    "DeploymentCheckpoint": ("model", "DeploymentCheckpoint"),
    "HealthReport": ("model", "HealthReport"),
    "Plan": ("plan", "Plan"),
    "RollbackError": ("errors", "RollbackError"),
    "RollbackManager": ("manager", "RollbackManager"),
    "RollbackPolicy": ("plan", "Policy"),
    "RollbackRecord": ("model", "RollbackRecord"),
    "RollbackStrategy": ("model", "RollbackStrategy"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
