"""What is due before anything else may be done: an interrupted operation, and a deployment that nobody looks after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from rfs.production.rollback.errors import (
    ConflictError,
    HeldError,
    InterruptedByUserError,
    NotFoundError,
    RevertedError,
    RollbackError,
)
from rfs.production.rollback.guarded import Deployment, Next, Phase, next_step
from rfs.production.rollback.lock import actor
from rfs.production.rollback.model import OperationStatus, storable, utc_now
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.recorded import Began, edited
from rfs.production.rollback.recovery import InsideError, Recoverable, interruptible, on_behalf

if TYPE_CHECKING:
    from rfs.production.rollback.gradual import Gradual
    from rfs.production.rollback.waves import Waves

PATIENCE_SECONDS = 10.0
_ENDS = {Next.CANCEL: Phase.CANCELLED, Next.LEAVE: Phase.LEFT, Next.ENDED: Phase.REVERTED}


class Settling(Recoverable, ABC):
    """What every command that changes something does first, and what decides about a guarded deployment."""

    @abstractmethod
    def _bring_back(self, deployment: Deployment, reason: str, began: Callable[[str], None]) -> Operation:
        """Roll back what a deployment changed, with the lock held.

        Args:
            began: called with the operation's id before it begins.
        """

    # — what a crash left —

    @interruptible
    def recover(self, *, reason: str = "") -> list[Operation]:
        """Finish or revert whatever a crash interrupted. Does nothing when nothing was.

        Args:
            reason: for the journal, as with `resume` and `abort`.

        Raises:
            HeldError: an operation is held, or became so.
            RevertedError: it could not be finished and was turned back.
            GoingOnError: it stops this very process, and goes on outside it.
        """
        try:
            with self.locked("recover"):
                self._tidy()
                interrupted = self._interrupted()
                who = on_behalf("recover", reason)
                settled = [self._carry_on(interrupted, who)] if interrupted is not None else []
                self._account_for_waves()
                return settled + self._decide()
        except InsideError as inside:
            return self._carry(inside, "recover", reason=reason)

    @contextmanager
    def exclusively(self, what: str) -> Iterator[None]:
        """Hold the lock, with everything a crash left behind settled."""
        with ExitStack() as held:
            held.enter_context(self.locked(what))
            self._tidy()
            interrupted = self._interrupted()
            try:
                if interrupted is not None:
                    self._settle(interrupted, partial(self._carry_on, interrupted, on_behalf(what, "")))
                self._account_for_waves()
                self._decide_first()
            except InsideError as inside:
                held.close()
                self._settle(interrupted, partial(self._carry, inside, "recover", reason=what))
                held.enter_context(self.locked(what))
                self._tidy()
                self._interrupted()
            yield

    def waves(self) -> Gradual | None:
        """Return the gradual rollback that is open, or None."""
        return None if (found := self._waves()) is None else found.open()

    def _waves(self) -> Waves | None:
        if self.settings.instances is None:
            return None
        from rfs.production.rollback.waves import Waves  # most applications have no instances

        return Waves(self.catalog, self.settings, self.beat.tick)

    def _account_for_waves(self) -> None:
        if (found := self._waves()) is not None:
            self.notices += found.settle()

    def _settle(self, interrupted: Operation | None, carry_on: Callable[[], object]) -> None:
        if interrupted is None:
            carry_on()
            return
        try:
            carry_on()
        except RollbackError as error:
            self._settled(interrupted, error)
            self.notices.append(f"An interrupted {interrupted.kind} was settled first: {error}")
        else:
            ended = self.catalog.operation(interrupted.operation_id)
            self.notices.append(
                f"An interrupted {ended.kind} ({ended.operation_id}) was settled first: {ended.status}."
            )

    @interruptible
    def abort(self, selector: str | None = None, *, reason: str = "") -> Operation:
        """See Recoverable. Of a deployment that was being taken back, that is the end: nobody tries it again."""
        operation = super().abort(selector, reason=reason)
        found = self.deployments.open()
        if found is not None and found.rollback_id == operation.operation_id:
            self.deployments.close(found.guard_id, Phase.LEFT, f"{found.why}; its way back was aborted")
        return operation

    # — a deployment that nobody looks after —

    def due(self) -> tuple[Deployment, Next, str] | None:
        """Return the open deployment that nobody looks after, what is due of it, and why; None when nothing is."""
        found = self.catalog.open_deployment()
        if found is None or self.deployments.owned():
            return None
        step, why = self._next(found)
        return None if step is Next.WAIT else (found, step, why)

    def _decide_first(self) -> None:
        try:
            self._decide()
        except RevertedError as error:
            # It was tried once, and is over: what was asked for now has nothing to do with it.
            self.notices.append(f"A guarded deployment that nobody looked after could not be taken back: {error}")

    def _decide(self) -> list[Operation]:
        """Do what is due of an open deployment whose owner is gone; return what that took."""
        due = self.due()
        if due is None:
            self.deployments.catch_up()
            return []
        found, step, why = due
        what = f"The {found.kind} {found.guard_id}, which nobody looked after any more,"
        if step is Next.REVERT:
            operation = self._take_back(found, why, quarantine=found.quarantined)
            self.notices.append(f"{what} was taken back: {why}.")
            return [operation]
        self.deployments.close(found.guard_id, _ENDS[step], why)
        self.notices.append(f"{what} is settled: {_ENDS[step]} ({why}).")
        return []

    def _next(self, found: Deployment) -> tuple[Next, str]:
        keeps = self.settings.policy.on_interrupt == "keep"
        operation, rollback = self._status_of(found.operation_id), self._status_of(found.rollback_id)
        return next_step(found, utc_now(), keeps=keeps, operation=operation, rollback=rollback)

    def _status_of(self, operation_id: str | None) -> OperationStatus | None:
        try:
            return self.catalog.operation(operation_id).status if operation_id is not None else None
        except NotFoundError:  # its id was written down, and then it was not begun
            return None

    # — keeping it, or taking it back —

    @interruptible
    def take_back(self, guard_id: str, why: str, *, quarantine: bool = False) -> Operation | None:
        """Roll back what a deployment changed.

        Args:
            why: a sentence without its full stop.
            quarantine: its version is not to be deployed again.

        Returns:
            The rollback; None when somebody had decided otherwise meanwhile.

        Raises:
            RevertedError: the rollback failed, and what was deployed is live.
            HeldError: it failed both ways.
            GoingOnError: it stops this very process, and goes on outside it.
            ConflictError: guard.stuck, it is refused; what was deployed is live.
        """
        try:
            with self.exclusively(f"taking {guard_id} back"):
                found = self.deployments.get(guard_id)
                return self._take_back(found, why, quarantine=quarantine) if found.is_open else None
        except InsideError as inside:
            done = self._carry(inside, "take_back", guard_id=guard_id, why=why, quarantine=quarantine)
            return done[0] if done else None

    @contextmanager
    def _as_then(self, found: Deployment) -> Iterator[None]:
        """Let everything in the block act on the components as they were when a deployment began.

        It may have changed rfs.toml: a path that is another one now, or a pattern that was taken out of `exclude`,
        would have the wrong things restored over.

        Raises:
            ConflictError: they cannot be had; nothing was changed.
        """
        now = self.parts
        if found.components != tuple(part.component for part in now.values()):
            began = Began(found.kind, found.guard_id, found.components, found.checkpoint_id)
            then = self._parts_of(began)
            self.notices += edited(began, then, now)[:1]
            self.parts = self.engine.parts = dict(then)
        try:
            yield
        finally:
            self.parts = self.engine.parts = now

    def _take_back(self, found: Deployment, why: str, *, quarantine: bool) -> Operation:
        with self._telling_when_stuck(found, why), self._as_then(found):
            self.require_outside()
            return self._taken_back(found, why, quarantine=quarantine)

    @contextmanager
    def _telling_when_stuck(self, found: Deployment, why: str) -> Iterator[None]:
        try:
            yield
        except (RevertedError, HeldError, InterruptedByUserError):
            raise  # it is over, or whoever comes next goes on with it
        except RollbackError as error:
            self.deployments.change(found.guard_id, stuck=storable(str(error)))
            raise ConflictError("guard.stuck", kind=found.kind, guard=found.guard_id, why=why, stuck=error) from error

    def _taken_back(self, found: Deployment, why: str, *, quarantine: bool) -> Operation:
        guard_id = found.guard_id
        self.deployments.change(guard_id, phase=Phase.REVERTING, why=storable(why), quarantined=quarantine, stuck="")
        if found.group is not None:
            from rfs.production.rollback.passing import end_marked  # seldom needed, and start-up is a goal

            end_marked(found.group, guard_id)

        def began(operation_id: str) -> None:
            self.deployments.change(guard_id, rollback_id=operation_id)

        try:
            operation = self._bring_back(found, why, began)
        except RevertedError as error:
            self.deployments.close(guard_id, Phase.LEFT, f"{why}; then, on the way back: {error}")
            raise
        self.deployments.close(guard_id, Phase.REVERTED, why)
        return operation

    @contextmanager
    def _on_trial(self, checkpoint_id: str, seconds: float) -> Iterator[Callable[[str], None]]:
        """Have the rollback in the block taken back unless it is confirmed; yields what is to be told its id.

        The deadline is on the disk before anything is stopped, and is set anew when it is done.
        """
        self.deployments.require_free("")
        begun: list[Deployment] = []

        def began(operation_id: str) -> None:
            begun.append(
                self.deployments.begin(
                    kind="rollback",
                    checkpoint_id=checkpoint_id,
                    operation_id=operation_id,
                    components=tuple(part.component for part in self.parts.values()),
                    phase=Phase.CHANGING,
                    confirm_by="person",
                    bake=seconds,
                    deadline=utc_now() + timedelta(seconds=seconds),
                )
            )

        try:
            yield began
        except HeldError:
            raise  # it is not over, and may yet come about
        except RollbackError as error:
            for each in begun:
                self.deployments.close(each.guard_id, Phase.CANCELLED, f"the rollback did not come about: {error}")
            raise
        for each in begun:
            deadline = utc_now() + timedelta(seconds=seconds)
            self.deployments.change(each.guard_id, phase=Phase.BAKING, deadline=deadline)

    @contextmanager
    def _patiently(self, what: str) -> Iterator[None]:
        """Hold the lock; a word about what is on trial must not be lost to a checkpoint that is just being taken."""
        wait = self.wait
        self.wait = max(wait, PATIENCE_SECONDS)
        try:
            with self.locked(what):
                yield
        finally:
            self.wait = wait

    @interruptible
    def confirm(self, selector: str | None = None) -> Deployment:
        """Keep what awaits its confirmation.

        Args:
            selector: the beginning of its id; None for whatever is open.

        Raises:
            NotFoundError: nothing is.
            ConflictError: it is too early or too late.
        """
        with self._patiently("confirm"):
            found = self._undecided(selector, "confirm", unless_stuck=False)
            return self.deployments.close(found.guard_id, Phase.KEPT, f"confirmed by {actor()}")

    @interruptible
    def extend(self, selector: str | None, seconds: float) -> Deployment:
        """Let what awaits its confirmation wait, from now on, for so long.

        Raises:
            NotFoundError, ConflictError: as for `confirm`.
        """
        with self._patiently("extend"):
            found = self._undecided(selector, "extend", unless_stuck=True)
            deadline = utc_now() + timedelta(seconds=seconds)
            return self.deployments.change(found.guard_id, deadline=deadline, bake=seconds)

    @interruptible
    def cancel(self, selector: str | None = None, *, reason: str = "") -> tuple[Deployment, bool]:
        """Have a deployment taken back: by its owner, or here when that is gone.

        Returns:
            The deployment, and whether its owner is still to do it.

        Raises:
            NotFoundError, ConflictError: as for `confirm`.
            RollbackError: as for `take_back`.
        """
        with self._patiently("cancel"):
            found = self.deployments.pending(selector)
            if found.phase is Phase.REVERTING and self.deployments.owned():
                raise ConflictError("guard.late", guard=found.guard_id, phase=found.phase, verb="cancel")
            self.deployments.change(found.guard_id, cancelled=True)
            owned = self.deployments.owned()
        if not owned:
            self.recover(reason=reason)
        return self.deployments.get(found.guard_id), owned

    @interruptible
    def release(self, version: str) -> list[Deployment]:
        """Let a quarantined version be deployed again.

        Raises:
            NotFoundError: it is not quarantined.
        """
        with self.locked("release"):
            return self.deployments.release(version)

    def _undecided(self, selector: str | None, verb: str, *, unless_stuck: bool) -> Deployment:
        """Return the open deployment, if it can still be kept."""
        found = self.deployments.pending(selector)
        facts = {"guard": found.guard_id, "phase": found.phase, "verb": verb}
        if self.deployments.owned():
            if found.phase in (Phase.PREPARED, Phase.CHANGING):
                raise ConflictError("guard.early", **facts)
            waits = found.phase is Phase.BAKING
        else:
            waits = self._next(found)[0] is Next.WAIT or (bool(found.stuck) and not unless_stuck)
        if not waits or (found.cancelled and not found.stuck):
            raise ConflictError("guard.late", **facts)
        return found
