"""A manager whose application is described in code: hooks of a subclass, and registered components."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import Small

from rfs.core.result import Failure
from rfs.production.rollback import RollbackError, RollbackManager
from rfs.production.rollback.errors import HeldError, RevertedError

STEPS = ("stop_services", "restore_configuration", "restore_database", "restore_files", "start_services")


class Shop:
    """The live application: plain values, and a list of what was called."""

    def __init__(self) -> None:
        self.configuration: dict[str, Any] = {"color": "red", "db_password": "hunter2"}
        self.schema: Any = {"orders": ["id", "sum"]}
        self.files = {"app.py": "aa11"}
        self.running = True
        self.healthy = True
        self.calls: list[str] = []
        self.fail: dict[str, Callable[[], Any]] = {}

    def version_2(self) -> None:
        self.configuration = {"color": "blue", "db_password": "hunter3"}
        self.schema = {"orders": ["id", "sum", "discount"]}
        self.files = {"app.py": "bb22", "new.py": "cc33"}

    def state(self) -> Any:
        return json.loads(json.dumps([self.configuration, self.schema, self.files, self.running]))

    def called(self, name: str) -> Any:
        self.calls.append(name)
        return self.fail.pop(name)() if name in self.fail else None


class ShopManager(RollbackManager):
    """Half of the hooks are sync and half async."""

    def __init__(self, shop: Shop, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.shop = shop

    async def get_configuration(self) -> Any:
        return self.shop.configuration

    def get_database_schema(self) -> Any:
        return self.shop.schema

    def get_deployed_services(self) -> Any:
        return {"web": "v2" if "new.py" in self.shop.files else "v1"}

    async def get_environment_variables(self) -> Any:
        return {"MODE": "production"}

    def calculate_file_checksums(self) -> Any:
        return self.shop.files

    async def stop_services(self) -> Any:
        self.shop.running = False
        return self.shop.called("stop_services")

    async def restore_configuration(self, state: Any) -> Any:
        assert not self.shop.running
        self.shop.configuration = state
        await asyncio.sleep(0)
        return self.shop.called("restore_configuration")

    def restore_database(self, state: Any) -> Any:
        self.shop.schema = state
        return self.shop.called("restore_database")

    def restore_files(self, state: Any) -> Any:
        self.shop.files = state
        return self.shop.called("restore_files")

    def start_services(self) -> Any:
        self.shop.running = True
        return self.shop.called("start_services")

    async def health_check(self) -> Any:
        self.shop.called("health_check")
        return self.shop.healthy


@pytest.fixture(autouse=True)
def _keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def raised(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def set_up(tmp_path: Path) -> tuple[Shop, ShopManager, str]:
    """Return the shop at version 2, and the checkpoint of version 1."""
    (tmp_path / "home").mkdir()
    shop = Shop()
    manager = ShopManager(shop, tmp_path / "home")
    made = asyncio.run(manager.create_checkpoint("deploy-1"))
    shop.version_2()
    shop.calls.clear()
    return shop, manager, made.unwrap()


def test_a_subclass_without_rfs_toml_gets_the_whole_order_of_a_rollback(tmp_path: Path) -> None:
    shop, manager, checkpoint = set_up(tmp_path)
    v1 = json.loads(json.dumps([{"color": "red", "db_password": "hunter2"}, {"orders": ["id", "sum"]}]))
    v2 = shop.state()
    done = asyncio.run(manager.rollback_to_checkpoint(checkpoint, "v2 is broken")).unwrap()
    assert done["status"] == "completed"
    assert [shop.configuration, shop.schema, shop.files] == [*v1, {"app.py": "aa11"}]
    # The first look at health is for the safety checkpoint: what the way back has to reach.
    assert shop.calls == ["health_check", *STEPS, "health_check"]
    record = manager.get_rollback_history()[0]
    assert (record.reason, record.status) == ("v2 is broken", "completed")
    assert record.health is not None
    assert record.health.checks[0].name == "health_check"
    asyncio.run(manager.undo()).unwrap()
    assert shop.state() == v2


@pytest.mark.parametrize("how", [raised(OSError("no way")), lambda: False, lambda: Failure("no way")])
@pytest.mark.parametrize("step", STEPS)
def test_each_hook_that_fails_leaves_the_state_before(tmp_path: Path, step: str, how: Callable[[], Any]) -> None:
    shop, manager, checkpoint = set_up(tmp_path)
    before = shop.state()
    shop.fail[step] = how
    done = asyncio.run(manager.rollback_to_checkpoint(checkpoint))
    assert done.is_failure()
    assert isinstance(done.error, RevertedError)
    assert step in str(done.error)
    assert shop.state() == before
    assert manager.get_rollback_history()[0].status == "reverted"
    assert asyncio.run(manager.rollback_to_checkpoint(checkpoint)).is_success()


def test_a_restore_that_does_not_do_what_it_says_is_found_out(tmp_path: Path) -> None:
    shop, manager, checkpoint = set_up(tmp_path)
    before = shop.state()
    wrong = {"color": "green"}
    shop.fail["restore_configuration"] = lambda: setattr(shop, "configuration", wrong)
    done = asyncio.run(manager.rollback_to_checkpoint(checkpoint))
    assert done.is_failure()
    assert "configuration" in str(done.error)
    assert "hunter" not in str(done.error)
    assert shop.state() == before


def test_failing_health_brings_the_state_before_back(tmp_path: Path) -> None:
    shop, manager, checkpoint = set_up(tmp_path)
    before = shop.state()
    shop.fail["restore_files"] = lambda: setattr(shop, "healthy", False)
    done = asyncio.run(manager.rollback_to_checkpoint(checkpoint))
    assert done.is_failure()
    assert "health_check" in str(done.error)
    # What fails the way forward fails the way back as well: it was healthy before.
    assert isinstance(done.error, HeldError)
    shop.healthy = True
    refused = asyncio.run(manager.rollback_to_checkpoint(checkpoint))
    assert isinstance(refused.error, HeldError)
    assert shop.state() == before


def test_the_state_is_recorded_with_its_secrets_masked(tmp_path: Path) -> None:
    _, manager, checkpoint = set_up(tmp_path)
    found = manager.find_checkpoint(checkpoint)
    assert found is not None
    assert found.state["configuration"] == {"color": "red", "db_password": "••••"}
    assert found.state["environment_variables"] == {"MODE": "••••"}
    assert found.state["file_checksums"] == {"app.py": "aa11"}
    live = asyncio.run(manager.collect_system_state())
    assert live["configuration"]["color"] == "blue"
    assert live["deployed_services"] == {"web": "v2"}
    assert "hunter" not in str(live) + str(found)
    plan = asyncio.run(manager.plan(checkpoint)).unwrap()
    assert {change.key for change in plan.changes["configuration"]} == {"color", "db_password"}
    assert "hunter" not in str(plan)
    assert any("environment_variables is recorded, and no hook restores it" in each for each in plan.warnings)
    for folder, _, names in os.walk(tmp_path / "home"):
        assert not any(b"hunter" in Path(folder, name).read_bytes() for name in names)


def test_a_hook_that_hangs_is_given_up_when_the_time_is_over(tmp_path: Path) -> None:
    shop, _, checkpoint = set_up(tmp_path)
    manager = ShopManager(shop, tmp_path / "home", policy={"max_rollback_time": 0.3, "recovery_time": 20})
    before = shop.state()
    let_go: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            let_go.append("cancelled")

    shop.fail["stop_services"] = hang  # it returns a coroutine, which the hook awaits below

    class Hanging(ShopManager):
        async def stop_services(self) -> Any:
            hanging = await super().stop_services()
            return await hanging if hanging is not None else None

    done = asyncio.run(Hanging(shop, tmp_path / "home", policy=manager._policy).rollback_to_checkpoint(checkpoint))
    assert isinstance(done.error, RevertedError)
    assert "max_rollback_time" in str(done.error) + done.error.hint
    assert let_go == ["cancelled"]
    assert shop.state() == before


def test_cancelling_turns_hooks_back_first(tmp_path: Path) -> None:
    shop, _, checkpoint = set_up(tmp_path)
    before = shop.state()

    class Slow(ShopManager):
        async def restore_database(self, state: Any) -> Any:
            super().restore_database(state)
            if "waited" not in self.shop.calls:
                self.shop.calls.append("waited")
                reached.set()
                await asyncio.Event().wait()

    async def cancel() -> None:
        task = asyncio.ensure_future(Slow(shop, tmp_path / "home").rollback_to_checkpoint(checkpoint))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert shop.state() == before

    async def run() -> None:
        nonlocal reached
        reached = asyncio.Event()
        await asyncio.wait_for(cancel(), 30)

    reached = asyncio.Event()
    asyncio.run(run())


def test_registered_components_beside_rfs_toml(tmp_path: Path) -> None:
    small = Small(tmp_path)
    cache = {"size": 1}
    calls: list[str] = []

    def restore(state: Any) -> None:
        calls.append("restore")
        cache.clear()
        cache.update(state)

    manager = RollbackManager(small.home / "rfs.toml")
    manager.register_component(
        "cache",
        get=lambda: dict(cache),
        restore=restore,
        health_check=lambda: cache.get("size", 0) < 5,
    )
    made = asyncio.run(manager.create_checkpoint("d")).unwrap()
    v1 = small.state()
    small.version(2)
    cache["size"] = 9
    assert not asyncio.run(manager.health_check())
    assert asyncio.run(manager.rollback_to_checkpoint(made)).is_success()
    assert (small.state(), cache, calls) == (v1, {"size": 1}, ["restore"])
    assert asyncio.run(manager.health_check())
    state = asyncio.run(manager.collect_system_state())
    assert set(state) == {
        "configuration",
        "database_schema",
        "deployed_services",
        "environment_variables",
        "file_checksums",
    }
    assert set(state["configuration"]) == {"settings"}
    # From the command line, which knows nothing of the hook, it stays as it is, and the plan says so.
    plan = asyncio.run(RollbackManager(small.home / "rfs.toml").plan(made)).unwrap()
    assert any("cache" in each and "stays as it is" in each for each in plan.warnings)


def test_hooks_take_the_place_of_the_configured_components_of_that_kind(tmp_path: Path) -> None:
    small = Small(tmp_path)
    restored: list[Any] = []
    live = {"mode": 1}
    manager = RollbackManager(small.home / "rfs.toml")
    manager.register_component(
        "configuration", get=lambda: dict(live), restore=lambda state: restored.append(state) or live.update(state)
    )
    made = asyncio.run(manager.create_checkpoint("d")).unwrap()
    found = manager.find_checkpoint(made)
    assert found is not None
    assert "settings" not in found.captures
    small.version(2)
    settings = small.state()["settings.toml"]
    live["mode"] = 2
    assert asyncio.run(manager.rollback_to_checkpoint(made)).is_success()
    assert restored == [{"mode": 1}]
    assert small.state()["settings.toml"] == settings


def test_hooks_that_make_no_whole_are_refused(tmp_path: Path) -> None:
    class OnlyRestore(RollbackManager):
        def restore_files(self, state: Any) -> None: ...

    refused = asyncio.run(OnlyRestore(tmp_path).create_checkpoint("d"))
    assert str(refused.error) == "The hook restore_files needs calculate_file_checksums beside it."
    manager = RollbackManager(tmp_path)
    with pytest.raises(RollbackError, match="stop of cache needs start of cache"):
        manager.register_component("cache", stop=lambda: None)
    with pytest.raises(RollbackError, match="no name"):
        manager.register_component("a:b", get=lambda: None)
    assert not (tmp_path / ".rfs").exists()


def test_a_state_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    manager = RollbackManager(tmp_path)
    manager.register_component("odd", get=lambda: {"when": object()}, restore=lambda state: None)
    made = asyncio.run(manager.create_checkpoint("d"))
    assert made.is_failure()
    assert str(made.error).startswith("What describes odd is not JSON")
    assert asyncio.run(manager.get_latest_checkpoint()) is None


def test_the_policy_may_be_a_dictionary(tmp_path: Path) -> None:
    guide = {
        "auto_rollback": True,
        "max_rollback_time": 300,
        "health_check_required": True,
        "approval_required": False,
    }
    (tmp_path / "home").mkdir()
    assert asyncio.run(ShopManager(Shop(), tmp_path / "home", policy=guide).create_checkpoint("d")).is_success()
    for wrong, said in (({"approval_required": True}, "approval_required"), ({"max_time": 3}, "max_time")):
        refused = asyncio.run(ShopManager(Shop(), tmp_path / "home", policy=wrong).create_checkpoint("d"))
        assert refused.is_failure()
        assert said in str(refused.error)


KILLED = """
import asyncio, json, os, signal, sys
from pathlib import Path
from rfs.production.rollback import RollbackManager

home = Path(sys.argv[1])

class Manager(RollbackManager):
    def calculate_file_checksums(self):
        return json.loads((home / "live.json").read_text())
    def restore_files(self, state):
        (home / "live.json").write_text('{"half": true}')
        if sys.argv[2] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        (home / "live.json").write_text(json.dumps(state))

async def main():
    manager = Manager(home)
    if sys.argv[2] == "take":
        (home / "live.json").write_text('{"version": 1}')
        (await manager.create_checkpoint("one")).unwrap()
        (home / "live.json").write_text('{"version": 2}')
    elif sys.argv[2] == "kill":
        await manager.rollback_to_checkpoint("@latest")
    else:
        records = (await manager.recover()).unwrap()
        print(*(record.status for record in records), *(left for record in records for left in record.left))
        print((await manager.create_checkpoint("two")).is_success())

asyncio.run(main())
"""


def test_a_process_killed_inside_a_hook_is_recovered_by_another_with_the_same_hooks(tmp_path: Path) -> None:
    def run(what: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path), what]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run("take").returncode == 0
    assert run("kill").returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "live.json").read_text()) == {"half": True}
    recovered = run("recover")
    assert recovered.stdout.startswith("completed"), recovered.stderr
    assert recovered.stdout.endswith("True\n")
    assert json.loads((tmp_path / "live.json").read_text()) == {"version": 1}
