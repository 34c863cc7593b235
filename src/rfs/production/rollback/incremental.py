"""IncrementalRollback: the last changes taken back one by one, for asynchronous Python code."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rfs.core.result import Result
from rfs.production.rollback.application import Application
from rfs.production.rollback.changelog import ChangeLog
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.hooks import Caller, Hook, make_store, settings_of
from rfs.production.rollback.merging import Resolution
from rfs.production.rollback.onthread import as_result
from rfs.production.rollback.restorers import FunctionRestorer, Restorer
from rfs.production.rollback.restoring import restorer_of
from rfs.production.rollback.settings import Settings
from rfs.production.rollback.tracked import TrackedChange

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class IncrementalRollback:
    """A durable log of changes, and the way back through it.

    Args:
        config: of the application in whose store the log is kept, as for RollbackManager; without an rfs.toml the
            store is `.rfs` in that folder, made when missing.

    What a change belongs to is "file", "configuration", "database", a config or sqlite component of rfs.toml by its
    name, or a name given to `register_restorer`. "configuration" and "database" stand for the only component of
    that kind; a database may also be named in the key.
    """

    def __init__(self, config: str | os.PathLike[str] | Settings | None = None) -> None:
        self._config = config
        self._registered: dict[str, tuple[Hook, Hook | None]] = {}

    def register_restorer(self, component: str, restore: Hook, *, get: Hook | None = None) -> None:
        """Say how changes of a component are taken back. It may take the place of one that is built in.

        Args:
            restore: is given the change, as a dictionary of `change_log`; brings `old_value` back, wherever it starts
                from, and may be called again after a crash. Sync, then in a worker thread, or async. It fails by
                raising, or by returning False or a Failure.
            get: is given the key, and returns what is there now; without it no conflict can be found.
        """
        self._registered[component] = (restore, get)

    @property
    def change_log(self) -> list[dict[str, Any]]:
        """The changes that were not taken back, oldest first.

        Each has "change_id", "component", "change_type", "key", "old_value", "new_value" and "timestamp" (UTC).

        Raises:
            RollbackError: the store cannot be read.
        """
        with self._open() as app, ChangeLog(app, self._restorers(app, None)) as log:
            return [change.to_dict() for change in log.standing()][::-1]

    @property
    def undone_log(self) -> list[dict[str, Any]]:
        """The changes that were taken back, in the order in which they were.

        Raises:
            RollbackError: the store cannot be read.
        """
        with self._open() as app, ChangeLog(app, self._restorers(app, None)) as log:
            return [change.to_dict() for change in log.undone()][::-1]

    async def track_change(
        self, component: str, change_type: str, old_value: Any, new_value: Any, *, key: Any = None
    ) -> Result[str, RollbackError]:
        """Add a change that was made to the log, durably, and return its id.

        Args:
            component: see the class.
            change_type: a word for the log.
            old_value, new_value: JSON-like or bytes; None where there was, or is, nothing.
            key: of a configuration a dotted name, or None for all of it; of a file its path; of a database
                `{"table": NAME, "pk": VALUE or {COLUMN: VALUE}}`, and "path" for another SQLite file.
        """
        return await self._do(lambda log: log.track(component, change_type, old_value, new_value, key).change_id)

    async def rollback_last_n_changes(self, n: int, *, force: bool = False) -> Result[dict[str, Any], RollbackError]:
        """Take the last `n` changes back, newest first.

        Args:
            force: overwrite also what somebody changed since.

        Returns:
            Success of `{"rolled_back_count", "changes"}`, newest first. Of a Failure, the changes that were not taken
            back are still in the log; its hint says which were. A conflict that can be seen beforehand changes nothing.
        """

        def act(log: ChangeLog) -> dict[str, Any]:
            done = log.undo_last(n, _how(force))
            return {"rolled_back_count": len(done), "changes": [change.to_dict() for change in done]}

        return await self._do(act)

    async def rollback_component(self, component: str, *, force: bool = False) -> Result[dict[str, Any], RollbackError]:
        """Take all changes of one component back, newest first; otherwise as `rollback_last_n_changes`.

        Returns:
            Success of `{"component", "rolled_back_count"}`.
        """

        def act(log: ChangeLog) -> dict[str, Any]:
            return {"component": component, "rolled_back_count": len(log.undo_component(component, _how(force)))}

        return await self._do(act)

    # — how —

    async def _do(self, act: Callable[[ChangeLog], T]) -> Result[T, RollbackError]:
        loops: list[asyncio.AbstractEventLoop] = []

        def open_(loop: asyncio.AbstractEventLoop) -> Application:
            loops.append(loop)
            return self._open()

        def work(app: Application) -> T:
            with ChangeLog(app, self._restorers(app, loops[-1])) as log:
                return act(log)

        return await as_result(open_, work)

    def _open(self) -> Application:
        settings = settings_of(self._config, described=True)
        make_store(settings)
        return Application(settings)

    def _restorers(self, app: Application, loop: asyncio.AbstractEventLoop | None) -> Callable[[str, str], Restorer]:
        caller = Caller(app.beat, loop)

        def restorer(component: str, kind: str = "change") -> Restorer:
            if component in self._registered and kind == "change":
                return _function(component, *self._registered[component], caller)
            return restorer_of(app, component, kind)

        return restorer


def _how(force: bool) -> Resolution:
    return Resolution.WHOLE if force else Resolution.REFUSE


def _function(component: str, restore: Hook, get: Hook | None, caller: Caller) -> FunctionRestorer:
    def call(change: TrackedChange) -> None:
        caller.order(f"restorer of {component}", restore, change.to_dict())

    return FunctionRestorer(component, call, None if get is None else lambda key: caller.call(component, get, key))
