"""What is asked of systemctl, what its answers mean, and what is written down or shown of them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from rfs.production.rollback.drivers.masking import MASK
from rfs.production.rollback.drivers.service import ServiceDriver, systemd_call
from rfs.production.rollback.drivers.service.manager import Places
from rfs.production.rollback.drivers.service.systemd_call import Systemctl, members, within
from rfs.production.rollback.drivers.service.systemd_notes import Notes, environment_of, shown_words
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.process import Ended
from rfs.testing import MemoryStore, component

BLOCK = """\
Id=web.service
LoadState=loaded
ActiveState=activating
SubState=auto-restart
MainPID=12
ControlGroup=/system.slice/web.service
TriggeredBy=web.socket web.timer
RequiredBy=a.service
ConsistsOf=b.service c.service
NRestarts=[not set]
CanStart=no
"""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that makes systemctl answer, and a Systemctl."""

    def answer(output: str = "", status: int = 0, error: Exception | None = None) -> Systemctl:
        def run(words: list[str], **_: Any) -> Ended:
            if error is not None:
                raise error
            return Ended(status, output.strip(), 0.0)

        monkeypatch.setattr(systemd_call, "run", run)
        monkeypatch.setattr(systemd_call, "_BOOTED", str(tmp_path))
        monkeypatch.setattr(systemd_call, "_folders", {})
        return Systemctl(component("service", tmp_path), user=False)

    return answer


def test_properties_become_units(systemctl: Any) -> None:
    one, two = systemctl(f"{BLOCK}\nId=other.service\nLoadState=not-found\n").units(["web", "alias"])
    assert (one.name, one.id, one.kind, one.state) == ("web", "web.service", "service", "activating (auto-restart)")
    assert (one.pid, one.restarts, one.returns) == (12, 0, False)
    assert one.triggered_by == ("web.socket", "web.timer")
    assert one.dependents == ("a.service", "b.service", "c.service")
    assert (two.name, two.id, two.returns) == ("alias", "other.service", True)
    assert systemctl("never asked").units([]) == []
    with pytest.raises(RollbackError, match="did not tell of each unit"):
        systemctl(BLOCK).units(["a", "b"])


def test_an_old_systemd_does_not_tell_when_it_read_its_units(systemctl: Any) -> None:
    lines = "UserspaceTimestampMonotonic=1\nUnitsLoadFinishTimestampMonotonic=2"
    assert systemctl(lines).stamp() == ""
    assert systemctl(f"{lines}\nUnitsLoadTimestampMonotonic=3").stamp() != ""


@pytest.mark.parametrize(
    "said",
    [
        "Failed to stop web.service: Access denied\nSee system logs.",
        "Failed to stop web.service: Interactive authentication required.",
    ],
)
def test_a_refusal_by_polkit_is_told_as_one(systemctl: Any, said: str) -> None:
    with pytest.raises(RollbackError) as raised:
        systemctl(said, 1).ask("stop", ["web.service"], MemoryStore(), time.monotonic() + 1)
    assert raised.value.key == "service.denied"
    assert "may not do `systemctl stop`" in str(raised.value)
    assert "polkit" in raised.value.hint


def test_what_systemctl_says_is_kept(systemctl: Any) -> None:
    until = time.monotonic() + 1
    assert systemctl("Job failed.\n See log", 1).ask("start", ["a"], MemoryStore(), until) == "Job failed. See log"
    assert systemctl("", 3).ask("start", ["a"], MemoryStore(), until) == "systemctl ended with status 3"
    assert systemctl("never asked", 1).ask("start", [], MemoryStore(), until) == ""


def test_without_systemd_there_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_call, "_BOOTED", str(tmp_path / "none"))
    monkeypatch.setattr(systemd_call, "_folders", {})
    c = component("service", tmp_path, name="web", manager="systemd", units=["web"])
    driver = ServiceDriver()
    for call in (
        lambda: driver.capture(c, MemoryStore(), None),
        lambda: driver.fingerprint(c, rehash=False),
        lambda: driver.stop(c, MemoryStore()),
    ):
        with pytest.raises(RollbackError) as raised:
            call()
        assert raised.value.key == "service.no_systemd"
        assert "not what this machine or container was booted with" in str(raised.value)
    (finding,) = driver.examine(c)
    assert (finding.level, 'manager = "supervisor"' in finding.hint) == ("error", True)
    assert driver.owns(c) == ()
    assert not driver.contains_caller(c)


def test_a_missing_systemctl_is_that_same_error(systemctl: Any) -> None:
    missing = RollbackError("command.missing", command="systemctl", why="no such file")
    with pytest.raises(RollbackError, match="there is no systemctl"):
        systemctl(error=missing).folders()


# — control groups —


def test_a_group_lies_in_itself_and_in_those_above_it_but_the_root_is_nobodys() -> None:
    assert within("/a.slice/b.service", "/a.slice/b.service")
    assert within("/a.slice/b.service/sub", "/a.slice/b.service")
    assert within("/a.slice/b.service", "/a.slice")
    for group, outer in (("/a.slice", "/a.slice/b"), ("/ab", "/a"), ("/a", "/"), ("/a", ""), ("/", "/")):
        assert not within(group, outer)


def test_members_are_found_below_and_not_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_call, "_CGROUPS", str(tmp_path))
    for folder, pids in {"": "1\n", "a": "2\n0\n", "a/sub": "3\n", "unified/a": "4\n", "b": "5\n"}.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "cgroup.procs").write_text(pids)
    assert members(["/a"]) == {2, 3, 4}
    assert members(["/", "", "/none"]) == set()


# — what is written down, and what is shown —


def test_notes_of_a_stop_that_is_repeated_keep_what_was_first(tmp_path: Path) -> None:
    c = component("service", tmp_path)
    Notes(c).stopping(["a"], "first")
    Notes(c).stopping(["b"], "half restored")
    assert (Notes(c).along, Notes(c).loaded) == (["a", "b"], "first")
    Path(c.work, "systemd.json").write_text("{")
    assert (Notes(c).along, Notes(c).loaded) == ([], "")
    Notes(c).forget()
    Notes(c).forget()


def test_definitions_are_told_apart_by_content_and_by_what_links_say(tmp_path: Path) -> None:
    c = component("service", tmp_path)
    unit, link = tmp_path / "a.service", tmp_path / "b"
    unit.write_text("1")
    link.symlink_to("x")
    places = Places(files=(str(unit),), links=(str(link),))
    first = Notes(c).digest(places)
    assert Notes(c).digest(places) == first
    unit.write_text("2")
    second = Notes(c).digest(places)
    link.unlink()
    assert len({first, second, Notes(c).digest(places)}) == 3


def started(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Return a process that has answered: one that is still being started has no environment yet."""
    process = subprocess.Popen(["cat"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"\n"
    return process


def test_an_environment_without_what_differs_with_every_start() -> None:
    kept = {"A": "1", "TOKEN": "x"}
    environment = {"PATH": os.environ["PATH"], **kept, "INVOCATION_ID": "1", "JOURNAL_STREAM": "1:2", "PWD": "/"}
    with started(environment) as sleeper:
        try:
            found = environment_of(sleeper.pid)
        finally:
            sleeper.kill()
    assert found is not None
    assert found.split(b"\0") == [b"A=1", f"PATH={os.environ['PATH']}".encode(), b"TOKEN=x"]
    assert environment_of(sleeper.pid) is None


def test_a_title_written_over_the_environment_is_no_environment() -> None:
    # As setproctitle does: the memory is used for something else.
    with started({"worker process": "1"}) as sleeper:
        try:
            assert environment_of(sleeper.pid) is None
        finally:
            sleeper.kill()


def test_last_words_are_shown_without_secrets(tmp_path: Path) -> None:
    env = tmp_path / "env"
    env.write_text("DB_PASSWORD='open sesame'\nPORT=8000\nKEY=abc\n")
    said = "port 8000 taken / login with open sesame failed / password: hunter2 API_TOKEN=hunter3 at https://a:b@c/d"
    shown = shown_words(said, [str(env), str(tmp_path / "none")])
    assert shown == f"port 8000 taken / login with {MASK} failed / password: {MASK} API_TOKEN={MASK} at {MASK}"
    assert len(shown_words("x " * 500, [])) <= 100
