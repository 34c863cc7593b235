"""The driver of structured configuration files: restored whole, shown key by key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from rfs.production.rollback.driver import BlobSource, Pulse
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
        check: a command as a list that `rfs config rollback` runs before it writes; "{file}" in it becomes the path
            of a draft, and a status other than 0 refuses it.
    """

    path: str
    format: Literal["auto", "toml", "yaml", "json", "ini", "dotenv"] = "auto"
    reload: str | list[str] | None = None
    reload_timeout: Duration = "30s"
    check: list[str] = []

    def __post_init__(self) -> None:
        parse_duration(self.reload_timeout)
        if self.check and not any("{file}" in word for word in self.check[1:]):
            raise ValueError('check needs "{file}" among its arguments, where the path of the draft goes')
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
        self.reload(c, source)

    def reload(self, c: Component, pulse: Pulse) -> None:
        """Tell the service whose configuration this is, where rfs.toml says how.

        Raises:
            RollbackError: reload.failed.
        """
        given = _options(c)
        if given.reload is not None:
            _reload(given.reload).run(c, seconds=parse_duration(given.reload_timeout), pulse=pulse)

    def format(self, c: Component) -> str | None:
        """Return what the file is written in, or None when that is not known."""
        return _format(c)

    def check(self, c: Component, data: bytes, pulse: Pulse) -> None:
        """Have the command of rfs.toml, if there is one, look at a content before it is written.

        Raises:
            RollbackError: config.rejected, command.missing or command.slow.
        """
        given = _options(c)
        if not given.check:
            return
        import tempfile

        from rfs.production.rollback.process import run

        # Beside nothing that a service reads; with the name's end, by which programs tell the format.
        with tempfile.TemporaryDirectory(prefix="rfs-") as folder:
            draft = os.path.join(folder, os.path.basename(given.path))
            with open(draft, "wb") as file:
                file.write(data)
            command = [word.replace("{file}", draft) for word in given.check]
            ended = run(command, cwd=c.home, timeout=parse_duration(given.reload_timeout), pulse=pulse)
        if ended.status != 0:
            # Not its output: it may print the configuration that it read.
            raise RollbackError("config.rejected", component=c.name, why=f"it ended with {ended.reason}")


def _reload(given: str | list[str]) -> Reload:
    from rfs.production.rollback.drivers.reload import parse_reload  # few components need it, and it takes a while

    return parse_reload(given)


def _options(c: Component) -> ConfigOptions:
    return msgspec.convert(dict(c.options), ConfigOptions)


def _format(c: Component) -> str | None:
    given = _options(c)
    return format_of(os.path.basename(given.path)) if given.format == "auto" else given.format
