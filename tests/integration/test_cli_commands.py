"""Each command does what it says, on a real application, and says it to people and to programs."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from cli_app import CHECK, TOML, App

from rfs import __version__
from rfs.cli.app import COMMANDS

ID = re.compile(r"[0-9a-f]{12}")


def test_version_and_help(bare: App) -> None:
    assert bare.rfs("--version").out == f"rfs {__version__}\n"
    assert bare.rfs("status", "--help").code == 0
    ran = bare.rfs("--help")
    assert ran.code == 0
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line[:30])}", ran.out, re.M), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_the_common_flags(bare: App, name: str) -> None:
    ran = bare.rfs(name, "--help")
    assert ran.code == 0
    if name != "demo":
        for flag in (
            "--dry-run",
            "--yes",
            "--reason",
            "--json",
            "--quiet",
            "--verbose",
            "--no-color",
            "--no-pager",
            "--config",
        ):
            assert flag in ran.out
        assert "--timeout" in ran.out


# — init and doctor —


def test_init_writes_a_file_that_works_and_never_overwrites_it(bare: App) -> None:
    path = bare.folder / "rfs.toml"
    path.unlink()
    dry = bare.json("init", "--dry-run")
    assert (dry["written"], dry["store_made"]) == (False, False)
    assert 'kind = "sqlite"' in dry["content"]
    assert not path.exists()
    first = bare.json("init", "--store", "store")
    assert (first["written"], first["store_made"]) == (True, True)
    assert first["store"] == str(bare.folder / "store")
    assert bare.rfs("init", "--store", "elsewhere").code == 2
    assert stat.S_IMODE(os.stat(first["key"]).st_mode) == 0o600
    before = path.read_bytes(), os.stat(first["key"]).st_mtime_ns
    again = bare.json("init", "--store", "store")
    assert (again["written"], again["store_made"]) == (False, False)
    assert (path.read_bytes(), os.stat(first["key"]).st_mtime_ns) == before


def test_init_says_what_it_found_and_keeps_it(notes_app: App) -> None:
    kept = notes_app.checkpoint()
    key, toml = notes_app.folder / "notes.key", notes_app.folder / "rfs.toml"
    before = key.read_bytes()
    ran = notes_app.rfs("init")
    assert ran.code == 0
    assert "with 1 checkpoint, and 0 safety checkpoints of rollbacks: it is kept" in ran.out
    assert notes_app.json("init")["store_kept"] is True
    assert key.read_bytes() == before
    # With another key that would have been made, or none: nothing is written.
    written = toml.read_bytes()
    toml.unlink()
    key.rename(notes_app.folder / "away")
    ran = notes_app.rfs("init", "--store", ".rfs")
    assert ran.code == 2
    assert "its key is not" in ran.err
    assert not toml.exists()
    assert not key.exists()
    (notes_app.folder / "away").rename(key)
    toml.write_bytes(written)
    key.write_bytes(b"rfs-key-1:" + b"0" * 64 + b"\n")
    ran = notes_app.rfs("init")
    assert (ran.code, "does not open the store" in ran.err) == (2, True)
    key.write_bytes(before)
    assert [each["id"] for each in notes_app.json("checkpoint", "list")] == [kept]


def test_init_refuses_what_is_no_store_damaged_or_anothers(
    notes_app: App, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "settings.toml").write_text("a = 1\n")
    toml = other / "rfs.toml"

    def refused(code: int, said: str, store: Path) -> None:
        ran = notes_app.rfs("init", "--config", str(toml), "--store", str(store))
        assert (ran.code, said in ran.err) == (code, True), ran
        assert not toml.exists()

    (other / "full").mkdir()
    (other / "full" / "letter.txt").touch()
    refused(2, "is no store, and holds something else: letter.txt", other / "full")
    (other / "file").touch()
    refused(2, "it is a file", other / "file")
    refused(1, "cannot be written", Path("/proc/none"))
    refused(2, "There is a store at", notes_app.folder / ".rfs")
    damaged = other / "damaged"
    (damaged / "packs").mkdir(parents=True, mode=0o700)
    damaged.chmod(0o700)
    for name in ("repository", "packs/repository"):
        (damaged / name).write_bytes(b"{}")
    refused(12, "damaged", damaged)


def test_init_makes_rfs_toml_that_others_cannot_write(bare: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # or the store would go to /var/lib
    path = bare.folder / "rfs.toml"
    path.unlink()
    old = os.umask(0)
    try:
        assert bare.json("init")["written"] is True
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert (bare.folder / ".rfs").is_dir()


def test_init_of_a_folder_that_cannot_be_written(bare: App) -> None:
    ran = bare.rfs("init", "--config", "missing/rfs.toml")
    assert ran.code == 2
    assert "cannot be written" in ran.err


def test_doctor_says_what_to_fix(notes_app: App) -> None:
    ran = notes_app.rfs("doctor")
    assert (ran.code, "Everything is well." in ran.out) == (0, True)
    (notes_app.folder / "sick").touch()
    notes_app.configure(TOML + CHECK)
    ran = notes_app.rfs("doctor", "--json")
    assert ran.code == 1
    assert ran.envelope["ok"] is False
    assert "sane" in ran.data[0]["text"]
    assert ran.data[0]["hint"]


def test_doctor_reports_a_broken_file_as_a_finding(notes_app: App) -> None:
    notes_app.configure(TOML + "[polcy]\n")
    ran = notes_app.rfs("doctor")
    assert ran.code == 2
    assert "error:" in ran.out
    assert "Did you mean policy?" in ran.out


# — checkpoints —


def test_a_checkpoint_is_taken_listed_and_shown(notes_app: App) -> None:
    ran = notes_app.rfs("checkpoint", "-m", "before v2", "--tag", "v2", "--version", "2.0", "--deployment", "d7")
    assert ran.code == 0
    assert "2 components" in ran.out
    (listed,) = notes_app.json("checkpoint", "list")
    assert (listed["message"], listed["tags"], listed["version"]) == ("before v2", ["v2"], "2.0")
    assert listed["deployment_id"] == "d7"
    assert set(listed["components"]) == {"db", "web"}
    for selector in ("v2", "2.0", "@latest", listed["id"][:6]):
        assert notes_app.json("checkpoint", "show", selector) == listed
    shown = notes_app.rfs("checkpoint", "show").out
    assert "before v2" in shown
    assert "sqlite" in shown
    assert notes_app.rfs("checkpoint", "list", "-q").out.strip() == listed["id"]
    assert notes_app.json("checkpoint", "list", "--tag", "v3") == []


def test_quiet_prints_the_id_alone(notes_app: App) -> None:
    ran = notes_app.rfs("checkpoint", "-q")
    assert ID.fullmatch(ran.out.strip())
    assert ran.err == ""


def test_only_and_except_choose_components(notes_app: App) -> None:
    notes_app.checkpoint("--only", "db")
    assert set(notes_app.json("checkpoint", "show")["components"]) == {"db"}
    notes_app.checkpoint("--except", "db")
    assert set(notes_app.json("checkpoint", "show")["components"]) == {"web"}


def test_a_dry_run_takes_nothing(notes_app: App) -> None:
    assert notes_app.json("checkpoint", "--dry-run")["components"] == ["db", "web"]
    assert notes_app.json("checkpoint", "list") == []


def test_pin_tag_unpin_and_forget(notes_app: App) -> None:
    one, two = notes_app.checkpoint(), notes_app.checkpoint()
    notes_app.json("checkpoint", "pin", one, "--dry-run")
    assert notes_app.json("checkpoint", "show", one)["pinned"] is False
    notes_app.json("checkpoint", "pin", one)
    assert notes_app.json("checkpoint", "show", one)["pinned"] is True
    notes_app.json("checkpoint", "tag", one, "gold", "old")
    assert notes_app.json("checkpoint", "show", "gold")["id"] == one
    refused = notes_app.rfs("checkpoint", "forget", one, "-y")
    assert refused.code == 15
    assert f"rfs checkpoint unpin {one}" in refused.err
    notes_app.json("checkpoint", "unpin", one)
    assert notes_app.json("checkpoint", "forget", one, "--dry-run")["forget"] == [one]
    assert notes_app.json("checkpoint", "forget", one, "-y")["forgotten"] == [one]
    assert [each["id"] for each in notes_app.json("checkpoint", "list")] == [two]


def test_a_typing_error_in_one_selector_changes_none(notes_app: App) -> None:
    one = notes_app.checkpoint()
    assert notes_app.rfs("checkpoint", "pin", one, "nonsense").code == 10
    assert notes_app.json("checkpoint", "show", one)["pinned"] is False


def test_diff_between_checkpoints_and_with_the_live_state(notes_app: App) -> None:
    first = notes_app.checkpoint()
    assert notes_app.rfs("diff").out == "Nothing differs.\n"
    notes_app.write("two")
    assert notes_app.rfs("diff", "--exit-code").code == 15
    changes = notes_app.json("diff", first)
    assert {change["component"] for change in changes} == {"db"}
    second = notes_app.checkpoint()
    assert notes_app.json("checkpoint", "diff", first, second) == notes_app.json("diff", first, second) != []
    assert notes_app.json("diff", second) == []
    assert notes_app.json("diff", first, "--only", "web") == []
    assert notes_app.rfs("diff", first, "-q").out.startswith("db ")


def test_verify_finds_a_damaged_pack(notes_app: App) -> None:
    kept = notes_app.checkpoint()
    for words in (("verify",), ("verify", "--store"), ("verify", kept), ("checkpoint", "verify", kept)):
        assert notes_app.json(*words)["whole"] == [kept]
    pack = max((notes_app.folder / ".rfs").rglob("packs/*"), key=lambda path: path.stat().st_size)
    damaged = bytearray(pack.read_bytes())
    damaged[len(damaged) // 3] ^= 0xFF
    pack.chmod(0o600)
    pack.write_bytes(damaged)
    ran = notes_app.rfs("verify", "--json")
    assert ran.code == 12
    assert ran.envelope["ok"] is False
    assert ran.data["damaged"] or ran.data["packs"] or ran.data["blobs"]


# — plan, rollback, undo —


def test_plan_says_for_whom_a_database_waits(notes_app: App) -> None:
    notes_app.json("checkpoint")
    database = next(path for path in notes_app.folder.rglob("*.db") if ".rfs" not in str(path))
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("PRAGMA journal_mode = delete")
        reader.execute("CREATE TABLE later (n)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM later").fetchall()
        (said,) = [text for text in notes_app.json("plan")["warnings"] if "only while nobody reads" in text]
        assert f"({os.getpid()}) has it. Whoever does not let go is waited for 30 s" in said
        assert f"({os.getpid()})" in notes_app.rfs("plan").err


def test_plan_says_what_would_be_lost_and_changes_nothing(notes_app: App) -> None:
    first = notes_app.checkpoint()
    notes_app.write("two")
    ran = notes_app.rfs("plan", first)
    assert ran.code == 0
    assert "1 row" in ran.out
    assert "Services stopped meanwhile: web." in ran.out
    data = notes_app.json("plan", first)
    assert data["losses"][0]["count"] == 1
    assert data["counts"]["web"] == {"added": 0, "changed": 0, "removed": 0}
    assert notes_app.rfs("plan", first, "-q").out.strip() == data["hash"]
    assert notes_app.notes == ["one", "two"]
    assert notes_app.json("log") == []


def test_undo_of_one_component_and_redo(notes_app: App) -> None:
    notes_app.configure(
        (notes_app.folder / "rfs.toml").read_text() + '[components.page]\nkind = "config"\npath = "p.toml"\n'
    )
    page = notes_app.folder / "p.toml"
    page.write_text("n = 1\n")
    notes_app.checkpoint("--tag", "v1")
    notes_app.write("two")
    page.write_text("n = 2\n")
    done = notes_app.json("rollback", "v1", "-y", "--reason", "x")["rollback_id"]
    (plan,) = notes_app.json("undo", "--component", "page", "--dry-run")["undo"]
    assert plan["components"] == ["page"]
    (part,) = notes_app.json("undo", "--component", "page", "-y")
    assert (page.read_text(), notes_app.notes) == ("n = 2\n", ["one"])
    assert (part["kind"], part["components"]) == ("undo", ["page"])
    assert notes_app.rfs("undo", "--component", "page", "-y").code == 10
    assert notes_app.rfs("undo", "--component", "none", "-y").code == 10
    notes_app.json("undo", "-y")  # what is left of it
    assert (page.read_text(), notes_app.notes) == ("n = 2\n", ["one", "two"])
    assert notes_app.rfs("undo", "-y").code == 10
    (again,) = notes_app.json("redo", "-y")
    assert (again["kind"], page.read_text(), notes_app.notes) == ("redo", "n = 2\n", ["one"])
    notes_app.json("redo", "-y")
    assert (page.read_text(), notes_app.notes) == ("n = 1\n", ["one"])
    ran = notes_app.rfs("redo", "-y", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (10, "operation.nothing_to_redo")
    shown = notes_app.rfs("log").out
    assert f"undo of {done}" in shown
    assert f"redo of {part['rollback_id']}" in shown
    assert f"taken back by {again['rollback_id']}" in shown
    assert notes_app.rfs("undo", part["rollback_id"], "--component", "db", "-y").code == 10


def test_rollback_undo_and_undo_of_the_undo(notes_app: App) -> None:
    first = notes_app.checkpoint()
    notes_app.write("two")
    ran = notes_app.rfs("rollback", first, "--reason", "v2 is broken", "-y")
    assert ran.code == 0, ran
    assert "completed" in ran.out
    assert notes_app.notes == ["one"]
    (record,) = notes_app.json("log")
    assert (record["status"], record["reason"], record["checkpoint_id"]) == ("completed", "v2 is broken", first)
    assert notes_app.json("undo", "--dry-run")["undo"][0]["undoes"] == record["rollback_id"]
    assert notes_app.notes == ["one"]
    (undone,) = notes_app.json("undo", "-y", "--reason", "it was not")
    assert (undone["undoes"], undone["reason"]) == (record["rollback_id"], "it was not")
    assert notes_app.notes == ["one", "two"]
    notes_app.json("undo", undone["rollback_id"], "-y")
    assert notes_app.notes == ["one"]
    assert len(notes_app.json("log", "-n", "2")) == 2
    assert "and older ones" in notes_app.rfs("log", "-n", "2").out


def test_a_dry_run_of_a_rollback_is_the_plan_and_asks_nothing(notes_app: App) -> None:
    first = notes_app.checkpoint()
    notes_app.write("two")
    data = notes_app.json("rollback", first, "--dry-run")
    assert data["dry_run"] is True
    assert data["hash"] == notes_app.json("plan", first)["hash"]
    assert notes_app.notes == ["one", "two"]
    assert notes_app.json("log") == []


def test_a_plan_is_written_and_carried_out_unless_it_changed(notes_app: App) -> None:
    first = notes_app.checkpoint()
    notes_app.write("two")
    notes_app.json("plan", first, "--only", "db", "--out", "plan.json", "--dry-run")
    assert not (notes_app.folder / "plan.json").exists()
    notes_app.json("plan", first, "--only", "db", "--out", "plan.json")
    assert stat.S_IMODE((notes_app.folder / "plan.json").stat().st_mode) == 0o600
    assert json.loads((notes_app.folder / "plan.json").read_text())["target"] == first
    notes_app.write("three, which moves counts but not the plan")
    record = notes_app.json("rollback", "--plan", "plan.json", "--reason", "x", "-y")
    assert record["components"] == ["db"]
    assert notes_app.notes == ["one"]
    notes_app.configure(TOML.replace("components.web", "components.front"))
    ran = notes_app.rfs("rollback", "--plan", "plan.json", "--reason", "x", "-y")
    assert ran.code == 15
    assert "plan changed" in ran.err


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"target": 3}'])
def test_a_file_that_is_no_plan_is_refused(notes_app: App, content: bytes) -> None:
    (notes_app.folder / "p.json").write_bytes(content)
    ran = notes_app.rfs("rollback", "--plan", "p.json", "--reason", "x", "-y")
    assert ran.code == 2
    assert "is not a plan" in ran.err


def test_show_tells_the_steps(notes_app: App) -> None:
    first = notes_app.checkpoint()
    notes_app.write("two")
    done = notes_app.json("rollback", first, "--reason", "x", "-y")
    data = notes_app.json("show")
    assert data["rollback_id"] == done["rollback_id"]
    assert [mark["mark"] for mark in data["journal"]].count("done") == len(data["journal"]) / 2
    assert "restore:db" in notes_app.rfs("show", done["rollback_id"][:5]).out


def test_status_tells_drift_and_ends_with_15_only_when_asked(notes_app: App) -> None:
    assert "no checkpoint yet" in notes_app.rfs("status").out
    notes_app.checkpoint("-m", "first")
    assert notes_app.rfs("status", "--exit-code").code == 0
    notes_app.write("two")
    ran = notes_app.rfs("status")
    assert ran.code == 0
    assert "changed since" in ran.out
    assert notes_app.rfs("status", "--exit-code").code == 15
    assert notes_app.rfs("status", "-q").out.strip() == "db"
    drift = {each["component"]: each["equal"] for each in notes_app.json("status")["drift"]}
    assert drift == {"db": False, "web": True}


# — when it fails —


def test_a_failing_health_check_brings_the_state_before_back(notes_app: App) -> None:
    notes_app.configure(TOML + CHECK)
    first = notes_app.checkpoint()
    notes_app.write("two")
    (notes_app.folder / "sick-once").touch()
    ran = notes_app.rfs("rollback", first, "--reason", "x", "-y", "--json")
    assert ran.code == 30, ran
    assert "sane" in ran.data["error"]["message"]
    assert ran.data["error"]["hint"]
    assert notes_app.notes == ["one", "two"]
    assert (notes_app.folder / "running").exists()


def test_held_then_resume_skip_and_abort(notes_app: App) -> None:
    first = notes_app.checkpoint()
    notes_app.write("two")
    (notes_app.folder / "refuse-start").touch()
    ran = notes_app.rfs("rollback", first, "--reason", "x", "-y")
    assert ran.code == 31, ran
    assert "NEEDS ATTENTION" in ran.err
    held = notes_app.json("status")["open_operation"]
    assert held["status"] == "held"
    assert notes_app.rfs("status", "--exit-code").code == 31
    assert notes_app.rfs("checkpoint").code == 31
    assert "It would turn" in notes_app.rfs("abort", "--dry-run").out
    assert notes_app.json("resume", "--dry-run")["open_operation"]["status"] == "held"
    assert notes_app.rfs("abort").code == 31, "it fails again"
    assert notes_app.rfs("resume", "--skip", "start:nobody", "-y").code == 10
    asked = notes_app.rfs("resume", "--skip", "start:web")
    assert (asked.code, "--yes" in asked.err) == (2, True)
    assert notes_app.rfs("resume", held["rollback_id"][:6], "--skip", "start:web", "-y").code == 30
    assert notes_app.notes == ["one", "two"]
    assert notes_app.json("log")[0]["status"] == "reverted"
    (notes_app.folder / "refuse-start").unlink()
    assert notes_app.rfs("checkpoint").code in (0, 3)


def test_abort_of_a_held_operation_is_what_was_asked_for(notes_app: App) -> None:
    first = notes_app.checkpoint()
    notes_app.write("two")
    (notes_app.folder / "refuse-start").touch()
    assert notes_app.rfs("rollback", first, "--reason", "x", "-y").code == 31
    (notes_app.folder / "refuse-start").unlink()
    notes_app.write("by hand, while it was held")
    ran = notes_app.rfs("abort", "--reason", "not tonight")
    assert ran.code in (0, 3), ran
    assert "reverted" in ran.out
    assert "not recorded" not in ran.err
    assert notes_app.notes == ["one", "two"]
    left = notes_app.json("show")["left"][-1]
    assert f"is kept: {left}" in ran.err
    shown = notes_app.rfs("show").out
    assert left in shown
    assert re.search(r"resumed +abort by \S+: not tonight", shown)
    assert notes_app.rfs("rollback", left, "--reason", "x", "-y").code in (0, 3)
    assert notes_app.notes[-1] == "by hand, while it was held"


def test_recover_with_nothing_to_do_and_the_rebuild(notes_app: App) -> None:
    kept = notes_app.checkpoint()
    assert notes_app.json("recover") == []
    assert notes_app.json("recover", "--dry-run")["open_operation"] is None
    for path in (notes_app.folder / ".rfs").glob("catalog.db*"):
        path.unlink()
    assert notes_app.json("checkpoint", "list") == []
    assert "make index and catalog again" in notes_app.rfs("recover", "--rebuild", "--dry-run").out
    assert notes_app.json("recover", "--rebuild")["records"] == 1
    assert [each["id"] for each in notes_app.json("checkpoint", "list")] == [kept]


# — upkeep —


def test_prune_shows_the_reason_for_each_and_removes_the_rest(notes_app: App) -> None:
    notes_app.configure(TOML + "[retention]\nkeep_last = 1\n")
    old = notes_app.checkpoint()
    notes_app.write("two")
    new = notes_app.checkpoint()
    dry = notes_app.rfs("prune", "--dry-run")
    assert re.search(rf"remove +{old} .*no rule keeps it", dry.out)
    assert re.search(rf"keep +{new} .*last 1 of 1", dry.out)
    assert len(notes_app.json("checkpoint", "list")) == 2
    asked = notes_app.rfs("prune")
    assert (asked.code, "--yes" in asked.err) == (2, True)
    assert notes_app.json("prune", "-y")["retained"]["remove"] == [old]
    assert [each["id"] for each in notes_app.json("checkpoint", "list")] == [new]
    assert notes_app.rfs("prune").code == 0, "with nothing to remove there is nothing to ask"
    assert notes_app.json("verify")["damaged"] == []
    assert notes_app.rfs("prune", "--forget-damaged", new, "-y").code == 15, "it is whole"


def test_prune_tells_of_damage_until_it_is_given_up(notes_app: App) -> None:
    damaged = notes_app.checkpoint()
    (pack,) = (notes_app.folder / ".rfs" / "packs").glob("*.pack")
    content = bytearray(pack.read_bytes())
    content[48 : len(content) - 12] = bytes(len(content) - 60)
    pack.write_bytes(content)
    ran = notes_app.rfs("prune", "-y")
    assert ran.code == 3
    assert f"Checkpoint {damaged} is damaged (db, web) and kept: the last one taken" in ran.err
    asked = notes_app.rfs("prune", "--forget-damaged", damaged)
    assert (asked.code, f"the damaged {damaged}?" in asked.err) == (2, True)
    assert notes_app.json("prune", "--forget-damaged", damaged[:6], "-y")["retained"]["remove"] == [damaged]
    assert notes_app.json("checkpoint", "list") == []


# — completion —


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(bare: App, shell: str) -> None:
    ran = bare.rfs("completion", shell)
    assert ran.code == 0
    assert "_RFS_COMPLETE" in ran.out


def test_the_bash_script_completes_commands_components_and_checkpoints(notes_app: App, tmp_path: Path) -> None:
    kept = notes_app.checkpoint("--tag", "gold")
    environment = {**os.environ, "_RFS_COMPLETE": "bash_complete"}

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        ran = subprocess.run(
            ["rfs"],
            executable=str(Path(os.sys.executable).parent / "rfs"),
            env={**environment, "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
            capture_output=True,
            text=True,
            check=True,
        )
        return [row.partition(",")[2] for row in ran.stdout.splitlines()]

    notes_app.write("two")
    done = notes_app.json("rollback", kept, "--reason", "x", "-y")
    before = done["backup_id"]
    assert completed("rfs undo ") == completed("rfs show ") == [done["rollback_id"]]
    assert completed(f"rfs resume {done['rollback_id'][:4]}") == [done["rollback_id"]]
    assert before not in completed("rfs plan ")
    assert before in completed(f"rfs plan {before[:6]}")
    assert completed("rfs che") == ["checkpoint"]
    assert completed("rfs checkpoint fo") == ["forget"]
    assert set(completed("rfs rollback ")) == {"@latest", "@last-good", "gold", kept}
    assert completed("rfs plan --only db,w") == ["db,web"]
