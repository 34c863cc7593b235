"""The texts about what is done and told later: scheduled rollbacks, notifications. A part of `messages`."""

from __future__ import annotations

OF_DEFERRING: dict[str, tuple[str, str]] = {
    "deferred.no_time": (
        "{text!r} is not a time.",
        'Write "2026-12-01T03:00+09:00" (without the zone: local time), "03:00" or "in 2h".',
    ),
    "deferred.past": ("The time {text!r} is over.", "Give one that is to come, or leave --at out to roll back now."),
    "deferred.none": (
        "No scheduled or armed rollback begins with {selector}.",
        "`rfs status` lists those that wait, `rfs log` also those that are over.",
    ),
    "deferred.many": (
        "{selector} is the beginning of {count} scheduled or armed rollbacks: {matches}.",
        "Write more of the id.",
    ),
    "deferred.over": (
        "The rollback {rollback} waits no longer: it is {status}.",
        "`rfs log` tells what became of it.",
    ),
    "deferred.changed": (
        "The plan is another one than was agreed to: {what}.",
        "Look at it with `rfs plan`, and schedule it again if it is still wanted.",
    ),
    "deferred.guarded": (
        "The {kind} {guard} is {phase}, and is decided first.",
        "It fires afterwards, unless that is too late for it.",
    ),
    "deferred.held": (
        "The checkpoint is needed by the {strategy} rollback {rollback}.",
        "`rfs cancel {rollback}` gives that up.",
    ),
    # — notifications —
    "notify.no_letter": ("There is no letter {number}.", "`rfs notify list` lists those that were not sent."),
    "notify.nobody": (
        "There is nobody to tell in rfs.toml: {name}.",
        "Add a [[notify]] table; docs/notifications.md shows how.",
    ),
    "notify.not_sent": (
        "{left} letters could not be sent, {sent} were: {why}.",
        "They are tried again; `rfs notify list` tells when.",
    ),
    "notify.test": ("The test failed: {why}.", "Correct [[notify]] in rfs.toml, or what it names, and try it again."),
    # — figures for Prometheus —
    "metrics.missing": (
        "What [metrics] needs is missing: prometheus-client.",
        "Install it: `pip install 'rfs-rollback[metrics]'`",
    ),
    "metrics.listen": (
        "Nobody can listen on {listen}: {why}.",
        "Give [metrics] listen an address of this host and a port that is free.",
    ),
}
