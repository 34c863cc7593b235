"""The texts of what tracking edits reports: a part of `messages`."""

from __future__ import annotations

OF_TRACKING: dict[str, tuple[str, str]] = {
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
        "Raise fs.inotify.max_user_watches with sysctl if that is the limit; network file systems notice nothing.",
    ),
}
