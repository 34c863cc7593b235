"""A service that rolls back the very application it belongs to, under a real supervisord."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from inside_web import HEALTH, HELD, SERVER, Server
from stack import CONFIG, SUPERVISORD, Stack, snapshot

from rfs.cli.views import operation_text
from rfs.production.rollback import RollbackManager
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.catalog import entry
from rfs.production.rollback.drivers.service import ServiceDriver
from rfs.production.rollback.drivers.service.supervisor_rpc import Rpc
from rfs.production.rollback.errors import ConflictError, RollbackError
from rfs.production.rollback.http_request import parse_url
from rfs.production.rollback.lock import holder
from rfs.production.rollback.model import HealthReport, OperationStatus
from rfs.production.rollback.operation import Mark
from rfs.production.rollback.outside import Channel, Request
from rfs.testing import MemoryDriver, component

# A second service, which is stopped before the other one. It can be made to take its time.
GATE = """\
#!/bin/sh
cd "$(dirname "$0")"
case $1 in
  start) touch running ;;
  stop) test -e signal-web && kill -TERM "$(cat web.pid)"
        touch stopping
        while test -e hold-stop; do sleep 0.02; done
        rm -f running ;;
  status) test -e running ;;
esac
"""

PROGRAM = """
[program:web]
command = {python} {home}/web.py {home}
startsecs = 0
stopwaitsecs = 60
stopasgroup = true
killasgroup = true
"""

COMPONENT = """
[components.z-gate]
kind = "service"
manager = "command"
start = ["./gate", "start"]
stop = ["./gate", "stop"]
status = ["./gate", "status"]
"""


class Web(Stack, Server):
    """A stack with a web server that has the manager inside."""

    config = CONFIG.replace('units = ["writer"]\n', "") + COMPONENT
    supervisord_conf = SUPERVISORD + PROGRAM
    v1: dict[str, object]
    v2: dict[str, object]
    target: str

    def prepare(self) -> None:
        (self.home / "web.py").write_text(SERVER)
        (self.home / "health.py").write_text(HEALTH)
        (self.home / "gate").write_text(GATE)
        (self.home / "gate").chmod(0o755)
        (self.home / "running").touch()

    def reset(self) -> None:
        """Version 1, healthy, with nothing held up."""
        for name in ("sick", "signal-web", "stopping", "stopped", "checking", *HELD):
            (self.home / name).unlink(missing_ok=True)
        (self.home / "tree" / "code.txt").write_text("v1\n")
        (self.home / "tree" / "new.txt").unlink(missing_ok=True)
        shutil.rmtree(self.home / "tree" / "static")
        (self.home / "tree" / "static").mkdir()
        (self.home / "tree" / "static" / "a.css").write_text("a {}\n")
        (self.home / "settings.toml").write_text("# the shop\ntitle = 'Shop'\n")
        (self.home / "stack.env").write_text("TOKEN=one\n")

    def deploy_v2(self) -> None:
        super().deploy_v2()
        supervisor = Rpc(parse_url(f"unix://{self.home}/s.sock"), "writer")
        supervisor.call("stopProcess", "web")
        supervisor.call("startProcess", "web")
        self.serves("v2")

    def checkpoints(self) -> list[str]:
        with self.open() as app:
            return [each.checkpoint_id for each in app.catalog.checkpoints()]

    def stable(self) -> dict[str, object]:
        """What the writer does not touch."""
        tree = snapshot(self.home / "tree")
        tree.pop("lines.txt")
        return {**tree, "env": (self.home / "stack.env").read_bytes()}


@pytest.fixture(scope="module")
def shared() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


@pytest.fixture
def web(shared: Web) -> Iterator[Web]:
    """Version 2, with a checkpoint of version 1."""
    shared.reset()
    shared.v1 = shared.stable()
    with shared.open() as app:
        shared.target = app.checkpoint().checkpoint_id
    shared.deploy_v2()
    shared.v2 = shared.stable()
    (shared.home / "checking").unlink(missing_ok=True)  # that was of the checkpoint
    yield shared
    for name in HELD:
        (shared.home / name).unlink(missing_ok=True)
    with shared.open() as app:
        shared.wait_for(lambda: not holder(app.lock_path), "the end")


def roll_back_until_the_stop(web: Web) -> Callable[[], Any]:
    """Ask for a rollback that stays in the outage until `hold-stop` goes; return what waits for the answer."""
    web.touch("hold-stop")
    rolled_back = web.ask_meanwhile("/rollback")
    web.exists("stopping")
    return rolled_back


def lose_the_carrier_in_the_outage(web: Web) -> None:
    rolled_back = roll_back_until_the_stop(web)
    os.kill(web.carrier, signal.SIGKILL)
    assert rolled_back()["error"] == "outside.lost"
    web.remove("hold-stop")


# — the whole way —


def test_a_service_rolls_itself_back_and_undoes_it(web: Web) -> None:
    said = web.ask("/rollback")
    done = web.ended()
    # On a busy machine the stop may come before the answer; the record is complete either way.
    assert said in ({"rollback_id": done.operation_id, "status": "running", "rolled_back_to": web.target}, "cancelled")
    assert (done.status, done.plan.target, done.error) == (OperationStatus.COMPLETED, web.target, None)
    # The limit is not in rfs.toml: the server's manager was given settings of its own.
    assert (done.reason, done.inside, done.max_rollback_time) == ("asked inside", "writer", 77)
    assert done.actor
    assert done.outage is not None
    assert done.outage < 20
    assert web.stable() == web.v1
    web.serves("v1")
    said = web.ask("/undo")
    undone = web.ended()
    running = [{"rollback_id": undone.operation_id, "status": "running", "rolled_back_to": done.before}]
    assert said in (running, "cancelled")
    assert (undone.status, undone.undoes, undone.inside) == (OperationStatus.COMPLETED, done.operation_id, "writer")
    assert web.stable() == web.v2
    web.serves("v2")


@pytest.mark.slow
def test_meanwhile_the_carrier_is_apart_and_what_is_written_until_the_stop_is_kept(web: Web) -> None:
    rolled_back = roll_back_until_the_stop(web)
    assert_nothing_of_the_unit(web)
    before = web.acked
    web.wait_for(lambda: web.acked > before + 5, "the writer to go on")
    late = web.acked
    web.remove("hold-stop")
    assert rolled_back()["status"] == "running"
    done = web.ended()
    assert done.status is OperationStatus.COMPLETED
    assert done.late_count
    with web.open() as app:
        app.undo()
    assert set(range(1, late + 1)) <= set(web.rows())
    assert set(range(1, late + 1)) <= set(web.lines())


def test_a_sick_target_is_turned_back_and_version_2_runs_again(web: Web) -> None:
    pid = web.serves("v2")
    web.sick("v1")
    assert web.ask("/rollback")["status"] == "running"
    done = web.ended()
    assert done.status is OperationStatus.REVERTED
    assert done.error is not None
    assert "version" in done.error
    assert web.stable() == web.v2
    assert web.serves("v2") != pid


@pytest.mark.parametrize(
    ("figure", "name", "value", "limit"),
    [("errors", "error_rate", 0.07, 0.05), pytest.param("latency", "p99", 3, 2, marks=pytest.mark.slow)],
)
def test_a_condition_that_trips_inside_rolls_its_own_host_back(
    web: Web, figure: str, name: str, value: float, limit: float
) -> None:
    assert web.ask("/watch") == ["error_rate", "p99", "memory"]
    (web.home / "memory").write_text("0.95")
    web.wait_for((web.home / "alerts").exists, "the alert")
    (web.home / figure).write_text(str(value))
    try:
        web.wait_for(lambda: web.last_reason() == f"automatic: {name} is {value:g}, above {limit:g}", "the rollback")
        done = web.ended()
    finally:
        for each in ("memory", figure, "alerts"):
            (web.home / each).unlink()
    assert (done.status, done.plan.target, done.error) == (OperationStatus.COMPLETED, web.target, None)
    assert web.stable() == web.v1
    web.serves("v1")
    (record, *_) = RollbackManager(web.home).get_rollback_history()
    assert (record.rollback_id, str(record.status)) == (done.operation_id, "completed")
    assert record.reason == f"automatic: {name} is {value:g}, above {limit:g}"
    assert (record.checkpoint_id, record.inside, record.error) == (web.target, "writer", None)
    assert record.backup_id is not None
    assert record.outage is not None
    assert record.finished_at is not None
    assert record.finished_at > record.executed_at
    assert record.health is not None
    assert record.health.healthy
    assert record.health.checks
    with web.open() as app:
        assert str(app.catalog.checkpoint(record.backup_id).type) == "safety"


@pytest.mark.slow
def test_a_rollback_that_is_armed_inside_fires_once_and_goes_on_outside(web: Web) -> None:
    armed = web.ask("/arm")
    assert armed["status"] == "armed"
    (web.home / "errors").write_text("0.07")
    try:
        web.wait_for(lambda: "armed inside" in web.last_reason(), "the rollback")
        done = web.ended()
    finally:
        (web.home / "errors").unlink()
    assert (done.operation_id, done.status) == (armed["rollback_id"], OperationStatus.COMPLETED)
    assert (done.plan.target, done.error, bool(done.inside)) == (web.target, None, True)
    assert web.stable() == web.v1
    web.serves("v1")
    with web.open() as app:
        assert not app.find_deferred(armed["rollback_id"]).waits


def test_what_fails_before_the_stop_is_told_and_stops_nothing(web: Web) -> None:
    pid = web.serves("v2")
    (web.home / "tree" / "static" / "a.css").mkdir()
    (web.home / "tree" / "static" / "a.css" / "x.tmp").touch()
    said = web.ask("/rollback")
    assert said["error"] == "path.sheltering"
    assert web.ask("/version") == ["v2", pid]
    assert not (web.home / "stopping").exists()


# — stop —


def test_cancelled_before_the_stop_it_turns_back(web: Web) -> None:
    pid = web.serves("v2")
    web.touch("hold-check")
    rolled_back = web.ask_meanwhile("/rollback")
    web.exists("checking")
    assert web.ask("/cancel") is True
    assert rolled_back() == "cancelled"
    web.remove("hold-check")
    web.ended()
    assert web.stable() == web.v2
    assert web.ask("/version") == ["v2", pid]
    assert not (web.home / "stopping").exists()


def test_once_the_services_are_being_stopped_cancelling_does_not_turn_it_back(web: Web) -> None:
    # As a stop of its own does: the server cancels what it is busy with, and ends when that has ended.
    web.touch("hold-stop", "signal-web")
    rolled_back = web.ask_meanwhile("/rollback")
    web.exists("stopped")
    web.wait_for(lambda: "too late to stop" in web.told, "the carrier to hear of it")
    web.remove("hold-stop")
    assert rolled_back() == "cancelled"
    done = web.ended()
    assert done.status is OperationStatus.COMPLETED
    assert web.stable() == web.v1
    web.serves("v1")


@pytest.mark.slow
def test_who_ends_the_carrier_turns_it_back(web: Web) -> None:
    pid = web.serves("v2")
    rolled_back = roll_back_until_the_stop(web)
    os.kill(web.carrier, signal.SIGTERM)
    assert rolled_back()["error"] == "interrupted"
    web.remove("hold-stop")
    assert web.ended().status is OperationStatus.REVERTED
    assert web.stable() == web.v2
    assert web.ask("/version") == ["v2", pid]


# — crashes —


@pytest.mark.slow
def test_a_carrier_killed_in_the_outage_is_settled_from_inside(web: Web) -> None:
    lose_the_carrier_in_the_outage(web)
    # Whatever changes something settles it first, and that stops this server.
    assert web.ask("/checkpoint")["error"] == "outside.going_on"
    done = web.ended()
    assert (done.status, done.inside) == (OperationStatus.COMPLETED, "writer")
    assert web.stable() == web.v1
    web.serves("v1")
    assert web.ask("/recover") == []


@pytest.mark.slow
def test_what_needs_no_stop_to_be_settled_is_settled_and_the_call_goes_on(web: Web) -> None:
    pid = web.serves("v2")
    lose_the_carrier_in_the_outage(web)
    with web.open() as app:
        interrupted = app.catalog.open_operation()
        assert interrupted is not None
        app.catalog.mark(entry(interrupted, "", Mark.TURN))
    assert web.ask("/checkpoint") == web.checkpoints()[0]
    assert web.ended().status is OperationStatus.REVERTED
    assert web.ask("/version") == ["v2", pid]


def test_a_carrier_killed_after_the_start_is_finished_from_inside(web: Web) -> None:
    rolled_back = roll_back_until_the_stop(web)
    web.touch("hold-check")
    web.remove("hold-stop", "checking")
    rolled_back()
    web.exists("checking")
    os.kill(web.carrier, signal.SIGKILL)
    web.remove("hold-check")
    pid = web.serves("v1")
    assert web.ended().status is OperationStatus.RUNNING
    (settled,) = web.ask("/recover")
    assert settled["status"] == "completed"
    assert web.ask("/version") == ["v1", pid]


@pytest.mark.slow
def test_abort_from_inside_tells_the_real_end(web: Web) -> None:
    pid = web.serves("v2")
    lose_the_carrier_in_the_outage(web)
    assert web.ask("/cli/abort") == 0
    assert json.loads((web.home / "cli.out").read_text())["data"]["status"] == "reverted"
    assert web.stable() == web.v2
    assert web.ask("/version") == ["v2", pid]


# — the carrier —


def assert_nothing_of_the_unit(web: Web) -> None:
    pid, carrier = web.serves("v2"), web.carrier
    assert os.getsid(carrier) != os.getsid(pid)
    assert os.getpgid(carrier) != os.getpgid(pid)
    assert sockets(carrier).isdisjoint(sockets(pid))
    variables = Path(f"/proc/{carrier}/environ").read_bytes()
    assert b"SUPERVISOR_ENABLED" not in variables
    assert b"SUPERVISOR_PROCESS_NAME" not in variables
    assert f"SUPERVISOR_SERVER_URL=unix://{web.home}/s.sock".encode() in variables
    assert os.stat(web.home / ".rfs" / "work" / "_outside.log").st_mode & 0o777 == 0o600
    with web.open() as app, pytest.raises(RollbackError, match=f"process {carrier},"):
        app.checkpoint()


def sockets(pid: int) -> set[str]:
    folder = f"/proc/{pid}/fd"
    links = {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
    return {link for link in links if link.startswith("socket:")}


def test_a_request_arrives_as_it_was(web: Web) -> None:
    with web.open() as app:
        settings = msgspec.structs.replace(app.settings, home="/srv/\udce9")
        arguments = {"selector": "@latest", "only": ["tree"], "reason": "caf\udce9"}
        sent = Request(
            settings=settings, method="rollback", arguments=arguments, expected=app.plan("@latest"), inside=(), caller=1
        )
    a, b = map(Channel, socket.socketpair())
    with closing(a), closing(b):
        a.say("request", request=msgspec.to_builtins(sent))
        told = b.hear(20)
    assert told is not None
    assert msgspec.convert(told["request"], Request) == sent


def test_what_cannot_leave_is_refused_before_anything_is_touched(web: Web) -> None:
    pid = web.serves("v2")
    web.ask("/subreaper")
    known = web.checkpoints()
    said = web.ask("/rollback")
    assert said["error"] == "rollback.inside"
    assert "writer" in said["text"]
    assert web.stable() == web.v2
    assert web.ask("/version") == ["v2", pid]
    assert web.checkpoints() == known


def test_code_of_the_caller_alone_is_not_left_behind(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceDriver, "contains_caller", lambda *_: True)
    with web.open() as app:
        known = app.catalog.checkpoints()
        app.parts["mine"] = Part(component("memory", web.home, name="mine"), MemoryDriver())
        with pytest.raises(ConflictError, match="mine is code of this process alone"):
            app.rollback("@latest")
        assert app.catalog.checkpoints() == known

    class Careful(RollbackManager):
        async def health_check(self) -> HealthReport:
            return HealthReport()

    careful, described = (kind(web.home / "rfs.toml") for kind in (Careful, RollbackManager))
    described.register_component("mine", get=lambda: 1, restore=lambda _: None)
    for manager, own in ((careful, "check_health"), (described, "mine")):
        refused = asyncio.run(manager.rollback_to_checkpoint("@latest"))
        assert refused.is_failure()
        assert refused.error.key == "rollback.inside"
        assert own in str(refused.error)
    assert len(web.checkpoints()) == len(known)
    assert web.stable() == web.v2


# — the command line —


def test_the_command_line_inside_says_that_it_goes_on(web: Web) -> None:
    web.ask("/cli/rollback")
    done = web.ended()
    assert (done.status, done.inside) == (OperationStatus.COMPLETED, "writer")
    envelope = json.loads((web.home / "cli.out").read_text())
    assert (envelope["ok"], envelope["code"]) == (False, 130)
    assert envelope["data"]["error"]["key"] == "outside.going_on"
    assert done.operation_id in envelope["data"]["error"]["hint"]
    events = [json.loads(line) for line in (web.home / "cli.err").read_text().splitlines() if line.startswith("{")]
    steps = [event["step"] for event in events]
    assert {"leaving the service", "capturing tree", "stage tree", "stop z-gate"} <= set(steps)
    with web.open() as app:
        assert "inside writer" in operation_text(app.catalog.operation(done.operation_id), everything=True, alive=False)


# The last one: what the writer wrote since the checkpoint goes back with it, and others count that.
@pytest.mark.slow
def test_a_service_deploys_itself_and_a_failing_change_is_taken_back_outside(web: Web) -> None:
    assert web.ask("/deploy")["error"] == "outside.going_on"
    done = web.ended()
    assert (done.status, done.inside, done.reason) == (OperationStatus.COMPLETED, "writer", "sh ended with status 4")
    assert web.stable() == web.v2
    web.serves("v2")
    with web.open() as app:
        (deployment,) = app.catalog.deployments()
    assert (deployment.phase, deployment.rollback_id) == ("reverted", done.operation_id)
