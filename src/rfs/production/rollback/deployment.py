"""DeploymentRollbackManager: a deployment that takes itself back when it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from rfs.core.result import Result
from rfs.production.rollback.application import Application
from rfs.production.rollback.conditions import ConditionalRollback
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.guarded import Deployment
from rfs.production.rollback.guarding import Change, CommandChange, FailedError, Guard, Trial
from rfs.production.rollback.hooks import Caller, Hook
from rfs.production.rollback.manager import RollbackManager
from rfs.production.rollback.model import DeploymentCheckpoint, RollbackRecord
from rfs.production.rollback.onthread import as_result

if TYPE_CHECKING:
    import asyncio


class DeploymentRollbackManager(RollbackManager):
    """A RollbackManager that deploys: checkpoint, change, watch, and keep it or go back. `rfs guard` in Python."""

    async def deploy(
        self,
        deployment_id: str,
        change: Sequence[str] | Hook,
        metadata: Mapping[str, Any] | None = None,
        *,
        confirm_by: Literal["health", "person"] = "health",
        bake: float | timedelta | None = None,
        watches: Sequence[ConditionalRollback | Callable[[datetime], str | Awaitable[str | None] | None]] = (),
        break_glass: str = "",
    ) -> Result[dict[str, Any], RollbackError]:
        """Take a checkpoint of type AUTOMATIC, make the change, watch the application, and keep it or go back.

        Args:
            deployment_id: the caller's name for the deployment.
            change: a command as a list, run in the working directory without a shell; or a function, sync or async,
                which fails by raising, or by returning False or a Failure.
            metadata: of the checkpoint, JSON-like. "version" is what is quarantined when it turns bad;
                "auto_rollback" goes before the policy: with False it is only watched.
            confirm_by: "person": it goes back unless `rfs confirm` comes before the bake is over.
            bake: seconds, or a timedelta, that it is watched for once it is well; `[policy] bake` when left out.
            watches: conditions beside the health checks and those of rfs.toml: rules, which are measured before the
                change and after it, or functions, sync or async, as guarding.Watch has it.
            break_glass: why it is made whatever freezes deployments; recorded.

        Returns:
            Success of `{"deployment_id", "guard_id", "checkpoint_id", "version", "status", "notes"}` when it was
            kept. A Failure otherwise: a GuardRevertedError (code 20, or the command's own exit status) says that the
            system is back; a ChangeFailedError, that it was only watched; a RevertedError (30), that the rollback
            failed and the change is live; a QuarantinedError (21) or another, that nothing was begun.
        """

        def begin(loop: asyncio.AbstractEventLoop) -> Application:
            opened.append(loop)
            return self._open(loop)

        def act(app: Application) -> dict[str, Any]:
            caller = Caller(app.beat, opened[0])
            trial = Trial(
                deployment_id=deployment_id,
                metadata={"type": "pre_deployment", **(metadata or {})},
                confirm_by=confirm_by,
                bake=bake.total_seconds() if isinstance(bake, timedelta) else bake,
                watches=tuple(partial(caller.call, "condition", each) for each in asked),
                rules=tuple(measured_on(opened[0], each) for each in rules),
                break_glass=break_glass,
            )
            outcome = Guard(app).run(_change_of(change, caller), trial)
            return {**_summary(outcome.deployment), "notes": [*outcome.notes, *outcome.warnings]}

        from rfs.production.rollback.measuring import measured_on

        rules = [each for each in watches if isinstance(each, ConditionalRollback)]
        asked = [each for each in watches if not isinstance(each, ConditionalRollback)]
        opened: list[asyncio.AbstractEventLoop] = []
        return await as_result(begin, act)

    @property
    def checkpoints(self) -> list[DeploymentCheckpoint]:
        """All checkpoints, newest first, as they are in the store now."""
        return self.get_checkpoints()

    @property
    def rollback_history(self) -> list[RollbackRecord]:
        """The records of all operations, newest first, as they are in the store now."""
        return self.get_rollback_history()


class _CallableChange:
    """A function that makes the change. One that is sync is waited for also when it is to stop."""

    def __init__(self, function: Hook, caller: Caller) -> None:
        self._function = function
        self._caller = caller

    def check(self) -> None:
        """Nothing can be told of a function before it is called."""

    def run(self, app: Application, deployment: Deployment) -> None:
        try:
            self._caller.order("change", self._function)
        except RollbackError as error:
            if error.key != "hook.failed":
                raise
            raise FailedError(str(error).rstrip(".")) from error


def _change_of(change: Sequence[str] | Hook, caller: Caller) -> Change:
    if callable(change):
        return _CallableChange(change, caller)
    if isinstance(change, str) or not all(isinstance(word, str) for word in change):
        hint = 'Give a list of words, ["./deploy.sh", "v2"], or a function.'
        raise UsageError("usage", what="The change is neither a command as a list nor a function", hint=hint)
    return CommandChange(change)


def _summary(found: Deployment) -> dict[str, Any]:
    return {
        "deployment_id": found.deployment_id,
        "guard_id": found.guard_id,
        "checkpoint_id": found.checkpoint_id,
        "version": found.version,
        "status": str(found.phase),
    }
