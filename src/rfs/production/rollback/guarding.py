"""The guard: checkpoint, change, watch, and keep it or take it back. What `rfs guard` and `deploy` stand on.

It writes down each phase before it begins, so that whoever finds the guard dead knows what is due; see guarded.py.
The application's lock is held for the checkpoint and for the way back only: the change may call rfs itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Literal, NoReturn, Protocol

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.baking import BakeConditions, bake_conditions
from rfs.production.rollback.conditions import ConditionalRollback
from rfs.production.rollback.errors import (
    ChangeFailedError,
    GuardRevertedError,
    InterruptedByUserError,
    RollbackError,
    UsageError,
)
from rfs.production.rollback.guarded import Deployment, Phase
from rfs.production.rollback.looking import HealthLooks
from rfs.production.rollback.model import CheckpointType, json_like, storable, utc_now
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.passing import Passing, marked, require_program

PERSON_SECONDS = 600.0
"""How long a person is waited for who is not told otherwise."""
_NAP_SECONDS = 0.1
# How soon a confirmation, or a cancellation, is noticed that another process wrote down.
_LOOK_SECONDS = 0.5

_REVERTED = {"guard": "guard.reverted", "rollback": "guard.rollback_reverted"}

Watch = Callable[[datetime], str | None]
"""Asked in the bake, again and again: None to keep going, or a sentence (without its full stop) why it tripped.

It is given when the change had ended (UTC), and decides itself how often it measures. It is called on the thread that
watches, so it must return soon. What it raises takes nothing back: it is told as a warning, and it is asked again.
"""


class Change(Protocol):
    """What is guarded."""

    def check(self) -> None:
        """Refuse what cannot be begun, before anything is done. Raises RollbackError."""

    def run(self, app: Application, deployment: Deployment) -> None:
        """Make the change, heeding `app.beat`. Raises FailedError."""


class CommandChange:
    """Args: command: program and arguments. stdout: the descriptor of its standard output; ours when None."""

    def __init__(self, command: Sequence[str], *, stdout: int | None = None) -> None:
        self._command = command
        self._stdout = stdout

    def check(self) -> None:
        require_program(self._command)

    def run(self, app: Application, deployment: Deployment) -> None:
        command = Passing(self._command, deployment.guard_id, stdout=self._stdout)
        try:
            app.deployments.change(deployment.guard_id, group=command.group)
        except BaseException:  # it is not written down, so it must not begin
            command.end()
            raise
        look = _Looking(app, deployment.guard_id)

        def tick() -> None:
            app.beat.tick()
            if look.cancelled():
                raise InterruptedByUserError("guard.cancelled")

        status = command.run(tick)
        if status:
            why = f"{self._command[0]} ended with status {status}"
            raise FailedError(why, status)


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a guard.

    Attributes:
        deployment_id: the caller's name for it.
        metadata: of the checkpoint; "version" and "auto_rollback" have a meaning.
        confirm_by: "person": it is taken back unless somebody confirms it.
        bake: seconds that it is watched for; None: what the policy says, or ten minutes for a person.
        watches: conditions that are asked in the bake, beside the health checks.
        rules: conditions beside those of rfs.toml; what each calls may be called on any thread.
        message: of the checkpoint.
        break_glass: why it is made whatever freezes deployments, or "".

    Raises:
        UsageError: one of them is not usable.
    """

    deployment_id: str = ""
    message: str = ""
    metadata: Mapping[str, Any] = {}
    confirm_by: Literal["health", "person"] = "health"
    bake: float | None = None
    watches: tuple[Watch, ...] = ()
    rules: tuple[ConditionalRollback, ...] = ()
    break_glass: str = ""

    def __post_init__(self) -> None:
        if self.confirm_by not in ("health", "person"):
            _refuse(f"{self.confirm_by!r} cannot confirm it", 'Give "health" or "person".')
        if self.bake is not None and not 0 <= self.bake < math.inf:
            _refuse(f"It cannot bake for {self.bake} s", "Give a time that is not negative, and ends.")
        if not isinstance(self.metadata.get("auto_rollback", True), bool):
            _refuse("auto_rollback of the metadata is neither true nor false", "Give one of the two.")

    @property
    def version(self) -> str:
        """What is quarantined when it turns bad, or ""."""
        return storable(str(self.metadata.get("version", "")))


class Outcome(msgspec.Struct, frozen=True):
    """A deployment that was kept.

    Attributes:
        notes: sentences that should be read, though nothing is wrong.
        warnings: the wanted health checks that fail.
    """

    deployment: Deployment
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Guard:
    """One guarded deployment.

    Args:
        app: open; used by this guard alone until `run` returns.
        tell: given a sentence at each phase.

    Attributes:
        deciding: the change is being taken back, or is decided: it is too late to interrupt it.
    """

    def __init__(self, app: Application, tell: Callable[[str], None] = lambda _: None) -> None:
        self.app = app
        self.deciding = False
        self._tell = tell
        self._notes: list[str] = []
        self._warnings: list[str] = []
        self._broken = ""
        self._conditions: BakeConditions | None = None

    def run(self, change: Change, trial: Trial) -> Outcome:
        """Make the change and keep it, or take it back.

        Raises:
            GuardRevertedError: it failed, and the system is back at the checkpoint.
            ChangeFailedError: it failed, and was left as it is, as it was only to be watched.
            FrozenError, QuarantinedError, LockedError, UsageError, RollbackError: refused; nothing was changed.
            InterruptedByUserError: it was interrupted; the text tells what became of it.
            RevertedError: it failed, and so did the rollback: the change is live.
            HeldError: it failed both ways.
        """
        app = self.app
        automatic = bool(trial.metadata.get("auto_rollback", app.settings.policy.auto_rollback))
        if trial.break_glass:
            app.consent = msgspec.structs.replace(app.consent, break_glass=trial.break_glass)
        if trial.confirm_by == "person" and not automatic:
            hint = "Leave out --confirm-by person, or let it be taken back (auto_rollback = true, no --no-rollback)."
            _refuse("Nothing would be taken back when nobody confirms it", hint)
        change.check()
        with bake_conditions(app, self._tell, trial.rules) as self._conditions, self._begun(trial, automatic) as begun:
            deployment = self._checkpointed(begun, trial)
            try:
                self._make(change, deployment)
                deployment = self._bake(deployment, trial)
            except Exception as error:  # whatever it is, it must not stay undecided
                return self._decided(deployment, error)
            return self._outcome(deployment)

    def confirmed_rollback(self, roll_back: Callable[[], Operation]) -> tuple[Operation, Outcome]:
        """Make a rollback that somebody has to confirm, and wait for that; raises as `run` does."""
        with ExitStack() as held:
            with self.app.exclusively("rollback"):
                self.app.deployments.require_free("")
                held.enter_context(self.app.deployments.hold())
            operation = roll_back()
            # The newest is ours, as we are their owner; somebody may have confirmed it by now.
            deployment = next(self.app.catalog.deployments())
            self.app.wait = math.inf
            try:
                return operation, self._outcome(self._watch(deployment, ()))
            except Exception as error:  # as above
                return operation, self._decided(deployment, error)

    def _outcome(self, deployment: Deployment) -> Outcome:
        warnings = [*self._warnings, self._broken] if self._broken else [*self._warnings]
        notes = self._notes
        if self._conditions is not None:
            warnings, notes = [*warnings, *self._conditions.warnings], [*notes, *self._conditions.notes]
        if deployment.break_glass:
            warnings.append(f"BREAK-GLASS: it was begun past the policy: {deployment.break_glass}.")
        return Outcome(deployment, tuple(notes), tuple(warnings))

    # — the phases —

    @contextmanager
    def _begun(self, trial: Trial, automatic: bool) -> Iterator[Deployment]:
        """Be the owner of a new deployment, which is written down."""
        app = self.app
        policy = app.settings.policy
        bake = trial.bake
        if bake is None:
            bake = policy.bake or (PERSON_SECONDS if trial.confirm_by == "person" else 0.0)
        if trial.confirm_by == "person" and not bake:
            _refuse("A person needs time to confirm it", 'Give --bake, "10m" for example.')
        json_like(trial.metadata, "metadata")
        with ExitStack() as held:
            with app.exclusively("guard"):
                app.require_unfrozen("The deployment")
                app.deployments.require_free(trial.version)
                held.enter_context(app.deployments.hold())
                deployment = app.deployments.begin(
                    deployment_id=storable(trial.deployment_id),
                    version=trial.version,
                    confirm_by=trial.confirm_by,
                    bake=bake,
                    auto_rollback=automatic,
                    break_glass=storable(trial.break_glass),
                    components=tuple(part.component for part in app.parts.values()),
                )
            yield deployment

    def _checkpointed(self, deployment: Deployment, trial: Trial) -> Deployment:
        """Take the checkpoint, and write down the deadline; only then may anything be changed."""
        app, guard_id = self.app, deployment.guard_id
        try:
            if self._conditions is not None:
                self._conditions.start()
            checkpoint = app.checkpoint(
                kind=CheckpointType.AUTOMATIC,
                deployment_id=trial.deployment_id,
                metadata=trial.metadata,
                message=trial.message or f"before {trial.version or trial.deployment_id or 'a guarded change'}",
            )
            if self._conditions is not None:
                with app.beat.call():
                    self._conditions.compare()
        except BaseException as error:  # whatever it was, nothing has begun
            why = "no checkpoint could be taken" if isinstance(error, RollbackError) else "it was interrupted"
            app.deployments.close(guard_id, Phase.CANCELLED, why)
            raise
        # From now on whoever has the lock is waited for: the way back must not be refused for a checkpoint's sake.
        app.wait = math.inf
        self._tell(f"Checkpoint {checkpoint.checkpoint_id} is taken.")
        if app.deployments.get(guard_id).cancelled:
            app.deployments.close(guard_id, Phase.CANCELLED, "it was cancelled before anything was changed")
            raise InterruptedByUserError("guard.interrupted_early")
        return app.deployments.change(
            guard_id,
            phase=Phase.CHANGING,
            changing_at=utc_now(),
            checkpoint_id=checkpoint.checkpoint_id,
            deadline=utc_now() + timedelta(seconds=deployment.bake) if deployment.confirm_by == "person" else None,
        )

    def _make(self, change: Change, deployment: Deployment) -> None:
        with self.app.beat.call():
            self.app.beat.tick()
            change.run(self.app, deployment)
            self.app.beat.tick()

    def _bake(self, deployment: Deployment, trial: Trial) -> Deployment:
        deadline = utc_now() + timedelta(seconds=deployment.bake)
        deployment = self.app.deployments.change(
            deployment.guard_id, phase=Phase.BAKING, deadline=deadline, changed_at=utc_now()
        )
        watches = trial.watches
        if self._conditions is not None:
            self._conditions.begin()
            watches = (*watches, self._conditions.tripped)
        if running := left_running(deployment):
            text = "The command left {} running, which was left alone; a rollback would end it."
            self._notes.append(text.format("1 process" if running == 1 else f"{running} processes"))
        if not (self.app.checks_health or watches or deployment.confirm_by == "person"):
            self._notes.append("No health checks are configured: only the end of the change itself was judged.")
            return self._keep(deployment.guard_id)
        return self._watch(deployment, watches)

    def _watch(self, deployment: Deployment, watches: Sequence[Watch]) -> Deployment:
        """Look after it until it is decided. Raises FailedError when it is to go back."""
        since = utc_now()
        look = _Looking(self.app, deployment.guard_id)
        person = deployment.confirm_by == "person"
        if person:
            self._tell(f"Waiting until {_clock(deployment)} for `rfs confirm {deployment.guard_id}`.")
        elif deployment.bake:
            self._tell(f"Watching it until {_clock(deployment)}.")
        with self.app.beat.call(), HealthLooks(self.app) as health:
            while True:
                self.app.beat.tick()
                self._require_well(health)
                for watch in watches:
                    if tripped := self._asked(watch, since):
                        raise FailedError(tripped, judged=True)
                found = look.now()
                if not found.is_open:
                    return found
                if found.cancelled:
                    raise InterruptedByUserError("guard.cancelled")
                left = look.left()
                # What is being looked at when the time is over still counts, unless nobody confirmed it anyway.
                health.resting = left <= 0
                if left <= 0 and (person or (not health.busy and self._is_well(health))):
                    break
                time.sleep(min(_NAP_SECONDS, left) if left > 0 else _NAP_SECONDS)
        if person:
            raise FailedError("nobody confirmed it in time")
        return self._keep(deployment.guard_id)

    def _asked(self, watch: Watch, since: datetime) -> str | None:
        try:
            return watch(since)
        except InterruptedByUserError:
            raise
        except Exception as error:  # a condition that is broken, in whatever way, says nothing of the version
            what = str(error) if isinstance(error, RollbackError) else f"{type(error).__name__}: {error}"
            self._broken = f"A condition could not be asked: {what.rstrip('. ')}."
            return None

    def _require_well(self, health: HealthLooks) -> None:
        failures = health.failures()
        required = [check for check in failures if check.required]
        if required and self.app.settings.policy.health_check_required:
            why = "the health check failed: " + "; ".join(f"{check.name}: {check.detail}" for check in required)
            raise FailedError(why, judged=True)
        self._warnings = [f"The health check {check.name} failed: {check.detail}." for check in failures]

    def _is_well(self, health: HealthLooks) -> bool:
        self._require_well(health)
        return True

    def _keep(self, guard_id: str) -> Deployment:
        """Keep it, unless somebody has just cancelled it."""
        with self.app.locked("guard"):
            self.deciding = True
            found = self.app.deployments.get(guard_id)
            if found.is_open and found.cancelled:
                raise InterruptedByUserError("guard.cancelled")
            return self.app.deployments.close(guard_id, Phase.KEPT) if found.is_open else found

    # — how it ends otherwise —

    def _decided(self, deployment: Deployment, error: Exception) -> Outcome:
        if isinstance(error, InterruptedByUserError):
            return self._interrupted(deployment, error)
        if isinstance(error, FailedError):
            return self._failed(deployment, error)
        try:
            return self._failed(deployment, FailedError(f"its guard failed: {error}"))
        except ChangeFailedError as told:
            if isinstance(error, RollbackError):
                raise
            raise error from told

    def _failed(self, deployment: Deployment, failure: FailedError) -> Outcome:
        facts: dict[str, Any] = {"checkpoint": self._destination(deployment), "why": failure.why}
        if failure.status is not None:
            facts["status"] = failure.status
        if not deployment.auto_rollback:
            with self.app.locked("guard"):
                self.app.deployments.close(deployment.guard_id, Phase.LEFT, failure.why)
            raise ChangeFailedError("guard.left", left="it was only to be watched", **facts)
        operation = self._revert(deployment, failure.why, quarantine=failure.judged and bool(deployment.version))
        if operation is None:
            return self._outcome(self.app.deployments.get(deployment.guard_id))
        raise GuardRevertedError(_REVERTED[deployment.kind], rollback=operation.operation_id, **facts)

    def _interrupted(self, deployment: Deployment, interruption: InterruptedByUserError) -> Outcome:
        """Do as the policy says; somebody who cancels it has said so already."""
        app = self.app
        cancelled = interruption.key == "guard.cancelled"
        facts = {"checkpoint": self._destination(deployment)}
        left = "" if deployment.auto_rollback else "it was only to be watched"
        if app.settings.policy.on_interrupt == "keep":
            left = "[policy] on_interrupt is keep"
        if left and not cancelled:
            self.deciding = True
            with app.locked("guard"):
                app.deployments.close(deployment.guard_id, Phase.LEFT, f"it was interrupted; {left}")
            raise InterruptedByUserError("guard.interrupted_left", left=left, **facts) from interruption
        why = "it was cancelled" if cancelled else "it was interrupted"
        operation = self._revert(deployment, why, quarantine=False)
        if operation is None:
            return self._outcome(app.deployments.get(deployment.guard_id))
        facts["rollback"] = operation.operation_id
        if cancelled:
            raise GuardRevertedError(_REVERTED[deployment.kind], why=why, **facts)
        raise InterruptedByUserError("guard.interrupted", **facts) from interruption

    def _revert(self, deployment: Deployment, why: str, *, quarantine: bool) -> Operation | None:
        """Take it back. Whatever interrupts that now is not heeded: it must not be left half undone."""
        self.deciding = True
        if self._conditions is not None:
            self._conditions.pause()
        beat = self.app.beat
        with suppress(InterruptedByUserError), beat.call():
            beat.tick()  # what has been asked for already, and is being done
        self._tell(f"Going back to {self._destination(deployment)}: {why}.")
        beat.deafen()
        try:
            return self.app.take_back(deployment.guard_id, why, quarantine=quarantine)
        finally:
            beat.reset()

    def _destination(self, deployment: Deployment) -> str:
        if deployment.operation_id is None:
            return deployment.checkpoint_id
        return self.app.catalog.operation(deployment.operation_id).state_before


class FailedError(Exception):
    """The change is to go back.

    Args:
        why: a sentence without its full stop.
        status: the exit status of its command, when that failed.
        judged: by how the application fares, which tells of the version.
    """

    def __init__(self, why: str, status: int | None = None, *, judged: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.status = status
        self.judged = judged


class _Looking:
    """The record of a deployment, which other processes change, looked at now and then."""

    def __init__(self, app: Application, guard_id: str) -> None:
        self._app = app
        self._guard_id = guard_id
        self._looked = -math.inf
        self._found: Deployment
        self._deadline: datetime | None = None
        self._until = math.inf

    def now(self) -> Deployment:
        """Return it as it was at most half a second ago."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._found = self._app.deployments.get(self._guard_id)
            self._looked = time.monotonic()
            if self._found.deadline is not None and self._found.deadline != self._deadline:
                self._deadline = self._found.deadline
                # Counted on a clock that nobody sets.
                self._until = time.monotonic() + (self._deadline - utc_now()).total_seconds()
        return self._found

    def cancelled(self) -> bool:
        return self.now().cancelled

    def left(self) -> float:
        """Return the seconds until its deadline."""
        return self._until - time.monotonic()


def _refuse(what: str, hint: str) -> NoReturn:
    raise UsageError("usage", what=what, hint=hint)


def left_running(deployment: Deployment) -> int:
    """Return how many processes of its command still run."""
    return len(marked(deployment.group, deployment.guard_id)) if deployment.group is not None else 0


def _clock(deployment: Deployment) -> str:
    at = deployment.deadline or deployment.created_at
    return at.astimezone().strftime("%H:%M:%S")
