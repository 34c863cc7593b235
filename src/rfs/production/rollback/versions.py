"""Versions of one configuration: saved, listed, compared, and applied to a file or to the program that holds it.

A rollback is three durable steps: the backup and what is about to happen are written to the ledger, the file
is replaced in one rename, and after the reload the ledger is told that it is over. Whoever dies in between
leaves exactly the old or the new file; the next call that changes something settles it. Synchronous, and
expected conditions are raised.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from typing import Any, Protocol

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.config import ConfigDriver
from rfs.production.rollback.drivers.formats import NAMES, UnparsableError
from rfs.production.rollback.drivers.meta import Meta, remove_file, replace_file, shown
from rfs.production.rollback.drivers.onefile import File, live_file
from rfs.production.rollback.drivers.writing import UnwritableError, read, write
from rfs.production.rollback.errors import (
    ConflictError,
    HeldError,
    NotFoundError,
    RevertedError,
    RollbackError,
    UsageError,
)
from rfs.production.rollback.ledger import Drop, Ledger, Put
from rfs.production.rollback.model import Component, json_like, storable, utc_now
from rfs.production.rollback.operationlog import noted, of_change
from rfs.production.rollback.pulse import Beat
from rfs.production.rollback.tracked import LARGEST, STANDING, TrackedChange, encoded, new_change_id
from rfs.production.rollback.wiring import inside

BACKUP = "backup_"
_CURRENT, _PENDING = "configuration:current", "configuration:pending"
_NAME_LENGTH = 200


class ConfigVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version.

    Attributes:
        version: its name.
        hash: `hash_of` the values; of a file that does not parse, the SHA-256 of its bytes.
        config: the values, JSON-like; None for a backup of a file that does not parse.
        content: of a backup, the file as it was: it comes back byte for byte.
    """

    version: str
    created_at: datetime
    description: str
    hash: str
    config: dict[str, Any] | None
    content: bytes | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what the history tells of it."""
        return {
            "version": self.version,
            "config": self.config,
            "hash": self.hash,
            "timestamp": self.created_at,
            "description": self.description,
        }


class _Pending(msgspec.Struct, frozen=True):
    """A rollback that has begun. `before` and `after`: the file's content; None where it was not there."""

    target: str
    before: bytes | None
    after: bytes
    reason: str = ""


class Place(Protocol):
    """Where a configuration is in force.

    Attributes:
        key: which history it has.
        component: its name in rfs.toml, or what stands for it in the log of operations.
    """

    key: str
    component: str

    def get(self) -> tuple[dict[str, Any] | None, bytes | None]:
        """Return the values in force (None: none, or not readable), and the file they are in, if it is one."""

    def draft(self, version: ConfigVersion) -> bytes:
        """Return what `put` is to be given, checked as far as it can be; nothing is changed.

        Raises:
            RollbackError: it cannot be said there, or is refused.
        """

    def put(self, content: bytes | None) -> None:
        """Put a draft, or what `get` returned, into force; None: nothing was there."""

    def reload(self) -> None:
        """Tell whoever uses it.

        Raises:
            RollbackError: it failed.
        """


def hash_of(config: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of the configuration as JSON with sorted keys and Python's default separators."""
    from hashlib import sha256  # loads OpenSSL, which looking does not need

    return sha256(json.dumps(config, sort_keys=True).encode("utf-8")).hexdigest()


class FilePlace:
    """A configuration file.

    Args:
        c: whose `options["path"]` it is; only its name, home and path count.
        kind: the format; None when it is not known.
        check: looks at a draft before it is written.
        reload: tells whoever uses it.
    """

    def __init__(
        self,
        c: Component,
        kind: str | None,
        *,
        check: Callable[[bytes], None] = lambda draft: None,
        reload: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = os.path.abspath(os.path.join(c.home, c.options["path"]))
        # Relative where it can be: the application may be moved, with its store.
        self.key = f"configuration:{os.path.relpath(self.path, c.home) if inside(self.path, c.home) else self.path}"
        self.component = c.name
        self.reload = reload
        self._c = c
        self._kind = kind
        self.check = check

    @property
    def format(self) -> str:
        if self._kind is None:
            raise UsageError("config.format", path=shown(self.path))
        return self._kind

    def _file(self) -> File:
        # A file that has grown beyond all that could be tracked is not read into memory.
        with suppress(OSError):
            if (size := os.lstat(self.path).st_size) > LARGEST:
                raise UsageError("change.large", path=shown(self.path), size=f"{size / (1 << 20):,.0f} MiB")
        return live_file(self._c, self.path)

    def get(self) -> tuple[dict[str, Any] | None, bytes | None]:
        """See Place."""
        file = self._file()
        if file.kind == "absent":
            return None, None
        try:
            return read(file.data, self.format), file.data
        except UnparsableError:
            return None, file.data

    def content(self) -> bytes | None:
        """Return what is in the file, or None when it is not there.

        Raises:
            RollbackError: it cannot be read, or something else stands in its place.
        """
        file = self._file()
        return None if file.kind == "absent" else file.data

    def values(self) -> dict[str, Any]:
        """Return what the file says.

        Raises:
            RollbackError: it is missing, or says nothing that can be read.
        """
        file = self._file()
        if file.kind == "absent":
            raise NotFoundError("path.missing", component=self._c.name, path=shown(self.path))
        try:
            return read(file.data, self.format)
        except UnparsableError as error:
            raise self._invalid(error) from None

    def draft(self, version: ConfigVersion) -> bytes:
        """See Place."""
        content = version.content
        if content is None:
            try:
                content = self._written(version.config or {})
            except UnwritableError as error:
                raise UsageError("config.unsaid", path=shown(self.path), why=error) from None
        self.check(content)
        return content

    def _written(self, config: Mapping[str, Any]) -> bytes:
        file = self._file()
        try:
            return write(file.data if file.kind == "file" else b"", config, self.format)
        except UnparsableError:
            # What does not parse has no keys that could stay where they are.
            return write(b"", config, self.format)

    def put(self, content: bytes | None) -> None:
        """See Place. Mode, owner and attributes of the file stay; a new one is for its owner alone."""
        file = self._file()
        if content is None:
            remove_file(self.path, component=self._c.name)
        elif file.kind != "file" or file.data != content:
            now = time.time_ns()
            new = Meta(stat.S_IFREG | 0o600, os.geteuid(), os.getegid(), now)
            meta = new if file.meta is None else msgspec.structs.replace(file.meta, mtime_ns=now)
            replace_file(self.path, content, meta, component=self._c.name)

    def require_usable(self, content: bytes) -> None:
        """Refuse a content that somebody typed, unless it can be read and passes the check.

        Raises:
            RollbackError: config.invalid, or as the check.
        """
        try:
            read(content, self.format)
        except UnparsableError as error:
            raise self._invalid(error) from None
        self.check(content)

    def _invalid(self, error: UnparsableError) -> RollbackError:
        return RollbackError("config.invalid", path=shown(self.path), format=NAMES[self.format], why=error)


def configured_place(c: Component, driver: ConfigDriver, beat: Beat) -> FilePlace:
    """Return the file of a config component, with the check and the reload that rfs.toml names."""
    return FilePlace(
        c,
        driver.format(c),
        check=lambda draft: driver.check(c, draft, beat),
        reload=lambda: driver.reload(c, beat),
    )


class Versions:
    """The versions of one configuration, and which of them is in force.

    Args:
        app: in whose store they are kept, and whose lock is taken.
        place: where the configuration is.
    """

    def __init__(self, app: Application, place: Place) -> None:
        self._app = app
        self._place = place
        self._log = place.key
        self._ledger = Ledger(app.store)

    def close(self) -> None:
        self._ledger.close()

    def __enter__(self) -> Versions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # — looking —

    def history(self) -> Iterator[ConfigVersion]:
        """Yield the versions, newest first."""
        for entry in self._ledger.entries(self._log):
            yield msgspec.json.decode(entry.body, type=ConfigVersion)

    def find(self, version: str) -> ConfigVersion:
        """Return a version.

        Raises:
            NotFoundError: there is none of that name.
        """
        found = self._ledger.find(self._log, storable(version))
        if found is None:
            known = ", ".join([each.version for each in self.history()][:10])
            raise NotFoundError("config.no_version", version=version, known=known or "none")
        return msgspec.json.decode(found, type=ConfigVersion)

    def current(self) -> ConfigVersion | None:
        """Return the version that was saved or applied last, or None."""
        name = self._ledger.find(_CURRENT, self._log)
        return self.find(name.decode()) if name else None

    # — doing —

    def save(self, config: Mapping[str, Any], version: str, description: str = "") -> ConfigVersion:
        """Save a version, which is then the current one. Durable when this returns.

        Raises:
            UsageError: its name is none, or the configuration is not JSON-like.
            ConflictError: there is one of that name.
        """
        name = storable(version) if isinstance(version, str) else ""
        if not name.strip() or not name.isprintable() or len(name) > _NAME_LENGTH or name.startswith(BACKUP):
            raise UsageError("config.no_name", version=version)
        values = json_like(config, "the configuration")
        if not isinstance(values, dict):
            raise UsageError("usage.json", where="the configuration", why="it is no object")
        with self._exclusively(f"save of the configuration {name}"):
            if self._ledger.find(self._log, name) is not None:
                raise ConflictError("config.taken", version=name)
            saved = _version(name, values, None, description)
            entry = self._entry(saved)
            change = self._change("save", name, {"version": None}, {"version": entry.body}, description)
            self._ledger.write(entry, Put(_CURRENT, self._log, name.encode()), *change)
            return saved

    def rollback(self, version: str, reason: str = "") -> tuple[ConfigVersion, str | None]:
        """Apply a version, with the present configuration kept as a backup; return it and what was current before.

        Raises:
            NotFoundError: there is no such version.
            RevertedError: the reload failed; the configuration from before is in force again.
            RollbackError: it was refused; nothing was changed.
        """
        with self._exclusively(f"rollback of the configuration to {version}"):
            target = self.find(version)
            previous = self.current()
            values, content = self._place.get()
            draft = self._place.draft(target)
            pending = _Pending(target.version, content, draft, storable(reason))
            changes: list[Put] = [Put(_PENDING, self._log, msgspec.json.encode(pending))]
            if values is not None or content is not None:
                why = f"before the rollback to {target.version}" + (f": {reason}" if reason else "")
                changes.append(self._entry(_version(_backup_name(), values, content, why)))
            self._ledger.write(*changes)
            self._apply(pending)
            return target, previous.version if previous is not None else None

    def _apply(self, pending: _Pending) -> None:
        target, before, draft = pending.target, pending.before, pending.after
        try:
            self._place.put(draft)
            self._place.reload()
        except RollbackError as error:
            self._turn_back(before, error)
        change = self._change("configuration", target, {"content": before}, {"content": draft}, pending.reason)
        self._ledger.write(Put(_CURRENT, self._log, target.encode()), Drop(_PENDING, self._log), *change)

    def _change(
        self, kind: str, version: str, old: dict[str, Any], new: dict[str, Any], reason: str
    ) -> tuple[Put, Put]:
        """Return what tells the log of operations of something that was done, with all that taking it back needs."""
        before = self._ledger.find(_CURRENT, self._log)
        change = TrackedChange(
            change_id=new_change_id(),
            component=self._place.component,
            change_type=kind,
            key=version,
            old={"current": before.decode() if before else None, **old},
            new={"current": version, **new},
            at=utc_now(),
            kind=kind,
        )
        logged = of_change(change, self._place.component, reason, self._app.catalog)
        return Put(STANDING, change.change_id, encoded(change)), noted(logged)

    # — taking back —

    def point(self, old: str | None, new: str | None) -> list[Put | Drop]:
        """Return what makes `old` the current version, where `new` is that now."""
        found = self._ledger.find(_CURRENT, self._log)
        if (found.decode() if found else None) != new:
            return []
        return [Drop(_CURRENT, self._log) if old is None else Put(_CURRENT, self._log, old.encode())]

    def entry(self, version: str, body: bytes | None) -> Put | Drop:
        """Return what writes a version as it was saved, or with None removes it."""
        return Drop(self._log, version) if body is None else Put(self._log, version, body)

    def record(self, version: str) -> bytes | None:
        """Return a version as it was saved, or None."""
        return self._ledger.find(self._log, version)

    def write(self, *changes: Put | Drop) -> None:
        """Write to the ledger; see Ledger.write."""
        self._ledger.write(*changes)

    def _turn_back(self, before: bytes | None, error: RollbackError) -> None:
        beat = self._app.beat
        beat.deafen()
        try:
            try:
                self._place.put(before)
            except RollbackError as failure:
                raise HeldError("config.held", why=error, failure=failure, hint=failure.hint) from failure
            again = ""
            try:
                self._place.reload()
            except RollbackError as second:
                again = f" The reload of it failed, too: {second}"
            self._ledger.write(Drop(_PENDING, self._log))
        finally:
            beat.reset()
        raise RevertedError("config.reverted", why=error, again=again) from error

    @contextmanager
    def _exclusively(self, what: str) -> Iterator[None]:
        with ExitStack() as held:
            held.enter_context(self._app.beat.call())
            held.enter_context(self._app.exclusively(what))
            self._settle()
            yield

    def _settle(self) -> None:
        """Finish or drop the rollback that somebody who died left."""
        found = self._ledger.find(_PENDING, self._log)
        if found is None:
            return
        pending = msgspec.json.decode(found, type=_Pending)
        _, content = self._place.get()
        if content != pending.after:
            # The file was not replaced yet, or somebody wrote another one since, which stays.
            self._ledger.write(Drop(_PENDING, self._log))
            what = f"An interrupted rollback of the configuration to {pending.target} was dropped"
            self._app.notices.append(f"{what}: what it was to write is not there.")
            return
        # It was replaced, and nobody knows whether anybody was told: that is harmless when repeated.
        self._apply(pending)
        self._app.notices.append(
            f"An interrupted rollback of the configuration to {pending.target} was finished first."
        )

    def _entry(self, version: ConfigVersion) -> Put:
        return Put(self._log, version.version, msgspec.json.encode(version))


def _version(name: str, values: dict[str, Any] | None, content: bytes | None, description: str) -> ConfigVersion:
    from hashlib import sha256

    digest = hash_of(values) if values is not None else sha256(content or b"").hexdigest()
    return ConfigVersion(
        version=name,
        created_at=utc_now(),
        description=storable(description),
        hash=digest,
        config=values,
        content=content,
    )


def _backup_name() -> str:
    return f"{BACKUP}{utc_now().isoformat(timespec='microseconds')}"
