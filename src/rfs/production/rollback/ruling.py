"""What the daemon does about the conditions of rfs.toml: measures, judges, and acts; one turn at a time.

What was measured, and what was told of it, is on the disk, so that it may be stopped, killed and started again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.automatic import REASON, gist, roll_back
from rfs.production.rollback.conditional import ConditionTable, open_condition, open_conditions, parse_conditions
from rfs.production.rollback.conditions import ConditionalRollback, Decision, Outcome, Sample, Verdict, decide
from rfs.production.rollback.driver import Finding
from rfs.production.rollback.errors import InterruptedByUserError, LockedError, NotFoundError, RollbackError
from rfs.production.rollback.judging import RULE, Ground, Standing, ground_of, judge, standing, taken_by
from rfs.production.rollback.lock import holder
from rfs.production.rollback.model import CheckpointType, utc_now
from rfs.production.rollback.samples import FILE, Event, Samples
from rfs.production.rollback.sampling import Probe, Sampling, asked
from rfs.production.rollback.scheduled import lock_path
from rfs.production.rollback.sources import SourceSpec

_LOOK_SECONDS = 0.05

Key = tuple[ConditionTable, SourceSpec]


class Rules:
    """The conditions of an application that are watched.

    Args:
        folder: of its store.
        wake: called, from another thread, when there is something to judge.
        tell: given everything that came of a condition, with the id of the checkpoint or the rollback, or its name: the
            one place where an alert is raised.
        once: one turn is all there will be.

    Attributes:
        taking: what a checkpoint is being taken with, which may be interrupted; None otherwise.

    Raises:
        RollbackError: the history cannot be written.
    """

    def __init__(
        self, folder: str, wake: Callable[[], None], tell: Callable[[Event, str], None], *, once: bool = False
    ) -> None:
        self.taking: Application | None = None
        self._wake = wake
        self._tell = tell
        self._samples = Samples(folder)
        self._sampling = Sampling(self._heard)
        # Once, there is nothing that has just begun.
        self._began = None if once else utc_now()
        self._known: dict[str, Key] = {}
        self._told: dict[str, str] = {}
        self._ground = Ground()
        self._unkept = ""
        self._sampling.start()

    def close(self) -> None:
        self._sampling.stop()
        self._samples.close()

    # — measuring —

    def _heard(self, probe: Probe, sample: Sample) -> None:
        """Keep a sample, and see whether it is worth a turn. On the thread that measures."""
        try:
            self._samples.add(probe.rule.name, sample)
        except RollbackError as error:  # it is judged by what is in memory
            self._unkept = str(error)
        verdict = self._verdict(probe, self._ground, utc_now())
        if verdict.why or self._told.get(probe.rule.name):
            self._wake()

    def _verdict(self, probe: Probe, ground: Ground, now: datetime) -> Verdict:
        rule, span = probe.rule, ground.compared(probe.rule)
        before = self._samples.between(rule.name, *span) if span is not None else []
        return judge(rule, before, probe.samples, ground, now, began=self._began)

    @property
    def measured(self) -> bool:
        """Whether every condition has been measured, or could not be, since this began."""
        return all(probe.measured for probe in self._sampling.probes)

    def reload(self, app: Application) -> None:
        """Measure what rfs.toml names now; what is as it was goes on.

        Raises:
            UsageError: `[[conditions]]` is wrong; what was measured is measured on.
        """
        wanted = {table.name: (table, spec) for table, spec in parse_conditions(app.settings)}
        opened = [
            open_condition(table, spec, app.settings)
            for name, (table, spec) in wanted.items()
            if self._known.get(name) != (table, spec)
        ]
        self._sampling.forget([name for name, key in self._known.items() if wanted.get(name) != key])
        for each in opened:
            name = each.rule.name
            self._told[name] = self._samples.complaint(name)
            self._sampling.watch(each.rule, each.close, self._samples.of(name))
        self._known = wanted

    # — judging and acting —

    def turn(self, app: Application) -> bool:
        """Judge everything, and do what is called for; tell whether it went back, and the rest is to be judged again.

        Raises:
            LockedError, InterruptedByUserError: it could not be done now, and is due still.
        """
        probes, now = self._sampling.probes, utc_now()
        self._ground = ground = ground_of(app, now, [each.rule for each in probes])
        if self._unkept:
            self._complain("conditions", f"what is measured cannot be kept: {self._unkept.rstrip('.')}")
            self._unkept = ""
        for probe in probes:
            if (span := ground.compared(probe.rule)) is not None:
                self._samples.keep(probe.rule.name, *span)
            # A sample of an earlier run alone says nothing about the present.
            if probe.measured and self._act(app, probe, ground):
                return True  # two often trip at once, for one reason
        return False

    def _act(self, app: Application, probe: Probe, ground: Ground) -> bool:
        rule, now = probe.rule, utc_now()
        verdict = self._verdict(probe, ground, now)
        if not verdict.why:
            if verdict.outcome is Outcome.SUCCESS:
                self._well(rule, probe)
            return False
        if (
            verdict.outcome is Outcome.FAILURE
            and not (rule.dry_run or ground.on_trial)
            and app.trip(rule.name, verdict.why)
        ):
            return True  # a rollback that somebody armed with it is made instead: see firing.py
        taking = rule.action == "checkpoint"
        earlier = taken_by(app, rule, now) if taking and verdict.failing else ground.rollbacks
        decision, why = decide(rule, verdict, now, earlier)
        if decision is Decision.ALERT:
            self._complain(rule.name, why)
        if decision in (Decision.NOTHING, Decision.ALERT) or ground.on_trial or app.is_worked_on():
            # A guard judges what is on trial itself, and whatever changes the application now is not to be disturbed.
            return False
        try:
            if decision is Decision.CHECKPOINT:
                self._take(app, rule, why)
            else:
                self._go_back(app, rule, why, verdict.since or now)
        except (LockedError, InterruptedByUserError):
            raise  # it is due still
        except RollbackError as error:
            what = "no checkpoint could be taken" if taking else "it could not be rolled back"
            self._complain(rule.name, f"{why}; {what}: {str(error).rstrip('.')}")
        return decision is Decision.ROLLBACK

    def _take(self, app: Application, rule: ConditionalRollback, why: str) -> None:
        facts = {RULE: rule.name}
        self.taking = app
        try:
            taken = app.checkpoint(message=f"{REASON}{why}", kind=CheckpointType.CONDITIONAL, metadata=facts)
        finally:
            self.taking = None
        self._raise(rule.name, "checkpoint", f"Checkpoint {taken.checkpoint_id} is taken: {why}.", taken.checkpoint_id)

    def _go_back(self, app: Application, rule: ConditionalRollback, why: str, trouble: datetime) -> None:
        operation = roll_back(app, why, trouble)
        which, target = operation.operation_id, operation.plan.target
        self._ground = msgspec.structs.replace(self._ground, live_since=utc_now())
        self._raise(rule.name, "rollback", f"Rollback {which} to {target} is {operation.status}: {why}.", which)

    # — telling —

    def _well(self, rule: ConditionalRollback, probe: Probe) -> None:
        if self._told.get(rule.name):
            self._remember(rule.name, "")
            value = probe.samples[-1].measured
            shown = f": {value:g}" if value is not None else ""
            self._raise(rule.name, "recovered", f"{rule.name} is well again{shown}.")

    def _complain(self, name: str, why: str) -> None:
        """Alert, once for as long as it is the same complaint."""
        if self._told.get(name) != gist(why):
            self._remember(name, gist(why))
            self._raise(name, "alert", f"{why[:1].upper()}{why[1:]}.")

    def _remember(self, name: str, complaint: str) -> None:
        self._told[name] = complaint
        with suppress(RollbackError):  # on a full disk it is told again after a restart
            self._samples.complain(name, complaint)

    def _raise(self, name: str, what: str, text: str, subject: str = "") -> None:
        event = Event(name, utc_now(), what, text)
        with suppress(RollbackError):  # as above; that it cannot be kept must not keep it from being told
            self._samples.tell(event)
        self._tell(event, subject or name)


class Ruler:
    """The conditions of whatever rfs.toml says now, turn by turn.

    Args:
        say: told (what, a sentence, its subject) of everything that was done.
        complain: told (of what, the error), again and again.
        forget: told of what there is nothing to complain any more.
        wake: called, from another thread, when there is something to judge.
    """

    def __init__(
        self,
        say: Callable[[str, str, str], None],
        complain: Callable[[str, RollbackError], None],
        forget: Callable[[str], object],
        wake: Callable[[], None],
    ) -> None:
        self._say = say
        self._complain = complain
        self._forget = forget
        self._wake = wake
        self._rules: Rules | None = None
        self._stopped = False

    def stop(self) -> None:
        """Give up the checkpoint that is being taken; may be called from a signal handler."""
        self._stopped = True
        taking = self._rules.taking if self._rules is not None else None
        if taking is not None:
            taking.beat.interrupt()

    def close(self) -> None:
        if self._rules is not None:
            self._rules.close()

    def turn(self, app: Application, *, once: bool) -> bool:
        """Do what the conditions call for; tell whether to look again soon.

        Args:
            once: there is no other turn, so that all are measured first.
        """
        if self._rules is None and not app.settings.conditions:
            return False
        try:
            if self._rules is None:
                self._rules = Rules(app.settings.store.path, self._wake, self._told, once=once)
            rules = self._rules
            rules.reload(app)
            while once and not rules.measured and not self._stopped:
                time.sleep(_LOOK_SECONDS)  # a signal must be heeded, too
            soon = not self._stopped and rules.turn(app)
        except (LockedError, InterruptedByUserError):
            return True  # it is due still
        except RollbackError as error:
            self._complain("conditions", error)
            return False
        self._forget("conditions")
        for notice in app.notices:
            self._say("settled", notice, "")
        app.notices.clear()
        return soon

    def _told(self, event: Event, subject: str) -> None:
        self._say(event.what, event.text, subject)


def standings(app: Application, name: str | None = None) -> list[Standing]:
    """Return how the conditions of rfs.toml stand, in its order, by what is on the disk. Measures nothing.

    Args:
        name: of this one alone.

    Raises:
        UsageError: `[[conditions]]` is wrong.
        NotFoundError: there is no such condition.
    """
    tables = [table for table, _ in parse_conditions(app.settings)]
    names = [table.name for table in tables]
    if name is not None and name not in names:
        raise NotFoundError("conditions.unknown", name=name, known=", ".join(names) or "none")
    rules = [table.rule() for table in tables if name in (None, table.name)]
    now = utc_now()
    ground = ground_of(app, now, rules)
    with _recorded(app) as samples:
        found = []
        for rule in rules:
            span = ground.compared(rule)
            before = samples.between(rule.name, *span) if samples is not None and span is not None else []
            measured = samples.of(rule.name) if samples is not None else []
            found.append(standing(rule, before, measured, ground, now))
        return found


def events_of(app: Application, name: str) -> list[Event]:
    """Return what came of a condition lately, newest first."""
    with _recorded(app) as samples:
        return samples.events(name) if samples is not None else []


@contextmanager
def _recorded(app: Application) -> Iterator[Samples | None]:
    """Yield what was measured, or None where nothing was yet: whoever looks makes no file."""
    if not os.path.exists(os.path.join(app.settings.store.path, FILE)):
        yield None
        return
    with closing(Samples(app.settings.store.path)) as samples:
        yield samples


def examine(app: Application) -> list[Finding]:
    """Measure every condition once, and return what is in its way."""
    try:
        opened = open_conditions(app.settings)
    except RollbackError as error:
        return [Finding("error", str(error), error.hint)]
    findings = []
    for each in opened:
        with closing(each), app.beat.call():
            app.beat.tick()
            sample = asked(each.rule)
        if sample.error:
            what = f"The condition {each.rule.name} cannot be measured: {sample.error}."
            findings.append(Finding("warning", what, "Start what answers it, or correct [[conditions]]."))
        if each.rule.action == "rollback" and not (each.rule.lasting or each.rule.failure_limit or each.rule.dry_run):
            what = f"One measurement of {each.rule.name} beyond its threshold rolls back: a burst is enough."
            findings.append(Finding("warning", what, 'Give it for = "60s", or failure_limit = 2.'))
    if not holder(lock_path(app.settings)):
        what = "Nobody measures [[conditions]] outside of deployments: `rfs watch` does not run."
        findings.append(Finding("warning", what, "Run `rfs watch`."))
    return findings
