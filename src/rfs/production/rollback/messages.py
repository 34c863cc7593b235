"""The texts of every error: (what happened, what to do), by key, with named fields.

One table, with parts of it in `messages_of_…`, so that a Korean catalogue is a second table and no change in code.
Keys are `subject.condition`. Each text is one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping

from rfs.production.rollback.messages_of_components import OF_COMPONENTS
from rfs.production.rollback.messages_of_conditions import OF_CONDITIONS
from rfs.production.rollback.messages_of_databases import OF_DATABASES
from rfs.production.rollback.messages_of_deferring import OF_DEFERRING
from rfs.production.rollback.messages_of_deployments import OF_DEPLOYMENTS
from rfs.production.rollback.messages_of_governance import OF_GOVERNANCE
from rfs.production.rollback.messages_of_gradual import OF_GRADUAL
from rfs.production.rollback.messages_of_tracking import OF_TRACKING

MESSAGES: dict[str, tuple[str, str]] = {
    # — using it —
    "app.none": (
        "There is no rfs.toml in {where} or any folder above it.",
        "Run `rfs init` in the application's folder, or name the file with --config.",
    ),
    "app.empty": (
        "There is nothing to checkpoint: {path} names no components.",
        "Run `rfs init`, or add a [components.NAME] table.",
    ),
    "settings.unreadable": (
        "{path} could not be read: {why}.",
        "Make the file readable for the user who runs rfs.",
    ),
    "settings.syntax": (
        "{path} is not valid TOML: {why}.",
        "Mend the line it names; `rfs doctor` checks the file again.",
    ),
    "settings.unknown_key": (
        "{path} has a key that rfs does not know: {key}.",
        "{suggestion}",
    ),
    "settings.value": (
        "{path}: {key} is not usable: {why}.",
        "Correct the value; docs/configuration.md lists what each key takes.",
    ),
    "settings.missing": (
        "There is no {path}.",
        "Correct --config, or run `rfs init` in the application's folder.",
    ),
    "settings.later": (
        "{path} uses {key}, which comes with a later release of rfs.",
        "Remove it for now; rfs refuses what it would otherwise silently ignore.",
    ),
    "settings.writable": (
        "{path} is writable by other users, who could make rfs run their commands.",
        "Run `chmod go-w {path}`.",
    ),
    "components.same_path": (
        "The components {first} and {second} both own {path}.",
        "Remove one of them, or give them different paths.",
    ),
    "components.nested": (
        "The component {inner} lies inside the component {outer} ({path}).",
        'Add it to the outer one\'s exclude: exclude = ["{relative}/"].',
    ),
    "components.store_inside": (
        "The store {store} is the component {component} itself or holds it.",
        "Put the store elsewhere with [store] path, then run `rfs init` again.",
    ),
    "components.unknown": (
        "There is no component called {name}.",
        "The components are: {known}.",
    ),
    "components.cycle": (
        "The components depend on each other in a circle: {path}.",
        "Remove one of the depends_on entries.",
    ),
    "components.kind_changed": (
        "The component {name} was of kind {then} at the checkpoint and is {now} now.",
        "Leave it out with --except {name}, or put its kind back.",
    ),
    "components.driver": (
        "The kind {kind} is offered by {package}, but its driver {where} cannot be used: {why}.",
        "Install {package} anew, in a version made for this release of rfs; nothing was changed.",
    ),
    "components.offers": (
        "The kind {kind} is offered by more than one package: {packages}.",
        "Uninstall all of them but the one you mean; nothing was changed.",
    ),
    "components.kind": (
        "The component {name} is of an unknown kind: {kind}.",
        "Known kinds are: {known}.",
    ),
    "init.too_broad": (
        "{folder} is a whole system or a home, not an application.",
        "Run `rfs init` in the application's own folder.",
    ),
    "init.store": (
        "There is a store at {store} already, and its key is not {key}.",
        "Name another folder with --store; to use this one, write rfs.toml by hand, with its key in [store] key.",
    ),
    "init.unwritable": (
        "{path} cannot be written: {why}.",
        "Run `rfs init` as a user who may write there.",
    ),
    "secret.unavailable": (
        "The secret {source} could not be had: {why}.",
        "Provide it, or correct the value in rfs.toml.",
    ),
    "flag.needed": (
        "This needs an answer, and there is no terminal to ask at: {question}",
        "Give {flag} to answer it.",
    ),
    "usage.json": (
        "{where} cannot be stored: {why}.",
        "Give what JSON has: strings, finite numbers, true, false, null, lists, and objects with strings as keys.",
    ),
    "usage": ("{what}.", "{hint}"),
    "schedule.unclear": (
        "The schedule is not usable: {what}.",
        'Write every = "6h", or cron = "0 3 * * *" with a time_zone.',
    ),
    # — finding —
    "checkpoint.none": (
        "No checkpoint matches {selector}.",
        "`rfs checkpoint list` shows them all.",
    ),
    "checkpoint.many": (
        "{selector} matches {count} checkpoints: {matches}.",
        "Give more characters of the id.",
    ),
    "checkpoint.lacks": (
        "Checkpoint {checkpoint} holds nothing of the component {component}.",
        "Leave it out with --except {component}, or choose another checkpoint.",
    ),
    "checkpoint.pinned": (
        "Checkpoint {checkpoint} is kept: {why}.",
        "{hint}",
    ),
    "checkpoint.whole": (
        "Checkpoint {checkpoint} is whole: there is no need to give it up.",
        "Leave it out of --forget-damaged; `rfs checkpoint forget` removes a checkpoint that nothing needs.",
    ),
    "select.kind": (
        "Of {component} no part can be rolled back alone: it is of kind {kind}.",
        "Roll all of it back with --only {component}; of databases, `rfs db salvage` brings rows out.",
    ),
    "select.none": (
        "{what} is not in {component}, neither then nor now.",
        "`rfs diff CHECKPOINT` lists what differs.",
    ),
    "select.absent": (
        "All of {component} is missing, then or now: a part of it cannot be rolled back alone.",
        "Roll all of it back with --only {component}.",
    ),
    "select.way": (
        "{what} in {component} is something else now: what lies in it cannot be brought back alone.",
        "Roll that back, too: name it instead.",
    ),
    "select.where": (
        "{path} cannot be rolled back by its path.",
        "{hint}",
    ),
    "operation.state_gone": (
        "The state before the {kind} {operation} is no longer kept: it cannot be undone.",
        "`rfs undo OPERATION` takes another one back, and `rfs rollback CHECKPOINT` goes to any checkpoint.",
    ),
    "operation.none": (
        "No operation matches {selector}.",
        "`rfs log` shows them all.",
    ),
    "operation.nothing_to_undo": (
        "There is no operation that could be undone.",
        "`rfs log` shows what happened; `rfs rollback CHECKPOINT` goes to any checkpoint.",
    ),
    "operation.nothing_to_redo": (
        "There is nothing to redo: the last operation was no undo.",
        "`rfs log` shows what happened; `rfs undo OPERATION` takes any of it back.",
    ),
    "operation.untouched": (
        "Operation {operation} did not touch the component {name}.",
        "`rfs show {operation}` lists what it touched.",
    ),
    "operation.not_open": (
        "Operation {operation} is {status}: there is nothing to resume or abort.",
        "`rfs log` shows which operation is open.",
    ),
    "operation.component": (
        "The open {kind} {operation} needs the component {name}, which is not in rfs.toml as it was.",
        "Put it back into rfs.toml as it was, then run `rfs recover` (or `rfs abort`); nothing was changed now.",
    ),
    "operation.driver": (
        "The open {kind} {operation} began with components that cannot be used now: {why}",
        "Bring that back, then run `rfs recover` (or `rfs abort`); nothing was changed now.",
    ),
    "operation.moved": (
        "The open {kind} {operation} began with the rfs.toml in {home}, and this one is in {now}.",
        "Put rfs.toml back there, then run `rfs recover` (or `rfs abort`); nothing was changed now.",
    ),
    "operation.current": (
        "{name} cannot be taken as rfs.toml has it now: only services that the {kind} began with can.",
        "Leave it out of --current; where data lies must stay as it was until the {kind} is settled.",
    ),
    "operation.elsewhere": (
        "The {kind} {operation} acted on {name} in {then}, which is not where rfs.toml has it now.",
        "Put its path back, or run `rfs rollback {before}`: that restores the state before where rfs.toml says now.",
    ),
    "operation.step": (
        "Operation {operation} has no step called {step}.",
        "Its steps are: {known}.",
    ),
    "operation.many": (
        "{selector} matches {count} operations: {matches}.",
        "Give more characters of the id.",
    ),
    "operation.none_open": (
        "No operation is open: there is nothing to resume or abort.",
        "`rfs log` shows what happened.",
    ),
    "operation.not_undoable": (
        "Operation {operation} is {status}: only a completed one can be undone.",
        "`rfs log` shows which are completed.",
    ),
    "operation.already": (
        "Operation {operation} is not in force any more: it was taken back already.",
        "`rfs log` shows by what; undo that one to have it again.",
    ),
    "operation.too_few": (
        "There are only {count} operations that could be undone, not {asked}.",
        "Ask for fewer; nothing was changed.",
    ),
    "operation.interrupted": (
        "It was interrupted before anything was changed.",
        "Start it again when you like.",
    ),
    "operation.turned": ("It was turned back: {why}", "`rfs show` tells how far it came."),
    "operation.aborted": ("It was aborted by {actor}.", "Nothing is left to do."),
    # — store —
    "store.none": (
        "There is no store at {path}.",
        "Put it back, mount it, or correct [store] path; only if there was none yet, run `rfs init`.",
    ),
    "store.exists": (
        "There is a store at {path} already.",
        "Nothing was changed; use another [store] path for a new one.",
    ),
    "store.occupied": (
        "{path} is no store, and holds something else: {what}.",
        "Name an empty folder, or one that is not there yet, with [store] path (`rfs init --store`).",
    ),
    "store.shared": (
        "The store {store} belongs to the application of {other}.",
        "Give this application a store of its own: [store] path in rfs.toml, or `rfs init --store DIR` for a new one.",
    ),
    "store.format": (
        "The store at {path} has format {found}; this release reads up to {known}.",
        "Install a newer rfs.",
    ),
    "store.key_missing": (
        "The key {path} of the store is missing.",
        "Put the key back from your backup; without it no checkpoint can be read.",
    ),
    "store.key_unreadable": (
        "The key {path} of the store cannot be read: {why}.",
        "Run rfs as the user that owns it: without the key only the lists can be read, not what checkpoints hold.",
    ),
    "store.key_wrong": (
        "The key {path} does not open the store {store}.",
        "Use the key that `rfs init` made for this store.",
    ),
    "store.key_open": (
        "The key {path} can be read by other users.",
        "Run `chmod 600 {path}`.",
    ),
    "store.key_format": (
        "The key {path} has format {found}; this release reads up to {known}.",
        "Install a newer rfs.",
    ),
    "store.writable": (
        "The store {path} is writable by other users.",
        "Run `chmod 700 {path}`.",
    ),
    "store.damaged": (
        "Stored data is damaged: {what}.",
        "{hint}",
    ),
    "store.blob_missing": (
        "The store lacks a blob that is needed ({blob}).",
        "`rfs verify --store` lists what is damaged and which checkpoints are whole.",
    ),
    "store.incomplete": (
        "The store lacks {count} blobs that this needs (the first is {first}).",
        "Checkpoints that are whole: {whole}. `rfs verify --store` tells more.",
    ),
    "store.no_space": (
        "There is no space left on {path}.",
        "Free some space there (`rfs prune` removes old checkpoints).",
    ),
    "store.unreadable": (
        "{path} cannot be read: {why}.",
        "Run rfs as the user that owns it.",
    ),
    "store.unwritable": (
        "{path} cannot be written: {why}.",
        "Make it writable, run rfs as the user that owns it, or move it with [store] path.",
    ),
    "catalog.unsettled": (
        "The catalog {path} was not closed, and what it was being told last cannot be read without writing beside it.",
        "Copy the store to where you may write, and look at the copy with [store] path.",
    ),
    "lock.held": (
        "Another operation is running: {holder}.",
        "Wait for it, or give --timeout to wait for it here.",
    ),
    "catalog.damaged": (
        "The catalog {path} is damaged.",
        "Move it away, then run `rfs recover --rebuild`: it is made again from the packs.",
    ),
    # — rollback —
    "health.failed": (
        "The health check failed: {checks}.",
        "`rfs doctor` tries each check; give one more retries when its service only takes longer to start.",
    ),
    "verify.differs": (
        "The component {component} is not equal to the checkpoint: {what}.",
        "Something else may be writing to it; stop that and try again.",
    ),
    "plan.changed": (
        "The plan changed since it was written: {what}.",
        "Look at the new plan with `rfs plan`, then try again.",
    ),
    "plan.unwritable": (
        "The plan could not be written to {path}: {why}.",
        "Give --out another path.",
    ),
    "plan.file": (
        "{path} is not a plan: {why}.",
        "Write one with `rfs plan TARGET --out {path}`.",
    ),
    "rollback.irreversible": (
        "The plan is {found}, and the policy asks for at least {wanted}: {steps}.",
        "Leave the component out with --except, lower [policy] min_reversibility, or give --break-glass --reason TEXT.",
    ),
    "rollback.reverted": (
        "The {kind} failed and the system is back at the state before it: {why}",
        "{hint}",
    ),
    "rollback.held": (
        "The {kind} failed, and so did the way back. NEEDS ATTENTION: {why}",
        "Mend the cause, then `rfs resume {operation}` (or with --skip {step}), or turn back again: `rfs abort`.",
    ),
    "rollback.held_full": (
        "The {kind} failed, and so did the way back. NEEDS ATTENTION: {why}",
        "Free some space there, then run `rfs resume {operation}` (or with --skip {step}): it finishes what is left.",
    ),
    "rollback.unfinished": (
        "The {kind} {operation} cannot write its journal and is not over: {where}. NEEDS ATTENTION: {why}",
        "{hint} Then run `rfs recover`: it goes on where it stands.",
    ),
    "rollback.inside": (
        "This process is part of the component {component}, which has to be stopped, and cannot leave it: {why}.",
        "Run rfs from a shell, or from a service that is not part of the application; nothing was changed.",
    ),
    "outside.going_on": (
        "The {kind} {operation} goes on outside this service, which it stops now.",
        "`rfs show {operation}` tells how it ended.",
    ),
    "outside.lost": (
        "The process that did the work outside this service ended without saying how far it came.",
        "Run `rfs recover`: it settles what was left; {log} may tell why.",
    ),
    "rollback.open": (
        "Operation {operation} is {status} and NEEDS ATTENTION; until then nothing else may change the application.",
        "Run `rfs resume {operation}` or `rfs abort {operation}`; `rfs show {operation}` tells how far it came.",
    ),
    "rollback.timeout": (
        "The {what} took longer than {seconds} s.",
        "Raise [policy] {key}, or find out what was slow with `rfs show`.",
    ),
    "timeout": ("It took longer than {seconds} s.", "Give a longer --timeout."),
    "output.unwritable": (
        "The output could not be written: {why}.",
        "What the command does was done; `rfs status` and `rfs log` tell where things stand.",
    ),
    "declined": ("Nothing was changed.", "You answered no."),
    "interrupted": ("It was interrupted.", "Nothing is half done; run the command again."),
    "unexpected": ("{what}.", "Run it again with --debug, and report it with what it prints."),
    # — components —
    **OF_COMPONENTS,
    **OF_CONDITIONS,
    **OF_DATABASES,
    **OF_DEFERRING,
    **OF_DEPLOYMENTS,
    **OF_GRADUAL,
    **OF_GOVERNANCE,
    **OF_TRACKING,
}


def define_messages(kind: str, texts: Mapping[str, tuple[str, str]]) -> None:
    """Add the texts of a plug-in's errors; to be called when its module is imported.

    Args:
        kind: the driver's kind.
        texts: (what happened, what to do) by key; each key is the kind, a dot, and a word of its own.
            The errors of rfs may also be raised by their keys: they are those of MESSAGES.

    Raises:
        ValueError: a key does not begin with the kind, or another text has it already.
    """
    for key, text in texts.items():
        if not key.startswith(f"{kind}."):
            why = f"the key {key!r} does not begin with {kind!r} and a dot"
            raise ValueError(why)
        if MESSAGES.get(key, text) != text:
            why = f"there is another text for the key {key!r}"
            raise ValueError(why)
    MESSAGES.update(texts)
