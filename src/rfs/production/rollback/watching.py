"""The daemon: it settles what nobody looks after, does what `[[schedules]]` says, and records edits (`[track]`).

Whatever it has to remember is in the store, so that it may be stopped, killed and started again at any moment.
Each turn opens the application anew: an edit of rfs.toml counts from the next one on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, Literal

import msgspec

from rfs.production.rollback import firing
from rfs.production.rollback.application import Application
from rfs.production.rollback.conditional import parse_conditions
from rfs.production.rollback.edits import parse_track
from rfs.production.rollback.errors import InterruptedByUserError, RollbackError
from rfs.production.rollback.listening import parse_metrics
from rfs.production.rollback.lock import exclusive
from rfs.production.rollback.metrics import Exporter
from rfs.production.rollback.model import CheckpointType, utc_now
from rfs.production.rollback.noticing import require_watchfiles
from rfs.production.rollback.outbox import Postman
from rfs.production.rollback.ruling import Ruler
from rfs.production.rollback.schedule import due, following
from rfs.production.rollback.scheduled import ScheduleTable, lock_path, parse_schedules
from rfs.production.rollback.settings import Settings
from rfs.production.rollback.tracking import Tracker

# How late a deadline may be noticed; one look takes about a tenth of a second of processor time.
_NAP_SECONDS = 10.0
_URGENT_SECONDS = 1.0
# What could not be done is tried again after this long, unless it is due again anyway.
_AGAIN_SECONDS = 60.0


class Told(msgspec.Struct, frozen=True):
    """Something that the daemon did, or could not do.

    Attributes:
        what: "started", "stopped", "settled", "checkpoint", "prune", "drill", "tracking", "edit", "rollback" (that was
            scheduled, or that a condition called for), "refused" (a scheduled one, which is not made), "alert" or
            "recovered" (of a condition) or "error".
        text: a sentence.
        subject: the id of the checkpoint or operation that it is about, the name of the condition, or "".
    """

    at: datetime
    what: str
    text: str
    subject: str = ""


class Watcher:
    """Args: config: the path of rfs.toml. tell: given everything that was done."""

    def __init__(self, config: str, tell: Callable[[Told], None]) -> None:
        self.config = config
        self._tell = tell
        self._woken = Event()
        self._stopped = False
        self._working: Application | None = None
        self._failed: dict[str, datetime] = {}
        self._said: dict[str, str] = {}
        self._tracker = Tracker(self._say, self._complain, self.wake)
        self._ruler = Ruler(self._say, self._complain, lambda about: self._said.pop(about, None), self.wake)
        self._postman = Postman()
        self._exporter = Exporter(config)

    def stop(self) -> None:
        """End soon; may be called from a signal handler.

        A checkpoint that is being taken is given up. What is being settled, or rolled back, is finished first.
        """
        self._stopped = True
        self._woken.set()
        if self._working is not None:
            self._working.beat.interrupt()
        self._ruler.stop()

    def wake(self) -> None:
        """Look at once; may be called from a signal handler."""
        self._woken.set()

    def run(self, *, once: bool = False) -> None:
        """Do what is due until `stop`; with `once`, do what is due now.

        Raises:
            LockedError: another one watches this application.
            RollbackError: rfs.toml or the store cannot be used at the start; later that is told, and tried again.
        """
        with Application.open(self.config) as app:
            place, count = lock_path(app.settings), len(parse_schedules(app.settings, list(app.parts)))
            tracked = parse_track(app.settings, {name: part.component.kind for name, part in app.parts.items()})
            parse_metrics(app.settings)
            conditions = len(parse_conditions(app.settings)) if app.settings.conditions else 0
        if tracked is not None and not once:
            require_watchfiles()
        with ExitStack() as held:
            held.enter_context(exclusive(place, "rfs watch"))
            for each in (self._tracker, self._ruler, self._postman, self._exporter):
                held.enter_context(closing(each))
            if not once:
                measured = f", {conditions} conditions" if conditions > 1 else ", 1 condition" * conditions
                self._say("started", f"Watching {self.config}: {count} scheduled{measured}.")
            while True:
                nap = self._turn(once=once)
                if once or self._stopped:
                    break
                self._woken.wait(nap)
                self._woken.clear()
            if not once:
                self._say("stopped", "Stopped.")

    def _turn(self, *, once: bool) -> float:
        """Do what is due; return how many seconds until the next look."""
        try:
            with Application.open(self.config) as app:
                self._postman.settings = app.settings
                if not once:
                    self._export(app.settings)
                urgent = self._settle(app)
                if not self._stopped:
                    urgent = self._ruler.turn(app, once=once) or urgent
                tables = parse_schedules(app.settings, list(app.parts))
                waits = [self._deferred(app, tables)]
                waits += [self._scheduled(app, table) for table in tables if table.do != "rollback"]
                waits.append(self._tracker.turn(app, once=once))
            self._said.pop("turn", None)
        except RollbackError as error:
            self._complain("turn", error)
            return _NAP_SECONDS
        finally:
            self._postman.turn(once=once)
        return max(_URGENT_SECONDS, min([_URGENT_SECONDS if urgent else _NAP_SECONDS, *waits]))

    def _export(self, settings: Settings) -> None:
        """Answer Prometheus, as far as that can be done: nothing else waits for it."""
        try:
            self._exporter.turn(settings)
            self._said.pop("metrics", None)
        except RollbackError as error:
            self._complain("metrics", error)

    def _settle(self, app: Application) -> bool:
        """Finish or revert what nobody looks after; tell whether a deadline is waited for."""
        deployment = app.deployments.open()
        # While a deadline is only waited for, the lock is left to whoever wants to confirm it.
        left = app.catalog.open_operation() is not None or app.due() is not None
        if left and not app.is_worked_on():
            try:
                for operation in app.recover(reason="rfs watch"):
                    text = f"The {operation.kind} {operation.operation_id} is settled: {operation.status}."
                    self._say("settled", text, operation.operation_id)
                self._said.pop("settle", None)
            except RollbackError as error:
                self._complain("settle", error)
            for notice in app.notices:
                self._say("settled", notice)
            app.notices.clear()
        return deployment is not None

    def _deferred(self, app: Application, tables: Sequence[ScheduleTable]) -> float:
        """Make the scheduled rollbacks that are due; return in how many seconds the next one is."""
        if self._stopped:
            return 0.0
        wait = firing.turn(app, tables, self._say)
        for notice in app.notices:
            self._say("settled", notice)
        app.notices.clear()
        return wait

    def _scheduled(self, app: Application, table: ScheduleTable) -> float:
        """Do it when it is due; return in how many seconds it is due the next time."""
        schedule, now = table.schedule(), utc_now()
        noted = app.catalog.noted(f"schedule {table.rule}")
        last = datetime.fromisoformat(noted) if noted is not None else None
        failed = self._failed.get(table.rule)
        if failed is not None and timedelta() <= now - failed < timedelta(seconds=_AGAIN_SECONDS):
            return _AGAIN_SECONDS
        if not due(schedule, last, now):
            return (following(schedule, last or now) - now).total_seconds()
        if self._stopped:
            return 0.0
        try:
            self._working = app
            self._do(app, table)
        except InterruptedByUserError:
            return 0.0  # by `stop`: it is still due
        except RollbackError as error:
            self._failed[table.rule] = now
            self._complain(table.rule, error)
            return _AGAIN_SECONDS
        finally:
            self._working = None
        self._failed.pop(table.rule, None)
        self._said.pop(table.rule, None)
        # Counted from when it was due, not from when it ended, unless some were missed.
        expected = following(schedule, last) if last is not None and last <= now else now
        done = expected if following(schedule, expected) > now else now
        app.catalog.note(f"schedule {table.rule}", done.astimezone(UTC).isoformat())
        return (following(schedule, done) - utc_now()).total_seconds()

    def _do(self, app: Application, table: ScheduleTable) -> None:
        if table.do == "checkpoint":
            taken = app.checkpoint(message=table.message, only=table.components, kind=CheckpointType.SCHEDULED)
            self._say("checkpoint", f"Checkpoint {taken.checkpoint_id} is taken ({table.rule}).", taken.checkpoint_id)
        elif table.do == "prune":
            from rfs.production.rollback import upkeep

            gone = upkeep.prune(app, dry_run=False).retained.remove
            self._say("prune", f"Retention: {len(gone)} checkpoints removed ({table.rule}).")
        else:
            from rfs.production.rollback.drilling import drill

            drilled = drill(app, "@latest", only=table.components)
            which = drilled.checkpoint.checkpoint_id
            if drilled.problems:
                first = drilled.problems[0]
                raise RollbackError("drill.failed", checkpoint=which, component=first.component, why=first.problem)
            self._say("drill", f"Checkpoint {which} can be brought back, in {drilled.seconds:.0f} s.", which)
        for notice in app.notices:
            self._say(table.do, notice)
        app.notices.clear()

    def _complain(self, about: str, error: RollbackError | None) -> None:
        """Tell an error, once for as long as it stays the same; None: it is over."""
        if error is None:
            self._said.pop(about, None)
            return
        text = f"{error} {error.hint}".strip()
        if self._said.get(about) != text:
            self._said[about] = text
            self._say("error", text if about in ("turn", "settle", "track") else f"{about}: {text}")

    def _say(self, what: str, text: str, subject: str = "") -> None:
        if what in ("alert", "error"):
            self._postman.alert(text)
        self._tell(Told(utc_now(), what, text, subject))


UNIT = """\
[Unit]
Description=rfs watches {name}
After=network.target

[Service]
ExecStart={rfs} watch --config {config}
Restart=always
RestartSec=10
# What is being settled is finished first.
TimeoutStopSec=15min
KillMode=mixed

[Install]
WantedBy={target}
"""

PROGRAM = """\
[program:rfs-{name}]
command={rfs} watch --config {config}
autorestart=true
stopwaitsecs=900
"""


def definition(kind: Literal["systemd", "supervisor"], facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return the file name and the text of what starts the daemon under a process manager.

    Args:
        facts: name (of the application), rfs and config (absolute paths), user (whether it is one's own systemd).
    """
    if kind == "supervisor":
        # A percent sign is an expansion to supervisor.
        escaped = {key: str(value).replace("%", "%%") for key, value in facts.items()}
        return f"rfs-{facts['name']}.conf", PROGRAM.format(**escaped)
    target = "default.target" if facts["user"] else "multi-user.target"
    escaped = {key: str(value).replace("%", "%%") for key, value in facts.items()}
    return f"rfs-{facts['name']}.service", UNIT.format(target=target, **escaped)
