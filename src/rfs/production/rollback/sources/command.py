"""A command that prints a number."""

from __future__ import annotations

import re

import msgspec

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.sources.base import Figure, NoFigureError, Source, SourceContext, observations
from rfs.production.rollback.sources.base import number as as_number

_SHOWN = 100


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command.

    Attributes:
        command: program and arguments, run in the folder of rfs.toml without a shell. The last line that it prints is a
            number, or a number and how many observations it stands for; no output at all is no data.
    """

    command: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise ValueError("command takes a list: a program and its arguments")

    def open(self, context: SourceContext) -> Source:
        """See SourceSpec."""
        return Printed(context, self.command)


class Printed(Source):
    """The last line that a command prints.

    Args: command: program and arguments. about: what it is called in complaints; its program when empty.
    """

    def __init__(self, context: SourceContext, command: tuple[str, ...], *, about: str = "") -> None:
        super().__init__(context)
        self._command = command
        self._about = about or command[0]

    def figure(self) -> Figure:
        from rfs.production.rollback.http_request import mask
        from rfs.production.rollback.process import run

        # Checked here and not only while it runs: nothing may begin once it is closed.
        self.tick()
        try:
            ended = run(self._command, cwd=self.context.home, timeout=self.context.timeout, pulse=self)
        except RollbackError as error:
            why = str(error).replace(self._command[0], self._about)
            raise NoFigureError(why) from error
        last = ended.output.rpartition("\n")[2].strip()
        shown = mask(last)[:_SHOWN]
        if ended.status:
            why = f"{self._about} ended with {ended.reason}" + (f": {shown}" if shown else "")
            raise NoFigureError(why)
        words = re.split(r"[\s,;]+", last) if last else []
        if not words:
            return Figure(None)
        try:
            if len(words) > 2:
                raise NoFigureError
            value = as_number(words[0], "")
            return Figure(value, observations(words[1], "") if len(words) > 1 else 1)
        except NoFigureError:
            why = f"the last line that {self._about} printed is no number: {shown}"
            raise NoFigureError(why) from None
