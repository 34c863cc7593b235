"""Undo against a model: any sequence of changes, undos, redos, undos of a component and edits of others, and kills."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import Small

from rfs.production.rollback.application import Application
from rfs.production.rollback.changelog import ChangeLog
from rfs.production.rollback.errors import ConflictError, NotFoundError, RollbackError
from rfs.production.rollback.ledger import Ledger
from rfs.production.rollback.restoring import restorer_of
from rfs.production.rollback.undo import undo
from rfs.production.rollback.undoing import to_redo

# A key, a key in a table, a text, a row: the component of each, and its key.
THINGS = [("settings", "a"), ("settings", "b.c"), ("file", "tree/code.txt"), ("db", {"table": "t", "pk": 1})]
REST = "one\none\n\none\none\n"  # the same lines again and again, so that a merge could mistake them


class World:
    """The four things and, beside each, something that only others change (`noise`)."""

    def __init__(self, shop: Small, app: Application, log: ChangeLog) -> None:
        self.shop, self.app, self.log = shop, app, log
        self.now = [0, 0, 0, 0]
        self.noise = 0
        self.changes: list[list[Any]] = []  # [thing, old, new, stands, id], in the order of the log
        self.taken: list[list[Any]] = []  # what `redo` would make again, the last one last
        self.write()

    def write(self) -> None:
        a, c, text, row = self.now
        self.shop.tree.joinpath("settings.toml").write_text(
            f"# kept\na = {a} # a\nnoise = {self.noise}\n[b]\nc = {c}\n"
        )
        self.shop.tree.joinpath("code.txt").write_text(self.text(text))
        with closing(sqlite3.connect(self.shop.tree / "small.db")) as db, db:
            db.execute("UPDATE t SET v = ?, w = ? WHERE n = 1", (row, self.noise))

    def text(self, value: int) -> str:
        return f"{value}\n{REST}noise {self.noise}\n"

    def require(self) -> None:
        a, c, text, row = self.now
        found = self.shop.tree.joinpath("settings.toml").read_text()
        assert found == f"# kept\na = {a} # a\nnoise = {self.noise}\n[b]\nc = {c}\n"
        assert self.shop.tree.joinpath("code.txt").read_text() == self.text(text)
        with closing(sqlite3.connect(self.shop.tree / "small.db")) as db:
            assert db.execute("SELECT v, w FROM t WHERE n = 1").fetchone() == (row, self.noise)

    # — what happens —

    def change(self, thing: int, value: int) -> None:
        old = self.now[thing]
        shape: Callable[[int], Any] = (int, int, self.text, lambda n: {"v": n, "w": self.noise})[thing]
        component, key = THINGS[thing]
        self.now[thing] = value
        self.write()
        id_ = self.log.track(component, "x", shape(old), shape(value), key).change_id
        self.changes.append([thing, old, value, True, id_])
        self.taken = []

    def others(self, thing: int, value: int) -> None:
        self.now[thing] = value
        self.noise += 1
        self.write()

    def undo(self, number: int, component: str | None = None) -> None:
        able = [c for c in reversed(self.changes) if c[3] and component in (None, THINGS[c[0]][0])]
        if len(able) < number:
            with pytest.raises(NotFoundError):
                undo(self.app, number, component=component)
            return
        self.take(able[:number], partial(undo, self.app, number, component=component))

    def undo_one(self, which: int) -> None:
        if self.changes:
            chosen = self.changes[which % len(self.changes)]
            if chosen[3]:
                self.take([chosen], partial(undo, self.app, operation=chosen[4]))
            else:
                with pytest.raises(ConflictError):
                    undo(self.app, operation=chosen[4])

    def take(self, chosen: list[list[Any]], act: Callable[[], Any]) -> None:
        """Take changes back, in the model and in the world."""
        seen: set[int] = set()
        clear = True
        for thing, old, new, _, _ in chosen:  # what is hidden by a newer one of the same thing cannot be seen yet
            clear = clear and (thing in seen or self.now[thing] in (old, new))
            seen.add(thing)
        for change in chosen if clear else []:
            thing, old, new, _, _ = change
            clear = clear and self.now[thing] in (old, new)
            if clear:
                self.now[thing], change[3] = old, False
                self.taken.append(change)
        if clear:
            act()
        else:
            with pytest.raises(ConflictError):
                act()

    def redo(self) -> None:
        if not self.taken:
            with pytest.raises(NotFoundError):
                to_redo(self.app.log)
            return
        thing, old, new, _, _ = change = self.taken[-1]
        act = partial(undo, self.app, operation=to_redo(self.app.log))
        if self.now[thing] not in (old, new):
            with pytest.raises(ConflictError):
                act()
            return
        act()
        self.now[thing], change[3] = new, True
        self.taken.pop()

    def step(self, what: str, thing: int, value: int) -> None:
        if what == "change":
            self.change(thing, value)
        elif what == "others":
            self.others(thing, value)
        elif what == "undo":
            self.undo(1 + value % 2)
        elif what == "component":
            self.undo(1, THINGS[thing][0])
        elif what == "one":
            self.undo_one(thing)
        elif what == "redo":
            self.redo()
        else:
            before, known = [*self.now], len(self.taken)
            self.undo(1)
            if len(self.taken) > known:
                thing, _, new, _, _ = self.taken[-1]
                self.redo()
                assert self.now == before or before[thing] != new
        self.require()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    found = Small(tmp_path / "shop")
    with closing(sqlite3.connect(found.tree / "small.db")) as db, db:
        db.execute("ALTER TABLE t ADD COLUMN w")
    return found


WHAT = ["change", "change", "change", "others", "undo", "component", "one", "redo", "identity"]
STEPS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=14)


@pytest.mark.parametrize("examples", [8, pytest.param(150, marks=pytest.mark.slow)])
def test_any_sequence_equals_the_model(tmp_path: Path, shop: Small, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(STEPS)
    def check(steps: list[tuple[str, int, int]]) -> None:
        for path in shop.store.glob("ledger.db*"):
            path.unlink()
        with shop.open() as app, ChangeLog(app, partial(restorer_of, app)) as log:
            world = World(shop, app, log)
            for what, thing, value in steps:
                world.step(what, thing, value)

    check()


KILLED = [(0, False), (2, False), (3, False), (2, True)]
MORE_KILLED = [(1, False), (0, True), (1, True), (3, True)]


@pytest.mark.parametrize(
    ("thing", "redo"), [*KILLED, *(pytest.param(*each, marks=pytest.mark.slow) for each in MORE_KILLED)]
)
def test_killed_between_effect_and_record_and_somebody_else_was_quicker(
    shop: Small, thing: int, redo: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.open() as app, ChangeLog(app, partial(restorer_of, app)) as log:
        world = World(shop, app, log)
        world.change(thing, 1)
        world.others(3 - thing, 7)  # so that it has to be merged
        if redo:
            world.undo(1)
        act = partial(undo, app, operation=to_redo(app.log) if redo else None)
        child = os.fork()
        if child == 0:
            kill_before_the_record()
            with shop.open() as mine:
                undo(mine, operation=to_redo(mine.log) if redo else None)
            os._exit(1)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        world.now[thing] = 1 if redo else 0
        world.require()
        with shop.open() as fresh:
            assert fresh.recover() == []
            world.require()
            if not redo:
                with pytest.raises(RollbackError):
                    to_redo(fresh.log)
        act()
        world.require()
        world.now[thing] = 0 if redo else 1
        again = undo if redo else partial(undo, operation=to_redo(app.log))
        again(app)
        world.require()
        world.others(3 - thing, 8)
        world.require()


def kill_before_the_record() -> None:
    real = Ledger.write

    def deadly(self: Ledger, *changes: Any) -> None:
        if any(getattr(change, "log", "") == "operations" for change in changes):
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, *changes)

    Ledger.write = deadly  # type: ignore[method-assign]  # in a child, which is to be killed


def test_a_text_that_was_merged_is_known_again_where_merging_it_again_would_be_a_conflict(shop: Small) -> None:
    code = shop.tree / "code.txt"
    with shop.open() as app, ChangeLog(app, partial(restorer_of, app)) as log:
        log.track("file", "x", "a\n", "b\nb\na\n", "tree/code.txt")
        code.write_text("b\nb\na\nb\n")
        child = os.fork()
        if child == 0:
            kill_before_the_record()
            with shop.open() as mine:
                undo(mine)
            os._exit(1)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert code.read_text() == "a\nb\n"
        undo(app)
        assert code.read_text() == "a\nb\n"
        assert list(log.standing()) == []
