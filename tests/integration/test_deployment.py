"""DeploymentRollbackManager: a deployment in Python, by a command or a function."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from small import Small

from rfs.core.result import Failure
from rfs.production.rollback import CheckpointType, ConditionalRollback, DeploymentRollbackManager, RollbackError
from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import (
    ChangeFailedError,
    GuardRevertedError,
    InterruptedByUserError,
    QuarantinedError,
    UsageError,
)
from rfs.production.rollback.guarding import Guard


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path)


def manager(small: Small, **options: Any) -> DeploymentRollbackManager:
    return DeploymentRollbackManager(small.home / "rfs.toml", **options)


def deploy(small: Small, change: Any, metadata: dict[str, Any] | None = None, **options: Any) -> Any:
    return asyncio.run(manager(small).deploy("d1", change, metadata, **options))


def test_a_deployment_is_kept_with_an_automatic_checkpoint_of_before(small: Small) -> None:
    ours = manager(small)
    v1 = small.state()
    done = asyncio.run(ours.deploy("d1", lambda: small.version(2), {"version": "v2"})).unwrap()
    assert small.is_at(2)
    assert (done["deployment_id"], done["version"], done["status"]) == ("d1", "v2", "kept")
    (checkpoint,) = ours.checkpoints
    assert checkpoint.checkpoint_id == done["checkpoint_id"]
    assert (checkpoint.type, checkpoint.deployment_id, checkpoint.version) == (CheckpointType.AUTOMATIC, "d1", "v2")
    assert ours.rollback_history == []
    assert asyncio.run(ours.rollback_to_checkpoint(checkpoint, "second thoughts")).is_success()
    assert small.state() == v1


def raising(small: Small) -> None:
    small.version(2)
    raise OSError("no such host")


def answering(answer: object) -> Callable[[Small], object]:
    def change(small: Small) -> object:
        small.version(2)
        return answer

    return change


async def awaited(small: Small) -> bool:
    small.version(2)
    await asyncio.sleep(0)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (raising, "no such host"),
        (answering(False), "it returned False"),
        (answering(Failure(ValueError("half of it"))), "half of it"),
        (awaited, "it returned False"),
    ],
)
def test_a_function_that_fails_is_taken_back_and_the_failure_says_so(small: Small, change: Any, why: str) -> None:
    ours = manager(small)
    v1 = small.state()
    error = asyncio.run(ours.deploy("d1", lambda: change(small))).error
    assert isinstance(error, GuardRevertedError)
    assert error.code == 20
    assert "the system is back at" in str(error)
    assert why in str(error)
    assert small.state() == v1
    (record,) = ours.rollback_history
    assert record.status == "completed"
    assert record.checkpoint_id == ours.checkpoints[-1].checkpoint_id


@pytest.mark.slow
def test_a_command_that_fails_hands_its_status_on(small: Small) -> None:
    error = deploy(small, ["sh", "-c", f"rm {small.tree}/code.txt; exit 6"]).error
    assert isinstance(error, GuardRevertedError)
    assert error.code == 6
    assert small.is_at(1)
    assert deploy(small, ["touch", f"{small.tree}/new.txt"]).is_success()
    assert (small.tree / "new.txt").exists()


@pytest.mark.parametrize("change", ["./deploy.sh v2", [1, 2], [], ["./nothing-there"]])
def test_what_is_no_change_is_refused(small: Small, change: Any) -> None:
    result = deploy(small, change)
    assert isinstance(result.error, RollbackError)
    assert isinstance(result.error, UsageError) or result.error.key == "command.missing"
    assert manager(small).checkpoints == []


@pytest.mark.parametrize(
    ("metadata", "options"),
    [
        ({"auto_rollback": "no"}, {}),
        ({"when": object()}, {}),
        ({}, {"bake": -1}),
        ({}, {"bake": float("nan")}),
        ({}, {"confirm_by": "persn"}),
        ({}, {"confirm_by": "person", "bake": 0}),
        ({"auto_rollback": False}, {"confirm_by": "person"}),
    ],
)
def test_what_makes_no_sense_is_refused(small: Small, metadata: dict[str, Any], options: dict[str, Any]) -> None:
    result = deploy(small, lambda: small.version(2), metadata, **options)
    assert isinstance(result.error, UsageError)
    assert small.is_at(1)
    assert manager(small).checkpoints == []


def test_the_health_hook_of_a_subclass_decides(small: Small) -> None:
    class Ours(DeploymentRollbackManager):
        async def health_check(self) -> Any:
            return small.is_at(1)

    ours = Ours(small.home / "rfs.toml")
    error = asyncio.run(ours.deploy("d1", lambda: small.version(2), {"version": "v2"})).error
    assert "the health check failed" in str(error)
    assert small.is_at(1)
    again = asyncio.run(ours.deploy("d2", lambda: small.version(2), {"version": "v2"})).error
    assert isinstance(again, QuarantinedError)
    assert again.code == 21


@pytest.mark.slow
def test_a_condition_is_asked_in_the_bake_and_takes_it_back(small: Small) -> None:
    asked: list[datetime] = []

    def watch(since: datetime) -> str | None:
        asked.append(since)
        return "7 % of the requests fail" if len(asked) == 3 else None

    result = deploy(small, lambda: small.version(2), {"version": "v2"}, bake=timedelta(minutes=5), watches=[watch])
    assert "7 % of the requests fail" in str(result.error)
    assert len(asked) == 3
    assert len(set(asked)) == 1, "each time since the same moment"
    assert small.is_at(1)
    assert isinstance(deploy(small, lambda: None, {"version": "v2"}).error, QuarantinedError)


@pytest.mark.slow
def test_a_condition_may_be_async_and_a_broken_one_takes_nothing_back_but_is_told(small: Small) -> None:
    async def tripped(since: datetime) -> str | None:
        await asyncio.sleep(0)
        return "the queue grows"

    def broken(since: datetime) -> str | None:
        raise ZeroDivisionError("no requests yet")

    kept = deploy(small, lambda: small.version(2), bake=0.3, watches=[broken]).unwrap()
    assert kept["notes"] == [
        "A condition could not be asked: The hook condition failed: ZeroDivisionError: no requests yet."
    ]
    assert small.is_at(2)
    back = deploy(small, lambda: small.version(3), bake=60, watches=[broken, tripped]).error
    assert "the queue grows" in str(back)
    assert small.is_at(2)


@pytest.mark.slow
def test_a_bug_in_the_guard_leaves_nothing_undecided(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(self: object, health: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Guard, "_require_well", bug)
    with pytest.raises(ZeroDivisionError):  # it is raised as it is
        deploy(small, lambda: small.version(2), confirm_by="person")
    assert small.is_at(1)
    assert manager(small).rollback_history[0].status == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["metadata", "policy"])
def test_auto_rollback_of_the_metadata_goes_before_the_policy(small: Small, how: str) -> None:
    policy = {"auto_rollback": how != "policy"}
    metadata = {"auto_rollback": False} if how == "metadata" else {}
    ours = manager(small, policy=policy)
    error = asyncio.run(ours.deploy("d1", lambda: raising(small), metadata)).error
    assert isinstance(error, ChangeFailedError)
    assert not isinstance(error, GuardRevertedError)
    assert "was left as it is" in str(error)
    assert small.is_at(2)
    back = asyncio.run(manager(small, policy={"auto_rollback": False}).deploy("d2", lambda: raising(small)))
    assert back.error.key == "guard.left"
    forced = asyncio.run(
        manager(small, policy={"auto_rollback": False}).deploy("d3", lambda: raising(small), {"auto_rollback": True})
    )
    assert forced.error.key == "guard.reverted"


@pytest.mark.slow
def test_cancelled_it_is_taken_back_before_the_caller_is_let_go(small: Small) -> None:
    begun = asyncio.Event()

    async def change() -> None:
        small.version(2)
        begun.set()
        await asyncio.sleep(1000)

    async def cancel() -> None:
        task = asyncio.create_task(manager(small).deploy("d1", change))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert isinstance(raised.value.__cause__, InterruptedByUserError)
        assert "the system is back at" in str(raised.value.__cause__)

    asyncio.run(cancel())
    assert small.is_at(1)


@pytest.mark.slow
def test_cancelled_on_its_way_back_it_goes_all_the_way(small: Small) -> None:
    going_back = threading.Event()

    class Ours(DeploymentRollbackManager):
        def stop_services(self) -> None:
            going_back.set()
            cancelled.wait(30)

        def start_services(self) -> None:
            """Nothing was stopped."""

    cancelled = threading.Event()

    async def cancel() -> None:
        task = asyncio.create_task(Ours(small.home / "rfs.toml").deploy("d1", lambda: raising(small)))
        await asyncio.to_thread(going_back.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        cancelled.set()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert isinstance(raised.value.__cause__, GuardRevertedError)

    asyncio.run(cancel())
    assert small.is_at(1)


@pytest.mark.slow
def test_a_function_may_call_the_manager_itself(small: Small) -> None:
    async def change() -> None:
        assert (await manager(small).create_checkpoint("inner")).is_success()
        second = await manager(small).deploy("d2", lambda: small.version(3))
        assert second.error.code == 11, "one at a time"
        small.version(2)

    assert deploy(small, change).is_success()
    assert small.is_at(2)


@pytest.mark.slow
def test_a_person_may_confirm_from_another_thread(small: Small) -> None:
    def confirm() -> None:
        while True:
            with Application.open(str(small.home / "rfs.toml")) as app:
                found = app.deployments.open()
                if found is not None and found.phase == "baking":
                    app.confirm(found.guard_id)
                    return
            waiting.wait(0.01)

    waiting = threading.Event()
    thread = threading.Thread(target=confirm)
    thread.start()
    done = deploy(small, lambda: small.version(2), confirm_by="person").unwrap()
    thread.join()
    assert done["status"] == "kept"
    assert small.is_at(2)


def test_rules_watch_a_deployment(small: Small) -> None:
    async def failing() -> float:
        return 0.07 if small.is_at(2) else 0.01

    rules = [
        ConditionalRollback("memory", lambda: 1.0, 0.9, action="alert"),
        ConditionalRollback("latency", lambda: 9.0, 2, dry_run=True),
        ConditionalRollback("nothing", lambda: float("nan"), 2),
        ConditionalRollback("error_rate", failing, 0.05, interval=0.01),
    ]
    back = deploy(small, lambda: small.version(2), bake=60, watches=rules).error
    assert isinstance(back, GuardRevertedError)
    assert "error_rate is 0.07, above 0.05" in str(back)
    assert small.is_at(1)


@pytest.mark.parametrize("options", [{}, pytest.param({"baseline": True}, marks=pytest.mark.slow)])
def test_a_rule_is_measured_before_the_change_too(small: Small, options: dict[str, Any]) -> None:
    """What failed before, as much as now, is not the change's fault."""
    rates = {1: 0.07, 2: 0.07, 3: 0.9}

    def rate() -> float:
        return next(rate for version, rate in rates.items() if small.is_at(version))

    # What was measured in sixty intervals before it is compared, also on a machine that is busy.
    rule = ConditionalRollback("error_rate", rate, 0.05, interval=0.1, **options)
    kept = deploy(small, lambda: small.version(2), bake=0.5, watches=[rule]).unwrap()
    assert (kept["status"], kept["notes"]) == ("kept", [])
    back = deploy(small, lambda: small.version(3), bake=60, watches=[rule]).error
    assert "error_rate is 0.9, above 0.077" in str(back)
    assert small.is_at(2)


def test_a_rule_that_only_alerts_is_told_of_what_is_kept(small: Small) -> None:
    rule = ConditionalRollback("memory", lambda: 0.95 if small.is_at(2) else 0.5, 0.9, "alert", interval=0.01)
    kept = deploy(small, lambda: small.version(2), bake=0.5, watches=[rule]).unwrap()
    assert kept["notes"] == ["Memory is 0.95, above 0.9."]


def test_two_rules_of_one_name_are_refused(small: Small) -> None:
    rules = [ConditionalRollback("memory", lambda: 0.1, 0.9), ConditionalRollback("memory", lambda: 0.1, 0.9)]
    refused = deploy(small, lambda: small.version(2), bake=1, watches=rules).error
    assert (refused.code, str(refused)) == (2, "Two conditions are called memory.")
    assert small.is_at(1)
