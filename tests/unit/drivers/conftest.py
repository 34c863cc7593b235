"""A fault at the Nth call that changes a file system, without a helper process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

CALLS = (
    "chmod", "chown", "fsync", "ftruncate", "link", "mkdir", "mkfifo", "mknod", "pwrite", "removexattr",
    "rename", "replace", "rmdir", "setxattr", "symlink", "unlink", "utime", "write",
)  # fmt: skip


class Fault:
    """Counts the changing calls of `os` (and an opening that creates), and makes one of them fail."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
        self.count, self.number, self.error, self.fired = 0, number, error, False
        self._patch = patch
        for name in CALLS:
            patch.setattr(os, name, self.counted(getattr(os, name)))
        really_open = os.open

        def opened(path: Any, flags: int, *args: Any, **more: Any) -> int:
            if flags & (os.O_CREAT | os.O_TRUNC):
                self.hit()
            return really_open(path, flags, *args, **more)

        patch.setattr(os, "open", opened)

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` as one that counts."""

        def wrapper(*args: Any, **more: Any) -> Any:
            self.hit()
            return call(*args, **more)

        return wrapper

    def hit(self) -> None:
        self.count += 1
        if self.count == self.number:
            self.fired = True
            raise self.error

    def stop(self) -> None:
        self._patch.undo()


@pytest.fixture
def fail_at() -> Iterator[Callable[..., Fault]]:
    """Give a function that arms a fault at the Nth changing call: EIO unless told; `stop` disarms it."""
    patch = pytest.MonkeyPatch()

    def arm(number: int, error: BaseException | None = None) -> Fault:
        return Fault(patch, number, error or OSError(errno.EIO, os.strerror(errno.EIO)))

    yield arm
    patch.undo()
