"""`[[hooks]]`: commands of the user's around checkpoints, rollbacks, and the restore of a component."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import InterruptedByUserError, RollbackError, TimedOutError
from rfs.production.rollback.process import run
from rfs.production.rollback.settings import Source

Event = Literal["checkpoint", "rollback", "restore"]


class Hook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[hooks]]` table: a command around a checkpoint, a rollback, or the restore of a component.

    Attributes:
        before: run it before a "checkpoint", before the outage of a "rollback" (an undo, a redo and a migration
            count as such), or before a component's "restore"; when it fails, that does not happen.
        after: run it afterwards, also when that failed; when it fails itself, the record says so.
        run: program and arguments, run in the folder of rfs.toml without a shell.
        components: with "restore", around that of these only.
        timeout: until the command is ended, which counts as a failure.
    """

    run: tuple[str, ...]
    before: Event | None = None
    after: Event | None = None
    components: tuple[str, ...] = ()
    timeout: Duration = 60

    def __post_init__(self) -> None:
        if (self.before is None) == (self.after is None):
            raise ValueError("a hook takes exactly one of before and after")
        if not self.run or not self.run[0]:
            raise ValueError("run takes a list: a program and its arguments")
        if self.components and self.event != "restore":
            raise ValueError('components belongs to a hook around a "restore"')
        if parse_duration(self.timeout) == 0:
            raise ValueError("timeout must be longer than nothing")

    @property
    def event(self) -> Event:
        """What it is around."""
        return self.before or self.after or "rollback"


def parse_hooks(tables: Sequence[Mapping[str, Any]], path: str, components: Sequence[str]) -> list[Hook]:
    """Return the hooks that the `[[hooks]]` tables describe.

    Args:
        tables: as they stand in rfs.toml.
        path: of rfs.toml, for complaints.
        components: the names that there are.

    Raises:
        UsageError: a key is unknown or missing, a value is not usable, or there is no such component.
    """
    source = Source(path)
    hooks = [source.convert(table, Hook, ("hooks", number)) for number, table in enumerate(tables)]
    for number, hook in enumerate(hooks):
        for name in hook.components:
            if name not in components:
                source.bad(("hooks", number, "components"), f'there is no component called "{name}"')
    return hooks


class Around:
    """Args: hooks: in the order of rfs.toml. home: the folder in which they run."""

    def __init__(self, hooks: Sequence[Hook], home: str) -> None:
        self.hooks = tuple(hooks)
        self._home = home

    def before(self, event: Event, facts: Mapping[str, str], pulse: Pulse | None) -> None:
        """Run the hooks before an event.

        Args:
            facts: what they are told, as RFS_… in their environment.
            pulse: asked all the while; None where nothing may stop them but their own timeout.

        Raises:
            RollbackError: one failed; those after it were not run.
        """
        for hook in self._of(event, "before", facts):
            self._run(hook, "before", event, facts, pulse)

    def after(self, event: Event, facts: Mapping[str, str]) -> tuple[str, ...]:
        """Run the hooks after an event, each of them whatever becomes of the others; return what failed."""
        failures: list[str] = []
        for hook in self._of(event, "after", facts):
            try:
                self._run(hook, "after", event, facts, None)
            except RollbackError as error:
                failures.append(str(error))
        return tuple(failures)

    @contextmanager
    def both(self, event: Event, facts: Mapping[str, str], pulse: Pulse, *, must: bool = True) -> Iterator[list[str]]:
        """Run the hooks before the block and those after it, which are told RFS_STATUS; yield what gets the failures.

        Those after it run also when one before it failed: what that had begun may have to be ended.

        Args:
            must: whether a hook that fails before it is an error, and not only a failure to be told.
        """
        failures: list[str] = []
        status = "failed"
        try:
            try:
                self.before(event, facts, pulse)
            except (InterruptedByUserError, TimedOutError):
                raise
            except RollbackError as error:
                if must:
                    raise
                failures.append(str(error))
            yield failures
            status = "completed"
        finally:
            failures += self.after(event, {**facts, "RFS_STATUS": status})

    def _of(self, event: Event, when: str, facts: Mapping[str, str]) -> Iterator[Hook]:
        component = facts.get("RFS_COMPONENT")
        for hook in self.hooks:
            if getattr(hook, when) == event and (not hook.components or component in hook.components):
                yield hook

    def _run(self, hook: Hook, when: str, event: str, facts: Mapping[str, str], pulse: Pulse | None) -> None:
        env = {**facts, "RFS_HOOK": f"{when} {event}"}
        try:
            ended = run(hook.run, cwd=self._home, timeout=parse_duration(hook.timeout), pulse=pulse, env=env)
        except RollbackError as error:
            if error.key not in ("command.missing", "command.slow"):
                raise  # from the pulse
            # A hook that takes too long is no rollback that does: only the latter's clock may end it.
            raise RollbackError("hook.failing", when=when, event=event, why=error) from error
        if ended.status != 0:
            said = ended.output.strip().rpartition("\n")[2]
            why = ended.reason + (f": {said}" if said else "")
            raise RollbackError("hook.ended", when=when, event=event, command=hook.run[0], why=why)
