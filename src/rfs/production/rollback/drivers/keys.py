"""The differences between two tables of keys, as changes that any eye may see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rfs.production.rollback.driver import BlobSource
from rfs.production.rollback.drivers.formats import Value
from rfs.production.rollback.drivers.masking import MASK, is_secret_value, label
from rfs.production.rollback.model import Change, ChangeKind, Component, Ref


def key_changes(
    c: Component, source: BlobSource, old: Mapping[str, Value], new: Mapping[str, Value]
) -> Iterator[Change]:
    """Yield what was added, changed and removed, sorted by key.

    Args:
        source: gives keyed ids, from which nobody can guess a value.
    """
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        # What is secret on one side is not shown on the other: one may well be a part of the other.
        values = [value for value in (before, after) if value is not None]
        secret = any(value.secret or is_secret_value(value.text) for value in values)
        kind = ChangeKind.CHANGED
        if before is None:
            kind = ChangeKind.ADDED
        elif after is None:
            kind = ChangeKind.REMOVED
        yield Change(c.name, kind, key, _ref(source, before, secret), _ref(source, after, secret))


def shown_keys(values: Mapping[str, Value]) -> dict[str, str]:
    """Return what may be shown of each key's value."""
    return {
        key: MASK if value.secret or is_secret_value(value.text) else label(value.text) for key, value in values.items()
    }


def _ref(source: BlobSource, value: Value | None, secret: bool) -> Ref | None:
    if value is None:
        return None
    encoded = value.text.encode("utf-8", "surrogatepass")
    # The length of a secret is nobody's business either.
    return Ref(source.identify(encoded).hex(), 0 if secret else len(encoded), MASK if secret else label(value.text))
