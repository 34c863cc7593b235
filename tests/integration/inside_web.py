"""A web server with a RollbackManager inside, and what tests ask of it and of the process that works outside."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rfs.production.rollback.application import Application
from rfs.production.rollback.lock import holder
from rfs.production.rollback.operation import Operation

# It answers over HTTP, and handles SIGTERM as servers do: what it is busy with is cancelled and waited for.
SERVER = """
import asyncio, ctypes, json, os, signal, sys

home = sys.argv[1]
version = open(home + "/tree/code.txt").read().strip()
busy = {}
over = asyncio.Event()

def manager(kind="RollbackManager"):
    import msgspec
    import rfs.production.rollback
    from rfs.production.rollback.settings import load
    settings = load(home + "/rfs.toml")
    policy = msgspec.structs.replace(settings.policy, max_rollback_time=77)
    return getattr(rfs.production.rollback, kind)(msgspec.structs.replace(settings, policy=policy))

async def deploy():
    change = ["sh", "-c", "echo v3 > " + home + "/tree/code.txt; exit 4"]
    return await manager("DeploymentRollbackManager").deploy("d3", change, {"version": "v3"})

async def cli(*words):
    words = [*words, "--yes", "--json", "--reason", "asked inside", "--config", home + "/rfs.toml"]
    out, err = open(home + "/cli.out", "wb"), open(home + "/cli.err", "wb")
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "rfs.cli.main", *words, stdout=out, stderr=err)
    return await process.wait()

async def version_and_pid():
    return version, os.getpid()

async def cancel():
    return busy["/rollback"].cancel()

async def subreaper():
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)

def number(name):
    path = home + "/" + name
    return float(open(path).read()) if os.path.exists(path) else 0.0

async def watch():
    import rfs.production.rollback

    class Auto(rfs.production.rollback.AutoRollbackManager):
        async def send_alert(self, name, value):
            with open(home + "/alerts", "a") as file:
                file.write(f"{name} {value}\\n")

    async def latency():
        return number("latency")

    auto = Auto(manager())
    auto.add_rollback_condition("error_rate", lambda: number("errors"), 0.05, cooldown=0, max_auto_rollbacks=99)
    auto.add_rollback_condition("p99", lambda: latency(), 2.0, cooldown=0, max_auto_rollbacks=99)
    auto.add_rollback_condition("memory", lambda: number("memory"), 0.9, action="alert")
    busy["watch"] = asyncio.create_task(auto.start_monitoring(interval=0.1))
    busy["watch"].add_done_callback(lambda _: busy.pop("watch"))
    return [each.name for each in auto.conditions]

async def arm():
    import rfs.production.rollback as rollback
    rule = rollback.ConditionalRollback("error_rate", lambda: number("errors"), 0.05, interval=0.1)
    armed = rollback.RollbackStrategy.CONDITIONAL
    done = await manager().rollback_to_checkpoint("@latest", reason="armed inside", strategy=armed, condition=rule)
    busy["armed"] = asyncio.create_task(asyncio.sleep(3600))  # it is waited for as the others are
    busy["armed"].add_done_callback(lambda _: busy.pop("armed"))
    return done

ACTS = {
    "/watch": watch,
    "/arm": arm,
    "/version": version_and_pid,
    "/rollback": lambda: manager().rollback_to_checkpoint("@latest", reason="asked inside"),
    "/deploy": deploy,
    "/undo": lambda: manager().undo(),
    "/recover": lambda: manager().recover(),
    "/checkpoint": lambda: manager().create_checkpoint("d"),
    "/cli/rollback": lambda: cli("rollback", "@latest"),
    "/cli/abort": lambda: cli("abort"),
    "/subreaper": subreaper,
    "/cancel": cancel,
}

def plain(result):
    if not hasattr(result, "is_success"):
        return result
    if result.is_failure():
        return {"error": result.error.key, "text": str(result.error)}
    import msgspec
    return msgspec.to_builtins(result.value)

async def answer(reader, writer):
    path = (await reader.readline()).split()[1].decode()
    busy[path] = asyncio.current_task()
    try:
        body = json.dumps(plain(await ACTS[path]()))
    except asyncio.CancelledError:
        body = '"cancelled"'
    writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + body.encode())
    await writer.drain()
    writer.close()
    del busy[path]

def stop():
    over.set()
    open(home + "/stopped", "w").close()
    for task in busy.values():
        task.cancel()

async def serve():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    with open(home + "/web.pid", "w") as file:
        file.write(str(os.getpid()))
    async with await asyncio.start_unix_server(answer, home + "/web.sock"):
        await over.wait()
        while busy:
            await asyncio.sleep(0.01)

asyncio.run(serve())
"""

# It fails for the versions in "sick", and can be made to take its time.
HEALTH = """
import os, sys, time
home = sys.argv[1]
open(home + "/checking", "w").close()
while os.path.exists(home + "/hold-check"):
    time.sleep(0.01)
version = open(home + "/tree/code.txt").read().strip()
sick = open(home + "/sick").read().split() if os.path.exists(home + "/sick") else []
sys.exit(version in sick)
"""

HELD = ("hold-stop", "hold-check")


class Server:
    """The server of the application in `home`, whose code is to be there as web.py.

    Did a rollback wait for the server's end while the server waits for the rollback's, that would take as long
    as whatever runs it waits before it kills it: a minute in these tests.
    """

    home: Path

    def open(self) -> Application:
        return Application.open(str(self.home / "rfs.toml"))

    def ask(self, path: str) -> Any:
        """Ask the server; None when it ended without an answer."""
        connection = http.client.HTTPConnection("web")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(30)
        try:
            connection.sock.connect(str(self.home / "web.sock"))
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        except (http.client.RemoteDisconnected, ConnectionError, FileNotFoundError):
            return None
        finally:
            connection.close()

    def answers(self) -> bool:
        return self.ask("/version") is not None

    def ask_meanwhile(self, path: str) -> Callable[[], Any]:
        """Ask the server and return at once; what is returned waits for its answer."""
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(self.ask(path)))
        thread.start()

        def answer() -> Any:
            thread.join(30)
            return answers[0]

        return answer

    def serves(self, version: str) -> int:
        """Wait until the server answers with this version; return its process id."""
        self.wait_for(lambda: (self.ask("/version") or [""])[0] == version, f"{version} to answer")
        pid: int = self.ask("/version")[1]
        return pid

    def ended(self) -> Operation:
        """Wait until nothing is going on, and return the last operation."""
        with self.open() as app:
            self.wait_for(lambda: not holder(app.lock_path), "the end")
            last = app.catalog.latest_operation()
            assert last is not None
            return last

    def last_reason(self) -> str:
        """Return the reason of the last operation, or "" before any."""
        with self.open() as app:
            last = app.catalog.latest_operation()
            return last.reason if last is not None else ""

    @property
    def told(self) -> str:
        """What the carrier has said; nothing before there is one."""
        log = self.home / ".rfs" / "work" / "_outside.log"
        return log.read_text() if log.exists() else ""

    @property
    def carrier(self) -> int:
        """The process id of the last carrier."""
        return int(re.findall(r"process (\d+): ", self.told)[-1])

    def exists(self, name: str) -> None:
        self.wait_for((self.home / name).exists, name)

    def touch(self, *names: str) -> None:
        for name in names:
            (self.home / name).touch()

    def remove(self, *names: str) -> None:
        for name in names:
            (self.home / name).unlink()

    def wait_for(self, happened: Callable[[], object], what: str, seconds: float = 30) -> None:
        """Wait until `happened()`, which looks at files and sockets of other processes."""
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, f"waited in vain for {what}"
            time.sleep(0.01)
