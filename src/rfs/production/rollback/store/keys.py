"""The key file, the repository record, and the keys derived from them.

The key file wraps a random repository key; everything else is derived from the latter,
so that changing the key file rewrites one small record and no pack.
Heavy modules are imported where they are used, here and in the rest of this room:
starting a command must not pay for encryption that it does not do.
"""

from __future__ import annotations

import os
import stat
import zlib

import msgspec

from rfs.production.rollback.errors import RollbackError, UsageError
from rfs.production.rollback.store.files import (
    PRIVATE_FOLDER,
    read_whole,
    sync_folder,
    write_durably,
    writing,
)

FORMAT = 1
# Of packs: 1, whose blobs are each sealed alone, is read; 2 is written.
PACK_FORMAT = 2
KEY_SIZE = 32
ID_SIZE = 16
NONCE_SIZE = 12
_KEY_PREFIX = b"rfs-key-"
_WRAPPING_CONTEXT = "rfs-rollback store 1: wrapping of the repository key"


class Repository(msgspec.Struct, frozen=True):
    """The record that makes a folder a store.

    Attributes:
        id: of the repository, 32 hex digits.
        key: the wrapped repository key: nonce, then AES-256-GCM text and tag, in hex.
        check: CRC-32 of `id` and `key`, so that a damaged record is told from a wrong key.
        format: of the whole store.
    """

    id: str
    key: str
    check: int
    format: int = FORMAT


def _checksum(repository_id: str, wrapped: str) -> int:
    return zlib.crc32(f"{repository_id}:{wrapped}".encode())


def encode_repository(record: Repository) -> bytes:
    """Return the record as one line of JSON."""
    return msgspec.json.encode(record) + b"\n"


def decode_repository(data: bytes, path: str) -> Repository | None:
    """Return the record, or None when it is damaged.

    Args:
        path: of the store, for the error.

    Raises:
        RollbackError: store.format, it was written by a newer release.
    """
    try:
        found = msgspec.json.decode(data, type=dict[str, object])
    except msgspec.MsgspecError:
        return None
    version = found.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise RollbackError("store.format", path=path, found=version, known=FORMAT)
    try:
        record = msgspec.convert(found, Repository)
    except msgspec.ValidationError:
        return None
    return record if record.check == _checksum(record.id, record.key) else None


# — the key file —


def make_key_file(path: str) -> None:
    """Make a random key, readable by its owner only; missing folders are made with mode 0700.

    An existing key file is left as it is.

    Raises:
        RollbackError: store.no_space or store.unwritable.
    """
    folder = os.path.dirname(os.path.abspath(path))
    with writing(path):
        _make_folders(folder)
        if os.path.lexists(path):
            return
        write_durably(path, _KEY_PREFIX + b"%d:%s\n" % (FORMAT, os.urandom(KEY_SIZE).hex().encode()), replace=False)


def _make_folders(folder: str) -> None:
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    _make_folders(parent)
    os.mkdir(folder, PRIVATE_FOLDER)
    sync_folder(parent)


def check_key_file(path: str) -> None:
    """Refuse a key that is missing, that others may read, or that this user may not look at.

    Raises:
        UsageError: store.key_missing, store.key_open or store.key_unreadable.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError("store.key_missing", path=path) from None
    except OSError as error:
        raise UsageError("store.key_unreadable", path=path, why=error.strerror) from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError("store.key_missing", path=path)
    if found.st_mode & 0o077:
        raise UsageError("store.key_open", path=path)


def _read_key_file(path: str, store: str) -> bytes:
    check_key_file(path)
    try:
        line = read_whole(path).strip()
    except OSError as error:
        raise UsageError("store.key_unreadable", path=path, why=error.strerror) from error
    version, separator, digits = line.removeprefix(_KEY_PREFIX).partition(b":")
    if not line.startswith(_KEY_PREFIX) or not separator or not version.isdigit():
        raise UsageError("store.key_wrong", path=path, store=store)
    if int(version) > FORMAT:
        raise UsageError("store.key_format", path=path, found=int(version), known=FORMAT)
    try:
        key = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise UsageError("store.key_wrong", path=path, store=store)
    return key


# — wrapping —


def _wrapping_context(repository_id: str) -> bytes:
    return b"rfs key %d " % FORMAT + bytes.fromhex(repository_id)


def derive(context: str, key: bytes) -> bytes:
    """Return the 32-byte subkey of `key` for one purpose (BLAKE3 key derivation)."""
    from blake3 import blake3

    return bytes(blake3(key, derive_key_context=context).digest())


def new_repository(key_path: str, store: str) -> Repository:
    """Return a record with a new id and a new random repository key, wrapped by the key file.

    Raises:
        UsageError: the key file is not usable.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    wrapping = derive(_WRAPPING_CONTEXT, _read_key_file(key_path, store))
    repository_id = os.urandom(ID_SIZE).hex()
    nonce = os.urandom(NONCE_SIZE)
    sealed = AESGCM(wrapping).encrypt(nonce, os.urandom(KEY_SIZE), _wrapping_context(repository_id))
    wrapped = (nonce + sealed).hex()
    return Repository(repository_id, wrapped, _checksum(repository_id, wrapped))


def unwrap(record: Repository, key_path: str, store: str) -> bytes:
    """Return the repository key.

    Raises:
        UsageError: store.key_wrong, store.key_missing or store.key_open.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    wrapping = derive(_WRAPPING_CONTEXT, _read_key_file(key_path, store))
    sealed = bytes.fromhex(record.key)
    try:
        return AESGCM(wrapping).decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], _wrapping_context(record.id))
    except InvalidTag:
        raise UsageError("store.key_wrong", path=key_path, store=store) from None
