"""The carrier: makes one call of Application outside the services that it stops; see outside.py.

It is started with the socket as its standard input, and with its output in a log. No thread: where there
is none, files are read by two processes. So the caller's word to stop comes as a signal.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import closing

import msgspec

from rfs.production.rollback.application import Application
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.model import utc_now
from rfs.production.rollback.operation import Operation
from rfs.production.rollback.outside import Channel, Request, failure

_PROGRESS_SECONDS = 0.1
_LAST_WORDS_SECONDS = 2.0
_REQUEST_SECONDS = 60.0

_CALLS: dict[str, Callable[[Application, Request], list[Operation]]] = {
    "rollback": lambda app, request: [app.rollback(**request.arguments, expected=request.expected)],
    "fire": lambda app, request: [app.fire(**request.arguments)],
    "migrate_down": lambda app, request: [app.migrate_down(**request.arguments)],
    "undo": lambda app, request: app.undo(**request.arguments),
    "recover": lambda app, request: app.recover(**request.arguments),
    "resume": lambda app, request: [app.resume(**request.arguments)],
    "abort": lambda app, request: [app.abort(**request.arguments)],
    "take_back": lambda app, request: [each for each in [app.take_back(**request.arguments)] if each is not None],
}


def main() -> int:
    """Do what the request on standard input says, and tell how it ended. Returns the exit status."""
    # Whatever the caller, a server perhaps, made of its signals is none of ours, nor of what is started from here.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    channel = Channel(socket.socket(fileno=os.dup(0)))
    # What is started from here must not have the socket: its end tells the caller that the carrier is gone.
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with closing(channel):
        try:
            asked = channel.hear(_REQUEST_SECONDS)
        except EOFError:
            asked = None
        if asked is None:
            _log("nobody said what to do")
            return 1
        return _Carrier(channel, msgspec.convert(asked["request"], Request)).run()


class _Carrier:
    _app: Application

    def __init__(self, channel: Channel, request: Request) -> None:
        self._channel = channel
        self._request = request
        self._notices: list[str] = []
        self._outage = False
        self._told = 0.0

    def run(self) -> int:
        request, channel = self._request, self._channel
        _log(f"{request.method} for process {request.caller} of {', '.join(request.inside)}")
        try:
            with Application(request.settings, reporter=self._progress, wait=request.wait) as app:
                if app.inside():
                    channel.say("inside", wait=_LAST_WORDS_SECONDS)
                    _log("still inside")
                    return 1
                self._app, self._notices = app, app.notices
                app.carried = request.inside
                app.consent = request.consent
                app.engine.before_stop = self._before_stop
                self._listen()
                channel.say("out")
                operations = _CALLS[request.method](app, request)
        except Exception as error:  # a bug too must be told: nobody else hears of it
            if not isinstance(error, RollbackError):
                traceback.print_exc()
            _log(f"failed: {error}")
            channel.say("failed", wait=_LAST_WORDS_SECONDS, notices=self._notices, **failure(error))
            return 1
        _log(", ".join(f"{each.kind} {each.operation_id} {each.status}" for each in operations) or "nothing to do")
        ids = [each.operation_id for each in operations]
        channel.say("ended", wait=_LAST_WORDS_SECONDS, notices=self._notices, operations=ids)
        return 0

    def _progress(self, what: str, items: int, size: int) -> None:
        now = time.monotonic()
        new = items == 0 and size == 0
        if (new or now - self._told >= _PROGRESS_SECONDS) and not self._channel.behind:
            self._told = now
            self._channel.say("progress", what=what, items=items, size=size)

    def _before_stop(self, operation: Operation, component: str) -> None:
        """From the first stop on the caller is not heeded: it is being stopped itself, and so it cancels."""
        self._outage = True
        self._app.beat.tick()
        if component in self._request.inside:
            self._channel.say("stopping", notices=self._notices, kind=operation.kind, operation=operation.operation_id)

    def _listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGIO, self._heed)
        fcntl.fcntl(self._channel, fcntl.F_SETOWN, os.getpid())
        self._let_it_signal(True)
        self._heed()

    def _let_it_signal(self, wanted: bool) -> None:
        flags = fcntl.fcntl(self._channel, fcntl.F_GETFL)
        fcntl.fcntl(self._channel, fcntl.F_SETFL, flags | os.O_ASYNC if wanted else flags & ~os.O_ASYNC)

    def _heed(self, *_: object) -> None:
        try:
            while (told := self._channel.hear(0)) is not None:
                if told["event"] == "stop" and self._outage:
                    _log("the caller gave up, too late to stop")
                elif told["event"] == "stop":
                    self._stop()
        except EOFError:
            self._let_it_signal(False)  # the caller is gone, and did not say stop

    def _stop(self, *_: object) -> None:
        self._app.beat.interrupt()


def _log(text: str) -> None:
    sys.stderr.write(f"{utc_now().isoformat(timespec='seconds')} process {os.getpid()}: {text}\n")
    sys.stderr.flush()
