"""IncrementalRollback: the last changes, taken back one by one."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import Small

from rfs.core.result import Failure
from rfs.production.rollback import IncrementalRollback
from rfs.production.rollback.changelog import ChangeLog
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.ledger import Ledger


class Shop(Small):
    """An application, its changes, and quick ways to make some."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.changes = IncrementalRollback(home)
        self.settings = self.tree / "settings.toml"

    def track(self, *words: Any, key: Any = None) -> str:
        found: str = run(self.changes.track_change(*words, key=key)).unwrap()
        return found

    def row(self, pk: int) -> Any:
        with closing(sqlite3.connect(self.tree / "small.db")) as db:
            return db.execute("SELECT v FROM t WHERE n = ?", (pk,)).fetchone()

    def sql(self, statement: str) -> None:
        with closing(sqlite3.connect(self.tree / "small.db")) as db, db:
            db.execute(statement)

    def set_version(self, number: int) -> None:
        self.settings.write_text(self.settings.read_text().replace("version = 1", f"version = {number}"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    monkeypatch.chdir(tmp_path)
    return Shop(tmp_path / "shop")


def run(call: Any) -> Any:
    return asyncio.run(call)


def three(shop: Shop) -> list[str]:
    """Change a setting, a file and a row, and track it."""
    shop.set_version(2)
    first = shop.track("configuration", "update", 1, 2, key="version")
    (shop.tree / "code.txt").write_bytes(b"\xffnew")
    second = shop.track("file", "update", "version 1\n" * 50, b"\xffnew", key="tree/code.txt")
    shop.sql("UPDATE t SET v = 'new' WHERE n = 1")
    old, new = {"n": 1, "v": "row of version 1"}, {"n": 1, "v": "new"}
    return [first, second, shop.track("database", "update", old, new, key={"table": "t", "pk": 1})]


def test_the_last_changes_are_taken_back_newest_first(shop: Shop) -> None:
    before = {**shop.state(), "settings.toml": shop.settings.read_bytes(), "code.txt": shop.is_at(1)}
    ids = three(shop)
    log = IncrementalRollback(shop.home).change_log  # another process sees them
    assert [each["change_id"] for each in log] == ids
    assert (log[1]["old_value"], log[1]["new_value"]) == ("version 1\n" * 50, b"\xffnew")
    done = run(shop.changes.rollback_last_n_changes(2)).unwrap()
    assert done["rolled_back_count"] == 2
    assert [each["change_id"] for each in done["changes"]] == ids[:0:-1]
    assert shop.row(1) == ("row of version 1",)
    assert shop.is_at(1)
    assert "version = 2" in shop.settings.read_text()
    assert [each["change_id"] for each in shop.changes.change_log] == ids[:1]
    run(shop.changes.rollback_last_n_changes(1)).unwrap()
    after = {**shop.state(), "settings.toml": shop.settings.read_bytes(), "code.txt": shop.is_at(1)}
    assert after == before
    assert [each["change_id"] for each in shop.changes.undone_log] == ids[::-1]


def test_a_component_is_taken_back_and_the_others_stay(shop: Shop) -> None:
    three(shop)
    shop.set_version(3)
    shop.settings.write_text(shop.settings.read_text().replace("version = 2", "version = 3"))
    shop.track("configuration", "update", 2, 3, key="version")
    done = run(shop.changes.rollback_component("configuration")).unwrap()
    assert done == {"component": "configuration", "rolled_back_count": 2}
    assert shop.settings.read_text() == "# kept\nversion = 1\npassword = 'hunter1'\n"
    assert (shop.tree / "code.txt").read_bytes() == b"\xffnew"
    assert [each["component"] for each in shop.changes.change_log] == ["file", "database"]


@pytest.mark.parametrize(("number", "key"), [(0, "usage"), (-1, "usage"), (True, "usage"), (4, "change.too_few")])
def test_a_wrong_number_touches_nothing(shop: Shop, number: int, key: str) -> None:
    three(shop)
    found = run(shop.changes.rollback_last_n_changes(number))
    assert found.error.key == key
    if number == 4:
        assert "only 3 tracked changes" in str(found.error)
    assert len(shop.changes.change_log) == 3
    assert run(shop.changes.rollback_component("nothing")).error.key == "change.none"


def test_a_conflict_is_reported_before_anything_is_touched_and_forced_only_when_asked(shop: Shop) -> None:
    three(shop)
    shop.settings.write_text("version = 9\n")
    found = run(shop.changes.rollback_last_n_changes(3))
    assert (found.error.key, found.error.code) == ("change.conflict", 15)
    assert "Nothing was changed." in found.error.hint
    assert shop.row(1) == ("new",)
    assert len(shop.changes.change_log) == 3
    run(shop.changes.rollback_last_n_changes(3, force=True)).unwrap()
    assert shop.settings.read_text() == "version = 1\n"
    assert shop.row(1) == ("row of version 1",)


@pytest.mark.parametrize("what", ["file", "row"])
def test_a_conflict_in_a_file_or_a_row(shop: Shop, what: str) -> None:
    three(shop)
    if what == "row":
        shop.sql("UPDATE t SET v = 'other' WHERE n = 1")
    else:
        (shop.tree / "code.txt").write_text("other")
    assert run(shop.changes.rollback_last_n_changes(3)).error.key == "change.conflict"
    assert len(shop.changes.change_log) == 3


def test_a_conflict_that_a_newer_change_hid_stops_there_and_says_what_was_taken_back(shop: Shop) -> None:
    key = {"table": "t", "pk": 1}
    tracked = [
        ("settings", "version", 0, 2, 5, 1),  # something else set 5 between the two changes
        ("file", "tree/code.txt", "x", "y", "z", "version 1\n" * 50),
        ("db", key, {"v": "x"}, {"v": "y"}, {"v": "z"}, {"v": "row of version 1"}),
    ]
    for component, place, first, second, third, now in tracked:
        older = shop.track(component, "x", first, second, key=place)
        newer = shop.track(component, "x", third, now, key=place)
        found = run(shop.changes.rollback_component(component))
        assert found.error.key == "change.conflict"
        assert newer in found.error.hint
        assert [each["change_id"] for each in shop.changes.change_log] == [older]
        run(shop.changes.rollback_component(component, force=True)).unwrap()
    assert (shop.tree / "code.txt").read_text() == "x"
    assert shop.row(1) == ("x",)


def test_what_was_added_goes_and_what_was_removed_comes_back(shop: Shop) -> None:
    (shop.tree / "new.txt").write_text("x")
    shop.track("file", "create", None, "x", key=str(shop.tree / "new.txt"))
    (shop.tree / "only-in-1.txt").unlink()
    shop.track("file", "delete", b"1\n", None, key="tree/only-in-1.txt")
    shop.sql("INSERT INTO t VALUES (7, x'00ff')")
    shop.track("db", "insert", None, {"n": 7, "v": b"\x00\xff"}, key={"table": "t", "pk": {"n": 7}})
    shop.sql("DELETE FROM t WHERE n = 1")
    shop.track("db", "delete", {"v": "row of version 1"}, None, key={"table": "t", "pk": 1})
    shop.settings.write_text(shop.settings.read_text() + "added = [1]\n")
    shop.track("settings", "add", None, [1], key="added")
    run(shop.changes.rollback_last_n_changes(5)).unwrap()
    assert not (shop.tree / "new.txt").exists()
    assert (shop.tree / "only-in-1.txt").read_text() == "1\n"
    assert (shop.row(7), shop.row(1)) == (None, ("row of version 1",))
    assert "added" not in shop.settings.read_text()


def test_a_function_takes_back_what_nothing_else_can(shop: Shop) -> None:
    cache = {"size": 9}

    async def restore(change: dict[str, Any]) -> None:
        await asyncio.sleep(0)  # gives the loop a turn, so that it is one that has to be awaited
        cache[change["key"]] = change["old_value"]

    assert run(shop.changes.track_change("cache", "resize", 1, 9, key="size")).error.key == "change.no_restorer"
    shop.changes.register_restorer("cache", restore, get=cache.get)
    shop.track("cache", "resize", 1, 9, key="size")
    cache["size"] = 5
    assert run(shop.changes.rollback_component("cache")).error.key == "change.conflict"
    cache["size"] = 9
    run(shop.changes.rollback_component("cache")).unwrap()
    assert cache == {"size": 1}
    shop.changes.register_restorer("cache", lambda change: cache.update(size=change["old_value"]))
    shop.track("cache", "resize", 4, 1)
    run(shop.changes.rollback_component("cache")).unwrap()
    assert cache == {"size": 4}


@pytest.mark.parametrize(("position", "how"), [(0, ValueError("no")), (1, False), (2, Failure("no"))])
def test_a_failing_undo_loses_nothing_wherever_it_fails(shop: Shop, position: int, how: Any) -> None:
    def restore(change: dict[str, Any]) -> Any:
        if change["key"] == position and failing:
            if isinstance(how, Exception):
                raise how
            return how
        done.append(change["key"])
        return None

    done: list[int] = []
    failing = True
    shop.changes.register_restorer("thing", restore)
    ids = [shop.track("thing", "x", None, None, key=number) for number in range(3)]
    found = run(shop.changes.rollback_last_n_changes(3))
    assert found.error.key == "change.failed"
    assert found.error.fields["undone"] == ids[:position:-1]
    assert [each["change_id"] for each in shop.changes.change_log] == ids[: position + 1]
    failing = False
    run(shop.changes.rollback_last_n_changes(position + 1)).unwrap()
    assert done == [2, 1, 0]


REFUSED: list[tuple[str, Any, Any, Any, str]] = [
    ("file", {1, 2}, "x", "a", "usage.json"),
    ("file", 1, "x", "a", "change.value"),
    ("file", "x", "y", None, "change.value"),
    ("file", "x", "y", ".rfs/lock", "change.value"),
    ("configuration", 1, 2, "a..b", "change.value"),
    ("configuration", 1, 2, None, "change.value"),
    ("configuration", b"x", 2, "a", "change.value"),
    ("configuration", 1, float("nan"), "a", "usage.json"),
    ("database", None, None, {"table": "t", "pk": 1}, "change.value"),
    ("database", None, {"v": 1}, {"table": "t"}, "change.value"),
    ("database", None, {"v": [1]}, {"table": "t", "pk": 1}, "change.value"),
    ("tree", 1, 2, "a", "change.no_restorer"),
]


def test_what_could_not_be_taken_back_is_not_tracked(shop: Shop) -> None:
    for component, old, new, key, error in REFUSED:
        assert run(shop.changes.track_change(component, "x", old, new, key=key)).error.key == error, (component, key)
    assert shop.changes.change_log == []


@pytest.mark.parametrize("force", [False, True])
def test_a_key_that_names_several_rows_changes_none(shop: Shop, force: bool) -> None:
    shop.sql("INSERT INTO t VALUES (8, 'same'), (9, 'same')")
    shop.track("database", "update", {"v": "old"}, {"v": "same"}, key={"table": "t", "pk": {"v": "same"}})
    found = run(shop.changes.rollback_last_n_changes(1, force=force))
    assert "names 2 rows" in str(found.error)
    assert (shop.row(8), shop.row(9)) == (("same",), ("same",))
    assert len(shop.changes.change_log) == 1


def test_values_are_sealed_in_the_store(shop: Shop) -> None:
    shop.track("file", "x", None, b"s3cret s3cret", key="a")
    assert b"s3cret" not in b"".join(path.read_bytes() for path in shop.store.glob("ledger.db*"))


def test_without_rfs_toml_it_has_a_store_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("new")
    run(IncrementalRollback().track_change("file", "x", "old", "new", key="a.txt")).unwrap()
    with closing(sqlite3.connect("own.db")) as db, db:
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, v)")
    key = {"table": "t", "pk": 1, "path": "own.db"}
    run(IncrementalRollback().track_change("database", "x", {"v": 1}, None, key=key)).unwrap()
    run(IncrementalRollback().rollback_last_n_changes(2)).unwrap()
    assert (tmp_path / "a.txt").read_text() == "old"
    with closing(sqlite3.connect("own.db")) as db:
        assert db.execute("SELECT * FROM t").fetchall() == [(1, 1)]


@pytest.mark.parametrize("write", range(1, 4))
@pytest.mark.parametrize("after", [False, True])
def test_killed_after_an_effect_and_before_its_record(shop: Shop, write: int, after: bool) -> None:
    before = (shop.settings.read_bytes(), shop.is_at(1), shop.row(1))
    three(shop)
    child = os.fork()
    if child == 0:
        calls = 0
        real = Ledger.write

        def deadly(self: Ledger, *changes: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == write and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, *changes)
            if calls == write:
                os.kill(os.getpid(), signal.SIGKILL)

        Ledger.write = deadly  # type: ignore[method-assign]  # in the child, which is to be killed
        run(shop.changes.rollback_last_n_changes(3))
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = len(shop.changes.change_log)
    assert left == 3 - write + (not after)
    if left:
        run(shop.changes.rollback_last_n_changes(left)).unwrap()
    assert (shop.settings.read_bytes(), shop.is_at(1), shop.row(1)) == before
    assert len(shop.changes.undone_log) == 3


STEPS = st.lists(
    st.tuples(st.sampled_from(["set", "set", "set", "last", "component"]), st.integers(0, 3), st.integers(0, 5)),
    max_size=10,
)
THINGS = [("settings", "a"), ("settings", "b.c"), ("file", "tree/code.txt"), ("database", {"table": "t", "pk": 1})]


class World:
    """Four things, the log of their changes, and what both should be: the value each thing had before each change."""

    def __init__(self, shop: Shop, log: ChangeLog) -> None:
        self.shop = shop
        self.log = log
        self.state = [0, 0, 0, 0]
        self.model: list[tuple[int, int]] = []
        self._write()

    def _write(self) -> None:
        a, c, code, row = self.state
        self.shop.settings.write_text(f"# kept\na = {a}\n[b]\nc = {c}\n")
        (self.shop.tree / "code.txt").write_text(str(code))
        self.shop.sql(f"UPDATE t SET v = {row} WHERE n = 1")

    def set(self, thing: int, value: int) -> None:
        old = self.state[thing]
        self.model.append((thing, old))
        self.state[thing] = value
        self._write()
        component, key = THINGS[thing]
        shape = (lambda n: n, lambda n: n, str, lambda n: {"v": n})[thing]
        self.log.track(component, "x", shape(old), shape(value), key)

    def take_back(self, meant: list[tuple[int, int]], undo: Callable[[], object]) -> None:
        if not meant:
            with pytest.raises(RollbackError):
                undo()
        else:
            undo()
        for thing, old in reversed(meant):
            self.state[thing] = old
        settings_text = self.shop.settings.read_text()
        a, c, code, row = self.state
        assert settings_text == f"# kept\na = {a}\n[b]\nc = {c}\n"
        assert ((self.shop.tree / "code.txt").read_text(), self.shop.row(1)) == (str(code), (row,))

    def last(self, number: int) -> None:
        meant = self.model[-number:] if 0 < number <= len(self.model) else []
        self.take_back(meant, lambda: self.log.undo_last(number))
        self.model = self.model[: len(self.model) - len(meant)]

    def component(self, thing: int) -> None:
        name = THINGS[thing][0]
        meant = [each for each in self.model if THINGS[each[0]][0] == name]
        self.take_back(meant, lambda: self.log.undo_component(name))
        self.model = [each for each in self.model if THINGS[each[0]][0] != name]


def test_any_sequence_equals_the_model(shop: Shop) -> None:
    with shop.open() as app, ChangeLog(app, shop.changes._restorers(app, None)) as log:

        @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(STEPS)
        def check(steps: list[tuple[str, int, int]]) -> None:
            world = World(shop, log)
            for what, thing, value in steps:
                if what == "set":
                    world.set(thing, value)
                elif what == "last":
                    world.last(value)
                else:
                    world.component(thing)
            world.last(len(world.model))
            assert world.state == [0, 0, 0, 0]

        check()
