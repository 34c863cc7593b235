"""What all commands have in common: the flags, before or after a command's name, and the session."""

from __future__ import annotations

from typing import Any

import click

# — the flags that every command has —

# Made once and shared: ten new ones for each of twenty commands would be a tenth of the start-up.
COMMON: list[click.Parameter] = [
    click.Option(["--dry-run"], is_flag=True, help="Say what would be done; change nothing."),
    click.Option(["-y", "--yes"], is_flag=True, help="Answer yes to every question."),
    click.Option(["--reason"], metavar="TEXT", help="Why; kept in the log."),
    click.Option(["--json"], is_flag=True, help="One JSON envelope on stdout, progress as NDJSON on stderr."),
    click.Option(["-q", "--quiet"], is_flag=True, help="Only what matters: an id, an error."),
    click.Option(["-v", "--verbose"], is_flag=True, help="Everything, not just the beginning of it."),
    click.Option(["--no-color"], is_flag=True, help="No colours (also: NO_COLOR in the environment)."),
    click.Option(["--no-pager"], is_flag=True, help="Print all at once (also: PAGER=cat in the environment)."),
    click.Option(["--config"], metavar="FILE", help="Use this rfs.toml instead of the nearest one upward."),
    click.Option(["--timeout"], metavar="TIME", help='Give up after this long, e.g. "5m"; also waits for the lock.'),
    click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
]


class CommonCommand(click.Command):
    """A command with the common flags. Its function is given the session first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += COMMON

    def invoke(self, ctx: click.Context) -> Any:
        ctx.obj.absorb(ctx.params)
        return super().invoke(ctx)


class CommonGroup(click.Group):
    """A group whose commands have the common flags, as it has itself."""

    command_class = CommonCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += COMMON

    def invoke(self, ctx: click.Context) -> Any:
        ctx.obj.absorb(ctx.params)
        return super().invoke(ctx)
