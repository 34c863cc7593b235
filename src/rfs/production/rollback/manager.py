"""RollbackManager: the application for asynchronous Python code.

Calls that do something return a Result; a RollbackError becomes its Failure, here and
nowhere else. Calls that look return the plain value. The work runs in a worker thread,
on an application opened for that call, so that a manager holds nothing open and may be
shared between tasks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from rfs.core.result import Failure, Result, Success
from rfs.production.rollback import upkeep
from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import GoingOnError, IntegrityError, RollbackError, UsageError
from rfs.production.rollback.model import (
    CheckpointType,
    DeploymentCheckpoint,
    HealthReport,
    RollbackRecord,
    RollbackStrategy,
)
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.plan import Plan
from rfs.production.rollback.settings import Settings, find, load

T = TypeVar("T")


class RollbackManager:
    """Checkpoints and rollbacks of one application.

    Args:
        config: the path of rfs.toml, or settings already loaded; without it, rfs.toml is looked
            for upward from the working directory when it is first needed.
    """

    def __init__(self, config: str | os.PathLike[str] | Settings | None = None) -> None:
        self._config = config

    # — doing —

    async def create_checkpoint(
        self,
        deployment_id: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        type: CheckpointType | None = None,  # noqa: A002  # the name is part of the public contract
        components: Sequence[str] | None = None,
    ) -> Result[str, RollbackError]:
        """Take a checkpoint and return its id.

        Args:
            deployment_id: the caller's name for the deployment.
            metadata: JSON-like. `"type": "pre_deployment"` makes it AUTOMATIC; "version" is a selector.
            type: wins over what `metadata` says; MANUAL without either.
            components: only these.
        """
        facts = dict(metadata or {})
        pre = facts.get("type") == "pre_deployment"
        kind = type or (CheckpointType.AUTOMATIC if pre else CheckpointType.MANUAL)

        def act(app: Application) -> str:
            checkpoint = app.checkpoint(
                kind=kind, deployment_id=deployment_id, metadata=facts, only=tuple(components or ())
            )
            return checkpoint.checkpoint_id

        return await self._do(act)

    async def rollback_to_checkpoint(
        self,
        checkpoint: str | DeploymentCheckpoint,
        reason: str = "",
        *,
        strategy: RollbackStrategy = RollbackStrategy.IMMEDIATE,
        components: Sequence[str] | None = None,
    ) -> Result[dict[str, Any], RollbackError]:
        """Roll the application back, or back to the state before when that fails.

        Returns:
            Success of `{"rollback_id", "status", "rolled_back_to"}`; a Failure says where the system is now.
            The status is "completed"; or "running" when this process belongs to a service that is being stopped
            for it right now. It then goes on outside this process, and `get_rollback_history` tells how it ended.
        """
        selector = _selector(checkpoint)

        def act(app: Application) -> dict[str, Any]:
            if strategy is not RollbackStrategy.IMMEDIATE:
                raise UsageError("usage", what=f"The strategy {strategy} is not in this release", hint="Use IMMEDIATE.")
            only = tuple(components or ())
            return _summary(*_or_going_on(app, lambda: [app.rollback(selector, reason=reason, only=only)]))

        return await self._do(act)

    async def create_backup(self) -> Result[str, RollbackError]:
        """Take a SAFETY checkpoint, as a rollback does before it starts, and return its id."""
        return await self._do(lambda app: app.checkpoint(kind=CheckpointType.SAFETY, message="backup").checkpoint_id)

    async def restore_from_backup(self, backup_id: str) -> Result[dict[str, Any], RollbackError]:
        """Roll back to a backup that `create_backup` or a rollback took."""
        return await self.rollback_to_checkpoint(backup_id, reason="restore from backup")

    async def execute_rollback(self, checkpoint: str | DeploymentCheckpoint) -> Result[dict[str, Any], RollbackError]:
        """Roll back without giving a reason."""
        return await self.rollback_to_checkpoint(checkpoint)

    async def recover(self) -> Result[list[RollbackRecord], RollbackError]:
        """Finish or revert what a crash interrupted; returns the records of what was settled."""
        return await self._do(lambda app: [operation.record() for operation in _or_going_on(app, app.recover)])

    async def undo(self, n: int = 1) -> Result[list[dict[str, Any]], RollbackError]:
        """Take back the last `n` operations, newest first."""
        return await self._do(lambda app: [_summary(each) for each in _or_going_on(app, lambda: app.undo(n))])

    async def verify(self, checkpoint: str) -> Result[str, RollbackError]:
        """Read everything a checkpoint needs back from the store; Success of its id when it is whole."""

        def act(app: Application) -> str:
            found = upkeep.verify(app, checkpoint)
            if found.damaged:
                hint = "Choose another checkpoint; `rfs verify --store` lists the whole ones."
                raise IntegrityError("store.damaged", what=f"checkpoint {found.damaged[0]} is not whole", hint=hint)
            return found.whole[0]

        return await self._do(act)

    # — looking —

    async def plan(
        self, checkpoint: str | DeploymentCheckpoint, *, components: Sequence[str] | None = None
    ) -> Result[Plan, RollbackError]:
        """Return what a rollback would do, lose and need; a Failure where it would be refused."""
        selector = _selector(checkpoint)
        return await self._do(lambda app: app.plan(selector, only=tuple(components or ())))

    def find_checkpoint(self, checkpoint_id: str) -> DeploymentCheckpoint | None:
        """Return the checkpoint that a selector means, or None."""
        with self._open() as app:
            try:
                return app.find(checkpoint_id)
            except RollbackError:
                return None

    async def get_latest_checkpoint(self) -> DeploymentCheckpoint | None:
        """Return the newest checkpoint that is not SAFETY, or None."""
        return await self._in_thread(lambda app: app.catalog.latest(safety=False))

    def get_checkpoints(self) -> list[DeploymentCheckpoint]:
        """Return all checkpoints, newest first."""
        with self._open() as app:
            return app.catalog.checkpoints()

    def get_rollback_history(self) -> list[RollbackRecord]:
        """Return the records of all operations, newest first."""
        with self._open() as app:
            return [operation.record() for operation in app.catalog.operations()]

    async def health_check(self) -> HealthReport:
        """Run the health checks; the report is falsy when a required one failed."""
        return await self._in_thread(lambda app: app.check_health(app.beat))

    # — how —

    def _open(self) -> Application:
        if isinstance(self._config, Settings):
            return Application(self._config)
        return Application(load(os.fspath(self._config) if self._config else find(os.getcwd())))

    async def _do(self, act: Callable[[Application], T]) -> Result[T, RollbackError]:
        try:
            return Success(await self._in_thread(act))
        except RollbackError as error:
            return Failure(error)

    async def _in_thread(self, act: Callable[[Application], T]) -> T:
        import asyncio  # 40 ms that the command line does not need

        opened: list[Application] = []
        cancelled = False

        def work() -> T:
            with self._open() as app:
                opened.append(app)
                if cancelled:
                    app.beat.interrupt()
                return act(app)

        future = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError as cancellation:
            # Never half done: the operation turns back, and only then the caller is let go.
            cancelled = True
            for app in opened:
                app.beat.interrupt()
            while not future.done():
                with suppress(asyncio.CancelledError):  # whoever cancels twice waits all the same
                    await asyncio.wait([future])
            # Also where the way back failed: that must not be lost with the answer.
            raise cancellation from future.exception()


def _or_going_on(app: Application, call: Callable[[], list[Operation]]) -> list[Operation]:
    """Return what the call does, or the running operation that is about to stop this process."""
    try:
        return call()
    except GoingOnError as going_on:
        return [app.catalog.operation(going_on.operation)]


def _selector(checkpoint: str | DeploymentCheckpoint) -> str:
    return checkpoint if isinstance(checkpoint, str) else checkpoint.checkpoint_id


def _summary(operation: Operation) -> dict[str, Any]:
    return {
        "rollback_id": operation.operation_id,
        "status": str(operation.status),
        "rolled_back_to": operation.plan.target,
    }
