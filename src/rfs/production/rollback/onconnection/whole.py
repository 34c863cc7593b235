"""DatabaseRollbackManager on a DSN or a component of rfs.toml: the drivers, the engine and the store, as in `rfs`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rfs.core.result import Result
from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import IrreversibleError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.hooks import Caller
from rfs.production.rollback.model import CheckOutcome, HealthReport
from rfs.production.rollback.onthread import as_result
from rfs.production.rollback.pulse import Beat
from rfs.production.rollback.settings import ComponentTable, Settings, StoreSettings, default_key, find, load, place_id
from rfs.production.rollback.store import Store

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

_SQLITE = re.compile(r"sqlite(?:3|\+\w+)?:///(?P<path>[^?]+)")


def is_dsn(text: str) -> bool:
    """Tell a DSN from a component's name, which has neither "://" nor "=" in it."""
    return "://" in text or "=" in text or text.partition(":")[0] in ("env", "file", "cmd")


class WholeDatabase:
    """What a database manager does with a whole database.

    Args:
        given: a DSN (libpq's words, a URL, "sqlite:///PATH", a secret as "env:DATABASE_URL"), or a component's name.
        validate: called before a rollback may complete; False, a Failure or an exception turns it back.
        store: folder of the store for a DSN.
    """

    def __init__(self, given: str, validate: Callable[[], Any], store: str | None) -> None:
        self._given = given
        self._validate = validate
        self._store = store

    async def create(self, name: str) -> Result[str, RollbackError]:
        return await self._do(lambda app, own: app.checkpoint(message=name, only=[own]).checkpoint_id)

    async def roll_back(self, checkpoint_id: str) -> Result[dict[str, str], RollbackError]:
        def act(app: _Validated, own: str) -> dict[str, str]:
            app.validates = True
            done = app.rollback(checkpoint_id, only=[own], reason="DatabaseRollbackManager")
            return {"checkpoint_id": done.plan.target, "backup_id": done.state_before, "status": "completed"}

        return await self._do(act)

    async def migrate(self, version: str) -> Result[str, RollbackError]:
        def act(app: _Validated, own: str) -> str:
            try:
                done = app.migrate_down(version, component=own, reason="DatabaseRollbackManager")
                count = len(done.downgrade.versions) if done.downgrade is not None else 0
            except IrreversibleError as error:
                if error.key != "migrate.covered":
                    raise
                app.validates = True
                app.rollback(str(error.fields["checkpoint"]), only=[own], reason="DatabaseRollbackManager")
                count = len(error.fields["versions_back"])  # type: ignore[arg-type]  # fields are of any type
            return f"{count} migration{'' if count == 1 else 's'} rolled back to {version}"

        return await self._do(act)

    async def _do(self, act: Callable[[_Validated, str], T]) -> Result[T, RollbackError]:
        names: list[str] = []

        def open_(loop: asyncio.AbstractEventLoop) -> Application:
            settings, name = self._settings()
            names.append(name)
            return _Validated(settings, self._validate, loop)

        def work(app: Application) -> T:
            if not isinstance(app, _Validated):
                raise TypeError(app)
            return act(app, names[0])

        return await as_result(open_, work)

    def _settings(self) -> tuple[Settings, str]:
        if is_dsn(self._given):
            return self._of_dsn(), "database"
        settings = load(find(os.getcwd()))
        known = [table.name for table in settings.components if table.kind in ("postgresql", "sqlite")]
        if self._given not in known:
            raise NotFoundError("components.unknown", name=self._given, known=", ".join(known) or "no databases")
        return settings, self._given

    def _of_dsn(self) -> Settings:
        """Return the settings of an application that is this database alone; its store is made when missing."""
        home = os.getcwd()
        sqlite = _SQLITE.fullmatch(self._given)
        if sqlite is not None:
            path = os.path.abspath(sqlite["path"])
            kind, options, place = "sqlite", {"path": path}, path
        elif self._given.startswith("sqlite"):
            raise UsageError("database.connection", given="DSN of this form")
        else:
            kind, options, place = "postgresql", {}, _without_password(self._given)
        store = self._store or os.path.join(_state_folder(), f"database-{place_id(place)}")
        key = default_key("database", place)
        if kind == "postgresql":
            options = {"url": self._given if place == self._given else f"file:{_kept(self._given, key)}"}
        table: dict[str, Any] = {**options, "migrations": {"path": "", "tool": "sql"}}
        if not os.path.lexists(store):
            os.makedirs(os.path.dirname(store), mode=0o700, exist_ok=True)
            Store.create(store, key).close()
        component = ComponentTable(name="database", kind=kind, options=table)
        # No file is there; it only has to be the same wherever the program was started.
        path = os.path.join(store, "database")
        return Settings(
            path=path, home=home, name="database", components=(component,), store=StoreSettings(path=store, key=key)
        )


def _state_folder() -> str:
    if os.geteuid() == 0:
        return "/var/lib/rfs"
    return os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "rfs")


def _kept(dsn: str, key: str) -> str:
    """Write a DSN with a password beside the key, which is as secret; return the path.

    What an operation acts on is in the store's records, and whoever finishes it after a crash needs the password.
    """
    path = f"{key}.dsn"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(dsn)
    os.rename(f"{path}.new", path)
    return path


def _without_password(dsn: str) -> str:
    """Return what a DSN leads to: another password must not mean another store."""
    return re.sub(r"(//[^:/@]*):[^@/]*@|\bpassword\s*=\s*('(?:[^'\\]|\\.)*'|\S+)", r"\1@", dsn)


class _Validated(Application):
    """An application whose health includes what the caller says of the database, once, before a rollback completes.

    Attributes:
        validates: whether that was not asked yet; on the way back nobody is asked.
    """

    validates = False

    def __init__(self, settings: Settings, validate: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self._validate = validate
        self._loop = loop
        super().__init__(settings)

    def check_health(self, beat: Beat, *, once: bool = False) -> HealthReport:
        report = super().check_health(beat, once=once)
        if once or not self.validates:
            return report
        self.validates = False
        healthy, detail = True, "it passed"
        try:
            Caller(beat, self._loop).order("validate_database", self._validate)
        except RollbackError as error:
            if error.key != "hook.failed":
                raise
            healthy, detail = False, str(error)
        return HealthReport((*report.checks, CheckOutcome("validate_database", healthy, True, detail, 0.0)))
