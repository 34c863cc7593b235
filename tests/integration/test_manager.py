"""RollbackManager: the Python face of the application."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from small import Small

from rfs.production.rollback import (
    CheckpointType,
    DeploymentCheckpoint,
    RollbackError,
    RollbackManager,
    RollbackStrategy,
)
from rfs.production.rollback.application import Application
from rfs.production.rollback.drivers.files import FilesDriver
from rfs.production.rollback.errors import InterruptedByUserError


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path)


def manager(small: Small) -> RollbackManager:
    return RollbackManager(small.home / "rfs.toml")


def test_the_round_of_a_deployment(small: Small) -> None:
    async def round_trip() -> None:
        ours = manager(small)
        assert await ours.get_latest_checkpoint() is None
        facts = {"type": "pre_deployment", "version": "v1.0"}
        made = await ours.create_checkpoint("deploy-1", facts)
        assert made.is_success()
        checkpoint = ours.find_checkpoint(made.value)
        assert checkpoint is not None
        assert (checkpoint.type, checkpoint.deployment_id, checkpoint.version) == (
            CheckpointType.AUTOMATIC,
            "deploy-1",
            "v1.0",
        )
        v1 = small.state()
        small.version(2)
        v2 = small.state()
        plan = (await ours.plan(checkpoint)).unwrap()
        assert set(plan.components) == {"tree", "settings", "db"}
        done = (await ours.rollback_to_checkpoint(checkpoint, "v2 is broken")).unwrap()
        assert done["status"] == "completed"
        assert done["rolled_back_to"] == made.value
        assert small.state() == v1
        assert len((await ours.undo()).unwrap()) == 1
        assert small.state() == v2
        back = await ours.rollback_to_checkpoint("v1.0", components=["settings"])
        assert back.is_success()
        assert small.state()["settings.toml"] == v1["settings.toml"]
        assert small.state()["code.txt"] == v2["code.txt"]
        history = ours.get_rollback_history()
        assert [record.kind for record in history] == ["rollback", "undo", "rollback"]
        assert history[2].reason == "v2 is broken"
        assert (await ours.get_latest_checkpoint()) == checkpoint
        assert (await ours.verify(made.value)).unwrap() == made.value
        assert (await ours.recover()).unwrap() == []
        assert bool(await ours.health_check())

    asyncio.run(round_trip())


def test_backups(small: Small) -> None:
    async def there_and_back() -> None:
        ours = manager(small)
        v1 = small.state()
        backup = (await ours.create_backup()).unwrap()
        assert await ours.get_latest_checkpoint() is None
        small.version(2)
        assert (await ours.restore_from_backup(backup)).is_success()
        assert small.state() == v1
        small.version(2)
        assert (await ours.execute_rollback(backup)).is_success()
        assert small.state() == v1

    asyncio.run(there_and_back())


def test_what_is_expected_to_fail_does_not_raise(small: Small, tmp_path: Path) -> None:
    async def failures() -> None:
        ours = manager(small)
        missing = await ours.rollback_to_checkpoint("nothing")
        assert missing.is_failure()
        assert isinstance(missing.error, RollbackError)
        assert missing.error.code == 10
        assert str(missing.error) == "No checkpoint matches nothing."
        assert ours.find_checkpoint("nothing") is None
        assert (await ours.undo()).is_failure()
        made = (await ours.create_checkpoint("d")).unwrap()
        later = await ours.rollback_to_checkpoint(made, strategy=RollbackStrategy.GRADUAL)
        assert later.is_failure()
        (tmp_path / "empty").mkdir()
        nowhere = RollbackManager(tmp_path / "empty" / "rfs.toml")
        assert (await nowhere.create_checkpoint("d")).is_failure()

    asyncio.run(failures())


def test_metadata_that_cannot_be_stored_is_a_failure_and_nothing_is_taken(small: Small) -> None:
    async def refused() -> None:
        ours = manager(small)
        for metadata in ({"by": object()}, {"ratio": float("nan")}):
            failed = await ours.create_checkpoint("x", metadata)
            assert not failed.is_success()
            assert (failed.error.key, failed.error.code) == ("usage.json", 2)
            assert repr(next(iter(metadata))) in str(failed.error)
        assert ours.get_checkpoints() == []

    asyncio.run(refused())


def test_nothing_to_checkpoint_is_a_failure_never_an_empty_success(tmp_path: Path) -> None:
    (tmp_path / "rfs.toml").write_text(f'[app]\nname = "x"\n[store]\nkey = "file:{tmp_path}/key"\n')
    from rfs.production.rollback.application import Application

    Application.create(str(tmp_path / "rfs.toml")).close()
    made = asyncio.run(RollbackManager(tmp_path / "rfs.toml").create_checkpoint("d"))
    assert made.is_failure()
    assert "nothing to checkpoint" in str(made.error)


def test_a_bug_still_raises(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FilesDriver, "capture", bug)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(manager(small).create_checkpoint("d"))


def test_a_cancelled_rollback_is_turned_back_before_the_caller_is_let_go(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    restoring, cancelled = threading.Event(), threading.Event()
    restore = FilesDriver.restore

    def slowly(self: FilesDriver, *arguments: Any) -> Any:
        if not restoring.is_set():
            done = restore(self, *arguments)
            restoring.set()
            assert cancelled.wait(20)
            return done
        return restore(self, *arguments)

    async def cancel() -> None:
        ours = manager(small)
        made = (await ours.create_checkpoint("d")).unwrap()
        small.version(2)
        v2 = small.state()
        monkeypatch.setattr(FilesDriver, "restore", slowly)
        task = asyncio.create_task(ours.rollback_to_checkpoint(made))
        await asyncio.to_thread(restoring.wait, 20)
        task.cancel()
        asyncio.get_running_loop().call_later(0.1, cancelled.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert small.state() == v2
        assert [record.status for record in ours.get_rollback_history()] == ["reverted"]

    asyncio.run(cancel())


def test_cancelled_before_it_began_it_does_not_begin(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    opening, cancelled = threading.Event(), threading.Event()
    opened = RollbackManager._open

    def late(self: RollbackManager, *args: Any, **options: Any) -> Application:
        opening.set()
        assert cancelled.wait(20)
        return opened(self, *args, **options)

    async def cancel() -> None:
        ours = manager(small)
        with monkeypatch.context() as patch:
            patch.setattr(RollbackManager, "_open", late)
            task = asyncio.create_task(ours.create_checkpoint("d"))
            await asyncio.to_thread(opening.wait, 20)
            task.cancel()
            asyncio.get_running_loop().call_later(0.1, cancelled.set)
            with pytest.raises(asyncio.CancelledError):
                await task
        assert ours.get_checkpoints() == []

    asyncio.run(cancel())


def test_cancelled_twice_it_still_waits_and_tells_what_became_of_it(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    capturing, go_on = threading.Event(), threading.Event()
    capture = FilesDriver.capture
    ended = []

    def slowly(self: FilesDriver, *arguments: Any) -> Any:
        capturing.set()
        assert go_on.wait(20)
        try:
            return capture(self, *arguments)
        finally:
            ended.append(True)

    async def cancel() -> None:
        monkeypatch.setattr(FilesDriver, "capture", slowly)
        task = asyncio.create_task(manager(small).create_checkpoint("d"))
        await asyncio.to_thread(capturing.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert ended
        assert isinstance(caught.value.__cause__, InterruptedByUserError)

    asyncio.run(cancel())


def test_records_round_trip(small: Small) -> None:
    async def made() -> DeploymentCheckpoint:
        ours = manager(small)
        await ours.create_checkpoint("d", {"version": "1", "nested": {"a": [1, 2.5, None]}})
        latest = await ours.get_latest_checkpoint()
        assert latest is not None
        return latest

    checkpoint = asyncio.run(made())
    assert DeploymentCheckpoint.from_dict(checkpoint.to_dict()) == checkpoint
