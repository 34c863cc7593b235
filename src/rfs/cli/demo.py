"""`rfs demo`."""

from __future__ import annotations

from pathlib import Path

import click


# A plain command: the flags that the others share would mean nothing here.
@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Put the shop here, into a new or empty folder.")
@click.option(
    "--db",
    "kind",
    type=click.Choice(["sqlite", "postgresql"]),
    default="sqlite",
    show_default=True,
    help="What the shop's data is in; for postgresql a server is started.",
)
@click.option("--keep", is_flag=True, help="Leave the folder behind.")
def demo(folder: Path | None, kind: str, keep: bool) -> int:
    """Break and bring back a small web shop, in about a minute.

    Everything happens in a temporary folder and under its own supervisord; nothing of it is left behind.
    """
    from rfs.demo.story import run

    return run(folder, keep=keep, kind=kind)
