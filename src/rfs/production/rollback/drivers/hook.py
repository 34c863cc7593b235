"""Components that the application describes in code: what it is, and how to bring it back.

The state that a `get` hook returns is a JSON value, kept as such; restoring hands it to the
`restore` hook, and reading it back through `get` proves that it worked. So a component made
of hooks keeps every promise that the engine makes, as far as its hooks tell the truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar

import msgspec

from rfs.production.rollback.driver import BlobSink, BlobSource, Driver, Pulse
from rfs.production.rollback.drivers.formats import UnparsableError, Value
from rfs.production.rollback.drivers.keys import key_changes
from rfs.production.rollback.drivers.masking import masked
from rfs.production.rollback.drivers.parsing import parse
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import Capture, Change, ChangeKind, Component, Fingerprint, Ref, Restored


@dataclass(frozen=True)
class Hooks:
    """The hooks of one component, as plain functions that raise RollbackError when they fail.

    Attributes:
        get: returns the live state, JSON-like. Without it the component has no state, only processes.
        restore: brings the live state to the one it is given. Without it the state is recorded, not restored.
        stop, start: of its processes; both or neither.
        secret: no value in the state is ever shown.
    """

    get: Callable[[], Any] | None = None
    restore: Callable[[Any], object] | None = None
    stop: Callable[[], object] | None = None
    start: Callable[[], object] | None = None
    secret: bool = False


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hooks are not described in rfs.toml."""


class HookDriver(Driver):
    """A component with a state. `shown` is the state last captured, secrets masked."""

    kind: ClassVar[str] = "hook"
    options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks
        self.shown: Any = None

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        state = self._live(c)
        data = _encoded(c, state)
        self.shown = masked(state, secret=self.hooks.secret)
        part = sink.put_part([sink.put(data)], b"")
        sink.tick(1, len(data))
        warnings = () if self._restores else (f"{c.name} is recorded, and no hook restores it.",)
        fingerprint = _fingerprint(data)
        return Capture(
            component=c.name,
            kind=self.kind,
            fingerprint=fingerprint,
            parts=(part,),
            entries=1,
            size=fingerprint.size,
            warnings=warnings,
        )

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        return _fingerprint(_encoded(c, self._live(c)))

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        if self.hooks.restore is None:
            return Restored()
        data = _wanted(source, want)
        source.tick()
        if _encoded(c, self._live(c)) == data:
            return Restored()
        self.hooks.restore(json.loads(data))
        return Restored(1)

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        return list(self.changes(c, source, want, None)) if self._restores else []

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        before = _wanted(source, a)
        after = _encoded(c, self._live(c)) if b is None else _wanted(source, b)
        if before != after:
            # 1 and "1" are the same text, and too many keys are not listed: it differs all the same.
            yield from list(self._key_changes(c, source, before, after)) or [_whole(c, source, before, after)]

    def outline(self, c: Component) -> Any:
        return masked(self._live(c), secret=self.hooks.secret)

    def _key_changes(self, c: Component, source: BlobSource, before: bytes, after: bytes) -> Iterator[Change]:
        try:
            old, new = self._keys(before), self._keys(after)
        except UnparsableError:
            return
        yield from key_changes(c, source, old, new)

    def _keys(self, data: bytes) -> dict[str, Value]:
        found = parse(data, "json")
        return {key: Value(each.text, secret=each.secret or self.hooks.secret) for key, each in found.items()}

    @property
    def _restores(self) -> bool:
        return self.hooks.restore is not None

    def _live(self, c: Component) -> Any:
        return None if self.hooks.get is None else self.hooks.get()


class ServiceHookDriver(HookDriver):
    """A component with processes. They are not running when it is restored, so its state is not read back then."""

    runs: ClassVar[bool] = True

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        return []

    def stop(self, c: Component, pulse: Pulse) -> None:
        if self.hooks.stop is not None:
            self.hooks.stop()

    def start(self, c: Component, source: BlobSource, want: Capture) -> None:
        if self.hooks.start is not None:
            self.hooks.start()

    @property
    def _restores(self) -> bool:
        return True  # what was running is started again


def _encoded(c: Component, state: Any) -> bytes:
    try:
        # Sorted and without NaN, so that equal states are equal bytes.
        return json.dumps(state, sort_keys=True, allow_nan=False, ensure_ascii=True).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise RollbackError("hook.state", component=c.name, why=error) from error


def _wanted(source: BlobSource, want: Capture) -> bytes:
    (blob,), _ = source.get_part(want.parts[0])
    return source.get(blob)


def _fingerprint(data: bytes) -> Fingerprint:
    return Fingerprint(sha256(data).hexdigest(), 1, len(data))


def _whole(c: Component, source: BlobSource, before: bytes, after: bytes) -> Change:
    sides = [Ref(source.identify(data).hex(), len(data)) for data in (before, after)]
    return Change(c.name, ChangeKind.CHANGED, "", sides[0], sides[1])
