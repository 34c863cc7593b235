"""What ServiceDriver asks of whatever runs the processes: supervisor, plain commands, and those to come."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

import msgspec

from rfs.production.rollback.driver import Finding, Pulse
from rfs.production.rollback.errors import RollbackError


class Survey(msgspec.Struct, frozen=True):
    """The units of a component at one moment.

    Attributes:
        units: whether it runs, by the unit's name. A unit that fails to start does not run.
        warnings: sentences about what was unclear.
        absent: the manager itself does not run, and this is what starting a unit would raise.
    """

    units: dict[str, bool]
    warnings: tuple[str, ...] = ()
    absent: RollbackError | None = None

    @property
    def running(self) -> tuple[str, ...]:
        """The names of those that run, sorted."""
        return tuple(sorted(name for name, runs in self.units.items() if runs))


class Manager(Protocol):
    """Controls the units of one component."""

    def definition_paths(self) -> list[str]:
        """Return the absolute paths of the files that define the units now, sorted; none where there are none."""

    def definition_folders(self) -> list[str]:
        """Return the absolute paths of the folders that such files may lie in, sorted."""

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

    def leaders(self) -> frozenset[int]:
        """Return the process ids that the running units were started as; empty where that cannot be told."""
