"""Reads keys: what each means, whatever way the server stores it, and its DUMP, both of one moment.

DUMP is what RESTORE takes, but it is no identity: the members of a large set come in an order that goes by
the server's history, and after RESTORE in another one. So the value itself is read, and put in order.

A group of keys is read while it is watched. If one was changed meanwhile, EXEC says so, and the group is
read again: a value is never half old and half new, whatever the writers do and however many requests it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any

from rfs.plugin import Pulse
from rfs_redis.keys import Key, Live, label_of, shown_name
from rfs_redis.options import RedisOptions
from rfs_redis.resp import Reply, Word
from rfs_redis.server import Server

GROUP = 100
CHUNK = 256 << 10
ELEMENTS = 1000
LARGEST = 512 << 20
_TRIES = 10
_TOGETHER = 32 << 20

Commands = Sequence[Sequence[Word]]
Look = Generator[Commands, list[Reply], tuple[bytes, int, str]]
"""Yields the commands it needs, is sent their replies, and returns (digest, size, label)."""

Keep = Callable[[Key], bool]
"""Tells whether a key's DUMP is wanted."""
Take = Callable[[Key, int, Iterator[bytes]], None]
"""Is given the DUMP of a key: its size, and its pieces, all of which must be taken."""


def read_all(
    server: Server, options: RedisOptions, pulse: Pulse | None, *, keep: Keep | None = None, take: Take | None = None
) -> Live:
    """Return every key of the component; what `keep` wants is handed to `take`.

    Raises:
        RollbackError: a key kept changing, or could not be restored: it is too large, or of a module's type.
    """
    reader = _Reader(server, pulse, keep, take)
    found: Live = {}
    for names in _pages(server, options):
        for at in range(0, len(names), GROUP):
            found.update({key.name: key for key in reader.read(names[at : at + GROUP])})
    return found


def server_time(server: Server) -> int:
    """Return the server's clock, by which keys expire, in milliseconds since 1970."""
    seconds, micros = server.ask("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def _pages(server: Server, options: RedisOptions) -> Iterator[list[bytes]]:
    prefix, cursor = options.prefix.encode(), b"0"
    patterns = [pattern.encode() for pattern in options.exclude]
    match = [b"MATCH", _escaped(prefix) + b"*"] if prefix else []
    while True:
        cursor, names = server.ask("SCAN", cursor, *match, "COUNT", ELEMENTS)
        # SCAN may tell a key twice; read twice, it is the same key.
        yield [name for name in dict.fromkeys(names) if not any(fnmatchcase(name, each) for each in patterns)]
        if cursor == b"0":
            return


def _escaped(prefix: bytes) -> bytes:
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]^\\" else bytes([byte]) for byte in prefix)


class _Reader:
    def __init__(self, server: Server, pulse: Pulse | None, keep: Keep | None, take: Take | None) -> None:
        self._server = server
        self._pulse = pulse
        self._keep = keep
        self._take = take
        # Since Redis 7.4 and Valkey 9 the fields of a hash may expire, too.
        (self._fields_expire,) = (bool(each) for each in server.ask("COMMAND", "INFO", "HPEXPIRETIME"))

    def read(self, names: Sequence[bytes], tries: int = _TRIES) -> Iterator[Key]:
        """Yield what is there of a few keys, each group as it was at one moment."""
        keys = self._watched(names)
        wanted = [key for key in keys if self._keep is not None and self._keep(key)]
        too_much = len(names) > 1 and sum(key.size for key in wanted) > _TOGETHER
        if not too_much and self._unchanged(wanted):
            if self._pulse is not None:
                self._pulse.tick(len(keys), sum(key.size for key in keys))
            yield from keys
            return
        if too_much:
            self._server.ask("UNWATCH")
        if len(names) > 1:
            half = len(names) // 2
            yield from self.read(names[:half])
            yield from self.read(names[half:])
        elif tries:
            yield from self.read(names, tries - 1)
        else:
            raise self._server.error("redis.changing", name=shown_name(names[0]))

    def _watched(self, names: Sequence[bytes]) -> list[Key]:
        heads = [command for name in names for command in (("TYPE", name), ("PEXPIRETIME", name))]
        _, *facts = self._server.ask_all([("WATCH", *names), *heads])
        looks: dict[bytes, Look] = {}
        about: dict[bytes, tuple[str, int]] = {}
        for name, kind, expires in zip(names, facts[::2], facts[1::2], strict=True):
            if kind != b"none":
                about[name] = (kind.decode(), expires)
                looks[name] = self._look(kind.decode(), name)
        seen = self._run(looks)
        return [Key(name, kind, expires, *seen[name]) for name, (kind, expires) in about.items()]

    def _run(self, looks: dict[bytes, Look]) -> dict[bytes, tuple[bytes, int, str]]:
        """Let all keys be looked at side by side: what they ask for goes out together."""
        found: dict[bytes, tuple[bytes, int, str]] = {}
        asked = {name: next(look) for name, look in looks.items()}
        while asked:
            replies = iter(self._server.ask_all([command for commands in asked.values() for command in commands]))
            further: dict[bytes, Commands] = {}
            for name, commands in asked.items():
                try:
                    further[name] = looks[name].send([next(replies) for _ in commands])
                except StopIteration as end:
                    found[name] = end.value
            asked = further
        return found

    def _unchanged(self, wanted: Sequence[Key]) -> bool:
        """Take the DUMPs that are wanted; tell whether all is as it was when the watch began."""
        server = self._server
        server.send("MULTI")
        for key in wanted:
            server.send("DUMP", key.name)
        server.send("EXEC")
        for _ in range(1 + len(wanted)):
            server.right()
        if server.size() < 0:
            return False
        there = True
        for key in wanted:
            size = server.size()
            if size < 0:
                there = False
                continue
            if size > LARGEST:
                raise server.error("redis.large", name=shown_name(key.name), size=f"{size / 1e6:.0f}")
            assert self._take is not None
            self._take(key, size, server.pieces(size))
        return there

    # — what a key means —

    def _look(self, kind: str, name: bytes) -> Look:
        if kind == "hash":
            return _unordered(("HSCAN", name), 2, "hash of {} fields", fields_expire=self._fields_expire)
        if kind not in _LOOKS:
            # Only its module knows what such a value means, and its DUMP may be another one after RESTORE.
            raise self._server.error("redis.type", name=shown_name(name), type=kind)
        return _LOOKS[kind](name)


def _string(name: bytes) -> Look:
    whole, size, first = blake2b(digest_size=32), 0, b""
    while True:
        (piece,) = yield [("GETRANGE", name, size, size + CHUNK - 1)]
        whole.update(piece)
        first, size = first or piece, size + len(piece)
        if len(piece) < CHUNK:
            label = label_of(name, first) if size < CHUNK else f"{size:,} bytes"
            return whole.digest(), size, label


def _sequence(command: tuple[Word, ...], after: tuple[Word, ...], label: str) -> Look:
    whole, size, at, width = blake2b(digest_size=32), 0, 0, 1 + len(after)
    while True:
        (items,) = yield [(*command, at, at + ELEMENTS - 1, *after)]
        at += len(items) // width
        size += _feed(whole, items)
        if len(items) < ELEMENTS * width:
            return whole.digest(), size, label.format(at)


def _unordered(command: tuple[Word, ...], width: int, label: str, *, fields_expire: bool = False) -> Look:
    # SSCAN and HSCAN come in any order, and may tell one twice.
    members: dict[bytes, int] = {}
    cursor: Word = b"0"
    while True:
        ((cursor, items),) = yield [(*command, cursor, "COUNT", ELEMENTS)]
        rows = [items[at : at + width] for at in range(0, len(items), width)]
        ends: list[Any] = [-1] * len(rows)
        if fields_expire and rows:
            (ends,) = yield [("HPEXPIRETIME", command[1], "FIELDS", len(rows), *(row[0] for row in rows))]
        for row, end in zip(rows, ends, strict=True):
            member = blake2b(digest_size=32)
            size = _feed(member, row if end == -1 else [*row, b"%d" % end])
            members[member.digest()] = size
        if cursor == b"0":
            whole = blake2b(b"".join(sorted(members)), digest_size=32)
            return whole.digest(), sum(members.values()), label.format(len(members))


def _stream(name: bytes) -> Look:
    """A stream with its groups, their consumers, and what each has not acknowledged.

    When a consumer was last seen is no part of it: looking would change it.
    """
    whole, size, count, start = blake2b(digest_size=32), 0, 0, b"-"
    while True:
        (entries,) = yield [("XRANGE", name, start, "+", "COUNT", ELEMENTS)]
        for number, values in entries:
            size += _feed(whole, [len(values), number, *values])
            start = b"(" + number
        count += len(entries)
        if len(entries) < ELEMENTS:
            break
    about, groups = yield [("XINFO", "STREAM", name), ("XINFO", "GROUPS", name)]
    facts = _facts(about)
    _feed(whole, [facts[word] for word in (b"last-generated-id", b"max-deleted-entry-id", b"entries-added")])
    for group in sorted(map(_facts, groups), key=lambda each: bytes(each[b"name"])):
        (consumers,) = yield [("XINFO", "CONSUMERS", name, group[b"name"])]
        _feed(whole, [group[b"name"], group[b"last-delivered-id"], group[b"entries-read"]])
        _feed(whole, [len(consumers), *sorted(_facts(each)[b"name"] for each in consumers)])
        start, left = b"-", 0
        while True:
            (pending,) = yield [("XPENDING", name, group[b"name"], start, "+", ELEMENTS)]
            for number, consumer, _, delivered in pending:
                _feed(whole, [number, consumer, delivered])
                start = b"(" + number
            left += len(pending)
            if len(pending) < ELEMENTS:
                _feed(whole, [left])
                break
    return whole.digest(), size, f"stream of {count} entries"


_LOOKS: dict[str, Callable[[bytes], Look]] = {
    "string": _string,
    "list": lambda name: _sequence(("LRANGE", name), (), "list of {} entries"),
    "zset": lambda name: _sequence(("ZRANGE", name), ("WITHSCORES",), "sorted set of {} members"),
    "set": lambda name: _unordered(("SSCAN", name), 1, "set of {} members"),
    "stream": _stream,
}


def _facts(flat: Sequence[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _feed(whole: blake2b, items: Iterable[Any]) -> int:
    """Add words to a digest, each with its length, so that no two rows look alike; return their bytes.

    What was read together leaves no trace in it: a later release may read more or less at a time.
    """
    size = 0
    for item in items:
        word = item if isinstance(item, bytes) else str(item).encode()
        whole.update(b"%d:%b" % (len(word), word))
        size += len(word)
    return size
