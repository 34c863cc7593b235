"""Selective rollback: a file, a folder or a key goes back, with plan, safety checkpoint and undo; the rest stays."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cli_app import CommandLine
from small import Small

from rfs.production.rollback import RollbackManager
from rfs.production.rollback.application import Application
from rfs.production.rollback.catalog import Catalog
from rfs.production.rollback.errors import RevertedError

MORE = """
[components.rest]
kind = "environment"
path = "env"
depends_on = ["settings"]
"""


class Tree(Small, CommandLine):
    """An application with folders in it, and a way to run commands there."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str], more: str = "") -> None:
        (home / "tree" / "deep" / "er").mkdir(parents=True)
        (home / "tree" / "deep" / "a.txt").write_text("a 1\n")
        (home / "tree" / "deep" / "er" / "b.txt").write_text("b 1\n")
        os.link(home / "tree" / "deep" / "a.txt", home / "tree" / "deep" / "er" / "link")
        (home / "env").write_text("A=1\n")
        super().__init__(home, more=more)
        self._capsys = capsys

    def everything(self) -> dict[str, Any]:
        """All of the folder, with modes and times of files."""
        found: dict[str, Any] = {}
        for path in sorted(self.tree.rglob("*")):
            state = path.lstat()
            if path.name.startswith("small.db"):
                continue
            name = str(path.relative_to(self.tree))
            found[name] = (path.read_bytes(), state.st_mtime_ns, state.st_mode) if path.is_file() else state.st_mode
        return found

    def under(self, path: str) -> dict[str, Any]:
        return {name: each for name, each in self.everything().items() if name == path or name.startswith(path + "/")}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tree:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    (tmp_path / "app").mkdir()
    found = Tree(tmp_path / "app", capsys, MORE)
    monkeypatch.chdir(found.home)
    return found


def change_everything(tree: Tree) -> None:
    tree.version(2)
    (tree.tree / "deep" / "a.txt").write_text("a 2\n")
    (tree.tree / "deep" / "er" / "b.txt").unlink()
    (tree.tree / "deep" / "er" / "new.txt").write_text("new\n")
    (tree.tree / "deep" / "er").chmod(0o700)


SELECTED = ["deep", "only-in-2.txt"]
MORE_SELECTED = ["code.txt", "deep/er", "deep/er/b.txt", "only-in-1.txt", "deep/er/new.txt"]


@pytest.mark.parametrize("path", [*SELECTED, *(pytest.param(each, marks=pytest.mark.slow) for each in MORE_SELECTED)])
def test_a_path_goes_back_and_nothing_else(tree: Tree, path: str) -> None:
    wanted = tree.under(path)
    first = tree.json("checkpoint")["id"]
    change_everything(tree)
    before, rows = tree.everything(), tree.state()["rows"]
    planned = tree.json("plan", first, "--path", f"tree/{path}")
    keys = {each["key"] for each in planned["changes"]["tree"]}
    assert keys
    assert all(key == path or key.startswith(path + "/") for key in keys)
    assert planned["components"] == ["tree"]
    done = tree.json("rollback", first, "--path", f"tree/{path}", "--reason", "x", "-y")
    assert done["selection"] == {"tree": [path]}
    assert tree.under(path) == wanted
    # Hard links lead out of what was chosen: the content under another name is not touched.
    rest = {name: each for name, each in tree.everything().items() if name not in wanted}
    assert rest == {name: each for name, each in before.items() if name in rest}
    assert before.keys() - tree.under(path).keys() - rest.keys() == before.keys() - wanted.keys() - rest.keys()
    assert tree.state()["rows"] == rows
    (tree.tree / "later.txt").write_text("later\n")
    tree.json("undo", "-y")
    assert {name: each for name, each in tree.everything().items() if name != "later.txt"} == before
    assert (tree.tree / "later.txt").exists()
    tree.json("redo", "-y")
    assert tree.under(path) == wanted


def test_a_key_goes_back_and_comments_and_later_keys_stay(tree: Tree) -> None:
    settings = tree.tree / "settings.toml"
    settings.write_text("# kept\nversion = 1\n[server]\nport = 80 # usual\nhost = 'a'\n")
    first = tree.json("checkpoint")["id"]
    settings.write_text("# other\nversion = 2\n[server]\nport = 81 # new\nhost = 'b'\nadded = 1\n")
    planned = tree.json("plan", first, "--key", "server.port")
    assert [each["key"] for each in planned["changes"]["settings"]] == ["server.port"]
    assert any("Only a part of settings goes back: 3 other changes" in each for each in planned["warnings"])
    tree.json("rollback", first, "--key", "server.port", "--key", "settings:server.added", "--reason", "x", "-y")
    assert settings.read_text() == "# other\nversion = 2\n[server]\nport = 80 # new\nhost = 'b'\n"
    settings.write_text(settings.read_text().replace("version = 2", "version = 3"))
    tree.json("undo", "-y")
    assert settings.read_text() == "# other\nversion = 3\n[server]\nport = 81 # new\nhost = 'b'\nadded = 1\n"
    assert "server.port" in tree.rfs("log").out
    assert "server.port" in tree.rfs("show").out


REFUSED = [
    (("--path", "tree/nothing"), "select.none"),
    (("--path", "tree"), "select.where"),
    (("--path", "elsewhere"), "select.where"),
    (("--path", "tree/\udcff"), "select.none"),
    (("--path", "tree/settings.toml"), "select.where"),
    (("--key", "nothing.here"), "select.none"),
    (("--key", "db:t"), "select.none"),
    (("--key", 'a."b'), "usage"),
    (("--table", "nothing"), "select.none"),
    (("--table", "settings:t"), "select.none"),
    (("--table", "sqlite_schema"), "select.table"),
]


def test_what_cannot_be_chosen_is_refused_and_nothing_is_changed(tree: Tree) -> None:
    first = tree.json("checkpoint")["id"]
    change_everything(tree)
    before = tree.everything()
    for words, key in REFUSED:
        ran = tree.rfs("rollback", first, *words, "--reason", "x", "-y", "--json")
        assert ran.data["error"]["key"] == key, words
    assert tree.everything() == before
    assert tree.json("log") == []


def test_a_plan_says_what_belongs_together(tree: Tree) -> None:
    first = tree.json("checkpoint")["id"]
    (tree.home / "env").write_text("A=2\n")
    change_everything(tree)
    told = tree.json("plan", first, "--key", "version")["warnings"]
    assert any("rest belongs to what goes back" in each and "--only settings,rest" in each for each in told)
    (tree.home / "env").write_text("A=1\n")
    tree.rfs("rollback", first, "--only", "rest", "--reason", "x", "-y")
    told = tree.json("plan", first, "--key", "version")["warnings"]
    assert not any("belongs to what goes back" in each for each in told)


def test_what_is_written_until_the_stop_to_the_rest_stays_and_a_failure_brings_everything_back(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tree.json("checkpoint")["id"]
    change_everything(tree)
    real = Application._carry_out

    def late(app: Application, *words: Any, **facts: Any) -> Any:
        (tree.tree / "late.txt").write_text("late\n")
        (tree.tree / "code.txt").write_text("late\n")
        return real(app, *words, **facts)

    monkeypatch.setattr(Application, "_carry_out", late)
    tree.json("rollback", first, "--path", "tree/deep", "--reason", "x", "-y")
    assert ((tree.tree / "late.txt").read_text(), (tree.tree / "code.txt").read_text()) == ("late\n", "late\n")
    assert (tree.tree / "deep" / "a.txt").read_text() == "a 1\n"
    monkeypatch.undo()
    monkeypatch.chdir(tree.home)
    before = tree.everything()
    with tree.open() as app:
        driver = app.parts["tree"].driver
        monkeypatch.setattr(driver, "verify", _once(driver.verify))
        with pytest.raises(RevertedError):
            app.rollback(first, selection={"tree": ["code.txt"]})
    assert tree.everything() == before


def _once(verify: Any) -> Any:
    asked: list[bool] = []

    def failing(*words: Any) -> Any:
        asked.append(True)
        if len(asked) == 1:
            raise RevertedError("rollback.reverted", kind="x", why="y", hint="")
        return verify(*words)

    return failing


def die_at(write: int) -> None:
    """Let this process be killed after so many commits."""
    calls = 0
    real = Catalog._change

    def deadly(self: Catalog, act: Any, *, frees: bool = False) -> None:
        nonlocal calls
        calls += 1
        real(self, act, frees=frees)
        if calls == write:
            os.kill(os.getpid(), signal.SIGKILL)

    Catalog._change = deadly  # type: ignore[method-assign]  # in a child, which is to be killed


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_commit_it_is_old_or_new(tree: Tree, every: int) -> None:
    first = tree.json("checkpoint")["id"]
    change_everything(tree)
    before, wanted = tree.everything(), None
    for write in range(1, 100, every):
        child = os.fork()
        if child == 0:
            die_at(write)
            with tree.open() as app:
                app.rollback(first, selection={"tree": ["deep"]})
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        tree.rfs("recover", "--json")
        now = tree.everything()
        if now != before:
            assert (tree.tree / "deep" / "er" / "b.txt").read_text() == "b 1\n"
            assert wanted is None or now == wanted
            assert {n for n in now if not n.startswith("deep")} == {n for n in before if not n.startswith("deep")}
            wanted = now
            tree.json("undo", "-y")
            assert tree.everything() == before
        if not killed:
            break
    assert wanted is not None


def test_differences_are_counted_and_shown_as_text_without_secrets(tree: Tree) -> None:
    (tree.tree / "conf.sh").write_text("export PORT=1\nexport DB_PASSWORD=hunter1\n")
    (tree.tree / "binary").write_bytes(b"\0one")
    first = tree.json("checkpoint")["id"]
    change_everything(tree)
    (tree.tree / "conf.sh").write_text("export PORT=2\nexport DB_PASSWORD=hunter2\n")
    (tree.tree / "binary").write_bytes(b"\0two")
    (tree.tree / "pipe").unlink(missing_ok=True)
    os.mkfifo(tree.tree / "pipe")
    counts = tree.json("changes", "--stat")
    assert (counts["settings"]["changed"], counts["db"]["added"]) == (2, 1), counts
    assert counts["tree"]["removed"] == 2
    texts = {
        each["key"]: each.get("text") for each in tree.json("diff", first, "--text") if each["component"] == "tree"
    }
    assert texts["deep/a.txt"] == ["--- deep/a.txt", "+++ deep/a.txt", "@@ -1 +1 @@", "-a 1", "+a 2"]
    assert texts["conf.sh"][3:] == ["-export PORT=1", "+export PORT=2", " ••••"]
    assert texts["deep/er/b.txt"][1] == "+++ /dev/null"
    assert texts["binary"] is texts["pipe"] is texts["deep/er"] is None
    shown = tree.rfs("diff", first, "--text", "-v").out
    assert "+a 2" in shown
    assert "hunter" not in shown
    tree.json("rollback", first, "--path", "tree/deep", "--reason", "x", "-y")
    made = tree.json("changes", "@latest", "--text")
    assert {each["key"].split("/")[0] for each in made} == {"deep"}
    assert next(each["text"] for each in made if each["key"] == "deep/a.txt")[-2:] == ["-a 2", "+a 1"]
    later = tree.json("checkpoint")["id"]
    assert tree.json("diff", first, later, "--text", "--only", "settings")[0].get("text") is None
    assert tree.rfs("changes", "--exit-code").code == 0
    assert tree.rfs("diff", first, "--exit-code").code == 15


def two_rollbacks(tree: Tree) -> tuple[str, str]:
    """Roll two parts of the tree back, one after the other; return the operations."""
    first = tree.json("checkpoint")["id"]
    change_everything(tree)
    words = ("--only", "tree,settings", "--reason", "x", "-y")
    older = tree.json("rollback", first, *words)["rollback_id"]
    (tree.tree / "code.txt").write_text("later\n")
    second = tree.json("checkpoint")["id"]
    (tree.tree / "code.txt").write_text("last\n")
    return older, tree.json("rollback", second, "--path", "tree/code.txt", "--reason", "y", "-y")["rollback_id"]


def test_an_operation_that_is_not_the_newest_is_undone_and_what_came_since_stays(tree: Tree) -> None:
    older, _ = two_rollbacks(tree)
    settings = tree.tree / "settings.toml"
    settings.write_text(settings.read_text() + "later = 1\n")
    (tree.tree / "deep" / "later.txt").write_text("later\n")
    (tree.tree / "only-in-1.txt").write_text("somebody else's\n")
    ran = tree.rfs("undo", older, "-y", "--json")
    assert (ran.code, ran.data["error"]["key"]) == (15, "change.conflict")
    assert "only-in-1.txt: nothing before it, -rw" in ran.data["error"]["message"]
    assert tree.rfs("undo", older, "--dry-run").code == 15
    assert (tree.tree / "deep" / "a.txt").read_text() == "a 1\n"
    tree.json("undo", older, "-y", "--ours")
    assert (tree.tree / "code.txt").read_text() == "later\n"
    assert (tree.tree / "deep" / "a.txt").read_text() == "a 2\n"
    assert (tree.tree / "deep" / "later.txt").read_text() == "later\n"
    assert (tree.tree / "only-in-1.txt").read_text() == "somebody else's\n"
    assert (tree.tree / "only-in-2.txt").read_text() == "2\n"
    assert not (tree.tree / "deep" / "er" / "b.txt").exists()
    assert "version = 2" in settings.read_text()
    tree.json("redo", "-y")
    assert (tree.tree / "deep" / "a.txt").read_text() == "a 1\n"
    tree.json("undo", older, "-y", "--theirs")
    assert not (tree.tree / "only-in-1.txt").exists()
    assert (tree.tree / "code.txt").read_text() == "version 2\n" * 50
    assert (tree.tree / "deep" / "later.txt").read_text() == "later\n"


def test_the_newest_operation_is_undone_wholly_and_so_is_a_folder_that_nobody_touched_since(tree: Tree) -> None:
    older, newest = two_rollbacks(tree)
    tree.json("undo", newest, "-y")
    assert (tree.tree / "code.txt").read_text() == "last\n"
    tree.json("undo", older, "-y")  # which is the newest one that stands, now
    assert (tree.tree / "code.txt").read_text() == "version 2\n" * 50
    assert (tree.tree / "deep" / "er" / "new.txt").exists()
    gone = tree.json("checkpoint")["id"]
    (tree.tree / "fresh" / "inner").mkdir(parents=True)
    (tree.tree / "fresh" / "inner" / "x").write_text("x\n")
    kept = tree.everything()
    removing = tree.json("rollback", gone, "--only", "tree", "--reason", "x", "-y")["rollback_id"]
    tree.json("rollback", gone, "--path", "tree/code.txt", "--reason", "x", "-y")
    tree.json("undo", removing, "-y")
    assert tree.under("fresh") == {name: each for name, each in kept.items() if name.startswith("fresh")}


def test_an_undo_after_a_crash_is_of_the_rollback_that_was_interrupted(tree: Tree) -> None:
    first = tree.json("checkpoint")["id"]
    change_everything(tree)
    before = tree.everything()
    child = os.fork()
    if child == 0:
        die_at(14)
        with tree.open() as app:
            app.rollback(first, selection={"tree": ["deep"]})
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    with tree.open() as app:
        assert app.catalog.open_operation() is not None
    tree.json("undo", "-y")
    assert tree.everything() == before
    assert [each["kind"] for each in tree.json("log")] == ["undo", "rollback"]


def test_a_plan_of_a_part_is_written_and_carried_out(tree: Tree) -> None:
    first = tree.json("checkpoint")["id"]
    change_everything(tree)
    tree.json("plan", first, "--path", "tree/deep", "--out", "plan.json")
    words = ("rollback", "--plan", "plan.json", "--reason", "x", "-y")
    assert tree.rfs(*words, "--path", "tree/deep").code == 2
    assert tree.json(*words, "--dry-run")["selection"] == {"tree": ["deep"]}
    tree.json(*words)
    assert (tree.tree / "deep" / "a.txt").read_text() == "a 1\n"
    assert not tree.is_at(1)


def test_from_python_it_is_the_same(tree: Tree) -> None:
    async def story() -> None:
        manager = RollbackManager(tree.home / "rfs.toml")
        first = (await manager.create_checkpoint("one")).unwrap()
        change_everything(tree)
        plan = (await manager.plan(first, paths=["tree/deep"], keys=["version"])).unwrap()
        assert plan.selection == {"tree": ("deep",), "settings": ("version",)}
        older = (await manager.rollback_to_checkpoint(first, paths=["tree/deep"])).unwrap()["rollback_id"]
        assert (tree.tree / "deep" / "a.txt").read_text() == "a 1\n"
        assert not tree.is_at(1)
        (await manager.rollback_to_checkpoint(first, paths=["tree/code.txt"])).unwrap()
        (tree.tree / "deep" / "a.txt").write_text("a 3\n")
        assert (await manager.undo(operation=older)).error.key == "change.conflict"
        (await manager.undo(operation=older, conflicts="ours")).unwrap()
        assert (tree.tree / "deep" / "a.txt").read_text() == "a 3\n"
        assert (tree.tree / "deep" / "er" / "new.txt").exists()
        (await manager.redo()).unwrap()
        assert not (tree.tree / "deep" / "er" / "new.txt").exists()
        assert (await manager.redo()).is_failure()

    asyncio.run(story())


def test_a_key_with_a_dot_in_its_name_goes_back_alone(tree: Tree) -> None:
    settings = tree.tree / "settings.toml"
    settings.write_text('version = 1\n[hosts."a.example"]\nport = 1\n[hosts.a]\nexample = 1\n')
    first = tree.json("checkpoint")["id"]
    settings.write_text(settings.read_text().replace("= 1", "= 2"))
    assert 'hosts."a.example".port' in tree.rfs("diff", first).out
    tree.json("rollback", first, "--key", 'hosts."a.example".port', "--reason", "x", "-y")
    assert settings.read_text() == 'version = 2\n[hosts."a.example"]\nport = 1\n[hosts.a]\nexample = 2\n'
    tree.json("rollback", first, "--key", 'settings:hosts."a.example"', "--key", "hosts.a", "--reason", "x", "-y")
    assert settings.read_text().startswith("version = 2\n")
    tree.json("undo", "-n", "2", "-y")
    assert settings.read_text().count("= 2") == 3


@pytest.mark.parametrize("name", [os.fsdecode(b"tree/caf\xe9"), "tree/caf\\xe9"], ids=["as it is", "as it is shown"])
def test_a_name_that_is_no_utf_8_goes_back_alone(tree: Tree, name: str) -> None:
    odd, spelled = (Path(os.fsdecode(os.path.join(os.fsencode(tree.tree), each))) for each in (b"caf\xe9", b"caf\\xe9"))
    odd.write_text("1\n")
    first = tree.json("checkpoint")["id"]
    odd.write_text("2\n")
    tree.version(2)
    done = tree.json("rollback", first, "--path", name, "--reason", "x", "-y")
    assert odd.read_text() == "1\n"
    assert not tree.is_at(1)
    tree.json("undo", done["rollback_id"], "-y")
    assert odd.read_text() == "2\n"
    # Another file that is really called as this one is shown: nobody guesses.
    spelled.write_text("3\n")
    assert "Two names are shown alike" in tree.rfs("rollback", first, "--path", name, "--reason", "x", "-y").err
    assert (odd.read_text(), spelled.read_text()) == ("2\n", "3\n")
