"""AutoRollbackManager on a real small application: what trips, what never does, and where it goes back to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from small import Small

from rfs.core.result import Failure
from rfs.production.rollback import (
    AutoRollbackManager,
    DeploymentRollbackManager,
    RollbackError,
    RollbackManager,
    measuring,
    monitor,
)
from rfs.production.rollback.model import RollbackRecord, utc_now

HEALTH = '[[health]]\nname = "sane"\ncommand = ["test", "!", "-e", "sick"]\nretries = 0\n'


class Auto(AutoRollbackManager):
    """Every rollback and every alert sets `told`, so that tests wait for them and for nothing else."""

    def __init__(self, small: Small) -> None:
        super().__init__(RollbackManager(small.home))
        self.told = asyncio.Event()

    async def send_alert(self, name: str, value: float | None) -> None:
        await super().send_alert(name, value)
        self.told.set()

    def automatic(self) -> list[RollbackRecord]:
        return [each for each in self.manager.get_rollback_history() if each.reason.startswith("automatic: ")]


async def until(auto: Auto, happened: Callable[[], object], interval: float = 0.02) -> None:
    """Monitor until something happened; then stop, and see that it ends."""
    monitoring = asyncio.create_task(auto.start_monitoring(interval=interval))
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        assert not monitoring.done()
        await asyncio.sleep(0.01)
    assert auto.monitoring_active
    auto.stop_monitoring()
    await monitoring
    assert not auto.monitoring_active


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """At version 2, with a checkpoint of version 1."""
    made = Small(tmp_path, more=HEALTH)
    with made.open() as app:
        app.checkpoint(metadata={"version": "v1"})
    made.version(2)
    return made


def at_least(values: list[Any], number: int) -> Callable[[], bool]:
    return lambda: len(values) >= number


def counted(value: object) -> tuple[list[int], Callable[[], Any]]:
    """Return a condition, and the list that grows with each of its calls."""
    calls: list[int] = []

    def condition() -> Any:
        calls.append(1)
        if isinstance(value, Exception):
            raise value
        return value

    return calls, condition


async def async_value() -> float:
    return 0.07


@pytest.mark.parametrize("condition", [lambda: 0.07, async_value, lambda: asyncio.sleep(0, 0.07)])
def test_a_condition_that_trips_rolls_back_and_the_record_says_why(small: Small, condition: Any) -> None:
    async def act() -> None:
        auto = Auto(small)
        auto.add_rollback_condition("error_rate", condition, 0.05)
        auto.add_rollback_condition("memory", lambda: 0.95, 0.9, action="alert")
        await until(auto, lambda: auto.automatic() and ("memory", 0.95) in auto.alerts)
        (record,) = auto.automatic()
        assert (record.reason, str(record.status)) == ("automatic: error_rate is 0.07, above 0.05", "completed")
        assert auto.alerts.count(("memory", 0.95)) == 1

    asyncio.run(act())
    assert small.is_at(1)


@pytest.mark.parametrize("value", [0.05, float("nan"), float("inf"), "0.9", None, True, ValueError("down")])
def test_what_is_not_above_it_or_no_number_never_does(small: Small, value: object) -> None:
    async def act() -> None:
        auto = Auto(small)
        calls, condition = counted(value)
        auto.add_rollback_condition("error_rate", condition, 0.05, consecutive_error_limit=1000)
        await until(auto, at_least(calls, 8))
        assert auto.automatic() == []
        assert auto.alerts == []

    asyncio.run(act())
    assert small.is_at(2)


@pytest.mark.parametrize("value", ["no number", ValueError("down")])
def test_what_cannot_be_measured_again_and_again_is_alerted_once(small: Small, value: object) -> None:
    async def act() -> None:
        auto = Auto(small)
        calls, condition = counted(value)
        auto.add_rollback_condition("error_rate", condition, 0.05)
        await until(auto, at_least(calls, 12))
        assert auto.alerts == [("error_rate", None)]
        assert auto.automatic() == []

    asyncio.run(act())


def test_a_condition_that_hangs_delays_no_other(small: Small) -> None:
    async def hanging() -> float:
        await asyncio.Event().wait()
        return 1.0

    async def act() -> None:
        auto = Auto(small)
        auto.add_rollback_condition("hanging", hanging, 0.05, timeout=0.05)
        auto.add_rollback_condition("error_rate", lambda: 0.07, 0.05)
        await until(auto, auto.automatic)

    asyncio.run(act())
    assert small.is_at(1)


def test_it_goes_to_what_was_healthy_before_the_trouble_and_not_to_the_latest(small: Small) -> None:
    (small.home / "sick").touch()
    with small.open() as app:
        sick = app.checkpoint()
        assert sick.health is not None
        assert not sick.health.healthy
    (small.home / "sick").unlink()
    small.version(3)
    trouble = utc_now()
    with small.open() as app:
        app.checkpoint()  # healthy, and taken when it failed already

    async def act() -> None:
        result = await Auto(small)._go_back("a test", trouble)
        assert result.is_success(), result

    asyncio.run(act())
    assert small.is_at(1)


def test_without_one_it_alerts_and_goes_on(tmp_path: Path) -> None:
    small = Small(tmp_path, more=HEALTH)

    async def act() -> None:
        auto = Auto(small)
        calls, condition = counted(0.07)
        auto.add_rollback_condition("error_rate", condition, 0.05)
        await until(auto, at_least(calls, 8))
        assert auto.alerts == [("error_rate", 0.07)]
        result = await auto.execute_auto_rollback("a test")
        assert result.is_failure()
        assert isinstance(result.error, RollbackError)
        assert result.error.key == "monitor.no_target"

    asyncio.run(act())


def test_there_is_no_second_one_in_the_cooldown_also_after_a_restart(small: Small) -> None:
    async def act() -> None:
        for wanted in ([], [("error_rate", 0.07)]):
            auto = Auto(small)
            auto.add_rollback_condition("error_rate", lambda: 0.07, 0.05)
            await until(auto, lambda auto=auto, wanted=wanted: auto.automatic() and (auto.alerts or not wanted))
            assert len(auto.automatic()) == 1
            small.version(2)

    asyncio.run(act())
    assert small.is_at(2)


def test_a_dry_run_only_tells(small: Small) -> None:
    async def act() -> None:
        auto = Auto(small)
        auto.add_rollback_condition("error_rate", lambda: 0.07, 0.05, dry_run=True)
        await until(auto, lambda: auto.alerts)
        assert auto.automatic() == []

    asyncio.run(act())


def test_the_version_that_was_live_is_quarantined(small: Small) -> None:
    async def act() -> None:
        deploying = DeploymentRollbackManager(small.home)
        kept = await deploying.deploy("d", lambda: small.version(3), {"version": "v3"})
        assert kept.is_success(), kept
        auto = Auto(small)
        auto.add_rollback_condition("error_rate", lambda: 0.07, 0.05)
        await until(auto, auto.automatic)
        again = await deploying.deploy("d", lambda: small.version(3), {"version": "v3"})
        assert isinstance(again, Failure)
        assert (again.error.code, "error_rate is 0.07" in str(again.error)) == (21, True)

    asyncio.run(act())


def test_a_checkpoint_is_taken_once_in_the_cooldown(small: Small) -> None:
    async def act() -> None:
        auto = Auto(small)
        calls, condition = counted(0.07)
        auto.add_rollback_condition("error_rate", condition, 0.05, action="checkpoint")
        await until(auto, at_least(calls, 8))
        taken = [each for each in auto.manager.get_checkpoints() if each.type == "conditional"]
        assert [each.metadata["condition"] for each in taken] == ["error_rate"]
        assert (auto.automatic(), auto.alerts) == ([], [])

    asyncio.run(act())
    assert small.is_at(2)


@pytest.mark.parametrize("how", ["policy", "deployment"])
def test_nothing_goes_back_by_itself_where_that_was_ruled_out(small: Small, how: str) -> None:
    async def act() -> None:
        auto = Auto(small)
        if how == "policy":
            auto.manager = RollbackManager(small.home, policy={"auto_rollback": False})
        else:
            deploying = DeploymentRollbackManager(small.home)
            facts = {"version": "v3", "auto_rollback": False}
            assert (await deploying.deploy("d", lambda: small.version(2), facts)).is_success()
        auto.add_rollback_condition("error_rate", lambda: 0.07, 0.05)
        await until(auto, lambda: auto.alerts)
        assert auto.automatic() == []

    asyncio.run(act())
    assert small.is_at(2)


def test_what_cannot_be_a_condition_is_refused(small: Small) -> None:
    auto = AutoRollbackManager(RollbackManager(small.home))
    auto.add_rollback_condition("one", lambda: 0.0, 1)
    with pytest.raises(RollbackError, match="already"):
        auto.add_rollback_condition("one", lambda: 0.0, 1)
    with pytest.raises(RollbackError, match="not right"):
        auto.add_rollback_condition("two", lambda: 0.0, 1, laste=5)
    with pytest.raises(RollbackError, match="no action"):
        auto.add_rollback_condition("two", lambda: 0.0, 1, action="page")  # type: ignore[arg-type]  # refused
    assert [each.name for each in auto.conditions] == ["one"]
    assert auto.should_rollback(0.06, 0.05)
    assert not auto.should_rollback(0.05, 0.05)
    assert not auto.should_rollback(float("nan"), 0.05)


def test_it_runs_once_and_conditions_may_be_added_meanwhile(small: Small) -> None:
    async def act() -> None:
        auto = Auto(small)
        monitoring = asyncio.create_task(auto.start_monitoring(interval=0.02))
        await asyncio.sleep(0)
        with pytest.raises(RollbackError, match="monitored already"):
            await auto.start_monitoring()
        auto.add_rollback_condition("memory", lambda: 0.95, 0.9, action="alert")
        await asyncio.wait_for(auto.told.wait(), 30)
        auto.stop_monitoring()
        await monitoring

    asyncio.run(act())


def test_a_clock_that_is_set_back_does_not_end_the_judging(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        auto = Auto(small)
        rates = [0.01]
        calls: list[int] = []

        def rate() -> float:
            calls.append(1)
            return rates[0]

        auto.add_rollback_condition("memory", rate, 0.05, action="alert")

        def turned_bad() -> bool:
            if len(calls) > 2 and rates == [0.01]:
                for module in (measuring, monitor):
                    monkeypatch.setattr(module, "utc_now", lambda: utc_now() - timedelta(hours=1))
                rates[0] = 0.07
            return bool(auto.alerts)

        await until(auto, turned_bad)
        assert auto.alerts == [("memory", 0.07)]

    asyncio.run(act())


@pytest.mark.slow
@pytest.mark.parametrize(("before", "trips"), [(0.01, True), (0.4, False)])
def test_a_version_is_compared_with_the_one_before_it_which_another_process_watched(
    small: Small, before: float, trips: bool
) -> None:
    """It is deployed, and started anew; what the monitor of the version before it measured is in the store."""
    rates = {1: before, 2: before, 3: 0.41}

    def rate() -> float:
        return next(rate for version, rate in rates.items() if small.is_at(version))

    def watching() -> tuple[Auto, list[int]]:
        auto, calls = Auto(small), []

        def counted_rate() -> float:
            calls.append(1)
            return rate()

        action = "alert" if before > 0.05 else "rollback"
        auto.add_rollback_condition("error_rate", counted_rate, 0.05, action, baseline=True, lasting=0.05)
        return auto, calls

    async def act() -> None:
        # Eight values are the fewest that a baseline is told from; until they are there it would only alert.
        auto, calls = watching()
        auto.conditions[0] = msgspec.structs.replace(auto.conditions[0], threshold=1.0)
        # What was measured in sixty intervals before it is compared, also on a machine that is busy.
        await until(auto, at_least(calls, 10), interval=0.2)
        deploying = DeploymentRollbackManager(small.home)
        assert (await deploying.deploy("d", lambda: small.version(3), {"version": "v3"})).is_success()
        auto, calls = watching()
        await until(auto, auto.automatic if trips else at_least(calls, 12), interval=0.2)
        assert auto.alerts == []

    asyncio.run(act())
    assert small.is_at(2 if trips else 3)


def test_a_baseline_without_anything_before_it_is_told(small: Small) -> None:
    async def act() -> None:
        auto = Auto(small)
        auto.add_rollback_condition("error_rate", lambda: 0.07, 0.05, baseline=True)
        await until(auto, lambda: auto.alerts)
        assert auto.automatic() == []

    asyncio.run(act())
    assert small.is_at(2)
