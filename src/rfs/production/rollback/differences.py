"""The changes between any two states, by component: what `rfs diff` and `rfs changes` tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rfs.production.rollback.application import Application
from rfs.production.rollback.capturing import require_kind
from rfs.production.rollback.drivers.masking import masked_line
from rfs.production.rollback.model import Capture, Change
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.plan import select

MOST_BYTES, MOST_LINES = 4 << 20, 50_000
_Pair = tuple[Capture, Capture | None]


def captures_between(app: Application, a: str, b: str | None = None, only: Sequence[str] = ()) -> dict[str, _Pair]:
    """Return the two captures to compare, by component; None stands for the live state.

    Raises:
        NotFoundError: no such checkpoint or component.
        ConflictError: a component is of another kind now.
    """
    first = app.find(a)
    second = app.find(b) if b is not None else None
    found: dict[str, _Pair] = {}
    for name in select([n for n in app.parts if n in first.captures], only):
        after = second.captures.get(name) if second is not None else None
        if second is not None and after is None:
            continue
        for capture in (first.captures[name], after):
            require_kind(app.parts[name], capture)
        found[name] = first.captures[name], after
    return found


def between(app: Application, pairs: dict[str, _Pair]) -> list[Change]:
    """Return the changes from the first to the second of each pair of captures."""
    changes: list[Change] = []
    with app.beat.call():
        for name, (before, after) in pairs.items():
            part = app.parts[name]
            with app.beat.doing(f"comparing {name}"):
                changes += part.driver.changes(part.component, app.engine.blobs, before, after)
    return changes


def diff(app: Application, a: str, b: str | None = None, *, only: Sequence[str] = ()) -> list[Change]:
    """Return the changes from checkpoint `a` to checkpoint `b`, or to the live state; raises as `captures_between`."""
    return between(app, captures_between(app, a, b, only))


def made_by(app: Application, operation: Operation) -> tuple[dict[str, _Pair], list[Change]]:
    """Return what an operation changed, from the state before it to where it went.

    Raises:
        NotFoundError: one of the two is no longer kept.
    """
    names = [name for name in operation.plan.components if name in app.parts]
    pairs = captures_between(app, operation.state_before, operation.plan.target, names)
    changes = between(app, pairs)
    for name, keys in operation.plan.selection.items():
        chosen = app.parts[name].driver.among([each for each in changes if each.component == name], keys)
        changes = [each for each in changes if each.component != name or each in chosen]
    return pairs, changes


def texts(app: Application, pairs: dict[str, _Pair], changes: Sequence[Change]) -> Iterator[tuple[Change, list[str]]]:
    """Yield the changes of files that are text, each with the lines of a unified diff, in which secrets are masked.

    Files that are binary or longer than MOST_BYTES have none.
    """
    from difflib import unified_diff

    for change in changes:
        part = app.parts[change.component]
        sides: list[list[str]] = []
        for side, capture in zip((change.before, change.after), pairs[change.component], strict=True):
            found: bytes | None = b""
            if side is not None:
                found = part.driver.content(part.component, app.engine.blobs, capture, change.key, MOST_BYTES)
            if found is None or b"\0" in found or found.count(b"\n") > MOST_LINES:
                break
            sides.append([masked_line(line) for line in found.decode("utf-8", "replace").splitlines()])
        if len(sides) == 2 and sides[0] != sides[1]:
            old, new = (change.key if side is not None else "/dev/null" for side in (change.before, change.after))
            yield change, list(unified_diff(sides[0], sides[1], old, new, lineterm=""))
