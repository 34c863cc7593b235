"""Mistakes and faults on the command line: one sentence, a hint, the exit code, and nothing done."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from cli_app import TOML, App

from rfs.cli import app as cli_app_module
from rfs.cli.codes import ExitCode
from rfs.production.rollback import errors
from rfs.production.rollback.application import Application

DOCUMENT = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def test_the_documented_exit_codes_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    assert [(int(code), meaning) for code, meaning in rows] == [(code.value, code.meaning) for code in ExitCode]


def test_every_error_has_a_code_of_the_table() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    for kind in kinds:
        assert kind.code in set(ExitCode), kind


MISTAKES = [
    ("chekpoint", 2, "There is no command called chekpoint", "Did you mean `rfs checkpoint`?"),
    ("xyzzy", 2, "no command called xyzzy", "`rfs --help` lists the commands."),
    ("status --jsno", 2, "--jsno", "Did you mean '--json'?"),
    ("status extra", 2, "extra", "`rfs status --help`"),
    ("rollback", 2, "CHECKPOINT is missing", "@last-good"),
    ("rollback --plan p.json @latest", 2, "--plan names the target", "Leave CHECKPOINT"),
    ("rollback --plan none.json --reason x -y", 2, "none.json is not a plan", "--out none.json"),
    ("plan nothing", 10, "No checkpoint matches nothing.", "rfs checkpoint list"),
    ("plan @nonsense", 2, "@nonsense is not a selector", "@latest"),
    ("plan --only nope", 10, "no component called nope", "db, web"),
    ("plan --except db,web", 2, "No component is left", "--except"),
    ("plan --out missing/p.json", 2, "could not be written", "--out"),
    ("diff @latest nothing", 10, "No checkpoint matches nothing.", ""),
    ("show nothing", 10, "No operation matches nothing.", "rfs log"),
    ("undo -y", 10, "no operation that could be undone", "rfs log"),
    ("undo -n 0 -y", 2, "-n must be at least 1", ""),
    ("undo abc -n 2 -y", 2, "-n counts from the newest", ""),
    ("resume", 10, "No operation is open", ""),
    ("abort", 10, "No operation is open", ""),
    ("resume --dry-run", 10, "No operation is open", ""),
    ("checkpoint -m x list", 2, "options of a new checkpoint", ""),
    ("checkpoint show nothing", 10, "No checkpoint matches", ""),
    ("verify x --store", 2, "contradict", ""),
    ("status -q -v", 2, "-q and -v contradict", ""),
    ("status --timeout soon", 2, "'soon' is not a duration", '"30s"'),
    ("status --timeout 0", 2, "longer than nothing", ""),
    ("log -n 0", 2, "-n", ""),
    ("completion tcsh", 2, "tcsh", "--help"),
    ("status --config other.toml", 10, "There is no", "--config"),
]


@pytest.fixture
def one(notes_app: App) -> App:
    notes_app.checkpoint()
    return notes_app


@pytest.mark.parametrize(("line", "code", "says", "hint"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_a_mistake_gets_one_sentence_a_hint_and_its_code(one: App, line: str, code: int, says: str, hint: str) -> None:
    ran = one.rfs(*line.split())
    assert ran.code == code, ran
    assert ran.out == ""
    sentence, advice, *more = [row for row in ran.err.splitlines() if not row.startswith(("comparing", "note:"))]
    assert not more
    assert sentence.startswith("error: ")
    assert says in sentence
    assert hint in advice
    assert "Traceback" not in ran.err
    assert "{" not in ran.err.replace("{bash|zsh|fish}", "")
    assert one.json("log") == []


@pytest.mark.parametrize("line", ["chekpoint", "plan nothing", "status --jsno", "status -q -v"])
def test_with_json_an_error_is_an_envelope_too(one: App, line: str) -> None:
    ran = one.rfs(*line.split(), "--json")
    assert ran.envelope["ok"] is False
    assert set(ran.data["error"]) == {"key", "message", "hint", "retryable"}
    assert ran.code == one.rfs(*line.split()).code


# — nobody to ask —


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("rollback @latest", "--reason TEXT --yes"),
        ("rollback @latest --strategy gradual", "--reason TEXT --yes"),
        ("rollback @latest --reason x", "--yes"),
        ("rollback @latest -y", "--reason"),
        ("undo", "--yes"),
        ("checkpoint forget @latest", "--yes"),
    ],
)
@pytest.mark.parametrize("json", [False, True])
def test_without_a_terminal_it_never_asks_but_names_the_flag(one: App, line: str, flag: str, json: bool) -> None:
    ran = one.rfs(*line.split(), *(["--json"] if json else []))
    assert ran.code == 2
    assert flag in (ran.data["error"]["hint"] if json else ran.err)
    assert "comparing" not in ran.err, "it says so before any work"
    assert len(one.json("checkpoint", "list")) == 1


def test_a_reason_that_no_record_holds_is_said_to_be_lost(one: App) -> None:
    ran = one.rfs("status", "--reason", "curious")
    assert ran.code == 0
    assert "note: --reason was not recorded" in ran.err
    assert "not recorded" not in one.rfs("checkpoint", "--reason", "nightly").err
    assert one.json("checkpoint", "show")["message"] == "nightly"


def test_common_flags_stand_before_or_after_the_command(one: App) -> None:
    assert one.rfs("--json", "status").envelope["ok"]
    assert one.rfs("status", "--json").envelope["ok"]
    assert one.rfs("-q", "checkpoint", "list").out == one.rfs("checkpoint", "list", "-q").out
    assert one.rfs("checkpoint", "-q", "list").out == one.rfs("checkpoint", "list", "-q").out
    assert one.rfs("--dry-run", "checkpoint").out.startswith("It would capture")


# — the application's own troubles —


def test_not_initialised(bare: App, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = bare.rfs("status")
    assert (ran.code, "rfs init" in ran.err) == (10, True)
    (bare.folder / "rfs.toml").unlink()
    for line in ("checkpoint", "rollback @latest", "rollback @latest -y", "undo"):
        ran = bare.rfs(*line.split())
        assert (ran.code, "There is no rfs.toml" in ran.err) == (10, True), line
    # Whether the file that was named is there is found out when it is opened, which is after the questions.
    assert bare.rfs("--config", "other.toml", "undo").code == 2


def test_no_components(notes_app: App) -> None:
    notes_app.configure(TOML.partition("[components")[0] + TOML[TOML.index("[store]") :])
    ran = notes_app.rfs("checkpoint")
    assert (ran.code, "nothing to checkpoint" in ran.err) == (2, True)


def test_a_missing_database_and_a_missing_command_leave_no_checkpoint(notes_app: App) -> None:
    (notes_app.folder / "notes.db").rename(notes_app.folder / "elsewhere.db")
    assert notes_app.rfs("checkpoint").code == 1
    (notes_app.folder / "elsewhere.db").rename(notes_app.folder / "notes.db")
    (notes_app.folder / "service").unlink()
    ran = notes_app.rfs("checkpoint")
    assert ran.code == 1
    assert "./service" in ran.err
    assert notes_app.json("checkpoint", "list") == []


def test_an_id_that_matches_two(notes_app: App) -> None:
    ids: list[str] = []
    while len({each[0] for each in ids}) == len(ids):
        ids.append(notes_app.checkpoint("--only", "web"))
    (double,) = {each[0] for each in ids if [other[0] for other in ids].count(each[0]) > 1}
    ran = notes_app.rfs("plan", double)
    assert ran.code == 2
    assert "matches 2 checkpoints" in ran.err


def test_a_bug_is_one_sentence_and_a_traceback_only_when_asked(one: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Application) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(Application, "status", broken)
    ran = one.rfs("status")
    assert ran.code == 1
    assert "error: rfs has a bug: ZeroDivisionError: division by zero." in ran.err
    assert "report it" in ran.err
    assert "Traceback" not in ran.err
    assert "Traceback" in one.rfs("status", "--debug").err
    ran = one.rfs("status", "--json")
    assert ran.data["error"]["key"] == "unexpected"


def test_debug_shows_where_an_expected_error_came_from(one: App) -> None:
    assert "Traceback" in one.rfs("plan", "nothing", "--debug").err


def test_a_name_cannot_write_on_the_screen(one: App) -> None:
    one.json("checkpoint", "-m", "evil\x1b[2J\nID 000000000000")
    out = one.rfs("checkpoint", "list").out
    assert "\x1b" not in out
    assert "evil\\x1b[2J\\nID" in out


def test_an_encoding_that_lacks_a_sign_is_no_failure(one: App) -> None:
    one.write("two")
    done = one.start("rollback", "@latest", "--dry-run", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = done.communicate(timeout=30)
    assert done.returncode == 0, err
    assert out


def test_a_reader_that_goes_away_is_no_failure(one: App) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = one.start("log", stdout=writing)
    os.close(writing)
    _, err = done.communicate(timeout=30)
    assert (done.returncode, err) == (0, "")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_output_that_cannot_be_written_is_one_sentence(one: App, flags: list[str]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = one.start("checkpoint", "list", *flags, stdout=full)
        _, err = done.communicate(timeout=30)
    assert done.returncode == 1
    assert "error: The output could not be written: No space left on device." in err
    assert "Traceback" not in err


def test_each_command_is_in_a_module_that_has_it() -> None:
    for name in cli_app_module.COMMANDS:
        assert cli_app_module.cli.get_command(None, name) is not None
