"""ConfigurationRollback: versions of one configuration, for asynchronous Python code.

Calls that do something return a Result, as those of RollbackManager do.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.core.result import Result
from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.formats import format_of
from rfs.production.rollback.drivers.reload import Reload, parse_reload
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.hooks import Caller, Hook, make_store, settings_of
from rfs.production.rollback.model import Component
from rfs.production.rollback.onthread import as_result
from rfs.production.rollback.settings import Settings, StoreSettings, default_key
from rfs.production.rollback.versions import ConfigVersion, FilePlace, Place, Versions, hash_of

if TYPE_CHECKING:
    import asyncio

RELOAD_SECONDS = 30.0


class ConfigurationRollback:
    """Versions of a configuration, and the way back to each of them.

    Args:
        config: what is in force now, JSON-like; without it, what the file at `path` says, or else the version
            that was current last.
        path: the configuration file that a rollback writes: TOML, YAML, JSON, INI or dotenv, told by its name. Comments
            and order in it stay. Without it only this object and `reload_configuration` learn of a rollback.
        store: folder where versions are kept, made when missing. By default that of the application whose
            rfs.toml is found from the working directory upward, else `.rfs` there.
        reload: tells the program that uses it: a function, sync or async; or, as in rfs.toml, "http POST URL",
            "signal HUP pidfile:PATH", or a command as a list. A subclass may override `reload_configuration` instead.

    Configurations of files at different places have different histories in one store; those without a file share one.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        store: str | os.PathLike[str] | None = None,
        reload: Hook | str | Sequence[str] | None = None,
    ) -> None:
        self._given = copy.deepcopy(dict(config)) if config is not None else None
        self._path = os.path.abspath(os.fspath(path)) if path is not None else None
        self._store = os.path.abspath(os.fspath(store)) if store is not None else None
        self._reload = reload

    # — looking —

    @property
    def current_config(self) -> dict[str, Any] | None:
        """The configuration in force: what the file says, where there is one; None when there is none.

        Raises:
            RollbackError: the file or the store cannot be read.
        """
        if self._path is None and self._given is not None:
            return copy.deepcopy(self._given)
        found: dict[str, Any] | None = self._look(lambda versions, place: place.get()[0])
        return found if found is not None else copy.deepcopy(self._given)

    @property
    def config_history(self) -> list[dict[str, Any]]:
        """The versions, oldest first: "version", "config", "hash", "timestamp" (UTC), "description".

        "config" is None for a backup of a file that could not be read.

        Raises:
            RollbackError: the store cannot be read.
        """
        newest_first: list[dict[str, Any]] = self._look(
            lambda versions, place: [v.to_dict() for v in versions.history()]
        )
        return newest_first[::-1]

    def calculate_hash(self, config: Mapping[str, Any]) -> str:
        """Return the SHA-256, in hex, of JSON with sorted keys and Python's default separators, in UTF-8."""
        return hash_of(config)

    # — doing —

    async def save_config_version(
        self, config: Mapping[str, Any], version: str, description: str = ""
    ) -> Result[str, RollbackError]:
        """Save a version, which is then the current one, and return its name.

        Args:
            config: JSON-like.
            version: a name that no version has yet, and that does not begin with "backup_".
        """

        def act(versions: Versions, place: Place) -> str:
            saved = versions.save(config, version, description)
            self._given = saved.config
            return saved.version

        return await self._do(act)

    async def rollback_config(self, target: str) -> Result[dict[str, Any], RollbackError]:
        """Apply a version: save the present configuration as `backup_<iso time>`, write the file, reload.

        Args:
            target: the name of a version. Of a backup, the file comes back byte for byte.

        Returns:
            Success of `{"rolled_back_to", "previous_version"}`; the latter was current before, None when none was.
            A Failure of code 30 says that the reload failed, and that the configuration is as it was.
        """

        def act(versions: Versions, place: Place) -> dict[str, Any]:
            done, previous = versions.rollback(target)
            return {"rolled_back_to": done.version, "previous_version": previous}

        return await self._do(act)

    def reload_configuration(self) -> Any:
        """Tell the program that uses the configuration. A hook: a subclass may override it, sync or async.

        It is called after the configuration changed, and fails by raising, by returning False or a Failure. Sync
        ones run in a worker thread. May be called again after a crash.
        """
        return self._reload() if callable(self._reload) else None

    # — how —

    async def _do(self, act: Callable[[Versions, Place], Any]) -> Result[Any, RollbackError]:
        loops: list[asyncio.AbstractEventLoop] = []

        def open_(loop: asyncio.AbstractEventLoop) -> Application:
            loops.append(loop)
            return self._open()

        def work(app: Application) -> Any:
            place = self._place(app, loops[-1])
            with Versions(app, place) as versions:
                return act(versions, place)

        return await as_result(open_, work)

    def _look(self, act: Callable[[Versions, Place], Any]) -> Any:
        with self._open() as app:
            place = self._place(app, None)
            with Versions(app, place) as versions:
                return act(versions, place)

    def _open(self) -> Application:
        home = None if self._store is None else os.path.dirname(self._store)
        settings = settings_of(home, described=True)
        if home is not None and self._store is not None and self._store != settings.store.path:
            store = StoreSettings(path=self._store, key=default_key("configuration", home))
            settings = Settings(
                path=os.path.join(home, "rfs.toml"), home=home, name="configuration", components=(), store=store
            )
        make_store(settings)
        return Application(settings)

    def _place(self, app: Application, loop: asyncio.AbstractEventLoop | None) -> Place:
        home = app.settings.home
        name = os.path.basename(self._path) if self._path is not None else "configuration"
        c = Component(name=name, kind="config", options={"path": self._path}, home=home, work=app.work)
        reload = self._given_reload()
        caller = Caller(app.beat, loop)

        def tell() -> None:
            if reload is not None and type(self).reload_configuration is ConfigurationRollback.reload_configuration:
                reload.run(c, seconds=RELOAD_SECONDS, pulse=app.beat)
            else:
                caller.order("reload_configuration", self.reload_configuration)

        if self._path is not None:
            return FilePlace(c, format_of(name), reload=tell)
        return _Memory(self, app, tell)

    def _given_reload(self) -> Reload | None:
        if self._reload is None or callable(self._reload):
            return None
        try:
            return parse_reload(self._reload)
        except ValueError as error:
            hint = "Give a function, or what `reload` of a config component takes in rfs.toml."
            raise UsageError("usage", what=f"This reload is none: {error}", hint=hint) from error


class _Memory:
    """A configuration that only the program has."""

    key = "configuration"
    component = "configuration"

    def __init__(self, owner: ConfigurationRollback, app: Application, reload: Callable[[], None]) -> None:
        self._owner = owner
        self._app = app
        self.reload = reload

    def get(self) -> tuple[dict[str, Any] | None, bytes | None]:
        """See Place."""
        values = self._owner._given
        if values is None:
            with Versions(self._app, self) as versions:
                current = versions.current()
            values = current.config if current is not None else None
        return values, None if values is None else msgspec.json.encode(values)

    def draft(self, version: ConfigVersion) -> bytes:
        """See Place."""
        return msgspec.json.encode(version.config)

    def put(self, content: bytes | None) -> None:
        """See Place."""
        self._owner._given = None if content is None else msgspec.json.decode(content)
