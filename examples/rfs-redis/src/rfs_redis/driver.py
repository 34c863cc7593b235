"""The driver of Redis databases."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

from rfs.plugin import (
    BlobSink,
    BlobSource,
    Capture,
    Change,
    ChangeKind,
    Component,
    Driver,
    Finding,
    Fingerprint,
    Loss,
    Ref,
    Restored,
    RollbackError,
    UsageError,
    parse_duration,
)
from rfs_redis.index import Index
from rfs_redis.keys import FORMAT, NEVER, Key, Live, captured, examples, fingerprint_of, shown_name, store_parts
from rfs_redis.options import RedisOptions, options_of
from rfs_redis.reading import read_all, server_time
from rfs_redis.resp import LostError
from rfs_redis.server import connected, version_of
from rfs_redis.writing import converge, persist

EVICTING = (
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
)


class RedisDriver(Driver):
    """The keys of one database, or those that begin with a prefix: values, and when they expire.

    Every look reads every value, as Redis keeps no trace of what changed: ten thousand keys a second and more.
    Writers are held by CLIENT PAUSE WRITE while a checkpoint is taken, which ends by itself (`hold`). Without
    that each value is still of one moment, but they may be of different ones; the checkpoint then says so.

    A key that expired since the checkpoint is not brought back: its time is over, as it would have been anyway.
    """

    kind = "redis"
    options = RedisOptions

    def __init__(self) -> None:
        self._held_until = 0.0

    def capture(self, c: Component, sink: BlobSink, previous: Capture | None) -> Capture:
        options = options_of(c)
        with connected(c, sink) as server, Index(c.work) as index:
            refs: dict[bytes, list[bytes]] = {}

            def keep(key: Key) -> bool:
                known = index.refs(key)
                if known is None or not all(map(sink.has, known)):
                    return True
                refs[key.name] = known
                return False

            def take(key: Key, size: int, pieces: Iterator[bytes]) -> None:
                refs[key.name] = [sink.put(piece) for piece in pieces]
                index.add(key, refs[key.name])

            keys = read_all(server, options, sink, keep=keep, take=take)
            version = server.facts["redis_version"]
        warnings = []
        if parse_duration(options.hold) and time.monotonic() > self._held_until:
            text = (
                f"The writers of {c.name} were not held to the end ({options.hold}): keys may be of different moments."
            )
            warnings.append(text)
        return Capture(
            component=c.name,
            kind=self.kind,
            fingerprint=fingerprint_of(keys),
            parts=store_parts(sink, keys, refs),
            entries=len(keys),
            size=sum(key.size for key in keys.values()),
            warnings=tuple(warnings),
            meta={"format": FORMAT, "redis": version},
        )

    def fingerprint(self, c: Component, *, rehash: bool) -> Fingerprint:
        with connected(c) as server:
            return fingerprint_of(read_all(server, options_of(c), None))

    def restore(self, c: Component, source: BlobSource, want: Capture) -> Restored:
        options = options_of(c)
        with connected(c, source, alone=True) as server:
            live = read_all(server, options, source)
            changed = converge(server, source, live, captured(source, want), c.work)
            if options.persist:
                persist(server, source)
        return Restored(changed)

    # — writers —

    def quiesce(self, c: Component) -> None:
        seconds = parse_duration(options_of(c).hold)
        if seconds:
            with connected(c) as server:
                self._held_until = time.monotonic() + seconds
                server.ask("CLIENT", "PAUSE", int(seconds * 1000), "WRITE")

    def resume(self, c: Component) -> None:
        self._held_until = 0.0
        if not parse_duration(options_of(c).hold):
            return
        try:
            with connected(c) as server:
                server.ask("CLIENT", "UNPAUSE")
        except RollbackError as error:
            # A server that is gone holds nobody, and one that cannot be reached lets go by itself.
            if not isinstance(error.__cause__, LostError):
                raise

    # — around a restore —

    def owns(self, c: Component) -> tuple[str, ...]:
        return tuple(os.path.normpath(os.path.join(c.home, path)) for path in options_of(c).files)

    def stage(self, c: Component, source: BlobSource, want: Capture) -> None:
        """Prepares nothing, as values go straight from the store to the server; but what would fail, fails here."""
        with connected(c, source) as server:
            if version_of(want.meta["redis"]) > server.version:
                then, now = want.meta["redis"], server.facts["redis_version"]
                raise UsageError("redis.older", component=c.name, where=server.where, then=then, now=now)

    def verify(self, c: Component, source: BlobSource, want: Capture) -> list[Change]:
        with connected(c, source) as server:
            live = read_all(server, options_of(c), source)
            now = server_time(server)
        wanted = {key.name: key for key, _ in captured(source, want)}
        return list(_compared(c, source, wanted, live, now))

    # — saying —

    def examine(self, c: Component) -> Iterator[Finding]:
        options = options_of(c)
        try:
            with connected(c) as server:
                memory, lasting = server.info("memory"), server.info("persistence")
                if parse_duration(options.hold):
                    server.ask("CLIENT", "PAUSE", 1, "WRITE")  # a millisecond, to see whether it is allowed
        except RollbackError as error:
            yield Finding("error", str(error), error.hint)
            return
        policy = memory.get("maxmemory_policy", "")
        if policy in EVICTING:
            text = f"Redis of {c.name} may evict keys ({policy}, maxmemory {memory.get('maxmemory_human', '?')})."
            yield Finding("warning", text, "Keys that it evicts look as if somebody had removed them.")
        if lasting.get("rdb_last_bgsave_status") == "err" or lasting.get("aof_last_write_status") == "err":
            yield Finding("error", f"Redis of {c.name} could not save its data.", "Look at the server's log.")

    def changes(self, c: Component, source: BlobSource, a: Capture, b: Capture | None) -> Iterator[Change]:
        before = {key.name: key for key, _ in captured(source, a)}
        if b is not None:
            after = {key.name: key for key, _ in captured(source, b)}
            yield from _compared(c, source, before, after, now=0)
            return
        with connected(c, source) as server:
            after = read_all(server, options_of(c), source)
            now = server_time(server)
        yield from _compared(c, source, before, after, now)

    def losses(self, c: Component, source: BlobSource, want: Capture, changes: Sequence[Change]) -> Iterator[Loss]:
        for kind, what in ((ChangeKind.ADDED, "new keys"), (ChangeKind.CHANGED, "keys changed since")):
            names = [change.key for change in changes if change.kind is kind]
            if names:
                yield Loss(c.name, what, len(names), examples(names))


def _compared(c: Component, source: BlobSource, before: Live, after: Live, now: int) -> Iterator[Change]:
    """Yield what differs. What would have expired by `now` (milliseconds) anyway and is gone does not differ."""
    found = []
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old is not None and new is None and NEVER < old.expires <= now:
            continue
        if old is None or new is None or not old.same_value(new) or old.expires != new.expires:
            kind = ChangeKind.ADDED if old is None else ChangeKind.REMOVED if new is None else ChangeKind.CHANGED
            found.append(Change(c.name, kind, shown_name(name), _ref(source, old), _ref(source, new)))
    yield from sorted(found, key=lambda change: change.key)


def _ref(source: BlobSource, key: Key | None) -> Ref | None:
    if key is None:
        return None
    # By the store's keyed ids: from a plain digest a short secret could be guessed.
    identity = source.identify(f"{key.kind} {key.expires} ".encode() + key.digest).hex()
    until = "" if key.expires == NEVER else f", until {_time(key.expires)}"
    return Ref(identity, key.size, key.label + until)


def _time(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(milliseconds / 1000))
