"""Negative controls: what a build that forgets something would do. Each must be caught, or a sweep proves nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from tests.crash.harness import Scenario


@contextmanager
def without_sync(of: Callable[[int], bool]) -> Iterator[None]:
    """Make os.fsync and os.fdatasync do nothing for files whose mode is `of`. SQLite's own stay as they are."""

    def unless(real: Callable[[int], None]) -> Callable[[int], None]:
        return lambda fd: None if of(os.fstat(fd).st_mode) else real(fd)

    with patch.object(os, "fsync", unless(os.fsync)), patch.object(os, "fdatasync", unless(os.fdatasync)):
        yield


class WithoutFileSync(Scenario):
    """Mix in before a scenario: the build forgets to fsync files. syncfs would hide that, so it goes, too."""

    drop_syncfs = True

    def act(self, world: Path) -> None:
        with without_sync(stat.S_ISREG):
            super().act(world)


class WithoutFolderSync(Scenario):
    """Mix in before a scenario: the build forgets to fsync folders."""

    drop_syncfs = True

    def act(self, world: Path) -> None:
        with without_sync(stat.S_ISDIR):
            super().act(world)
