"""The texts about rollbacks in waves: a part of `messages`."""

from __future__ import annotations

OF_GRADUAL: dict[str, tuple[str, str]] = {
    "gradual.no_instances": (
        "{path} has no [instances], so that there is nothing to do one after the other.",
        "Leave --strategy out, or describe the instances.",
    ),
    "gradual.shared": (
        "{components} would change, too, which all instances share: it must not go back under the newer code of some.",
        "Roll back without --strategy gradual, all at once; or leave it as it is with --except {components}.",
    ),
    "gradual.external": (
        "A compensation belongs to it ({names}), which would run once for each wave.",
        "Roll back without --strategy gradual, all at once.",
    ),
    "gradual.lacks": (
        "The checkpoint {checkpoint} holds nothing of the instances.",
        "Name one that was taken since they are in rfs.toml.",
    ),
    "gradual.inside": (
        "This process belongs to {components}, which a gradual rollback would stop.",
        "Run it from outside of the services.",
    ),
    "gradual.part": (
        "A gradual rollback takes whole components.",
        "Leave --path, --key, --table, --confirm, --at and --plan out.",
    ),
    "gradual.open": (
        "The gradual rollback {gradual} is {stage}: {told}.",
        "`rfs resume` goes on with it, `rfs abort` takes it back.",
    ),
    "gradual.none": (
        "No gradual rollback is open.",
        "`rfs status` tells where things stand.",
    ),
    "gradual.overtaken": (
        "Since the gradual rollback {gradual} was paused, something else was done: {kind} {operation}.",
        "`rfs abort` ends it, and leaves everything as it is now.",
    ),
    "gradual.paused": (
        "The gradual rollback {gradual} is paused, as {why}. {told}: {where}.",
        "`rfs resume` goes on with it, `rfs abort` takes back what was done.",
    ),
    "gradual.reverted": (
        "The gradual rollback {gradual} was taken back, as {why}.",
        "`rfs log` shows what was done and taken back.",
    ),
    "gradual.sick": (
        "After the wave of {instances} the application did not stay healthy: {failed}",
        "`rfs status` tells how each instance stands.",
    ),
    "gradual.tripped": (
        "After the wave of {instances}, {why}.",
        "`rfs conditions` shows what was measured.",
    ),
    "traffic.silent": (
        "HAProxy does not answer at {path}: {why}.",
        "Check that it runs with `stats socket {path} level admin`, and that you may write to it.",
    ),
    "traffic.refused": (
        "HAProxy refuses the server {server}: {why}.",
        "Check backend and server in [instances.traffic].",
    ),
    "traffic.down": (
        "HAProxy still sends nothing to {server}, which it holds for {status}.",
        "Look at the health checks in its own configuration.",
    ),
}
