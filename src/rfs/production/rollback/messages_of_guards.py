"""The texts of errors about guarded deployments; see `messages`."""

from __future__ import annotations

OF_GUARDS: dict[str, tuple[str, str]] = {
    "guard.reverted": (
        "The deployment failed and the system is back at {checkpoint}: {why}.",
        "`rfs show {rollback}` tells how it went back; `rfs undo` brings the deployed state back, to look into it.",
    ),
    "guard.left": (
        "The deployment failed and was left as it is ({left}): {why}.",
        "`rfs rollback {checkpoint}` takes it back.",
    ),
    "guard.quarantined": (
        "The version {version} is quarantined since {since}: {why}.",
        "Deploy another version, or release this one: `rfs guard --release {version}`.",
    ),
    "guard.not_quarantined": (
        "The version {version} is not quarantined.",
        "Nothing keeps it from being deployed.",
    ),
    "guard.pending": (
        "The {kind} {guard} is {phase}, and must be decided before another change begins.",
        "Wait for it, keep it with `rfs confirm {guard}`, or take it back with `rfs cancel {guard}`.",
    ),
    "guard.none": (
        "No guarded deployment or rollback is waiting to be decided.",
        "`rfs status` shows one while it is.",
    ),
    "guard.other": (
        "{selector} is not waiting to be decided; {guard} is.",
        "Name that one, or none.",
    ),
    "guard.early": (
        "{guard} is {phase}: there is nothing to {verb} yet.",
        "Try again when its command has ended; `rfs cancel {guard}` ends it now.",
    ),
    "guard.late": (
        "{guard} is {phase}: it is too late to {verb} it.",
        "`rfs status` tells where things stand.",
    ),
    "guard.stuck": (
        "The {kind} {guard} is to be taken back ({why}), and that is refused: {stuck}",
        "Mend that and run `rfs recover`; or keep what is live: `rfs confirm {guard}`.",
    ),
    "guard.cancelled": ("It was cancelled.", "`rfs status` tells where things stand."),
    "guard.interrupted": (
        "It was interrupted, and the system is back at {checkpoint}.",
        "`rfs show {rollback}` tells how it went back.",
    ),
    "guard.interrupted_early": (
        "It was interrupted before anything was changed.",
        "Start it again when you like.",
    ),
    "guard.interrupted_left": (
        "It was interrupted, and the system was left as it is ({left}).",
        "`rfs rollback {checkpoint}` takes it back.",
    ),
}
