"""The engine over components in memory: every failure and every crash ends in exactly old or exactly new."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rfs.production.rollback.capturing import Part
from rfs.production.rollback.catalog import Catalog, entry
from rfs.production.rollback.driver import BlobSource, Pulse
from rfs.production.rollback.engine import Engine
from rfs.production.rollback.errors import (
    HeldError,
    IntegrityError,
    InterruptedByUserError,
    RevertedError,
    RollbackError,
    TimedOutError,
)
from rfs.production.rollback.model import (
    Capture,
    CheckOutcome,
    CheckpointType,
    Component,
    HealthReport,
    OperationStatus,
    Restored,
    new_id,
    utc_now,
)
from rfs.production.rollback.operation import Mark, Operation, position
from rfs.production.rollback.plan import Action, Policy, Scope, make_plan
from rfs.production.rollback.pulse import Beat
from rfs.production.rollback.store import Store
from rfs.testing import MemoryDriver, component

WELL = HealthReport((CheckOutcome("http", healthy=True, required=True, detail="", seconds=0.0),))
SICK = HealthReport((CheckOutcome("http", healthy=False, required=True, detail="500", seconds=0.0),))


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Daemon(MemoryDriver):
    """A service in memory: its state is which version runs, and whether it does."""

    runs = True

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.up = True
        self.stops = 0

    def stop(self, c: Component, pulse: Pulse) -> None:
        self._point("stop")
        self.stops += self.up
        self.up = False

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        assert not self.up, "data was restored under a running service"
        return super().restore(c, source, want)

    def start(self, c: Component, source: BlobSource, want: Capture) -> None:
        self._point("start")
        self.up = True


class World:
    """An application of one component and one service, at v2, with a checkpoint of v1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        Store.create(str(folder / "store"), str(folder / "key"))
        self.code = MemoryDriver("v1")
        self.web = Daemon("v1")
        self.health: list[HealthReport] = []
        self.default_health = WELL
        self.beat = Beat()
        self.opened: list[tuple[Store, Catalog]] = []
        self.target = self.engine().checkpoint(
            ["code", "web"], CheckpointType.MANUAL, health=lambda: WELL, deployment_id="d"
        )
        self.code.value, self.web.value = "v2", "v2"

    def engine(self, beat: Beat | None = None) -> Engine:
        """A new one, as a new process would have it."""
        store = Store.open(str(self.folder / "store"), str(self.folder / "key"))
        catalog = Catalog(str(self.folder / "catalog.db"))
        self.opened.append((store, catalog))
        store.recover()
        parts = {
            "code": Part(component("memory", self.folder, name="code"), self.code),
            "web": Part(component("memory", self.folder, name="web"), self.web),
        }
        return Engine(store, catalog, parts, self.check, beat or Beat())

    def check(self, beat: Beat) -> HealthReport:
        return self.health.pop(0) if self.health else self.default_health

    def begin(self, engine: Engine, before: HealthReport = WELL, **limits: float) -> Operation:
        operation_id = new_id()
        safety = engine.checkpoint(
            ["code", "web"],
            CheckpointType.SAFETY,
            health=lambda: before,
            deployment_id="d",
            operation_id=operation_id,
        )
        scopes = [
            Scope(component=name, kind="memory", want=self.target.captures[name], runs=name == "web")
            for name in ("code", "web")
        ]
        operation = Operation(
            operation_id=operation_id,
            kind="rollback",
            plan=make_plan(self.target, scopes, Policy(), utc_now()),
            reason="r",
            actor="a",
            created_at=utc_now(),
            safety=safety.checkpoint_id,
            **limits,
        )
        engine.begin(operation)
        return operation

    @property
    def state(self) -> tuple[Any, Any, bool]:
        return (self.code.value, self.web.value, self.web.up)

    def close(self) -> None:
        for store, catalog in self.opened:
            catalog.close()
            store.close()


OLD, NEW = ("v2", "v2", True), ("v1", "v1", True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_a_rollback_ends_at_the_target_and_is_recorded(world: World) -> None:
    engine = world.engine()
    done = engine.run(world.begin(engine))
    assert world.state == NEW
    assert done.status is OperationStatus.COMPLETED
    assert done.outage is not None
    assert world.web.stops == 1
    assert engine.catalog.operation(done.operation_id) == done
    assert engine.catalog.open_operation() is None
    before = engine.catalog.checkpoint(done.state_before)
    assert before.type is CheckpointType.SAFETY
    assert before.checkpoint_id != done.safety
    assert before.health == WELL


def test_the_state_before_is_that_of_the_stop_and_late_writes_are_listed(world: World) -> None:
    engine = world.engine()
    operation = world.begin(engine)
    world.code.value = "v2 and a late order"
    done = engine.run(operation)
    assert done.late_count == 1
    assert done.late[0].component == "code"
    world.code.value, world.web.value = "v3", "v3"
    before = engine.catalog.checkpoint(done.state_before)
    world.code.restore(engine.parts["code"].component, engine.blobs, before.captures["code"])
    assert world.code.value == "v2 and a late order"


@pytest.mark.parametrize("health", [WELL, SICK])
def test_a_component_that_is_broken_is_rolled_back_and_can_come_back_broken(world: World, health: HealthReport) -> None:
    take = world.code.capture

    def refuse(*_: Any) -> Capture:
        raise RollbackError("path.missing", component="code", path="/gone")

    world.code.capture, world.code.salvage = refuse, take
    engine = world.engine()
    with pytest.raises(RollbackError, match="is not there"):
        engine.checkpoint(["code"], CheckpointType.MANUAL, health=lambda: WELL, deployment_id="d")
    world.health = [health]
    operation = world.begin(engine)
    if health is WELL:
        engine.run(operation)
        assert world.state == NEW
    else:
        with pytest.raises(RevertedError):
            engine.run(operation)
        assert world.state == OLD


def test_what_was_written_before_the_stop_survives_a_failed_health_check(world: World) -> None:
    engine = world.engine()
    operation = world.begin(engine)
    world.code.value = "acknowledged"
    world.health = [SICK, WELL]
    with pytest.raises(RevertedError, match="health check failed"):
        engine.run(operation)
    assert world.state == ("acknowledged", "v2", True)
    reverted = engine.catalog.operation(operation.operation_id)
    assert reverted.status is OperationStatus.REVERTED
    assert reverted.left is not None
    left = engine.catalog.checkpoint(reverted.left)
    assert left.captures["code"].fingerprint == world.target.captures["code"].fingerprint


def failing_once(method: Callable[..., Any], fault: Exception) -> Callable[..., Any]:
    """Return the method of a driver, but its first call raises `fault`."""
    calls = itertools.count()

    def once(*arguments: Any) -> Any:
        if next(calls) == 0:
            raise fault
        return method(*arguments)

    return once


@pytest.mark.parametrize(
    ("driver", "method"),
    [("code", "stage"), ("code", "restore"), ("web", "stop"), ("web", "restore"), ("web", "start")],
)
def test_a_failure_in_any_step_brings_the_state_before_back(world: World, driver: str, method: str) -> None:
    engine = world.engine()
    operation = world.begin(engine)
    failing = getattr(world, driver)
    fault = IntegrityError("verify.differs", component=driver, what="a test")
    setattr(failing, method, failing_once(getattr(failing, method), fault))
    expected = IntegrityError if method == "stage" else RevertedError
    with pytest.raises(expected, match="a test"):
        engine.run(operation)
    assert world.state == OLD
    assert engine.catalog.operation(operation.operation_id).status is OperationStatus.REVERTED
    assert engine.catalog.open_operation() is None


def test_a_read_back_that_differs_turns_it_back(world: World) -> None:
    engine = world.engine()
    operation = world.begin(engine)
    original = world.code.restore
    values = iter(["something else", None])

    def restore(c: Component, source: BlobSource, want: Capture) -> Restored:
        done = original(c, source, want)
        world.code.value = next(values) or world.code.value
        return done

    world.code.restore = restore
    with pytest.raises(RevertedError, match="code is not equal"):
        engine.run(operation)
    assert world.state == OLD


def test_a_bug_is_turned_back_too_and_still_raises(world: World) -> None:
    engine = world.engine()
    operation = world.begin(engine)
    world.code.restore = failing_once(world.code.restore, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        engine.run(operation)
    assert world.state == OLD


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_a_driver_is_told_as_what_it_is(world: World, number: int) -> None:
    engine = world.engine()
    operation = world.begin(engine)
    fault = OSError(number, os.strerror(number), "/work/note")
    world.web.start = failing_once(world.web.start, fault)
    with pytest.raises(RevertedError, match="/work/note"):
        engine.run(operation)
    assert world.state == OLD


def test_a_sick_state_comes_back_sick_without_being_held(world: World) -> None:
    engine = world.engine()
    operation = world.begin(engine, before=SICK)
    world.default_health = SICK
    with pytest.raises(RevertedError):
        engine.run(operation)
    assert world.state == OLD


def held(world: World) -> tuple[Engine, Operation]:
    engine = world.engine()
    operation = world.begin(engine)
    world.health = [SICK, SICK]
    with pytest.raises(HeldError, match="NEEDS ATTENTION") as caught:
        engine.run(operation)
    assert "--skip health" in caught.value.hint
    assert engine.catalog.open_operation() is not None
    return engine, engine.catalog.operation(operation.operation_id)


def test_a_failure_both_ways_is_held_and_resume_goes_on(world: World) -> None:
    _, operation = held(world)
    assert operation.status is OperationStatus.HELD
    assert world.state == OLD
    with pytest.raises(RevertedError):
        world.engine().run(operation)
    assert world.engine().catalog.open_operation() is None


def test_a_held_operation_can_be_turned_back_again(world: World) -> None:
    engine, operation = held(world)
    world.code.value = "meddled with"
    with pytest.raises(RevertedError):
        world.engine().abort(operation, RollbackError("operation.aborted", actor="kim"))
    assert world.state == OLD
    assert engine.catalog.open_operation() is None


def test_when_time_is_up_it_turns_back_with_time_of_its_own(world: World) -> None:
    clock = iter(itertools.count())
    engine = world.engine(Beat(clock=lambda: float(next(clock))))
    operation = world.begin(engine, max_rollback_time=6.0, recovery_time=1000.0)
    with pytest.raises(RevertedError, match=r"longer than 6 s"):
        engine.run(operation)
    assert world.state == OLD


def test_the_way_back_has_a_limit_too(world: World) -> None:
    clock = iter(itertools.count())
    engine = world.engine(Beat(clock=lambda: float(next(clock))))
    operation = world.begin(engine, max_rollback_time=6.0, recovery_time=3.0)
    with pytest.raises(HeldError, match=r"longer than 3 s"):
        engine.run(operation)
    with pytest.raises(RevertedError):
        world.engine().run(engine.catalog.operation(operation.operation_id))
    assert world.state == OLD


def test_the_clocks_of_one_operation_do_not_run_in_the_next(world: World) -> None:
    now = 0.0
    engine = world.engine(Beat(clock=lambda: now))
    engine.run(world.begin(engine, max_rollback_time=5.0))
    now = 1000.0
    world.code.value = "v4"
    engine.run(world.begin(engine, max_rollback_time=5.0))
    assert world.state == NEW


@pytest.mark.parametrize("moment", ["stage", "restore"])
def test_an_interruption_turns_it_back_and_cannot_stop_the_way_back(world: World, moment: str) -> None:
    beat = Beat()
    engine = world.engine(beat)
    operation = world.begin(engine)
    original = getattr(world.code, moment)

    def interrupted(*arguments: Any) -> Any:
        beat.interrupt()
        return original(*arguments)

    setattr(world.code, moment, interrupted)
    with pytest.raises(InterruptedByUserError):
        engine.run(operation)
    assert world.state == OLD
    assert engine.catalog.operation(operation.operation_id).status is OperationStatus.REVERTED


def test_a_clock_that_ran_out_is_told_by_a_tick() -> None:
    now = 0.0
    beat = Beat(clock=lambda: now)
    beat.allow("rollback", "max_rollback_time", 5)
    beat.tick()
    assert beat.remaining() == 5
    now = 6.0
    with pytest.raises(TimedOutError, match="longer than 5 s"):
        beat.tick()
    assert beat.remaining() == 0


# — crashes: a kill before or after each commit of the journal, then a new process —


def killing(engine: Engine, point: int) -> Callable[[], int]:
    """Make the engine's catalog die at the `point`-th of its commits: even ones before, odd ones after it."""
    count = itertools.count()
    reached = 0

    def around(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            nonlocal reached
            reached = next(count) * 2
            if reached == point:
                raise Killed
            method(*arguments)
            reached += 1
            if reached == point:
                raise Killed

        return call

    for name in ("mark", "put_operation", "put_checkpoint"):
        setattr(engine.catalog, name, around(getattr(engine.catalog, name)))
    return lambda: reached


def killed_at(engine: Engine, operation: Operation, point: int) -> bool:
    """Run the operation with `killing`; return whether it was killed."""
    killing(engine, point)
    try:
        engine.run(operation)
    except Killed:
        return True
    except RevertedError:
        pass
    return False


def settle(world: World, engine: Engine | None = None) -> None:
    """What `rfs recover` does, in a new process."""
    engine = engine or world.engine()
    operation = engine.catalog.open_operation()
    if operation is None:
        return
    where = position(operation.plan, engine.catalog.journal(operation.operation_id))
    try:
        if where.outage or where.turned:
            engine.run(operation)
        else:
            engine.abort(operation, RollbackError("operation.interrupted"))
    except RollbackError:
        pass


@pytest.mark.parametrize("reports", [[], [SICK, WELL]], ids=["forward", "turned back"])
def test_killed_at_every_commit_it_is_exactly_old_or_exactly_new(tmp_path: Path, reports: list[HealthReport]) -> None:
    seen = set()
    for point in itertools.count():
        world = World(tmp_path / str(point))
        engine = world.engine()
        operation = world.begin(engine)
        world.health = list(reports)
        killed = killed_at(engine, operation, point)
        world.health = []
        settle(world)
        assert world.state in (OLD, NEW), point
        assert world.engine().catalog.open_operation() is None
        seen.add(world.state)
        settle(world)
        world.close()
        if not killed:
            break
    assert point > 40
    assert seen == ({OLD, NEW} if not reports else seen)
    assert OLD in seen


def test_after_a_reboot_the_services_that_came_up_by_themselves_are_stopped_again(
    tmp_path: Path,
) -> None:
    for point in range(60):
        world = World(tmp_path / str(point))
        engine = world.engine()
        operation = world.begin(engine)
        killing(engine, point)
        with pytest.raises(Killed) if point < 30 else contextlib.suppress(Killed):
            engine.run(operation)
        marks = [(e.step, e.mark) for e in engine.catalog.journal(operation.operation_id)]
        world.web.up = True
        wrote = ("delta", Mark.DONE) in marks and ("restore:code", Mark.INTENT) not in marks
        if wrote:
            world.code.value = "written after the reboot"
        settle(world)
        assert world.state in (OLD, NEW), point
        if wrote:
            done = engine.catalog.operation(operation.operation_id)
            before = engine.catalog.checkpoint(done.state_before).captures["code"]
            world.code.restore(engine.parts["code"].component, engine.blobs, before)
            assert world.code.value == "written after the reboot"
        world.close()


def rows_of(world: World, engine: Engine, checkpoint_id: str) -> set[int]:
    """Return the rows that a checkpoint holds, and check that its web is of the same version."""
    captures = engine.catalog.checkpoint(checkpoint_id).captures
    found = MemoryDriver()
    found.restore(engine.parts["code"].component, engine.blobs, captures["code"])
    return set(found.value["rows"])


@pytest.mark.parametrize("seed", range(40))
def test_what_is_written_between_crashes_is_kept_and_the_end_is_exact(world: World, seed: int) -> None:
    """Die anywhere; services come up and write; die anywhere in the recovery; and so on."""
    chance = random.Random(seed)
    world.code.value, world.web.value = {"version": "v1", "rows": []}, "v1"
    world.target = world.engine().checkpoint(
        ["code", "web"], CheckpointType.MANUAL, health=lambda: WELL, deployment_id="d"
    )
    world.code.value, world.web.value = {"version": "v2", "rows": [0]}, "v2"
    engine = world.engine()
    operation = world.begin(engine)
    world.health = [chance.choice([WELL, SICK])]
    written = {0}
    killing(engine, chance.randrange(70))
    with contextlib.suppress(Killed, RollbackError):
        engine.run(operation)
    deaths = chance.randrange(4)
    for death in range(deaths + 1):
        if chance.random() < 0.8:
            world.web.up = True
            world.code.value["rows"].append(death + 1)
            written.add(death + 1)
        engine = world.engine()
        before = engine.catalog.operation(operation.operation_id)
        if death < deaths:
            killing(engine, chance.randrange(50))
        with contextlib.suppress(Killed):
            settle(world, engine)
    done = engine.catalog.operation(operation.operation_id)
    assert engine.catalog.open_operation() is None
    assert world.web.up
    assert world.code.value["version"] == world.web.value
    kept = [*done.lefts, done.state_before]
    assert set(done.lefts) >= set(before.lefts)
    assert written <= set(world.code.value["rows"]).union(*(rows_of(world, engine, each) for each in kept))
    if done.lefts != before.lefts:
        # Something was still to be restored: then nothing that was written on the way there may be left in it.
        exact = done.plan.target if done.status is OperationStatus.COMPLETED else done.state_before
        assert set(world.code.value["rows"]) == rows_of(world, engine, exact)


def test_what_cannot_be_kept_is_not_restored_over_until_somebody_says_so(world: World) -> None:
    engine = world.engine()
    operation = world.begin(engine)
    world.web.fail_in = {"restore"}
    engine.steps[Action.VERIFY] = lambda *_: (_ for _ in ()).throw(Killed)
    with pytest.raises(Killed):
        engine.run(operation)
    world.web.fail_in = set()
    world.code.value, world.web.up = "written after the reboot", True
    take = world.code.capture

    def full(*_: Any) -> Capture:
        raise RollbackError("store.no_space", path="/store")

    world.code.capture = full
    for _ in range(2):
        with pytest.raises(HeldError, match="no space left") as caught:
            world.engine().run(engine.catalog.operation(operation.operation_id))
        assert "--skip left" in caught.value.hint
        assert world.code.value == "written after the reboot"
    world.code.capture = take
    after = world.engine()
    with pytest.raises(RevertedError):
        after.run(after.catalog.operation(operation.operation_id))
    assert world.state == OLD
    done = after.catalog.operation(operation.operation_id)
    assert len(done.lefts) == 1
    world.code.restore(
        after.parts["code"].component, after.blobs, after.catalog.checkpoint(done.lefts[0]).captures["code"]
    )
    assert world.code.value == "written after the reboot"


def test_definitions_edited_while_it_lay_open_are_kept(world: World) -> None:
    # A service's definitions are restored, too: what somebody mended in them by hand is somebody's work.
    engine = world.engine()
    operation = world.begin(engine)
    engine.steps[Action.RESTORE] = lambda *_: (_ for _ in ()).throw(Killed)
    with pytest.raises(Killed):
        engine.run(operation)
    world.web.value = "mended by hand"
    after = world.engine()
    done = after.run(after.catalog.operation(operation.operation_id))
    assert world.state == NEW
    assert done.left is not None
    left = after.catalog.checkpoint(done.left).captures["web"]
    world.web.up = False
    world.web.restore(after.parts["web"].component, after.blobs, left)
    assert world.web.value == "mended by hand"


def test_definitions_edited_while_it_was_staged_are_in_the_state_before(world: World) -> None:
    engine = world.engine()
    operation = world.begin(engine)
    world.web.value = "edited"
    done = engine.run(operation)
    assert [change.component for change in done.late] == ["web"]
    world.web.up = False
    before = engine.catalog.checkpoint(done.state_before).captures["web"]
    world.web.restore(engine.parts["web"].component, engine.blobs, before)
    assert world.web.value == "edited"


def test_services_that_cannot_be_looked_at_are_stopped_all_the_same(world: World) -> None:
    engine = world.engine()
    operation = world.begin(engine)
    world.web.fail_in = {"capture"}
    done = engine.run(operation)
    assert world.state == NEW
    assert any("could not be recorded" in warning for warning in done.warnings)


def test_what_a_start_has_to_say_is_in_the_record(world: World) -> None:
    engine = world.engine()
    start = world.web.start

    def told(*given: Any) -> list[str]:
        start(*given)
        return ["It runs as it was before."]

    world.web.start = told  # type: ignore[assignment,method-assign] # one object, for one test
    assert engine.run(world.begin(engine)).record().warnings == ("It runs as it was before.",)


def test_done_before_the_step_would_be_caught(tmp_path: Path) -> None:
    """Negative control: an engine that writes *done* before it runs the step leaves a mixture at some point."""

    class Wrong(Engine):
        def _take(self, operation: Operation, step: Any) -> Operation:
            self.catalog.mark(entry(operation, step.id, Mark.INTENT))
            self.catalog.put_operation(operation, entry(operation, step.id, Mark.DONE))
            return self.steps[step.action](operation, step)

    mixed = 0
    for point in range(60):
        world = World(tmp_path / str(point))
        engine = world.engine()
        operation = world.begin(engine)
        wrong = Wrong(engine.store, engine.catalog, engine.parts, world.check, Beat())
        killing(wrong, point)
        try:
            wrong.run(operation)
        except Killed:
            try:
                settle(world)
            except AssertionError:  # the daemon's own: data restored while it ran
                mixed += 1
            else:
                mixed += world.state not in (OLD, NEW)
        world.close()
    assert mixed > 0


def test_a_checkpoint_that_fails_leaves_nothing(world: World) -> None:
    engine = world.engine()
    known = [c.checkpoint_id for c in engine.catalog.checkpoints()]
    world.web.fail_in = {"capture"}
    with pytest.raises(IntegrityError):
        engine.checkpoint(["code", "web"], CheckpointType.MANUAL, health=lambda: None, deployment_id="d")
    assert [c.checkpoint_id for c in engine.catalog.checkpoints()] == known


def test_a_checkpoint_missing_a_blob_is_refused_before_anything_begins(world: World) -> None:
    engine = world.engine()
    lost = Capture(
        component="code", kind="memory", fingerprint=world.target.captures["code"].fingerprint, parts=(b"\0" * 32,)
    )
    with pytest.raises(IntegrityError, match="lacks 1 blobs") as caught:
        engine.require_blobs([lost])
    assert world.target.checkpoint_id in caught.value.hint


class Held(MemoryDriver):
    """A component whose writers can be held."""

    def __init__(self) -> None:
        super().__init__("x")
        self.held = False

    def quiesce(self, c: Component) -> None:
        self._point("quiesce")
        self.held = True

    def resume(self, c: Component) -> None:
        self._point("resume")
        self.held = False


def test_writers_are_let_go_when_others_cannot_be_held_or_let_go(world: World) -> None:
    engine = world.engine()
    one, two = Held(), Held()
    engine.parts = {n: Part(component("memory", world.folder, name=n), d) for n, d in (("one", one), ("two", two))}

    def checkpoint() -> None:
        engine.checkpoint(["one", "two"], CheckpointType.MANUAL, health=lambda: None, deployment_id="d")

    two.fail_in = {"quiesce"}
    with pytest.raises(IntegrityError, match="quiesce was told to fail"):
        checkpoint()
    assert not one.held
    two.fail_in = {"resume"}
    with pytest.raises(IntegrityError, match="resume was told to fail"):
        checkpoint()
    assert (one.held, two.held) == (False, True)
    two.fail_in = set()
    assert list(engine.quiesced()) == ["two"]
    engine.let_writers_go([engine.parts["two"]])  # as the next operation does
    assert not two.held
    assert engine.quiesced() == {}


def test_writers_are_held_during_the_capture_and_let_go_also_after_a_crash(world: World) -> None:
    engine = world.engine()
    driver = Held()
    engine.parts = {"q": Part(component("memory", world.folder, name="q"), driver)}
    seen = []

    def capture(*arguments: Any) -> Capture:
        seen.append(driver.held)
        raise Killed

    driver.capture = capture
    let_go, engine.let_writers_go = engine.let_writers_go, lambda held: None  # the process died: no finally ran
    with pytest.raises(Killed):
        engine.checkpoint(["q"], CheckpointType.MANUAL, health=lambda: None, deployment_id="d")
    assert seen == [True]
    assert driver.held
    assert world.engine().quiesced() == {"q": engine.parts["q"].component}
    let_go([engine.parts["q"]])
    assert not driver.held
    assert world.engine().quiesced() == {}
