"""What is known of a key, how that is written into a manifest, and what of it may be shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from zlib import crc32

import msgspec

from rfs.plugin import MASK, BlobSink, BlobSource, Capture, Fingerprint, IntegrityError, is_secret_name, is_secret_value

FORMAT = 1
SHOWN = 60
NEVER = -1
_ABOUT_KEYS_IN_A_PART = 512
_TOKEN = re.compile(r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}")


class Key(msgspec.Struct, frozen=True, array_like=True):
    """A key as it was seen. Fields are only ever added, at the end, with a default.

    Attributes:
        kind: its type, as TYPE says.
        expires: when, in milliseconds since 1970; NEVER.
        digest: of what it means: equal for equal values, however the server stores them.
        size: bytes of its content.
        label: a few words, fit for any eye.
        pieces: how many blobs its DUMP was cut into.
    """

    name: bytes
    kind: str
    expires: int
    digest: bytes
    size: int
    label: str
    pieces: int = 0

    def same_value(self, other: Key) -> bool:
        return (self.kind, self.digest) == (other.kind, other.digest)


Live = dict[bytes, Key]


def fingerprint_of(keys: Mapping[bytes, Key]) -> Fingerprint:
    """Return the identity of a set of keys with their values and times of expiry."""
    whole = blake2b(digest_size=32)
    for name in sorted(keys):
        key = keys[name]
        head = f"{len(name)} {key.kind} {key.expires} {len(key.digest)} ".encode()
        whole.update(head + name + key.digest)
    return Fingerprint(whole.hexdigest(), len(keys), sum(key.size for key in keys.values()))


def store_parts(sink: BlobSink, keys: Mapping[bytes, Key], refs: Mapping[bytes, Sequence[bytes]]) -> tuple[bytes, ...]:
    """Write the manifest: keys in order, in parts whose borders go by the keys' names.

    So that a key that is added changes one part, and not all that follow.
    """
    parts: list[bytes] = []
    group: list[Key] = []
    for name in sorted(keys):
        group.append(msgspec.structs.replace(keys[name], pieces=len(refs[name])))
        if crc32(name) % _ABOUT_KEYS_IN_A_PART == 0:
            parts.append(_store_part(sink, group, refs))
            group = []
    # Also when it is empty: a capture of no keys has a manifest, too.
    return (*parts, _store_part(sink, group, refs))


def _store_part(sink: BlobSink, group: Sequence[Key], refs: Mapping[bytes, Sequence[bytes]]) -> bytes:
    return sink.put_part([ref for key in group for ref in refs[key.name]], msgspec.msgpack.encode(group))


def captured(source: BlobSource, capture: Capture) -> Iterator[tuple[Key, list[bytes]]]:
    """Yield the keys of a capture in order, each with the ids of the blobs that hold its DUMP.

    Raises:
        IntegrityError: a newer release of this driver made it, or a part is missing or damaged.
    """
    if capture.meta["format"] > FORMAT:
        raise IntegrityError("capture.newer", component=capture.component, found=capture.meta["format"], known=FORMAT)
    for part in capture.parts:
        refs, body = source.get_part(part)
        at = 0
        for key in msgspec.msgpack.decode(body, type=list[Key]):
            yield key, refs[at : at + key.pieces]
            at += key.pieces


# — what may be shown —


def shown_name(name: bytes) -> str:
    """Return a key's name for any eye: what may be somebody's session in it is masked, yet two stay two."""
    text = name.decode("utf-8", "backslashreplace")
    return _TOKEN.sub(lambda found: MASK + blake2b(found[0].encode(), digest_size=3).hexdigest(), text)


def label_of(name: bytes, data: bytes) -> str:
    """Return the value of a short string, or how long it is; MASK when the key's name or the value looks secret."""
    text = data.decode("utf-8", "replace")
    if is_secret_name(name.decode("utf-8", "replace")) or is_secret_value(text):
        return MASK
    if len(data) <= SHOWN and text.isprintable():
        return text
    return f"{len(data):,} bytes"


def examples(names: Iterable[str], most: int = 3) -> tuple[str, ...]:
    return tuple(name for name, _ in zip(names, range(most), strict=False))
