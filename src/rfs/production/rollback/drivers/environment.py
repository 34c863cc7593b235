"""The driver of environment files: restored whole, shown by name only."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from rfs.production.rollback.drivers.formats import NAMES, UnparsableError, Value
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.drivers.onefile import File, OneFileDriver
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Component

# Where distributions keep the files that units name with EnvironmentFile=.
_SYSTEMD_FOLDERS = ("/etc/default/", "/etc/sysconfig/", "/etc/conf.d/", "/etc/systemd/", "/run/systemd/")


class EnvironmentOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of an environment component.

    Attributes:
        path: the file; relative to the folder of rfs.toml.
        format: "dotenv", or "systemd" for a unit's EnvironmentFile=; "auto" goes by the place, then by the content.
    """

    path: str
    format: Literal["auto", "dotenv", "systemd"] = "auto"


class EnvironmentDriver(OneFileDriver):
    """A file of environment variables: content and metadata exactly. No value in it is ever shown."""

    kind = "environment"
    options = EnvironmentOptions

    def path(self, c: Component) -> str:
        return os.path.abspath(os.path.join(c.home, _options(c).path))

    def invalid(self, c: Component, file: File) -> RollbackError | None:
        from rfs.production.rollback.drivers.parsing import parse

        if file.kind != "file":
            return None
        kind = self._format(c, file)
        try:
            parse(file.data, kind)
        except UnparsableError as error:
            return RollbackError("config.invalid", path=shown(self.path(c)), format=NAMES[kind], why=error)
        return None

    def keys(self, c: Component, file: File) -> dict[str, Value]:
        from rfs.production.rollback.drivers.parsing import parse

        return {name: Value(each.text, secret=True) for name, each in parse(file.data, self._format(c, file)).items()}

    def _format(self, c: Component, file: File) -> str:
        given = _options(c).format
        if given != "auto":
            return given
        if self.path(c).startswith(_SYSTEMD_FOLDERS):
            return "systemd"
        # A line that begins with ";" is a comment for systemd, and nothing for dotenv.
        return "systemd" if file.data.startswith(b";") or b"\n;" in file.data else "dotenv"


def _options(c: Component) -> EnvironmentOptions:
    return msgspec.convert(dict(c.options), EnvironmentOptions)
