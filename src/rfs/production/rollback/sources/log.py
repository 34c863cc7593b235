"""How many lines of a log file match a pattern; only what was written since the look before is read."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import Literal

import msgspec

from rfs.production.rollback.secret import absolute
from rfs.production.rollback.sources.base import Figure, Source, SourceContext

_MOST = 32 << 20
_PIECE = 1 << 20
# What is longer is cut: a pattern on a line without an end would never come to an end either.
_LONGEST_LINE = 16 << 10


class Log(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The lines of a log file that match, of those written since the measurement before.

    Attributes:
        log: the file. It may be rotated, by renaming or by truncating, and it may be missing: that is no data.
        pattern: regular expression that is searched for in each line.
        rate: what is measured: "fraction" (of all lines, 0 to 1), "per_second" or "per_minute".
        lines: regular expression of the lines that "fraction" is of; all when left out.
    """

    log: str
    pattern: str
    rate: Literal["fraction", "per_second", "per_minute"] = "fraction"
    lines: str | None = None

    def __post_init__(self) -> None:
        for key in ("pattern", "lines"):
            value = getattr(self, key)
            try:
                re.compile(value or "")
            except re.error as error:
                why = f"{key} {value!r} is no regular expression: {error}"
                raise ValueError(why) from None
        if self.lines is not None and self.rate != "fraction":
            raise ValueError('lines belongs to rate = "fraction"')

    def open(self, context: SourceContext) -> Source:
        """See SourceSpec."""
        return _Followed(context, self)


class _Followed(Source):
    """Keeps the file open, so that what was written to it before it was rotated is still read."""

    def __init__(self, context: SourceContext, spec: Log) -> None:
        super().__init__(context)
        self._rate = spec.rate
        self._path = absolute(spec.log, context.home)
        self._pattern = re.compile(spec.pattern.encode())
        self._lines = None if spec.lines is None else re.compile(spec.lines.encode())
        self._fd = -1
        self._rest = b""
        self._since = time.monotonic()
        self._began = False
        # What cannot be opened yet is complained about when it is measured.
        with suppress(OSError):
            self._open()
            self._began = True  # or it was not there yet: then all that it will hold is new

    def close(self) -> None:
        super().close()
        self._leave()

    def figure(self) -> Figure:
        matching = counted = 0
        skipped = 1.0
        there = self._fd >= 0
        if there:
            matching, counted, skipped = self._count()
        if self._is_another():
            self._leave()
            if there := self._open():
                more = self._count()
                matching, counted, skipped = matching + more[0], counted + more[1], max(skipped, more[2])
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        if self._rate == "fraction":
            return Figure(matching / counted if counted else None, counted)
        if not there or elapsed <= 0:
            return Figure(None)
        return Figure(matching * skipped / elapsed * (60 if self._rate == "per_minute" else 1), counted)

    # — the file —

    def _open(self) -> bool:
        try:
            # Without waiting: it might be a pipe that nobody writes to.
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        self._rest = b""
        if not self._began:
            os.lseek(self._fd, 0, os.SEEK_END)
        return True

    def _leave(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _is_another(self) -> bool:
        """Tell whether the name belongs to another file than the one that is open."""
        if self._fd < 0:
            return True
        own = os.fstat(self._fd)
        try:
            live = os.stat(self._path)
        except FileNotFoundError:
            # Between a rename and the new file, the old one may still be written to.
            return not own.st_nlink
        return (live.st_dev, live.st_ino) != (own.st_dev, own.st_ino)

    def _count(self) -> tuple[int, int, float]:
        """Return how many new lines match, how many there are, and by what factor more there was than was read."""
        at, end = os.lseek(self._fd, 0, os.SEEK_CUR), os.fstat(self._fd).st_size
        if end < at:
            at, self._rest = 0, b""  # truncated: what is there is new
        whole, skipped = end - at, 1.0
        if whole > _MOST:
            # The newest part stands for all of it.
            at, skipped, self._rest = end - _MOST, whole / _MOST, b""
        os.lseek(self._fd, at, os.SEEK_SET)
        matching = counted = 0
        left = end - at
        while left > 0 and (piece := os.read(self._fd, min(_PIECE, left))):
            self.tick()
            left -= len(piece)
            lines = (self._rest + piece).split(b"\n")
            self._rest = lines.pop()[:_LONGEST_LINE]
            for line in lines:
                cut = line[:_LONGEST_LINE]
                if self._lines is None or self._lines.search(cut):
                    counted += 1
                    matching += self._pattern.search(cut) is not None
        return matching, counted, skipped
