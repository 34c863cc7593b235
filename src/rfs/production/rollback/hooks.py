"""What an application describes in code: hooks of a manager, as components beside those of rfs.toml.

A subclass of RollbackManager overrides hooks, or `register_component` supplies them. Each of the
five things a manager can describe becomes a component; where its hooks also bring it back, they
take the place of the configured components of that kind.
"""

from __future__ import annotations

import inspect
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.core.result import Failure
from rfs.production.rollback.application import Application
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.drivers.hook import HookDriver, Hooks, ServiceHookDriver
from rfs.production.rollback.errors import NotFoundError, RollbackError, UsageError
from rfs.production.rollback.model import CheckOutcome, Component, HealthReport
from rfs.production.rollback.plan import order
from rfs.production.rollback.pulse import Beat
from rfs.production.rollback.settings import NAME_PATTERN, Settings, StoreSettings, default_key, find, load
from rfs.production.rollback.store import Store

if TYPE_CHECKING:
    import asyncio

Hook = Callable[..., Any]
"""A function of the application, sync or async."""

_POLL_SECONDS = 0.05
_LET_GO_SECONDS = 5.0


@dataclass(frozen=True)
class Facet:
    """One of the things that a manager describes.

    Attributes:
        name: in the state, and of the component that its hooks make.
        kinds: of the configured components whose place its hooks take.
        get, restore, stop, start: the names of its hooks.
        secret: no value of it is ever shown.
    """

    name: str
    kinds: tuple[str, ...]
    get: str
    restore: str = ""
    stop: str = ""
    start: str = ""
    secret: bool = False


FACETS = (
    Facet("configuration", ("config",), "get_configuration", "restore_configuration"),
    Facet("database_schema", ("sqlite",), "get_database_schema", "restore_database"),
    Facet("deployed_services", ("service",), "get_deployed_services", stop="stop_services", start="start_services"),
    Facet("environment_variables", ("environment",), "get_environment_variables", secret=True),
    Facet("file_checksums", ("files",), "calculate_file_checksums", "restore_files"),
)


def facet_of(name: str) -> Facet:
    """Return the facet of this name, or that of a component of the user's own."""
    own = Facet(name, (), f"get of {name}", f"restore of {name}", f"stop of {name}", f"start of {name}")
    return next((facet for facet in FACETS if facet.name == name), own)


@dataclass(frozen=True)
class Described:
    """What was described of one component; see `register_component`."""

    get: Hook | None = None
    restore: Hook | None = None
    stop: Hook | None = None
    start: Hook | None = None
    health_check: Hook | None = None

    def check(self, names: Facet) -> None:
        """Refuse hooks that make no whole.

        Raises:
            UsageError: one needs another one beside it.
        """
        for hook, other, given, needed in (
            (names.restore, names.get, self.restore, self.get),
            (names.stop, names.start, self.stop, self.start),
            (names.start, names.stop, self.start, self.stop),
        ):
            if given is not None and needed is None:
                raise UsageError("hook.half", hook=hook, other=other)

    @property
    def brings_back(self) -> bool:
        return self.restore is not None or self.stop is not None

    @property
    def component(self) -> bool:
        return self.get is not None or self.brings_back


class Caller:
    """Calls hooks from the thread that works: async ones on the event loop of whoever waits for it."""

    def __init__(self, beat: Beat, loop: asyncio.AbstractEventLoop | None) -> None:
        self._beat = beat
        self._loop = loop

    def call(self, name: str, hook: Hook, *args: Any) -> Any:
        """Return what a hook returns.

        Raises:
            RollbackError: `hook.failed`, it raised or returned a Failure; or the time is over, or the user said stop.
        """
        try:
            value = hook(*args)
            if inspect.isawaitable(value):
                value = self._awaited(value)
        except RollbackError:
            raise
        except Exception as error:  # a hook that fails, in whatever way, is expected: the rollback turns back
            raise RollbackError("hook.failed", hook=name, why=_why(error)) from error
        if isinstance(value, Failure):
            raise RollbackError("hook.failed", hook=name, why=value.error)
        return value

    def order(self, name: str, hook: Hook, *args: Any) -> None:
        """Call a hook that does something: False says that it did not."""
        if self.call(name, hook, *args) is False:
            raise RollbackError("hook.failed", hook=name, why="it returned False")

    def _awaited(self, value: Any) -> Any:
        import asyncio

        if self._loop is None:
            return asyncio.run(_waiting(value, threading.Event()))
        ended = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_waiting(value, ended), self._loop)
        try:
            while not ended.wait(_POLL_SECONDS):  # as long as the end of the time may go unnoticed
                self._beat.tick()
                if self._loop.is_closed():
                    raise RollbackError("hook.failed", hook="of a closed loop", why="its event loop is closed")
        except BaseException:
            # It must be over before anything is turned back; one that does not let go is not waited for for ever.
            future.cancel()
            ended.wait(_LET_GO_SECONDS)
            raise
        return future.result()


async def _waiting(value: Any, ended: threading.Event) -> Any:
    try:
        return await value
    finally:
        ended.set()


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class HookedApplication(Application):
    """An application some of whose components, or health checks, are hooks.

    Args:
        described: by name of component; those named like a facet are the facet's.
        checks: hooks that check health, by name; with `replaces_checks` they take the place of the configured ones.
        loop: where async hooks run; None where nobody waits on one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        described: Mapping[str, Described],
        checks: Mapping[str, Hook],
        replaces_checks: bool,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self._described = described
        self._checks = checks
        self._replaces_checks = replaces_checks
        self._loop = loop
        super().__init__(settings)

    def _load_parts(self) -> dict[str, Part]:
        caller = Caller(self.beat, self._loop)
        configured = super()._load_parts()
        return with_hooks(configured, self._described, caller, home=self.settings.home, work=self.work)

    def shown_state(self) -> dict[str, Any]:
        """See Application: what each hook said last, secrets masked."""
        return {
            name: part.driver.shown
            for name, part in self.parts.items()
            if isinstance(part.driver, HookDriver) and part.driver.hooks.get is not None
        }

    @property
    def checks_health(self) -> bool:
        return bool(self._checks) or super().checks_health

    def check_health(self, beat: Beat, *, once: bool = False) -> HealthReport:
        configured = HealthReport() if self._replaces_checks else super().check_health(beat, once=once)
        caller = Caller(beat, self._loop)
        outcomes = list(configured.checks)
        for name, hook in self._checks.items():
            with beat.doing(f"checking {name}"):
                outcomes += _outcomes(name, caller, hook)
        return HealthReport(tuple(outcomes))


def _outcomes(name: str, caller: Caller, hook: Hook) -> tuple[CheckOutcome, ...]:
    from time import monotonic

    began = monotonic()
    try:
        found = caller.call(name, hook)
    except RollbackError as error:
        if error.key != "hook.failed":
            raise
        found, detail = False, str(error)
    else:
        detail = "it passed" if found else f"it returned {found!r}"
    if isinstance(found, HealthReport):
        return found.checks
    return (CheckOutcome(name, bool(found), True, detail, round(monotonic() - began, 3)),)


def with_hooks(
    configured: Mapping[str, Part], described: Mapping[str, Described], caller: Caller, *, home: str, work: str
) -> dict[str, Part]:
    """Return the configured components and those made of hooks, in the order of capture and restore.

    A configured component whose place hooks take is left out; what depended on it depends on them.

    Raises:
        UsageError: two have one name, or hooks make no whole.
    """
    parts = dict(configured)
    instead: dict[str, str] = {}
    for name, each in described.items():
        facet = facet_of(name)
        if not each.component:
            continue
        if each.brings_back:
            instead.update({n: name for n, part in configured.items() if part.component.kind in facet.kinds})
        if name in configured and name not in instead:
            raise UsageError("hook.taken", name=name)
        driver = (ServiceHookDriver if each.stop is not None else HookDriver)(_bound(each, facet, caller))
        component = Component(name=name, kind=driver.kind, options={}, home=home, work=os.path.join(work, name))
        parts[name] = Part(component, driver)
    for name in instead.keys() - described.keys():
        del parts[name]
    for name, part in parts.items():
        needs = tuple(dict.fromkeys(instead.get(each, each) for each in part.component.depends_on))
        if needs != part.component.depends_on:
            parts[name] = msgspec.structs.replace(
                part, component=msgspec.structs.replace(part.component, depends_on=needs)
            )
    return {name: parts[name] for name in order({n: p.component.depends_on for n, p in parts.items()})}


def _bound(each: Described, facet: Facet, caller: Caller) -> Hooks:
    get, restore, stop, start = each.get, each.restore, each.stop, each.start
    return Hooks(
        get=None if get is None else lambda: caller.call(facet.get, get),
        restore=None if restore is None else lambda state: caller.order(facet.restore, restore, state),
        stop=None if stop is None else lambda: caller.order(facet.stop, stop),
        start=None if start is None else lambda: caller.order(facet.start, start),
        secret=facet.secret,
    )


def settings_of(config: str | os.PathLike[str] | Settings | None, *, described: bool) -> Settings:
    """Return the settings of a manager.

    Args:
        config: rfs.toml, its folder, or settings; None looks for rfs.toml upward from the working directory.
        described: it has hooks, and so can do without rfs.toml: the store is then `.rfs` in the folder.

    Raises:
        UsageError: rfs.toml is wrong.
        NotFoundError: there is no rfs.toml.
    """
    if isinstance(config, Settings):
        return config
    path = os.path.abspath(os.fspath(config)) if config is not None else os.getcwd()
    if config is not None and not os.path.isdir(path):
        return load(path)
    try:
        return load(find(path) if config is None else os.path.join(path, "rfs.toml"))
    except NotFoundError:
        if not described:
            raise
    name = os.path.basename(path)
    name = name if re.match(NAME_PATTERN, name) else "app"
    store = StoreSettings(path=os.path.join(path, ".rfs"), key=default_key(name, path))
    return Settings(path=os.path.join(path, "rfs.toml"), home=path, name=name, components=(), store=store)


def make_store(settings: Settings) -> None:
    """Make the store of an application that has no rfs.toml, and so no `rfs init`; an existing one stays as it is."""
    if os.path.lexists(settings.store.path) or os.path.lexists(settings.path):
        return
    try:
        Store.create(settings.store.path, settings.store.key).close()
    except RollbackError as error:
        if error.key != "store.exists":  # another process was quicker
            raise
