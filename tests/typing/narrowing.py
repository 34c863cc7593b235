"""What a type checker must know of a Result: read by mypy and by ty in a test, never run."""

from typing import Any, assert_type

from rfs.core.result import Failure, Result, Success
from rfs.production.rollback import (
    CheckpointType,
    DeploymentCheckpoint,
    RollbackError,
    RollbackManager,
    RollbackRecord,
    create_checkpoint,
)


async def sides(manager: RollbackManager) -> str:
    result = await manager.create_checkpoint("deploy-42", {"type": "pre_deployment"}, type=CheckpointType.MANUAL)
    assert_type(result, Result[str, RollbackError])
    if result.is_success():
        assert_type(result.value, str)
        return result.value
    assert_type(result.error.hint, str)
    return f"{result.error}"


async def matched() -> str:
    match await create_checkpoint("deploy-42"):
        case Success(checkpoint_id):
            return checkpoint_id
        case Failure(error):
            assert_type(error, RollbackError)
            return error.hint


async def chained(manager: RollbackManager) -> None:
    made = await manager.create_checkpoint("deploy-42")
    assert_type(made.map(len).unwrap_or(0), int)
    assert_type(made.unwrap(), str)


async def looks(manager: RollbackManager) -> None:
    assert_type(manager.find_checkpoint("v1"), DeploymentCheckpoint | None)
    assert_type(await manager.get_latest_checkpoint(), DeploymentCheckpoint | None)
    assert_type(manager.get_rollback_history(), list[RollbackRecord])
    assert_type(await manager.collect_system_state(), dict[str, Any])
    if latest := await manager.get_latest_checkpoint():
        assert_type(latest.created_at.year, int)
    if not await manager.health_check():
        return


class Hooked(RollbackManager):
    """Hooks may be sync or async, whatever the base has."""

    async def get_configuration(self) -> dict[str, str]:
        return {}

    def get_database_schema(self) -> list[str]:
        return []

    async def health_check(self) -> Any:
        return True

    def restore_configuration(self, state: dict[str, str]) -> None: ...
