"""Component lists, and what the shell may complete."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from rfs.production.rollback.errors import RollbackError

if TYPE_CHECKING:
    _ParamType = click.ParamType[tuple[str, ...]]
else:
    _ParamType = click.ParamType  # only newer releases of click let it be subscripted

WORDS = ("@latest", "@last-good")
OFFERED = 100


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
            found = list(islice(app.catalog.ordinary(), OFFERED))
            # Those of rollbacks are many, and wanted by those who know how one begins.
            ids = app.catalog.checkpoint_ids(incomplete)[:OFFERED] if incomplete else []
    except RollbackError:
        return []  # a completion has nobody to complain to
    tags = [tag for each in found for tag in each.tags]
    words = dict.fromkeys([*WORDS, *(each.checkpoint_id for each in found), *tags, *ids])
    return _items([word for word in words if word.startswith(incomplete)])


def complete_operation(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    """Complete ids of operations."""
    from rfs.production.rollback.application import Application

    try:
        with Application.open() as app:
            return _items(app.log.ids(incomplete, OFFERED))
    except RollbackError:
        return []  # a completion has nobody to complain to


def _items(words: list[str]) -> list[click.shell_completion.CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(word) for word in words]
