"""One run of the command line: the flags that every command has, the application, and what is printed."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from rfs.cli.answer import SCHEMA, Answer
from rfs.cli.codes import ExitCode
from rfs.cli.style import style, unstyle
from rfs.production.rollback.errors import (
    ApprovalNeededError,
    GoingOnError,
    InterruptedByUserError,
    RollbackError,
    TimedOutError,
    UsageError,
)

if TYPE_CHECKING:
    from rfs.cli.progress import Reporter
    from rfs.production.rollback.application import Application
    from rfs.production.rollback.settings import Settings


COMMON_FLAGS = (
    "dry_run",
    "yes",
    "reason",
    "json",
    "quiet",
    "verbose",
    "no_color",
    "no_pager",
    "config",
    "timeout",
    "debug",
)


class Session:
    """The flags, and everything that goes in and out.

    Attributes:
        timeout: seconds for the whole command; infinite without --timeout.
        reason: --reason, or None.
        reason_used: whether the command records the reason somewhere.
    """

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.verbose = False
        self.no_color = False
        self.no_pager = False
        self.debug = False
        self.dry_run = False
        self.yes = False
        self.config: str | None = None
        self.timeout = math.inf
        self.reason: str | None = None
        self.reason_used = False
        self.notices: list[str] = []
        self._begun = False
        self._timed_out = False
        self._reporter: Reporter | None = None
        self._told_of: Settings | None = None

    # — flags —

    def absorb(self, values: dict[str, Any]) -> None:
        """Take over the common flags among a command's parameters; the later one wins."""
        for name in COMMON_FLAGS:
            value = values.pop(name, None)
            if value is None or value is False:
                continue
            if name == "timeout":
                value = seconds_of(value, "--timeout")
            setattr(self, name, value)
        if self.quiet and self.verbose:
            raise UsageError("usage", what="-q and -v contradict each other", hint="Give one of them.")

    @property
    def color(self) -> bool:
        """Whether standard output takes colours."""
        return not self.no_color and not os.environ.get("NO_COLOR") and not self.json and sys.stdout.isatty()

    @property
    def interactive(self) -> bool:
        """Whether there is somebody to ask."""
        return not self.json and sys.stdin.isatty() and sys.stderr.isatty()

    def must_answer(self, question: str, *, why: bool = False) -> None:
        """Make sure, before any work, that `confirm` will have an answer, and with `why` `ask_reason` as well.

        Raises:
            UsageError: there is nobody to ask, and a flag that would say it is missing; it names all that are.
            NotFoundError: so it is, and there is no rfs.toml either, which is to be known first.
        """
        if self.interactive:
            return
        missing = {} if self.yes else {"--yes": question}
        if why and self.reason is None:
            missing = {"--reason TEXT": "Why is this done?", **missing}
        if missing:
            if self.config is None:
                from rfs.production.rollback.settings import find

                find(os.getcwd())
            raise UsageError("flag.needed", question=" ".join(missing.values()), flag=" ".join(missing))

    def confirm(self, question: str) -> None:
        """Go on only when the user agrees, now or with --yes.

        Raises:
            UsageError: there is nobody to ask.
            InterruptedByUserError: the user said no.
        """
        self.must_answer(question)
        if self._reporter is not None:
            self._reporter.pause()
        # Up to here the command only looked: Ctrl-C at the question has nothing to turn back.
        self._begun = False
        if not self.yes:
            import click

            if not click.confirm(question, err=True):
                raise InterruptedByUserError("declined")

    def show_and_confirm(self, text: str, warnings: tuple[str, ...], question: str) -> None:
        """Show what is about to happen, then go on only when the user agrees; see `confirm`."""
        if self._reporter is not None:
            self._reporter.pause()
        if self.interactive:
            _write(sys.stderr, (text if self.color else unstyle(text)) + "\n")
            self._say(list(warnings), "note")
        self.confirm(question)

    def ask_reason(self) -> str:
        """Return --reason, or ask for it.

        Raises:
            UsageError: there is none, and nobody to ask.
        """
        self.reason_used = True
        if self.reason is None:
            if not self.interactive:
                raise UsageError("flag.needed", question="Why is this done?", flag="--reason TEXT")
            import click

            self.reason = str(click.prompt("Reason (kept in the log)", err=True))
        return self.reason

    def take_reason(self) -> str:
        """Return --reason, or "" without it."""
        self.reason_used = True
        return self.reason or ""

    # — the application —

    @contextmanager
    def application(self, *, changes: bool) -> Iterator[Application]:
        """Open the application; signals and --timeout turn its operation back instead of killing it.

        Args:
            changes: whether the command changes something. One that only looks may simply end.
        """
        from rfs.production.rollback.application import Application

        reporter = self._reporter = self._make_reporter()
        wait = self.timeout if math.isfinite(self.timeout) else 0.0
        try:
            with Application.open(self.config, reporter=reporter, wait=wait) as app:
                reporter.known = app.catalog.latest_captures
                self._told_of = app.settings if changes and app.settings.notify else None
                with self._stoppable(app, changes):
                    try:
                        yield app
                    finally:
                        self.notices += app.notices
        except (InterruptedByUserError, KeyboardInterrupt) as error:
            if self._timed_out and not isinstance(error, GoingOnError):
                raise TimedOutError("timeout", seconds=f"{self.timeout:g}") from error
            raise
        finally:
            reporter.close()

    def _make_reporter(self) -> Reporter:
        """Return what progress is reported to, as suits the terminal and the flags."""
        from rfs.cli.progress import make_reporter

        def begun() -> None:
            self._begun = True

        terminal = sys.stderr.isatty() and not self.json
        color = terminal and not self.no_color and not os.environ.get("NO_COLOR")
        return make_reporter(
            begun, json=self.json, terminal=terminal, quiet=self.quiet, announce=self.verbose, color=color
        )

    @contextmanager
    def _stoppable(self, app: Application, changes: bool) -> Iterator[None]:
        def stop(number: int, frame: object) -> None:
            # Before anything began (waiting for the lock, say) there is nothing to turn back.
            if changes and self._begun:
                app.beat.interrupt()
                # Not sys.stderr, which may be in the middle of a write, and refuses a second one.
                unless = b" unless services are being stopped" if app.left else b""
                os.write(2, b"\nStopping: the operation is turned back" + unless + b", please wait.\n")
            else:
                raise KeyboardInterrupt

        def too_late(number: int, frame: object) -> None:
            self._timed_out = True
            if not changes:
                # Not a RollbackError: status shows those in its table and goes on.
                raise KeyboardInterrupt
            # Also while it waits for the lock: that wait ends by itself, and says who has it.
            app.beat.interrupt()

        stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # One that is ignored (nohup) stays ignored.
        heard = [number for number in stopping if signal.getsignal(number) is not signal.SIG_IGN]
        old = {number: signal.signal(number, stop) for number in heard}
        if math.isfinite(self.timeout):
            old[signal.SIGALRM] = signal.signal(signal.SIGALRM, too_late)
            signal.setitimer(signal.ITIMER_REAL, self.timeout)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in old.items():
                signal.signal(number, handler)

    def tell_people(self) -> None:
        """Once all is over and said: try shortly to send what people are told of it, as `[[notify]]` says."""
        if self._told_of is None:
            return
        from rfs.production.rollback.outbox import shortly

        # It is in the outbox, and tried again; whatever is wrong with telling it, the command is over.
        with suppress(Exception, KeyboardInterrupt):
            shortly(self._told_of)

    # — what is printed —

    def finish(self, answer: Answer) -> int:
        """Print an answer and return the exit code."""
        warnings = list(answer.warnings)
        code = answer.code or (int(ExitCode.WARNINGS) if warnings else 0)
        notes = [*self.notices, *answer.notes]
        if self.reason is not None and not self.reason_used:
            notes.append("--reason was not recorded: this command leaves no record.")
        if self.json:
            self._envelope(code, answer.data, [*notes, *warnings])
            return code
        text = answer.brief if self.quiet else answer.text
        self._say([] if self.quiet else notes, "note")
        if text and not (answer.paged and self._pages(text)):
            self._print(text)
        self._say(warnings, "warning")
        return code

    def fail(self, error: RollbackError) -> int:
        """Print what went wrong and what to do; return the exit code. Call it where the error is handled."""
        if self.debug:
            import traceback

            traceback.print_exc(file=sys.stderr)
        if self.json and error.key != "output.unwritable":
            data: dict[str, Any] = {
                "error": {"key": error.key, "message": str(error), "hint": error.hint, "retryable": error.retryable}
            }
            if isinstance(error, ApprovalNeededError):
                data["request"] = error.request
            # A guarded command may end with any status, and none of them is a success of ours.
            self._envelope(error.code, data, self.notices, ok=False)
            return error.code
        self._say(self.notices, "note")
        color = not self.no_color and not os.environ.get("NO_COLOR") and sys.stderr.isatty()
        mark = style("error:", fg="red", bold=True) if color else "error:"
        _write(sys.stderr, f"{mark} {error}\n" + (f"{error.hint}\n" if error.hint else ""))
        return error.code

    def _say(self, sentences: list[str], word: str) -> None:
        for sentence in dict.fromkeys(sentences):
            _write(sys.stderr, f"{word}: {sentence}\n")

    def tell(self, sentence: str) -> None:
        """Say on stderr what goes on, while it goes on."""
        if self._reporter is not None:
            self._reporter.pause()
        if self.json:
            import msgspec

            sentence = msgspec.json.encode({"event": "told", "text": sentence}).decode()
        # Nothing that is only shown may fail what goes on.
        with suppress(RollbackError):
            _write(sys.stderr, sentence + "\n")

    def _envelope(self, code: int, data: Any, warnings: list[str], *, ok: bool = True) -> None:
        import msgspec

        ok = ok and code in (ExitCode.OK, ExitCode.WARNINGS)
        envelope = {"schema": SCHEMA, "ok": ok, "code": code, "data": data, "warnings": list(dict.fromkeys(warnings))}
        _write(sys.stdout, msgspec.json.encode(envelope).decode() + "\n")

    def _pages(self, text: str) -> bool:
        """Show a long text in a pager, where there is somebody to leaf through it; tell whether that was done."""
        if self.quiet or self.no_pager or not (sys.stdout.isatty() and sys.stdin.isatty()):
            return False
        from rfs.cli.pager import fits, page

        return not fits(text) and page((text if self.color else unstyle(text)) + "\n")

    def _print(self, text: str) -> None:
        _write(sys.stdout, (text if self.color else unstyle(text)) + "\n")


def conclude(session: Session, act: Callable[[], Any]) -> int:
    """Do what a command does; print its answer, or what went wrong; return the exit code."""
    code = _concluded(session, act)
    session.tell_people()
    return code


def _concluded(session: Session, act: Callable[[], Any]) -> int:
    try:
        try:
            answer = act()
        except KeyboardInterrupt as interrupt:
            raise InterruptedByUserError("interrupted") from interrupt
        return session.finish(answer) if isinstance(answer, Answer) else int(answer or 0)
    except RollbackError as error:
        return session.fail(error)
    except Exception as error:  # a bug: the user still gets one sentence, and the traceback with --debug
        return session.fail(RollbackError("unexpected", what=f"rfs has a bug: {type(error).__name__}: {error}"))


def _write(stream: Any, text: str) -> None:
    """Write, whatever the terminal can show; a reader that went away (`rfs log | head`) is no error.

    Raises:
        RollbackError: it cannot be written.
    """
    encoding = stream.encoding or "ascii"
    try:
        stream.write(text.encode(encoding, errors="backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        # What is still buffered would be written at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError):
            raise RollbackError("output.unwritable", why=error.strerror) from error


def seconds_of(value: str, flag: str) -> float:
    """Return the time that a flag was given, in seconds.

    Raises:
        UsageError: it is none, or not longer than nothing.
    """
    from rfs.production.rollback.duration import parse_duration

    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise UsageError("usage", what=f"{flag}: {error}", hint='Write "30s", "5m" or a number of seconds.') from error
    if seconds == 0:
        raise UsageError("usage", what=f"{flag} must be longer than nothing", hint='Write "30s" or "5m".')
    return seconds


def bad_usage(what: str, hint: str) -> NoReturn:
    """Raise UsageError with a text of its own."""
    raise UsageError("usage", what=what, hint=hint)
