"""The functions of the package: they act on the manager of the rfs.toml that is found from the working directory."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rfs.core.result import Failure, Result, Success
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.manager import RollbackManager
from rfs.production.rollback.model import CheckpointType, DeploymentCheckpoint, RollbackStrategy
from rfs.production.rollback.scheduling import CheckpointSchedule

_manager = RollbackManager()
# The managers of this process's scratch copies, by the id of their checkpoint.
_copies: dict[str, RollbackManager] = {}


async def create_checkpoint(
    deployment_id: str,
    metadata: Mapping[str, Any] | None = None,
    *,
    type: CheckpointType | None = None,  # noqa: A002  # the name is part of the public contract
    components: Sequence[str] | None = None,
) -> Result[str, RollbackError]:
    """Take a checkpoint and return its id; see RollbackManager.create_checkpoint."""
    return await _manager.create_checkpoint(deployment_id, metadata, type=type, components=components)


async def rollback_to_checkpoint(
    checkpoint: str | DeploymentCheckpoint,
    reason: str = "",
    *,
    strategy: RollbackStrategy = RollbackStrategy.IMMEDIATE,
    components: Sequence[str] | None = None,
    at: datetime | None = None,
    condition: object = None,
) -> Result[dict[str, Any], RollbackError]:
    """Roll back; see RollbackManager.rollback_to_checkpoint. A test checkpoint's scratch copy, where it is one."""
    checkpoint_id = checkpoint if isinstance(checkpoint, str) else checkpoint.checkpoint_id
    manager = _copies.get(checkpoint_id, _manager)
    return await manager.rollback_to_checkpoint(
        checkpoint_id, reason, strategy=strategy, components=components, at=at, condition=condition
    )


def schedule_checkpoint(interval: timedelta | None = None) -> CheckpointSchedule:
    """Take a checkpoint every so often; see RollbackManager.schedule_checkpoint."""
    return _manager.schedule_checkpoint(interval)


async def create_test_checkpoint(manager: RollbackManager | None = None) -> Result[DeploymentCheckpoint, RollbackError]:
    """Copy the application to a scratch folder and take a checkpoint of the copy, to rehearse a rollback in a test.

    Nothing live is changed, by this or by what is done with it: `rollback_to_checkpoint` of this package, given
    the checkpoint, rolls the copy back. The copy goes when the process ends.

    Args:
        manager: of the application; the default one when left out.

    Returns:
        Success of the checkpoint. `metadata["home"]` is the copy's folder: what is at PATH in the application is
        at `tree/PATH` in it. Services, health checks and components that are not files are not copied.
    """
    folder = tempfile.mkdtemp(prefix="rfs-rehearsal-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = await (manager or _manager).copy_to(folder)
    if made.is_failure():
        return Failure(made.error)
    taken = await made.value.create_checkpoint("", {"type": "test", "home": folder})
    if taken.is_failure():
        return Failure(taken.error)
    _copies[taken.value] = made.value
    checkpoint = made.value.find_checkpoint(taken.value)
    if checkpoint is None:
        return Failure(NotFoundError("checkpoint.none", selector=taken.value))
    return Success(checkpoint)
