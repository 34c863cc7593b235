"""ServiceDriver against a real supervisord."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from rfs.production.rollback.drivers.service import ServiceDriver
from rfs.production.rollback.drivers.service.supervisor import EXITED, STOPPED, Unit, _Priorities, _Watch
from rfs.production.rollback.drivers.service.supervisor_rpc import SPAWN_ERROR, AbsentError, RefusedError, Rpc
from rfs.production.rollback.errors import NotFoundError, RollbackError, TimedOutError
from rfs.production.rollback.http_request import parse_url
from rfs.testing import MemoryStore, component

SLEEPER = f"{shutil.which('sleep')} 1000"
HEAD = """\
[unix_http_server]
file=%(here)s/s.sock
[supervisord]
logfile=%(here)s/d.log
pidfile=%(here)s/d.pid
childlogdir=%(here)s
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""


def program(name, command=SLEEPER, **keys):
    keys = {"startsecs": 0, "stopwaitsecs": 5, **keys}
    return f"[program:{name}]\ncommand={command}\n" + "".join(f"{key}={value}\n" for key, value in keys.items())


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


class House:
    """An application's folder with its supervisord. Every process it starts carries `mark`."""

    def __init__(self):
        # The path of a Unix socket has room for 107 bytes, which pytest's folders may exceed.
        self.home = Path(tempfile.mkdtemp(prefix="rfs-"))
        self.mark = f"RFS_TEST_MARK={uuid.uuid4()}"
        self.daemon = None
        self.driver = ServiceDriver()
        self.store = MemoryStore()
        self.rpc = Rpc(parse_url(f"unix://{self.home}/s.sock"), "web")

    def write(self, *sections, name="supervisord.conf"):
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(sections))
        return path

    def configure(self, *programs):
        return self.write(HEAD, *programs)

    def up(self):
        environment = {**os.environ, **dict([self.mark.split("=")])}
        command = [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-n", "-c", "supervisord.conf"]
        self.daemon = subprocess.Popen(
            command, cwd=self.home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self.answers)
        # It may answer before it has started what starts by itself.
        alone = {info["name"] for info in self.rpc.call("getAllConfigInfo") if info["autostart"]}
        until(lambda: all(i["start"] for i in self.rpc.call("getAllProcessInfo") if i["name"] in alone))
        return self

    def answers(self):
        try:
            return self.rpc.call("getState")["statecode"] == 1
        except AbsentError:
            return False

    def down(self):
        self.daemon.terminate()
        self.daemon.wait(20)
        self.daemon = None

    def raze(self):
        """End everything at once, supervisord first, so that it starts nothing again."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
        until(lambda: not self.killed())

    def killed(self):
        """Kill what is left and return it; one that was just being forked is only seen the next time."""
        found = self.processes()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return found

    def part(self, **options):
        return component(
            "service", self.home, name="web", manager="supervisor", **{"config": "supervisord.conf", **options}
        )

    def states(self):
        return {f"{i['group']}:{i['name']}": i["statename"] for i in self.rpc.call("getAllProcessInfo")}

    def state(self, name):
        return self.rpc.call("getProcessInfo", name)["statename"]

    def pid(self, name):
        return self.rpc.call("getProcessInfo", name)["pid"]

    def command(self, name):
        return Path(f"/proc/{self.pid(name)}/cmdline").read_text().replace("\0", " ")

    def wait_for(self, name, state):
        until(lambda: self.state(name) == state)

    def processes(self):
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found


@pytest.fixture
def house():
    house = House()
    yield house
    try:
        house.raze()
        assert house.processes() == []
    finally:
        shutil.rmtree(house.home)


def ready(house, *programs, **options):
    """A supervisord whose programs all run, its component, and a capture of that."""
    house.configure(*programs)
    house.up()
    until(lambda: "STARTING" not in house.states().values())
    c = house.part(**options)
    return c, house.driver.capture(c, house.store, None)


def script(house, text, name="unit.py"):
    path = house.home / name
    path.write_text(dedent(text))
    return f"{sys.executable} {path}"


# — capture and fingerprint —


def test_a_capture_holds_the_running_units_and_the_definitions(house):
    house.configure(program("web"), program("job", autostart="false"))
    house.up()
    house.wait_for("web", "RUNNING")
    c = house.part()
    capture = house.driver.capture(c, house.store, None)
    assert capture.warnings == ()
    assert capture.entries == 2
    assert capture.fingerprint == house.driver.fingerprint(c, rehash=True)
    assert (house.home / "supervisord.conf").read_bytes() in house.store.blobs.values()


def test_a_restarted_unit_is_the_same_state_and_a_stopped_one_is_not(house):
    c, capture = ready(house, program("web"))
    before = house.pid("web")
    house.rpc.call("stopProcess", "web")
    stopped = house.driver.fingerprint(c, rehash=False)
    house.rpc.call("startProcess", "web")
    assert house.pid("web") != before
    assert house.driver.fingerprint(c, rehash=False) == capture.fingerprint != stopped


def test_only_the_units_that_are_named_count(house):
    c, capture = ready(house, program("web"), program("other"), units=["web"])
    house.rpc.call("stopProcess", "other")
    assert house.driver.fingerprint(c, rehash=False) == capture.fingerprint
    house.driver.stop(c, house.store)
    assert house.state("web") == "STOPPED"
    house.rpc.call("startProcess", "other")
    house.driver.stop(c, house.store)
    assert house.state("other") == "RUNNING"


def test_wildcards_and_groups_name_units(house):
    programs = [program("a"), program("b"), program("c"), "[group:pair]\nprograms=a,b\n"]
    c, _ = ready(house, *programs, units=["pair:*"])
    house.driver.stop(c, house.store)
    assert house.states() == {"pair:a": "STOPPED", "pair:b": "STOPPED", "c:c": "RUNNING"}


def test_a_unit_that_supervisor_does_not_know_is_told_of(house):
    c, capture = ready(house, program("web"), units=["web", "wbe"])
    assert capture.warnings == ("supervisor knows no unit wbe.",)
    (finding,) = house.driver.examine(c)
    assert finding.level == "error"
    assert "wbe" in finding.text
    assert "web" in finding.hint


def test_a_stopped_supervisor_is_a_state_in_which_nothing_runs(house):
    house.configure(program("web"))
    c = house.part()
    capture = house.driver.capture(c, house.store, None)
    assert "is not running" in capture.warnings[0]
    house.driver.stop(c, house.store)
    house.driver.start(c, house.store, capture)
    house.up()
    house.wait_for("web", "RUNNING")
    assert [
        (change.key, change.before.label, change.after.label)
        for change in house.driver.changes(c, house.store, capture, None)
    ] == [("web", "stopped", "running")]


def test_units_that_outlived_their_supervisor_are_told_of_and_stopped(house):
    c, _ = ready(house, program("web"), program("other"), units=["web"])
    web, other = house.pid("web"), house.pid("other")
    house.daemon.kill()
    house.daemon.wait()
    capture = house.driver.capture(c, house.store, None)
    assert f"processes {web} run on" in capture.warnings[0]
    house.driver.stop(c, house.store)
    assert house.processes() == [other]


def test_starting_units_needs_a_supervisor(house):
    c, capture = ready(house, program("web"))
    house.down()
    with pytest.raises(RollbackError) as raised:
        house.driver.start(c, house.store, capture)
    assert raised.value.key == "service.unreachable"


def test_a_supervisor_whose_socket_vanished_is_not_taken_for_stopped(house):
    c, _ = ready(house, program("web"))
    (house.home / "s.sock").unlink()
    for call in (lambda: house.driver.stop(c, house.store), lambda: house.driver.capture(c, house.store, None)):
        with pytest.raises(RollbackError, match="runs with process id") as raised:
            call()
        assert raised.value.key == "service.unreachable"


def test_a_hanging_supervisor_does_not_hang_us(house, monkeypatch):
    monkeypatch.setattr("rfs.production.rollback.drivers.service.supervisor_rpc.CALL_SECONDS", 0.3)
    c, _ = ready(house, program("web"))
    house.daemon.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(RollbackError, match="no whole answer") as raised:
        house.driver.fingerprint(c, rehash=False)
    assert raised.value.key == "service.unreachable"
    assert time.monotonic() - began < 3


def test_a_password_is_used_and_never_shown(house):
    conf = HEAD.replace("s.sock\n", "s.sock\nusername=kim\npassword=hunter2\n", 1)
    house.write(conf, program("web"))
    house.rpc = Rpc(parse_url(f"unix://kim:hunter2@{house.home}/s.sock"), "web")
    house.up()
    house.wait_for("web", "RUNNING")
    assert house.driver.capture(house.part(), house.store, None).warnings == ()
    noted = [path for path in house.home.rglob("supervisor.json") if b"s.sock" in path.read_bytes()]
    assert noted
    assert not any(b"hunter2" in path.read_bytes() for path in noted)
    wrong = house.part(config=None, url=f"unix://kim:hunter3@{house.home}/s.sock")
    (finding,) = house.driver.examine(wrong)
    assert "asks for a user" in finding.text
    assert "hunter" not in finding.text + finding.hint


def test_a_url_alone_controls_units_without_their_definitions(house):
    c, capture = ready(house, program("web"), config=None, url=f"unix://{house.home}/s.sock")
    assert "rfs.toml gives no config" in capture.warnings[0]
    house.driver.stop(c, house.store)
    assert house.state("web") == "STOPPED"
    house.driver.start(c, house.store, capture)
    assert house.driver.fingerprint(c, rehash=True) == capture.fingerprint


# — stop —


def test_stopping_again_changes_nothing(house):
    c, _ = ready(house, program("web"), program("worker"))
    house.driver.stop(c, house.store)
    house.driver.stop(c, house.store)
    assert set(house.states().values()) == {"STOPPED"}


def test_a_unit_that_ignores_sigterm_is_waited_for(house):
    command = script(
        house,
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(1000)",
    )
    c, _ = ready(house, program("web", command, stopwaitsecs=1, stdout_logfile="%(here)s/o.log"))
    until(lambda: "up" in (house.home / "o.log").read_text())
    pid = house.pid("web")
    house.driver.stop(c, house.store)
    assert house.state("web") == "STOPPED"
    assert not Path(f"/proc/{pid}").exists()


def test_a_unit_that_does_not_stop_in_time_is_an_error(house):
    command = script(
        house,
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(1000)",
    )
    c, _ = ready(house, program("web", command, stopwaitsecs=3, stdout_logfile="%(here)s/o.log"), stop_timeout="500ms")
    until(lambda: "up" in (house.home / "o.log").read_text())
    with pytest.raises(RollbackError, match="web did not stop: it is still STOPPING") as raised:
        house.driver.stop(c, house.store)
    assert raised.value.key == "service.no_stop"


@pytest.mark.slow
def test_children_that_outlive_their_unit_are_ended_too(house):
    command = script(
        house,
        """
        import subprocess, sys, time
        subprocess.Popen(["sleep", "1001"])
        stubborn = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('up', flush=True); time.sleep(1000)"
        subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
        time.sleep(1000)
        """,
    )
    c, _ = ready(house, program("web", command, stdout_logfile="%(here)s/o.log"), stop_timeout=4)
    until(lambda: "up" in (house.home / "o.log").read_text())
    assert len(house.processes()) == 4  # supervisord, the unit, and two of its own
    house.driver.stop(c, house.store)
    assert house.processes() == [house.daemon.pid]


def test_a_stop_that_was_killed_is_carried_on_with_the_children_it_knew(house):
    c, _ = ready(
        house,
        program("web", script(house, "import subprocess, time\nsubprocess.Popen(['sleep', '1001'])\ntime.sleep(1000)")),
    )
    until(lambda: len(house.processes()) == 3)

    class Killed(MemoryStore):
        def tick(self, items=0, size=0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        house.driver.stop(c, Killed())
    until(lambda: house.state("web") == "STOPPED")
    assert len(house.processes()) == 2  # supervisor ended the unit, and nobody its child
    house.driver.stop(c, house.store)
    assert house.processes() == [house.daemon.pid]


def test_a_crash_looping_unit_counts_as_stopped_and_stays_stopped(house):
    house.configure(program("web", "/bin/false", startsecs=1, startretries=1000))
    house.up()
    house.wait_for("web", "BACKOFF")
    c = house.part()
    capture = house.driver.capture(c, house.store, None)
    assert "does not start" in capture.warnings[0]
    house.driver.stop(c, house.store)
    assert house.state("web") == "STOPPED"
    house.driver.start(c, house.store, capture)
    assert house.state("web") == "STOPPED"


def test_a_unit_that_is_about_to_fail_is_not_taken_for_running(house):
    house.configure(
        program("web", script(house, "import time\ntime.sleep(0.3)\nraise SystemExit(1)"), startsecs=5, startretries=0)
    )
    house.up()
    assert house.state("web") == "STARTING"
    capture = house.driver.capture(house.part(), house.store, None)
    assert "does not start" in capture.warnings[0]


def test_a_unit_between_two_runs_is_caught(house):
    """With autorestart an ended unit is started again a moment after it was seen to be down."""
    c, _ = ready(house, program("web", "/bin/true", autorestart="true"))
    house.driver.stop(c, house.store)
    state = house.states()
    time.sleep(1.2)  # more than a round of supervisord, in which it would be started again
    assert house.states() == state
    assert state["web:web"] in ("STOPPED", "EXITED", "FATAL")


def test_a_unit_that_just_ended_does_not_rest_yet():
    """Within a second supervisord may start it again; only what stays down is down."""
    watch = _Watch(_Priorities([]))
    ended = Unit("web", "web", "web", EXITED, "EXITED", 0, True, 0, 0, "", "")
    assert not watch.rests(ended)
    assert watch.rests(msgspec.structs.replace(ended, ended_ago=60))
    assert watch.rests(msgspec.structs.replace(ended, state=STOPPED))
    until(lambda: watch.rests(ended), 5)


def test_a_starting_unit_is_stopped(house):
    house.configure(program("web", startsecs=60))
    house.up()
    house.wait_for("web", "STARTING")
    house.driver.stop(house.part(), house.store)
    assert house.state("web") == "STOPPED"


def test_stopping_obeys_the_pulse(house):
    c, _ = ready(house, program("web"))

    class Late(MemoryStore):
        def tick(self, items=0, size=0):
            raise TimedOutError("timeout", seconds=1)

    with pytest.raises(TimedOutError):
        house.driver.stop(c, Late())
    house.driver.stop(c, house.store)


# — restore and start —


def test_definitions_and_running_units_come_back_exactly(house):
    c, capture = ready(house, program("web"), program("job", autostart="false"))
    conf = house.home / "supervisord.conf"
    before = conf.read_bytes(), conf.stat().st_mode, conf.stat().st_mtime_ns
    # The new release: another command, a unit more, and another one running.
    house.configure(program("web", f"{SLEEPER}1"), program("job", autostart="false"), program("extra"))
    conf.chmod(0o600)
    house.rpc.call("reloadConfig")
    house.rpc.call("stopProcess", "web")
    house.rpc.call("removeProcessGroup", "web")
    for group in ("web", "extra"):
        house.rpc.call("addProcessGroup", group)
    house.rpc.call("startProcess", "job")
    house.wait_for("extra", "RUNNING")
    live = {
        change.key: (change.kind, change.after.label) for change in house.driver.changes(c, house.store, capture, None)
    }
    assert live == {
        "extra": ("changed", "running"),
        "job": ("changed", "running"),
        "supervisord.conf": ("changed", "definition"),
    }

    house.driver.stop(c, house.store)
    assert [change.key for change in house.driver.verify(c, house.store, capture)] == ["supervisord.conf"]
    assert house.driver.restore(c, house.store, capture).changed == 1
    assert (conf.read_bytes(), conf.stat().st_mode, conf.stat().st_mtime_ns) == before
    assert house.driver.verify(c, house.store, capture) == []
    assert "RUNNING" not in house.states().values()
    house.driver.start(c, house.store, capture)
    assert house.states() == {"web:web": "RUNNING", "job:job": "STOPPED"}
    # With startsecs=0 a unit runs as soon as it is forked, and has its own name a moment later.
    until(lambda: house.command("web").endswith("sleep 1000 "))
    assert house.driver.fingerprint(c, rehash=True) == capture.fingerprint
    # Nothing is left for supervisord to take over: its own view equals the files.
    assert house.rpc.call("reloadConfig") == [[[], [], []]]


def test_restoring_and_starting_again_changes_nothing(house):
    c, capture = ready(house, program("web"))
    house.driver.stop(c, house.store)
    assert house.driver.restore(c, house.store, capture).changed == 0
    house.driver.start(c, house.store, capture)
    pid = house.pid("web")
    house.driver.start(c, house.store, capture)
    assert house.pid("web") == pid


def test_a_unit_that_starts_by_itself_stays_down_until_the_end_and_where_it_was_down(house):
    c = house.part()
    house.configure(program("web"), program("job"))
    house.up()
    house.wait_for("web", "RUNNING")
    house.rpc.call("stopProcess", "job")
    capture = house.driver.capture(c, house.store, None)
    house.configure(program("web", f"{SLEEPER}1"), program("job", f"{SLEEPER}1"))
    house.rpc.call("reloadConfig")
    for group in ("web", "job"):
        house.rpc.call("stopProcess", group) if group == "web" else None
        house.rpc.call("removeProcessGroup", group)
        house.rpc.call("addProcessGroup", group)
    house.wait_for("job", "RUNNING")
    house.driver.stop(c, house.store)
    house.driver.restore(c, house.store, capture)
    assert set(house.states().values()) == {"STOPPED"}
    house.driver.start(c, house.store, capture)
    assert house.states() == {"web:web": "RUNNING", "job:job": "STOPPED"}
    time.sleep(1.2)  # more than a round of supervisord, in which it starts what starts by itself
    assert house.states() == {"web:web": "RUNNING", "job:job": "STOPPED"}


@pytest.mark.slow
def test_a_unit_that_is_about_to_start_by_itself_is_waited_for_and_stopped(house):
    house.configure(program("job"))
    house.up()
    house.rpc.call("stopProcess", "job")
    c = house.part()
    capture = house.driver.capture(c, house.store, None)
    house.configure(program("job", f"{SLEEPER}1"))
    house.driver.start(c, house.store, capture)
    # supervisord takes up to a second to start what was added; then it must have been stopped again.
    assert house.rpc.call("getProcessInfo", "job")["start"] > 0
    assert house.state("job") == "STOPPED"


def test_included_files_come_back_and_others_that_define_the_units_go(house):
    house.write(HEAD, "[include]\nfiles=conf.d/*.conf\n")
    web = house.write(program("web"), name="conf.d/web.conf")
    foreign = house.write(program("foreign"), name="conf.d/foreign.conf")
    house.up()
    house.wait_for("web", "RUNNING")
    c = house.part(units=["web"])
    assert house.driver.owns(c) == tuple(sorted(map(str, [web, house.home / "supervisord.conf"])))
    capture = house.driver.capture(c, house.store, None)
    text = web.read_bytes()
    web.unlink()
    override = house.write(program("web", "/bin/false"), name="conf.d/zz.conf")
    foreign.write_text(program("foreign", f"{SLEEPER}1"))
    assert {change.key for change in house.driver.changes(c, house.store, capture, None)} == {
        "conf.d/web.conf",
        "conf.d/zz.conf",
    }
    pid = house.pid("foreign")
    house.driver.stop(c, house.store)
    house.driver.restore(c, house.store, capture)
    house.driver.start(c, house.store, capture)
    assert web.read_bytes() == text
    assert not override.exists()
    assert house.driver.verify(c, house.store, capture) == []
    assert house.state("web") == "RUNNING"
    # What belongs to others was neither written nor restarted.
    assert foreign.read_text() == program("foreign", f"{SLEEPER}1")
    assert house.pid("foreign") == pid


def test_a_definition_behind_a_link_comes_back_with_the_link(house):
    house.write(HEAD, "[include]\nfiles=conf.d/*.conf\n")
    house.write(program("web"), name="v1/web.conf")
    house.write(program("web", "/bin/false"), name="v2/web.conf")
    link = house.home / "conf.d" / "web.conf"
    link.parent.mkdir()
    link.symlink_to("../v1/web.conf")
    c = house.part()
    capture = house.driver.capture(c, house.store, None)
    link.unlink()
    link.symlink_to("../v2/web.conf")
    (house.home / "v1" / "web.conf").write_text("broken")
    house.driver.restore(c, house.store, capture)
    assert os.readlink(link) == "../v1/web.conf"
    assert (house.home / "v1" / "web.conf").read_text() == program("web")
    assert house.driver.verify(c, house.store, capture) == []
    assert house.driver.fingerprint(c, rehash=True) == capture.fingerprint


def test_another_member_of_a_replaced_group_runs_on(house):
    group = "[group:pair]\nprograms=a,b\n"
    c, capture = ready(house, program("a"), program("b", autostart="false"), group, units=["pair:a"])
    house.rpc.call("startProcess", "pair:b")
    house.configure(program("a", f"{SLEEPER}1"), program("b", autostart="false"), group)
    house.driver.stop(c, house.store)
    assert house.state("pair:b") == "RUNNING"
    house.rpc.call("reloadConfig")
    house.rpc.call("stopProcess", "pair:b")
    house.rpc.call("removeProcessGroup", "pair")
    house.rpc.call("addProcessGroup", "pair")
    house.rpc.call("startProcess", "pair:b")
    house.driver.stop(c, house.store)
    house.driver.restore(c, house.store, capture)
    house.driver.start(c, house.store, capture)
    assert house.states() == {"pair:a": "RUNNING", "pair:b": "RUNNING"}


@pytest.mark.parametrize(
    ("command", "why"),
    [("/bin/false", "too quickly|exit code 1"), ("/no/such/program", "NO_FILE|no such|not|find")],
)
def test_a_unit_that_does_not_start_is_an_error_with_its_log(house, command, why):
    c, capture = ready(house, program("web", script(house, "import time\ntime.sleep(1000)")))
    house.driver.stop(c, house.store)
    body = {"startsecs": 1, "startretries": 0, "stderr_logfile": "%(here)s/web.err"}
    house.configure(program("web", command, **body))
    with pytest.raises(RollbackError, match=why) as raised:
        house.driver.start(c, house.store, capture)
    assert raised.value.key == "service.no_start"
    assert "web.err" in raised.value.hint


def test_what_ended_at_once_is_left_to_supervisor_to_try_again(house, monkeypatch):
    failing = """
        import pathlib, signal, sys
        before = pathlib.Path(__file__).with_suffix(".before")
        if not before.exists():
            before.touch()
            sys.exit(1)
        signal.pause()
        """
    c, capture = ready(house, program("web", script(house, "import signal\nsignal.pause()")))
    house.driver.stop(c, house.store)
    house.configure(
        program("web", script(house, failing, "failing.py"), startsecs=1, startretries=3, autostart="false")
    )
    call, refused = Rpc.call, []

    def refusing(self, method, *arguments, **limits):
        answer = call(self, method, *arguments, **limits)
        if method == "startProcess" and not refused:
            refused.append(method)
            # As when supervisord sees that it has ended before it answers.
            raise RefusedError(SPAWN_ERROR, "SPAWN_ERROR: web")
        return answer

    monkeypatch.setattr(Rpc, "call", refusing)
    house.driver.start(c, house.store, capture)
    assert refused
    assert house.states() == {"web:web": "RUNNING"}


def test_a_definition_that_supervisor_refuses_is_an_error(house):
    c, capture = ready(house, program("web"))
    house.driver.stop(c, house.store)
    house.configure(program("web", startsecs="soon"))
    with pytest.raises(RollbackError, match="soon") as raised:
        house.driver.start(c, house.store, capture)
    assert raised.value.key == "service.definitions"


@pytest.mark.parametrize("broken", [b"", b"[program:\xff]\n", None, b"[include]\nfiles=%(ENV_NO_SUCH)s\n"])
def test_a_configuration_that_is_broken_is_mended_and_comes_back_broken(house, broken):
    house.write(program("other"), name="conf.d/other.conf")
    c, capture = ready(house, "[include]\nfiles=conf.d/*.conf\n", program("web"))
    conf, other = house.home / "supervisord.conf", house.home / "conf.d" / "other.conf"
    whole = conf.read_bytes(), other.read_bytes()
    conf.unlink() if broken is None else conf.write_bytes(broken)
    house.write(program("other", autostart="false"), name="conf.d/other.conf")
    late = other.read_bytes()

    before = house.driver.salvage(c, house.store, capture)
    assert any("what it said last counts" in warning for warning in before.warnings)
    assert any("what it said last counts" in finding.text for finding in house.driver.examine(c))
    house.driver.stop(c, house.store)
    house.driver.restore(c, house.store, capture)
    assert (conf.read_bytes(), other.read_bytes()) == whole
    house.driver.start(c, house.store, capture)
    assert house.states() == {"web:web": "RUNNING", "other:other": "RUNNING"}
    assert house.driver.fingerprint(c, rehash=True) == capture.fingerprint

    house.driver.stop(c, house.store)
    house.driver.restore(c, house.store, before)
    assert house.driver.verify(c, house.store, before) == []
    assert (conf.read_bytes() if conf.exists() else None, other.read_bytes()) == (broken, late)
    house.driver.start(c, house.store, before)
    assert house.driver.fingerprint(c, rehash=True) == before.fingerprint


@pytest.mark.parametrize(
    "refused",
    [
        program("web", user="no-such-user"),
        program("web", numprocs=2),
        "[program:web]\nstartsecs=0\n",
        program("web", stdout_logfile="/no/such/folder/o.log"),
    ],
    ids=["user", "numprocs", "no-command", "no-folder"],
)
def test_definitions_that_supervisor_refuses_are_mended_and_come_back_refused(house, refused):
    c, capture = ready(house, program("web"), program("job", autostart="false"))
    house.configure(refused, program("job", autostart="false"))
    before = house.driver.salvage(c, house.store, capture)
    house.driver.stop(c, house.store)
    house.driver.restore(c, house.store, capture)
    assert not house.driver.start(c, house.store, capture)
    assert house.states() == {"web:web": "RUNNING", "job:job": "STOPPED"}

    house.driver.stop(c, house.store)
    house.driver.restore(c, house.store, before)
    assert house.driver.verify(c, house.store, before) == []
    (said,) = house.driver.start(c, house.store, before)
    assert "supervisor refuses the definitions" in said
    assert house.states() == {"web:web": "RUNNING", "job:job": "STOPPED"}
    assert house.driver.fingerprint(c, rehash=True) == before.fingerprint


def test_a_unit_that_only_refused_definitions_would_bring_back_is_an_error(house):
    c, _ = ready(house, program("web"), program("more"))
    before = house.driver.salvage(c, house.store, None)
    house.driver.stop(c, house.store)
    house.configure(program("web"))
    house.driver.start(c, house.store, msgspec.structs.replace(house.driver.capture(c, house.store, None), meta={}))
    house.configure(program("web", user="no-such-user"), program("more"))
    with pytest.raises(RollbackError, match="no-such-user") as raised:
        house.driver.start(c, house.store, before)
    assert raised.value.key == "service.definitions"


def test_a_unit_that_ran_and_is_defined_no_more_is_an_error(house):
    c, capture = ready(house, program("web"), program("worker"))
    house.driver.stop(c, house.store)
    house.configure(program("web"))
    with pytest.raises(NotFoundError) as raised:
        house.driver.start(c, house.store, capture)
    assert raised.value.key == "service.unknown_unit"
    assert "web" in raised.value.hint


def test_a_unit_that_rfs_toml_names_no_more_is_left_alone(house):
    _, capture = ready(house, program("web"), program("worker"))
    c = house.part(units=["web"])
    for unit in ("web", "worker"):
        house.rpc.call("stopProcess", unit)
    house.driver.start(c, house.store, capture)
    assert house.states() == {"web:web": "RUNNING", "worker:worker": "STOPPED"}


def test_a_unit_that_failed_before_is_started(house):
    c, capture = ready(house, program("web"))
    house.configure(program("web", "/bin/false", startsecs=1, startretries=0))
    house.rpc.call("reloadConfig")
    house.rpc.call("stopProcess", "web")
    house.rpc.call("removeProcessGroup", "web")
    house.rpc.call("addProcessGroup", "web")
    house.wait_for("web", "FATAL")
    house.driver.stop(c, house.store)
    house.driver.restore(c, house.store, capture)
    house.driver.start(c, house.store, capture)
    assert house.state("web") == "RUNNING"


def test_a_manifest_with_a_path_outside_is_refused(house):
    c = house.part()
    house.configure(program("web"))
    capture = house.driver.capture(c, house.store, None)
    refs, body = house.store.get_part(capture.parts[0])
    hostile = house.store.put_part(refs, body.replace(b"supervisord.conf", b"../escaping.file"))
    with pytest.raises(RollbackError, match="outside"):
        house.driver.restore(c, house.store, msgspec.structs.replace(capture, parts=(hostile,)))


# — who calls —


def test_a_caller_inside_a_unit_is_known_and_one_outside_is_not(house):
    asking = script(
        house,
        """
        import subprocess, sys
        from pathlib import Path
        from rfs.production.rollback.drivers.service import ServiceDriver
        from rfs.testing import component
        home = Path(sys.argv[0]).parent
        c = component("service", home, name="web", manager="supervisor", config="supervisord.conf", units=["web"])
        word = str(ServiceDriver().contains_caller(c))
        (home / sys.argv[1]).write_text(word)
        """,
        name="asking.py",
    )
    caller = script(
        house,
        f"""
        import subprocess, time
        subprocess.run({asking.split()!r} + ["inside"])
        time.sleep(1000)
        """,
    )
    c, _ = ready(house, program("web", caller), program("other", f"{asking} beside", autorestart="false"))
    until(lambda: (house.home / "inside").exists() and (house.home / "inside").read_text())
    until(lambda: (house.home / "beside").exists() and (house.home / "beside").read_text())
    assert (house.home / "inside").read_text() == "True"
    assert (house.home / "beside").read_text() == "False"
    assert house.driver.contains_caller(c) is False
