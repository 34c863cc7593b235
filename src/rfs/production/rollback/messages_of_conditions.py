"""The texts about what conditions measure: a part of `messages`."""

from __future__ import annotations

OF_CONDITIONS: dict[str, tuple[str, str]] = {
    "source.component": (
        "A condition asks the component {component}, which is no database of this rfs.toml.",
        "Name a component of kind postgresql or sqlite, or give a dsn or a path.",
    ),
    "source.which_database": (
        "A condition has a query and does not say which database answers it; there are: {names}.",
        'Add component = "…" to it, or a dsn or a path.',
    ),
    "source.extra": (
        "A condition needs a package that is not installed.",
        "Run `pip install 'rfs-rollback[{extra}]'`.",
    ),
}
