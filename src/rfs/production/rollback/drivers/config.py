"""The driver of structured configuration files: restored whole, shown key by key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.envfile import UnparsableError
from rfs.production.rollback.drivers.keys import key_changes
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.drivers.onefile import File, OneFileDriver, whole
from rfs.production.rollback.drivers.parsing import NAMES, Value, format_of, parse
from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Capture, Change, Component

if TYPE_CHECKING:
    from rfs.production.rollback.drivers.reload import Reload


class ConfigOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a config component.

    Attributes:
        path: the file; relative to the folder of rfs.toml.
        format: what it is written in; "auto" goes by the name.
        reload: how a running service learns of it: "http POST URL", "signal HUP pidfile:PATH", or
            a command as a list.
        reload_timeout: for the reload, with waiting for the service to be there.
    """

    path: str
    format: Literal["auto", "toml", "yaml", "json", "ini", "dotenv"] = "auto"
    reload: str | list[str] | None = None
    reload_timeout: Duration = "30s"

    def __post_init__(self) -> None:
        parse_duration(self.reload_timeout)
        if self.reload is not None:
            _reload(self.reload)


class ConfigDriver(OneFileDriver):
    """A configuration file: content and metadata exactly, whatever is written in it.

    A file that does not parse is captured all the same, with a warning: broken configuration
    is what rollbacks are for. Values of keys that look secret are never shown.
    """

    kind = "config"
    options = ConfigOptions

    def path(self, c: Component) -> str:
        return os.path.abspath(os.path.join(c.home, _options(c).path))

    def invalid(self, c: Component, file: File) -> RollbackError | None:
        kind = _format(c)
        if kind is None or file.kind != "file":
            return None
        try:
            parse(file.data, kind)
        except UnparsableError as error:
            return RollbackError("config.invalid", path=shown(self.path(c)), format=NAMES[kind], why=error)
        return None

    def inside(self, c: Component, source: BlobSource, before: File, after: File) -> Iterator[Change]:
        try:
            old, new = self.keys(c, before), self.keys(c, after)
        except UnparsableError:
            yield whole(c, source, before, after)
            return
        yield from key_changes(c, source, old, new)

    def keys(self, c: Component, file: File) -> dict[str, Value]:
        kind = _format(c)
        if kind is None:
            raise UnparsableError("its format is not known")
        return parse(file.data, kind)

    def start(self, c: Component, source: BlobSource, want: Capture) -> None:
        given = _options(c)
        if given.reload is not None:
            _reload(given.reload).run(c, seconds=parse_duration(given.reload_timeout), pulse=source)


def _reload(given: str | list[str]) -> Reload:
    from rfs.production.rollback.drivers.reload import parse_reload  # few components need it, and it takes a while

    return parse_reload(given)


def _options(c: Component) -> ConfigOptions:
    return msgspec.convert(dict(c.options), ConfigOptions)


def _format(c: Component) -> str | None:
    given = _options(c)
    return format_of(os.path.basename(given.path)) if given.format == "auto" else given.format
