"""The texts of what databases and their migrations report: a part of `messages`."""

from __future__ import annotations

OF_DATABASES: dict[str, tuple[str, str]] = {
    # — a database on a connection —
    "database.connection": (
        "A database cannot be rolled back by a {given}.",
        "Give DatabaseRollbackManager an asyncpg connection, a DSN, or the name of a database component.",
    ),
    "database.tables": (
        "Only on a connection a rollback can be restricted to tables.",
        "Leave tables out, or give an asyncpg connection.",
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
    "database.committed": (
        "The transaction of the rollback was ended by validate_database.",
        "Take COMMIT and ROLLBACK out of it; after a COMMIT it stands, and its backup is the newest checkpoint.",
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
    "migrate.none": (
        "No component of rfs.toml says what migrates its database.",
        'Write migrations = "alembic.ini", "manage.py" or a folder of SQL into its table.',
    ),
    "migrate.several": (
        "Several components have migrations: {components}.",
        "Name one with --component.",
    ),
    "migrate.not_configured": (
        "The operation takes migrations of {component} back, which rfs.toml no longer tells of.",
        "Put its migrations back into rfs.toml, or run `rfs abort`.",
    ),
    "migrate.not_recorded": (
        "The checkpoint {checkpoint} does not tell which migrations of {component} were in force.",
        "Name a version instead; `rfs migrate status` lists them.",
    ),
    "migrate.unreadable": (
        "The migrations of {component} cannot be read at {path}: {why}.",
        "Correct migrations in rfs.toml, or the permissions.",
    ),
    "migrate.unusable": (
        "{path} cannot be used for migrations: {why}.",
        "Correct it, or migrations in rfs.toml.",
    ),
    "migrate.no_history": (
        "The database of {component} has no table {tables} with a column version.",
        "Name the table of the history in rfs.toml: [components.NAME.migrations] has the key table.",
    ),
    "migrate.dirty": (
        "{table} of {component} says that migration {version} broke off half way.",
        "Mend the schema by hand and set dirty to false first; nothing was changed.",
    ),
    "migrate.no_script": (
        "There is no way down from {versions}.",
        "Write the down scripts; nothing was changed.",
    ),
    "migrate.no_way": (
        "There is no way down from {versions}, neither in the application nor in a checkpoint.",
        "{hint}",
    ),
    "migrate.covered": (
        "There is no way down from {versions}, neither in the application nor in a checkpoint.",
        "`rfs plan {checkpoint} --only {component}` tells what going to {target} costs; --or-checkpoint does it.",
    ),
    "migrate.not_below": (
        "At that checkpoint {component} had migrations that are not in force now: {versions}.",
        "Going there would be a way up; migrate with the tool itself, or roll the database back.",
    ),
    "migrate.relative": (
        "{target} does not lead to one revision.",
        "Name the revision itself; `rfs migrate status` lists them.",
    ),
    "migrate.branches": (
        "At that checkpoint several branches were in force: {heads}.",
        "Name the revision to go down to, one branch after the other.",
    ),
    "migrate.django_target": (
        "{target} is no target for Django.",
        "Write APP.MIGRATION, such as shop.0002, or APP.zero.",
    ),
    "migrate.forward": (
        "To reach {target}, migrations would have to be applied: {versions}.",
        "Name one that is in force; only the way down is gone here.",
    ),
    "migrate.elsewhere": (
        "{tool} sees another history ({theirs}) than the database of {component} has ({ours}).",
        "Let the application's settings and the component lead to the same database; nothing was changed.",
    ),
    "migrate.tool": (
        "For {component}, {tool} failed under {python}: {why}.",
        "Set python, and what the application needs in its environment.",
    ),
    "migrate.differs": (
        "After the migration, the history of {component} is not what it should be ({versions}).",
        "Look at the scripts: one changes the history itself, or the tool reached another database.",
    ),
    "migrate.broken_keys": (
        "The down scripts of {what} would leave rows whose foreign keys lead nowhere.",
        "Let the scripts remove these rows first.",
    ),
    "migrate.unknown_end": (
        "Nobody knows whether statement {number} of the down script of {version} was carried out.",
        "It needs to be outside of a transaction, and the run was killed at it.",
    ),
    "migrate.failed_apart": (
        "Statement {number} of the down script of {version}, which no transaction holds, failed: {why}.",
        "Mend the script.",
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
    "postgresql.old_server": (
        "The server of the component {component} is PostgreSQL {version}, and rfs knows {oldest} and newer.",
        "Upgrade the server; nothing was changed.",
    ),
    "postgresql.failed": (
        "The database {database} of the component {component} refused: {why}.",
        "Do what it asks for, then try again.",
    ),
    "postgresql.refused": (
        "{what} of the checkpoint cannot be made again for the component {component}: {why}.",
        "Give the role of url what that needs, or let url name another; `rfs doctor` tells what is not its own.",
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
    "postgresql.not_paused": (
        "PgBouncer could not hold the clients of {pool} ({component}) within {wait}: some are in transactions.",
        "Let them end, or wait longer: wait in rfs.toml. With pool_mode = session a client never lets go.",
    ),
    "postgresql.written": (
        "The database {database} of {component} was written to after its copy had been taken, and was not touched.",
        "Stop what else writes to it, then try again; with CREATEDB its role could set it aside instead.",
    ),
    "postgresql.not_in_place": (
        "The database {database} of {component} cannot be restored in place, as {why}: {names}.",
        "Give its role CREATEDB, or let a superuser put right what is named.",
    ),
    "postgresql.restored_differs": (
        "What was restored of the component {component} differs from the checkpoint: {what}.",
        "The state before comes back from its copy; if something else wrote meanwhile, stop it and try again.",
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
    "postgresql.rows": (
        "A change of a row of {component} cannot be taken back: {why}.",
        "Look at the database, and at the key and the columns of the change.",
    ),
    "sqlite.rows": (
        "The rows of {path} cannot be had as the change names them: {why}.",
        "Look at the database, and at the key and the columns of the change.",
    ),
}
