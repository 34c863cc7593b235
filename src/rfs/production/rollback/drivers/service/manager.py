"""What ServiceDriver asks of whatever runs the processes: supervisor, systemd, plain commands, and those to come."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

import msgspec

from rfs.production.rollback.driver import Finding, Pulse


class Places(msgspec.Struct, frozen=True):
    """Where what defines a component's units lies now. Absolute paths, sorted; not all of them need to be there.

    Attributes:
        files: they define its units; where one is a link, what it leads to does so, too.
        links: links that matter for themselves alone: what they lead to is counted elsewhere, or is somebody else's.
        shared: files that other units may share, or that a definition only names. Another component that owns
            one of them looks after it; and one that was not there is removed only when nothing else differs any
            more, since the definitions that are put back may not name it.
        folders: that such files may lie in.
    """

    files: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


class Survey(msgspec.Struct, frozen=True):
    """The units of a component at one moment.

    Attributes:
        units: whether it runs, by the unit's name. A unit that fails to start does not run.
        warnings: sentences about what was unclear.
        enabled: what the manager does with a unit by itself ("enabled", "masked"), where it tells; by name.
        environments: the variables that running units were started with, as "NAME=value" with NULs between.
            For comparing only: nothing brings them back but the definitions.
    """

    units: dict[str, bool]
    warnings: tuple[str, ...] = ()
    enabled: dict[str, str] = {}
    environments: dict[str, bytes] = {}

    @property
    def running(self) -> tuple[str, ...]:
        """The names of those that run, sorted."""
        return tuple(sorted(name for name, runs in self.units.items() if runs))


class Manager(Protocol):
    """Controls the units of one component."""

    def places(self) -> Places:
        """Tell where the files lie that define the units, as they are on the disk now.

        Raises:
            RollbackError: it cannot be told.
        """

    def survey(self) -> Survey:
        """Tell which units run.

        Raises:
            RollbackError: it cannot be told.
        """

    def stop(self, pulse: Pulse) -> None:
        """Stop every unit; on return their processes are gone. Re-runnable.

        Raises:
            RollbackError: service.no_stop, or the manager does not answer.
        """

    def expect(self, mended: Collection[str]) -> None:
        """Be told, before a stop, which units are to run again by definitions that are about to be restored.

        They may be stopped, though nothing could start them by the definitions that are there now. By default nothing
        is noted: what needs no definitions, or has them in memory, can start its units anyway.
        """
        return

    def forget(self) -> None:
        """Forget what `expect` and `stop` noted: the operation is over."""
        return

    def start(self, wanted: Collection[str], pulse: Pulse, *, as_it_was: bool = False) -> list[str]:
        """Make the definition files take effect, start the wanted units and stop the others. Re-runnable.

        Args:
            as_it_was: it is a state before that comes back, and need not be better than it was. Definitions that the
                manager refuses and does without were refused then, too: that is no error, as long as
                the wanted units can be started.

        Returns:
            Sentences about what could not be made to take effect.

        Raises:
            RollbackError: service.no_start, or the manager does not answer.
        """

    def examine(self) -> Iterator[Finding]:
        """Yield what would go wrong, for `rfs doctor`."""

    def contains_caller(self) -> bool:
        """Tell whether `stop` would end this very process; False where that cannot be told.

        Raises:
            RollbackError: the manager does not answer.
        """
