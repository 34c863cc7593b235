"""One log of operations: rollbacks, versions of configurations and tracked changes, and what undid what."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from cli_app import CommandLine
from small import Small

from rfs.production.rollback import IncrementalRollback, RollbackManager, operationlog, upkeep
from rfs.production.rollback.ledger import Ledger, Put
from rfs.production.rollback.operationlog import OPERATIONS, SmallOperation


class Shop(Small, CommandLine):
    """An application with a way to run commands in it."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(home)
        self.changes = IncrementalRollback(home)
        self.settings = self.tree / "settings.toml"
        self.code = self.tree / "code.txt"
        self._capsys = capsys

    def kinds(self) -> list[str]:
        return [each["kind"] for each in self.json("log")]

    def track(self, *words: Any, key: Any) -> str:
        found: str = asyncio.run(self.changes.track_change(*words, key=key)).unwrap()
        return found

    def set(self, number: int, old: int) -> str:
        """Change the version in the settings, and track it."""
        self.settings.write_text(self.settings.read_text().replace(f"version = {old}", f"version = {number}"))
        return self.track("settings", "update", old, number, key="version")

    def row(self) -> Any:
        with closing(sqlite3.connect(self.tree / "small.db")) as db:
            return db.execute("SELECT v FROM t WHERE n = 1").fetchone()[0]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    found = Shop(tmp_path / "shop", capsys)
    monkeypatch.chdir(found.home)
    return found


def test_everything_that_was_done_is_in_one_log_and_is_undone_newest_first(shop: Shop) -> None:
    first = shop.json("checkpoint")["id"]
    shop.json("config", "save", "one", "-m", "as it was")
    change = shop.set(2, 1)
    shop.json("config", "rollback", "one", "-y", "--reason", "two is broken")
    shop.code.write_text("broken\n")
    shop.json("rollback", first, "--reason", "v2", "-y")
    assert shop.kinds() == ["rollback", "configuration", "change", "save"]
    log = shop.json("log")
    assert [each["reason"] for each in log] == ["v2", "two is broken", "update", "as it was"]
    assert (log[2]["rollback_id"], log[2]["components"], log[2]["what"]) == (change, ["settings"], "version")
    (undone,) = shop.json("undo", "-y")
    assert shop.code.read_text() == "broken\n"
    shop.json("undo", "-y")
    assert "version = 2" in shop.settings.read_text()
    shop.json("undo", "-y")
    assert shop.settings.read_text() == "# kept\nversion = 1\npassword = 'hunter1'\n"
    assert len(shop.json("config", "list")) == 2
    shop.json("undo", "-y")
    assert [each["version"][:7] for each in shop.json("config", "list")] == ["backup_"]
    assert shop.rfs("undo", "-y").code == 10
    assert shop.kinds()[:4] == ["undo"] * 4
    for _ in range(4):
        shop.json("redo", "-y")
    assert shop.is_at(1)
    assert {each["version"][:3] for each in shop.json("config", "list")} == {"one", "bac"}
    assert shop.rfs("redo", "-y").code == 10
    shop.json("undo", undone["rollback_id"], "-y")
    assert shop.rfs("show", change).out.split()[:2] == ["change", change]


def test_several_are_undone_at_once_whatever_they_are_and_a_component_alone(shop: Shop) -> None:
    first = shop.json("checkpoint")["id"]
    shop.set(2, 1)
    shop.code.write_text("two\n")
    shop.track("file", "update", "version 1\n" * 50, "two\n", key="tree/code.txt")
    (done,) = shop.json("undo", "--component", "settings", "-y")
    assert (done["components"], done["undoes"] is not None) == (["settings"], True)
    assert shop.code.read_text() == "two\n"
    shop.json("rollback", first, "--only", "db", "--reason", "x", "-y")
    done = shop.json("undo", "-n", "2", "-y")
    assert [each["kind"] for each in done] == ["undo", "undo"]
    assert shop.is_at(1)
    assert shop.rfs("undo", "-n", "2", "-y").code == 10
    assert "components.unknown" in shop.rfs("undo", "--component", "nothing", "-y", "--json").out
    assert asyncio.run(RollbackManager(shop.home / "rfs.toml").undo()).is_failure()


def test_the_graph_tells_what_undid_what(shop: Shop) -> None:
    shop.set(2, 1)
    shop.set(3, 2)
    shop.json("undo", "-y")
    shop.json("redo", "-y")
    shop.json("undo", "-n", "2", "-y")
    lines = [line.split()[0] for line in shop.rfs("log").out.splitlines()[1:]]
    assert lines == ["●╭", "●│╭", "●││╭", "○││╰╭", "○│╰", "○╰"]


def test_what_others_changed_since_in_the_same_file_is_kept(shop: Shop) -> None:
    old = "".join(f"line {number}\n" for number in range(9))
    new, later = old.replace("line 2", "second"), old.replace("line 2", "second").replace("line 7", "seventh")
    shop.code.write_text(new)
    first = shop.track("file", "edit", old, new, key="tree/code.txt")
    shop.set(2, 1)
    shop.settings.write_text(shop.settings.read_text() + "later = true\n")
    shop.code.write_text(later)
    shop.json("undo", first, "-y")
    assert shop.code.read_text() == old.replace("line 7", "seventh")
    shop.json("redo", "-y")
    assert shop.code.read_text() == later
    shop.json("undo", "-y")
    shop.json("undo", "-y")
    assert shop.settings.read_text() == "# kept\nversion = 1\npassword = 'hunter1'\nlater = true\n"
    assert shop.rfs("undo", first, "-y").code == 15


def test_a_conflict_is_listed_with_three_values_and_left_alone_until_somebody_decides(shop: Shop) -> None:
    change = shop.set(2, 1)
    shop.settings.write_text("version = 3\nother = 1\n")
    ran = shop.rfs("undo", "-y", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (15, "change.conflict")
    assert "version: 1 before it, 2 after it, 3 now" in ran.data["error"]["message"]
    assert shop.json("undo", "--dry-run")["undo"][0]["conflicts"] == [
        {"where": "version", "before": "1", "after": "2", "now": "3"}
    ]
    assert shop.rfs("undo", "-y", "--ours", "--theirs").code == 2
    assert shop.settings.read_text() == "version = 3\nother = 1\n"
    (kept,) = shop.json("undo", "-y", "--ours")
    assert shop.settings.read_text() == "version = 3\nother = 1\n"
    shop.json("undo", kept["rollback_id"], "-y", "--theirs")
    assert shop.settings.read_text() == "version = 2\nother = 1\n"
    shop.settings.write_text("version = 3\nother = 1\n")
    shop.json("undo", change, "-y", "--theirs")
    assert shop.settings.read_text() == "version = 1\nother = 1\n"
    assert "taken back already" in shop.rfs("undo", change, "-y").err


def test_a_configuration_that_was_rolled_back_is_undone_by_key(shop: Shop) -> None:
    shop.json("config", "save", "one")
    shop.settings.write_text("# mine\nversion = 2\npassword = 'x'\n")
    shop.json("config", "rollback", "one", "-y")
    shop.settings.write_text(shop.settings.read_text() + "added = 1\n")
    shop.json("undo", "-y")
    assert shop.settings.read_text() == "# mine\nversion = 2\npassword = 'x'\nadded = 1\n"
    shop.json("redo", "-y")
    shop.settings.write_text(shop.settings.read_text().replace("'hunter1'", "'third'"))
    ran = shop.rfs("undo", "-y", "--json")
    assert ran.data["error"]["key"] == "change.conflict"
    assert "third" not in ran.out
    assert "hunter1" not in ran.out


def test_secrets_and_contents_are_not_shown(shop: Shop) -> None:
    ids = [
        shop.track("settings", "update", "s3cret", "hunter1", key="password"),
        shop.track("file", "update", "s3cret", "s3cret 2", key="tree/x"),
        shop.track("db", "update", {"token": "s3cret"}, {"token": "s3cret 2"}, key={"table": "t", "pk": 1}),
    ]
    for change in ids:
        shown = shop.rfs("show", change).out + shop.rfs("undo", change, "--dry-run").out
        assert "s3cret" not in shown
        assert "hunter1" not in shown
    assert "6 bytes" in shop.rfs("show", ids[1]).out


def test_columns_that_others_changed_since_stay(shop: Shop) -> None:
    with closing(sqlite3.connect(shop.tree / "small.db")) as db, db:
        db.execute("ALTER TABLE t ADD COLUMN w")
        db.execute("UPDATE t SET v = 'new', w = 1 WHERE n = 1")
    shop.track("db", "update", {"v": "old", "w": None}, {"v": "new", "w": None}, key={"table": "t", "pk": 1})
    shop.json("undo", "-y")
    with closing(sqlite3.connect(shop.tree / "small.db")) as db, db:
        assert db.execute("SELECT v, w FROM t WHERE n = 1").fetchone() == ("old", 1)


def test_a_log_of_a_hundred_thousand_is_not_read_wholly(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.set(2, 1)
    with shop.open() as app, Ledger(app.store) as ledger:
        one = next(app.log.history())
        assert isinstance(one, SmallOperation)
        at = datetime.now(UTC) - timedelta(days=1)
        old = [msgspec.structs.replace(one, operation_id=f"{n:024x}", created_at=at) for n in range(2)]
        bodies = [app.store.seal(msgspec.json.encode(each)) for each in old]
        rows = [(f"{n:024x}", bodies[n % 2]) for n in range(100_000)]
        path = ledger.path
    with closing(apsw.Connection(path)) as db, db:
        db.executemany(f"INSERT INTO entries (log, name, body) VALUES ('{OPERATIONS}', ?, ?)", rows)
    steps: list[int] = []

    def watch(db: apsw.Connection) -> None:
        db.trace_v2(
            apsw.SQLITE_TRACE_PROFILE, lambda event: steps.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])
        )

    apsw.connection_hooks.append(watch)
    try:
        assert len(shop.json("log")) == 20
        listed = sum(steps)
        shop.json("undo", one.operation_id, "-y")
    finally:
        apsw.connection_hooks.remove(watch)
    assert 0 < listed < 20_000
    assert sum(steps) < 60_000
    assert "version = 1" in shop.settings.read_text()


SCHEMA = {
    "type": "object",
    "properties": {"version": {"type": "integer", "maximum": 2}, "password": {"minLength": 3}},
    "required": ["password"],
}


def test_nothing_is_applied_that_does_not_fit_the_schema(shop: Shop) -> None:
    config = shop.home / "rfs.toml"
    config.write_text(config.read_text().replace('settings.toml"\n', 'settings.toml"\nschema = "schema.json"\n'))
    schema = shop.home / "schema.json"
    schema.write_text(msgspec.json.encode(SCHEMA).decode())
    shop.settings.write_text("version = 3\npassword = 'x'\n")
    shop.json("config", "save", "bad")
    first = shop.json("checkpoint")["id"]
    assert "$.version (maximum)" in shop.rfs("doctor").out
    good = "version = 1\npassword = 'hunter1'\n"
    shop.settings.write_text(good)
    shop.track("settings", "x", 7, 1, key="version")
    commands = [
        ("config", "rollback", "bad", "-y"),
        ("rollback", first, "--key", "version", "--reason", "x", "-y"),
        ("undo", "-y"),
    ]
    for words in commands:
        ran = shop.rfs(*words, "--json")
        assert "does not fit its schema: $." in ran.data["error"]["message"], words
        assert "hunter1" not in ran.out
        assert shop.settings.read_text() == good
    for text in ('{"$ref": "http://localhost:1/x"}', "[", '{"type": 7}'):
        schema.write_text(text)
        ran = shop.rfs("undo", "-y", "--json")
        assert ran.data["error"]["message"].count("schema.json"), text
    assert shop.settings.read_text() == good
    schema.write_text("{}")
    shop.json("undo", "-y")
    assert "version = 7" in shop.settings.read_text()


def test_without_the_validator_it_is_refused_and_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    config = shop.home / "rfs.toml"
    config.write_text(config.read_text().replace('settings.toml"\n', 'settings.toml"\nschema = "schema.json"\n'))
    shop.set(2, 1)
    monkeypatch.setitem(sys.modules, "jsonschema.exceptions", None)
    assert "rfs-rollback[jsonschema]" in shop.rfs("undo", "-y").err
    assert "version = 2" in shop.settings.read_text()


def test_prune_bounds_the_log_and_keeps_what_newer_operations_are_about(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [shop.set(number + 1, number) for number in range(1, 6)]
    shop.json("undo", ids[4], "-y")
    shop.json("undo", ids[3], "-y")
    assert shop.json("prune", "-y")["changes"] == 0
    monkeypatch.setattr(upkeep, "CHANGES_KEPT", 3)
    assert shop.json("prune", "-y")["changes"] == 0  # all are of the last days
    monkeypatch.setattr(upkeep, "UNDO_KEPT", timedelta(seconds=-1))
    assert shop.json("prune", "--dry-run")["changes"] == 4
    assert "4 old changes removed" in shop.rfs("prune", "-y").out
    assert [each["kind"] for each in shop.json("log")] == ["undo", "undo", "change"]
    assert [each["change_id"] for each in shop.changes.change_log] == []
    assert {each["change_id"] for each in shop.changes.undone_log} == {ids[3], ids[4]}
    shop.json("redo", "-y")
    assert "version = 5" in shop.settings.read_text()
    assert shop.rfs("log").code == shop.rfs("show").code == 0
    assert shop.rfs("undo", "-n", "9", "-y").code == 10


def test_a_file_that_became_a_link_or_huge_is_neither_followed_nor_read(shop: Shop) -> None:
    """Of a sparse file, so that it takes no space; read, it would take all of the memory."""
    other = shop.home / "other.toml"
    other.write_text("version = 2\n")
    key = shop.set(2, 1)
    file = shop.track("file", "edit", "version 1\n" * 50, "two\n", key="tree/code.txt")
    shop.settings.unlink()
    shop.settings.symlink_to(other)
    ran = shop.rfs("undo", key, "-y", "--theirs")
    assert (ran.code, "a symbolic link" in ran.err) == (1, True), ran
    assert (other.read_text(), shop.settings.is_symlink()) == ("version = 2\n", True)
    with shop.code.open("wb") as grown:
        grown.truncate(40 << 30)
    ran = shop.rfs("undo", file, "-y", "--theirs")
    assert (ran.code, "40,960 MiB large now" in ran.err) == (1, True), ran
    assert shop.code.stat().st_size == 40 << 30
    with shop.code.open("wb") as grown:
        grown.truncate(5 << 20)
    first = shop.json("checkpoint", "--only", "tree")["id"]
    shop.code.write_bytes(b"a\n" * (3 << 20))
    ran = shop.rfs("diff", first, "--only", "tree", "--text")
    assert "code.txt" in ran.out
    assert "+a" not in ran.out


@pytest.mark.parametrize("hours", [-3, 3])
def test_what_came_after_what_is_known_whatever_the_clock_said(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """The clock is wrong while something is tracked, and is set right before and after that."""
    first = shop.json("checkpoint")["id"]
    shop.version(2)
    shop.json("rollback", first, "-y", "--reason", "before")
    with monkeypatch.context() as wrong:
        wrong.setattr(operationlog, "utc_now", lambda: datetime.now(UTC) + timedelta(hours=hours))
        shop.set(2, 1)
        shop.set(3, 2)
    shop.code.write_text("v9\n")
    shop.json("rollback", first, "--only", "tree", "-y", "--reason", "after")
    assert shop.kinds() == ["rollback", "change", "change", "rollback"]
    assert [each["reason"] for each in shop.json("log")][::3] == ["after", "before"]
    shop.json("undo", "-n", "2", "-y")
    assert "version = 2" in shop.settings.read_text()
    assert shop.code.read_text() == "v9\n"
    # A ledger of an earlier release: its operations say nothing, and go by their times.
    with Ledger(shop.open().store) as ledger:
        for entry in list(ledger.entries(OPERATIONS)):
            old = msgspec.structs.replace(msgspec.json.decode(entry.body, type=SmallOperation), after="")
            ledger.write(Put(OPERATIONS, entry.name, msgspec.json.encode(old)))
    assert len(shop.kinds()) == 6


def _without_the_file(shop: Shop) -> None:
    shop.settings.unlink()


def _without_the_key(shop: Shop) -> None:
    shop.settings.write_text("# all else went\n")


def _a_folder_instead(shop: Shop) -> None:
    shop.settings.unlink()
    shop.settings.mkdir()


def _a_link_instead(shop: Shop) -> None:
    shop.settings.unlink()
    shop.settings.symlink_to("code.txt")


def _no_toml(shop: Shop) -> None:
    shop.settings.write_text("version = = 2\n")


def _without_the_component(shop: Shop) -> None:
    text = (shop.home / "rfs.toml").read_text()
    (shop.home / "rfs.toml").write_text(text.replace("[components.settings]", "[components.other]"))


@pytest.mark.parametrize(
    "vanish",
    [_without_the_file, _without_the_key, _a_folder_instead, _a_link_instead, _no_toml, _without_the_component],
)
def test_an_undo_whose_target_vanished_says_so_and_can_be_made_when_it_is_back(shop: Shop, vanish: Any) -> None:
    shop.set(2, 1)
    text, toml = shop.settings.read_bytes(), (shop.home / "rfs.toml").read_bytes()
    vanish(shop)
    told = shop.rfs("undo", "-y", "--json")
    assert told.code not in (0, 3), told
    assert told.data["error"]["message"]
    assert told.data["error"]["hint"], told.data
    assert "bug" not in told.data["error"]["message"]
    assert shop.kinds() == ["change"]
    # It is back: nothing was lost.
    if shop.settings.is_dir():
        shop.settings.rmdir()
    shop.settings.unlink(missing_ok=True)
    shop.settings.write_bytes(text)
    (shop.home / "rfs.toml").write_bytes(toml)
    shop.json("undo", "-y")
    assert "version = 1" in shop.settings.read_text()


@pytest.mark.parametrize("what", ["row", "table", "database"])
def test_an_undo_in_a_database_whose_row_or_table_vanished_says_so(shop: Shop, what: str) -> None:
    place = shop.tree / "small.db"
    with closing(sqlite3.connect(place)) as db, db:
        db.execute("UPDATE t SET v = 'two' WHERE n = 1")
    shop.track("db", "update", {"v": "row of version 1"}, {"v": "two"}, key={"table": "t", "pk": {"n": 1}})
    kept = place.read_bytes()
    if what == "database":
        place.unlink()
    else:
        with closing(sqlite3.connect(place)) as db, db:
            db.execute("DELETE FROM t WHERE n = 1" if what == "row" else "DROP TABLE t")
    told = shop.rfs("undo", "-y", "--json")
    assert told.code not in (0, 3), told
    assert told.data["error"]["hint"], told.data
    assert place.exists() is (what != "database")
    place.write_bytes(kept)
    shop.json("undo", "-y")
    assert shop.row() == "row of version 1"


def test_an_undo_of_a_rollback_makes_the_folder_again_that_vanished(shop: Shop) -> None:
    first = shop.json("checkpoint")["id"]
    shop.version(2)
    shop.json("rollback", first, "-y", "--reason", "x")
    shutil.rmtree(shop.tree)
    shop.json("undo", "-y")
    assert shop.is_at(2)


LINES = [f"line {number}\n" for number in range(1, 51)]


def _code(shop: Shop, **changed: str) -> str:
    """Write the code, with some lines otherwise."""
    lines = [f"{changed[f'line{n}']}\n" if f"line{n}" in changed else line for n, line in enumerate(LINES, 1)]
    shop.code.write_text("".join(lines))
    return "".join(lines)


@pytest.fixture
def rolled(shop: Shop) -> tuple[Shop, str]:
    """A rollback that took line 5 back, and is not the newest: another one came after it."""
    _code(shop)
    first = shop.json("checkpoint")["id"]
    _code(shop, line5="five")
    (shop.tree / "other.txt").write_text("with it\n")
    operation = shop.json("rollback", first, "--only", "tree", "-y", "--reason", "x")["rollback_id"]
    (shop.tree / "uploads" / "1.jpg").write_bytes(b"otherwise")
    shop.json("rollback", first, "--only", "tree", "-y", "--reason", "y")
    return shop, operation


def test_an_undo_of_what_is_not_the_newest_keeps_other_lines_of_the_same_file(rolled: tuple[Shop, str]) -> None:
    shop, operation = rolled
    _code(shop, line40="forty")
    shop.code.chmod(0o644)
    looked = shop.rfs("undo", operation, "--dry-run").out
    assert "What was changed since in other lines of these stays: tree code.txt." in looked
    with shop.open() as app:
        # An approval is for a plan, whose target this is: asked for twice, it is the same.
        before, contents = app.catalog.checkpoints()[-1], {"tree": {"code.txt": b"merged\n"}}
        one, other = app.engine.rewritten(before, contents), app.engine.rewritten(before, contents)
        assert one == other != before
        assert one.captures["tree"] != before.captures["tree"]
        assert one.captures["db"] == before.captures["db"]
    shop.json("undo", operation, "-y")
    both = "".join({5: "five\n", 40: "forty\n"}.get(n, line) for n, line in enumerate(LINES, 1))
    assert shop.code.read_text() == both
    assert (shop.tree / "other.txt").read_text() == "with it\n"
    assert shop.rfs("verify").code == 0
    # And that is an operation as any other: taken back when line 20 was edited and another one came, it takes line 5.
    (newest, *_) = shop.json("log")
    shop.code.write_text(both.replace("line 20\n", "twenty\n"))
    (shop.tree / "uploads" / "1.jpg").write_bytes(b"again otherwise")
    shop.json("rollback", "@latest", "--path", "tree/uploads", "-y", "--reason", "z")
    shop.json("undo", newest["rollback_id"], "-y")
    assert shop.code.read_text() == both.replace("five\n", "line 5\n").replace("line 20\n", "twenty\n")
    assert not (shop.tree / "other.txt").exists()


@pytest.mark.parametrize(("how", "five", "other"), [("--ours", "cinq", True), ("--theirs", "five", True)])
def test_where_the_same_line_was_changed_since_somebody_decides(
    rolled: tuple[Shop, str], how: str, five: str, other: bool
) -> None:
    shop, operation = rolled
    now = _code(shop, line5="cinq", line40="forty")
    refused = shop.rfs("undo", operation, "-y", "--json")
    assert (refused.code, refused.data["error"]["key"]) == (15, "change.conflict")
    assert "tree code.txt" in refused.data["error"]["message"]
    assert shop.code.read_text() == now
    assert not (shop.tree / "other.txt").exists()
    shop.json("undo", operation, how, "-y")
    assert shop.code.read_text() == now.replace("cinq", five)
    assert (shop.tree / "other.txt").exists() is other


@pytest.mark.parametrize("what", ["binary", "mode", "gone", "link"])
def test_what_is_no_text_or_differs_otherwise_is_a_conflict_as_a_whole(rolled: tuple[Shop, str], what: str) -> None:
    shop, operation = rolled
    now = _code(shop, line40="forty")
    if what == "binary":
        shop.code.write_bytes(now.encode() + b"\0")
    elif what == "mode":
        shop.code.chmod(0o600)
    else:
        shop.code.unlink()
        if what == "link":
            shop.code.symlink_to("settings.toml")
    before = os.lstat(shop.code).st_mode if what != "gone" else None
    refused = shop.rfs("undo", operation, "-y", "--json")
    assert (refused.code, refused.data["error"]["key"]) == (15, "change.conflict")
    assert (os.lstat(shop.code).st_mode if os.path.lexists(shop.code) else None) == before
