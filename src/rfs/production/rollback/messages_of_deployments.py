"""The texts about what guards, watches and rehearses: a part of `messages`."""

from __future__ import annotations

OF_DEPLOYMENTS: dict[str, tuple[str, str]] = {
    # — guarded deployments —
    "guard.reverted": (
        "The deployment failed and the system is back at {checkpoint}: {why}.",
        "`rfs show {rollback}` tells how it went back; `rfs undo` brings the deployed state back, to look into it.",
    ),
    "guard.rollback_reverted": (
        "The rollback was taken back, and the system is at {checkpoint}, the state before it: {why}.",
        "`rfs show {rollback}` tells how it went back; run the rollback again, and `rfs confirm` it in time.",
    ),
    "guard.left": (
        "The deployment failed and was left as it is ({left}): {why}.",
        "`rfs rollback {checkpoint}` takes it back.",
    ),
    "guard.quarantined": (
        "The version {version} is quarantined since {since}: {why}.",
        "Deploy another version, or release this one: `rfs guard --release {version}`.",
    ),
    "guard.not_quarantined": ("The version {version} is not quarantined.", "Nothing keeps it from being deployed."),
    "guard.pending": (
        "The {kind} {guard} is {phase}, and must be decided before another change begins.",
        "Wait for it, keep it with `rfs confirm {guard}`, or take it back with `rfs cancel {guard}`.",
    ),
    "guard.none": (
        "No guarded deployment or rollback is waiting to be decided.",
        "`rfs status` shows one while it is.",
    ),
    "guard.other": ("{selector} is not waiting to be decided; {guard} is.", "Name that one, or none."),
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
    "guard.interrupted_early": ("It was interrupted before anything was changed.", "Start it again when you like."),
    "guard.interrupted_left": (
        "It was interrupted, and the system was left as it is ({left}).",
        "`rfs rollback {checkpoint}` takes it back.",
    ),
    # — conditions —
    "conditions.unknown": ("There is no condition called {name}.", "There are: {known}."),
    # — drills —
    "drill.failed": (
        "The drill with checkpoint {checkpoint} failed at {component}: {why}",
        "`rfs drill {checkpoint}` tries it again; `rfs verify` lists damage.",
    ),
    "watch.unwritable": (
        "{path} could not be written: {why}.",
        "Run it as a user who may, or name another folder with --into.",
    ),
    "drill.damaged": (
        "What is stored of it is damaged in {count} places.",
        "`rfs verify` lists the damage and the checkpoints that are whole.",
    ),
    "drill.differs": (
        "What was brought back differs from the checkpoint in {count} places, the first of them {first}.",
        "Look at it with `rfs drill --into FOLDER`; a rollback to it would not pass its own proof.",
    ),
    "drill.no_room": (
        "A copy of the state would need {needed}, and {free} are free on the disk of {folder}.",
        "Name a folder on another disk with --into, or leave components out with --except.",
    ),
    "drill.locked": (
        "Another drill is going on in {folder}.",
        "Wait for it to end.",
    ),
    "drill.not_empty": (
        "{folder} is not empty.",
        "Name a new folder: what lies in this one would be mixed with what is brought back.",
    ),
    "drill.inside": (
        "{folder} lies in the component {component}, of which a copy of the state would become a part.",
        "Name a folder outside the application.",
    ),
}
