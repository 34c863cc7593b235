"""The driver of structured configuration files: restored whole, shown key by key."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from rfs.production.rollback import keypath
from rfs.production.rollback.driver import BlobSource, BlobStore, Finding, Pulse
from rfs.production.rollback.drivers.formats import NAMES, UnparsableError, Value, format_of
from rfs.production.rollback.drivers.meta import shown
from rfs.production.rollback.drivers.onefile import File, OneFileDriver, live_file, stored
from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import ConflictError, NotFoundError, RollbackError, UsageError
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
        schema: a JSON Schema, as a JSON file relative to the folder of rfs.toml: what `rfs config rollback` or an undo
            is about to write must fit it. Needs the extra `jsonschema`.
    """

    path: str
    format: Literal["auto", "toml", "yaml", "json", "ini", "dotenv"] = "auto"
    reload: str | list[str] | None = None
    reload_timeout: Duration = "30s"
    check: list[str] = []
    schema: str | None = None

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
        from rfs.production.rollback.drivers.parsing import parse

        kind = _format(c)
        if kind is None or file.kind != "file":
            return None
        try:
            parse(file.data, kind)
        except UnparsableError as error:
            return RollbackError("config.invalid", path=shown(self.path(c)), format=NAMES[kind], why=error)
        return None

    def keys(self, c: Component, file: File) -> dict[str, Value]:
        kind = _format(c)
        if kind is None:
            raise UnparsableError("its format is not known")
        from rfs.production.rollback.drivers.parsing import parse

        return parse(file.data, kind)

    def select(self, c: Component, blobs: BlobStore, want: Capture, onto: Capture, keys: Sequence[str]) -> Capture:
        """Return the file of `onto` in which the dotted keys say what they say in `want`; comments and order stay."""
        from rfs.production.rollback.drivers.writing import UnwritableError, write

        wanted, there = stored(want, blobs), stored(onto, blobs)
        if wanted.kind != "file" or there.meta is None:
            raise ConflictError("select.absent", component=c.name)
        old, values = self._values(c, wanted.data), self._values(c, there.data)
        for key in keys:
            values = _with_key(c, old, values, key)
        try:
            data = write(there.data, values, _format(c) or "")
        except UnwritableError as error:
            raise UsageError("config.unsaid", path=shown(self.path(c)), why=error) from None
        if data == there.data:
            return onto
        self.check(c, data, blobs)
        return self._capture(c, blobs, File("file", msgspec.structs.replace(there.meta, mtime_ns=time.time_ns()), data))

    def _values(self, c: Component, data: bytes) -> dict[str, Any]:
        from rfs.production.rollback.drivers.writing import read

        kind = _format(c)
        if kind is None:
            raise UsageError("config.format", path=shown(self.path(c)))
        try:
            return read(data, kind)
        except UnparsableError as error:
            raise RollbackError("config.invalid", path=shown(self.path(c)), format=NAMES[kind], why=error) from None

    def among(self, changes: Sequence[Change], keys: Sequence[str]) -> list[Change]:
        """Return the changes of these keys and of what is in them."""
        return [
            each
            for each in changes
            if any(each.key == key or each.key.startswith((key + ".", key + "[")) for key in keys)
        ]

    def examine(self, c: Component) -> Iterator[Finding]:
        """Yield also what the schema has to say about the file as it is."""
        yield from super().examine(c)
        given = _options(c)
        if given.schema is None:
            return
        try:
            file = live_file(c, self.path(c))
            if file.kind == "file":
                from rfs.production.rollback.drivers.fitting import require_fits

                require_fits(self._values(c, file.data), os.path.join(c.home, given.schema), c.name)
        except RollbackError as error:
            yield Finding("error" if error.key == "config.no_validator" else "warning", str(error), error.hint)

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
        """Have the schema and the command of rfs.toml, if there are any, look at a content before it is written.

        Raises:
            RollbackError: config.unfit, config.no_validator, config.rejected, command.missing or command.slow.
            UsageError: config.schema.
        """
        given = _options(c)
        if given.schema is not None:
            from rfs.production.rollback.drivers.fitting import require_fits

            require_fits(self._values(c, data), os.path.join(c.home, given.schema), c.name)
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


_NOTHING = object()


def _with_key(c: Component, old: Mapping[str, Any], values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return values in which a dotted key is as in others.

    Raises:
        NotFoundError: it is in neither.
        ConflictError: something else than a table stands where one is needed.
    """
    *tables, last = keypath.split(key)
    made = found = dict(values)
    for number, word in enumerate(tables):
        old = old.get(word, {}) if isinstance(old, Mapping) else {}
        inner = found.get(word, {})
        if not isinstance(inner, Mapping):
            raise ConflictError("select.way", what=keypath.join(tables[: number + 1]), component=c.name)
        found[word] = dict(inner)
        found = found[word]
    value = old.get(last, _NOTHING) if isinstance(old, Mapping) else _NOTHING
    if value is _NOTHING and last not in found:
        raise NotFoundError("select.none", what=key, component=c.name)
    if value is _NOTHING:
        del found[last]
    else:
        found[last] = value
    return made


def _options(c: Component) -> ConfigOptions:
    return msgspec.convert(dict(c.options), ConfigOptions)


def _format(c: Component) -> str | None:
    given = _options(c)
    return format_of(os.path.basename(given.path)) if given.format == "auto" else given.format
