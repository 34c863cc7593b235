"""The schema, as pg_dump says it: run beside the connection, at its address, in its snapshot."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.onconnection.connection import Connection
from rfs.production.rollback.onconnection.snapshot import Name, Schema
from rfs.production.rollback.pg_dump import fitting, installed

_FIRST_ENTRY = "--\n-- Name: "
_END = "\n--\n-- PostgreSQL database dump complete\n--\n"
_HEADER_ENDS = re.compile(r"^SET row_security = off;\n", re.MULTILINE)


async def find_pg_dump(server: int) -> str:
    """Return the program of the lowest version that can read a server.

    Args:
        server: the server's major version.

    Raises:
        UsageError: there is none.
    """
    found = await asyncio.to_thread(installed)  # each is asked for its version
    path = fitting(found, server)
    if path is None:
        there = ", ".join(f"{found[version]} ({version})" for version in sorted(found)) or "none at all"
        raise UsageError("database.pg_dump", server=server, found=there)
    return path


async def dump_schema(connection: Connection, program: str, home: Name, tables: Sequence[Name] | None) -> Schema:
    """Return the schema as this transaction sees it; nothing of `home`.

    Args:
        program: pg_dump.
        tables: only these, which are all there; None for the whole database.

    Raises:
        RollbackError: pg_dump could not reach the server, or was refused.
    """
    if tables is not None and not tables:
        return Schema()
    snapshot = await connection.fetchval("SELECT pg_catalog.pg_export_snapshot()")
    role = await connection.fetchrow("SELECT current_user AS now, session_user AS at_first")
    common = [program, "--clean", "--if-exists", "--no-password", "--no-blobs", "--no-subscriptions"]
    common += ["--encoding=UTF8", f"--snapshot={snapshot}", "--lock-wait-timeout=10s", f"-T{home.quoted}"]
    if role["now"] != role["at_first"]:
        common.append(f"--role={role['now']}")
    common += [f"-t{table.quoted}" for table in tables or ()]
    environment = _environment(connection)
    parts = []
    for section in ("pre-data", "post-data"):
        status, output, errors = await _run([*common, f"--section={section}"], environment)
        if status:
            last = errors.strip().splitlines()[-1:] or [f"status {status}"]
            raise RollbackError("database.dump", why=last[0].removeprefix("pg_dump: ").rstrip("."))
        parts.append(_split(output))
    (drops, before), (drops_after, after) = parts
    return Schema(before, after, _alone(drops_after) + _cascading(drops))


def _alone(drops: str) -> str:
    """Return the drops of what goes with no table; pg_dump's others fail at the constraints of partitions."""
    return "".join(
        line
        for line in drops.splitlines(keepends=True)
        if line.startswith(("DROP PUBLICATION ", "DROP EVENT TRIGGER "))
    )


def _cascading(drops: str) -> str:
    """Return the drops of everything else, each with what hangs on it: all of that goes anyway."""
    lines = [line for line in drops.splitlines() if line.startswith("DROP ") and line.endswith(";")]
    return "".join(
        f"{line}\n" if line.startswith("DROP USER MAPPING ") else f"{line[:-1]} CASCADE;\n" for line in lines
    )


def _split(output: str) -> tuple[str, str]:
    """Return what pg_dump drops and what it makes, without what would change the session.

    The preamble sets what a newer pg_dump knows and this server may not; `\\restrict` is for psql.
    """
    header = _HEADER_ENDS.search(output)
    end = output.rfind(_END)
    if header is None or end < 0:
        raise RollbackError("database.dump", why="its output is not what is expected of it")
    body = output[header.end() : end]
    first = body.find(_FIRST_ENTRY)
    return (body, "") if first < 0 else (body[:first], body[first:])


class _Reached(NamedTuple):
    """Where a connection leads: its address, and asyncpg's own record of who connected and how."""

    address: Any
    parameters: Any


def _reached(connection: Any) -> _Reached:
    """Return how a connection was made.

    The only place that reads what asyncpg keeps to itself: it has no public names for these, the server can tell
    all but the password, and without that pg_dump gets nowhere.

    Raises:
        UsageError: this asyncpg has other names for them.
    """
    inner = getattr(connection, "_con", None) or connection  # a connection of a pool stands for another one
    address, parameters = getattr(inner, "_addr", None), getattr(inner, "_params", None)
    wanted = ("user", "database", "password", "ssl", "sslmode")
    if address is None or not all(hasattr(parameters, name) for name in wanted):
        raise UsageError("database.address")
    return _Reached(address, parameters)


def _environment(connection: Any) -> dict[str, str]:
    """Return the variables by which pg_dump reaches the server of a connection."""
    address, parameters = _reached(connection)
    if isinstance(address, str):
        host, _, port = address.rpartition("/.s.PGSQL.")
    else:
        host, port = address[0], str(address[1])
    own = (
        "PGHOST",
        "PGHOSTADDR",
        "PGPORT",
        "PGSERVICE",
        "PGOPTIONS",
        "PGDATABASE",
        "PGUSER",
        "PGPASSWORD",
        "PGSSLMODE",
    )
    variables = {name: value for name, value in os.environ.items() if name not in own}
    variables |= {"PGHOST": host, "PGPORT": port, "PGUSER": parameters.user, "PGDATABASE": parameters.database}
    if isinstance(parameters.password, str):
        variables["PGPASSWORD"] = parameters.password
    if not isinstance(address, str):
        variables["PGSSLMODE"] = _ssl_mode(parameters)
    return {**variables, "PGAPPNAME": "rfs", "LC_ALL": "C"}


def _ssl_mode(parameters: Any) -> str:
    """Return a mode that trusts no more than the connection does; libpq is told of certificates by PGSSLROOTCERT."""
    import ssl

    named = str(parameters.sslmode.name).replace("_", "-")
    context = parameters.ssl
    if named != "disable" or context is None:
        return named
    # The caller made a context, which asyncpg keeps without a mode.
    if context.verify_mode is ssl.CERT_NONE:
        return "require"
    return "verify-full" if context.check_hostname else "verify-ca"


async def _run(command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """Run a program to its end. It does not outlive us, whatever ends the wait."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment
    )
    try:
        output, errors = await child.communicate()
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
    return child.returncode or 0, output.decode(), errors.decode(errors="replace")
