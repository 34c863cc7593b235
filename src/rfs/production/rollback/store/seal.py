"""Names and sealing of blobs: BLAKE3 ids, zstd, AES-256-GCM. No files, no state on disk.

A `Sealer` may be used from several threads, and in a child forked after `unlock`.
"""

from __future__ import annotations

import enum
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rfs.production.rollback.store.keys import FORMAT, NONCE_SIZE, derive

if TYPE_CHECKING:
    from blake3 import blake3
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from zstandard import ZstdCompressor, ZstdDecompressor

Data: TypeAlias = bytes | bytearray | memoryview

BLOB_ID_SIZE = 32
# One msgpack or zstd call of more would hold several copies in memory; drivers cut at a few MiB.
LARGEST_BLOB = 1 << 30
_LEVEL = 1
_RAW, _ZSTD = b"\x00", b"\x01"
_COUNT = struct.Struct("<I")
_RECORD = struct.Struct("<QB")


class Type(enum.IntEnum):
    """What a sealed piece is. Part of its authenticated data and of its id: no type passes for another."""

    BLOB = 0
    PART = 1
    RECORD = 2


# What of the authenticated data is the same for all blobs of a type.
_CONTEXTS = tuple(struct.pack("<8sIB", b"rfs blob", FORMAT, kind) for kind in Type)


def split_ids(ids: bytes) -> list[bytes]:
    """Return ids that lie one directly after the other one by one."""
    return [ids[at : at + BLOB_ID_SIZE] for at in range(0, len(ids), BLOB_ID_SIZE)]


class Sealed(NamedTuple):
    """Sealed blobs of one type, one directly after the other, as they will lie in a pack.

    Attributes:
        ids: 32 bytes each.
        lengths: of each as sealed, bytes.
        sizes: of the content of each, bytes.
        data: all of them.
    """

    ids: bytes
    lengths: list[int]
    sizes: list[int]
    data: bytes

    def blobs(self) -> list[bytes]:
        """Return the ids one by one."""
        return split_ids(self.ids)

    def only(self, wanted: set[bytes]) -> Sealed:
        """Return those of them whose ids are wanted."""
        blobs, starts = self.blobs(), accumulate(self.lengths, initial=0)
        left = [
            (blob, length, size, self.data[start : start + length])
            for blob, length, size, start in zip(blobs, self.lengths, self.sizes, starts, strict=False)
            if blob in wanted
        ]
        return Sealed(
            b"".join([blob for blob, _, _, _ in left]),
            [length for _, length, _, _ in left],
            [size for _, _, size, _ in left],
            b"".join([data for _, _, _, data in left]),
        )


class DamagedError(Exception):
    """Sealed bytes do not open, or do not open to what their id says. Never leaves the store."""


class _Codec(threading.local):
    """Contexts of zstd serve one thread at a time."""

    def __init__(self) -> None:
        from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError

        self.error = ZstdError
        self.compressor: ZstdCompressor = ZstdCompressor(level=_LEVEL)
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

    def seal(self, contents: Mapping[bytes, Data], kind: Type = Type.BLOB) -> Sealed:
        """Return contents compressed and encrypted.

        Args:
            contents: by id.

        Raises:
            ValueError: one is larger than 1 GiB.
        """
        if not self._id_keys:
            self.unlock()
        compress, encrypt = self._codec.compressor.compress, self._blobs.encrypt
        context = _CONTEXTS[kind]
        sizes = [len(data) for data in contents.values()]
        if sizes and max(sizes) > LARGEST_BLOB:
            message = f"a blob of {max(sizes)} bytes: cut it into smaller ones"
            raise ValueError(message)
        nonces = os.urandom(NONCE_SIZE * len(contents))
        pieces: list[bytes] = []
        for at, (blob, data) in enumerate(contents.items()):
            small = compress(data)
            packed = _ZSTD + small if len(small) < len(data) else _RAW + bytes(data)
            nonce = nonces[at * NONCE_SIZE : (at + 1) * NONCE_SIZE]
            pieces += (nonce, encrypt(nonce, packed, context + blob))
        lengths = [NONCE_SIZE + len(piece) for piece in pieces[1::2]]
        return Sealed(b"".join(contents), lengths, sizes, b"".join(pieces))

    def open(self, sealed: Data, blob: bytes, kind: Type = Type.BLOB) -> bytes:
        """Return what `seal` was given.

        Raises:
            DamagedError: a bit differs, or it is not of this id and type.
        """
        if not self._id_keys:
            self.unlock()
        data = self._unpacked(self._decrypted(self._blobs, sealed, _CONTEXTS[kind] + blob))
        if self._blake3(data, key=self._id_keys[kind]).digest() != blob:
            raise DamagedError("its content is not what its id says")
        return data

    def authentic(self, sealed: Data, blob: bytes, kind: Type) -> bool:
        """Tell whether `sealed` is, to the bit, what was sealed under this id."""
        self.unlock()
        try:
            self._decrypted(self._blobs, sealed, _CONTEXTS[kind] + blob)
        except DamagedError:
            return False
        return True

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
        small = self._codec.compressor.compress(data)
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


# — manifest parts and records, as they are inside their seals —


def encode_part(refs: Sequence[bytes], body: bytes) -> bytes:
    """Return a manifest part as one string of bytes."""
    if any(len(ref) != BLOB_ID_SIZE for ref in refs):
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
