"""The main job on a running application: checkpoint, break, roll back, fail, hold, recover."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from stack import Stack, snapshot

from rfs.production.rollback.errors import HeldError, RevertedError
from rfs.production.rollback.model import OperationStatus


@pytest.fixture
def stack() -> Iterator[Stack]:
    made = Stack()
    yield made
    made.close()


def stable(stack: Stack) -> dict[str, object]:
    """What the writer does not touch."""
    tree = snapshot(stack.home / "tree")
    tree.pop("lines.txt")
    return {
        **tree,
        "settings": (stack.home / "settings.toml").read_bytes(),
        "env": (stack.home / "stack.env").read_bytes(),
    }


def test_everything_comes_back_and_undo_brings_it_forth_again(stack: Stack) -> None:
    v1 = stable(stack)
    with stack.open() as app:
        captured = stack.acked
        target = app.checkpoint(message="v1")
        assert target.verified_healthy
        stack.deploy_v2()
        v2 = stable(stack)
        plan = app.plan("@latest")
        keys = {(change.kind, change.key) for change in plan.changes["tree"]}
        assert {("changed", "code.txt"), ("added", "new.txt"), ("removed", "static/a.css")} <= keys
        assert any(loss.component == "db" and loss.count for loss in plan.losses)
        done = app.rollback("@latest", reason="v2 is broken")
    assert done.status is OperationStatus.COMPLETED
    assert done.outage is not None
    assert stable(stack) == v1
    assert stack.lines()[:captured] == list(range(1, captured + 1))
    before = stack.acked
    stack.wait_for(lambda: stack.acked > before, "the writer to go on")
    with stack.open() as app:
        app.undo()
        assert stable(stack) == v2
        app.rollback(target.checkpoint_id)
        assert stable(stack) == v1


def test_nothing_acknowledged_before_the_stop_is_lost_when_the_rollback_fails(stack: Stack) -> None:
    with stack.open() as app:
        app.checkpoint(message="v1")
        stack.deploy_v2()
        v2 = stable(stack)
        stack.sick("v1")
        acks = stack.home / "acks"
        with pytest.raises(RevertedError) as caught:
            app.rollback("@latest", reason="will be sick")
        assert caught.value.code == 30
        operation = app.catalog.operations()[0]
        assert operation.status is OperationStatus.REVERTED
        assert operation.left is not None
    assert stack.version == "v2"
    assert stable(stack) == v2
    # The restored v1 wrote for a moment too, so numbers may stand twice; none may be missing of the first run.
    numbers = [int(line) for line in acks.read_text().split()]
    first_run = numbers[: next((n for n, (a, b) in enumerate(itertools.pairwise(numbers), 1) if b <= a), None)]
    assert len(first_run) > 10
    assert set(first_run) <= set(stack.lines())
    assert set(first_run) <= set(stack.rows())


def test_a_failure_both_ways_is_held_until_somebody_settles_it(stack: Stack) -> None:
    with stack.open() as app:
        app.checkpoint(message="v1")
        stack.deploy_v2()
        v2 = stable(stack)
        stack.sick("v1", "v2")
        # Healthy when it began, sick both ways: the check is made sick only after the safety checkpoint.
        (stack.home / "sick").unlink()
        plan_health = app.engine.check
        calls = iter(["well"])

        def check(beat: object) -> object:
            if next(calls, None) is None:
                stack.sick("v1", "v2")
            return plan_health(beat)

        app._health_or_none = lambda: check(app.beat)
        app.engine.check = check
        with pytest.raises(HeldError) as caught:
            app.rollback("@latest")
        assert caught.value.code == 31
    with stack.open() as app:
        with pytest.raises(HeldError, match="NEEDS ATTENTION"):
            app.checkpoint()
        with pytest.raises(HeldError):
            app.resume()
        held = app.catalog.open_operation()
        assert held is not None
        with pytest.raises(RevertedError):
            app.resume(skip="health")
        assert app.catalog.operation(held.operation_id).status is OperationStatus.REVERTED
        assert stable(stack) == v2
        app.checkpoint()


def test_a_held_operation_can_be_aborted(stack: Stack) -> None:
    with stack.open() as app:
        app.checkpoint(message="v1")
        stack.deploy_v2()
        v2 = stable(stack)
        real = app.engine.check
        count = iter(range(9))

        def check(beat: object) -> object:
            if next(count) == 1:
                stack.sick("v1", "v2")
            return real(beat)

        app._health_or_none = lambda: check(app.beat)
        app.engine.check = check
        with pytest.raises(HeldError):
            app.rollback("@latest")
        (stack.home / "sick").unlink()
        (stack.home / "tree" / "code.txt").write_text("meddled with\n")
    with stack.open() as app:
        assert app.abort().status is OperationStatus.REVERTED
        assert stable(stack) == v2
        assert app.recover() == []


KILLED = """
import os, signal, sys
from rfs.production.rollback.application import Application
app = Application.open(sys.argv[1])
moment = sys.argv[2]
put = app.catalog.put_operation
def put_operation(operation, mark=None):
    if mark is not None and mark.step == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    put(operation, mark)
app.catalog.put_operation = put_operation
app.rollback("@latest")
"""


@pytest.mark.parametrize("moment", ["stage:tree", "stop:writer", "restore:tree", "restore:db", "start:writer"])
def test_killed_between_a_step_and_its_done_then_recovered(stack: Stack, moment: str) -> None:
    v1 = stable(stack)
    with stack.open() as app:
        app.checkpoint(message="v1")
    stack.deploy_v2()
    v2 = stable(stack)
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(stack.home / "rfs.toml"), moment], cwd=stack.home, check=False
    )
    assert process.returncode == -signal.SIGKILL
    with stack.open() as app:
        settled = app.recover()
        expected = OperationStatus.REVERTED if moment == "stage:tree" else OperationStatus.COMPLETED
        assert [operation.status for operation in settled] == [expected]
        assert app.recover() == []
    assert stable(stack) == (v2 if moment == "stage:tree" else v1)
    before = stack.acked
    stack.wait_for(lambda: stack.acked != before, "the writer to go on")
    assert not [name for name in os.listdir(stack.home) if "stage" in name]
