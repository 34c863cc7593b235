"""Approvals, break-glass and freezes through the command line, by persons whom the system knows."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cli_app import App, Ran
from waiting import until

from rfs.production.rollback import RollbackError, RollbackManager, RollbackStrategy
from rfs.production.rollback.approvals import ApprovalRequest
from rfs.production.rollback.identity import person
from rfs.production.rollback.ledger import Ledger, Put
from rfs.production.rollback.model import utc_now

# Users that every Debian has, by number; who they are is what the kernel says of the process.
USERS = {"daemon": 1, "bin": 2, "sys": 3}
POLICY = """
[policy]
approval_required = true
[approvals]
required = {required}
approvers = ["daemon", "bin", "root"]
expire = "{expire}"
"""

ME = person()
only_root = pytest.mark.skipif(ME != "root", reason="only root, and nobody behind it, can be somebody else")


@contextmanager
def being(name: str) -> Iterator[None]:
    """Be another user, with root's rights on files: as a program is that sudo, or a mode bit, gave them."""
    os.setresuid(USERS[name], 0, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def governed(notes_app: App) -> App:
    """With a checkpoint, a row written since, and a policy that asks for one approval."""
    notes_app.checkpoint("--tag", "one")
    notes_app.write("two")
    ask_for(notes_app, 1)
    return notes_app


def ask_for(app: App, required: int, expire: str = "30m") -> None:
    text = (app.folder / "rfs.toml").read_text().partition("\n[policy]")[0]
    app.configure(text + POLICY.format(required=required, expire=expire))


def back(app: App, *words: str) -> Ran:
    return app.rfs("rollback", "one", "--yes", "--reason", "orders fail", "--json", *words)


def asked(app: App, *words: str) -> str:
    """Ask for the rollback; return the request's id."""
    ran = back(app, *words)
    assert ran.code == 13, ran
    assert not ran.envelope["ok"]
    assert ran.data["error"]["key"] == "approval.needed"
    assert app.notes[-1] == "two"
    found: str = ran.data["request"]
    return found


def vote(app: App, name: str, request: str, word: str = "approve") -> Ran:
    if name == "root":
        return app.rfs(word, request, "--yes", "--json")
    with being(name):
        return app.rfs(word, request, "--yes", "--json")


def refused(ran: Ran, code: int, key: str) -> str:
    assert (ran.code, ran.data["error"]["key"]) == (code, key), ran
    message: str = ran.data["error"]["message"]
    return message


@only_root
def test_a_rollback_waits_for_another_person(governed: App) -> None:
    request = asked(governed)
    assert asked(governed) == request  # asking again asks for nothing new
    assert "cannot" not in refused(vote(governed, "root", request), 2, "approval.own")
    assert "sys is none of the approvers" in refused(vote(governed, "sys", request), 2, "approval.nobody")
    approved = vote(governed, "daemon", request)
    assert (approved.code, approved.data["stands"]) == (0, "approved")
    done = back(governed, "--request", request[:5])
    assert done.code == 0, done
    assert governed.notes == ["one"]
    assert done.data["request"] == request
    assert f"request {request}" in governed.rfs("show").out
    governed.write("three")
    assert "was used already, by" in refused(back(governed, "--request", request), 15, "approval.used")
    assert asked_again(governed) != request


def asked_again(app: App) -> str:
    ran = back(app)
    assert ran.code == 13
    found: str = ran.data["request"]
    return found


@only_root
def test_two_of_three_and_nobody_counts_twice(governed: App) -> None:
    ask_for(governed, 2)
    request = asked(governed)
    assert vote(governed, "daemon", request).data["stands"] == "waiting"
    assert "it has 1 (daemon) of 2" in vote(governed, "daemon", request).data["error"]["hint"]
    assert "has 1 (daemon)" in refused(back(governed), 13, "approval.needed")
    assert governed.json("approve")[0]["votes"][0]["by"] == "daemon"
    assert "approved by daemon" in governed.rfs("status").out
    assert governed.json("status")["waiting"][0]["request_id"] == request
    assert vote(governed, "bin", request).data["stands"] == "approved"
    assert back(governed).code == 0  # by repeating the command
    assert governed.json("status")["waiting"] == []


@only_root
def test_whoever_asked_cannot_be_the_one_who_approves_whoever_that_is(governed: App) -> None:
    with being("daemon"):
        request = asked(governed)
    refused(vote(governed, "daemon", request), 2, "approval.own")
    assert vote(governed, "root", request).data["stands"] == "approved"


@only_root
def test_one_rejection_ends_it(governed: App) -> None:
    ask_for(governed, 2)
    request = asked(governed)
    vote(governed, "daemon", request)
    with being("bin"):
        assert governed.rfs("reject", request, "--yes", "--reason", "not tonight").code == 0
    message = refused(back(governed, "--request", request), 13, "approval.rejected")
    assert "rejected by bin: not tonight" in message
    refused(vote(governed, "daemon", request), 15, "approval.over")
    other = asked(governed)
    assert other != request
    assert vote(governed, "root", other, "reject").data["stands"] == "rejected"  # withdrawn by whoever asked


@only_root
def test_an_approval_expires(governed: App) -> None:
    request = asked(governed)
    vote(governed, "daemon", request)
    # As if it had been asked for an hour ago: nothing here waits.
    with RollbackManager()._open() as app, Ledger(app.store) as ledger:
        old = json.loads(ledger.find("requests", request) or b"")
        old["expires_at"] = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
        ledger.write(Put("requests", request, json.dumps(old).encode()))
    refused(back(governed, "--request", request), 13, "approval.expired")
    refused(vote(governed, "bin", request), 15, "approval.over")
    assert governed.notes[-1] == "two"
    assert asked(governed) != request


@only_root
def test_it_is_for_this_plan_and_no_other(governed: App) -> None:
    request = asked(governed, "--only", "db")
    assert vote(governed, "daemon", request).code == 0
    message = refused(back(governed, "--request", request), 15, "approval.changed")
    assert "the components were db and are db, web" in message
    governed.checkpoint("--tag", "later")
    words = ("rollback", "later", "--only", "db", "--yes", "--reason", "x", "--json", "--request", request)
    assert "the target was" in refused(governed.rfs(*words), 15, "approval.changed")
    assert governed.notes[-1] == "two"
    assert back(governed, "--only", "db").code == 0


@only_root
def test_an_undo_is_a_rollback_that_waits_as_well(governed: App) -> None:
    assert back(governed, "--break-glass").code == 3
    undo = governed.rfs("undo", "--yes", "--json")
    assert undo.code == 13
    request = undo.data["request"]
    shown = governed.rfs("approve", request, "--dry-run").out
    assert "undo to" in shown
    assert "db: 1 to" in shown
    assert vote(governed, "daemon", request).code == 0
    done = governed.rfs("undo", "--yes", "--json", "--request", request)
    assert (done.code, done.data[0]["request"]) == (0, request), done
    assert governed.notes == ["one", "two"]


def test_a_rollback_on_trial_waits_for_its_approval_before_anything_is_on_trial(governed: App) -> None:
    request = asked(governed, "--confirm", "10m")
    assert asked(governed) == request  # whether it is on trial is no part of the plan
    assert governed.json("status")["deployment"] is None


@pytest.mark.slow
@only_root
def test_several_undos_are_approved_before_the_first_is_done(governed: App) -> None:
    for text in ("three", "four"):
        assert back(governed, "--break-glass").code == 3
        governed.write(text)
    ran = governed.rfs("undo", "-n", "2", "--yes", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (13, "approval.several")
    first, second = ran.data["request"].split(", ")
    assert vote(governed, "daemon", first).code == 0
    ran = governed.rfs("undo", "-n", "2", "--yes", "--json")
    assert (ran.code, ran.data["request"]) == (13, second)
    assert governed.notes == ["one", "four"]
    assert vote(governed, "daemon", second).code == 0
    assert governed.rfs("undo", "-n", "2", "--yes", "--json").code == 0
    assert governed.notes == ["one", "two"]


def test_breaking_the_glass_always_works_and_is_told_everywhere(governed: App) -> None:
    for words in ((), ("--reason", " ")):
        ran = governed.rfs("rollback", "one", "--yes", "--break-glass", "--json", *words)
        assert (ran.code, governed.notes[-1]) == (2, "two")
    ran = back(governed, "--break-glass")
    assert ran.code == 3
    assert governed.notes == ["one"]
    assert ran.data["break_glass"]
    assert f"BREAK-GLASS: {ME} went past the policy: orders fail." in ran.envelope["warnings"]
    assert "BREAK-GLASS" in governed.rfs("show").out
    assert "BREAK-GLASS: orders fail" in governed.rfs("log").out
    assert "leave one" in back(governed, "--break-glass", "--request", "a").data["error"]["hint"].lower()


def test_the_plan_says_what_it_needs_and_a_dry_run_asks_nobody(governed: App) -> None:
    assert "It needs 1 approval, of: daemon, bin, root." in governed.rfs("plan", "one").out
    assert governed.json("plan", "one")["approvals"] == 1
    assert back(governed, "--dry-run").code == 0
    assert governed.json("approve") == []


@pytest.mark.slow
def test_where_no_approval_is_needed_a_request_is_a_mistake(notes_app: App) -> None:
    notes_app.checkpoint("--tag", "one")
    refused(back(notes_app, "--request", "abc"), 2, "approval.unneeded")
    assert notes_app.json("approve") == []
    refused(notes_app.rfs("approve", "abc", "--yes", "--json"), 10, "approval.none")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[policy]\napproval_required = true\n", "it needs [approvals] with approvers"),
        ('[approvals]\nrequired = 3\napprovers = ["kim"]\n', "required is 3, of 1 approvers"),
        ('[approvals]\napprover = ["kim"]\n', "Did you mean approvers?"),
        ('[[freeze]]\ncron = "0 18 * *"\nduration = "1h"\n', "is not a cron expression"),
        ('[[freeze]]\ncron = "0 18 * * FRI"\n', "duration"),
        ('[[freeze]]\ncron = "0 18 * * FRI"\nduration = "1h"\nzone = "x"\n', "freeze[1].zone"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_every_command(notes_app: App, text: str, says: str) -> None:
    notes_app.configure((notes_app.folder / "rfs.toml").read_text() + text)
    ran = notes_app.rfs("status")
    assert ran.code == 2
    assert says in ran.err


@pytest.mark.slow
@only_root
def test_who_is_behind_sudo_is_known_whatever_they_say_they_are(governed: App) -> None:
    # What sudo does: a process of theirs starts one of root's. They may set what they like, and take away SUDO_USER.
    sudo = (
        "import os, subprocess, sys\n"
        "os.setresuid(2, 0, 0)\n"
        "be_root = lambda: os.setresuid(0, 0, 0)\n"
        "said = {'SUDO_USER': sys.argv[1]} if sys.argv[1] else {}\n"
        "sys.exit(subprocess.call(sys.argv[2:], preexec_fn=be_root, env={**os.environ, **said}))\n"
    )

    def by_sudo(said: str, *words: str) -> dict[str, Any]:
        command = [sys.executable, "-c", sudo, said, sys.executable, "-m", "rfs.cli.main", *words, "--yes", "--json"]
        done = subprocess.run(command, cwd=governed.folder, capture_output=True, text=True, timeout=60, check=False)
        found: dict[str, Any] = json.loads(done.stdout)["data"]
        return found

    own = by_sudo("", "rollback", "one", "--reason", "x")["request"]
    assert governed.json("approve")[0]["asked_by"] == "bin"
    for said in ("", "bin", "daemon", "2", "root"):
        assert by_sudo(said, "approve", own)["error"]["key"] == "approval.own"
    assert by_sudo("daemon", "reject", own)["votes"][0]["by"] == "bin"
    voted = by_sudo("daemon", "approve", asked(governed))
    assert (voted["stands"], voted["votes"][0]["by"]) == ("approved", "bin")


@only_root
def test_a_store_that_cannot_be_written_takes_no_vote_and_no_request(governed: App, tmp_path: Path) -> None:
    request = asked(governed)
    store = governed.folder / ".rfs"
    subprocess.run(["mount", "--bind", str(store), str(store)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(store)], check=True)
        assert governed.json("approve")[0]["request_id"] == request
        assert refused(vote(governed, "daemon", request), 1, "store.unwritable")
        assert refused(back(governed), 1, "store.unwritable")
        assert refused(governed.rfs("freeze", "--reason", "x", "--json"), 1, "store.unwritable")
    finally:
        subprocess.run(["umount", str(store)], check=True)
    assert governed.json("approve")[0]["votes"] == []


def test_a_guarded_deployment_goes_back_without_an_approval(governed: App) -> None:
    ran = governed.rfs("guard", "--json", "--", "sh", "-c", governed.insert("bad") + "; exit 7")
    assert ran.code == 7
    assert governed.notes == ["one", "two"]
    assert governed.json("approve") == []


@pytest.mark.slow
def test_a_program_says_for_whom_it_acts(governed: App) -> None:
    asyncio.run(_a_program_says_for_whom_it_acts(governed))


async def _a_program_says_for_whom_it_acts(governed: App) -> None:
    class Panel(RollbackManager):
        who = "kim"

        def identity(self) -> str:
            return self.who

    text = (governed.folder / "rfs.toml").read_text().replace('"root"', '"lee"')
    governed.configure(text)
    panel = Panel()
    ran = await panel.rollback_to_checkpoint("one", "orders fail")
    assert ran.error.code == 13
    request = ran.error.request  # type: ignore[attr-defined]
    assert (await panel.get_approval_requests())[0]["asked_by"] == "kim"
    assert (await panel.approve(request)).error.key == "approval.own"
    panel.who = "lee"
    assert (await panel.approve(request, "seen")).unwrap()["stands"] == "approved"
    assert (await panel.rollback_to_checkpoint("one", request=request)).is_success()
    assert governed.notes == ["one"]
    assert panel.get_rollback_history()[0].request == request
    assert panel.get_rollback_history()[0].actor == "lee"
    assert (await panel.undo(request=request)).error.key == "approval.changed"
    assert (await panel.undo(break_glass="orders are missing")).is_success()
    assert (await panel.automatically().rollback_to_checkpoint("one", "a condition tripped")).is_success()
    withdrawn = (await panel.rollback_to_checkpoint("one")).error
    assert (await panel.reject(withdrawn.request)).unwrap()["stands"] == "rejected"  # type: ignore[attr-defined]


@only_root
def test_what_is_made_later_is_approved_before_it_is_written_down(governed: App) -> None:
    later = ("--at", "in 2h")
    request = asked(governed, *later)
    assert vote(governed, "daemon", request).code == 0
    scheduled = back(governed, *later)
    assert scheduled.code == 3, scheduled  # nobody watches
    rollback = scheduled.data["rollback_id"]
    with RollbackManager()._open() as app:
        done = app.fire(rollback)
    assert (done.request, done.automatic) == (request, True)
    assert governed.notes == ["one"]
    governed.write("three")
    assert asked_again(governed) != request
    said = [json.loads(line) for line in (governed.folder / ".rfs" / "audit.jsonl").read_text().splitlines()]
    assert [(each["what"], each["outcome"], each["who"]) for each in said if each["subject"] == rollback] == [
        ("later rollback", "scheduled", "root"),
        ("automatic rollback", "begun", "root"),
        ("automatic rollback", "completed", "root"),
        ("later rollback", "completed", "root"),
    ]
    assert asyncio.run(_scheduled_by_breaking_glass()).code == 2


async def _scheduled_by_breaking_glass() -> RollbackError:
    at, strategy = utc_now() + timedelta(hours=1), RollbackStrategy.SCHEDULED
    ran = await RollbackManager().rollback_to_checkpoint("one", strategy=strategy, at=at, break_glass="now")
    return ran.error


# — freezes —


def test_a_declared_freeze_stops_deployments_and_no_rollback(notes_app: App) -> None:
    notes_app.checkpoint("--tag", "one")
    notes_app.write("two")
    assert notes_app.rfs("freeze", "--json").code == 2  # why?
    until_then = notes_app.json("freeze", "--reason", "the audit", "--for", "2h")["until"]
    assert "nothing may be deployed until" in notes_app.rfs("status").out
    assert notes_app.json("status")["freeze"]["why"] == "the audit"
    assert datetime.fromisoformat(until_then) > utc_now() + timedelta(minutes=119)
    guard = ("guard", "--json", "--", "sh", "-c", notes_app.insert("three"))
    for words in (guard, (*guard[:2], "--dry-run", *guard[2:])):
        message = refused(notes_app.rfs(*words), 14, "freeze.frozen")
        assert f"declared by {ME}, the audit" in message
    assert notes_app.notes == ["one", "two"]
    assert len(notes_app.json("checkpoint", "list")) == 1
    with RollbackManager()._open() as app:
        assert list(app.catalog.deployments()) == []
    assert "that stops no rollback" in notes_app.rfs("plan", "one").err
    notes_app.checkpoint()  # one of a person's own is none of a deployment's
    assert back(notes_app).code == 0
    assert notes_app.rfs("undo", "--yes").code == 0
    ran = notes_app.rfs("guard", "--break-glass", "--reason", "hotfix", "--json", "--", "sh", "-c", "true")
    assert ran.code == 3
    assert ran.data["break_glass"] == "hotfix"
    assert "BREAK-GLASS: it was begun past the policy: hotfix." in ran.envelope["warnings"]
    assert notes_app.json("unfreeze", "--reason", "done")[0]["lifted_by"] == ME
    assert notes_app.json("status")["freeze"] is None
    refused(notes_app.rfs("unfreeze", "--json"), 10, "freeze.none")
    assert notes_app.rfs(*guard).code == 0


def test_a_freeze_ends_at_its_time_and_not_in_the_past(notes_app: App) -> None:
    refused(notes_app.rfs("freeze", "--reason", "x", "--until", "2020-01-01", "--json"), 2, "freeze.past")
    for words in (("--until", "later"), ("--until", "2099-01-01", "--for", "2h"), ("--for", "0s")):
        assert notes_app.rfs("freeze", "--reason", "x", *words).code == 2
    assert notes_app.json("freeze", "--reason", "x", "--until", "2099-01-01T00:00+00:00", "--dry-run")["dry_run"]
    assert notes_app.json("status")["freeze"] is None
    notes_app.json("freeze", "--reason", "x", "--for", "300ms")
    until(lambda: notes_app.json("status")["freeze"] is None)
    assert notes_app.rfs("guard", "--", "true").code == 0


@pytest.mark.parametrize(("hours", "frozen"), [(0, True), (12, False)])
def test_a_window_is_meant_in_its_time_zone(notes_app: App, hours: int, frozen: bool) -> None:
    """What is now in Seoul is nine hours off in UTC: a window around it there is none here."""
    there = datetime.now(ZoneInfo("Asia/Seoul")) + timedelta(hours=hours - 1)
    text = (notes_app.folder / "rfs.toml").read_text()
    window = f'cron = "{there.minute} {there.hour} * * *"\nduration = "2h"\ntime_zone = "Asia/Seoul"\n'
    notes_app.configure(f"{text}[[freeze]]\n{window}")
    assert notes_app.rfs("guard", "--", "true").code == (14 if frozen else 0)


def test_a_window_of_rfs_toml_is_one_as_well(notes_app: App) -> None:
    asyncio.run(_a_window_of_rfs_toml_is_one_as_well(notes_app))


async def _a_window_of_rfs_toml_is_one_as_well(notes_app: App) -> None:
    text = (notes_app.folder / "rfs.toml").read_text()
    notes_app.configure(text + '[[freeze]]\ncron = "* * * * *"\nduration = "1h"\nreason = "always"\n')
    assert "a window of rfs.toml, always" in refused(
        notes_app.rfs("guard", "--json", "--", "true"), 14, "freeze.frozen"
    )
    refused(notes_app.rfs("unfreeze", "--json"), 10, "freeze.none")
    manager = RollbackManager()
    taken = await manager.create_checkpoint("d", {"type": "pre_deployment"})
    assert taken.error.code == 14
    assert taken.error.retryable
    assert (await manager.create_checkpoint("d")).is_success()
    assert (await manager.get_freeze() or {})["why"] == "always"
    notes_app.configure(text)
    assert (await manager.freeze("release night")).is_success()
    assert (await manager.create_checkpoint("d", {"type": "pre_deployment"})).error.code == 14
    assert len((await manager.unfreeze()).unwrap()) == 1
    assert await manager.get_freeze() is None
    assert (await manager.create_checkpoint("d", {"type": "pre_deployment"})).is_success()


@pytest.mark.slow
def test_requests_keep_what_they_were_made_with(governed: App) -> None:
    request = asked(governed)
    with RollbackManager()._open() as app, Ledger(app.store) as ledger:
        kept = json.loads(ledger.find("requests", request) or b"")
    assert kept["plan"]["changes"] == {}
    assert set(ApprovalRequest.__struct_fields__) >= set(kept)
