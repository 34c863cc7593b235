"""A connection that is known to be the right server, and errors in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b

from rfs.plugin import Component, Pulse, RollbackError, UsageError, parse_duration
from rfs_redis.options import Target, options_of, target_of
from rfs_redis.resp import Connection, LostError, ServerError

NEEDED = (7, 0)  # PEXPIRETIME: with an older one, when a key expires could only be guessed
_CODES = {
    "NOAUTH": "redis.password",
    "WRONGPASS": "redis.password",
    "NOPERM": "redis.permission",
    "LOADING": "redis.busy",
    "BUSY": "redis.busy",
    "OOM": "redis.memory",
}


class Server(Connection):
    """Attributes: facts: what INFO said when it was connected. component: its name. where: its address."""

    facts: dict[str, str]
    component: str
    where: str

    @property
    def version(self) -> tuple[int, int]:
        return version_of(self.facts["redis_version"])

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO as it is now."""
        text: bytes = self.ask("INFO", section)
        lines = (line.partition(":") for line in text.decode(errors="replace").splitlines())
        return {name: value for name, colon, value in lines if colon}

    def error(self, key: str, **fields: object) -> RollbackError:
        """Return an error about this server, to be raised."""
        return RollbackError(key, where=self.where, component=self.component, **fields)


def version_of(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


@contextmanager
def connected(c: Component, pulse: Pulse | None = None, *, alone: bool = False) -> Iterator[Server]:
    """Yield a connection to the component's server, in its database; what goes wrong with it is one sentence.

    Args:
        alone: end the connections that an interrupted restore of this component may have left: the server
            might still have to read what they sent.

    Raises:
        UsageError: it is no server that a component may live on.
        RollbackError: it cannot be reached, or refuses something.
    """
    target = target_of(c)
    where = f"{target.address}/{target.database}"
    server: Server | None = None
    try:
        server = Server(target.address, parse_duration(options_of(c).timeout), pulse)
        server.component, server.where = c.name, where
        if target.password is not None:
            _authenticate(server, target)
        server.facts = server.info("everything")
        _require_right(server)
        server.ask("SELECT", target.database)
        if alone:
            _end_others(server, c)
        yield server
    except LostError as error:
        raise RollbackError("redis.unreachable", where=where, component=c.name, why=error) from error
    except ServerError as error:
        key = _CODES.get(error.code, "redis.refused")
        why = str(error).partition("\n")[0].rstrip(".")[:200]
        raise RollbackError(key, where=where, component=c.name, why=why) from error
    finally:
        if server is not None:
            server.close()


def _authenticate(server: Server, target: Target) -> None:
    try:
        server.ask("AUTH", *([target.username] if target.username else []), target.password or "")
    except ServerError as error:
        raise server.error("redis.password", why=str(error).rstrip(".")) from error


def _require_right(server: Server) -> None:
    about = {"where": server.where, "component": server.component}
    facts = server.facts
    mode = facts.get("redis_mode") or facts.get("server_mode", "standalone")  # the second is Valkey's word
    if mode != "standalone":
        raise UsageError("redis.mode", mode=mode, **about)
    if facts.get("role") == "slave":
        raise UsageError("redis.replica", master=f"{facts.get('master_host')}:{facts.get('master_port')}", **about)
    if server.version < NEEDED:
        needed = ".".join(map(str, NEEDED))
        raise UsageError("redis.old", found=facts["redis_version"], needed=needed, **about)
    if facts.get("loading") == "1":
        raise server.error("redis.busy", why="it is loading its data")


def _end_others(server: Server, c: Component) -> None:
    name = "rfs-" + blake2b(f"{c.home}\0{c.name}".encode(errors="surrogateescape"), digest_size=12).hexdigest()
    # A user who may not do this has to do without; the server reads the rest within milliseconds.
    with suppress(ServerError):
        clients: bytes = server.ask("CLIENT", "LIST")
        for line in clients.decode(errors="replace").splitlines():
            words = dict(word.partition("=")[::2] for word in line.split(" "))
            if words.get("name") == name:
                server.ask("CLIENT", "KILL", "ID", words["id"])
        server.ask("CLIENT", "SETNAME", name)
