"""`[track]`: what is edited outside of rfs is in the log with its time, and can be undone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from cli_app import CommandLine
from small import Small

from rfs.production.rollback import IncrementalRollback, tracking
from rfs.production.rollback.watching import Watcher

TRACK = """
[track]
components = ["tree", "settings"]
"""


class Site(Small, CommandLine):
    """An application whose folder and settings are tracked."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str], track: str = TRACK) -> None:
        super().__init__(home, more=track)
        self._capsys = capsys
        self.settings = self.tree / "settings.toml"
        self.code = self.tree / "code.txt"

    def look(self) -> list[dict[str, Any]]:
        """Compare once; return what was told."""
        ran = self.rfs("watch", "--once", "--json")
        assert ran.code == 0, ran
        return [json.loads(line) for line in ran.out.splitlines()]

    def edits(self) -> list[dict[str, Any]]:
        return [each for each in self.json("log") if each["kind"] == "edit"]

    def replace(self, old: str, new: str) -> None:
        self.settings.write_text(self.settings.read_text().replace(old, new))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Site:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    found = Site(tmp_path / "site", capsys)
    monkeypatch.chdir(found.home)
    assert found.look() == []
    return found


def test_an_edit_that_nobody_saw_is_found_with_honest_times_and_undone(site: Site) -> None:
    before = site.state()
    site.code.write_text("edited at night\n")
    (site.tree / "new.txt").write_text("new\n")
    (site.tree / "only-in-1.txt").chmod(0o600)
    site.replace("version = 1", "version = 7")
    told = site.look()
    assert [each["what"] for each in told] == ["edit", "edit"]
    by_name = {each["components"][0]: each for each in site.edits()}
    assert "code.txt, new.txt, only-in-1.txt, between 20" in by_name["tree"]["reason"]
    assert "version, between 20" in by_name["settings"]["reason"]
    assert {each["key"] for each in site.json("changes", by_name["tree"]["rollback_id"])} == {
        "code.txt",
        "new.txt",
        "only-in-1.txt",
    }
    shown = site.json("show", by_name["tree"]["rollback_id"])
    first, last = (datetime.fromisoformat(each) for each in shown["made"])
    assert first < last
    assert site.look() == []
    # What came since stays.
    site.replace("password", "secret")
    site.json("undo", by_name["settings"]["rollback_id"], "-y")
    assert site.settings.read_text() == "# kept\nversion = 1\nsecret = 'hunter1'\n"
    site.json("undo", by_name["tree"]["rollback_id"], "-y")
    after = site.state()
    assert {**after, "settings.toml": before["settings.toml"]} == before
    assert site.look() == []
    site.json("redo", "-y")
    assert (site.tree / "new.txt").exists()
    assert site.look() == []


def test_the_newest_edit_is_undone_without_what_is_not_recorded_yet(site: Site) -> None:
    site.code.write_text("edited\n")
    (edit,) = site.look()
    (site.tree / "later.txt").write_text("later\n")
    assert "later.txt" not in site.rfs("undo", "--dry-run").out
    site.json("undo", "-y")
    assert site.is_at(1)
    assert (site.tree / "later.txt").exists()
    assert site.look() == []  # the undo found it there, and kept it
    site.code.write_text("again\n")
    site.look()
    (site.tree / "last.txt").write_text("last\n")
    (last,) = site.look()
    assert "last.txt" in last["text"]
    assert edit["subject"] != last["subject"]
    site.json("undo", "-n", "2", "-y")
    assert site.is_at(1)
    assert not (site.tree / "last.txt").exists()
    assert (site.tree / "later.txt").exists()


def test_of_two_edits_of_one_text_the_first_is_undone_and_the_second_stays(site: Site) -> None:
    lines = [f"line {number}\n" for number in range(30)]
    site.code.write_text("".join(lines))
    site.look()
    (site.code).write_text("".join(lines).replace("line 3\n", "three\n"))
    (first,) = site.look()
    both = "".join(lines).replace("line 3\n", "three\n").replace("line 20\n", "twenty\n")
    site.code.write_text(both)
    (second,) = site.look()
    # And one more, which is in no log yet.
    site.code.write_text(both.replace("line 28\n", "28\n"))
    assert site.rfs("undo", first["subject"], "--dry-run").code == 0
    site.json("undo", first["subject"], "-y")
    assert site.code.read_text() == both.replace("three\n", "line 3\n").replace("line 28\n", "28\n")
    site.json("undo", second["subject"], "-y")
    assert site.code.read_text() == "".join(lines).replace("line 28\n", "28\n")


@pytest.mark.slow
def test_what_rfs_does_is_no_edit(site: Site) -> None:
    first = site.json("checkpoint")["id"]
    site.version(2)
    assert len(site.look()) == 2
    site.json("rollback", first, "--reason", "x", "-y")
    assert site.look() == []
    site.json("undo", "-y")
    assert site.look() == []
    site.json("rollback", first, "--path", "tree/code.txt", "--reason", "x", "-y")
    site.json("checkpoint")
    assert site.look() == []
    assert site.rfs("guard", "--", "sh", "-c", "echo deployed > tree/code.txt").code == 0
    assert site.look() == []
    assert site.rfs("guard", "--", "sh", "-c", "echo worse > tree/code.txt; exit 1").code == 1
    assert site.look() == []
    site.json("config", "save", "one")
    site.replace("version", "edition")
    assert len(site.look()) == 1
    site.json("config", "rollback", "one", "-y")
    assert site.look() == []
    assert [each["kind"] for each in site.json("log", "-n", "2")] == ["configuration", "edit"]
    # An edit after a rollback that nobody looked at between is that edit alone.
    site.json("rollback", first, "--reason", "x", "-y")
    (site.tree / "mine.txt").write_text("mine\n")
    (told,) = site.look()
    assert "of tree is recorded: mine.txt, between" in told["text"]


@pytest.mark.parametrize("how", ["tree", pytest.param("settings", marks=pytest.mark.slow)])
def test_what_a_program_tracks_itself_is_no_edit_but_what_came_with_it_is(site: Site, how: str) -> None:
    import asyncio

    log = IncrementalRollback(site.home)
    if how == "tree":
        site.code.write_text("by program\n")
        change = ("file", "update", "version 1\n" * 50, "by program\n", "tree/code.txt")
    else:
        site.replace("version = 1", "version = 2")
        change = ("settings", "update", 1, 2, "version")
    asyncio.run(log.track_change(*change[:4], key=change[4])).unwrap()
    assert site.look() == []
    if how == "tree":
        site.code.write_text("by program again\n")
        (site.tree / "hand.txt").write_text("by hand\n")
        change = ("file", "update", "by program\n", "by program again\n", "tree/code.txt")
    else:
        site.replace("version = 2", "version = 3\nhand = 1")
        change = ("settings", "update", 2, 3, "version")
    asyncio.run(log.track_change(*change[:4], key=change[4])).unwrap()
    (told,) = site.look()
    assert "recorded: hand" in told["text"]
    site.json("undo", told["subject"], "-y")
    if how == "tree":
        assert site.code.read_text() == "by program again\n"
        assert not (site.tree / "hand.txt").exists()
    else:
        assert site.settings.read_text() == "# kept\nversion = 3\npassword = 'hunter1'\n"
    assert site.look() == []


def test_killed_between_the_checkpoint_and_the_record_it_is_found_again(site: Site) -> None:
    """The record is written, and what is remembered is not; and before that, neither of them."""
    from rfs.production.rollback.catalog import Catalog

    for method, kept in (("put_operation", 0), ("note", 1)):
        site.code.write_text(f"{method}\n")
        child = os.fork()
        if child == 0:
            setattr(Catalog, method, lambda *_: os._exit(7))
            Watcher(str(site.home / "rfs.toml"), lambda _: None).run(once=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert len(site.look()) == 1 - kept
    assert len(site.edits()) == 2
    assert site.look() == []


@pytest.mark.slow
def test_an_edit_that_is_too_large_is_told_and_a_checkpoint_helps(site: Site) -> None:
    text = (site.home / "rfs.toml").read_text()
    (site.home / "rfs.toml").write_text(text + "largest = 1\n")
    with (site.tree / "large.bin").open("wb") as file:
        file.truncate(3 << 20)
    (told,) = site.look()
    assert told["what"] == "error"
    assert "3 MiB were written, and [track] largest is 1" in told["text"]
    assert site.edits() == []
    site.json("checkpoint")
    assert site.look() == []
    site.code.write_text("small\n")
    assert len(site.look()) == 1


@pytest.mark.slow
def test_a_folder_that_is_gone_and_prune_that_keeps_what_is_needed(site: Site) -> None:
    import shutil

    site.code.write_text("one\n")
    (edit,) = site.look()
    site.json("prune")
    shutil.move(site.tree, site.home / "away")
    told = site.look()
    assert [each["what"] for each in told] == ["edit", "edit"]
    site.json("undo", "-n", "2", "-y")
    assert site.code.read_text() == "one\n"
    site.json("undo", edit["subject"], "-y")
    assert site.is_at(1)


def test_without_its_package_it_says_what_to_install(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    ran = site.rfs("watch")
    assert (ran.code, "pip install 'rfs-rollback[track]'" in ran.err) == (2, True)
    assert "rfs-rollback[track]" in site.rfs("doctor").out


# — the daemon —


class Daemon:
    """Args: site: whose watcher runs in a thread."""

    def __init__(self, site: Site) -> None:
        from queue import Queue
        from threading import Thread

        self.told: Queue[Any] = Queue()
        self.watcher = Watcher(str(site.home / "rfs.toml"), self.told.put)
        self.thread = Thread(target=self.watcher.run)
        self.thread.start()

    def hears(self, what: str) -> Any:
        while (told := self.told.get(timeout=60)).what != what:
            assert told.what in ("started", "edit"), told
        return told

    def close(self) -> None:
        self.watcher.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


@contextmanager
def watching(site: Site) -> Iterator[Daemon]:
    with closing(Daemon(site)) as daemon:
        daemon.hears("tracking")
        yield daemon


def quick(site: Site, more: str = "") -> None:
    path = site.home / "rfs.toml"
    path.write_text(path.read_text() + f'quiet = "100ms"\n{more}')


def test_an_edit_is_recorded_soon_after_it_was_made(site: Site) -> None:
    quick(site)
    with watching(site) as daemon:
        site.replace("version = 1", "version = 2")
        told = daemon.hears("edit")
        assert "of settings is recorded: version" in told.text


def test_where_nothing_can_be_noticed_it_says_so_and_compares(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import watchfiles

    def limited(*_: Any, **__: Any) -> Any:
        why = "OS file watch limit reached."
        raise OSError(why)
        yield

    monkeypatch.setattr(watchfiles, "watch", limited)
    quick(site, 'at_most = "100ms"\n')
    with closing(Daemon(site)) as daemon:
        while (told := daemon.told.get(timeout=60)).what != "error":
            pass
        assert "settings, tree (OS file watch limit reached.)" in told.text
        assert "fs.inotify.max_user_watches" in told.text
        site.code.write_text("edited\n")
        assert "code.txt, between" in daemon.hears("edit").text


def test_what_is_left_out_is_not_looked_at(site: Site) -> None:
    with site.open() as app:
        counts = tracking._counting({"tree": app.parts["tree"]})
    root = str(site.tree)
    assert counts("tree", f"{root}/code.txt")
    assert counts("tree", f"{root}/deep/er/x")
    for path in ("settings.toml", "small.db", "x.pid", ".rfs-stage-1/x", "deep/x.sock"):
        assert not counts("tree", f"{root}/{path}"), path


@pytest.mark.slow
def test_edits_come_one_after_the_other_and_some_by_renaming(site: Site) -> None:
    quick(site)
    with watching(site) as daemon:
        site.replace("version = 1", "version = 2")
        assert "of settings" in daemon.hears("edit").text
        (site.tree / "deep").mkdir()
        (site.tree / "deep" / "x").write_text("x\n")
        told = daemon.hears("edit")
        assert "of tree is recorded: deep" in told.text
        assert ", at 20" in told.text
        # An editor writes another file and renames it over.
        (site.tree / ".settings.new").write_text("version = 3\n")
        (site.tree / ".settings.new").rename(site.settings)
        assert "of settings" in daemon.hears("edit").text


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["watches", "instances"])
def test_the_limits_of_inotify_are_told_and_edits_are_found_all_the_same(site: Site, limit: str) -> None:
    """With the limit of a user namespace of its own: that of the machine is left alone."""
    lowered = f"echo {5 if limit == 'watches' else 0} > /proc/sys/user/max_inotify_{limit}"
    if subprocess.run(["unshare", "-Ur", "sh", "-c", lowered], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs unshare, and a kernel that lets this user have a namespace")
    for number in range(20):
        (site.tree / f"folder {number}").mkdir()
    quick(site, 'at_most = "200ms"\n')
    command = ["unshare", "-Ur", "sh", "-c", f"{lowered}; exec {sys.executable} -m rfs.cli.main watch --json"]
    with subprocess.Popen(command, cwd=site.home, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ends = Timer(60, process.kill)  # what is never told must not be waited for for ever
        ends.start()
        try:
            told = (json.loads(line) for line in process.stdout)
            error = next(each for each in told if each["what"] == "error")
            assert "Nothing is noticed of" in error["text"]
            assert "fs.inotify.max_user_watches" in error["text"]
            site.code.write_text("edited\n")
            assert any("code.txt" in each["text"] for each in told)
        finally:
            ends.cancel()
            process.kill()
