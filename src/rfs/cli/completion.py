"""`rfs completion`: a script for the shell, which asks rfs itself what fits."""

from __future__ import annotations

import click

from rfs.cli.answer import Answer
from rfs.cli.common import CommonCommand
from rfs.cli.session import Session

PLACES = {
    "bash": "rfs completion bash > ~/.local/share/bash-completion/completions/rfs",
    "zsh": "rfs completion zsh > ~/.zfunc/_rfs   (with fpath+=~/.zfunc before compinit)",
    "fish": "rfs completion fish > ~/.config/fish/completions/rfs.fish",
}


@click.command(cls=CommonCommand, epilog="\b\n" + "\n".join(PLACES.values()))
@click.argument("shell", type=click.Choice(list(PLACES)))
@click.pass_obj
def completion(session: Session, shell: str) -> Answer:
    """Print the completion script for a shell."""
    from click.shell_completion import get_completion_class

    from rfs.cli.app import cli

    kind = get_completion_class(shell)
    assert kind is not None, "click knows bash, zsh and fish"  # noqa: S101  # the choices are its own
    writer = kind(cli, {}, "rfs", "_RFS_COMPLETE")
    # Not writer.source(): for bash that starts one, to complain about versions before 4.4.
    script = writer.source_template % writer.source_vars()
    return Answer({"shell": shell, "script": script}, script, script)
