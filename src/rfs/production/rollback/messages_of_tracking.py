"""The texts of what tracking edits, and deciding about conflicts and tables, reports: a part of `messages`."""

from __future__ import annotations

OF_TRACKING: dict[str, tuple[str, str]] = {
    "change.large": (
        "{path} is {size} large now, more than a tracked file can be.",
        "Move it away, and take the change back then; or roll back to a checkpoint.",
    ),
    "change.no_text": (
        "The conflict in {path} cannot be edited: it is no text, or larger than 1 MiB.",
        "Give --ours to keep what is there now, or --theirs to overwrite it.",
    ),
    "edit.failed": (
        "The editor could not be used ({command}): {why}. Nothing was changed.",
        "Set VISUAL or EDITOR to one that is installed.",
    ),
    "edit.given_up": (
        "The conflict in {path} is not decided: {why}. Nothing was changed.",
        "Take the markers out and leave the text as it is to be; or give --ours or --theirs.",
    ),
    "select.table": (
        "The table {table} of {component} cannot be rolled back alone: {why}.",
        "Roll all of it back with --only {component}; `rfs db salvage` then brings out rows that this took away.",
    ),
    "select.tables": (
        "The table {table} cannot be rolled back alone: no component here is of kind sqlite or postgresql.",
        "Roll the database back with --only NAME, then `rfs db salvage` brings out the rows that it took away.",
    ),
    "select.dangling": (
        "Rows of {component} would refer to rows that are not there: {what}.",
        "Roll back {tables}, or all of it with --only {component}.",
    ),
    "ledger.damaged": (
        "The ledger {path}, in which tracked changes and versions of configurations are, is damaged.",
        "Run `rfs recover --rebuild`: what can be read of it is saved, and the damaged file is kept.",
    ),
    "track.missing": (
        "What [track] asks for needs the package watchfiles, which is not installed.",
        "Run `pip install 'rfs-rollback[track]'`, or take [track] out of rfs.toml.",
    ),
    "track.large": (
        "An edit of {component} is not recorded: {size} MiB were written, and [track] largest is {largest}.",
        "Take a checkpoint, from which tracking goes on; exclude such files, or raise largest.",
    ),
    "track.blind": (
        "Nothing is noticed of {components} ({why}), so that it is compared every {seconds} s instead.",
        "If a limit is the reason, raise fs.inotify.max_user_watches or max_user_instances with sysctl.",
    ),
}
