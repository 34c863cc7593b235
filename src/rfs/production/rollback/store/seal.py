"""Names and sealing of blobs: BLAKE3 ids, zstd, AES-256-GCM. No files, no state on disk.

What goes into packs is sealed in frames: small blobs are compressed and encrypted together, which takes
less time and space. What proves a blob is its keyed id, within a frame too.

A `Sealer` may be used from several threads, and in a child forked after `unlock`.
"""

from __future__ import annotations

import enum
import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rfs.production.rollback.store.keys import FORMAT, NONCE_SIZE, PACK_FORMAT, derive

if TYPE_CHECKING:
    from blake3 import blake3
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from zstandard import ZstdCompressor, ZstdDecompressor

Data: TypeAlias = bytes | bytearray | memoryview

BLOB_ID_SIZE = 32
# One msgpack or zstd call of more would hold several copies in memory; drivers cut at a few MiB.
LARGEST_BLOB = 1 << 30
# Smaller blobs are sealed together until they are this much, in bytes. Larger frames would hardly win more,
# and who wants one blob of a frame has to open all of it.
FRAME_SIZE = 16 << 10
_LEVEL = 1
# For what is hardly longer than a frame of small blobs: with a table of this size (as a power of two) zstd takes a
# tenth less time, and the result is longer by 1.5 %. Larger contents would lose a tenth by it.
_SHORT = 2 * FRAME_SIZE
_SHORT_TABLE = 12
_RAW, _ZSTD = b"\x00", b"\x01"
_COUNT = struct.Struct("<I")
_RECORD = struct.Struct("<QB")


class Type(enum.IntEnum):
    """What a sealed piece is. Part of its authenticated data and of its id: no type passes for another."""

    BLOB = 0
    PART = 1
    RECORD = 2


# What of the authenticated data is the same for all blobs of a type: of those sealed alone, then of frames.
_CONTEXTS = tuple(struct.pack("<8sIB", b"rfs blob", FORMAT, kind) for kind in Type)
_FRAMES = tuple(struct.pack("<8sIB", b"rfs blob", PACK_FORMAT, kind) for kind in Type)


def split_ids(ids: bytes) -> list[bytes]:
    """Return ids that lie one directly after the other one by one."""
    return [ids[at : at + BLOB_ID_SIZE] for at in range(0, len(ids), BLOB_ID_SIZE)]


class Sealed(NamedTuple):
    """Sealed frames of one type, one directly after the other, as they will lie in a pack.

    Attributes:
        ids: of the blobs, 32 bytes each.
        sizes: of the content of each blob, bytes.
        counts: how many blobs each frame holds, one after the other.
        lengths: of each frame as sealed, bytes.
        data: all frames.
    """

    ids: bytes
    sizes: list[int]
    counts: list[int]
    lengths: list[int]
    data: bytes

    def blobs(self) -> list[bytes]:
        """Return the ids one by one."""
        return split_ids(self.ids)

    def frames(self) -> Iterator[Sealed]:
        """Yield the frames one by one."""
        firsts, starts = accumulate(self.counts, initial=0), accumulate(self.lengths, initial=0)
        for first, count, start, length in zip(firsts, self.counts, starts, self.lengths, strict=False):
            last = first + count
            ids = self.ids[first * BLOB_ID_SIZE : last * BLOB_ID_SIZE]
            yield Sealed(ids, self.sizes[first:last], [count], [length], self.data[start : start + length])


NOT_ITS_OWN = "its content is not what its id says"


class DamagedError(Exception):
    """Sealed bytes do not open, or do not open to what their id says. Never leaves the store."""


class _Codec(threading.local):
    """Contexts of zstd serve one thread at a time."""

    def __init__(self) -> None:
        from zstandard import ZstdCompressionParameters, ZstdCompressor, ZstdDecompressor, ZstdError

        short = ZstdCompressionParameters.from_level(_LEVEL, hash_log=_SHORT_TABLE, chain_log=_SHORT_TABLE)
        self.error = ZstdError
        self.compressor: ZstdCompressor = ZstdCompressor(level=_LEVEL)
        self.short: ZstdCompressor = ZstdCompressor(compression_params=short)
        self.decompressor: ZstdDecompressor = ZstdDecompressor()


class Sealer:
    """Seals and opens with the keys of one repository.

    Args:
        unwrap: returns the repository key; called once, when a key is first needed.
    """

    def __init__(self, unwrap: Callable[[], bytes]) -> None:
        self._unwrap = unwrap
        self._lock = threading.Lock()
        self._id_keys: tuple[bytes, ...] = ()
        # Set by `unlock`, with what would cost too much to import again at each call.
        self._blake3: type[blake3]
        self._invalid: tuple[type[Exception], ...]
        self._blobs: AESGCM
        self._footers: AESGCM
        self._codec: _Codec

    def unlock(self) -> None:
        """Get the keys; what is already there is kept.

        Raises:
            UsageError: the key file is missing, open to others or not the right one.
        """
        if self._id_keys:
            return
        with self._lock:
            if self._id_keys:
                return
            from blake3 import blake3
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._blake3 = blake3
            # ValueError: too short to hold a nonce and a tag.
            self._invalid = (InvalidTag, ValueError)
            key = self._unwrap()
            self._blobs = AESGCM(derive("rfs-rollback store 1: encryption of blobs", key))
            self._footers = AESGCM(derive("rfs-rollback store 1: encryption of footers", key))
            self._codec = _Codec()
            # Set last: it is what says that all keys are there.
            self._id_keys = tuple(derive(f"rfs-rollback store 1: id of a {kind.name.lower()}", key) for kind in Type)

    def identify(self, data: Data, kind: Type = Type.BLOB) -> bytes:
        """Return the id of `data`: 32 bytes of BLAKE3, keyed by the repository and the type."""
        if not self._id_keys:
            self.unlock()
        return self._blake3(data, key=self._id_keys[kind]).digest()

    def identify_all(self, contents: Sequence[Data]) -> list[bytes]:
        """Return the ids of blobs."""
        if not self._id_keys:
            self.unlock()
        key, blake3 = self._id_keys[Type.BLOB], self._blake3
        return [blake3(data, key=key).digest() for data in contents]

    def seal(self, contents: Mapping[bytes, Data], kind: Type = Type.BLOB) -> Sealed:
        """Return contents compressed and encrypted, small blobs together in frames.

        Args:
            contents: by id.

        Raises:
            ValueError: one is larger than 1 GiB.
        """
        if not self._id_keys:
            self.unlock()
        sizes = [len(data) for data in contents.values()]
        _refuse_huge(sizes)
        # Parts and records are asked for alone, and a record that is not kept any more must not lie beside one that is.
        counts = _grouped(sizes) if kind is Type.BLOB else [1] * len(sizes)
        encrypt, packed, context = self._blobs.encrypt, self._packed, _FRAMES[kind]
        nonces = os.urandom(NONCE_SIZE * len(counts))
        waiting = list(contents.values())
        pieces: list[bytes] = []
        first = 0
        for at, count in enumerate(counts):
            data = waiting[first] if count == 1 else b"".join(waiting[first : first + count])
            nonce = nonces[at * NONCE_SIZE : (at + 1) * NONCE_SIZE]
            pieces += (nonce, encrypt(nonce, packed(data), context))
            first += count
        lengths = [NONCE_SIZE + len(piece) for piece in pieces[1::2]]
        return Sealed(b"".join(contents), sizes, counts, lengths, b"".join(pieces))

    def open_frame(self, sealed: Data, kind: Type) -> bytes:
        """Return what the blobs of a frame hold, one directly after the other; they are to be told by `is_of`.

        Raises:
            DamagedError: a bit differs, or it is not of this type.
        """
        if not self._id_keys:
            self.unlock()
        return self._unpacked(self._decrypted(self._blobs, sealed, _FRAMES[kind]))

    def is_of(self, data: Data, blob: bytes, kind: Type) -> bool:
        """Tell whether this is the content of a blob."""
        return self.identify(data, kind) == blob

    def seal_alone(self, data: Data, blob: bytes) -> bytes:
        """Return one blob compressed and encrypted, bound to its id, for what keeps it elsewhere than in packs.

        Raises:
            ValueError: it is larger than 1 GiB.
        """
        if not self._id_keys:
            self.unlock()
        _refuse_huge([len(data)])
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._blobs.encrypt(nonce, self._packed(data), _CONTEXTS[Type.BLOB] + blob)

    def open_alone(self, sealed: Data, blob: bytes, kind: Type = Type.BLOB) -> bytes:
        """Return what `seal_alone` was given, or a blob of a pack of format 1.

        Raises:
            DamagedError: a bit differs, or it is not of this id and type.
        """
        if not self._id_keys:
            self.unlock()
        data = self._unpacked(self._decrypted(self._blobs, sealed, _CONTEXTS[kind] + blob))
        if not self.is_of(data, blob, kind):
            raise DamagedError(NOT_ITS_OWN)
        return data

    def seal_footer(self, data: bytes, header: bytes) -> bytes:
        """Return a pack's index, compressed and encrypted, bound to the pack's header."""
        self.unlock()
        nonce = os.urandom(NONCE_SIZE)
        return nonce + self._footers.encrypt(nonce, self._packed(data), header)

    def open_footer(self, sealed: Data, header: bytes) -> bytes:
        """Return what `seal_footer` was given.

        Raises:
            DamagedError: a bit of it or of the header differs.
        """
        self.unlock()
        return self._unpacked(self._decrypted(self._footers, sealed, header))

    def _packed(self, data: Data) -> bytes:
        codec = self._codec
        small = (codec.short if len(data) <= _SHORT else codec.compressor).compress(data)
        return _ZSTD + small if len(small) < len(data) else b"".join((_RAW, data))

    def _decrypted(self, cipher: AESGCM, sealed: Data, context: bytes) -> bytes:
        try:
            return cipher.decrypt(sealed[:NONCE_SIZE], memoryview(sealed)[NONCE_SIZE:], context)
        except self._invalid as error:
            raise DamagedError("it is not what was sealed") from error

    def _unpacked(self, packed: bytes) -> bytes:
        compression = packed[:1]
        if compression == _RAW:
            return packed[1:]
        if compression != _ZSTD:
            raise DamagedError("it is compressed in a way that is not known")
        codec = self._codec
        try:
            return codec.decompressor.decompress(memoryview(packed)[1:])
        except codec.error as error:
            raise DamagedError("it does not decompress") from error


def _refuse_huge(sizes: list[int]) -> None:
    if sizes and max(sizes) > LARGEST_BLOB:
        message = f"a blob of {max(sizes)} bytes: cut it into smaller ones"
        raise ValueError(message)


def _grouped(sizes: list[int]) -> list[int]:
    """Return how many blobs of these sizes, in their order, each frame is to hold."""
    counts: list[int] = []
    count = filled = 0
    for size in sizes:
        if size >= FRAME_SIZE and count:
            counts.append(count)  # what is large is not put behind what is small
            count = filled = 0
        count += 1
        filled += size
        if filled >= FRAME_SIZE:
            counts.append(count)
            count = filled = 0
    if count:
        counts.append(count)
    return counts


# — manifest parts and records, as they are inside their seals —


def encode_part(refs: Sequence[bytes], body: bytes) -> bytes:
    """Return a manifest part as one string of bytes."""
    if not set(map(len, refs)) <= {BLOB_ID_SIZE}:
        raise ValueError("a ref is not the id of a blob")
    return b"".join((_COUNT.pack(len(refs)), *refs, body))


def decode_part(data: bytes) -> tuple[list[bytes], bytes]:
    """Return (refs, body) as `encode_part` was given them.

    Raises:
        DamagedError: it is too short.
    """
    if len(data) < _COUNT.size:
        raise DamagedError("it is shorter than a manifest part")
    end = _COUNT.size + BLOB_ID_SIZE * _COUNT.unpack_from(data)[0]
    if end > len(data):
        raise DamagedError("it is shorter than its list of blobs")
    return [data[at : at + BLOB_ID_SIZE] for at in range(_COUNT.size, end, BLOB_ID_SIZE)], data[end:]


def encode_record(kind: str, body: bytes, stamp: int) -> bytes:
    """Return a record as one string of bytes; `stamp` grows from record to record."""
    name = kind.encode()
    return b"".join((_RECORD.pack(stamp, len(name)), name, body))


def decode_record(data: bytes) -> tuple[int, str, bytes]:
    """Return (stamp, kind, body).

    Raises:
        DamagedError: it is too short.
    """
    try:
        stamp, length = _RECORD.unpack_from(data)
        start = _RECORD.size + length
        kind = data[_RECORD.size : start].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise DamagedError("it is not a record") from error
    if start > len(data):
        raise DamagedError("it is shorter than its name")
    return stamp, kind, data[start:]
