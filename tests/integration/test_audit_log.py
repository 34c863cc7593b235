"""`rfs audit`: what was done is in the log, once, whatever is killed; and what is done to the log is found."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from cli_app import App, Ran
from waiting import until

from rfs.production.rollback.application import Application
from rfs.production.rollback.auditing import AuditLog
from rfs.production.rollback.identity import person

ME = person()


@pytest.fixture
def logged(notes_app: App) -> App:
    notes_app.checkpoint("--tag", "one")
    notes_app.write("two")
    return notes_app


def log_of(app: App) -> Path:
    return app.folder / ".rfs" / "audit.jsonl"


def entries(app: App) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_of(app).read_text().splitlines()]


def acts(app: App) -> list[tuple[str, str, str]]:
    return [(each["what"], each["outcome"], each["who"]) for each in entries(app)[1:]]


def back(app: App, *words: str) -> Ran:
    return app.rfs("rollback", "one", "--yes", "--reason", "orders fail", *words)


def whole(app: App) -> dict[str, Any]:
    ran = app.rfs("audit", "verify", "--json")
    assert ran.code == 0, ran
    found: dict[str, Any] = ran.data
    return found


def damaged(app: App, *words: str) -> list[str]:
    ran = app.rfs("audit", "verify", "--json", *words)
    assert ran.code == 12, ran
    assert not ran.envelope["ok"]
    return [each["what"] for each in ran.data["findings"]]


def test_each_act_has_its_entry(logged: App) -> None:
    (first,) = (each["id"] for each in logged.json("checkpoint", "list"))
    assert acts(logged) == [("checkpoint", "taken", ME)]
    assert back(logged).code == 0
    assert logged.rfs("checkpoint", "pin", first).code == 0
    second = logged.checkpoint()
    assert logged.rfs("checkpoint", "forget", second, "--yes").code == 0
    assert logged.rfs("freeze", "--reason", "the audit").code == 0
    assert logged.rfs("unfreeze").code == 0
    assert logged.rfs("guard", "--version", "v2", "--", "sh", "-c", "exit 7").code == 7
    assert logged.rfs("rollback", "one", "--yes", "--reason", "now", "--break-glass").code == 3
    found = [(what, outcome) for what, outcome, _ in acts(logged) if what != "checkpoint" or outcome != "taken"]
    assert found == [
        ("rollback", "begun"),
        ("rollback", "completed"),
        ("checkpoint", "amended"),
        ("checkpoint", "removed"),
        ("freeze", "declared"),
        ("freeze", "lifted"),
        ("deployment", "begun"),
        ("automatic rollback", "begun"),
        ("automatic rollback", "completed"),
        ("deployment", "reverted"),
        ("rollback", "begun"),
        ("break-glass", "used"),
        ("rollback", "completed"),
    ]
    assert {who for _, _, who in acts(logged)} == {ME}
    begun = next(each for each in entries(logged) if each["what"] == "rollback")
    assert begun["detail"]["reason"] == "orders fail"
    assert begun["subject"] == logged.json("log")[-1]["rollback_id"]
    kept = whole(logged)
    assert (kept["entries"], kept["head"]) == (len(entries(logged)), entries(logged)[-1]["hash"])
    assert stat_mode(log_of(logged)) == 0o600


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_approvals_confirmations_and_releases_are_acts_too(logged: App) -> None:
    text = (logged.folder / "rfs.toml").read_text()
    policy = '\n[policy]\napproval_required = true\n[approvals]\napprovers = ["daemon"]\n'
    logged.configure(text + policy)
    request = back(logged, "--json").data["request"]
    os.setresuid(1, 0, 0)
    try:
        assert logged.rfs("approve", request, "--yes").code == 0
    finally:
        os.setresuid(0, 0, 0)
    assert back(logged).code == 0
    found = [each for each in acts(logged) if each[0] in ("approval", "rollback")]
    assert found == [
        ("approval", "asked", "root"),
        ("approval", "approved", "daemon"),
        ("rollback", "begun", "root"),
        ("rollback", "completed", "root"),
    ]
    begun = next(each for each in entries(logged) if each["what"] == "rollback")
    assert begun["detail"]["request"] == request
    logged.configure(text)
    check = '\n[[health]]\nname = "sane"\ncommand = ["test", "!", "-e", "sick"]\nretries = 0\n'
    logged.configure(text + check)
    assert logged.rfs("guard", "--version", "v3", "--", "touch", "sick").code == 20
    assert logged.rfs("guard", "--release", "v3").code == 0
    outcomes = [outcome for what, outcome, _ in acts(logged) if what == "deployment"]
    assert outcomes == ["begun", "quarantined", "reverted", "released"]


if ME != "root":
    test_approvals_confirmations_and_releases_are_acts_too = pytest.mark.skip(
        reason="only root, and nobody behind it, can be somebody else"
    )(test_approvals_confirmations_and_releases_are_acts_too)


@pytest.mark.slow
def test_versions_of_a_configuration_are_acts(logged: App) -> None:
    (logged.folder / "settings.toml").write_text("a = 1\n")
    text = (logged.folder / "rfs.toml").read_text()
    logged.configure(text.replace("[store]", '[components.settings]\nkind = "config"\npath = "settings.toml"\n[store]'))
    assert logged.rfs("config", "save", "v1", "--reason", "first").code == 0
    logged.checkpoint()
    found = [each for each in entries(logged) if each["what"] == "save"]
    assert [each["detail"]["component"] for each in found] == ["settings"]
    logged.checkpoint()
    assert len([each for each in entries(logged) if each["what"] == "save"]) == 1


@pytest.mark.slow
def test_what_only_looks_writes_nothing(logged: App) -> None:
    before = log_of(logged).read_bytes()
    for words in (("status",), ("plan", "one"), ("log",), ("audit", "verify"), ("audit", "export")):
        assert logged.rfs(*words).code == 0
    assert back(logged, "--dry-run").code == 0
    assert log_of(logged).read_bytes() == before


def test_a_process_that_is_killed_between_the_act_and_its_entry_leaves_it_to_the_next(
    logged: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if not child:
        monkeypatch.setattr(AuditLog, "append", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with Application.open(str(logged.folder / "rfs.toml")) as app:
            app.checkpoint(message="unseen")
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(acts(logged)) == 1
    unseen = logged.json("checkpoint", "list")[0]["id"]
    logged.checkpoint()
    assert next((each["subject"], each["who"]) for each in entries(logged)[2:]) == (unseen, "")
    assert len(acts(logged)) == 3
    whole(logged)


def test_a_rollback_that_is_killed_is_in_it_with_its_end(logged: App) -> None:
    (logged.folder / "slow-stop").touch()
    running = logged.start("rollback", "one", "--yes", "--reason", "x")
    until((logged.folder / "stopping").exists)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate(timeout=30)
    (logged.folder / "slow-stop").unlink()
    assert [what for what, _, _ in acts(logged)] == ["checkpoint"]
    assert logged.rfs("recover").code == 0
    assert [each[:2] for each in acts(logged) if each[0] == "rollback"] == [
        ("rollback", "begun"),
        ("rollback", "completed"),
    ]
    whole(logged)


def test_one_that_is_killed_between_the_entry_and_its_note_writes_it_once(
    logged: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfs.production.rollback.catalog import Catalog

    child = os.fork()
    if not child:
        monkeypatch.setattr(Catalog, "paid", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with Application.open(str(logged.folder / "rfs.toml")) as app:
            app.checkpoint()
        os._exit(3)
    os.waitpid(child, 0)
    assert len(acts(logged)) == 2
    logged.checkpoint()
    keys = [each["key"] for each in entries(logged)]
    assert len(keys) == len(set(keys)) == 4
    whole(logged)


def test_a_line_that_a_crash_tore_stays_and_is_explained(logged: App) -> None:
    with log_of(logged).open("ab") as file:
        file.write(b'{"at":"2026-11-2')
    assert "The last line is not whole" in logged.rfs("audit", "verify").err
    logged.checkpoint()
    lines = log_of(logged).read_bytes().splitlines()
    assert json.loads(lines[3])["what"] == "torn"
    ran = logged.rfs("audit", "verify", "--json")
    assert ran.code == 0
    assert "Line 3 was interrupted" in ran.envelope["warnings"][0]


def test_what_somebody_does_to_it_is_found_and_stays_found(logged: App) -> None:
    assert back(logged).code == 0
    head = whole(logged)["head"]
    lines = log_of(logged).read_bytes().splitlines(keepends=True)
    log_of(logged).write_bytes(b"".join(lines).replace(b"orders fail", b"orders fall"))
    assert damaged(logged)[0] == "is no entry, or was edited"
    log_of(logged).write_bytes(b"".join(lines[:-1]))
    assert any("its end is not the one" in each for each in damaged(logged))
    assert any("which was noted elsewhere" in each for each in damaged(logged, "--head", head))
    # The next command goes on, and says in the log itself what it met.
    assert logged.rfs("undo", "--yes").code == 0
    assert "damage" in [what for what, _, _ in acts(logged)]
    assert any("tells of damage that rfs met" in each for each in damaged(logged))
    log_of(logged).unlink()
    assert any("the file is gone" in each for each in damaged(logged))
    logged.checkpoint()
    assert any("does not follow" in each for each in damaged(logged))


@pytest.mark.slow
def test_another_log_in_its_place_is_known_by_a_hash_noted_elsewhere(logged: App) -> None:
    head = whole(logged)["head"]
    assert logged.rfs("audit", "verify", "--head", head).code == 0
    assert back(logged).code == 0
    assert logged.rfs("audit", "verify", "--head", head.upper()).code == 0
    assert damaged(logged, "--head", "0" * 64) == [f"no entry has the hash {'0' * 64}, which was noted elsewhere"]


@pytest.mark.parametrize(
    "place",
    ["folder", "garbage", *(pytest.param(each, marks=pytest.mark.slow) for each in ("symlink", "pipe", "device"))],
)
def test_nothing_in_its_place_stops_a_rollback(logged: App, place: str) -> None:
    path = log_of(logged)
    path.unlink()
    match place:
        case "folder":
            path.mkdir()
        case "symlink":
            path.symlink_to(logged.folder / "elsewhere")
        case "pipe":
            os.mkfifo(path)
        case "garbage":
            path.write_bytes(os.urandom(5000))
        case _:
            path.symlink_to("/dev/full")
    ran = back(logged)
    assert ran.code == 0, ran
    assert logged.notes == ["one"]
    assert ("The audit log could not be written" in ran.err) == (place != "garbage")
    assert not (logged.folder / "elsewhere").exists()
    assert logged.rfs("audit", "verify").code in (1, 12)
    if place != "garbage":
        path.rmdir() if place == "folder" else path.unlink()
    logged.checkpoint()
    outcomes = [outcome for line in path.read_bytes().splitlines() if b'"rollback"' in line for outcome in [line]]
    assert len(outcomes) == 2  # what could not be written was owed


@pytest.mark.slow
def test_a_log_whose_catalog_was_lost_is_carried_on(logged: App) -> None:
    assert back(logged).code == 0
    for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm"):
        (logged.folder / ".rfs" / name).unlink(missing_ok=True)
    assert logged.rfs("recover", "--rebuild").code == 0
    logged.checkpoint()
    assert whole(logged)["entries"] == len(entries(logged))


def test_it_is_exported_as_it_stands_or_as_a_table(logged: App) -> None:
    assert logged.rfs("rollback", "one", "--yes", "--reason", '=HYPERLINK("x")').code == 0
    assert logged.rfs("audit", "export").out == log_of(logged).read_text()
    assert logged.json("audit", "export") == entries(logged)
    rows = list(csv.DictReader(io.StringIO(logged.rfs("audit", "export", "--format", "csv").out)))
    assert [row["hash"] for row in rows] == [each["hash"] for each in entries(logged)]
    assert json.loads(rows[3]["detail"]) == entries(logged)[3]["detail"]
    log_of(logged).write_text(log_of(logged).read_text().replace("taken", "token", 1))
    ran = logged.rfs("audit", "export", "--format", "csv", "--json")
    assert (ran.code, len(ran.data)) == (0, len(rows) - 1)
    assert "It is not whole: `rfs audit verify` tells." in ran.envelope["warnings"]
    shutil.move(log_of(logged), logged.folder / "kept")
    assert logged.rfs("audit", "export").out == ""


def test_a_new_store_has_none_and_that_is_no_damage(notes_app: App) -> None:
    assert whole(notes_app)["entries"] == 0
    assert not log_of(notes_app).exists()
