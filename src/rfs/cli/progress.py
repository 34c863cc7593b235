"""Progress of long steps: bars on a terminal, plain lines elsewhere, NDJSON with --json. All on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rfs.production.rollback.model import Capture

PLAIN_SECONDS = 5.0
JSON_SECONDS = 0.5
TERMINAL_SECONDS = 0.1
# A bar that flashes up and goes tells nobody anything, and loading rich would be most of its time.
QUIET_SECONDS = 0.4


class Reporter:
    """Takes (what, entries, bytes), as `pulse.Reporter` describes, and forwards it now and then.

    Args:
        begun: called at each step; after it, an operation may have to be turned back.
        every: seconds between two updates of one step.

    Attributes:
        known: returns the newest captures, from which totals and so estimates are taken.
    """

    def __init__(self, begun: Callable[[], None], every: float) -> None:
        self.known: Callable[[], Mapping[str, Capture]] = dict
        self._begun = begun
        self._every = every
        self._what = ""
        self._since = self._told = 0.0
        self._total = 0

    def __call__(self, what: str, items: int, size: int) -> None:
        now = time.monotonic()
        if items == 0 and size == 0:
            self._begun()
            self._what, self._since, self._told = what, now, now
            self._total = -1
            self.step(what)
        elif now - self._told >= self._every:
            self._told = now
            if self._total < 0:
                component = what.rpartition(" ")[2]
                capture = self.known().get(component)
                self._total = capture.entries if capture is not None else 0
            self.update(what, items, size, now - self._since, self._total)

    def step(self, what: str) -> None:
        """A step begins."""

    def update(self, what: str, items: int, size: int, seconds: float, total: int) -> None:
        """A step goes on; `total` entries are expected, 0 when nobody knows."""

    def pause(self) -> None:
        """Something else is about to be written to the terminal."""

    def close(self) -> None:
        """Nothing more comes."""


class JsonReporter(Reporter):
    def step(self, what: str) -> None:
        self._line({"event": "step", "step": what})

    def update(self, what: str, items: int, size: int, seconds: float, total: int) -> None:
        figures = {"entries": items, "bytes": size, "seconds": round(seconds, 3), "entries_expected": total or None}
        self._line({"event": "progress", "step": what, **figures, "seconds_left": _left(items, seconds, total)})

    def _line(self, event: dict[str, Any]) -> None:
        import msgspec

        sys.stderr.write(msgspec.json.encode(event).decode() + "\n")
        sys.stderr.flush()


class PlainReporter(Reporter):
    """Lines. With `announce` each step has one when it begins; otherwise only those that take long."""

    def __init__(self, begun: Callable[[], None], every: float, *, announce: bool) -> None:
        super().__init__(begun, every)
        self._announce = announce
        self._open = ("", 0.0)

    def step(self, what: str) -> None:
        self._ended()
        self._open = (what, time.monotonic())
        if self._announce:
            sys.stderr.write(f"{what}\n")
            sys.stderr.flush()

    def _ended(self) -> None:
        # A step that only waits, for a service to stop say, has no figures to tell meanwhile.
        what, since = self._open
        seconds = time.monotonic() - since
        if what and seconds >= PLAIN_SECONDS:
            sys.stderr.write(f"{what}: took {seconds:.0f} s\n")
            sys.stderr.flush()

    def close(self) -> None:
        self._ended()

    def update(self, what: str, items: int, size: int, seconds: float, total: int) -> None:
        sys.stderr.write(f"{what}: {describe(items, size, seconds, total)}\n")
        sys.stderr.flush()


class TerminalReporter(Reporter):
    """One line that changes, drawn by rich; it vanishes at the end."""

    def __init__(self, begun: Callable[[], None], every: float, *, color: bool) -> None:
        super().__init__(begun, every)
        self._color = color
        self._began = time.monotonic()
        self._live: Any = None

    def step(self, what: str) -> None:
        self._show(what)

    def update(self, what: str, items: int, size: int, seconds: float, total: int) -> None:
        self._show(f"{what}: {describe(items, size, seconds, total)}")

    def _show(self, text: str) -> None:
        if self._live is None:
            if time.monotonic() - self._began < QUIET_SECONDS:
                return
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, no_color=not self._color, highlight=False, markup=False)
            # No refreshing thread: worker processes are forked, which a thread would make unsafe.
            self._live = Live(
                console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._live.update(text, refresh=True)

    def pause(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        self.pause()


class _Silent(Reporter):
    pass


def make_reporter(
    begun: Callable[[], None], *, json: bool, terminal: bool, quiet: bool, announce: bool, color: bool
) -> Reporter:
    """Return the reporter that suits."""
    if json:
        return JsonReporter(begun, JSON_SECONDS)
    if quiet:
        return _Silent(begun, PLAIN_SECONDS)
    if terminal:
        return TerminalReporter(begun, TERMINAL_SECONDS, color=color)
    return PlainReporter(begun, PLAIN_SECONDS, announce=announce)


def describe(items: int, size: int, seconds: float, total: int) -> str:
    """Return progress as a phrase: "1,200 of 5,000, 3.1 MB, 800/s, 5 s left"."""
    from rfs.cli.text import nice_size

    words = [f"{items:,} of {total:,}" if total > items else f"{items:,}"]
    if size:
        words.append(nice_size(size))
    if seconds > 0 and items:
        words.append(f"{items / seconds:,.0f}/s")
    left = _left(items, seconds, total)
    if left is not None:
        words.append(f"{left:,.0f} s left")
    return ", ".join(words)


def _left(items: int, seconds: float, total: int) -> float | None:
    if not 0 < items < total:
        return None
    return round(seconds * (total - items) / items, 1)
