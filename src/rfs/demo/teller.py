"""Tells the story on the screen: with colour on a terminal, as plain lines anywhere else."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from textwrap import wrap


class ClaimError(Exception):
    """A claim of the demo does not hold; the message is the claim."""


class Teller:
    """Prints to standard output, and counts the claims that held."""

    def __init__(self) -> None:
        self.claims = 0
        self._console = None
        if sys.stdout.isatty():
            from rich.console import Console  # only a terminal needs it, and it is slow to import

            self._console = Console(highlight=False)

    def chapter(self, title: str) -> None:
        self._print("")
        self._print(f"── {title}", "bold cyan")

    def say(self, text: str) -> None:
        self._print(f"   {text}")

    def command(self, words: Sequence[str]) -> None:
        self._print(f"   $ {shlex.join(words)}", "bold")

    def output(self, text: str) -> None:
        """Print what a command printed, with a line down its side that long lines do not break through."""
        for line in text.rstrip().splitlines():
            indent = " " * (len(line) - len(line.lstrip()) + 2)
            parts = [line] if self._console is None else wrap(line, self._console.width - 6, subsequent_indent=indent)
            for part in parts or [""]:
                self._print(f"   │ {part}", "dim")

    def claim(self, text: str, problems: Sequence[str] = ()) -> None:
        """Print a claim that was checked.

        Args:
            problems: what speaks against it, one line each; none when it holds.

        Raises:
            ClaimError: there are any.
        """
        if problems:
            self._print(f"   ✗ {text}", "bold red")
            for problem in problems[:20]:
                self._print(f"     {problem}", "red")
            if len(problems) > 20:
                self._print(f"     … and {len(problems) - 20} more", "red")
            raise ClaimError(text)
        self.claims += 1
        self._print(f"   ✓ {text}", "green")

    def error(self, text: str) -> None:
        self._print(text, "bold red")

    def _print(self, line: str, style: str = "") -> None:
        if self._console is None:
            print(line, flush=True)  # noqa: T201 - this is where the story goes
        else:
            self._console.print(line, style=style, markup=False)
