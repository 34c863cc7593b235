"""Versions of configuration: ConfigurationRollback and `rfs config`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_app import App
from small import Small

from rfs.core.result import Failure
from rfs.production.rollback import ConfigurationRollback, RollbackError
from rfs.production.rollback.configuration import ConfigurationRollback as Real
from rfs.production.rollback.ledger import Ledger
from rfs.production.rollback.versions import FilePlace

TOML = "# shop\n[server]\nport = 80  # web\nname = 'a'\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.toml"
    path.write_text(TOML)
    path.chmod(0o640)
    return path


def values(port: int) -> dict[str, Any]:
    return {"server": {"port": port, "name": "a"}}


def run(call: Any) -> Any:
    return asyncio.run(call)


def test_the_flow_of_the_guide_without_a_file(tmp_path: Path) -> None:
    told: list[Any] = []

    class Shop(ConfigurationRollback):
        async def reload_configuration(self) -> None:
            told.append(self.current_config)

    shop = Shop()
    assert shop.current_config is None
    assert run(shop.save_config_version({"debug": False}, "v1", "first")).is_success()
    assert run(shop.save_config_version({"debug": True}, "v2")).unwrap() == "v2"
    assert shop.current_config == {"debug": True}
    done = run(shop.rollback_config("v1"))
    assert done.unwrap() == {"rolled_back_to": "v1", "previous_version": "v2"}
    assert told == [{"debug": False}]
    v1, v2, backup = Shop().config_history  # another process would see the same
    assert (v1["version"], v1["config"], v1["description"]) == ("v1", {"debug": False}, "first")
    assert v2["version"] == "v2"
    assert backup["version"].startswith("backup_20")
    assert backup["config"] == {"debug": True}
    assert Shop().current_config == {"debug": False}
    assert (tmp_path / ".rfs" / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_the_hash_is_that_of_json_with_sorted_keys() -> None:
    config = {"b": [1, 2.5, None], "a": "é"}
    text = '{"a": "\\u00e9", "b": [1, 2.5, null]}'
    assert ConfigurationRollback().calculate_hash(config) == hashlib.sha256(text.encode()).hexdigest()
    run(ConfigurationRollback().save_config_version(config, "v1")).unwrap()
    assert ConfigurationRollback().config_history[0]["hash"] == hashlib.sha256(text.encode()).hexdigest()


def test_what_is_refused_changes_nothing(file: Path) -> None:
    shop = ConfigurationRollback(path=file)
    run(shop.save_config_version(values(80), "v1")).unwrap()
    refused = {
        "config.taken": shop.save_config_version(values(81), "v1"),
        "config.no_name": shop.save_config_version(values(81), "backup_mine"),
        "usage.json": shop.save_config_version({"a": {1, 2}}, "v3"),
        "config.no_version": shop.rollback_config("v9"),
    }
    for key, call in refused.items():
        assert run(call).error.key == key
    assert [each["version"] for each in shop.config_history] == ["v1"]
    run(shop.save_config_version({"a": None}, "null")).unwrap()
    assert run(shop.rollback_config("null")).error.key == "config.unsaid"
    assert file.read_text() == TOML
    assert len(shop.config_history) == 2  # and no backup of what was not begun


def test_a_file_keeps_its_comments_mode_and_owner(file: Path) -> None:
    shop = ConfigurationRollback(path=file)
    run(shop.save_config_version(values(8080), "v1")).unwrap()
    run(shop.rollback_config("v1")).unwrap()
    assert file.read_text() == TOML.replace("80", "8080")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert shop.current_config == values(8080)
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".rfs-tmp")] == []


def test_a_backup_comes_back_byte_for_byte_even_of_a_broken_file(file: Path) -> None:
    shop = ConfigurationRollback(path=file)
    run(shop.save_config_version(values(1), "v1")).unwrap()
    file.write_bytes(b"\xff broken [")
    run(shop.rollback_config("v1")).unwrap()
    assert shop.current_config == values(1)
    backup = shop.config_history[-1]
    assert backup["config"] is None
    run(shop.rollback_config(backup["version"])).unwrap()
    assert file.read_bytes() == b"\xff broken ["


def test_a_file_that_is_gone_is_written_anew_for_its_owner_alone(file: Path) -> None:
    shop = ConfigurationRollback(path=file)
    run(shop.save_config_version(values(1), "v1")).unwrap()
    file.unlink()
    run(shop.rollback_config("v1")).unwrap()
    assert shop.current_config == values(1)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(shop.config_history) == 1  # there was nothing to back up


def test_a_link_in_its_place_is_refused_and_not_followed(file: Path, tmp_path: Path) -> None:
    shop = ConfigurationRollback(path=file)
    run(shop.save_config_version(values(1), "v1")).unwrap()
    other = tmp_path / "other.toml"
    file.rename(other)
    file.symlink_to(other)
    assert run(shop.rollback_config("v1")).error.key == "path.kind"
    assert other.read_text() == TOML


def failing(error: Any) -> Callable[[], Any]:
    def reload() -> Any:
        if isinstance(error, Exception):
            raise error
        return error

    return reload


@pytest.mark.parametrize("error", [ValueError("no"), False, Failure("no")])
def test_a_reload_that_fails_puts_the_previous_one_back(file: Path, error: Any) -> None:
    run(ConfigurationRollback(path=file).save_config_version(values(1), "v1")).unwrap()
    run(ConfigurationRollback(path=file).save_config_version(values(80), "v2")).unwrap()
    shop = ConfigurationRollback(path=file, reload=failing(error))
    found = run(shop.rollback_config("v1"))
    assert (found.error.key, found.error.code) == ("config.reverted", 30)
    assert file.read_text() == TOML
    assert run(ConfigurationRollback(path=file).rollback_config("v1")).unwrap()["previous_version"] == "v2"


def test_without_a_file_a_failing_reload_leaves_what_was_in_force() -> None:
    shop = ConfigurationRollback({"a": 1}, reload=failing(ValueError("no")))
    run(shop.save_config_version({"a": 2}, "v2")).unwrap()
    run(shop.save_config_version({"a": 3}, "v3")).unwrap()
    assert run(shop.rollback_config("v2")).error.code == 30
    assert shop.current_config == {"a": 3}
    assert ConfigurationRollback().current_config == {"a": 3}


def test_cancelling_turns_back(file: Path) -> None:
    async def act() -> None:
        begun = asyncio.Event()

        async def reload() -> None:
            if not begun.is_set():
                begun.set()
                await asyncio.sleep(60)  # what is cancelled; it never ends by itself

        shop = ConfigurationRollback(path=file, reload=reload)
        (await shop.save_config_version(values(1), "v1")).unwrap()
        task = asyncio.create_task(shop.rollback_config("v1"))
        await begun.wait()
        assert file.read_text() != TOML
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert file.read_text() == TOML

    run(act())


def test_a_reload_as_in_rfs_toml(file: Path, tmp_path: Path) -> None:
    shop = ConfigurationRollback(path=file, reload=["cp", str(file), str(tmp_path / "seen")])
    run(shop.save_config_version(values(1), "v1")).unwrap()
    run(shop.rollback_config("v1")).unwrap()
    assert (tmp_path / "seen").read_text() == file.read_text()
    wrong = run(ConfigurationRollback(path=file, reload="telegram").rollback_config("v1"))
    assert wrong.error.key == "usage"


def test_the_applications_store_is_used_and_its_histories_are_apart(tmp_path: Path) -> None:
    small = Small(tmp_path / "app")
    os.chdir(small.home)
    settings = ConfigurationRollback(path="tree/settings.toml")
    run(settings.save_config_version({"version": 7}, "v7")).unwrap()
    run(ConfigurationRollback().save_config_version({"x": 1}, "v7")).unwrap()
    assert (small.store / "ledger.db").exists()
    assert b"hunter" not in b"".join(path.read_bytes() for path in small.store.glob("ledger.db*"))
    os.chdir(tmp_path)
    again = ConfigurationRollback(path=small.tree / "settings.toml", store=small.store)
    assert [each["version"] for each in again.config_history] == ["v7"]


KILLS = [("write", False), ("write", True), ("put", False), ("put", True), ("reload", True), ("write2", False)]


@pytest.mark.parametrize(("point", "after"), KILLS)
def test_killed_anywhere_it_is_exactly_the_old_or_the_new_file(
    file: Path, point: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`point`: of its two writes to the ledger, the write of the file and the reload; killed before or after it."""
    run(ConfigurationRollback(path=file).save_config_version(values(80), "v0")).unwrap()
    run(ConfigurationRollback(path=file).save_config_version(values(1), "v1")).unwrap()
    child = os.fork()
    if child == 0:
        calls: list[str] = []

        def deadly(kind: type, name: str, real: Any, wanted: str) -> None:
            def call(*arguments: Any) -> Any:
                calls.append(name)
                here = wanted == (name if calls.count(name) == 1 else f"{name}{calls.count(name)}")
                if here and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                found = real(*arguments)
                if here:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

            setattr(kind, {"reload": "reload_configuration"}.get(name, name), call)

        deadly(Ledger, "write", Ledger.write, point)
        deadly(FilePlace, "put", FilePlace.put, point)
        deadly(Real, "reload", Real.reload_configuration, point)
        run(ConfigurationRollback(path=file).rollback_config("v1"))
        os._exit(1)  # it was to be killed
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    text = file.read_text()
    assert text in (TOML, TOML.replace("80", "1"))
    reloads: list[str] = []
    shop = ConfigurationRollback(path=file, reload=lambda: reloads.append(file.read_text()))
    run(shop.save_config_version(values(5), "v5")).unwrap()  # any call that changes something settles it
    assert file.read_text() == text
    assert reloads == ([text] if text != TOML else [])
    done = run(shop.rollback_config("v0")).unwrap()
    assert done["previous_version"] == "v5"
    assert shop.current_config == values(80)
    versions = [each["version"] for each in shop.config_history]
    assert versions[:2] == ["v0", "v1"]
    assert sum(each.startswith("backup_") for each in versions) == (1 if (point, after) == ("write", False) else 2)


def test_what_a_third_party_wrote_after_a_kill_stays(file: Path) -> None:
    run(ConfigurationRollback(path=file).save_config_version(values(1), "v1")).unwrap()
    child = os.fork()
    if child == 0:
        run(ConfigurationRollback(path=file, reload=lambda: os.kill(os.getpid(), signal.SIGKILL)).rollback_config("v1"))
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    file.write_text("by = 'hand'\n")
    shop = ConfigurationRollback(path=file)
    run(shop.save_config_version(values(5), "v5")).unwrap()
    assert file.read_text() == "by = 'hand'\n"


# — rfs config —

CONFIG = """
[components.settings]
kind = "config"
path = "settings.toml"
reload = ["sh", "-c", "test ! -e refuse && cp settings.toml seen"]
check = ["grep", "-q", "port", "{file}"]
"""


@pytest.fixture
def shop(notes_app: App) -> App:
    notes_app.configure((notes_app.folder / "rfs.toml").read_text() + CONFIG)
    (notes_app.folder / "settings.toml").write_text("# web\nport = 80 # of it\npassword = 'hunter2'\n")
    return notes_app


def test_save_list_show_diff_and_rollback(shop: App) -> None:
    file = shop.folder / "settings.toml"
    text = file.read_text()
    assert shop.rfs("config", "list").out.startswith("There are none yet")
    saved = shop.json("config", "save", "v1", "-m", "first")
    assert saved["hash"] == hashlib.sha256(json.dumps({"password": "hunter2", "port": 80}).encode()).hexdigest()
    file.write_text("# new\nport = 81 # of it\npassword = 'hunter3'\nextra = true\n")
    shop.json("config", "save", "v2")
    listed = shop.json("config", "list")
    assert [(each["version"], each["current"]) for each in listed] == [("v2", True), ("v1", False)]
    shown = shop.rfs("config", "show", "v1")
    assert "hunter" not in shown.out
    assert shop.json("config", "show", "v1")["config"] == {"port": 80, "password": "••••"}
    changes = shop.json("config", "diff", "v1", "v2")
    assert [(each["key"], each["kind"]) for each in changes] == [
        ("extra", "added"),
        ("password", "changed"),
        ("port", "changed"),
    ]
    ran = shop.rfs("config", "diff", "v1", "--exit-code")
    assert ran.code == 15
    assert "hunter" not in ran.out
    plain = shop.rfs("config", "rollback", "v1", "--dry-run")
    assert "port" in plain.out
    assert file.read_text().startswith("# new")
    done = shop.json("config", "rollback", "v1", "--yes", "--reason", "too new")
    assert done == {"component": "settings", "rolled_back_to": "v1", "previous_version": "v2"}
    assert file.read_text() == text.replace("# web", "# new")
    assert (shop.folder / "seen").read_text() == file.read_text()
    backup = shop.json("config", "list")[0]
    assert backup["description"] == "before the rollback to v1: too new"
    shop.json("config", "rollback", backup["version"], "--yes")
    assert file.read_text().endswith("extra = true\n")


def test_each_refusal_has_its_code(shop: App) -> None:
    file = shop.folder / "settings.toml"
    shop.json("config", "save", "v1")
    assert shop.rfs("config", "save", "v1").code == 15
    assert shop.rfs("config", "rollback", "v1").code == 2  # nobody to ask
    assert shop.rfs("config", "rollback", "v9", "--yes").code == 10
    assert shop.rfs("config", "save", "v2", "--component", "db").code == 10
    file.write_text("other = 1\n")
    shop.json("config", "save", "v2")
    file.write_text("port = 1\n")
    (shop.folder / "seen").unlink(missing_ok=True)
    refused = shop.rfs("config", "rollback", "v2", "--yes", "--json")
    assert refused.data["error"]["key"] == "config.rejected"  # check
    assert file.read_text() == "port = 1\n"
    assert not (shop.folder / "seen").exists()
    (shop.folder / "refuse").touch()
    assert shop.rfs("config", "rollback", "v1", "--yes").code == 30
    assert file.read_text() == "port = 1\n"
    file.write_text("port = ")
    assert shop.rfs("config", "save", "v3").code == 1


def test_nothing_to_keep_versions_of_is_said(notes_app: App) -> None:
    ran = notes_app.rfs("config", "list", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (2, "config.none")


def test_a_check_without_the_file_is_refused(shop: App) -> None:
    shop.configure((shop.folder / "rfs.toml").read_text().replace('"{file}"', '"settings.toml"'))
    ran = shop.rfs("status")
    assert ran.code == 2
    assert "{file}" in ran.err


def test_an_error_is_a_rollback_error() -> None:
    assert isinstance(run(ConfigurationRollback().rollback_config("x")).error, RollbackError)
