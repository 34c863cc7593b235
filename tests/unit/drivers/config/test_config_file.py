from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from rfs.production.rollback.driver import Driver
from rfs.production.rollback.drivers import onefile
from rfs.production.rollback.drivers.config import ConfigDriver, ConfigOptions
from rfs.production.rollback.drivers.environment import EnvironmentDriver
from rfs.production.rollback.errors import IntegrityError, RollbackError
from rfs.production.rollback.model import Capture, Component
from rfs.testing import MemoryStore, component

SETTINGS = b"""# the shop
[server]
port = 8000   # a comment
hosts = ["a", "b"]
[database]
url = "postgres://shop:hunter2@db/shop"
password = "hunter2"
"""


class Place:
    """One file under one of the two drivers, with a store."""

    def __init__(self, home: Path, driver: Driver, name: str, content: bytes) -> None:
        self.home, self.driver, self.store = home, driver, MemoryStore()
        self.path = home / name
        self.path.write_bytes(content)
        self.c: Component = component(driver.kind, home, path=name)

    def capture(self) -> Capture:
        return self.driver.capture(self.c, self.store, None)

    def restore(self, want: Capture) -> int:
        return self.driver.restore(self.c, self.store, want).changed

    def look(self) -> object:
        """Everything about the file, without the driver's help."""
        if self.path.is_symlink():
            return str(self.path.readlink())
        if not self.path.exists():
            return None
        if self.path.is_dir():
            return "a folder"
        found = self.path.stat()
        xattrs = {name: os.getxattr(self.path, name) for name in os.listxattr(self.path)}
        return (
            self.path.read_bytes(),
            stat.S_IMODE(found.st_mode),
            found.st_uid,
            found.st_gid,
            found.st_mtime_ns,
            xattrs,
        )

    def changes(self, want: Capture, to: Capture | None = None) -> list[tuple[str, str, str, str]]:
        return [
            (change.kind.value, change.key, *(ref.label if ref else "" for ref in (change.before, change.after)))
            for change in self.driver.changes(self.c, self.store, want, to)
        ]


@pytest.fixture(params=["config", "environment"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    if request.param == "config":
        return Place(tmp_path, ConfigDriver(), "settings.toml", SETTINGS)
    return Place(tmp_path, EnvironmentDriver(), ".env", b"# secrets\nTOKEN=hunter2\nPORT=8000\n")


@pytest.fixture
def settings(tmp_path: Path) -> Place:
    return Place(tmp_path, ConfigDriver(), "settings.toml", SETTINGS)


def test_restored_exactly(place: Place) -> None:
    os.chmod(place.path, 0o4640)
    os.utime(place.path, ns=(1, 1234567890123456789))
    if os.geteuid() == 0:
        os.chown(place.path, 1234, 4321)
        os.chmod(place.path, 0o4640)
    os.setxattr(place.path, "user.note", b"\0kept")
    want, before = place.capture(), place.look()
    folder = place.home.stat().st_mtime_ns
    place.path.unlink()
    place.path.write_bytes(b"other")
    place.restore(want)
    assert place.look() == before
    assert place.driver.verify(place.c, place.store, want) == []
    assert place.driver.fingerprint(place.c, rehash=False) == want.fingerprint
    assert place.restore(want) == 0
    assert place.home.stat().st_mtime_ns >= folder


@pytest.mark.parametrize("change", ["content", "mode", "time", "xattr", "owner", "gone"])
def test_any_difference_is_seen_and_undone(place: Place, change: str) -> None:
    want, before = place.capture(), place.look()
    if change == "content":
        place.path.write_bytes(place.path.read_bytes() + b"\n")
    elif change == "mode":
        os.chmod(place.path, 0o600)
    elif change == "time":
        os.utime(place.path, ns=(1, 1))
    elif change == "xattr":
        os.setxattr(place.path, "user.note", b"new")
    elif change == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(place.path, 1234, 4321)
    else:
        place.path.unlink()
    assert place.driver.fingerprint(place.c, rehash=False) != want.fingerprint
    assert place.driver.verify(place.c, place.store, want)
    assert place.restore(want) == 1
    assert place.look() == before


def test_a_file_that_was_not_there_is_removed_again(place: Place) -> None:
    content = place.path.read_bytes()
    place.path.unlink()
    want = place.capture()
    assert (want.entries, want.size) == (0, 0)
    assert place.restore(want) == 0
    place.path.write_bytes(content)
    assert place.changes(want) == [("added", "", "", f"{len(content)} bytes")]
    assert place.restore(want) == 1
    assert not place.path.exists()
    assert place.driver.verify(place.c, place.store, want) == []


def test_a_link_is_refused_and_what_it_leads_to_is_left_alone(place: Place) -> None:
    want = place.capture()
    target = place.home / "target"
    target.write_bytes(b"not ours")
    place.path.unlink()
    place.path.symlink_to("target")
    with pytest.raises(RollbackError) as caught:
        place.capture()
    assert caught.value.key == "path.kind"
    assert "a symbolic link to target" in str(caught.value)
    assert place.changes(want)[0][3] == "a symbolic link"
    before = place.driver.salvage(place.c, place.store, None)
    place.restore(want)
    assert not place.path.is_symlink()
    place.restore(before)
    assert place.look() == "target"
    assert place.driver.verify(place.c, place.store, before) == []
    assert target.read_bytes() == b"not ours"


def put(place: Place, what: str) -> None:
    """Put something that is no readable file in its place."""
    place.path.unlink()
    if what == "a folder":
        place.path.mkdir(mode=0o750)
        (place.path / "precious").write_bytes(b"not ours")
    elif what == "a special file":
        os.mkfifo(place.path)
    else:
        place.path.write_bytes(b"hidden")


def look_at(place: Place) -> object:
    found = place.path.lstat()
    below = [path.read_bytes() for path in place.path.iterdir()] if place.path.is_dir() else None
    return found.st_mode, found.st_ino, found.st_mtime_ns, below


@pytest.mark.parametrize("what", ["a folder", "a special file", "a file that cannot be read"])
def test_what_is_no_file_is_set_aside_and_comes_back(place: Place, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    want, whole = place.capture(), place.look()
    put(place, what)
    if what == "a file that cannot be read":
        hidden, read = place.path.stat().st_ino, onefile.read_file

        def refuse(path: str) -> object:
            if os.stat(path).st_ino == hidden:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return read(path)

        monkeypatch.setattr(onefile, "read_file", refuse)
    other, above = look_at(place), place.home.stat().st_mtime_ns
    with pytest.raises(RollbackError) as caught:
        place.capture()
    assert caught.value.key == ("path.unreadable" if "read" in what else "path.kind")
    assert place.changes(want)[0][3] == what
    before = place.driver.salvage(place.c, place.store, want)
    place.driver.stage(place.c, place.store, want)
    done = place.driver.restore(place.c, place.store, want)
    assert place.look() == whole
    assert place.driver.verify(place.c, place.store, want) == []
    (aside,) = place.home.glob(".rfs-tmp-*")
    assert f"moved to {aside}" in done.warnings[0]
    place.driver.release(place.c)
    place.driver.stage(place.c, place.store, before)
    place.restore(before)
    assert look_at(place) == other
    assert place.driver.verify(place.c, place.store, before) == []
    assert place.home.stat().st_mtime_ns == above
    assert place.restore(before) == 0
    place.restore(want)
    shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
    with pytest.raises(RollbackError) as caught:
        place.restore(before)
    assert caught.value.key == "path.displaced"


def test_a_missing_folder_is_made_and_goes_again(tmp_path: Path) -> None:
    (tmp_path / "etc" / "shop").mkdir(parents=True)
    place = Place(tmp_path, ConfigDriver(), "etc/shop/settings.toml", SETTINGS)
    want, whole = place.capture(), place.look()
    shutil.rmtree(tmp_path / "etc")
    before = place.driver.salvage(place.c, place.store, want)
    place.driver.stage(place.c, place.store, want)
    (warning,) = place.driver.restore(place.c, place.store, want).warnings
    assert f"The folder {tmp_path}/etc/shop was not there" in warning
    assert place.look() == whole
    place.restore(before)
    assert not (tmp_path / "etc").exists()
    place.restore(want)
    (tmp_path / "etc" / "shop" / "mine").write_text("x")
    place.restore(before)
    assert os.listdir(tmp_path / "etc" / "shop") == ["mine"]
    assert place.driver.verify(place.c, place.store, before) == []


STATES = ("file", "none", "link", "folder")


@pytest.mark.parametrize(("start", "goal"), [(s, g) for s in STATES for g in STATES])
def test_a_fault_at_any_call_converges(place: Place, start: str, goal: str, fail_at: Callable[..., object]) -> None:
    states = {"file": (place.capture(), place.look())}
    place.path.unlink()
    states["none"] = (place.capture(), None)
    place.path.symlink_to("elsewhere")
    states["link"] = (place.driver.salvage(place.c, place.store, None), "elsewhere")
    place.path.unlink()
    place.path.mkdir()
    states["folder"] = (place.driver.salvage(place.c, place.store, None), "a folder")
    place.restore(states["none"][0])
    if start == "file":
        place.path.write_bytes(b"PORT=9\n")
        os.setxattr(place.path, "user.note", b"x")
    elif start == "link":
        place.path.symlink_to("somewhere")
    elif start == "folder":
        place.path.mkdir()
    began, seen = place.driver.salvage(place.c, place.store, None), place.look()
    want, wanted = states[goal]
    number, fired = 0, True
    while fired:
        number += 1
        place.restore(began)
        fault = fail_at(number)
        try:
            place.restore(want)
        except (OSError, RollbackError):
            assert fault.fired
            fault.stop()
            # A folder has to be out of the way before a file can be there.
            assert place.look() in (seen, wanted, *([None] if "a folder" in (seen, wanted) else []))
        fired = fault.fired
        fault.stop()
        place.restore(want)
        assert place.look() == wanted
        place.restore(want)
        left = {name for name in os.listdir(place.home) if not name.startswith(".rfs-tmp-displaced-")}
        assert left == {".work", *([place.path.name] if wanted is not None else [])}
    assert number > 1 or start == goal == "none"


def test_a_damaged_or_missing_blob_changes_nothing(place: Place) -> None:
    want = place.capture()
    place.path.write_bytes(b"PORT=9\n")
    before = place.look()
    ((blob,), _) = place.store.get_part(want.parts[0])
    content = place.store.blobs[blob]
    for damage in (content + b"x", b"", None):
        if damage is None:
            del place.store.blobs[blob]
        else:
            place.store.blobs[blob] = damage
        for call in (place.driver.restore, place.driver.stage):
            with pytest.raises(IntegrityError):
                call(place.c, place.store, want)
    assert place.look() == before


def test_a_hostile_manifest_changes_nothing(place: Place) -> None:
    want = place.capture()
    place.path.write_bytes(b"PORT=9\n")
    before = place.look()
    refs, body = place.store.get_part(want.parts[0])
    version, kind, meta = msgspec.msgpack.decode(body)
    folder = [stat.S_IFDIR | 0o755, *meta[1:]]
    bodies = [b"", b"\xc1", b"\x93\x01", *map(msgspec.msgpack.encode, (
        [version + 1, kind, meta], [version, "folder", meta], [version, "absent", meta], [version, kind, None],
        [version, kind, folder], [version, kind, [str(part) for part in meta]], [version, kind, meta, 1],
    ))]  # fmt: skip
    parts = [((place.store.put_part(refs, hostile)),) for hostile in bodies]
    parts += [(), want.parts * 2, (place.store.put_part([], body),), (place.store.put_part(refs * 2, body),)]
    for given in parts:
        with pytest.raises(IntegrityError):
            place.restore(msgspec.structs.replace(want, parts=given))
    assert place.look() == before


def test_owners_that_cannot_be_restored_are_refused_in_staging(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    want = place.capture()
    monkeypatch.setattr(os, "geteuid", lambda: 98765)
    with pytest.raises(RollbackError) as caught:
        place.driver.stage(place.c, place.store, want)
    assert caught.value.key == "path.owner"
    assert [finding.level for finding in place.driver.examine(place.c)] == ["error"]


def test_doctor(place: Place) -> None:
    assert list(place.driver.examine(place.c)) == []
    place.path.write_bytes(b"= hunter2")
    (finding,) = place.driver.examine(place.c)
    assert finding.level == "warning"
    assert "is not valid" in finding.text
    assert "hunter2" not in finding.text
    place.path.unlink()
    (finding,) = place.driver.examine(place.c)
    assert (finding.level, "is not there" in finding.text) == ("warning", True)
    place.path.mkdir()
    (finding,) = place.driver.examine(place.c)
    assert (finding.level, "is a folder" in finding.text) == ("error", True)


def test_doctor_says_that_a_folder_may_not_be_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert [finding.level for finding in place.driver.examine(place.c)] == ["error"]


def test_owns_its_file(place: Place) -> None:
    assert place.driver.owns(place.c) == (str(place.path),)


def test_broken_configuration_is_captured_with_a_warning(place: Place) -> None:
    place.path.write_bytes(b"[broken\npassword hunter2")
    want, before = place.capture(), place.look()
    (warning,) = want.warnings
    assert "line" in warning
    assert "hunter2" not in warning
    place.path.write_bytes(b"PORT=1\n")
    assert place.changes(want) == [("changed", "", "24 bytes", "7 bytes")]
    place.restore(want)
    assert place.look() == before


def test_nothing_secret_is_ever_said(place: Place) -> None:
    if place.c.kind == "config":
        new = SETTINGS.replace(b"hunter2", b"hunter3").replace(b"8000", b'"hunter4x"')
    else:
        new = b"TOKEN=hunter3\nNEW=hunter4x\n"
    want = place.capture()
    place.path.write_bytes(new)
    later = place.capture()
    said = [repr(list(place.driver.changes(place.c, place.store, want, other))) for other in (later, None)]
    said += [repr(place.driver.verify(place.c, place.store, want)), repr(want), repr(later)]
    hidden = ("hunter2", "hunter3") if place.c.kind == "config" else ("hunter2", "hunter3", "hunter4x", "8000")
    assert not [word for word in hidden for text in said if word in text]
    assert "••••" in said[0]


def test_content_is_in_no_representation(place: Place) -> None:
    from rfs.production.rollback.drivers.onefile import stored

    file = stored(place.capture(), place.store)
    assert "hunter2" not in repr(file)
    assert b"hunter2" in file.data


def test_changes_key_by_key(settings: Place) -> None:
    want = settings.capture()
    settings.path.write_bytes(
        SETTINGS.replace(b"8000", b"9000").replace(b'"b"', b'"b", "c"').replace(b'password = "hunter2"\n', b"")
        + b'[mail]\nfrom = "shop@example.org"\n'
    )
    expected = [
        ("removed", "database.password", "••••", ""),
        ("added", "mail.from", "", "shop@example.org"),
        ("added", "server.hosts[2]", "", "c"),
        ("changed", "server.port", "8000", "9000"),
    ]
    assert settings.changes(want) == expected
    assert settings.changes(want, settings.capture()) == expected


def test_changes_of_everything_around_the_keys(settings: Place) -> None:
    want = settings.capture()
    settings.path.write_bytes(SETTINGS.replace(b"# a comment", b""))
    assert settings.changes(want) == [("changed", "file:layout", "comments and layout", "comments and layout")]
    settings.restore(want)
    os.utime(settings.path, ns=(1, 10**9))
    ((_, key, _, after),) = settings.changes(want)
    assert (key, after) == ("file:modified", "1970-01-01T00:00:01.000000000Z")
    settings.restore(want)
    os.setxattr(settings.path, "user.note", b"x")
    assert settings.changes(want) == [("changed", "file:attributes", "", "user.note")]


def test_a_format_that_nobody_knows_is_one_change(tmp_path: Path) -> None:
    place = Place(tmp_path, ConfigDriver(), "nginx.conf", b"user www; # hunter2\n")
    want = place.capture()
    assert want.warnings == ()
    place.path.write_bytes(b"user web;\n")
    assert place.changes(want) == [("changed", "", "20 bytes", "10 bytes")]


def test_the_format_may_be_named(tmp_path: Path) -> None:
    place = Place(tmp_path, ConfigDriver(), "settings", b'{"port": 1}')
    place.c = component("config", tmp_path, path="settings", format="json")
    want = place.capture()
    place.path.write_bytes(b'{"port": 2}')
    assert place.changes(want) == [("changed", "port", "1", "2")]


@pytest.mark.parametrize(
    "options",
    [
        {"path": "a", "reload": "poke it"},
        {"path": "a", "reload": []},
        {"path": "a", "reload": "http POST not-a-url"},
        {"path": "a", "reload": "signal KILL pidfile:x"},
        {"path": "a", "reload_timeout": "soon"},
        {"path": "a", "format": "xml"},
        {"path": "a", "colour": "red"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, ConfigOptions)


def test_a_secret_in_a_reload_is_not_repeated_by_its_refusal() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"path": "a", "reload": "http POST ftp://me:hunter2@host/?token=hunter2"}, ConfigOptions)
    assert "hunter2" not in str(caught.value)
