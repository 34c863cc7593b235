"""Plain SQL: a folder of NUMBER_name.up.sql and NUMBER_name.down.sql, and a table that says which were applied.

The table is `migration_history(version, down_script, …)` or `schema_migrations(version, …)`. A `schema_migrations`
with a column `dirty` has one row, which names the newest version that was applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rfs.production.rollback.errors import ConflictError, NotFoundError, RollbackError
from rfs.production.rollback.migrating import Applied, Journal, MigrationsTable, version_key, way_down
from rfs.production.rollback.migrations.scripts import Files, Revision, State, listed, read
from rfs.production.rollback.migrations.session import ScriptError, Session, require_same
from rfs.production.rollback.model import Component
from rfs.production.rollback.sqltext import alone, in_one_transaction, statements

_NAME = re.compile(r"(?P<version>\d+(?:\.\d+)*)(?:[_-](?P<title>.*?))?\.(?P<way>up|down)\.sql")
_USUAL = ("migration_history", "schema_migrations")
_TABLE = re.compile(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)?")


def files(c: Component, folder: str) -> dict[str, bytes]:
    """Return the scripts of a folder by name."""
    names = [name for name in listed(c, folder) if _NAME.fullmatch(name)]
    return {name: read(c, f"{folder}/{name}") for name in names}


class History:
    """The table of what was applied.

    Raises:
        NotFoundError: there is none.
        ConflictError: it says that a migration broke off half way.
    """

    def __init__(self, session: Session, c: Component, options: MigrationsTable) -> None:
        names = (options.table,) if options.table is not None else _USUAL
        known = {name: session.columns(name) for name in names if _TABLE.fullmatch(name)}
        self.table = next((name for name, columns in known.items() if "version" in columns), "")
        if not self.table:
            raise NotFoundError("migrate.no_history", component=c.name, tables=" or ".join(names))
        columns = known[self.table]
        self._session = session
        self._single = "dirty" in columns
        self._scripts = "down_script" in columns
        if self._single:
            dirty = session.rows(f"SELECT version FROM {self.table} WHERE dirty")
            if dirty:
                raise ConflictError("migrate.dirty", component=c.name, table=self.table, version=dirty[0][0])

    def rows(self, known: Iterable[str] = ()) -> dict[str, str | None]:
        """Return the versions that are in force, each with the down script that the table has of it.

        Args:
            known: the versions of the scripts; a table that names only the newest is filled up with them.
        """
        script = "down_script" if self._scripts else "NULL"
        found = {
            str(version): down for version, down in self._session.rows(f"SELECT version, {script} FROM {self.table}")
        }
        if self._single and found:
            newest = max(map(version_key, found))
            found |= {version: None for version in known if version_key(version) <= newest and not _in(version, found)}
        return found

    def remove(self, version: str, left: Sequence[str]) -> None:
        """Take a version out of the table; `left` are those that stay, oldest first."""
        mark = self._session.mark
        if self._single and left:
            query = f"UPDATE {self.table} SET version = {mark} RETURNING 1"
            self._session.rows(query, int(left[-1]) if left[-1].isdecimal() else left[-1])
        elif self._single:
            self._session.rows(f"DELETE FROM {self.table} RETURNING 1")
        else:
            query = f"DELETE FROM {self.table} WHERE CAST(version AS text) = {mark} RETURNING 1"
            self._session.rows(query, version)


def state(session: Session, c: Component, options: MigrationsTable, scripts: Files) -> State:
    """Return what is in force, and what the scripts know of it."""
    known = _revisions(scripts)
    rows = History(session, c, options).rows(known)
    applied = sorted(rows, key=version_key)
    named = {version: _of(known, version, rows[version]) for version in applied}
    pending = [version for version in sorted(known, key=version_key) if not _in(version, rows)]
    return State(
        applied=tuple(applied),
        heads=tuple(applied[-1:]),
        missing=tuple(version for version in applied if not named[version].down),
        pending=tuple(pending),
        known={**{version: known[version] for version in pending}, **named},
    )


def way(found: State, target: str) -> tuple[str, ...]:
    """Return what is to be taken back to reach a version, newest first; `base` is before the first one."""
    if target == "base":
        if not found.applied:
            raise RollbackError("migration.nothing", version=target)
        return tuple(reversed(found.applied))
    wanted = next((version for version in found.applied if _same(version, target)), target)
    applied = [Applied(version, "" if found.known[version].down else None) for version in found.applied]
    return tuple(each.version for each in way_down(applied, wanted))


def texts(history: History, scripts: Files, versions: Sequence[str]) -> list[str]:
    """Return the down script of each version."""
    known = _downs(scripts)
    rows = history.rows(_revisions(scripts))
    return [(rows.get(version) or "").strip() or _script(known, version) for version in versions]


def require_runnable(session: Session, history: History, scripts: Files, versions: Sequence[str]) -> None:
    """Make sure that each script can be run as it is meant to be.

    Raises:
        UsageError: one begins or ends transactions in its midst.
    """
    for version, text in zip(versions, texts(history, scripts, versions), strict=True):
        if not alone(text, session.apart):
            in_one_transaction(text, f"The down script of {version}")


def down(session: Session, history: History, scripts: Files, versions: Sequence[str], log: Journal) -> None:
    """Take back those of `versions` that are still in force.

    Neighbours that a transaction can hold are taken back in one; each of the others statement by statement, written
    down before and after it.
    """
    there = history.rows(_revisions(scripts))
    going = [version for version in versions if version in there]
    left = [version for version in sorted(there, key=version_key) if version not in going]
    keys = session.check()
    together: list[tuple[str, str]] = []
    for version, text in zip(going, texts(history, scripts, going), strict=True):
        if alone(text, session.apart):
            _run_together(session, history, together, left, going)
            together = []
            _run_apart(session, version, text, log)
            with session.transaction():
                history.remove(version, _staying(left, going, version))
        else:
            together.append((version, text))
    _run_together(session, history, together, left, going)
    require_same(keys, session.check(), ", ".join(versions))
    if sorted(history.rows(left), key=version_key) != left:
        raise RollbackError("migration.rows", table=history.table)


def _run_together(
    session: Session, history: History, scripts: Sequence[tuple[str, str]], left: Sequence[str], going: Sequence[str]
) -> None:
    if not scripts:
        return
    keys = session.check()
    with session.transaction():
        for version, text in scripts:
            script = in_one_transaction(text, f"The down script of {version}")
            try:
                session.run(script)
            except ScriptError as error:
                raise RollbackError("migration.failed", version=version, why=error) from error
            history.remove(version, _staying(left, going, version))
        require_same(keys, session.check(), ", ".join(version for version, _ in scripts))


def _run_apart(session: Session, version: str, text: str, log: Journal) -> None:
    for number, statement in enumerate(statements(text), 1):
        name = f"{version} statement {number}"
        if name in log.ended():
            continue
        if name in log.begun():
            raise RollbackError("migrate.unknown_end", version=version, number=number)
        log.begin(name)
        try:
            session.run(statement)
        except ScriptError as error:
            raise RollbackError("migrate.failed_apart", version=version, number=number, why=error) from error
        log.end(name)


def _staying(left: Sequence[str], going: Sequence[str], version: str) -> list[str]:
    """Return what is in force once a version is taken back, oldest first."""
    return [*left, *reversed(going[going.index(version) + 1 :])]


def _revisions(scripts: Files) -> dict[str, Revision]:
    downs = _downs(scripts)
    found: dict[str, Revision] = {}
    for name in scripts:
        match = _NAME.fullmatch(name)
        if match is not None:
            version = match["version"]
            found[version] = Revision(version=version, title=match["title"] or "", down=version in downs)
    return found


def _downs(scripts: Files) -> dict[str, str]:
    named = ((_NAME.fullmatch(name), data) for name, data in scripts.items())
    downs = {m["version"]: data.decode() for m, data in named if m is not None and m["way"] == "down"}
    return {version: text for version, text in downs.items() if text.strip()}


def _of(known: dict[str, Revision], version: str, script: str | None) -> Revision:
    found = next((each for name, each in known.items() if _same(name, version)), None)
    has = bool((script or "").strip()) or (found is not None and found.down)
    return Revision(version=version, title=found.title if found is not None else "", down=has)


def _script(downs: dict[str, str], version: str) -> str:
    found = next((text for name, text in downs.items() if _same(name, version)), "")
    if not found.strip():
        raise RollbackError("migrate.no_script", versions=version)
    return found


def _same(one: str, other: str) -> bool:
    """Tell whether two spellings mean one version: 003 is 3, and a history may have the whole name of a file."""
    if one == other or version_key(one) == version_key(other):
        return True
    short, long = sorted((one, other), key=len)
    return (
        short.replace(".", "").isdecimal()
        and re.match(rf"0*{re.escape(short.lstrip('0') or '0')}[_-]", long) is not None
    )


def _in(version: str, others: Iterable[str]) -> bool:
    return any(_same(version, other) for other in others)
