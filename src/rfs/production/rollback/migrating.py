"""Which migrations are to be taken back, in which order, and whether there is a way: pure.

With it the words in which others speak of migrations: what rfs.toml says of them, and who knows them.

Versions are ordered as people read them: `9` before `10`, `1.9` before `1.10`, whatever zeros stand before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.errors import NotFoundError, RollbackError
from rfs.production.rollback.model import Component, Downgrade, Migrations

_NUMBERED = re.compile(r"([A-Za-z]*)\d+(?:\.\d+)*(?![A-Za-z0-9])")


class MigrationsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What migrates a database.

    Attributes:
        path: Alembic's alembic.ini, Django's manage.py, or a folder of NUMBER_name.up.sql and .down.sql files.
        tool: which of them it is; by default the path tells.
        python: what runs Alembic or Django; by default that of a .venv or venv beside the path or rfs.toml, else rfs's.
        settings: the module of Django's settings; by default the one that manage.py names.
        table: the table of the history, where it has another name than usual.
    """

    path: str
    tool: Literal["alembic", "django", "sql"] | None = None
    python: str | None = None
    settings: str | None = None
    table: str | None = None


def table_of(options: Mapping[str, Any]) -> MigrationsTable | None:
    """Return what a component's options say of its migrations; None when nothing."""
    given = options.get("migrations")
    if given is None:
        return None
    return MigrationsTable(path=given) if isinstance(given, str) else msgspec.convert(given, MigrationsTable)


class Journal(Protocol):
    """Where the statements that no transaction can hold are written down, one by one."""

    def begun(self) -> Sequence[str]:
        """Return the names of the statements that were begun in this direction."""

    def ended(self) -> Sequence[str]:
        """Return the names of those that were ended."""

    def begin(self, statement: str) -> None:
        """Note that a statement is about to be run; durable when this returns."""

    def end(self, statement: str) -> None:
        """Note that it was run."""


class Migrator(Protocol):
    """What knows the migrations of one component."""

    def record(self, c: Component, sink: BlobSink) -> Migrations:
        """Return which migrations are in force, with the scripts; it never fails, but says why it could not."""

    def down(self, c: Component, source: BlobSource, way: Downgrade, recorded: Migrations | None, log: Journal) -> None:
        """Take back what is left of a way. Re-runnable.

        Args:
            recorded: whose scripts are run; None for those of the application as it is.
            log: for what cannot be done in a transaction.

        Raises:
            RollbackError: it could not; the engine turns back.
        """


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
