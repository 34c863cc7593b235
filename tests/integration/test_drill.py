"""`rfs drill`: a checkpoint brought back beside the live application, which is not touched."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cli_app import App
from waiting import until

SITE = (
    '\n[components.site]\nkind = "files"\npath = "site"\n[components.settings]\nkind = "config"\npath = "site/a.toml"\n'
)


@pytest.fixture
def site(notes_app: App) -> App:
    """With files, a configuration file among them, a database and a service; changed since the checkpoint."""
    folder = notes_app.folder / "site"
    (folder / "pages").mkdir(parents=True)
    (folder / "pages" / "one.html").write_text("one")
    (folder / "a.toml").write_text("port = 1  # kept\n")
    notes_app.configure((notes_app.folder / "rfs.toml").read_text() + SITE)
    notes_app.checkpoint()
    (folder / "pages" / "one.html").write_text("two")
    notes_app.write("two")
    return notes_app


def live(app: App) -> dict[str, tuple[bytes, int]]:
    found = [path for path in app.folder.rglob("*") if path.is_file() and ".rfs" not in path.parts]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_a_drill_says_what_can_be_brought_back_and_touches_nothing(site: App) -> None:
    before = live(site)
    done = site.rfs("drill", "--json")
    assert done.code == 0
    how = {each["component"]: (each["how"], each["why"], each["problem"]) for each in done.data["components"]}
    assert how == {
        "db": ("restored", "", ""),
        "web": ("read", "services are not started in a drill", ""),
        "site": ("restored", "", ""),
        "settings": ("restored", "", ""),
    }
    assert live(site) == before
    assert os.listdir(site.folder / ".rfs" / "work" / "_drill") == []
    said = site.rfs("drill", "--only", "site").out
    assert "restored, equal" in said
    assert "Nothing live was touched" in said


def test_what_was_brought_back_can_be_looked_at(site: App, tmp_path: Path) -> None:
    done = site.rfs("drill", "@latest", "--into", str(tmp_path / "looked"))
    assert done.code == 0
    tree = tmp_path / "looked" / "tree" / str(site.folder).lstrip("/")
    assert os.listdir(tmp_path / "looked") == ["tree"]
    assert (tree / "site" / "pages" / "one.html").read_text() == "one"
    assert (tree / "site" / "a.toml").read_text() == "port = 1  # kept\n"
    with closing(sqlite3.connect(tree / "notes.db")) as database:
        assert database.execute("SELECT text FROM notes").fetchall() == [("one",)]
    again = site.rfs("drill", "--into", str(tmp_path / "looked"))
    assert again.code == 2
    assert "is not empty" in again.err
    assert (tree / "site" / "pages" / "one.html").read_text() == "one"


def test_a_folder_inside_the_application_is_refused(site: App) -> None:
    (site.folder / "link").symlink_to(site.folder / "site")
    for place in (site.folder / "site" / "drill", site.folder / "link" / "drill"):
        done = site.rfs("drill", "--into", str(place))
        assert done.code == 2, place
        assert "site" in done.err
        assert not place.exists()


def test_damage_is_found_and_the_rest_is_tried_all_the_same(site: App) -> None:
    # Every pack but that of the records is cut off after its head, as a disk would leave it.
    packs = sorted((site.folder / ".rfs" / "packs").rglob("*"), key=lambda path: path.stat().st_size)
    for pack in packs:
        if pack.is_file():
            data = bytearray(pack.read_bytes())
            data[100] ^= 1
            pack.write_bytes(data)
    done = site.rfs("drill", "--json")
    assert done.code == 12
    assert [each for each in done.data["components"] if each["problem"]]
    assert len(done.data["components"]) == 4


def test_a_component_that_is_no_longer_named_is_read(site: App) -> None:
    text = (site.folder / "rfs.toml").read_text()
    site.configure(text.replace(SITE, ""))
    done = site.rfs("drill", "--json")
    assert done.code == 0
    how = {each["component"]: each["how"] for each in done.data["components"]}
    assert how == {"db": "restored", "web": "read", "site": "read", "settings": "read"}


def test_what_a_killed_drill_left_goes_with_the_next_one(site: App) -> None:
    (site.folder / "site" / "large").write_bytes(os.urandom(30_000_000))
    site.checkpoint()
    place = site.folder / ".rfs" / "work" / "_drill"
    running = site.start("drill")
    until(lambda: place.exists() and os.listdir(place))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert site.rfs("drill").code == 0
    assert os.listdir(place) == []


def test_two_at_once_are_refused(site: App) -> None:
    place = site.folder / ".rfs" / "work" / "_drill"
    place.mkdir(parents=True)
    held = os.open(place, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert site.rfs("drill").code == 11
    os.close(held)
    assert site.rfs("drill").code == 0


def test_no_room_is_said_before_anything_is_written(site: App, tiny: Path) -> None:
    (site.folder / "site" / "large").write_bytes(os.urandom(9_000_000))
    site.checkpoint()
    done = site.rfs("drill", "--into", str(tiny / "here"))
    assert done.code == 15
    assert "are free on the disk" in done.err
    assert os.listdir(tiny / "here") == []
