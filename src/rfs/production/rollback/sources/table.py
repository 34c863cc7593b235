"""The keys of a source in rfs.toml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rfs.production.rollback import settings
from rfs.production.rollback.sources.base import Source, SourceContext, SourceSpec
from rfs.production.rollback.sources.command import Command
from rfs.production.rollback.sources.host import Host
from rfs.production.rollback.sources.http import Http
from rfs.production.rollback.sources.log import Log
from rfs.production.rollback.sources.process import Process
from rfs.production.rollback.sources.prometheus import Prometheus
from rfs.production.rollback.sources.python import Python
from rfs.production.rollback.sources.sql import Sql

SPECS: dict[str, type[msgspec.Struct]] = {
    "prometheus": Prometheus,
    "http": Http,
    "sql": Sql,
    "command": Command,
    "python": Python,
    "process": Process,
    "host": Host,
    "log": Log,
}
"""What holds the keys of a source, by the key that tells which one it is."""


def parse_source(table: Mapping[str, Any], source: settings.Source, where: settings.Where) -> SourceSpec:
    """Return where a condition measures.

    Args:
        table: those keys of a `[[conditions]]` table that the condition itself does not know.
        source, where: the file and the table's place in it, for complaints.

    Raises:
        UsageError: not exactly one source is named, a key is unknown or missing, or a value is not usable.
    """
    named = [key for key in SPECS if key in table]
    if len(named) != 1:
        found = f", not {' and '.join(named)}" if named else ""
        if not named:
            source.known_keys(table, tuple(SPECS), where)
        source.bad(where, f"it takes exactly one of {', '.join(SPECS)}{found}")
    spec: Any = source.convert(table, SPECS[named[0]], where)
    return spec  # type: ignore[no-any-return]  # each of SPECS is one; a struct cannot say so to the checker


def open_source(spec: SourceSpec, context: SourceContext) -> Source:
    """Return what measures.

    Raises:
        RollbackError: something that it names is not there, or what it needs is not installed.
    """
    return spec.open(context)
