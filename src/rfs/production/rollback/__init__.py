"""One undo for a whole application: the public names.

Importing this is cheap: each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfs.production.rollback.conditions import ConditionalRollback
    from rfs.production.rollback.configuration import ConfigurationRollback
    from rfs.production.rollback.default import (
        create_checkpoint,
        create_test_checkpoint,
        rollback_to_checkpoint,
        schedule_checkpoint,
    )
    from rfs.production.rollback.deployment import DeploymentRollbackManager
    from rfs.production.rollback.errors import RollbackError
    from rfs.production.rollback.incremental import IncrementalRollback
    from rfs.production.rollback.manager import RollbackManager
    from rfs.production.rollback.model import (
        CheckpointType,
        DeploymentCheckpoint,
        HealthReport,
        RollbackRecord,
        RollbackStrategy,
    )
    from rfs.production.rollback.model import OperationStatus as RollbackStatus
    from rfs.production.rollback.monitor import AutoRollbackManager
    from rfs.production.rollback.onconnection.manager import DatabaseRollbackManager
    from rfs.production.rollback.plan import Plan
    from rfs.production.rollback.plan import Policy as RollbackPolicy
    from rfs.production.rollback.scheduling import CheckpointSchedule

__all__ = [
    "AutoRollbackManager",
    "CheckpointSchedule",
    "CheckpointType",
    "ConditionalRollback",
    "ConfigurationRollback",
    "DatabaseRollbackManager",
    "DeploymentCheckpoint",
    "DeploymentRollbackManager",
    "HealthReport",
    "IncrementalRollback",
    "Plan",
    "RollbackError",
    "RollbackManager",
    "RollbackPolicy",
    "RollbackRecord",
    "RollbackStatus",
    "RollbackStrategy",
    "create_checkpoint",
    "create_test_checkpoint",
    "rollback_to_checkpoint",
    "schedule_checkpoint",
]

_HOMES = {
    "AutoRollbackManager": ("monitor", "AutoRollbackManager"),
    "CheckpointSchedule": ("scheduling", "CheckpointSchedule"),
    "CheckpointType": ("model", "CheckpointType"),
    "ConditionalRollback": ("conditions", "ConditionalRollback"),
    "ConfigurationRollback": ("configuration", "ConfigurationRollback"),
    "DatabaseRollbackManager": ("onconnection.manager", "DatabaseRollbackManager"),
    "DeploymentCheckpoint": ("model", "DeploymentCheckpoint"),
    "DeploymentRollbackManager": ("deployment", "DeploymentRollbackManager"),
    "HealthReport": ("model", "HealthReport"),
    "IncrementalRollback": ("incremental", "IncrementalRollback"),
    "Plan": ("plan", "Plan"),
    "RollbackError": ("errors", "RollbackError"),
    "RollbackManager": ("manager", "RollbackManager"),
    "RollbackPolicy": ("plan", "Policy"),
    "RollbackRecord": ("model", "RollbackRecord"),
    "RollbackStatus": ("model", "OperationStatus"),
    "RollbackStrategy": ("model", "RollbackStrategy"),
    "create_checkpoint": ("default", "create_checkpoint"),
    "create_test_checkpoint": ("default", "create_test_checkpoint"),
    "rollback_to_checkpoint": ("default", "rollback_to_checkpoint"),
    "schedule_checkpoint": ("default", "schedule_checkpoint"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)
