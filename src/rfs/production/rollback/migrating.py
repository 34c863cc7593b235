"""Which migrations are to be taken back, in which order, and whether there is a way: pure.

Versions are ordered as people read them: `9` before `10`, `1.9` before `1.10`, whatever zeros stand before them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from rfs.production.rollback.errors import NotFoundError, RollbackError

_NUMBERED = re.compile(r"([A-Za-z]*)\d+(?:\.\d+)*(?![A-Za-z0-9])")


class Applied(msgspec.Struct, frozen=True):
    """A migration that is in force.

    Attributes:
        version: as the history has it.
        down: the script that takes it back; None where there is none.
    """

    version: str
    down: str | None


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Return what versions are sorted by."""
    parts = re.findall(r"\d+|\D+", version)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def way_down(applied: Sequence[Applied], target: str) -> list[Applied]:
    """Return the migrations after a version, newest first.

    Args:
        applied: those in force, in any order.
        target: the version to go back to. One that is not in the history is taken when it is numbered in the same
            way as those that are: the first migration may be older than the history.

    Raises:
        NotFoundError: there is no such version.
        RollbackError: there is nothing after it.
    """
    versions = [each.version for each in applied]
    if target not in versions and not _comparable(target, versions):
        known = ", ".join(sorted(versions, key=version_key)[-3:]) or "none"
        raise NotFoundError("migration.unknown", version=target, known=known)
    floor = version_key(target)
    after = [each for each in applied if version_key(each.version) > floor]
    if not after:
        raise RollbackError("migration.nothing", version=target)
    return sorted(after, key=lambda each: version_key(each.version), reverse=True)


def lacking(way: Sequence[Applied]) -> list[str]:
    """Return the versions on a way that have no script, newest first."""
    return [each.version for each in way if each.down is None or not each.down.strip()]


def covering(way: Sequence[Applied], kept: Sequence[str], checkpoints: Sequence[Sequence[str] | None]) -> int | None:
    """Return which checkpoint leads past every migration that has no script.

    It was taken when all of what stays, and none from the oldest migration without a script upward, was in force.
    Of several, the one that takes back least wins, then the newest.

    Args:
        way: newest first.
        kept: the versions that stay.
        checkpoints: which versions were in force at each, newest first; None where that is not known.
    """
    oldest = lacking(way)[-1]
    may = [each.version for each in way[[each.version for each in way].index(oldest) + 1 :]]
    best: tuple[int, int] | None = None
    for number, versions in enumerate(checkpoints):
        if versions is None or not set(kept) <= set(versions) <= set(kept) | set(may):
            continue
        # What was in force must be a beginning of the history, or the scripts after it would meet gaps.
        rest = sorted(set(versions) - set(kept), key=version_key)
        if rest == sorted(may, key=version_key)[: len(rest)] and (best is None or len(rest) > best[0]):
            best = (len(rest), number)
    return None if best is None else best[1]


def _comparable(target: str, versions: Sequence[str]) -> bool:
    wanted = _NUMBERED.match(target)
    if wanted is None:
        return False
    found = [_NUMBERED.match(version) for version in versions]
    return all(each is not None and each[1] == wanted[1] for each in found)
