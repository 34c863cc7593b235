"""The main job under fault: a checkpoint and a rollback of a whole application, then recover, then judged.

The application is a tree of files, a settings file, a .env and a SQLite database. The state
that a rollback goes to differs from the one before in everything a driver looks at.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import apsw

# What rfs imports where it is first used is imported here, once, instead of in every child.
import cryptography.hazmat.primitives.ciphers.aead
import ruamel.yaml
import tomlkit
import zstandard
from tests.crash.controls import WithoutFileSync, WithoutFolderSync
from tests.crash.harness import Scenario, look
from tests.crash.parts import differing
from tests.crash.tree import make_first_tree, make_second_tree

from rfs.production.rollback import database, upkeep
from rfs.production.rollback import engine as engine_module
from rfs.production.rollback import operation as operation_module
from rfs.production.rollback.application import Application
from rfs.production.rollback.catalog import entry
from rfs.production.rollback.engine import Engine
from rfs.production.rollback.errors import HeldError, RevertedError
from rfs.production.rollback.model import OperationStatus
from rfs.production.rollback.operation import Mark, Operation, Position, position
from rfs.production.rollback.plan import Action, Step

IMPORTED = (cryptography.hazmat.primitives.ciphers.aead, ruamel.yaml, tomlkit, zstandard)
CONFIG = """
[app]
name = "crash"
[components.tree]
kind = "files"
path = "live/tree"
[components.settings]
kind = "config"
path = "live/settings.toml"
[components.env]
kind = "environment"
path = "live/.env"
[components.db]
kind = "sqlite"
path = "live/shop.db"
[store]
path = "store"
key = "file:{world}/key"
"""


def make_first(live: Path) -> None:
    """Make version 1, the one that is rolled back to."""
    (live / "tree").mkdir()
    make_first_tree(live / "tree")
    (live / "settings.toml").write_text("# the shop\ntitle = 'one'\n")
    (live / ".env").write_text("TOKEN=one\n")
    run(live, "CREATE TABLE orders (n INTEGER PRIMARY KEY, text TEXT)", *rows(0, 20))


def make_second(live: Path) -> None:
    """Turn it into version 2: the state before the rollback."""
    make_second_tree(live / "tree")
    (live / "settings.toml").write_text("# the shop\ntitle = 'two'\ndebug = true\n")
    (live / ".env").write_text("TOKEN=two\nDEBUG=1\n")
    (live / ".env").chmod(0o600)
    run(live, "DELETE FROM orders WHERE n % 3 = 0", "CREATE TABLE extra (n)", *rows(100, 30))


def rows(first: int, count: int) -> list[str]:
    return [f"INSERT INTO orders VALUES ({n}, '{'x' * 300}')" for n in range(first, first + count)]


def run(live: Path, *statements: str) -> None:
    database = apsw.Connection(str(live / "shop.db"))
    try:
        database.pragma("journal_mode", "wal")
        database.pragma("synchronous", "off")
        with database:
            for statement in statements:
                database.execute(statement)
    finally:
        database.close()


def seen(live: Path) -> dict[str, object]:
    """Everything that an eye which knows nothing of rfs sees of the application."""
    found: dict[str, object] = {}
    for name in ("tree", "settings.toml", ".env"):
        found.update(look(live / name))
    database = apsw.Connection(str(live / "shop.db"), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found["tables"] = {table: list(database.execute(f"SELECT * FROM {table}")) for table in sorted(tables)}
        found["sound"] = database.execute("PRAGMA integrity_check").get
    finally:
        database.close()
    # SQLite's own files come and go; anything else beside the components was left behind.
    found["names"] = sorted(set(os.listdir(live)) - {"shop.db-wal", "shop.db-shm", "shop.db-journal"})
    return found


class Whole(Scenario):
    """What checkpoint, rollback and prune have in common."""

    live = ("live/tree", "live/settings.toml", "live/.env")
    seconds = 30.0
    config = CONFIG

    def prepare(self, world: Path) -> None:
        (world / "live").mkdir()
        (world / "rfs.toml").write_text(self.config.format(world=world))
        make_first(world / "live")
        Application.create(str(world / "rfs.toml")).close()
        with self.open(world) as app:
            target = app.checkpoint(message="version 1").checkpoint_id
        first = seen(world / "live")
        make_second(world / "live")
        (world / "known").write_bytes(pickle.dumps((target, first, seen(world / "live"))))

    def open(self, world: Path) -> Application:
        return Application.open(str(world / "rfs.toml"))

    def known(self, world: Path) -> tuple[str, dict[str, object], dict[str, object]]:
        """Return the first checkpoint's id, and what was seen of versions 1 and 2."""
        target, first, second = pickle.loads((world / "known").read_bytes())
        return target, first, second

    def recover(self, world: Path) -> None:
        with self.open(world) as app:
            try:
                app.recover()
            except RevertedError:
                return
            except HeldError:
                # The cause is gone by now; going on is what the message says.
                try:
                    app.resume()
                except RevertedError:
                    return


class Checkpoint(Whole):
    """A checkpoint exists wholly or not at all, and taking it changes nothing live."""

    def act(self, world: Path) -> None:
        with self.open(world) as app:
            app.checkpoint(message="version 2")

    def judge(self, world: Path) -> str:
        target, _, second = self.known(world)
        now = seen(world / "live")
        if now != second:
            return f"mixed: a checkpoint changed something live: {differing(second, now)}"
        with self.open(world) as app:
            verified = upkeep.verify(app)
            if verified.damage or verified.damaged:
                return f"corrupt: {verified}"
            words = [checkpoint.message for checkpoint in app.catalog.checkpoints()]
            app.find(target)
        return {("version 1",): "old", ("version 2", "version 1"): "new"}.get(tuple(words), f"lost: {words}")


class Rollback(Whole):
    """After recovery the application is exactly at version 1, or exactly at version 2, and the log says which."""

    def act(self, world: Path) -> None:
        target, _, _ = self.known(world)
        with self.open(world) as app:
            app.rollback(target, reason="crash test")

    def judge(self, world: Path) -> str:
        _, first, second = self.known(world)
        now = seen(world / "live")
        if now not in (first, second):
            return f"mixed: to version 1: {differing(first, now)}; to version 2: {differing(second, now)}"
        rolled_back = now == first
        with self.open(world) as app:
            operations = app.catalog.operations()
            if (left := app.catalog.open_operation()) is not None:
                return f"stuck: operation {left.operation_id} is still {left.status}"
            completed = [each for each in operations if each.status is OperationStatus.COMPLETED]
            if bool(completed) != rolled_back or len(operations) > 1:
                told = [str(each.status) for each in operations]
                return f"lost: the application is {'new' if rolled_back else 'old'}, and the log says {told}"
            for operation in operations:
                for needed in {operation.safety, operation.state_before}:
                    if upkeep.verify(app, needed).damaged:
                        return f"corrupt: the safety checkpoint {needed} is not whole"
        return "new" if rolled_back else "old"


SERVICE = """
[components.web]
kind = "service"
manager = "command"
units = ["web"]
start = ["touch", "{world}/web"]
stop = ["rm", "-f", "{world}/web"]
status = ["test", "-e", "{world}/web"]
stop_timeout = "2s"
"""
# The faults reach these commands too. A stop command that failed is waited for until its timeout, which must end
# before the stage does; what is judged is what then becomes of the rollback.


class RollbackWithService(Rollback):
    """With a service that is stopped meanwhile; it must run again, whatever happened."""

    config = CONFIG + SERVICE

    def prepare(self, world: Path) -> None:
        (world / "web").touch()
        super().prepare(world)

    def judge(self, world: Path) -> str:
        if not (world / "web").exists():
            return "stuck: the service does not run"
        return super().judge(world)


WRITTEN = 10_000


class Written(NamedTuple):
    """The numbers of what the service wrote, as the file and as the database have them."""

    lines: set[int]
    rows: set[int]


class RollbackWithReboots(RollbackWithService):
    """Between a crash and its recovery the service comes up and writes, a line and a row at a time. Sometimes
    a prune comes first, sometimes it is aborted instead.

    In the end the application is exactly at version 1 or 2, except for what was written when all was restored
    already; and whatever was written at any time is live, or in a checkpoint that prune would keep.
    """

    config = CONFIG + SERVICE + "[retention]\nkeep_last = 1\n"

    def live_on(self, world: Path) -> None:
        (world / "web").touch()
        (world / "written").write_text(str(number(world) + 1))
        with (world / "live" / "tree" / "code.py").open("a") as file:
            file.write(f"written {number(world)}\n")
        run(world / "live", f"INSERT INTO orders VALUES ({WRITTEN + number(world)}, 'written')")

    def recover(self, world: Path) -> None:
        written = number(world)
        with self.open(world) as app:
            if written % 2:
                upkeep.prune(app, dry_run=False)
            left = app.catalog.open_operation()
            where = position(left.plan, app.catalog.journal(left.operation_id)) if left else None
            abort = left is not None and written % 3 == 2
            (world / "exact").write_text("exact" if where and to_restore(left, where, abort=abort) else "")
            if abort:
                with suppress(RevertedError):
                    app.abort()
        super().recover(world)

    def judge(self, world: Path) -> str:
        _, first, second = self.known(world)
        now, live = without_written(seen(world / "live"))
        if live.lines != live.rows:
            return f"mixed: of what was written the file holds {live.lines}, and the database {live.rows}"
        if now not in (versions := [without_written(each)[0] for each in (first, second)]):
            return f"mixed: to version 1: {differing(versions[0], now)}; to version 2: {differing(versions[1], now)}"
        if not (world / "web").exists():
            return "stuck: the service does not run"
        with self.open(world) as app:
            upkeep.prune(app, dry_run=False)
            operations = app.catalog.operations()
        kept = {id_: self.written_at(world, id_) for each in operations for id_ in {each.state_before, *each.lefts}}
        for each in operations if (world / "exact").read_text() else ():
            wanted = kept[each.state_before] if each.status is OperationStatus.REVERTED else Written(set(), set())
            if live != wanted:
                return f"mixed: it is {each.status}, and of what was written meanwhile {live} is live, not {wanted}"
        every = set(range(1, number(world) + 1))
        for name in Written._fields:
            found = getattr(live, name).union(*(getattr(each, name) for each in kept.values()))
            if found != every:
                return f"lost: {name} {sorted(every - found)} of {len(every)} are neither live nor in {sorted(kept)}"
        return "new" if now == versions[0] else "old"

    def written_at(self, world: Path, checkpoint: str) -> Written:
        """Return what a checkpoint holds of what was written: by rolling back to it, in a copy."""
        copy = world.with_name("copy")
        shutil.copytree(world, copy, symlinks=True)
        try:
            config = copy / "rfs.toml"
            config.write_text(config.read_text().replace(str(world), str(copy)))
            with self.open(copy) as app:
                app.rollback(checkpoint)
            return without_written(seen(copy / "live"))[1]
        finally:
            shutil.rmtree(copy)


def number(world: Path) -> int:
    """Return how often the service wrote."""
    memory = world / "written"
    return int(memory.read_text()) if memory.exists() else 0


def to_restore(operation: Operation, where: Position, *, abort: bool) -> bool:
    """Tell whether carrying the operation on restores anything."""
    if not where.outage or ((abort or where.turned) and not where.touched):
        return False
    data = {step.id for step in operation.plan.steps if step.action in (Action.RESTORE, Action.VERIFY)}
    return abort or not data <= where.done


def without_written(found: dict[str, object]) -> tuple[dict[str, object], Written]:
    """Return what was seen without what `live_on` writes, and that."""
    tables = {name: list(rows) for name, rows in found["tables"].items()}
    in_database = {n - WRITTEN for n, _ in tables["orders"] if n > WRITTEN}
    tables["orders"] = [row for row in tables["orders"] if row[0] <= WRITTEN]
    mode, uid, gid, *_, content = str(found["tree/code.py"]).split()
    lines = bytes.fromhex(content).decode().splitlines()
    in_file = {int(line.removeprefix("written ")) for line in lines if line.startswith("written ")}
    code = [mode, uid, gid, *(line for line in lines if not line.startswith("written "))]
    return {**found, "tables": tables, "tree/code.py": code}, Written(in_file, in_database)


class Prune(Whole):
    """Whatever a prune was doing, every checkpoint that is kept is whole."""

    # Captured with what version 2 needs, so that their pack must be rewritten, not only dropped.
    waste = "live/tree/waste"

    def prepare(self, world: Path) -> None:
        super().prepare(world)
        (world / self.waste).write_bytes(os.urandom(60_000))
        with self.open(world) as app:
            wasteful = app.checkpoint(message="wasteful")
            (world / self.waste).unlink()
            app.checkpoint(message="version 2")
            upkeep.forget(app, [wasteful.checkpoint_id])
            (world / "size").write_text(str(app.store.size()))

    def act(self, world: Path) -> None:
        with self.open(world) as app:
            upkeep.prune(app, dry_run=False)

    def judge(self, world: Path) -> str:
        with self.open(world) as app:
            words = [checkpoint.message for checkpoint in app.catalog.checkpoints()]
            if words != ["version 2", "version 1"]:
                return f"lost: {words}"
            verified = upkeep.verify(app)
            if verified.damage or verified.damaged:
                return f"corrupt: {verified}"
            return "new" if app.store.size() < int((world / "size").read_text()) - 50_000 else "old"


# — negative controls —


class CheckpointWithoutFileSync(WithoutFileSync, Checkpoint):
    pass


class CheckpointWithoutFolderSync(WithoutFolderSync, Checkpoint):
    pass


class RollbackWithoutFileSync(WithoutFileSync, Rollback):
    pass


class RollbackWithoutFolderSync(WithoutFolderSync, Rollback):
    pass


class RollbackDoneFirst(Rollback):
    """Writes that a step is done before it runs it.

    A recovery restores everything again, and the read-back would notice what was missed; so both are left out.
    """

    def act(self, world: Path) -> None:
        def wrong(engine: Engine, operation: Operation, step: Step) -> Operation:
            engine.catalog.mark(entry(operation, step.id, Mark.INTENT))
            engine.catalog.mark(entry(operation, step.id, Mark.DONE))
            operation = engine.steps[step.action](operation, step)
            engine.catalog.put_operation(operation)
            return operation

        with patch.object(Engine, "_take", wrong):
            super().act(world)

    def recover(self, world: Path) -> None:
        with (
            patch.object(Engine, "_verify", lambda engine, operation, step: operation),
            patch.object(engine_module, "still_done", lambda plan, where: where.done),
        ):
            super().recover(world)


class RollbackWithoutCommit(Rollback):
    """Never commits what it writes into the catalog and the journal."""

    def act(self, world: Path) -> None:
        @contextmanager
        def wrong(db: apsw.Connection) -> Iterator[None]:
            if not db.in_transaction:
                db.execute("BEGIN IMMEDIATE")
            yield

        # Setting space aside would find the transaction open.
        aside = patch.object(database.Database, "set_aside", lambda file, size: None)
        with aside, patch.object(database, "transaction", wrong):
            super().act(world)


class RollbackWithRebootsThatKeepsNothing(RollbackWithReboots):
    """Carries on without a copy of what is there."""

    def recover(self, world: Path) -> None:
        with patch.object(operation_module, "_left_kept", lambda plan, where, steps: list(steps)):
            super().recover(world)
