"""Figures of the machine."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Literal

import msgspec

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.secret import absolute
from rfs.production.rollback.sources.base import Figure, Source, SourceContext


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure of the machine.

    Attributes:
        host: "memory_percent" (in use), "cpu_percent" (of all processors, since the measurement before), "load" (of one
            minute, by processor), or "disk_percent" (in use, where `path` lies).
        path: a folder on the disk; that of rfs.toml when left out.
    """

    host: Literal["memory_percent", "cpu_percent", "load", "disk_percent"]
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None and self.host != "disk_percent":
            raise ValueError("path belongs to disk_percent")

    def open(self, context: SourceContext) -> Source:
        """See SourceSpec."""
        return _Machine(context, self)


class _Machine(Source):
    def __init__(self, context: SourceContext, spec: Host) -> None:
        super().__init__(context)
        self._figure, self._path = spec.host, absolute(spec.path or ".", context.home)
        self._psutil = load_psutil()
        self._times: tuple[float, float] | None = None  # busy, all

    def figure(self) -> Figure:
        if self._figure == "load":
            return Figure(os.getloadavg()[0] / (os.cpu_count() or 1))
        if self._figure == "memory_percent":
            return Figure(float(self._psutil.virtual_memory().percent))
        if self._figure == "disk_percent":
            return Figure(float(self._psutil.disk_usage(self._path).percent))
        times = self._psutil.cpu_times()
        # What guests used is in user and nice already.
        whole = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        now = (whole - times.idle - getattr(times, "iowait", 0.0), whole)
        before, self._times = self._times, now
        if before is None or now[1] <= before[1]:
            return Figure(None)
        # The kernel's counters do not all go up together.
        return Figure(min(100.0, max(0.0, 100 * (now[0] - before[0]) / (now[1] - before[1]))))


def load_psutil() -> ModuleType:
    """Return psutil. Raises RollbackError: it is not installed."""
    try:
        import psutil
    except ImportError as error:
        raise RollbackError("source.extra", extra="conditions") from error
    return psutil
