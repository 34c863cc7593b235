"""The texts of what drivers report: the part of `messages` that grows with each kind of component, but databases."""

from __future__ import annotations

OF_COMPONENTS: dict[str, tuple[str, str]] = {
    # — components —
    "capture.newer": (
        "What was captured of {component} has format {found}; its driver reads up to {known}.",
        "Install the release of the driver that took the checkpoint, or a newer one.",
    ),
    "path.missing": (
        "The component {component} is not there: {path}.",
        "Create it, or correct its path in rfs.toml.",
    ),
    "path.unreadable": (
        "{path} of the component {component} cannot be read: {why}.",
        "Run rfs as a user who may read it, or exclude it.",
    ),
    "path.kind": (
        "{path} of the component {component} is {found}, not {wanted}.",
        "Correct its path or kind in rfs.toml.",
    ),
    "path.displaced": (
        "At {path} of the component {component} stood {what}; it was set aside, and is there no longer.",
        "Put it back there by hand, or leave the component out with --except.",
    ),
    "path.unsafe": (
        "The manifest names a path outside its component: {path}.",
        "The checkpoint was tampered with or is damaged; choose another one.",
    ),
    "path.changing": (
        "{path} kept changing while it was read.",
        "Exclude it, or checkpoint it while its writer is stopped.",
    ),
    "path.owner": (
        "{path} belongs to another user, and rfs does not run as root.",
        "Run rfs as root (sudo), so that owners can be restored.",
    ),
    "path.unwritable": (
        "{path} of the component {component} cannot be changed: {why}.",
        "Run rfs as a user who may write there.",
    ),
    "path.swapped": (
        "{path} became a link, or another kind of file, while it was restored.",
        "Stop what writes there, then run `rfs resume` or the rollback again.",
    ),
    "path.sheltering": (
        "{path} must become something else, but it holds files that are excluded or belong to another component.",
        "Move those away, or leave the component out with --except.",
    ),
    "path.no_room": (
        "A way back would need {needed} on the disk of {path}, and {free} are free.",
        "Free some there; nothing was changed.",
    ),
    "path.mounted": (
        "{path} of the component {component} is a mount point and cannot be replaced.",
        "Unmount it, then try again.",
    ),
    "service.unreachable": (
        "The {manager} of the component {component} does not answer at {where}: {why}.",
        "Start it, or correct its url or config in rfs.toml.",
    ),
    "service.no_systemd": (
        "The component {component} cannot be asked about: systemd does not answer ({why}).",
        'Run rfs where systemd is process 1, or give the component manager = "supervisor" or "command".',
    ),
    "service.no_user_systemd": (
        "The systemd of the user {user} cannot be asked about the component {component}: {why}.",
        "Run `loginctl enable-linger {user}` so that it always runs, or run rfs as the user whose units these are.",
    ),
    "service.denied": (
        "The user {user} may not do `{what}` (component {component}): {why}.",
        "Run rfs as root (sudo), or allow that user org.freedesktop.systemd1.manage-units in a polkit rule.",
    ),
    "service.no_return": (
        "The unit {unit} was not stopped, because it could not be started again: {why}.",
        "{hint}",
    ),
    "service.unknown_unit": (
        "{manager} knows no unit {unit} (component {component}).",
        "Its units are: {known}.",
    ),
    "service.definitions": (
        "{manager} refuses the definitions of the component {component}: {why}.",
        "Mend the configuration file that it names.",
    ),
    "service.no_stop": (
        "The unit {unit} did not stop: {why}.",
        "Stop it by hand, then run `rfs resume`.",
    ),
    "service.no_start": (
        "The unit {unit} did not start: {why}.",
        "Look at its log: {log}.",
    ),
    "command.failed": (
        "The command {command} ended with {status}: {output}",
        "Run it by hand to see why.",
    ),
    "command.missing": (
        "The command {command} could not be started: {why}.",
        "Install it, or correct it in rfs.toml.",
    ),
    "monitor.active": (
        "The conditions are monitored already.",
        "Add further ones with add_rollback_condition, or stop_monitoring first.",
    ),
    "monitor.not_allowed": (
        "Nothing goes back by itself here: {who}.",
        "Look at it, and go back by hand: `rfs rollback`.",
    ),
    "monitor.no_target": (
        "There is no checkpoint, verified healthy, from before the trouble began.",
        "Choose one by hand (`rfs checkpoint list`), and take checkpoints while the application is well.",
    ),
    "hook.failing": (
        "The hook {when} {event} failed: {why}",
        "Mend the command, or take it out of [[hooks]] in rfs.toml.",
    ),
    "hook.ended": (
        "The hook {when} {event}, {command}, ended with {why}.",
        "Mend the command, or take it out of [[hooks]] in rfs.toml.",
    ),
    "command.slow": (
        "The command {command} did not end within {seconds} s.",
        "Give it a longer timeout in rfs.toml, or find out what it waits for.",
    ),
    "config.invalid": (
        "{path} is not valid {format}: {why}.",
        "Mend the file, or use a files component for it.",
    ),
    "change.value": (
        "The change of {component} cannot be tracked: {why}.",
        "{hint}",
    ),
    "change.no_restorer": (
        "Nothing here can take changes of {component} back: {why}.",
        "Give register_restorer the function that can, or track it as one of: {known}; `rfs undo ID` undoes another.",
    ),
    "change.too_few": (
        "There are only {count} tracked changes, not {asked}.",
        "Ask for fewer; nothing was changed.",
    ),
    "change.none": (
        "No tracked change of {component} is left to be taken back.",
        "`change_log` lists those that are; nothing was changed.",
    ),
    "change.conflict": (
        "{what} is not what the change left there: somebody changed it since{listed}.",
        "Look at it; --ours keeps what is there now, --theirs (in Python force=True) overwrites it. {done}",
    ),
    "change.failed": (
        "The change {change} of {component} could not be taken back: {why}",
        "{hint} {done}",
    ),
    "config.taken": (
        "There is a version {version} of the configuration already.",
        "Give it another name; a version, once saved, never changes.",
    ),
    "config.no_version": (
        "There is no version {version} of the configuration.",
        "There are: {known}.",
    ),
    "config.no_name": (
        "A version of the configuration needs a name, and {version!r} is none.",
        'Use letters, digits and signs, such as "v1.2"; the names that begin with "backup_" are for backups.',
    ),
    "config.format": (
        "The format of {path} is not known.",
        "Give the file one of the suffixes .toml, .yaml, .json, .ini and .env, or its component a format in rfs.toml.",
    ),
    "config.unsaid": (
        "The configuration cannot be written to {path}: {why}.",
        "Nothing was changed; save a version without it, or write the file by hand.",
    ),
    "config.rejected": (
        "The command that checks the configuration of {component} refuses it: {why}.",
        "Nothing was changed; run the command by hand to see why.",
    ),
    "config.unfit": (
        "The configuration of {component} does not fit its schema: {where}.",
        "Nothing was changed; correct it, or the schema that rfs.toml names.",
    ),
    "config.schema": (
        "The schema {path} of {component} cannot be used: {why}.",
        "Correct `schema` in rfs.toml, or the file; what it refers to must be in it, as nothing is fetched.",
    ),
    "config.no_validator": (
        "The configuration of {component} has a schema, and what compares the two is not installed.",
        "Install it with rfs: pip install 'rfs-rollback[jsonschema]'.",
    ),
    "config.reverted": (
        "The configuration was put back as it was: {why}{again}",
        "Mend what the reload does, or what the version says, and try again.",
    ),
    "config.held": (
        "The configuration was changed and could not be put back as it was. NEEDS ATTENTION: {why} {failure}",
        "{hint} The next `rfs config` command that changes something goes on where it stands.",
    ),
    "config.none": (
        "There is no configuration file in rfs.toml whose versions could be kept.",
        'Add a component of kind = "config".',
    ),
    "config.which": (
        "There is more than one configuration file: {known}.",
        "Name one with --component.",
    ),
    "reload.failed": (
        "Reloading the configuration of {component} failed: {why}.",
        "Look at the service's log; the reload is {what}.",
    ),
    "hook.failed": (
        "The hook {hook} failed: {why}.",
        "Correct it in the program that rfs runs in; the error's cause has the traceback.",
    ),
    "hook.state": (
        "What describes {component} is not JSON: {why}.",
        "Let its hook return dictionaries with text as keys, lists, text, numbers, true, false and None.",
    ),
    "hook.half": (
        "The hook {hook} needs {other} beside it.",
        "Supply both: without the other one it could be neither captured nor taken back.",
    ),
    "hook.taken": (
        "There are two components called {name}: one is made of hooks.",
        "Rename the one in rfs.toml, or register yours under another name.",
    ),
}
