"""What a tracked change can be taken back in: a configuration, a file, a function; rows.py: rows of databases.

Each looks before it writes: what is there must be what the change left there, or already be what was there before
it (a crash came between the effect and its record). Other keys, lines and columns may have changed since, and stay.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rfs.production.rollback import keypath
from rfs.production.rollback.drivers.writing import UnwritableError, as_said, same, write
from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.merging import MISSING, Clash, Resolution, is_text, merge_content, merge_values
from rfs.production.rollback.model import Component
from rfs.production.rollback.tracked import TrackedChange
from rfs.production.rollback.versions import FilePlace
from rfs.production.rollback.wiring import inside


class DifferentError(Exception):
    """What is there is neither what the change left nor what was there before it; the text says where.

    Attributes:
        clashes: the places, each with what the change left, what was there before it, and what is there now.
    """

    def __init__(self, what: str, clashes: Sequence[Clash] = ()) -> None:
        super().__init__(what)
        self.clashes = tuple(clashes)


class Restorer(Protocol):
    """Takes changes of one component back.

    Attributes:
        name: of the component, as rfs.toml has it where it is one of those.
    """

    name: str

    def check(self, change: TrackedChange) -> None:
        """Refuse what could not be taken back.

        Raises:
            UsageError: change.value.
        """

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """Make sure that it can be taken back: nothing that it changed was changed since, or `how` says what then.

        Raises:
            DifferentError: something was.
            RollbackError: it cannot be read.
        """

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """Bring `change.old` back, and keep what else was changed since; harmless when repeated. Raises as `look`."""


class Intent(Protocol):
    """What is about to be written, for whoever dies between an effect and its record."""

    def is_done(self, content: bytes) -> bool:
        """Tell whether this is what a run that died was about to write."""

    def write_down(self, content: bytes) -> None:
        """Write down, durably, that this is about to be written."""


Decide = Callable[[str, bytes, bytes], bytes]
"""Has somebody decide about a text in conflict; see `decided`."""


def decided(
    decide: Decide | None, path: str, clashes: Sequence[Clash], how: Resolution, sides: Callable[[Resolution], Any]
) -> bytes | None:
    """Have somebody decide about conflicts in a file; None where there is nothing or nobody to decide.

    Args:
        decide: given the path, the text with what is there now in the places that conflict, and with what was there
            before; returns the text that is to be written.
        sides: returns the text by how the conflicts are resolved.

    Raises:
        UsageError: change.no_text.
        RollbackError: as `decide`.
    """
    if decide is None or not clashes or how is not Resolution.REFUSE:
        return None
    ours, theirs = sides(Resolution.OURS), sides(Resolution.THEIRS)
    if not (is_text(ours) and is_text(theirs)):
        raise UsageError("change.no_text", path=path)
    return decide(path, ours, theirs)


def require_merged(what: str, clashes: Sequence[Clash], how: Resolution) -> None:
    """Refuse to go on with conflicts that nobody decided about.

    Raises:
        DifferentError: there are some.
    """
    if clashes and how is Resolution.REFUSE:
        raise DifferentError(what, clashes)


class ConfigRestorer:
    """A configuration file: one dotted key, or all of it. None stands for a key that is not there."""

    def __init__(self, place: FilePlace, decide: Decide | None = None) -> None:
        self.name = place.component
        self._place = place
        self._decide = decide

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        if key is not None and not (isinstance(key, str) and _is_key(key)):
            raise refused(self.name, "its key is no dotted name", 'Give a key such as "server.port", or none.')
        if key is None and not (isinstance(old, dict) and isinstance(new, dict)):
            raise refused(self.name, "without a key its values are whole configurations", "Give two dictionaries.")
        if _holds_bytes(old) or _holds_bytes(new):
            raise refused(self.name, "a configuration has no bytes", "Give JSON-like values.")

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        there = self._place.content()
        if there is None or not intent.is_done(there):
            self._written(change, how)

    def _written(self, change: TrackedChange, how: Resolution) -> bytes:
        """Return what the file is to say."""
        before = self._place.content() or b""

        def said(wanted: dict[str, Any]) -> bytes:
            try:
                return write(before, wanted, self._place.format)
            except UnwritableError as error:
                raise UsageError("config.unsaid", path=self._place.path, why=error) from None

        merged, clashes = self._merged(change, how)
        content = decided(self._decide, self._place.path, clashes, how, lambda how: said(self._merged(change, how)[0]))
        if content is None:
            require_merged(change.key or self._place.path, clashes, how)
            return said(merged)
        self._place.require_usable(content)
        return content

    def _merged(self, change: TrackedChange, how: Resolution) -> tuple[dict[str, Any], list[Clash]]:
        values = self._place.values()
        path = [] if change.key is None else keypath.split(change.key)
        there = _at(values, path)
        try:
            base, want = (as_said(each, self._place.format) for each in (change.new, change.old))
        except UnwritableError as error:
            raise UsageError("config.unsaid", path=self._place.path, why=error) from None
        base, want, there = (MISSING if each is None else each for each in (base, want, there))
        merged, clashes = merge_values(base, want, there, how, change.key or "")
        merged = None if merged is MISSING else merged
        return ((merged or {}) if not path else _with(values, path, merged)), clashes

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer. A reload that fails puts the file back."""
        before = self._place.content()
        content = before if before is not None and intent.is_done(before) else self._written(change, how)
        if self._decide is not None and content != before:
            # What somebody decided is neither side, by which it could be known again.
            intent.write_down(content)
        put_and_reload(self._place, before, content)


def put_and_reload(place: FilePlace, before: bytes | None, content: bytes | None) -> None:
    """Put a content into force, and when the reload fails, what was there before.

    Raises:
        RollbackError: it was refused, or the reload failed; the file is as it was.
    """
    if content is not None:
        place.check(content)
    try:
        place.put(content)
        place.reload()
    except RollbackError:
        place.put(before)
        raise


class FileRestorer:
    """Files, by path: their content, or None where there is none. Mode and owner stay.

    Args:
        home: relative paths are relative to it.
        kept: folder of the store, in which nothing may be written.
    """

    def __init__(self, name: str, home: str, kept: str, decide: Decide | None = None) -> None:
        self.name = name
        self._home = home
        self._kept = kept
        self._decide = decide

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""
        key, old, new = change.key, change.old, change.new
        if not isinstance(key, str) or not key or "\0" in key:
            raise refused(self.name, "its key is no path", "Give the file's path as key.")
        if inside(os.path.realpath(self._path(key)), os.path.realpath(self._kept)):
            raise refused(self.name, "it lies in the store of rfs", "Track files of the application only.")
        for value in (old, new):
            if value is not None and not isinstance(value, str | bytes):
                raise refused(self.name, "a file holds bytes or text", "Give bytes, str, or None for no file.")

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        there = self._place(change.key).content()
        if there is None or not intent.is_done(there):
            self._merged(change, how)

    def _merged(self, change: TrackedChange, how: Resolution) -> bytes | None:
        there = self._place(change.key).content()
        path, sides = self._path(change.key), (_bytes(change.new), _bytes(change.old), there)
        merged, clashes = merge_content(*sides, how)
        content = decided(self._decide, path, clashes, how, lambda how: merge_content(*sides, how)[0])
        if content is None:
            require_merged(path, clashes, how)
        return merged if content is None else content

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer. Lines of a text that others changed since stay."""
        place = self._place(change.key)
        there = place.content()
        if there is not None and intent.is_done(there):
            return
        merged = self._merged(change, how)
        if merged is not None and merged not in (_bytes(change.old), there):
            # Of a text in which the same lines stand again and again, it cannot be seen that it was merged already.
            intent.write_down(merged)
        place.put(merged)

    def _path(self, key: str) -> str:
        return os.path.abspath(os.path.join(self._home, key))

    def _place(self, key: str) -> FilePlace:
        c = Component(name=self.name, kind="files", options={"path": key}, home=self._home, work=self._kept)
        return FilePlace(c, None)


class FunctionRestorer:
    """A function of the application.

    Args:
        restore: called with the change as a dictionary.
        get: called with the key; returns what is there now. Without it nothing can be compared.
    """

    def __init__(self, name: str, restore: Callable[[TrackedChange], None], get: Callable[[Any], Any] | None) -> None:
        self.name = name
        self._restore = restore
        self._get = get

    def check(self, change: TrackedChange) -> None:
        """See Restorer."""

    def look(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        self._stays(change, how)

    def _stays(self, change: TrackedChange, how: Resolution) -> bool:
        """Tell whether it was changed since and is to stay as it is."""
        if self._get is None or how is Resolution.WHOLE:
            return False
        there = self._get(change.key)
        if same(there, change.new) or same(there, change.old):
            return False
        what = f"The value of {self.name}"
        require_merged(what, [Clash(change.what, change.new, change.old, there)], how)
        return how is Resolution.OURS

    def restore(self, change: TrackedChange, how: Resolution, intent: Intent) -> None:
        """See Restorer."""
        if not self._stays(change, how):
            self._restore(change)


def _is_key(key: str) -> bool:
    try:
        return bool(keypath.split(key))
    except ValueError:
        return False


def refused(name: str, why: str, hint: str) -> UsageError:
    """Return the error for a change that could not be taken back."""
    return UsageError("change.value", component=name, why=why, hint=hint)


def _at(values: Any, path: list[str]) -> Any:
    for word in path:
        values = values.get(word) if isinstance(values, dict) else None
    return values


def _with(values: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return `values` with another value at a path; None takes it out."""
    word, *rest = path
    inner = values.get(word)
    if rest:
        value = _with(inner if isinstance(inner, dict) else {}, rest, value)
    return {**values, word: value} if value is not None else {k: v for k, v in values.items() if k != word}


def _bytes(value: Any) -> bytes | None:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_bytes, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bytes)
