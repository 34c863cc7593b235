"""What is done with the migrations of one component: recorded, looked at, planned, taken back."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.errors import (
    ConflictError,
    IntegrityError,
    IrreversibleError,
    NotFoundError,
    RollbackError,
)
from rfs.production.rollback.migrating import Journal, MigrationsTable
from rfs.production.rollback.migrations import alembic, django, sqlfolder
from rfs.production.rollback.migrations.outside import Tool
from rfs.production.rollback.migrations.scripts import Files, State, get, put
from rfs.production.rollback.migrations.session import Session, opened
from rfs.production.rollback.model import Component, Downgrade, Migrations


class Looked(msgspec.Struct, frozen=True):
    """What is there now: with the scripts as they are, and the names of tables and columns."""

    tool: str
    state: State
    objects: tuple[str, ...]


class ToolMigrator:
    """Args: options: what rfs.toml says."""

    def __init__(self, options: MigrationsTable) -> None:
        self.options = options

    def tool(self, c: Component) -> str:
        """Return which tool it is.

        Raises:
            RollbackError: the path does not tell.
        """
        if self.options.tool is not None:
            return self.options.tool
        path = self.path(c)
        name = os.path.basename(path)
        if name == "manage.py" or name.endswith(".ini"):
            return "django" if name == "manage.py" else "alembic"
        for inner, tool in (("manage.py", "django"), ("alembic.ini", "alembic")):
            if os.path.isfile(os.path.join(path, inner)):
                return tool
        return "sql"

    def path(self, c: Component) -> str:
        return os.path.abspath(os.path.join(c.home, os.path.expanduser(self.options.path)))

    def _entry(self, c: Component) -> str:
        """Return the file that the tool is given: a folder may be named that has it."""
        path, usual = self.path(c), {"alembic": "alembic.ini", "django": "manage.py"}
        tool = self.tool(c)
        return os.path.join(path, usual[tool]) if tool in usual and os.path.isdir(path) else path

    def files(self, c: Component) -> dict[str, bytes]:
        """Return the scripts as they are.

        Raises:
            RollbackError: they cannot be read.
        """
        if not self.options.path:  # all scripts are in the history
            return {}
        find = {"alembic": alembic.files, "django": django.files, "sql": sqlfolder.files}
        return find[self.tool(c)](c, self._entry(c))

    def state(self, session: Session, c: Component, files: Files) -> State:
        """Return what is in force, in the eyes of some scripts."""
        tool = self.tool(c)
        if tool == "sql":
            return sqlfolder.state(session, c, self.options, files)
        look = alembic.state if tool == "alembic" else django.state
        return look(session, files, self.options.table)

    def look(self, c: Component) -> Looked:
        """Return what is there now.

        Raises:
            RollbackError: the database or the scripts cannot be read.
        """
        with opened(c) as session:
            return Looked(self.tool(c), self.state(session, c, self.files(c)), tuple(session.objects()))

    def record(self, c: Component, sink: BlobSink) -> Migrations:
        """See Migrator."""
        try:
            tool, files = self.tool(c), self.files(c)
            with opened(c) as session:
                state, objects = self.state(session, c, files), session.objects()
        except RollbackError as error:
            # A checkpoint is worth more than this: what was in force is in the database, which has its own capture.
            return Migrations(tool=self.options.tool or "", why=str(error))
        return Migrations(
            tool=tool,
            applied=state.applied,
            heads=state.heads,
            missing=state.missing,
            parts=(put(sink, files, objects),),
        )

    # — the way down —

    def plan(self, c: Component, files: Files | None, source: str, target: str, at: Migrations | None) -> Downgrade:
        """Return the way down with some scripts; nothing is changed.

        Args:
            files: of a checkpoint; None for those of the application as it is.
            source: that checkpoint's id, or "".
            target: where to.
            at: with it, the target is what was in force at a checkpoint.

        Raises:
            RollbackError: there is no way.
        """
        tool = self.tool(c)
        scripts = self.files(c) if files is None else files
        with opened(c) as session:
            state = self.state(session, c, scripts)
        if at is not None and state.applied and not set(at.applied) <= set(state.applied) | set(state.missing):
            gone = sorted(set(at.applied) - set(state.applied))
            raise ConflictError("migrate.not_below", component=c.name, versions=", ".join(gone[:3]))
        if tool == "django":
            targets, versions = self._django(c, files, state, target, at)
        elif tool == "alembic":
            self._require_same_database(c, files, state)
            name, versions = alembic.way(state, alembic.at(state, at.heads) if at is not None else target)
            targets = (name,)
        else:
            name = (at.heads[0] if at.heads else "base") if at is not None else target
            targets, versions = (name,), sqlfolder.way(state, name)
        stuck = [version for version in versions if not state.known[version].down]
        if stuck:
            raise IrreversibleError("migrate.no_script", versions=", ".join(stuck), way=versions)
        if tool == "sql":
            with opened(c) as session:
                history = sqlfolder.History(session, c, self.options)
                sqlfolder.require_runnable(session, history, scripts, versions)
        return Downgrade(component=c.name, tool=tool, targets=targets, versions=versions, source=source)

    def _require_same_database(self, c: Component, files: Files | None, state: State) -> None:
        if state.missing:
            raise IrreversibleError("migrate.no_script", versions=", ".join(state.missing))
        seen = self._tool(c, files).ask("look")["heads"]
        if seen != list(state.heads):
            ours = ", ".join(state.heads) or "nothing"
            raise ConflictError(
                "migrate.elsewhere", component=c.name, tool="Alembic", theirs=", ".join(seen) or "nothing", ours=ours
            )

    def _django(
        self, c: Component, files: Files | None, state: State, target: str, at: Migrations | None
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        targets = django.at(state, at.applied) if at is not None else (django.target_of(target),)
        if not targets:
            raise RollbackError("migration.nothing", version=target)
        answer = self._tool(c, files).ask("look", targets)
        if "unknown" in answer:
            raise NotFoundError("migration.unknown", version=answer["unknown"], known=", ".join(state.heads[-3:]))
        if "forward" in answer:
            raise ConflictError("migrate.forward", target=target, versions=", ".join(answer["forward"][:3]))
        if answer["applied"] != sorted(state.applied):
            theirs, ours = f"{len(answer['applied'])} applied", f"{len(state.applied)}"
            raise ConflictError("migrate.elsewhere", component=c.name, tool="Django", theirs=theirs, ours=ours)
        if answer["stuck"]:
            raise IrreversibleError("migrate.no_script", versions=", ".join(answer["stuck"]), way=answer["way"])
        # Its own scripts lack what was applied after the target in the same app: then they know of no way.
        apps = {each.partition(".")[0] for each in answer["targets"]}
        unseen = [each for each in state.missing if each.partition(".")[0] in apps]
        if unseen:
            raise IrreversibleError("migrate.no_script", versions=", ".join(unseen))
        if not answer["way"]:
            raise RollbackError("migration.nothing", version=target)
        return tuple(answer["targets"]), tuple(answer["way"])

    def _tool(self, c: Component, files: Files | None) -> Tool:
        return Tool(c, self.options, self.tool(c), self._entry(c), files)

    def sql(self, c: Component, files: Files | None, way: Downgrade) -> str:
        """Return the SQL of a way, as text."""
        if way.tool == "sql":
            with opened(c) as session:
                scripts = self.files(c) if files is None else files
                history = sqlfolder.History(session, c, self.options)
                found, table = sqlfolder.texts(history, scripts, way.versions), history.table
            return "\n".join(
                f"-- {version}\n{text.strip()}\n-- and its row in {table}"
                for version, text in zip(way.versions, found, strict=True)
            )
        with opened(c) as session:
            heads = self.state(session, c, self.files(c) if files is None else files).heads
        return str(self._tool(c, files).ask("sql", way.targets, head=heads[0] if heads else "")["sql"]).strip()

    def down(self, c: Component, source: BlobSource, way: Downgrade, recorded: Migrations | None, log: Journal) -> None:
        """See Migrator."""
        files = get(source, recorded)[0] if recorded is not None else None
        scripts = self.files(c) if files is None else files
        with opened(c) as session:
            state = self.state(session, c, scripts)
            if way.tool == "sql":
                sqlfolder.down(session, sqlfolder.History(session, c, self.options), scripts, way.versions, log)
        # Without what is to go it is over: a run that was killed had come so far.
        if way.tool != "sql" and set(way.versions) & {*state.applied, *state.missing}:
            self._tool(c, files).ask("down", way.targets, pulse=source)
        with opened(c) as session:
            after = self.state(session, c, scripts)
        self._require_reached(c, way, state, after)

    def _require_reached(self, c: Component, way: Downgrade, before: State, after: State) -> None:
        there, now = {*before.applied, *before.missing}, {*after.applied, *after.missing}
        if now != there - set(way.versions):
            left = sorted(now & set(way.versions)) or sorted(now ^ (there - set(way.versions)))
            raise IntegrityError("migrate.differs", component=c.name, versions=", ".join(left[:3]))


def stands_at(tool: str, now: State, then: Migrations, target: str) -> bool:
    """Tell whether a checkpoint stands at a target that no scripts lead to: what has to go is not among them.

    With Alembic that is so when its one head is the target, and the database has one head, too: then all that is
    between them goes. With Django, when all that came since is of the target's app, and the target its newest.
    """
    if tool == "alembic":
        one = then.heads == () if target == "base" else len(then.heads) == 1 and then.heads[0].startswith(target)
        return one and len(now.heads) == 1
    there, kept = {*now.applied, *now.missing}, {*then.applied, *then.missing}
    app, _, name = django.target_of(target).partition(".") if tool == "django" else ("", "", "")
    if not app or not kept <= there or {each.partition(".")[0] for each in there - kept} != {app}:
        return False
    newest = next((head.partition(".")[2] for head in then.heads if head.partition(".")[0] == app), "zero")
    return newest.startswith(name)


def objects_of(source: BlobSource, recorded: Migrations) -> tuple[str, ...]:
    """Return the names of tables and columns that a checkpoint recorded."""
    return get(source, recorded)[1]


def files_of(source: BlobSource, recorded: Migrations) -> dict[str, bytes]:
    """Return the scripts that a checkpoint recorded."""
    return get(source, recorded)[0]


def outermost(names: Sequence[str]) -> list[str]:
    """Return names of tables and columns without the columns of tables that are named themselves."""
    tables = set(names)
    return [name for name in names if name.rpartition(".")[0] not in tables]
