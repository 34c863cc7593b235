"""`[[external]]`: what a rollback leaves behind is told, gates it, and is made good once the rollback is proven."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from cli_app import CHECK, App, Ran
from waiting import until

SCRIPT = """\
#!/bin/sh
# refund ARGUMENTS: writes down what it was told, and whether the application was back by then.
echo "$* ran=$RFS_EXTERNAL kind=$RFS_KIND running=$(test -e running && echo yes)" >> refunds.log
while test -e hold-refund; do touch holding; sleep 0.02; done
test ! -e fail-refund || { echo "the bank is closed"; exit 4; }
"""
PAYMENTS = """
[[external]]
name = "payment captures"
reversibility = "irreversible"
"""
REFUND = 'compensate = ["./refund", "--since", "{checkpoint.created_at}", "{operation.kind} {app.name} {}"]\n'


@pytest.fixture
def paid(notes_app: App) -> App:
    """With a checkpoint, a row written since, and payments that can be refunded."""
    script = notes_app.folder / "refund"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    notes_app.checkpoint("--tag", "one")
    declare(notes_app, PAYMENTS + REFUND)
    notes_app.write("two")
    return notes_app


def declare(app: App, text: str) -> None:
    kept = (app.folder / "rfs.toml").read_text().partition("\n[[external]]")[0].partition("\n[policy]")[0]
    app.configure(kept + text)


def back(app: App, *words: str) -> Ran:
    return app.rfs("rollback", "one", "--yes", "--reason", "orders fail", "--json", *words)


def refunds(app: App) -> list[str]:
    log = app.folder / "refunds.log"
    return log.read_text().splitlines() if log.exists() else []


def test_it_is_in_the_plan_and_a_dry_run_runs_nothing(paid: App) -> None:
    text = paid.rfs("plan", "one").out
    assert "Outside of the application, and not taken back:\n  payment captures: irreversible; then ./refund" in text
    assert "It is compensable" in text
    (told,) = paid.json("plan", "one")["external"]
    assert (told["name"], told["reversibility"], told["runs"]) == ("payment captures", "irreversible", True)
    assert back(paid, "--dry-run").code == 0
    assert refunds(paid) == []


def test_it_is_made_good_once_the_rollback_is_proven(paid: App) -> None:
    ran = back(paid)
    assert ran.code == 0, ran
    taken = paid.json("checkpoint", "show", "one")["created_at"]
    assert refunds(paid) == [f"--since {taken} rollback notes {{}} ran=payment captures kind=rollback running=yes"]
    steps = [each["step"] for each in paid.json("show")["journal"] if each["mark"] == "done"]
    assert steps[-2:] == ["health", "compensate:payment captures"]


def test_the_undo_says_that_it_stays_and_makes_nothing_good(paid: App) -> None:
    operation = back(paid).data["rollback_id"]
    shown = paid.rfs("undo", "--dry-run")
    assert f"The rollback {operation} compensated for payment captures; that is not undone." in shown.err
    assert "its compensation is not run, as this goes forward in time" in shown.out
    assert paid.rfs("undo", "--yes").code == 0
    assert paid.notes == ["one", "two"]
    assert len(refunds(paid)) == 1


def test_one_that_fails_is_a_warning_and_no_half_state(paid: App) -> None:
    (paid.folder / "fail-refund").touch()
    ran = back(paid)
    assert ran.code == 3
    assert paid.notes == ["one"]
    (warning,) = [each for each in ran.envelope["warnings"] if "compensation" in each]
    assert warning.endswith("ended with status 4: the bank is closed. Run it by hand.")
    record = paid.json("show")
    assert (record["status"], warning in record["warnings"]) == ("completed", True)
    declare(paid, PAYMENTS + 'compensate = ["./not-there"]\n')
    assert any("./not-there) failed:" in each for each in back(paid).envelope["warnings"])


def test_a_rollback_that_turns_back_makes_nothing_good(paid: App) -> None:
    text = (paid.folder / "rfs.toml").read_text()
    paid.configure(text + CHECK)
    (paid.folder / "sick-once").touch()  # from the next start on, for one health check
    assert back(paid).code == 30
    assert paid.notes == ["one", "two"]
    assert refunds(paid) == []


def test_one_that_was_interrupted_is_not_run_twice(paid: App) -> None:
    (paid.folder / "hold-refund").touch()
    running = paid.start("rollback", "one", "--yes", "--reason", "x")
    until((paid.folder / "holding").exists)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate(timeout=30)
    (paid.folder / "hold-refund").unlink()
    assert paid.json("status")["open_operation"] is not None
    ran = paid.rfs("recover", "--json")
    assert ran.code == 3
    assert any("was interrupted, and is not run twice" in each for each in ran.envelope["warnings"])
    assert paid.json("show")["status"] == "completed"
    assert len(refunds(paid)) == 1
    assert paid.notes == ["one"]


@pytest.mark.slow
def test_an_interruption_during_it_does_not_turn_back_what_is_done(paid: App) -> None:
    declare(paid, PAYMENTS + REFUND + PAYMENTS.replace("captures", "voids") + REFUND)
    (paid.folder / "hold-refund").touch()
    running = paid.start("rollback", "one", "--yes", "--reason", "x")
    until((paid.folder / "holding").exists)
    running.send_signal(signal.SIGINT)
    (paid.folder / "hold-refund").unlink()
    running.communicate(timeout=30)
    assert running.returncode == 0
    assert paid.json("show")["status"] == "completed"
    assert len(refunds(paid)) == 2
    assert paid.notes == ["one"]


def refused(ran: Ran, says: str) -> None:
    assert (ran.code, ran.data["error"]["key"]) == (16, "external.irreversible"), ran
    assert says in ran.data["error"]["message"]


def test_what_nothing_makes_good_is_refused_by_the_policy(paid: App) -> None:
    declare(paid, PAYMENTS)
    refused(back(paid), "payment captures (irreversible); the policy asks for at least compensable.")
    refused(paid.rfs("plan", "one", "--json"), "payment captures")
    assert "--break-glass" in back(paid).data["error"]["hint"]
    assert paid.notes == ["one", "two"]
    ran = back(paid, "--break-glass")
    assert ran.code == 3
    assert any("It goes past [policy] min_reversibility = compensable: payment" in each for each in warnings(ran))
    declare(paid, '\n[policy]\nmin_reversibility = "irreversible"' + PAYMENTS)
    assert back(paid).code == 0
    assert "payment captures: irreversible; nothing makes it good" in paid.rfs("plan", "one").out


def warnings(ran: Ran) -> list[str]:
    found: list[str] = [*ran.envelope["warnings"], *ran.data.get("warnings", [])]
    return found


@pytest.mark.slow
def test_the_policy_counts_a_compensation_and_may_ask_for_more(paid: App) -> None:
    declare(paid, '\n[policy]\nmin_reversibility = "reversible"' + PAYMENTS + REFUND)
    refused(back(paid), "payment captures (compensable); the policy asks for at least reversible.")
    declare(paid, '\n[[external]]\nname = "cache"\nreversibility = "idempotent"\n')
    assert paid.json("plan", "one")["reversibility"] == "reversible"
    declare(paid, '\n[[external]]\nname = "mail"\nreversibility = "unknown"\n')
    refused(back(paid), "mail (unknown)")


@pytest.mark.slow
def test_a_rollback_of_other_components_has_nothing_to_do_with_it(paid: App) -> None:
    declare(paid, PAYMENTS + 'components = ["web"]\n')
    assert back(paid, "--only", "db").code == 0
    refused(back(paid), "payment captures")
    assert paid.json("plan", "one", "--only", "db")["external"] == []


def test_a_guard_goes_back_whatever_is_external_and_makes_it_good(paid: App) -> None:
    declare(paid, PAYMENTS)
    assert paid.rfs("guard", "--json", "--", "sh", "-c", "exit 7").code == 7
    assert any("min_reversibility" in each for each in paid.json("show")["warnings"] + planned(paid))
    declare(paid, PAYMENTS + REFUND)
    assert paid.rfs("guard", "--json", "--", "sh", "-c", "exit 7").code == 7
    assert len(refunds(paid)) == 1


def planned(app: App) -> list[str]:
    from rfs.production.rollback.application import Application

    with Application.open(str(app.folder / "rfs.toml")) as opened:
        operation = opened.catalog.latest_operation()
        assert operation is not None
        return list(operation.plan.warnings)


def test_the_undo_of_a_deployment_goes_back_in_time_as_a_rollback_does(paid: App) -> None:
    assert paid.rfs("guard", "--", "sh", "-c", paid.insert("three")).code == 0
    assert refunds(paid) == []
    assert paid.rfs("undo", "--yes").code == 0
    assert paid.notes == ["one", "two"]
    assert [each.rpartition("kind=")[2] for each in refunds(paid)] == ["undo running=yes"]


@pytest.mark.slow
def test_a_plan_that_was_written_down_is_another_one_when_what_is_external_changed(paid: App) -> None:
    paid.json("plan", "one", "--out", "p.json")
    assert json.loads(Path("p.json").read_text())["external"][0]["name"] == "payment captures"
    words = ("rollback", "--plan", "p.json", "--yes", "--reason", "x", "--json")
    declare(paid, PAYMENTS + REFUND.replace("--since", "--all-since"))
    ran = paid.rfs(*words)
    assert (ran.code, ran.data["error"]["key"]) == (15, "plan.changed")
    assert "what is declared as external differs" in ran.data["error"]["message"]
    declare(paid, PAYMENTS + REFUND)
    assert paid.rfs(*words).code == 0


def test_a_step_that_is_worse_than_the_policy_asks_for_is_refused_as_well(notes_app: App) -> None:
    notes_app.checkpoint("--tag", "one")
    notes_app.write("two")
    declare(notes_app, '\n[policy]\nmin_reversibility = "idempotent"\n')
    ran = back(notes_app)
    assert (ran.code, ran.data["error"]["key"]) == (16, "rollback.irreversible")
    assert "restore:db" in ran.data["error"]["message"]
    assert notes_app.notes == ["one", "two"]
    assert back(notes_app, "--break-glass").code == 3
    assert notes_app.notes == ["one"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[external]]\nname = "a"\n', "reversibility"),
        ('[[external]]\nname = "a"\nreversibility = "maybe"\n', "reversibility"),
        ('[[external]]\nname = " "\nreversibility = "unknown"\n', "name must be a word"),
        ('[[external]]\nname = "a"\nreversibility = "unknown"\ncompensate = []\n', "takes a list"),
        ('[[external]]\nname = "a"\nreversibility = "unknown"\ncompensate = ["x", "{checkpoint.size}"]\n', "no field"),
        ('[[external]]\nname = "a"\nreversibility = "unknown"\ntimeout = "0s"\n', "longer than nothing"),
        ('[[external]]\nname = "a"\nreversibility = "unknown"\ncomponents = ["bd"]\n', 'no component called "bd"'),
        ('[[external]]\nname = "a"\nreversibility = "unknown"\nundo = "x"\n', "external[1].undo"),
        ('[[external]]\nname = "a"\nreversibility = "unknown"\n' * 2, 'another one called "a"'),
    ],
)
def test_what_cannot_be_meant_is_refused(notes_app: App, text: str, says: str) -> None:
    declare(notes_app, "\n" + text)
    ran = notes_app.rfs("status")
    assert ran.code == 2
    assert says in ran.err
