"""What the last look found, kept in the component's private folder: a cache, never the truth.

A damaged, foreign or missing file is no index at all: then everything is read again.
"""

from __future__ import annotations

import contextlib
import os

import msgspec
from blake3 import blake3

from rfs.production.rollback.drivers.files.tree import DIGEST, Block

_NAME = "files.index"
_MAGIC = b"rfs files index 4\n"
# Half of an index is digests, which no level makes smaller; the rest is small at the quickest one.
_LEVEL = -1
# A small one stands as it is: to load what would decompress it takes longer than to read it.
_SMALL = 64 << 10
_COMPRESSED = b"\x28\xb5\x2f\xfd"


class Index(msgspec.Struct, array_like=True):
    """An earlier look.

    Attributes:
        rules: identity of the rules it was made with.
        blocks: by the bytes of each folder's path.
        parts: ids of the manifest parts; `Block.part` counts in this list.
        sizes: how many blocks each part holds.
    """

    rules: str
    blocks: dict[bytes, Block]
    parts: list[bytes] = []
    sizes: list[int] = []


def load(work: str) -> Index | None:
    """Return the index kept in a component's private folder, or None when there is none to trust."""
    try:
        with open(os.path.join(work, _NAME), "rb") as file:
            data = file.read()
    except OSError:
        return None
    at = len(_MAGIC) + DIGEST
    body = memoryview(data)[at:]
    if data[: len(_MAGIC)] != _MAGIC or blake3(body).digest() != data[len(_MAGIC) : at]:
        return None
    try:
        return msgspec.msgpack.decode(_plain(body), type=Index)
    except msgspec.DecodeError:  # another release's
        return None


def _plain(body: memoryview) -> bytes | memoryview:
    if body[: len(_COMPRESSED)] != _COMPRESSED:
        return body
    from zstandard import ZstdDecompressor, ZstdError

    try:
        return ZstdDecompressor().decompress(body)
    except ZstdError:
        return b""


def save(work: str, index: Index) -> None:
    """Keep an index; a crash leaves the old one, a damaged one or the new one, and all three are fine.

    Errors are swallowed on purpose: without an index the next look is slower, not wrong.
    """
    body = msgspec.msgpack.encode(index)
    if len(body) > _SMALL:
        from zstandard import ZstdCompressor

        body = ZstdCompressor(level=_LEVEL).compress(body)
    temporary = os.path.join(work, _NAME + ".new")
    with contextlib.suppress(OSError):
        os.makedirs(work, mode=0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(_MAGIC + blake3(body).digest())
            file.write(body)
        os.rename(temporary, os.path.join(work, _NAME))
