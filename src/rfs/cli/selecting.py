"""Component lists, and what the shell may complete."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from rfs.production.rollback.errors import RollbackError

if TYPE_CHECKING:
    _ParamType = click.ParamType[tuple[str, ...]]
else:
    _ParamType = click.ParamType  # only newer releases of click let it be subscripted

WORDS = ("@latest", "@last-good")


class ComponentList(_ParamType):
    """ "web,db" as ("web", "db"). Whether they exist is the application's to say."""

    name = "components"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "C,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(word.strip() for word in str(value).split(",") if word.strip())

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        from rfs.production.rollback.settings import find, load

        before, comma, last = incomplete.rpartition(",")
        try:
            names = [component.name for component in load(find(os.getcwd())).components]
        except RollbackError:
            return []  # a completion has nobody to complain to
        return _items([f"{before}{comma}{name}" for name in names if name.startswith(last)])


COMPONENTS = ComponentList()


def complete_checkpoint(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    """Complete ids, tags and words of checkpoints."""
    from rfs.production.rollback.application import Application

    try:
        with Application.open() as app:
            found = app.catalog.checkpoints()
    except RollbackError:
        return []  # a completion has nobody to complain to
    words = [*WORDS, *(each.checkpoint_id for each in found), *(tag for each in found for tag in each.tags)]
    return _items([word for word in words if word.startswith(incomplete)])


def _items(words: list[str]) -> list[click.shell_completion.CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(word) for word in words]
