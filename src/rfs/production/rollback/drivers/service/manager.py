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

    def start(self, wanted: Collection[str], pulse: Pulse) -> None:
        """Make the definition files take effect, start the wanted units and stop the others. Re-runnable.

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
