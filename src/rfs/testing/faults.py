"""Interrupt Python code at its nth call that leaves a trace outside of its process, as a crash would.

What counts: changing a file system, sending over a socket, starting a command.

Needs no compiler: it stands on Python's audit events, on a few functions of `os` and of sockets that
raise none, and on the functions of the C library that are called through ctypes. What a C extension
does by itself (SQLite, a database's client library) is not seen; tests/crash has a shim for files.
"""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

_EVENTS = """
os.chflags os.chmod os.chown os.link os.mkdir os.remove os.removexattr os.rename os.rmdir os.setxattr os.symlink
os.truncate os.utime fcntl.ioctl
subprocess.Popen os.posix_spawn os.system
"""
# Functions of `os` for which Python raises no audit event.
_SILENT = """
write writev pwrite pwritev sendfile copy_file_range splice posix_fallocate fsync fdatasync sync mkfifo mknod
"""
# Methods of sockets; of one that is encrypted, `sendall` goes through its own `send`.
_SENDING = "send sendall sendto sendmsg"
# Functions of the C library, as they are called through ctypes.
_FOREIGN = """
write pwrite pwrite64 rename renameat renameat2 link linkat unlink unlinkat mkdir mkdirat rmdir symlink symlinkat
ftruncate ftruncate64 truncate fallocate fallocate64 copy_file_range sendfile fsync fdatasync syncfs
chmod fchmod fchmodat chown fchown lchown fchownat utimensat futimens setxattr lsetxattr fsetxattr
removexattr lremovexattr fremovexattr mknod mknodat mkfifo ioctl
"""
_event_names = frozenset(_EVENTS.split())
_foreign_names = frozenset(_FOREIGN.split())
_WRITING = os.O_CREAT | os.O_TRUNC


class Interrupted(BaseException):
    """Thrown at the chosen call. Not an Exception: a driver must not be able to handle a crash."""


class Interruption:
    """What `interrupt_at` did.

    Attributes:
        calls: how many calls were seen, up to the interruption.
        fired: whether the code came as far as the chosen call.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self.calls = 0
        self.fired = False

    def meet(self) -> None:
        """Count a call, or throw. After the interruption every further call is refused: the dead do not tidy up."""
        if not self.fired:
            self.calls += 1
            if self.calls < self._at:
                return
            self.fired = True
        raise Interrupted


_current: Interruption | None = None
_thread = 0
_hooked = False


@contextmanager
def interrupt_at(n: int) -> Iterator[Interruption]:
    """Interrupt the block at its nth call that leaves a trace; the block's end is then skipped.

    Calls that change a file system, send over a socket or start a command count, in this
    thread. `with interrupt_at(n) as fault:` never raises `Interrupted` itself: look at `fault.fired`.
    A large `n` only counts.

    Args:
        n: from 1; the call is not done.
    """
    global _current, _thread  # noqa: PLW0603  # an audit hook cannot be given an argument
    fault = Interruption(n)
    with ExitStack() as stack:
        _add_hook()
        for name in _SILENT.split():
            if hasattr(os, name):
                stack.enter_context(patch.object(os, name, _counted(getattr(os, name))))
        _wrap_sockets(stack)
        _wrap_foreign(stack)
        _current, _thread = fault, threading.get_ident()
        try:
            yield fault
        except Interrupted:
            if not fault.fired:
                raise
        finally:
            _current = None


def _meet() -> None:
    if _current is not None and threading.get_ident() == _thread:
        _current.meet()


def _add_hook() -> None:
    global _hooked  # noqa: PLW0603  # an audit hook can never be removed, so one is added once
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _current is None:
        return
    if event in _event_names or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING):
        _meet()


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        _meet()
        return function(*args, **kwargs)

    return call


def _wrap_sockets(stack: ExitStack) -> None:
    for name in _SENDING.split():
        stack.enter_context(patch.object(socket.socket, name, _counted(getattr(socket.socket, name)), create=True))
    ssl = sys.modules.get("ssl")  # where it was not loaded, nothing can be encrypted by it
    if ssl is not None:
        stack.enter_context(patch.object(ssl.SSLSocket, "send", _counted(ssl.SSLSocket.send)))


def _wrap_foreign(stack: ExitStack) -> None:
    """Count calls of the C library's functions; each loaded library has a function class of its own."""
    for library in [each for each in gc.get_objects() if type(each) in (ctypes.CDLL, ctypes.PyDLL)]:
        kind = library._FuncPtr  # the only handle on calls through a library that is already loaded
        stack.enter_context(patch.object(kind, "__call__", _foreign_call(kind), create=True))


def _foreign_call(kind: type) -> Callable[..., Any]:
    base = kind.__mro__[1].__call__

    def call(function: Any, *args: Any) -> Any:
        if getattr(function, "__name__", None) in _foreign_names:
            _meet()
        return base(function, *args)

    return call
