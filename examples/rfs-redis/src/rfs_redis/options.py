"""What rfs.toml says of a redis component, and the sentences for what can go wrong."""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec

from rfs.plugin import Component, Duration, UsageError, define_messages, parse_duration, resolve_secret
from rfs_redis.resp import Address

define_messages(
    "redis",
    {
        "redis.unreachable": (
            "Redis at {where} (component {component}) does not answer: {why}.",
            "Start it, or correct url in rfs.toml.",
        ),
        "redis.password": (
            "Redis at {where} (component {component}) refuses the user or the password: {why}.",
            'Correct them in rfs.toml; a password is given as password = "env:NAME" or "file:PATH".',
        ),
        "redis.permission": (
            "Redis at {where} does not let the user of the component {component} do what is needed: {why}.",
            'Allow it (ACL SETUSER); hold = "0s" does without CLIENT PAUSE, persist = false without CONFIG and BGSAVE.',
        ),
        "redis.refused": (
            "Redis at {where} (component {component}) refuses a command: {why}.",
            "Look at the server's log.",
        ),
        "redis.busy": (
            "Redis at {where} (component {component}) is not ready: {why}.",
            "Wait until it is, then try again.",
        ),
        "redis.replica": (
            "Redis at {where} (component {component}) is a replica of {master}.",
            "Name the master in url: what is restored on a replica does not last.",
        ),
        "redis.mode": (
            "Redis at {where} (component {component}) runs as {mode}, where one server does not hold all keys.",
            "A component is one server; leave this one out.",
        ),
        "redis.old": (
            "Redis at {where} (component {component}) is of version {found}; at least {needed} is needed.",
            "Install a newer Redis.",
        ),
        "redis.older": (
            "{component} was captured from Redis {then}; {where} is {now} and may not read what a newer one wrote.",
            "Install Redis {then} or newer there, or leave the component out with --except {component}.",
        ),
        "redis.memory": (
            "Redis at {where} has no memory left for the component {component}.",
            "Raise maxmemory.",
        ),
        "redis.changing": (
            "The key {name} of the component {component} kept changing while it was read.",
            "Let its writers be held (hold), or exclude the key.",
        ),
        "redis.large": (
            "The key {name} of the component {component} has {size} MB; Redis takes at most 512 in one command.",
            "Exclude it: it could be captured, but not restored.",
        ),
        "redis.type": (
            "The key {name} of the component {component} is of the type {type}, which a module brings.",
            "Exclude it: whether it came back as it was could not be told.",
        ),
        "redis.unsaved": (
            "Redis at {where} could not save what was restored for the component {component}: {why}.",
            "Look at the server's log, then try again; with persist = false it is not asked to save.",
        ),
        "redis.space": (
            "There is no room in {path} for what the component {component} has to fetch before it is restored: {why}.",
            "Free some space there.",
        ),
    },
)


class RedisOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a redis component.

    Attributes:
        url: "redis://HOST:PORT/DATABASE", "rediss://…" for TLS, "unix:///PATH?db=DATABASE"; or a secret
            ("env:REDIS_URL") that holds one, which may then have user and password in it.
        username, password: for AUTH; password is a secret ("env:NAME", "file:PATH", "cmd:…").
        ca: with rediss, a file of the certificates to trust; the system's, when left out.
        prefix: only keys that begin with this belong to the component; all of the database, when left out.
        exclude: patterns of keys that do not, with *, ? and [abc].
        hold: the writers are held for at most so long while a checkpoint is taken; "0s" never holds them.
        timeout: for each answer of the server.
        persist: after a restore, wait until Redis has saved it, if Redis saves at all.
        files: the server's own files (dump.rdb, appendonlydir), relative to rfs.toml: a files
            component around them leaves them alone.
    """

    url: str = "redis://127.0.0.1:6379/0"
    username: str | None = None
    password: str | None = None
    ca: str | None = None
    prefix: str = ""
    exclude: tuple[str, ...] = ()
    hold: Duration = "10s"
    timeout: Duration = "10s"
    persist: bool = True
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_duration(self.hold)
        if parse_duration(self.timeout) == 0:
            raise ValueError("timeout must be longer than nothing")
        if not self.url.startswith(("env:", "file:", "cmd:")):
            parse_url(self.url)


def options_of(c: Component) -> RedisOptions:
    return msgspec.convert(dict(c.options), RedisOptions)


class Url(NamedTuple):
    """What a url says; see RedisOptions."""

    path: str
    host: str
    port: int
    tls: bool
    database: int
    username: str | None
    password: str | None


def parse_url(text: str) -> Url:
    """Return what a url says.

    Raises:
        ValueError: it is none; the text never holds it, as there may be a password in it.
    """
    from urllib.parse import parse_qs, unquote, urlsplit

    try:
        url = urlsplit(text)
        port = url.port or 6379
    except ValueError:
        raise ValueError("url is not usable; write redis://HOST:PORT/DATABASE") from None
    unix = url.scheme == "unix"
    database = parse_qs(url.query).get("db", ["0"])[0] if unix else url.path.strip("/") or "0"
    if url.scheme not in ("redis", "rediss", "unix") or not (url.path if unix else url.hostname):
        raise ValueError("url begins with redis://HOST, rediss://HOST or unix:///PATH")
    if not database.isdecimal():
        raise ValueError("the database in url is a number")
    return Url(
        path=unquote(url.path) if unix else "",
        host=url.hostname or "",
        port=port,
        tls=url.scheme == "rediss",
        database=int(database),
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
    )


class Target(NamedTuple):
    """Where a component's keys are, with its secrets: not to be shown."""

    address: Address
    database: int
    username: str | None
    password: str | None


def target_of(c: Component) -> Target:
    """Return where to connect.

    Raises:
        UsageError: a secret cannot be had, or the url in one is not usable.
    """
    options = options_of(c)
    try:
        url = parse_url(resolve_secret(options.url, c.home))
    except ValueError as error:
        raise UsageError("secret.unavailable", source=options.url, why=error) from None
    password = resolve_secret(options.password, c.home) if options.password is not None else url.password
    ca = os.path.join(c.home, options.ca) if options.ca is not None else ""
    address = Address(url.path, url.host, url.port, url.tls, ca)
    return Target(address, url.database, options.username or url.username, password)
