"""What a crash left behind, and who may act now: the lock, the journal, resume, abort. See settling.py for recover."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

import msgspec

from rfs.production.rollback import selectors
from rfs.production.rollback.capturing import Part
from rfs.production.rollback.catalog import Catalog, entry
from rfs.production.rollback.engine import Engine
from rfs.production.rollback.errors import ConflictError, HeldError, NotFoundError, RollbackError, UsageError
from rfs.production.rollback.lock import actor, exclusive
from rfs.production.rollback.model import (
    Component,
    Consent,
    HealthReport,
    OperationStatus,
    storable,
)
from rfs.production.rollback.operation import LEFT, OPEN, Mark, Operation, position
from rfs.production.rollback.plan import Plan
from rfs.production.rollback.pulse import Beat, Reporter
from rfs.production.rollback.recorded import Began, edited, parts_of
from rfs.production.rollback.settings import Settings, find, load
from rfs.production.rollback.store import Store
from rfs.production.rollback.wiring import load_parts, recorded_parts

if TYPE_CHECKING:
    from rfs.production.rollback.deployments import Deployments
    from rfs.production.rollback.operationlog import OperationLog

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound="Recoverable")


def interruptible(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[A, P], T]:
    """Let an interruption stop this call and none after it; see Beat.call."""

    @wraps(method)
    def call(app: A, /, *arguments: P.args, **named: P.kwargs) -> T:
        with app.beat.call():
            return method(app, *arguments, **named)

    return call


class InsideError(Exception):
    """This process belongs to services that have to be stopped: those of `components`."""

    def __init__(self, components: tuple[str, ...]) -> None:
        super().__init__(components)
        self.components = components


class Recoverable:
    """An application's store, lock and journal: what settling an interrupted operation takes.

    Args:
        settings: of rfs.toml.
        reporter: told of progress.
        wait: seconds to wait for the lock.

    Attributes:
        notices: sentences about what was settled on the way, for whoever asked for something else.
        work: folder of local state, with one folder for each component.
        left: what is done now is done by another process, since this one is inside services; see outside.py.
        carried: in a process that does something for one inside services, the components of those.
        consent: who asks for what is done, and what they have for it.
    """

    def __init__(self, settings: Settings, *, reporter: Reporter | None = None, wait: float = 0.0) -> None:
        self.settings = settings
        self.wait = wait
        self.store = Store.open(settings.store.path, settings.store.key)
        self.catalog = Catalog(os.path.join(settings.store.path, "catalog.db"), self.store.reserve.give_up)
        self._log: OperationLog | None = None
        self._owns_store()
        self.work = os.path.join(settings.store.path, "work")
        self.beat = Beat(reporter)
        self.parts: dict[str, Part] = self._load_parts()
        self.engine = Engine(self.store, self.catalog, self.parts, self.check_health, self.beat)
        self.notices: list[str] = []
        if settings.hooks:
            from rfs.production.rollback.around import Around, parse_hooks  # most applications have none

            self.engine.around = Around(parse_hooks(settings.hooks, settings.path, list(self.parts)), settings.home)
        if settings.notify and self.catalog.unwritable is None:
            from rfs.production.rollback.notifications import parse_notify  # most applications have none

            self.catalog.meet(table.key for table in parse_notify(settings))
        self.carried: tuple[str, ...] = ()
        self.left = False
        self.consent = Consent()

    @classmethod
    def open(cls, config: str | None = None, *, reporter: Reporter | None = None, wait: float = 0.0) -> Self:
        """Open the application of the rfs.toml given, or found upward from the working directory.

        Raises:
            UsageError: rfs.toml is wrong.
            NotFoundError: there is no rfs.toml, or no store yet.
            RollbackError: the store or its key cannot be used.
        """
        return cls(load(config or find(os.getcwd())), reporter=reporter, wait=wait)

    @classmethod
    def create(cls, config: str) -> Self:
        """Make the store of a new application, with its key, and open it.

        Args:
            config: the path of its rfs.toml.

        Raises:
            UsageError: rfs.toml is wrong; nothing was made.
            RollbackError: there is a store already, or it cannot be made.
        """
        settings = load(config)
        load_parts(settings, os.path.join(settings.store.path, "work"))
        Store.create(settings.store.path, settings.store.key).close()
        return cls(settings)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
        self.catalog.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def deployments(self) -> Deployments:
        """The guarded deployments."""
        from rfs.production.rollback.deployments import Deployments  # status needs none where none is open

        return Deployments(self.catalog, self.store)

    @property
    def person(self) -> str:
        """Who is at work."""
        from rfs.production.rollback.identity import person  # seldom needed

        return self.consent.person or person()

    @property
    def log(self) -> OperationLog:
        """The log of all operations."""
        if self._log is None:
            from rfs.production.rollback.operationlog import OperationLog  # status needs none, and start-up is a goal

            self._log = OperationLog(self.catalog, self.store)
        return self._log

    def _load_parts(self) -> dict[str, Part]:
        return load_parts(self.settings, self.work)

    @property
    def checks_health(self) -> bool:
        """Whether there are health checks at all."""
        return bool(self.settings.health)

    def check_health(self, beat: Beat, *, once: bool = False) -> HealthReport:
        """Run every health check of rfs.toml. `once`: look at the present, without waiting for a start."""
        if not self.settings.health:
            return HealthReport()
        from rfs.production.rollback.health import parse_checks, run_checks

        with beat.doing("checking health"):
            checks, whose = parse_checks(self.settings.health, self.settings.path), self.settings.instances
            checks = [c for c in checks if whose is None or whose.checked_with(c.name, self.engine.parts)]
            return run_checks(checks, beat, home=self.settings.home, once=once)

    # — after a crash, and when held —

    @interruptible
    def resume(
        self, selector: str | None = None, *, skip: str | None = None, current: Sequence[str] = (), reason: str = ""
    ) -> Operation:
        """Go on with a held operation from the step that failed, in the direction it had.

        Args:
            skip: the id of a step to leave out.
            current: services to be taken as rfs.toml has them now, not as it did when the operation began.

        Raises:
            RevertedError: it went on, back to the state before.
            HeldError: it failed again.
            GoingOnError: it stops this very process, and goes on outside it.
        """
        try:
            with self.locked("resume"):
                self._tidy()
                held = self._with_current(self._open_operation(selector), current)
                with self._acting_on(held):
                    self.require_outside()
                    if skip is not None:
                        self._skip(held, skip)
                    return self._run_again(held, on_behalf("resume", reason, current))
        except InsideError as inside:
            return self._carry(inside, "resume", selector=selector, skip=skip, current=current, reason=reason)[0]

    def _with_current(self, held: Operation, names: Sequence[str]) -> Operation:
        known = {c.name: c for c in held.components}
        for name in names:
            part = self.parts.get(name)
            if name not in known or part is None or part.driver.kind != known[name].kind or not part.driver.runs:
                raise ConflictError("operation.current", name=name, kind=held.kind)
            known[name] = part.component
        return msgspec.structs.replace(held, components=tuple(known.values()))

    def _skip(self, held: Operation, skip: str) -> None:
        steps = [step.id for step in (*held.plan.steps, LEFT)]
        if skip not in steps:
            raise NotFoundError("operation.step", operation=held.operation_id, step=skip, known=", ".join(steps))
        self.catalog.mark(entry(held, skip, Mark.SKIPPED, f"by {actor()}"))

    @interruptible
    def abort(self, selector: str | None = None, *, reason: str = "") -> Operation:
        """Turn an open operation back now.

        Raises:
            RevertedError: it is back at the state before: what was asked for.
            HeldError: it could not be turned back.
            GoingOnError: it stops this very process, and goes on outside it.
        """
        try:
            with self.locked("abort"):
                self._tidy()
                operation = self._open_operation(selector)
                aborted = RollbackError("operation.aborted", actor=f"{actor()} ({reason})" if reason else actor())
                outage = position(operation.plan, self.catalog.journal(operation.operation_id)).outage
                # Of one that stopped nothing no component is needed to drop it, should one be gone for good.
                with self._acting_on(operation) if outage else nullcontext():
                    if outage:
                        self.require_outside()
                    try:
                        with self._telling_what_is_kept(operation):
                            return self.engine.abort(operation, aborted, on_behalf("abort", reason))
                    except RollbackError as error:
                        return self._settled(operation, error)
        except InsideError as inside:
            return self._carry(inside, "abort", selector=selector, reason=reason)[0]

    def _open_operation(self, selector: str | None) -> Operation:
        if selector is None:
            found = self.catalog.open_operation()
            if found is None:
                raise NotFoundError("operation.none_open")
            return found
        operation = self.catalog.operation(selectors.find_id(selector, self.catalog.operation_ids))
        if operation.status not in OPEN:
            raise ConflictError("operation.not_open", operation=operation.operation_id, status=operation.status)
        return operation

    def _run_again(self, operation: Operation, who: str) -> Operation:
        self.require_outside()
        operation = msgspec.structs.replace(operation, status=OperationStatus.RUNNING)
        with self.engine.told_as_open(operation):
            self.catalog.put_operation(operation)
        with self._telling_what_is_kept(operation):
            return self.engine.run(operation, who)

    @contextmanager
    def _telling_what_is_kept(self, operation: Operation) -> Iterator[None]:
        """Put into the notices which checkpoints were taken, on the way, of what was there."""
        try:
            yield
        finally:
            lefts = self.catalog.operation(operation.operation_id).lefts
            self.notices += [
                f"What was there before the {operation.kind} {operation.operation_id} was carried on is kept: {left}."
                for left in lefts[len(operation.lefts) :]
            ]

    @contextmanager
    def _acting_on(self, operation: Operation) -> Iterator[None]:
        """Let everything inside the block act on the components as they were when an operation began.

        A path that was edited since would leave the old place half restored, and restore over another one;
        a pattern that was taken out of `exclude` would remove what it had protected.

        Raises:
            ConflictError: they cannot be had; nothing was changed.
        """
        parts = self._parts_of(operation)
        self.notices += edited(operation, parts, self.parts)
        self.engine.parts = parts
        try:
            yield
        finally:
            self.engine.parts = self.parts

    def _parts_of(self, operation: Operation | Began) -> Mapping[str, Part]:
        return parts_of(operation, self.catalog, self.parts, self.settings, self.work)

    def _settled(self, operation: Operation, error: RollbackError) -> Operation:
        """Return the operation that ended with `error`, or raise that when it did not end.

        It may be held, or the disk too full to write down how it ended: then nothing else may begin.
        """
        ended = self.catalog.operation(operation.operation_id)
        if ended.status in OPEN:
            raise error
        return ended

    def _carry_on(self, operation: Operation, who: str) -> Operation:
        """Before the first stop nothing live was changed, so an interrupted rollback is dropped:
        finishing it hours later would surprise. After it, it is finished."""
        where = position(operation.plan, self.catalog.journal(operation.operation_id))
        if where.outage or where.turned:
            with self._acting_on(operation) if where.outage else nullcontext():
                return self._run_again(operation, who)
        try:
            return self.engine.abort(operation, RollbackError("operation.interrupted"), who)
        except RollbackError as error:
            dropped = self._settled(operation, error)
            self.notices.append(f"The interrupted {operation.kind} {operation.operation_id} had changed nothing.")
            return dropped

    # — inside a service that has to be stopped —

    def inside(self) -> tuple[str, ...]:
        """Return the components to whose services this process belongs, so that a rollback would end it."""
        running = [part for part in self.engine.parts.values() if part.driver.runs]
        return tuple(part.component.name for part in running if part.driver.contains_caller(part.component))

    def require_outside(self) -> None:
        """To be called before services are stopped, with the lock held, which is let go of by what this raises.

        Raises:
            InsideError: this process belongs to one of them.
            ConflictError: so it does, though it was started to do this outside of them.
        """
        components = self.inside()
        if components and self.carried:
            why = "the process that was to do it outside is part of it, too"
            raise ConflictError("rollback.inside", component=", ".join(components), why=why)
        if components:
            raise InsideError(components)

    def _carry(
        self, inside: InsideError, method: str, *, expected: Plan | None = None, **arguments: Any
    ) -> list[Operation]:
        """Have a method called by a process outside this one's service; raises what it raises, and GoingOnError."""
        from rfs.production.rollback.outside import Request, carry

        if own := self._only_here():
            why = f"{', '.join(own)} is code of this process alone"
            raise ConflictError("rollback.inside", component=", ".join(inside.components), why=why)
        request = Request(
            settings=self.settings,
            method=method,
            arguments=arguments,
            expected=expected,
            inside=inside.components,
            caller=os.getpid(),
            wait=self.wait,
            consent=msgspec.structs.replace(self.consent, person=self.person),
        )
        log = os.path.join(self.work, "_outside.log")  # no component's name begins with "_"
        self.left = True
        return [self.catalog.operation(each) for each in carry(request, log, self.beat, self.notices)]

    def _only_here(self) -> list[str]:
        """Return what another process with the same settings would not have."""
        there = {part.component.name: type(part.driver) for part in load_parts(self.settings, self.work).values()}
        own = sorted(name for name, part in self.parts.items() if there.get(name) is not type(part.driver))
        return own + ["check_health"] * (type(self).check_health is not Recoverable.check_health)

    # — one at a time —

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        with self.beat.call(), exclusive(self.lock_path, what, self.wait):
            self._claim()
            yield

    def _claim(self) -> None:
        """Make the store that of this application: also one that was copied or moved, or whose application was."""
        if not self._owns_store():
            self.catalog.note("application", msgspec.json.encode(self._identity()).decode())

    def _owns_store(self) -> bool:
        """Tell whether the store is noted as that of this application.

        Raises:
            UsageError: store.shared, another application uses it: its interrupted operation would be finished
                here, and what is seen of it would be taken for this one's.
        """
        store, config = self._identity()
        noted = self.catalog.noted("application")
        if noted is None:
            return False
        its_store, its_config = msgspec.json.decode(noted, type=tuple[str, str])
        if (its_store, os.path.dirname(its_config)) == (store, os.path.dirname(config)):
            return True
        if its_store == store and os.path.lexists(its_config) and not _in_one_folder(its_config, config):
            raise UsageError("store.shared", store=store, other=its_config)
        return False

    def _identity(self) -> tuple[str, str]:
        store, config = os.path.realpath(self.settings.store.path), os.path.realpath(self.settings.path)
        return storable(store), storable(config)

    @contextmanager
    def unsettled(self, what: str) -> Iterator[None]:
        """Hold the lock, with the store put in order and an open operation left as it is."""
        with self.locked(what):
            self._tidy()
            found = self.catalog.open_operation()
            if found is not None:
                self.notices.append(
                    f"The {found.kind} {found.operation_id} is open, and was left as it is: see `rfs status`."
                )
            yield

    def _interrupted(self) -> Operation | None:
        """Return the operation that somebody who died left open; raises HeldError when it is held."""
        found = self.catalog.open_operation()
        if found is not None and found.status is OperationStatus.HELD:
            raise HeldError("rollback.open", operation=found.operation_id, status=found.status)
        return found

    def _tidy(self) -> None:
        self.notices += self.store.recover()
        self.store.reserve.make()
        for c in self.engine.quiesced().values():
            self._let_go(c)
        last = self.catalog.latest_operation()
        if last is not None and last.finished_at is not None:
            try:
                parts = self._parts_of(last)
            except RollbackError:  # it is over, and nothing depends on this
                parts = self.parts
            self.engine.release(last, parts)

    def _let_go(self, c: Component) -> None:
        """Let the writers of a component go that a checkpoint held when it was killed, whatever rfs.toml says now."""
        held = f"The writers of {c.name} were held by a checkpoint that was interrupted"
        try:
            parts = recorded_parts([c], self.parts, self.settings)
        except RollbackError as error:
            # Said once: whoever knew how to do it may be gone for good.
            self.engine.forget_quiesced(c.name)
            self.notices.append(f"{held}, and nothing here can let them go: {error} Do it by hand.")
            return
        try:
            self.engine.let_writers_go(list(parts.values()))
        except RollbackError as error:
            self.notices.append(f"{held}, and could not be let go: {error} The next command tries it again.")

    @property
    def lock_path(self) -> str:
        return os.path.join(self.settings.store.path, "lock")


def on_behalf(what: str, reason: str, current: Sequence[str] = ()) -> str:
    """Return the journal's note on who carries an operation on, by which command, and why."""
    taken = f" with {', '.join(current)} as in rfs.toml now" if current else ""
    return f"{what} by {actor()}{taken}" + (f": {reason}" if reason else "")


def _in_one_folder(one: str, other: str) -> bool:
    """Tell whether two paths lead into the same folder now: one that was moved, with a link in its old place.

    The files themselves would not tell: a copy by hard links has them in common.
    """
    try:
        return os.path.samefile(os.path.dirname(one), os.path.dirname(other))
    except OSError:
        return False  # what cannot be looked at may be another application's
