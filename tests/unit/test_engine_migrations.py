"""The engine taking migrations back, over components in memory: old or new after any crash, and nothing run twice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from test_engine import World, killed_at, settle

from rfs.production.rollback.driver import BlobSink, BlobSource
from rfs.production.rollback.engine import Engine
from rfs.production.rollback.errors import RevertedError, RollbackError
from rfs.production.rollback.migrating import Journal
from rfs.production.rollback.model import CheckpointType, Component, Downgrade, Migrations, OperationStatus, utc_now
from rfs.production.rollback.operation import Mark, Operation
from rfs.production.rollback.plan import Policy, Scope, make_migration_plan
from rfs.production.rollback.pulse import Beat
from rfs.testing import MemoryDriver

OLD, NEW = ("v2", "v2", True), ("v1", "v2", True)


class Statements:
    """Takes "v2" back to "v1" by statements that no transaction holds, each of which may be run but once."""

    def __init__(self, code: MemoryDriver, texts: Sequence[str]) -> None:
        self.code = code
        self.texts = texts
        self.ran: list[str] = []

    def record(self, c: Component, sink: BlobSink) -> Migrations:
        return Migrations(tool="sql", applied=("1", "2"), heads=("2",))

    def down(self, c: Component, source: BlobSource, way: Downgrade, recorded: Migrations | None, log: Journal) -> None:
        for text in self.texts:
            if text in log.ended():
                continue
            if text in log.begun():
                raise RollbackError("migrate.unknown_end", version="2", number=1)
            log.begin(text)
            if text == "fails":
                raise RollbackError("migration.failed", version="2", why="it is wrong")
            self.code.value = text
            self.ran.append(text)
            log.end(text)


class Migrated(World):
    def __init__(self, folder: Path, texts: Sequence[str] = ("half", "v1")) -> None:
        self.texts = texts
        self.migrator: Statements | None = None
        super().__init__(folder)

    def engine(self, beat: Beat | None = None) -> Engine:
        engine = super().engine(beat)
        self.migrator = self.migrator or Statements(self.code, self.texts)
        engine.parts = {**engine.parts, "code": msgspec.structs.replace(engine.parts["code"], migrator=self.migrator)}
        return engine

    def go(self, engine: Engine) -> Operation:
        safety = engine.checkpoint(
            ["code", "web"], CheckpointType.SAFETY, deployment_id="", in_place=["code"], health=lambda: None
        )
        scopes = [
            Scope(component="code", kind="memory", want=safety.captures["code"]),
            Scope(component="web", kind="memory", want=None, runs=True),
        ]
        operation = Operation(
            operation_id=f"{id(engine):012x}"[-12:],
            kind="migration",
            plan=make_migration_plan(safety, scopes, Policy(), utc_now()),
            reason="r",
            actor="a",
            created_at=utc_now(),
            safety=safety.checkpoint_id,
            downgrade=Downgrade(component="code", tool="sql", targets=("1",), versions=("2",)),
        )
        engine.begin(operation)
        return operation


def test_it_is_taken_back_in_place_between_stop_and_start(tmp_path: Path) -> None:
    world = Migrated(tmp_path)
    engine = world.engine()
    done = engine.run(world.go(engine))
    assert (world.state, done.status, done.in_place) == (NEW, OperationStatus.COMPLETED, ("code",))
    assert [step.id for step in done.plan.steps] == ["stop:web", "delta", "migrate:code", "start:web", "health"]
    before = engine.catalog.checkpoint(done.state_before)
    assert before.migrations["code"].heads == ("2",)
    world.close()


def test_what_fails_is_restored(tmp_path: Path) -> None:
    world = Migrated(tmp_path, ("half", "fails"))
    engine = world.engine()
    with pytest.raises(RevertedError) as caught:
        engine.run(world.go(engine))
    assert "it is wrong" in str(caught.value)
    assert world.state == OLD
    world.close()


@pytest.mark.slow
@pytest.mark.parametrize("texts", [("half", "v1"), ("half", "fails")], ids=["forward", "turned back"])
def test_killed_at_every_commit_it_is_old_or_new_and_no_statement_was_run_twice(
    tmp_path: Path, texts: tuple[str, str]
) -> None:
    seen = set()
    for point in itertools.count():
        world = Migrated(tmp_path / str(point), texts)
        engine = world.engine()
        operation = world.go(engine)
        killed = killed_at(engine, operation, point)
        settle(world)
        assert world.state in (OLD, NEW), point
        assert world.engine().catalog.open_operation() is None
        seen.add(world.state)
        assert world.migrator is not None
        assert len(world.migrator.ran) == len(set(world.migrator.ran)), point
        marks = [each.mark for each in world.engine().catalog.journal(operation.operation_id)]
        assert marks.count(Mark.ENDED) <= marks.count(Mark.BEGUN)
        world.close()
        if not killed:
            break
    assert point > 20
    assert seen == ({OLD, NEW} if texts[1] == "v1" else {OLD})
