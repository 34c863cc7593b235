"""What forked children store, and how their parent takes it over."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_kit import assert_holds, noise, packs, text

from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.store import Store, annex
from rfs.production.rollback.store import packs as packs_module

CONTENTS = [noise(3000, seed) if seed % 2 else text(3000, seed) for seed in range(40)]


def by_a_child(work: Callable[[], Any]) -> Any:
    """Fork, and return what `work` returned in the child; None when the child was killed."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside a test runner's threads
        child = os.fork()
    if child == 0:
        try:
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(work(), pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(told) if told else None


def stored_by_a_child(store: Store, contents: list[bytes]) -> list[Any]:
    """Have a child store contents, and return what it says."""
    helpers = store.annex()

    def work() -> list[Any]:
        assert helpers.put_all(contents) == list(map(store.identify, contents))
        assert all(map(helpers.has, map(store.identify, contents)))
        return helpers.taken()

    return by_a_child(work)


def in_tmp(root: str) -> list[str]:
    return os.listdir(Path(root, "tmp"))


def wanted(store: Store) -> dict[bytes, bytes]:
    return {store.identify(data): data for data in CONTENTS}


@pytest.fixture(params=[0, 1 << 30], ids=["a pack of its own", "too little for one"])
def worth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(annex, "WORTH_A_PACK", request.param)
    return int(request.param)


def test_what_a_child_stored_is_there(store: Store, root: str, key: str, worth: int) -> None:
    mine = store.put(b"parent")
    part = store.put_part([mine], b"body")
    for told in stored_by_a_child(store, CONTENTS):
        store.adopt(*told)
    assert_holds(store, wanted(store))
    store.put_record("checkpoint", b"record")
    store.flush()
    assert len(packs(root)) == (1 if worth else 2)
    assert in_tmp(root) == []
    assert store.stored == store.size()
    store.close()
    Path(root, "index.db").unlink()
    with Store.open(root, key) as again:
        assert again.recover()
        assert_holds(again, {**wanted(again), mine: b"parent"})
        assert again.get_part(part) == ([mine], b"body")
        assert list(again.records("checkpoint")) == [b"record"]
        assert not again.verify()


def test_a_child_fills_several_packs(store: Store, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annex, "WORTH_A_PACK", 0)
    monkeypatch.setattr(packs_module, "FULL_COUNT", 10)
    helpers = store.annex()

    def work() -> list[Any]:
        for at in range(0, len(CONTENTS), 4):
            helpers.put_all(CONTENTS[at : at + 4])
        return helpers.taken()

    told = by_a_child(work)
    assert len({name for name, *_ in told}) == 4
    for each in told:
        store.adopt(*each)
    # A pack that the child is done with is sealed before everything is.
    assert len(packs(root)) == 3
    store.flush()
    assert len(packs(root)) == 4
    assert in_tmp(root) == []
    assert_holds(store, wanted(store))
    assert not store.verify()


def test_a_large_pack_may_be_sealed_before_the_end(store: Store, root: str, worth: int) -> None:
    store.seal_early()
    assert packs(root) == []
    store.put_all(CONTENTS[:20])
    store.seal_early()
    assert len(packs(root)) == (0 if worth else 1)
    store.put_all(CONTENTS)
    store.flush()
    assert len(packs(root)) == (1 if worth else 2)
    assert store._shelf.ask(lambda index: index.duplicates()) == {}
    assert_holds(store, wanted(store))
    assert store.stored == store.size()


@pytest.mark.usefixtures("worth")
def test_what_is_here_already_is_not_stored_twice(store: Store, root: str) -> None:
    store.put_all(CONTENTS[:5])
    store.flush()
    store.put_all(CONTENTS[5:10])
    told = stored_by_a_child(store, CONTENTS)
    store.put_all(CONTENTS[10:15])
    for each in told:
        store.adopt(*each)
    before = store.stored
    store.put_all(CONTENTS)
    assert store.stored == before
    store.flush()
    assert in_tmp(root) == []
    index = store._shelf.ask(lambda index: index.duplicates())
    assert index == {}
    assert_holds(store, wanted(store))
    assert store.stored == store.size()


def test_a_little_that_is_stored_twice_is_left(store: Store, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annex, "WORTH_A_PACK", 0)
    store.put(CONTENTS[0])
    for told in stored_by_a_child(store, CONTENTS):
        store.adopt(*told)
    store.flush()
    assert len(packs(root)) == 2
    assert set(store._shelf.ask(lambda index: index.duplicates())) == {store.identify(CONTENTS[0])}
    assert_holds(store, wanted(store))
    assert not store.verify()


@pytest.mark.usefixtures("worth")
def test_a_child_that_dies_leaves_what_it_told(store: Store, root: str, key: str) -> None:
    helpers = store.annex()
    reader, writer = os.pipe()

    def work() -> None:
        helpers.put_all(CONTENTS[:20])
        os.write(writer, pickle.dumps(helpers.taken()))
        helpers.put_all(CONTENTS[20:])
        helpers.taken()
        os.kill(os.getpid(), signal.SIGKILL)

    assert by_a_child(work) is None
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        for told in pickle.loads(pipe.read()):
            store.adopt(*told)
    store.flush()
    assert in_tmp(root) == []
    assert_holds(store, {store.identify(data): data for data in CONTENTS[:20]})
    assert not any(store.has(store.identify(data)) for data in CONTENTS[20:])
    store.close()
    with Store.open(root, key) as again:
        assert not again.verify()
        assert again.recover() == []


@pytest.mark.parametrize("told", [True, False])
def test_discard_drops_it(store: Store, root: str, told: bool) -> None:
    mine = store.put(b"kept")
    store.flush()
    for each in stored_by_a_child(store, CONTENTS):
        if told:
            store.adopt(*each)
    assert len(in_tmp(root)) == 1
    store.discard()
    assert in_tmp(root) == []
    assert not any(map(store.has, map(store.identify, CONTENTS)))
    assert store.get(mine) == b"kept"
    assert not store.verify()


def test_recover_leaves_what_grows(store: Store, root: str) -> None:
    for told in stored_by_a_child(store, CONTENTS):
        store.adopt(*told)
    assert store.recover() == []
    store.flush()
    assert_holds(store, wanted(store))


def test_a_child_on_a_full_disk_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    helpers = store.annex()
    helpers.put_all(CONTENTS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for call in (helpers.taken, lambda: helpers.put_all([noise(1 << 20, 99)])):
            with pytest.raises(RollbackError) as caught:
                call()
            assert caught.value.key == "store.no_space"
    helpers.leave()


def test_a_pack_that_is_gone_is_a_failure(store: Store, root: str) -> None:
    told = stored_by_a_child(store, CONTENTS)
    for name in in_tmp(root):
        Path(root, "tmp", name).unlink()
    with pytest.raises(RollbackError) as caught:
        store.adopt(*told[0])
    assert caught.value.key == "store.unwritable"
    with pytest.raises(RollbackError):
        store.put(b"more")
    store.discard()
    store.put(b"more")
