"""A reader written from docs/format.md alone, with nothing of rfs in it, reads what rfs wrote."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import msgpack
from store_kit import assert_holds, noise, packs, put_pack_of_format_1, text

from rfs.production.rollback.store import Store

DOCUMENT = Path(__file__).parents[3] / "docs" / "format.md"
TYPES = {0: "blob", 1: "part", 2: "record"}


def derive(context: str, key: bytes) -> bytes:
    return blake3(key, derive_key_context=context).digest()


def unpack(packed: bytes) -> bytes:
    return packed[1:] if packed[0] == 0 else zstandard.decompress(packed[1:])


def decrypt(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], associated)


class Reader:
    """Everything in the folder `packs`, by type and id."""

    def __init__(self, folder: Path, key_file: Path) -> None:
        match = re.fullmatch(rb"rfs-key-1:([0-9a-f]{64})\n", key_file.read_bytes())
        assert match
        record = json.loads((folder / "repository").read_text())
        assert record["format"] == 1
        assert record["check"] == zlib.crc32(f"{record['id']}:{record['key']}".encode())
        assert len(record["key"]) == 120
        self.id = bytes.fromhex(record["id"])
        wrapping = derive("rfs-rollback store 1: wrapping of the repository key", bytes.fromhex(match[1].decode()))
        key = decrypt(wrapping, bytes.fromhex(record["key"]), b"rfs key 1 " + self.id)
        self.ids = {number: derive(f"rfs-rollback store 1: id of a {name}", key) for number, name in TYPES.items()}
        self.blobs = derive("rfs-rollback store 1: encryption of blobs", key)
        self.footers = derive("rfs-rollback store 1: encryption of footers", key)
        self.found: dict[tuple[int, bytes], bytes] = {}
        self.stamps: list[int] = []
        self.frames: list[list[int]] = []
        for path in sorted(folder.glob("*.pack")):
            self.read(path)

    def read(self, path: Path) -> None:
        data = path.read_bytes()
        header = data[:48]
        (version,) = struct.unpack_from("<I", header, 8)
        assert version in (1, 2)
        assert header == b"rfs pack" + struct.pack("<I", version) + self.id + bytes.fromhex(path.stem) + bytes(4)
        (length,) = struct.unpack("<I", data[-12:-8])
        assert data[-8:] == b"rfs foot"
        end = len(data) - 12 - length
        footer = msgpack.decode(unpack(decrypt(self.footers, data[end:-12], header)))
        stamp, count, types, lengths, sizes, ids = footer[:6]
        counts = [number for (number,) in struct.iter_unpack("<I", footer[6])] if version == 2 else [1] * count
        self.stamps.append(stamp)
        self.frames.append(counts)
        at, number = 48, 0
        for (length,), together in zip(struct.iter_unpack("<I", lengths), counts, strict=True):
            associated = b"rfs blob" + struct.pack("<IB", version, types[number])
            if version == 1:
                associated += ids[32 * number : 32 * number + 32]
            content = unpack(decrypt(self.blobs, data[at : at + length], associated))
            for number in range(number, number + together):  # noqa: B020 — goes on where the last frame ended
                kind, blob = types[number], ids[32 * number : 32 * number + 32]
                (size,) = struct.unpack_from("<I", sizes, 4 * number)
                own, content = content[:size], content[size:]
                assert len(own) == size
                assert blake3(own, key=self.ids[kind]).digest() == blob
                self.found[kind, blob] = own
            assert content == b""
            number += 1
            at += length
        assert (at, number) == (end, count)

    def part(self, part: bytes) -> tuple[list[bytes], bytes]:
        content = self.found[1, part]
        (count,) = struct.unpack_from("<I", content)
        return [content[4 + 32 * n : 36 + 32 * n] for n in range(count)], content[4 + 32 * count :]

    def records(self) -> list[tuple[int, str, bytes]]:
        made = []
        for (kind, _), content in self.found.items():
            if kind == 2:
                stamp, length = struct.unpack_from("<QB", content)
                made.append((stamp, content[9 : 9 + length].decode(), content[9 + length :]))
        return sorted(made)


def test_a_reader_made_from_the_document(store: Store, root: str, key: str) -> None:
    contents = [b"", b"x", text(100_000), noise(100_000), noise(10)]
    wanted = {store.put(data): data for data in contents}
    part = store.put_part(list(wanted), b"driver's own")
    empty = store.put_part([], b"")
    store.put_record("checkpoint", b"first")
    store.flush()
    store.put_record("operation", b"second")
    store.flush()
    assert len(packs(root)) == 2
    reader = Reader(Path(root, "packs"), Path(key))
    assert reader.id.hex() == store.id
    assert {blob: data for (kind, blob), data in reader.found.items() if kind == 0} == wanted
    assert reader.part(part) == (list(wanted), b"driver's own")
    assert reader.part(empty) == ([], b"")
    assert [(kind, body) for _, kind, body in reader.records()] == [("checkpoint", b"first"), ("operation", b"second")]
    assert sorted(reader.stamps) == [stamp for stamp, _, _ in reader.records()]


def test_small_blobs_lie_together_and_large_ones_alone(store: Store, root: str, key: str) -> None:
    contents = [text(1_000, 1), noise(1_000, 2), b"", noise(40_000, 3), text(10_000, 4), text(10_000, 5), text(9, 6)]
    wanted = dict(zip(store.put_all(contents), contents, strict=True))
    store.flush()
    reader = Reader(Path(root, "packs"), Path(key))
    assert {blob: data for (_, blob), data in reader.found.items()} == wanted
    assert reader.frames == [[3, 1, 2, 1]]


def test_a_pack_of_format_1_is_read(store: Store, root: str, key: str) -> None:
    wanted = put_pack_of_format_1(store, [b"", text(1_000), noise(100)])
    reader = Reader(Path(root, "packs"), Path(key))
    assert {blob: data for (_, blob), data in reader.found.items()} == wanted
    assert len(store.recover()) == 1
    assert_holds(store, wanted)
    assert not store.verify()


def test_the_document_names_what_the_reader_uses() -> None:
    document = DOCUMENT.read_text()
    source = Path(__file__).read_text()
    contexts = set(re.findall(r"rfs-rollback store 1: [a-z ]+", document))
    assert len(contexts) == 6
    for context in contexts:
        assert context in source or context.rsplit(" ", 1)[0] in source
    for literal in ("rfs pack", "rfs foot", "rfs blob", "rfs key 1 ", "rfs-key-"):
        assert literal in document
        assert literal in source
