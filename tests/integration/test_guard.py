"""`rfs guard`: a command that changes the application is kept, or taken back. With real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from cli_app import CHECK, TOML, App
from guard_kit import PATIENCE, Guarded, end_commands, gone
from waiting import until

from rfs.production.rollback.application import Application
from rfs.production.rollback.deployments import Deployments
from rfs.production.rollback.guarded import Phase


@pytest.fixture
def app(notes_app: App) -> Iterator[App]:
    """A well application with a health check."""
    notes_app.configure(TOML + CHECK)
    yield notes_app
    end_commands(notes_app)


SLOW = pytest.mark.slow


def deployments(app: App) -> list[Any]:
    with Application.open(str(app.folder / "rfs.toml")) as opened:
        return list(opened.catalog.deployments())


def newest(app: App) -> Any:
    return deployments(app)[0]


def test_what_is_well_is_kept(app: App) -> None:
    data = app.rfs("guard", "--json", "--version", "v2", "--deployment", "d7", "--", "./service", "stop").data
    assert (data["phase"], data["version"], data["deployment_id"]) == ("kept", "v2", "d7")
    taken = app.json("checkpoint", "show", data["checkpoint_id"])
    assert (taken["type"], taken["version"], taken["deployment_id"]) == ("automatic", "v2", "d7")
    assert [each["kind"] for each in app.json("log")] == ["deployment"], "nothing was rolled back"
    assert app.json("status")["deployment"] is None


def test_the_output_passes_through_and_the_status_is_the_command_s_own(app: App) -> None:
    before = app.notes
    script = "cat; echo out; echo err >&2; echo x >> rfs.log; " + app.insert("two") + "; exit 7"
    guarded = app.start("guard", "--", "sh", "-c", script, stdin=subprocess.PIPE)
    out, err = guarded.communicate("piped\n", timeout=PATIENCE)
    assert guarded.returncode == 7, err
    assert out == "piped\nout\n"
    assert "err\n" in err
    assert "the system is back at" in err
    assert "sh ended with status 7" in err
    assert app.notes == before
    assert app.json("log")[0]["status"] == "completed"


@pytest.mark.slow
def test_with_json_standard_output_is_the_envelope_alone(app: App) -> None:
    guarded = app.start("guard", "--json", "--", "sh", "-c", "echo out --json; exit 3")
    out, err = guarded.communicate(timeout=PATIENCE)
    envelope = json.loads(out)
    assert (guarded.returncode, envelope["ok"], envelope["code"]) == (3, False, 3), "a 3 of its own is no success"
    assert envelope["data"]["error"]["key"] == "guard.reverted"
    assert "out --json\n" in err


@pytest.mark.slow
def test_what_a_signal_ended_has_the_status_a_shell_would_tell(app: App) -> None:
    assert app.rfs("guard", "--", "sh", "-c", "kill -TERM $$").code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "CMD is missing"),
        (("--", "./nothing-there"), 1, "./nothing-there"),
        (("--bake", "soon", "--", "true"), 2, "--bake"),
        (("--confirm-by", "person", "--no-rollback", "--", "true"), 2, "nobody confirms"),
        (("--release", "v2", "--", "true"), 2, "--release deploys nothing"),
        (("--release", "v2"), 10, "v2 is not quarantined"),
    ],
)
def test_what_cannot_be_begun_is_refused_before_anything_is_done(
    app: App, words: tuple[str, ...], code: int, said: str
) -> None:
    ran = app.rfs("guard", *words)
    assert (ran.code, ran.out) == (code, ""), ran
    assert said.lower() in ran.err.lower()
    assert app.json("checkpoint", "list") == []
    assert deployments(app) == []


@pytest.mark.slow
def test_a_dry_run_changes_nothing(app: App) -> None:
    ran = app.rfs("guard", "--dry-run", "--", "touch", "made")
    assert (ran.code, ran.out.startswith("It would take a checkpoint of db, web, run touch made")) == (0, True)
    assert not (app.folder / "made").exists()
    assert app.json("checkpoint", "list") == []


def test_a_version_that_is_unwell_goes_back_and_is_quarantined_until_released(app: App) -> None:
    script = app.insert("two") + "; touch sick"
    ran = app.rfs("guard", "--version", "v2", "--", "sh", "-c", script)
    assert ran.code == 20, ran
    assert "the health check failed: sane" in ran.err
    assert app.notes == ["one"]
    again = app.rfs("guard", "--version", "v2", "--", "touch", "made")
    assert (again.code, "rfs guard --release v2" in again.err) == (21, True)
    assert app.rfs("guard", "--version", "v2", "--dry-run", "--", "touch", "made").code == 21
    assert not (app.folder / "made").exists()
    assert app.rfs("guard", "--version", "v3", "--", "true").code == 0, "another version may be deployed"
    assert app.json("guard", "--release", "v2", "--dry-run")["quarantined"] is True
    assert app.rfs("guard", "--release", "v2").code == 0
    assert app.rfs("guard", "--version", "v2", "--", "touch", "made").code == 0
    assert (app.folder / "made").exists()


@pytest.mark.slow
def test_a_command_that_fails_tells_nothing_of_its_version(app: App) -> None:
    assert app.rfs("guard", "--version", "v2", "--", "false").code == 1
    assert app.rfs("guard", "--version", "v2", "--", "true").code == 0


@pytest.mark.slow
def test_quarantine_outlives_the_catalog(app: App) -> None:
    assert app.rfs("guard", "--version", "v2", "--", "touch", "sick").code == 20
    for path in (app.folder / ".rfs").glob("catalog.db*"):
        path.unlink()
    assert app.rfs("recover", "--rebuild").code == 0
    assert app.rfs("guard", "--version", "v2", "--", "true").code == 21
    assert app.rfs("guard", "--release", "v2").code == 0
    for path in (app.folder / ".rfs").glob("catalog.db*"):
        path.unlink()
    assert app.rfs("recover", "--rebuild").code == 0
    assert app.rfs("guard", "--version", "v2", "--", "true").code == 0, "and so does its release"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--no-rollback", "[policy]\nauto_rollback = false\n"])
@pytest.mark.parametrize(("script", "code"), [("exit 9", 9), ("touch sick", 1)])
def test_what_is_only_watched_is_left_as_it_is(app: App, how: str, script: str, code: int) -> None:
    flags = [how] if how.startswith("--") else []
    if not flags:
        app.configure(TOML + CHECK + how)
    ran = app.rfs("guard", *flags, "--version", "v2", "--", "sh", "-c", app.insert("two") + ";" + script)
    assert ran.code == code, ran
    assert "was left as it is" in ran.err
    assert app.notes == ["one", "two"]
    assert newest(app).phase == "left"
    assert not [each for each in app.json("log") if each["kind"] != "deployment"]


@pytest.mark.slow
def test_a_wanted_check_only_warns_and_no_check_at_all_is_told(app: App) -> None:
    app.configure(TOML + CHECK + "required = false\n")
    ran = app.rfs("guard", "--", "touch", "sick")
    assert (ran.code, "warning: The health check sane failed" in ran.err) == (3, True)
    app.configure(TOML)
    ran = app.rfs("guard", "--", "true")
    assert (ran.code, "No health checks are configured" in ran.err) == (0, True)


@pytest.mark.slow
def test_the_bake_watches_what_turns_bad_later(app: App) -> None:
    app.configure(TOML + CHECK + '[policy]\nbake = "30s"\n')
    with Guarded(app, "--", "true") as guarded:
        guarded.phase("baking")
        (app.folder / "sick").touch()
        assert guarded.end() == 20, guarded.err
    assert not (app.folder / "sick").exists(), "its start mended it"


@pytest.mark.slow
def test_the_command_may_call_rfs_itself_but_no_second_guard(app: App) -> None:
    rfs = f"{app.python} -m rfs.cli.main"
    script = f"{rfs} checkpoint -q --tag inner && {rfs} guard -- touch made; test $? -eq 11"
    ran = app.rfs("guard", "--", "sh", "-c", script)
    assert ran.code == 0, ran
    assert len(app.json("checkpoint", "list")) == 2
    assert not (app.folder / "made").exists()
    assert newest(app).phase == "kept", "nobody settles what is looked after"


@pytest.mark.slow
def test_children_left_behind_stay_when_it_is_kept_and_end_when_it_goes_back(app: App) -> None:
    leave = "sleep 1000 & echo $! > child; setsid sleep 1000 & echo $! > server"
    pids = []
    try:
        for end, code in (("exit 0", 0), ("exit 5", 5)):
            ran = app.rfs("guard", "--", "sh", "-c", f"{leave}; sleep 0.05; {end}")
            assert ran.code == code, ran
            pids += [int((app.folder / name).read_text()) for name in ("child", "server")]
            assert ("left 1 process running" in ran.err) is (code == 0)
        assert [gone(pid) for pid in pids] == [False, False, True, False], "a server of its own is the application's"
    finally:
        for pid in pids:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_way_back_that_fails_both_ways_needs_attention(app: App) -> None:
    (app.folder / "refuse-start").touch()
    ran = app.rfs("guard", "--", "sh", "-c", app.insert("two") + "; exit 5")
    assert ran.code == 31, ran
    assert newest(app).phase == "reverting"
    (app.folder / "refuse-start").unlink()
    assert app.rfs("abort").code == 0
    assert newest(app).phase == "left", "nobody tries again what somebody aborted"
    assert app.rfs("guard", "--", "true").code == 0


@pytest.mark.slow
def test_a_way_back_that_fails_leaves_what_was_deployed(app: App) -> None:
    app.configure(TOML + CHECK.replace('"-e", "sick"', '"-e", "sick", "-a", "!", "-e", "old"'))
    script = app.insert("two") + "; touch sick-once; exit 5"
    ran = app.rfs("guard", "--", "sh", "-c", script)
    assert ran.code == 30, ran
    assert app.notes == ["one", "two"]
    assert newest(app).phase == "left"


# — interrupted —


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(n, marks=SLOW) for n in (signal.SIGTERM, signal.SIGHUP))]
)
def test_a_signal_ends_the_command_and_goes_back(app: App, number: signal.Signals) -> None:
    with Guarded(
        app, "--version", "v2", "--", "sh", "-c", app.insert("two") + "; echo $$ > pid; sleep 1000"
    ) as guarded:
        until(lambda: (app.folder / "pid").exists() and (app.folder / "pid").read_text() != "")
        guarded.signal(number)
        assert guarded.end() == 130, guarded.err
    assert "the system is back at" in guarded.err
    assert app.notes == ["one"]
    assert gone(int((app.folder / "pid").read_text()))
    assert newest(app).phase == "reverted"
    assert app.rfs("guard", "--version", "v2", "--", "true").code == 0, "somebody else's haste quarantines nothing"


@pytest.mark.slow
def test_a_time_limit_of_the_whole_goes_back(app: App) -> None:
    with Guarded(app, "--timeout", "2s", "--bake", "1h", "--", "sh", "-c", app.insert("two")) as guarded:
        assert guarded.end() == 124, guarded.err
    assert app.notes == ["one"]
    assert newest(app).phase == "reverted"


# It is well again once the service was started anew, as that takes `sick` away: the rollback does not wait for it.
PATIENT = """
[[health]]
name = "patient"
command = ["test", "!", "-e", "sick"]
required = false
retries = 100000
interval = "10ms"
"""


def test_a_check_that_fails_trips_beside_one_that_is_still_being_tried(app: App) -> None:
    app.configure(TOML + PATIENT + CHECK)
    done = app.rfs("guard", "--bake", "1h", "--", "touch", "sick")
    assert (done.code, "sane: test ended with status 1" in done.err) == (20, True), done


def test_what_is_tried_with_patience_delays_no_cancellation(app: App) -> None:
    app.configure(TOML + PATIENT)
    with Guarded(app, "--bake", "1h", "--", "sh", "-c", app.insert("two") + "; touch sick") as guarded:
        guarded.phase("baking")
        assert app.rfs("cancel").code == 0
        assert guarded.end() == 20
    assert app.notes == ["one"]


@pytest.mark.slow
def test_a_signal_in_the_bake_is_heeded_too(app: App) -> None:
    with Guarded(app, "--bake", "1h", "--", "sh", "-c", app.insert("two")) as guarded:
        guarded.phase("baking")
        guarded.signal(signal.SIGTERM)
        assert guarded.end() == 130, guarded.err
    assert app.notes == ["one"]


@pytest.mark.slow
def test_by_policy_an_interrupted_change_is_left(app: App) -> None:
    app.configure(TOML + CHECK + '[policy]\non_interrupt = "keep"\n')
    with Guarded(app, "--bake", "1h", "--", "sh", "-c", app.insert("two")) as guarded:
        guarded.phase("baking")
        guarded.signal(signal.SIGINT)
        assert guarded.end() == 130, guarded.err
    assert "was left as it is" in guarded.err
    assert app.notes == ["one", "two"]
    assert newest(app).phase == "left"


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "code", "notes"), [("revert", 130, ["one"]), ("continue", 0, ["one", "two"])])
def test_a_terminal_that_is_closed(app: App, policy: str, code: int, notes: list[str]) -> None:
    app.configure(TOML + CHECK + f'[policy]\non_hangup = "{policy}"\n')
    script = app.insert("two") + "; while test ! -e go; do sleep 0.05; done"
    with Guarded(app, "--bake", "1s", "--", "sh", "-c", script, terminal=True) as guarded:
        until(lambda: app.notes == ["one", "two"])
        guarded.close_terminal()
        (app.folder / "go").touch()
        assert guarded.end() == code
    assert app.notes == notes


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_way_back_is_not_interrupted(app: App, number: signal.Signals) -> None:
    with Guarded(app, "--", "sh", "-c", app.insert("two") + "; touch slow-stop; exit 5") as guarded:
        until((app.folder / "stopping").exists)
        guarded.signal(number)
        until(lambda: "being decided already" in guarded.said)
        (app.folder / "slow-stop").unlink()
        assert guarded.end() == 5, guarded.err
    assert app.notes == ["one"]
    assert newest(app).phase == "reverted"


@pytest.mark.slow
def test_cancelled_while_the_checkpoint_is_taken_nothing_begins(app: App) -> None:
    os.rename(app.folder / "service", app.folder / "quick")
    (app.folder / "service").write_text("#!/bin/sh\ntouch looking; while test ! -e go; do sleep 0.02; done\n")
    (app.folder / "service").chmod(0o755)
    with Guarded(app, "--", "touch", "made") as guarded:
        until((app.folder / "looking").exists)
        with Application.open(str(app.folder / "rfs.toml")) as opened:
            opened.deployments.change(newest(app).guard_id, cancelled=True)
        (app.folder / "go").touch()
        assert guarded.end() == 130, guarded.err
    assert newest(app).phase == "cancelled"
    assert not (app.folder / "made").exists()
    assert not [each for each in app.json("log") if each["kind"] != "deployment"]


@pytest.mark.slow
def test_what_is_decided_stays_decided(app: App) -> None:
    assert app.rfs("guard", "--", "true").code == 0
    with Application.open(str(app.folder / "rfs.toml")) as opened:
        kept = newest(app)
        assert opened.deployments.close(kept.guard_id, Phase.REVERTED) == kept
        assert opened.deployments.change(kept.guard_id, phase=Phase.BAKING) == kept
    assert newest(app) == kept


# — killed —


def killed_before_the_checkpoint(app: App, guarded: Guarded) -> None:
    until((app.folder / "looking").exists)


def killed_in_the_command(app: App, guarded: Guarded) -> None:
    until(lambda: (app.folder / "pid").exists() and (app.folder / "pid").read_text() != "")


def killed_in_the_bake(app: App, guarded: Guarded) -> None:
    guarded.phase("baking")


def killed_on_the_way_back(app: App, guarded: Guarded) -> None:
    until((app.folder / "stopping").exists)


def killed_before_it_stops_anything_on_the_way_back(app: App, guarded: Guarded) -> None:
    guarded.phase("reverting")
    until((app.folder / "looking").exists)


SLOW_LOOK = "#!/bin/sh\ntest -e looked || { touch looking; sleep 1000; }\n"
KILLS = [
    (killed_before_the_checkpoint, "true", "cancelled"),
    (killed_in_the_command, "echo $$ > pid; sleep 1000", "reverted"),
    (killed_in_the_bake, "true", "reverted"),
    (killed_before_it_stops_anything_on_the_way_back, "mv service quick; cp slow service; exit 5", "reverted"),
    (killed_on_the_way_back, "touch slow-stop; exit 5", "reverted"),
]
SAMPLE = (KILLS[1], "checkpoint")


@pytest.mark.parametrize(
    ("when", "script", "phase", "settle"),
    [
        pytest.param(
            *kill, settle, id=f"{kill[0].__name__}-{settle}", marks=[pytest.mark.slow] * ((kill, settle) != SAMPLE)
        )
        for kill in KILLS
        for settle in ("recover", "checkpoint")
    ],
)
def test_a_killed_guard_is_settled_by_whoever_comes_next(
    app: App, when: Any, script: str, phase: str, settle: str
) -> None:
    (app.folder / "slow").write_text(SLOW_LOOK)
    (app.folder / "slow").chmod(0o755)
    if when is killed_before_the_checkpoint:
        os.rename(app.folder / "service", app.folder / "quick")
        os.rename(app.folder / "slow", app.folder / "service")
    with Guarded(app, "--bake", "1h", "--", "sh", "-c", app.insert("two") + "; " + script) as guarded:
        when(app, guarded)
        guarded.signal(signal.SIGKILL)
        guarded.end()
    left = newest(app)
    assert left.is_open
    assert (left.pid, bool(left.boot_id)) == (guarded.pid, True)
    if when is killed_before_the_checkpoint:
        assert not left.checkpoint_id
    if (app.folder / "quick").exists():
        os.rename(app.folder / "quick", app.folder / "service")
    (app.folder / "slow-stop").unlink(missing_ok=True)
    assert app.rfs("status", "--exit-code").code == 31
    assert "On trial" in app.rfs("recover", "--dry-run").out or when is killed_on_the_way_back
    ran = app.rfs(settle)
    assert ran.code in (0, 3), ran
    assert newest(app).phase == phase
    assert app.notes == ["one"]
    assert (app.folder / "running").exists()
    assert app.rfs("recover").out == "Nothing was interrupted.\n"
    if when is killed_in_the_command:
        assert gone(int((app.folder / "pid").read_text())), "the command does not go on without its guard"
    assert len([each for each in app.json("log") if each["kind"] == "rollback"]) == (phase == "reverted")


@pytest.mark.slow
def test_a_change_of_rfs_toml_is_no_other_place_to_go_back_to(app: App) -> None:
    other = app.folder / "other.db"
    script = f"{app.insert('two')}; cp notes.db other.db; sed -i s/notes.db/other.db/ rfs.toml"
    with Guarded(app, "--bake", "1h", "--", "sh", "-c", script) as guarded:
        guarded.phase("baking")
        guarded.signal(signal.SIGKILL)
        guarded.end()
    copied = other.read_bytes()
    ran = app.rfs("checkpoint", "--only", "web")
    assert "rfs.toml has changed since the guard" in ran.err
    assert app.notes == ["one"]
    assert other.read_bytes() == copied, "what it names now is none of the guard's business"


@pytest.mark.slow
def test_by_policy_what_a_killed_guard_left_stays(app: App) -> None:
    app.configure(TOML + CHECK + '[policy]\non_interrupt = "keep"\n')
    with Guarded(app, "--bake", "1h", "--", "sh", "-c", app.insert("two")) as guarded:
        guarded.phase("baking")
        guarded.signal(signal.SIGKILL)
        guarded.end()
    assert app.rfs("recover").code == 0
    assert newest(app).phase == "left"
    assert app.notes == ["one", "two"]


@pytest.mark.slow
def test_prune_keeps_what_an_undecided_one_needs(app: App) -> None:
    app.configure(TOML + CHECK + "[retention]\nkeep_last = 1\n")
    with Guarded(app, "--confirm-by", "person", "--", "true") as guarded:
        guarded.phase("baking")
        for number in range(2):
            app.checkpoint("--tag", str(number))
        checkpoint = newest(app).checkpoint_id
        assert app.rfs("checkpoint", "forget", checkpoint, "-y").code == 15
        assert app.rfs("prune", "-y").code == 0
        assert checkpoint in [each["id"] for each in app.json("checkpoint", "list")]
        assert app.rfs("confirm").code == 0
        assert guarded.end() == 0, guarded.err
    app.rfs("checkpoint")
    # It is needed to undo what is kept now.
    assert "needed to undo" in app.rfs("checkpoint", "forget", checkpoint, "-y").err


def test_a_deployment_that_stays_is_an_operation_that_undo_takes_back(notes_app: App) -> None:
    notes_app.checkpoint()
    assert notes_app.rfs("guard", "--version", "v2", "--", "sh", "-c", notes_app.insert("two")).code == 0
    kept = notes_app.json("log")[0]
    assert (kept["kind"], kept["status"], kept["reason"]) == ("deployment", "completed", "v2")
    assert notes_app.rfs("show", kept["rollback_id"]).code == 0
    notes_app.write("three")
    planned = notes_app.rfs("undo", "--dry-run")
    assert "2" in planned.out, "what users wrote since is told"
    assert notes_app.rfs("undo", "--yes").code == 0
    assert notes_app.notes == ["one"]
    assert notes_app.rfs("redo", "--yes").code == 0
    assert notes_app.notes == ["one", "two", "three"]
    # Named, with something newer standing, it goes back as a whole: what was right after it nobody knows.
    assert notes_app.rfs("undo", kept["rollback_id"], "--yes").code == 0
    assert notes_app.notes == ["one"]


def test_one_that_was_killed_before_its_entry_in_the_log_gets_it(
    notes_app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Deployments, deployment: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Deployments, "_log", killed)
        notes_app.rfs("guard", "--", "sh", "-c", notes_app.insert("two"))
    assert notes_app.json("log") == []
    assert notes_app.rfs("undo", "--yes").code == 0
    assert notes_app.notes == ["one"]
