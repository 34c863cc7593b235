"""The texts of every error: (what happened, what to do), by key, with named fields.

One table, so that a Korean catalogue is a second table and no change in code.
Keys are `subject.condition`. Each text is one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    # — a database on a connection —
    "database.connection": (
        "A database cannot be rolled back by a {given}.",
        "Give DatabaseRollbackManager an asyncpg connection.",
    ),
    "database.closed": (
        "The connection to the database is closed.",
        "Give DatabaseRollbackManager an open connection.",
    ),
    "database.in_transaction": (
        "The connection is inside a transaction.",
        "End the transaction first: what it did is neither to be kept nor to be lost by a rollback.",
    ),
    "database.old_server": (
        "The server is PostgreSQL {version}, and rfs knows {oldest} and newer.",
        "Upgrade the server; nothing was changed.",
    ),
    "database.pg_dump": (
        "There is no pg_dump that can read a server of version {server}; found: {found}.",
        "Install the client programs of PostgreSQL {server} or newer, and put them on the PATH.",
    ),
    "database.address": (
        "The connection does not tell where its server is.",
        "Give DatabaseRollbackManager a connection that asyncpg itself made, or one of its pool.",
    ),
    "database.dump": (
        "The schema could not be read by pg_dump: {why}.",
        "Make the server reachable for pg_dump as it is for the connection; nothing was changed.",
    ),
    "database.table": (
        "{table} is a table of another kind than rfs keeps its checkpoints in.",
        "Rename it, or set the connection's search_path to a schema without it.",
    ),
    "database.no_schema": (
        "The connection's search_path names no schema that is there, so db_checkpoints has no place.",
        "Set the search_path of the connection.",
    ),
    "database.no_checkpoint": (
        "There is no database checkpoint {checkpoint} in {table}.",
        "Give the id that create_database_checkpoint returned; SELECT id, name FROM db_checkpoints lists them.",
    ),
    "database.no_such_table": (
        "There is no table {name}.",
        "Correct the name; one that is not in the search_path needs its schema before it.",
    ),
    "database.damaged": (
        "The database checkpoint {checkpoint} is damaged.",
        "Choose another one; nothing was changed.",
    ),
    "database.large": (
        "The checkpoint would take {size}, and db_checkpoints can hold {most}.",
        "Restrict it with tables=, or use a PostgreSQL backup for this database; nothing was changed.",
    ),
    "database.foreign": (
        "The {what} belongs to {owner}, and this role could not make it again.",
        "Connect as a role that is a member of {owner}, or restrict the checkpoint with tables=; nothing was changed.",
    ),
    "database.large_objects": (
        "The database holds {count} large objects, which a checkpoint by a connection does not take along.",
        "Restrict the checkpoint with tables=, which leaves them alone.",
    ),
    "database.subscription": (
        "The database has the subscription {name}, which a rollback would tear.",
        "Restrict the checkpoint with tables= to tables that are not replicated.",
    ),
    "database.dependents": (
        "Something outside of the checkpoint depends on what has to be made anew: {why}.",
        "Take the checkpoint without tables=, or drop what depends on them first; nothing was changed.",
    ),
    "database.differs": (
        "The database would not have been as it was at the checkpoint: {what}.",
        "Nothing was changed: it is in the state before.",
    ),
    "database.invalid": (
        "The restored database did not pass validation: {why}.",
        "Nothing was changed: it is in the state before.",
    ),
    "database.locked": (
        "Others hold what is needed: {why}.",
        "Try again, when they are done; nothing was changed.",
    ),
    "database.moved": (
        "The database was changed by others meanwhile: {why}.",
        "Try again; nothing was changed.",
    ),
    "database.lost": (
        "The connection to the database was lost: {why}.",
        "Connect anew and look: nothing is half done, but a rollback may just have been completed.",
    ),
    "database.denied": (
        "The role of the connection may not do this: {why}.",
        "Connect as the owner; nothing was changed.",
    ),
    "database.refused": (
        "The server refused: {why}.",
        "Mend what it says; nothing was changed.",
    ),
    "migration.no_history": (
        "There is no table migration_history with the columns version and down_script.",
        "Set the connection's search_path to the schema that has it.",
    ),
    "migration.unknown": (
        "No migration {version} is in the history; the newest are: {known}.",
        "Give one of these, or a number before them.",
    ),
    "migration.nothing": (
        "No migration after {version} is in force.",
        "There is nothing to roll back; nothing was changed.",
    ),
    "migration.no_way": (
        "There is no down script for {versions}, and no checkpoint of the whole database from before.",
        "Write the down scripts; nothing was changed.",
    ),
    "migration.transaction": (
        "{what} begins or ends a transaction in its midst, or needs to be outside of one ({statement}).",
        "Take that out of the script; nothing was changed.",
    ),
    "migration.failed": (
        "The down script of {version} failed: {why}.",
        "Mend the script; nothing was changed, by it or by those before it.",
    ),
    "migration.rows": (
        "The rows of {table} were not what they should be when the scripts had run.",
        "A script changes the history itself; take that out of it. Nothing was changed.",
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
        "Run `rfs init`; if the store was moved, correct [store] path.",
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
        "Run rfs as the user that owns it, or move it with [store] path.",
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
    "path.mounted": (
        "{path} of the component {component} is a mount point and cannot be replaced.",
        "Unmount it, then try again.",
    ),
    "sqlite.locked": (
        "The database {path} stayed locked for {seconds} s{who}.",
        "End the long transaction of the other program, then try again.",
    ),
    "sqlite.not_a_database": (
        "{path} is not a SQLite database, or it is encrypted.",
        "Correct the path, or capture it with a files component while its writer is stopped.",
    ),
    "sqlite.damaged": (
        "The database {path} fails its integrity check: {why}.",
        "Repair it, or roll back to an earlier checkpoint.",
    ),
    "postgresql.psycopg": (
        "The component {component} needs psycopg, which is not usable here: {why}.",
        "Run `pip install 'rfs-rollback[postgresql]'`.",
    ),
    "postgresql.url": (
        "The {key} of the component {component} is not usable: {why}.",
        'Write it as postgresql://USER@HOST/DATABASE, or name where it stands: "env:DATABASE_URL".',
    ),
    "postgresql.unreachable": (
        "The database of the component {component} cannot be reached ({where}): {why}.",
        "Start the server, or correct url in rfs.toml; `rfs doctor` tries it again.",
    ),
    "postgresql.failed": (
        "The database {database} of the component {component} refused: {why}.",
        "Do what it asks for, then try again.",
    ),
    "postgresql.privilege": (
        "In the database {database} of the component {component} this role lacks a privilege: {why}.",
        "`rfs doctor` tells which privileges are needed.",
    ),
    "postgresql.slow": (
        "The database {database} of the component {component} did not finish in time: {why}.",
        "Give it more time: --timeout, or max_rollback_time in rfs.toml.",
    ),
    "postgresql.no_dump": (
        "There is no pg_dump, which the component {component} needs.",
        "Install the PostgreSQL client programs, version {server} or newer, or name their folder with bin.",
    ),
    "postgresql.old_dump": (
        "{path} is of version {found} and cannot read the server of the component {component}, version {server}.",
        "Install the PostgreSQL client programs, version {server} or newer, or name their folder with bin.",
    ),
    "postgresql.dump_failed": (
        "The database {database} of the component {component} could not be read by pg_dump: {why}.",
        "Let url name a role that may read all of it; nothing was changed.",
    ),
    "postgresql.staged_differs": (
        "What was built of the checkpoint for the component {component} differs from it: {what}.",
        "The live database is untouched; report this with what differs.",
    ),
    "postgresql.displaced_gone": (
        "The database that was {database} before (oid {oid}) is no longer beside it: somebody dropped it.",
        "`rfs rollback CHECKPOINT` goes to a checkpoint, which has a copy of its own; {component} was not touched.",
    ),
    "postgresql.many_rows": (
        "The table {table} has too many rows to compare: more than {most} are in places that differ.",
        "Connect to the displaced database yourself: `rfs db list` names it.",
    ),
    "postgresql.export_tables": (
        "There are such rows in several tables: {tables}.",
        "CSV holds one table: name it with --table, or take --format sql or json.",
    ),
    "postgresql.not_displaced": (
        "The operation {operation} set no PostgreSQL database aside.",
        "`rfs log` shows the operations, `rfs db list` the databases.",
    ),
    "postgresql.no_room": (
        "The server of {component} has too little room for a second copy of {database}: {free} MB on {folder}.",
        "Free some: {needed} MB are needed. `rfs db list` and `rfs prune` tell what earlier rollbacks set aside.",
    ),
    "postgresql.prepared": (
        "The database {database} of {component} has prepared transactions, which would stay in the way: {names}.",
        "COMMIT PREPARED or ROLLBACK PREPARED each of them, then try again.",
    ),
    "postgresql.slots": (
        "The database {database} of {component} has logical replication slots, which would be cut off: {names}.",
        "Stop the replication and drop them (pg_drop_replication_slot), then try again.",
    ),
    "postgresql.subscriptions": (
        "The database {database} of {component} receives by subscriptions, which would go on elsewhere: {names}.",
        "ALTER SUBSCRIPTION … DISABLE each of them, then try again.",
    ),
    "postgresql.in_use": (
        "The database {database} of {component} is in use: {sessions}.",
        "End that, or let the rollback wait longer or end it: wait and on_open_transactions in rfs.toml.",
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
    "command.slow": (
        "The command {command} did not end within {seconds} s.",
        "Give it a longer timeout in rfs.toml, or find out what it waits for.",
    ),
    "config.invalid": (
        "{path} is not valid {format}: {why}.",
        "Mend the file, or use a files component for it.",
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
    # — rollback —
    "health.failed": (
        "The health check failed: {checks}.",
        "Run `rfs doctor` to try each check; nothing waits for it any longer.",
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
        "Lower [policy] min_reversibility, or leave the component out with --except.",
    ),
    "rollback.reverted": (
        "The {kind} failed and the system is back at the state before it: {why}",
        "{hint}",
    ),
    "rollback.held": (
        "The {kind} failed, and so did the way back. NEEDS ATTENTION: {why}",
        "Mend the cause, then `rfs resume {operation}` (or with --skip {step}), or turn back again: `rfs abort`.",
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
