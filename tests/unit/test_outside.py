"""The socket between a caller inside a service and the process that does its work outside."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rfs.production.rollback import outside
from rfs.production.rollback.errors import ConflictError, HeldError, IntegrityError, RevertedError, RollbackError
from rfs.production.rollback.messages import define_messages
from rfs.production.rollback.outside import Channel, Request, carry, failure
from rfs.production.rollback.pulse import Beat
from rfs.production.rollback.settings import parse


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    a, b = map(Channel, socket.socketpair())
    yield a, b
    a.close()
    b.close()


def request(folder: Path) -> Request:
    settings = parse('[app]\nname = "x"\n', str(folder / "rfs.toml"))
    return Request(settings=settings, method="recover", arguments={}, inside=("web",), caller=1)


def test_what_is_said_is_heard_whatever_it_holds(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    a.say("one", path="/srv/\udce9\n", none=None)
    a.say("two")
    assert b.hear(1) == {"event": "one", "path": "/srv/\udce9\n", "none": None}
    assert b.hear(1) == {"event": "two"}
    assert b.hear(0) is None


def test_much_is_said_to_one_who_reads_and_nobody_waits_for_one_who_does_not(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    heard = []
    reader = threading.Thread(target=lambda: heard.append(b.hear(20)))
    reader.start()
    a.say("request", wait=20, text="x" * 5_000_000)
    reader.join()
    assert heard == [{"event": "request", "text": "x" * 5_000_000}]
    assert not a.behind
    a.say("progress", text="x" * 5_000_000)
    assert a.behind


def test_the_end_of_the_other_is_heard_and_speaking_to_it_harmless(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    b.say("last")
    b.close()
    assert a.hear(1) == {"event": "last"}
    a.say("more")
    assert not a.behind
    with pytest.raises(EOFError):
        a.hear(1)


@pytest.mark.parametrize(
    "error",
    [
        RevertedError("rollback.reverted", kind="undo", why=IntegrityError("health.failed", checks="x"), hint="Look."),
        HeldError("rollback.held", kind="undo", why="a", operation="b", step="c"),
        ConflictError("operation.too_few", asked=3, count=1),
    ],
)
def test_an_error_arrives_as_it_was(error: RollbackError) -> None:
    arrived = outside._raised({"event": "failed", **failure(error)})
    assert isinstance(arrived, RollbackError)
    assert type(arrived) is type(error)
    assert (str(arrived), arrived.hint, arrived.key) == (str(error), error.hint, error.key)


def test_a_plug_ins_error_arrives_with_its_text() -> None:
    define_messages("moon", {"moon.eclipse": ("The moon is dark: {why}.", "Wait.")})

    class MoonError(RollbackError):
        pass

    arrived = outside._raised({"event": "failed", **failure(MoonError("moon.eclipse", why="shadow"))})
    assert isinstance(arrived, RollbackError)
    assert str(arrived) == "The moon is dark: shadow."


def test_a_bug_arrives_as_no_error_of_ours() -> None:
    arrived = outside._raised({"event": "failed", **failure(ZeroDivisionError("x"))})
    assert not isinstance(arrived, RollbackError)
    assert str(arrived) == "ZeroDivisionError: x"


@pytest.mark.parametrize(
    ("interpreter", "why"),
    [
        ("/no/such/python3", "/no/such/python3 could not be started"),
        ("/bin/false", "false ended with status 1"),
        ("/bin/true", "ended at once"),
    ],
)
def test_what_cannot_be_started_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interpreter: str, why: str
) -> None:
    monkeypatch.setattr(outside, "_interpreter", lambda: interpreter)
    monkeypatch.setattr(outside, "_SYSTEMD", str(tmp_path / "none"))
    with pytest.raises(ConflictError, match=why) as caught:
        carry(request(tmp_path), str(tmp_path / "work" / "log"), Beat(), [])
    assert caught.value.key == "rollback.inside"
    assert "web" in str(caught.value)


def test_a_program_that_embeds_python_is_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outside._interpreter() == sys.executable
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    assert outside._interpreter() == str(tmp_path / "bin" / "python3")
    (tmp_path / "bin" / "python3").unlink()
    monkeypatch.setattr(outside, "_SYSTEMD", str(tmp_path / "none"))
    with pytest.raises(ConflictError, match="no Python interpreter"):
        carry(request(tmp_path), str(tmp_path / "log"), Beat(), [])


def test_a_log_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "work").touch()
    with open(outside._opened(str(tmp_path / "work" / "log")), "wb") as nothing:
        nothing.write(b"x")
    assert (tmp_path / "work").read_bytes() == b""


def test_the_log_is_its_owners_and_does_not_grow_for_ever(tmp_path: Path) -> None:
    log = tmp_path / "work" / "log"
    for _ in range(3):
        with open(outside._opened(str(log)), "wb") as file:
            file.write(b"x" * 600_000)
    assert log.stat().st_size == 600_000
    assert log.stat().st_mode & 0o777 == 0o600
