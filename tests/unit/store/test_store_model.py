"""Any order of calls, compared with a dictionary."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from store_kit import packs, put_pack_of_format_1

from rfs.production.rollback.errors import IntegrityError
from rfs.production.rollback.store import Store, seal

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class StoreMachine(RuleBasedStateMachine):
    contents = Bundle("contents")

    @initialize()
    def make(self) -> None:
        self.frame, seal.FRAME_SIZE = seal.FRAME_SIZE, 300
        self.folder = Path(tempfile.mkdtemp(prefix="rfs-store-", dir=MEMORY))
        self.store = Store.create(str(self.folder / "store"), str(self.folder / "key"))
        self.durable: dict[bytes, bytes] = {}
        self.growing: dict[bytes, bytes] = {}
        self.parts: dict[bytes, tuple[list[bytes], bytes]] = {}
        self.growing_parts: dict[bytes, tuple[list[bytes], bytes]] = {}
        self.records: list[bytes] = []
        self.growing_records: list[bytes] = []
        self.untold = False  # a child left a pack that nobody was told of

    def teardown(self) -> None:
        seal.FRAME_SIZE = self.frame
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(target=contents, data=st.binary(max_size=200))
    def put(self, data: bytes) -> bytes:
        blob = self.store.put(data)
        if blob not in self.durable:
            self.growing[blob] = data
        return data

    @rule(data=contents)
    def put_again(self, data: bytes) -> None:
        (blob,) = self.store.put_all([data])
        if blob not in self.durable:
            self.growing[blob] = data

    @rule(data=st.lists(st.binary(max_size=200), max_size=8))
    def put_many(self, data: list[bytes]) -> None:
        blobs = self.store.put_all(data)
        self.growing |= {b: d for b, d in zip(blobs, data, strict=True) if b not in self.durable}

    @rule(data=st.lists(st.binary(max_size=200), min_size=1, max_size=4))
    def find_a_pack_of_format_1(self, data: list[bytes]) -> None:
        self.flush()
        made = put_pack_of_format_1(self.store, data)
        assert len(self.store.recover()) == 1
        self.durable |= made

    @rule(data=st.lists(st.binary(max_size=200), max_size=4), told=st.booleans())
    def put_as_a_child_does(self, data: list[bytes], told: bool) -> None:
        annex = self.store.annex()
        blobs = annex.put_all(data)
        news = annex.taken()
        if told:
            for new in news:
                self.store.adopt(*new)
            self.growing |= {b: d for b, d in zip(blobs, data, strict=True) if b not in self.durable}
        self.untold = self.untold or (bool(news) and not told)
        annex.leave()

    @rule(body=st.binary(max_size=20))
    def put_part(self, body: bytes) -> None:
        refs = sorted({**self.durable, **self.growing})
        part = self.store.put_part(refs, body)
        if part not in self.parts:
            self.growing_parts[part] = (refs, body)

    @rule(body=st.binary(max_size=20))
    def put_record(self, body: bytes) -> None:
        self.store.put_record("checkpoint", body)
        self.growing_records.append(body)

    @rule()
    def flush(self) -> None:
        self.store.flush()
        self.durable |= self.growing
        self.parts |= self.growing_parts
        self.records += self.growing_records
        self.forget()

    @rule()
    def discard(self) -> None:
        self.store.discard()
        self.forget()

    def forget(self) -> None:
        self.growing, self.growing_parts, self.growing_records = {}, {}, []
        self.untold = False

    @rule(lose_index=st.booleans())
    def open_again(self, lose_index: bool) -> None:
        self.store.close()
        self.forget()
        if lose_index:
            for path in (self.folder / "store").glob("index.db*"):
                path.unlink()
        self.store = Store.open(str(self.folder / "store"), str(self.folder / "key"))

    @rule()
    def recover(self) -> None:
        assert bool(self.store.recover()) == self.untold
        self.untold = False

    @rule()
    def rebuild(self) -> None:
        self.store.rebuild()

    @rule(every=st.integers(1, 4))
    def prune(self, every: int) -> None:
        self.flush()
        kept = dict(sorted(self.durable.items())[::every])
        parts = {part: value for part, value in self.parts.items() if every == 1}
        size = self.store.size()
        records = set(self.records[::every])
        pruned = self.store.prune({*kept, *parts}, lambda kind, body: body in records, dry_run=False)
        assert pruned.left == ()
        assert self.store.size() == size - pruned.freed
        # What is not kept may stay in a pack that is not worth rewriting.
        self.durable = {blob: data for blob, data in self.durable.items() if blob in kept or self.store.has(blob)}
        self.parts = {part: value for part, value in self.parts.items() if part in parts or self.store.has(part)}
        self.records = list(self.store.records("checkpoint"))
        assert records <= set(self.records)

    @invariant()
    def equal(self) -> None:
        for blob, data in {**self.durable, **self.growing}.items():
            assert self.store.has(blob)
            assert self.store.get(blob) == data
        for part, value in {**self.parts, **self.growing_parts}.items():
            assert self.store.get_part(part) == value
        assert list(self.store.records("checkpoint")) == self.records
        assert not self.store.has(bytes(32))
        with pytest.raises(IntegrityError):
            self.store.get(bytes(32))
        assert self.store.size() == sum(path.stat().st_size for path in packs(str(self.folder / "store")))


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_any_order_of_calls = StoreMachine.TestCase
