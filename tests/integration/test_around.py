"""`[[hooks]]`: commands around checkpoints, rollbacks and the restore of a component, through the command line."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from cli_app import App
from waiting import until

SCRIPT = """\
#!/bin/sh
# hook NAME: writes down what it was told, and does what the test asked for.
echo "$1 $RFS_HOOK kind=$RFS_KIND status=$RFS_STATUS component=$RFS_COMPONENT direction=$RFS_DIRECTION" >> hooks.log
while test -e "hold-$1"; do touch "holding-$1"; sleep 0.02; done
test ! -e "fail-$1" || { echo "no $1 today"; exit 7; }
"""

HOOKS = """
[[hooks]]
before = "rollback"
run = ["./hook", "on"]
[[hooks]]
after = "rollback"
run = ["./hook", "off"]
[[hooks]]
before = "restore"
components = ["db"]
run = ["./hook", "db-before"]
[[hooks]]
after = "restore"
run = ["./hook", "each-after"]
[[hooks]]
before = "checkpoint"
run = ["./hook", "taking"]
[[hooks]]
after = "checkpoint"
run = ["./hook", "taken"]
"""


@pytest.fixture
def hooked(notes_app: App) -> App:
    """With hooks everywhere, a checkpoint, and one row written since."""
    script = notes_app.folder / "hook"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    notes_app.checkpoint()
    notes_app.configure((notes_app.folder / "rfs.toml").read_text() + HOOKS)
    notes_app.write("two")
    return notes_app


def told(app: App) -> list[str]:
    """Return what the hooks wrote down, and forget it."""
    log = app.folder / "hooks.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def back(app: App) -> int:
    return app.rfs("rollback", "@latest", "--yes", "--reason", "a test").code


def test_hooks_run_around_a_rollback_and_around_each_restore(hooked: App) -> None:
    assert back(hooked) == 0
    assert told(hooked) == [
        "on before rollback kind=rollback status= component= direction=forward",
        "db-before before restore kind=rollback status= component=db direction=forward",
        "each-after after restore kind=rollback status=completed component=db direction=forward",
        "each-after after restore kind=rollback status=completed component=web direction=forward",
        "off after rollback kind=rollback status=completed component= direction=forward",
    ]
    assert hooked.rfs("undo", "--yes").code == 0
    assert [line.partition(" component")[0] for line in told(hooked)][
        -1
    ] == "off after rollback kind=undo status=completed"


def test_hooks_run_around_a_checkpoint_and_not_around_a_safety_checkpoint(hooked: App) -> None:
    hooked.checkpoint()
    assert [line.split(" component")[0] for line in told(hooked)] == [
        "taking before checkpoint kind=manual status=",
        "taken after checkpoint kind=manual status=completed",
    ]
    back(hooked)
    assert not [line for line in told(hooked) if "checkpoint" in line]


def test_a_hook_that_fails_before_it_stops_it_and_those_after_it_are_told(hooked: App) -> None:
    (hooked.folder / "fail-on").touch()
    done = hooked.rfs("rollback", "@latest", "--yes", "--reason", "a test")
    assert done.code == 1
    assert "The hook before rollback, ./hook, ended with status 7: no on today." in done.err
    assert hooked.notes == ["one", "two"]
    assert "stop" not in (hooked.folder / "service.log").read_text().split()
    assert [line.split(" component")[0] for line in told(hooked)] == [
        "on before rollback kind=rollback status=",
        "off after rollback kind=rollback status=reverted",
    ]
    (hooked.folder / "fail-taking").touch()
    before = len(hooked.json("checkpoint", "list"))
    assert hooked.rfs("checkpoint").code == 1
    assert len(hooked.json("checkpoint", "list")) == before
    assert "taken after checkpoint kind=manual status=failed" in told(hooked)[-1]


def test_a_hook_that_fails_after_it_changes_nothing_and_is_told(hooked: App) -> None:
    (hooked.folder / "fail-off").touch()
    done = hooked.rfs("rollback", "@latest", "--yes", "--reason", "a test", "--json")
    assert done.code == 3
    assert hooked.notes == ["one"]
    assert any("The hook after rollback" in warning for warning in done.envelope["warnings"])
    (hooked.folder / "fail-taken").touch()
    assert "The hook after checkpoint" in hooked.rfs("checkpoint").err


def test_a_hook_that_fails_before_a_restore_turns_it_back_and_does_not_hold_the_way_back(hooked: App) -> None:
    (hooked.folder / "fail-db-before").touch()
    assert back(hooked) == 30
    assert hooked.notes == ["one", "two"]
    lines = told(hooked)
    assert "db-before before restore kind=rollback status= component=db direction=back" in lines
    assert "off after rollback kind=rollback status=reverted component= direction=forward" in lines


def test_hooks_after_a_rollback_run_when_it_is_held_and_again_when_that_is_settled(hooked: App) -> None:
    (hooked.folder / "refuse-start").touch()
    assert back(hooked) == 31
    assert told(hooked)[-1].startswith("off after rollback kind=rollback status=held")
    (hooked.folder / "refuse-start").unlink()
    assert hooked.rfs("resume", "--yes").code in (0, 30)
    assert told(hooked)[-1].startswith("off after rollback kind=rollback status=reverted")


@pytest.mark.parametrize("hook", ["on", "db-before", "off"])
def test_killed_in_a_hook_those_after_it_run_with_the_recovery(hooked: App, hook: str) -> None:
    (hooked.folder / f"hold-{hook}").touch()
    running = hooked.start("rollback", "@latest", "--yes", "--reason", "a test")
    until((hooked.folder / f"holding-{hook}").exists)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (hooked.folder / f"hold-{hook}").unlink()
    hooked.rfs("recover")
    assert hooked.notes == (["one", "two"] if hook == "on" else ["one"])
    wanted = "reverted" if hook == "on" else "completed"
    assert told(hooked)[-1].startswith(f"off after rollback kind=rollback status={wanted}")


def test_a_hook_that_does_not_end_is_ended(hooked: App) -> None:
    text = (hooked.folder / "rfs.toml").read_text()
    hooked.configure(text.replace('run = ["./hook", "on"]', 'run = ["sleep", "60"]\ntimeout = "200ms"'))
    done = hooked.rfs("rollback", "@latest", "--yes", "--reason", "a test")
    assert done.code == 1
    assert "The hook before rollback failed: The command sleep did not end within 0.2 s" in done.err
    assert hooked.notes == ["one", "two"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('run = ["true"]', "exactly one of before and after"),
        ('run = ["true"]\nbefore = "rollback"\nafter = "rollback"', "exactly one of before and after"),
        ('before = "rollback"\nrun = []', "run takes a list"),
        ('before = "rollback"', "run"),
        ('before = "lunch"\nrun = ["true"]', "before"),
        ('before = "rollback"\nrun = ["true"]\ncomponents = ["db"]', 'around a "restore"'),
        ('before = "restore"\nrun = ["true"]\ncomponents = ["dbb"]', 'no component called "dbb"'),
        ('before = "rollback"\nrun = ["true"]\ntimeout = 0', "longer than nothing"),
        ('before = "rollback"\nrun = ["true"]\nwhen = 1', "when"),
    ],
)
def test_a_hook_that_cannot_be_is_refused_by_name(notes_app: App, table: str, said: str) -> None:
    notes_app.configure((notes_app.folder / "rfs.toml").read_text() + f"\n[[hooks]]\n{table}\n")
    done = notes_app.rfs("status")
    assert done.code == 2
    assert "hooks" in done.err
    assert said in done.err
    assert not Path(notes_app.folder / "hooks.log").exists()
