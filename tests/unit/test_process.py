from __future__ import annotations

import os
import resource
import select
import sys
import time

import pytest

from rfs.production.rollback.errors import InterruptedByUserError, RollbackError, TimedOutError
from rfs.production.rollback.process import TAIL_BYTES, run


def sh(text, **keys):
    return run(["sh", "-c", text], **{"cwd": "/", "timeout": 20, **keys})


def alive(pid):
    """A process that was killed dies a moment later: wait for that, and call alive what does not die."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        return not select.select([handle], [], [], 5)[0]
    finally:
        os.close(handle)


def test_in_a_server_with_very_many_open_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("no more files may be opened here than select() can watch")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    opened = [os.open("/", os.O_RDONLY) for _ in range(1100)]
    try:
        assert sh("echo one; sleep 0.1; echo two").output == "one\ntwo"
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_status_and_output():
    ended = sh("echo out; echo err >&2; exit 7")
    assert (ended.status, ended.output, ended.reason) == (7, "out\nerr", "status 7")


def test_a_signal_is_a_negative_status():
    ended = sh("kill -9 $$")
    assert (ended.status, ended.reason) == (-9, "signal 9")


def test_only_the_end_of_the_output_is_kept():
    ended = run([sys.executable, "-c", "print('x' * 3_000_000 + 'end')"], cwd="/", timeout=20)
    assert ended.output.endswith("xend")
    assert len(ended.output) <= TAIL_BYTES


def test_it_runs_where_it_is_told_to_with_nothing_to_read(tmp_path):
    assert sh("pwd; cat", cwd=str(tmp_path)).output == str(tmp_path)


def test_arguments_are_not_given_to_a_shell():
    assert run(["echo", "$HOME; exit 3"], cwd="/", timeout=20).output == "$HOME; exit 3"


@pytest.mark.parametrize("command", [["/no/such/program"], ["/"], ["nul\0"]])
def test_what_cannot_be_started_is_an_error(command):
    with pytest.raises(RollbackError) as raised:
        run(command, cwd="/", timeout=20)
    assert raised.value.key == "command.missing"


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(RollbackError) as raised:
        sh("true", cwd=str(tmp_path / "none"))
    assert raised.value.key == "command.missing"


def test_a_command_that_ends_late_is_ended(tmp_path):
    note = tmp_path / "pids"
    began = time.monotonic()
    with pytest.raises(TimedOutError, match=r"within 0\.2 s") as raised:
        sh(f"sleep 1000 & echo $! $$ > {note}; sleep 1000", timeout=0.2)
    assert raised.value.key == "command.slow"
    assert time.monotonic() - began < 1
    assert not any(alive(int(pid)) for pid in note.read_text().split())


def test_it_may_tidy_up_before_it_is_killed(tmp_path):
    with pytest.raises(TimedOutError):
        sh("trap 'echo bye > said; exit' TERM; echo > up; while :; do sleep 0.01; done", timeout=0.3, cwd=str(tmp_path))
    assert (tmp_path / "said").exists()


def test_one_that_closes_its_output_is_still_cut():
    with pytest.raises(TimedOutError):
        sh("exec >&- 2>&-; sleep 1000", timeout=0.2)


def test_what_it_leaves_in_the_background_is_ended_and_not_waited_for():
    began = time.monotonic()
    ended = sh("sleep 1000 & echo $!")
    assert time.monotonic() - began < 5
    pid = int(ended.output)
    end = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_it_leaves_in_the_background_may_be_kept(tmp_path):
    log = tmp_path / "log"
    ended = sh("(while :; do echo more; sleep 0.01; done) & echo $!", log=str(log), keep_children=True)
    pid = int(ended.output.split()[0])
    try:
        size = log.stat().st_size
        end = time.monotonic() + 5
        while log.stat().st_size <= size:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        os.kill(pid, 9)


def test_a_log_is_written_anew(tmp_path):
    log = tmp_path / "log"
    log.write_text("old" * 9999)
    assert sh("echo new", log=str(log)).output == "new"
    assert log.read_text() == "new\n"


class Stopping:
    """A pulse that says stop once the command has written its note."""

    def __init__(self, note):
        self.note = note

    def tick(self, items=0, size=0):
        if self.note.exists() and self.note.read_text().endswith("\n"):
            raise InterruptedByUserError("interrupted")

    def remaining(self):
        return 60.0


def test_the_pulse_ends_it(tmp_path):
    note = tmp_path / "pid"
    with pytest.raises(InterruptedByUserError):
        sh(f"echo $$ > {note}; exec sleep 1000", pulse=Stopping(note))
    assert not alive(int(note.read_text()))


def test_it_works_without_pidfds(monkeypatch):
    def refuse(pid, flags=0):
        raise OSError

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    assert sh("echo it").output == "it"


def test_nothing_stays_open():
    before = sorted(os.listdir("/proc/self/fd"))
    sh("true")
    with pytest.raises(RollbackError):
        run(["/no/such/program"], cwd="/", timeout=1)
    assert sorted(os.listdir("/proc/self/fd")) == before
