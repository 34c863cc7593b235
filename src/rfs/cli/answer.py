"""What a command has to say: for a program, for a person, and for a person in a hurry."""

from __future__ import annotations

from typing import Any, NamedTuple

SCHEMA = "rfs/1"


class Answer(NamedTuple):
    """The outcome of a command that did what it was asked to do.

    Attributes:
        data: JSON-like; the `data` of the envelope.
        text: for people, without a final newline.
        brief: instead of `text` with -q.
        notes: sentences that should be read, though nothing is wrong.
        warnings: sentences that make the exit code 3.
        code: the exit code, when it is not decided by `warnings`.
        paged: the text may be long, and is shown by a pager when it does not fit on the terminal.
    """

    data: Any
    text: str = ""
    brief: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    code: int = 0
    paged: bool = False
