"""The command tree, loaded one command at a time, and what becomes of each error."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import takewhile
from typing import Any

import click

from rfs import __version__
from rfs.cli.codes import ExitCode
from rfs.cli.common import CommonGroup
from rfs.cli.session import Session, conclude
from rfs.production.rollback.errors import InterruptedByUserError, UsageError

# command: (module below rfs.cli, one line of help). The line stands here so that `rfs --help` loads no command.
COMMANDS = {
    "init": ("setup", "Detect the application here and write rfs.toml."),
    "doctor": ("setup", "Check configuration, store, drivers, permissions, clock; say what to fix."),
    "checkpoint": ("checkpoint", "Take a checkpoint; list, show, compare, pin and forget them."),
    "guard": ("guard", "Run a command that changes the application; keep that, or take it back."),
    "confirm": ("guard", "Keep what is waiting to be confirmed."),
    "cancel": ("guard", "Take back what waits to be confirmed; call off a scheduled or an armed rollback."),
    "extend": ("guard", "Give what is waiting to be confirmed another deadline."),
    "approve": ("govern", "Agree to a rollback that waits for approvals; list what waits."),
    "reject": ("govern", "Refuse a rollback that waits for approvals."),
    "freeze": ("govern", "Let nothing be deployed for a while. Rollbacks are never frozen."),
    "unfreeze": ("govern", "Lift what `rfs freeze` declared."),
    "audit": ("audit", "Who did what: verify that the log is whole; export it."),
    "plan": ("rollback", "Show what a rollback would do, lose and need. Changes nothing."),
    "rollback": ("rollback", "Bring the application back to a checkpoint."),
    "undo": ("rollback", "Take back the last operations, newest first."),
    "redo": ("rollback", "Take back the last undo."),
    "status": ("look", "Compare the live state with the last checkpoint; show open operations."),
    "diff": ("differences", "Show the changes between two checkpoints, or one and the live state."),
    "changes": ("differences", "Show what changed since the latest checkpoint, or what an operation changed."),
    "log": ("look", "List the operations, newest first."),
    "show": ("look", "Show one operation: its steps, its outage, what was written late."),
    "recover": ("operations", "Finish or revert whatever a crash interrupted."),
    "resume": ("operations", "Go on with a held operation from the step that failed."),
    "abort": ("operations", "Turn an open operation back now."),
    "prune": ("upkeep", "Remove what retention does not keep, and the space it took."),
    "verify": ("upkeep", "Read stored data back and say which checkpoints are whole."),
    "watch": ("watch", "Do what is scheduled when it is due, and settle what nobody looks after."),
    "conditions": ("conditions", "Show the conditions with what they measured lately, and which of them trip."),
    "notify": ("notify", "Tell who is told of what happens, and what could not be told; try it."),
    "drill": ("drill", "Bring a checkpoint back in a scratch folder, to see that it can be and how long it takes."),
    "config": ("config", "Save versions of a configuration file; compare them, and go back to one."),
    "db": ("db", "List the databases that rollbacks set aside; bring out rows that only they have."),
    "migrate": ("migrate", "Tell which migrations are in force; take some back where the data is."),
    "completion": ("completion", "Print the completion script for bash, zsh or fish."),
    "demo": ("demo", "Break and bring back a small web shop, in about a minute."),
}


class LazyCommands(CommonGroup):
    """Imports the module of a command when that command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"rfs.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean `rfs {close[0]}`?" if close else "`rfs --help` lists the commands."
            raise UsageError("usage", what=f"There is no command called {args[0]}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="rfs %(version)s")
def cli() -> None:
    """One undo for a whole application: files, configuration, environment, database and services.

    CHECKPOINT is the beginning of an id, @latest, @last-good, @-2, a tag, a version, or a time.
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command; print its answer or what went wrong; return the exit code."""
    session = Session()
    # Known before parsing, as parsing itself may fail. What stands after "--" is the business of another command.
    ours = list(takewhile("--".__ne__, arguments))
    session.json = "--json" in ours
    session.debug = "--debug" in ours
    return conclude(session, lambda: _call(list(arguments), session))


def _call(arguments: list[str], session: Session) -> Any:
    """Run click; everything that it raises becomes a RollbackError, a bug, or a code."""
    try:
        return cli.main(arguments, prog_name="rfs", standalone_mode=False, obj=session)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return int(ExitCode.USAGE)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "rfs"
        what, _, guess = error.format_message().partition(" Did you mean ")
        hint = f"Did you mean {guess}" if guess else f"`{where} --help` shows how it is used."
        raise UsageError("usage", what=what.rstrip("."), hint=hint) from error
    except click.ClickException as error:
        raise UsageError("usage", what=error.format_message().rstrip("."), hint="`rfs --help` tells more.") from error
    except (click.Abort, KeyboardInterrupt) as error:
        raise InterruptedByUserError("interrupted") from error
