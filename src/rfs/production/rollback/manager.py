"""RollbackManager: the application for asynchronous Python code.

Calls that do something return a Result; a RollbackError becomes its Failure. Calls that look
return the plain value. The work runs in a worker thread, on an application opened for that
call, so that a manager holds nothing open and may be shared between tasks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from rfs.core.result import Result
from rfs.production.rollback import upkeep
from rfs.production.rollback.application import Application
from rfs.production.rollback.arming import arm
from rfs.production.rollback.asking import put_off_until, told_of, with_deferred
from rfs.production.rollback.conditions import ConditionalRollback
from rfs.production.rollback.errors import GoingOnError, IntegrityError, RollbackError, UsageError
from rfs.production.rollback.governed import Governed
from rfs.production.rollback.gradually import roll_back_gradually
from rfs.production.rollback.hooks import (
    FACETS,
    Described,
    Facet,
    Hook,
    HookedApplication,
    facet_of,
    make_store,
    settings_of,
)
from rfs.production.rollback.model import (
    CheckpointType,
    DeploymentCheckpoint,
    HealthReport,
    RollbackRecord,
    RollbackStrategy,
    in_utc,
)
from rfs.production.rollback.onthread import as_result, in_thread
from rfs.production.rollback.operation import DEPLOYMENT, EDIT, Operation
from rfs.production.rollback.operationlog import AnyOperation
from rfs.production.rollback.plan import Plan
from rfs.production.rollback.plan import Policy as RollbackPolicy
from rfs.production.rollback.selection import chosen
from rfs.production.rollback.settings import NAME_PATTERN, Settings, policy_of

if TYPE_CHECKING:
    import asyncio
    from datetime import datetime, timedelta

    from rfs.production.rollback.scheduling import CheckpointSchedule

T = TypeVar("T")
Op = TypeVar("Op")  # of operations


class RollbackManager(Governed):
    """Checkpoints and rollbacks of one application.

    Args:
        config: the path of rfs.toml or of its folder, or settings already loaded; without it, rfs.toml is
            looked for upward from the working directory when it is first needed.
        policy: as `[policy]` of rfs.toml has it, and in its place.

    A subclass may override hooks, sync or async, and then needs no rfs.toml: `get_configuration` with
    `restore_configuration(state)`, `get_database_schema` with `restore_database(state)`,
    `calculate_file_checksums` with `restore_files(state)`, `stop_services` with `start_services`,
    `get_deployed_services`, `get_environment_variables`, `health_check`. What a `get` hook returns is JSON-like,
    and is what the `restore` hook is given. Sync hooks run in a worker thread, async ones on the caller's loop.
    Hooks that bring something back take the place of the configured components of that kind.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Settings | None = None,
        *,
        policy: RollbackPolicy | Mapping[str, Any] | None = None,
    ) -> None:
        self._config = config
        self._policy = policy
        self._registered: dict[str, Described] = {}

    def register_component(
        self,
        name: str,
        *,
        get: Hook | None = None,
        restore: Hook | None = None,
        stop: Hook | None = None,
        start: Hook | None = None,
        health_check: Hook | None = None,
    ) -> None:
        """Describe a component in code, beside or instead of subclassing. All hooks may be sync or async.

        Args:
            name: the component's; one of "configuration", "database_schema", "deployed_services",
                "environment_variables" and "file_checksums" stands for the hooks of a subclass.
            get: returns its live state, JSON-like.
            restore: is given such a state and brings the live one to it; needs `get`.
            stop, start: of its processes; both or neither.
            health_check: returns something falsy when it is not well.

        Raises:
            UsageError: the name is not usable, or a hook lacks the one it needs beside it.
        """
        if not re.match(NAME_PATTERN, name):
            what = f"{name!r} is no name for a component"
            raise UsageError("usage", what=what, hint='Use letters, digits, ".", "_" and "-".')
        described = Described(get, restore, stop, start, health_check)
        described.check(facet_of(name))
        self._registered[name] = described

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
        at: datetime | None = None,
        condition: object = None,
        paths: Sequence[str] = (),
        keys: Sequence[str] = (),
        tables: Sequence[str] = (),
        request: str | None = None,
        break_glass: str = "",
    ) -> Result[dict[str, Any], RollbackError]:
        """Roll the application back, or back to the state before when that fails.

        Args:
            checkpoint: an id, another selector, or a checkpoint.
            reason: for the history.
            strategy: IMMEDIATE; GRADUAL, one wave of instances after the other; SCHEDULED or CONDITIONAL, which write
                it down for `rfs watch` and return at once.
            components: only these.
            at: when, of a SCHEDULED rollback; a time without a zone is local.
            condition: of a CONDITIONAL one: a ConditionalRollback, which is measured in this process for as long as it
                lives (see arming.py); or the name of a condition in rfs.toml, which `rfs watch` measures.
            paths, keys, tables: only these files and folders, these keys of a configuration (`"a.b"`, or
                `"NAME:a.b"`), and these tables of a SQLite database.
            request: go on with this request for approval; without it, with that of the same plan, if there is one.
            break_glass: why it is done whatever the policy says; recorded.

        Returns:
            Success of `{"rollback_id", "status", "rolled_back_to"}`; a Failure says where the system is now.
            The status is "completed"; "scheduled" or "armed"; or "running" when this process belongs to a service that
            is being stopped for it right now. It then goes on outside; `get_rollback_history` tells how it ended.
            A GRADUAL one tells "instances", too: what each runs. It is a Failure (PausedError) when it is paused.
        """
        selector = _selector(checkpoint)

        def act(app: Application, **armed: Any) -> dict[str, Any]:
            put_off = {**put_off_until(strategy, at=at, condition=condition), **armed}
            app.consent = msgspec.structs.replace(app.consent, request=request, break_glass=break_glass)
            only, part = tuple(components or ()), chosen(app.parts, paths, keys, tables)
            if strategy is RollbackStrategy.GRADUAL:
                return roll_back_gradually(app, selector, reason=reason, only=only, whole=not part)
            if put_off:
                return told_of(app.defer(selector, reason=reason, only=only, selection=part, **put_off))
            roll_back = partial(app.rollback, selector, reason=reason, only=only, selection=part)
            return _summary(*_or_going_on(app, lambda: [roll_back()]))

        if isinstance(condition, ConditionalRollback) and strategy is RollbackStrategy.CONDITIONAL:
            return await arm(self._do, condition, act)
        return await self._do(act)

    async def roll_back_automatically(self, reason: str, *, before: datetime) -> Result[dict[str, Any], RollbackError]:
        """Roll back to the last checkpoint verified healthy before some time, and quarantine the version that is live.

        Args:
            reason: for the history, a sentence without its full stop.
            before: when the trouble began.

        Returns:
            As `rollback_to_checkpoint`; a Failure also when there is no such checkpoint.
        """
        from rfs.production.rollback.automatic import roll_back

        act = partial(roll_back, reason=reason, trouble=in_utc(before))
        return await self._do(lambda app: _summary(*_or_going_on(app, lambda: [act(app)])))

    def opened(self) -> Application:
        """Return the application with its hooks, for whoever looks from a thread of his own, and closes it."""
        return self._open()

    def schedule_checkpoint(
        self, interval: timedelta | None = None, *, components: Sequence[str] | None = None
    ) -> CheckpointSchedule:
        """Take a SCHEDULED checkpoint every so often, from now until it is cancelled or the event loop ends.

        The first is taken at once, unless the newest SCHEDULED one is younger than the interval; so restarting
        the program changes nothing. A checkpoint that fails does not end the schedule.

        Args:
            interval: between two; 6 hours when left out.
            components: only these.

        Returns:
            The running schedule.

        Raises:
            UsageError: the interval is not longer than nothing, or no event loop is running.
        """
        from rfs.production.rollback.scheduling import CheckpointSchedule

        def newest() -> datetime | None:
            times = (each.created_at for each in self.get_checkpoints() if each.type is CheckpointType.SCHEDULED)
            return max(times, default=None)

        async def take() -> Result[str, RollbackError]:
            return await self.create_checkpoint("", type=CheckpointType.SCHEDULED, components=components)

        return CheckpointSchedule(take, newest, interval)

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

    async def undo(
        self,
        n: int = 1,
        *,
        component: str | None = None,
        operation: str | None = None,
        conflicts: Literal["refuse", "ours", "theirs"] = "refuse",
        request: str | None = None,
        break_glass: str = "",
    ) -> Result[list[dict[str, Any]], RollbackError]:
        """Take back the last `n` operations of the log, newest first: rollbacks, versions, tracked changes.

        Args:
            component: only operations that touched it count, and only it is taken back.
            operation: the id of the one that is to be taken back, instead.
            conflicts: what becomes of what was changed since: nothing is done; it stays; it is overwritten, too.
            request, break_glass: see `rollback_to_checkpoint`.
        """
        from rfs.production.rollback import undo  # few programs need it, and it takes a while
        from rfs.production.rollback.merging import Resolution

        meant = partial(undo.undo, component=component, operation=operation, how=Resolution(conflicts))

        def act(app: Application) -> list[dict[str, Any]]:
            app.consent = msgspec.structs.replace(app.consent, request=request, break_glass=break_glass)
            return [_summary(each) for each in _or_going_on(app, lambda: meant(app, n))]

        return await self._do(act)

    async def redo(self) -> Result[list[dict[str, Any]], RollbackError]:
        """Take back the last undo, unless something else was done since."""
        from rfs.production.rollback import undo
        from rfs.production.rollback.undoing import to_redo

        def act(app: Application) -> list[dict[str, Any]]:
            undo.settle(app)
            last = to_redo(app.log)
            return [_summary(each) for each in _or_going_on(app, lambda: undo.undo(app, operation=last))]

        return await self._do(act)

    async def verify(self, checkpoint: str) -> Result[str, RollbackError]:
        """Read everything a checkpoint needs back from the store; Success of its id when it is whole."""

        def act(app: Application) -> str:
            found = upkeep.verify(app, checkpoint)
            if found.damaged:
                hint = "Choose another checkpoint; `rfs verify --store` lists the whole ones."
                raise IntegrityError("store.damaged", what=f"checkpoint {found.damaged[0]} is not whole", hint=hint)
            return found.whole[0]

        return await self._do(act)

    async def copy_to(self, folder: str) -> Result[RollbackManager, RollbackError]:
        """Copy what the application keeps in files to an empty folder; return a manager of the copy.

        See `create_test_checkpoint`, which is what this is for.
        """
        from rfs.production.rollback.rehearsal import copy_application

        return await self._do(lambda app: RollbackManager(copy_application(app, folder)))

    async def cancel_rollback(self, rollback_id: str, reason: str = "") -> Result[str, RollbackError]:
        """Let a scheduled or an armed rollback not be made; Success of its id."""
        return await self._do(lambda app: app.call_off(rollback_id, reason=reason).rollback_id)

    # — looking —

    async def plan(
        self,
        checkpoint: str | DeploymentCheckpoint,
        *,
        components: Sequence[str] | None = None,
        paths: Sequence[str] = (),
        keys: Sequence[str] = (),
        tables: Sequence[str] = (),
    ) -> Result[Plan, RollbackError]:
        """Return what a rollback would do, lose and need; a Failure where it would be refused."""
        selector, only = _selector(checkpoint), tuple(components or ())
        return await self._do(
            lambda app: app.plan(selector, only=only, selection=chosen(app.parts, paths, keys, tables))
        )

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
        """Return the records of all operations, newest first, and of scheduled and armed rollbacks."""
        with self._open() as app:
            done = [each.record() for each in app.catalog.operations() if each.kind not in (DEPLOYMENT, EDIT)]
            return with_deferred(done, app.catalog.deferred())

    async def health_check(self) -> HealthReport:
        """Run the health checks; the report is falsy when a required one failed. A hook: a subclass may override it."""
        return await self._in_thread(lambda app: app.check_health(app.beat), overridden=False)

    async def collect_system_state(self) -> dict[str, Any]:
        """Return the live state, for a person to look at: secrets are masked.

        Returns:
            By "configuration", "database_schema", "deployed_services", "environment_variables" and
            "file_checksums": what the hook of that name says, or else what each configured component of
            that kind holds, by its name.

        Raises:
            RollbackError: something cannot be read.
        """

        def look(app: Application) -> dict[str, Any]:
            return {facet.name: _outline(app, facet) for facet in FACETS}

        return await self._in_thread(look)

    def get_configuration(self) -> Any:
        """Await the configuration of the configured components. A hook: a subclass may override it, sync or async."""
        return self._configured("configuration")

    def get_database_schema(self) -> Any:
        """Await the schema of the configured databases. A hook."""
        return self._configured("database_schema")

    def get_deployed_services(self) -> Any:
        """Await which of the configured services run. A hook."""
        return self._configured("deployed_services")

    def get_environment_variables(self) -> Any:
        """Await the names in the configured environment files, with every value masked. A hook."""
        return self._configured("environment_variables")

    def calculate_file_checksums(self) -> Any:
        """Await one checksum for each configured component of files. A hook."""
        return self._configured("file_checksums")

    # — how —

    async def _configured(self, name: str) -> Any:
        return await self._in_thread(lambda app: _outline(app, facet_of(name)), overridden=False)

    def _hook(self, name: str) -> Hook | None:
        """Return a hook that a subclass, or somebody who set an attribute, supplies."""
        hook: Hook | None = getattr(self, name, None)
        own = getattr(RollbackManager, name, None)
        return None if hook is None or getattr(hook, "__func__", None) is own else hook

    def _described(self) -> dict[str, Described]:
        described = dict(self._registered)
        for facet in FACETS:
            names = (facet.get, facet.restore, facet.stop, facet.start)
            hooks = [self._hook(name) if name else None for name in names]
            if any(hook is not None for hook in hooks):
                described[facet.name] = Described(*hooks)
        return described

    def _open(self, loop: asyncio.AbstractEventLoop | None = None, *, overridden: bool = True) -> Application:
        described = self._described()
        for name, each in described.items():
            each.check(facet_of(name))
        settings = settings_of(self._config, described=bool(described))
        if self._policy is not None:
            settings = msgspec.structs.replace(settings, policy=policy_of(self._policy))
        checks = {name: each.health_check for name, each in described.items() if each.health_check is not None}
        own = self._hook("health_check")
        if own is not None and overridden:
            checks["health_check"] = own
        if not overridden:
            described = {name: each for name, each in described.items() if name in self._registered}
        if not described and not checks:
            return self._known(Application(settings))
        make_store(settings)
        replaces = "health_check" in checks
        return self._known(
            HookedApplication(settings, described=described, checks=checks, replaces_checks=replaces, loop=loop)
        )

    async def _do(self, act: Callable[[Application], T]) -> Result[T, RollbackError]:
        return await as_result(self._open, act)

    async def _in_thread(self, act: Callable[[Application], T], *, overridden: bool = True) -> T:
        """Run `act` in a worker thread. With `overridden` False: as if the subclass overrode nothing."""
        return await in_thread(lambda loop: self._open(loop, overridden=overridden), act)


def _or_going_on(app: Application, call: Callable[[], list[Op]]) -> list[Op | Operation]:
    """Return what the call does, or the running operation that is about to stop this process."""
    try:
        return [*call()]
    except GoingOnError as going_on:
        return [app.catalog.operation(going_on.operation)]


def _outline(app: Application, facet: Facet) -> Any:
    """Return what a person may see of one facet: of the component made of its hooks, or of the configured ones."""
    own = app.parts.get(facet.name)
    if own is not None and own.component.kind == "hook":
        return own.driver.outline(own.component)
    there = [part for part in app.parts.values() if part.component.kind in facet.kinds]
    return {part.component.name: part.driver.outline(part.component) for part in there}


def _selector(checkpoint: str | DeploymentCheckpoint) -> str:
    return checkpoint if isinstance(checkpoint, str) else checkpoint.checkpoint_id


def _summary(operation: AnyOperation) -> dict[str, Any]:
    return {
        "rollback_id": operation.operation_id,
        "status": str(operation.status),
        "rolled_back_to": operation.plan.target if isinstance(operation, Operation) else operation.destination,
    }
